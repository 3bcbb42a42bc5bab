//! Traces: one from a request through events and handlers, with what each delivery did, and its context passed on whether anybody is told or not.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use tidemill_tests::{
    Collector, Daemon, Kafka, LONG, Out, Rec, SOON, Sandbox, Service, Span, Store, eventually, eventually_some, token,
};

use crate::rig::{ORDER, first_on, told};

/// The context of a client that records, and of one that does not.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const RECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNRECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn traces(collector: &Collector, more: &str) -> String {
    format!("[traces]\nendpoint = \"{}\"\nbatch-interval = \"20ms\"\n{more}\n", collector.url())
}

/// The hostile handler with these settings.
fn hostile(settings: &str) -> (Sandbox, Daemon) {
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(settings);
    let daemon = Daemon::start(&sandbox);
    (sandbox, daemon)
}

/// A record that makes the handler publish.
fn publishing(id: &str) -> Out {
    told(id, "publish")
}

/// What a replay of the record at this place prints.
fn replayed(sandbox: &Sandbox, place: &str) -> Value {
    let works = |arguments: &[&str]| {
        let out = sandbox.tidemill(arguments);
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    };
    let file = sandbox.root().join("record.json");
    std::fs::write(&file, works(&["records", "show", "--json", place])).unwrap();
    serde_json::from_slice(&works(&["replay", file.to_str().unwrap(), "--on", "hostile", "--json"])).unwrap()
}

fn parent_of(record: &Rec) -> String {
    record.header_text("traceparent").expect("a traceparent")
}

fn span_of(parent: &str) -> &str {
    parent.split('-').nth(2).unwrap()
}

