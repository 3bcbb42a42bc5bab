//! H1: who may call the admin API and over what, and listings in parts.

use std::fs;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tidemill::http::admin::operation::{Operation, Role};
use tidemill::http::admin::operations::OPERATIONS;
use tidemill_tests::http::{Call, Reply};
use tidemill_tests::{Authority, Daemon, LONG, Sandbox, eventually};

use crate::deploying::{deploy, file_that_says, refused, works};

/// A token of this role, made by command.
fn token(sandbox: &Sandbox, name: &str, role: Role) -> String {
    let made = works(sandbox, &["admin", "token", "new", name, "--role", &role.to_string()]);
    assert!(made.trim().len() == 64 && made.lines().count() == 1, "{made}");
    made.trim().to_owned()
}

/// An operation, on what there is not.
fn call(sandbox: &Sandbox, operation: &Operation) -> Call {
    let part = |part: &str| if part.starts_with('{') { "nobody".to_owned() } else { part.to_owned() };
    let path: Vec<String> = operation.path.split('/').map(part).collect();
    let call = sandbox.admin_without_token(operation.method.as_str(), &path.join("/"));
    if operation.body.is_some() { call.body("{}") } else { call }
}

fn said(reply: &Reply) -> String {
    let problem = reply.json();
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{problem}");
    assert_eq!((&problem["status"], &problem["type"]), (&json!(reply.status), &json!("about:blank")));
    assert!(problem["instance"].as_str().unwrap().starts_with("/admin/v1"), "{problem}");
    problem["detail"].as_str().unwrap().to_owned()
}

#[test]
fn h1_each_operation_of_the_admin_api_is_for_its_role_and_those_above() {
    let sandbox = Sandbox::with(&["hostile"]);
    let tokens = Role::ALL.map(|role| (role, token(&sandbox, &format!("may-{role}"), role)));
    let _daemon = Daemon::start(&sandbox);
    for operation in OPERATIONS {
        let (method, path) = (&operation.method, operation.path);
        said(&call(&sandbox, operation).send().expect_status(401));
        for (role, token) in &tokens {
            let reply = call(&sandbox, operation).token(token).send();
            let is = format!("{method} {path} as {role}: {} {}", reply.status, reply.text());
            if *role >= operation.role {
                assert!(!matches!(reply.status, 401 | 403 | 405), "{is}");
                continue;
            }
            assert_eq!(reply.status, 403, "{is}");
            let wants = operation.role;
            let expected = format!("this wants the role `{wants}`, and the token `may-{role}` has `{role}`");
            assert_eq!(said(&reply), expected);
            let challenge = reply.header("www-authenticate").unwrap();
            assert!(challenge.contains(&format!("error=\"insufficient_scope\", scope=\"{wants}\"")), "{challenge}");
        }
        assert_eq!(
            operation.role == Role::Read,
            operation.method == "GET",
            "{method} {path}: who only looks may only read"
        );
    }
    // What is done is done in the token's name.
    let events = json!({ "events": [{ "destination": "out", "value": "{}" }] }).to_string();
    let publish = |token: &str| {
        sandbox.admin_without_token("POST", "handlers/hostile/events").token(token).body(&events).send().status
    };
    assert_eq!(tokens.each_ref().map(|(_, token)| publish(token)), [403, 200, 200]);
    let who: Vec<Value> =
        sandbox.audit().iter().filter(|line| line["ok"] == true).map(|line| line["who"].clone()).collect();
    assert!(who.ends_with(&[json!("may-operate"), json!("may-deploy")]), "{who:?}");
}

