//! The binary `tidemill`: everything is in the library.

/// Runs the command line.
fn main() -> std::process::ExitCode {
    tidemill::cli::main()
}