#[test]
fn an_order_its_stock_its_payment_and_its_notification_are_one_trace() {
    const HANDLERS: [&str; 4] = ["order", "inventory", "payment", "notification"];
    let (kafka, collector) = (Kafka::shared(), Collector::start());
    let sandbox = Sandbox::with(&HANDLERS);
    let [orders, timers, stock, payments] =
        ["order-events", "order-timers", "inventory-events", "payment-events"].map(|topic| sandbox.unique(topic));
    let group = |handler: &str| format!("group = \"{}\"", sandbox.unique(handler));
    let mut toml = format!("[kafka]\nbootstrap = \"{}\"\n{}", kafka.bootstrap(), traces(&collector, ""));
    toml += &format!(
        "[handler.order]\n{}\ntopics = [\"{stock}\", \"{payments}\", \"{timers}\"]\npublish = {{ order-events = \"{orders}\", order-timers = \"{timers}\" }}\n\
         [handler.inventory]\n{}\ntopics = [\"{orders}\"]\npublish = {{ inventory-events = \"{stock}\" }}\n\
         [handler.payment]\n{}\ntopics = [\"{orders}\"]\npublish = {{ payment-events = \"{payments}\" }}\n\
         [handler.notification]\n{}\ntopics = [\"{orders}\"]\n",
        group("order"),
        group("inventory"),
        group("payment"),
        group("notification"),
    );
    toml += &[&orders, &timers, &stock, &payments].map(|topic| format!("[[topic]]\nname = \"{topic}\"\n")).concat();
    sandbox.write_toml(&toml);
    let daemon = Daemon::start(&sandbox);
    let user = token(&sandbox, "7");
    for (path, body) in [("/api/account", r#"{"amount":"1000000.00"}"#), ("/api/stock/1", r#"{"quantity":100}"#)] {
        assert!((200..300).contains(&daemon.post(path, &user, body).status), "{path}");
    }
    let order = daemon.call("POST", "/api/orders").token(&user).body(ORDER);
    order.header("traceparent", RECORDED).header("tracestate", "shop=7").send().expect_status(201);

    let of = |handler: &'static str, kind: i32| {
        move |span: &Span| span.tag("tidemill.handler") == handler && span.kind == kind
    };
    let mine = |span: &Span| span.trace == TRACE;
    let server = collector.span("the request's", |span| of("order", 2)(span) && mine(span));
    assert_eq!((server.name.as_str(), server.parent.as_str()), ("POST /api/orders", "b7ad6b7169203331"));
    assert_eq!((server.tag("http.response.status_code"), server.tag("service.name")), ("201", "tidemill"));
    let notified = collector.span("the notification's", |span| of("notification", 5)(span) && span.parent == server.id);
    assert_eq!(notified.name, format!("process {orders}"));
    assert_eq!((notified.tag("messaging.system"), notified.tag("messaging.destination.name")), ("kafka", &*orders));
    assert_eq!((notified.tag("tidemill.outcome"), notified.tag("tidemill.attempt")), ("done", "1"));
    assert!(notified.tag("messaging.kafka.offset").parse::<i64>().is_ok(), "{notified:?}");
    // Through two topics to the payment, and back.
    let paid = collector.span("the order's, of its payment", |span| {
        of("order", 5)(span) && span.tag("messaging.destination.name") == payments && mine(span)
    });
    let spans = collector.spans();
    let mut way = vec![];
    let mut at = paid;
    while at.id != server.id {
        let parent = at.parent.clone();
        way.push(at.tag("tidemill.handler").to_owned());
        assert_eq!(at.trace, TRACE);
        at = spans.iter().find(|span| span.id == parent).unwrap_or_else(|| panic!("{at:?} has no parent")).clone();
    }
    assert_eq!(way, ["order", "payment"], "each is below the one whose event it read");
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
    assert_eq!(ids.len(), spans.len(), "each span has an id of its own");
    // What the request did: its statements without their values, its commit, and its event on the way.
    let below: Vec<&Span> = spans
        .iter()
        .filter(|span| span.parent == server.id && span.tag("tidemill.handler") != "notification")
        .collect();
    let insert = below.iter().find(|span| span.name == "INSERT").expect("its statement");
    assert!(insert.tag("db.query.text").contains('?') && !insert.tag("db.query.text").contains("25000"), "{insert:?}");
    assert!(below.iter().any(|span| span.name == "COMMIT" && span.time.1 >= span.time.0), "{below:?}");
    let event = collector.span("the event's", |span| span.kind == 4 && span.parent == server.id);
    assert_eq!((event.name.as_str(), event.tag("messaging.system")), (&*format!("send {orders}"), "kafka"));
    let record = first_on(&daemon.client(), &orders);
    assert_eq!(parent_of(&record), format!("00-{TRACE}-{}-01", server.id));
    assert_eq!(record.header_text("tracestate").as_deref(), Some("shop=7"));
}

#[test]
fn context_is_passed_on_where_nobody_is_told() {
    let service = Service::start();
    let (sandbox, daemon) = hostile(&format!("[handler.hostile.grant]\nhttp = [\"{}\"]\n", service.url()));
    let client = daemon.client();
    let call = json!([
        { "do": "call", "url": format!("{}/pay", service.url()), "id": "c", "row": false }, { "do": "publish" }
    ]);
    client
        .produce("hostile-in", &Out::new(call.to_string()).header("traceparent", RECORDED).header("tracestate", "a=1"));
    let event = first_on(&client, "hostile-out");
    assert_eq!((parent_of(&event), event.header_text("tracestate")), (RECORDED.to_owned(), Some("a=1".to_owned())));
    let asked = service.asked();
    assert_eq!((asked[0].header("traceparent"), asked[0].header("tracestate")), (Some(RECORDED), Some("a=1")));
    // Nobody begins a trace, and what is malformed is no context.
    for (n, header) in [None, Some("00-nothing-01"), Some("00-00000000000000000000000000000000-b7ad6b7169203331-01")]
        .into_iter()
        .enumerate()
    {
        let record = publishing(&format!("r{n}"));
        client.produce("hostile-in", &header.map_or(record.clone(), |header| record.header("traceparent", header)));
    }
    let all = eventually_some(LONG, "all are published", || {
        Some(client.consume_all("hostile-out")).filter(|all| all.len() == 4)
    });
    assert_eq!(all.iter().filter(|record| record.header("traceparent").is_some()).count(), 1);
    // The handler's own goes before.
    let own = json!({ "do": "publish", "headers": [["traceparent", UNRECORDED]] });
    client.produce("hostile-in", &Out::new(own.to_string()).header("traceparent", RECORDED));
    let ends = |record: &Rec| record.header_text("traceparent").as_deref() == Some(UNRECORDED);
    eventually(LONG, "it is published", || client.consume_all("hostile-out").iter().any(ends));
    drop(sandbox);
}

