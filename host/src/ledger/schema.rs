//! The ledger's tables, and the store's own identity.
//!
//! The schema only moves forward: each step runs once, in a transaction, and a store made by a newer version is
//! refused rather than read wrongly.

use uuid::Uuid;

use crate::store::{Connection, Error, Kind};

/// The steps from an empty store to today's schema; a store's `user_version` counts those it has taken. One that was
/// released is never changed.
const STEPS: [&str; 13] = [
    FIRST,
    PENDING_SCOPES,
    DEAD_LETTER_TOPICS,
    PARTS_BY_AGE,
    DELAYED_EVENTS,
    APPENDED_IDS,
    KEPT_VERSIONS,
    OWNERS,
    PROBATION,
    TIMERS,
    REPLAYS,
    LETTERS,
    PAUSES,
];

/// How many there are, which a store of this version has taken.
pub const LATEST: i64 = STEPS.len() as i64;

const FIRST: &str = "
CREATE TABLE tm_meta (
    key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tm_offset (
    handler TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    topic_id TEXT NOT NULL, cluster_id TEXT NOT NULL,
    next_offset INTEGER NOT NULL, epoch INTEGER NOT NULL,
    PRIMARY KEY (handler, topic, partition)) WITHOUT ROWID;
CREATE TABLE tm_inbox (
    handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL,
    PRIMARY KEY (handler, event_id)) WITHOUT ROWID;
CREATE TABLE tm_pending (
    id INTEGER PRIMARY KEY,
    handler TEXT NOT NULL, topic TEXT NOT NULL, topic_id TEXT NOT NULL, partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL,
    timestamp INTEGER, timestamp_type TEXT NOT NULL, key, value, headers TEXT NOT NULL,
    scope TEXT NOT NULL, attempts INTEGER NOT NULL, due INTEGER NOT NULL, errors TEXT NOT NULL,
    UNIQUE (handler, topic, partition, \"offset\", topic_id));
CREATE TABLE tm_outbox (
    id INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE, event_type TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER,
    partition_key, payload, headers TEXT NOT NULL, kind TEXT NOT NULL, handler TEXT NOT NULL, source TEXT NOT NULL,
    created_at INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'waiting',
    attempts INTEGER NOT NULL DEFAULT 0, last_error TEXT, published_at INTEGER);
CREATE INDEX tm_outbox_published ON tm_outbox (published_at) WHERE status = 'published';
CREATE TABLE tm_fallback (
    id INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, handler TEXT NOT NULL, source TEXT NOT NULL, event_id TEXT NOT NULL, event_type TEXT NOT NULL,
    topic TEXT NOT NULL, partition INTEGER, key, value, headers TEXT NOT NULL, cause TEXT NOT NULL, created_at INTEGER NOT NULL);
CREATE TABLE tm_request (
    handler TEXT NOT NULL, route TEXT NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status INTEGER NOT NULL, headers TEXT NOT NULL, body, done_at INTEGER NOT NULL,
    PRIMARY KEY (handler, route, user, key)) WITHOUT ROWID;
CREATE TABLE tm_migration (
    handler TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, applied_at INTEGER NOT NULL,
    PRIMARY KEY (handler, name)) WITHOUT ROWID;
CREATE TABLE tm_deployment (
    id INTEGER PRIMARY KEY,
    handler TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL, manifest TEXT NOT NULL,
    \"group\" TEXT NOT NULL, source TEXT NOT NULL, deployed_at INTEGER NOT NULL, status TEXT NOT NULL, error TEXT);
CREATE INDEX tm_deployment_live ON tm_deployment (handler, status);
";

/// A pending record may stand behind another one of its key (`due` is null then), and may be there to be compensated, for a
/// `reason`; so may an event that Kafka has refused, on the partition -1 of its topic.
/// `tm_crash` counts how often a process did not survive a record, and `running` in `tm_meta` says that the last one did
/// not end in order.
const PENDING_SCOPES: &str = "
CREATE TABLE tm_pending_new (
    id INTEGER PRIMARY KEY,
    handler TEXT NOT NULL, topic TEXT NOT NULL, topic_id TEXT NOT NULL, partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL,
    timestamp INTEGER, timestamp_type TEXT NOT NULL, key, value, headers TEXT NOT NULL,
    purpose TEXT NOT NULL, scope TEXT NOT NULL, attempts INTEGER NOT NULL, due INTEGER, errors TEXT NOT NULL,
    reason TEXT, event_id TEXT, event_type TEXT, source TEXT,
    UNIQUE (handler, topic, partition, \"offset\", topic_id));
INSERT INTO tm_pending_new
    SELECT id, handler, topic, topic_id, partition, \"offset\", timestamp, timestamp_type, key, value, headers,
    'handle', scope, attempts, due, errors, NULL, NULL, NULL, NULL FROM tm_pending;
DROP TABLE tm_pending;
ALTER TABLE tm_pending_new RENAME TO tm_pending;
CREATE INDEX tm_pending_due ON tm_pending (handler, topic, partition, due, id) WHERE due IS NOT NULL;
CREATE INDEX tm_pending_key ON tm_pending (handler, topic, partition, key, id) WHERE scope = 'key';
CREATE TABLE tm_crash (
    handler TEXT NOT NULL, topic TEXT NOT NULL, topic_id TEXT NOT NULL, partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    PRIMARY KEY (handler, topic, partition, \"offset\", topic_id)) WITHOUT ROWID;
";

/// A dead letter says what its topic gets if it has to be made.
const DEAD_LETTER_TOPICS: &str = "
ALTER TABLE tm_outbox ADD COLUMN topic_partitions INTEGER;
ALTER TABLE tm_outbox ADD COLUMN topic_replicas INTEGER;
";

/// What is kept for a time knows the store's age when it came.
const PARTS_BY_AGE: &str = "
CREATE TABLE tm_inbox_part (part INTEGER PRIMARY KEY, begun INTEGER NOT NULL);
INSERT INTO tm_inbox_part (part, begun) VALUES (1, 0);
CREATE TABLE tm_inbox_new (
    part INTEGER NOT NULL, handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL,
    PRIMARY KEY (part, handler, event_id)) WITHOUT ROWID;
INSERT INTO tm_inbox_new SELECT 1, handler, event_id, done_at FROM tm_inbox;
DROP TABLE tm_inbox;
ALTER TABLE tm_inbox_new RENAME TO tm_inbox;
ALTER TABLE tm_request ADD COLUMN age INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tm_request_age ON tm_request (age);
";

/// An event may have a time before which it is not published; the relay looks for the next such time.
const DELAYED_EVENTS: &str = "
ALTER TABLE tm_outbox ADD COLUMN not_before INTEGER;
CREATE INDEX tm_outbox_delayed ON tm_outbox (not_before) WHERE not_before IS NOT NULL AND status = 'waiting';
";

/// Ids of the inbox are rows in the order in which they came; a part that is no longer added to has an index (`starts`,
/// `prints`, and the rows of its places in chunks). Parts of more rows than one may have are cut, and what is cut off is as old as
/// the part that follows.
const APPENDED_IDS: &str = "
CREATE TABLE tm_inbox_new (
    id INTEGER PRIMARY KEY, handler TEXT NOT NULL, event_id TEXT NOT NULL, done_at INTEGER NOT NULL);
INSERT INTO tm_inbox_new (handler, event_id, done_at) SELECT handler, event_id, done_at FROM tm_inbox ORDER BY part;
CREATE TABLE tm_inbox_part_new (
    part INTEGER PRIMARY KEY, begun INTEGER NOT NULL, first_id INTEGER NOT NULL, starts BLOB, prints BLOB);
WITH RECURSIVE
    old AS (SELECT part, begun, (SELECT count(*) FROM tm_inbox WHERE tm_inbox.part = tm_inbox_part.part) AS ids,
        lead(begun, 1, (SELECT max(begun, CAST(value AS INTEGER)) FROM tm_meta WHERE key = 'age')) OVER (ORDER BY part) AS ended
        FROM tm_inbox_part),
    cut (begun, ended, first_id, ids) AS (
        SELECT begun, ifnull(ended, begun), 1 + sum(ids) OVER (ORDER BY part) - ids, ids FROM old
        UNION ALL SELECT ended, ended, first_id + 1000000, ids - 1000000 FROM cut WHERE ids > 1000000)
INSERT INTO tm_inbox_part_new (part, begun, first_id)
    SELECT row_number() OVER (ORDER BY first_id, begun), begun, first_id FROM cut;
DROP TABLE tm_inbox;
DROP TABLE tm_inbox_part;
ALTER TABLE tm_inbox_new RENAME TO tm_inbox;
ALTER TABLE tm_inbox_part_new RENAME TO tm_inbox_part;
CREATE TABLE tm_inbox_index (id INTEGER PRIMARY KEY, rows BLOB NOT NULL);
";

/// A deployment knows by which name the store of versions has it, who asked for it, and in place of which file's artifact
/// it runs.
const KEPT_VERSIONS: &str = "
ALTER TABLE tm_deployment ADD COLUMN artifact TEXT;
ALTER TABLE tm_deployment ADD COLUMN instead_of TEXT;
ALTER TABLE tm_deployment ADD COLUMN who TEXT;
";

/// Tables, views and triggers have an owner: the only handler that was ever in the store, or everybody (null).
const OWNERS: &str = "
CREATE TABLE tm_owner (
    kind TEXT NOT NULL, name TEXT NOT NULL COLLATE NOCASE, handler TEXT,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
INSERT INTO tm_owner SELECT type, name,
    (SELECT iif(count(DISTINCT handler) = 1, min(handler), NULL) FROM (
        SELECT handler FROM tm_deployment UNION SELECT handler FROM tm_migration))
    FROM sqlite_schema WHERE type IN ('table', 'view', 'trigger')
    AND lower(name) NOT LIKE 'tm\\_%' ESCAPE '\\' AND lower(name) NOT LIKE 'sqlite\\_%' ESCAPE '\\';
";

/// A deployment that has taken another's place is on probation (`on`, then `passed` or `failed`; null without).
const PROBATION: &str = "
ALTER TABLE tm_deployment ADD COLUMN probation TEXT;
";

/// How far each schedule is; one without a next due time is no longer in the manifest.
const TIMERS: &str = "
CREATE TABLE tm_timer (
    handler TEXT NOT NULL, name TEXT NOT NULL, schedule TEXT NOT NULL, next_due INTEGER, last_due INTEGER,
    PRIMARY KEY (handler, name)) WITHOUT ROWID;
";

/// Up to which offset a lane's records are read again in a round of replay, in which the inbox knows nothing of the rounds before.
const REPLAYS: &str = "
ALTER TABLE tm_offset ADD COLUMN replay_round INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tm_offset ADD COLUMN replay_until INTEGER NOT NULL DEFAULT 0;
";

/// What an operator has done with a dead letter, by its own place, and with which record. A replay knows where it began, since a dead
/// letter may be of a record before it.
const LETTERS: &str = "
CREATE TABLE tm_letter (
    topic TEXT NOT NULL, topic_id TEXT NOT NULL, partition INTEGER NOT NULL, \"offset\" INTEGER NOT NULL,
    handler TEXT NOT NULL, original TEXT, fate TEXT NOT NULL, who TEXT NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, \"offset\", topic_id)) WITHOUT ROWID;
ALTER TABLE tm_offset ADD COLUMN replay_from INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tm_letter_original ON tm_letter (handler, original, at) WHERE fate <> 'discarded';
";

/// What an operator has paused: of a handler all but requests, or one topic (`topic`), or one partition of it.
const PAUSES: &str = "
CREATE TABLE tm_pause (
    handler TEXT NOT NULL, topic TEXT, partition INTEGER, since INTEGER NOT NULL, until INTEGER, who TEXT NOT NULL);
";

/// What tells this store from every other one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// A UUID; stands in the metadata of Kafka offset commits.
    pub store_id: String,
    /// Keys the random numbers of deliveries, so that nobody outside can foretell them.
    pub secret: String,
}

/// Brings the ledger up to date, and gives the store its identity the first time.
pub fn prepare(connection: &Connection) -> Result<Identity, Error> {
    let taken = connection.first("PRAGMA user_version", &[], |row| row.integer(0))?.unwrap_or(0);
    let Some(steps) = usize::try_from(taken).ok().and_then(|taken| STEPS.get(taken..)) else {
        let message = format!(
            "the store was written by a newer Tidemill (ledger {taken}; this one knows {}): run that version, or restore an older backup",
            STEPS.len()
        );
        return Err(Error::new(Kind::Other, message));
    };
    if !steps.is_empty() {
        // A view that a handler has left behind without its table must not stop a step that renames one.
        connection.batch("PRAGMA legacy_alter_table = ON; BEGIN IMMEDIATE")?;
        if let Err(error) = take(connection, taken == 0, steps) {
            if connection.in_transaction() {
                connection.batch("ROLLBACK")?;
            }
            return Err(error);
        }
    }
    identity(connection)
}

/// Whether the ledger is as this version knows it, for who only reads.
///
/// # Errors
/// It is older or newer, or there is none; the text says what to do.
pub fn check(connection: &Connection) -> Result<(), Error> {
    let taken = connection.first("PRAGMA user_version", &[], |row| row.integer(0))?.unwrap_or(0);
    if usize::try_from(taken) == Ok(STEPS.len()) {
        return Ok(());
    }
    let message = format!(
        "its ledger has the layout {taken}, and this Tidemill knows {}: let a daemon of this version start on it once, or use the version that wrote it",
        STEPS.len()
    );
    Err(Error::new(Kind::Other, message))
}

fn take(connection: &Connection, new: bool, steps: &[&str]) -> Result<(), Error> {
    steps.iter().try_for_each(|step| connection.batch(step))?;
    if new {
        set(connection, "store-id", &Uuid::new_v4().to_string())?;
        set(connection, "secret", &Uuid::new_v4().simple().to_string())?;
    }
    connection.batch(&format!("PRAGMA user_version = {}; COMMIT", STEPS.len()))
}

/// The store's identity, as [`prepare`] has written it.
pub fn identity(connection: &Connection) -> Result<Identity, Error> {
    let value = |key: &str| {
        get(connection, key)?
            .ok_or_else(|| Error::new(Kind::Other, format!("tm_meta has no {key}: the store is damaged")))
    };
    Ok(Identity { store_id: value("store-id")?, secret: value("secret")? })
}

/// Gives a new store a secret that is known, so that its ids and random numbers are the same in each run of a test.
pub fn set_secret(connection: &Connection, secret: &str) -> Result<(), Error> {
    set(connection, "secret", secret)
}

pub(super) fn get(connection: &Connection, key: &str) -> Result<Option<String>, Error> {
    connection.first("SELECT value FROM main.tm_meta WHERE key = ?1", &[key.into()], |row| row.text(0))
}

pub(super) fn set(connection: &Connection, key: &str, value: &str) -> Result<(), Error> {
    let sql =
        "INSERT INTO main.tm_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    connection.execute(sql, &[key.into(), value.into()]).map(drop)
}

/// Makes the ledger as it was after so many steps.
#[cfg(test)]
pub(super) fn older(connection: &Connection, steps: usize) -> Result<(), Error> {
    let text: String = STEPS.iter().take(steps).copied().collect();
    connection.batch(&format!("BEGIN; {text}; PRAGMA user_version = {steps}; COMMIT;"))?;
    set(connection, "store-id", "the same")?;
    set(connection, "secret", "s")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ledger::inbox::Inbox;

    /// The store of an earlier version, with a view that a handler left behind when it dropped the table.
    #[test]
    fn an_older_store_keeps_what_it_knows() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        older(&connection, 2).unwrap();
        connection
            .batch(
                "CREATE TABLE gone (x); CREATE VIEW left_behind AS SELECT x FROM gone; DROP TABLE gone;
                    INSERT INTO tm_inbox VALUES ('mail', 'e-1', 5), ('mail', 'e-2', 6), ('post', 'e-1', 7);",
            )
            .unwrap();
        assert_eq!(prepare(&connection).unwrap().store_id, "the same");
        let mut inbox = Inbox::open(&connection, "s").unwrap();
        for (handler, id, known) in
            [("mail", "e-1", true), ("mail", "e-2", true), ("post", "e-1", true), ("post", "e-2", false)]
        {
            assert_eq!(inbox.contains(&connection, handler, id).unwrap(), known, "{handler} {id}");
        }
        inbox.add(&connection, "post", "e-2", 8).unwrap();
        // A second start changes nothing.
        assert_eq!(prepare(&connection).unwrap().store_id, "the same");
        let inbox = Inbox::open(&connection, "s").unwrap();
        assert!(
            inbox.contains(&connection, "mail", "e-1").unwrap() && inbox.contains(&connection, "post", "e-2").unwrap()
        );
    }

    #[test]
    fn parts_of_an_older_inbox_stay_apart_and_are_indexed_and_cut() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        older(&connection, 5).unwrap();
        let parts = "INSERT INTO tm_inbox_part (part, begun) VALUES (2, 100), (3, 200)";
        let ids = "INSERT INTO tm_inbox VALUES (1, 'h', 'b', 5), (1, 'h', 'a', 5), (2, 'h', 'd', 6), (2, 'h', 'c', 6), (3, 'h', 'e', 7)";
        connection.batch(&format!("{parts}; {ids}; INSERT INTO tm_meta VALUES ('age', '250')")).unwrap();
        let cut = |rows: &str| {
            connection.batch(&format!("BEGIN; {}", APPENDED_IDS.replace("1000000", rows))).unwrap();
            let sql = "SELECT begun || ' ' || first_id FROM tm_inbox_part ORDER BY part";
            let parts = connection.query(sql, &[], |row| row.text(0)).unwrap();
            connection.batch("ROLLBACK").unwrap();
            parts
        };
        assert_eq!(cut("1"), ["0 1", "100 2", "100 3", "200 4", "200 5"]);
        connection.batch("INSERT INTO tm_inbox VALUES (3, 'h', 'e2', 7), (3, 'h', 'e3', 7)").unwrap();
        assert_eq!(cut("2"), ["0 1", "100 3", "200 5", "250 7"]);
        connection.batch("DELETE FROM tm_inbox WHERE event_id IN ('e2', 'e3')").unwrap();
        prepare(&connection).unwrap();
        // Also where the start that indexed them was not the last.
        for _ in 0..2 {
            let inbox = Inbox::open(&connection, "s").unwrap();
            for id in ["a", "b", "c", "d", "e", "f"] {
                assert_eq!(inbox.contains(&connection, "h", id).unwrap(), id < "f", "{id}");
            }
        }
        let mut inbox = Inbox::open(&connection, "s").unwrap();
        assert!(inbox.purge(&connection, 150, 50, 10).unwrap());
        inbox.settle();
        let left = connection.query("SELECT event_id FROM tm_inbox ORDER BY event_id", &[], |row| row.text(0)).unwrap();
        assert_eq!(left, ["c", "d", "e"]);
        assert!(!inbox.purge(&connection, 150, 50, 10).unwrap());
    }
}
