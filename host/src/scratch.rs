//! A folder for what a command needs only while it runs.
//!
//! It is nobody else's, and it goes with its value, however the command ends.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The folder.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one among the system's temporary folders.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("tidemill-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&folder).with_context(|| format!("make the folder {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
