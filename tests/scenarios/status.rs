//! S2.10: the daemon on one screen, the commands that list, and the exit codes of all.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tidemill_tests::sandbox::{program, repository, token};
use tidemill_tests::{Daemon, LONG, Out, Sandbox, Store, eventually};

use crate::rig::{ORDER, told};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn status(sandbox: &Sandbox) -> Value {
    let output = sandbox.tidemill(&["status", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The line of a handler or a store.
fn line<'a>(screen: &'a str, name: &str) -> &'a str {
    let line = screen.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("there is no line of {name}:\n{screen}"))
}

#[test]
fn s2_10_a_status_says_of_each_handler_and_store_what_the_page_of_metrics_says() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[handler.hostile]\ncircuit = { wait = \"60s\" }\n");
    let mut daemon = Daemon::start(&sandbox);
    let (client, store) = (daemon.client(), Store::open(&sandbox, "hostile"));
    client.produce_all("hostile-in", (0..7).map(|n| told(&format!("r{n}"), "insert").partition(0)));
    client.produce("hostile-in", &told("wrong", "reject").partition(1));
    store.until("SELECT count(*) FROM seen", 7);
    eventually(LONG, "the dead letter is counted", || {
        sandbox.scrape().sum("tidemill_records_total", &[("outcome", "dead-letter")]) == 1.0
    });
    let down = json!({ "do": "unavailable", "id": "down" }).to_string();
    client.produce("hostile-in", &Out::new(down).partition(2));
    eventually(LONG, "the circuit is open", || daemon.find(&["circuit"]).is_some());
    client.produce_all("hostile-in", (0..4).map(|n| told(&format!("late{n}"), "insert").partition(2)));
    eventually(LONG, "they are lag", || status(&sandbox)["handlers"][0]["lag"] == 4);

    let told = status(&sandbox);
    let (handler, page) = (&told["handlers"][0], sandbox.scrape());
    let of = [("handler", "hostile")];
    for (field, series) in [
        ("pending", "tidemill_pending_records"),
        ("lag", "tidemill_consumer_lag"),
        ("records", "tidemill_records_total"),
    ] {
        assert_eq!(handler[field].as_f64(), Some(page.sum(series, &of)), "{field}: {told:#}");
    }
    assert_eq!((&handler["circuit_open"], &handler["dead_letters"]), (&json!(true), &json!(1)), "{told:#}");
    assert_eq!(told["rates"]["records"]["hostile"], 0.0, "nothing is done while it is open");
    assert_eq!((&told["readiness"]["ready"], &told["kafka"]["answers"]), (&json!(true), &json!(true)));

    let output = sandbox.tidemill(&["status"]);
    let screen = text(&output);
    assert!(line(&screen, "hostile").ends_with("circuit open"), "{screen}");
    assert!(screen.contains("ready  up ") && !screen.contains('\x1b'), "colours are for a terminal: {screen:?}");

    // A pause is to be seen, and a store that cannot be written would be; the daemon says itself that it stops.
    assert!(sandbox.tidemill(&["groups", "pause", "hostile"]).status.success());
    assert_eq!(status(&sandbox)["handlers"][0]["pauses"], 1);
    daemon.terminate();
    let gone = sandbox.tidemill(&["status"]);
    let error = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert_eq!(gone.status.code(), Some(1));
    assert!(error.starts_with("error: no daemon runs on the data folder"), "{error}");
}

#[test]
fn s1_9_a_status_says_that_the_daemon_is_a_standby_or_does_not_run_yet() {
    let sandbox = Sandbox::new();
    let mut live = Daemon::start(&sandbox);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let standby = |command: &mut Command| {
        command.arg("--standby").env("TIDEMILL_METRICS_LISTEN", &free);
    };
    let mut waits = Daemon::launch(&sandbox, standby);
    waits.says(&["INFO", "waiting as a standby"]);
    // The live one answers for the folder. Once its signs are gone, the standby is found by its own address.
    assert!(text(&sandbox.tidemill(&["status"])).contains("ready  up "));
    let other = Sandbox::new();
    let ask = |json: bool| {
        let mut command = other.command(if json { &["status", "--json"] } else { &["status"] });
        command.env("TIDEMILL_METRICS_LISTEN", &free).output().unwrap()
    };
    let said = text(&ask(false));
    assert!(said.starts_with("the daemon is a standby\nnot ready: it waits for the daemon that holds"), "{said}");
    let told: Value = serde_json::from_slice(&ask(true).stdout).unwrap();
    assert_eq!(told["readiness"]["stage"], "standby");
    live.terminate();
    waits.wait_ready();
    waits.terminate();
}

