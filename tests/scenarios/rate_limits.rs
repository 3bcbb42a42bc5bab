//! H5: a client that calls too often is told to come again, and the others are not.

use serde_json::{Value, json};
use tidemill_tests::{Call, Daemon, LONG, Sandbox, eventually, token};

use crate::rig::{manifest, put_beside};

/// The order handler, with these settings and these changes of its manifest.
fn sandbox(toml: &str, changes: &[(&str, &str)]) -> Sandbox {
    let sandbox = Sandbox::new();
    put_beside(&sandbox, "order.toml", &manifest("order", changes));
    sandbox.deploy("order");
    sandbox.write_toml(toml);
    sandbox
}

/// The answer to a request that comes too often.
fn refused(call: &Call, why: &str) {
    let reply = call.send().expect_status(429);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3_600).contains(&seconds), "{seconds}");
    let problem: Value = reply.json();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(429), &json!("Too Many Requests")));
    assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
}

fn limited(sandbox: &Sandbox, by: &str) -> f64 {
    sandbox.scrape().sum("tidemill_http_limited_total", &[("by", by)])
}

#[test]
fn h5_an_address_that_calls_too_often_is_told_to_come_again() {
    let proxies = "trusted-proxies = [\"127.0.0.0/8\"]\n[http.rate]\nper-address = \"3/h\"\n";
    let sandbox = sandbox(&format!("[http]\n{proxies}"), &[]);
    let mut daemon = Daemon::start(&sandbox);
    let (seven, eight) = (token(&sandbox, "7"), token(&sandbox, "8"));
    let get =
        |user: &str, address: &str| daemon.call("GET", "/api/orders").token(user).header("X-Forwarded-For", address);
    for user in [&seven, &eight, &seven] {
        get(user, "192.0.2.1").send().expect_status(200);
    }
    // Whoever asks, whatever the route, and whatever the client writes in front of what the proxy has seen.
    refused(&get(&seven, "192.0.2.1"), "address");
    refused(&get(&eight, "198.51.100.9, 192.0.2.1"), "address");
    refused(&daemon.call("GET", "/api/orders/1").token(&seven).header("X-Forwarded-For", "192.0.2.1"), "address");
    // Before anything is looked at that costs more.
    refused(&get("no-token", "192.0.2.1"), "address");
    get(&seven, "192.0.2.2").send().expect_status(200);
    // Of IPv6 a network is one client.
    for host in 1..=3 {
        get(&seven, &format!("2001:db8::{host}")).send().expect_status(200);
    }
    refused(&get(&seven, "2001:db8::4"), "address");
    get(&seven, "2001:db8:0:1::1").send().expect_status(200);
    // What tells how the daemon is goes on.
    daemon.call("GET", "/livez").header("X-Forwarded-For", "192.0.2.1").send().expect_status(200);
    assert_eq!(limited(&sandbox, "address"), 5.0);
    daemon.terminate();
}

#[test]
fn h5_who_is_no_trusted_proxy_speaks_for_himself() {
    let sandbox = sandbox("[http]\ntrusted-proxies = [\"10.0.0.0/8\"]\n[http.rate]\nper-address = \"2/h\"\n", &[]);
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let get = |address: &str| daemon.call("GET", "/api/orders").token(&user).header("X-Forwarded-For", address);
    get("192.0.2.1").send().expect_status(200);
    get("192.0.2.2").send().expect_status(200);
    refused(&get("192.0.2.3"), "address");
    daemon.terminate();
}

