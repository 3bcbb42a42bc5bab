//! What can go wrong with a statement, and whose fault it is.
//!
//! The distinction that matters is [`Kind::Store`]: then no handler is to blame, nothing is counted, and the
//! work is tried again once the store can be written.

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The statement does not parse, names what is not there, or has the wrong number of parameters.
    Statement,
    /// A constraint refused the change.
    Constraint,
    /// The authorizer refused the statement.
    Denied,
    /// A write on a read-only connection.
    ReadOnly,
    /// A limit: time, rows, bytes.
    Limit,
    /// The store itself: disk full, I/O error, corruption, out of memory, locked by another process.
    Store,
    /// Anything else.
    Other,
}

/// A failed statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Whose fault it is.
    pub kind: Kind,
    /// SQLite's extended result code; 0 if the error is not SQLite's.
    pub code: i32,
    /// SQLite's words.
    pub message: String,
}

impl Error {
    /// An error of the host's own.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, code: 0, message: message.into() }
    }

    /// Whether SQLite ran out of memory (SQLITE_NOMEM).
    pub(super) fn out_of_memory(&self) -> bool {
        self.code & 0xff == rusqlite::ffi::SQLITE_NOMEM
    }

    /// Whether the statement was cut off at its deadline (SQLITE_INTERRUPT).
    pub fn interrupted(&self) -> bool {
        self.code & 0xff == rusqlite::ffi::SQLITE_INTERRUPT
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let (code, kind) = match &error {
            rusqlite::Error::SqliteFailure(e, _) | rusqlite::Error::SqlInputError { error: e, .. } => {
                let kind = match e.code {
                    Code::ConstraintViolation => Kind::Constraint,
                    Code::AuthorizationForStatementDenied => Kind::Denied,
                    Code::ReadOnly => Kind::ReadOnly,
                    Code::OperationInterrupted | Code::TooBig => Kind::Limit,
                    // A virtual table that disagrees with its content, such as a full-text index out of step with the
                    // table it was made of: the handler's business, and the store is all right.
                    Code::DatabaseCorrupt if e.extended_code == rusqlite::ffi::SQLITE_CORRUPT_VTAB => Kind::Other,
                    Code::DiskFull
                    | Code::SystemIoFailure
                    | Code::DatabaseCorrupt
                    | Code::NotADatabase
                    | Code::OutOfMemory
                    | Code::CannotOpen
                    | Code::DatabaseBusy
                    | Code::DatabaseLocked
                    | Code::FileLockingProtocolFailed => Kind::Store,
                    Code::Unknown => Kind::Statement,
                    _ => Kind::Other,
                };
                (e.extended_code, kind)
            }
            rusqlite::Error::MultipleStatement
            | rusqlite::Error::InvalidParameterCount(..)
            | rusqlite::Error::NulError(_)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::InvalidQuery
            | rusqlite::Error::ExecuteReturnedResults => (0, Kind::Statement),
            _ => (0, Kind::Other),
        };
        Self { kind, code, message: error.to_string() }
    }
}
