//! Instructions per operation, counted by callgrind: exact where time is not, and the same on a busy machine.
//!
//! ```text
//! cargo run --release -p blazedb-benches --bin count                     # all cases, a table
//! cargo run --release -p blazedb-benches --bin count -- --check          # beside the record and the ceilings
//! cargo run --release -p blazedb-benches --bin count -- --bless          # the record anew
//! cargo run --release -p blazedb-benches --bin count -- --profile CASE   # where one case's instructions go
//! ```
//!
//! Each case runs in a process of its own, which callgrind counts only inside of `counted`: what prepares an operation
//! costs nothing. Stores are files that were made before, outside of valgrind; so a store of a million rows is no dearer
//! to look at than one of a thousand. The count is of user space alone: no kernel, no disk. callgrind shows programs a
//! processor with AES and AVX2, without their wider forms and without SHA instructions: ciphers and above all SHA-256
//! count more than most machines would spend.
//!
//! The record is `benches/record/instructions.toml`. Counts follow from the compiler, and from what valgrind says that
//! the processor can do; where those differ from the record's, `--check` says so and looks at the ceilings alone.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program whose result is what it prints")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::{env, fs};

use blazedb_benches::{Ticket, Tickets, pairs};
use blazedb_engine::env::{FileStorage, SeededEntropy, StepClock};
use blazedb_engine::testing::PageBench;
use blazedb_engine::{Durability, Env, History, Memory, Options, Store, TreeId, WriteTransaction};
use blazedb_wire::Row;
use blazedb_wire::serde::{RowEncoder, from_row, to_document};
use serde::{Deserialize, Serialize};

type Failure = Box<dyn Error>;

/// More instructions than recorded, in percent: what is worth a word, and what fails.
const WARN_PERCENT: f64 = 2.0;
const FAIL_PERCENT: f64 = 5.0;

/// A durable insert into a million rows costs at most this many times what it costs into a thousand.
const GROWTH_MAX: f64 = 1.5;

/// Keeps glibc from copying and filling by `rep movsb` and `rep stosb`, of which callgrind counts every byte as an
/// instruction: a cleared page would be 4,096 of them.
const WITHOUT_REP: &str = "glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824";

/// Rows of a store that is neither small nor large: three levels, all of it in the cache.
const ROWS: usize = 10_000;
const ROWS_SMALL: usize = 1_000;
const ROWS_LARGE: usize = 1_000_000;
/// Rows of a store with history, and how often each was put again.
const ROWS_KEPT: usize = 2_000;
const VERSIONS: usize = 30;

/// One operation by name: what it is, how often it runs, and the run itself.
struct Case {
    name: &'static str,
    what: &'static str,
    /// Instructions of one operation at most; 0 where nothing is promised.
    ceiling: u64,
    times: usize,
    run: Run,
}

/// What a case needs.
#[derive(Clone, Copy)]
enum Run {
    Codec(fn(usize) -> Result<(), Failure>),
    /// With encryption, and once more without.
    Store(fn(&World, usize) -> Result<(), Failure>),
    Page(fn(&mut PageBench)),
}

