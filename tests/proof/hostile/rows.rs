//! The table of the hostile suite: what each attack does, and what must be seen of it.

use serde_json::{Value, json};

/// How it is done.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// The body of a function in `frame.wat`.
    Wat(&'static str),
    /// Commands of the hostile guest.
    Told(Value),
    /// SQL of a handler in the same store as another one, whose table is `vault`.
    Steal(&'static str),
}

/// How its delivery must end. The text is part of what the dead letter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Well: there is nothing in it that harms anybody.
    Done,
    /// Over a limit.
    Limit(&'static str),
    /// In a trap.
    Trap(&'static str),
    /// The call was refused with an error, which the handler passed on.
    Refused(&'static str),
}

impl Seen {
    /// As it stands in the table.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Limit(_) => "limit",
            Self::Trap(_) => "trap",
            Self::Refused(_) => "refused",
        }
    }

    /// What must be part of the dead letter's message.
    pub(crate) fn says(self) -> &'static str {
        match self {
            Self::Done => "",
            Self::Limit(says) | Self::Trap(says) | Self::Refused(says) => says,
        }
    }
}

/// One attack.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) how: How,
    pub(crate) seen: Seen,
}

fn row(what: &'static str, how: How, seen: Seen) -> Row {
    Row { what, how, seen }
}

/// All of them.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    rows.extend(resources());
    rows.extend(lies());
    rows.extend(guest());
    rows.extend(bombs());
    rows.extend(transactions());
    rows.extend(thefts());
    rows
}

fn wat(what: &'static str, body: &'static str, seen: Seen) -> Row {
    row(what, How::Wat(body), seen)
}

fn resources() -> Vec<Row> {
    use Seen::{Done, Limit, Trap};
    vec![
        wat("an endless loop", "(loop $ever (br $ever)) (unreachable)", Limit("limits.time")),
        wat("recursion without end", "(i32.add (call $SELF) (i32.const 1))", Limit("call stack")),
        wat("all of memory at once", "(drop (memory.grow (i32.const 60000))) (unreachable)", Limit("limits.memory")),
        wat(
            "memory page by page",
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) (unreachable)",
            Limit("limits.memory"),
        ),
        wat(
            "the memory that is allowed, all of it written",
            "(drop (memory.grow (i32.const 100)))
             (memory.fill (i32.const 262144) (i32.const 255) (i32.const 6553600)) (i32.const 512)",
            Done,
        ),
        wat(
            "a table that grows",
            "(drop (table.grow $own (ref.null func) (i32.const 100000))) (unreachable)",
            Limit("limits.table-elements"),
        ),
        wat("a read outside of memory", "(i32.load (i32.const -8))", Trap("out of bounds")),
        wat(
            "a write outside of memory",
            "(i32.store (i32.const -8) (i32.const 1)) (i32.const 512)",
            Trap("out of bounds"),
        ),
        wat(
            "a call of a function as what it is not",
            "(call_indirect $attacks (type $other) (f64.const 0) (i32.const 0))",
            Trap("indirect call type mismatch"),
        ),
        wat(
            "a call of a function that is not there",
            "(call_indirect $own (type $attack) (i32.const 0))",
            Trap("uninitialized"),
        ),
        wat("a division by zero", "(i32.div_u (i32.const 1) (i32.const 0))", Trap("divide by zero")),
        wat("what cannot be reached", "(unreachable)", Trap("unreachable")),
        wat(
            "10 million events, whatever is answered",
            "(local $n i32) (loop $more
               (call $enqueue (i32.const 1100) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1100)
                 (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                 (i32.const 0) (i32.const 0) (i32.const 0))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const 10000000))))
             (i32.const 512)",
            Limit("limits.time"),
        ),
        wat(
            "10 million statements, whatever is answered",
            "(local $n i32) (loop $more
               (call $query (i32.const 1024) (i32.const 25) (i32.const 0) (i32.const 0) (i32.const 0))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const 10000000))))
             (i32.const 512)",
            Limit("limits.time"),
        ),
        wat(
            "a hundred log lines of 128 KiB",
            "(local $n i32) (loop $more
               (call $log (i32.const 2) (i32.const 131072) (i32.const 131072))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $more (i32.lt_u (local.get $n) (i32.const 100))))
             (i32.const 512)",
            Done,
        ),
        wat("4 GiB of random bytes", "(call $random (i32.const -1) (i32.const 0)) (i32.const 512)", Trap("at most")),
    ]
}

