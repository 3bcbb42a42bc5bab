//! What a handler can do, each with an example that runs: the code of the handler, what its `handler.toml` says for it, and what
//! it then does on a [test bench](crate::test).
//!
//! It holds no code, and no rule that does not stand where the thing itself is documented.
//!
//! In a handler, [`handler!`](crate::handler!) names the functions; the examples leave it out.
//!
//! # A route with path parameters and a query
//!
//! A route is in the manifest and in `handler!`. A parameter that does not parse names nothing that exists, which is a 404; one of
//! the query is a 400. `GET` sees the store read-only, and many are answered at once.
//!
//! ```toml
//! [[route]]
//! method = "GET"
//! path = "/api/users/{user}/orders"
//! ```
//!
//! ```
//! use tidemill_sdk::http::{Request, Response};
//! use tidemill_sdk::{params, sql};
//!
//! #[derive(serde::Deserialize, serde::Serialize)]
//! struct Order {
//!     id: i64,
//!     status: String,
//! }
//!
//! /// `"GET /api/users/{user}/orders" => orders`
//! fn orders(request: &Request) -> tidemill_sdk::http::Result {
//!     let user: String = request.param("user")?;
//!     let status = request.query_param("status");
//!     let limit = request.parse_query_param::<u32>("limit")?.unwrap_or(20).min(100);
//!     let orders: Vec<Order> = sql::query(
//!         "SELECT id, status FROM orders WHERE user_id = ?1 AND (?2 IS NULL OR status = ?2) ORDER BY id LIMIT ?3",
//!         params![user, status, limit],
//!     )?;
//!     Ok(Response::ok(&orders))
//! }
//!
//! use tidemill_sdk::test::{Bench, get};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"orders\"\n[[route]]\nmethod = \"GET\"\npath = \"/api/users/{user}/orders\"",
//! #     migrations: &[("1.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id TEXT, status TEXT);")],
//! #     records: None,
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[("GET /api/users/{user}/orders", orders)],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO orders VALUES (7, 'ann', 'PAID'), (8, 'ann', 'CREATED'), (9, 'bob', 'PAID')");
//! let paid: Vec<Order> = bench.call(get("/api/users/ann/orders?status=PAID")).body_json();
//! assert_eq!(paid.iter().map(|order| order.id).collect::<Vec<_>>(), [7]);
//! assert_eq!(bench.call(get("/api/users/ann/orders?limit=all")).status, 400);
//! ```
//!
//! # A delayed event
//!
//! [`Event::enqueue_after`](crate::publisher::Event::enqueue_after) and
//! [`Event::enqueue_at`](crate::publisher::Event::enqueue_at) put an event into the outbox that is published once it is due: it
//! commits with the delivery like any other, and outlives a restart. It cannot be taken back: who reads it looks whether it still matters.
//!
//! ```toml
//! [publish]
//! reminders = "reminders"
//! ```
//!
//! ```
//! use std::time::Duration;
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::{Failure, Record};
//!
//! /// Whoever registers is asked after three days how it goes.
//! fn registered(record: &Record) -> Result<(), Failure> {
//!     let user = record.key_str().ok_or_else(|| Failure::reject("the key names no user"))?;
//!     Event::new("reminders", "ASK")
//!         .key(user)
//!         .envelope(serde_json::json!({ "userId": user }))
//!         .enqueue_after(Duration::from_secs(3 * 24 * 60 * 60))?;
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"asker\"\ntopics = [\"users\"]\n[publish]\nreminders = \"reminders\"",
//! #     migrations: &[],
//! #     records: Some(registered),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.at("2026-01-31T09:30:00Z".parse().map_err(Failure::reject)?);
//! bench.record(&record("users").with_key("ann"))?;
//! let due = bench.events()[0].due.map(|due| due.to_string());
//! assert_eq!(due.as_deref(), Some("2026-02-03T09:30:00.000Z"));
//! # Ok::<(), Failure>(())
//! ```
//!
//! # A timer
//!
//! A timer for one order, say, is a delayed event to a topic that the handler itself reads (what is done at set times has
//! [a schedule](#work-at-set-times)). So it is a record like any other when it fires: retried,
//! ordered by its key among what is there by then, a dead letter in the end, and, with an `event-id`, done once though it is published twice.
//! There is nothing to cancel: the row's state says whether there is still anything to do.
//!
//! ```toml
//! topics = ["orders", "order-timers"]
//! event-id = "/eventId"
//!
//! [publish]
//! timers = "order-timers"
//! ```
//!
//! ```
//! use std::time::Duration;
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::{Failure, Record, params, sql};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(tag = "eventType", content = "payload", rename_all = "SCREAMING_SNAKE_CASE")]
//! enum Input {
//!     OrderCreated { id: i64 },
//!     PaymentDue { id: i64 },
//! }
//!
//! fn handle(record: &Record) -> Result<(), Failure> {
//!     match record.json()? {
//!         Input::OrderCreated { id } => {
//!             sql::execute("INSERT INTO orders VALUES (?1, 'CREATED')", params![id])?;
//!             let timer = Event::new("timers", "PAYMENT_DUE").key(id).envelope(serde_json::json!({ "id": id }));
//!             timer.enqueue_after(Duration::from_secs(30 * 60))?;
//!         }
//!         Input::PaymentDue { id } => {
//!             // Paid meanwhile: the statement changes nothing.
//!             sql::execute("UPDATE orders SET status = 'EXPIRED' WHERE id = ?1 AND status = 'CREATED'", params![id])?;
//!         }
//!     }
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"orders\"\ntopics = [\"orders\", \"order-timers\"]\nevent-id = \"/eventId\"\n[publish]\ntimers = \"order-timers\"",
//! #     migrations: &[("1.sql", "CREATE TABLE orders (id INTEGER PRIMARY KEY, status TEXT NOT NULL);")],
//! #     records: Some(handle),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.record(&record("orders").with_value(r#"{"eventId":"e-1","eventType":"ORDER_CREATED","payload":{"id":7}}"#))?;
//! let timer = bench.events()[0].clone();
//! assert_eq!((timer.topic.as_str(), timer.due.is_some()), ("order-timers", true));
//! // The bench waits for nothing: the test hands it over.
//! bench.record(&record("order-timers").with_value(timer.value.unwrap_or_default()))?;
//! assert_eq!(bench.query::<String>("SELECT status FROM orders", params![]), ["EXPIRED"]);
//! # Ok::<(), Failure>(())
//! ```
//!
//! # Work at set times
//!
//! A `[[schedule]]` has a name and times: five fields as in crontab(5), in a time zone, or a fixed interval. Its timer fires once for each,
//! whatever happens to the daemon: what it writes and publishes commits together with the step to the next. After a pause it fires once, for the
//! newest due time, or with `missed = "each"` for every one of them. [`Timer::due`](crate::timers::Timer::due) says for which; work by that, and not by the clock.
//!
//! ```toml
//! [[schedule]]
//! name = "close-day"
//! cron = "0 0 * * *"
//! time-zone = "Asia/Seoul"
//! missed = "each"
//!
//! [publish]
//! days = "days"
//! ```
//!
//! ```
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::timers::Timer;
//! use tidemill_sdk::{Decimal, Failure, params, sql};
//!
//! /// `"close-day" => close_day`, under `timers` in `handler!`.
//! fn close_day(timer: &Timer) -> Result<(), Failure> {
//!     let sales: Vec<Decimal> = sql::query("DELETE FROM sales WHERE sold_at < ?1 RETURNING amount", params![timer.due])?;
//!     let total: Decimal = sales.iter().sum();
//!     Event::new("days", "DAY_CLOSED").envelope(serde_json::json!({ "until": timer.due, "total": total })).enqueue()?;
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::Bench;
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"days\"\n[[schedule]]\nname = \"close-day\"\ncron = \"0 0 * * *\"\ntime-zone = \"Asia/Seoul\"\nmissed = \"each\"\n[publish]\ndays = \"days\"",
//! #     migrations: &[("1.sql", "CREATE TABLE sales (amount TEXT, sold_at TEXT);")],
//! #     records: None,
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[("close-day", close_day)],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO sales VALUES ('25.00', '2026-01-31T08:00:00.000Z'), ('5.50', '2026-01-31T16:00:00.000Z')");
//! bench.at("2026-01-31T15:00:00Z".parse().map_err(Failure::reject)?);
//! bench.fire("close-day")?;
//! let day: serde_json::Value = bench.events()[0].json();
//! assert_eq!((&day["payload"]["until"], &day["payload"]["total"]), (&"2026-01-31T15:00:00.000Z".into(), &"25.00".into()));
//! # Ok::<(), Failure>(())
//! ```
//!
//! # A synchronous send
//!
//! [`Event::send`](crate::publisher::Event::send) is for what must be in Kafka before the delivery goes on, such as a command
//! whose place the row has to name. It goes past the outbox: the whole store waits for it, and what was sent stays published though
//! the delivery fails afterwards, so it is sent again by the same id when the record is tried again. Where the outbox will do, take
//! [`Event::enqueue`](crate::publisher::Event::enqueue).
//!
//! ```toml
//! [publish]
//! audit = "audit-log"
//! ```
//!
//! ```
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::{Failure, Record, params, sql};
//!
//! /// No payout without its entry in the audit log.
//! fn payout(record: &Record) -> Result<(), Failure> {
//!     let user = record.key_str().ok_or_else(|| Failure::reject("the key names no user"))?;
//!     let entry = Event::new("audit", "PAYOUT").key(user).json(&record.json::<serde_json::Value>()?).send()?;
//!     sql::execute(
//!         "INSERT INTO payouts VALUES (?1, ?2)",
//!         params![user, format!("{}@{}", entry.partition, entry.offset)],
//!     )?;
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"payouts\"\ntopics = [\"payouts\"]\n[publish]\naudit = \"audit-log\"",
//! #     migrations: &[("1.sql", "CREATE TABLE payouts (user_id TEXT, entry TEXT);")],
//! #     records: Some(payout),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.record(&record("payouts").with_key("ann").with_value(r#"{"amount":"25.00"}"#))?;
//! assert_eq!(bench.query::<String>("SELECT entry FROM payouts", params![]), ["0@0"]);
//!
//! bench.refuse_sends("no broker answers");
//! let kept = bench.record(&record("payouts").with_key("bob").with_value("{}"));
//! assert_eq!(kept, Err(Failure::unavailable("no broker answers")));
//! assert_eq!(bench.query::<u32>("SELECT count(*) FROM payouts", params![]), [1]);
//! # Ok::<(), Failure>(())
//! ```
//!
//! # A call to a service outside
//!
//! Ask first, then write: see [`outbound`](crate::outbound). No transaction is open while the service takes its time, and the delivery
//! runs again from its start once the answer is there, so nothing may stand before the call that counts runs.
//!
//! ```toml
//! secrets = ["payment-key"]
//!
//! [grant]
//! http = ["https://payments.example.com"]
//! ```
//!
//! ```
//! use tidemill_sdk::outbound::Request;
//! use tidemill_sdk::{Failure, Record, config, params, sql};
//!
//! #[derive(serde::Deserialize)]
//! struct Charge {
//!     number: String,
//! }
//!
//! fn charge(record: &Record) -> Result<(), Failure> {
//!     let order = record.key_str().ok_or_else(|| Failure::reject("the key names no order"))?;
//!     let answer = Request::post("https://payments.example.com/charges")
//!         .header("authorization", format!("Bearer {}", config::secret("payment-key")?.expose()))
//!         .json(&serde_json::json!({ "order": order }))
//!         .send()?; // unreachable: the records wait
//!     if answer.status == 402 {
//!         sql::execute("INSERT INTO charges VALUES (?1, NULL)", params![order])?;
//!         return Ok(());
//!     }
//!     let charge: Charge = answer.success()?.json()?; // 5xx: the records wait; another 4xx: a dead letter
//!     sql::execute("INSERT INTO charges VALUES (?1, ?2)", params![order, charge.number])?;
//!     Ok(())
//! }
//!
//! use tidemill_sdk::outbound::Response;
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"charges\"\ntopics = [\"orders\"]\nsecrets = [\"payment-key\"]\n[grant]\nhttp = [\"https://payments.example.com\"]",
//! #     migrations: &[("1.sql", "CREATE TABLE charges (order_id TEXT, number TEXT);")],
//! #     records: Some(charge),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.secret("payment-key", "k-1");
//! bench.service(|_| Ok(Response { status: 200, body: br#"{"number":"c-9"}"#.to_vec(), ..Response::default() }));
//! bench.record(&record("orders").with_key("7"))?;
//! bench.service(|_| Ok(Response { status: 503, ..Response::default() }));
//! assert!(matches!(bench.record(&record("orders").with_key("8")), Err(Failure::Unavailable { .. })));
//! assert_eq!(bench.query::<(String, String)>("SELECT * FROM charges", params![]), [("7".into(), "c-9".into())]);
//! # Ok::<(), Failure>(())
//! ```
//!
//! # Compensation
//!
//! What the host gives up on, the function that `handler!` names for `compensate` makes good: in a transaction of its own, after the dead
//! letter was committed. See [`compensation`](crate::compensation).
//!
//! ```toml
//! [publish]
//! orders = "order-events"
//! ```
//!
//! ```
//! use tidemill_sdk::compensation::Input;
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::{Failure, params, sql};
//!
//! /// The parcel cannot be sent: what was reserved for it is free again, and the order is told.
//! fn release(input: &Input, reason: &str) -> Result<(), Failure> {
//!     let Input::Record(record) = input else { return Ok(()) };
//!     let order = record.key_str().ok_or_else(|| Failure::reject("the key names no order"))?;
//!     let freed = sql::execute("DELETE FROM reserved WHERE order_id = ?1", params![order])?;
//!     if freed > 0 {
//!         let payload = serde_json::json!({ "orderId": order, "reason": reason });
//!         Event::new("orders", "SHIPPING_FAILED").key(order).envelope(payload).enqueue()?;
//!     }
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # fn ship(_: &tidemill_sdk::Record) -> Result<(), Failure> { Ok(()) }
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"shipping\"\ntopics = [\"parcels\"]\n[publish]\norders = \"order-events\"",
//! #     migrations: &[("1.sql", "CREATE TABLE reserved (order_id TEXT, item TEXT);")],
//! #     records: Some(ship),
//! #     compensate: Some(release),
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.prepare("INSERT INTO reserved VALUES ('7', 'lamp'), ('8', 'desk')");
//! bench.compensate(&Input::Record(record("parcels").with_key("7")), "no such address")?;
//! assert_eq!(bench.query::<String>("SELECT order_id FROM reserved", params![]), ["8"]);
//! assert_eq!(bench.events()[0].event_type, "SHIPPING_FAILED");
//! # Ok::<(), Failure>(())
//! ```
//!
//! # Configuration and secrets
//!
//! Settings have a value in the manifest, which the operator may override; a secret is only asked for there, and the operator says which
//! variable or file has it. A secret is printed nowhere by itself. See [`config`](crate::config).
//!
//! ```toml
//! secrets = ["mail-key"]
//!
//! [settings]
//! from = "shop@example.com"
//! max-per-day = 3
//! ```
//!
//! ```
//! use tidemill_sdk::{Failure, Record, config, info};
//!
//! fn mail(record: &Record) -> Result<(), Failure> {
//!     let from = config::get("from").unwrap_or_default();
//!     let most: u32 = config::parse("max-per-day")?.unwrap_or(1);
//!     let key = config::secret("mail-key")?;
//!     info!(from, most, ?key, "mail to {}", record.key_str().unwrap_or_default());
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"mail\"\ntopics = [\"mails\"]\nsecrets = [\"mail-key\"]\n[settings]\nfrom = \"shop@example.com\"\nmax-per-day = 3",
//! #     migrations: &[],
//! #     records: Some(mail),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! bench.set("max-per-day", "5").secret("mail-key", "k-1");
//! bench.record(&record("mails").with_key("ann"))?;
//! assert_eq!(bench.lines()[0].1, "mail to ann from=shop@example.com most=5 key=Secret(..)");
//! bench.set("max-per-day", "many");
//! assert!(matches!(bench.record(&record("mails")), Err(Failure::Unavailable { .. })));
//! # Ok::<(), Failure>(())
//! ```
//!
//! # Batches
//!
//! A handler is given one record at a time, and needs no batches to be fast: the host commits in groups. Whatever waits when one commit
//! has ended goes into the next, so under load many deliveries share one transaction and one write to the disk, and a lone one waits for
//! nobody. Exactly-once stays a matter of each record: within the group every delivery is undone by itself if it fails, with its rows, its
//! events and its place in the inbox, while the others are kept; the offsets commit in the same transaction as the effects, and a group that
//! is lost with the power is lost whole, so its records are read again. Records that a handler gathered by itself, in memory, would share one fate and
//! one attempt, or be lost with their offset already committed. Where many records are to become one - an invoice for each month, a mail for
//! each hundred orders - each adds its row, and the one that completes the set, or a [timer](#a-timer), makes the whole.
//!
//! ```
//! use tidemill_sdk::publisher::Event;
//! use tidemill_sdk::{Failure, Record, params, sql};
//!
//! /// Every third scan closes a box.
//! fn scanned(record: &Record) -> Result<(), Failure> {
//!     sql::execute("INSERT INTO scans VALUES (?1)", params![record.key_str()])?;
//!     let open: Vec<String> = sql::query("SELECT item FROM scans ORDER BY rowid", params![])?;
//!     if open.len() == 3 {
//!         sql::execute("DELETE FROM scans", params![])?;
//!         Event::new("boxes", "BOX_CLOSED").json(&open).enqueue()?;
//!     }
//!     Ok(())
//! }
//!
//! use tidemill_sdk::test::{Bench, record};
//! # static HANDLER: tidemill_sdk::Handler = tidemill_sdk::Handler {
//! #     manifest: "name = \"boxes\"\ntopics = [\"scans\"]\n[publish]\nboxes = \"boxes\"",
//! #     migrations: &[("1.sql", "CREATE TABLE scans (item TEXT NOT NULL);")],
//! #     records: Some(scanned),
//! #     compensate: None,
//! #     completed: None,
//! #     timers: &[],
//! #     routes: &[],
//! # };
//! let mut bench = Bench::new(&HANDLER);
//! for item in ["lamp", "desk", "chair", "cup"] {
//!     bench.record(&record("scans").with_key(item))?;
//! }
//! assert_eq!(bench.events()[0].json::<Vec<String>>(), ["lamp", "desk", "chair"]);
//! assert_eq!(bench.query::<String>("SELECT item FROM scans", params![]), ["cup"]);
//! # Ok::<(), Failure>(())
//! ```
