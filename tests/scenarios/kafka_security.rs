//! H7: clusters that want to know who calls, and that are called over TLS: each of Apache Kafka's own listeners.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::Algorithm;
use serde_json::json;
use tidemill_tests::issuer::in_seconds;
use tidemill_tests::{Authority, Client, Daemon, Issuer, Kafka, LONG, Sandbox, Service, Store, eventually};

use crate::rig::told;

const PASSWORD: &str = "correct horse";

/// A broker with a listener for each protocol, and certificates of an authority of its own.
struct Secure {
    kafka: Kafka,
    authority: Authority,
}

impl Secure {
    fn start() -> Self {
        let authority = Authority::new();
        ["localhost", "tidemill"].into_iter().for_each(|name| authority.issue(name));
        authority.lock("tidemill.key", "of-the-key", "locked.key");
        let text = |name: &str| std::fs::read_to_string(authority.path(name)).unwrap();
        std::fs::write(authority.path("store.pem"), text("localhost.key") + &text("localhost.pem")).unwrap();
        let path = |name: &str| authority.path(name).display().to_string();
        let login = "org.apache.kafka.common.security";
        let scram = format!("{login}.scram.ScramLoginModule required;");
        let extra = format!(
            "ssl.keystore.type=PEM\nssl.keystore.location={}\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
             listener.name.ssl.ssl.client.auth=required\nsasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n\
             listener.name.sasl_plaintext.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_tidemill=\"{PASSWORD}\";\n\
             listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config={scram}\nlistener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config={scram}\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_tidemill=\"{PASSWORD}\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={scram}\nlistener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={scram}\n",
            path("store.pem"),
            path("ca.pem"),
        );
        let kafka = Kafka::start_with(1, |command| {
            command.env("KAFKA_EXTRA", extra).env("KAFKA_LISTENERS", "SSL SASL_SSL SASL_PLAINTEXT");
        });
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let password = format!("{mechanism}=[password={PASSWORD}]");
            let user = ["--entity-type", "users", "--entity-name", "tidemill"];
            kafka.tool("configs", &[&["--alter", "--add-config", &password], &user[..]].concat());
        }
        Self { kafka, authority }
    }

    fn path(&self, name: &str) -> String {
        self.authority.path(name).display().to_string()
    }

    /// A sandbox of the hostile handler whose daemon calls the listener of a protocol, with these keys beside it.
    fn sandbox(&self, protocol: &str, keys: &str) -> (Sandbox, String, Client) {
        let sandbox = Sandbox::with(&["hostile"]);
        let [input, output, group] = ["in", "out", "group"].map(|name| sandbox.unique(name));
        let client = self.kafka.client();
        client.create_topic(&input, 1);
        client.create_topic(&output, 1);
        let address = std::fs::read_to_string(self.kafka.folder().join(format!("bootstrap.{protocol}"))).unwrap();
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[kafka.security]\nprotocol = \"{protocol}\"\n{keys}\
             [handler.hostile]\ntopics = [\"{input}\"]\ngroup = \"{group}\"\npublish = {{ out = \"{output}\" }}\n",
            address.trim()
        ));
        (sandbox, input, client)
    }

    /// A record goes in, and its event comes out.
    fn works(&self, protocol: &str, keys: &str) {
        let (sandbox, input, client) = self.sandbox(protocol, keys);
        client.produce(&input, &told("r", "publish"));
        let mut daemon = Daemon::start(&sandbox);
        Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 1);
        let output = sandbox.unique("out");
        eventually(LONG, "its event is published", || client.consume_all(&output).len() == 1);
        // The commands know the same settings.
        let place = format!("{input}/0@0");
        let shown = sandbox.tidemill(&["records", "show", &place]);
        assert!(shown.status.success(), "{protocol}: {}", String::from_utf8_lossy(&shown.stderr));
        let log = daemon.log();
        assert!(!log.contains(PASSWORD) && !log.contains("of-the-key"), "{log}");
        daemon.terminate();
    }

    /// The daemon says that it is refused, or cannot trust, and goes on once that is mended; nothing is lost.
    fn is_refused(&self, protocol: &str, keys: &str, said: &[&str], mended: &str) {
        let (sandbox, input, client) = self.sandbox(protocol, keys);
        client.produce(&input, &told("r", "insert"));
        let mut daemon = Daemon::start(&sandbox);
        daemon.says(said);
        let store = Store::open(&sandbox, "hostile");
        assert_eq!(store.count("SELECT count(*) FROM tm_offset"), 0);
        let log = daemon.log();
        assert!(!log.contains(PASSWORD), "{log}");
        daemon.terminate();
        let toml = std::fs::read_to_string(sandbox.toml()).unwrap();
        sandbox.write_toml(&toml.replace(keys, mended));
        let mut daemon = Daemon::start(&sandbox);
        store.until("SELECT count(*) FROM seen", 1);
        daemon.terminate();
    }
}