#[test]
fn s2_10_a_watch_appends_lines_or_redraws_a_terminal_and_leaves_it_as_it_was() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let lines = sandbox.root().join("lines");
    let mut watch = sandbox
        .command(&["status", "--watch", "1", "--json"])
        .stdout(fs::File::create(&lines).unwrap())
        .spawn()
        .unwrap();
    let read = || fs::read_to_string(&lines).unwrap();
    eventually(LONG, "it has looked twice", || read().lines().count() >= 2);
    watch.kill().unwrap();
    watch.wait().unwrap();
    for line in read().lines().take(2) {
        let told: Value = serde_json::from_str(line).unwrap();
        assert_eq!(told["handlers"][0]["handler"], "hostile");
    }

    // On a terminal, which `script` makes, it draws on a screen of its own until it is interrupted.
    let (drawn, pid) = (sandbox.root().join("drawn"), sandbox.root().join("pid"));
    let line = format!("echo $$ > {}; exec {} status --watch 1", pid.display(), program().display());
    let own = sandbox.command(&[]);
    let mut terminal = Command::new("script");
    terminal.args(["-q", "-e", "-c", &line]).arg(&drawn).stdin(Stdio::null()).stdout(Stdio::null()).env_clear();
    terminal.envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.env("PATH", std::env::var_os("PATH").unwrap()).env("TERM", "xterm").current_dir(sandbox.root());
    let mut terminal = terminal.spawn().expect("start script, of util-linux");
    let read = || fs::read_to_string(&drawn).unwrap_or_default();
    eventually(LONG, "it has drawn twice", || read().matches("\x1b[H").count() >= 2);
    let number: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(number).unwrap(), Signal::INT).unwrap();
    let ended = terminal.wait().unwrap();
    assert!(ended.success(), "{ended}");
    let drawn = read();
    assert!(drawn.contains("\x1b[?1049h") && drawn.contains("hostile"), "{drawn:?}");
    assert!(drawn.contains("\x1b[32mtidemill "), "what is well is green: {drawn:?}");
    let left = drawn.rfind("\x1b[?1049l").expect("the other screen is left");
    assert!(left > drawn.rfind("\x1b[H").unwrap() && drawn.contains("\x1b[?25h"), "{drawn:?}");
    daemon.terminate();
}

#[test]
fn s2_10_exit_codes_are_as_the_help_says() {
    let sandbox = Sandbox::new();
    let code = |arguments: &[&str]| sandbox.tidemill(arguments).status.code();
    assert_eq!(code(&["version"]), Some(0));
    assert_eq!(code(&["handlers"]), Some(1), "no daemon");
    assert_eq!(code(&["handlers", "--colour"]), Some(2), "no such argument");
    sandbox.write_toml("[kafka]\nbootstrop = \"x\"\n");
    assert_eq!(code(&["check"]), Some(2), "no such setting");
    assert_eq!(code(&["doctor"]), Some(2));
    let help = text(&sandbox.tidemill(&["--help"]));
    let listed = help.split("Exit codes:").nth(1).unwrap();
    let codes: Vec<&str> =
        listed.lines().filter_map(|line| line.trim().split(' ').next()).filter(|c| !c.is_empty()).collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4"]);
    let documented = fs::read_to_string(repository().join("docs/commands.md")).unwrap();
    assert!(codes.iter().all(|code| documented.contains(&format!("| {code} | "))));
}

