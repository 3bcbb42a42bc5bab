//! Deliveries by themselves: the host's own code for guests, in this process, over a store on disk. There is no Kafka, no
//! relay and no executor, so that what a delivery costs can be told apart from all else.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tidemill::deploy::artifact;
use tidemill::deploy::manifest::{Instances, Manifest, Spec};
use tidemill::guest::{self, Component, Context, Engine, Environment, Warm};
use tidemill::id::{InputId, Seed};
use tidemill::ledger::{deployment, schema};
use tidemill::record::{Record, Timestamp};
use tidemill::settings::Settings;
use tidemill::store::Connection;
use tidemill::store::rights::Rights;

use crate::built;

/// Deliveries of one commit.
const GROUP: i64 = 500;

/// A handler with its store.
pub struct Dispatch {
    component: Component,
    environment: Arc<Environment>,
    connection: Option<Box<Connection>>,
    warm: Option<Warm>,
    next_offset: i64,
    next_outbox_id: i64,
    /// Its epoch goes on while it is there.
    _engine: Engine,
}

impl Dispatch {
    /// One of the built handlers, with its store in `folder`.
    pub fn new(folder: &Path, handler: &str, instances: Instances) -> Self {
        let engine = Engine::new(folder).unwrap();
        let bytes = built(handler);
        let component = engine.load(&bytes, &tidemill::id::sha256_hex(&bytes)).unwrap();
        let (manifest, migrations) = artifact::sections(&bytes).unwrap();
        let manifest = Manifest::parse(&manifest.expect("a manifest"), handler).unwrap();
        let spec = Spec::resolve(&manifest, &Settings::parse("", "none").unwrap().defaults, None).unwrap();
        let rights = Arc::new(Rights { user: spec.name.as_str().into(), ..Rights::default() });
        let connection = Box::new(Connection::open_writer(&folder.join("store.db"), true).unwrap());
        schema::prepare(&connection).unwrap();
        connection.batch("BEGIN").unwrap();
        rights.tables.set(deployment::migrate(&connection, &rights, &migrations, 0).unwrap());
        connection.batch("COMMIT").unwrap();
        let environment = Arc::new(Environment { spec: Spec { instances, ..spec }, owner: 1, rights });
        let (connection, warm) = (Some(connection), None);
        Self { component, environment, connection, warm, next_offset: 0, next_outbox_id: 1, _engine: engine }
    }

    /// Makes an instance and drops it.
    pub fn make_and_drop(&self) {
        self.component.try_out(&self.environment.spec).unwrap();
    }

    /// Delivers a record with this key and value. Every so many commit together.
    pub fn deliver(&mut self, key: String, value: String) {
        let mut connection = self.connection.take().expect("a delivery gives it back");
        if self.next_offset % GROUP == 0 {
            connection.batch("BEGIN IMMEDIATE").unwrap();
        }
        let record = Record {
            topic: "in".into(),
            partition: 0,
            offset: self.next_offset,
            timestamp: Timestamp::CreateTime(0),
            key: Some(Bytes::from(key)),
            value: Some(Bytes::from(value)),
            headers: Vec::new(),
        };
        let input = InputId::Record { topic_id: "topic".into(), partition: 0, offset: record.offset };
        let context = Context {
            environment: self.environment.clone(),
            seed: Seed::derive(b"secret", &self.environment.spec.name, &input),
            now: 0,
            input_time: 0,
            attempt: 1,
            event_id: None,
            record: None,
            source: input.describe("in"),
            next_outbox_id: Some(self.next_outbox_id),
            answers: Arc::default(),
            deadline: None,
            sender: None,
            warm: self.warm.take(),
            trace: None,
            place: Default::default(),
        };
        let finished = guest::delivery::handle_record(&self.component, connection, context, &record);
        finished.result.expect("it is done");
        connection = finished.connection;
        self.next_outbox_id = finished.next_outbox_id.expect("it may publish");
        self.warm = finished.warm;
        self.next_offset += 1;
        if self.next_offset % GROUP == 0 {
            connection.batch("DELETE FROM tm_outbox; COMMIT").unwrap();
        }
        self.connection = Some(connection);
    }
}
