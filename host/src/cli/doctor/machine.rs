//! This machine: the data folder and its disk, files, the clock, and who may read what is secret.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::Findings;
use crate::deploy::manifest::Spec;
use crate::deploy::secrets::Source;
use crate::http::admin::tokens;
use crate::http::secret;
use crate::metrics::gather::disk;
use crate::metrics::gather::status::Status;
use crate::settings::units::{show_size, show_time};
use crate::settings::{JwtKey, Settings};

/// Less room than this is none: SQLite's log alone takes as much.
const ROOM_MIN: u64 = 128 << 20;
/// Files that a daemon with a few handlers and some hundred connections needs.
const FILES_MIN: u64 = 1_024;
const FILES_FEW: u64 = 4_096;
/// No clock that is right says an earlier time, in milliseconds since the Unix epoch: 2026.
const NOT_BEFORE: i64 = 1_767_225_600_000;

/// File systems by the numbers of statfs(2): what they are called, and whether others share them.
const FILE_SYSTEMS: [(i64, &str, Kind); 13] = [
    (0x6969, "NFS", Kind::Network),
    (0xff53_4d42, "CIFS", Kind::Network),
    (0xfe53_4d42, "SMB", Kind::Network),
    (0x517b, "SMB", Kind::Network),
    (0x0102_1997, "9p", Kind::Network),
    (0x00c3_6400, "Ceph", Kind::Network),
    (0x0bd0_0bd0, "Lustre", Kind::Network),
    (0x4750_4653, "GPFS", Kind::Network),
    (0x5346_414f, "AFS", Kind::Network),
    (0x7461_636f, "OCFS2", Kind::Network),
    (0x6573_5546, "FUSE", Kind::Unknown),
    (0x0102_1994, "tmpfs", Kind::Forgets),
    (0x794c_7630, "overlay", Kind::Forgets),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Its locks and shared memory are not those that SQLite's log needs.
    Network,
    Unknown,
    /// It goes with the machine, or with the container.
    Forgets,
}

pub(super) fn check(
    settings: &Settings,
    file: Option<&Path>,
    daemon: Option<&Status>,
    specs: &[Spec],
    found: &mut Findings,
) {
    folder(&settings.data, found);
    let (open, most) = match daemon {
        Some(status) => (status.files_open, status.files_most),
        None => (None, rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum),
    };
    files(open, most, found);
    clock(crate::clock::now(), is_kept(), found);
    secrets(settings, file, specs, found);
    tokens(&tokens::file(settings), found);
}

/// The data folder, or the nearest one above that is there.
fn folder(data: &Path, found: &mut Findings) {
    let place = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let Some(there) = place.ancestors().find(|folder| folder.exists()) else { return };
    if let Err(error) = rustix::fs::access(there, rustix::fs::Access::WRITE_OK) {
        found.bad("data", format!("{} cannot be written ({error})", there.display()), "let this user write there");
    }
    let name = place.display();
    match rustix::fs::statfs(there) {
        Ok(system) => match file_system(system.f_type) {
            Some((kind, Kind::Network)) => found.bad(
                "data",
                format!("{name} is on {kind}, where SQLite's log does not work: stores can be damaged"),
                "move it to a disk of this machine",
            ),
            Some((kind, Kind::Unknown)) => found.warn(
                "data",
                format!("{name} is on a file system of {kind}, which may be one over a network"),
                "see to it that it is a disk of this machine",
            ),
            Some((kind, Kind::Forgets)) => found.warn(
                "data",
                format!("{name} is on {kind}, which goes with this machine's memory or with the container"),
                "mount a disk there",
            ),
            None => {}
        },
        Err(error) => found.warn("data", format!("{name} cannot be looked at ({error})"), "check that it is there"),
    }
    let begun = if data.exists() { "" } else { " (made at the first start)" };
    found.else_ok("data", format!("{name}{begun} is on a disk of this machine, and can be written"));
    let Some((free, size)) = disk(there) else { return };
    room(free, size, stores(data), found);
}

fn file_system(number: i64) -> Option<(&'static str, Kind)> {
    // Some platforms widen a 32-bit number with its sign.
    let number = number & 0xffff_ffff;
    FILE_SYSTEMS.iter().find(|(known, ..)| *known == number).map(|(_, name, kind)| (*name, *kind))
}

