//! Reading a TOML text section by section, with every problem collected and placed.
//!
//! A [`Section`] hands out values by key and remembers which keys were asked for; when it is dropped, every other
//! key in it is a problem, so no reader of a section can forget to refuse what it does not know. An environment
//! variable of the same name takes the place of a value. Nothing here knows what the keys mean.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::problems::{Problem, Problems};
use super::value::{Value, or_list};

/// What the names of variables start with.
pub(crate) const PREFIX: &str = "TIDEMILL_";

/// Environment variables by name.
pub(crate) type Variables = BTreeMap<String, String>;

/// What was noticed while reading.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    problems: Problems,
    /// Every dotted key with a value that a reader asked for, and the variable that can set it.
    keys: BTreeMap<String, Option<String>>,
    used: BTreeSet<String>,
}

/// One text that is being read.
pub(crate) struct Reader<'t> {
    origin: &'t str,
    text: &'t str,
    variables: &'t Variables,
    seen: RefCell<Seen>,
}

/// Reads `text` with `shape`, which takes what it knows from the root section. `origin` names the text in problems.
///
/// # Errors
/// All problems: of the syntax if there are any, of the content otherwise, variables that nothing asked for last.
pub(crate) fn read<T>(
    origin: &str,
    text: &str,
    variables: &Variables,
    shape: impl FnOnce(&Section<'_>) -> T,
) -> Result<T, Problems> {
    let (value, seen) = scan(origin, text, variables, shape)?;
    seen.problems.or(value)
}

/// Every key that `shape` asks for when it reads `text`.
#[cfg(test)]
pub(crate) fn keys(text: &str, shape: impl FnOnce(&Section<'_>)) -> Vec<String> {
    scan("keys", text, &Variables::new(), shape).map(|((), seen)| seen.keys.into_keys().collect()).unwrap_or_default()
}

fn scan<T>(
    origin: &str,
    text: &str,
    variables: &Variables,
    shape: impl FnOnce(&Section<'_>) -> T,
) -> Result<(T, Seen), Problems> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let reader = Reader { origin, text, variables, seen: RefCell::default() };
    for error in errors {
        reader.problem(error.span().map(|span| reader.line(&span)), format!("not valid TOML: {}", error.message()));
    }
    if !reader.seen.borrow().problems.is_empty() {
        return Err(reader.seen.into_inner().problems.or(()).err().unwrap_or_default());
    }
    let value = {
        let root = Section::new(&reader, Some(root.get_ref()), String::new(), None, true);
        shape(&root)
    };
    reader.check_variables();
    Ok((value, reader.seen.into_inner()))
}

impl Reader<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.text.as_bytes().iter().take(span.start).filter(|b| **b == b'\n').count()
    }

    fn problem(&self, line: Option<usize>, message: String) {
        self.seen.borrow_mut().problems.push(Problem { origin: self.origin.to_owned(), line, message });
    }

    fn check_variables(&self) {
        let mut seen = self.seen.borrow_mut();
        let known: Vec<String> = seen.keys.values().flatten().cloned().collect();
        let unused: Vec<String> = self.variables.keys().filter(|name| !seen.used.contains(*name)).cloned().collect();
        for name in unused {
            let valid = known.iter().map(|known| bare(known));
            let message = match closest(bare(&name), valid) {
                Some(close) => format!("sets nothing; did you mean {PREFIX}{close}?"),
                None => "sets nothing; unset it, or see the list of settings for its name".to_owned(),
            };
            seen.problems.push(Problem { origin: name, line: None, message });
        }
    }
}

/// One table of the text, or the place of one that is not there.
pub(crate) struct Section<'r> {
    reader: &'r Reader<'r>,
    table: Option<&'r DeTable<'r>>,
    path: String,
    line: Option<usize>,
    variables: bool,
    asked: RefCell<Vec<String>>,
}

/// A key and its value, with their places.
type Pair<'r> = (&'r Spanned<DeString<'r>>, &'r Spanned<DeValue<'r>>);

/// One entry of a section whose keys are free.
pub(crate) struct Entry<'r> {
    /// The key as written.
    pub(crate) name: &'r str,
    /// The line of the key.
    pub(crate) line: usize,
    /// The value.
    pub(crate) value: &'r DeValue<'r>,
}

impl<'r> Section<'r> {
    fn new(
        reader: &'r Reader<'r>,
        table: Option<&'r DeTable<'r>>,
        path: String,
        line: Option<usize>,
        variables: bool,
    ) -> Self {
        Self { reader, table, path, line, variables, asked: RefCell::default() }
    }

