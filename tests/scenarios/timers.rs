//! S2.13: timers fire at the times of their schedules, once for each, whatever happens to the daemon.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tidemill_tests::{Daemon, LONG, Sandbox, Store, eventually};

use crate::handler_tests::Rig;
use crate::rig::{manifest, put_beside};

/// The due times for which a timer has taken effect, in the order in which it has.
fn fired(store: &Store, timer: &str) -> Vec<i64> {
    let rows = store.lines(&format!("SELECT \"offset\" FROM seen WHERE topic = '{timer}' ORDER BY seq"));
    rows.iter().map(|due| due.parse().unwrap()).collect()
}

/// That each follows on the one before, `every` milliseconds later.
fn assert_each(fired: &[i64], every: i64) {
    assert!(fired.iter().all(|due| due % every == 0), "{fired:?}");
    assert!(fired.windows(2).all(|pair| pair[1] == pair[0] + every), "{fired:?}");
}

fn schedule(name: &str, every: &str, missed: &str) -> String {
    format!("[[handler.hostile.schedule]]\nname = \"{name}\"\ninterval = \"{every}\"\nmissed = \"{missed}\"\n")
}

/// A daemon that is killed when it comes to this moment, for the so-manieth time.
fn killed_at(sandbox: &Sandbox, moment: &str) -> Daemon {
    Daemon::launch(sandbox, |command| {
        command.env("TIDEMILL_TEST_KILL_AT", moment);
    })
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// A rig of the hostile handler, whose clock begins at 0, with these settings.
fn rig(sandbox: &Sandbox, schedule: &str, timer: &Value, more: &[&str]) -> Rig {
    let set = [format!("schedule=[{schedule}]"), format!("settings.timer={timer}")];
    let mut arguments = vec!["--now", "0"];
    let settings = set.iter().map(String::as_str).chain(more.iter().copied());
    arguments.extend(settings.flat_map(|setting| ["--set", setting]));
    Rig::start(sandbox, "hostile", &arguments)
}

const SEEN: &str = "SELECT id, \"offset\", attempt FROM seen ORDER BY seq";
const TICK: &str = "{ name = \"tick\", interval = \"10s\" }";

fn advance(rig: &mut Rig, by: &str) {
    rig.ask(&json!({ "do": "advance", "by": by }));
}

#[test]
fn s2_13_a_timer_takes_effect_once_for_each_due_time_whenever_the_daemon_is_killed() {
    let sandbox = Sandbox::with(&["hostile"]);
    let timer = json!({ "do": "publish" }).to_string();
    sandbox
        .write_toml(&format!("[handler.hostile.settings]\ntimer = '{timer}'\n{}", schedule("tick", "200ms", "each")));
    for moment in ["delivered", "committing", "committed", "acknowledged", "switched"] {
        for nth in [1, 4] {
            let mut daemon = killed_at(&sandbox, &format!("{moment}:{nth}"));
            if moment == "switched" && nth > 1 {
                // It goes live once, and runs until it is killed from outside.
                daemon.wait_ready();
                daemon.kill9();
            } else {
                daemon.wait_exit();
            }
        }
    }
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let before = fired(&store, "tick").len();
    eventually(LONG, "it goes on", || fired(&store, "tick").len() > before + 5);
    let client = daemon.client();
    sandbox.remove("hostile.wasm");
    daemon.says(&["handler removed"]);
    store.until("SELECT count(*) FROM tm_outbox", 0);
    let fired = fired(&store, "tick");
    assert_each(&fired, 200);
    assert_eq!(store.count("SELECT last_due FROM tm_timer WHERE next_due = last_due + 200"), *fired.last().unwrap());
    // What was published twice has one id.
    let events = client.consume_all("hostile-out");
    let ids: BTreeSet<_> = events.iter().map(|event| event.header_text("event-id").unwrap()).collect();
    let places: BTreeSet<_> = events.iter().map(|event| event.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((ids.len(), places.len()), (fired.len(), fired.len()));
}

#[test]
fn s2_13_a_pause_is_made_up_for_once_or_for_each_due_time_in_order() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("{}{}", schedule("tick", "200ms", "latest"), schedule("tock", "200ms", "each")));
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(DISTINCT topic) FROM seen", 2);
    daemon.terminate();
    let (stopped, before) = (now(), fired(&store, "tick"));
    eventually(LONG, "some due times pass", || now() > stopped + 2_000);
    let _daemon = Daemon::start(&sandbox);
    eventually(LONG, "it goes on", || fired(&store, "tick").len() > before.len() + 1);
    let ticks = fired(&store, "tick");
    let [last, next] = [before.len() - 1, before.len()].map(|n| ticks[n]);
    assert!(next >= last + 2_000 - 400, "one run for the newest: {ticks:?}");
    eventually(LONG, "every one is made up for", || fired(&store, "tock").last().is_some_and(|due| *due >= next));
    assert_each(&fired(&store, "tock"), 200);
}

