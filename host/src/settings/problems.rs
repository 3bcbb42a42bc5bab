//! What is wrong with a file of settings: every problem at once, each with its place.
//!
//! A problem names the file (or variable), the line where there is one, the key, what is wrong and what would be
//! right. This file only holds and prints them; finding them is the reader's work.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, the environment variable, or whatever else the text came from.
    pub origin: String,
    /// The line in that file, from 1.
    pub line: Option<usize>,
    /// The key in backquotes, what is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.origin, self.message),
            None => write!(f, "{}: {}", self.origin, self.message),
        }
    }
}

/// Everything that is wrong; never empty when it is returned as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// One problem without a line.
    pub fn one(origin: impl Into<String>, message: impl Into<String>) -> Self {
        Self(vec![Problem { origin: origin.into(), line: None, message: message.into() }])
    }

    /// Adds one more.
    pub fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: Problems) {
        self.0.extend(other.0);
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, if nothing is wrong.
    ///
    /// # Errors
    /// These problems, sorted by line; those without a line come last.
    pub fn or<T>(mut self, value: T) -> Result<T, Problems> {
        if self.is_empty() {
            return Ok(value);
        }
        self.0.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        Err(self)
    }
}

impl fmt::Display for Problems {
    /// One line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
