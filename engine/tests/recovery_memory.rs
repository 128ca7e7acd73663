//! Anonymous memory of a process that opens a log which says far more than its options allow. A binary of its own, whose
//! test starts itself once more for each opening: what the writer has held does not count.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use blazedb_engine::{Durability, Env, Memory, OpenError, Options, Store, log_file_names};

/// What may come on top of what the options allow: the longest group, buffers, the program itself.
const MEMORY_BYTES_MAX: u64 = 8 << 20;

/// In the process that opens: the store's path, and whether it is opened for writing.
const PATH: &str = "BLAZE_TEST_OPEN";
const WRITES: &str = "BLAZE_TEST_OPEN_WRITES";

fn options(path: &Path, memory: Memory) -> (Env, Options) {
    (Env::file(path), Options::raw_key([1; 32]).memory(memory))
}

/// Returns the bytes of this process that belong to no file; `None` where the system does not tell.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Opens a store, and leaves beside it a note of the most anonymous memory that this process had meanwhile.
fn open(path: &Path, writes: bool) {
    let (peak, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                peak.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        let (env, options) = options(path, Memory::TINY);
        let opened = Store::open(env, options.create(false).read_only(!writes));
        peak.fetch_max(anonymous_bytes().unwrap_or(0), Ordering::Relaxed);
        is_done.store(true, Ordering::Release);
        match opened {
            Ok(store) if writes => assert_eq!(store.stats().commit_no, 300),
            Err(OpenError::TooMuchInLog { .. }) if !writes => {}
            other => panic!("{other:?}"),
        }
    });
    std::fs::write(path.with_extension("peak"), peak.into_inner().to_string()).expect("a folder of its own");
}

#[test]
fn a_process_that_recovers_takes_what_its_options_allow() {
    if let Ok(path) = std::env::var(PATH) {
        return open(Path::new(&path), std::env::var(WRITES).is_ok());
    }
    if anonymous_bytes().is_none() {
        return;
    }
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let [path, copy] = folders.each_ref().map(|folder| folder.path().join("a.blaze"));
    let (env, chosen) = options(&path, Memory { cache_bytes: 1 << 20, table_bytes: 1 << 30, log_bytes: 1 << 30 });
    let store = Store::open(env, chosen).expect("opens");
    let tree = store.tree("rows").expect("a good name");
    for n in 0..300_u32 {
        let mut tx = store.write();
        let row = [n as u8; 40 << 10];
        tx.put_pieces(tree, &n.wrapping_mul(0x9E37_79B1).to_be_bytes(), &[&row[..]; 25]).expect("room");
        tx.commit_with(Durability::Buffered, |_| Ok(())).expect("commits");
    }
    let said = store.stats().table_bytes;
    assert!(said > 280 << 20 && store.stats().log_bytes < 16 << 20, "{:?}", store.stats());
    // As a crash would leave it.
    for name in log_file_names("a.blaze").into_iter().chain(["a.blaze".to_owned()]) {
        if path.with_file_name(&name).exists() {
            std::fs::copy(path.with_file_name(&name), copy.with_file_name(&name)).expect("copies");
        }
    }
    let tables = 8 * Memory::TINY.table_bytes as u64;
    for (writes, allowed) in [(false, tables), (true, Memory::TINY.total_bytes() as u64)] {
        let mut again = Command::new(std::env::current_exe().expect("this program"));
        again.env(PATH, &copy);
        if writes {
            again.env(WRITES, "1");
        }
        let output = again.output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let note = std::fs::read_to_string(copy.with_extension("peak")).expect("it left a note");
        let peak: u64 = note.parse().expect("a number");
        assert!(peak < allowed + MEMORY_BYTES_MAX, "writes: {writes}, {peak} bytes, for a log that says {said}");
    }
}
