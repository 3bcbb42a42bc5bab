//! S2.3 and H5: routes' tokens are checked by the keys that their issuer publishes, and goes on publishing.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tidemill_tests::issuer::in_seconds;
use tidemill_tests::{Daemon, Issuer, LONG, Sandbox, Service, eventually};

const ALL: [(&str, Algorithm); 9] = [
    ("rs256", Algorithm::RS256),
    ("rs384", Algorithm::RS384),
    ("rs512", Algorithm::RS512),
    ("ps256", Algorithm::PS256),
    ("ps384", Algorithm::PS384),
    ("ps512", Algorithm::PS512),
    ("es256", Algorithm::ES256),
    ("es384", Algorithm::ES384),
    ("eddsa", Algorithm::EdDSA),
];

/// The order handler, whose routes want a token, with these lines under `[http.jwt]`.
fn sandbox(jwt: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["order"]);
    sandbox.write_toml(&format!("[http.jwt]\n{jwt}"));
    sandbox
}

/// What a request with this token is answered: the status, and why if it is not 200.
fn asked(daemon: &Daemon, token: &str) -> (u16, String) {
    let reply = daemon.get("/api/orders", token);
    let why = if reply.status == 200 { String::new() } else { reply.json()["detail"].as_str().unwrap().to_owned() };
    (reply.status, why)
}

fn good(daemon: &Daemon, token: &str) -> bool {
    asked(daemon, token).0 == 200
}

/// The public key of a set, as an attacker would use it: as if it were a secret.
fn confused(set: &Value, id: &str, kid: &str) -> String {
    let key = set["keys"].as_array().unwrap().iter().find(|key| key["kid"] == id).unwrap();
    let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::HS256) };
    let claims = json!({ "sub": "7", "exp": in_seconds(300) });
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(key.to_string().as_bytes())).unwrap()
}

#[test]
fn s2_3_tokens_are_good_by_the_key_that_they_name_and_by_its_algorithm() {
    let issuer = Issuer::new(&ALL);
    issuer.make("stranger", Algorithm::RS256);
    let sandbox = sandbox("jwks-file = \"keys.json\"\nissuer = \"us\"\naudience = \"shop\"\nleeway = \"2s\"\n");
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("http.jwt.jwks-file") && error.contains("keys.json"), "{code}: {error}");
    let file = sandbox.root().join("keys.json");
    std::fs::write(&file, "{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}").unwrap();
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("key 1 is secret"), "{code}: {error}");
    std::fs::write(&file, issuer.set().to_string()).unwrap();

    let mut daemon = Daemon::start(&sandbox);
    let claims = json!({ "iss": "us", "aud": "shop" });
    for (id, _) in ALL {
        assert_eq!(asked(&daemon, &issuer.sign(id, &claims)), (200, String::new()), "{id}");
    }
    for (claim, value, why) in [
        ("iss", json!("them"), "another issuer"),
        ("aud", json!("bank"), "another audience"),
        ("exp", json!(in_seconds(-10)), "expired"),
        ("nbf", json!(in_seconds(60)), "not valid yet"),
    ] {
        let mut claims = claims.clone();
        claims[claim] = value;
        let (status, said) = asked(&daemon, &issuer.sign("es256", &claims));
        assert!(status == 401 && said.contains(why), "{claim}: {status} {said}");
    }
    // Another key of the same kind; a key that is named and did not sign; its algorithm; the public key as a secret; none at all.
    let with_header = |token: &str, header: &Value| {
        let rest = token.split_once('.').unwrap().1;
        format!("{}.{rest}", encoded(&header.to_string()))
    };
    let signed = issuer.sign("rs256", &claims);
    for (token, why) in [
        (issuer.sign("stranger", &claims), "not known (kid)"),
        (with_header(&issuer.sign("stranger", &claims), &json!({"alg": "RS256", "kid": "rs256"})), "does not verify"),
        (with_header(&signed, &json!({"alg": "RS384", "kid": "rs256"})), "another algorithm than its key is for"),
        (with_header(&signed, &json!({"alg": "PS256", "kid": "rs256"})), "another algorithm than its key is for"),
        (with_header(&signed, &json!({"alg": "none", "kid": "rs256"})), "malformed"),
        (confused(&issuer.set(), "rs256", "rs256"), "another algorithm than its key is for"),
    ] {
        let (status, said) = asked(&daemon, &token);
        assert!(status == 401 && said.contains(why), "{why}: {status} {said}");
    }
    // Without `kid` one key alone must have the algorithm.
    let (nameless, other) = (issuer.sign_without_kid("eddsa", &claims), issuer.sign_without_kid("rs256", &claims));
    assert!(good(&daemon, &nameless) && good(&daemon, &other));
    let (status, said) = asked(&daemon, &with_header(&issuer.sign("eddsa", &claims), &json!({ "alg": "EdDSA" })));
    assert!(status == 401 && said.contains("does not verify"), "the header is signed too: {status} {said}");
    issuer.make("second", Algorithm::EdDSA);
    issuer.publish("second", true);
    std::fs::write(&file, issuer.set().to_string()).unwrap();
    eventually(LONG, "the second key is known", || good(&daemon, &issuer.sign("second", &claims)));
    let (status, said) = asked(&daemon, &nameless);
    assert!(status == 401 && said.contains("does not say which key"), "{status} {said}");
    assert!(good(&daemon, &issuer.sign("eddsa", &claims)) && good(&daemon, &other));
    daemon.terminate();
}

