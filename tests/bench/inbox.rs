//! What the inbox costs when it is large: the host's own, beside one table for all ids, and one that is cut into parts by time.
//!
//! SQLite alone, with the host's tables and settings (`synchronous = FULL`, groups of 500), so that a layout can be
//! judged by itself. Each record looks its id up and adds it; then the oldest ids are purged in several ways.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rusqlite::{Connection, OptionalExtension as _, params};
use tidemill::ledger::inbox::Inbox;
use tidemill::ledger::schema;

use crate::process;
use crate::report::{Report, percentile, say};

const GROUP: u64 = 500;
const SLICE: i64 = 1_000;
const MEASURED: u64 = 100_000;

const PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 4000;
PRAGMA journal_size_limit = 67108864;";
const WORK: &str = "PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;";
const FILL: &str = "PRAGMA synchronous = OFF; PRAGMA cache_size = -2000000;";

const ONE: &str = "CREATE TABLE tm_inbox (handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL,
    PRIMARY KEY (handler, event_id)) WITHOUT ROWID;";
const BY_TIME: &str = "CREATE TABLE tm_inbox (handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL,
    PRIMARY KEY (handler, event_id)) WITHOUT ROWID;
    CREATE INDEX tm_inbox_done ON tm_inbox (done_at);";
const PARTS: &str = "CREATE TABLE tm_inbox_part (part INTEGER PRIMARY KEY, begun INTEGER NOT NULL);
    CREATE TABLE tm_inbox (part INTEGER NOT NULL, handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL,
    PRIMARY KEY (part, handler, event_id)) WITHOUT ROWID;";

const OLDEST: &str = "DELETE FROM tm_inbox WHERE (handler, event_id) IN
    (SELECT handler, event_id FROM tm_inbox WHERE done_at < ?1 LIMIT ?2)";
const BOUND: &str =
    "SELECT handler, event_id FROM tm_inbox WHERE part = 0 ORDER BY handler, event_id LIMIT 1 OFFSET ?1";
const UP_TO: &str = "DELETE FROM tm_inbox WHERE part = 0 AND (handler, event_id) < (?1, ?2)";

/// How ids are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One table. It cannot be purged by time.
    One,
    /// One table with an index by time.
    ByTime,
    /// So many parts, each for a span of time.
    Parts(u64),
}

impl Layout {
    fn parts(self) -> u64 {
        if let Self::Parts(parts) = self { parts } else { 1 }
    }

    fn name(self) -> String {
        match self {
            Self::One => "one table".into(),
            Self::ByTime => "one table, indexed by time".into(),
            Self::Parts(parts) => format!("{parts} parts"),
        }
    }
}

/// Measures every layout with `ids` ids there already.
pub(crate) fn measure(ids: u64, report: &mut Report) -> Result<()> {
    report.section(&format!("inbox with {ids} ids"));
    for (ids, ordered) in [(ids / 100, false), (ids / 10, false), (ids, false), (ids, true)] {
        hosts(ids, ordered, report).context("measure the host's inbox")?;
    }
    for ordered in [false, true] {
        for layout in [Layout::One, Layout::ByTime, Layout::Parts(2), Layout::Parts(3), Layout::Parts(4)] {
            run(ids, layout, ordered, report).context("measure the inbox")?;
        }
    }
    Ok(())
}

/// The host's own code, with as many ids there already.
fn hosts(ids: u64, ordered: bool, report: &mut Report) -> Result<()> {
    let name = format!("the host's, with {ids} {} ids", if ordered { "ordered" } else { "random" });
    let folder = tempfile::tempdir().context("make a folder")?;
    let path = folder.path().join("inbox.db");
    let connection = tidemill::store::Connection::open_writer(&path, true)?;
    let secret = schema::prepare(&connection)?.secret;
    let mut inbox = Inbox::open(&connection, &secret)?;
    let mut longest = Duration::ZERO;
    let mut group = |inbox: &mut Inbox, of: std::ops::Range<u64>| {
        connection.batch("BEGIN IMMEDIATE")?;
        let turn = Instant::now();
        if inbox.is_full(0, None) {
            inbox.turn(&connection, 0)?;
            longest = longest.max(turn.elapsed());
        }
        for n in of {
            let id = id(n, ordered);
            ensure!(!inbox.contains(&connection, "notification", &id)?, "{id} is there already");
            inbox.add(&connection, "notification", &id, n as i64)?;
        }
        connection.batch("COMMIT")?;
        inbox.settle();
        Ok(())
    };
    (0..ids).step_by(50_000).try_for_each(|n| group(&mut inbox, n..ids.min(n + 50_000)))?;
    let (began, busy) = (Instant::now(), process::own_thread_micros()?);
    let (first, groups) = (ids, MEASURED / GROUP);
    (0..groups).try_for_each(|n| group(&mut inbox, first + n * GROUP..first + (n + 1) * GROUP))?;
    let each = began.elapsed().as_secs_f64() * 1e6 / MEASURED as f64;
    let busy = (process::own_thread_micros()? - busy) / MEASURED as f64;
    let figure = format!("{each:.1} us, {busy:.1} us of them busy; the longest seal {longest:.1?}");
    say(&format!("inbox: {name}: {figure}"));
    report.line(&format!("{name}: look up and add"), figure, [each, busy].to_vec());
    let open = Instant::now();
    drop(Inbox::open(&connection, &secret)?);
    report.line(&format!("{name}: open the store"), format!("{:.1?}", open.elapsed()), open.elapsed().as_secs_f64());
    Ok(())
}

