//! Disks that fail calls, once or while they are full.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::Durability;
use blazedb_engine::env::{CallKind, Fault, SimDisk, Survivors};

use super::workload::{Runner, Step, encrypted, random_step};
use super::{Cases, Failure, Plan, Tally};

/// Commits that are tried after an error.
const AFTER: u64 = 12;

/// Runs the workload until it has made its changes or something fails.
fn run(runner: &mut Runner, operations: u64) {
    while runner.operations() < operations && !runner.has_failed() {
        let step = random_step(runner.rng());
        runner.step(step);
    }
    if !runner.has_failed() {
        runner.step(Step::Reopen);
    }
}

/// Returns how many calls of a kind the workload makes where nothing fails.
fn calls(plan: &Plan<'_>, kind: CallKind) -> Result<u64, Failure> {
    let disk = SimDisk::new(plan.seed);
    let mut runner = Runner::new(&disk, encrypted(), plan.seed);
    run(&mut runner, plan.size);
    let calls = disk.calls(kind);
    match runner.abandon().error {
        Some(what) => Err(Failure { case: 0, what: format!("the workload failed: {what}") }),
        None => Ok(calls),
    }
}

/// What a store does after an error: it has stopped writing for good, or it goes on as if nothing had been.
fn afterwards(runner: &mut Runner, disk: &SimDisk, kind: CallKind) -> Result<bool, String> {
    let error = runner.forgive().unwrap_or_default();
    let poisoned = match runner.store() {
        Some(store) => store.stats().poisoned.is_some(),
        // It did not open, or it closed with an error: nothing can be acknowledged.
        None => return Ok(false),
    };
    if poisoned {
        let before = (disk.calls(CallKind::Write), disk.calls(CallKind::Sync), disk.changes());
        for _ in 0..3 {
            for step in
                [Step::Commit(Durability::Durable, 1), Step::Commit(Durability::None, 1), Step::Flush, Step::Checkpoint]
            {
                runner.step(step);
                if runner.forgive().is_none() {
                    return Err(format!("after \"{error}\" it goes on: {step:?} succeeds"));
                }
            }
        }
        if before != (disk.calls(CallKind::Write), disk.calls(CallKind::Sync), disk.changes()) {
            return Err(format!("after \"{error}\" it still writes or syncs"));
        }
        return Ok(true);
    }
    if kind == CallKind::Sync {
        return Err(format!("a failed sync did not stop it: \"{error}\""));
    }
    for _ in 0..AFTER {
        let step = random_step(runner.rng());
        runner.step(step);
        if runner.has_failed() {
            let error = runner.forgive().unwrap_or_default();
            return Err(format!("it goes on after an error, and then fails: {error}"));
        }
    }
    Ok(false)
}

/// After an error, whatever came after it: the same disk opened again, and the disk after a power cut, hold what was
/// acknowledged.
fn check_all(runner: Runner, disk: &SimDisk, case: u64) -> Result<(), String> {
    let (reopened, crashed) = (disk.copy(), disk.after_crash(Survivors::None, case));
    let trace = runner.abandon();
    let allowed = trace.allowed_at_end();
    trace.check(&reopened, allowed).map_err(|what| format!("reopened: {what}"))?;
    trace.check(&crashed, allowed).map_err(|what| format!("after a power cut: {what}"))?;
    Ok(())
}

/// Fails the `nth` call of a kind, once.
fn fail_once(plan: &Plan<'_>, kind: CallKind, nth: u64) -> Result<bool, String> {
    let disk = SimDisk::new(plan.seed);
    disk.fail(Fault { kind, nth, error: io::ErrorKind::Other, for_ever: false });
    let mut runner = Runner::new(&disk, encrypted(), plan.seed);
    run(&mut runner, plan.size);
    let mut poisoned = false;
    if runner.has_failed() {
        poisoned = afterwards(&mut runner, &disk, kind)?;
    }
    disk.heal();
    check_all(runner, &disk, nth)?;
    Ok(poisoned)
}

/// An error of every call of every kind.
pub(super) fn every_call(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let mut cases = Vec::new();
    for kind in CallKind::ALL {
        cases.extend((0..calls(plan, kind)?).map(|nth| (kind, nth)));
    }
    let poisoned = AtomicU64::new(0);
    let failed = Cases::new(plan, cases.len() as u64).each(|at| {
        let (kind, nth) = cases[at as usize];
        let stopped = fail_once(plan, kind, nth).map_err(|what| format!("{kind:?} {nth}: {what}"))?;
        poisoned.fetch_add(u64::from(stopped), Ordering::Relaxed);
        Ok(())
    })?;
    Ok(Tally(vec![("failed calls", failed), ("stores that stopped for good", poisoned.into_inner())]))
}

/// Every sync fails once, and works again.
pub(super) fn failed_syncs(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let syncs = calls(plan, CallKind::Sync)?;
    let poisoned = AtomicU64::new(0);
    let failed = Cases::new(plan, syncs).each(|nth| {
        let stopped = fail_once(plan, CallKind::Sync, nth)?;
        poisoned.fetch_add(u64::from(stopped), Ordering::Relaxed);
        Ok(())
    })?;
    Ok(Tally(vec![("failed syncs", failed), ("stores that stopped for good", poisoned.into_inner())]))
}

/// Smallest unit in which files grow.
const BLOCK_BYTES: u64 = 4096;

/// A disk that ends at every length that the files ever have together, and gets room again.
pub(super) fn full_disk(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let used = |disk: &SimDisk| -> u64 {
        disk.names().iter().map(|name| disk.read_file(name).map_or(0, |bytes| bytes.len() as u64)).sum()
    };
    let disk = SimDisk::new(plan.seed);
    let mut runner = Runner::new(&disk, encrypted(), plan.seed);
    let mut most = 0;
    while runner.operations() < plan.size && !runner.has_failed() {
        let step = random_step(runner.rng());
        runner.step(step);
        most = most.max(used(&disk));
    }
    drop(runner.finish());
    let (met, went_on, stopped) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let lengths = Cases::new(plan, most / BLOCK_BYTES + 1).each(|at| {
        let disk = SimDisk::new(plan.seed);
        disk.set_capacity(Some(at * BLOCK_BYTES));
        let mut runner = Runner::new(&disk, encrypted(), plan.seed);
        run(&mut runner, plan.size);
        if runner.has_failed() {
            met.fetch_add(1, Ordering::Relaxed);
            let error = runner.forgive().unwrap_or_default();
            let poisoned = runner.store().map(|store| store.stats().poisoned);
            match poisoned {
                Some(None) => {
                    // A commit of no durability may have been shown before the disk was full; it is not lost.
                    runner.check_now().map_err(|what| format!("after \"{error}\": {what}"))?;
                    disk.set_capacity(None);
                    for _ in 0..AFTER {
                        let step = random_step(runner.rng());
                        runner.step(step);
                        if let Some(again) = runner.forgive() {
                            return Err(format!("after \"{error}\" there is room, and yet: {again}"));
                        }
                    }
                    runner.check_now().map_err(|what| format!("after \"{error}\" and more commits: {what}"))?;
                    went_on.fetch_add(1, Ordering::Relaxed);
                }
                Some(Some(_)) => {
                    stopped.fetch_add(1, Ordering::Relaxed);
                }
                None => {}
            }
        }
        disk.set_capacity(None);
        check_all(runner, &disk, at)
    })?;
    Ok(Tally(vec![
        ("lengths of the disk", lengths),
        ("times it was full", met.into_inner()),
        ("stores that went on without reopening", went_on.into_inner()),
        ("stores that had to be reopened", stopped.into_inner()),
    ]))
}
