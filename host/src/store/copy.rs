//! A copy of a database, made while others use it.
//!
//! It is what was committed at one moment, whoever writes meanwhile, and it holds nobody up. The original is only read.

use std::path::Path;
use std::time::Duration;

use rusqlite::OpenFlags;
use rusqlite::backup::Backup;

use super::Error;

/// How long to wait where the file is locked for a moment, as when its last writer closes it.
const LOCKED: Duration = Duration::from_millis(50);

/// Copies the database in the file `from` to the new file `to`.
///
/// # Errors
/// SQLite's, as where there is no database, or no room on the disk.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let source = rusqlite::Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut target = rusqlite::Connection::open(to)?;
    // All pages in one step, and so from one snapshot: a copy in parts begins anew with each commit of others.
    Backup::new(&source, &mut target)?.run_to_completion(i32::MAX, LOCKED, None)?;
    Ok(())
}
