//! Where a lane starts when its partition is assigned.
//!
//! The store's next offset is the truth; a topic that was made anew, a group that another store owns, or offsets
//! that Kafka no longer has are noticed here. [`decide`] is pure: what Kafka says comes in as [`Seen`].

use crate::deploy::manifest::Start;
use crate::ledger::offset::Stored;

/// What Kafka says about a partition at its assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The topic's id (KIP-516), or the embedded broker's incarnation.
    pub topic_id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The first offset that is there.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
    /// The first offset of `start`'s time, if that is one and there is a record of that time or later.
    pub timed: Option<i64>,
    /// The group's committed offset and its metadata, if there is one.
    pub committed: Option<(i64, String)>,
    /// Whether this is the embedded broker, which forgets when it is started anew.
    pub embedded: bool,
}

/// Where a lane starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// At this offset; with a warning for the operator where records were lost before they were read.
    At {
        /// The next offset.
        next: i64,
        /// How many records were removed before they were read.
        lost: u64,
        /// What the operator should know.
        warning: Option<String>,
    },
    /// Not at all, until the operator has decided.
    Shut {
        /// What is wrong, and what to do.
        reason: String,
    },
}

const PREFIX: &str = "tidemill:";

/// What the metadata of this host's offset commits looks like.
pub fn metadata(store_id: &str) -> String {
    format!("{PREFIX}{store_id}")
}

/// Decides where a lane starts. `fresh` says that the handler has never read anything: only then `start` may skip
/// records; partitions and topics that appear later start at the earliest (KAFKA-12261).
/// `owner` is this store's id, or `None` once the operator has said that the group is its own whoever committed.
pub fn decide(stored: Option<&Stored>, seen: &Seen, start: Start, fresh: bool, owner: Option<&str>) -> Opening {
    let at = |next| Opening::At { next, lost: 0, warning: None };
    let removed = |next: i64, what: &str| Opening::At {
        next: seen.low,
        lost: u64::try_from(seen.low - next).unwrap_or(0),
        warning: Some(format!(
            "{} records ({next} to {}) were removed from the topic before they were read: {what}. Reading goes on with the first that is left",
            seen.low - next,
            seen.low - 1
        )),
    };
    let shut = |reason: String| Opening::Shut { reason };
    match stored {
        Some(stored) if stored.topic_id == seen.topic_id => {
            let next = stored.next_offset;
            if next < seen.low {
                removed(next, "its retention is shorter than the lag, or a backup was restored that is older")
            } else if next > seen.high {
                shut(format!(
                    "the store stands at offset {next}, but the partition ends at {}: the topic has lost records. Restore it, or run `tidemill adopt` to start again",
                    seen.high
                ))
            } else {
                at(next)
            }
        }
        Some(_) if seen.embedded => Opening::At {
            next: apply(start, seen),
            lost: 0,
            warning: Some("the embedded broker was started anew and has forgotten its records".into()),
        },
        Some(stored) => shut(format!(
            "the topic was deleted and made again (its id was {}, and is {} now): offsets of the old one mean nothing. Run `tidemill adopt` to start on the new one",
            stored.topic_id, seen.topic_id
        )),
        None => match &seen.committed {
            Some((_, by)) if by.starts_with(PREFIX) && owner.is_some_and(|owner| *by != metadata(owner)) => {
                shut(format!(
                    "the consumer group's offsets were committed by another store ({}): two hosts must not share a group. Stop the other one, then run `tidemill adopt`",
                    by.trim_start_matches(PREFIX)
                ))
            }
            Some((offset, _)) if *offset < seen.low => {
                removed(*offset, "the group's committed offset is older than the topic's first record")
            }
            Some((offset, _)) if *offset <= seen.high => at(*offset),
            _ if fresh => at(apply(start, seen)),
            _ => at(seen.low),
        },
    }
}

