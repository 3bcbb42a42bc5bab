//! What one thing costs the host: throughput runs with it and without it, in turns, on the same records and the same broker.
//!
//! Every round runs all contenders, in an order that changes, and each is compared with the first of the same round: what slows the
//! machine for a minute slows them all. It judges nothing.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::json;
use tidemill_tests::{Collector, Kafka};

use crate::report::{Report, median, percentile, say};
use crate::throughput::{self, Host, Plan, Run};

/// One of those that are compared.
struct Contender<'a> {
    name: &'static str,
    settings: String,
    program: Option<&'a Path>,
}

/// This build and another one.
pub(crate) fn builds(kafka: &Kafka, plan: &Plan, other: &Path, report: &mut Report) -> Result<()> {
    let contender = |name, program| Contender { name, settings: plan.settings.clone(), program };
    compare(kafka, plan, "builds", &[contender("this", None), contender("other", Some(other))], report)
}

/// Traces that nobody takes, and parts of them that a collector takes.
pub(crate) fn traces(kafka: &Kafka, plan: &Plan, report: &mut Report) -> Result<()> {
    let collector = Collector::forgetful();
    let told = |name, ratio: &str| {
        let traces = format!("[traces]\nendpoint = \"{}\"\nratio = {ratio}\n", collector.url());
        Contender { name, settings: plan.settings.clone() + &traces, program: None }
    };
    let none = Contender { name: "no traces", settings: plan.settings.clone(), program: None };
    compare(kafka, plan, "traces", &[none, told("1 % told", "0.01"), told("all told", "1")], report)?;
    report.line("spans that the collector took", collector.taken().to_string(), collector.taken());
    Ok(())
}

fn compare(kafka: &Kafka, plan: &Plan, title: &str, contenders: &[Contender<'_>], report: &mut Report) -> Result<()> {
    throughput::prepare(kafka, plan)?;
    let mut runs: Vec<Vec<Run>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=plan.rounds {
        let mut order: Vec<_> = contenders.iter().zip(&mut runs).enumerate().collect();
        order.rotate_left(round % contenders.len());
        for (n, (contender, runs)) in order {
            let host = Host { instances: "fresh", settings: &contender.settings, program: contender.program };
            let topic = format!("bench-out-{title}-{n}-{round}");
            let run = throughput::run_host(kafka, &topic, &host, plan.records);
            let run = run.with_context(|| format!("{}, round {round}", contender.name))?;
            say(&format!(
                "{title}, round {round}, {}: {:.0} records/s, {:.2} us of processor a record",
                contender.name,
                run.rate(plan.records),
                run.processor() * 1e6 / plan.records as f64
            ));
            runs.push(run);
        }
    }
    report.section(&format!("{title} ({} rounds of {} records, fresh instances)", plan.rounds, plan.records));
    type Figure<'a> = &'a dyn Fn(&Run) -> f64;
    let figures: [(&str, Figure<'_>); 2] = [
        ("processor time a record, us", &|run| run.processor() * 1e6 / plan.records as f64),
        ("records/s", &|run| run.rate(plan.records)),
    ];
    let first = runs.first().context("nothing is compared")?;
    for (name, figure) in figures {
        for (contender, runs) in contenders.iter().zip(&runs) {
            let ratios: Vec<_> = runs.iter().zip(first).map(|(run, first)| figure(run) / figure(first)).collect();
            let middle = median(&runs.iter().map(figure).collect::<Vec<_>>());
            let [low, half, high] = [0.25, 0.5, 0.75].map(|share| percentile(&ratios, share));
            report.line(
                &format!("{name}: {}", contender.name),
                format!("{middle:>10.2}   of the first, by rounds: {half:.3} ({low:.3} to {high:.3})"),
                json!({ "median": middle, "ratio": half, "quartiles": [low, high], "ratios": ratios }),
            );
        }
    }
    Ok(())
}
