//! What the handler can be told to do, each in a way of its own that a host must survive.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use tidemill_sdk::outbound::Request;
use tidemill_sdk::publisher::Event;
use tidemill_sdk::sql::Value;
use tidemill_sdk::{Failure, Time, config, delivery, info, params, sql};

/// One command: `{"do": "...", ...}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Command {
    /// Of the rows it writes; else the record's place.
    pub(crate) id: Option<String>,
    /// Whether the delivery writes its row into `seen` before anything else. Only the first command is asked.
    #[serde(default = "yes")]
    pub(crate) row: bool,
    /// What makes it good when the record is given up on.
    #[serde(default)]
    pub(crate) undo: Vec<Command>,
    #[serde(flatten)]
    action: Action,
}

fn yes() -> bool {
    true
}

/// What to do.
#[derive(Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
enum Action {
    /// Nothing more than the row.
    Insert,
    /// Enqueue events.
    Publish(Publish),
    /// Pay the order of the record's id: publish one event if that moves it from `CREATED` to `PAID`, else nothing.
    /// The order is made first if there is none.
    Pay,
    /// Fail with retry before attempt `until`, optionally asking for `after_ms`, and only where the setting `version` is
    /// this one.
    FailN { until: u32, after_ms: Option<u64>, version: Option<String> },
    /// Write how many deliveries the instance has remembered before into `loose`, print that, and remember this one.
    Remember,
    /// Fail with reject.
    Reject { message: Option<String> },
    /// Fail with unavailable, optionally asking for `after_ms`.
    Unavailable { after_ms: Option<u64> },
    /// While `once` has a row of this id fail with unavailable, or with retry.
    Needs {
        up: String,
        #[serde(default)]
        retry: bool,
    },
    /// Call a service, and keep `id: status body` in `once`. A status of 500 and more is unavailable. What the call
    /// failed with is rejected with its kind.
    Call {
        url: String,
        #[serde(default)]
        body: String,
        timeout_ms: Option<u64>,
    },
    /// Panic, which is a trap, or only where the setting `version` is this one.
    Panic { version: Option<String> },
    /// Compute for ever.
    Loop,
    /// Sleep for ever, 10 ms at a time or `ms` at a time.
    Sleep { ms: Option<u64> },
    /// Overflow the stack.
    Recurse,
    /// Allocate for ever.
    Grow,
    /// Run statements in order. A failing one fails the delivery with retry and `kind code: message`, or, with
    /// `"go_on": true`, is passed over.
    Sql {
        statements: Vec<String>,
        #[serde(default)]
        go_on: bool,
    },
    /// `INSERT OR ROLLBACK` of a row that is there already. The error is swallowed, unless `"swallow": false`.
    InsertOrRollback {
        #[serde(default = "yes")]
        swallow: bool,
    },
    /// Leave a foreign key broken that is checked only when the transaction ends.
    DeferredFk,
    /// A recursive query without end; with `"write": true` as `INSERT ... SELECT`. The error is swallowed with
    /// `"swallow": true`.
    RecursiveSql {
        #[serde(default)]
        write: bool,
        #[serde(default)]
        swallow: bool,
    },
    /// Enqueue `count` events of `bytes` each (a million of 10), until one is refused.
    FloodEvents { count: Option<u64>, bytes: Option<usize> },
    /// Log `count` lines of `bytes` each (a million of 100).
    FloodLog { count: Option<u64>, bytes: Option<usize> },
    /// Write what the clocks say and what was drawn into `drawn`.
    Clock,
    /// Try all that WASI has - arguments, variables, files, sockets, names, processes, threads - and reject if any of it is there.
    Wasi,
    /// End the process.
    Exit,
    /// Write how long a secret is into `loose`, with the record's id; or log it, and reject with it.
    Secret {
        name: String,
        #[serde(default)]
        leak: bool,
    },
}

/// What to enqueue.
#[derive(Debug, Default, Deserialize)]
struct Publish {
    /// How many; one.
    count: Option<u64>,
    /// Where to; `out`.
    destination: Option<String>,
    event_id: Option<String>,
    /// Instead of the record's key.
    key: Option<String>,
    /// Instead of the ids.
    value: Option<serde_json::Value>,
    /// So many of them instead.
    bytes: Option<usize>,
    /// Due so long after the delivery's clock. Such an event has the time in its payload, as `due`.
    after_ms: Option<u64>,
    /// Due at this time.
    due_ms: Option<i64>,
    /// Instead of `HOSTILE`.
    event_type: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Past the outbox: `now` or `async`. A receipt is kept in `once`, as `id: sent EVENT to PARTITION`.
    send: Option<Send>,
}

