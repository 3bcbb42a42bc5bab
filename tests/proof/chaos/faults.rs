//! What the schedule can pick, and how it is done.
//!
//! A deck holds each fault once and is made anew when it is used up, so that none is left out for long. `FAULT` leaves
//! only those in it whose name begins so, or so: `FAULT=Clock`, `FAULT=OutputMadeAgain,RollingRestart`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use tidemill_tests::sandbox::with_section;
use tidemill_tests::{Kafka, LONG, Rec, Store, built};

use super::host::Host;
use crate::dice::{Dice, pass};
use crate::disk::limit;
use crate::rig::PARTITIONS;

/// The longest that a fault of a moment lasts.
const A_WHILE: Duration = Duration::from_millis(3_000);
/// Until an idle topic's offsets are all done.
const QUIET: Duration = Duration::from_secs(120);

/// What the schedule can pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Kill,
    KillAt(&'static str),
    Terminate,
    BrokerKilled,
    BrokersPaused,
    RollingRestart,
    ForeignMember,
    Reload,
    DiskFull,
    ClockForward,
    ClockBack,
    InputMadeAgain,
    OutputMadeAgain,
}

const FAULTS: [Fault; 19] = [
    Fault::Kill,
    Fault::KillAt("delivered"),
    Fault::KillAt("committing"),
    Fault::KillAt("committed"),
    Fault::KillAt("acknowledged"),
    Fault::KillAt("migrated"),
    Fault::KillAt("switched"),
    Fault::KillAt("set-aside"),
    Fault::Terminate,
    Fault::BrokerKilled,
    Fault::BrokersPaused,
    Fault::RollingRestart,
    Fault::ForeignMember,
    Fault::Reload,
    Fault::DiskFull,
    Fault::ClockForward,
    Fault::ClockBack,
    Fault::InputMadeAgain,
    Fault::OutputMadeAgain,
];

/// The faults in a random order, and how often each was drawn.
#[derive(Default)]
pub(super) struct Deck {
    left: Vec<Fault>,
    drawn: BTreeMap<Fault, u64>,
}

impl Deck {
    pub(super) fn draw(&mut self, dice: &mut Dice) -> Fault {
        if self.left.is_empty() {
            let wanted = std::env::var("FAULT").unwrap_or_default();
            let is_wanted = |fault: &Fault| wanted.split(',').any(|name| format!("{fault:?}").starts_with(name));
            self.left = FAULTS.into_iter().filter(is_wanted).collect();
            assert!(!self.left.is_empty(), "FAULT is none of {FAULTS:?}");
        }
        let fault = self.left.swap_remove(dice.below(self.left.len() as u64) as usize);
        *self.drawn.entry(fault).or_default() += 1;
        fault
    }

    pub(super) fn has_set_the_clock_forward(&self) -> bool {
        self.drawn.contains_key(&Fault::ClockForward)
    }
}

