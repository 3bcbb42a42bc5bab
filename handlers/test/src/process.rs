//! The process of a rig: started, asked, killed, started again on the same folder.
//!
//! Its invariant: one line goes out and one comes back, or the process has died, which is told apart. It ends with its owner.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value as Json;

/// The process has ended.
#[derive(Debug)]
pub(crate) struct Died;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts one. Its first line comes with it.
    pub(crate) fn start(binary: &Path, arguments: &[OsString]) -> (Self, Json) {
        let mut command = Command::new(binary);
        command.arg("rig").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| no_binary(binary, &error));
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("the process has a standard output"));
        let mut process = Self { child, input, output };
        match process.answer() {
            Ok(greeting) => (process, greeting),
            Err(Died) => panic!("`tidemill rig` has not begun: {}", process.last_words()),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) fn ask(&mut self, line: &Json) -> Result<Json, Died> {
        let input = self.input.as_mut().ok_or(Died)?;
        writeln!(input, "{line}").and_then(|()| input.flush()).map_err(|_| Died)?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Json, Died> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) | Err(_) => Err(Died),
            Ok(_) => Ok(serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("`tidemill rig` has answered what is no JSON ({error}): {line}"))),
        }
    }

    /// Kills it, as a power cut or the kernel would.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, and what it wrote to standard error. Waits for its end.
    pub(crate) fn last_words(&mut self) -> String {
        self.input = None;
        let mut words = String::new();
        if let Some(mut error) = self.child.stderr.take() {
            let _ = error.read_to_string(&mut words);
        }
        match self.child.wait() {
            Ok(status) => format!("{status}\n{words}"),
            Err(_) => words,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.input = None;
        // It ends with its input, in order.
        let _ = self.child.wait();
    }
}

/// The binary that tests run.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("TIDEMILL_BIN").map_or_else(|| PathBuf::from("tidemill"), PathBuf::from)
}

/// The component of the package whose tests run, as it is now.
pub(crate) fn built() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test, and names its package");
        // A file of its own: what is deployed is built by a person.
        let file = Path::new(&package).join("target/tidemill-test.wasm");
        let binary = binary();
        let mut command = Command::new(&binary);
        command.arg("build").arg(&package).arg("--out").arg(&file);
        let out = command.output().unwrap_or_else(|error| no_binary(&binary, &error));
        assert!(out.status.success(), "`tidemill build`: {}", String::from_utf8_lossy(&out.stderr));
        file
    };
    BUILT.get_or_init(build).clone()
}

fn no_binary(binary: &Path, error: &std::io::Error) -> ! {
    panic!("{} cannot be started ({error}): put it on your PATH, or set TIDEMILL_BIN to where it is", binary.display())
}

/// The file that a test means: its path, or a handler's name.
pub(crate) fn component(handler: &Path) -> PathBuf {
    if handler.extension().is_some_and(|extension| extension == "wasm") {
        assert!(handler.exists(), "there is no {}: build the handler for wasm32-wasip2", handler.display());
        return handler.to_owned();
    }
    let file = format!("{}.wasm", handler.display().to_string().replace('-', "_"));
    if let Some(folder) = std::env::var_os("TIDEMILL_WASM") {
        let path = Path::new(&folder).join(&file);
        assert!(path.exists(), "there is no {} (TIDEMILL_WASM): build the handler for wasm32-wasip2", path.display());
        return path;
    }
    let here = std::env::current_dir().unwrap_or_default();
    let built = here.ancestors().flat_map(|folder| {
        let target = folder.join("target/wasm32-wasip2");
        ["release", "debug"].map(|profile| target.join(profile).join(&file))
    });
    let newest = built.filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    let advice = "cargo build --release --target wasm32-wasip2";
    match newest {
        Some((_, path)) => path,
        None => panic!(
            "there is no {file} in target/wasm32-wasip2 of {} or above: `{advice}` makes it, or set TIDEMILL_WASM",
            here.display()
        ),
    }
}
