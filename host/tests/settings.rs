//! Every `.toml` file in `tests/settings` is read, and what is wrong with it compared with the `.err` file beside it.
//!
//! Files whose names start with `handler` are manifests, the others settings. An empty `.err` file stands for a good
//! one. `TIDEMILL_TEST_BLESS=1` writes the `.err` files anew; read what changed before keeping it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use tidemill::deploy::manifest::{Manifest, Spec};
use tidemill::settings::{Problems, Settings};

/// What is wrong with a text, as the operator sees it.
fn problems(name: &str, text: &str) -> String {
    let read = || -> Result<(), Problems> {
        if name.starts_with("handler") {
            let manifest = Manifest::parse(text, name)?;
            let defaults = Settings::parse("", "tidemill.toml")?.defaults;
            return Spec::resolve(&manifest, &defaults, None).map(drop);
        }
        Settings::parse(text, name).map(drop)
    };
    read().err().map(|problems| format!("{problems}\n")).unwrap_or_default()
}

#[test]
fn each_file_has_the_problems_that_stand_beside_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/settings");
    let bless = std::env::var_os("TIDEMILL_TEST_BLESS").is_some();
    let mut seen = 0;
    let mut different = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        seen += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let found = problems(name, &fs::read_to_string(&path).unwrap());
        let beside = path.with_extension("err");
        if bless {
            fs::write(&beside, &found).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_else(|error| panic!("{}: {error}", beside.display()));
        if found != expected {
            different.push(format!("{name}: expected\n{expected}found\n{found}"));
        }
    }
    assert!(seen > 20, "the files were not found");
    assert!(different.is_empty(), "{}", different.join("\n"));
}