const CASES: [Case; 27] = [
    codec("encode-struct", "ticket to row", 500, encode_struct),
    codec("encode-document", "document to row", 500, encode_document),
    codec("validate", "bytes to row, everything checked", 2000, validate),
    codec("get-field", "one field of a row by name", 20_000, get_field),
    codec("decode-struct", "row to ticket", 500, decode_struct),
    codec("json-encode-struct", "serde_json, ticket to bytes", 500, json_encode),
    codec("json-decode-struct", "serde_json, bytes to ticket", 500, json_decode),
    codec("msgpack-encode-struct", "rmp-serde, ticket to bytes", 500, msgpack_encode),
    codec("msgpack-decode-struct", "rmp-serde, bytes to ticket", 500, msgpack_decode),
    store("get", "random get out of cached pages, one view", 2000, 5000, get),
    store("get-table", "random get out of the table, one view", 1200, 5000, get_from_table),
    store("get-view", "random get out of cached pages, a view each", 0, 5000, get_view),
    store("get-kept", "random get out of cached pages, of keys with 30 older versions", 2000, 5000, get_kept),
    store("get-as-of", "the same as of any of 30 commits", 4000, 5000, get_as_of),
    store("scan-row", "next row of a scan of pages", 250, ROWS, scan),
    store("view", "view taken and dropped", 300, 5000, view),
    store("commit", "transaction of one pair, not synced", 8000, 500, commit),
    store("insert-batch", "one pair in a commit of 1,000, its checkpoint included", 6000, 20_000, insert_batch),
    store("insert-batch-log", "the same without the checkpoint", 0, 20_000, insert_batch_log),
    store("checkpoint-row", "one pair of a checkpoint into an empty store", 2500, 20_000, checkpoint),
    store("load-row", "one pair of a load in random order, into an empty store", 0, 100_000, load),
    store("insert-small", "durable commit of one pair into 1,000 rows", 0, 500, insert_small),
    store("insert-large", "durable commit of one pair into 1,000,000 rows", 0, 500, insert_large),
    store("insert-large-checkpoint", "one pair of the checkpoint that follows", 0, 500, insert_large_checkpoint),
    page("page-seal", "page of 4 KiB sealed", 12_000, PageBench::seal),
    page("page-open", "page of 4 KiB checked and opened", 12_000, PageBench::open),
    page("page-crc", "checksum of a page of 4 KiB", 600, PageBench::checksum),
];

const fn codec(name: &'static str, what: &'static str, times: usize, run: fn(usize) -> Result<(), Failure>) -> Case {
    Case { name, what, ceiling: 0, times, run: Run::Codec(run) }
}

const fn store(
    name: &'static str,
    what: &'static str,
    ceiling: u64,
    times: usize,
    run: fn(&World, usize) -> Result<(), Failure>,
) -> Case {
    Case { name, what, ceiling, times, run: Run::Store(run) }
}

const fn page(name: &'static str, what: &'static str, ceiling: u64, run: fn(&mut PageBench)) -> Case {
    Case { name, what, ceiling, times: 1000, run: Run::Page(run) }
}

/// What the counts follow from, the counts, and promises that are not kept yet.
#[derive(Serialize, Deserialize)]
struct Record {
    rustc: String,
    valgrind: String,
    /// What valgrind says that the processor can do, as far as a cipher or a checksum asks.
    processor: String,
    /// Case -> instructions.
    counts: BTreeMap<String, u64>,
    /// Case over its ceiling -> why.
    #[serde(default)]
    missed: BTreeMap<String, String>,
}

