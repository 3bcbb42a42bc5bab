//! Every family of series that the page holds: name, kind, labels, and what it means.
//!
//! The one place where they are named; `docs/metrics.md` has the same list, and a test holds the two together. A name is kept from version
//! to version. Here is no number.

use super::page::{Family, Kind};

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, labels, help }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, labels, help }
}

macro_rules! families {
    ($($constant:ident = $kind:ident($name:literal, [$($label:literal),*], $help:literal);)*) => {
        $(#[doc = $help] pub static $constant: Family = $kind($name, &[$($label),*], $help);)*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    BUILD = gauge("tidemill_build_info", ["version"], "1, with the version of the daemon");
    READY = gauge("tidemill_ready", [], "Whether the daemon is ready, as /readyz says");
    STANDBY = gauge("tidemill_standby", [], "Whether the daemon waits for another one to end");
    KAFKA_UP = gauge("tidemill_kafka_up", [], "Whether Kafka has answered the last question for the ends of partitions");
    SCRAPE_INCOMPLETE = gauge("tidemill_scrape_incomplete", ["store"], "Whether a store could not be read in time, so that numbers of it are missing");

    HANDLER = gauge("tidemill_handler_info", ["handler", "group", "store", "version", "artifact"], "1, with the live version of a handler");
    RECORDS = counter("tidemill_records_total", ["handler", "outcome"], "Records that a handler has left behind, by what became of them");
    ATTEMPTS = counter("tidemill_attempts_total", ["handler", "kind", "outcome"], "Deliveries, by how each ended");
    PROCESSING = histogram("tidemill_processing_seconds", ["handler", "kind"], "Time that a delivery took in its group, without the commit");
    END_TO_END = histogram("tidemill_end_to_end_seconds", ["handler"], "Time from a record's timestamp to the commit by which it was done");
    OLDEST_UNPROCESSED = gauge("tidemill_oldest_unprocessed_seconds", ["handler"], "Age of the oldest record that was read and is not done, 0 without one");
    LANE_RECORDS = gauge("tidemill_lane_records", ["handler"], "Records that were read and wait in memory");
    LANE_BYTES = gauge("tidemill_lane_bytes", ["handler"], "Bytes of the records that wait in memory");
    PENDING = gauge("tidemill_pending_records", ["handler"], "Records that wait in the store for another attempt, an answer from outside, or one before them");
    CIRCUIT_OPEN = gauge("tidemill_circuit_open", ["handler"], "Whether the handler's circuit is open");
    CIRCUIT_OPENED = counter("tidemill_circuit_opened_total", ["handler"], "How often the handler's circuit has opened");
    HELD = gauge("tidemill_version_held", ["handler"], "Whether the live version has failed its probation and waits for another one");
    PAUSES = gauge("tidemill_pauses", ["handler"], "Pauses by an operator that are in force: of the handler, of a topic or of a partition");
    MEMORY_MAX = gauge("tidemill_guest_memory_max_bytes", ["handler"], "Most linear memory that a delivery of the live version has had");
    MEMORY_LIMIT = gauge("tidemill_guest_memory_limit_bytes", ["handler"], "Linear memory that a delivery may have (limits.memory)");
    INSTANCES = counter("tidemill_instances_made_total", ["handler"], "Instances that were made for deliveries that came to an end");

    LOST = counter("tidemill_records_lost_total", ["handler"], "Records that Kafka had removed before the handler read them");
    LAG = gauge("tidemill_consumer_lag", ["handler", "group", "topic", "partition"], "Records of a partition that the handler has not left behind");
    GROUP_LAG = gauge("kafka_consumergroup_lag", ["consumergroup", "topic", "partition"], "The same, under the name that Kafka's exporters give it");
    NEXT_OFFSET = gauge("tidemill_consumer_next_offset", ["handler", "group", "topic", "partition"], "Offset of the first record that the handler has not left behind");
    END_OFFSET = gauge("tidemill_partition_end_offset", ["topic", "partition"], "Offset that the partition's next record will get");

    GROUP_DELIVERIES = histogram("tidemill_group_deliveries", ["store"], "Deliveries in a commit group");
    GROUP_TIME = histogram("tidemill_group_seconds", ["store"], "Time of a commit group, from its begin to the end of its commit");
    COMMIT_TIME = histogram("tidemill_commit_seconds", ["store"], "Time of a commit, most of which is the disk's");
    CHECKPOINT_TIME = histogram("tidemill_checkpoint_seconds", ["store"], "Time of a checkpoint, which moves the log's pages into the database");
    GROUPS_UNDONE = counter("tidemill_groups_undone_total", ["store", "reason"], "Commit groups that were rolled back and run again");
    STORE_WRITABLE = gauge("tidemill_store_writable", ["store"], "Whether the store's last commit has not failed");
    STORE_BYTES = gauge("tidemill_store_bytes", ["store", "file"], "Size of the database and of its log");
    STORE_STUCK = gauge("tidemill_store_stuck_seconds", ["store"], "How long the store's thread has been at one thing, 0 at rest");
    DATA_FREE = gauge("tidemill_data_free_bytes", [], "Room that is left to the daemon on the disk of the data folder");
    DATA_SIZE = gauge("tidemill_data_size_bytes", [], "Size of the disk of the data folder");

    OUTBOX_ROWS = gauge("tidemill_outbox_rows", ["store"], "Events that were committed and are not acknowledged, delayed ones included");
    OUTBOX_DELAYED = gauge("tidemill_outbox_delayed_rows", ["store"], "Those of them that have a time before which they are not published");
    OUTBOX_OLDEST = gauge("tidemill_outbox_oldest_seconds", ["store"], "How long the oldest event has waited, a delayed one since it was due; 0 without one");
    OUTBOX_FULL = gauge("tidemill_outbox_full", ["store"], "Whether the outbox has reached outbox.max-rows, so that deliveries wait");
    PUBLISHED = counter("tidemill_published_total", ["store", "by"], "Events that were acknowledged");
    REFUSED = counter("tidemill_refused_total", ["store", "by"], "Events that were refused for good");
    RELAY_TIME = histogram("tidemill_relay_seconds", ["store", "by"], "Time from an event's delivery, or from when it was due, to its acknowledgement");
    TENDED = counter("tidemill_tended_rows_total", ["store", "table", "verb"], "Rows that operators put back, published again, tried now or took out");
    FALLBACK = gauge("tidemill_fallback_rows", ["store", "handler"], "What is kept in tm_fallback, for a person to look at");

    TRACE_SPANS = counter("tidemill_trace_spans_total", ["result"], "Spans of traces, by what became of them: exported, dropped since the queue was full, failed since the collector took none");
    AUDITED_ACTIONS = counter("tidemill_audited_actions_total", ["action", "result"], "Lines of the audit log: what operators, the handlers folder and the host itself have done, or were refused");
    HTTP_REQUESTS = counter("tidemill_http_requests_total", ["handler", "method", "route", "status"], "Requests that were answered; those without a route have no handler either");
    HTTP_LIMITED = counter("tidemill_http_limited_total", ["by"], "Requests that were answered 429, since their address or user calls too often or an address has shown too many bad tokens");
    HTTP_TIME = histogram("tidemill_http_request_seconds", ["handler", "method", "route"], "Time from a request's head to its answer");

    BROKER_UP = gauge("tidemill_kafka_broker_up", ["client", "broker"], "Whether a client has a connection to a broker");
    BROKER_RTT = gauge("tidemill_kafka_broker_rtt_seconds", ["client", "broker"], "Mean time that a broker took to answer a client of late");
    BROKER_RTT_P99 = gauge("tidemill_kafka_broker_rtt_p99_seconds", ["client", "broker"], "Time in which a broker has answered 99 of 100 requests of a client of late");
    BROKER_TIMEOUTS = counter("tidemill_kafka_broker_timeouts_total", ["client", "broker"], "Requests that a broker did not answer in time");
    BROKER_ERRORS = counter("tidemill_kafka_broker_errors_total", ["client", "broker"], "Requests that failed on their way to a broker or back");
    QUEUE_MESSAGES = gauge("tidemill_kafka_queue_messages", ["client"], "Messages that librdkafka holds: to be sent, or fetched and not taken");
    QUEUE_BYTES = gauge("tidemill_kafka_queue_bytes", ["client"], "Bytes of the messages that librdkafka holds");

    PROCESS_CPU = counter("process_cpu_seconds_total", [], "Processor time of the daemon");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", [], "Memory of the daemon that is in memory");
    PROCESS_VIRTUAL = gauge("process_virtual_memory_bytes", [], "Address space of the daemon");
    PROCESS_FDS = gauge("process_open_fds", [], "Files and connections that the daemon has open");
    PROCESS_MAX_FDS = gauge("process_max_fds", [], "Files and connections that the daemon may have open");
    PROCESS_THREADS = gauge("process_threads", [], "Threads of the daemon");
    PROCESS_START = gauge("process_start_time_seconds", [], "When the daemon was started, since the Unix epoch");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn s2_10_names_are_as_prometheus_wants_them() {
        let names: BTreeSet<&str> = ALL.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), ALL.len(), "a name stands twice");
        for Family { name, kind, labels, help } in ALL {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            assert!(plain(name) && labels.iter().all(|label| plain(label) && *label != "le"), "{name}");
            assert!(!help.ends_with('.') && !help.contains(['\\', '\n']), "{name}");
        }
    }

    /// One row of the table for each family, word for word.
    #[test]
    fn s2_10_the_documentation_lists_each_family() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let row_of_four = |line: &&str| line.starts_with("| `") && line.matches('|').count() == 5;
        let documented: Vec<&str> = text.lines().filter(row_of_four).collect();
        let row = |family: &&Family| {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{}` | {} | {} | {} |", family.name, family.kind.name(), labels.join(", "), family.help)
        };
        let rows: Vec<String> = ALL.iter().map(row).collect();
        for row in &rows {
            assert!(documented.contains(&row.as_str()), "docs/metrics.md lacks:\n{row}");
        }
        assert_eq!(documented.len(), rows.len(), "docs/metrics.md lists what is not there");
    }
}
