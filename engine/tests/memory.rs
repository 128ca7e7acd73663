//! Long values in bounded memory. A binary of its own, so that no other test's memory is measured with it.
//!
//! 96 MiB by default; `BLAZE_TEST_SCALE=11` makes that the gibibyte that a value may have.

use std::io::Read;

use blazedb_engine::{Env, Memory, Options, PageAccess, ReadError, Store, limits};

/// What may come on top of the cache and the tables while a value of any length is written or read.
const MEMORY_BYTES_MAX: u64 = 6 << 20;

/// Bytes of a value, and a check of them, 64 KiB at a time.
struct Pattern {
    at: u64,
    len: u64,
}

impl Pattern {
    fn word(at: u64) -> u64 {
        (at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
    }
}

impl Read for Pattern {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = (self.len - self.at).min(out.len() as u64) as usize;
        for (i, byte) in out[..n].iter_mut().enumerate() {
            let at = self.at + i as u64;
            *byte = Self::word(at).to_le_bytes()[(at % 8) as usize];
        }
        self.at += n as u64;
        Ok(n)
    }
}

/// Returns the bytes of this process that belong to no file; `None` where the system does not tell.
fn anonymous_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// A source that looks at the memory each time that it is asked.
struct Watched<R> {
    inner: R,
    peak: u64,
    calls: u64,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.calls += 1;
        if self.calls.is_multiple_of(16) {
            self.peak = self.peak.max(anonymous_bytes().unwrap_or(0));
        }
        self.inner.read(out)
    }
}

#[test]
fn a_long_value_is_written_and_read_in_bounded_memory() {
    let scale: u64 = std::env::var("BLAZE_TEST_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let len = ((96 << 20) * scale).min(limits::STORED_VALUE_BYTES_MAX) - 3;
    for chosen in [Options::raw_key([1; 32]).page_bytes(16384), Options::unencrypted()] {
        let folder = tempfile::tempdir().expect("a folder");
        let env = Env::file(folder.path().join("a.blaze"));
        let chosen = chosen.access(PageAccess::Read).memory(Memory::TINY);
        let store = Store::open(env.clone(), chosen.clone()).expect("opens");
        let before = anonymous_bytes().unwrap_or(0);
        let ceiling = before + Memory::TINY.total_bytes() as u64 + MEMORY_BYTES_MAX;
        let mut tx = store.write();
        let tree = tx.tree("t").expect("a good name");
        let mut source = Watched { inner: Pattern { at: 0, len }, peak: 0, calls: 0 };
        tx.put_stream(tree, b"long", len, &mut source).expect("room");
        assert!(source.peak < ceiling, "{} bytes of memory while writing, {before} before", source.peak);
        assert!(tx.bytes() < 100, "the transaction does not count them");
        tx.put(tree, b"next", b"v").expect("room");
        tx.commit().expect("commits");
        let check = |store: &Store| {
            let view = store.read();
            let mut reader = Watched { inner: Pattern { at: 0, len }, peak: 0, calls: 0 };
            let mut value = view.value_reader(tree, b"long").expect("reads").expect("is there");
            let (mut got, mut want) = (vec![0; 64 << 10], vec![0; 64 << 10]);
            loop {
                let n = value.read(&mut got).expect("reads");
                reader.read_exact(&mut want[..n]).expect("as long");
                assert!(got[..n] == want[..n], "the bytes before {}", reader.inner.at);
                if n == 0 {
                    break;
                }
            }
            assert_eq!(reader.inner.at, len);
            assert!(reader.peak < ceiling, "{} bytes of memory while reading, {before} before", reader.peak);
            // Nobody meets it by accident.
            assert!(matches!(view.get(tree, b"long"), Err(ReadError::ValueTooLong { given }) if given == len));
            assert!(matches!(view.range(tree, ..).next(), Some(Err(ReadError::ValueTooLong { .. }))));
            let mut cursor = view.range(tree, ..);
            assert!(cursor.advance_key().expect("reads") && cursor.value_len() == len);
            assert!(cursor.advance().expect("reads") && cursor.key() == b"next" && cursor.value() == b"v");
        };
        check(&store);
        store.checkpoint().expect("checkpoints");
        check(&store);
        let log = store.stats().log_file_bytes;
        assert!(log < 4 << 20, "{log} bytes of log: the value is not in it");
        store.close().expect("closes");
        drop(store);
        let store = Store::open(env, chosen).expect("opens");
        check(&store);
        let mut tx = store.write();
        tx.delete(tree, b"long").expect("a good key");
        tx.commit().expect("commits");
        store.checkpoint().expect("checkpoints");
        assert!(store.verify(&mut |_| {}).expect("pages and space agree").pages < 30, "and the bitmap of a long file");
    }
}
