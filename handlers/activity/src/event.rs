//! The versions of POST_CREATED, and what all of them say.
//!
//! Version 1, whose events name none, is flat; version 2 has parts, and the post's title. Another one is refused by its number:
//! what it means cannot be known here.

use serde::Deserialize;
use tidemill_sdk::{Failure, Record, Time, json};

/// What a member has done.
pub(crate) struct Activity {
    pub(crate) member: String,
    pub(crate) what: &'static str,
    pub(crate) target: i64,
    pub(crate) title: Option<String>,
    pub(crate) at: Time,
}

/// What every version has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(default = "first")]
    version: u32,
    event_type: String,
}

fn first() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V1 {
    #[serde(deserialize_with = "json::text")]
    member_id: String,
    post_id: i64,
    created_at: Time,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct V2 {
    member: Member,
    post: Post,
    occurred_at: Time,
}

#[derive(Deserialize)]
struct Member {
    #[serde(deserialize_with = "json::text")]
    id: String,
}

#[derive(Deserialize)]
struct Post {
    id: i64,
    title: String,
}

/// What an event says, in whichever version.
pub(crate) fn read(record: &Record) -> Result<Activity, Failure> {
    let Head { version, event_type } = record.json()?;
    if event_type != "POST_CREATED" {
        return Err(Failure::reject(format!("events of type `{event_type}` are no activity")));
    }
    let what = "POST_CREATED";
    match version {
        1 => {
            let V1 { member_id: member, post_id: target, created_at: at } = record.json()?;
            Ok(Activity { member, what, target, title: None, at })
        }
        2 => {
            let V2 { member, post, occurred_at: at } = record.json()?;
            Ok(Activity { member: member.id, what, target: post.id, title: Some(post.title), at })
        }
        _ => Err(Failure::reject(format!("version {version} of {what} is not known here: 1 and 2 are"))),
    }
}
