//! The process itself, as the kernel has it: processor time, memory, files, threads.
//!
//! The names are those of Prometheus' own client libraries, so that dashboards find them. It reads `/proc` when asked, and nothing
//! else; what is not there is left out.

use std::fs;

use super::families;
use super::page::Page;

/// Puts what is known on the page.
pub(super) fn put(page: &mut Page) {
    let unit = |parameter: u64| parameter.max(1) as f64;
    let (ticks, bytes) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64);
    if let Ok(stat) = fs::read_to_string("/proc/self/stat") {
        let fields = fields(&stat);
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<f64>().ok());
        // By the numbers in proc_pid_stat(5).
        if let (Some(user), Some(system)) = (field(14), field(15)) {
            page.put(&families::PROCESS_CPU, &[], (user + system) / unit(ticks));
        }
        if let Some(threads) = field(20) {
            page.put(&families::PROCESS_THREADS, &[], threads);
        }
        if let Some(started) = started_by(&fields) {
            page.put(&families::PROCESS_START, &[], started);
        }
        if let (Some(virtual_bytes), Some(resident)) = (field(23), field(24)) {
            page.put(&families::PROCESS_VIRTUAL, &[], virtual_bytes);
            page.put(&families::PROCESS_RESIDENT, &[], resident * unit(bytes));
        }
    }
    if let Some(open) = open_files() {
        page.count(&families::PROCESS_FDS, &[], open);
    }
    if let Some(most) = most_files() {
        page.count(&families::PROCESS_MAX_FDS, &[], most);
    }
}

/// How many files and connections are open.
pub(super) fn open_files() -> Option<u64> {
    // The folder that is read is one of them.
    fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1))
}

/// How many may be.
pub(super) fn most_files() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// When the process was started, in seconds since the Unix epoch.
pub(super) fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    started_by(&fields(&stat))
}

fn started_by(fields: &[&str]) -> Option<f64> {
    // By its number in proc_pid_stat(5).
    let after: f64 = fields.get(22 - 3)?.parse().ok()?;
    Some(boot_time()? + after / rustix::param::clock_ticks_per_second().max(1) as f64)
}

/// What follows the command, which may hold anything, in `/proc/self/stat`: field 3 first.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default()
}

/// When the machine was started, in seconds since the Unix epoch.
fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_hold_what_fields_are_made_of() {
        assert_eq!(fields("7 (a) b (c)) S 1 2\n"), ["S", "1", "2"]);
        assert!(fields("").is_empty());
    }
}
