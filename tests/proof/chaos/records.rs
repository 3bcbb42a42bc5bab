//! What each record does, by its number, and what it must end in.
//!
//! Nothing here knows of a fault.

use serde_json::{Value, json};
use tidemill_tests::Out;

use crate::rig::KEYS;

/// How often a record is tried.
pub(super) const ATTEMPTS: u64 = 3;
/// The header of a record that ends the process whenever it is run: `TIDEMILL_TEST_ABORT_ON`.
pub(super) const ENDS: &str = "ends";
/// How long an event waits that is delayed.
const DELAY_MS: u64 = 1_500;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Writes a row and publishes an event.
    Fine,
    /// The same, after one or two failed attempts.
    Recovers(u64),
    /// Writes a row and publishes a delayed event.
    Delays,
    /// Calls a service first, and then publishes.
    Calls,
    /// Fails until it is given up on, and is compensated.
    GivesUp,
    /// Panics each time.
    Panics,
    /// Is rejected.
    Rejected,
    /// Computes for ever.
    Loops,
    /// Allocates for ever.
    Grows,
    /// Ends the process.
    Ends,
}

impl Kind {
    /// Whether it is done at last, and not given up on.
    pub(super) fn is_applied(self) -> bool {
        matches!(self, Self::Fine | Self::Recovers(_) | Self::Delays | Self::Calls)
    }

    /// What its dead letter says: how many attempts, and what the last one ended in. `None` where there is none.
    pub(super) fn given_up(self) -> Option<(u64, &'static str)> {
        match self {
            Self::Fine | Self::Recovers(_) | Self::Delays | Self::Calls => None,
            Self::GivesUp => Some((ATTEMPTS, "retry")),
            Self::Panics => Some((2, "trap")),
            Self::Rejected => Some((1, "reject")),
            Self::Loops => Some((2, "time-limit")),
            Self::Grows => Some((2, "memory-limit")),
            // The processes that it has ended are counted apart from its attempts: it has finished none.
            Self::Ends => Some((1, "crash")),
        }
    }

    /// Its name without the numbers.
    pub(super) fn name(self) -> String {
        format!("{self:?}").split('(').next().unwrap_or_default().to_owned()
    }
}

/// Those that cost a time limit or a start of the daemon each are rare.
pub(super) fn kind(n: u64) -> Kind {
    if n % 8_192 == 700 {
        return Kind::Ends;
    }
    match mix(n) % 1_000 {
        0 => Kind::Loops,
        1 => Kind::Grows,
        2..=21 => Kind::GivesUp,
        22..=31 => Kind::Panics,
        32..=51 => Kind::Rejected,
        52..=131 => Kind::Recovers(1 + n % 2),
        132..=181 => Kind::Calls,
        182..=221 => Kind::Delays,
        _ => Kind::Fine,
    }
}

pub(super) fn mix(n: u64) -> u64 {
    let z = (n.wrapping_add(1)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
}

pub(super) fn key(n: u64) -> String {
    format!("k{}", mix(n ^ 0xabcd) % KEYS)
}

pub(super) fn record(n: u64, service: &str) -> Out {
    let id = format!("r{n}");
    let publish = json!({ "do": "publish", "id": id });
    let failing = |what: Value| json!([publish, what, { "do": "insert", "row": false, "undo": [{ "do": "insert", "id": format!("u{n}") }] }]);
    let commands = match kind(n) {
        Kind::Fine => json!([publish]),
        Kind::Recovers(fails) => json!([publish, { "do": "fail-n", "until": fails + 1 }]),
        Kind::Delays => json!([{ "do": "publish", "id": id, "destination": "later", "after_ms": DELAY_MS }]),
        Kind::Calls => json!([{ "do": "call", "url": service, "body": id, "id": id, "row": false }, publish]),
        Kind::GivesUp => failing(json!({ "do": "fail-n", "until": 99 })),
        Kind::Panics => failing(json!({ "do": "panic" })),
        Kind::Rejected => failing(json!({ "do": "reject" })),
        Kind::Loops => failing(json!({ "do": "loop" })),
        Kind::Grows => failing(json!({ "do": "grow" })),
        Kind::Ends => failing(json!({ "do": "insert" })),
    };
    let out = Out::new(commands.to_string()).key(key(n)).header("eid", format!("e{n}"));
    if kind(n) == Kind::Ends { out.header(ENDS, "now") } else { out }
}
