//! librdkafka's timed waits, by a clock that nobody sets.
//!
//! It waits with C11's `cnd_timedwait`, which in glibc goes by the wall clock: one that is set back by an hour would make a
//! wait of a second last for an hour, heartbeats included (librdkafka #2145). The function here takes that one's place in the
//! daemon, for whatever is linked into it. It changes nothing but the clock.

use std::ffi::c_int;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libc::{pthread_cond_t, pthread_mutex_t, timespec};

/// glibc's `thrd_success`, `thrd_error` and `thrd_timedout`.
const SUCCESS: c_int = 0;
const ERROR: c_int = 2;
const TIMED_OUT: c_int = 4;

unsafe extern "C" {
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: libc::clockid_t,
        until: *const timespec,
    ) -> c_int;
}

/// C11's, with the same arguments and results.
///
/// # Safety
/// As for C's: the condition and the mutex are initialised, the mutex is held by this thread, and `until` is a time.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cnd_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    until: *const timespec,
) -> c_int {
    // SAFETY: the caller passes a valid time.
    let until = unsafe { *until };
    let nanos = |time: timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = nanos(until) - i128::try_from(wall.as_nanos()).unwrap_or(i128::MAX);
    let left = Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX));
    let mut at = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid for the call, and every system has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut at) };
    let nanos = i64::from(left.subsec_nanos()) + at.tv_nsec;
    at.tv_sec = at
        .tv_sec
        .saturating_add(i64::try_from(left.as_secs()).unwrap_or(i64::MAX))
        .saturating_add(nanos / 1_000_000_000);
    at.tv_nsec = nanos % 1_000_000_000;
    // SAFETY: glibc's `cnd_t` and `mtx_t` are these types, and its own function passes them on in the same way.
    match unsafe { pthread_cond_clockwait(condition, mutex, libc::CLOCK_MONOTONIC, &raw const at) } {
        0 => SUCCESS,
        libc::ETIMEDOUT => TIMED_OUT,
        _ => ERROR,
    }
}
