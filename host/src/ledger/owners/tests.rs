//! Two handlers in one store: what one of them tries, in its deliveries and in its migrations, to get at the other's tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::ledger::deployment::{self, Migration, New, Status};
use crate::ledger::{owners, schema};
use crate::store::connection::Bounds;
use crate::store::rights::{Access, Grants, Rights, Tables};
use crate::store::{Connection, Error, Kind, Rows, Value};

/// The one who is stolen from.
const VAULT: &str = "
CREATE TABLE vault (id INTEGER PRIMARY KEY AUTOINCREMENT, secret TEXT DEFAULT 'initial secret', note TEXT);
INSERT INTO vault (secret, note) VALUES ('the secret', 'n');
CREATE INDEX vault_note ON vault (note, secret);
CREATE TABLE audit (what TEXT);
CREATE TRIGGER watch AFTER UPDATE ON vault BEGIN INSERT INTO audit VALUES (new.note); END;
CREATE VIEW vault_view AS SELECT secret, note FROM vault;
CREATE VIRTUAL TABLE vault_text USING fts5 (body);
INSERT INTO vault_text VALUES ('the secret');
ANALYZE vault;";

/// The thief's own, some of which would reach into the vault if it could.
const MINE: &str = "
CREATE TABLE mine (n, text);
CREATE TABLE loot (n);
CREATE VIEW peek AS SELECT secret FROM vault;
CREATE TABLE armed (n);
CREATE TRIGGER steal AFTER INSERT ON armed BEGIN INSERT INTO loot SELECT secret FROM vault; END;
CREATE TABLE writes (n);
CREATE TRIGGER spoil AFTER INSERT ON writes BEGIN UPDATE vault SET note = 'spoiled'; END;
CREATE TABLE trap (n);
CREATE TRIGGER ambush AFTER INSERT ON trap BEGIN INSERT INTO loot SELECT secret FROM vault; END;
CREATE VIEW decoy AS SELECT secret FROM vault;
CREATE VIRTUAL TABLE mirror USING fts5 (secret, content = 'vault', content_rowid = 'id');
CREATE VIRTUAL TABLE words USING fts5vocab ('vault_text', 'row');
INSERT INTO mine VALUES (1, 'a');";

struct Both {
    connection: Connection,
    tables: Arc<Tables>,
    _folder: tempfile::TempDir,
}

impl Both {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        schema::prepare(&connection).unwrap();
        let both = Self { connection, tables: Arc::default(), _folder: folder };
        both.migrate("victim", "01", VAULT).unwrap();
        both.migrate("thief", "01", MINE).unwrap();
        both
    }

    fn rights(&self, user: &str, grants: &[(&str, Access)]) -> Arc<Rights> {
        let mut all = Grants::default();
        grants.iter().for_each(|(name, access)| all.add(name, *access).unwrap());
        Arc::new(Rights { user: user.into(), grants: all, tables: self.tables.clone() })
    }

    fn migrate(&self, user: &str, name: &str, sql: &str) -> Result<(), Error> {
        self.migrate_with(user, &[], name, sql)
    }

    fn migrate_with(&self, user: &str, grants: &[(&str, Access)], name: &str, sql: &str) -> Result<(), Error> {
        self.connection.batch("BEGIN").unwrap();
        let migration = Migration { name: name.into(), sql: sql.into() };
        let done = deployment::migrate(&self.connection, &self.rights(user, grants), &[migration], 0);
        match done {
            Ok(owners) => {
                self.connection.batch("COMMIT").unwrap();
                self.tables.set(owners);
                Ok(())
            }
            Err(error) => {
                if self.connection.in_transaction() {
                    self.connection.batch("ROLLBACK").unwrap();
                }
                Err(error)
            }
        }
    }

    /// Runs a statement as a handler's delivery does, in a transaction that is undone.
    fn ask(&self, user: &str, grants: &[(&str, Access)], sql: &str) -> Result<Rows, Error> {
        let connection = &self.connection;
        connection.batch("BEGIN").unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        connection.enter_delivery(self.rights(user, grants), 0, ChaCha12Rng::seed_from_u64(1), end);
        // Each has a number of its own, as each version of a handler has.
        let mut hasher = DefaultHasher::new();
        format!("{user} {grants:?}").hash(&mut hasher);
        let owner = hasher.finish() as u32;
        let answer = connection.guest_query(owner, sql, &[], Bounds { rows: 100, bytes: 10_000 });
        connection.leave_delivery();
        if connection.in_transaction() {
            connection.batch("ROLLBACK").unwrap();
        }
        answer
    }

    fn count(&self, sql: &str) -> i64 {
        self.connection.first(sql, &[], |row| row.integer(0)).unwrap().unwrap()
    }

    fn untouched(&self) {
        assert_eq!(self.count("SELECT count(*) FROM vault WHERE secret = 'the secret' AND note = 'n'"), 1);
        assert_eq!(self.count("SELECT count(*) FROM vault"), 1);
        assert_eq!(self.count("SELECT count(*) FROM loot"), 0);
        assert_eq!(self.count("SELECT seq FROM sqlite_sequence WHERE name = 'vault'"), 1);
    }
}

