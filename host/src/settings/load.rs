//! Where settings come from: a file, and the environment on top.
//!
//! Reading touches nothing but the one file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::reader::{self, PREFIX, Variables};
use super::{Problems, Settings, Tls, read};

/// The file that is read when none is named.
pub const FILE: &str = "tidemill.toml";

/// Variables that are not settings: which file to read, the token of another machine's daemon, where the tests' Kafka keeps its jars,
/// and what tests of handlers run.
const OTHERS: [&str; 5] =
    ["TIDEMILL_CONFIG", "TIDEMILL_ADMIN_TOKEN", "TIDEMILL_KAFKA_LIBS", "TIDEMILL_BIN", "TIDEMILL_WASM"];

/// Variables for the tests' own use start with this.
const TESTS: &str = "TIDEMILL_TEST_";

impl Settings {
    /// The settings of the file `path`, or of `tidemill.toml` in the current folder if there is one, with the
    /// `TIDEMILL_*` variables of `env` on top.
    ///
    /// # Errors
    /// Everything that is wrong with the file and the variables, or that the named file cannot be read.
    pub fn load(path: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, Problems> {
        Self::load_with_text(path, env).map(|(settings, _)| settings)
    }

    /// The same, with the file's text.
    ///
    /// # Errors
    /// Everything that is wrong, as above.
    pub fn load_with_text(
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<(Self, String), Problems> {
        let own = |name: &str| name.starts_with(PREFIX) && !OTHERS.contains(&name) && !name.starts_with(TESTS);
        let variables: Variables = env.filter(|(name, _)| own(name)).collect();
        let file = path.map_or_else(|| PathBuf::from(FILE), Path::to_path_buf);
        let origin = file.display().to_string();
        let text = match std::fs::read(&file) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| Problems::one(&origin, "is not UTF-8 text"))?,
            Err(error) if error.kind() == ErrorKind::NotFound && path.is_none() => String::new(),
            Err(error) => {
                return Err(Problems::one(
                    &origin,
                    format!("cannot be read ({error}); name an existing file, or leave out --config"),
                ));
            }
        };
        Ok((parse(&text, &file, &origin, &variables)?, text))
    }

    /// The settings that a text holds. `file` names it in problems, and relative paths are in its folder.
    ///
    /// # Errors
    /// Everything that is wrong with the text.
    pub fn parse(text: &str, file: &str) -> Result<Self, Problems> {
        parse(text, Path::new(file), file, &Variables::new())
    }

    /// The certificates and keys of all listeners that speak TLS.
    pub fn listeners_tls(&self) -> impl Iterator<Item = &Tls> {
        [&self.http.tls, &self.admin.tls, &self.metrics.tls].into_iter().flatten()
    }
}

fn parse(text: &str, file: &Path, origin: &str, variables: &Variables) -> Result<Settings, Problems> {
    let base = file.parent().unwrap_or(Path::new(""));
    reader::read(origin, text, variables, |root| read::settings(root, base))
}
