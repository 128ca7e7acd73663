//! When commits were made: what the clock said, noted in the ledger. spec: E-43
//!
//! ```text
//! times   never fall. A commit under a clock that is behind the last of them has none
//! aside   what such a clock said, from the commit on at which it was found behind, until it is where it was
//! ```
//!
//! Nobody can tell at once whether a clock was ahead before or is behind now, so both are kept. If it comes back to where it
//! was, it had been behind, and what lies aside means nothing any more. If it goes on for as long as versions are kept, it had
//! been ahead: what lies behind all that is as old as it has to be, whoever was right, and times go on from there. What lies
//! aside stays: as it agrees with the times around it then, it is read like them.

use super::Twins;
use super::ledger::{ASIDE, MARK_MS, Point, Points, TIMES, mark_at, point_key};
use crate::error::ReadError;
use crate::snapshot::Layers;
use crate::store::Inner;
use crate::txn::WriteTransaction;
use crate::txn::head::Head;

/// A clock that is set back by less stands still here until it is where it was.
const BEHIND_MS: u64 = 60_000;
/// Times aside that are ahead of a clock which is set back once more, and go with a commit.
const TAKEN_BACK: usize = 4;
/// Times that were ahead all along, and go with a commit.
const GIVEN_UP: usize = 64;
/// How long a clock goes on before it is believed, where no history ends by time.
const SETTLES_MS: u64 = 7 * 86_400_000;

impl Inner {
    /// Where history is kept, notes when a commit was made: the first one of a second.
    #[inline]
    pub(crate) fn mark_time(&self, head: &mut Head, tx: &mut WriteTransaction) {
        if head.layers.active.twins().is_some() || tx.marks_time {
            self.mark_time_now(head, tx);
        }
    }

    #[cold]
    fn mark_time_now(&self, head: &mut Head, tx: &mut WriteTransaction) {
        let twins = head.layers.active.twins();
        if !tx.marks_time && !twins.is_some_and(|twins| twins.is_any_kept()) {
            return;
        }
        let known = twins.map(|twins| twins.ledger);
        let Some(ledger) = known.filter(|&ledger| ledger != 0).or_else(|| self.names.reserve_ledger().ok()) else {
            return;
        };
        let now = self.env.clock.wall_ms();
        if !tx.marks_time && head.last_times.is_some_and(|last| last.has(now)) {
            return;
        }
        let window = twins.map_or(SETTLES_MS, |twins| window_of(twins));
        // Where the ledger cannot be read the next checkpoint will say so.
        let commit_no = head.layers.commit_no() + 1;
        let Ok(marked) = mark(&head.layers, (commit_no, now), window, tx.marks_time) else { return };
        for (key, at_ms) in &marked.edits {
            match at_ms {
                Some(at_ms) => tx.writes.put_own(ledger, key, &at_ms.to_le_bytes()),
                None => tx.writes.delete_own(ledger, key),
            }
        }
        head.last_times = Some(marked.last);
    }
}

/// The last time, and the last one aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastTimes {
    at_ms: u64,
    aside_ms: Option<u64>,
}

impl LastTimes {
    /// Whether a commit of this second needs no time.
    fn has(self, now: u64) -> bool {
        let is_of = |last: u64| now.abs_diff(last) < MARK_MS;
        let stands_still = |last: u64| is_of(last) || (now < last && last - now < BEHIND_MS);
        stands_still(self.at_ms) || (now < self.at_ms && self.aside_ms.is_some_and(stands_still))
    }
}

/// What the ledger says from a commit on.
pub(crate) struct Marked {
    /// Points that are put, or deleted.
    pub(crate) edits: Vec<([u8; 12], Option<u64>)>,
    last: LastTimes,
}

/// What a clock said that is behind the last time, with the commits: the first one and the last.
pub(super) struct Aside {
    pub(super) first: Point,
    last: Point,
}

