//! What one delivery costs by itself: no Kafka, no relay, no executor; the host's own code for guests, in this process.
//!
//! A record is given to a component over a store on disk, in groups of 500 that commit. What is timed is the thread's own
//! processor time, so that neighbours and the disk count little.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use tidemill::deploy::artifact;
use tidemill::deploy::manifest::{Instances, Manifest, Spec};
use tidemill::guest::{self, Context, Engine, Environment};
use tidemill::id::{InputId, Seed};
use tidemill::ledger::schema;
use tidemill::record::{Record, Timestamp};
use tidemill::settings::Settings;
use tidemill::store::Connection;
use tidemill_tests::built;

use crate::load;
use crate::process;
use crate::report::{Report, median, say};

const DELIVERIES: u64 = 50_000;
const ROUNDS: usize = 3;
const GROUP: u64 = 500;

/// What a delivery does.
#[derive(Clone, Copy)]
enum Work {
    /// Nothing: its instance is made and dropped.
    Nothing,
    /// A record of 200 bytes is read as JSON, and nothing follows from it.
    Read,
    /// The benchmark's work: a row and an event.
    Write,
}

/// Measures all kinds of work, with fresh and with reused instances.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    report.section("dispatch, in processor time of its thread");
    for (name, handler, work, instances) in [
        ("an instance made and dropped", "bench", Work::Nothing, Instances::Fresh),
        ("a record of 200 bytes that causes nothing, fresh", "hostile", Work::Read, Instances::Fresh),
        ("the same, reused", "hostile", Work::Read, Instances::Reused),
        ("a row and an event, fresh", "bench", Work::Write, Instances::Fresh),
        ("the same row and event, reused", "bench", Work::Write, Instances::Reused),
    ] {
        let rounds = (0..ROUNDS).map(|_| run(handler, work, instances)).collect::<Result<Vec<_>>>();
        let rounds = rounds.with_context(|| name.to_owned())?;
        let figure = format!("{:>6.1} us   ({rounds:.1?})", median(&rounds));
        say(&format!("dispatch, {name}: {figure}"));
        report.line(name, figure, median(&rounds));
    }
    Ok(())
}

/// Microseconds for each delivery.
fn run(handler: &str, work: Work, instances: Instances) -> Result<f64> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let engine = Engine::new(folder.path())?;
    let bytes = built(handler);
    let component = engine.load(&bytes, &tidemill::id::sha256_hex(&bytes))?;
    let (manifest, migrations) = artifact::sections(&bytes)?;
    let manifest = Manifest::parse(&manifest.context("a manifest")?, handler).map_err(|wrong| anyhow!("{wrong}"))?;
    let defaults = Settings::parse("", "none").map_err(|wrong| anyhow!("{wrong}"))?.defaults;
    let spec = Spec::resolve(&manifest, &defaults, None).map_err(|wrong| anyhow!("{wrong}"))?;
    let environment = Arc::new(Environment { spec: Spec { instances, ..spec }, owner: 1 });
    let mut connection = Box::new(Connection::open_writer(&folder.path().join("store.db"), true)?);
    schema::prepare(&connection)?;
    migrations.iter().try_for_each(|migration| connection.migrate(&migration.sql))?;

    let (mut next_outbox_id, mut warm) = (1, None);
    let busy = process::own_thread_micros()?;
    for n in 1..=DELIVERIES {
        if let Work::Nothing = work {
            component.try_out(&environment.spec)?;
            continue;
        }
        if n % GROUP == 1 {
            connection.batch("BEGIN IMMEDIATE")?;
        }
        let record = record(n, work);
        let input = InputId::Record { topic_id: "topic".into(), partition: 0, offset: record.offset };
        let context = Context {
            environment: environment.clone(),
            seed: Seed::derive(b"secret", handler, &input),
            now: 0,
            input_time: 0,
            attempt: 1,
            event_id: None,
            source: input.describe("in"),
            next_outbox_id: Some(next_outbox_id),
            answers: Arc::default(),
            deadline: None,
            sender: None,
            warm: warm.take(),
        };
        let finished = guest::delivery::handle_record(&component, connection, context, &record);
        ensure!(finished.result.is_ok(), "{:?}", finished.result);
        next_outbox_id = finished.next_outbox_id.unwrap_or(next_outbox_id);
        (connection, warm) = (finished.connection, finished.warm);
        if n % GROUP == 0 {
            connection.batch("DELETE FROM tm_outbox; COMMIT")?;
        }
    }
    Ok((process::own_thread_micros()? - busy) / DELIVERIES as f64)
}

fn record(n: u64, work: Work) -> Record {
    let (key, value) = load::order(n, false);
    let value = match work {
        Work::Read => format!(r#"{{"do":"insert","row":false,"id":"{n}","undo":[]{}}}"#, " ".repeat(150)),
        Work::Nothing | Work::Write => value,
    };
    Record {
        topic: "in".into(),
        partition: 0,
        offset: n as i64,
        timestamp: Timestamp::CreateTime(0),
        key: Some(Bytes::from(key)),
        value: Some(Bytes::from(value)),
        headers: Vec::new(),
    }
}