#[test]
fn s2_13_a_timer_that_fails_is_tried_again_and_the_next_waits_for_it() {
    let sandbox = Sandbox::with(&["hostile"]);
    let retry = ["retry={ max-attempts = 5, order = \"none\", backoff = { kind = \"fixed\", interval = \"4s\" } }"];
    let timer = json!({ "do": "fail-n", "id": "t", "until": 3 });
    for (missed, expected) in
        [("latest", ["t|5000|3", "t|10000|3", "t|20000|3"]), ("each", ["t|5000|3", "t|10000|3", "t|15000|3"])]
    {
        let schedule = format!("{{ name = \"tick\", interval = \"5s\", missed = \"{missed}\" }}");
        let mut rig = rig(&sandbox, &schedule, &timer, &retry);
        advance(&mut rig, "9s");
        assert_eq!(
            rig.rows("SELECT topic, partition, \"offset\", attempts, due FROM tm_pending"),
            ["tick|-2|5000|2|13000"]
        );
        rig.ask(&json!({ "do": "restart" }));
        advance(&mut rig, "3999ms");
        assert_eq!(rig.rows(SEEN), [] as [&str; 0]);
        // 5, 9, 13 seconds; then 13, 17, 21; then 21, 25, 29.
        advance(&mut rig, "16001ms");
        assert_eq!(rig.rows(SEEN), expected, "{missed}");
    }
}

#[test]
fn s2_13_a_timer_that_is_given_up_on_stays_for_a_person_and_the_schedule_goes_on() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut rig = rig(&sandbox, TICK, &json!({ "do": "fail-n", "until": 99 }), &[]);
    advance(&mut rig, "21s");
    let kept = "SELECT kind, source, topic, partition, key, value, cause FROM tm_fallback ORDER BY id";
    assert_eq!(
        rig.rows(kept),
        [10, 20].map(|at| format!(
            "timer|timer tick@1970-01-01T00:00:{at}.000Z|tick||||retry: attempt 2 fails, 99 will not"
        ))
    );
    assert_eq!(
        rig.rows("SELECT id FROM once ORDER BY id"),
        [10, 20].map(|at| format!("lost tick 1970-01-01T00:00:{at}.000Z: retry: attempt 2 fails, 99 will not")),
        "it was made good"
    );
    assert_eq!(rig.rows("SELECT count(*) FROM tm_outbox"), ["0"], "there is no dead letter");
    assert_eq!(rig.rows("SELECT count(*) FROM tm_pending"), ["0"]);
}

#[test]
fn s2_13_a_timer_that_ends_the_process_is_given_up_on_however_late_it_is() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&schedule("tick", "200ms", "latest"));
    // The first end is not counted: the process before it ended in order.
    for _ in 0..4 {
        killed_at(&sandbox, "delivered:1").wait_exit();
    }
    let _daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM tm_fallback", 1);
    let cause = store.line("SELECT cause FROM tm_fallback WHERE kind = 'timer' AND topic = 'tick'");
    assert!(cause.contains("the daemon has ended 3 times while it ran this"), "{cause}");
    eventually(LONG, "the schedule goes on", || fired(&store, "tick").len() > 2);
    assert_eq!(store.count("SELECT count(*) FROM tm_fallback"), 1);
}

#[test]
fn s2_13_what_is_down_holds_timers_up_and_no_attempt_is_counted() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut rig = rig(&sandbox, TICK, &json!({ "do": "needs", "id": "t", "up": "mail" }), &[]);
    rig.ask(&json!({ "do": "prepare", "sql": "INSERT INTO once (id) VALUES ('mail')" }));
    advance(&mut rig, "45s");
    assert_eq!(rig.rows("SELECT topic, \"offset\", attempts FROM tm_pending"), ["tick|10000|0"]);
    rig.ask(&json!({ "do": "prepare", "sql": "DELETE FROM once" }));
    advance(&mut rig, "60s");
    assert_eq!(rig.rows("SELECT id, \"offset\", attempt FROM seen ORDER BY seq LIMIT 1"), ["t|10000|1"]);
    assert_eq!(rig.rows("SELECT max(\"offset\") FROM seen"), ["100000"], "and the others go on");
    assert_eq!(rig.rows("SELECT count(*) FROM tm_fallback"), ["0"]);
}

