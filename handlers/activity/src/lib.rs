//! Keeps what members have done: one row for each thing, however often and by which way its event comes.
//!
//! From the topics of the days, or by HTTP with the same body. Events of two versions come side by side.

mod event;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::{Failure, Record, Time, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_activities.sql"],
    records: receive,
    http: {
        "POST /api/activity" => accept,
        "GET /api/activities" => mine,
    },
}

/// An activity as its member sees it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Shown {
    r#type: String,
    target_id: i64,
    title: Option<String>,
    occurred_at: Time,
}

/// What came before and happened later stays.
fn receive(record: &Record) -> Result<(), Failure> {
    let activity = event::read(record)?;
    sql::execute(
        "INSERT INTO activities (member_id, type, target_id, title, occurred_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (member_id, type, target_id) DO UPDATE
         SET title = coalesce(excluded.title, title), occurred_at = excluded.occurred_at
         WHERE excluded.occurred_at >= occurred_at",
        params![activity.member, activity.what, activity.target, activity.title, activity.at],
    )?;
    Ok(())
}

/// The same event as the body of a request.
fn accept(request: &Request) -> http::Result {
    request.json::<IgnoredAny>()?;
    receive(&Record { value: Some(request.body.clone()), ..Record::default() })?;
    Ok(Response::new(204))
}

/// The newest first.
fn mine(request: &Request) -> http::Result {
    let activities: Vec<Shown> = sql::query(
        "SELECT type, target_id, title, occurred_at FROM activities WHERE member_id = ?1
         ORDER BY occurred_at DESC, target_id DESC LIMIT 1000",
        params![request.user()?],
    )?;
    Ok(Response::ok(&activities))
}

#[cfg(test)]
mod tests;