fn main() -> Result<ExitCode, Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--run", name, folder, times] => run(name, Path::new(folder), times.parse()?)?,
        ["--processor"] => println!("{}", processor()),
        [] => return check(None),
        ["--check"] => return check(Some(recorded()?)),
        ["--bless"] => bless()?,
        ["--profile", name] => profile(name)?,
        _ => return Err("give nothing, --check, --bless, or --profile CASE".into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Every case by name: a store's case once with encryption and once, as `NAME-plain`, without.
fn cases() -> impl Iterator<Item = (String, &'static Case)> {
    CASES.iter().flat_map(|case| {
        let plain = (!matches!(case.run, Run::Codec(_))).then(|| (format!("{}-plain", case.name), case));
        // A checksum knows nothing of encryption.
        let plain = plain.filter(|_| case.name != "page-crc");
        std::iter::once((case.name.to_owned(), case)).chain(plain)
    })
}

/// Counts every case and prints them all, beside the record where there is one.
fn check(record: Option<Record>) -> Result<ExitCode, Failure> {
    println!("{}\n", sizes()?);
    let now = count_all()?;
    let comparable = record.as_ref().is_some_and(|record| {
        let same = (&record.rustc, &record.valgrind, &record.processor) == (&now.rustc, &now.valgrind, &now.processor);
        if !same {
            println!("NOT COMPARED with the record, only with the ceilings. The record was made by");
            println!("    {}; {}; {}", record.rustc, record.valgrind, record.processor);
            println!("and this is\n    {}; {}; {}\n", now.rustc, now.valgrind, now.processor);
        }
        same
    });
    let (mut failures, mut warnings) = (Vec::new(), Vec::new());
    println!("| case | what | instructions | recorded | change | ceiling |\n|---|---|---|---|---|---|");
    for (name, case) in cases() {
        let count = now.counts[&name];
        let before = record.as_ref().filter(|_| comparable).and_then(|record| record.counts.get(&name));
        let percent = before.map(|&before| (count as f64 / before as f64 - 1.0) * 100.0);
        let shown = |n: Option<String>| n.unwrap_or_else(|| "-".to_owned());
        let (recorded, change) = (before.map(u64::to_string), percent.map(|percent| format!("{percent:+.1} %")));
        let ceiling = (case.ceiling > 0).then(|| case.ceiling.to_string());
        println!("| {name} | {} | {count} | {} | {} | {} |", case.what, shown(recorded), shown(change), shown(ceiling));
        match percent {
            Some(percent) if percent > FAIL_PERCENT => failures.push(format!("{name} needs {percent:.1} % more")),
            Some(percent) if percent > WARN_PERCENT => warnings.push(format!("{name} needs {percent:.1} % more")),
            Some(percent) if percent < -FAIL_PERCENT => {
                warnings.push(format!("{name} needs {:.1} % less: --bless keeps it so", -percent));
            }
            None if comparable => failures.push(format!("{name} is not in the record")),
            _ => {}
        }
        let excuse = record.as_ref().and_then(|record| record.missed.get(&name));
        match (case.ceiling > 0 && count > case.ceiling, excuse) {
            (true, Some(why)) => warnings.push(format!("{name} is over its ceiling of {}: {why}", case.ceiling)),
            (true, None) => failures.push(format!("{name} is over its ceiling of {}", case.ceiling)),
            (false, Some(_)) => failures.push(format!("{name} is listed as missed and is not: --bless takes it out")),
            (false, None) => {}
        }
    }
    println!();
    for suffix in ["", "-plain"] {
        let growth =
            now.counts[&format!("insert-large{suffix}")] as f64 / now.counts[&format!("insert-small{suffix}")] as f64;
        println!("A durable insert into 1,000,000 rows costs {growth:.2} times one into 1,000 (insert-large{suffix}).");
        if growth > GROWTH_MAX {
            failures.push(format!(
                "insert-large{suffix} is {growth:.2} times insert-small{suffix}; {GROWTH_MAX} is promised"
            ));
        }
    }
    warnings.iter().for_each(|warning| println!("warning: {warning}"));
    failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    if failures.is_empty() || record.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("\nWhere a case's instructions go: cargo run --release -p blazedb-benches --bin count -- --profile CASE");
    println!("To keep the new counts, and say why in the commit: ... --bin count -- --bless");
    Ok(ExitCode::FAILURE)
}

/// Writes the record anew. Reasons for what is over its ceiling stay; a new one must be written by hand.
fn bless() -> Result<(), Failure> {
    let mut now = count_all()?;
    let reasons = recorded().map(|record| record.missed).unwrap_or_default();
    let over = cases().filter(|(name, case)| case.ceiling > 0 && now.counts[name] > case.ceiling);
    now.missed = over.filter_map(|(name, _)| reasons.get(&name).map(|why| (name, why.clone()))).collect();
    let path = record_path();
    let text = format!(
        "# Instructions per operation. Written by `cargo run --release -p blazedb-benches --bin count -- --bless`, but for\n\
         # the reasons under [missed], which are kept while their case is over its ceiling.\n\n{}",
        toml::to_string(&now)?
    );
    fs::write(&path, text)?;
    println!("{} is written", path.display());
    Ok(())
}

fn record_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("record/instructions.toml")
}

fn recorded() -> Result<Record, Failure> {
    let path = record_path();
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}; --bless makes it", path.display()))?;
    Ok(toml::from_str(&text)?)
}

