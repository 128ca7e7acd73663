//! How much is done for a promise: syncs, bytes that an opening reads, seconds, and the same calls for the same seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use blazedb_engine::env::{CallKind, Hooked, SimDisk, SystemClock};
use blazedb_engine::{Durability, Env, History, Memory, Options, Store};

use super::journal::{Event, NAME};
use super::workload::{MEMORY, Runner, Step, chain, encrypted, random_step, random_trace};
use super::{Cases, Failure, Plan, Tally};

fn failure(case: u64) -> impl Fn(String) -> Failure {
    move |what| Failure { case, what }
}

/// Counts syncs of log and main file beside the groups and checkpoints that they belong to.
pub(super) fn syncs(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let disk = SimDisk::new(plan.seed);
    // A transaction larger than the table goes past the log and its groups; here none does.
    let options = encrypted().memory(Memory { table_bytes: 1 << 20, ..MEMORY });
    let mut runner = Runner::new(&disk, options, plan.seed);
    let (mut groups, mut checkpoints, mut commits) = (0, 0, 0);
    let mut case = 0;
    while runner.operations() < plan.size && !runner.has_failed() {
        let step = random_step(runner.rng());
        let stats = runner.store().map(Store::stats);
        let from = runner.recorder().now();
        runner.step(step);
        let (Some(before), Some(after)) = (stats, runner.store().map(Store::stats)) else { break };
        // A reopened store counts from 0 again; what a close does is looked at by its name elsewhere.
        if step == Step::Reopen {
            continue;
        }
        let (mut log, mut main, mut unsynced) = (0, 0, false);
        let journal = runner.recorder().journal();
        for event in &journal.events[from..] {
            match (event, journal.is_main(event)) {
                (Event::Sync { .. }, true) => main += 1,
                (Event::Sync { .. }, false) => {
                    log += 1;
                    unsynced = false;
                }
                (Event::Write { .. }, false) => unsynced = true,
                _ => {}
            }
        }
        drop(journal);
        let (new_checkpoints, new_groups) = (after.checkpoints - before.checkpoints, after.groups - before.groups);
        let durable = matches!(step, Step::Commit(Durability::Durable, _) | Step::Large);
        let say = |what: &str| Failure {
            case,
            what: format!(
                "{step:?}: {what}: {log} log and {main} main syncs, {new_groups} groups, {new_checkpoints} checkpoints"
            ),
        };
        if main != 2 * new_checkpoints {
            return Err(say("a checkpoint has two syncs"));
        }
        if durable && (log != 1 || new_groups != 1) {
            return Err(say("a durable commit that is alone is one group with one sync"));
        }
        if durable && unsynced {
            return Err(say("it was acknowledged with a write that is not synced"));
        }
        if matches!(step, Step::Commit(Durability::Buffered | Durability::None, _)) && log > new_checkpoints {
            return Err(say("a commit that is not durable syncs nothing, but for the checkpoint that it makes due"));
        }
        commits += u64::from(durable);
        groups += new_groups;
        checkpoints += new_checkpoints;
        case += 1;
        (plan.progress)(runner.operations(), plan.size);
    }
    match runner.finish().error {
        Some(what) => Err(Failure { case, what }),
        None => Ok(Tally(vec![("durable commits", commits), ("groups", groups), ("checkpoints", checkpoints)])),
    }
}

/// The same calls for the same seed.
pub(super) fn determinism(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let seeds = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let once = random_trace(&encrypted(), seed, 120);
        let again = random_trace(&encrypted(), seed, 120);
        let other = random_trace(&encrypted(), seed + 1, 120);
        match (once.error, once.trace_hash == again.trace_hash, once.trace_hash != other.trace_hash) {
            (Some(error), ..) => Err(error),
            (None, true, true) => Ok(()),
            (None, same, _) => Err(format!("seed {seed}: the same calls again: {same}")),
        }
    })?;
    Ok(Tally(vec![("seeds", seeds)]))
}