const TRICKS: &[&str] = &[
    "SELECT secret FROM vault",
    "SELECT count(*) FROM vault",
    "SELECT 1 FROM vault",
    "SELECT rowid FROM vault",
    "SELECT _rowid_ FROM VAULT",
    "SELECT v.secret FROM main.[Vault] v",
    "SELECT * FROM \"vault\" AS mine",
    "WITH x AS (SELECT secret FROM vault) SELECT * FROM x",
    "WITH vault_view AS (SELECT secret FROM vault) SELECT * FROM vault_view",
    "WITH watch AS (SELECT secret FROM vault) SELECT * FROM watch",
    "WITH watch AS (SELECT count(*) FROM vault) SELECT * FROM watch",
    "WITH RECURSIVE x (s, i) AS (SELECT secret, 1 FROM vault UNION ALL SELECT s, i + 1 FROM x WHERE i < 2) SELECT s FROM x",
    "WITH mine AS (SELECT secret FROM vault) SELECT * FROM mine",
    "SELECT (SELECT secret FROM vault)",
    "SELECT * FROM (SELECT secret FROM vault)",
    "SELECT * FROM mine WHERE EXISTS (SELECT 1 FROM vault WHERE secret LIKE 't%')",
    "SELECT * FROM mine WHERE text IN vault",
    "SELECT * FROM mine WHERE text NOT IN (SELECT secret FROM vault)",
    "SELECT * FROM mine ORDER BY (SELECT secret FROM vault)",
    "SELECT * FROM mine LIMIT (SELECT length(secret) FROM vault)",
    "SELECT * FROM mine GROUP BY n HAVING (SELECT count(secret) FROM vault)",
    "SELECT group_concat(secret) OVER () FROM vault",
    "SELECT count(*) FILTER (WHERE (SELECT secret FROM vault) > 'a') FROM mine",
    "SELECT * FROM mine NATURAL JOIN vault",
    "SELECT * FROM mine LEFT JOIN vault ON true",
    "SELECT mine.n FROM mine FULL JOIN vault ON vault.note = mine.text",
    "SELECT * FROM mine, vault",
    "SELECT n FROM mine UNION SELECT secret FROM vault",
    "SELECT text FROM mine EXCEPT SELECT secret FROM vault",
    "VALUES (1), ((SELECT secret FROM vault))",
    "SELECT value FROM json_each((SELECT json_group_array(secret) FROM vault))",
    "SELECT secret FROM vault INDEXED BY vault_note WHERE note = 'n'",
    "SELECT note FROM vault_view",
    "SELECT count(*) FROM vault_view",
    "SELECT secret FROM peek",
    "SELECT count(*) FROM peek",
    "SELECT secret FROM vault_view JOIN peek USING (secret)",
    "SELECT body FROM vault_text",
    "SELECT rowid FROM vault_text WHERE vault_text MATCH 'secret'",
    "SELECT snippet(vault_text, 0, '', '', '', 9) FROM vault_text('secret')",
    "SELECT c0 FROM vault_text_content",
    "SELECT block FROM vault_text_data",
    "SELECT term FROM words",
    "SELECT secret FROM mirror",
    "SELECT highlight(mirror, 0, '', '') FROM mirror WHERE rowid = 1",
    "INSERT INTO mirror (mirror) VALUES ('rebuild')",
    "INSERT INTO loot SELECT secret FROM vault",
    "INSERT INTO loot SELECT * FROM peek",
    "INSERT INTO loot VALUES ((SELECT secret FROM vault))",
    "INSERT INTO loot VALUES (1) RETURNING (SELECT secret FROM vault)",
    "INSERT INTO armed VALUES (1)",
    "INSERT INTO writes VALUES (1)",
    "REPLACE INTO writes VALUES (1)",
    "INSERT INTO vault (secret) VALUES ('x')",
    "INSERT INTO vault DEFAULT VALUES",
    "INSERT INTO vault DEFAULT VALUES RETURNING secret",
    "INSERT INTO vault (id) VALUES (1) ON CONFLICT DO UPDATE SET note = 'x' RETURNING secret",
    "INSERT OR IGNORE INTO vault (id) VALUES (1)",
    "REPLACE INTO vault (id) VALUES (1)",
    "UPDATE vault SET note = 'x'",
    "UPDATE vault SET note = note RETURNING secret",
    "UPDATE OR REPLACE vault SET id = 2",
    "UPDATE mine SET text = secret FROM vault",
    "UPDATE mine SET text = (SELECT secret FROM vault)",
    "DELETE FROM vault",
    "DELETE FROM vault WHERE id = 1 RETURNING *",
    "DELETE FROM mine WHERE text < (SELECT secret FROM vault)",
    "DELETE FROM audit",
    "EXPLAIN SELECT secret FROM vault",
    "EXPLAIN QUERY PLAN SELECT secret FROM vault",
    "SELECT sql FROM sqlite_schema",
    "SELECT sql FROM sqlite_master",
    "SELECT sql FROM main.sqlite_master",
    "SELECT count(*) FROM sqlite_master",
    "SELECT * FROM sqlite_temp_master",
    "SELECT seq FROM sqlite_sequence",
    "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "SELECT stat FROM sqlite_stat1",
    "SELECT sample FROM sqlite_stat4",
    "SELECT name FROM pragma_table_info('vault')",
    "SELECT name FROM pragma_table_list",
    "SELECT * FROM pragma_database_list",
    "SELECT name FROM dbstat",
    "SELECT data FROM sqlite_dbpage",
    "SELECT * FROM tm_owner",
    "WITH tm_owner AS (SELECT secret FROM vault) SELECT * FROM tm_owner",
    "PRAGMA table_info(vault)",
    "PRAGMA writable_schema = 1",
    "PRAGMA foreign_keys = OFF",
    "ATTACH ':memory:' AS other",
    "ANALYZE vault",
    "REINDEX vault",
    "ALTER TABLE vault RENAME TO mine2",
    "ALTER TABLE vault RENAME COLUMN secret TO note2",
    "CREATE TEMP VIEW x AS SELECT secret FROM vault",
    "CREATE TABLE x AS SELECT secret FROM vault",
    "CREATE TRIGGER x AFTER INSERT ON vault BEGIN SELECT 1; END",
    "DROP TABLE vault",
];

