//! Windows: which ones an order is in, and when they close.
//!
//! A window closes once the events have passed its end by the lateness that is allowed: those of every partition that is not silent. What
//! comes later is counted, and is in no sum.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::timers::Timer;
use tidemill_sdk::{Failure, Time, delivery, params, sql};

use crate::{Money, setting};

const SECOND: i64 = 1_000;
/// Windows that one timer closes at most; the next one goes on.
const AT_ONCE: i64 = 500;

/// A window, as a row and as JSON.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Window {
    kind: String,
    starts_at: Time,
    ends_at: Time,
    orders: i64,
    total: Money,
    late: i64,
    closed_at: Option<Time>,
}

/// Adds an order to its windows.
pub(crate) fn add(partition: i32, at: Time, amount: Money) -> Result<(), Failure> {
    let (now, until) = (delivery::now(), sql::query_one::<Time>("SELECT until FROM closing", params![])?);
    sql::execute(
        "INSERT INTO progress VALUES (?1, ?2, ?3) ON CONFLICT (partition)
         DO UPDATE SET event_at = max(event_at, excluded.event_at), seen_at = excluded.seen_at",
        params![partition, at.min(now), now],
    )?;
    let (size, slide) = (setting("window-seconds")? * SECOND, setting("slide-seconds")? * SECOND);
    let slides = (0..).map(|n| last_start(at, slide) - n * slide).take_while(|start| start + size > at.millis());
    let sliding = slides.map(|start| ("sliding", start));
    for (kind, start) in sliding.chain([("tumbling", last_start(at, size))]) {
        let end = Time::from_millis(start + size);
        let (orders, total, late, closed) = if end <= until { (0, 0, 1, Some(now)) } else { (1, amount.0, 0, None) };
        sql::execute(
            "INSERT INTO windows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO UPDATE
             SET orders = orders + excluded.orders, total = total + excluded.total, late = late + excluded.late",
            params![kind, Time::from_millis(start), end, orders, total, late, closed],
        )?;
    }
    Ok(())
}

/// When the last of the windows begins that begin so far apart and hold this time.
fn last_start(at: Time, apart: i64) -> i64 {
    at.millis().div_euclid(apart) * apart
}

/// Closes the windows that are over.
pub(crate) fn close(_: &Timer) -> Result<(), Failure> {
    let (now, idle) = (delivery::now(), before(delivery::now(), "idle-seconds", SECOND)?);
    // Who was away has read nothing for that long, and is about to.
    sql::execute("UPDATE progress SET seen_at = ?1 WHERE (SELECT looked_at FROM closing) <= ?2", params![now, idle])?;
    sql::execute("UPDATE closing SET looked_at = ?1", params![now])?;
    let (partitions, reached): (i64, Option<Time>) =
        sql::query_one("SELECT count(*), min(event_at) FILTER (WHERE seen_at > ?1) FROM progress", params![idle])?;
    if partitions == 0 {
        return Ok(());
    }
    let until = before(reached.unwrap_or(now), "lateness-seconds", SECOND)?;
    let until: Time = sql::query_one("UPDATE closing SET until = max(until, ?1) RETURNING until", params![until])?;
    let mut closed: Vec<Window> = sql::query(
        "UPDATE windows SET closed_at = ?1 WHERE rowid IN
         (SELECT rowid FROM windows WHERE closed_at IS NULL AND ends_at <= ?2 ORDER BY ends_at LIMIT ?3) RETURNING *",
        params![now, until, AT_ONCE],
    )?;
    closed.sort_by_key(|window| window.ends_at);
    for window in closed {
        Event::new("windows", "WINDOW_CLOSED").key(&window.kind).envelope(window).enqueue()?;
    }
    let keep = before(until, "keep-days", 86_400 * SECOND)?;
    sql::execute("DELETE FROM windows WHERE ends_at < ?1 AND closed_at IS NOT NULL", params![keep])?;
    Ok(())
}

/// So much earlier as a setting says, in this unit.
fn before(time: Time, name: &str, unit: i64) -> Result<Time, Failure> {
    Ok(Time::from_millis(time.millis().saturating_sub(setting(name)?.saturating_mul(unit))))
}

/// The newest first, a thousand at most; `?kind=` names one kind.
pub(crate) fn list(request: &Request) -> http::Result {
    let windows: Vec<Window> = sql::query(
        "SELECT * FROM windows WHERE ?1 IS NULL OR kind = ?1 ORDER BY starts_at DESC, kind LIMIT 1000",
        params![request.query_param("kind")],
    )?;
    Ok(Response::ok(&windows))
}
