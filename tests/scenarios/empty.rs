//! False greens: a scenario whose outcome a handler decides must fail when that handler does nothing.
//!
//! The map names the handlers. For each of them the scenario runs once more, as a process of its own, in which that handler has its
//! manifest and its tables, answers `ok` and 204, and does nothing else. `make proof` runs all of them, `make test` a few.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tidemill_tests::component::doing_nothing;
use tidemill_tests::sandbox::{EMPTY, built};
use tidemill_tests::{Daemon, Out, Sandbox, Store, token};

use crate::map;
use crate::rig::ORDER;

/// How many run at once; most of them wait for what never comes.
const AT_ONCE: usize = 8;
/// Those that `make test` runs, by the beginnings of their names: they fail soon.
const SHORT: [&str; 5] = ["s0_11_mails", "s1_1_an_event", "s2_5_every", "s2_11_an_order", "s4_1_a_post"];

/// One scenario without one handler.
struct Run {
    row: String,
    test: String,
    handler: String,
}

/// Why it failed, or what is wrong with that.
fn fails(run: &Run) -> Result<String, String> {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &run.test])
        .env(EMPTY, &run.handler)
        .stdin(Stdio::null())
        .output()
        .expect("run a scenario");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if !said.contains("running 1 test") {
        return Err(format!("it was not run: {said}"));
    }
    if out.status.success() {
        return Err("IT PASSES".to_owned());
    }
    // A handler that never ran shows nothing.
    if said.contains("handler refused") {
        return Err(format!("the empty handler was refused: {said}"));
    }
    let mut why = said.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    let first = why.next().ok_or_else(|| format!("it failed without a word: {said}"))?;
    let sides = why.take_while(|line| line.starts_with("  left: ") || line.starts_with(" right: "));
    Ok(sides.fold(first.to_owned(), |all, side| format!("{all} {}", side.trim()).chars().take(180).collect()))
}

#[test]
fn a_scenario_fails_when_the_handler_that_decides_its_outcome_does_nothing() {
    let full = std::env::var("TIDEMILL_PROOF").is_ok_and(|value| value == "full");
    let mut runs = Vec::new();
    for line in map::lines() {
        let chosen = |test: &str| full || SHORT.iter().any(|beginning| test.starts_with(beginning));
        let Some((file, test)) = line.test.filter(|(_, test)| chosen(test)) else { continue };
        let test = format!("{}::{test}", file.trim_end_matches(".rs"));
        for handler in line.handlers {
            // A test may be of several rows.
            if !runs.iter().any(|run: &Run| run.test == test && run.handler == handler) {
                runs.push(Run { row: line.row.clone(), test: test.clone(), handler });
            }
        }
    }
    assert!(runs.len() > SHORT.len(), "the map marks only {}", runs.len());
    let (left, done) = (Mutex::new(runs.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let next = || left.lock().unwrap().next();
                while let Some((at, run)) = next() {
                    let began = Instant::now();
                    let ended = fails(run);
                    done.lock().unwrap().push((at, ended, began.elapsed()));
                }
            });
        }
    });
    let mut done: Vec<(usize, Result<String, String>, Duration)> = done.into_inner().unwrap();
    done.sort_by_key(|(at, ..)| *at);
    let told: Vec<String> = done
        .iter()
        .map(|(at, ended, took)| {
            let (Run { row, test, handler }, took) = (&runs[*at], took.as_secs());
            let why = ended.as_ref().unwrap_or_else(|wrong| wrong);
            format!("{row:<6} {handler:<13} {took:>3} s  {test}\n       {why}")
        })
        .collect();
    tell(&told.join("\n"));
    let wrong: Vec<&String> =
        done.iter().zip(&told).filter(|((_, ended, _), _)| ended.is_err()).map(|(_, told)| told).collect();
    assert!(wrong.is_empty(), "{} of {} do not fail without their handler:\n{wrong:#?}", wrong.len(), runs.len());
}

#[allow(clippy::print_stdout, reason = "a long test says what it has seen")]
fn tell(text: &str) {
    println!("{text}");
}

/// The empty handler is one that runs: it is live, takes records and requests, and leaves nothing behind.
#[test]
fn a_handler_that_does_nothing_runs_all_the_same() {
    let sandbox = Sandbox::new();
    for name in ["order", "notification"] {
        sandbox.deploy_bytes(&format!("{name}.wasm"), &doing_nothing(&built(name)));
    }
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    assert!(daemon.post("/api/orders", &user, ORDER).expect_status(204).body.is_empty());
    daemon.get("/api/notifications", &user).expect_status(204);
    let client = daemon.client();
    let event = r#"{"eventId":"e1","eventType":"ORDER_PAID","orderId":1,"userId":"7","totalAmount":"1.00"}"#;
    client.produce_all("order-events", [event, "no JSON"].map(|value| Out::new(value).partition(0)));
    let store = Store::open(&sandbox, "notification");
    store.until("SELECT coalesce(sum(next_offset), 0) FROM tm_offset", 2);
    assert_eq!(store.count("SELECT count(*) FROM notifications"), 0);
    assert_eq!(store.count("SELECT (SELECT count(*) FROM tm_pending) + (SELECT count(*) FROM tm_outbox)"), 0);
    assert_eq!(Store::open(&sandbox, "order").count("SELECT count(*) FROM orders"), 0);
    assert_eq!(daemon.find(&["ERROR"]), None);
}
