//! What a test looks at: the events that deliveries have published, and their answers.

use serde::de::DeserializeOwned;

use crate::Time;
use crate::http::Response;
use crate::record::Header;

/// An event that a delivery has published.
///
/// ```
/// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
/// # let mut bench = Bench::new(&HANDLER);
/// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
/// bench.record(&record("payments").with_json(&serde_json::json!({ "orderId": 7, "amount": 25 })))?;
/// let [event] = bench.events() else { panic!("one event") };
/// assert_eq!((event.topic.as_str(), event.event_type.as_str()), ("order-events", "ORDER_PAID"));
/// assert_eq!(event.due, None);
/// # Ok::<(), Failure>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The name in `[publish]`.
    pub destination: String,
    /// The topic that the manifest maps it to; a date in it stands as it is written there.
    pub topic: String,
    /// By which consumers recognise a duplicate.
    pub id: String,
    /// For example `ORDER_CREATED`.
    pub event_type: String,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// The handler's own headers.
    pub headers: Vec<Header>,
    /// When it is due, if that is ahead of the delivery's clock. The bench waits for nothing.
    pub due: Option<Time>,
    /// How it leaves.
    pub via: Via,
}

/// How an event leaves its delivery.
///
/// ```
/// # use tidemill_sdk::{Failure, test::{Bench, Via, example::HANDLER, record}};
/// # let mut bench = Bench::new(&HANDLER);
/// bench.record(&record("reminders").with_key("ann"))?;
/// assert_eq!(bench.events()[0].via, Via::Send);
/// # Ok::<(), Failure>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// By `enqueue`.
    Outbox,
    /// By `send`.
    Send,
    /// By `send_async`.
    SendAsync,
}

impl Published {
    /// The key, as text. Ends the test if it is null or not UTF-8.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// bench.record(&record("reminders").with_key("ann"))?;
    /// assert_eq!(bench.events()[0].key_str(), "ann");
    /// # Ok::<(), Failure>(())
    /// ```
    #[track_caller]
    pub fn key_str(&self) -> &str {
        let key = self.key.as_deref().expect("the event has a key");
        std::str::from_utf8(key).expect("the event's key is UTF-8")
    }

    /// The value, read as JSON. Ends the test if it is something else.
    ///
    /// ```
    /// # use tidemill_sdk::{Failure, test::{Bench, example::HANDLER, record}};
    /// # let mut bench = Bench::new(&HANDLER);
    /// # bench.prepare("INSERT INTO orders VALUES (7, 'ann', '25.00', 'CREATED')");
    /// # bench.record(&record("payments").with_json(&serde_json::json!({ "orderId": 7, "amount": 25 })))?;
    /// let paid: serde_json::Value = bench.events()[0].json();
    /// assert_eq!(paid["payload"]["orderId"], 7);
    /// # Ok::<(), Failure>(())
    /// ```
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        let value = self.value.as_deref().expect("the event has a value");
        serde_json::from_slice(value).expect("the event's value is the JSON that is expected")
    }
}

impl Response {
    /// The body, read as JSON. Ends the test if it is something else.
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
    /// # let mut bench = Bench::new(&HANDLER);
    /// let response = bench.call(post("/api/orders").user("ann").json(&serde_json::json!({ "total": "25.00" })));
    /// assert_eq!(response.body_json::<serde_json::Value>()["id"], 1);
    /// ```
    #[track_caller]
    pub fn body_json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("the body is the JSON that is expected")
    }

    /// The first header of this name (in lower case).
    ///
    /// ```
    /// # use tidemill_sdk::test::{Bench, example::HANDLER, post};
    /// # let mut bench = Bench::new(&HANDLER);
    /// let response = bench.call(post("/api/orders").user("ann").json(&serde_json::json!({ "total": "25.00" })));
    /// assert_eq!(response.header_str("location"), Some("/api/orders/1"));
    /// ```
    pub fn header_str(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(header, _)| header == name)?;
        std::str::from_utf8(value).ok()
    }
}