#[test]
fn each_attempt_is_a_span_and_the_dead_letter_belongs_to_the_last() {
    let collector = Collector::start();
    let (sandbox, daemon) = hostile(&traces(&collector, ""));
    let client = daemon.client();
    client.produce("hostile-in", &Out::new(r#"{"do":"fail-n","until":99,"id":"a"}"#).header("h", "1"));
    let dead = first_on(&client, "hostile-in.DLT");
    let last = collector.span("the last attempt's", |span| span.tag("tidemill.attempt") == "2");
    let attempts: Vec<Span> = collector.spans().into_iter().filter(|span| span.kind == 5).collect();
    let [first, second] = &attempts[..] else { panic!("two attempts: {attempts:?}") };
    assert_eq!((first.trace.as_str(), first.parent.as_str()), (second.trace.as_str(), ""));
    assert_ne!(first.id, second.id);
    for (attempt, said) in [(first, "tried again"), (second, "dead letter to")] {
        assert_eq!((attempt.tag("tidemill.outcome"), attempt.tag("error.type")), ("retry", "retry"), "{attempt:?}");
        assert!(attempt.error.as_ref().is_some_and(|error| error.contains(said)), "{attempt:?}");
    }
    let parent = parent_of(&dead);
    assert_eq!((span_of(&parent), dead.headers[0].0.as_str()), (last.id.as_str(), "h"), "{dead:?}");
    let published = collector.span("the dead letter's", |span| span.kind == 4);
    assert_eq!((published.parent.as_str(), published.name.as_str()), (last.id.as_str(), "send hostile-in.DLT"));
    // It is replayed as it came: without what the dead letter says of its trace.
    let replayed = replayed(&sandbox, &format!("hostile-in.DLT/{}@0", dead.partition));
    assert_eq!(replayed["record"]["headers"], json!([["h", "1"]]));
}

#[test]
fn a_replay_and_a_restart_give_the_same_ids() {
    let collector = Collector::start();
    let (sandbox, mut daemon) = hostile(&format!("[kafka]\nkeep-embedded = true\n{}", traces(&collector, "")));
    let client = daemon.client();
    let record = publishing("a").partition(0).timestamp(1_700_000_000_000);
    client.produce("hostile-in", &record);
    let first = parent_of(&first_on(&client, "hostile-out"));
    let span = collector.span("the delivery's", |span| span.kind == 5);
    assert_eq!(first, format!("00-{}-{}-01", span.trace, span.id));
    let replayed = replayed(&sandbox, "hostile-in/0@0");
    assert_eq!(replayed["events"][0]["headers"], json!([["traceparent", first]]), "{replayed}");
    // The same record once more: another process, the same ids.
    daemon.terminate();
    let daemon = Daemon::start(&sandbox);
    let reset = ["groups", "reset", "hostile", "--to", "earliest", "--duplicates", "run"];
    let reset = sandbox.tidemill(&reset);
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    eventually(LONG, "the delivery is told twice", || {
        collector.spans().iter().filter(|other| other.id == span.id && other.trace == span.trace).count() == 2
    });
    drop(daemon);
}

#[test]
fn of_how_many_traces_is_told_is_set_and_the_parents_flag_goes_before() {
    for (ratio, parent, told_of) in
        [("1", None, true), ("0", None, false), ("0", Some(RECORDED), true), ("1", Some(UNRECORDED), false)]
    {
        let collector = Collector::start();
        let (_sandbox, daemon) = hostile(&traces(&collector, &format!("ratio = {ratio}")));
        let client = daemon.client();
        let record = publishing("a");
        client.produce("hostile-in", &parent.map_or(record.clone(), |parent| record.header("traceparent", parent)));
        let flag = parent_of(&first_on(&client, "hostile-out"));
        assert_eq!(flag.ends_with("-01"), told_of, "{ratio} {parent:?}: {flag}");
        // One that is told for certain comes after it.
        client.produce("hostile-in", &publishing("b").header("traceparent", RECORDED.replace('7', "8")));
        let last = RECORDED.replace('7', "8").split('-').nth(1).unwrap().to_owned();
        collector.span("the last one's", |span| span.kind == 4 && span.trace == last);
        assert_eq!(collector.spans().iter().any(|span| span.trace != last), told_of, "{ratio} {parent:?}");
    }
}

#[test]
fn a_call_outside_and_a_request_that_reads_are_spans_and_headers_carry_secrets() {
    let (service, collector) = (Service::start(), Collector::start());
    let sandbox = Sandbox::with(&["hostile"]);
    sandbox.write_toml(&format!(
        "{}headers = {{ x-team = \"shop\" }}\nsecret-headers = {{ authorization = {{ env = \"TM_TEST_COLLECTOR\" }} }}\n[handler.hostile.grant]\nhttp = [\"{}\"]\n",
        traces(&collector, "service-name = \"the-shop\""),
        service.url()
    ));
    let daemon = Daemon::start_with(&sandbox, |command| {
        command.env("TM_TEST_COLLECTOR", "Bearer collector-secret");
    });
    let call = json!({ "do": "call", "url": format!("{}/pay?card=4111", service.url()), "id": "c", "row": false });
    daemon.client().produce("hostile-in", &Out::new(call.to_string()).header("traceparent", RECORDED));
    let delivery = collector.span("the delivery's", |span| span.kind == 5);
    let called = collector.span("the call's", |span| span.tag("url.full").ends_with("/pay"));
    assert_eq!(
        (called.parent.as_str(), called.kind, called.tag("http.response.status_code")),
        (&*delivery.id, 3, "200")
    );
    assert_eq!(service.asked()[0].header("traceparent").map(span_of), Some(&*called.id));
    assert!(delivery.time.0 <= called.time.0 && called.time.1 <= delivery.time.1, "{delivery:?} {called:?}");
    assert_eq!(delivery.tag("service.name"), "the-shop");

    daemon.call("GET", "/hostile/seen").header("traceparent", &RECORDED.replace('7', "8")).send().expect_status(200);
    let read = collector.span("the request's", |span| span.name == "GET /hostile/seen");
    assert_eq!((read.kind, read.parent.as_str()), (2, "b8ad6b8169203331"));
    collector.span("its statement's", |span| span.parent == read.id && span.name == "SELECT");

    let headers = collector.batches().remove(0);
    let header = |name: &str| headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str());
    assert_eq!((header("x-team"), header("authorization")), (Some("shop"), Some("Bearer collector-secret")));
    assert!(!daemon.log().contains("collector-secret"));
}

#[test]
fn s2_3_a_request_that_is_refused_before_a_handler_runs_has_a_span_of_its_own() {
    let collector = Collector::start();
    let sandbox = Sandbox::with(&["order", "hostile"]);
    sandbox.write_toml(&format!(
        "{}[http]\nbody-limit = \"2KiB\"\nmax-waiting = 1\n[handler.order.rate]\nper-user = \"2/h\"\n",
        traces(&collector, "")
    ));
    let daemon = Daemon::start(&sandbox);
    let [seven, eight] = ["7", "8"].map(|user| token(&sandbox, user));
    let large = " ".repeat(3_000);
    let call = |method: &str, path: &str| daemon.call(method, path);
    let keyed = |body: &str| call("POST", "/api/orders").token(&eight).header("Idempotency-Key", "k").body(body);
    keyed(ORDER).send().expect_status(201);
    call("GET", "/api/orders").token(&seven).send().expect_status(200);

    // One that a handler fails on is told by its executor alone.
    let failed = RECORDED.replace('7', "9");
    let panics = json!({ "do": "panic" }).to_string();
    call("POST", "/hostile").body(&panics).header("traceparent", &failed).send().expect_status(500);

    // A request whose body does not come has the only seat, once it is asked for that.
    let mut waits = TcpStream::connect(daemon.url().strip_prefix("http://").unwrap()).unwrap();
    let mut take_the_seat = || {
        let head = "POST /hostile HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
        waits.write_all(head.as_bytes()).unwrap();
        let mut answer = [0; 13];
        waits.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 100 ");
    };
    let orders = Some("/api/orders");
    for (n, (request, status, name, route)) in [
        (call("GET", "/api/nothing"), 404, "GET", None),
        (call("DELETE", "/api/orders"), 405, "DELETE", None),
        (call("BREW", "/api/orders"), 405, "HTTP", None),
        (call("GET", "/api/orders").token("no-token"), 401, "GET /api/orders", orders),
        (call("POST", "/api/orders").token(&seven).body(&large), 413, "POST /api/orders", orders),
        (call("GET", "/api/orders").token(&seven), 429, "GET /api/orders", orders),
        (keyed("{}"), 422, "POST /api/orders", orders),
        (call("GET", "/hostile/seen"), 503, "GET /hostile/seen", Some("/hostile/seen")),
    ]
    .into_iter()
    .enumerate()
    {
        if status == 503 {
            take_the_seat();
        }
        let trace = format!("0af7651916cd43dd8448eb211c8031{n:02x}");
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        request.header("traceparent", &parent).send().expect_status(status);
        let span = collector.span(&format!("that of {status}"), |span| span.trace == trace);
        assert_eq!((span.name.as_str(), span.kind, span.parent.as_str()), (name, 2, "b7ad6b7169203331"));
        let status = status.to_string();
        assert_eq!((span.tag("http.response.status_code"), span.tag("url.scheme")), (&*status, "http"));
        assert_eq!(span.tag("http.route"), route.unwrap_or_default(), "{span:?}");
        assert_eq!(span.tag("tidemill.handler").is_empty(), route.is_none(), "{span:?}");
        let method = if name == "HTTP" { "_OTHER" } else { name.split(' ').next().unwrap() };
        assert_eq!((span.tag("http.request.method"), span.tag("url.path").is_empty()), (method, false));
        // What the client has done wrong is no error of the server's.
        let wrong = status == "503";
        assert_eq!((span.error.is_some(), span.tag("error.type")), (wrong, if wrong { "503" } else { "" }), "{span:?}");
        assert!(span.time.1 >= span.time.0);
    }
    drop(waits);

    // Where nothing is to be recorded nothing is told, and where nobody has begun a trace one begins.
    let unrecorded = UNRECORDED.replace('7', "8");
    call("GET", "/api/nothing").header("traceparent", &unrecorded).send().expect_status(404);
    call("GET", "/api/nowhere").send().expect_status(404);
    let alone = collector.span("the one without a parent", |span| span.tag("url.path") == "/api/nowhere");
    assert_eq!(alone.parent, "");
    // Nothing is told twice: those that a handler ran have their own spans.
    let servers = |route: &str, code: &str| {
        let same = |span: &&Span| {
            span.kind == 2 && span.tag("http.route") == route && span.tag("http.response.status_code") == code
        };
        collector.spans().iter().filter(same).count()
    };
    assert_eq!(
        (servers("/api/orders", "201"), servers("/api/orders", "200"), servers("/api/orders", "429")),
        (1, 1, 1)
    );
    let of_failed = |span: &Span| span.kind == 2 && failed.contains(&span.trace);
    let of_failed: Vec<Span> = collector.spans().into_iter().filter(of_failed).collect();
    let [span] = &of_failed[..] else { panic!("{of_failed:?}") };
    assert_eq!(span.tag("tidemill.outcome"), "trap");
    assert!(collector.spans().iter().all(|span| !unrecorded.contains(&span.trace)));
}

#[test]
fn a_collector_that_is_away_holds_nothing_up_and_is_told_of_once() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let settings = format!(
        "[traces]\nendpoint = \"http://{address}\"\nbatch-interval = \"10ms\"\nbatch-size = 5\nqueue-size = 20\n"
    );
    let (sandbox, daemon) = hostile(&settings);
    let client = daemon.client();
    client.produce_all("hostile-in", (0..2_000).map(|n| publishing(&format!("r{n}"))));
    let store = Store::open(&sandbox, "hostile");
    store.until("SELECT count(*) FROM seen", 2_000);
    let lost = |result: &str| sandbox.scrape().sum("tidemill_trace_spans_total", &[("result", result)]);
    eventually(LONG, "they are counted", || lost("failed") > 0.0 && lost("dropped") > 0.0);
    daemon.says(&["WARN", "the collector does not take traces", &address]);
    assert_eq!(daemon.log().matches("the collector does not take traces").count(), 1);
    let collector = Collector::at(&address);
    eventually(LONG, "it takes them again", || {
        client.produce("hostile-in", &told("more", "insert"));
        daemon.find(&["INFO", "takes traces again"]).is_some()
    });
    assert!(!collector.spans().is_empty());
    eventually(SOON, "they are counted", || lost("exported") > 0.0);
}

