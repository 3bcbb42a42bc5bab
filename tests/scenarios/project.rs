//! H6: from nothing to a handler that runs, by `tidemill new`, `build`, `dev` and `produce`, and what they say when they cannot.
//!
//! Projects lie in folders that stay the same from run to run, and cargo's folder is that of `handlers/`: so that what they
//! share with the example handlers is not compiled again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::json;
use tidemill_tests::sandbox::{kill_broker, program, repository};
use tidemill_tests::{Daemon, LONG, SOON, Sandbox, eventually, eventually_some};

/// A project of a test, in a folder that is there once it is written.
struct Project {
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Project {
    /// The folder of a test, which is not there yet.
    fn none(test: &str) -> Self {
        let folder = repository().join("target/projects").join(test);
        let _ = fs::remove_dir_all(&folder);
        Self { sandbox: Sandbox::new(), folder }
    }

    /// The project that `tidemill new greeter` writes.
    fn new(test: &str) -> Self {
        let project = Self::none(test);
        let out = project.tidemill(&["new", "greeter", "--path", project.folder.to_str().unwrap()]);
        assert!(out.status.success(), "{}", text(&out));
        project
    }

    /// A subcommand that ends by itself.
    fn tidemill(&self, arguments: &[&str]) -> Output {
        self.around(&mut self.sandbox.command(arguments)).output().unwrap()
    }

    /// In the project's folder, if that is there.
    fn around<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let folder = if self.folder.exists() { &self.folder } else { self.sandbox.root() };
        let target = repository().join("handlers/target");
        command.current_dir(folder).env("CARGO_TARGET_DIR", target).env("TIDEMILL_BIN", program())
    }

    fn cargo(&self, arguments: &[&str]) -> Output {
        self.around(Command::new("cargo").args(arguments)).output().unwrap()
    }

    fn edit(&self, file: &str, from: &str, to: &str) {
        let file = self.folder.join(file);
        let before = fs::read_to_string(&file).unwrap();
        assert!(before.contains(from), "{from} in {before}");
        fs::write(file, before.replace(from, to)).unwrap();
    }

    /// What has been built, if anything has.
    fn built(&self) -> Option<Vec<u8>> {
        fs::read(self.folder.join("target/greeter.wasm")).ok()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        kill_broker(&self.folder.join(".tidemill/dev/data"));
    }
}