#[test]
fn s2_10_shells_complete_and_the_manual_has_a_page_for_each_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = text(&sandbox.tidemill(&["completions", shell]));
        assert!(script.contains("tidemill") && script.contains("groups"), "{shell}: {script}");
    }
    let script = text(&sandbox.tidemill(&["completions", "bash"]));
    let file = sandbox.root().join("completions.bash");
    fs::write(&file, script).unwrap();
    // As bash does it when somebody types `tidemill groups pa` and a tab.
    let typed = "source completions.bash; COMP_WORDS=(tidemill groups pa); COMP_CWORD=2; _tidemill tidemill pa groups; echo ${COMPREPLY[@]}";
    let completed = Command::new("bash").args(["-c", typed]).current_dir(sandbox.root()).output().unwrap();
    assert_eq!(text(&completed).trim(), "pause", "{}", String::from_utf8_lossy(&completed.stderr));

    assert!(sandbox.tidemill(&["man", "pages"]).status.success());
    for page in ["tidemill.1", "tidemill-status.1", "tidemill-groups-pause.1", "tidemill-doctor.1"] {
        let page = fs::read_to_string(sandbox.root().join("pages").join(page)).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
    }
    assert!(!sandbox.root().join("pages/tidemill-broker.1").exists(), "what is hidden has none");
    assert!(text(&sandbox.tidemill(&["man"])).contains(".SH NAME"));
}

/// Ends the orders, also where the test has failed.
struct Drawn<'a>(&'a AtomicBool);

impl Drop for Drawn<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// With `TIDEMILL_TEST_PICTURE` set it writes `docs/status.svg` anew.
#[test]
fn s2_10_the_picture_of_a_status_is_drawn_from_one() {
    let sandbox = Sandbox::with(&["order", "notification", "hostile"]);
    sandbox.write_toml("[handler.hostile]\ncircuit = { wait = \"60s\" }\n");
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    daemon.client().produce("hostile-in", &Out::new(json!({ "do": "unavailable", "id": "down" }).to_string()));
    eventually(LONG, "the circuit is open", || daemon.find(&["circuit"]).is_some());
    let drawn = AtomicBool::new(false);
    let order = || {
        while !drawn.load(Ordering::Relaxed) {
            daemon.post("/api/orders", &user, ORDER).expect_status(201);
        }
    };
    let mut screen = std::thread::scope(|scope| {
        let _drawn = Drawn(&drawn);
        scope.spawn(order);
        Store::open(&sandbox, "notification").until("SELECT count(*) >= 20 FROM notifications", 1);
        text(&sandbox.tidemill(&["status"]))
    });
    for name in ["order", "notification", "hostile"] {
        line(&screen, name);
    }
    // Where it ran is of no interest.
    let data = sandbox.data().display().to_string();
    screen = screen.replace(&data, "/var/lib/tidemill");
    let picture = draw("tidemill status", &screen);
    assert!(screen.lines().all(|line| picture.contains(&escaped(line))));
    if std::env::var_os("TIDEMILL_TEST_PICTURE").is_some() {
        fs::write(repository().join("docs/status.svg"), picture).unwrap();
    }
    daemon.terminate();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// A terminal's frame around what a command printed.
fn draw(command: &str, screen: &str) -> String {
    const LINE: usize = 19;
    let colour = |line: &str| match line {
        line if line.contains("not ready") || line.ends_with("circuit open") => "#ff6b68",
        line if line.contains("ready  up") => "#6abf69",
        line if line.starts_with("HANDLER") || line.starts_with("STORE") => "#ffffff",
        _ => "#d0d0d0",
    };
    let lines: Vec<(String, &str)> = std::iter::once((format!("$ {command}"), "#8ab4f8"))
        .chain(screen.trim_end().lines().map(|line| (line.to_owned(), colour(line))))
        .collect();
    let widest = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or(0);
    let (width, height) = (widest * 8 + 40, lines.len() * LINE + 60);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"monospace\" font-size=\"13.3\">\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#1e1e1e\"/>\n"
    );
    for (n, fill) in ["#ff5f57", "#febc2e", "#28c840"].into_iter().enumerate() {
        svg += &format!("<circle cx=\"{}\" cy=\"18\" r=\"6\" fill=\"{fill}\"/>\n", 20 + n * 20);
    }
    for (n, (line, fill)) in lines.iter().enumerate() {
        let y = 52 + n * LINE;
        svg += &format!("<text x=\"20\" y=\"{y}\" fill=\"{fill}\" xml:space=\"preserve\">{}</text>\n", escaped(line));
    }
    svg + "</svg>\n"
}
