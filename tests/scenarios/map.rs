//! README.md beside this is the map: the tests of each row of the requirements, and what they assert.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use tidemill_tests::sandbox::repository;

use crate::readme::{links, tests_of};

/// What the ids of a group of rows begin with, and how many rows it has.
const ROWS: [(&str, u32); 6] = [("S0.", 12), ("S1.", 10), ("S2.", 13), ("S3.", 4), ("S4.", 7), ("H", 7)];

/// A line of the map: one test of one row.
pub(crate) struct Line {
    /// In the file, from 1.
    pub(crate) number: usize,
    /// The row's id.
    pub(crate) row: String,
    /// The file, as from here, and the test's name; none where there is no test yet.
    pub(crate) test: Option<(String, String)>,
    /// The handlers without which the test must fail.
    pub(crate) handlers: Vec<String>,
}

/// Every line of the map.
pub(crate) fn lines() -> Vec<Line> {
    let text = fs::read_to_string(folder().join("README.md")).unwrap();
    text.lines().zip(1..).filter_map(|(line, number)| read(line, number)).collect()
}

fn folder() -> PathBuf {
    repository().join("tests/scenarios")
}

/// `| S0.1 | what it is | [test](file) | what it asserts | handlers |`
fn read(line: &str, number: usize) -> Option<Line> {
    let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    let row = (*cells.first()?).to_owned();
    if !row.ends_with(|last: char| last.is_ascii_digit()) {
        return None;
    }
    let [_, _, test, _, handlers] = cells[..] else { panic!("README.md:{number}: it has {} cells", cells.len()) };
    let test = match links(test)[..] {
        [(name, file)] => Some((file.to_owned(), full_name(name, file, number))),
        _ if test == "none yet" => None,
        _ => panic!("README.md:{number}: `{test}` is neither one test nor `none yet`"),
    };
    let handlers = handlers.split(", ").filter(|name| !name.is_empty()).map(|name| name.trim_matches('`').to_owned());
    Some(Line { number, row, test, handlers: handlers.collect() })
}

/// The name of the one test in a file that begins so.
fn full_name(beginning: &str, file: &str, number: usize) -> String {
    let tests = tests_of(&folder().join(file));
    let found: Vec<&String> = tests.iter().filter(|test| test.starts_with(beginning)).collect();
    let [one] = found[..] else { panic!("README.md:{number}: {} tests in {file} begin with {beginning}", found.len()) };
    one.clone()
}

/// The rows that a test names at its beginning: `s1_2_s1_3_an_event` is of S1.2 and S1.3.
fn rows_of(test: &str) -> Vec<String> {
    let (mut words, mut rows) = (test.split('_').peekable(), Vec::new());
    let number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    while let Some(word) = words.next() {
        match word.split_at_checked(1) {
            Some(("h", group)) if number(group) => rows.push(format!("H{group}")),
            Some(("s", group)) if number(group) => match words.next_if(|word| number(word)) {
                Some(row) => rows.push(format!("S{group}.{row}")),
                None => break,
            },
            _ => break,
        }
    }
    rows
}

/// Every file of Rust under this folder, but for what was built.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_row_is_in_the_map_and_each_test_is_of_a_row() {
    let all: BTreeSet<String> =
        ROWS.iter().flat_map(|(group, rows)| (1..=*rows).map(move |row| format!("{group}{row}"))).collect();
    let lines = lines();
    let mapped: BTreeSet<String> = lines.iter().map(|line| line.row.clone()).collect();
    assert_eq!(mapped, all, "the rows of tests/scenarios/README.md, and those that there are");
    for line in lines.iter().filter(|line| !line.handlers.is_empty()) {
        let here = line.test.as_ref().is_some_and(|(file, _)| folder().join(file).parent() == Some(&folder()));
        assert!(here, "README.md:{}: only a scenario can be run without a handler", line.number);
    }

    let mut files = Vec::new();
    ["host", "handlers", "tests"].iter().for_each(|folder| sources(&repository().join(folder), &mut files));
    let mut of_rows = 0;
    for file in files {
        for test in tests_of(&file) {
            let rows = rows_of(&test);
            of_rows += usize::from(!rows.is_empty());
            let unknown: Vec<&String> = rows.iter().filter(|row| !all.contains(*row)).collect();
            assert!(unknown.is_empty(), "{}: {test} is of {unknown:?}, which is no row", file.display());
        }
    }
    assert!(of_rows > 300, "{of_rows} tests of rows were found");
}

/// `| `order` | 149 | 339 |`
#[test]
fn no_example_handler_is_longer_than_the_map_says() {
    let text = fs::read_to_string(folder().join("README.md")).unwrap();
    let told: BTreeMap<String, [usize; 2]> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
            let [name, lib, all] = cells[..] else { return None };
            Some((name.trim_matches('`').to_owned(), [lib.parse().ok()?, all.parse().ok()?]))
        })
        .collect();
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(repository().join("handlers")).unwrap().map(|entry| entry.unwrap().path()) {
        if !folder.join("handler.toml").exists() {
            continue;
        }
        let mut files = Vec::new();
        sources(&folder.join("src"), &mut files);
        let lines = |file: &PathBuf| fs::read_to_string(file).unwrap().lines().count();
        let all = files.iter().filter(|file| !file.ends_with("tests.rs")).map(lines).sum();
        found
            .insert(folder.file_name().unwrap().to_str().unwrap().to_owned(), [lines(&folder.join("src/lib.rs")), all]);
    }
    assert!(told.keys().eq(found.keys()), "{:?} are told of, and {:?} are there", told.keys(), found.keys());
    for (name, now) in &found {
        let most = told[name];
        assert!(now[0] <= most[0] && now[1] <= most[1], "{name} has {now:?} lines, and the map says {most:?}");
    }
    let mut lib: Vec<usize> = found.values().map(|[lib, _]| *lib).collect();
    lib.sort_unstable();
    assert!(lib[lib.len() / 2] < 120, "{lib:?}");
}