fn text(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// It ended with this code, and its last line is an error that holds these parts.
fn failed(out: &Output, code: i32, parts: &[&str]) {
    let said = text(out);
    assert_eq!(out.status.code(), Some(code), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    let last = errors.last().unwrap_or_else(|| panic!("no error in {said}"));
    for part in parts {
        assert!(last.contains(part), "{part} in {last}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn greetings(daemon: &Daemon) -> serde_json::Value {
    daemon.call("GET", "/greeter").send().expect_status(200).json()
}

#[test]
fn h6_a_new_project_is_tested_built_and_deployed_as_it_stands() {
    let project = Project::new("whole");
    let tested = project.cargo(&["test"]);
    assert!(
        tested.status.success() && text(&tested).contains("2 passed") && text(&tested).contains("1 passed"),
        "{}",
        text(&tested)
    );

    let built = project.tidemill(&["build"]);
    let said = text(&built);
    assert!(built.status.success(), "{said}");
    let lines = [
        ("wrote", "target/greeter.wasm"),
        ("exports", "records@0.1.0"),
        ("imports", "sql@0.1.0"),
        ("reads", "greeter-in"),
        ("serves", "GET /greeter"),
        ("migrations", "0001_greetings.sql"),
    ];
    for (label, part) in lines {
        assert!(said.lines().any(|line| line.starts_with(label) && line.contains(part)), "{label} {part} in {said}");
    }
    let component = project.built().unwrap();
    assert!(!component.windows(9).any(|window| window == b"producers"), "it is stripped");

    let daemon = Daemon::start(&project.sandbox);
    project.sandbox.deploy_bytes("greeter.wasm", &component);
    daemon.says(&["handler is live", "greeter"]);
    let sent = project.tidemill(&["produce", "greeter-in", r#"{"name":"Ada"}"#, "--key", "1", "--header", "a=b"]);
    assert!(sent.status.success() && text(&sent).starts_with("greeter-in/"), "{}", text(&sent));
    eventually(SOON, "the record's greeting", || greetings(&daemon) == json!([{ "text": "Hello, Ada!" }]));

    // What cannot be built leaves what was built before.
    project.edit("handler.toml", "topics =", "topcs =");
    failed(&project.tidemill(&["build"]), 2, &["handler.toml:3", "`topcs`", "did you mean `topics`"]);
    project.edit("handler.toml", "topcs =", "topics =");
    project.edit("src/lib.rs", "record.json()?", "record.jsn()?");
    let broken = project.tidemill(&["build"]);
    assert!(
        text(&broken).contains("no method named `jsn`") && text(&broken).contains("src/lib.rs:"),
        "{}",
        text(&broken)
    );
    failed(&broken, 1, &["greeter does not compile", "nothing was written"]);
    assert_eq!(project.built(), Some(component));
}

#[test]
fn h6_dev_reloads_what_is_saved_and_keeps_what_runs_when_that_does_not_compile() {
    let project = Project::new("dev");
    let mut daemon = Daemon::launch_as(&project.sandbox, &["dev"], |command| {
        project.around(command);
    });
    let ready = eventually_some(LONG * 3, "the first build", || daemon.find(&["ready: "]));
    assert!(ready.contains("(greeter)") && ready.contains("embedded"), "{ready}");
    daemon.wait_ready();
    let greeted = |name: &str, text: &str| {
        let sent = project.tidemill(&["produce", "greeter-in", &json!({ "name": name }).to_string(), "--key", "1"]);
        assert!(sent.status.success(), "{sent:?}");
        let last = |all: serde_json::Value| all.as_array().unwrap().last().cloned();
        eventually(SOON, text, || last(greetings(&daemon)) == Some(json!({ "text": text })));
    };
    let live = |times: usize| {
        let lives = || daemon.log().lines().filter(|line| line.contains("handler is live")).count();
        eventually(LONG, "the new version is live", || lives() == times);
    };
    greeted("Ada", "Hello, Ada!");

    project.edit("src/lib.rs", "Hello", "Welcome");
    live(2);
    greeted("Grace", "Welcome, Grace!");

    project.edit("src/lib.rs", "record.json()?", "record.jsn()?");
    daemon.says(&["ERROR", "greeter does not compile", "the next save builds again"]);
    assert!(daemon.log().contains("no method named `jsn`"), "{}", daemon.log());
    greeted("Alan", "Welcome, Alan!");
    project.edit("src/lib.rs", "record.jsn()?", "record.json()?");
    project.edit("src/lib.rs", "Welcome", "Good morning");
    live(3);
    greeted("Edsger", "Good morning, Edsger!");

    // Only one at a time, and the second one says so before it builds.
    failed(&project.tidemill(&["dev"]), 1, &["held by another daemon"]);
    daemon.signal(rustix::process::Signal::INT);
    assert!(daemon.wait_exit().success(), "{}", daemon.log());
    assert!(!project.folder.join(".tidemill/dev/data/broker.json").exists(), "the broker has ended");
}

#[test]
fn bad_input_new_refuses_names_and_folders_that_cannot_be_and_touches_nothing() {
    let project = Project::none("refused");
    let root = project.sandbox.root();
    let entries = || fs::read_dir(root).unwrap().count();
    let before = entries();
    for name in ["Greeter", "1st", "a_b", "../up", "serde", &"a".repeat(64)] {
        failed(&project.tidemill(&["new", name]), 1, &[name, "name"]);
    }
    let other = project.tidemill(&["new", "greeter", "--lang", "cobol"]);
    assert!(other.status.code() == Some(2) && text(&other).contains("possible values: rust"), "{}", text(&other));
    assert_eq!(entries(), before);

    fs::create_dir(root.join("greeter")).unwrap();
    fs::write(root.join("greeter/notes.txt"), "mine").unwrap();
    failed(&project.tidemill(&["new", "greeter"]), 1, &["greeter", "has something in it", "--path"]);
    failed(&project.tidemill(&["new", "greeter", "--path", "greeter/notes.txt"]), 1, &["is a file", "--path"]);
    failed(&project.tidemill(&["new", "greeter", "--path", "/sys/greeter"]), 1, &["/sys/"]);
    assert_eq!((entries(), fs::read_dir(root.join("greeter")).unwrap().count()), (before + 1, 1));
    assert_eq!(fs::read_to_string(root.join("greeter/notes.txt")).unwrap(), "mine");
}

#[test]
fn bad_input_build_and_dev_say_what_is_missing() {
    let project = Project::new("missing");
    let nowhere = project.sandbox.root().join("nowhere");
    let rootless = |arguments: &[&str], path: &Path| {
        project.around(&mut project.sandbox.command(arguments)).env("PATH", path).output().unwrap()
    };
    failed(&rootless(&["build"], &nowhere), 1, &["cargo is not on the PATH", "rustup.rs"]);
    for command in ["build", "dev"] {
        failed(&project.tidemill(&[command, nowhere.to_str().unwrap()]), 1, &["nowhere", "tidemill new"]);
    }
    let workspace = repository().join("handlers");
    failed(&project.tidemill(&["build", workspace.to_str().unwrap()]), 1, &["handlers", "workspace"]);
    assert!(project.built().is_none());
}

#[test]
fn bad_input_produce_says_why_a_record_is_nowhere() {
    let project = Project::none("produce");
    failed(&project.tidemill(&["produce", "a", "x"]), 1, &["no embedded broker", "tidemill dev", "--bootstrap"]);
    failed(&project.tidemill(&["produce", "a", "x", "--bootstrap", "127.0.0.1:1"]), 1, &["127.0.0.1:1", "10s"]);
    let daemon = Daemon::start(&project.sandbox);
    failed(&project.tidemill(&["produce", "nothing-here", "x"]), 1, &["no topic nothing-here", daemon.bootstrap()]);
}

#[test]
fn h1_a_core_module_that_names_its_component_type_is_a_handler_like_any_other() {
    let sandbox = Sandbox::new();
    let module = fs::read(repository().join("tests/fixtures/core-module.wasm")).unwrap();
    assert_eq!(&module[..8], b"\0asm\x01\0\0\0", "a core module");
    sandbox.deploy_bytes("greeter.wasm", &module);
    let checked = sandbox.tidemill(&["check"]);
    assert!(checked.status.success() && text(&checked).contains("reads greeter-in"), "{}", text(&checked));
    // Twice, the second time from the code that the first has kept.
    for name in ["Ada", "Grace"] {
        let mut daemon = Daemon::start(&sandbox);
        assert!(daemon.ready().contains("(greeter)"), "{}", daemon.ready());
        let sent = sandbox.tidemill(&["produce", "greeter-in", &json!({ "name": name }).to_string()]);
        assert!(sent.status.success(), "{}", text(&sent));
        eventually(SOON, "the greeting", || greetings(&daemon).to_string().contains(name));
        daemon.terminate();
    }
    // Without the type it is only a module.
    let mut without = module;
    while let Some(at) = without.windows(14).position(|window| window == b"component-type") {
        without[at] = b'x';
    }
    fs::write(sandbox.handler("greeter.wasm"), without).unwrap();
    let refused = sandbox.tidemill(&["check"]);
    let said = text(&refused);
    assert!(said.contains("core module") && said.contains("wasm32-wasip2"), "{said}");
}