fn apply(start: Start, seen: &Seen) -> i64 {
    match start {
        Start::Earliest => seen.low,
        Start::Latest => seen.high,
        Start::Time(_) => seen.timed.unwrap_or(seen.high),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::ledger::offset::Replay;

    fn seen() -> Seen {
        Seen {
            topic_id: "a".into(),
            cluster_id: "c".into(),
            low: 10,
            high: 20,
            timed: None,
            committed: None,
            embedded: false,
        }
    }

    fn stored(next_offset: i64) -> Stored {
        Stored { topic_id: "a".into(), cluster_id: "c".into(), next_offset, epoch: 3, replay: Replay::default() }
    }

    fn at(opening: Opening) -> i64 {
        match opening {
            Opening::At { next, .. } => next,
            Opening::Shut { reason } => panic!("shut: {reason}"),
        }
    }

    fn reason(opening: Opening) -> String {
        match opening {
            Opening::Shut { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_store_is_the_truth() {
        let committed = Seen { committed: Some((19, "tidemill:other".into())), ..seen() };
        for next in 10..=20 {
            assert_eq!(at(decide(Some(&stored(next)), &committed, Start::Latest, false, Some("me"))), next);
        }
    }

    #[test]
    fn records_lost_to_retention_are_said() {
        let opening = decide(Some(&stored(4)), &seen(), Start::Earliest, false, Some("me"));
        assert!(
            matches!(&opening, Opening::At { next: 10, lost: 6, warning: Some(w) } if w.contains("6 records (4 to 9)")),
            "{opening:?}"
        );
    }

    #[test]
    fn a_topic_made_again_or_cut_short_shuts_the_lane() {
        let other = Seen { topic_id: "b".into(), ..seen() };
        assert!(
            reason(decide(Some(&stored(12)), &other, Start::Earliest, false, Some("me"))).contains("tidemill adopt")
        );
        assert!(reason(decide(Some(&stored(21)), &seen(), Start::Earliest, false, Some("me"))).contains("ends at 20"));
    }

    #[test]
    fn the_embedded_broker_may_forget() {
        let other = Seen { topic_id: "b".into(), embedded: true, low: 0, high: 5, ..seen() };
        assert_eq!(at(decide(Some(&stored(300)), &other, Start::Earliest, false, Some("me"))), 0);
        assert_eq!(at(decide(Some(&stored(300)), &other, Start::Latest, false, Some("me"))), 5);
    }

    #[test]
    fn a_group_is_taken_over_from_another_consumer_but_not_from_another_store() {
        let spring = Seen { committed: Some((15, String::new())), ..seen() };
        assert_eq!(at(decide(None, &spring, Start::Earliest, true, Some("me"))), 15);
        let own = Seen { committed: Some((15, metadata("me"))), ..seen() };
        assert_eq!(at(decide(None, &own, Start::Earliest, true, Some("me"))), 15);
        let gone = Seen { committed: Some((3, String::new())), ..seen() };
        assert_eq!(at(decide(None, &gone, Start::Earliest, true, Some("me"))), 10);
        assert_eq!(at(decide(None, &gone, Start::Latest, true, Some("me"))), 10);
        let other = Seen { committed: Some((15, metadata("other"))), ..seen() };
        assert!(reason(decide(None, &other, Start::Earliest, true, Some("me"))).contains("another store"));
        assert_eq!(at(decide(None, &other, Start::Earliest, true, None)), 15);
    }

    #[test]
    fn s3_4_latest_and_a_time_apply_only_at_first_sight() {
        let timed = Seen { timed: Some(14), ..seen() };
        assert_eq!(at(decide(None, &timed, Start::Time(7), true, Some("me"))), 14);
        assert_eq!(at(decide(None, &timed, Start::Time(7), false, Some("me"))), 10);
        assert_eq!(at(decide(Some(&stored(12)), &timed, Start::Time(7), false, Some("me"))), 12);
        assert_eq!(at(decide(None, &seen(), Start::Time(7), true, Some("me"))), 20, "no record is that late");
        assert_eq!(at(decide(None, &seen(), Start::Latest, true, Some("me"))), 20);
        assert_eq!(at(decide(None, &seen(), Start::Latest, false, Some("me"))), 10);
        assert_eq!(at(decide(None, &seen(), Start::Earliest, true, Some("me"))), 10);
    }
}
