//! A status as lines for people: what stands where, and in which colour.
//!
//! What is wrong is red, what an operator has done or should look at is yellow. Colours are the terminal's own, there only where a terminal
//! shows them and `NO_COLOR` (no-color.org) does not say otherwise.

use std::io::IsTerminal as _;
use std::time::Duration;

use super::{Look, Rates};
use crate::cli::remote::table;
use crate::id::short;
use crate::metrics::gather::status::{Handler, Status, Stored};
use crate::metrics::health::{Readiness, Stage};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Head,
    Good,
    Look,
    Bad,
}

/// A line, and how it looks.
pub(super) type Line = (Paint, String);

/// Whether standard output shows colours.
pub(super) fn coloured() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal() && !unwanted
}

/// How many lines the terminal has, where it says so.
pub(super) fn rows() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes a `winsize`, for which there is room, and nothing else.
    let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (asked == 0 && size.ws_row > 0).then_some(usize::from(size.ws_row))
}

/// Lines as text.
pub(super) fn text(lines: &[Line], coloured: bool) -> String {
    let painted = |(paint, line): &Line| {
        let code = match paint {
            Paint::Plain => return line.clone(),
            _ if !coloured => return line.clone(),
            Paint::Head => "1",
            Paint::Good => "32",
            Paint::Look => "33",
            Paint::Bad => "31",
        };
        format!("\x1b[{code}m{line}\x1b[0m")
    };
    lines.iter().map(painted).collect::<Vec<_>>().join("\n")
}

/// What is shown while nobody answers.
pub(super) fn failed(error: &str) -> Vec<Line> {
    error.lines().map(|line| (Paint::Bad, line.to_owned())).collect()
}

/// A look as lines.
pub(super) fn lines(look: &Look, rates: &Rates) -> Vec<Line> {
    match look {
        Look::Runs(status, _) => running(status, rates),
        Look::Waits(readiness) => {
            let mut lines = vec![(Paint::Look, format!("the daemon is {}", stage(readiness.stage)))];
            reasons(readiness, &mut lines);
            lines
        }
    }
}

fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Standby => "a standby",
        Stage::Starting => "starting",
        Stage::Running => "running",
        Stage::Stopping => "stopping",
    }
}

fn reasons(readiness: &Readiness, lines: &mut Vec<Line>) {
    for reason in &readiness.reasons {
        let store = reason.store.iter().map(|store| format!("store {store}: "));
        let handler = reason.handler.iter().map(|handler| format!("handler {handler}: "));
        let about: String = store.chain(handler).collect();
        lines.push((Paint::Bad, format!("not ready: {about}{}", reason.reason)));
    }
}

fn running(status: &Status, rates: &Rates) -> Vec<Line> {
    let up = status.started.map_or("-".to_owned(), |started| time(((status.at - started).max(0) as f64) / 1e3));
    let ready = if status.readiness.ready { (Paint::Good, "ready") } else { (Paint::Bad, "not ready") };
    let mut lines = vec![(ready.0, format!("tidemill {}  {}  up {up}", status.version, ready.1))];
    reasons(&status.readiness, &mut lines);
    let (paint, answers) = match status.kafka.answers {
        Some(true) => (Paint::Plain, "answers"),
        Some(false) => (Paint::Bad, "does not answer"),
        None => (Paint::Plain, "not asked yet"),
    };
    let own = if status.kafka.embedded { " (embedded)" } else { "" };
    lines.push((paint, format!("kafka  {}{own}  {answers}", status.kafka.bootstrap)));
    let of = |some: Option<String>| some.unwrap_or_else(|| "-".to_owned());
    let (free, disk) = (of(status.disk_free.map(bytes)), of(status.disk_size.map(bytes)));
    let tight = status.disk_free.zip(status.disk_size).is_some_and(|(free, size)| free < size / 20);
    let paint = if tight { Paint::Bad } else { Paint::Plain };
    lines.push((paint, format!("data   {}  {free} free of {disk}", status.data)));
    let (open, most) = (of(status.files_open.map(|n| n.to_string())), of(status.files_most.map(|n| n.to_string())));
    lines.push((Paint::Plain, format!("files  {open} open of {most}")));

    lines.push((Paint::Plain, String::new()));
    if status.handlers.is_empty() {
        lines.push((Paint::Plain, "no handler runs: send one with `tidemill deploy`".to_owned()));
    } else {
        let head =
            ["HANDLER", "VERSION", "RECORDS/S", "LAG", "OLDEST", "PENDING", "RETRIED", "DEAD", "FALLBACK", "STATE"];
        let rows = status.handlers.iter().map(|handler| handler_row(handler, rates));
        put_table(&mut lines, &head, rows);
    }
    if !status.stores.is_empty() {
        lines.push((Paint::Plain, String::new()));
        let head = ["STORE", "OUTBOX", "OLDEST", "DELAYED", "PUBLISHED/S", "DATABASE", "LOG", "STATE"];
        put_table(&mut lines, &head, status.stores.iter().map(|store| store_row(store, rates)));
    }
    lines
}

