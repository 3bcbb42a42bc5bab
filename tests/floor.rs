//! The floor below which a change may not land: how often a delivery allocates memory, beside the best that was
//! committed, and how much of it a daemon at rest keeps. Both are the same on every machine, where times are not.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and says what it has found")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tidemill::deploy::manifest::Instances;
use tidemill_tests::dispatch::Dispatch;
use tidemill_tests::{Daemon, LONG, Sandbox, eventually};

/// Allocations of a delivery that writes a row and enqueues an event, with a fresh and with a reused instance. What a
/// change saves is noted here.
const BEST: [(Instances, u64); 2] = [(Instances::Fresh, 63), (Instances::Reused, 34)];
/// Deliveries before any that counts: statements are prepared, and vectors have grown.
const WARM_UP: u64 = 1_000;
const DELIVERIES: u64 = 5_000;

/// Resident memory of a daemon with two handlers that it has just compiled, in KiB: 32 MiB.
const AT_REST: u64 = 40 << 10;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn order(n: u64) -> (String, String) {
    let user = format!("user-{:03}", n % 1_000);
    let value = format!(r#"{{"eventId":"e-{n:08}","orderId":{n},"userId":"{user}","totalAmount":"10.00"}}"#);
    (user, value)
}

#[test]
fn a_delivery_allocates_no_more_than_the_committed_best_and_a_tenth() {
    for (instances, best) in BEST {
        let folder = tempfile::tempdir().unwrap();
        let mut dispatch = Dispatch::new(folder.path(), "bench", instances);
        let orders: Vec<_> = (0..WARM_UP + DELIVERIES).map(order).collect();
        let mut before = 0;
        for (n, (key, value)) in (0..).zip(orders) {
            if n == WARM_UP {
                before = ALLOCATIONS.get();
            }
            dispatch.deliver(key, value);
        }
        let each = (ALLOCATIONS.get() - before) as f64 / DELIVERIES as f64;
        println!("{instances:?}: {each:.1} allocations, the best was {best}");
        assert!(each <= best as f64 * 1.1, "{instances:?}: {each:.1} allocations for each delivery, and {best} before");
        assert!(
            each >= best as f64 * 0.9,
            "{instances:?}: {each:.1} allocations for each delivery: note it as the best"
        );
    }
}

#[test]
fn a_daemon_at_rest_keeps_less_than_40_mib() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&sandbox);
    let resident = || -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    eventually(LONG, "what compiling took is given back", || resident() < AT_REST);
    println!("at rest: {} KiB", resident());
}