/// A full log is recovered fast, and a large file does not slow an opening down.
pub(super) fn reopen(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let fail = failure(0);
    let log_bytes = plan.size.max(1) << 20;
    let memory = Memory { cache_bytes: 1 << 20, table_bytes: 1 << 30, log_bytes: log_bytes * 2 };
    let options = Options::raw_key([42; 32]).memory(memory);
    let disk = SimDisk::new(plan.seed);
    let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| fail(chain(&e)))?;
    let tree = store.tree("rows").map_err(|e| fail(chain(&e)))?;
    let mut rows = 0_u64;
    while store.stats().log_bytes < log_bytes {
        let mut tx = store.write();
        // What the design's relay writes: 24 bytes of key, 150 of value, a few at a time.
        for _ in 0..20 {
            let mut key = [0; 24];
            key[..8].copy_from_slice(&rows.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
            key[8..16].copy_from_slice(&rows.to_be_bytes());
            tx.put(tree, &key, &[rows as u8; 150]).map_err(|e| fail(chain(&e)))?;
            rows += 1;
        }
        tx.commit_with(Durability::Buffered, |_| Ok(())).map_err(|e| fail(chain(&e)))?;
    }
    store.flush().map_err(|e| fail(chain(&e)))?;
    let copy = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
    drop(store);
    // The best of three: what else the machine does is not what is measured.
    let mut took = Duration::MAX;
    for _ in 0..3 {
        let copy = copy.copy();
        let began = Instant::now();
        let store = Store::open(copy.env(NAME), options.clone()).map_err(|e| fail(chain(&e)))?;
        took = took.min(began.elapsed());
        if store.read().len(tree).map_err(|e| fail(chain(&e)))? != rows {
            return Err(fail("rows are missing".into()));
        }
        // What it holds in memory stays there: closing would write all of it into pages, three times.
        copy.crash_at(0);
    }
    if plan.size >= 16 && took > Duration::from_secs(1) {
        return Err(fail(format!("a log of {} MiB took {} ms to recover", plan.size, took.as_millis())));
    }

    // The same log behind a small file and behind one ten times as large. What is left of older generations is read as
    // well (E-9), so it is the log's budget that an opening is bounded by; here it is small.
    let mut read = Vec::new();
    // Enough for every file of the log to have been written to its full length.
    let small = ((plan.size << 20) / 16).max(2 << 20);
    let memory = Memory { cache_bytes: 1 << 20, table_bytes: 256 << 10, log_bytes: 256 << 10 };
    for bytes in [small, small * 10] {
        let disk = SimDisk::new(plan.seed);
        let options = Options::raw_key([42; 32]).memory(memory);
        let store = Store::open(disk.env(NAME), options.clone()).map_err(|e| fail(chain(&e)))?;
        let tree = store.tree("rows").map_err(|e| fail(chain(&e)))?;
        let rows = bytes / 1_000;
        for n in 0..rows {
            let mut tx = store.write();
            tx.put(tree, &n.to_be_bytes(), &[n as u8; 900]).map_err(|e| fail(chain(&e)))?;
            tx.commit_with(Durability::Buffered, |_| Ok(())).map_err(|e| fail(chain(&e)))?;
        }
        store.checkpoint().map_err(|e| fail(chain(&e)))?;
        for n in 0..20_u64 {
            let mut tx = store.write();
            tx.put(tree, &n.to_be_bytes(), b"after the checkpoint").map_err(|e| fail(chain(&e)))?;
            tx.commit().map_err(|e| fail(chain(&e)))?;
        }
        let crashed = disk.after_crash(blazedb_engine::env::Survivors::None, 1);
        let store = Store::open(crashed.env(NAME), options).map_err(|e| fail(chain(&e)))?;
        read.push((crashed.bytes_read(), crashed.calls(CallKind::Read)));
        drop(store);
    }
    // The space's bitmap, one bit per page, is all that may grow; logs differ by what a last commit adds to the budget.
    let more = read[1].0.saturating_sub(read[0].0);
    if more > small * 10 / 4096 / 8 + (256 << 10) {
        return Err(fail(format!("opening the larger file reads {more} bytes more")));
    }
    Ok(Tally(vec![
        ("MiB of log", plan.size),
        ("rows recovered", rows),
        ("ms", took.as_millis() as u64),
        ("bytes read to open a small file", read[0].0),
        ("bytes read to open one ten times as large", read[1].0),
    ]))
}

