//! A function for each type of event, and for each version of its schema.
//!
//! Which event a record carries, and in which version, is said where `envelope`, `event-type` and `event-version` in `handler.toml` say. An
//! event for which there is no function is rejected, and so a dead letter that says why: nothing is guessed, and nothing is passed over.
//!
//! ```
//! use tidemill_sdk::{Failure, Record, params, sql};
//!
//! // handler.toml:   name = "feed"
//! //                 topics = ["posts"]
//! //                 envelope = "payload"
//! # const MANIFEST: &str = "name = \"feed\"\ntopics = [\"posts\"]\nenvelope = \"payload\"";
//! //
//! // handler! {
//! //     manifest: "handler.toml",
//! //     events: {
//! //         "POST_CREATED" version 1 => created,
//! //         "POST_CREATED" version 2 => created_with_title,
//! //         "POST_DELETED" => deleted,
//! //     },
//! // }
//!
//! #[derive(serde::Deserialize)]
//! struct Post {
//!     id: i64,
//! }
//!
//! fn created(record: &Record) -> Result<(), Failure> {
//!     let post: Post = record.json()?; // the payload, without its envelope
//!     tidemill_sdk::info!("post {} has no title", post.id);
//!     Ok(())
//! }
//! # fn created_with_title(_: &Record) -> Result<(), Failure> { Ok(()) }
//! # fn deleted(_: &Record) -> Result<(), Failure> { Ok(()) }
//! # use tidemill_sdk::{Handler, test::{Bench, record}};
//! # fn by_event(record: &Record) -> Result<(), Failure> {
//! #     tidemill_sdk::events::run(&[
//! #         ("POST_CREATED", Some("1"), created), ("POST_CREATED", Some("2"), created_with_title), ("POST_DELETED", None, deleted),
//! #     ], record)
//! # }
//! # static HANDLER: Handler = Handler {
//! #     manifest: MANIFEST, migrations: &[], records: Some(by_event), compensate: None, completed: None, timers: &[], routes: &[],
//! # };
//! # let mut bench = Bench::new(&HANDLER);
//! bench.record(&record("posts").with_value(
//!     r#"{"eventId":"e-1","eventType":"POST_CREATED","eventVersion":1,"payload":{"id":7}}"#,
//! ))?;
//! assert_eq!(bench.lines()[0].1, "post 7 has no title");
//!
//! let unknown = record("posts").with_value(
//!     r#"{"eventId":"e-2","eventType":"POST_CREATED","eventVersion":3,"payload":{}}"#,
//! );
//! let why = "there is no function for version 3 of the event `POST_CREATED`, only for 1, 2";
//! assert_eq!(bench.record(&unknown), Err(Failure::reject(why)));
//! # Ok::<(), Failure>(())
//! ```

use crate::{Failure, Handle, Record, delivery};

/// The function for this record's event. A function without a version is for events that say none; where no function of a type
/// names one, for all of that type.
///
/// ```
/// use tidemill_sdk::{Failure, Record, events};
/// # fn paid(_: &Record) -> Result<(), Failure> { Ok(()) }
///
/// /// What `events: { "ORDER_PAID" => paid }` makes of `handler!`.
/// fn handle(record: &Record) -> Result<(), Failure> {
///     events::run(&[("ORDER_PAID", None, paid)], record)
/// }
/// # tidemill_sdk::test::example::run(|| {
/// # assert!(handle(&Record::default()).is_err());
/// # Ok(()) });
/// ```
pub fn run(functions: &[(&str, Option<&str>, Handle)], record: &Record) -> Result<(), Failure> {
    let Some(event_type) = delivery::event_type() else {
        return Err(Failure::reject(
            "the record does not say what event it carries, where `event-type` in handler.toml says",
        ));
    };
    let of_type = functions.iter().filter(|(name, ..)| *name == event_type);
    let known: Vec<&str> = of_type.clone().filter_map(|(_, version, _)| *version).collect();
    let version = delivery::event_version();
    let mut fits = of_type.clone().filter(|(_, of, _)| known.is_empty() || *of == version.as_deref());
    match (fits.next(), version) {
        (Some((_, _, function)), _) => function(record),
        (None, _) if known.is_empty() => {
            Err(Failure::reject(format!("there is no function for the event `{event_type}`")))
        }
        (None, Some(version)) => Err(Failure::reject(format!(
            "there is no function for version {version} of the event `{event_type}`, only for {}",
            known.join(", ")
        ))),
        (None, None) => Err(Failure::reject(format!(
            "the event `{event_type}` does not say its version, where `event-version` in handler.toml says; there are functions for {}",
            known.join(", ")
        ))),
    }
}
