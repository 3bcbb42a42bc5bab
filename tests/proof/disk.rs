//! The disk is full while records and requests flow, and then it is not.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tidemill_tests::{Daemon, Kafka, LONG, eventually};

use crate::flow::Flow;
use crate::rig::{Rig, once_each};

/// A small file system of its own.
struct Small {
    folder: PathBuf,
}

impl Small {
    /// `None` where this user may not mount one.
    fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=12m,mode=0700", "tidemill-proof"])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self { folder: folder.to_owned() })
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut file = File::create(self.folder.join("ballast")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.folder.join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).output();
    }
}

/// S4.2: a store that cannot be written gives 503, says so once, waits, and goes on by itself.
fn full_and_free_again(rig: &Rig, mut daemon: Daemon, fill: impl Fn(&Daemon), free: impl Fn(&Daemon)) {
    let store = rig.store();
    let flow = Flow::start(rig, 0, u64::MAX, 50);
    store.until("SELECT count(*) > 100 FROM seen", 1);
    let (mut answered, mut asked) = (Vec::new(), 0);
    for _ in 0..2 {
        fill(&daemon);
        until_refused(&daemon, &mut asked, &mut answered);
        let sent = flow.sent();
        eventually(LONG, "records still arrive", || flow.sent() > sent + 200);
        assert!(daemon.runs(), "the daemon has ended");
        let stuck = store.count("SELECT count(*) FROM seen");
        until_refused(&daemon, &mut asked, &mut answered);
        assert_eq!(store.count("SELECT count(*) FROM seen"), stuck, "nothing is half done");
        free(&daemon);
        store.until(&format!("SELECT count(*) > {stuck} FROM seen WHERE topic IS NOT NULL"), 1);
        daemon.says(&["can be written again"]);
    }
    let total = flow.stop();
    rig.settle(total);
    once_each(&store.lines("SELECT id FROM seen WHERE topic IS NULL"), answered.iter().cloned());
    let log = daemon.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(errors.len(), 2, "one for each time: {errors:#?}");
    assert!(errors.iter().all(|line| line.contains("free disk space")), "{errors:?}");
    assert!(!log.contains("panicked"));
    daemon.terminate();
}

#[test]
fn s4_2_a_full_disk_is_said_once_and_loses_nothing() {
    let rig = Rig::new(Kafka::shared());
    let Some(small) = Small::mount(&rig.sandbox.data()) else {
        println!("no small file system can be mounted here; the limit on files stands for it");
        return;
    };
    let daemon = rig.start();
    full_and_free_again(&rig, daemon, |_| small.fill(), |_| small.free());
}

/// The same by a limit on the size of files, which the kernel also tells by a signal (SIGXFSZ).
#[test]
fn s4_2_a_limit_on_files_is_said_once_and_loses_nothing() {
    let rig = Rig::new(Kafka::shared());
    let daemon = rig.start();
    full_and_free_again(&rig, daemon, |daemon| limit(daemon, Some(64 << 10)), |daemon| limit(daemon, None));
}

/// Invariant 1: with no record beside it, it is a request's own commit that fails first.
#[test]
fn s4_2_no_request_is_answered_before_its_commit() {
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    let (mut answered, mut asked) = (Vec::new(), 0);
    for _ in 0..3 {
        limit(&daemon, Some(64 << 10));
        until_refused(&daemon, &mut asked, &mut answered);
        limit(&daemon, None);
        let before = answered.len();
        eventually(LONG, "a request is answered again", || {
            post(&daemon, &mut asked, &mut answered);
            answered.len() > before
        });
    }
    once_each(&rig.store().lines("SELECT id FROM seen"), answered.into_iter());
    daemon.terminate();
}

/// The log may be on the same disk: what cannot be said is not said, and no thread ends for it.
#[test]
fn s4_2_a_log_that_cannot_be_written_stops_nothing() {
    let rig = Rig::new(Kafka::shared());
    let mut daemon = rig.start();
    let (mut answered, mut asked) = (Vec::new(), 0);
    for n in 0..3 {
        limit(&daemon, Some(0));
        rig.produce(n..n + 1);
        until_refused(&daemon, &mut asked, &mut answered);
        limit(&daemon, None);
        rig.store().until("SELECT count(*) FROM seen WHERE topic IS NOT NULL", n as i64 + 1);
    }
    daemon.terminate();
    assert!(!daemon.log().contains("panicked"));
}

/// Limits the size of the daemon's files.
pub(crate) fn limit(daemon: &Daemon, current: Option<u64>) {
    let pid = Pid::from_raw(daemon.pid() as i32);
    prlimit(pid, Resource::Fsize, Rlimit { current, maximum: None }).unwrap();
}

/// Posts until the answer is 503; those that were answered 200 are noted.
fn until_refused(daemon: &Daemon, asked: &mut u64, answered: &mut Vec<String>) {
    eventually(LONG, "a request is answered 503", || post(daemon, asked, answered) == 503);
}

/// Posts once, and returns the status.
fn post(daemon: &Daemon, asked: &mut u64, answered: &mut Vec<String>) -> u16 {
    let id = format!("p{asked}");
    *asked += 1;
    let body = format!(r#"{{"do":"publish","id":"{id}"}}"#);
    let reply = daemon.call("POST", "/hostile").body(&body).send();
    match reply.status {
        200 => answered.push(id),
        503 => {
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            assert!(reply.json()["detail"].as_str().unwrap().contains("store"), "{}", reply.text());
        }
        other => panic!("{other}: {}", reply.text()),
    }
    reply.status
}