fn put_table(lines: &mut Vec<Line>, head: &[&str], rows: impl Iterator<Item = (Paint, Vec<String>)>) {
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    let (paints, rows): (Vec<Paint>, Vec<Vec<String>>) = [(Paint::Head, head)].into_iter().chain(rows).unzip();
    lines.extend(paints.into_iter().zip(table(&rows).lines().map(str::to_owned)));
}

fn handler_row(handler: &Handler, rates: &Rates) -> (Paint, Vec<String>) {
    let (paint, state) = match handler {
        Handler { held: true, .. } => (Paint::Bad, "held: its version has failed".to_owned()),
        Handler { circuit_open: true, .. } => (Paint::Bad, "circuit open".to_owned()),
        Handler { pauses: 1.., .. } => (Paint::Look, format!("paused ({})", handler.pauses)),
        Handler { fallback: Some(1..), .. } => (Paint::Look, "look at its fallback".to_owned()),
        _ => (Paint::Plain, "well".to_owned()),
    };
    let count = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let reads = |cell: String| if handler.reads { cell } else { "-".to_owned() };
    let row = vec![
        handler.handler.clone(),
        format!("{} ({})", handler.version, short(&handler.artifact)),
        reads(rate(rates.records.get(&handler.handler))),
        handler.lag.map_or("-".to_owned(), |lag| lag.to_string()),
        handler.oldest.map_or("-".to_owned(), age),
        count(handler.pending),
        handler.failed.to_string(),
        reads(handler.dead_letters.to_string()),
        count(handler.fallback),
        state,
    ];
    (paint, row)
}

fn store_row(store: &Stored, rates: &Rates) -> (Paint, Vec<String>) {
    let (paint, state) = match store {
        Stored { writable: false, .. } => (Paint::Bad, "cannot be written"),
        Stored { outbox_full: true, .. } => (Paint::Bad, "its outbox is full"),
        _ => (Paint::Plain, "well"),
    };
    let row = vec![
        store.store.clone(),
        store.outbox.to_string(),
        store.oldest.map_or("-".to_owned(), age),
        store.delayed.map_or("-".to_owned(), |rows| rows.to_string()),
        rate(rates.published.get(&store.store)),
        bytes(store.database),
        bytes(store.log),
        state.to_owned(),
    ];
    (paint, row)
}

fn rate(rate: Option<&f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if *rate > 0.0 && *rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

/// The age of something; of nothing it is none.
fn age(seconds: f64) -> String {
    if seconds > 0.0 { time(seconds) } else { "-".to_owned() }
}

/// Two units of a time.
fn time(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600 % 24, whole / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{whole}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", whole % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// A size in the unit in which it is short.
fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < units.len() {
        size /= 1024.0;
        unit += 1;
    }
    let unit_name = units.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{bytes}{unit_name}") } else { format!("{size:.1}{unit_name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_short() {
        let times = [(0.4, "0s"), (59.0, "59s"), (61.0, "1m01s"), (3_660.0, "1h01m"), (90_000.0, "1d01h")];
        assert!(times.iter().all(|(seconds, text)| time(*seconds) == *text));
        assert_eq!(
            (age(0.0), bytes(0), bytes(1_023), bytes(1_536)),
            ("-".into(), "0B".into(), "1023B".into(), "1.5KiB".into())
        );
        assert_eq!(bytes(3 << 40), "3.0TiB");
        assert_eq!([None, Some(&0.0), Some(&2.25), Some(&1_200.4)].map(rate), ["-", "0", "2.2", "1200"]);
    }

    #[test]
    fn colours_are_codes_around_a_line_or_nothing() {
        let lines = [(Paint::Plain, "a".to_owned()), (Paint::Bad, "b".to_owned())];
        assert_eq!(text(&lines, true), "a\n\x1b[31mb\x1b[0m");
        assert_eq!(text(&lines, false), "a\nb");
    }
}
