//! The README names a test for each guarantee, and shows what the demo says: both have to be so.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tidemill_tests::sandbox::repository;
use tidemill_tests::{LONG, eventually};

/// The tests that a text links to, each by the beginning of its name, and with its file: ``[`name*`](file)``.
pub(crate) fn links(text: &str) -> Vec<(&str, &str)> {
    fn link(rest: &str) -> Option<(&str, &str)> {
        let (test, rest) = rest.split_once("*`](")?;
        Some((test, rest.split_once(')')?.0))
    }
    text.split("[`").skip(1).filter_map(link).collect()
}

/// The names of the tests in a file.
pub(crate) fn tests_of(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let tests = text.split("#[test]").skip(1);
    let name = |after: &str| after.split_once("fn ")?.1.split_once('(').map(|(name, _)| name.to_owned());
    tests.filter_map(name).collect()
}

#[test]
fn each_guarantee_of_the_readme_has_its_test() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let mut found = 0;
    for (line, guarantee) in readme.lines().enumerate() {
        for (test, file) in links(guarantee) {
            let there = tests_of(&repository().join(file)).iter().any(|name| name.starts_with(test));
            assert!(there, "README.md:{}: no test {test}* in {file}", line + 1);
            found += 1;
        }
    }
    assert!(found > 20, "the table was not found");
}

fn demo(temp: &Path) -> Command {
    let mut command = Command::new(repository().join("handlers/demo"));
    command.env("TMPDIR", temp).stdin(Stdio::null());
    command
}

/// What the demo says itself, and what it runs.
fn story(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.starts_with("# ") || line.starts_with("$ ")).collect()
}

#[test]
fn the_demo_balances_its_books_and_says_what_the_readme_shows() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    let shown = readme.split("```").find(|block| block.starts_with("\n$ make demo\n")).expect("the demo in README.md");
    let temp = tempfile::tempdir().unwrap();
    let out = demo(temp.path()).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(story(&said), story(shown)[1..]);
    assert_eq!(left_behind(temp.path()), Vec::<String>::new());
}

#[test]
fn the_demo_leaves_nothing_behind_when_it_is_interrupted() {
    let temp = tempfile::tempdir().unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut child = demo(temp.path()).stdout(out.reopen().unwrap()).stderr(Stdio::null()).spawn().unwrap();
    eventually(LONG, "the daemon runs", || fs::read_to_string(out.path()).unwrap().contains("\nready: "));
    assert!(!left_behind(temp.path()).is_empty());
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(left_behind(temp.path()), Vec::<String>::new());
}

/// Files in a folder, and processes that work in it or name it.
fn left_behind(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process = entry.ok()?.path();
        let line = String::from_utf8_lossy(&fs::read(process.join("cmdline")).ok()?).into_owned();
        let there = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        (there || line.contains(folder.to_str()?)).then_some(process)
    });
    files.chain(processes).map(|path| path.display().to_string()).collect()
}
