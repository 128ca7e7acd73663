//! Figures to Markdown: what was run where, one table of everything, the documents, and each target with what was reached.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::measure::{Figures, median};
use crate::subjects::{self, ENCRYPTED, LOG_BYTES, TABLE_BYTES, UNENCRYPTED};
use crate::workloads::{BATCH_ROWS, COLD_CACHE_BYTES, MEMORY_CACHE_BYTES, RANGE_ROWS, SETTLE, SMALL_ROWS, THREADS};
use crate::{Arguments, Set, documents, machine};

pub(crate) struct Report {
    dir: PathBuf,
    load_before: String,
    /// By set and subject: one per round.
    figures: BTreeMap<(u8, &'static str), Vec<Figures>>,
}

/// How a figure is written.
#[derive(Clone, Copy)]
enum Unit {
    PerSecond,
    Microseconds,
    Milliseconds,
    Mebibytes,
    Ratio,
}

/// A line of the table: its title, where its figure is, and how it is written.
struct Line(&'static str, Set, &'static str, Unit);

use Set::{Client, Documents, Encryption, Memory, Recovery, Space, Speed, Threads, Upkeep};
use Unit::{Mebibytes, Microseconds, Milliseconds, PerSecond, Ratio};

const LINES: &[Line] = &[
    Line("floor: overwrite 4 KiB + fdatasync, /s", Speed, "floor", PerSecond),
    Line("- p50, us", Speed, "floor_p50_us", Microseconds),
    Line("- p99, us", Speed, "floor_p99_us", Microseconds),
    Line("durable commits of 1 row, /s", Speed, "single", PerSecond),
    Line("- of the floor", Speed, "single_of_floor", Ratio),
    Line("- p50, us", Speed, "single_p50_us", Microseconds),
    Line("- p99, us", Speed, "single_p99_us", Microseconds),
    Line("- CPU per commit, us", Speed, "single_cpu_us", Microseconds),
    Line("- time per commit, to that at 1,000 rows", Speed, "single_growth", Ratio),
    Line("- p50 at 1,000 rows, us", Speed, "single_small_p50_us", Microseconds),
    Line("- CPU per commit at 1,000 rows, us", Speed, "single_small_cpu_us", Microseconds),
    Line("1 thread of durable commits, /s", Threads, "threads1", PerSecond),
    Line("8 threads, /s", Threads, "threads8", PerSecond),
    Line("- p50, us", Threads, "threads8_p50_us", Microseconds),
    Line("- p99, us", Threads, "threads8_p99_us", Microseconds),
    Line("- commits per sync", Threads, "threads8_per_sync", Ratio),
    Line("32 threads, /s", Threads, "threads32", PerSecond),
    Line("- p50, us", Threads, "threads32_p50_us", Microseconds),
    Line("- p99, us", Threads, "threads32_p99_us", Microseconds),
    Line("- commits per sync", Threads, "threads32_per_sync", Ratio),
    Line("durable batches, rows/s", Speed, "batch", PerSecond),
    Line("- p50 of a batch, us", Speed, "batch_p50_us", Microseconds),
    Line("- p99 of a batch, us", Speed, "batch_p99_us", Microseconds),
    Line("- CPU per row, us", Speed, "batch_cpu_us", Microseconds),
    Line("bulk load, rows/s", Speed, "bulk", PerSecond),
    Line("- CPU per row, us", Speed, "bulk_cpu_us", Microseconds),
    Line("buffered commits of 1 row, /s", Speed, "buffered", PerSecond),
    Line("- p99, us", Speed, "buffered_p99_us", Microseconds),
    Line("- CPU per commit, us", Speed, "buffered_cpu_us", Microseconds),
    Line("- not written yet, /s", Speed, "in_memory", PerSecond),
    Line("random gets, warm, one snapshot, /s", Speed, "get", PerSecond),
    Line("- CPU per get, us", Speed, "get_cpu_us", Microseconds),
    Line("random gets, a transaction each, /s", Speed, "get_alone", PerSecond),
    Line("ranges, /s", Speed, "range", PerSecond),
    Line("- CPU per range, us", Speed, "range_cpu_us", Microseconds),
    Line("random gets, 2 threads, /s", Speed, "get_two", PerSecond),
    Line("- to one thread", Speed, "get_two_of_one", Ratio),
    Line("reader alone, CPU per get, us", Speed, "reader_alone_cpu_us", Microseconds),
    Line("reader beside a writer, CPU per get, us", Speed, "reader_beside_cpu_us", Microseconds),
    Line("- alone to beside", Speed, "reader_keeps", Ratio),
    Line("- the writer's commits, /s", Speed, "writer_beside", PerSecond),
    Line("cold gets, /s", Speed, "cold", PerSecond),
    Line("- CPU per get, us", Speed, "cold_cpu_us", Microseconds),
    Line("cold gets, pages by positioned reads, /s", Speed, "cold_second", PerSecond),
    Line("- CPU per get, us", Speed, "cold_second_cpu_us", Microseconds),
    Line("encrypted to unencrypted, in turns: commits", Encryption, "encryption_commit", Ratio),
    Line("- CPU per commit", Encryption, "encryption_commit_cpu", Ratio),
    Line("- time of warm gets, to positioned reads", Encryption, "encryption_get", Ratio),
    Line("- time of warm gets, to the mapping", Encryption, "encryption_get_to_map", Ratio),
    Line("- time of cold gets, to positioned reads", Encryption, "encryption_cold", Ratio),
    Line("- time of cold gets, to the mapping", Encryption, "encryption_cold_to_map", Ratio),
    Line("peak anonymous memory, MiB", Memory, "memory_mib", Mebibytes),
    Line("- up to the end of the bulk load", Memory, "memory_bulk_mib", Mebibytes),
    Line("- up to the end of the writes", Memory, "memory_writes_mib", Mebibytes),
    Line("- with mapped files", Memory, "memory_all_mib", Mebibytes),
    Line("open after SIGKILL, ms", Recovery, "recovery_open_ms", Milliseconds),
    Line("- CPU, ms", Recovery, "recovery_open_cpu_ms", Milliseconds),
    Line("- first gets, ms", Recovery, "recovery_get_ms", Milliseconds),
    Line("- files, MiB", Recovery, "recovery_file_mib", Mebibytes),
    Line("files to payload, loaded in random order by batches, closed", Space, "space_loaded", Ratio),
    Line("- overwritten at random ten times, the most on the way", Space, "space_overwritten_most", Ratio),
    Line("- two seconds after that", Space, "space_overwritten", Ratio),
    Line("- half deleted, compacted, closed", Space, "space_half", Ratio),
    Line("- half deleted, closed; no call to compact", Space, "space_half_as_it_is", Ratio),
    Line("- nine of ten deleted, compacted, closed", Space, "space_tenth", Ratio),
    Line("- nine of ten deleted, closed; no call to compact", Space, "space_tenth_as_it_is", Ratio),
    Line("idle in preset `client`: resident memory added, MiB", Client, "idle_mib", Mebibytes),
    Line("- anonymous", Client, "idle_anonymous_mib", Mebibytes),
    Line("scan of all rows in preset `client`: added to that, MiB", Client, "scan_mib", Mebibytes),
    Line("- anonymous", Client, "scan_anonymous_mib", Mebibytes),
    Line("durable commits alone, preset `client`: p99, us", Upkeep, "upkeep_alone_p99_us", Microseconds),
    Line("- beside a vacuum of a half deleted file, us", Upkeep, "upkeep_vacuum_p99_us", Microseconds),
    Line("- that to alone, the middle of five pairs", Upkeep, "upkeep_vacuum", Ratio),
    Line("- the worst pair", Upkeep, "upkeep_vacuum_most", Ratio),
    Line("- the file after the vacuum to before", Upkeep, "upkeep_shorter", Ratio),
    Line("- beside backups, us", Upkeep, "upkeep_backup_p99_us", Microseconds),
    Line("- that to alone, the middle of five pairs", Upkeep, "upkeep_backup", Ratio),
    Line("- the worst pair", Upkeep, "upkeep_backup_most", Ratio),
];

const DOCUMENT_LINES: &[Line] = &[
    Line("durable inserts, one by one, /s", Documents, "single", PerSecond),
    Line("- p50, us", Documents, "single_p50_us", Microseconds),
    Line("- p99, us", Documents, "single_p99_us", Microseconds),
    Line("durable batches, documents/s", Documents, "batch", PerSecond),
    Line("8 threads of durable inserts, /s", Documents, "threads", PerSecond),
    Line("- p50, us", Documents, "threads_p50_us", Microseconds),
    Line("- p99, us", Documents, "threads_p99_us", Microseconds),
    Line("gets by key, whole documents, /s", Documents, "get", PerSecond),
];

/// A target: what it is about, what was reached, at least (or at most) how much was wanted.
struct Target {
    about: String,
    reached: Option<f64>,
    wanted: Option<f64>,
    at_most: bool,
    unit: Unit,
}

impl Report {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), load_before: machine::load(), figures: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, set: Set, subject: &'static str, figures: Figures) {
        self.figures.entry((set as u8, subject)).or_default().push(figures);
    }

    pub(crate) fn to_markdown(&self, arguments: &Arguments) -> String {
        let mut out = String::new();
        self.put_head(&mut out, arguments);
        let specs = subjects::all();
        let columns: Vec<_> = specs.iter().map(|spec| (spec.id, spec.title)).collect();
        self.put_table(&mut out, "Stores", &columns, LINES);
        self.put_table(&mut out, "Documents of ten fields", &documents::SUBJECTS, DOCUMENT_LINES);
        self.put_targets(&mut out, &columns);
        out
    }

    fn put_head(&self, out: &mut String, arguments: &Arguments) {
        let mib = |bytes: usize| bytes >> 20;
        let threads = THREADS.map(|n| n.to_string()).join(", ");
        put(out, format_args!("# BlazeDB beside other embedded stores\n\n"));
        put(out, format_args!("- Date: {}. Machine: {}.\n", machine::date(), machine::processor()));
        put(
            out,
            format_args!(
                "- Files on {}; load average {} before, {} after.\n",
                machine::file_system(&self.dir),
                self.load_before,
                machine::load()
            ),
        );
        put(out, format_args!("- Versions: {}.\n", machine::versions()));
        put(
            out,
            format_args!(
                "- {} rows, keys of 24 random bytes, values of 150; {} rounds, forward and backward in turns; a cell is \
                 median [least-most]. Each subject and set of workloads has a fresh process and folder.\n",
                arguments.rows, arguments.rounds
            ),
        );
        put(
            out,
            format_args!(
                "- Cache {} MiB each ({} MiB for peak memory, {} MiB for cold gets, whose pages are in the system's \
                 cache). BlazeDB's table: {} MiB, its log: {} MiB per generation.\n",
                arguments.cache_mib,
                mib(MEMORY_CACHE_BYTES),
                mib(COLD_CACHE_BYTES),
                mib(TABLE_BYTES),
                LOG_BYTES >> 20
            ),
        );
        put(
            out,
            format_args!(
                "- Batches: {BATCH_ROWS} rows; ranges: {RANGE_ROWS} rows; threads: {threads}, {} s each; small database: \
                 {SMALL_ROWS} rows; a pause of {} s after the load and before the gets.\n",
                arguments.seconds,
                SETTLE.as_secs()
            ),
        );
        if arguments.rows < 1_000_000 {
            put(out, format_args!("- Fewer rows than a million: these figures show that it runs, and little else.\n"));
        }
        for spec in subjects::all() {
            put(out, format_args!("- {}: {}.\n", spec.title, spec.settings));
        }
    }

    fn put_table(&self, out: &mut String, title: &str, columns: &[(&'static str, &'static str)], lines: &[Line]) {
        let has = |id: &str, line: &Line| !self.values(line.1, id, line.2).is_empty();
        let columns: Vec<_> = columns.iter().filter(|(id, _)| lines.iter().any(|line| has(id, line))).collect();
        let lines: Vec<_> = lines.iter().filter(|line| columns.iter().any(|(id, _)| has(id, line))).collect();
        if lines.is_empty() {
            return;
        }
        put(out, format_args!("\n## {title}\n\n| |"));
        for (_, title) in &columns {
            put(out, format_args!(" {title} |"));
        }
        put(out, format_args!("\n|---|{}\n", "---|".repeat(columns.len())));
        for Line(title, set, key, unit) in lines {
            put(out, format_args!("| {title} |"));
            for (id, _) in &columns {
                put(out, format_args!(" {} |", cell(self.values(*set, id, key), *unit)));
            }
            put(out, format_args!("\n"));
        }
    }

    fn values(&self, set: Set, id: &str, key: &str) -> Vec<f64> {
        let rounds = self.figures.iter().find(|((of, subject), _)| *of == set as u8 && *subject == id);
        rounds.map_or_else(Vec::new, |(_, rounds)| rounds.iter().filter_map(|found| found.get(key).copied()).collect())
    }

    fn median(&self, set: Set, id: &str, key: &str) -> Option<f64> {
        let mut values = self.values(set, id, key);
        (!values.is_empty()).then(|| median(&mut values))
    }

    /// The most that any other store reached.
    fn best_peer(&self, peers: &[&str], set: Set, key: &str) -> Option<f64> {
        peers.iter().filter_map(|id| self.median(set, id, key)).reduce(f64::max)
    }

    fn put_targets(&self, out: &mut String, columns: &[(&'static str, &'static str)]) {
        let peers: Vec<_> =
            columns.iter().map(|(id, _)| *id).filter(|id| *id != ENCRYPTED && *id != UNENCRYPTED).collect();
        let mut targets = self.targets(&peers);
        targets.retain(|target| target.reached.is_some());
        if targets.is_empty() {
            return;
        }
        put(out, format_args!("\n## Targets\n\n| | reached | wanted | |\n|---|---|---|---|\n"));
        for Target { about, reached, wanted, at_most, unit } in targets {
            let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| short(value, unit));
            let verdict = match (reached, wanted) {
                (Some(reached), Some(wanted)) if at_most => {
                    if reached <= wanted {
                        "met"
                    } else {
                        "MISSED"
                    }
                }
                (Some(reached), Some(wanted)) => {
                    if reached >= wanted {
                        "met"
                    } else {
                        "MISSED"
                    }
                }
                _ => "nobody to compare with",
            };
            let bound = if at_most { "<=" } else { ">=" };
            put(out, format_args!("| {about} | {} | {bound} {} | {verdict} |\n", show(reached), show(wanted)));
        }
    }

    fn targets(&self, peers: &[&str]) -> Vec<Target> {
        let ours = [(ENCRYPTED, "encrypted"), (UNENCRYPTED, "unencrypted")];
        let mut all = Vec::new();
        let mut add = |about: String, reached, wanted, at_most, unit| {
            all.push(Target { about, reached, wanted, at_most, unit });
        };
        for (id, how) in ours {
            let got = |set, key| self.median(set, id, key);
            let peer = |peer: &str, set, key, times: f64| self.median(set, peer, key).map(|value| value * times);
            let best = |set, key| self.best_peer(peers, set, key);
            let is_encrypted = id == ENCRYPTED;

            add(
                format!("durable commits to the floor, {how}"),
                got(Speed, "single_of_floor"),
                Some(0.87),
                false,
                Ratio,
            );
            // Each subject to the floor of its own minutes: the disk of another subject's may have been another one.
            let wanted = best(Speed, "single_of_floor");
            add(format!("- to the best peer's, {how}"), got(Speed, "single_of_floor"), wanted, false, Ratio);
            for threads in ["threads8", "threads32"] {
                let about = format!("{} threads to the best peer, {how}", threads.trim_start_matches("threads"));
                add(about, got(Threads, threads), best(Threads, threads), false, PerSecond);
            }
            add(format!("durable batches, {how}"), got(Speed, "batch"), Some(500e3), false, PerSecond);
            for slow in ["redb", "lmdb", "sqlite"] {
                let wanted = peer(slow, Speed, "batch", 10.0);
                add(format!("- to ten times {slow}, {how}"), got(Speed, "batch"), wanted, false, PerSecond);
            }
            let load = if is_encrypted { "redb" } else { "lmdb" };
            let wanted = peer(load, Speed, "bulk", 1.0);
            add(format!("bulk load to {load}, {how}"), got(Speed, "bulk"), wanted, false, PerSecond);
            add(format!("buffered commits, {how}"), got(Speed, "buffered"), Some(250e3), false, PerSecond);
            let (name, share) = if is_encrypted { ("redb", 1.0) } else { ("lmdb", 0.85) };
            let about = format!("random gets to {share} of {name}, {how}");
            add(about, got(Speed, "get"), peer(name, Speed, "get", share), false, PerSecond);
            let wanted = peer("redb", Speed, "range", 1.0);
            add(format!("ranges to redb, {how}"), got(Speed, "range"), wanted, false, PerSecond);
            add(format!("2 readers to one, {how}"), got(Speed, "get_two_of_one"), Some(1.8), false, Ratio);
            add(format!("reader alone to beside a writer, {how}"), got(Speed, "reader_keeps"), Some(0.9), false, Ratio);
            add(format!("peak anonymous memory, {how}"), got(Memory, "memory_mib"), Some(250.0), true, Mebibytes);
            add(
                format!("time per commit, to that at 1,000 rows, {how}"),
                got(Speed, "single_growth"),
                Some(1.5),
                true,
                Ratio,
            );
            let opened = got(Recovery, "recovery_open_ms");
            add(format!("open after SIGKILL, {how}"), opened, Some(1000.0), true, Milliseconds);
            add(format!("idle in preset client, {how}"), got(Client, "idle_mib"), Some(10e6 / MIB), true, Mebibytes);
            for (what, key, most) in [
                ("loaded at random", "space_loaded", 1.45),
                ("overwritten ten times", "space_overwritten_most", 2.0),
                ("half deleted and compacted", "space_half", 1.15),
                ("nine of ten deleted and compacted", "space_tenth", 1.3),
            ] {
                add(format!("files to payload, {what}, {how}"), got(Space, key), Some(most), true, Ratio);
            }
            for (what, key) in [("a vacuum", "upkeep_vacuum"), ("a backup", "upkeep_backup")] {
                let about = format!("p99 of durable commits beside {what} to alone, {how}");
                add(about, got(Upkeep, key), Some(2.0), true, Ratio);
            }
            let scanned = got(Client, "scan_anonymous_mib");
            add(format!("scan in preset client, {how}"), scanned, Some(CLIENT_CACHE_MIB), true, Mebibytes);
        }
        let cost = |key| self.median(Encryption, ENCRYPTED, key);
        add("encryption: commits".into(), cost("encryption_commit"), Some(0.95), false, Ratio);
        for (way, how) in [("encryption_get", "positioned reads"), ("encryption_get_to_map", "the mapping")] {
            add(format!("encryption: time of warm gets, to {how}"), cost(way), Some(1.0 / 0.98), true, Ratio);
        }
        add("encryption: CPU per commit".into(), cost("encryption_commit_cpu"), Some(1.2), true, Ratio);
        for (way, how) in [("encryption_cold", "positioned reads"), ("encryption_cold_to_map", "the mapping")] {
            add(format!("encryption: time of cold gets, to {how}"), cost(way), Some(1.5), true, Ratio);
        }
        all
    }
}