/// How to send past the outbox.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Send {
    Now,
    Async,
}

/// What a command works on.
pub(crate) struct Input {
    /// Of the rows it writes.
    pub(crate) id: String,
    /// The record's key.
    pub(crate) key: Option<Vec<u8>>,
}

impl Command {
    /// Does it. Does not come back from what has no end.
    pub(crate) fn run(&self, input: &Input) -> Result<(), Failure> {
        match &self.action {
            Action::Insert => {}
            Action::Publish(publish) => publish.run(input)?,
            Action::Pay => {
                let order = params![&input.id];
                sql::execute("INSERT OR IGNORE INTO orders (id, status) VALUES (?1, 'CREATED')", order.clone())?;
                let pay = "UPDATE orders SET status = 'PAID' WHERE id = ?1 AND status = 'CREATED'";
                if sql::execute(pay, order)? == 1 {
                    let paid = Publish { value: Some(serde_json::json!({ "id": input.id })), ..Publish::default() };
                    paid.run(input)?;
                }
            }
            Action::FailN { until, after_ms, version } => {
                let attempt = delivery::attempt();
                if attempt < *until && version.as_ref().is_none_or(|version| *version == crate::version()) {
                    return Err(after(Failure::retry(format!("attempt {attempt} fails, {until} will not")), *after_ms));
                }
            }
            Action::Remember => {
                static BEFORE: AtomicU32 = AtomicU32::new(0);
                let before = BEFORE.fetch_add(1, Ordering::Relaxed);
                sql::execute("INSERT INTO loose (n, text) VALUES (?1, ?2)", params![before, &input.id])?;
                remembered(before);
            }
            Action::Reject { message } => return Err(Failure::reject(message.as_deref().unwrap_or("told to reject"))),
            Action::Unavailable { after_ms } => {
                return Err(after(Failure::unavailable("told to be unavailable"), *after_ms));
            }
            Action::Needs { up, retry } => {
                let down: i64 = sql::query_one("SELECT count(*) FROM once WHERE id = ?1", params![up])?;
                if down > 0 {
                    let failure = if *retry { Failure::retry } else { Failure::unavailable };
                    return Err(failure(format!("{up} is down")));
                }
            }
            Action::Call { url, body, timeout_ms } => call(input, url, body, *timeout_ms)?,
            Action::Panic { version } => {
                if version.as_ref().is_none_or(|version| *version == crate::version()) {
                    panic();
                }
            }
            Action::Loop => spin(),
            Action::Sleep { ms } => loop {
                std::thread::sleep(Duration::from_millis(ms.unwrap_or(10)));
            },
            Action::Recurse => {
                black_box(recurse(black_box(0)));
            }
            Action::Grow => grow(),
            Action::Sql { statements, go_on } => {
                for statement in statements {
                    match sql::query::<serde_json::Value>(statement, params![]) {
                        Err(error) if error.kind != sql::ErrorKind::Decode && !go_on => return Err(told(&error)),
                        _ => {}
                    }
                }
            }
            Action::InsertOrRollback { swallow } => {
                let insert = "INSERT OR ROLLBACK INTO once (id) VALUES (?1)";
                sql::execute("INSERT OR IGNORE INTO once (id) VALUES (?1)", params![&input.id])?;
                settle(sql::execute(insert, params![&input.id]), *swallow)?;
            }
            Action::DeferredFk => {
                sql::execute("INSERT INTO child (id, parent) VALUES (?1, 'nobody')", params![&input.id])?;
            }
            Action::RecursiveSql { write, swallow } => {
                let endless = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n)";
                settle(
                    if *write {
                        sql::execute(&format!("INSERT INTO counted {endless} SELECT n FROM n"), params![])
                    } else {
                        sql::query::<i64>(&format!("{endless} SELECT n FROM n WHERE n < 0"), params![]).map(|_| 0)
                    },
                    *swallow,
                )?;
            }
            Action::FloodEvents { count, bytes } => {
                let payload = vec![b'x'; bytes.unwrap_or(10)];
                for _ in 0..count.unwrap_or(1_000_000) {
                    Event::new("out", "FLOOD").bytes(payload.clone()).enqueue()?;
                }
            }
            Action::FloodLog { count, bytes } => {
                let line = "x".repeat(bytes.unwrap_or(100));
                for n in 0..count.unwrap_or(1_000_000) {
                    info!("{n} {line}");
                }
            }
            Action::Clock => clock(input)?,
            Action::Wasi => wasi()?,
            Action::Exit => std::process::exit(3),
            Action::Secret { name, leak } => {
                let secret = config::secret(name)?;
                if *leak {
                    info!("the key is {}", secret.expose());
                    return Err(Failure::reject(format!("the key is {}", secret.expose())));
                }
                let length = secret.expose().len() as i64;
                sql::execute("INSERT INTO loose (n, text) VALUES (?1, ?2)", params![length, &input.id])?;
            }
        }
        Ok(())
    }
}

