//! Power cuts in a store that keeps history: present and past agree, whatever was cut off.

use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::Store;
use blazedb_engine::env::Survivors;

use super::crash::{at_every_point, env};
use super::workload::{Trace, chain, random_trace_with_history, unencrypted};
use super::{Failure, Plan, Tally};

/// Every so many commits are looked at; of some crashes all of them.
const COMMITS_STEP: u64 = 7;

/// A crash at every point of a random workload with history, purges, vacuums and checkpoints.
pub(super) fn everywhere(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let trace = random_trace_with_history(&unencrypted(), plan.seed, plan.size);
    if let Some(what) = trace.error {
        return Err(Failure { case: 0, what: format!("the workload failed: {what}") });
    }
    let (looks, kept) = (AtomicU64::new(0), AtomicU64::new(0));
    let points = at_every_point(plan, &trace, |disk, allowed, at| {
        for (n, survivors) in Survivors::ALL.into_iter().enumerate() {
            let case = at * 5 + n as u64;
            let after = disk.after_crash(survivors, case);
            let told = |what: String| format!("{survivors:?}: {what}");
            let Some(store) = trace.check_env(env(&after, case), allowed).map_err(told)? else { continue };
            let seen = look(&trace, &store, case).map_err(told)?;
            looks.fetch_add(seen, Ordering::Relaxed);
            kept.fetch_add(u64::from(seen > 0), Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(Tally(vec![
        ("changes", trace.operations),
        ("checkpoints", trace.checkpoints),
        ("crash points", points),
        ("crashes", points * Survivors::ALL.len() as u64),
        ("stores with a past", kept.into_inner()),
        ("commits looked at", looks.into_inner()),
    ]))
}

/// Looks at what a store shows of its past; in some of them again when all of it is in pages, and when it was purged.
fn look(trace: &Trace, store: &Store, case: u64) -> Result<u64, String> {
    let step = if case.is_multiple_of(9) { 1 } else { COMMITS_STEP };
    let mut seen = trace.check_past(store, step)?;
    if case.is_multiple_of(5) {
        store.checkpoint().map_err(|error| chain(&error))?;
        seen += trace.check_past(store, step).map_err(|what| format!("after a checkpoint: {what}"))?;
        store.purge_history().map_err(|error| chain(&error))?;
        seen += trace.check_past(store, step).map_err(|what| format!("after a purge: {what}"))?;
        store.verify(&mut |_| {}).map_err(|error| format!("it does not verify: {}", chain(&error)))?;
    }
    Ok(seen)
}
