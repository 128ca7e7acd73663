//! When commits were made: what the clock said, noted in the ledger. spec: E-43

use super::ledger::{MARK_MS, MARKS_TAKEN_BACK, mark_key};
use crate::store::Inner;
use crate::txn::WriteTransaction;
use crate::txn::head::Head;

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
        let known = match head.last_mark_ms {
            Some(last) => Some(last),
            // Where it cannot be read the next checkpoint will say so.
            None => last_mark(head, u64::MAX >> 1).map(|(_, at_ms)| at_ms),
        };
        let now = self.env.clock.wall_ms();
        let last = match known {
            Some(last) if last > now.saturating_add(MARK_MS) => take_back(head, tx, (ledger, last, now)),
            known => known,
        };
        let is_due = last.is_none_or(|last| now >= last.saturating_add(MARK_MS));
        let at_ms = now.max(last.unwrap_or(0));
        if tx.marks_time || is_due {
            tx.writes.put_own(ledger, &mark_key(head.layers.commit_no() + 1), &at_ms.to_le_bytes());
        }
        head.last_mark_ms = if tx.marks_time || is_due { Some(at_ms) } else { last };
    }
}

/// Returns the last time up to a commit, and its commit.
fn last_mark(head: &Head, commit_no: u64) -> Option<(u64, u64)> {
    head.layers.mark_before(commit_no).ok().flatten()
}

/// A clock that is set back has been wrong before, or is wrong now. For each second of it in which somebody commits, the
/// newest times that are ahead of it go, a few of them: one that was ahead for a moment is forgotten at once, and one that
/// falls behind for a moment loses a few times, no versions. Returns the last time that is left.
fn take_back(head: &mut Head, tx: &mut WriteTransaction, (ledger, last, now): (u32, u64, u64)) -> Option<u64> {
    let second = now.checked_sub(head.taken_back_ms.unwrap_or(0)).filter(|&passed| passed < MARK_MS);
    if head.taken_back_ms.is_some() && second.is_some() {
        return Some(last);
    }
    head.taken_back_ms = Some(now);
    let mut mark = last_mark(head, u64::MAX >> 1);
    for _ in 0..MARKS_TAKEN_BACK {
        let Some((commit_no, _)) = mark.filter(|&(_, at_ms)| at_ms > now) else { break };
        tx.writes.delete_own(ledger, &mark_key(commit_no));
        mark = commit_no.checked_sub(1).and_then(|before| last_mark(head, before));
    }
    mark.map(|(_, at_ms)| at_ms)
}