const MIB: f64 = (1 << 20) as f64;
/// The cache of the preset for clients.
const CLIENT_CACHE_MIB: f64 = blazedb_engine::Memory::CLIENT.cache_bytes as f64 / MIB;

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

/// Median, least and most.
fn cell(mut values: Vec<f64>, unit: Unit) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    let middle = short(median(&mut values), unit);
    match values.as_slice() {
        [_] => middle,
        [least, .., most] => format!("{middle} [{}-{}]", short(*least, unit), short(*most, unit)),
        [] => "-".to_owned(),
    }
}

/// Three significant digits.
fn short(value: f64, unit: Unit) -> String {
    match (unit, value) {
        (Ratio, v) => format!("{v:.2}"),
        (PerSecond, v) if v >= 999_500.0 => format!("{:.2}M", v / 1e6),
        (PerSecond, v) if v >= 99_950.0 => format!("{:.0}k", v / 1e3),
        (PerSecond, v) if v >= 9_995.0 => format!("{:.1}k", v / 1e3),
        (_, v) if v >= 9_995.0 => format!("{:.1}k", v / 1e3),
        (_, v) if v >= 999.5 => format!("{:.2}k", v / 1e3),
        (_, v) if v >= 99.95 => format!("{v:.0}"),
        (_, v) if v >= 9.995 => format!("{v:.1}"),
        (_, v) => format!("{v:.2}"),
    }
}
