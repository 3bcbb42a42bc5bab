//! Turns one mailing into a mail for each user: one request becomes many records, keyed by their users and read in parallel.
//!
//! A mail service sends them. While it takes its time for one user, the mails of others go on; those of one user keep their order.
//! What it refuses becomes a dead letter, which `bounce` reads.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Failure, Record, config, handler, outbound, params, sql};

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_mailings.sql"],
    records: send,
    http: {
        "POST /api/mailings" => mail,
        "GET /api/mailings/{id}" => show,
    },
}

/// The most users of one mailing: a delivery may publish so many events (`limits.events`).
const MAX_USERS: usize = 1000;

/// The body of `POST /api/mailings`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    subject: String,
    text: String,
    users: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE")]
enum MailEvent {
    MailRequested(Mail),
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Mail {
    mailing_id: i64,
    user_id: String,
}

#[derive(Deserialize, Serialize)]
struct Mailing {
    id: i64,
    subject: String,
    mails: u32,
    sent: u32,
}

fn mail(request: &Request) -> http::Result {
    let (owner, Draft { subject, text, users }) = (request.user()?, request.json()?);
    if !(1..=MAX_USERS).contains(&users.len()) {
        return Err(Problem::bad_request(format!("users must name 1 to {MAX_USERS} of them, names {}", users.len())));
    }
    let mailing_id: i64 = sql::query_one(
        "INSERT INTO mailings (owner, subject, text, mails) VALUES (?1, ?2, ?3, ?4) RETURNING id",
        params![owner, subject, text, users.len() as u32],
    )?;
    for user_id in users {
        let key = user_id.clone();
        Event::new("mails", "MAIL_REQUESTED").key(key).envelope(Mail { mailing_id, user_id }).enqueue()?;
    }
    Ok(Response::created(format!("/api/mailings/{mailing_id}"), &find(owner, mailing_id)?))
}

/// Asks first, and writes then: the store waits for no service.
fn send(record: &Record) -> Result<(), Failure> {
    let MailEvent::MailRequested(Mail { mailing_id, user_id }) = record.json()?;
    let (subject, text): (String, String) =
        sql::query_one("SELECT subject, text FROM mailings WHERE id = ?1", params![mailing_id])?;
    let service = config::get("service").ok_or_else(|| Failure::unavailable("there is no setting `service`"))?;
    outbound::Request::post(service)
        .json(&json!({ "to": &user_id, "subject": subject, "text": text }))
        .send()?
        .success()?;
    sql::execute("INSERT INTO sent (mailing_id, user_id) VALUES (?1, ?2)", params![mailing_id, user_id])?;
    Ok(())
}

fn show(request: &Request) -> http::Result {
    Ok(Response::ok(&find(request.user()?, request.param("id")?)?))
}

fn find(owner: &str, id: i64) -> Result<Mailing, Problem> {
    let mailing = sql::query_optional(
        "SELECT id, subject, mails, (SELECT count(*) FROM sent WHERE mailing_id = mailings.id) AS sent
         FROM mailings WHERE id = ?1 AND owner = ?2",
        params![id, owner],
    )?;
    mailing.ok_or_else(|| Problem::not_found(format!("there is no mailing {id}")))
}

#[cfg(test)]
mod tests;
