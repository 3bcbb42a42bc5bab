//! What the ledger keeps of records, events and requests, through SQLite and back.

use std::cell::OnceCell;
use std::sync::Arc;
use std::time::Instant;

use arbitrary::Arbitrary;
use bytes::Bytes;
use tidemill::ledger::outbox::{self, Event, EventKind, Span};
use tidemill::ledger::pending::{self, Attempt, Pending, Purpose, Rows, Waiting};
use tidemill::ledger::{request, schema};
use tidemill::policy::Order;
use tidemill::record::{Request, Response};
use tidemill::store::Connection;

use crate::input::{self, RawRecord};

#[derive(Arbitrary, Debug)]
enum Row {
    Pending { record: RawRecord, scope: u8, attempts: u32, due: Option<i64>, reason: Option<String>, errors: String },
    Event { record: RawRecord, texts: [String; 4], fixed: bool, topic_gets: Option<[Option<i32>; 2]>, at: Option<i64> },
    Answer { texts: [String; 5], body: Vec<u8>, status: u16, headers: Vec<(String, Vec<u8>)>, answer: Vec<u8> },
}

thread_local! {
    static STORE: OnceCell<Connection> = const { OnceCell::new() };
}

/// A row comes out as it went in. Each input has a transaction of its own, which is rolled back.
pub(crate) fn rows(bytes: &[u8]) {
    let Some(row) = input::read::<Row>(bytes) else { return };
    STORE.with(|store| {
        let store = store.get_or_init(open);
        store.batch("BEGIN").unwrap();
        match row {
            Row::Pending { record, scope, attempts, due, reason, errors } => {
                let scope = [Order::Partition, Order::Key, Order::None][usize::from(scope % 3)];
                let purpose = reason.map_or(Purpose::Handle, |reason| Purpose::Compensate { reason, event: None });
                let record = Arc::new(record.record());
                // As a lane decides it: a record without a key has nobody behind it.
                let scope = if scope == Order::Key && record.key.is_none() { Order::None } else { scope };
                let (outcome, message, answers) = ("retry", errors.as_str(), due.map(Into::into));
                let attempt = Attempt { number: attempts, at: 7, clock: due, outcome, message, answers };
                let errors = pending::push_error(&errors, attempt);
                waits(store, Pending { id: 0, record, topic_id: "t".into(), purpose, scope, attempts, due, errors });
            }
            Row::Event { record, texts, fixed, topic_gets, at } => {
                let record = record.record();
                let [event_id, event_type, topic, handler] = texts;
                let kind = match topic_gets {
                    Some([partitions, replicas]) => EventKind::DeadLetter { partitions, replicas },
                    None => EventKind::Event,
                };
                let partition = fixed.then_some(record.partition);
                let (key, value, headers) = (record.key, record.value, record.headers);
                let event = Event { event_id, event_type, topic, partition, key, value, headers, kind, not_before: at };
                leaves(store, event, &handler);
            }
            Row::Answer { texts, body, status, headers, answer } => {
                let [method, path, user, query, key] = texts;
                let request = Request {
                    method,
                    path: path.clone(),
                    route: path,
                    params: Vec::new(),
                    query: Some(query),
                    headers: Vec::new(),
                    body: body.into(),
                    user: Some(user),
                    idempotency_key: Some(key.clone()),
                    id: Default::default(),
                    deadline: Instant::now(),
                };
                let headers = headers.into_iter().map(|(name, value)| (name, Bytes::from(value))).collect();
                let response = Response { status, headers, body: answer.into() };
                let fingerprint = request::fingerprint(&request, &[]);
                request::insert(store, "h", &request, &key, fingerprint.clone(), &response, 7).unwrap();
                let found = request::find(store, "h", &request, &key).unwrap();
                assert_eq!(found, Some((fingerprint, response)));
            }
        }
        store.batch("ROLLBACK").unwrap();
    });
}

fn open() -> Connection {
    let path = std::env::temp_dir().join(format!("tidemill-fuzz-{}.db", std::process::id()));
    let store = Connection::open_writer(&path, false).unwrap();
    schema::prepare(&store).unwrap();
    // It stays open and goes with the process.
    std::fs::remove_file(path).unwrap();
    store
}

fn waits(store: &Connection, pending: Pending) {
    let record = Arc::clone(&pending.record);
    let rows = Rows { connection: store, handler: "h", topic: &record.topic, partition: record.partition };
    let mut waiting = Waiting::default();
    let id = rows.add(&pending, &mut waiting).unwrap().unwrap();
    let pending = Pending { id, ..pending };
    assert_eq!(rows.get(id).unwrap().as_ref(), Some(&pending));
    assert_eq!(rows.first_due(i64::MAX).unwrap().is_some(), pending.due.is_some());
    if let Some(key) = &record.key {
        assert_eq!(rows.hold(key).unwrap(), pending.scope == Order::Key);
    }
    // What is counted in memory is what the store holds; a row without a due time gets one when it is looked at anew.
    let opened = rows.open(7, i64::MAX).unwrap();
    assert_eq!(opened, Waiting { due: Some(pending.due.unwrap_or(7)), ..waiting });
    rows.remove(&pending, 7, &mut waiting).unwrap();
    assert_eq!(waiting, Waiting::default());
}

fn leaves(store: &Connection, event: Event, handler: &str) {
    let id = outbox::first_id(store).unwrap();
    assert!(outbox::insert(store, id, &event, handler, "s", 7).unwrap());
    assert!(!outbox::insert(store, id + 1, &event, handler, "s", 7).unwrap());
    let read = outbox::waiting(store, Span::After(0), 2, usize::MAX).unwrap();
    assert_eq!(read, [outbox::Waiting { id, event, handler: handler.to_owned(), created_at: 7 }]);
}
