//! `tidemill version`.

/// The version, as `tidemill --version` prints it too.
pub(super) const TEXT: &str = env!("CARGO_PKG_VERSION");

/// Prints the version.
///
/// # Errors
/// Standard output is closed.
pub(super) fn run() -> anyhow::Result<()> {
    super::say(&format!("tidemill {TEXT}"))
}
