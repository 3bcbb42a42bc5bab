//! The daemon itself with its embedded broker, for a test of handlers together: through HTTP, as their clients see them.
//!
//! It ends with its owner, in order, and its broker with it. It has no variables of the caller's.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tidemill_sdk::http::Response;
use tidemill_sdk::test::Call;

use crate::process;

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How long an orderly end may take.
const END_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked again.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `tidemill run` on free ports, in a folder of its own that goes with it.
///
/// ```no_run
/// use std::time::Duration;
///
/// use serde_json::{Value, json};
/// use tidemill_sdk::test::{get, post};
/// use tidemill_test::Daemon;
///
/// let daemon = Daemon::start(&["order", "notification"], "");
/// let order = json!({ "items": [{ "productId": 1, "quantity": 2, "price": "25000.00" }] });
/// assert_eq!(daemon.call(post("/api/orders").user("7").json(&order)).status, 201);
/// let mine = daemon.eventually(Duration::from_secs(30), "the user is told", |daemon| {
///     daemon.call(get("/api/notifications").user("7")).body_json::<Vec<Value>>().pop()
/// });
/// assert_eq!(mine["type"], "ORDER_CREATED");
/// ```
#[derive(Debug)]
pub struct Daemon {
    binary: PathBuf,
    folder: PathBuf,
    child: Child,
    ready: String,
}

impl Daemon {
    /// Starts one with these handlers, by name or file, and these settings as in `tidemill.toml`. Ends the test if one cannot go live.
    ///
    /// ```no_run
    /// # use tidemill_test::Daemon;
    /// let daemon = Daemon::start(&["order"], "[handler.order.retry]\nmax-attempts = 2");
    /// ```
    #[track_caller]
    pub fn start(handlers: &[&str], settings: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tidemill-test-{}-daemon-{number}", std::process::id()));
        let deployed = folder.join("handlers");
        let made = fs::create_dir_all(&deployed).and_then(|()| fs::write(folder.join("tidemill.toml"), settings));
        made.unwrap_or_else(|error| panic!("{} cannot be made: {error}", folder.display()));
        for handler in handlers {
            let file = process::component(Path::new(handler));
            let name = file.file_name().unwrap_or_default();
            fs::copy(&file, deployed.join(name)).unwrap_or_else(|error| panic!("copy {}: {error}", file.display()));
        }
        let binary = process::binary();
        let (child, ready) = run(&binary, &folder);
        let daemon = Self { binary, folder, child, ready };
        let live = daemon.ready.split_once("(").map_or("", |(_, live)| live);
        let live = live.rsplit_once("handlers").map_or(live, |(_, live)| live);
        for handler in handlers {
            let name = Path::new(handler).file_stem().unwrap_or_default().to_string_lossy();
            let is_live = live.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == name);
            assert!(is_live, "handler {name} has not gone live:\n{}", daemon.log());
        }
        daemon
    }

    /// Sends a request, and returns the answer.
    ///
    /// ```no_run
    /// # use tidemill_test::Daemon;
    /// # use tidemill_sdk::test::get;
    /// # let daemon = Daemon::start(&["order"], "");
    /// assert_eq!(daemon.call(get("/api/orders").user("7")).status, 200);
    /// ```
    #[track_caller]
    pub fn call(&self, call: Call) -> Response {
        let request = call.into_request();
        let path = request.query.map_or_else(|| request.path.clone(), |query| format!("{}?{query}", request.path));
        let mut head =
            format!("{} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", request.method, self.address());
        for (name, value) in &request.headers {
            head += &format!("{name}: {}\r\n", String::from_utf8_lossy(value));
        }
        if let Some(user) = &request.user {
            head += &format!("authorization: Bearer {}\r\n", self.token(user));
        }
        head += &format!("content-length: {}\r\n\r\n", request.body.len());
        let answer = exchange(self.address(), &[head.into_bytes(), request.body].concat());
        answer.unwrap_or_else(|error| panic!("{} {path}: {error}\n{}", request.method, self.log()))
    }

    fn token(&self, user: &str) -> String {
        let made = command(&self.binary, &self.folder).args(["token", "--user", user]).output();
        let made = made.unwrap_or_else(|error| panic!("tidemill token: {error}"));
        String::from_utf8_lossy(&made.stdout).trim().to_owned()
    }

    /// Looks again and again until there is something, for this long at most; else the test ends, with the daemon's log.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use tidemill_test::Daemon;
    /// # use tidemill_sdk::test::get;
    /// # let daemon = Daemon::start(&["order"], "");
    /// daemon.eventually(Duration::from_secs(30), "order 1 is there", |daemon| {
    ///     (daemon.call(get("/api/orders/1").user("7")).status == 200).then_some(())
    /// });
    /// ```
    #[track_caller]
    pub fn eventually<T>(&self, within: Duration, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let until = Instant::now() + within;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            assert!(Instant::now() < until, "not within {within:?}: {what}\n{}", self.log());
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// `host:port` of the embedded broker, for a client of one's own.
    ///
    /// ```no_run
    /// # let daemon = tidemill_test::Daemon::start(&["order"], "");
    /// println!("{}", daemon.bootstrap());
    /// ```
    pub fn bootstrap(&self) -> &str {
        self.word_after("kafka")
    }

    /// Kills it as a power cut would, and starts it again on its data; the broker lives on.
    ///
    /// ```no_run
    /// # let mut daemon = tidemill_test::Daemon::start(&["order"], "");
    /// daemon.kill();
    /// ```
    #[track_caller]
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        (self.child, self.ready) = run(&self.binary, &self.folder);
    }

    /// What it has logged.
    ///
    /// ```no_run
    /// # let daemon = tidemill_test::Daemon::start(&["order"], "");
    /// assert!(!daemon.log().contains("ERROR"));
    /// ```
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn address(&self) -> &str {
        self.word_after("ready:").trim_start_matches("http://")
    }

    fn word_after(&self, name: &str) -> &str {
        self.ready.split_whitespace().skip_while(|word| *word != name).nth(1).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // In order, so that its broker ends too.
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let until = Instant::now() + END_WITHIN;
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        while told.is_ok() && !ended(&mut self.child) && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
        if !ended(&mut self.child) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The binary, with the settings of this folder and nothing of the caller's.
fn command(binary: &Path, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
        command.env_remove(name);
    }
    command
        .current_dir(folder)
        .env("TIDEMILL_DATA", folder.join("data"))
        .env("TIDEMILL_HANDLERS", folder.join("handlers"))
        .env("TIDEMILL_HTTP_LISTEN", "127.0.0.1:0");
    command
}

