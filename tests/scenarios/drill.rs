//! S2.10: the drill of docs/drill.md, from the service that dies to the books that balance, with the commands and the output that stand there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tidemill_tests::picture::{self, Series};
use tidemill_tests::prometheus::{monitoring, plain};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{Daemon, LONG, Prometheus, Sandbox, Service, Store, eventually, token};

/// A folder into which the drill writes what was printed, `drill.txt`, and the picture of the dashboard, `dashboard.svg`.
const KEPT: &str = "TIDEMILL_TEST_DRILL";
/// Users of one mailing: the most that one may have.
const USERS: usize = 1000;
/// Mails that the service refuses for good before it dies.
const REFUSED: i64 = 4;

/// Commands that are run as docs/drill.md shows them.
struct Drill {
    sandbox: Sandbox,
    /// What of each stands there: the command, and what it prints.
    written: Vec<(String, String)>,
    printed: Vec<(String, String)>,
}

impl Drill {
    fn new(sandbox: Sandbox) -> Self {
        let text = fs::read_to_string(repository().join("docs/drill.md")).unwrap();
        let blocks = text.split("```").skip(1).step_by(2).flat_map(|block| block.split("\n$ ").skip(1));
        let written = blocks.map(|block| {
            let (command, output) = block.split_once('\n').unwrap_or((block, ""));
            (command.to_owned(), output.to_owned())
        });
        Self { sandbox, written: written.collect(), printed: Vec::new() }
    }

    /// Runs a command in a shell, as an operator would, with what is in `$` set.
    fn run(&mut self, command: &str, variables: &[(&str, &str)]) -> String {
        let program = tidemill_tests::sandbox::program();
        let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).env("PATH", path).env("TIDEMILL_CONFIG", self.sandbox.toml());
        shell.env("TIDEMILL_DATA", self.sandbox.data()).env("TIDEMILL_HANDLERS", self.sandbox.root().join("handlers"));
        let output = shell.envs(variables.iter().copied()).current_dir(self.sandbox.root()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
        let text = text.replace(&self.sandbox.root().display().to_string(), "/srv/tidemill");
        self.printed.push((command.to_owned(), text.clone()));
        text
    }

    /// That it was as docs/drill.md has it, but for numbers, times and how wide a column is.
    fn end(self) {
        if let Some(folder) = std::env::var_os(KEPT) {
            let all = self.printed.iter().map(|(command, output)| format!("$ {command}\n{}\n", output.trim_end()));
            fs::write(PathBuf::from(folder).join("drill.txt"), all.collect::<String>()).unwrap();
        }
        let commands = |all: &[(String, String)]| all.iter().map(|(command, _)| command.clone()).collect::<Vec<_>>();
        assert_eq!(commands(&self.printed), commands(&self.written));
        for ((command, printed), (_, written)) in self.printed.iter().zip(&self.written) {
            assert_eq!(shape(printed), shape(written), "{command}\n{printed}");
        }
    }
}