/// Returns the last time with its commit, and what lies aside of it.
fn lines<P: Points>(points: &P) -> Result<(Option<Point>, Option<Aside>), P::Error> {
    let last = points.before(TIMES, u64::MAX)?;
    // What lies before the last time was found to be behind.
    let first = points.after(ASIDE, last.map_or(0, |(commit_no, _)| commit_no))?;
    let newest = if first.is_some() { points.before(ASIDE, u64::MAX)? } else { None };
    Ok((last, first.zip(newest).map(|(first, last)| Aside { first, last })))
}

/// How long a clock must go on before it is believed: as long as versions are kept for their time.
pub(crate) fn window_of(twins: &Twins) -> u64 {
    let kept = twins.pairs().filter(|(_, twin)| twin.since.is_some()).map(|(_, twin)| twin.keep.keep_ms);
    kept.filter(|&keep_ms| keep_ms != u64::MAX).max().unwrap_or(SETTLES_MS)
}

/// Decides what is noted of a commit's time. `always`: also where it is of the same second as the one before.
pub(crate) fn mark<P: Points>(
    points: &P,
    (commit_no, now): (u64, u64),
    window_ms: u64,
    always: bool,
) -> Result<Marked, P::Error> {
    let (last, aside) = lines(points)?;
    let (time, beside) = (point_key(TIMES, commit_no), point_key(ASIDE, commit_no));
    let is_due = |last_ms: u64| always || now >= last_ms.saturating_add(MARK_MS);
    let is_behind = |last_ms: u64| now.saturating_add(BEHIND_MS) <= last_ms;
    let mut edits = Vec::new();
    let at_ms = match last {
        Some((_, last_ms)) if is_behind(last_ms) => last_ms,
        Some((_, last_ms)) => {
            let at_ms = now.max(last_ms);
            if is_due(last_ms) {
                edits.push((time, Some(at_ms)));
                return Ok(Marked { edits, last: LastTimes { at_ms, aside_ms: None } });
            }
            return Ok(Marked { edits, last: LastTimes { at_ms: last_ms, aside_ms: None } });
        }
        None => {
            edits.push((time, Some(now)));
            return Ok(Marked { edits, last: LastTimes { at_ms: now, aside_ms: None } });
        }
    };
    let mut aside_ms = Some(now);
    match aside {
        Some(aside) if is_behind(aside.last.1) => {
            let left = delete_ahead(points, (ASIDE, aside.last), (aside.first.0, now), TAKEN_BACK, &mut edits)?;
            match left {
                Some((_, left_ms)) if left_ms > now => aside_ms = Some(left_ms),
                _ => edits.push((beside, Some(now))),
            }
        }
        Some(aside) if !is_due(aside.last.1) => aside_ms = Some(aside.last.1),
        Some(aside) if has_settled(points, &aside, now, window_ms)? => {
            let left = match last {
                Some(last) => delete_ahead(points, (TIMES, last), (0, now), GIVEN_UP, &mut edits)?,
                None => None,
            };
            match left {
                Some((_, left_ms)) if left_ms > now => edits.push((beside, Some(now))),
                _ => {
                    edits.push((time, Some(now)));
                    return Ok(Marked { edits, last: LastTimes { at_ms: now, aside_ms: None } });
                }
            }
        }
        Some(aside) => edits.push((beside, Some(now.max(aside.last.1)))),
        None => edits.push((beside, Some(now))),
    }
    Ok(Marked { edits, last: LastTimes { at_ms, aside_ms } })
}

/// Deletes the newest points of a number that are ahead of the clock, but none before a commit; returns the last one that is
/// left.
fn delete_ahead<P: Points>(
    points: &P,
    (number, last): (u32, Point),
    (from, now): (u64, u64),
    most: usize,
    edits: &mut Vec<([u8; 12], Option<u64>)>,
) -> Result<Option<Point>, P::Error> {
    let mut left = Some(last);
    for _ in 0..most {
        let Some((commit_no, _)) = left.filter(|&(_, at_ms)| at_ms > now) else { break };
        edits.push((point_key(number, commit_no), None));
        left = match commit_no.checked_sub(1) {
            Some(before) => points.before(number, before)?.filter(|&(commit_no, _)| commit_no >= from),
            None => None,
        };
    }
    Ok(left)
}

