//! Notes mails that could not be sent, and why: a consumer of dead letters.
//!
//! A dead letter is the record unchanged, with headers that say where it came from and what went wrong.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Request, Response};
use tidemill_sdk::{Failure, Record, Time, delivery, handler, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_bounces.sql"],
    records: note,
    http: { "GET /api/bounces" => mine },
}

#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
enum MailEvent {
    MailRequested { mailing_id: i64, user_id: String },
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Bounce {
    mailing_id: i64,
    reason: String,
    source: String,
    at: Time,
}

fn note(record: &Record) -> Result<(), Failure> {
    let MailEvent::MailRequested { mailing_id, user_id } = record.json()?;
    let reason = record.header_str("kafka_dlt-exception-message");
    // One that was sent again and has failed again is the same bounce.
    sql::execute(
        "INSERT INTO bounces (mailing_id, user_id, reason, source, at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET reason = excluded.reason, source = excluded.source, at = excluded.at",
        params![mailing_id, user_id, reason.unwrap_or("nobody says why"), origin(record)?, delivery::now()],
    )?;
    Ok(())
}

/// Where the record stood before it was given up on. Kafka's numbers are big-endian in these headers.
fn origin(record: &Record) -> Result<String, Failure> {
    let read = || {
        let topic = record.header_str("kafka_dlt-original-topic")?;
        let partition = i32::from_be_bytes(record.header("kafka_dlt-original-partition")?.try_into().ok()?);
        let offset = i64::from_be_bytes(record.header("kafka_dlt-original-offset")?.try_into().ok()?);
        Some(format!("{topic}/{partition}@{offset}"))
    };
    read().ok_or_else(|| Failure::reject("the headers do not say where the dead letter comes from"))
}

/// The newest first.
fn mine(request: &Request) -> http::Result {
    let bounces: Vec<Bounce> = sql::query(
        "SELECT mailing_id, reason, source, at FROM bounces WHERE user_id = ?1 ORDER BY at DESC LIMIT 1000",
        params![request.user()?],
    )?;
    Ok(Response::ok(&bounces))
}

#[cfg(test)]
mod tests;
