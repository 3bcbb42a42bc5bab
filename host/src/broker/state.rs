//! The file by which a daemon finds the embedded broker of its data folder.
//!
//! It appears at once and whole, after the broker has begun to listen. It says where to ask, and proves nothing.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// Random; another one for each start of a broker.
    pub incarnation: String,
    /// `host:port` of the Kafka listener.
    pub bootstrap: String,
    /// The broker's process, for people and their tools; the daemon decides nothing by it.
    pub pid: u32,
    /// The control socket's absolute path.
    pub control: PathBuf,
}

impl State {
    /// `None` when there is no such file, or when it is not a state file (which is logged: it is of no use then).
    pub fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        let text = match fs::read(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        match serde_json::from_slice(&text) {
            Ok(state) => Ok(Some(state)),
            Err(error) => {
                tracing::warn!("{} is not the file of an embedded broker and is ignored: {error}", file.display());
                Ok(None)
            }
        }
    }

    /// Writes a file beside it and renames that, so that a reader sees all or nothing.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context("encode the embedded broker's state")?;
        text.push(b'\n');
        let half = file.with_extension("json.tmp");
        fs::write(&half, text).with_context(|| format!("write {}", half.display()))?;
        fs::rename(&half, file).with_context(|| format!("rename {} to {}", half.display(), file.display()))
    }

    /// Removes the file, the socket and the socket's own folder, as far as they are still this broker's.
    pub fn forget(&self, file: &Path) {
        let ours = matches!(Self::read(file), Ok(Some(state)) if state.incarnation == self.incarnation);
        if !ours {
            return;
        }
        // What cannot be removed does no harm: whoever reads the file asks the socket, and gets no answer.
        let _ = fs::remove_file(file);
        let _ = fs::remove_file(&self.control);
        if let Some(folder) = self.control.parent().filter(|folder| Some(*folder) != file.parent()) {
            let _ = fs::remove_dir(folder);
        }
    }
}