#[test]
fn h5_no_statement_of_a_delivery_reaches_another_handlers_tables() {
    let both = Both::new();
    for sql in TRICKS {
        let error = both.ask("thief", &[], sql).expect_err(sql);
        // A virtual table says in its own way that what it asked for was refused; and some names are simply not there.
        let said = error.kind == Kind::Denied
            || error.message.contains("no such table")
            || sql.contains("mirror")
            || sql.contains("words");
        assert!(said, "{sql}: {error:?}");
        assert!(!error.message.contains("the secret"), "{sql}: {error:?}");
        both.untouched();
    }
    // The victim itself does all that is its own.
    assert_eq!(both.ask("victim", &[], "SELECT secret FROM vault_view").unwrap().rows.len(), 1);
    both.ask("victim", &[], "UPDATE vault SET note = 'x' RETURNING *").unwrap();
    both.ask("victim", &[], "SELECT body FROM vault_text WHERE vault_text MATCH 'secret'").unwrap();
    both.ask("victim", &[], "WITH some AS (SELECT 1) SELECT count(*) FROM some").unwrap();
    both.ask("thief", &[], "WITH vault AS (SELECT 1 AS n) SELECT n FROM vault").unwrap();
    both.ask("thief", &[], "SELECT value, (SELECT count(*) FROM mine) FROM json_each('[1]')").unwrap();
}

