//! One bad record inside busy groups: its neighbours, of the same handler and of another one in the same store, must
//! not notice, and it alone is treated as failed.

use serde_json::{Value, json};
use tidemill_tests::{Client, Daemon, Kafka, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{PARTITIONS, in_order_for_each_key, once_each};

/// Two handlers made of the hostile component, `bad` and `good`, on one store.
pub(crate) struct Pair {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: Client,
    bad: String,
    good: String,
    outputs: [String; 2],
}

impl Pair {
    /// With `limits` for the bad one, and migrations of its own beside the component's.
    pub(crate) fn new(limits: &str, migrations: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new();
        let client = Kafka::shared().client();
        let [bad, good, out_bad, out_good] = ["bad", "good", "out-bad", "out-good"].map(|name| sandbox.unique(name));
        for topic in [&bad, &good, &out_bad, &out_good] {
            client.create_topic(topic, PARTITIONS);
        }
        let own = include_str!("../guests/hostile/migrations/0001_hostile.sql");
        // The first alphabetically is deployed first and makes the tables; the other has no migrations.
        for (name, migrations) in [("bad", [&[("0001_hostile.sql", own)], migrations].concat()), ("good", vec![])] {
            let folder = sandbox.handler(&format!("{name}.migrations"));
            std::fs::create_dir(&folder).unwrap();
            for (file, sql) in migrations {
                std::fs::write(folder.join(file), sql).unwrap();
            }
        }
        for (name, topic, out, limits) in [("bad", &bad, &out_bad, limits), ("good", &good, &out_good, "")] {
            let manifest = format!(
                "name = \"{name}\"\nstore = \"shared\"\ngroup = \"{}\"\ntopics = [\"{topic}\"]\n\
                 [publish]\nout = \"{out}\"\n\
                 [retry]\nmax-attempts = 2\nbackoff = {{ kind = \"fixed\", interval = \"50ms\" }}\n\
                 [limits]\ntime = \"100ms\"\n{limits}\n",
                sandbox.unique(name),
            );
            sandbox.deploy_bytes(&format!("{name}.toml"), manifest.as_bytes());
        }
        sandbox.deploy_bytes("bad.wasm", &tidemill_tests::sandbox::built("hostile"));
        sandbox.deploy_bytes("good.wasm", &tidemill_tests::sandbox::built("hostile"));
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[handler.good.grant]\ntables = {{ \"*\" = \"write\" }}\n",
            Kafka::shared().bootstrap()
        ));
        Self { sandbox, client, bad, good, outputs: [out_bad, out_good] }
    }

    /// Each offence among records that are all right, everything there before the daemon starts so that groups are
    /// full; then everybody's effects. `records` for each handler. An offence is a command, and what its dead letter
    /// must say, each part of it.
    pub(crate) fn run(&self, records: usize, offences: &[(Value, &[&str])]) {
        let good = |prefix: &str, n: usize| {
            let command = json!({ "do": "publish", "id": format!("{prefix}{n}") });
            Out::new(command.to_string()).key(format!("k{}", n % 50)).partition((n % 50) as i32 % PARTITIONS)
        };
        let every = records / offences.len();
        assert!(every >= 1, "more offences than records");
        let mut all = Vec::new();
        for n in 0..records {
            all.push(good("b", n));
            if n % every == every / 2
                && let Some((command, _)) = offences.get(n / every)
            {
                let bad = with_id(command.clone(), &format!("offence-{}", n / every));
                all.push(Out::new(bad.to_string()).key(format!("bad-{}", n / every)).partition((n % 6) as i32));
            }
        }
        self.client.produce_all(&self.bad, all);
        self.client.produce_all(&self.good, (0..records).map(|n| good("g", n)));

        let mut daemon = Daemon::start(&self.sandbox);
        let store = Store::open(&self.sandbox, "shared");
        let of = |prefix: &str| format!("SELECT count(*) FROM seen WHERE id LIKE '{prefix}%'");
        store.until(&of("g"), records as i64);
        store.until(&of("b"), records as i64);
        let letters = format!("{}.DLT", self.bad);
        let dead = || if self.client.partitions(&letters) == 0 { vec![] } else { self.client.consume_all(&letters) };
        let mut found = Vec::new();
        eventually(LONG, "every offence is a dead letter", || {
            found = dead();
            found.len() >= offences.len()
        });
        store.until("SELECT count(*) FROM tm_outbox", 0);

        for (n, (command, says)) in offences.iter().enumerate() {
            let key = format!("bad-{n}");
            let of: Vec<_> = found.iter().filter(|letter| letter.key_text() == key).collect();
            assert_eq!(of.len(), 1, "dead letters of {command}");
            let message = of[0].header_text("kafka_dlt-exception-message").unwrap();
            let cause = of[0].header_text("kafka_dlt-exception-cause-fqcn").unwrap();
            let said = format!("{cause}: {message}");
            assert!(says.iter().all(|part| said.contains(part)), "{command}: {said:?} is not {says:?}");
        }
        assert_eq!(found.len(), offences.len(), "dead letters of nobody's");
        let rows = store.lines("SELECT id FROM seen");
        let expected = (0..records).flat_map(|n| [format!("b{n}"), format!("g{n}")]);
        once_each(&rows, expected);
        for (output, prefix) in self.outputs.iter().zip(["b", "g"]) {
            let ids = in_order_for_each_key(&self.client.consume_all(output));
            once_each(&ids, (0..records).map(|n| format!("{prefix}{n}")));
        }
        for table in ["tm_pending", "tm_fallback", "child", "counted", "once"] {
            assert_eq!(store.count(&format!("SELECT count(*) FROM {table}")), 0, "{table}");
        }
        assert!(daemon.runs());
        assert_eq!(daemon.find(&["ERROR"]), None);
        daemon.terminate();
    }
}

fn with_id(command: Value, id: &str) -> Value {
    match command {
        Value::Array(mut list) => {
            list[0]["id"] = json!(id);
            Value::Array(list)
        }
        mut one => {
            one["id"] = json!(id);
            one
        }
    }
}

const TIME: &str = "tidemill.TimeLimit";
const MEMORY: &str = "tidemill.MemoryLimit";
const EFFECTS: &str = "tidemill.EffectsLimit";
const TRAP: &str = "tidemill.Trap";
const RETRY: &str = "tidemill.Retry";
const REJECT: &str = "tidemill.Reject";

/// Invariant 6, in WebAssembly: no loop, sleep, recursion, allocation, panic or flood does harm.
#[test]
fn h4_a_hostile_component_harms_only_its_own_record() {
    // Little memory, so that it is used up well within the time, on a busy machine too.
    Pair::new("memory = \"8MiB\"", &[]).run(
        600,
        &[
            (json!({ "do": "loop" }), &[TIME, "limits.time"]),
            (json!({ "do": "sleep" }), &[TIME, "limits.time"]),
            (json!({ "do": "sleep", "ms": 3_600_000 }), &[TIME, "limits.time"]),
            (json!({ "do": "recurse" }), &[MEMORY, "call stack"]),
            (json!({ "do": "grow" }), &[MEMORY, "limits.memory"]),
            (json!({ "do": "panic" }), &[TRAP, "told to panic"]),
            (json!({ "do": "flood-events" }), &[EFFECTS, "limits.events"]),
            (json!({ "do": "flood-events", "bytes": 1_000_000 }), &[EFFECTS, "limits.event-bytes"]),
            (json!({ "do": "publish", "destination": "nowhere" }), &[REJECT, "nowhere"]),
            (json!([{ "do": "publish", "count": 5 }, { "do": "panic" }]), &[TRAP, "told to panic"]),
            (json!([{ "do": "publish", "count": 5 }, { "do": "reject" }]), &[REJECT, "told to reject"]),
        ],
    );
}

/// Invariant 6, in SQL: what ends SQLite's transaction, or would, costs its neighbours nothing.
#[test]
fn h4_hostile_sql_harms_only_its_own_record() {
    let raise = "CREATE TABLE raises (n INTEGER); CREATE TRIGGER raising BEFORE INSERT ON raises
                 BEGIN SELECT RAISE(ROLLBACK, 'raised'); END;";
    let denied = |statement: &str| json!({ "do": "sql", "statements": [statement] });
    let go_on = |statement: &str| json!([{ "do": "sql", "statements": [statement], "go_on": true }, { "do": "panic" }]);
    Pair::new("", &[("0002_raise.sql", raise)]).run(
        900,
        &[
            (json!({ "do": "insert-or-rollback" }), &[TRAP, "ended the transaction", "UNIQUE"]),
            (json!({ "do": "insert-or-rollback", "swallow": false }), &[TRAP, "ended the transaction", "UNIQUE"]),
            (go_on("INSERT INTO raises VALUES (1)"), &[TRAP, "ended the transaction", "raised"]),
            (json!({ "do": "deferred-fk" }), &[TRAP, "deferred foreign key"]),
            (json!({ "do": "recursive-sql" }), &[TIME, "in SQL"]),
            (json!({ "do": "recursive-sql", "swallow": true }), &[TIME, "in SQL"]),
            (json!({ "do": "recursive-sql", "write": true }), &[TIME, "in SQL"]),
            (json!({ "do": "recursive-sql", "write": true, "swallow": true }), &[TIME, "in SQL"]),
            (denied("COMMIT"), &[RETRY, "not authorized"]),
            (denied("ROLLBACK"), &[RETRY, "not authorized"]),
            (denied("RELEASE delivery"), &[RETRY, "not authorized"]),
            (denied("ROLLBACK TO delivery"), &[RETRY, "not authorized"]),
            (denied("PRAGMA synchronous = OFF"), &[RETRY, "not authorized"]),
            (denied("ATTACH ':memory:' AS other"), &[RETRY, "not authorized"]),
            (denied("UPDATE tm_offset SET next_offset = 0"), &[RETRY, "not authorized"]),
            (denied("SELECT value FROM tm_meta"), &[RETRY, "prohibited"]),
            (denied("CREATE TEMP TABLE seen (id TEXT)"), &[RETRY, "not authorized"]),
            (denied("DROP TABLE seen"), &[RETRY, "not authorized"]),
            (go_on("COMMIT"), &[TRAP, "told to panic"]),
            (go_on("DELETE FROM seen"), &[TRAP, "told to panic"]),
        ],
    );
}

/// An event that is enqueued when the time is up is cut off as an INSERT, which takes SQLite's whole transaction.
#[test]
fn h4_a_flood_of_events_that_runs_out_of_time_harms_only_its_own_record() {
    let limits = "events = 1000000\nevent-bytes = \"1GiB\"";
    let flood = json!({ "do": "flood-events", "count": 1_000_000, "bytes": 10 });
    let offences: Vec<(Value, &[&str])> = vec![(flood, &[TIME, "limits.time"]); 8];
    Pair::new(limits, &[]).run(300, &offences);
}
