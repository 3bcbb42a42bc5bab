//! Files that no daemon may make live: each is refused with a line that says why, and nothing is changed.

use tidemill_tests::sandbox::built;
use tidemill_tests::{Daemon, Out, Sandbox, Store};

use super::component::{CONTRACT, idle, idle_text, module};

/// A file, and what is beside it.
struct File {
    wasm: Vec<u8>,
    manifest: String,
    migration: Option<&'static str>,
}

/// What the file is, and what must be said of it.
pub(crate) fn names() -> [(&'static str, &'static str); 20] {
    [
        ("nothing", "empty"),
        ("a script", "not WebAssembly"),
        ("half a component", "cut off"),
        ("a component whose code is damaged", ""),
        ("a component that exports nothing", "neither `records` nor `http`"),
        ("an export of another type", ""),
        ("an import of another type", "do not fit this daemon"),
        ("an import that there is not", "component type"),
        ("a start that never ends", "cannot be instantiated"),
        ("a start that traps", "cannot be instantiated"),
        ("2 GiB of memory from the start", "limits.memory"),
        ("a table of a million elements from the start", "table"),
        ("20 tables", "table"),
        ("100 core instances", "instance"),
        ("a name that leaves the folder", "not a valid name"),
        ("a store that leaves the folder", "not a valid name"),
        ("a topic with a newline", "topics"),
        ("a key that there is not", "unknown key"),
        ("a migration that commits", "not authorized"),
        ("a migration of the ledger", "not authorized"),
    ]
}

fn files() -> [File; 20] {
    let manifest = "name = \"evil\"\ntopics = [\"evil-in\"]\n";
    let file = |wasm: Vec<u8>| File { wasm, manifest: manifest.into(), migration: None };
    let with = |manifest: &str| File { wasm: idle(""), manifest: manifest.into(), migration: None };
    let sql = |migration| File { wasm: idle(""), manifest: manifest.into(), migration: Some(migration) };
    let component = built("hostile");
    let mut damaged = component.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let record = "handle: func(%record: %record) -> result<_, failure>;";
    let other = CONTRACT.replacen(record, "handle: func(%record: %record) -> u32;", 1);
    assert_ne!(other, CONTRACT);
    let execute = "execute: func(statement: string, params: list<value>) -> result<u64, error>;";
    let import = CONTRACT.replacen(execute, "execute: func(statement: u32) -> u32;", 1);
    assert_ne!(import, CONTRACT);
    let call = "(import \"tidemill:handler/sql@0.1.0\" \"execute\" (func (param i32) (result i32)))";
    let unknown = "(import \"wasi:evil/everything@0.2.0\" \"open\" (func (param i32)))";
    // What is beside the type of the module must come before its other fields.
    let after = |first: &str| idle_text("").replacen("(module", &format!("(module {first}"), 1);
    [
        file(Vec::new()),
        file(b"#!/bin/sh\nrm -rf /\n".to_vec()),
        file(component[..component.len() / 2].to_vec()),
        file(damaged),
        file(wat::parse_str("(component)").unwrap()),
        file(module(&idle_text(""), &other)),
        file(module(&after(call), &import)),
        file(module(&after(unknown), CONTRACT)),
        file(idle("(func $ever (loop $l (br $l))) (start $ever)")),
        file(idle("(func $no (unreachable)) (start $no)")),
        file(idle("(memory (export \"memory\") 32768)")),
        file(idle("(table 1000000 funcref)")),
        file(idle(&"(table 1 funcref)".repeat(20))),
        file(
            wat::parse_str(format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(100)))
                .unwrap(),
        ),
        with("name = \"../../evil\"\ntopics = [\"evil-in\"]\n"),
        with("name = \"evil\"\nstore = \"../evil\"\ntopics = [\"evil-in\"]\n"),
        with("name = \"evil\"\ntopics = [\"evil\\nin\"]\n"),
        with("name = \"evil\"\ntopics = [\"evil-in\"]\nprivileged = true\n"),
        sql("CREATE TABLE a (n); COMMIT; CREATE TABLE b (n);"),
        sql("UPDATE tm_meta SET value = 'x'"),
    ]
}

#[test]
fn h4_a_hostile_file_is_refused_and_changes_nothing() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let folder = || {
        let mut names: Vec<_> =
            std::fs::read_dir(sandbox.handler("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = folder();
    let evil = sandbox.root().join("evil");
    let mut wrong = Vec::new();
    for ((what, says), file) in names().into_iter().zip(files()) {
        let _ = std::fs::remove_dir_all(&evil);
        std::fs::create_dir_all(evil.join("evil.migrations")).unwrap();
        std::fs::write(evil.join("evil.wasm"), &file.wasm).unwrap();
        std::fs::write(evil.join("evil.toml"), &file.manifest).unwrap();
        if let Some(sql) = file.migration {
            std::fs::write(evil.join("evil.migrations/0001_evil.sql"), sql).unwrap();
        }
        let path = evil.join("evil.wasm");
        let ended = sandbox.tidemill(&["deploy", path.to_str().unwrap()]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        println!("| {what} | {} |", said.lines().next().unwrap_or_default().chars().take(200).collect::<String>());
        if !matches!(ended.status.code(), Some(1 | 2)) || !said.contains(says) || folder() != before {
            wrong.push(format!("{what}: {:?} {said:?}, and not {says:?}; {:?}", ended.status, folder()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(daemon.runs());
    daemon.client().produce("hostile-in", &Out::new(r#"{"do":"insert","id":"after"}"#));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen WHERE id = 'after'", 1);
}