/// A timer that passes does not need what records need: it does not let them use their attempts up.
#[test]
fn invariant_5_timers_that_pass_give_up_on_no_record_whose_service_is_down() {
    let sandbox = Sandbox::with(&["hostile"]);
    let schedule = "{ name = \"tick\", interval = \"1s\" }";
    let mut rig = rig(&sandbox, schedule, &json!({ "do": "insert", "id": "t" }), &["circuit.max-wait=2s"]);
    rig.ask(&json!({ "do": "prepare", "sql": "INSERT INTO once (id) VALUES ('mail')" }));
    let record = json!({ "do": "needs", "id": "r", "up": "mail" }).to_string();
    let ended = rig.ask(&json!({ "do": "record", "topic": "hostile-in", "value": record }));
    assert_eq!(ended["ended"], "unavailable");
    advance(&mut rig, "60s");
    assert_eq!(rig.rows("SELECT topic, attempts FROM tm_pending"), ["hostile-in|0"]);
    rig.ask(&json!({ "do": "prepare", "sql": "DELETE FROM once" }));
    advance(&mut rig, "10s");
    assert_eq!(rig.rows("SELECT attempt FROM seen WHERE id = 'r'"), ["1"]);
}

#[test]
fn invariant_7_a_timer_draws_the_same_for_its_name_and_due_time() {
    let sandbox = Sandbox::with(&["hostile"]);
    let drawn = "SELECT id, attempt, now, random, hash_seed, event_id, next_id, sql_random FROM drawn ORDER BY rowid";
    let timer = json!({ "do": "clock" });
    let mut once = rig(&sandbox, TICK, &timer, &[]);
    advance(&mut once, "30s");
    let data = sandbox.root().join("rig").display().to_string();
    let set = [format!("schedule=[{TICK}]"), format!("settings.timer={timer}")];
    let arguments = ["--now", "0", "--data", &data, "--set", &set[0], "--set", &set[1]];
    for moment in ["delivered", "committing", "committed"] {
        let mut killed = Rig::start(&sandbox, "hostile", &arguments);
        killed.ask(&json!({ "do": "kill-at", "moment": moment }));
        assert_eq!(killed.try_ask(&json!({ "do": "advance", "by": "10s" })), None, "{moment}");
        drop(killed);
        // It goes on at the time at which it was killed.
        Rig::start(&sandbox, "hostile", &arguments);
    }
    let mut again = Rig::start(&sandbox, "hostile", &arguments);
    let rows = again.rows(drawn);
    assert_eq!((rows.len(), &rows), (3, &once.rows(drawn)));
    let random: BTreeSet<_> = again.rows("SELECT random FROM drawn").into_iter().collect();
    assert_eq!(random.len(), 3);
}

#[test]
fn s2_13_a_changed_schedule_goes_on_from_now_and_nothing_fires_twice() {
    let sandbox = Sandbox::with(&["hostile"]);
    let version = |n: u32, schedule: &str| {
        let text = format!("{}[settings]\nversion = \"v{n}\"\n{schedule}", manifest("hostile", &[]));
        put_beside(&sandbox, "hostile.toml", &text);
    };
    let every = |millis: u32| format!("[[schedule]]\nname = \"tick\"\ninterval = \"{millis}ms\"\nmissed = \"each\"\n");
    version(1, &every(100));
    let daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    let seen = |n: u32| store.until(&format!("SELECT count(*) > 3 FROM seen WHERE version = 'v{n}'"), 1);
    seen(1);
    version(2, &every(100));
    seen(2);
    version(3, &every(170));
    seen(3);
    version(4, "");
    store.until("SELECT count(*) FROM tm_timer WHERE next_due IS NULL", 1);
    let stopped = fired(&store, "tick");
    version(5, &every(100));
    seen(5);
    drop(daemon);
    let ticks = fired(&store, "tick");
    assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");
    let of = |version: &str| {
        let sql = format!("SELECT \"offset\" FROM seen WHERE version IN ({version}) ORDER BY seq");
        store.lines(&sql).iter().map(|due| due.parse().unwrap()).collect::<Vec<i64>>()
    };
    assert_each(&of("'v1', 'v2'"), 100);
    assert_each(&of("'v3'"), 170);
    assert_each(&of("'v5'"), 100);
    assert_eq!(of("'v1', 'v2', 'v3', 'v4'"), stopped);
}