    /// The value of `key`, read by `parse`; `None` if it is missing or wrong, and a wrong one is a problem.
    pub(crate) fn take<T>(&self, key: &str, parse: impl FnOnce(Value<'r>) -> Result<T, String>) -> Option<T> {
        let entry = self.ask(key);
        if let Some((name, text)) = self.variable(key) {
            let parsed = parse(Value::Variable(text));
            return parsed
                .map_err(|message| {
                    let problem = Problem { origin: name, line: None, message };
                    self.reader.seen.borrow_mut().problems.push(problem);
                })
                .ok();
        }
        let (_, value) = entry?;
        parse(Value::File(value.get_ref())).map_err(|wrong| self.wrong(key, &value.span(), &wrong)).ok()
    }

    /// Like [`Section::take`], and a missing key is a problem.
    pub(crate) fn require<T>(&self, key: &str, parse: impl FnOnce(Value<'r>) -> Result<T, String>) -> Option<T> {
        let missing = self.variable(key).is_none() && self.find(key).is_none();
        if missing {
            self.reader.problem(self.line, format!("`{}` is missing", self.dotted(key)));
        }
        self.take(key, parse)
    }

    /// Whether there is anything under `key`, wrong or not.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The array of `key`, each item read by `parse` and its problems placed at the item. A variable lists the items
    /// with commas.
    pub(crate) fn list<T>(&self, key: &str, parse: impl Fn(Value<'r>) -> Result<T, String>) -> Option<Vec<T>> {
        let entry = self.ask(key);
        if self.variable(key).is_some() {
            return self
                .take(key, |value| value.text()?.split(',').map(|item| parse(Value::Variable(item.trim()))).collect());
        }
        let (_, value) = entry?;
        let DeValue::Array(items) = value.get_ref() else {
            let found = Value::File(value.get_ref());
            self.wrong(key, &value.span(), &format!("expected an array like [\"a\", \"b\"], found {found}"));
            return None;
        };
        let read = |item: &'r Spanned<DeValue<'r>>| {
            parse(Value::File(item.get_ref())).map_err(|wrong| self.wrong(key, &item.span(), &wrong)).ok()
        };
        Some(items.iter().filter_map(read).collect())
    }

    /// The table of `key`; one that is missing or no table reads as empty.
    pub(crate) fn section(&self, key: &str) -> Section<'r> {
        let entry = self.ask_table(key);
        let line = entry.map(|(key, _)| self.reader.line(&key.span()));
        let table = entry.and_then(|(_, value)| self.table(key, value));
        Section::new(self.reader, table, self.dotted(key), line, self.variables)
    }

    /// The tables of the array `[[key]]`; `None` if it is missing or no such array.
    pub(crate) fn sections(&self, key: &str) -> Option<Vec<Section<'r>>> {
        let (_, value) = self.ask_table(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let wrong =
                format!("expected tables like [[{}]], found {}", self.dotted(key), Value::File(value.get_ref()));
            self.wrong(key, &value.span(), &wrong);
            return None;
        };
        let section = |item: &'r Spanned<DeValue<'r>>| {
            let line = Some(self.reader.line(&item.span()));
            self.table(key, item).map(|table| Section::new(self.reader, Some(table), self.dotted(key), line, false))
        };
        Some(items.iter().filter_map(section).collect())
    }

    /// The tables inside the table `key`, by their names.
    pub(crate) fn named_sections(&self, key: &str) -> Vec<(Entry<'r>, Section<'r>)> {
        let outer = self.section(key);
        let named = |entry: Entry<'r>| {
            let found = outer.find(entry.name).and_then(|(_, value)| outer.table(entry.name, value))?;
            let inner = Section::new(self.reader, Some(found), outer.dotted(entry.name), Some(entry.line), false);
            Some((entry, inner))
        };
        outer.entries().into_iter().filter_map(named).collect()
    }

