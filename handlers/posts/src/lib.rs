//! Takes posts over HTTP and publishes POST_CREATED with each, in version 2.
//!
//! The post and its event commit together, so the caller's answer says that both are there, whatever has become of Kafka.

use serde::{Deserialize, Serialize};
use tidemill_sdk::http::{self, Problem, Request, Response};
use tidemill_sdk::publisher::Event;
use tidemill_sdk::{Time, delivery, handler, params, sql};

const TITLE_MAX: usize = 200;

handler! {
    manifest: "handler.toml",
    migrations: ["migrations/0001_posts.sql"],
    http: {
        "POST /api/posts" => create,
        "GET /api/posts" => newest,
        "GET /api/posts/{id}" => show,
    },
}

/// The body of `POST /api/posts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    title: String,
    content: String,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all(serialize = "camelCase"))]
struct Post {
    id: i64,
    member_id: String,
    title: String,
    content: String,
    created_at: Time,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PostCreated<'a> {
    version: u32,
    event_id: String,
    event_type: &'a str,
    occurred_at: Time,
    member: Member<'a>,
    post: Created<'a>,
}

#[derive(Serialize)]
struct Member<'a> {
    id: &'a str,
}

#[derive(Serialize)]
struct Created<'a> {
    id: i64,
    title: &'a str,
}

fn create(request: &Request) -> http::Result {
    let (member, Draft { title, content }) = (request.user()?, request.json()?);
    if title.trim().is_empty() || title.chars().count() > TITLE_MAX {
        return Err(Problem::bad_request(format!("title must have 1 to {TITLE_MAX} characters")));
    }
    let post: Post = sql::query_one(
        "INSERT INTO posts (member_id, title, content, created_at) VALUES (?1, ?2, ?3, ?4) RETURNING *",
        params![member, title, content, delivery::now()],
    )?;
    // There is one event for each post, so the key is also what a duplicate is known by.
    Event::new("activity", "POST_CREATED")
        .key(format!("post-{}", post.id))
        .json_with_id(|event_id| PostCreated {
            version: 2,
            event_id: event_id.to_owned(),
            event_type: "POST_CREATED",
            occurred_at: post.created_at,
            member: Member { id: member },
            post: Created { id: post.id, title: &post.title },
        })
        .enqueue()?;
    Ok(Response::created(format!("/api/posts/{}", post.id), &post))
}

fn newest(_: &Request) -> http::Result {
    let posts: Vec<Post> = sql::query("SELECT * FROM posts ORDER BY id DESC LIMIT 100", params![])?;
    Ok(Response::ok(&posts))
}

fn show(request: &Request) -> http::Result {
    let id: i64 = request.param("id")?;
    let post: Option<Post> = sql::query_optional("SELECT * FROM posts WHERE id = ?1", params![id])?;
    Ok(Response::ok(&post.ok_or_else(|| Problem::not_found(format!("there is no post {id}")))?))
}

#[cfg(test)]
mod tests;