fn lies() -> Vec<Row> {
    use Seen::{Limit, Refused, Trap};
    vec![
        wat(
            "a text outside of memory",
            "(call $execute (i32.const -16) (i32.const 64) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 512)",
            Trap("out of bounds"),
        ),
        wat(
            "a text of 4 GiB",
            "(call $execute (i32.const 1024) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 512)",
            Trap(""),
        ),
        wat(
            "a list whose length is more than a number can hold",
            "(call $execute (i32.const 1024) (i32.const 25) (i32.const 0) (i32.const 0x10000001) (i32.const 0)) (i32.const 512)",
            Trap(""),
        ),
        wat(
            "a list at an odd place",
            "(call $execute (i32.const 1024) (i32.const 25) (i32.const 8193) (i32.const 1) (i32.const 0)) (i32.const 512)",
            Trap("align"),
        ),
        wat(
            "a place for the answer outside of memory",
            "(call $execute (i32.const 1024) (i32.const 25) (i32.const 0) (i32.const 0) (i32.const -8)) (i32.const 512)",
            Trap("out of bounds"),
        ),
        wat(
            "a value of a kind that there is not",
            "(i32.store8 (i32.const 8192) (i32.const 9))
             (call $execute (i32.const 1024) (i32.const 25) (i32.const 8192) (i32.const 1) (i32.const 0)) (i32.const 512)",
            Trap("discriminant"),
        ),
        wat(
            "a text that is not UTF-8",
            "(call $execute (i32.const 1120) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 512)",
            Trap("utf-8"),
        ),
        wat("a log level that there is not", "(call $log (i32.const 77) (i32.const 1024) (i32.const 4)) (i32.const 512)", Trap("")),
        wat(
            "100,000 parameters that are all the same 128 KiB",
            "(local $at i32) (drop (memory.grow (i32.const 40))) (local.set $at (i32.const 262144))
             (loop $more
               (i32.store8 (local.get $at) (i32.const 3))
               (i32.store offset=8 (local.get $at) (i32.const 131072))
               (i32.store offset=12 (local.get $at) (i32.const 131072))
               (local.set $at (i32.add (local.get $at) (i32.const 16)))
               (br_if $more (i32.lt_u (local.get $at) (i32.const 1862144))))
             (call $execute (i32.const 1024) (i32.const 25) (i32.const 262144) (i32.const 100000) (i32.const 0))
             (i32.const 512)",
            Limit("limits.memory"),
        ),
        wat(
            "an event with 50,000 headers of 64 KiB each",
            "(local $at i32) (drop (memory.grow (i32.const 40))) (local.set $at (i32.const 262144))
             (loop $more
               (i32.store (local.get $at) (i32.const 131072))
               (i32.store offset=4 (local.get $at) (i32.const 65536))
               (local.set $at (i32.add (local.get $at) (i32.const 20)))
               (br_if $more (i32.lt_u (local.get $at) (i32.const 1262144))))
             (call $enqueue (i32.const 1100) (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1100)
               (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const 262144) (i32.const 50000) (i32.const 0))
             (i32.const 512)",
            Limit("limits.memory"),
        ),
        wat("an answer outside of memory", "(i32.const -8)", Trap("")),
        wat("an answer at an odd place", "(i32.const 513)", Trap("align")),
        wat("an answer of a kind that there is not", "(i32.store8 (i32.const 0) (i32.const 7)) (i32.const 0)", Trap("discriminant")),
        wat(
            "a failure of a kind that there is not",
            "(i32.store8 (i32.const 0) (i32.const 1)) (i32.store8 (i32.const 8) (i32.const 9)) (i32.const 0)",
            Trap("discriminant"),
        ),
        wat(
            "a failure whose message is outside of memory",
            "(i32.store8 (i32.const 0) (i32.const 1)) (i32.store8 (i32.const 8) (i32.const 1))
             (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const -1)) (i32.const 0)",
            Trap(""),
        ),
        wat(
            "a failure with a message of 4 MiB",
            "(drop (memory.grow (i32.const 70))) (memory.fill (i32.const 262144) (i32.const 120) (i32.const 4194304))
             (i32.store8 (i32.const 0) (i32.const 1)) (i32.store8 (i32.const 8) (i32.const 1))
             (i32.store (i32.const 16) (i32.const 262144)) (i32.store (i32.const 20) (i32.const 4194304)) (i32.const 0)",
            Refused("xxxxxxxxxx"),
        ),
        wat(
            "a statement of 2 MiB",
            "(drop (memory.grow (i32.const 40))) (memory.fill (i32.const 262144) (i32.const 32) (i32.const 2097152))
             (call $execute (i32.const 262144) (i32.const 2097152) (i32.const 0) (i32.const 0) (i32.const 0))
             (i32.store8 (i32.const 600) (i32.const 1)) (i32.store8 (i32.const 608) (i32.const 1))
             (i32.store (i32.const 616) (i32.load (i32.const 16))) (i32.store (i32.const 620) (i32.load (i32.const 20)))
             (i32.const 600)",
            Limit("too long"),
        ),
        wat("room for the host outside of memory", "(global.set $mode (i32.const 1)) (call $random (i32.const 64) (i32.const 0)) (i32.const 512)", Trap("")),
        wat("an endless loop while the host asks for room", "(global.set $mode (i32.const 2)) (call $random (i32.const 64) (i32.const 0)) (i32.const 512)", Limit("limits.time")),
        wat("a call of the host while it asks for room", "(global.set $mode (i32.const 3)) (call $random (i32.const 64) (i32.const 0)) (i32.const 512)", Trap("cannot leave")),
        wat(
            "room for a list at an odd place",
            "(global.set $mode (i32.const 4))
             (call $query (i32.const 1024) (i32.const 25) (i32.const 0) (i32.const 0) (i32.const 0)) (i32.const 512)",
            Trap("align"),
        ),
        wat("a trap while the host asks for room", "(global.set $mode (i32.const 5)) (call $random (i32.const 64) (i32.const 0)) (i32.const 512)", Trap("unreachable")),
    ]
}