/// Runs the daemon until it is ready.
fn run(binary: &Path, folder: &Path) -> (Child, String) {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"));
    let log = log.unwrap_or_else(|error| panic!("write {}: {error}", folder.display()));
    let started = command(binary, folder).arg("run").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
    let mut child = started.unwrap_or_else(|error| {
        panic!("{} cannot be started ({error}): set TIDEMILL_BIN to where it is", binary.display())
    });
    let output = BufReader::new(child.stdout.take().expect("the process has a standard output"));
    let mut lines = output.lines().map_while(Result::ok);
    let ready = lines.find(|line| line.starts_with("ready: "));
    // It goes on writing, and must not be stopped by that.
    std::thread::spawn(move || lines.for_each(drop));
    match ready {
        Some(ready) => (child, ready),
        None => {
            let _ = child.wait();
            panic!("the daemon has not begun:\n{}", fs::read_to_string(folder.join("log")).unwrap_or_default())
        }
    }
}

/// One request over a connection of its own.
fn exchange(address: &str, request: &[u8]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| std::io::Error::other("the answer is cut off"))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(answer.get(..end)?).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, Vec<u8>)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().as_bytes().to_vec()))
        .collect();
    let body = answer.get(end + 4..)?.to_vec();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| std::str::from_utf8(value).ok()?.parse::<usize>().ok());
    (length.is_none_or(|length| length == body.len())).then_some(Response { status, headers, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_whole_or_not_at_all() {
        let whole = b"HTTP/1.1 201 Created\r\nLocation: /x\r\ncontent-length: 2\r\n\r\nok";
        let read = parse(whole).expect("it is whole");
        assert_eq!((read.status, read.header_str("location"), read.body.as_slice()), (201, Some("/x"), &b"ok"[..]));
        assert_eq!(parse(&whole[..whole.len() - 1]), None);
        assert_eq!(parse(b"HTTP/1.1 201 Created\r\n"), None);
    }
}
