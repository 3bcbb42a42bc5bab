//! The hostile suite: strangers' components, each of which tries one thing that a host must survive.
//!
//! `hostile/rows.rs` is the table of what is tried and what must be seen; `hostile/README.md` is the same for people.

mod component;
mod refused;
mod rows;
mod swap;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Instant;

use serde_json::json;
use tidemill_tests::{Client, Daemon, Out, Rec, SOON, Sandbox, Store, eventually, sandbox};

use crate::dice::full;
use rows::{How, Row, rows};

const VAULT: &str = "CREATE TABLE vault (id INTEGER PRIMARY KEY, secret TEXT, note TEXT);
    INSERT INTO vault (secret, note) VALUES ('the secret', 'n');
    CREATE VIEW vault_view AS SELECT secret FROM vault;";

/// The attackers, whose records are the table's rows, and a neighbour with a store of its own.
struct Zoo {
    sandbox: Sandbox,
    rows: Vec<Row>,
}

impl Zoo {
    /// Each delivery may take so long, and what fails is given up on at once.
    fn new(time: &str) -> Self {
        Self::with(&format!(
            "[retry]\nmax-attempts = 1\nbackoff = {{ kind = \"fixed\", interval = \"10ms\" }}\n\
             [limits]\ntime = \"{time}\"\nmemory = \"8MiB\"\n"
        ))
    }

    /// With this in the attackers' manifests.
    fn with(policy: &str) -> Self {
        let (sandbox, rows) = (Sandbox::new(), rows());
        let bodies: Vec<&str> =
            rows.iter().filter_map(|row| if let How::Wat(body) = row.how { Some(body) } else { None }).collect();
        sandbox.deploy_bytes("wat.wasm", &component::of_attacks(&bodies));
        let folder = sandbox.handler("victim.migrations");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("0001_vault.sql"), VAULT).unwrap();
        for name in ["told", "thief", "victim", "good"] {
            sandbox.deploy_bytes(&format!("{name}.wasm"), &sandbox::built("hostile"));
        }
        let mut topics = String::new();
        for (name, store) in
            [("wat", "wat"), ("told", "told"), ("thief", "shared"), ("victim", "shared"), ("good", "good")]
        {
            // The neighbour takes the time that the machine gives it.
            let policy = if name == "good" { "limits.time = \"10s\"\n" } else { policy };
            let (before, after) = if name == "good" { (policy, "") } else { ("", policy) };
            let manifest = format!(
                "name = \"{name}\"\nstore = \"{store}\"\ntopics = [\"{name}-in\"]\n{before}\
                 [publish]\nout = \"{name}-out\"\n{after}"
            );
            sandbox.deploy_bytes(&format!("{name}.toml"), manifest.as_bytes());
            write!(topics, "[[topic]]\nname = \"{name}-in\"\npartitions = 1\n").unwrap();
        }
        sandbox.write_toml(&topics);
        Self { sandbox, rows }
    }

    /// Every row, with whose record it is and the record's value.
    fn inputs(&self) -> impl Iterator<Item = (&Row, &'static str, String)> {
        let mut bodies = 0;
        self.rows.iter().map(move |row| match &row.how {
            How::Wat(_) => {
                bodies += 1;
                (row, "wat", (bodies - 1).to_string())
            }
            How::Told(command) => (row, "told", command.to_string()),
            How::Steal(statement) => {
                (row, "thief", json!({ "do": "sql", "statements": [statement], "row": false }).to_string())
            }
        })
    }

    /// Produces every row's record once; its key is the row's number.
    fn attack(&self, client: &Client) {
        let mut records: HashMap<&str, Vec<Out>> = HashMap::new();
        for (n, (_, handler, value)) in self.inputs().enumerate() {
            records.entry(handler).or_default().push(Out::new(value).key(n.to_string()).partition(0));
        }
        for (handler, records) in records {
            client.produce_all(&format!("{handler}-in"), records);
        }
    }

    /// Waits until every attack of so many rounds has ended, and what came of them is published.
    fn rest(&self, rounds: usize) {
        for (handler, store) in [("wat", "wat"), ("told", "told"), ("thief", "shared")] {
            let ended = (rounds * self.inputs().filter(|(_, whose, _)| *whose == handler).count()) as i64;
            let store = Store::open(&self.sandbox, store);
            let next = format!("SELECT coalesce(max(next_offset), 0) FROM tm_offset WHERE topic = '{handler}-in'");
            eventually(SOON * 30, &format!("{handler} has ended {ended} deliveries"), || store.count(&next) == ended);
            store.until("SELECT count(*) FROM tm_outbox", 0);
            store.until("SELECT count(*) FROM tm_pending", 0);
            assert_eq!(
                store.count("SELECT count(*) FROM tm_fallback"),
                0,
                "{:?}",
                store.lines("SELECT * FROM tm_fallback")
            );
        }
    }
}