#[test]
fn h5_no_migration_reaches_another_handlers_tables() {
    let both = Both::new();
    let tricks = [
        "INSERT INTO loot SELECT secret FROM vault",
        "CREATE TABLE copy AS SELECT * FROM vault",
        "CREATE TABLE copy AS SELECT * FROM vault_view",
        "DELETE FROM vault",
        "UPDATE vault SET note = 'x'",
        "INSERT INTO armed VALUES (1)",
        "CREATE TRIGGER x AFTER INSERT ON vault BEGIN INSERT INTO loot VALUES (new.secret); END",
        "CREATE TRIGGER x INSTEAD OF INSERT ON vault_view BEGIN INSERT INTO loot VALUES (new.secret); END",
        "CREATE INDEX x ON vault (secret)",
        "CREATE UNIQUE INDEX x ON vault (note)",
        "CREATE INDEX x ON vault (note) WHERE note > 'a'",
        "DROP TABLE vault",
        "DROP VIEW vault_view",
        "DROP TRIGGER watch",
        "DROP INDEX vault_note",
        "DROP TABLE vault_text",
        "DROP TABLE vault_text_data",
        "ALTER TABLE vault RENAME TO mine2",
        "ALTER TABLE vault RENAME COLUMN secret TO open",
        "ALTER TABLE vault ADD COLUMN more",
        "ALTER TABLE vault DROP COLUMN note",
        "CREATE TABLE child (id INTEGER REFERENCES vault (id))",
        "CREATE TABLE child (id INTEGER, FOREIGN KEY (id) REFERENCES vault (id) ON DELETE RESTRICT)",
        "ALTER TABLE mine ADD COLUMN vault_id INTEGER REFERENCES vault (id)",
        "CREATE TABLE child (id INTEGER REFERENCES not_there (id))",
        "SELECT sql FROM sqlite_schema",
        "INSERT INTO loot SELECT sql FROM sqlite_schema",
        "CREATE TABLE copy AS SELECT sql FROM sqlite_master",
        "CREATE TABLE copy AS SELECT sample FROM sqlite_stat4",
        "UPDATE sqlite_sequence SET seq = 9223372036854775807",
        "INSERT INTO sqlite_sequence VALUES ('vault', 9223372036854775807)",
        "DELETE FROM sqlite_sequence",
        "UPDATE sqlite_schema SET sql = 'x'",
        "CREATE TRIGGER x AFTER INSERT ON mine BEGIN UPDATE sqlite_sequence SET seq = 9; END; INSERT INTO mine VALUES (1, 2)",
        "CREATE VIRTUAL TABLE pages USING dbstat",
        "CREATE VIRTUAL TABLE t USING fts3tokenize",
        "INSERT INTO mirror (mirror) VALUES ('rebuild')",
        "CREATE TABLE copy AS SELECT term FROM words",
        "CREATE TABLE copy AS SELECT c0 FROM vault_text_content",
        "ANALYZE vault",
        "ANALYZE",
        "PRAGMA writable_schema = 1",
        "PRAGMA foreign_keys = OFF",
        "ATTACH ':memory:' AS other",
        "VACUUM",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT x",
        "CREATE TEMP TABLE vault (secret)",
        "CREATE TEMP TRIGGER x AFTER INSERT ON vault BEGIN SELECT 1; END",
        "CREATE TABLE tm_x (n)",
        "DROP TABLE tm_owner",
        "UPDATE tm_owner SET handler = 'thief'",
        "CREATE TRIGGER tm_x AFTER INSERT ON tm_owner BEGIN SELECT 1; END",
        "ALTER TABLE mine RENAME TO tm_mine",
        "SELECT * FROM pragma_quick_check('vault')",
        "SELECT * FROM pragma_quick_check",
        "CREATE TABLE child (id INTEGER REFERENCES tm_owner (kind))",
    ];
    for sql in tricks {
        let error = both.migrate("thief", "02", sql).expect_err(sql);
        let vtab = sql.contains("mirror") || sql.contains("words");
        assert!(vtab || matches!(error.kind, Kind::Denied | Kind::Statement), "{sql}: {error:?}");
        both.untouched();
    }
}

