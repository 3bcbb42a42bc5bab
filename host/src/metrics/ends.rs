//! Where partitions end, as Kafka says it: one half of the lag, and whether Kafka answers at all.
//!
//! A thread of its own asks when somebody has scraped, with a client of its own: what a handler's client knows stands still while its
//! partitions are paused. It asks as `kafka-consumer-groups` does, so that both tell the same lag. Who scrapes waits for an answer for a bounded
//! time, and goes on with the last one.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rdkafka::client::Client;

use crate::kafka::config::{Connection, Reporter};
use crate::kafka::ends::highs;
use crate::kafka::{Kept, identity, topics};

/// How old an answer may be before Kafka is asked again.
const FRESH: Duration = Duration::from_secs(1);

/// A topic and a partition.
pub type Place = (String, i32);

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Whether Kafka answered the last question; `None` if none was asked yet.
    pub up: Option<bool>,
    /// The offset that the next record of each partition will get, as far as Kafka has told it.
    pub ends: HashMap<Place, i64>,
    /// Of which partitions it was asked last, and when.
    places: Vec<Place>,
    asked: Option<Instant>,
    questions: u64,
}

type Shared = Arc<(Mutex<Known>, Condvar)>;

/// Asks for the ends of partitions.
#[derive(Debug)]
pub struct Ends {
    known: Shared,
    ask: SyncSender<Vec<Place>>,
}

impl Ends {
    /// Starts the thread, which opens a client once it is first asked.
    pub fn start(connection: Connection) -> Result<Self> {
        let known = Shared::default();
        // One question waits at most: its answer is for all who ask meanwhile.
        let (ask, questions) = sync_channel(1);
        let told = known.clone();
        crate::thread::spawn("ends", move || answer(&connection, &questions, &told))?;
        Ok(Self { known, ask })
    }

    /// Where these partitions end, asked anew unless that was done a moment ago, and waited for at most this long.
    pub fn of(&self, places: Vec<Place>, within: Duration) -> Known {
        let (lock, answered) = &*self.known;
        let known = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.asked.is_some_and(|asked| asked.elapsed() < FRESH);
        if fresh && places.iter().all(|place| known.ends.contains_key(place)) {
            return known.clone();
        }
        let before = known.questions;
        // One that waits already is answered soon, and says as much.
        let _ = self.ask.try_send(places);
        let waited = answered.wait_timeout_while(known, within, |known| known.questions == before);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Whether Kafka answered the last question, which is asked again unless that was done a moment ago. Waits for nothing.
    pub fn up(&self) -> Option<bool> {
        let known = self.known.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.asked.is_none_or(|asked| asked.elapsed() >= FRESH) {
            let _ = self.ask.try_send(known.places.clone());
        }
        known.up
    }
}

fn answer(connection: &Connection, questions: &Receiver<Vec<Place>>, told: &Shared) {
    let mut client = None;
    while let Ok(places) = questions.recv() {
        let found = ask(connection, &mut client, &places);
        if let Err(error) = &found {
            tracing::debug!(error = format!("{error:#}"), "ask for the ends of partitions");
        }
        let (lock, answered) = &**told;
        let mut known = lock.lock().unwrap_or_else(PoisonError::into_inner);
        known.up = Some(found.as_ref().err().is_none_or(is_answer));
        if let Ok(found) = found {
            // A partition whose leader is away ends where it did; one that nobody asks for any more is forgotten.
            let asked: HashSet<&Place> = places.iter().collect();
            known.ends.retain(|place, _| asked.contains(place));
            known.ends.extend(found);
        }
        known.places = places;
        known.asked = Some(Instant::now());
        known.questions += 1;
        answered.notify_all();
    }
}

fn ask(
    connection: &Connection,
    client: &mut Option<Kept<Client<Reporter>>>,
    places: &[Place],
) -> Result<HashMap<Place, i64>> {
    let open = match client.take() {
        Some(open) => open,
        None => topics::open(connection)?,
    };
    let named: Vec<(&str, i32)> = places.iter().map(|(topic, partition)| (topic.as_str(), *partition)).collect();
    highs(client.insert(open), connection, &named)
}

/// Whether it was Kafka that said no.
fn is_answer(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<identity::Error>(), Some(identity::Error::Topic { .. }))
}