#[test]
fn h1_a_token_of_the_admin_api_is_given_and_withdrawn_while_the_daemon_runs() {
    let sandbox = Sandbox::with(&["hostile"]);
    let mut daemon = Daemon::start(&sandbox);
    let asks = |token: &str| sandbox.admin_without_token("GET", "handlers").token(token).send().status;
    let file = sandbox.data().join("admin.tokens");
    let (one, other) = (token(&sandbox, "one", Role::Read), token(&sandbox, "other", Role::Deploy));
    assert_eq!((asks(&one), asks(&other)), (200, 200));
    let list = works(&sandbox, &["admin", "token", "list"]);
    assert!(list.contains("one    read") && list.contains("other  deploy"), "{list}");
    for secret in [&one, &other] {
        assert!(!list.contains(secret) && !fs::read_to_string(&file).unwrap().contains(secret));
    }
    assert!(
        refused(&sandbox, &["admin", "token", "new", "one", "--role", "deploy"])
            .contains("there is a token one already")
    );
    for name in ["token", "folder", "One"] {
        assert_eq!(
            sandbox.tidemill(&["admin", "token", "new", name, "--role", "read"]).status.code(),
            Some(2),
            "{name}"
        );
    }
    assert_eq!(works(&sandbox, &["admin", "token", "revoke", "one"]), "token one is taken away\n");
    assert_eq!((asks(&one), asks(&other)), (401, 200));
    assert!(refused(&sandbox, &["admin", "token", "revoke", "one"]).contains("there is no token one"));

    // By hand as by command; a line that is wrong is nobody's.
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("half read abc\n{text}")).unwrap();
    assert_eq!(asks(&other), 200);
    daemon.says(&["ERROR", "this line is nobody's token", "line=1"]);
    let command = sandbox.command(&["undeploy", "hostile"]).env("TIDEMILL_ADMIN_TOKEN", &other).output().unwrap();
    assert!(command.status.success(), "{}", errors(&command));
    fs::remove_file(&file).unwrap();
    assert_eq!(asks(&other), 401);
    works(&sandbox, &["handlers"]);

    daemon.terminate();
    fs::write(&file, "\n# by hand\nhalf read abc\n").unwrap();
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains("admin.tokens:3: write a name, a role"), "{code}: {error}");
    // Another file, which several daemons may share.
    sandbox.write_toml("[admin]\nnamed-tokens-file = \"who.tokens\"\n");
    let shared = token(&sandbox, "shared", Role::Read);
    assert!(sandbox.root().join("who.tokens").exists());
    let _daemon = Daemon::start(&sandbox);
    assert_eq!(asks(&shared), 200);
}