/// Returns commits per second of so many writers on a sync of this length, and commits per sync.
fn rate(writers: u64, commits_each: u64, sync: Duration) -> Result<(f64, f64), Failure> {
    let fail = failure(0);
    let disk = SimDisk::new(writers);
    let env = disk.env(NAME);
    // As in the real world: checkpoints have a thread of their own, and a leader knows how long a sync takes.
    let storage = Arc::new(Hooked::slow_syncs(Arc::clone(&env.storage), sync));
    let env = Env { storage, clock: Arc::new(SystemClock::new()), threads: true, ..env };
    let store = Store::open(env, Options::raw_key([42; 32])).map_err(|e| fail(chain(&e)))?;
    let tree = store.tree("rows").map_err(|e| fail(chain(&e)))?;
    let began = Instant::now();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..writers)
            .map(|writer| {
                let store = store.clone();
                scope.spawn(move || -> Result<(), String> {
                    for n in 0..commits_each {
                        let mut tx = store.write();
                        let key = [writer.to_be_bytes(), n.to_be_bytes()].concat();
                        tx.put(tree, &key, &[n as u8; 150]).map_err(|e| chain(&e))?;
                        tx.commit().map_err(|e| chain(&e))?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().unwrap_or_else(|_| Err("a writer panicked".into())).err()).collect()
    });
    let took = began.elapsed().as_secs_f64();
    if let Some(what) = failed.into_iter().next() {
        return Err(fail(what));
    }
    let stats = store.stats();
    if stats.groups != stats.syncs {
        return Err(fail(format!("{} groups, {} syncs", stats.groups, stats.syncs)));
    }
    let commits = (writers * commits_each) as f64;
    Ok((commits / took, commits / stats.syncs as f64))
}

/// Commits per writer from which on rates are held to their figures.
const FULL_ROUNDS: u64 = 40;

/// Group commit on slow disks.
pub(super) fn groups(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let (one, _) = rate(1, plan.size, Duration::from_millis(10))?;
    // The best of a few: threads that the machine does not run do not commit.
    let best = |writers: u64, millis: u64, enough: f64| -> Result<(f64, f64), Failure> {
        let mut best = (0.0, 0.0);
        for _ in 0..5 {
            let now = rate(writers, plan.size, Duration::from_millis(millis))?;
            best = if now.0 > best.0 { now } else { best };
            if best.0 >= enough || plan.size < FULL_ROUNDS {
                break;
            }
        }
        Ok(best)
    };
    let (many, per_sync) = best(64, 10, 50.0 * one)?;
    let (most, per_slow_sync) = best(500, 30, 10_000.0)?;
    let tally = Tally(vec![
        ("commits/s of one writer", one as u64),
        ("commits/s of 64", many as u64),
        ("times as fast", (many / one) as u64),
        ("commits per sync", per_sync as u64),
        ("commits/s of 500 on 30 ms", most as u64),
        ("commits per sync then", per_slow_sync as u64),
    ]);
    // A slice is over before everybody has started; it shows that groups form.
    if plan.size >= FULL_ROUNDS && (many < 50.0 * one || most < 10_000.0) {
        return Err(Failure { case: 0, what: tally.to_string() });
    }
    Ok(tally)
}

/// The longest time that a durable commit may take beside a vacuum.
const PAUSE_MAX: Duration = Duration::from_millis(10);

/// Commits beside a vacuum of a file of which half was deleted.
pub(super) fn pauses(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let fail = failure(0);
    // The best of many: a thread that the machine does not run does not commit, of which thirty thousand commits beside other
    // tests see one most times. What a vacuum keeps waiting waits each time.
    let mut best: Option<(Duration, u64, u64)> = None;
    for _ in 0..20 {
        let now = beside_a_vacuum(plan).map_err(&fail)?;
        best = Some(best.map_or(now, |best| if now.0 < best.0 { now } else { best }));
        if best.is_some_and(|(longest, ..)| longest <= PAUSE_MAX) {
            break;
        }
    }
    let (longest, commits, given_back) = best.unwrap_or_default();
    let tally = Tally(vec![
        ("commits beside a vacuum", commits),
        ("us for the longest of them", longest.as_micros() as u64),
        ("bytes given back", given_back),
    ]);
    if longest > PAUSE_MAX { Err(fail(tally.to_string())) } else { Ok(tally) }
}

/// Returns how long the longest commit took, how many there were, and how many bytes shorter the file is.
fn beside_a_vacuum(plan: &Plan<'_>) -> Result<(Duration, u64, u64), String> {
    let env = Env { clock: Arc::new(SystemClock::new()), threads: true, ..Env::memory(plan.seed) };
    let store = Store::open(env, Options::raw_key([42; 32]).auto_vacuum(None)).map_err(|e| chain(&e))?;
    let tree = store.tree("rows").map_err(|e| chain(&e))?;
    let key = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
    for deletes in [false, true] {
        for from in 0..plan.size {
            let mut tx = store.write();
            for n in (from * 1000..(from + 1) * 1000).filter(|n| !deletes || n % 2 == 0) {
                match deletes {
                    true => tx.delete(tree, &key(n)),
                    false => tx.put(tree, &key(n), &[7; 150]),
                }
                .map_err(|e| chain(&e))?;
            }
            tx.commit().map_err(|e| chain(&e))?;
        }
    }
    store.checkpoint().map_err(|e| chain(&e))?;
    let before = store.stats().page_file_bytes;
    let stop = AtomicBool::new(false);
    let (vacuumed, found) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| -> Result<_, String> {
            let (mut longest, mut commits) = (Duration::ZERO, 0_u64);
            while !stop.load(Ordering::Relaxed) || commits < 10 {
                let began = Instant::now();
                let mut tx = store.write();
                tx.put(tree, &(commits % 1000).to_be_bytes(), &[1; 150]).map_err(|e| chain(&e))?;
                tx.commit().map_err(|e| chain(&e))?;
                longest = longest.max(began.elapsed());
                commits += 1;
            }
            Ok((longest, commits))
        });
        let vacuumed = store.vacuum(256, &mut |_| {}).map_err(|e| chain(&e));
        stop.store(true, Ordering::Relaxed);
        (vacuumed, writer.join().unwrap_or_else(|_| Err("the writer panicked".into())))
    });
    vacuumed?;
    let after = store.stats().page_file_bytes;
    let (longest, commits) = found?;
    Ok((longest, commits, before.saturating_sub(after)))
}

