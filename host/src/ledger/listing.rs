//! What of a store is listed for who looks from outside: which rows, by which names, and what their columns mean.
//!
//! A row is shown as it is read, so a listing is one statement, one snapshot of its store, and no more in memory than a row.

use crate::store::{Connection, Error, Row};

/// A listing of a store's rows.
#[derive(Debug)]
pub struct Listing {
    /// Its name.
    pub name: &'static str,
    /// What its rows are, for people.
    pub about: &'static str,
    /// The columns, by the names under which they are shown.
    pub fields: &'static [Field],
    /// Where they come from, and which of them.
    rows: &'static str,
    /// Their order.
    order: &'static str,
}

/// A column: its name where it is shown, what it is in SQL, and what it holds.
pub type Field = (&'static str, &'static str, Holds);

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Text or a number.
    Plain,
    /// Milliseconds since the Unix epoch.
    Time,
    /// Bytes of a record.
    Bytes,
    /// JSON.
    Json,
}

use Holds::{Bytes, Json, Plain, Time};

/// All of them.
pub const LISTINGS: [Listing; 11] = [
    Listing {
        name: "handlers",
        about: "the version of each handler that was live last",
        fields: &[
            ("handler", "handler", Plain),
            ("group", "\"group\"", Plain),
            ("version", "version", Plain),
            ("artifact", "artifact", Plain),
            ("sha256", "sha256", Plain),
            ("source", "source", Plain),
            ("who", "who", Plain),
            ("deployed_at", "deployed_at", Time),
            ("status", "status", Plain),
            ("probation", "probation", Plain),
        ],
        rows: "tm_deployment AS d WHERE version =
            (SELECT max(version) FROM main.tm_deployment WHERE handler = d.handler AND status <> 'failed')",
        order: "handler",
    },
    Listing {
        name: "versions",
        about: "all deployments, those that were refused among them",
        fields: &[
            ("handler", "handler", Plain),
            ("version", "version", Plain),
            ("artifact", "artifact", Plain),
            ("instead_of", "instead_of", Plain),
            ("sha256", "sha256", Plain),
            ("source", "source", Plain),
            ("who", "who", Plain),
            ("deployed_at", "deployed_at", Time),
            ("status", "status", Plain),
            ("probation", "probation", Plain),
            ("error", "error", Plain),
            ("manifest", "manifest", Plain),
        ],
        rows: "tm_deployment WHERE TRUE",
        order: "handler, version",
    },
    Listing {
        name: "groups",
        about: "where each handler goes on in each partition",
        fields: &[
            ("handler", "handler", Plain),
            ("topic", "topic", Plain),
            ("partition", "partition", Plain),
            ("topic_id", "topic_id", Plain),
            ("cluster_id", "cluster_id", Plain),
            ("next_offset", "next_offset", Plain),
            ("epoch", "epoch", Plain),
            ("replay_round", "replay_round", Plain),
            ("replay_until", "replay_until", Plain),
        ],
        rows: "tm_offset WHERE TRUE",
        order: "handler, topic, partition",
    },
    Listing {
        name: "inbox",
        about: "the ids of events that were done",
        fields: &[("handler", "handler", Plain), ("event_id", "event_id", Plain), ("done_at", "done_at", Time)],
        rows: "tm_inbox WHERE TRUE",
        order: "id",
    },
    Listing {
        name: "pending",
        about: "records that wait for another attempt or for a compensation",
        fields: &[
            ("handler", "handler", Plain),
            ("topic", "topic", Plain),
            ("topic_id", "topic_id", Plain),
            ("partition", "partition", Plain),
            ("offset", "\"offset\"", Plain),
            ("timestamp", "timestamp", Time),
            ("key", "key", Bytes),
            ("value", "value", Bytes),
            ("headers", "headers", Json),
            ("purpose", "purpose", Plain),
            ("scope", "scope", Plain),
            ("attempts", "attempts", Plain),
            ("due", "due", Time),
            ("errors", "errors", Json),
            ("reason", "reason", Plain),
            ("event_id", "event_id", Plain),
            ("event_type", "event_type", Plain),
            ("source", "source", Plain),
        ],
        rows: "tm_pending WHERE TRUE",
        order: "id",
    },
    Listing {
        name: "fallback",
        about: "what even its destination refused for good",
        fields: &[
            ("id", "id", Plain),
            ("kind", "kind", Plain),
            ("handler", "handler", Plain),
            ("source", "source", Plain),
            ("event_id", "event_id", Plain),
            ("event_type", "event_type", Plain),
            ("topic", "topic", Plain),
            ("partition", "partition", Plain),
            ("key", "key", Bytes),
            ("value", "value", Bytes),
            ("headers", "headers", Json),
            ("cause", "cause", Plain),
            ("created_at", "created_at", Time),
        ],
        rows: "tm_fallback WHERE TRUE",
        order: "id",
    },
    Listing {
        name: "outbox",
        about: "events that wait to be published, and those that were and are kept",
        fields: &[
            ("id", "id", Plain),
            ("kind", "kind", Plain),
            ("handler", "handler", Plain),
            ("source", "source", Plain),
            ("event_id", "event_id", Plain),
            ("event_type", "event_type", Plain),
            ("topic", "topic", Plain),
            ("partition", "partition", Plain),
            ("key", "partition_key", Bytes),
            ("value", "payload", Bytes),
            ("headers", "headers", Json),
            ("created_at", "created_at", Time),
            ("not_before", "not_before", Time),
            ("status", "status", Plain),
            ("attempts", "attempts", Plain),
            ("last_error", "last_error", Plain),
            ("published_at", "published_at", Time),
        ],
        rows: "tm_outbox WHERE TRUE",
        order: "id",
    },
    Listing {
        name: "requests",
        about: "answers that are kept for idempotency keys",
        fields: &[
            ("handler", "handler", Plain),
            ("route", "route", Plain),
            ("user", "user", Plain),
            ("key", "key", Plain),
            ("status", "status", Plain),
            ("headers", "headers", Json),
            ("body", "body", Bytes),
            ("done_at", "done_at", Time),
        ],
        rows: "tm_request WHERE TRUE",
        order: "handler, route, user, key",
    },
    Listing {
        name: "timers",
        about: "how far each schedule is",
        fields: &[
            ("handler", "handler", Plain),
            ("name", "name", Plain),
            ("schedule", "schedule", Plain),
            ("next_due", "next_due", Time),
            ("last_due", "last_due", Time),
        ],
        rows: "tm_timer WHERE TRUE",
        order: "handler, name",
    },
    Listing {
        name: "migrations",
        about: "how the handlers' tables came about",
        fields: &[
            ("handler", "handler", Plain),
            ("name", "name", Plain),
            ("sha256", "sha256", Plain),
            ("applied_at", "applied_at", Time),
        ],
        rows: "tm_migration WHERE TRUE",
        order: "handler, name",
    },
    Listing {
        name: "owners",
        about: "whose the handlers' tables are",
        fields: &[("kind", "kind", Plain), ("name", "name", Plain), ("handler", "handler", Plain)],
        rows: "tm_owner WHERE TRUE",
        order: "kind, name",
    },
];

impl Listing {
    /// That of a name.
    pub fn named(name: &str) -> Option<&'static Self> {
        LISTINGS.iter().find(|listing| listing.name == name)
    }

    /// Shows its rows in order, or those of one handler, until `look` returns `false`. A row's columns are its fields.
    pub fn each(
        &self,
        connection: &Connection,
        handler: Option<&str>,
        look: impl FnMut(&Row<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let columns: Vec<&str> = self.fields.iter().map(|(_, column, _)| *column).collect();
        let (columns, rows, order) = (columns.join(", "), self.rows, self.order);
        let sql = format!("SELECT {columns} FROM main.{rows} AND (?1 IS NULL OR handler = ?1) ORDER BY {order}");
        connection.each(&sql, &[handler.into()], look)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::schema;

    #[test]
    fn each_listing_fits_the_schema() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        for listing in &LISTINGS {
            listing.each(&connection, Some("h"), |_| Ok(true)).unwrap();
            listing.each(&connection, None, |_| Ok(true)).unwrap();
        }
    }
}
