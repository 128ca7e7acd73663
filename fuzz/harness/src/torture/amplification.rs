//! How many bytes go to the disk for a byte that somebody wrote.

use blazedb_engine::env::SimDisk;
use blazedb_engine::{Memory, Options, Store};

use super::workload::chain;
use super::{Failure, Plan, Tally};

/// What the design's relay writes.
const KEY_BYTES: usize = 24;
const VALUE_BYTES: usize = 150;
/// Rows of a durable commit that overwrites.
const OVERWRITTEN: u64 = 100;
/// Rows of a durable commit that inserts.
const INSERTED: u64 = 1_000;
/// Bytes for a byte, in tenths, at most: of random overwrites with the preset for servers, and of the log of inserts.
const RANDOM_MAX: u64 = 250;
const LOG_MAX: u64 = 20;

fn key(n: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    key[..8].copy_from_slice(&n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    key[8..16].copy_from_slice(&n.to_be_bytes());
    key
}

/// Overwrites a tenth of the rows at random, a hundred in each durable commit, with each preset; counts what the disk is given,
/// log, checkpoints and headers included.
pub(super) fn amplification(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let fail = |what: String| Failure { case: 0, what };
    let rows = plan.size * 1_000;
    let log = log_of_inserts(plan).map_err(fail)?;
    if log > LOG_MAX {
        return Err(fail(format!("{log} tenths of a byte of log for a byte that was inserted")));
    }
    let mut counts = vec![("rows", rows), ("tenths of a byte of log for one inserted", log)];
    for (name, memory) in [
        ("tenths for one overwritten at random, preset server", Memory::SERVER),
        ("preset relay", Memory::RELAY),
        ("preset client", Memory::CLIENT),
    ] {
        (plan.progress)(counts.len() as u64 - 2, 3);
        let tenths = random_overwrites(plan, rows, memory).map_err(fail)?;
        if memory == Memory::SERVER && tenths > RANDOM_MAX {
            return Err(fail(format!("{tenths} tenths of a byte for a byte that was overwritten")));
        }
        counts.push((name, tenths));
    }
    Ok(Tally(counts))
}

fn log_of_inserts(plan: &Plan<'_>) -> Result<u64, String> {
    let disk = SimDisk::new(plan.seed);
    let memory = Memory { table_bytes: 256 << 20, log_bytes: 512 << 20, ..Memory::SERVER };
    let store = Store::open(disk.env("a"), Options::raw_key([42; 32]).memory(memory)).map_err(|e| chain(&e))?;
    let tree = store.tree("rows").map_err(|e| chain(&e))?;
    let rows = (plan.size * 1_000).clamp(INSERTED, 50_000);
    let mut written = 0;
    // The log is written over once all of its files have been used; before that, each byte of it is laid out as a zero first.
    for round in 0..5 {
        written = disk.bytes_written();
        for from in (round * rows..(round + 1) * rows).step_by(INSERTED as usize) {
            let mut tx = store.write();
            for n in from..from + INSERTED {
                tx.put(tree, &key(n), &[n as u8; VALUE_BYTES]).map_err(|e| chain(&e))?;
            }
            tx.commit().map_err(|e| chain(&e))?;
        }
        written = disk.bytes_written() - written;
        store.checkpoint().map_err(|e| chain(&e))?;
    }
    Ok(written * 10 / (rows * (KEY_BYTES + VALUE_BYTES) as u64))
}

fn random_overwrites(plan: &Plan<'_>, rows: u64, memory: Memory) -> Result<u64, String> {
    let disk = SimDisk::new(plan.seed);
    let store = Store::open(disk.env("a"), Options::raw_key([42; 32]).memory(memory)).map_err(|e| chain(&e))?;
    let tree = store.tree("rows").map_err(|e| chain(&e))?;
    let mut load = store.loader();
    for n in 0..rows {
        load.put(tree, &key(n), &[1; VALUE_BYTES]).map_err(|e| chain(&e))?;
    }
    load.finish().map_err(|e| chain(&e))?;
    let (before, commits) = (disk.bytes_written(), (rows / 10 / OVERWRITTEN).max(1));
    let mut state = plan.seed;
    for _ in 0..commits {
        let mut tx = store.write();
        for _ in 0..OVERWRITTEN {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = [(state >> 56) as u8; VALUE_BYTES];
            tx.put(tree, &key((state >> 20) % rows), &value).map_err(|e| chain(&e))?;
        }
        tx.commit().map_err(|e| chain(&e))?;
    }
    store.checkpoint().map_err(|e| chain(&e))?;
    let written = disk.bytes_written() - before;
    Ok(written * 10 / (commits * OVERWRITTEN * (KEY_BYTES + VALUE_BYTES) as u64))
}
