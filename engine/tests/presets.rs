//! Memory presets and the waits of saturated writers. Each case is a process of its own, so that nothing else is
//! measured with it: the test starts this program again.

#![allow(clippy::print_stdout, reason = "figures for people")]

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use blazedb_engine::{Durability, Env, Memory, Options, Store};

/// What a process writes, as its environment says it.
#[derive(Clone, Debug)]
struct Case {
    preset: &'static str,
    threads: u64,
    rows_per_commit: u64,
    value_bytes: usize,
    durability: Durability,
    /// Rows of the store, over which writes are spread.
    rows: u64,
    /// Bytes of keys and values that are written.
    bytes: u64,
    /// Views of one commit each that are held all the time, the newest ones.
    views: usize,
}

fn preset(name: &str) -> (Memory, u64) {
    match name {
        "tiny" => (Memory::TINY, 4_000_000),
        "client" => (Memory::CLIENT, 10_000_000),
        "relay" => (Memory::RELAY, 72 << 20),
        "server" => (Memory::SERVER, 400 << 20),
        other => panic!("no preset {other}"),
    }
}

/// Returns the bytes of this process that belong to no file; `None` where the system does not tell.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

impl Case {
    fn to_text(&self) -> String {
        let Self { preset, threads, rows_per_commit, value_bytes, durability, rows, bytes, views } = self;
        format!("{preset} {threads} {rows_per_commit} {value_bytes} {durability:?} {rows} {bytes} {views}")
    }

    fn from_text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().expect("a number");
        Self {
            preset: ["tiny", "client", "relay", "server"].into_iter().find(|p| *p == words[0]).expect("a preset"),
            threads: number(1),
            rows_per_commit: number(2),
            value_bytes: number(3) as usize,
            durability: match words[4] {
                "Durable" => Durability::Durable,
                "Buffered" => Durability::Buffered,
                _ => Durability::None,
            },
            rows: number(5),
            bytes: number(6),
            views: number(7) as usize,
        }
    }

    /// Runs this case in a process of its own, and returns by how many bytes its memory grew at most; `None` where the
    /// system does not tell.
    fn run_apart(&self) -> Option<u64> {
        let me = std::env::current_exe().expect("this program has a path");
        let child = Command::new(me)
            .args(["--exact", "one_case", "--nocapture"])
            .env("BLAZE_PRESET_CASE", self.to_text())
            .output()
            .expect("starts");
        let out = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{self:?}: {out} {}", String::from_utf8_lossy(&child.stderr));
        out.lines().filter(|line| line.contains("memory")).for_each(|line| println!("{line}"));
        let grown = out.split("memory ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it says so");
        grown.parse().ok().filter(|&bytes| bytes > 0)
    }
}

/// One process of the test below, and nothing where no case is given; alone: `BLAZE_PRESET_CASE="client 4 100 150 Buffered 1000000 400000000 0"`.
#[test]
fn one_case() {
    let Ok(text) = std::env::var("BLAZE_PRESET_CASE") else { return };
    let case = Case::from_text(&text);
    let folder = tempfile::tempdir_in(std::env::var("BLAZE_PRESET_DIR").unwrap_or_else(|_| ".".into()))
        .or_else(|_| tempfile::tempdir())
        .expect("a folder");
    let before = anonymous_bytes().unwrap_or(0);
    let options = Options::raw_key([1; 32]).memory(preset(case.preset).0);
    let store = Store::open(Env::file(folder.path().join("a.blaze")), options).expect("opens");
    let (peak, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let mut waits: Vec<u32> = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let writers: Vec<_> = (0..case.threads)
            .map(|n| {
                scope.spawn({
                    let (store, case) = (&store, &case);
                    move || write(store, case, n)
                })
            })
            .collect();
        let waits = writers.into_iter().flat_map(|writer| writer.join().expect("no panic")).collect();
        done.store(true, Ordering::Relaxed);
        waits
    });
    let took = begun.elapsed();
    waits.sort_unstable();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
    let commits = waits.len() as u64;
    let stats = store.stats();
    println!(
        "{text}: memory {} before {before}, {:.0} commits/s, {:.0} rows/s, p50 {} p99 {} p99.9 {} max {} us, over 10 ms: {}, checkpoints {}, paced {} ms",
        peak.load(Ordering::Relaxed).saturating_sub(before),
        commits as f64 / took.as_secs_f64(),
        (commits * case.rows_per_commit) as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
        waits.iter().filter(|&&us| us > 10_000).count(),
        stats.checkpoints,
        stats.paced_ms,
    );
    store.close().expect("closes");
}

/// Commits until a thread's share is written; returns how long each commit took, in microseconds.
fn write(store: &Store, case: &Case, thread: u64) -> Vec<u32> {
    let row_bytes = 24 + case.value_bytes as u64;
    let commits = case.bytes / row_bytes / case.rows_per_commit / case.threads;
    let tree = store.tree("t").expect("a good name");
    let mut value = vec![7; case.value_bytes];
    let mut waits = Vec::with_capacity(commits as usize);
    let mut views = std::collections::VecDeque::new();
    let mut random = thread + 1;
    let own = case.rows / case.threads;
    for _ in 0..commits {
        let mut tx = store.write();
        for _ in 0..case.rows_per_commit {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Threads do not meet: a conflict is not what is looked at here.
            let row = thread * own + (random >> 33) % own;
            let mut key = [b'k'; 24];
            key[..8].copy_from_slice(&row.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            key[8..16].copy_from_slice(&row.to_be_bytes());
            value[..8].copy_from_slice(&random.to_le_bytes());
            tx.put(tree, &key, &value).expect("room");
        }
        let begun = Instant::now();
        tx.commit_with(case.durability, |_| Ok(())).expect("commits");
        waits.push(begun.elapsed().as_micros() as u32);
        if case.views > 0 {
            views.push_back(store.read());
            if views.len() > case.views {
                views.pop_front();
            }
        }
    }
    waits
}

#[test]
fn saturated_writers_stay_within_their_preset() {
    let scale: u64 = std::env::var("BLAZE_TEST_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let case = |preset, threads, rows_per_commit, value_bytes, durability, mebibytes: u64| Case {
        preset,
        threads,
        rows_per_commit,
        value_bytes,
        durability,
        rows: mebibytes * 4096 * 100 / value_bytes as u64,
        bytes: (scale * mebibytes) << 20,
        views: 0,
    };
    let mut cases = vec![
        case("tiny", 1, 100, 150, Durability::Buffered, 32),
        case("tiny", 2, 10, 4096, Durability::Buffered, 64),
        case("tiny", 1, 1, 20, Durability::None, 2),
        case("client", 1, 100, 150, Durability::Buffered, 64),
        case("client", 4, 10, 4096, Durability::Buffered, 128),
        case("client", 1, 1, 20, Durability::None, 4),
    ];
    if scale > 1 {
        cases.push(case("relay", 4, 100, 150, Durability::Buffered, 200));
        cases.push(case("server", 4, 100, 150, Durability::Buffered, 800));
    }
    let mut failed = Vec::new();
    for case in &cases {
        let (_, most) = preset(case.preset);
        if let Some(grown) = case.run_apart().filter(|&grown| grown > most) {
            failed.push(format!("{grown} of {most} bytes: {case:?}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