/// How a delivery has ended, as its dead letter tells it.
fn ended(letter: Option<&Rec>) -> (&'static str, String) {
    let Some(letter) = letter else { return ("done", String::new()) };
    let cause = letter.header_text("kafka_dlt-exception-cause-fqcn").unwrap();
    let word = match cause.as_str() {
        "tidemill.TimeLimit" | "tidemill.MemoryLimit" | "tidemill.EffectsLimit" => "limit",
        "tidemill.Trap" => "trap",
        "tidemill.Retry" | "tidemill.Reject" => "refused",
        other => panic!("{other}"),
    };
    (word, letter.header_text("kafka_dlt-exception-message").unwrap())
}

/// Invariant 6: whatever a component does, it harms only its own delivery.
#[test]
fn h4_each_attack_of_the_hostile_suite_ends_as_its_row_says_and_the_host_goes_on() {
    const RECORDS: usize = 300;
    let zoo = Zoo::new("250ms");
    let mut daemon = Daemon::start(&zoo.sandbox);
    let client = daemon.client();
    let good = |n: usize| Out::new(json!({ "do": "publish", "id": format!("g{n}") }).to_string()).partition(0);
    client.produce_all("good-in", (0..RECORDS / 2).map(good));
    zoo.attack(&client);
    client.produce_all("good-in", (RECORDS / 2..RECORDS).map(good));
    zoo.rest(1);
    let store = Store::open(&zoo.sandbox, "good");
    store.until("SELECT count(DISTINCT id) FROM seen", RECORDS as i64);
    assert_eq!(store.count("SELECT count(*) FROM seen"), RECORDS as i64);
    eventually(SOON, "the neighbour's events", || client.consume_all("good-out").len() == RECORDS);

    let mut letters = HashMap::new();
    for topic in ["wat-in.DLT", "told-in.DLT", "thief-in.DLT"] {
        for letter in client.consume_all(topic) {
            letters.insert(letter.key_text(), letter);
        }
    }
    let mut wrong = String::new();
    for (n, row) in zoo.rows.iter().enumerate() {
        let (word, message) = ended(letters.get(&n.to_string()));
        let short: String = message.chars().take(160).collect();
        println!("| {} | {word} | {short} |", row.what);
        if word != row.seen.word() || !message.contains(row.seen.says()) {
            writeln!(wrong, "{}: {word}: {short:?} is not {:?}", row.what, row.seen).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let shared = Store::open(&zoo.sandbox, "shared");
    assert_eq!(shared.lines("SELECT secret, note FROM vault"), ["the secret|n"]);
    let odd = client.consume_all("told-out").into_iter().find(|event| event.key_text().starts_with("k\0")).unwrap();
    let names: Vec<&str> = odd.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), 5, "its own three, and the host's two behind them: {names:?}");
    assert!(daemon.runs());
    // Also none that a handler has forged.
    let of_the_host = |line: &&str| line.split_whitespace().nth(1) == Some("ERROR");
    assert_eq!(daemon.log().lines().find(of_the_host), None);
    assert!(!daemon.log().contains("panicked at host/"));
    daemon.terminate();
}

/// What an attack takes is given back, however often it is tried.
#[test]
fn h4_hostile_deliveries_leave_no_memory_behind() {
    let zoo = Zoo::new("20ms");
    let daemon = Daemon::start(&zoo.sandbox);
    let client = daemon.client();
    let (warm, rounds) = if full() { (2_000 / zoo.rows.len(), 10_000 / zoo.rows.len() + 1) } else { (2, 6) };
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() / 1024
    };
    let mut before = 0;
    for round in 1..=rounds {
        zoo.attack(&client);
        // In company, so that all are under way together.
        if round % 10 == 0 || round == warm || round == rounds {
            zoo.rest(round);
        }
        if round == warm {
            before = resident();
        }
    }
    let after = resident();
    println!("{} deliveries: {before} MiB, {after} MiB after {}", warm * zoo.rows.len(), rounds * zoo.rows.len());
    assert!(after - before < 48, "{before} MiB, then {after} MiB");
}

