//! The time and the randomness that SQL sees.
//!
//! While a delivery runs on a thread, `datetime('now')`, `CURRENT_TIMESTAMP`, `random()` and `randomblob()` give
//! the delivery's own clock and numbers, so that a second run of it gives the same; outside of one they are
//! SQLite's usual ones. SQLite asks its VFS for the time, so this is a copy of the default VFS with another clock.

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::sync::OnceLock;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::Rng;
use rusqlite::ffi;
use rusqlite::functions::{Context, FunctionFlags};

use super::Error;
use super::error::Kind;

/// The name under which the VFS is registered.
pub(super) const VFS: &CStr = c"tidemill";

/// Milliseconds from noon of 24 November 4714 BC (Julian day 0) to the Unix epoch.
const JULIAN_EPOCH_MS: i64 = 210_866_760_000_000;

/// The largest blob that `randomblob` makes for a guest.
const RANDOM_BLOB_MAX: i64 = 1 << 20;

thread_local! {
    static DELIVERY: RefCell<Option<(i64, ChaCha12Rng)>> = const { RefCell::new(None) };
}

/// SQL on this thread sees `now` (milliseconds since the Unix epoch) and `rng` until [`leave`].
pub(super) fn enter(now: i64, rng: ChaCha12Rng) {
    DELIVERY.set(Some((now, rng)));
}

/// Ends what [`enter`] began.
pub(super) fn leave() {
    DELIVERY.set(None);
}

/// Registers the VFS, once for the process.
pub(super) fn register() -> Result<(), Error> {
    static DONE: OnceLock<c_int> = OnceLock::new();
    let code = *DONE.get_or_init(|| {
        // SAFETY: `sqlite3_vfs_find` returns the default VFS, which lives as long as the process. The copy is
        // leaked, so it and its name do too; its methods take what they need from `pAppData`, which is copied.
        unsafe {
            let default = ffi::sqlite3_vfs_find(std::ptr::null());
            if default.is_null() {
                return ffi::SQLITE_ERROR;
            }
            let mut vfs = *default;
            vfs.zName = VFS.as_ptr();
            vfs.pNext = std::ptr::null_mut();
            vfs.xCurrentTime = Some(current_time);
            vfs.xCurrentTimeInt64 = Some(current_time_int64);
            ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
        }
    });
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(Error::new(Kind::Store, "register SQLite's file layer")) }
}

/// Overrides SQLite's random functions on one connection.
pub(super) fn override_random(connection: &rusqlite::Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(c"random", 0, flags, |_: &Context<'_>| {
        let mut bytes = [0; 8];
        fill(&mut bytes);
        Ok(i64::from_le_bytes(bytes))
    })?;
    connection.create_scalar_function(c"randomblob", 1, flags, |context: &Context<'_>| {
        let len = context.get::<Option<i64>>(0)?.unwrap_or(1).max(1);
        if len > RANDOM_BLOB_MAX {
            return Err(rusqlite::Error::UserFunctionError(
                format!("randomblob: at most {RANDOM_BLOB_MAX} bytes").into(),
            ));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(1)];
        fill(&mut bytes);
        Ok(bytes)
    })
}

fn fill(bytes: &mut [u8]) {
    DELIVERY.with_borrow_mut(|delivery| match delivery {
        Some((_, rng)) => rng.fill_bytes(bytes),
        // SAFETY: SQLite writes exactly as many bytes as it is told to, into a buffer of that length.
        None => unsafe {
            ffi::sqlite3_randomness(c_int::try_from(bytes.len()).unwrap_or(0), bytes.as_mut_ptr().cast());
        },
    });
}

fn julian_ms() -> i64 {
    let now = DELIVERY.with_borrow(|delivery| delivery.as_ref().map(|(now, _)| *now));
    now.unwrap_or_else(crate::clock::now).saturating_add(JULIAN_EPOCH_MS)
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite passes a valid place for the result.
    unsafe { *out = julian_ms() as f64 / 86_400_000.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn current_time_int64(_: *mut ffi::sqlite3_vfs, out: *mut ffi::sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes a valid place for the result.
    unsafe { *out = julian_ms() };
    ffi::SQLITE_OK
}