fn told(what: &'static str, command: Value, seen: Seen) -> Row {
    row(what, How::Told(command), seen)
}

fn guest() -> Vec<Row> {
    use Seen::{Done, Limit, Refused, Trap};
    let odd = "k\u{0}e\ny\r\n";
    vec![
        told("files, sockets, names, arguments, variables, processes: all of WASI", json!({ "do": "wasi" }), Done),
        told("the end of the process", json!({ "do": "exit" }), Trap("exit")),
        told("a sleep of an hour", json!({ "do": "sleep", "ms": 3_600_000 }), Limit("limits.time")),
        told("a panic", json!({ "do": "panic" }), Trap("told to panic")),
        told("a panic after writing", json!([{ "do": "publish" }, { "do": "panic" }]), Trap("told to panic")),
        told("a flood of events", json!({ "do": "flood-events" }), Limit("limits.events")),
        told("a flood of bytes", json!({ "do": "flood-events", "bytes": 1_000_000 }), Limit("limits.event-bytes")),
        told("a flood of what is printed", json!({ "do": "flood-log", "count": 2_000 }), Done),
        told(
            "a topic that was not given",
            json!({ "do": "publish", "destination": "tm_outbox" }),
            Refused("names no destination"),
        ),
        told(
            "a topic by a name with a newline",
            json!({ "do": "publish", "destination": "out\nout" }),
            Refused("names no destination"),
        ),
        told(
            "headers, keys and types with NUL, newlines and the host's names",
            json!({ "do": "publish", "key": odd, "event_type": odd, "event_id": odd,
                    "headers": [[odd, odd], ["event-id", "forged"], ["kafka_dlt-original-topic", "forged"]] }),
            Done,
        ),
        told(
            "a failure that looks like lines of the log",
            json!({ "do": "reject", "message": "no\n2026-01-01T00:00:00Z ERROR tidemill: forged" }),
            Refused("forged"),
        ),
        told("rows by a name that is SQL", json!({ "do": "insert", "id": "'); DROP TABLE seen; --" }), Done),
        told(
            "a call of an address that was not given",
            json!({ "do": "call", "url": "http://127.0.0.1:1/" }),
            Refused("Denied"),
        ),
        told(
            "a call of the metadata service",
            json!({ "do": "call", "url": "http://169.254.169.254/latest" }),
            Refused("Denied"),
        ),
        told("a call of a file", json!({ "do": "call", "url": "file:///etc/passwd" }), Refused("")),
    ]
}