#[test]
fn log_lines_name_their_trace_and_where_they_are_from() {
    for format in ["text", "json"] {
        let (_sandbox, daemon) = hostile(&format!("[log]\nformat = \"{format}\"\n"));
        let record = Out::new(r#"{"do":"flood-log","count":1,"bytes":7}"#).partition(1).header("traceparent", RECORDED);
        daemon.client().produce("hostile-in", &record);
        let line = daemon.says(&[TRACE, "b7ad6b7169203331"]);
        let fields = match format {
            "json" => [
                "\"handler\":\"hostile\"",
                "\"version\":1",
                "\"topic\":\"hostile-in\"",
                "\"partition\":1",
                "\"offset\":0",
                "\"trace_id\":",
            ],
            _ => ["handler=hostile", "version=1", "topic=hostile-in", "partition=1", "offset=0", "trace_id="],
        };
        assert!(fields.iter().all(|field| line.contains(field)), "{line}");
    }
}

#[test]
fn an_event_that_goes_by_http_takes_its_trace_along() {
    let (service, collector) = (Service::start(), Collector::start());
    let (_sandbox, daemon) = hostile(&format!(
        "{}[[destination]]\ntopic = \"hostile-out\"\ntype = \"http\"\nurl = \"{}/in\"\n",
        traces(&collector, ""),
        service.url()
    ));
    daemon.client().produce("hostile-in", &publishing("a").header("traceparent", RECORDED));
    let delivery = collector.span("the delivery's", |span| span.kind == 5);
    let sent = collector.span("the try's", |span| span.name == "POST" && span.parent == delivery.id);
    assert_eq!((sent.tag("http.response.status_code"), sent.tag("messaging.destination.name")), ("200", "hostile-out"));
    let asked = service.asked();
    assert_eq!(asked[0].header("traceparent").map(span_of), Some(&*delivery.id));
}

#[test]
fn what_goes_past_the_outbox_and_what_is_told_of_it_belongs_to_the_trace() {
    let collector = Collector::start();
    let (_sandbox, daemon) = hostile(&traces(&collector, ""));
    let client = daemon.client();
    for way in ["now", "async"] {
        let command = json!({ "do": "publish", "send": way, "id": way });
        client.produce("hostile-in", &Out::new(command.to_string()).partition(0).header("traceparent", RECORDED));
    }
    let sends = eventually_some(LONG, "both are told", || {
        let sends: Vec<Span> = collector.spans().into_iter().filter(|span| span.kind == 4).collect();
        Some(sends).filter(|sends| sends.len() == 2)
    });
    for event in &client.consume_all("hostile-out") {
        let parent = parent_of(event);
        assert!(sends.iter().any(|send| send.parent == span_of(&parent)), "{parent} {sends:?}");
    }
}