fn errors(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Puts a certificate and its key where the settings say.
fn put(sandbox: &Sandbox, certificate: &Authority, key: &Authority) {
    for (from, to) in [(key.path("localhost.key"), "server.key"), (certificate.path("localhost.pem"), "server.pem")] {
        fs::write(sandbox.root().join(to), fs::read(from).unwrap()).unwrap();
    }
}

#[test]
fn h1_the_admin_api_and_the_metrics_are_asked_over_tls() {
    const TLS: &str = "certificate-file = \"server.pem\"\nkey-file = \"server.key\"\n";
    let [ours, foreign] = [Authority::new(), Authority::new()];
    [&ours, &foreign].into_iter().for_each(|authority| authority.issue("localhost"));
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[admin.tls]\ncertificate-file = \"server.pem\"\n");
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 2 && error.contains("`admin.tls.key-file`: is missing"), "{code}: {error}");
    sandbox.write_toml(&format!("[admin.tls]\n{TLS}[metrics.tls]\n{TLS}"));
    put(&sandbox, &ours, &foreign);
    let (code, error) = Daemon::refused(&sandbox);
    assert!(code == 1 && error.contains(".tls: ") && error.contains("do not go together"), "{code}: {error}");
    put(&sandbox, &ours, &ours);
    let mut daemon = Daemon::start(&sandbox);

    // On its own data folder the command takes the certificate of the settings, whatever name is in it.
    let sign = |file: &str| fs::read_to_string(sandbox.data().join(file)).unwrap().trim().to_owned();
    assert!(sign("admin.url").starts_with("https://127.0.0.1:"), "{}", sign("admin.url"));
    assert!(works(&sandbox, &["handlers"]).contains("hostile"));
    // Elsewhere an authority has to vouch for the name.
    let port = sign("admin.url").rsplit(':').next().unwrap().to_owned();
    let secret = sign("admin.token");
    let ask = |url: &str, more: &[&str]| {
        let arguments = [&["handlers", "--daemon", url], more].concat();
        let out = sandbox.command(&arguments).env("TIDEMILL_ADMIN_TOKEN", &secret).output().unwrap();
        if out.status.success() { Ok(String::from_utf8(out.stdout).unwrap()) } else { Err(errors(&out)) }
    };
    let path = |authority: &Authority, name: &str| authority.path(name).display().to_string();
    let (ca, wrong) = (path(&ours, "ca.pem"), path(&foreign, "ca.pem"));
    let named = format!("https://localhost:{port}");
    assert!(ask(&named, &["--ca", &ca]).unwrap().contains("hostile"));
    for more in [&[][..], &["--ca", &wrong]] {
        let why = ask(&named, more).unwrap_err();
        assert!(why.contains("authority that is not trusted here: name the authority with --ca FILE"), "{why}");
        assert_eq!(why.lines().count(), 1, "{why}");
    }
    let why = ask(&format!("https://127.0.0.1:{port}"), &["--ca", &ca]).unwrap_err();
    assert!(why.contains("its certificate is not good") && why.contains("not valid for name"), "{why}");
    let why = ask(&named, &["--ca", &path(&ours, "nothing.pem")]).unwrap_err();
    assert!(why.contains("--ca: read") && why.contains("nothing.pem"), "{why}");

    let metrics = sign("metrics.url");
    let port = metrics.strip_prefix("https://127.0.0.1:").expect("the sign says https");
    let scrape = |ca: &str| {
        let url = format!("https://localhost:{port}/metrics");
        Command::new("curl").args(["-sS", "--cacert", ca, &url]).output().unwrap()
    };
    let page = scrape(&ca);
    assert!(String::from_utf8_lossy(&page.stdout).contains("tidemill_"), "{}", errors(&page));
    assert!(errors(&scrape(&wrong)).contains("certificate"));

    // What is not the certificate of the settings gets no token: here the daemon's own from before.
    put(&sandbox, &foreign, &ours);
    let why = refused(&sandbox, &["handlers"]);
    assert!(why.contains("its certificate is not the one of the settings"), "{why}");
    put(&sandbox, &foreign, &foreign);
    eventually(LONG, "the new certificate is served", || sandbox.tidemill(&["handlers"]).status.success());

    // Clients that show certificates.
    daemon.terminate();
    sandbox.write_toml(&format!("[admin.tls]\n{TLS}client-ca-file = \"{ca}\"\n"));
    let _daemon = Daemon::start(&sandbox);
    let shows = |authority: &Authority| {
        let (certificate, key) = (path(authority, "localhost.pem"), path(authority, "localhost.key"));
        sandbox.tidemill(&["handlers", "--client-cert", &certificate, "--client-key", &key])
    };
    assert!(shows(&ours).status.success(), "{}", errors(&shows(&ours)));
    assert!(
        errors(&shows(&foreign)).contains("it does not take the certificate of --client-cert"),
        "{}",
        errors(&shows(&foreign))
    );
    assert!(refused(&sandbox, &["handlers"]).contains("it asks for a certificate of the caller's"));
    let named = format!("https://localhost:{}", sign("admin.url").rsplit(':').next().unwrap());
    let (certificate, key) = (path(&ours, "localhost.pem"), path(&ours, "localhost.key"));
    ask(&named, &["--ca", &wrong, "--client-cert", &certificate, "--client-key", &key]).unwrap();
}

#[test]
fn h1_a_status_and_a_doctor_take_the_certificate_of_the_settings_for_the_probe_too() {
    let [ours, foreign] = [Authority::new(), Authority::new()];
    [&ours, &foreign].into_iter().for_each(|authority| authority.issue("localhost"));
    let toml = |authority: &Authority| {
        let path = |name: &str| authority.path(name).display().to_string();
        let pair =
            format!("certificate-file = \"{}\"\nkey-file = \"{}\"\n", path("localhost.pem"), path("localhost.key"));
        format!("[admin.tls]\n{pair}[metrics.tls]\n{pair}")
    };
    let sandbox = Sandbox::new();
    sandbox.write_toml(&toml(&ours));
    let mut live = Daemon::start(&sandbox);
    assert!(works(&sandbox, &["status"]).contains("ready  up "));
    let doctor = sandbox.tidemill(&["doctor"]);
    let doctor = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.lines().any(|line| line.starts_with("ok    daemon") && line.contains("is ready")), "{doctor}");

    // A standby has no admin API, and says by its probe alone what it is.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut waits = Daemon::launch(&sandbox, |command| {
        command.arg("--standby").env("TIDEMILL_METRICS_LISTEN", &free);
    });
    waits.says(&["INFO", "waiting as a standby"]);
    let other = Sandbox::new();
    let ask = |command: &str| {
        let out = other.command(&[command]).env("TIDEMILL_METRICS_LISTEN", &free).output().unwrap();
        String::from_utf8([out.stdout, out.stderr].concat()).unwrap()
    };
    other.write_toml(&toml(&ours));
    assert!(ask("status").starts_with("the daemon is a standby\n"), "{}", ask("status"));
    // By the sign of the data folder as by the setting.
    fs::create_dir_all(other.data()).unwrap();
    let sign = |file: &str, text: &str| fs::write(other.data().join(file), text).unwrap();
    sign("metrics.url", &format!("https://{free}\n"));
    assert!(ask("status").starts_with("the daemon is a standby\n"), "{}", ask("status"));
    sign("admin.url", "https://127.0.0.1:1\n");
    sign("admin.token", &"k".repeat(64));
    assert!(ask("doctor").contains("it does not run yet, or does no more, and is not asked"), "{}", ask("doctor"));
    // Who shows another certificate is not believed.
    other.write_toml(&toml(&foreign));
    assert!(!ask("status").contains("standby"), "{}", ask("status"));
    live.terminate();
    waits.wait_ready();
    waits.terminate();
}