#[test]
fn h7_a_cluster_over_tls_knows_the_daemon_by_its_certificate() {
    let secure = Secure::start();
    let ca = format!("ca-file = \"{}\"\n", secure.path("ca.pem"));
    let own = |key: &str| {
        format!("{ca}certificate-file = \"{}\"\nkey-file = \"{}\"\n", secure.path("tidemill.pem"), secure.path(key))
    };
    secure.works("SSL", &own("tidemill.key"));
    secure.works("SSL", &format!("{}key-password = \"of-the-key\"\n", own("locked.key")));
    // Who has no certificate is not let in; who does not know the authority does not go in.
    secure.is_refused("SSL", &ca, &["SSL"], &own("tidemill.key"));
    let another = Authority::new();
    let other = own("tidemill.key").replacen(&secure.path("ca.pem"), &another.path("ca.pem").display().to_string(), 1);
    secure.is_refused("SSL", &other, &["certificate verify failed"], &own("tidemill.key"));
}

#[test]
fn h7_a_cluster_that_asks_for_a_user_and_a_password_is_told_them_by_each_mechanism() {
    let secure = Secure::start();
    let ca = format!("ca-file = \"{}\"\n", secure.path("ca.pem"));
    let file = secure.authority.path("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let user = format!("mechanism = \"{mechanism}\"\nusername = \"tidemill\"\n");
        secure.works("SASL_SSL", &format!("{ca}{user}password-file = \"{}\"\n", file.display()));
        secure.works("SASL_PLAINTEXT", &format!("{user}password = \"{PASSWORD}\"\n"));
        let (wrong, right) = (format!("{user}password = \"guessed\"\n"), format!("{user}password = \"{PASSWORD}\"\n"));
        secure.is_refused("SASL_PLAINTEXT", &wrong, &["ERROR", "Kafka refuses this client"], &right);
    }
}

const SECRET: &str = "s3cret of the client's/own";

/// A broker that knows its clients by tokens, and closes the connection of one that does not bring a new one in time.
struct Bearer {
    kafka: Kafka,
    issuer: Arc<Issuer>,
    folder: tempfile::TempDir,
}

impl Bearer {
    fn start() -> Self {
        let issuer = Arc::new(Issuer::new(&[("one", Algorithm::RS256)]));
        issuer.make("stranger", Algorithm::RS256);
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys.json");
        std::fs::write(&keys, issuer.set().to_string()).unwrap();
        let url = format!("file://{}", keys.display());
        let of = "listener.name.sasl_plaintext.oauthbearer";
        let login = "org.apache.kafka.common.security.oauthbearer";
        let extra = format!(
            "sasl.enabled.mechanisms=OAUTHBEARER\n\
             {of}.sasl.jaas.config={login}.OAuthBearerLoginModule required;\n\
             {of}.sasl.server.callback.handler.class={login}.OAuthBearerValidatorCallbackHandler\n\
             {of}.sasl.oauthbearer.jwks.endpoint.url={url}\n{of}.sasl.oauthbearer.expected.audience=kafka\n\
             {of}.sasl.oauthbearer.clock.skew.seconds=0\n{of}.connections.max.reauth.ms=600000\n"
        );
        let allowed = ["urls", "files"].map(|what| {
            let allowed = if what == "urls" { url.clone() } else { keys.display().to_string() };
            format!("-Dorg.apache.kafka.sasl.oauthbearer.allowed.{what}={allowed}")
        });
        let kafka = Kafka::start_with(1, |command| {
            command.env("KAFKA_EXTRA", extra).env("KAFKA_LISTENERS", "SASL_PLAINTEXT");
            command.env("KAFKA_HEAP", format!("-Xmx512m -Xms256m {}", allowed.join(" ")));
        });
        Self { kafka, issuer, folder }
    }

    /// A token that Kafka takes, for so many seconds.
    fn token(&self, seconds: i64) -> String {
        self.issuer.sign("one", &json!({ "aud": "kafka", "exp": in_seconds(seconds) }))
    }

