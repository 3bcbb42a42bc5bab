//! Apache Kafka for tests: one cluster that all tests of a process share, and clusters of their own for tests that
//! hurt it.
//!
//! A cluster never outlives the test process, however that ends: a small shell beside it waits for the end of its
//! standard input, which only this process holds, and then kills the brokers of its folder.

pub mod client;
pub mod member;
pub mod transaction;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use client::Client;

use crate::sandbox::repository;

/// A running cluster.
#[derive(Debug)]
pub struct Kafka {
    folder: PathBuf,
    bootstrap: String,
    janitor: Child,
}

impl Kafka {
    /// The cluster that all tests of this process share: a single broker. Use topics and groups of your own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(1))
    }

    /// A cluster of its own.
    pub fn start(brokers: u32) -> Self {
        Self::start_with(brokers, |_| {})
    }

    /// A cluster of its own, with variables for the script changed by `change`.
    pub fn start_with(brokers: u32, change: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::Builder::new().prefix("tm-kafka-").tempdir().expect("make a folder for Kafka").keep();
        let clean = r#"trap "" INT TERM; read -r _; "$0" kill "$1" >/dev/null 2>&1; rm -rf "$1""#;
        let janitor = Command::new("bash")
            .arg("-c")
            .arg(clean)
            .args([script().as_os_str(), folder.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start the shell that ends Kafka");
        let mut kafka = Self { folder, bootstrap: String::new(), janitor };
        let mut command = kafka.command("start", &[&brokers.to_string()]);
        change(&mut command);
        kafka.bootstrap = finish(command).lines().last().expect("the bootstrap servers").to_owned();
        kafka
    }

    /// Where it is: `host:port,...`. The same after `resume`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The folder that it lives in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(&self.bootstrap)
    }

    /// Stops it in good order.
    pub fn stop(&self) {
        finish(self.command("stop", &[]));
    }

    /// Kills it.
    pub fn kill(&self) {
        finish(self.command("kill", &[]));
    }

    /// Kills one broker, counted from 1.
    pub fn kill_one(&self, broker: u32) {
        finish(self.command("kill", &[&broker.to_string()]));
    }

    /// Starts again what was stopped or killed: same ports, same data.
    pub fn resume(&self) {
        finish(self.command("resume", &[]));
    }

    /// Starts one broker again, counted from 1.
    pub fn resume_one(&self, broker: u32) {
        finish(self.command("resume", &[&broker.to_string()]));
    }

    /// It is there and does not answer.
    pub fn pause(&self) {
        finish(self.command("pause", &[]));
    }

    /// It answers again.
    pub fn unpause(&self) {
        finish(self.command("unpause", &[]));
    }

    /// What one of Kafka's own tools prints.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let mut all = vec![name];
        all.extend(arguments);
        finish(self.command("tool", &all))
    }

    fn command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(script());
        command.arg(verb).arg(&self.folder).args(arguments.iter().map(OsStr::new)).stdin(Stdio::null());
        command
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

fn script() -> PathBuf {
    repository().join("tests/kafka/kafka")
}

/// What a command that must succeed prints.
///
/// Its output goes through files: a broker that it starts would hold a pipe open for good.
fn finish(mut command: Command) -> String {
    let folder = tempfile::tempdir().expect("make a folder for output");
    let [out, err] = ["out", "err"].map(|name| folder.path().join(name));
    command.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let Output { status, .. } = command.output().expect("run the Kafka script");
    let read = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
    assert!(status.success(), "{command:?}: {status}\n{}{}", read(&out), read(&err));
    read(&out)
}
