//! Why a record could not be handled. The variant decides what the host does next; the words are for people.

use std::fmt;
use std::time::Duration;

use crate::{publisher, sql};

/// What a handler of records returns when it could not do its work. The host drops whatever the delivery wrote or
/// enqueued.
///
/// `?` turns errors into failures by this rule: what would fail again in the same way is a [`Reject`](Self::Reject)
/// (JSON that does not fit, a statement that does not parse, a constraint, something denied), everything else is a
/// [`Retry`](Self::Retry). Where a handler knows better it says so: `.map_err(Failure::retry)?`.
///
/// ```
/// use std::time::Duration;
/// use tidemill_sdk::{Failure, Record};
///
/// fn handle(record: &Record) -> Result<(), Failure> {
///     let amount: i64 = record.json()?; // undecodable
///     match amount {
///         ..=0 => Err(Failure::reject(format!("{amount} is no amount"))),
///         1_000_000.. => Err(Failure::retry("waits for the approval").after(Duration::from_secs(60))),
///         _ => Ok(()),
///     }
/// }
/// # use tidemill_sdk::test::record;
/// assert!(matches!(handle(&record("payments").with_value("0")), Err(Failure::Reject(_))));
/// assert!(matches!(handle(&record("payments").with_value("1000000")), Err(Failure::Retry { .. })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work when tried again: counts as an attempt. After the last one the record is a dead letter.
    Retry {
        /// For people.
        message: String,
        /// Not before this long from now; `None` leaves it to the policy.
        after: Option<Duration>,
    },
    /// It will never work: the record becomes a dead letter now. The text says why.
    Reject(String),
    /// Something the handler depends on is down: nothing is counted, and the handler's records wait.
    Unavailable {
        /// For people.
        message: String,
        /// Not before this long from now; `None` leaves it to the policy.
        after: Option<Duration>,
    },
}

impl Failure {
    /// It may work when tried again.
    ///
    /// ```
    /// # use tidemill_sdk::Failure;
    /// let stock: Result<u32, &str> = Err("the stock is being counted");
    /// assert_eq!(stock.map_err(Failure::retry), Err(Failure::Retry { message: "the stock is being counted".into(), after: None }));
    /// ```
    pub fn retry(message: impl fmt::Display) -> Self {
        Self::Retry { message: message.to_string(), after: None }
    }

    /// It will never work.
    ///
    /// ```
    /// # use tidemill_sdk::Failure;
    /// fn quantity(text: &str) -> Result<u32, Failure> {
    ///     text.parse().map_err(|error| Failure::reject(format!("quantity `{text}`: {error}")))
    /// }
    /// assert!(matches!(quantity("-1"), Err(Failure::Reject(why)) if why.starts_with("quantity `-1`")));
    /// ```
    pub fn reject(message: impl fmt::Display) -> Self {
        Self::Reject(message.to_string())
    }

    /// The record cannot be read at all: a rejection that the host tells apart, so that its policy can treat it
    /// otherwise.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, Record};
    /// /// A value that is one number in four bytes.
    /// fn count(record: &Record) -> Result<u32, Failure> {
    ///     let bytes = record.value.as_deref().and_then(|value| value.try_into().ok());
    ///     bytes.map(u32::from_be_bytes).ok_or_else(|| Failure::undecodable("the value is not four bytes long"))
    /// }
    /// # use tidemill_sdk::test::record;
    /// assert_eq!(count(&record("counts").with_value([0, 0, 1, 0])), Ok(256));
    /// assert!(count(&record("counts").with_value("a lot")).is_err_and(|failure| failure.message().starts_with("undecodable: ")));
    /// ```
    pub fn undecodable(message: impl fmt::Display) -> Self {
        Self::Reject(format!("undecodable: {message}"))
    }

    /// Something that the handler depends on is down.
    ///
    /// ```
    /// # use tidemill_sdk::Failure;
    /// fn rate(today: Option<f64>) -> Result<f64, Failure> {
    ///     today.ok_or_else(|| Failure::unavailable("the rates of today are not there yet"))
    /// }
    /// assert!(matches!(rate(None), Err(Failure::Unavailable { .. })));
    /// ```
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::Unavailable { message: message.to_string(), after: None }
    }

    /// Not before this long from now. A rejection has no next time, and stays as it is.
    ///
    /// ```
    /// # use tidemill_sdk::Failure;
    /// use std::time::Duration;
    ///
    /// let later = Failure::unavailable("the bank opens at nine").after(Duration::from_secs(3600));
    /// assert!(matches!(later, Failure::Unavailable { after: Some(after), .. } if after.as_secs() == 3600));
    /// assert_eq!(Failure::reject("no").after(Duration::ZERO), Failure::reject("no"));
    /// ```
    #[must_use]
    pub fn after(mut self, time: Duration) -> Self {
        if let Self::Retry { after, .. } | Self::Unavailable { after, .. } = &mut self {
            *after = Some(time);
        }
        self
    }

    /// The words.
    ///
    /// ```
    /// # use tidemill_sdk::Failure;
    /// assert_eq!(Failure::retry("locked").message(), "locked");
    /// assert_eq!(Failure::undecodable("no JSON").message(), "undecodable: no JSON");
    /// ```
    pub fn message(&self) -> &str {
        match self {
            Self::Retry { message, .. } | Self::Reject(message) | Self::Unavailable { message, .. } => message,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Failure {}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::reject(error)
    }
}

impl From<sql::Error> for Failure {
    /// [`sql::ErrorKind::Other`] and [`sql::ErrorKind::Limit`] are retried; all other kinds are rejected.
    fn from(error: sql::Error) -> Self {
        match error.kind {
            sql::ErrorKind::Other | sql::ErrorKind::Limit => Self::retry(error),
            sql::ErrorKind::Statement
            | sql::ErrorKind::Constraint
            | sql::ErrorKind::Denied
            | sql::ErrorKind::ReadOnly
            | sql::ErrorKind::Decode => Self::reject(error),
        }
    }
}

impl From<publisher::Error> for Failure {
    /// Always rejected: whatever the outbox refuses, it refuses again.
    fn from(error: publisher::Error) -> Self {
        Self::reject(error)
    }
}
