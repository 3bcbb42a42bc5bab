//! The daemon as a process of its own: started, killed, stopped, and read by what it prints.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::http::{Call, Reply};
use crate::kafka::client::Client;
use crate::sandbox::Sandbox;
use crate::wait::{LONG, eventually_some};

/// A daemon that runs, or ran.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    ended: Option<ExitStatus>,
    out: PathBuf,
    err: PathBuf,
    ready: String,
    ready_after: Duration,
}

impl Daemon {
    /// Starts one in the sandbox, and waits until it says that it is ready.
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, |_| {})
    }

    /// The same, with arguments, variables or anything else changed by `change`.
    pub fn start_with(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Self {
        let mut daemon = Self::launch(sandbox, change);
        daemon.wait_ready();
        daemon
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) {
        let began = Instant::now();
        self.ready = eventually_some(LONG, "the daemon says that it is ready", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended at once ({status}):\n{}", self.log());
            }
            let said = fs::read_to_string(&self.out).unwrap();
            said.lines().find(|line| line.starts_with("ready: ")).filter(|_| said.ends_with('\n')).map(str::to_owned)
        });
        self.ready_after = began.elapsed();
    }

    /// Starts one and waits for nothing.
    pub fn launch(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Self {
        Self::launch_as(sandbox, &["run"], change)
    }

    /// Starts another subcommand that runs the daemon, and waits for nothing.
    pub fn launch_as(sandbox: &Sandbox, arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let run = sandbox.next_run();
        let [out, err] = ["out", "err"].map(|end| sandbox.root().join(format!("run-{run}.{end}")));
        let mut command = sandbox.command(arguments);
        command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        change(&mut command);
        let child = command.spawn().expect("start the daemon; is it built? `make host`");
        Self { child, ended: None, out, err, ready: String::new(), ready_after: Duration::ZERO }
    }

    /// Starts one that must refuse: its exit code, and what it wrote to standard error.
    pub fn refused(sandbox: &Sandbox) -> (i32, String) {
        Self::refused_with(sandbox, |_| {})
    }

    /// The same, changed by `change`.
    pub fn refused_with(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> (i32, String) {
        let mut daemon = Self::launch(sandbox, change);
        let status = daemon.wait_exit();
        assert!(!status.success(), "the daemon was to refuse, and ended well:\n{}", daemon.log());
        (status.code().unwrap_or_else(|| panic!("the daemon was killed: {status}")), daemon.stderr())
    }

    /// The line that it printed when it was ready.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// How long it was waited for that line: from the start of the process, unless it was a standby.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// `http://ADDRESS`.
    pub fn url(&self) -> &str {
        self.ready.split_whitespace().nth(1).expect("an address in the ready line")
    }

    /// `host:port` of the broker that it uses.
    pub fn bootstrap(&self) -> &str {
        self.ready.split_whitespace().skip_while(|word| *word != "kafka").nth(1).expect("a broker in the ready line")
    }

    /// A client of that broker.
    pub fn client(&self) -> Client {
        Client::new(self.bootstrap())
    }

    /// A request to it.
    pub fn call(&self, method: &str, path: &str) -> Call {
        Call::new(method, &format!("{}{path}", self.url()))
    }

    /// Sends a body to it as a user.
    pub fn post(&self, path: &str, token: &str, body: &str) -> Reply {
        self.call("POST", path).token(token).body(body).send()
    }

    /// Asks it as a user.
    pub fn get(&self, path: &str, token: &str) -> Reply {
        self.call("GET", path).token(token).send()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid() as i32).unwrap(), signal).expect("send the daemon a signal");
    }

    /// Kills it, as a power cut or the kernel would.
    pub fn kill9(&mut self) {
        self.child.kill().expect("kill the daemon");
        self.wait_exit();
    }

    /// Tells it to stop, and waits until it has, in order.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait_exit();
        assert!(status.success(), "an orderly stop ended with {status}:\n{}", self.log());
    }

    /// Waits until it has ended.
    pub fn wait_exit(&mut self) -> ExitStatus {
        if let Some(status) = self.ended {
            return status;
        }
        let child = &mut self.child;
        let status = eventually_some(LONG, "the daemon ends", || child.try_wait().unwrap());
        self.ended = Some(status);
        status
    }

    /// What it wrote to standard output and standard error.
    pub fn log(&self) -> String {
        let out = fs::read(&self.out).unwrap_or_default();
        format!("{}{}", String::from_utf8_lossy(&out), self.stderr())
    }

    /// What it wrote to standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of its log holds all of `parts`, and returns the line.
    pub fn says(&self, parts: &[&str]) -> String {
        let what = format!("the daemon logs {parts:?}");
        eventually_some(LONG, &what, || self.find(parts))
    }

    /// A line of its log that holds all of `parts`.
    pub fn find(&self, parts: &[&str]) -> Option<String> {
        self.log().lines().find(|line| parts.iter().all(|part| line.contains(part))).map(str::to_owned)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(60)..).unwrap_or_default();
            eprintln!("--- the daemon's last words ---\n{}\n---", last.join("\n"));
        }
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