/// Lines with each number as `#`, however long it is and in whatever unit of time or size.
fn shape(text: &str) -> Vec<String> {
    let word = |word: &str| {
        let mut shape = String::new();
        for c in word.chars() {
            match c {
                '0'..='9' | '.' | ':' | ',' if shape.ends_with('#') => {}
                '0'..='9' => shape.push('#'),
                c => shape.push(c),
            }
        }
        match shape.strip_prefix('#') {
            Some("ms" | "us" | "µs" | "m" | "h") => "#s".to_owned(),
            Some("KiB" | "MiB" | "GiB" | "TiB") => "#B".to_owned(),
            _ => shape,
        }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.trim_end().lines().map(line).collect()
}

fn mail(daemon: &Daemon, boss: &str, subject: &str) {
    let users: Vec<String> = (0..USERS).map(|user| format!("u{user:03}")).collect();
    let mailing = json!({ "subject": subject, "text": "There is some.", "users": users });
    daemon.post("/api/mailings", boss, &mailing.to_string()).expect_status(201);
}

#[test]
fn s2_10_the_drill_ends_with_its_books_balanced_and_prints_what_is_written() {
    let service = Service::start();
    let sandbox = Sandbox::with(&["mailer"]);
    let url = service.url();
    sandbox.write_toml(&format!(
        "[defaults.circuit]\nwait = \"1s\"\nmax-wait = \"2s\"\n\n[handler.mailer]\ngrant = {{ http = [\"{url}\"] }}\nsettings = {{ service = \"{url}/messages\" }}\n"
    ));
    let daemon = Daemon::start(&sandbox);
    let prometheus = Prometheus::start(&sandbox, true);
    let boss = token(&sandbox, "boss");
    let store = Store::open(&sandbox, "mailer");
    let mut drill = Drill::new(sandbox);

    // All is well.
    mail(&daemon, &boss, "First news");
    store.until("SELECT count(*) FROM sent", USERS as i64);
    // The mail service refuses some, and then it is gone.
    for _ in 0..REFUSED {
        service.answer("422 Unprocessable", "the account is suspended");
    }
    service.usually(Some(("503 Service Unavailable", "closed for maintenance")));
    mail(&daemon, &boss, "Second news");
    mail(&daemon, &boss, "Third news");

    let at_night = ["TidemillCircuitOpen", "TidemillDeadLetters", "TidemillLagGrows"];
    eventually(LONG, "the alerts fire", || {
        let firing = prometheus.firing("mailer");
        at_night.iter().all(|name| firing.iter().any(|alert| alert == name))
    });
    let variables = [("PROMETHEUS", prometheus.url()), ("URL", daemon.url()), ("TOKEN", boss.as_str())];
    drill.run(
        "promtool query instant $PROMETHEUS 'count by (alertname, handler) (ALERTS{alertstate=\"firing\", handler!=\"\"})' | sort",
        &variables,
    );

    // Three commands say why.
    drill.run("tidemill status", &variables);
    drill.run("tidemill groups describe mailer", &variables);
    drill.run("tidemill dlt list --handler mailer --limit 3", &variables);

    // The bill is paid: what waited goes out by itself.
    service.usually(None);
    store.until("SELECT count(*) FROM sent", 3 * USERS as i64 - REFUSED);
    eventually(LONG, "the circuit is closed for Prometheus too", || {
        !prometheus.firing("mailer").contains(&at_night[0].to_owned())
    });
    // What was refused for good is sent again when a person says so.
    drill.run("tidemill dlt replay --handler mailer --all-matching --dry-run", &variables);
    drill.run("tidemill dlt replay --handler mailer --all-matching", &variables);
    store.until("SELECT count(*) FROM sent", 3 * USERS as i64);
    drill.run("tidemill dlt list --handler mailer", &variables);
    drill.run("tidemill status", &variables);
    drill.run("curl -s -H \"Authorization: Bearer $TOKEN\" $URL/api/mailings/2", &variables);

    // Each user has each mail once, whatever the service was asked in between.
    assert_eq!(store.count("SELECT count(*) FROM (SELECT DISTINCT mailing_id, user_id FROM sent)"), 3 * USERS as i64);
    let taken = service.asked().into_iter().filter(|asked| asked.status == Some(200)).map(|asked| asked.body);
    let mut taken: Vec<String> = taken.collect();
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 3 * USERS);

    let dashboard: Value = serde_json::from_str(&fs::read_to_string(monitoring("dashboard.json")).unwrap()).unwrap();
    let svg = picture::dashboard(&dashboard, |query, legend| {
        let range = prometheus.range(&plain(query, "10s"), 90);
        range.iter().map(|series| Series::of(series, legend)).collect()
    });
    assert!(svg.matches("<polyline").count() > 30, "{svg}");
    if let Some(folder) = std::env::var_os(KEPT) {
        fs::write(PathBuf::from(folder).join("dashboard.svg"), svg).unwrap();
    }
    drill.end();
}
