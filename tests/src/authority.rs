//! A certificate authority of a test's own, made with openssl.

use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, with what it has issued, in a folder that goes with it.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
}

/// Runs openssl in a folder.
fn openssl(folder: &Path, arguments: &[&str]) {
    let output = Command::new("openssl").current_dir(folder).args(arguments).output();
    let output = output.expect("run openssl, which `.ci/setup tests` installs");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// One that nobody knows; its certificate is `ca.pem`.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tm-ca-").tempdir().expect("make a folder for certificates");
        let own = ["-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=an authority of tests"];
        openssl(folder.path(), &[&["req", "-x509", "-newkey", "rsa:2048", "-nodes"], &own[..]].concat());
        Self { folder }
    }

    /// A file of the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Issues a certificate for a host's name: `NAME.pem`, with its key in `NAME.key`.
    pub fn issue(&self, name: &str) {
        self.issue_for(name, 30);
    }

    /// One that is good for so many days; with none left it has ended.
    pub fn issue_for(&self, name: &str, days: i32) {
        let days = days.to_string();
        let folder = self.folder.path();
        let [key, request, certificate] = ["key", "csr", "pem"].map(|end| format!("{name}.{end}"));
        let subject = format!("/CN={name}");
        std::fs::write(self.path("names"), format!("subjectAltName=DNS:{name}\n")).expect("write a file of openssl's");
        openssl(
            folder,
            &["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &request],
        );
        let by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", &days, "-extfile", "names"];
        openssl(folder, &[&["x509", "-req", "-in", &request, "-out", &certificate], &by[..]].concat());
    }

    /// Writes a key a second time, behind a password.
    pub fn lock(&self, key: &str, password: &str, locked: &str) {
        let password = format!("pass:{password}");
        let arguments = ["pkcs8", "-topk8", "-v2", "aes256", "-passout", &password, "-in", key, "-out", locked];
        openssl(self.folder.path(), &arguments);
    }
}
