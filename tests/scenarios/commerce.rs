//! S1.5: a purchase with a coupon, from its order through its payment to its completion or failure.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tidemill_tests::sandbox::token;
use tidemill_tests::{Daemon, Kafka, LONG, Sandbox, Store, eventually, eventually_some};

const HANDLERS: [&str; 3] = ["coupon", "checkout", "billing"];

/// A user of the shop.
struct User<'a> {
    daemon: &'a Daemon,
    token: String,
}

impl User<'_> {
    fn post(&self, path: &str, body: &Value) -> Value {
        let reply = self.daemon.post(path, &self.token, &body.to_string());
        assert!((200..300).contains(&reply.status), "{reply:?}");
        if reply.body.is_empty() { Value::Null } else { reply.json() }
    }

    fn get(&self, path: &str) -> Value {
        self.daemon.get(path, &self.token).expect_status(200).json()
    }

    fn coupon(&self) -> i64 {
        self.post("/api/coupons", &json!({ "discount": 5000 }));
        let published = || {
            let coupons = self.get("/api/coupons");
            coupons.as_array().unwrap().iter().find(|coupon| coupon["status"] == "PUBLISHED")?["id"].as_i64()
        };
        eventually_some(LONG, "the coupon is published", published)
    }

    fn buy(&self, coupon: Option<i64>) -> i64 {
        self.post("/api/purchases", &json!({ "amount": 20000, "couponId": coupon }))["id"].as_i64().unwrap()
    }

    fn ends(&self, purchase: i64, status: &str) {
        let path = format!("/api/purchases/{purchase}");
        eventually(LONG, &format!("purchase {purchase} is {status}"), || self.get(&path)["status"] == status);
    }
}

#[test]
fn s1_5_a_purchase_goes_from_its_coupon_through_its_payment_to_its_completion_or_failure() {
    let kafka = Kafka::shared();
    let sandbox = Sandbox::with(&HANDLERS);
    let topics = ["coupon-events", "checkout-events", "billing-events"].map(|topic| (topic, sandbox.unique(topic)));
    let [coupons, checkouts, billings] = &topics;
    let mut toml = format!("[kafka]\nbootstrap = \"{}\"\n", kafka.bootstrap());
    for (handler, reads, publishes) in
        [("coupon", coupons, coupons), ("checkout", billings, checkouts), ("billing", checkouts, billings)]
    {
        toml += &format!(
            "[handler.{handler}]\ntopics = [\"{}\"]\ngroup = \"{}\"\npublish = {{ {} = \"{}\" }}\n",
            reads.1,
            sandbox.unique(handler),
            publishes.0,
            publishes.1
        );
    }
    toml += include_str!("../../handlers/tidemill.toml");
    toml += &topics.iter().map(|(_, topic)| format!("[[topic]]\nname = \"{topic}\"\n")).collect::<String>();
    sandbox.write_toml(&toml);
    let mut daemon = Daemon::start(&sandbox);
    let rich = User { daemon: &daemon, token: token(&sandbox, "7") };
    let poor = User { daemon: &daemon, token: token(&sandbox, "8") };
    rich.post("/api/wallet", &json!({ "amount": 100_000 }));

    let coupon = rich.coupon();
    let first = rich.buy(Some(coupon));
    rich.ends(first, "COMPLETED");
    assert_eq!(rich.get("/api/wallet"), json!({ "balance": 85_000 }));
    assert_eq!(rich.get("/api/coupons")[0]["status"], "USED");

    let unpaid = poor.buy(None);
    poor.ends(unpaid, "PAYMENT_FAILED");

    // Two purchases with one coupon, both placed before either is paid: one is completed, and the other's money is back.
    let coupon = rich.coupon();
    let both = [rich.buy(Some(coupon)), rich.buy(Some(coupon))];
    let status = |purchase: i64| rich.get(&format!("/api/purchases/{purchase}"))["status"].as_str().unwrap().to_owned();
    eventually(LONG, "both have ended", || {
        let mut ends = both.map(status);
        ends.sort();
        ends == ["CANCELED", "COMPLETED"]
    });
    assert_eq!(rich.get("/api/wallet"), json!({ "balance": 70_000 }));

    for store in ["commerce", "billing"] {
        Store::open(&sandbox, store).until("SELECT count(*) FROM tm_outbox", 0);
    }
    let mut types = BTreeSet::new();
    for (_, topic) in &topics {
        for event in kafka.client().consume_all(topic) {
            let value = event.json();
            let keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(keys, ["eventId", "eventType", "payload"], "S1.1: {value}");
            assert_eq!(event.header_text("event-id").as_deref(), value["eventId"].as_str());
            types.insert(value["eventType"].as_str().unwrap().to_owned());
        }
    }
    let all = "COUPON_PUBLISH_REQUESTED ORDER_COMPLETED ORDER_COMPLETE_FAILED ORDER_CREATED PAYMENT_CANCELED PAYMENT_FAILED PAYMENT_PAID";
    assert_eq!(types.into_iter().collect::<Vec<_>>().join(" "), all);
    daemon.terminate();
}
