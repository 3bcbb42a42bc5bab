//! What librdkafka says of its own clients, every ten seconds: brokers, round trips, queues.
//!
//! The last report of each client is kept as it came, and read only when somebody scrapes. Topics and partitions in it give sums, and no
//! series of their own.
//!
//! Source: librdkafka, STATISTICS.md.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;

use super::families;
use super::page::Page;

/// The property by which a client is told how often to report, in milliseconds.
pub const PROPERTY: &str = "statistics.interval.ms";
/// How often it does where the operator has not set that.
pub const INTERVAL: &str = "10000";

/// The last report of one client.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<Vec<u8>>);

#[derive(Debug, Deserialize)]
struct Report {
    #[serde(default)]
    msg_cnt: u64,
    #[serde(default)]
    msg_size: u64,
    #[serde(default)]
    brokers: BTreeMap<String, Broker>,
    #[serde(default)]
    topics: BTreeMap<String, Topic>,
}

#[derive(Debug, Deserialize)]
struct Broker {
    nodeid: i64,
    state: String,
    #[serde(default)]
    req_timeouts: u64,
    #[serde(default)]
    txerrs: u64,
    #[serde(default)]
    rxerrs: u64,
    rtt: Option<Window>,
}

/// A rolling window, in microseconds.
#[derive(Debug, Deserialize)]
struct Window {
    avg: f64,
    p99: f64,
    cnt: u64,
}

#[derive(Debug, Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: BTreeMap<String, Partition>,
}

#[derive(Debug, Deserialize)]
struct Partition {
    #[serde(default)]
    fetchq_cnt: u64,
    #[serde(default)]
    fetchq_size: u64,
}

impl Statistics {
    /// Keeps a report, in place of the one before.
    pub fn note(&self, report: &[u8]) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.clear();
        last.extend_from_slice(report);
    }

    /// Puts the last report on the page, if there is one.
    pub(super) fn put(&self, page: &mut Page, client: &str) {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Ok(report) = serde_json::from_slice::<Report>(&last) else { return };
        // Those without a number are the addresses that it began with, and roles that a broker has besides.
        for broker in report.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let labels = [client, &broker.nodeid.to_string()];
            page.count(&families::BROKER_UP, &labels, u64::from(broker.state == "UP"));
            page.count(&families::BROKER_TIMEOUTS, &labels, broker.req_timeouts);
            page.count(&families::BROKER_ERRORS, &labels, broker.txerrs + broker.rxerrs);
            if let Some(rtt) = broker.rtt.as_ref().filter(|rtt| rtt.cnt > 0) {
                page.put(&families::BROKER_RTT, &labels, rtt.avg / 1e6);
                page.put(&families::BROKER_RTT_P99, &labels, rtt.p99 / 1e6);
            }
        }
        let partitions = || report.topics.values().flat_map(|topic| topic.partitions.values());
        let fetched: u64 = partitions().map(|partition| partition.fetchq_cnt).sum();
        let fetched_bytes: u64 = partitions().map(|partition| partition.fetchq_size).sum();
        page.count(&families::QUEUE_MESSAGES, &[client], report.msg_cnt + fetched);
        page.count(&families::QUEUE_BYTES, &[client], report.msg_size + fetched_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Format;

    #[test]
    fn s2_10_a_report_is_told_by_brokers_and_in_sums() {
        let report = r#"{"name":"rdkafka#consumer-1","msg_cnt":2,"msg_size":10,"replyq":0,
            "brokers":{
                "127.0.0.1:1/bootstrap":{"nodeid":-1,"state":"UP","rtt":{"avg":1,"p99":1,"cnt":1}},
                "127.0.0.1:1/1":{"nodeid":1,"state":"UP","req_timeouts":3,"txerrs":1,"rxerrs":1,"rtt":{"min":1,"avg":1500,"p99":9000,"cnt":4}},
                "127.0.0.1:2/2":{"nodeid":2,"state":"DOWN","rtt":{"avg":0,"p99":0,"cnt":0}}},
            "topics":{"a":{"partitions":{"-1":{},"0":{"fetchq_cnt":5,"fetchq_size":50},"1":{"fetchq_cnt":1,"fetchq_size":1}}}}}"#;
        let (statistics, mut page) = (Statistics::default(), Page::default());
        statistics.put(&mut page, "nobody");
        statistics.note(b"not yet");
        statistics.put(&mut page, "nobody");
        statistics.note(report.as_bytes());
        statistics.put(&mut page, "mail");
        let text = page.write(families::ALL, Format::Prometheus);
        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"tidemill_kafka_broker_up{client="mail",broker="1"} 1"#,
            r#"tidemill_kafka_broker_up{client="mail",broker="2"} 0"#,
            r#"tidemill_kafka_broker_rtt_seconds{client="mail",broker="1"} 0.0015"#,
            r#"tidemill_kafka_broker_rtt_p99_seconds{client="mail",broker="1"} 0.009"#,
            r#"tidemill_kafka_broker_timeouts_total{client="mail",broker="1"} 3"#,
            r#"tidemill_kafka_broker_timeouts_total{client="mail",broker="2"} 0"#,
            r#"tidemill_kafka_broker_errors_total{client="mail",broker="1"} 2"#,
            r#"tidemill_kafka_broker_errors_total{client="mail",broker="2"} 0"#,
            r#"tidemill_kafka_queue_messages{client="mail"} 8"#,
            r#"tidemill_kafka_queue_bytes{client="mail"} 61"#,
        ];
        assert_eq!(series, expected);
    }
}