fn sql(what: &'static str, statement: String, seen: Seen) -> Row {
    told(what, json!({ "do": "sql", "statements": [statement], "row": false }), seen)
}

fn bombs() -> Vec<Row> {
    use Seen::{Done, Limit, Refused};
    const ENDLESS: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    vec![
        sql("a recursive query without end", format!("{ENDLESS} SELECT count(*) FROM n"), Limit("limits.time), in SQL")),
        sql("the same that writes", format!("INSERT INTO counted {ENDLESS} SELECT i FROM n"), Limit("limits.time), in SQL")),
        sql("the same that returns rows", format!("{ENDLESS} SELECT i FROM n"), Limit("limits.sql-rows")),
        sql(
            "a cartesian product",
            "WITH n (i) AS (VALUES (1), (2), (3), (4), (5), (6), (7), (8)) SELECT count(*) FROM n a, n b, n c, n d, n e, n f, n g, n h, n i, n j, n k".into(),
            Limit("limits.time), in SQL"),
        ),
        sql("randomblob(1e9)", "SELECT length(randomblob(1000000000))".into(), Refused("at most 1048576")),
        sql("zeroblob(1e9)", "SELECT hex(zeroblob(1000000000))".into(), Limit("")),
        sql("printf with a width of a billion", "SELECT printf('%1000000000d', 1)".into(), Limit("")),
        sql("printf with a precision of a billion", "SELECT printf('%.1000000000f', 1.0)".into(), Limit("")),
        sql("a text that doubles", "WITH RECURSIVE t (s) AS (SELECT 'x' UNION ALL SELECT s || s FROM t) SELECT max(length(s)) FROM t".into(), Limit("")),
        sql("all rows in one text", format!("{ENDLESS} SELECT length(group_concat(hex(zeroblob(1000)))) FROM n"), Limit("")),
        sql("all rows in one JSON array", format!("{ENDLESS} SELECT length(json_group_array(hex(zeroblob(1000)))) FROM n"), Limit("")),
        sql("JSON a million deep", "SELECT json(replace(hex(zeroblob(500000)), '0', '['))".into(), Refused("malformed JSON")),
        sql("a sort of more than fits", format!("{ENDLESS} SELECT i FROM n ORDER BY randomblob(100000)"), Limit("limits.time), in SQL")),
        sql("a LIKE that tries everything", "SELECT hex(zeroblob(100000)) LIKE '%0%0%0%0%0%0%0%0%0%0%0%0%1'".into(), Done),
        sql("a GLOB that tries everything", "SELECT hex(zeroblob(100000)) GLOB '*0*0*0*0*0*0*0*0*0*0*0*0*1'".into(), Done),
        sql("a LIKE pattern of a megabyte", "SELECT 'a' LIKE hex(zeroblob(500000))".into(), Refused("pattern too complex")),
        sql("an expression a thousand deep", format!("SELECT {}1", "1+".repeat(2_000)), Refused("too large")),
        sql("a union of a thousand", format!("SELECT 1 {}", "UNION ALL SELECT 1 ".repeat(1_000)), Refused("too many terms")),
        sql("a join of a hundred", format!("SELECT count(*) FROM once{}", ", once".repeat(100)), Refused("at most 64")),
        sql("a statement with NUL", "SELECT 1\u{0}; DROP TABLE seen".into(), Done),
        sql("two statements in one", "SELECT 1; DROP TABLE seen".into(), Refused("")),
    ]
}