/// A listing, part by part.
fn walk(sandbox: &Sandbox, path: &str, limit: usize) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let part = sandbox.admin("GET", &format!("{path}?limit={limit}{cursor}")).send().expect_status(200).json();
        let items = part["items"].as_array().unwrap();
        assert!((1..=limit).contains(&items.len()), "{part}");
        all.extend(items.iter().cloned());
        match part["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

#[test]
fn h1_listings_of_the_admin_api_come_in_parts() {
    let sandbox = Sandbox::with(&["order", "notification"]);
    let daemon = Daemon::start(&sandbox);
    for name in ["v1", "v2", "v3", "v4", "v5"] {
        deploy(&sandbox, &file_that_says(&sandbox, name));
    }
    let by = |rows: &[Value], key: &str| rows.iter().map(|row| row[key].to_string()).collect::<Vec<_>>();
    for limit in [1, 2, 3, 1000] {
        let handlers = walk(&sandbox, "handlers", limit);
        assert_eq!(by(&handlers, "handler"), ["\"hostile\"", "\"notification\"", "\"order\""], "{limit}");
        assert_eq!(by(&walk(&sandbox, "handlers/hostile/versions", limit), "version"), ["5", "4", "3", "2", "1"]);
        assert_eq!(by(&walk(&sandbox, "groups", limit), "group"), ["\"hostile\"", "\"notification\""]);
    }
    assert_eq!(works(&sandbox, &["versions", "hostile"]).lines().count(), 6);

    let next =
        |path: &str| sandbox.admin("GET", path).send().expect_status(200).json()["next"].as_str().unwrap().to_owned();
    let of_handlers = next("handlers?limit=1");
    for (path, why) in [
        ("handlers?limit=0".to_owned(), "`limit` is a number from 1 to 1000"),
        ("handlers?limit=1001".to_owned(), "`limit` is a number from 1 to 1000"),
        ("groups?limit=all".to_owned(), "`limit` is a number from 1 to 1000"),
        ("handlers?cursor=".to_owned(), "`cursor` is none of this listing"),
        ("handlers?cursor=hostile".to_owned(), "`cursor` is none of this listing"),
        (format!("groups?cursor={of_handlers}"), "`cursor` is none of this listing"),
        (format!("handlers/hostile/versions?cursor={of_handlers}"), "`cursor` is none of this listing"),
        (format!("dead-letters?cursor={of_handlers}"), "`cursor` is none of this listing"),
        ("dead-letters?limit=0".to_owned(), "`limit` is a number from 1 to 1000"),
        ("dead-letters?after=x".to_owned(), "`after` is not known in this query"),
        (format!("outbox?cursor={of_handlers}"), "`cursor` is none of this listing"),
        ("outbox?limit=1001".to_owned(), "`limit` is a number from 1 to 1000"),
        ("handlers/hostile?limit=1".to_owned(), "`limit` is not known in this query"),
    ] {
        let detail = said(&sandbox.admin("GET", &path).send().expect_status(400));
        assert!(detail.contains(why), "{path}: {detail}");
    }
    drop(daemon);
}
