//! The files that people and builds hand to the daemon: manifests, settings, components.

use std::sync::LazyLock;

use tidemill::deploy::artifact;
use tidemill::deploy::manifest::{Manifest, Spec};
use tidemill::ledger::deployment::Migration;
use tidemill::settings::{Defaults, Problems, Settings};
use wasm_encoder::{Component, CustomSection, Module, ModuleSection};

use crate::input;

static DEFAULTS: LazyLock<Defaults> = LazyLock::new(|| Settings::parse("", "tidemill.toml").unwrap().defaults);

/// What a manifest says does not hang on how its TOML is spelled, and each problem has its place.
pub(crate) fn manifests(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let manifest = match Manifest::parse(text, "handler.toml") {
        Ok(manifest) => manifest,
        Err(problems) => return placed(&problems, text, "handler.toml"),
    };
    assert_eq!(Manifest::parse(&rewritten(text), "handler.toml").as_ref(), Ok(&manifest));
    match Spec::resolve(&manifest, &DEFAULTS, None) {
        Ok(spec) => assert_eq!(Some(spec.name), manifest.name),
        Err(problems) => assert!(problems.iter().all(|problem| problem.origin.starts_with("handler `"))),
    }
}

/// The same of settings; after a zero byte variables may follow, one a line.
pub(crate) fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(variables) = text.strip_prefix('\0') {
        return environment(variables);
    }
    match Settings::parse(text, "tidemill.toml") {
        Ok(settings) => {
            let again = Settings::parse(&rewritten(text), "tidemill.toml").unwrap();
            assert_eq!(format!("{again:?}"), format!("{settings:?}"));
        }
        Err(problems) => placed(&problems, text, "tidemill.toml"),
    }
}

/// `NAME=value` lines; each problem names a variable that is there.
fn environment(lines: &str) {
    let variables = || lines.lines().filter_map(|line| line.split_once('='));
    let env = variables().map(|(name, value)| (format!("TIDEMILL_{name}"), value.to_owned()));
    if let Err(problems) = Settings::load(Some("/dev/null".as_ref()), env) {
        assert!(!problems.is_empty());
        for problem in problems.iter() {
            // What only several values together get wrong is said of the file.
            let named = variables().any(|(name, _)| problem.origin == format!("TIDEMILL_{name}"));
            assert!(named || problem.origin == "/dev/null", "{problem}");
        }
    }
}

/// Each problem names the file, and a line of it or a key.
fn placed(problems: &Problems, text: &str, file: &str) {
    assert!(!problems.is_empty());
    let lines = 1 + text.matches('\n').count();
    for problem in problems.iter() {
        assert_eq!(problem.origin, file);
        assert!(problem.line.is_none_or(|line| (1..=lines).contains(&line)), "{problem}");
        assert!(problem.message.starts_with("not valid TOML: ") || problem.message.contains('`'), "{problem}");
        // The TOML reader does not say where the nesting is too deep.
        let placed = problem.line.is_some() || problem.message.ends_with("recursion limit");
        assert!(placed || problem.message.contains('`'), "{problem}");
    }
}

/// The same values as another program would write them.
fn rewritten(text: &str) -> String {
    let values: toml::Table = toml::from_str(text).unwrap();
    toml::to_string(&values).unwrap()
}

#[derive(arbitrary::Arbitrary, Debug)]
struct Parts<'a> {
    manifest: Option<&'a str>,
    migrations: Vec<(&'a str, &'a str)>,
    other: (&'a str, &'a [u8]),
    nested: bool,
    cut: u16,
}

/// A component's manifest and migrations come out as they went in; a part of a file is told from one that is damaged;
/// any other bytes are an error or a component.
pub(crate) fn sections(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    if first % 2 == 0 {
        if let Ok((manifest, migrations)) = artifact::sections(rest) {
            let sum = migrations.iter().map(|m| m.name.len() + m.sql.len()).sum::<usize>();
            assert!(manifest.map_or(0, |text| text.len()) + sum <= rest.len());
        }
        return;
    }
    let Some(parts) = input::read::<Parts<'_>>(rest) else { return };
    let component = parts.component();
    let (manifest, migrations) = artifact::sections(&component).unwrap();
    assert_eq!(manifest.as_deref(), parts.manifest);
    let migration = |(name, sql): &(&str, &str)| Migration { name: (*name).to_owned(), sql: (*sql).to_owned() };
    assert_eq!(migrations, parts.migrations.iter().map(migration).collect::<Vec<_>>());

    let cut = usize::from(parts.cut) % component.len();
    if let Err(error) = artifact::sections(&component[..cut]) {
        let error = format!("{error:#}");
        assert!(error.contains("perhaps it is still being copied"), "{cut} of {}: {error}", component.len());
    }
}

impl Parts<'_> {
    fn component(&self) -> Vec<u8> {
        let mut entries = Vec::new();
        for text in self.migrations.iter().flat_map(|(name, sql)| [name, sql]) {
            entries.extend((text.len() as u32).to_le_bytes());
            entries.extend(text.as_bytes());
        }
        let mut sections = vec![("tidemill:migrations", entries)];
        sections.extend(self.manifest.map(|text| ("tidemill:manifest", text.as_bytes().to_vec())));
        if !self.other.0.starts_with("tidemill:") {
            sections.insert(0, (self.other.0, self.other.1.to_vec()));
        }
        let (mut module, mut component) = (Module::new(), Component::new());
        for (name, data) in &sections {
            let section = CustomSection { name: (*name).into(), data: data.into() };
            if self.nested {
                module.section(&section);
            } else {
                component.section(&section);
            }
        }
        component.section(&ModuleSection(&module));
        component.finish()
    }
}
