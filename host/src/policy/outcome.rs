//! How a delivery can fail, and what each way counts as.
//!
//! The handler answers with one of three failures; the others the host finds by itself. Each counts as one of the
//! handler's three, by a table that the manifest and the operator may change.

use std::time::Duration;

/// How a delivery ended when it did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The handler asked to be tried again.
    Retry,
    /// The handler said that it will never work.
    Reject,
    /// The handler said that the record cannot be read at all.
    Undecodable,
    /// Something that the handler depends on is down.
    Unavailable,
    /// The component trapped: a panic, an out-of-bounds access, `unreachable`.
    Trap,
    /// It ran for too long.
    TimeLimit,
    /// It wanted too much memory, or too deep a stack.
    MemoryLimit,
    /// It went over the limits of events or of SQL, and then failed.
    EffectsLimit,
    /// The daemon ended while it ran.
    Crash,
}

/// Begins the text of a `reject` that says that the record cannot be read.
const UNDECODABLE: &str = "undecodable:";
/// Attempts for what harms the host, unless the policy has fewer.
const HARMFUL: u32 = 2;
/// Processes that a record may end. A kill by somebody else can hit the same record twice.
const CRASHES: u32 = 3;

impl Outcome {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 9] = [
        Self::Retry,
        Self::Reject,
        Self::Undecodable,
        Self::Unavailable,
        Self::Trap,
        Self::TimeLimit,
        Self::MemoryLimit,
        Self::EffectsLimit,
        Self::Crash,
    ];

    /// The name in settings, logs, metrics and the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Reject => "reject",
            Self::Undecodable => "undecodable",
            Self::Unavailable => "unavailable",
            Self::Trap => "trap",
            Self::TimeLimit => "time-limit",
            Self::MemoryLimit => "memory-limit",
            Self::EffectsLimit => "effects-limit",
            Self::Crash => "crash",
        }
    }

    /// The outcome of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }

    /// Whether it is what the component did by itself, and not what its handler decided, or the daemon's end.
    pub fn is_trap(self) -> bool {
        matches!(self, Self::Trap | Self::TimeLimit | Self::MemoryLimit | Self::EffectsLimit)
    }

    /// What an answer of `reject` with this text is.
    pub fn of_reject(message: &str) -> Self {
        if message.starts_with(UNDECODABLE) { Self::Undecodable } else { Self::Reject }
    }

    /// How many attempts it has where nothing is said about it, under a policy of so many.
    pub(super) fn usual_attempts(self, max_attempts: u32) -> u32 {
        match self {
            Self::Trap | Self::TimeLimit | Self::MemoryLimit | Self::EffectsLimit => max_attempts.min(HARMFUL),
            Self::Retry | Self::Reject | Self::Undecodable | Self::Unavailable => max_attempts,
            Self::Crash => CRASHES,
        }
    }
}

/// A delivery that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How.
    pub outcome: Outcome,
    /// What went wrong, for people: the handler's words, or the host's.
    pub message: String,
    /// The handler's wish: not before this long after the failure.
    pub after: Option<Duration>,
}

impl Failure {
    /// One without a wish.
    pub fn new(outcome: Outcome, message: impl Into<String>) -> Self {
        Self { outcome, message: message.into(), after: None }
    }
}

/// What an outcome counts as: one of the handler's own answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// An attempt.
    Retry,
    /// A dead letter at once.
    Reject,
    /// Nobody's fault: the circuit opens.
    Unavailable,
}

/// `[retry.on]` for one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// `as`
    pub treatment: Treatment,
    /// `max-attempts`: in place of the policy's when the last attempt ended so.
    pub max_attempts: Option<u32>,
}

/// `[retry.on]`: what each outcome counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes([Class; Outcome::ALL.len()]);

impl Default for Classes {
    fn default() -> Self {
        Self(Outcome::ALL.map(|outcome| Class {
            treatment: match outcome {
                Outcome::Reject | Outcome::Undecodable => Treatment::Reject,
                Outcome::Unavailable => Treatment::Unavailable,
                _ => Treatment::Retry,
            },
            max_attempts: None,
        }))
    }
}

impl Classes {
    /// What this outcome counts as.
    pub fn of(&self, outcome: Outcome) -> Class {
        let usual = Class { treatment: Treatment::Retry, max_attempts: None };
        self.0.get(outcome as usize).copied().unwrap_or(usual)
    }

    /// The same, with another class for one outcome.
    pub fn with(mut self, outcome: Outcome, class: Class) -> Self {
        if let Some(place) = self.0.get_mut(outcome as usize) {
            *place = class;
        }
        self
    }
}