/// How large all stores are, with their logs.
fn stores(data: &Path) -> u64 {
    let files = fs::read_dir(data.join("stores")).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|found| found.len()).sum()
}

fn room(free: u64, size: u64, stores: u64, found: &mut Findings) {
    let [free_text, size_text, stores_text] = [free, size, stores].map(short);
    let saw = format!("{free_text} of {size_text} are free, and the stores take {stores_text}");
    if free < ROOM_MIN {
        found.bad("disk", saw, "free some: a store that cannot be written takes no request and no record");
    } else if free < stores {
        found.warn("disk", saw, "free some: a deployment is tried on a copy of its store");
    } else if free < size / 20 {
        found.warn("disk", saw, "free some: less than a twentieth is left");
    } else {
        found.ok("disk", saw);
    }
}

/// In whole units.
fn short(bytes: u64) -> String {
    let unit = [30, 20, 10].into_iter().find(|unit| bytes >> unit > 0).unwrap_or(0);
    show_size(usize::try_from(bytes >> unit << unit).unwrap_or(usize::MAX))
}

fn files(open: Option<u64>, most: Option<u64>, found: &mut Findings) {
    let most_text = most.map_or("any number".to_owned(), |most| most.to_string());
    let saw = match open {
        Some(open) => format!("{open} files and connections are open of {most_text}"),
        None => format!("{most_text} files and connections may be open"),
    };
    let (open, most) = (open.unwrap_or(0), most.unwrap_or(u64::MAX));
    let advice = "raise the limit (LimitNOFILE of the unit, or ulimit -n)";
    if most < FILES_MIN || open > most / 10 * 9 {
        found.bad("files", saw, advice);
    } else if most < FILES_FEW || open > most / 2 {
        found.warn("files", saw, advice);
    } else {
        found.ok("files", saw);
    }
}

