//! Everything that a user of the crate can name is shown in an example.
//!
//! It reads the sources as text: rustdoc itself can count examples only on its nightly channel.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the sources cannot go on")]

use std::fs;
use std::path::{Path, PathBuf};

const ITEMS: [&str; 9] = ["fn ", "const fn ", "struct ", "enum ", "type ", "trait ", "static ", "const ", "mod "];

#[test]
fn every_public_item_has_an_example() {
    let mut lacking = Vec::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"), "//!", &mut lacking);
    assert!(lacking.is_empty(), "without an example:\n{}", lacking.join("\n"));
}

/// Collects the items of this file, and of the modules that it declares, that have no example. The file's own docs are
/// looked at if `module` is their mark.
fn look(file: &Path, module: &str, lacking: &mut Vec<String>) {
    let text = fs::read_to_string(file).unwrap();
    let name = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display();
    let own: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if !module.is_empty() && !shows(&own, module) {
        lacking.push(format!("{name}: the module itself"));
    }
    let mut above: Vec<&str> = Vec::new();
    // What is indented deeper stands in the body of a macro or of a function.
    for line in text.lines().filter(|line| !line.starts_with("     ")).map(str::trim) {
        if line.starts_with("#[cfg(test)]") {
            break;
        }
        if line.starts_with("///") || line.starts_with("#[") {
            above.push(line);
            continue;
        }
        let hidden = above.contains(&"#[doc(hidden)]");
        let exported = above.contains(&"#[macro_export]") && line.starts_with("macro_rules!");
        let public = line.strip_prefix("pub ").is_some_and(|item| ITEMS.iter().any(|kind| item.starts_with(kind)));
        let declared = line.strip_suffix(';').and_then(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
        match declared {
            Some(_) if hidden => {}
            Some(declared) => look(&file_of(file, declared), if public { "//!" } else { "" }, lacking),
            None if (public || exported) && !hidden && !shows(&above, "///") => lacking.push(format!("{name}: {line}")),
            None => {}
        }
        above.clear();
    }
}

/// Where the module of this name lies that `file` declares.
fn file_of(file: &Path, module: &str) -> PathBuf {
    let folder = if file.ends_with("lib.rs") { file.with_file_name("") } else { file.with_extension("") };
    folder.join(module).with_extension("rs")
}

/// Whether a fence opens in these docs that rustdoc compiles.
fn shows(docs: &[&str], mark: &str) -> bool {
    let fences = docs.iter().filter_map(|line| line.strip_prefix(mark)?.trim().strip_prefix("```"));
    fences.step_by(2).any(|tag| ["", "no_run", "should_panic", "compile_fail"].contains(&tag))
}