/// History by bytes and by time, over so many operations.
pub(super) fn retention(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let fail = failure(0);
    let disk = SimDisk::new(plan.seed);
    let memory = Memory { cache_bytes: 1 << 20, table_bytes: 256 << 10, log_bytes: 4 << 20 };
    let store = Store::open(disk.env(NAME), Options::raw_key([42; 32]).memory(memory)).map_err(|e| fail(chain(&e)))?;
    let keeps = [
        ("by bytes", History { keep_ms: u64::MAX, keep_bytes: 256 << 10 }),
        ("by time", History { keep_ms: 60_000, keep_bytes: u64::MAX }),
    ];
    let mut trees = Vec::new();
    for (name, keep) in keeps {
        let tree = store.tree(name).map_err(|e| fail(chain(&e)))?;
        store.set_history(tree, Some(keep)).map_err(|e| fail(chain(&e)))?;
        trees.push((tree, keep));
    }
    let (mut purged, mut purges) = (0, 0);
    for thousand in 0..plan.size {
        for n in (thousand * 1000..(thousand + 1) * 1000).step_by(10) {
            let mut tx = store.write();
            for n in n..n + 10 {
                let key = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 53).to_be_bytes();
                tx.put(trees[n as usize % 2].0, &key, &[n as u8; 60]).map_err(|e| fail(chain(&e)))?;
            }
            disk.clock().advance_ms(200);
            tx.commit_with(Durability::None, |_| Ok(())).map_err(|e| fail(chain(&e)))?;
        }
        if thousand % 5 < 4 {
            continue;
        }
        let versions = |tree| Ok(store.history(tree).map_err(|e| fail(chain(&e)))?.map_or(0, |info| info.versions));
        let before = versions(trees[0].0)? + versions(trees[1].0)?;
        store.purge_history().map_err(|e| fail(chain(&e)))?;
        let now = disk.env(NAME).clock.wall_ms();
        for &(tree, keep) in &trees {
            let info = store.history(tree).map_err(|e| fail(chain(&e)))?;
            let info = info.ok_or_else(|| fail("history is off".into()))?;
            // The state that was there when the time began is kept as well, and times are known to a second.
            let oldest = store.time_of(info.oldest + 20).map_err(|e| fail(chain(&e)))?.unwrap_or(now);
            let is_old = keep.keep_ms != u64::MAX && oldest + keep.keep_ms + 1000 < now;
            if info.bytes > keep.keep_bytes || is_old {
                return Err(fail(format!("after {thousand} thousand operations, {now}: {info:?}, from {oldest}")));
            }
        }
        purged += before.saturating_sub(versions(trees[0].0)? + versions(trees[1].0)?);
        purges += 1;
    }
    store.verify(&mut |_| {}).map_err(|e| fail(chain(&e)))?;
    Ok(Tally(vec![("operations", plan.size * 1000), ("purges", purges), ("versions purged", purged)]))
}