#[test]
fn h5_a_user_that_calls_too_often_waits_alone_and_no_longer_than_it_is_told() {
    let route = "path = \"/api/orders/{id}\"\nauth = \"jwt\"";
    let changes = [
        ("event-id = ", "rate = { per-user = \"4/h\" }\nevent-id = "),
        (route, &format!("{route}\nper-user = \"1/s\"")),
    ];
    let sandbox = sandbox("", &changes);
    let mut daemon = Daemon::start(&sandbox);
    let (seven, eight) = (token(&sandbox, "7"), token(&sandbox, "8"));
    let one = |user: &str| daemon.call("GET", "/api/orders/1").token(user);
    let all = |user: &str| daemon.call("GET", "/api/orders").token(user);
    // The route's own limit, which is over in a second.
    one(&seven).send().expect_status(404);
    refused(&one(&seven), "user");
    one(&eight).send().expect_status(404);
    eventually(LONG, "the route takes the user again", || one(&seven).send().status == 404);
    // The handler's, for all of its routes.
    all(&seven).send().expect_status(200);
    all(&seven).send().expect_status(200);
    refused(&all(&seven), "user");
    // Before its body is looked at, which is larger than any that is taken.
    refused(&daemon.call("POST", "/api/orders").token(&seven).body(&" ".repeat((1 << 20) + 1)), "user");
    all(&eight).send().expect_status(200);
    assert!(limited(&sandbox, "user") >= 2.0);
    // It is told to whoever looks at the handler, and the operator's word goes over the manifest's.
    let inspected = String::from_utf8(sandbox.tidemill(&["inspect", "order"]).stdout).unwrap();
    assert!(
        inspected.contains("per-user 4/h") && inspected.contains("GET /api/orders/{id} jwt per-user 1/s"),
        "{inspected}"
    );
    daemon.terminate();
    sandbox.write_toml("[handler.order.rate]\nper-user = \"100/h\"\n");
    let mut daemon = Daemon::start(&sandbox);
    for _ in 0..10 {
        daemon.call("GET", "/api/orders").token(&seven).send().expect_status(200);
    }
    daemon.terminate();
}

#[test]
fn h5_an_address_that_guesses_tokens_is_not_listened_to() {
    let toml =
        "[http]\ntrusted-proxies = [\"127.0.0.1\"]\nforwarded = \"forwarded\"\n[http.rate]\nfailed-logins = \"3/h\"\n";
    let sandbox = sandbox(toml, &[]);
    let mut daemon = Daemon::start(&sandbox);
    let good = token(&sandbox, "7");
    let get = |token: &str, address: &str| {
        daemon.call("GET", "/api/orders").token(token).header("Forwarded", &format!("for={address};proto=https"))
    };
    // Good tokens, and none at all, are no guesses.
    for _ in 0..5 {
        get(&good, "192.0.2.1").send().expect_status(200);
        daemon.call("GET", "/api/orders").header("Forwarded", "for=192.0.2.1").send().expect_status(401);
    }
    for _ in 0..3 {
        get(&format!("{good}x"), "192.0.2.1").send().expect_status(401);
    }
    refused(&get(&format!("{good}y"), "192.0.2.1"), "not good");
    refused(&get(&good, "192.0.2.1"), "not good");
    get(&good, "192.0.2.2").send().expect_status(200);
    assert_eq!(limited(&sandbox, "logins"), 2.0);
    daemon.terminate();
}

#[test]
fn h5_a_route_takes_no_larger_body_than_it_says() {
    let route = "method = \"POST\"\npath = \"/api/orders\"";
    let small = format!("{route}\nbody-limit = \"100B\"");
    let sandbox = sandbox("[http]\nbody-limit = \"200B\"\n", &[(route, &small)]);
    let mut daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    let post = |length: usize| daemon.post("/api/orders", &user, &" ".repeat(length));
    post(100).expect_status(400);
    let detail = post(101).expect_status(413).json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("100 bytes (body-limit of its route)"), "{detail}");
    daemon.terminate();
    // A manifest cannot take more than the operator gives.
    sandbox.write_toml("[http]\nbody-limit = \"50B\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let detail = daemon.post("/api/orders", &user, &" ".repeat(60)).expect_status(413).json()["detail"].clone();
    assert!(detail.as_str().unwrap().contains("50 bytes (http.body-limit)"), "{detail}");
    daemon.terminate();
}

#[test]
fn h5_what_is_wrong_with_a_limit_is_said_at_once() {
    for (toml, said) in [
        ("[http.rate]\nper-address = \"10\"\n", "`http.rate.per-address`: \"10\" is not a rate"),
        ("[http.rate]\nper-user = \"0/s\"\n", "is not a rate"),
        ("[http.rate]\nper-user = \"5/d\"\n", "write a whole number up to 1000000 and /s, /m or /h"),
        ("[http]\ntrusted-proxies = [\"10.0.0.0/99\"]\n", "is not a network"),
        ("[http]\nforwarded = \"x-real-ip\"\n", "valid is \"x-forwarded-for\" or \"forwarded\""),
        (
            "[[handler.order.route]]\nmethod = \"GET\"\npath = \"/a\"\nper-user = \"1/s\"\n",
            "goes with `auth = \"jwt\"` only",
        ),
    ] {
        let sandbox = sandbox(toml, &[]);
        let output = sandbox.tidemill(&["check"]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{toml}: {error}");
    }
}