fn transactions() -> Vec<Row> {
    use Seen::{Refused, Trap};
    let denied = |what, statement: &str| sql(what, statement.to_owned(), Refused("Denied"));
    vec![
        denied("COMMIT", "COMMIT"),
        denied("COMMIT behind a comment", "/* a */ -- b\n cOmMiT TRANSACTION;"),
        denied("END", "END"),
        denied("ROLLBACK", "ROLLBACK"),
        denied("ROLLBACK to the host's savepoint", "ROLLBACK TO \"delivery\""),
        denied("RELEASE of the host's savepoint", "RELEASE SAVEPOINT [delivery]"),
        denied("a savepoint", "SAVEPOINT mine"),
        denied("BEGIN", "BEGIN EXCLUSIVE"),
        denied("ATTACH", "ATTACH 'file:/tmp/stolen.db?mode=rwc' AS stolen"),
        denied("DETACH", "DETACH main"),
        denied("PRAGMA", "PRAGMA journal_mode = DELETE"),
        denied("PRAGMA that makes the schema a table", "PRAGMA writable_schema = ON"),
        sql("VACUUM into a file", "VACUUM INTO '/tmp/stolen.db'".into(), Refused("cannot VACUUM")),
        denied("REINDEX", "REINDEX"),
        denied("ANALYZE", "ANALYZE"),
        denied("a table", "CREATE TABLE mine (n)"),
        denied("a trigger", "CREATE TEMP TRIGGER t AFTER INSERT ON seen BEGIN SELECT 1; END"),
        sql("an extension", "SELECT load_extension('/tmp/evil.so')".into(), Refused("not authorized")),
        sql("a file's content", "SELECT readfile('/etc/passwd')".into(), Refused("no such function")),
        denied("the ledger, to read", "SELECT * FROM tm_outbox"),
        denied("the ledger, to write", "UPDATE main.\"tm_offset\" SET next_offset = 0"),
        told("INSERT OR ROLLBACK", json!({ "do": "insert-or-rollback" }), Trap("ended the transaction")),
        told("a foreign key that is checked at COMMIT", json!({ "do": "deferred-fk" }), Trap("deferred foreign key")),
    ]
}

fn thefts() -> Vec<Row> {
    let steal = |what, statement| row(what, How::Steal(statement), Seen::Refused("Denied"));
    vec![
        steal("another's table", "SELECT secret FROM vault"),
        steal("by its schema", "SELECT secret FROM main.vault"),
        steal("in other quotes", "SELECT secret FROM [vAuLt]"),
        steal("how many rows it has", "SELECT count(*) FROM vault"),
        steal("whether it has rows", "SELECT EXISTS (SELECT 1 FROM vault)"),
        steal("its row numbers", "SELECT rowid FROM vault"),
        steal(
            "in a common table expression of its name",
            "WITH vault AS (SELECT * FROM main.vault) SELECT * FROM vault",
        ),
        steal("under another name", "SELECT v.secret FROM (SELECT * FROM vault) AS v"),
        steal("in a union", "SELECT id FROM once UNION ALL SELECT secret FROM vault"),
        steal("in a join", "SELECT v.secret FROM once AS o LEFT JOIN vault AS v ON 1"),
        steal("through its view", "SELECT secret FROM vault_view"),
        steal("into a table of one's own", "INSERT INTO once SELECT secret FROM vault"),
        steal("in an update of one's own", "UPDATE once SET id = v.secret FROM vault AS v"),
        steal("in a condition of a deletion", "DELETE FROM once WHERE id IN (SELECT secret FROM vault)"),
        steal("in ORDER BY", "SELECT id FROM once ORDER BY (SELECT secret FROM vault)"),
        steal("by a deletion that returns", "DELETE FROM vault RETURNING secret"),
        steal("by an update of nothing", "UPDATE vault SET note = note WHERE 0"),
        steal(
            "by an insertion that conflicts",
            "INSERT INTO vault (id, secret) VALUES (1, 'x') ON CONFLICT DO UPDATE SET note = secret",
        ),
        steal("the plan of a query of it", "EXPLAIN QUERY PLAN SELECT secret FROM vault"),
        steal("the schema's table", "SELECT sql FROM sqlite_schema"),
        steal("the schema's other name", "SELECT sql FROM sqlite_master"),
        steal("the columns", "SELECT * FROM pragma_table_info('vault')"),
        row("the pages", How::Steal("SELECT * FROM sqlite_dbpage"), Seen::Refused("no such table")),
    ]
}
