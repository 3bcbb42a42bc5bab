//! TLS on the handlers' listener.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidemill_tests::{Authority, Daemon, LONG, Sandbox, eventually};

/// What a client that trusts this authority alone is answered to `GET path`, or why it goes no further.
fn get(daemon: &Daemon, authority: &Authority, path: &str) -> Result<String, String> {
    let address = daemon.url().strip_prefix("https://").expect("the ready line says https");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost"])
        .args(["-servername", "localhost", "-alpn", "http/1.1", "-connect", address, "-CAfile"])
        .arg(authority.path("ca.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // A client that does not trust has gone already.
    let _ = client.stdin.as_mut().unwrap().write_all(request.as_bytes());
    let output = client.wait_with_output().unwrap();
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    if answer.is_empty() { Err(String::from_utf8_lossy(&output.stderr).into_owned()) } else { Ok(answer) }
}

#[test]
fn s2_3_requests_come_over_tls_and_a_renewed_certificate_is_taken_without_a_restart() {
    let [first, second] = [Authority::new(), Authority::new()];
    [&first, &second].into_iter().for_each(|authority| authority.issue("localhost"));
    let sandbox = Sandbox::with(&["hostile"]);
    let [certificate, key] = ["server.pem", "server.key"].map(|name| sandbox.root().join(name));
    let put = |from: &Authority, key_of: &Authority| {
        for (from, to) in [(key_of.path("localhost.key"), &key), (from.path("localhost.pem"), &certificate)] {
            std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
        }
    };
    let tls = "[http.tls]\ncertificate-file = \"server.pem\"\nkey-file = \"server.key\"\n";
    sandbox.write_toml(tls);
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("server.pem"), "{code}: {error}");
    put(&first, &second);
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("do not go together"), "{code}: {error}");
    sandbox.write_toml("[http.tls]\ncertificate-file = \"server.pem\"\n");
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 2 && error.contains("`http.tls.key-file`: is missing"), "{code}: {error}");

    sandbox.write_toml(tls);
    put(&first, &first);
    let mut daemon = Daemon::start(&sandbox);
    let answer = get(&daemon, &first, "/hostile/seen").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let distrust = get(&daemon, &second, "/hostile/seen").unwrap_err();
    assert!(distrust.contains("verify"), "{distrust}");

    // Who speaks no TLS is not answered, and is in nobody's way.
    let address = daemon.url().strip_prefix("https://").unwrap().to_owned();
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    plain.write_all(b"GET /hostile/seen HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let silent = TcpStream::connect(&address).unwrap();

    // A pair that does not fit leaves the one before; one that does takes its place.
    put(&second, &first);
    eventually(LONG, "the wrong pair is refused", || {
        get(&daemon, &first, "/hostile/seen").unwrap();
        daemon.find(&["ERROR", "do not go together"]).is_some()
    });
    put(&second, &second);
    eventually(LONG, "the new certificate is served", || get(&daemon, &second, "/hostile/seen").is_ok());
    assert!(get(&daemon, &first, "/hostile/seen").is_err());
    drop(silent);
    daemon.terminate();
}