fn after(failure: Failure, after_ms: Option<u64>) -> Failure {
    match after_ms {
        Some(ms) => failure.after(Duration::from_millis(ms)),
        None => failure,
    }
}

fn call(input: &Input, url: &str, body: &str, timeout_ms: Option<u64>) -> Result<(), Failure> {
    let request = Request::post(url).body(body);
    let request = match timeout_ms {
        Some(ms) => request.timeout(Duration::from_millis(ms)),
        None => request,
    };
    let answer = request.send().map_err(|error| Failure::reject(format!("{:?}: {}", error.kind, error.message)))?;
    if answer.status >= 500 {
        return Err(Failure::unavailable(format!("the service answered {}", answer.status)));
    }
    let row = format!("{}: {} {}", input.id, answer.status, String::from_utf8_lossy(&answer.body));
    sql::execute("INSERT INTO once (id) VALUES (?1)", params![row])?;
    Ok(())
}

/// An error of the store, in a form that tests can look for.
fn told(error: &sql::Error) -> Failure {
    Failure::retry(format!("{:?} {}: {}", error.kind, error.code, error.message))
}

fn settle<T>(result: Result<T, sql::Error>, swallow: bool) -> Result<(), Failure> {
    match result {
        Err(error) if !swallow => Err(told(&error)),
        _ => Ok(()),
    }
}

impl Publish {
    fn run(&self, input: &Input) -> Result<(), Failure> {
        (0..self.count.unwrap_or(1)).try_for_each(|n| self.enqueue(input, n))
    }

    fn enqueue(&self, input: &Input, n: u64) -> Result<(), Failure> {
        let after = |after: u64| delivery::now().millis().saturating_add_unsigned(after);
        let due = self.due_ms.or(self.after_ms.map(after));
        let event_type = self.event_type.as_deref().unwrap_or("HOSTILE");
        let event = Event::new(self.destination.as_deref().unwrap_or("out"), event_type);
        let event = self.headers.iter().fold(event, |event, (name, value)| event.header(name, value.as_bytes()));
        let event = match (&self.value, self.bytes) {
            (Some(value), _) => event.json(value),
            (None, Some(bytes)) => event.bytes(vec![b'x'; bytes]),
            (None, None) => event.json_with_id(move |event_id| match due {
                Some(due) => serde_json::json!({ "eventId": event_id, "id": input.id, "n": n, "due": due }),
                None => serde_json::json!({ "eventId": event_id, "id": input.id, "n": n }),
            }),
        };
        let event = match self.key.as_ref().map(|key| key.clone().into_bytes()).or(input.key.clone()) {
            Some(key) => event.key_bytes(key),
            None => event,
        };
        let event = match &self.event_id {
            Some(event_id) => event.id(event_id),
            None => event,
        };
        match self.send {
            Some(Send::Async) => return event.send_async().map(drop).map_err(Failure::from),
            Some(Send::Now) => {
                let receipt = event.send()?;
                let row = format!("{}: sent {} to {}", input.id, receipt.id, receipt.partition);
                sql::execute("INSERT INTO once (id) VALUES (?1)", params![row])?;
                return Ok(());
            }
            None => {}
        }
        match (self.after_ms, self.due_ms) {
            (Some(after), _) => event.enqueue_after(Duration::from_millis(after)),
            (None, Some(due)) => event.enqueue_at(Time::from_millis(due)),
            (None, None) => event.enqueue(),
        }?;
        Ok(())
    }
}

