//! A folder of its own for each test: data, handlers, settings. What was started in it ends with it.
//!
//! A file is put into the handlers folder as a person's tools would do it: whole, by a rename.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::component::doing_nothing;
use crate::http::Call;
use crate::wait::{SOON, eventually};

/// Keeps the folders, for looking at them after a failure.
const KEEP: &str = "TIDEMILL_TEST_KEEP";

/// Names the handler in whose place one is deployed that does nothing, to see a test fail without it.
pub const EMPTY: &str = "TIDEMILL_TEST_EMPTY";

/// A data folder, a handlers folder and settings.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    _temp: Option<TempDir>,
    name: String,
    program: PathBuf,
    runs: AtomicU32,
}

impl Sandbox {
    /// A new one, empty.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let temp = tempfile::Builder::new().prefix("tm-").tempdir().expect("make a folder for the test");
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let keep = std::env::var_os(KEEP).is_some();
        let (root, temp) = if keep { (temp.keep(), None) } else { (temp.path().to_owned(), Some(temp)) };
        if keep {
            eprintln!("sandbox {name} stays: {}", root.display());
        }
        fs::create_dir(root.join("handlers")).expect("make the handlers folder");
        Self { root, _temp: temp, name, program: program(), runs: AtomicU32::new(0) }
    }

    /// One with these files of the example and test handlers: `order`, `notification`, `hostile`.
    pub fn with(handlers: &[&str]) -> Self {
        let sandbox = Self::new();
        handlers.iter().for_each(|name| sandbox.deploy(name));
        sandbox
    }

    /// The folder itself, where `tidemill.toml` is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The daemon's data folder.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// A file in the handlers folder.
    pub fn handler(&self, file: &str) -> PathBuf {
        self.root.join("handlers").join(file)
    }

    /// A store's database file.
    pub fn store_file(&self, store: &str) -> PathBuf {
        self.data().join("stores").join(format!("{store}.db"))
    }

    /// `base` with an ending that no other sandbox has: for topics and groups on a cluster that tests share.
    pub fn unique(&self, base: &str) -> String {
        format!("{base}-{}", self.name)
    }

    /// Puts `NAME.wasm` as it was built into the handlers folder.
    pub fn deploy(&self, name: &str) {
        self.deploy_bytes(&format!("{name}.wasm"), &built(name));
    }

    /// Puts a file into the handlers folder, whole at once.
    pub fn deploy_bytes(&self, file: &str, bytes: &[u8]) {
        let aside = self.handler(&format!(".{file}.new"));
        fs::write(&aside, bytes).expect("write a handler's file");
        fs::rename(aside, self.handler(file)).expect("rename a handler's file");
    }

    /// Takes a file out of the handlers folder.
    pub fn remove(&self, file: &str) {
        fs::remove_file(self.handler(file)).expect("remove a handler's file");
    }

    /// The file of the settings.
    pub fn toml(&self) -> PathBuf {
        self.root.join("tidemill.toml")
    }

    /// Writes the settings. The daemon's folders and address come from variables on top of them.
    pub fn write_toml(&self, text: &str) {
        fs::write(self.toml(), text).expect("write tidemill.toml");
    }

    /// Another build of the daemon runs here.
    pub fn set_program(&mut self, program: &Path) {
        program.clone_into(&mut self.program);
    }

    /// The program with the sandbox's settings in its environment, and none of the caller's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEMILL_") {
                command.env_remove(name);
            }
        }
        if self.toml().exists() {
            command.env("TIDEMILL_CONFIG", self.toml());
        }
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("TIDEMILL_DATA", self.data())
            .env("TIDEMILL_HANDLERS", self.root.join("handlers"))
            .env("TIDEMILL_HTTP_LISTEN", "127.0.0.1:0");
        command
    }

    /// Runs a subcommand that ends by itself.
    pub fn tidemill(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("run tidemill")
    }

    /// A request to the admin API of the sandbox's daemon, with its token.
    pub fn admin(&self, method: &str, path: &str) -> Call {
        self.admin_without_token(method, path)
            .token(fs::read_to_string(self.data().join("admin.token")).unwrap().trim())
    }

    /// The same without the token.
    pub fn admin_without_token(&self, method: &str, path: &str) -> Call {
        let url = fs::read_to_string(self.data().join("admin.url")).expect("the address of the admin API");
        Call::new(method, &format!("{}/admin/v1/{path}", url.trim()))
    }

    /// The audit log's lines.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.data().join("audit.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// A number for each run of the daemon, from 1.
    pub(crate) fn next_run(&self) -> u32 {
        self.runs.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// What the embedded broker's state file says, if there is one.
    pub fn broker_state(&self) -> Option<serde_json::Value> {
        broker_state(&self.data())
    }

    /// Kills the embedded broker of this data folder, if it runs.
    pub fn kill_broker(&self) {
        kill_broker(&self.data());
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill_broker();
    }
}

fn broker_state(data: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(data.join("broker.json")).ok()?).ok()
}

/// Kills the embedded broker of a data folder, if it runs.
pub fn kill_broker(data: &Path) {
    let Some(pid) = broker_state(data).and_then(|state| state["pid"].as_i64()) else { return };
    let cmdline = format!("/proc/{pid}/cmdline");
    // The number may belong to somebody else by now; the command line names our data folder.
    let data = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    let ours = || {
        let line = fs::read(&cmdline).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&data.display().to_string())
    };
    if ours() {
        let pid = Pid::from_raw(pid as i32).expect("a process id");
        let _ = kill_process(pid, Signal::KILL);
        eventually(SOON, "the embedded broker ends after SIGKILL", || !ours());
    }
}

/// A bearer token for a user of this sandbox's daemon.
pub fn token(sandbox: &Sandbox, user: &str) -> String {
    let out = sandbox.tidemill(&["token", "--user", user]);
    assert!(out.status.success(), "tidemill token: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The daemon's program, as `make host` builds it.
pub fn program() -> PathBuf {
    target().join("release/tidemill")
}

/// A handler's component, as `make handlers guests` builds it.
pub fn built(name: &str) -> Vec<u8> {
    let places = [target().join("handlers"), target().join("guests")].map(|folder| folder.join(format!("{name}.wasm")));
    let file = places.iter().find(|file| file.exists());
    let file = file.unwrap_or_else(|| panic!("{name}.wasm is not built: run `make handlers guests`"));
    let component = fs::read(file).unwrap();
    if std::env::var(EMPTY).is_ok_and(|empty| empty == name) { doing_nothing(&component) } else { component }
}

/// A component with one more custom section of this name: another file that does the same.
pub fn with_section(component: &[u8], name: &str) -> Vec<u8> {
    with_content(component, name, &[])
}

/// A component, or a core module, with one more custom section of this name and content.
pub fn with_content(component: &[u8], name: &str, content: &[u8]) -> Vec<u8> {
    let mut section = length(name.len());
    section.extend(name.as_bytes());
    section.extend(content);
    [component, &[0], &length(section.len()), &section].concat()
}

/// As WebAssembly writes it: LEB128.
fn length(of: usize) -> Vec<u8> {
    let (low, rest) = ((of & 0x7f) as u8, of >> 7);
    if rest == 0 { vec![low] } else { [vec![low | 0x80], length(rest)].concat() }
}

/// The repository's folder.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn target() -> PathBuf {
    repository().join("target")
}
