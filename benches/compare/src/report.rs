//! Figures to markdown: one table for stores, one for documents, and what machine they come from.

use std::fmt::Write as _;
use std::fs;

use crate::Settings;
use crate::measure::{BATCH_ROWS, Load, Outcome, THREADS, Timing};

pub(crate) struct Report {
    rounds: usize,
    scale_percent: usize,
    floor: Vec<Timing>,
    stores: Vec<(&'static str, Vec<Outcome>)>,
    documents: Vec<(&'static str, Vec<Outcome>)>,
}

/// A line of a table: its title and what it reads from one outcome.
type Line = (&'static str, fn(&Outcome) -> f64);

const LINES: [Line; 10] = [
    ("single, rows/s", |o| o.single.rows_per_second()),
    ("- p50, us", |o| o.single.percentile_us(50)),
    ("- p99, us", |o| o.single.percentile_us(99)),
    ("batches, rows/s", |o| o.batched.rows_per_second()),
    ("- p50 of a batch, us", |o| o.batched.percentile_us(50)),
    ("concurrent, rows/s", |o| o.concurrent.rows_per_second()),
    ("- p50, us", |o| o.concurrent.percentile_us(50)),
    ("- p99, us", |o| o.concurrent.percentile_us(99)),
    ("get by key, rows/s", |o| o.reads.rows_per_second()),
    ("files, bytes/row", |o| o.bytes_per_row),
];

impl Report {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            rounds: settings.rounds,
            scale_percent: settings.scale_percent,
            floor: Vec::new(),
            stores: Vec::new(),
            documents: Vec::new(),
        }
    }

    pub(crate) fn floor(&mut self, timing: Timing) {
        self.floor.push(timing);
    }

    pub(crate) fn store(&mut self, name: &'static str, outcome: Outcome) {
        add(&mut self.stores, name, outcome);
    }

    pub(crate) fn document(&mut self, name: &'static str, outcome: Outcome) {
        add(&mut self.documents, name, outcome);
    }

    pub(crate) fn to_markdown(&self, load: &Load) -> String {
        let mut text = String::new();
        let out = &mut text;
        put(out, format_args!("- Machine: {}\n", machine()));
        put(out, format_args!("- Rounds: {}, interleaved; a cell is median [least-most].\n", self.rounds));
        put(
            out,
            format_args!(
                "- Load of a round: {} rows there before; {} single inserts; {} batches of {BATCH_ROWS}; {} single inserts \
                 by {THREADS} threads; {} reads by key. Every insert is durable when it is counted.\n",
                load.preloaded, load.singles, load.batches, load.concurrent, load.reads
            ),
        );
        if self.scale_percent != 100 {
            put(
                out,
                format_args!("- Scale {} %: these figures show that it runs, and nothing else.\n", self.scale_percent),
            );
        }
        let floor = |read: fn(&Timing) -> f64| cell(self.floor.iter().map(read).collect());
        put(
            out,
            format_args!(
                "- Floor (4 KiB overwritten in place + fdatasync, one thread): {}/s, p50 {} us, p99 {} us\n",
                floor(Timing::rows_per_second),
                floor(|timing| timing.percentile_us(50)),
                floor(|timing| timing.percentile_us(99))
            ),
        );
        table(out, "Keys of 24 bytes, values of 150", &self.stores);
        table(out, "Documents of ten fields (about 370 bytes as JSON)", &self.documents);
        text
    }
}

fn add(list: &mut Vec<(&'static str, Vec<Outcome>)>, name: &'static str, outcome: Outcome) {
    match list.iter_mut().find(|(known, _)| *known == name) {
        Some((_, outcomes)) => outcomes.push(outcome),
        None => list.push((name, vec![outcome])),
    }
}

fn table(out: &mut String, title: &str, columns: &[(&'static str, Vec<Outcome>)]) {
    put(out, format_args!("\n### {title}\n\n| |"));
    for (name, _) in columns {
        put(out, format_args!(" {name} |"));
    }
    put(out, format_args!("\n|---|{}\n", "---|".repeat(columns.len())));
    for (line, read) in LINES {
        put(out, format_args!("| {line} |"));
        for (_, outcomes) in columns {
            put(out, format_args!(" {} |", cell(outcomes.iter().map(read).collect())));
        }
        put(out, format_args!("\n"));
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string cannot fail");
}

/// Median, least and most.
fn cell(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (values.first(), values.last()) else {
        return "-".to_owned();
    };
    let median = values[values.len() / 2];
    if values.len() == 1 { short(median) } else { format!("{} [{}-{}]", short(median), short(*least), short(*most)) }
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value {
        v if v >= 999_500.0 => format!("{:.2}M", v / 1e6),
        v if v >= 99_950.0 => format!("{:.0}k", v / 1e3),
        v if v >= 9_995.0 => format!("{:.1}k", v / 1e3),
        v if v >= 999.5 => format!("{:.2}k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v => format!("{v:.1}"),
    }
}

/// Processor, cores and kernel, as the system tells them.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZeroUsize::get);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("unknown");
    format!("{cpu}, {cores} cores, Linux {}, load average at the end {load}", kernel.trim())
}