fn count_all() -> Result<Record, Failure> {
    let worlds = Worlds::make()?;
    let counts = cases().map(|(name, case)| Ok((name.clone(), instructions(&name, case, &worlds)?)));
    let counts = counts.collect::<Result<_, Failure>>()?;
    let valgrind = first_line(Command::new("valgrind").arg("--version"))?;
    let processor =
        first_line(Command::new("valgrind").args(["--tool=none", "-q"]).arg(env::current_exe()?).arg("--processor"))?;
    Ok(Record {
        rustc: first_line(Command::new("rustc").arg("--version"))?,
        valgrind,
        processor,
        counts,
        missed: BTreeMap::new(),
    })
}

fn first_line(command: &mut Command) -> Result<String, Failure> {
    let output =
        command.output().map_err(|error| format!("{} does not run: {error}", command.get_program().display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// What the processor, as this process sees it, can do of that which ciphers and checksums ask for.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("sha", is_x86_feature_detected!("sha")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("vaes", is_x86_feature_detected!("vaes")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let known: [(&str, bool); 0] = [];
    let has: Vec<_> = known.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    format!("{}: {}", env::consts::ARCH, has.join(" "))
}

/// The command that runs a case under callgrind, which leaves its profile in `out`.
fn under_callgrind(name: &str, case: &Case, worlds: &Worlds, out: &Path) -> Result<Command, Failure> {
    let mut command = Command::new("valgrind");
    command
        .env("GLIBC_TUNABLES", WITHOUT_REP)
        .args(["--tool=callgrind", "--toggle-collect=count::counted*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe()?)
        .args(["--run", name])
        .arg(worlds.copy(name)?)
        .arg(case.times.to_string());
    Ok(command)
}

/// Runs a case in a process of its own under callgrind; returns the instructions of one operation.
fn instructions(name: &str, case: &Case, worlds: &Worlds) -> Result<u64, Failure> {
    let output = under_callgrind(name, case, worlds, Path::new("/dev/null"))?
        .output()
        .map_err(|error| format!("valgrind is needed to count instructions: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let total = said.lines().find_map(|line| line.split("Collected : ").nth(1)).and_then(|n| n.trim().parse().ok());
    let total: u64 = total
        .filter(|&total| output.status.success() && total > 0)
        .ok_or_else(|| format!("{name} failed under valgrind:\n{said}"))?;
    Ok(total.div_ceil(case.times as u64))
}

/// Says where a case's instructions go.
fn profile(name: &str) -> Result<(), Failure> {
    let (name, case) = cases().find(|(n, _)| n == name).ok_or("no case of that name")?;
    let worlds = Worlds::make()?;
    let out = worlds.folder.join("profile");
    let ran = under_callgrind(&name, case, &worlds, &out)?.output()?;
    if !ran.status.success() {
        return Err(format!("{name} failed under valgrind:\n{}", String::from_utf8_lossy(&ran.stderr)).into());
    }
    for inclusive in ["no", "yes"] {
        let output = Command::new("callgrind_annotate")
            .arg(format!("--inclusive={inclusive}"))
            .arg("--auto=no")
            .arg(&out)
            .output()?;
        println!("{}", String::from_utf8_lossy(&output.stdout));
    }
    println!("All divided by {} are the instructions of one operation.", case.times);
    Ok(())
}

/// Runs one case in this process.
fn run(name: &str, folder: &Path, times: usize) -> Result<(), Failure> {
    let (name, case) = cases().find(|(n, _)| n == name).ok_or("no case of that name")?;
    let encrypted = !name.ends_with("-plain");
    match case.run {
        Run::Codec(run) => run(times),
        Run::Store(run) => run(&World { folder: folder.to_owned(), encrypted }, times),
        Run::Page(run) => {
            let mut page = PageBench::new(encrypted, times);
            counted(&mut || {
                for _ in 0..times {
                    run(&mut page);
                }
                Ok(())
            })
        }
    }
}

/// The work itself: callgrind counts while this runs, and at no other time.
#[inline(never)]
fn counted(work: &mut dyn FnMut() -> Result<(), Failure>) -> Result<(), Failure> {
    black_box(work)()
}

/// What a ticket weighs in each form.
fn sizes() -> Result<String, Failure> {
    let (tickets, rows) = (tickets(), rows()?);
    let mean = |total: usize| total / tickets.len();
    let bodies = mean(rows.iter().map(|row| row.body().len()).sum());
    let mut shape = Vec::new();
    rows[0].shape().encode(&mut shape);
    let mut total = (0, 0);
    for ticket in &tickets {
        total.0 += serde_json::to_vec(ticket)?.len();
        total.1 += rmp_serde::to_vec_named(ticket)?.len();
    }
    let (json, msgpack) = (mean(total.0), mean(total.1));
    let shape = shape.len();
    Ok(format!(
        "A ticket: {bodies} B as a row body (its shape, once per batch: {shape} B), {msgpack} B as MessagePack, {json} B as JSON."
    ))
}

fn tickets() -> Vec<Ticket> {
    Tickets::new(1).take(64).collect()
}

fn rows() -> Result<Vec<Row>, Failure> {
    tickets().iter().map(|ticket| Ok(Row::encode(&to_document(ticket)?)?)).collect()
}

/// Does something with each of a few things, over and over.
fn cycle<T>(things: &[T], times: usize, mut each: impl FnMut(&T) -> Result<(), Failure>) -> Result<(), Failure> {
    counted(&mut || things.iter().cycle().take(times).try_for_each(&mut each))
}

fn encode_struct(times: usize) -> Result<(), Failure> {
    let (mut encoder, mut out) = (RowEncoder::default(), Vec::with_capacity(4096));
    cycle(&tickets(), times, |ticket| {
        out.clear();
        black_box(encoder.encode(black_box(ticket), &mut out)?);
        black_box(&out);
        Ok(())
    })
}

fn encode_document(times: usize) -> Result<(), Failure> {
    let documents = tickets().iter().map(to_document).collect::<Result<Vec<_>, _>>()?;
    cycle(&documents, times, |document| {
        black_box(Row::encode(black_box(document))?);
        Ok(())
    })
}

fn validate(times: usize) -> Result<(), Failure> {
    cycle(&rows()?, times, |row| {
        black_box(Row::decode(row.shape().clone(), black_box(row.body().clone()))?);
        Ok(())
    })
}

fn get_field(times: usize) -> Result<(), Failure> {
    cycle(&rows()?, times, |row| {
        black_box(row.as_ref().get(black_box("priority")));
        Ok(())
    })
}

fn decode_struct(times: usize) -> Result<(), Failure> {
    cycle(&rows()?, times, |row| {
        black_box(from_row::<Ticket>(black_box(row).as_ref())?);
        Ok(())
    })
}

fn json_encode(times: usize) -> Result<(), Failure> {
    let mut out = Vec::with_capacity(4096);
    cycle(&tickets(), times, |ticket| {
        out.clear();
        serde_json::to_writer(&mut out, black_box(ticket))?;
        black_box(&out);
        Ok(())
    })
}

fn json_decode(times: usize) -> Result<(), Failure> {
    let json = tickets().iter().map(serde_json::to_vec).collect::<Result<Vec<_>, _>>()?;
    cycle(&json, times, |json| {
        black_box(serde_json::from_slice::<Ticket>(black_box(json))?);
        Ok(())
    })
}

fn msgpack_encode(times: usize) -> Result<(), Failure> {
    let mut out = Vec::with_capacity(4096);
    cycle(&tickets(), times, |ticket| {
        out.clear();
        rmp_serde::encode::write_named(&mut out, black_box(ticket))?;
        black_box(&out);
        Ok(())
    })
}

fn msgpack_decode(times: usize) -> Result<(), Failure> {
    let msgpack = tickets().iter().map(rmp_serde::to_vec_named).collect::<Result<Vec<_>, _>>()?;
    cycle(&msgpack, times, |msgpack| {
        black_box(rmp_serde::from_slice::<Ticket>(black_box(msgpack))?);
        Ok(())
    })
}

/// A folder with stores of several sizes, made once and copied for each case; it goes when this is dropped.
struct Worlds {
    folder: PathBuf,
}

impl Worlds {
    fn make() -> Result<Self, Failure> {
        let folder = env::temp_dir().join(format!("blaze-count-{}", std::process::id()));
        let worlds = Self { folder };
        for encrypted in [false, true] {
            let world = World { folder: worlds.folder.join(if encrypted { "sealed" } else { "plain" }), encrypted };
            fs::create_dir_all(&world.folder)?;
            let store = world.open(ROWS_KEPT)?;
            store.set_history(tree_of(&store)?, Some(History::ALL))?;
            (0..=VERSIONS).try_for_each(|_| put_all(&store, pairs(1).take(ROWS_KEPT)))?;
            store.close()?;
            for rows in [ROWS_SMALL, ROWS, ROWS_LARGE] {
                let store = world.open(rows)?;
                put_all(&store, pairs(1).take(rows))?;
                store.close()?;
            }
        }
        Ok(worlds)
    }

    /// A copy for one case, in the place of the case before.
    fn copy(&self, name: &str) -> Result<PathBuf, Failure> {
        let from = self.folder.join(if name.ends_with("-plain") { "plain" } else { "sealed" });
        let to = self.folder.join("copy");
        if to.exists() {
            fs::remove_dir_all(&to)?;
        }
        fs::create_dir_all(&to)?;
        for file in fs::read_dir(from)? {
            let file = file?;
            // A large file takes a while to copy, and two cases ask for it.
            if name.starts_with("insert-large")
                || file.file_name().to_string_lossy().split('-').next() != Some(&ROWS_LARGE.to_string())
            {
                fs::copy(file.path(), to.join(file.file_name()))?;
            }
        }
        Ok(to)
    }
}

impl Drop for Worlds {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where a case finds its stores.
struct World {
    folder: PathBuf,
    encrypted: bool,
}

impl World {
    /// The store of that many rows. Its chance and its clock are always the same, and it has no thread of its own.
    fn open(&self, rows: usize) -> Result<Store, Failure> {
        let env = Env {
            storage: Arc::new(FileStorage::new(&self.folder)),
            clock: Arc::new(StepClock::new()),
            entropy: Arc::new(SeededEntropy::new(rows as u64)),
            name: rows.to_string(),
            threads: false,
        };
        let options = if self.encrypted { Options::raw_key([7; 32]) } else { Options::unencrypted() };
        Ok(Store::open(env, options.memory(Memory::SERVER))?)
    }
}

const TREE: &str = "pairs";

fn tree_of(store: &Store) -> Result<TreeId, Failure> {
    Ok(store.tree(TREE)?)
}

/// Puts pairs, 1,000 to a transaction.
fn put_all(store: &Store, mut pairs: impl Iterator<Item = ([u8; 24], [u8; 150])>) -> Result<(), Failure> {
    let tree = tree_of(store)?;
    loop {
        let mut tx = store.write();
        for (key, value) in pairs.by_ref().take(1000) {
            tx.put(tree, &key, &value)?;
        }
        if tx.bytes() == 0 {
            return Ok(());
        }
        tx.commit()?;
    }
}

/// The keys of a store of `ROWS`, in an order that is not theirs.
fn shuffled_keys() -> Vec<[u8; 24]> {
    let keys: Vec<_> = pairs(1).take(ROWS).map(|(key, _)| key).collect();
    (0..ROWS).map(|i| keys[i * 7919 % ROWS]).collect()
}

fn get_each(store: &Store, keys: &[[u8; 24]]) -> Result<(), Failure> {
    let tree = tree_of(store)?;
    let view = store.read();
    for key in keys {
        black_box(view.get(tree, key)?.ok_or("the key was put")?);
    }
    Ok(())
}

fn get(world: &World, times: usize) -> Result<(), Failure> {
    let (store, keys) = (world.open(ROWS)?, shuffled_keys());
    get_each(&store, &keys)?;
    counted(&mut || get_each(&store, &keys[..times]))
}

fn get_kept(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS_KEPT)?;
    let keys: Vec<_> = pairs(1).take(ROWS_KEPT).map(|(key, _)| key).collect();
    let keys: Vec<_> = keys.iter().copied().cycle().take(times).collect();
    get_each(&store, &keys)?;
    counted(&mut || get_each(&store, &keys))
}

fn get_as_of(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS_KEPT)?;
    let tree = tree_of(&store)?;
    let oldest = store.history(tree)?.ok_or("history is kept")?.oldest;
    // The first state in which all keys are, and every one after it.
    let all = ROWS_KEPT.div_ceil(1000) as u64;
    let views = (oldest + all..=store.read().commit_no()).map(|at| store.as_of(at)).collect::<Result<Vec<_>, _>>()?;
    let keys: Vec<_> = pairs(1).take(ROWS_KEPT).map(|(key, _)| key).collect();
    let get_each = || -> Result<(), Failure> {
        for (key, view) in keys.iter().cycle().zip(views.iter().cycle()).take(times) {
            black_box(view.get(tree, key)?.ok_or("the key was put")?);
        }
        Ok(())
    };
    get_each()?;
    counted(&mut || get_each())
}

fn get_from_table(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(0)?;
    put_all(&store, pairs(1).take(ROWS))?;
    let keys = shuffled_keys();
    counted(&mut || get_each(&store, &keys[..times]))
}

fn get_view(world: &World, times: usize) -> Result<(), Failure> {
    let (store, keys) = (world.open(ROWS)?, shuffled_keys());
    let tree = tree_of(&store)?;
    get_each(&store, &keys)?;
    counted(&mut || {
        for key in &keys[..times] {
            black_box(store.read().get(tree, key)?.ok_or("the key was put")?);
        }
        Ok(())
    })
}

fn scan(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS)?;
    let tree = tree_of(&store)?;
    let view = store.read();
    let walk = || {
        let (mut cursor, mut rows) = (view.range(tree, ..), 0);
        while cursor.advance()? {
            black_box((cursor.key(), cursor.value()));
            rows += 1;
        }
        if rows == times { Ok(()) } else { Err("a scan sees every row".into()) }
    };
    walk()?;
    counted(&mut || walk())
}

fn view(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS)?;
    counted(&mut || {
        for _ in 0..times {
            black_box(store.read());
        }
        Ok(())
    })
}

/// Commits pairs one by one.
fn commit_each(store: &Store, times: usize, durability: Durability) -> Result<(), Failure> {
    let tree = tree_of(store)?;
    let pairs: Vec<_> = pairs(2).take(times + 1).collect();
    let one = |(key, value): &([u8; 24], [u8; 150])| {
        let mut tx: WriteTransaction = store.write();
        tx.put(tree, key, value)?;
        tx.commit_with(durability, |_| Ok(()))?;
        Ok(())
    };
    // The first one finds everything cold.
    one(&pairs[times])?;
    counted(&mut || pairs[..times].iter().try_for_each(one))
}

fn commit(world: &World, times: usize) -> Result<(), Failure> {
    commit_each(&world.open(ROWS)?, times, Durability::Buffered)
}

fn insert_small(world: &World, times: usize) -> Result<(), Failure> {
    commit_each(&world.open(ROWS_SMALL)?, times, Durability::Durable)
}

fn insert_large(world: &World, times: usize) -> Result<(), Failure> {
    commit_each(&world.open(ROWS_LARGE)?, times, Durability::Durable)
}

fn insert_large_checkpoint(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS_LARGE)?;
    put_all(&store, pairs(2).take(times))?;
    counted(&mut || Ok(store.checkpoint()?))
}

fn insert_batch(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS)?;
    let pairs: Vec<_> = pairs(2).take(times).collect();
    counted(&mut || {
        put_all(&store, pairs.iter().copied())?;
        Ok(store.checkpoint()?)
    })
}

fn insert_batch_log(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(ROWS)?;
    let pairs: Vec<_> = pairs(2).take(times).collect();
    counted(&mut || put_all(&store, pairs.iter().copied()))
}

fn load(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(0)?;
    let pairs: Vec<_> = pairs(2).take(times).collect();
    counted(&mut || {
        let mut loader = store.loader();
        let tree = loader.tree(TREE)?;
        for (key, value) in &pairs {
            loader.put(tree, key, value)?;
        }
        loader.finish()?;
        Ok(())
    })
}

fn checkpoint(world: &World, times: usize) -> Result<(), Failure> {
    let store = world.open(0)?;
    put_all(&store, pairs(2).take(times))?;
    counted(&mut || Ok(store.checkpoint()?))
}
