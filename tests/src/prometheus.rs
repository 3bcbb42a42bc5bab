//! A Prometheus of its own for a test, which scrapes the sandbox's daemon and evaluates the alert rules of `docs/monitoring`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::http::Call;
use crate::sandbox::{Sandbox, repository};
use crate::wait::{LONG, eventually};

/// It ends with the test.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    url: String,
}

impl Prometheus {
    /// One that scrapes the sandbox's daemon each second, and has done so once. The rules are ours; where `soon` is set, each fires
    /// after two seconds, whatever it would wait for by itself.
    pub fn start(sandbox: &Sandbox, soon: bool) -> Self {
        Self::set_up(sandbox, &[]).expect("what `make observe` writes");
        Self::run(&sandbox.root().join("prometheus"), soon)
    }

    /// The same over TLS: the authority's file, and the name in the daemon's certificate.
    pub fn start_over_tls(sandbox: &Sandbox, authority: &Path, name: &str) -> Self {
        Self::set_up(sandbox, &[authority.to_str().unwrap(), name]).expect("what `make observe` writes");
        Self::run(&sandbox.root().join("prometheus"), false)
    }

    /// Writes what one needs, as `make observe` does; or what that says.
    pub fn set_up(sandbox: &Sandbox, tls: &[&str]) -> Result<(), String> {
        let url = fs::read_to_string(sandbox.data().join("metrics.url")).unwrap();
        let mut script = Command::new(repository().join(".ci/prometheus"));
        let output = script.arg(sandbox.root().join("prometheus")).arg(url.trim()).args(tls).output().unwrap();
        output.status.success().then_some(()).ok_or(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn run(folder: &Path, soon: bool) -> Self {
        let mut rules = fs::read_to_string(folder.join("alerts.yml")).unwrap();
        if soon {
            let lines = rules.lines().map(|line| match line.split_once(" for: ") {
                Some((before, _)) => format!("{before} for: 2s\n"),
                None => format!("{line}\n"),
            });
            rules = lines.collect();
        }
        fs::write(folder.join("alerts.yml"), rules).unwrap();
        let config = fs::read_to_string(folder.join("prometheus.yml")).unwrap();
        assert!(config.contains("interval: 5s"), "{config}");
        fs::write(folder.join("prometheus.yml"), config.replace("interval: 5s", "interval: 1s")).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let log = File::create(folder.join("log")).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start Prometheus; `make setup-tests` installs it");
        let prometheus = Self { child, url: format!("http://{address}") };
        eventually(LONG, "Prometheus has scraped the daemon", || {
            prometheus.ask("query?query=up").is_some_and(|answer| answer["data"]["result"][0]["value"][1] == "1")
        });
        prometheus
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it answers to a question of its API, once it answers.
    pub fn ask(&self, path: &str) -> Option<Value> {
        let reply = Call::new("GET", &format!("{}/api/v1/{path}", self.url)).try_send().ok()?;
        // It is not ready at once.
        (reply.status != 503).then(|| reply.json())
    }

    /// The series that a query gives; it must be one that Prometheus understands.
    pub fn query(&self, query: &str) -> Vec<Value> {
        self.result(&format!("query?query={}", encoded(query)), query)
    }

    /// The same over the last `seconds`, one point for each second.
    pub fn range(&self, query: &str, seconds: u64) -> Vec<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let path = format!("query_range?query={}&start={}&end={now}&step=1", encoded(query), now - seconds);
        self.result(&path, query)
    }

    /// The names of the alerts that fire for a handler.
    pub fn firing(&self, handler: &str) -> Vec<String> {
        let alerts = self.ask("alerts").map(|answer| answer["data"]["alerts"].clone()).unwrap_or_default();
        let ours = |alert: &&Value| alert["labels"]["handler"] == handler && alert["state"] == "firing";
        let name = |alert: &Value| alert["labels"]["alertname"].as_str().unwrap().to_owned();
        alerts.as_array().into_iter().flatten().filter(ours).map(name).collect()
    }

    fn result(&self, path: &str, query: &str) -> Vec<Value> {
        let answer = self.ask(path).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A file of `docs/monitoring`.
pub fn monitoring(file: &str) -> PathBuf {
    repository().join("docs/monitoring").join(file)
}

/// A query of the dashboard, as Grafana asks it of all daemons and handlers.
pub fn plain(query: &str, rate_interval: &str) -> String {
    let query = query.replace("$__rate_interval", rate_interval).replace("$instance", ".*").replace("$handler", ".*");
    assert!(!query.contains('$'), "{query}");
    query
}
