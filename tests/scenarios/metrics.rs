//! S2.10: what the daemon tells of itself is true, bounded, and readable by Prometheus; lag is Kafka's own.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tidemill_tests::sandbox::{built, with_section};
use tidemill_tests::{Call, Daemon, Kafka, LONG, Metrics, Out, SOON, Sandbox, Store, eventually, eventually_some};

use crate::rig::{Hostile, told};

/// The hostile handler, whose event ids are in a header.
fn sandbox(more: &str) -> Sandbox {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!("{more}\n[handler.hostile]\nevent-id = \"ce_id\"\n"));
    sandbox
}

fn event(id: &str, commands: Value) -> Out {
    Out::new(commands.to_string()).header("ce_id", id).partition(0)
}

/// A scrape of which `fits` is true.
fn scraped(sandbox: &Sandbox, what: &str, fits: impl Fn(&Metrics) -> bool) -> Metrics {
    eventually_some(SOON, what, || Some(sandbox.scrape()).filter(&fits))
}

const OF_HOSTILE: (&str, &str) = ("handler", "hostile");

#[test]
fn s2_10_after_known_traffic_each_series_has_the_number_that_it_must_have() {
    let sandbox = sandbox("");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let good = |n: usize| event(&format!("good-{n}"), json!({ "do": "insert", "id": format!("r{n}") }));
    client.produce_all("hostile-in", (0..20).map(good));
    client.produce_all("hostile-in", (0..4).map(good));
    client.produce_all("hostile-in", (0..3).map(|n| event(&format!("bad-{n}"), json!({ "do": "reject" }))));
    client.produce("hostile-in", &event("again", json!({ "do": "fail-n", "until": 2 })));
    client.produce("hostile-in", &event("trap", json!({ "do": "panic" })));
    client.produce("hostile-in", &event("loop", json!({ "do": "loop" })));
    client.produce("hostile-in", &event("tell", json!({ "do": "publish", "count": 5 })));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 22);
    // Another version, and it goes on where the counters were.
    sandbox.deploy_bytes("hostile.wasm", &with_section(&built("hostile"), "another"));
    store.until("SELECT max(version) FROM tm_deployment WHERE status = 'live'", 2);
    client.produce_all("hostile-in", (20..30).map(good));
    store.until("SELECT count(*) FROM seen", 32);
    for _ in 0..3 {
        daemon.get("/hostile/seen", "").expect_status(200);
    }
    daemon.call("POST", "/hostile").body(r#"{"do":"insert"}"#).send().expect_status(200);
    daemon.call("POST", "/hostile").body(r#"{"do":"panic"}"#).send().expect_status(500);
    daemon.get("/nowhere", "").expect_status(404);

    let page = scraped(&sandbox, "all events were published", |page| {
        page.sum("tidemill_outbox_rows", &[]) == 0.0 && page.sum("tidemill_published_total", &[("by", "kafka")]) == 10.0
    });
    let records = |outcome| page.sum("tidemill_records_total", &[OF_HOSTILE, ("outcome", outcome)]);
    let outcomes = ["done", "duplicate", "dead-letter", "fallback"].map(records);
    assert_eq!(outcomes, [32.0, 4.0, 5.0, 0.0], "{}", page.text);
    let attempts =
        |kind, outcome| page.sum("tidemill_attempts_total", &[OF_HOSTILE, ("kind", kind), ("outcome", outcome)]);
    let ends =
        ["done", "retry", "reject", "trap", "time-limit", "unavailable", "crash"].map(|end| attempts("record", end));
    assert_eq!(ends, [32.0, 1.0, 3.0, 2.0, 2.0, 0.0, 0.0], "{}", page.text);
    assert_eq!(["done", "trap"].map(|end| attempts("request", end)), [4.0, 1.0]);
    let count = |name: &str, labels: &[(&str, &str)]| page.sum(&format!("{name}_count"), labels);
    assert_eq!(count("tidemill_processing_seconds", &[OF_HOSTILE, ("kind", "record")]), 40.0);
    assert!(page.sum("tidemill_processing_seconds_sum", &[("kind", "record")]) > 0.5, "two ran into the time limit");
    assert_eq!(count("tidemill_end_to_end_seconds", &[OF_HOSTILE]), 32.0);
    let by_kafka = [("store", "hostile"), ("by", "kafka")];
    assert_eq!(count("tidemill_relay_seconds", &by_kafka), 10.0);
    assert_eq!(page.sum("tidemill_published_total", &[("by", "http")]), 0.0);
    for idle in [
        "tidemill_pending_records",
        "tidemill_fallback_rows",
        "tidemill_refused_total",
        "tidemill_circuit_open",
        "tidemill_circuit_opened_total",
        "tidemill_version_held",
        "tidemill_outbox_oldest_seconds",
        "tidemill_outbox_delayed_rows",
        "tidemill_oldest_unprocessed_seconds",
        "tidemill_lane_records",
        "tidemill_outbox_full",
        "tidemill_standby",
        "tidemill_scrape_incomplete",
        "tidemill_consumer_lag",
        "kafka_consumergroup_lag",
    ] {
        assert_eq!(page.sum(idle, &[]), 0.0, "{idle}");
    }
    assert_eq!(page.sum("tidemill_consumer_next_offset", &[("group", "hostile"), ("partition", "0")]), 41.0);
    assert_eq!(page.sum("tidemill_partition_end_offset", &[("topic", "hostile-in"), ("partition", "0")]), 41.0);
    assert_eq!(page.labels("tidemill_handler_info")[0]["version"], "2");
    assert_eq!(page.sum("tidemill_audited_actions_total", &[("action", "deploy"), ("result", "done")]), 2.0);
    let seen = [OF_HOSTILE, ("method", "GET"), ("route", "/hostile/seen")];
    assert_eq!(page.sum("tidemill_http_requests_total", &[&seen[..], &[("status", "200")]].concat()), 3.0);
    assert_eq!(count("tidemill_http_request_seconds", &seen), 3.0);
    let post = |status| page.sum("tidemill_http_requests_total", &[("method", "POST"), ("status", status)]);
    assert_eq!([post("200"), post("500")], [1.0, 1.0]);
    assert_eq!(page.sum("tidemill_http_requests_total", &[("route", ""), ("status", "404")]), 1.0);
    // Deliveries, duplicates and what was run again alone.
    assert!(page.sum("tidemill_group_deliveries_sum", &[]) >= 46.0 && count("tidemill_commit_seconds", &[]) > 0.0);
    assert!(count("tidemill_group_seconds", &[]) == count("tidemill_group_deliveries", &[]));
    assert!(page.sum("tidemill_instances_made_total", &[OF_HOSTILE]) >= 45.0);
    let memory = page.sum("tidemill_guest_memory_max_bytes", &[OF_HOSTILE]);
    assert!(memory > 65_536.0 && memory <= page.sum("tidemill_guest_memory_limit_bytes", &[OF_HOSTILE]), "{memory}");
    for there in ["tidemill_ready", "tidemill_kafka_up", "tidemill_store_writable", "tidemill_build_info"] {
        assert_eq!(page.sum(there, &[]), 1.0, "{there}");
    }
    for some in [
        "tidemill_store_bytes",
        "tidemill_data_free_bytes",
        "process_resident_memory_bytes",
        "process_threads",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(page.sum(some, &[]) > 0.0, "{some}");
    }
    let client = [("client", "hostile")];
    scraped(&sandbox, "librdkafka has reported", |page| page.find("tidemill_kafka_broker_up", &client) == Some(1.0));
    // A handler that goes takes its series along.
    sandbox.remove("hostile.wasm");
    let page = scraped(&sandbox, "it is gone", |page| page.find("tidemill_handler_info", &[]).is_none());
    assert_eq!(page.find("tidemill_records_total", &[]), None);
    assert_eq!(page.find("tidemill_consumer_lag", &[]), None);
}

#[test]
fn s2_10_what_waits_is_told_with_its_age() {
    let sandbox = sandbox("");
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let hour = 3_600_000;
    let old = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap() - hour;
    let waits = json!({ "do": "fail-n", "until": 9, "after_ms": hour });
    client.produce("hostile-in", &event("waits", waits).timestamp(old));
    client.produce("hostile-in", &event("delayed", json!({ "do": "publish", "after_ms": hour })).partition(1));
    let page = scraped(&sandbox, "both wait", |page| {
        page.sum("tidemill_pending_records", &[OF_HOSTILE]) == 1.0
            && page.sum("tidemill_outbox_delayed_rows", &[]) == 1.0
    });
    let age = page.sum("tidemill_oldest_unprocessed_seconds", &[OF_HOSTILE]);
    assert!((3_600.0..3_700.0).contains(&age), "{age}");
    assert_eq!(page.sum("tidemill_outbox_rows", &[]), 1.0);
    assert_eq!(page.sum("tidemill_outbox_oldest_seconds", &[]), 0.0, "it is not due");
    // An event that is due and cannot go.
    sandbox.kill_broker();
    daemon.call("POST", "/hostile").body(r#"{"do":"publish"}"#).send().expect_status(200);
    let page = scraped(&sandbox, "it waits", |page| page.sum("tidemill_outbox_oldest_seconds", &[]) > 1.0);
    assert_eq!(page.sum("tidemill_outbox_rows", &[]), 2.0);
    scraped(&sandbox, "Kafka is known to be away", |page| page.find("tidemill_kafka_up", &[]) == Some(0.0));
}

#[test]
fn s2_10_lag_grows_while_a_circuit_is_open_is_that_of_kafkas_own_tool_and_ends_at_nothing() {
    let kafka = Kafka::shared();
    let hostile = Hostile::new(
        kafka,
        "consumer = { high-mark = 5, commit-interval = \"100ms\" }\ncircuit = { wait = \"50ms\", max-wait = \"100ms\" }\n",
    );
    let daemon = Daemon::start(&hostile.sandbox);
    let sql = |statement: &str| {
        let command = json!({ "do": "sql", "statements": [statement], "row": false });
        daemon.call("POST", "/hostile").body(&command.to_string()).send().expect_status(200);
    };
    sql("INSERT INTO once VALUES ('shop')");
    let needs = |n: i32| {
        let commands = json!({ "do": "needs", "up": "shop", "id": format!("r{n}") });
        Out::new(commands.to_string()).partition(n % 3)
    };
    let group = hostile.group.as_str();
    let lag = |page: &Metrics| page.sum("kafka_consumergroup_lag", &[("consumergroup", group)]);
    let mut produced = 0;
    // The first record of each partition waits in the store; the others are left in Kafka, most of them in paused partitions.
    for more in [60, 120] {
        hostile.client.produce_all(&hostile.input, (produced..produced + more).map(needs));
        produced += more;
        let expected = f64::from(produced - 3);
        let page = scraped(&hostile.sandbox, "it lags by all but the heads", |page| lag(page) == expected);
        assert_eq!(page.sum("tidemill_consumer_lag", &[OF_HOSTILE, ("topic", &hostile.input)]), expected);
        assert_eq!(page.sum("tidemill_circuit_open", &[OF_HOSTILE]), 1.0);
        assert_eq!(page.sum("tidemill_pending_records", &[OF_HOSTILE]), 3.0);
    }
    let page = hostile.sandbox.scrape();
    for partition in ["0", "1", "2"] {
        let of_it = [("consumergroup", group), ("topic", &hostile.input), ("partition", partition)];
        let ours = page.sum("kafka_consumergroup_lag", &of_it);
        eventually(LONG, "Kafka's tool tells the same lag", || {
            let told = kafka.tool("consumer-groups", &["--describe", "--group", group]);
            let row = told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let lag = row
                .filter(|row| row.len() > 5 && row[1] == hostile.input && row[2] == partition)
                .map(|row| row[5].to_owned());
            lag.collect::<Vec<_>>() == [format!("{ours}")]
        });
    }
    let opened = page.sum("tidemill_circuit_opened_total", &[OF_HOSTILE]);
    assert!(opened >= 1.0, "{opened}");
    sql("DELETE FROM once WHERE id = 'shop'");
    let done = |page: &Metrics| page.sum("tidemill_records_total", &[OF_HOSTILE, ("outcome", "done")]);
    let page = scraped(&hostile.sandbox, "all is done", |page| done(page) == f64::from(produced) && lag(page) == 0.0);
    assert_eq!(page.sum("tidemill_circuit_open", &[OF_HOSTILE]), 0.0);
}

#[test]
fn s2_10_ten_thousand_keys_and_unknown_paths_make_no_further_series() {
    const KEYS: usize = 10_000;
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    let client = daemon.client();
    let ask = |n: usize| {
        daemon.get(&format!("/path-{n}"), "").expect_status(404);
        daemon.call("PATCH", &format!("/hostile?n={n}")).send().expect_status(405);
        daemon.get(&format!("/hostile/seen?key=k-{n}"), "").expect_status(200);
    };
    let record = |n: usize| told(&format!("id-{n}"), "insert").key(format!("k-{n}"));
    let store = Store::open(&sandbox, "hostile");
    client.produce_all("hostile-in", (0..30).map(|n| record(n).partition((n % 3) as i32)));
    store.until("SELECT count(*) FROM seen", 30);
    ask(0);
    let client_is_known = [("client", "hostile"), ("broker", "1")];
    let before = scraped(&sandbox, "librdkafka has reported of all its clients", |page| {
        page.find("tidemill_kafka_broker_rtt_seconds", &client_is_known).is_some()
            && page.find("tidemill_kafka_queue_messages", &[("client", "relay")]).is_some()
            && page.labels("tidemill_consumer_lag").len() == 3
    });
    client.produce_all("hostile-in", (30..KEYS).map(record));
    (1..200).for_each(ask);
    store.until("SELECT count(*) FROM seen", KEYS as i64);
    let after = scraped(&sandbox, "all are counted", |page| {
        page.sum("tidemill_records_total", &[("outcome", "done")]) == KEYS as f64
    });
    let round_trips = |page: &Metrics| page.labels("tidemill_kafka_broker_rtt_seconds").len() * 2;
    assert_eq!(after.count() - round_trips(&after), before.count() - round_trips(&before), "{}", after.text);
    for word in ["k-", "path-", "id-"] {
        assert!(!after.text.contains(&format!("\"{word}")) && !after.text.contains(&format!("/{word}")), "{word}");
    }
}

#[test]
fn s2_10_prometheus_own_tool_reads_both_pages_and_finds_nothing_to_say() {
    let sandbox = Sandbox::with(&["hostile"]);
    let daemon = Daemon::start(&sandbox);
    daemon.client().produce("hostile-in", &told("r", "publish"));
    Store::open(&sandbox, "hostile").until("SELECT count(*) FROM seen", 1);
    let reply = sandbox.monitor("/metrics").send().expect_status(200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tool = tool.spawn().expect("promtool; `make setup-tests` installs it");
    tool.stdin.take().unwrap().write_all(&reply.body).unwrap();
    let said = tool.wait_with_output().unwrap();
    let said = (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned());
    assert_eq!(said, (true, String::new()));
    let open = sandbox.monitor("/metrics").header("Accept", "application/openmetrics-text; version=1.0.0").send();
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.text().ends_with("\n# EOF\n") && open.text().contains("\n# TYPE tidemill_records counter\n"));
    // Each series is one of a family that says what it is.
    let page = Metrics::of(&reply);
    let named = |prefix: &str| -> Vec<&str> {
        page.text.lines().filter_map(|line| line.strip_prefix(prefix)?.split(' ').next()).collect()
    };
    let (helped, typed) = (named("# HELP "), named("# TYPE "));
    assert!(helped == typed && helped.len() > 50, "{helped:?}");
    for line in page.text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = ["", "_bucket", "_sum", "_count"].iter().filter_map(|suffix| name.strip_suffix(suffix));
        assert!(family.into_iter().any(|family| typed.contains(&family)), "{line}");
    }
}

#[test]
fn s2_10_a_daemon_says_whether_it_is_ready_and_why_not() {
    let sandbox = sandbox("[outbox]\nmax-rows = 1\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let mut daemon = Daemon::start(&sandbox);
    let ready = || sandbox.monitor("/readyz").send();
    let well = ready().expect_status(200);
    assert_eq!(well.header("content-type"), Some("application/json"));
    let reply = eventually_some(SOON, "Kafka was asked", || Some(ready().json()).filter(|r| r["kafka"] == true));
    assert_eq!((&reply["ready"], &reply["stage"]), (&json!(true), &json!("running")));
    assert_eq!(reply["reasons"], json!([]));

    // A standby answers at an address of its own, and takes over with it.
    let mut standby = Daemon::launch_as(&sandbox, &["run", "--standby"], |command| {
        command.env("TIDEMILL_METRICS_LISTEN", &address);
    });
    standby.says(&["waiting as a standby"]);
    let of_standby = |path: &str| Call::new("GET", &format!("http://{address}{path}")).send();
    let waits = of_standby("/readyz").expect_status(503).json();
    assert_eq!((&waits["ready"], &waits["stage"]), (&json!(false), &json!("standby")));
    assert!(waits["reasons"][0]["reason"].as_str().unwrap().contains("waits for the daemon"), "{waits}");
    assert_eq!(of_standby("/livez").expect_status(200).json()["alive"], true);
    assert_eq!(Metrics::of(&of_standby("/metrics")).sum("tidemill_standby", &[]), 1.0);
    ready().expect_status(200);
    daemon.kill9();
    standby.wait_ready();
    let page = Metrics::of(&of_standby("/metrics"));
    assert_eq!((page.sum("tidemill_standby", &[]), page.sum("tidemill_ready", &[])), (0.0, 1.0));
    assert_eq!(fs::read_to_string(sandbox.data().join("metrics.url")).unwrap(), format!("http://{address}\n"));

    // Kafka's absence alone changes nothing; a store that takes no more does.
    sandbox.kill_broker();
    eventually(LONG, "Kafka is known to be away", || of_standby("/readyz").expect_status(200).json()["kafka"] == false);
    standby.call("POST", "/hostile").body(r#"{"do":"publish"}"#).send().expect_status(200);
    let full = eventually_some(SOON, "the outbox is full", || Some(of_standby("/readyz")).filter(|r| r.status == 503));
    let reason = &full.json()["reasons"][0];
    assert_eq!(reason["store"], "hostile");
    assert!(reason["reason"].as_str().unwrap().contains("outbox.max-rows"), "{reason}");
    of_standby("/livez").expect_status(200);
}

#[test]
fn s2_10_a_store_whose_thread_hangs_is_named_by_livez_and_by_nothing_else() {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml("[metrics]\nstuck-after = \"1s\"\n[handler.hostile]\nlimits = { time = \"4s\" }\nretry = { max-attempts = 1 }\n");
    let daemon = Daemon::start(&sandbox);
    let live = || sandbox.monitor("/livez").send();
    live().expect_status(200);
    daemon.client().produce("hostile-in", &told("hangs", "loop"));
    let hangs = eventually_some(SOON, "it hangs", || Some(live()).filter(|reply| reply.status == 503)).json();
    assert_eq!((&hangs["alive"], &hangs["reasons"][0]["store"]), (&json!(false), &json!("hostile")));
    let busy = sandbox.scrape().sum("tidemill_store_stuck_seconds", &[("store", "hostile")]);
    assert!(busy >= 1.0, "{busy}");
    sandbox.monitor("/readyz").send().expect_status(200);
    eventually(SOON, "it goes on", || live().status == 200);
    scraped(&sandbox, "it is at rest", |page| page.sum("tidemill_store_stuck_seconds", &[]) == 0.0);
}

#[test]
fn s2_10_who_scrapes_needs_no_token_that_deploys_and_gets_nothing_else_with_his_own() {
    const TOKEN: &str = "scrape-scrape-scrape-scrape-scrape-1";
    let sandbox = Sandbox::with(&["hostile"]);
    fs::write(sandbox.root().join("metrics.token"), format!("{TOKEN}\n")).unwrap();
    sandbox.write_toml("[metrics]\ntoken-file = \"metrics.token\"\n");
    let mut daemon = Daemon::start(&sandbox);
    let scrape = || sandbox.monitor("/metrics");
    scrape().send().expect_status(401);
    scrape().token("wrong").send().expect_status(401);
    let admin = fs::read_to_string(sandbox.data().join("admin.token")).unwrap();
    scrape().token(admin.trim()).send().expect_status(401);
    scrape().token(TOKEN).send().expect_status(200);
    sandbox.admin_without_token("GET", "handlers").token(TOKEN).send().expect_status(401);
    for probe in ["/livez", "/readyz"] {
        sandbox.monitor(probe).send().expect_status(200);
    }
    sandbox.monitor("/admin/v1/handlers").token(admin.trim()).send().expect_status(404);
    let url = fs::read_to_string(sandbox.data().join("metrics.url")).unwrap();
    Call::new("POST", &format!("{}/metrics", url.trim())).send().expect_status(405);
    daemon.terminate();
    assert!(!sandbox.data().join("metrics.url").exists());

    sandbox.write_toml("[metrics]\ntoken-file = \"nowhere\"\n");
    let (code, said) = Daemon::refused(&sandbox);
    assert!(code == 1 && said.contains("metrics.token-file"), "{said}");
    sandbox.write_toml("[metrics]\nlisten = \"off\"\n");
    let daemon = Daemon::start(&sandbox);
    assert!(!sandbox.data().join("metrics.url").exists());
    daemon.get("/metrics", "").expect_status(404);
}