impl fmt::Display for Deck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<String> = self.drawn.iter().map(|(fault, times)| format!("{fault:?} {times}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// What the faults are done to, and what was seen so far.
pub(super) struct Scene<'a> {
    pub(super) host: Host<'a>,
    pub(super) store: Store,
    kafka: &'a Kafka,
    /// Records produced, those repeated included.
    pub(super) produced: u64,
    /// Those of them that were on topics which are gone.
    gone: u64,
    /// Events that were on topics which are gone.
    pub(super) events: Vec<Rec>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(host: Host<'a>, kafka: &'a Kafka) -> Self {
        let store = host.rig.store();
        Self { host, store, kafka, produced: 0, gone: 0, events: Vec::new() }
    }

    /// How many records were read, by the store's offsets.
    pub(super) fn read(&self) -> u64 {
        self.gone + self.store.count("SELECT coalesce(sum(next_offset), 0) FROM tm_offset") as u64
    }

    /// Waits for a condition, and keeps the daemon running meanwhile.
    pub(super) fn until(&mut self, deadline: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        tidemill_tests::eventually(deadline, what, || {
            self.host.keep_up();
            condition(self)
        });
    }

    /// Waits until all records are read, none waits any more, and all events are out.
    pub(super) fn settle(&mut self, deadline: Duration) {
        self.until(deadline, "all records are read", |scene| scene.read() == scene.produced);
        for table in ["tm_pending", "tm_outbox"] {
            let rows = format!("SELECT count(*) FROM {table}");
            self.until(deadline, &format!("{table} is empty"), |scene| scene.store.count(&rows) == 0);
        }
    }

    /// What must be done before records flow.
    pub(super) fn prepare(&mut self, fault: Fault, dice: &mut Dice) {
        let rig = self.host.rig;
        match fault {
            // Records may wait for their next attempt: the store has them whole.
            Fault::InputMadeAgain => {
                let known = || format!("SELECT count(*) = {PARTITIONS} FROM tm_offset");
                self.until(QUIET, "every partition is known", |scene| scene.store.count(&known()) == 1);
                self.until(QUIET, "all records are read", |scene| scene.read() == scene.produced);
                let down = dice.once_in(2);
                if down {
                    self.host.stop();
                }
                rig.client.delete_topic(&rig.input);
                rig.client.create_topic(&rig.input, PARTITIONS);
                if down {
                    self.host.start_again();
                }
            }
            // What is on it is lost to others, but not to us.
            Fault::OutputMadeAgain => {
                self.settle(QUIET);
                self.events.extend(rig.client.consume_all(&rig.output));
                rig.client.delete_topic(&rig.output);
            }
            _ => {}
        }
    }

    /// Makes it happen, and brings the daemon back.
    pub(super) fn inject(&mut self, fault: Fault, dice: &mut Dice, round: u64) {
        let broker = 1 + dice.below(3) as u32;
        let rig = self.host.rig;
        let host = &mut self.host;
        match fault {
            Fault::Kill => {
                host.kill();
                host.start_again();
            }
            Fault::KillAt(moment) => {
                host.stop();
                let rare = matches!(moment, "migrated" | "switched");
                let nth = if rare { 1 } else { 1 + dice.below(100) };
                host.launch(Some(&format!("{moment}:{nth}")));
                let until = Instant::now() + Duration::from_secs(10);
                // So many such moments may not come: then it is killed at any.
                while host.daemon.runs() && Instant::now() < until {
                    pass(Duration::from_millis(10));
                }
                host.kill();
                host.start_again();
            }
            Fault::Terminate => {
                host.stop();
                host.start_again();
            }
            Fault::BrokerKilled => {
                self.kafka.kill_one(broker);
                pass(dice.within(A_WHILE));
                self.kafka.resume_one(broker);
            }
            Fault::BrokersPaused => {
                self.kafka.pause();
                pass(dice.within(A_WHILE));
                self.kafka.unpause();
            }
            Fault::RollingRestart => {
                for broker in 1..=3 {
                    self.kafka.kill_one(broker);
                    self.kafka.resume_one(broker);
                }
            }
            Fault::ForeignMember => {
                rig.client.visit_group(&rig.group, &rig.input, dice.within(Duration::from_millis(700)));
            }
            Fault::Reload => {
                rig.sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), &format!("round {round}")));
            }
            Fault::DiskFull => {
                limit(&host.daemon, Some(64 << 10));
                pass(dice.within(A_WHILE));
                limit(&host.daemon, None);
            }
            Fault::ClockForward => self.set_the_clock(1, dice),
            Fault::ClockBack => self.set_the_clock(-1, dice),
            Fault::InputMadeAgain => self.adopt(),
            Fault::OutputMadeAgain => {
                pass(dice.within(A_WHILE));
                rig.client.create_topic(&rig.output, PARTITIONS);
            }
        }
    }

    /// Sets the daemon's clock hours to days wrong, and right again, while it runs or across a restart. What waits by then
    /// waits no longer than it was to.
    fn set_the_clock(&mut self, direction: i64, dice: &mut Dice) {
        let hours = 2 + dice.below(70) as i64;
        for seconds in [direction * hours * 3_600, 0] {
            pass(dice.within(A_WHILE));
            self.host.clock.set(seconds);
            if dice.once_in(2) {
                self.host.stop();
                self.host.start_again();
            }
            // Kafka takes no event that comes from the future.
            let tables: &[&str] = if seconds > 0 { &["tm_pending"] } else { &["tm_pending", "tm_outbox"] };
            for table in tables {
                let last = self.store.count(&format!("SELECT coalesce(max(id), 0) FROM {table}"));
                let left = format!("SELECT count(*) FROM {table} WHERE id <= {last}");
                let what = format!("what is in {table} leaves it, {seconds} s from the real time");
                self.until(LONG, &what, |scene| scene.store.count(&left) == 0);
            }
        }
    }

    /// Does what the daemon asks for.
    fn adopt(&mut self) {
        let rig = self.host.rig;
        let said = ["ERROR", &rig.input, "deleted and made again", "tidemill adopt"];
        self.host.until(LONG, "it says that the topic is another one", |host| host.daemon.find(&said).is_some());
        self.host.stop();
        self.gone = self.produced;
        let adopted = rig.sandbox.tidemill(&["adopt", "hostile", "--topic", &rig.input]);
        assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
        self.host.start_again();
    }
}