/// Whether something keeps this machine's clock right, as the kernel knows it (adjtimex(2)); `None` where it does not say.
fn is_kept() -> Option<bool> {
    // SAFETY: it is a C structure of numbers, of which zero is one.
    let mut time: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the place is valid for the call, which changes nothing of the clock where `modes` is zero.
    let state = unsafe { libc::adjtimex(&raw mut time) };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

fn clock(now: i64, kept: Option<bool>, found: &mut Findings) {
    let saw = format!("it is {} here", show_time(now));
    if now < NOT_BEFORE {
        found.bad("clock", saw, "set this machine's clock: due times, tokens and certificates go by it");
        return;
    }
    match kept {
        Some(true) => found.ok("clock", format!("{saw}, and the clock is kept right")),
        Some(false) => found.warn(
            "clock",
            format!("{saw}, and the kernel knows of nothing that keeps the clock right: it may be slow or fast"),
            "run systemd-timesyncd, or chrony with rtcsync: due times, tokens and certificates go by it, and so does Kafka",
        ),
        None => found.ok("clock", format!("{saw}; whether anything keeps the clock right cannot be seen")),
    }
}

/// Who may read what nobody should.
fn secrets(settings: &Settings, file: Option<&Path>, specs: &[Spec], found: &mut Findings) {
    let mut files: Vec<PathBuf> = Vec::new();
    match &settings.http.jwt.key {
        JwtKey::Generated => files.push(settings.data.join(secret::FILE)),
        JwtKey::SecretFile(path) => files.push(path.clone()),
        JwtKey::Secret(_) => files.extend(file.map(Path::to_owned)),
        JwtKey::Rs256(_) | JwtKey::Es256(_) | JwtKey::JwksFile(_) | JwtKey::JwksUrl { .. } => {}
    }
    files.push(settings.admin.token_file.clone().unwrap_or_else(|| settings.data.join(secret::ADMIN_FILE)));
    files.extend(settings.metrics.token_file.clone());
    files.extend(settings.listeners_tls().map(|tls| tls.key.clone()));
    files.extend(settings.kafka.security.secret_files().map(Path::to_owned));
    let posts = settings.destinations.0.iter().filter_map(|destination| destination.http.as_ref());
    let headers = posts.flat_map(|post| &post.secret_headers).chain(&settings.traces.secret_headers);
    let of_handlers = specs.iter().flat_map(|spec| spec.secrets.values());
    for secret in headers.map(|(_, secret)| secret).chain(of_handlers) {
        if let Source::File(path) = secret.source() {
            files.push(path.clone());
        }
    }
    files.sort_unstable();
    files.dedup();
    let mut looked = 0;
    for path in files {
        // One that is missing is made, or is told of by whoever needs it.
        let Ok(there) = fs::metadata(&path) else { continue };
        looked += 1;
        let mode = there.mode() & 0o777;
        let saw = |who: &str| format!("{} can be read by {who} (mode {mode:03o})", path.display());
        let advice = format!("chmod 600 {}", path.display());
        match mode {
            mode if mode & 0o007 != 0 => found.bad("secrets", saw("everybody"), advice),
            mode if mode & 0o070 != 0 => found.warn("secrets", saw("its group"), advice),
            _ => {}
        }
    }
    found.else_ok("secrets", format!("{looked} files hold secrets, and their owner alone can read them"));
}

/// The tokens of the admin API: who can write their file can give himself one. It holds no token that could be read.
fn tokens(file: &Path, found: &mut Findings) {
    const CHECK: &str = "tokens";
    let name = file.display();
    if let Ok(there) = fs::metadata(file) {
        let mode = there.mode() & 0o777;
        let saw =
            |who: &str| format!("{name} can be written by {who} (mode {mode:03o}), to whom the admin API is open");
        let advice = format!("chmod 600 {name}");
        match mode {
            mode if mode & 0o002 != 0 => found.bad(CHECK, saw("everybody"), advice),
            mode if mode & 0o020 != 0 => found.warn(CHECK, saw("its group"), advice),
            _ => {}
        }
    }
    match tokens::list(file) {
        Ok(all) => found.else_ok(CHECK, format!("the admin API knows {} tokens with names", all.len())),
        Err(error) => found.bad(CHECK, format!("{error:#}"), "put it right: no daemon starts with it"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn worst(look: impl FnOnce(&mut Findings)) -> Verdict {
        let mut found = Findings::default();
        look(&mut found);
        found.worst()
    }

    #[test]
    fn a_disk_is_full_before_nothing_is_left() {
        let room = |free: u64, size: u64, stores: u64| worst(|found| room(free << 20, size << 20, stores << 20, found));
        assert_eq!(room(100, 1_000, 10), Verdict::Bad);
        assert_eq!(room(200, 1_000, 300), Verdict::Warn);
        assert_eq!(room(200, 10_000, 10), Verdict::Warn);
        assert_eq!(room(700, 10_000, 10), Verdict::Ok);
    }

    #[test]
    fn file_systems_over_a_network_are_known_by_their_numbers() {
        assert_eq!(file_system(0x6969), Some(("NFS", Kind::Network)));
        assert_eq!(file_system(i64::from(0xff53_4d42_u32 as i32)), Some(("CIFS", Kind::Network)));
        assert_eq!(file_system(0xef53), None, "ext4");
    }

    #[test]
    fn few_files_and_a_clock_that_was_never_set_are_bad() {
        assert_eq!(worst(|found| files(Some(950), Some(1_024), found)), Verdict::Bad);
        assert_eq!(worst(|found| files(None, Some(512), found)), Verdict::Bad);
        assert_eq!(worst(|found| files(Some(10), Some(2_048), found)), Verdict::Warn);
        assert_eq!(worst(|found| files(Some(10), None, found)), Verdict::Ok);
        assert_eq!(worst(|found| clock(0, Some(true), found)), Verdict::Bad);
        assert_eq!(worst(|found| clock(NOT_BEFORE, Some(true), found)), Verdict::Ok);
        assert_eq!(worst(|found| clock(NOT_BEFORE, Some(false), found)), Verdict::Warn);
        assert_eq!(worst(|found| clock(NOT_BEFORE, None, found)), Verdict::Ok);
    }

    #[test]
    fn a_size_is_told_in_whole_units() {
        assert_eq!([5 << 30, (1 << 30) + 1, 1_536, 7].map(short), ["5GiB", "1GiB", "1KiB", "7B"]);
    }
}
