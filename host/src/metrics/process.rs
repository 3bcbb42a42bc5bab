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
        if let (Some(after), Some(boot)) = (field(22), boot_time()) {
            page.put(&families::PROCESS_START, &[], boot + after / unit(ticks));
        }
        if let (Some(virtual_bytes), Some(resident)) = (field(23), field(24)) {
            page.put(&families::PROCESS_VIRTUAL, &[], virtual_bytes);
            page.put(&families::PROCESS_RESIDENT, &[], resident * unit(bytes));
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // The folder that is read is one of them.
        page.count(&families::PROCESS_FDS, &[], (open.count() as u64).saturating_sub(1));
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        page.count(&families::PROCESS_MAX_FDS, &[], most);
    }
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