/// Whether a clock that was set back has gone on for `window_ms`, and not in leaps: commits were made in the second and in the
/// third quarter of it. One that leaps has only been set again.
fn has_settled<P: Points>(points: &P, aside: &Aside, now: u64, window_ms: u64) -> Result<bool, P::Error> {
    let Aside { first: (from, from_ms), last: (to, _) } = *aside;
    let span = now.saturating_sub(from_ms);
    if span < window_ms {
        return Ok(false);
    }
    for quarter in [1, 2] {
        let begins = from_ms + span / 4 * quarter;
        let before = |commit_no| Ok(points.before(ASIDE, commit_no)?.filter(|&(commit_no, _)| commit_no >= from));
        let found = mark_at(begins + span / 4, to, before)?;
        if found.is_none_or(|(_, at_ms)| at_ms < begins) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns what lies aside between a time and the next one, if it does not contradict them: of a clock that had been right
/// after all.
fn agreed<P: Points>(points: &P, last: Point, until: u64) -> Result<Option<Point>, P::Error> {
    let first = points.after(ASIDE, last.0)?;
    Ok(first.filter(|&(commit_no, at_ms)| commit_no < until && at_ms >= last.1))
}

impl Layers {
    /// Returns when a commit was made, to a second, where that is known.
    pub(crate) fn time_of(&self, commit_no: u64) -> Result<Option<u64>, ReadError> {
        let (_, aside) = lines(self)?;
        let is_of = |first: Point| first.0 <= commit_no;
        let last = self.before(TIMES, commit_no)?;
        let is_aside = match last {
            _ if aside.is_some_and(|aside| is_of(aside.first)) => true,
            Some(last) => agreed(self, last, u64::MAX)?.is_some_and(is_of),
            None => false,
        };
        let found = if is_aside { self.before(ASIDE, commit_no)? } else { last };
        Ok(found.map(|(_, at_ms)| at_ms))
    }

    /// Returns the newest commit that was made at this time or before, to a second, where the clock says `now`; `None` where
    /// none is known.
    pub(crate) fn commit_at(&self, wall_ms: u64, now: u64) -> Result<Option<u64>, ReadError> {
        let newest = self.commit_no();
        let (_, aside) = lines(self)?;
        let to = match aside {
            // What such a clock says of its own time.
            Some(Aside { first, .. }) if (first.1..=now.saturating_add(BEHIND_MS)).contains(&wall_ms) => {
                return self.commit_within(wall_ms, ASIDE, (first.0, newest));
            }
            Some(aside) => aside.first.0 - 1,
            None => newest,
        };
        let Some(last) = mark_at(wall_ms, to, |commit_no| self.before(TIMES, commit_no))? else { return Ok(None) };
        let until = self.after(TIMES, last.0)?.map_or(to + 1, |(next, _)| next.min(to + 1));
        match agreed(self, last, until)? {
            Some((first, first_ms)) if first_ms <= wall_ms => self.commit_within(wall_ms, ASIDE, (first, until - 1)),
            Some((first, _)) => self.commit_within(wall_ms, TIMES, (0, first - 1)),
            None => self.commit_within(wall_ms, TIMES, (0, until - 1)),
        }
    }

    /// The same by the points of a number, for commits from one to another.
    fn commit_within(&self, wall_ms: u64, number: u32, (from, to): (u64, u64)) -> Result<Option<u64>, ReadError> {
        let before = |commit_no| -> Result<_, ReadError> {
            Ok(self.before(number, commit_no)?.filter(|&(commit_no, _)| commit_no >= from))
        };
        let Some((commit_no, at_ms)) = mark_at(wall_ms, to, before)? else { return Ok(None) };
        // The first commit a second after a mark makes another one: so those in between came within that second.
        if wall_ms < at_ms.saturating_add(MARK_MS) {
            return Ok(Some(commit_no));
        }
        let next = self.after(number, commit_no)?.filter(|&(next, _)| next <= to);
        Ok(Some(next.map_or(to, |(next, _)| next - 1)))
    }
}
