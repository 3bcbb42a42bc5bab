//! What one delivery costs by itself, in its thread's own processor time, so that neighbours and the disk count little.

use anyhow::{Context as _, Result};
use tidemill::deploy::manifest::Instances;
use tidemill_tests::dispatch::Dispatch;

use crate::load;
use crate::process;
use crate::report::{Report, median, say};

const DELIVERIES: u64 = 50_000;
const ROUNDS: usize = 3;

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
    let mut dispatch = Dispatch::new(folder.path(), handler, instances);
    let busy = process::own_thread_micros()?;
    for n in 1..=DELIVERIES {
        let (key, order) = load::order(n, false);
        match work {
            Work::Nothing => dispatch.make_and_drop(),
            Work::Read => {
                let nothing = format!(r#"{{"do":"insert","row":false,"id":"{n}","undo":[]{}}}"#, " ".repeat(150));
                dispatch.deliver(key, nothing);
            }
            Work::Write => dispatch.deliver(key, order),
        }
    }
    Ok((process::own_thread_micros()? - busy) / DELIVERIES as f64)
}