    /// A service that issues tokens for so many seconds, as long as `good` says, and refuses otherwise.
    fn service(&self, seconds: i64, good: &Arc<AtomicBool>) -> Service {
        let (issuer, good) = (self.issuer.clone(), good.clone());
        Service::answering(move |_| {
            if !good.load(Ordering::Relaxed) {
                let said =
                    json!({ "error": "invalid_client", "error_description": format!("{SECRET} is not the secret") });
                return ("401 Unauthorized".into(), said.to_string());
            }
            let token = issuer.sign("one", &json!({ "aud": "kafka", "exp": in_seconds(seconds) }));
            let answer = json!({ "access_token": token, "token_type": "Bearer", "expires_in": seconds });
            ("200 OK".into(), answer.to_string())
        })
    }

    fn sandbox(&self, oauth: &str) -> (Sandbox, String, Client) {
        let sandbox = Sandbox::with(&["hostile"]);
        let [input, output, group] = ["in", "out", "group"].map(|name| sandbox.unique(name));
        let client = self.kafka.client();
        client.create_topic(&input, 1);
        client.create_topic(&output, 1);
        let address = std::fs::read_to_string(self.kafka.folder().join("bootstrap.SASL_PLAINTEXT")).unwrap();
        sandbox.write_toml(&format!(
            "[kafka]\nbootstrap = \"{}\"\n[kafka.security]\nprotocol = \"SASL_PLAINTEXT\"\nmechanism = \"OAUTHBEARER\"\n\
             [kafka.security.oauth]\n{oauth}\n\
             [handler.hostile]\ntopics = [\"{input}\"]\ngroup = \"{group}\"\npublish = {{ out = \"{output}\" }}\n",
            address.trim()
        ));
        (sandbox, input, client)
    }
}

/// `Authorization` as RFC 6749, 2.3.1, has it: the id, and the secret with its blanks and slash encoded.
fn basic() -> String {
    let output = std::process::Command::new("sh")
        .args(["-c", "printf '%s' \"$1\" | openssl base64 -A", "sh", "tidemill:s3cret%20of%20the%20client%27s%2Fown"])
        .output()
        .unwrap();
    format!("Basic {}", String::from_utf8(output.stdout).unwrap())
}

#[test]
fn h7_a_cluster_that_asks_for_a_token_is_told_one_and_the_next_before_it_expires() {
    let bearer = Bearer::start();
    let good = Arc::new(AtomicBool::new(true));
    let service = bearer.service(6, &good);
    let secret = bearer.folder.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    let (sandbox, input, client) = bearer.sandbox(&format!(
        "token-url = \"{}/token\"\nclient-id = \"tidemill\"\nclient-secret-file = \"{}\"\nscope = \"kafka.read\"\n\
         extensions = {{ logicalCluster = \"lkc-1\" }}",
        service.url(),
        secret.display()
    ));
    client.produce(&input, &told("a", "publish"));
    let mut daemon = Daemon::start(&sandbox);
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 1);
    let output = sandbox.unique("out");
    eventually(LONG, "its event is published", || client.consume_all(&output).len() == 1);
    let first = service.asked().remove(0);
    assert_eq!(first.line, "POST /token");
    assert_eq!(first.body, "grant_type=client_credentials&scope=kafka.read");
    assert_eq!(first.header("authorization"), Some(&*basic()));

    // Brokers end the sessions of tokens that have expired: who goes on has logged in anew with each next one.
    eventually(LONG, "three tokens have expired", || service.asked().len() > 4);
    client.produce(&input, &told("b", "publish"));
    store.until("SELECT count(*) FROM seen", 2);
    eventually(LONG, "the second event is published", || client.consume_all(&output).len() == 2);
    assert!(daemon.find(&["ERROR"]).is_none(), "{}", daemon.log());
    // Commands have a token of their own.
    let shown = sandbox.tidemill(&["records", "show", &format!("{input}/0@0")]);
    assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));

    // An issuer that refuses is quoted, without what nobody should read, and asked again.
    good.store(false, Ordering::Relaxed);
    let said = daemon.says(&["ERROR", "no token for Kafka", "answers 401", "invalid_client", "client-id"]);
    assert!(said.contains("[secret] is not the secret"), "{said}");
    let shown = sandbox.tidemill(&["records", "show", &format!("{input}/0@0")]);
    let error = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(!shown.status.success() && error.contains("answers 401"), "{error}");
    good.store(true, Ordering::Relaxed);
    client.produce(&input, &told("c", "publish"));
    store.until("SELECT count(*) FROM seen", 3);
    let log = daemon.log();
    assert!(!log.contains("s3cret") && !log.contains("eyJ") && !error.contains("s3cret"), "{log}");
    daemon.terminate();
}