#[allow(clippy::panic, reason = "that is what it is for")]
pub(crate) fn panic() {
    panic!("told to panic");
}

/// Through WASI, whose handle the instance keeps.
#[allow(clippy::print_stdout, reason = "that is what it is for")]
fn remembered(before: u32) {
    println!("remembers {before} deliveries");
}

fn spin() {
    let mut n = 0u64;
    loop {
        n = black_box(n.wrapping_add(1));
    }
}

/// What comes after the call keeps the compiler from making a loop of it.
#[allow(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(black_box(depth + 1)).wrapping_add(black_box(frame).iter().sum())
}

fn grow() {
    let mut held = Vec::new();
    loop {
        held.push(black_box(vec![1u8; 1 << 20]));
    }
}

/// What answers by itself, as clocks do, is looked at by `Clock`.
fn wasi() -> Result<(), Failure> {
    use std::io::Read as _;
    use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};
    let mut input = Vec::new();
    let granted = [
        ("arguments", std::env::args().count() > 0),
        ("variables", std::env::vars().count() > 0),
        ("the current folder", std::env::current_dir().is_ok_and(|path| std::fs::read_dir(path).is_ok())),
        ("standard input", std::io::stdin().read_to_end(&mut input).is_ok_and(|read| read > 0)),
        ("a file", std::fs::read("/etc/passwd").is_ok() || std::fs::read("../../etc/passwd").is_ok()),
        ("a folder", std::fs::read_dir("/").is_ok() || std::fs::create_dir("/tmp/hostile").is_ok()),
        ("a new file", std::fs::write("hostile", "x").is_ok() || std::fs::remove_file("hostile").is_ok()),
        ("a link", std::fs::hard_link("/etc/passwd", "hostile").is_ok() || std::fs::rename("/a", "/b").is_ok()),
        ("a connection", TcpStream::connect("127.0.0.1:80").is_ok()),
        ("a listener", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("a datagram", UdpSocket::bind("127.0.0.1:0").is_ok_and(|socket| socket.send_to(b"x", "127.0.0.1:9").is_ok())),
        ("a name", ("localhost", 80).to_socket_addrs().is_ok()),
        ("a process", std::process::Command::new("/bin/sh").spawn().is_ok()),
        ("a thread", std::thread::Builder::new().spawn(|| ()).is_ok()),
    ];
    match granted.iter().find(|(_, granted)| *granted) {
        Some((what, _)) => Err(Failure::reject(format!("{what} is there"))),
        None => Ok(()),
    }
}

fn clock(input: &Input) -> Result<(), Failure> {
    let started = Instant::now();
    let system_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(-1, |since| since.as_millis() as i64);
    let random: String = delivery::random(16).iter().map(|byte| format!("{byte:02x}")).collect();
    let hash_seed = format!("{:016x}", RandomState::new().hash_one(0));
    let next_id = std::cell::RefCell::new(String::new());
    Event::new("out", "CLOCK")
        .json_with_id(|id| {
            id.clone_into(&mut next_id.borrow_mut());
            serde_json::json!({ "eventId": id })
        })
        .enqueue()?;
    let ask = |statement: &str| -> Value {
        let answer: Result<String, sql::Error> = sql::query_one(statement, params![]);
        Value::from(answer.unwrap_or_else(|error| format!("{:?}", error.kind)))
    };
    let (sql_random, sql_now) = (ask("SELECT CAST(random() AS TEXT)"), ask("SELECT datetime('now')"));
    let monotonic = started.elapsed().as_nanos() as i64;
    sql::execute(
        "INSERT INTO drawn (id, attempt, now, system_now, monotonic, random, hash_seed, event_id, next_id, sql_random,
                            sql_now)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            &input.id,
            delivery::attempt(),
            delivery::now().millis(),
            system_now,
            monotonic,
            random,
            hash_seed,
            delivery::event_id(),
            next_id.into_inner(),
            sql_random,
            sql_now,
        ],
    )?;
    Ok(())
}