    /// Everything in this section, whose keys are free.
    pub(crate) fn entries(&self) -> Vec<Entry<'r>> {
        let entries = self.table.into_iter().flatten();
        entries
            .map(|(name, value)| {
                self.asked.borrow_mut().push(name.get_ref().to_string());
                Entry { name: name.get_ref(), line: self.reader.line(&name.span()), value: value.get_ref() }
            })
            .collect()
    }

    /// The variables whose names start with this section's, for sections whose keys are free: the rest of the name,
    /// the name, the text.
    pub(crate) fn variables(&self) -> Vec<(&'r str, &'r str, &'r str)> {
        let prefix = format!("{}_", variable_name(&self.path));
        let variables = self.reader.variables.iter().filter(|_| self.variables);
        let all = variables.filter_map(|(name, text)| {
            let rest = name.strip_prefix(&prefix)?;
            self.reader.seen.borrow_mut().used.insert(name.clone());
            Some((rest, name.as_str(), text.as_str()))
        });
        all.collect()
    }

    /// Adds a problem with `key`, at its line if it is there, and otherwise at the section's.
    pub(crate) fn problem(&self, key: &str, wrong: &str) {
        match self.find(key) {
            Some((name, _)) => self.wrong(key, &name.span(), wrong),
            None => self.reader.problem(self.line, format!("`{}`: {wrong}", self.dotted(key))),
        }
    }

    /// Adds a problem at a given line.
    pub(crate) fn problem_at(&self, line: usize, message: String) {
        self.reader.problem(Some(line), message);
    }

    /// The line of a place in the text.
    pub(crate) fn line_of(&self, span: &Range<usize>) -> usize {
        self.reader.line(span)
    }

    /// Adds a problem with a variable.
    pub(crate) fn variable_problem(&self, variable: &str, message: String) {
        let problem = Problem { origin: variable.to_owned(), line: None, message };
        self.reader.seen.borrow_mut().problems.push(problem);
    }

    /// Its dotted name; empty for the root.
    pub(crate) fn name(&self) -> &str {
        &self.path
    }

    /// The dotted name of `key`.
    pub(crate) fn dotted(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, span: &Range<usize>, wrong: &str) {
        self.reader.problem(Some(self.reader.line(span)), format!("`{}`: {wrong}", self.dotted(key)));
    }

    fn find(&self, key: &str) -> Option<Pair<'r>> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key)
    }

    /// Asks for a key that holds further keys.
    fn ask_table(&self, key: &str) -> Option<Pair<'r>> {
        self.asked.borrow_mut().push(key.to_owned());
        self.find(key)
    }

    /// Asks for a key that holds a value.
    fn ask(&self, key: &str) -> Option<Pair<'r>> {
        let dotted = self.dotted(key);
        let variable = self.variables.then(|| variable_name(&dotted));
        self.reader.seen.borrow_mut().keys.insert(dotted, variable);
        self.ask_table(key)
    }

    fn variable(&self, key: &str) -> Option<(String, &'r str)> {
        let name = self.variables.then(|| variable_name(&self.dotted(key)))?;
        let text = self.reader.variables.get(&name)?;
        self.reader.seen.borrow_mut().used.insert(name.clone());
        Some((name, text))
    }

    fn table(&self, key: &str, value: &'r Spanned<DeValue<'r>>) -> Option<&'r DeTable<'r>> {
        if let DeValue::Table(table) = value.get_ref() {
            return Some(table);
        }
        // What stands where it does not belong may be secret.
        let found = match value.get_ref() {
            DeValue::String(_) => "a string".to_owned(),
            other => Value::File(other).to_string(),
        };
        self.wrong(key, &value.span(), &format!("expected a table, found {found}"));
        None
    }
}

impl Drop for Section<'_> {
    /// Reports the keys that nothing asked for.
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            if asked.iter().any(|key| key == name.get_ref()) {
                continue;
            }
            let hint = match closest(name.get_ref(), asked.iter().map(String::as_str)) {
                Some(close) => format!("did you mean `{close}`?"),
                None if asked.is_empty() => "no key is valid here".to_owned(),
                None => {
                    let valid: BTreeSet<String> = asked.iter().map(|key| format!("`{key}`")).collect();
                    format!("valid here is {}", or_list(&valid.into_iter().collect::<Vec<_>>()))
                }
            };
            let line = self.reader.line(&name.span());
            self.reader.problem(Some(line), format!("unknown key `{}`; {hint}", self.dotted(name.get_ref())));
        }
    }
}

/// `kafka.keep-embedded` is set by `TIDEMILL_KAFKA_KEEP_EMBEDDED`.
fn variable_name(dotted: &str) -> String {
    let upper = dotted.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    PREFIX.chars().chain(upper).collect()
}

/// A variable's name without the prefix that all of them share.
fn bare(variable: &str) -> &str {
    variable.strip_prefix(PREFIX).unwrap_or(variable)
}

/// The one of `valid` that is spelled most like `word`, if any is close enough to be what was meant.
fn closest<'a>(word: &str, valid: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('_', "-");
    let word = plain(word);
    let near = valid.map(|key| (strsim::damerau_levenshtein(&word, &plain(key)), key));
    let (distance, key) = near.min_by_key(|(distance, _)| *distance)?;
    (distance <= (word.chars().count() / 3).max(1)).then_some(key)
}