#[test]
fn h7_a_token_that_somebody_else_renews_is_read_from_its_file() {
    let bearer = Bearer::start();
    let file = bearer.folder.path().join("token");
    std::fs::write(&file, bearer.issuer.sign("stranger", &json!({ "aud": "kafka" }))).unwrap();
    let (sandbox, input, client) = bearer.sandbox(&format!("token-file = \"{}\"", file.display()));
    client.produce(&input, &told("a", "insert"));
    let mut daemon = Daemon::start(&sandbox);
    // Kafka refuses a token of somebody else's; the daemon says so and waits.
    daemon.says(&["ERROR", "Kafka refuses this client"]);
    let store = Store::open(&sandbox, "hostile");
    assert_eq!(store.count("SELECT count(*) FROM seen"), 0);
    std::fs::write(&file, bearer.token(8)).unwrap();
    store.until("SELECT count(*) FROM seen", 1);
    // One that runs out is said once, and the next one is taken.
    daemon.says(&["ERROR", "has expired", "nobody has renewed it"]);
    std::fs::write(&file, bearer.token(300)).unwrap();
    client.produce(&input, &told("b", "insert"));
    store.until("SELECT count(*) FROM seen", 2);
    assert!(!daemon.log().contains("eyJ"), "{}", daemon.log());
    daemon.terminate();
}

#[test]
fn h7_what_is_wrong_with_the_security_of_kafka_is_said_at_once() {
    let sandbox = Sandbox::new();
    let refused = |keys: &str| {
        sandbox.write_toml(&format!("[kafka]\nbootstrap = \"127.0.0.1:9092\"\n[kafka.security]\n{keys}"));
        let output = sandbox.tidemill(&["check"]);
        assert!(!output.status.success(), "{keys}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (keys, said) in [
        ("protocol = \"TLS\"\n", "\"TLS\" is not known here; valid is \"PLAINTEXT\", \"SSL\""),
        ("protocol = \"SASL_SSL\"\n", "`kafka.security.mechanism`: is missing"),
        (
            "protocol = \"SASL_SSL\"\nmechanism = \"PLAIN\"\nusername = \"u\"\n",
            "`kafka.security.password`: is missing, and PLAIN needs it",
        ),
        ("protocol = \"SSL\"\nca-file = \"no-such.pem\"\n", "there is no file"),
        ("protocol = \"SSL\"\nusername = \"u\"\n", "`kafka.security.username`: goes with `protocol = \"SASL_SSL\"`"),
        ("ca-file = \"tidemill.toml\"\n", "`kafka.security.ca-file`: goes with `protocol = \"SSL\"`"),
        ("protocol = \"SSL\"\nkey-file = \"tidemill.toml\"\n", "`kafka.security.certificate-file`: is missing"),
        (
            "protocol = \"SASL_SSL\"\nmechanism = \"PLAIN\"\nusername = \"u\"\npassword = \"a\"\npassword-file = \"b\"\n",
            "only one of `password` and `password-file`",
        ),
    ] {
        let error = refused(keys);
        assert!(error.contains(said), "{keys}: {error}");
    }
    for (keys, said) in [
        ("", "`kafka.security.oauth.token-url`: is missing, and OAUTHBEARER needs it, or `token-file`"),
        (
            "token-url = \"http://login.example.com/\"\n",
            "`kafka.security.oauth.token-url`: is read by whoever is on the way",
        ),
        ("token-url = \"https://login.example.com/\"\n", "`kafka.security.oauth.client-id`: is missing"),
        ("token-file = \"t\"\nclient-id = \"x\"\n", "`kafka.security.oauth.client-id`: asks an issuer"),
        ("token-file = \"t\"\nextensions = { auth = \"x\" }\n", "is not the name of an extension"),
    ] {
        let error =
            refused(&format!("protocol = \"SASL_SSL\"\nmechanism = \"OAUTHBEARER\"\n[kafka.security.oauth]\n{keys}"));
        assert!(error.contains(said), "{keys}: {error}");
    }
    let error = refused("protocol = \"SSL\"\n[kafka.security.oauth]\ntoken-file = \"t\"\n");
    assert!(error.contains("goes with `mechanism = \"OAUTHBEARER\"` only"), "{error}");
    // A file is read when the daemon starts, which then says what is missing.
    sandbox.write_toml("[kafka]\nbootstrap = \"127.0.0.1:9092\"\n[kafka.security]\nprotocol = \"SASL_SSL\"\nmechanism = \"PLAIN\"\nusername = \"u\"\npassword-file = \"gone\"\n");
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("gone") && error.contains("sasl.password"), "{code}: {error}");
}