fn run(ids: u64, layout: Layout, ordered: bool, report: &mut Report) -> Result<()> {
    let name = format!("{} ids, {}", if ordered { "ordered" } else { "random" }, layout.name());
    say(&format!("inbox: {name}"));
    let folder = tempfile::tempdir().context("make a folder")?;
    let mut db = Connection::open(folder.path().join("inbox.db")).context("open a database")?;
    db.execute_batch(PRAGMAS)?;
    db.execute_batch(match layout {
        Layout::One => ONE,
        Layout::ByTime => BY_TIME,
        Layout::Parts(_) => PARTS,
    })?;
    fill(&mut db, ids, layout, ordered)?;
    db.execute_batch(WORK)?;

    let (began, busy) = (Instant::now(), process::own_thread_micros()?);
    for group in 0..MEASURED / GROUP {
        let transaction = db.transaction()?;
        for n in ids + group * GROUP..ids + (group + 1) * GROUP {
            let id = id(n, ordered);
            ensure!(!contains(&transaction, &id, layout)?, "{id} is there already");
            add(&transaction, &id, layout.parts() - 1, n, layout)?;
        }
        transaction.commit()?;
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / MEASURED as f64;
    let busy = (process::own_thread_micros()? - busy) / MEASURED as f64;
    report.line(
        &format!("{name}: look up and add"),
        format!("{each:.1} us, {busy:.1} us of them busy"),
        [each, busy].to_vec(),
    );
    if layout == Layout::One {
        return Ok(());
    }

    let busy = process::own_thread_micros()?;
    let pauses = purge(&db, ids, layout)?;
    let per = (process::own_thread_micros()? - busy) / (pauses.len() as f64 * SLICE as f64);
    let [p50, p99] = [0.5, 0.99].map(|share| percentile(&pauses, share));
    let figure = format!("{per:.2} us busy for an id; a slice of {SLICE}: {p50:.1} ms p50, {p99:.1} ms p99");
    report.line(&format!("{name}: purge the oldest"), figure, per);
    if layout != Layout::ByTime {
        let began = Instant::now();
        let gone = db.execute("DELETE FROM tm_inbox WHERE part = 1", [])?;
        let took = began.elapsed();
        report.line(&format!("{name}: a part at once"), format!("{gone} ids in {took:.1?}"), took.as_secs_f64());
    }
    Ok(())
}

/// Deletes the oldest quarter, or the oldest part, in slices; how long each took, in milliseconds.
fn purge(db: &Connection, ids: u64, layout: Layout) -> Result<Vec<f64>> {
    let mut pauses = Vec::new();
    loop {
        let slice = Instant::now();
        let gone = match layout {
            Layout::Parts(_) => in_order(db)?,
            _ => db.prepare_cached(OLDEST)?.execute(params![(ids / 4) as i64, SLICE])?,
        };
        if gone == 0 {
            return Ok(pauses);
        }
        pauses.push(slice.elapsed().as_secs_f64() * 1e3);
    }
}

fn in_order(db: &Connection) -> Result<usize> {
    let bound = db.prepare_cached(BOUND)?.query_row([SLICE], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let bound: Option<(String, String)> = bound;
    Ok(match bound {
        Some((handler, id)) => db.prepare_cached(UP_TO)?.execute(params![handler, id])?,
        None => db.prepare_cached("DELETE FROM tm_inbox WHERE part = 0")?.execute([])?,
    })
}

fn fill(db: &mut Connection, ids: u64, layout: Layout, ordered: bool) -> Result<()> {
    db.execute_batch(FILL)?;
    for part in 0..layout.parts() {
        let transaction = db.transaction()?;
        if let Layout::Parts(_) = layout {
            transaction.execute("INSERT INTO tm_inbox_part VALUES (?1, 0)", [part as i64])?;
        }
        for n in ids * part / layout.parts()..ids * (part + 1) / layout.parts() {
            add(&transaction, &id(n, ordered), part, n, layout)?;
        }
        transaction.commit()?;
    }
    let _: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    Ok(())
}

fn contains(db: &Connection, id: &str, layout: Layout) -> Result<bool> {
    let sql = match layout {
        Layout::Parts(_) => {
            "SELECT 1 FROM tm_inbox WHERE part IN (SELECT part FROM tm_inbox_part) AND handler = ?1 AND event_id = ?2"
        }
        _ => "SELECT 1 FROM tm_inbox WHERE handler = ?1 AND event_id = ?2",
    };
    Ok(db.prepare_cached(sql)?.exists(params!["notification", id])?)
}

fn add(db: &Connection, id: &str, part: u64, now: u64, layout: Layout) -> Result<()> {
    match layout {
        Layout::Parts(_) => db
            .prepare_cached("INSERT INTO tm_inbox (part, handler, event_id, done_at) VALUES (?4, ?1, ?2, ?3)")?
            .execute(params!["notification", id, now as i64, part as i64]),
        _ => db
            .prepare_cached("INSERT INTO tm_inbox (handler, event_id, done_at) VALUES (?1, ?2, ?3)")?
            .execute(params!["notification", id, now as i64]),
    }?;
    Ok(())
}

/// The n-th id: a UUID as text.
fn id(n: u64, ordered: bool) -> String {
    // SplitMix64: well mixed, and the same in every run.
    let mix = |seed: u64| {
        let z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (high, low) = (if ordered { (0x0190_0000_0000 + n) << 16 } else { mix(2 * n + 1) }, mix(2 * n + 2));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}