#[test]
fn h5_a_handlers_migrations_may_do_all_that_is_its_own() {
    let both = Both::new();
    let own = [
        "ALTER TABLE mine ADD COLUMN more TEXT; ALTER TABLE mine RENAME COLUMN more TO less; ALTER TABLE mine DROP COLUMN less;",
        "CREATE TABLE strict_one (n INTEGER) STRICT; INSERT INTO strict_one VALUES (1);
         ALTER TABLE strict_one ADD COLUMN more TEXT; ALTER TABLE strict_one ADD COLUMN much INTEGER NOT NULL DEFAULT 1 CHECK (much > 0); DROP TABLE strict_one;",
        "CREATE TABLE mine_new (n, text); INSERT INTO mine_new SELECT n, text FROM mine; DROP TABLE mine; ALTER TABLE mine_new RENAME TO mine;",
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, n); INSERT INTO counted (n) VALUES (1); ALTER TABLE counted RENAME TO counts; DROP TABLE counts;",
        "CREATE TABLE parent (id INTEGER PRIMARY KEY); CREATE TABLE child (id INTEGER REFERENCES parent (id) ON DELETE CASCADE); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1); DELETE FROM parent;",
        "CREATE TABLE copy AS SELECT * FROM mine; CREATE INDEX copy_n ON copy (n); ANALYZE copy; REINDEX copy; DROP INDEX copy_n; DROP TABLE copy;",
        "CREATE VIEW v AS SELECT n FROM mine; CREATE TRIGGER t INSTEAD OF INSERT ON v BEGIN INSERT INTO mine (n) VALUES (new.n); END; INSERT INTO v VALUES (5); DROP TRIGGER t; DROP VIEW v;",
        "CREATE VIRTUAL TABLE text5 USING fts5 (body); INSERT INTO text5 VALUES ('a'); ALTER TABLE text5 RENAME TO text6; DROP TABLE text6;",
        "CREATE VIRTUAL TABLE text3 USING fts4 (body); INSERT INTO text3 VALUES ('a'); CREATE VIRTUAL TABLE aux USING fts4aux (text3);",
        "CREATE VIRTUAL TABLE box USING rtree (id, x0, x1); INSERT INTO box VALUES (1, 0, 1);",
        "CREATE TABLE strict (id INTEGER PRIMARY KEY, n INTEGER CHECK (n > 0) UNIQUE) STRICT; CREATE TABLE flat (k TEXT PRIMARY KEY, g AS (k || 'x') STORED) WITHOUT ROWID;",
        "SELECT 1; WITH x AS (SELECT 1 AS n) INSERT INTO mine (n) SELECT n FROM x; DELETE FROM mine WHERE n IN (SELECT value FROM json_each('[5]'));",
        "",
        "-- nothing",
    ];
    for (n, sql) in own.iter().enumerate() {
        both.migrate("thief", &format!("{:02}", n + 2), sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let mine =
        "SELECT count(*) FROM tm_owner WHERE handler = 'thief' AND name IN ('mine', 'parent', 'box_node', 'flat')";
    assert_eq!(both.count(mine), 4);
    assert_eq!(both.count("SELECT count(*) FROM tm_owner WHERE name IN ('mine_new', 'counts', 'v', 't', 'copy')"), 0);
    for sql in ["SELECT n FROM mine", "SELECT body FROM text3 WHERE text3 MATCH 'a'"] {
        both.ask("thief", &[], sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    both.ask("victim", &[], "SELECT n FROM mine").unwrap_err();
}

#[test]
fn h5_a_grant_gives_a_table_or_a_column_and_no_more() {
    let both = Both::new();
    let read = [("vault", Access::Read)];
    let check = |grants: &[(&str, Access)], sql: &str, good: bool| {
        let answer = both.ask("thief", grants, sql);
        assert_eq!(answer.is_ok(), good, "{grants:?} {sql}: {answer:?}");
        assert!(good || answer.as_ref().unwrap_err().kind == Kind::Denied, "{sql}: {answer:?}");
    };
    check(&read, "SELECT secret, rowid FROM Vault", true);
    check(&read, "INSERT INTO loot SELECT secret FROM vault", true);
    check(&read, "INSERT INTO armed VALUES (1)", true);
    check(&read, "SELECT * FROM peek", true);
    check(&read, "SELECT note FROM vault_view", false);
    check(&read, "UPDATE vault SET note = 'x'", false);
    check(&read, "DELETE FROM vault", false);
    let view = [("vault_view", Access::Read)];
    check(&view, "SELECT note FROM vault_view", false);
    check(
        &[view[0], ("vault.secret", Access::Read), ("vault.note", Access::Read)],
        "SELECT note FROM vault_view",
        true,
    );
    let column = [("vault.note", Access::Read)];
    check(&column, "SELECT note FROM vault", true);
    check(&column, "SELECT count(*) FROM vault", true);
    for sql in [
        "SELECT secret FROM vault",
        "SELECT * FROM vault",
        "SELECT rowid FROM vault",
        "SELECT note FROM vault WHERE secret > 'a'",
        "SELECT note FROM vault ORDER BY secret",
        "UPDATE vault SET note = 'x'",
    ] {
        check(&column, sql, false);
    }
    // The trigger that watches the vault does what only its maker may do; this one needs the right, too.
    let change = [("VAULT.Note", Access::Write), ("vault.id", Access::Read), ("audit", Access::Write)];
    check(&change, "UPDATE vault SET note = 'x' WHERE id = 1 RETURNING note", true);
    check(&change[..2], "UPDATE vault SET note = 'x' WHERE id = 1", false);
    for sql in [
        "UPDATE vault SET secret = 'x'",
        "UPDATE vault SET note = secret",
        "UPDATE vault SET note = 'x' RETURNING secret",
        "UPDATE vault SET note = 'x' RETURNING *",
        "INSERT INTO vault (note) VALUES ('x')",
        "DELETE FROM vault",
    ] {
        check(&change, sql, false);
    }
    let all = [("*", Access::Write)];
    for sql in ["SELECT * FROM vault_view", "INSERT INTO vault (note) VALUES ('x')", "DELETE FROM vault"] {
        check(&all, sql, true);
    }
    for sql in [
        "SELECT * FROM tm_owner",
        "SELECT sql FROM sqlite_schema",
        "SELECT body FROM vault_text",
        "SELECT * FROM pragma_table_list",
    ] {
        check(&all, sql, false);
    }
    let said = both.ask("thief", &[], "SELECT secret FROM vault").unwrap_err().message;
    assert_eq!(
        said,
        "handler thief may not read `vault`, which belongs to handler victim: tidemill.toml can give it, [handler.thief.grant] tables = { vault = \"read\" }"
    );
    let said = both.ask("thief", &[], "UPDATE vault SET note = 1").unwrap_err().message;
    assert!(said.ends_with("[handler.thief.grant] tables = { \"vault.note\" = \"write\" }"), "{said}");
    // A foreign key stops the other's own deletions, so it needs the right to write.
    let child = "CREATE TABLE child (id INTEGER REFERENCES vault (id))";
    both.migrate_with("thief", &read, "02", child).unwrap_err();
    both.migrate_with("thief", &[("vault", Access::Write)], "02", child).unwrap();
    both.migrate_with("thief", &all, "03", "DROP TABLE vault").unwrap_err();
}

#[test]
fn h5_a_view_or_trigger_lends_its_maker_nobodys_rights() {
    let both = Both::new();
    let all = [("*", Access::Write)];
    // The victim may use the thief's tables; what the thief has hung on them must not use the victim's.
    for sql in ["INSERT INTO trap VALUES (1)", "SELECT secret FROM decoy", "SELECT * FROM (SELECT * FROM decoy)"] {
        let error = both.ask("victim", &all, sql).unwrap_err();
        assert_eq!(error.kind, Kind::Denied, "{sql}: {error:?}");
        assert!(error.message.contains("reaches only tables of that handler"), "{sql}: {error:?}");
    }
    assert_eq!(both.count("SELECT count(*) FROM loot"), 0);
}

#[test]
fn h5_tables_of_an_older_store_are_their_only_handlers_or_everybodys() {
    for (handlers, thief_may) in [(vec!["victim"], false), (vec!["victim", "thief"], true)] {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open_writer(&folder.path().join("s.db"), false).unwrap();
        // As a store looked before owners were noted.
        schema::older(&connection, 7).unwrap();
        for handler in &handlers {
            let (sha256, manifest, source, artifact, who) = ("", "", "", "", "");
            let new = New { handler, group: handler, sha256, manifest, source, artifact, instead_of: None, who };
            deployment::make_live(&connection, new, Status::Replaced, 0).unwrap();
        }
        connection.batch(VAULT).unwrap();
        schema::prepare(&connection).unwrap();
        let both = Both { connection, tables: Arc::default(), _folder: folder };
        both.tables.set(owners::load(&both.connection).unwrap());
        both.migrate("thief", "01", "CREATE TABLE loot (n)").unwrap();
        for sql in ["SELECT secret FROM vault_view", "UPDATE vault SET note = 'x'", "SELECT body FROM vault_text"] {
            both.ask("victim", &[], sql).unwrap();
            assert_eq!(both.ask("thief", &[], sql).is_ok(), thief_may, "{sql}");
        }
        both.ask("victim", &[], "INSERT INTO loot VALUES (1)").unwrap_err();
        // What a person makes by hand is no handler's.
        both.connection.batch("CREATE TABLE by_hand (n)").unwrap();
        both.tables.set(owners::load(&both.connection).unwrap());
        both.migrate("thief", "02", "CREATE TABLE more (n)").unwrap();
        both.ask("thief", &[], "SELECT n FROM by_hand").unwrap_err();
        both.ask("thief", &[("by_hand", Access::Read)], "SELECT n FROM by_hand").unwrap();
    }
}

/// The statement that was allowed is not the one that runs: its table is another one now.
#[test]
fn h5_a_table_that_changes_hands_takes_its_statements_along() {
    let both = Both::new();
    let sql = "SELECT n FROM loot";
    both.ask("thief", &[], sql).unwrap();
    both.migrate("thief", "02", "DROP TABLE loot").unwrap();
    both.migrate("victim", "02", "CREATE TABLE loot (n); INSERT INTO loot VALUES ('the secret')").unwrap();
    let error = both.ask("thief", &[], sql).unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error:?}");
    assert_eq!(both.ask("victim", &[], sql).unwrap().rows, [[Value::Text("the secret".into())]]);
}