/// The table is what people read: it has every row, and says what must be seen.
#[test]
fn h4_the_table_of_the_hostile_suite_is_written_down() {
    let file = sandbox::repository().join("tests/proof/hostile/README.md");
    let text = std::fs::read_to_string(file).unwrap();
    let mut expected = String::new();
    for Row { what, how, seen } in rows() {
        let how = match how {
            How::Wat(_) => "WAT",
            How::Told(_) => "Rust",
            How::Steal(_) => "SQL, shared store",
        };
        let says = if seen.says().is_empty() { String::new() } else { format!(": `{}`", seen.says()) };
        writeln!(expected, "| {what} | {how} | {}{says} |", seen.word()).unwrap();
    }
    for (what, _) in refused::names() {
        writeln!(expected, "| {what} | file | not deployed |").unwrap();
    }
    let missing: Vec<&str> = expected.lines().filter(|line| !text.lines().any(|other| other == *line)).collect();
    assert!(missing.is_empty(), "tests/proof/hostile/README.md lacks:\n{}", missing.join("\n"));
    let (_, table) = text.split_once("| what | how | seen |").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).count();
    assert_eq!(rows, expected.lines().count(), "rows that are not there any more");
}

/// Beside attackers, each of which has as many records as it likes, a neighbour in another store has nearly all of its throughput, also
/// where a record that fails is given up on at once and the next one follows. It is measured, and so only in the long form.
#[test]
fn h4_a_neighbour_keeps_its_throughput() {
    if !full() {
        return;
    }
    let at_once = "[retry]\nmax-attempts = 1\n";
    for (policy, name) in [("", "usual policy"), (at_once, "given up on at once")] {
        for (handler, kind) in
            [("told", "limit"), ("wat", "limit"), ("told", "trap"), ("wat", "trap"), ("told", "refused")]
        {
            // Other work on the machine hits the one or the other: a pair that falls short is measured again.
            let enough = (0..3).any(|_| {
                let [alone, beside] = throughput(policy, handler, kind);
                let ratio = beside / alone;
                println!("| {name} | {handler}, {kind} | {alone:.0} | {beside:.0} | {ratio:.2} |");
                ratio > 0.8
            });
            assert!(enough, "{name}: the neighbour has lost more than a fifth to {handler}, {kind}");
        }
    }
}

/// The neighbour's records a second, alone and beside this handler's attacks of this kind, by turns: the best of each.
fn throughput(policy: &str, handler: &str, kind: &str) -> [f64; 2] {
    const RECORDS: usize = 30_000;
    const ROUNDS: usize = 3;
    let zoo = Zoo::with(policy);
    let file = format!("{handler}.wasm");
    let attacker = std::fs::read(zoo.sandbox.handler(&file)).unwrap();
    for other in ["wat", "told", "thief", "victim"] {
        zoo.sandbox.remove(&format!("{other}.wasm"));
    }
    let daemon = Daemon::start(&zoo.sandbox);
    let client = daemon.client();
    let of_kind = zoo.inputs().filter(|(row, whose, _)| row.seen.word() == kind && *whose == handler);
    let attacks: Vec<Out> = of_kind.map(|(_, _, value)| Out::new(value).partition(0)).collect();
    // More than there is time for.
    client.produce_all(&format!("{handler}-in"), attacks.iter().cycle().take(60_000).cloned().collect::<Vec<_>>());
    let store = Store::open(&zoo.sandbox, "good");
    let mut total = 0;
    let mut measure = || {
        let good = |n| Out::new(json!({ "do": "insert", "id": format!("g{n}") }).to_string()).partition(0);
        client.produce_all("good-in", (0..RECORDS).map(good).collect::<Vec<_>>());
        let began = Instant::now();
        total += RECORDS as i64;
        let done = "SELECT coalesce(max(seq), 0) FROM seen";
        eventually(SOON * 6, "the neighbour's records", || store.count(done) == total);
        RECORDS as f64 / began.elapsed().as_secs_f64()
    };
    measure();
    let own = format!("handler={handler} ");
    let assigned =
        || daemon.log().lines().filter(|line| line.contains("partitions assigned") && line.contains(&own)).count();
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rates[0].push(measure());
        let before = assigned();
        zoo.sandbox.deploy_bytes(&file, &attacker);
        eventually(SOON, "the attacker reads", || assigned() > before);
        rates[1].push(measure());
        zoo.sandbox.remove(&file);
        let attacked = Store::open(&zoo.sandbox, handler);
        attacked.until("SELECT count(*) FROM tm_deployment WHERE status = 'live'", 0);
    }
    // What else the machine does only takes from them.
    rates.map(|rates| rates.into_iter().fold(0.0, f64::max))
}