/// Base64 for URLs, as the parts of a token are written.
fn encoded(text: &str) -> String {
    let mut child = std::process::Command::new("openssl")
        .args(["base64", "-A"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    out.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

#[test]
fn s2_3_a_key_file_is_read_again_and_a_wrong_one_leaves_the_keys_before() {
    let issuer = Issuer::new(&[("one", Algorithm::ES256)]);
    issuer.make("two", Algorithm::ES256);
    let sandbox = sandbox("jwks-file = \"keys.json\"\n");
    let file = sandbox.root().join("keys.json");
    std::fs::write(&file, issuer.set().to_string()).unwrap();
    let mut daemon = Daemon::start(&sandbox);
    let [one, two] = ["one", "two"].map(|id| issuer.sign(id, &json!({})));
    assert!(good(&daemon, &one) && !good(&daemon, &two));
    std::fs::write(&file, "{\"keys\": []}").unwrap();
    daemon.says(&["ERROR", "keys.json", "no key that can be used", "those that are known go on"]);
    assert!(good(&daemon, &one));
    // It is said once, however often the file is looked at: each look takes one text out of a pipe.
    std::fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let is_read = |pipe: &Path| std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(pipe).is_ok();
    for _ in 0..3 {
        std::fs::write(&file, "{}").unwrap();
        eventually(LONG, "it has read to the end", || !is_read(&file));
    }
    assert_eq!(daemon.log().matches("those that are known go on").count(), 1);
    issuer.publish("one", false);
    issuer.publish("two", true);
    let pipe = sandbox.root().join("pipe");
    std::fs::rename(&file, &pipe).unwrap();
    std::fs::write(&file, issuer.set().to_string()).unwrap();
    eventually(LONG, "the second key is good", || {
        // Who waits at the pipe for a text goes on without.
        is_read(&pipe);
        good(&daemon, &two)
    });
    assert_eq!(asked(&daemon, &one).0, 401, "a key that is withdrawn is good no more");
    daemon.terminate();
}

/// A service that publishes the issuer's keys while `up`.
fn published(issuer: &Arc<Issuer>, up: &Arc<AtomicBool>) -> Service {
    let (issuer, up) = (issuer.clone(), up.clone());
    Service::answering(move |_| match up.load(Ordering::Relaxed) {
        true => ("200 OK".into(), issuer.set().to_string()),
        false => ("503 Service Unavailable".into(), String::new()),
    })
}

#[test]
fn s2_3_an_issuers_keys_are_fetched_and_rotated_and_outlive_its_absence() {
    let issuer = Arc::new(Issuer::new(&[("one", Algorithm::RS256)]));
    issuer.make("two", Algorithm::EdDSA);
    let up = Arc::new(AtomicBool::new(false));
    let service = published(&issuer, &up);
    let sandbox = sandbox(&format!("jwks-url = \"{}/keys\"\njwks-refresh = \"1s\"\n", service.url()));
    let mut daemon = Daemon::start(&sandbox);
    let [one, two] = ["one", "two"].map(|id| issuer.sign(id, &json!({})));
    // The issuer is away at first, which is nobody's fault who has a token.
    daemon.says(&["ERROR", "/keys answers 503", "keys=0"]);
    let reply = daemon.get("/api/orders", &one).expect_status(503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    up.store(true, Ordering::Relaxed);
    eventually(LONG, "the keys are there", || good(&daemon, &one));
    // The new key is known before it is used.
    assert!(!good(&daemon, &two));
    issuer.publish("two", true);
    eventually(LONG, "both are good", || good(&daemon, &two) && good(&daemon, &one));
    issuer.publish("one", false);
    eventually(LONG, "the old one is withdrawn", || !good(&daemon, &one));
    assert!(good(&daemon, &two));
    // What is known goes on.
    up.store(false, Ordering::Relaxed);
    daemon.says(&["ERROR", "answers 503", "keys=1"]);
    assert!(good(&daemon, &two));
    up.store(true, Ordering::Relaxed);
    daemon.says(&["the keys for tokens are there again"]);
    daemon.terminate();
}

#[test]
fn h5_strangers_with_unknown_keys_do_not_make_the_daemon_ask() {
    let issuer = Arc::new(Issuer::new(&[("one", Algorithm::ES256)]));
    issuer.make("stranger", Algorithm::ES256);
    issuer.make("two", Algorithm::ES256);
    let service = published(&issuer, &Arc::new(AtomicBool::new(true)));
    let sandbox = sandbox(&format!("jwks-url = \"{}/keys\"\njwks-refresh = \"1d\"\n", service.url()));
    let mut daemon = Daemon::start(&sandbox);
    eventually(LONG, "the keys are there", || good(&daemon, &issuer.sign("one", &json!({}))));
    assert_eq!(service.asked().len(), 1);
    // The issuer does not answer the one question that they cause; nobody waits for it.
    service.close();
    issuer.publish("two", true);
    let stranger = issuer.sign("stranger", &json!({}));
    for _ in 0..50 {
        let (status, why) = asked(&daemon, &stranger);
        assert!(status == 401 && why.contains("not known (kid)"), "{status} {why}");
    }
    eventually(LONG, "it is asked once more", || service.asked().len() == 2);
    assert!(good(&daemon, &issuer.sign("one", &json!({}))));
    service.open();
    // What it answers counts.
    eventually(LONG, "the key that was new is known", || good(&daemon, &issuer.sign("two", &json!({}))));
    for _ in 0..50 {
        assert_eq!(asked(&daemon, &stranger).0, 401);
    }
    assert_eq!(service.asked().len(), 2, "it is asked twice a minute at most");
    daemon.terminate();
}

#[test]
fn h5_what_is_wrong_with_keys_is_said_at_once() {
    for (keys, said) in [
        ("jwks-url = \"http://login.example.com/keys\"\n", "`http.jwt.jwks-url`: is read by whoever is on the way"),
        ("jwks-file = \"k\"\njwks-url = \"https://login.example.com/keys\"\n", "are two places"),
        ("jwks-file = \"k\"\nalgorithm = \"RS256\"\n", "in a key set each key has its own"),
        ("jwks-file = \"k\"\njwks-refresh = \"1m\"\n", "goes with `jwks-url` only"),
        ("jwks-file = \"k\"\nsecret-file = \"s\"\n", "only one of `secret`"),
    ] {
        let sandbox = sandbox(keys);
        let output = sandbox.tidemill(&["check"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{keys}: {error}");
    }
}
