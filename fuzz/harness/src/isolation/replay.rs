//! The history against the store's own numbers: every commit is applied to a map of versions in the order of its
//! number, and every read must be what the map had at its transaction's snapshot.
//!
//! Stricter than isolation asks for: a store that is consistent but shows another commit
//! than it says fails here, one that mixes numbers up as well. Deletes are seen, too.

use std::collections::HashMap;

use super::history::{Anomaly, History, Outcome, Transaction, Version};

/// Versions of a key and the commits they came with, ascending.
type Versions = HashMap<u16, Vec<(u64, Option<Version>)>>;

fn at(versions: &Versions, key: u16, commit_no: u64) -> Option<Version> {
    let of_key = versions.get(&key)?;
    let after = of_key.partition_point(|(no, _)| *no <= commit_no);
    of_key[..after].last()?.1
}

pub(crate) fn check(history: &History) -> Result<(), Anomaly> {
    let mut committed: Vec<(u64, &Transaction)> = Vec::new();
    for transaction in history.threads.iter().flatten() {
        if let Outcome::Committed { commit_no: Some(no) } = transaction.outcome {
            committed.push((no, transaction));
        }
    }
    committed.sort_by_key(|(no, _)| *no);
    if let Some(pair) = committed.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (a, b) = (pair[0].1.id, pair[1].1.id);
        return Err(Anomaly { name: "a number given twice", what: format!("commit {} is {a} and {b}", pair[0].0) });
    }
    let mut versions = Versions::new();
    for (no, transaction) in &committed {
        for write in &transaction.writes {
            versions.entry(write.key).or_default().push((*no, write.put));
        }
    }
    for transaction in history.threads.iter().flatten() {
        check_transaction(&versions, transaction)?;
    }
    let mut last: Vec<(u16, Version)> =
        versions.keys().filter_map(|&key| Some((key, at(&versions, key, u64::MAX)?))).collect();
    last.sort_unstable();
    if last != history.last {
        let wrong = history.last.iter().find(|entry| !last.contains(entry)).or_else(|| last.first());
        return Err(Anomaly { name: "wrong end", what: format!("the last view differs, for example {wrong:?}") });
    }
    Ok(())
}

fn check_transaction(versions: &Versions, transaction: &Transaction) -> Result<(), Anomaly> {
    let id = transaction.id;
    let snapshot = transaction.snapshot;
    if snapshot < transaction.acknowledged_before {
        let what = format!("{id} begins at {snapshot}, after {} was told", transaction.acknowledged_before);
        return Err(Anomaly { name: "stale snapshot", what });
    }
    for read in &transaction.reads {
        let want = at(versions, read.key, snapshot);
        if read.seen != want {
            let what = format!("{id} at {snapshot} reads {:?} of key {}, not {want:?}", read.seen, read.key);
            return Err(Anomaly { name: "wrong read", what });
        }
    }
    let Outcome::Committed { commit_no: Some(commit_no) } = transaction.outcome else { return Ok(()) };
    if commit_no <= snapshot {
        let what = format!("{id} begins at {snapshot} and is commit {commit_no}");
        return Err(Anomaly { name: "number in the past", what });
    }
    let moved = |key: u16| at(versions, key, snapshot) != at(versions, key, commit_no - 1);
    if let Some(write) = transaction.writes.iter().find(|write| moved(write.key)) {
        let what = format!("{id}, {snapshot} to {commit_no}, writes over another's key {}", write.key);
        return Err(Anomaly { name: "lost update", what });
    }
    if transaction.serializable
        && let Some(read) = transaction.reads.iter().find(|read| moved(read.key))
    {
        let what = format!("{id}, {snapshot} to {commit_no}, has read key {}, which moved", read.key);
        return Err(Anomaly { name: "unserializable read", what });
    }
    Ok(())
}