#[test]
fn s2_13_a_timer_whose_schedule_is_gone_is_still_tried_again() {
    let sandbox = Sandbox::with(&["hostile"]);
    let data = sandbox.root().join("rig").display().to_string();
    let timer = format!("settings.timer={}", json!({ "do": "fail-n", "id": "t", "until": 2 }));
    let schedule = format!("schedule=[{TICK}]");
    let common = ["--now", "0", "--data", &data, "--set", "retry.backoff.interval=5s", "--set", &timer];
    let mut rig = Rig::start(&sandbox, "hostile", &[&common[..], &["--set", &schedule]].concat());
    advance(&mut rig, "12s");
    drop(rig);
    let mut rig = Rig::start(&sandbox, "hostile", &common);
    advance(&mut rig, "60s");
    assert_eq!(rig.rows(SEEN), ["t|10000|2"]);
    assert_eq!(rig.rows("SELECT name, schedule, next_due, last_due FROM tm_timer"), ["tick|interval 10s||10000"]);
}

#[test]
fn s2_13_a_schedule_that_cannot_be_kept_is_refused_with_its_line() {
    let sandbox = Sandbox::with(&["order"]);
    let refused = |toml: &str| {
        sandbox.write_toml(toml);
        let out = sandbox.tidemill(&["check"]);
        assert!(!out.status.success(), "{toml}");
        String::from_utf8(out.stderr).unwrap()
    };
    let schedule = |keys: &str| format!("[[handler.order.schedule]]\nname = \"tick\"\n{keys}\n");
    for (keys, wrong) in [
        ("interval = \"1s\"", "the manifest has a `[[schedule]]`, but the component does not export `timers`"),
        ("", "`handler.order.schedule.cron`: write either this, like \"*/5 * * * *\", or `interval`"),
        ("cron = \"* * * * *\"\ninterval = \"1s\"", "write either this"),
        ("cron = \"61 * * * *\"", "tidemill.toml:3: `handler.order.schedule.cron`: \"61\" is no minute"),
        ("cron = \"0 0 * * *\"\ntime-zone = \"Mars/Base\"", "\"Mars/Base\" is no time zone"),
        ("interval = \"1s\"\ntime-zone = \"UTC\"", "goes with `cron` only"),
        ("interval = \"1ms\"", "is out of range: from \"100ms\""),
        ("interval = \"1s\"\nmissed = \"some\"", "valid is \"latest\" or \"each\""),
        (
            "interval = \"1s\"\n[[handler.order.schedule]]\nname = \"tick\"\ninterval = \"2s\"",
            "\"tick\" stands here twice",
        ),
    ] {
        let said = refused(&schedule(keys));
        assert!(said.contains(wrong), "{keys}: {said}");
    }
}

#[test]
fn s2_13_schedules_are_shown_and_timers_without_one_are_told() {
    let sandbox = Sandbox::with(&["hostile"]);
    let inspect = || {
        let out = sandbox.tidemill(&["inspect", "handlers/hostile.wasm"]);
        String::from_utf8(out.stdout).unwrap().lines().find(|line| line.starts_with("schedules")).unwrap().to_owned()
    };
    assert!(inspect().contains("none, though it exports `timers`: add a `[[schedule]]`"), "{}", inspect());
    sandbox.write_toml(
        "[[handler.hostile.schedule]]\nname = \"tick\"\ncron = \"*/5  * * * MON\"\ntime-zone = \"asia/seoul\"\n",
    );
    assert_eq!(inspect(), "schedules    tick: cron */5 * * * MON Asia/Seoul, missed latest");
    let daemon = Daemon::start(&sandbox);
    let line = Store::open(&sandbox, "hostile").line("SELECT name, schedule FROM tm_timer");
    assert_eq!(line, "tick|cron */5 * * * MON Asia/Seoul");
    drop(daemon);
    assert!(String::from_utf8(sandbox.tidemill(&["check"]).stdout).unwrap().contains("schedule  hostile, tick: cron "));
}
