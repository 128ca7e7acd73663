//! Where and with what figures were made, as the system and the lock file tell it.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Crates whose versions belong beside the figures.
const CRATES: [&str; 9] =
    ["blazedb-engine", "redb", "heed", "lmdb-master-sys", "fjall", "canopydb", "rusqlite", "libsqlite3-sys", "rocksdb"];

/// What was locked when this program was built.
const LOCK: &str = include_str!("../Cargo.lock");

/// Load average of the last minute.
pub(crate) fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or("unknown").to_owned()
}

pub(crate) fn processor() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let memory_gib = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .map_or(0, |kib| (kib + (1 << 19)) >> 20);
    format!("{cpu}, {cores} cores, {memory_gib} GiB, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// The kind of file system that holds a folder.
pub(crate) fn file_system(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (at, kind) = (fields.next()?, fields.next()?);
            folder.starts_with(at).then(|| (at.len(), kind.to_owned()))
        })
        .max()
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

/// Today in UTC.
pub(crate) fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Days to a date in the proleptic Gregorian calendar: years of 400 have as many days each.
    let mut day = seconds / 86_400;
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for days in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", day + 1)
}

/// Names and versions of what was compared.
pub(crate) fn versions() -> String {
    let mut lines = LOCK.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("name = \"").and_then(|rest| rest.strip_suffix('"')) else { continue };
        let version = lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        if let (true, Some(version)) = (CRATES.contains(&name), version) {
            found.push(format!("{name} {version}"));
        }
    }
    found.join(", ")
}
