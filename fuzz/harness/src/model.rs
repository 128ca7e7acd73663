//! The store against a map of versions, one step at a time.
//!
//! A step is one call, drawn from a seed: a read, a write, a savepoint, a commit, a range from either end, a view taken
//! or looked at again, a checkpoint, a reopening. The model keeps every version of every key with the number of its
//! commit, so it knows what a view of any age shows, which commits conflict and what a crash may take away; it has no
//! pages, no tables and no log. After every step what the store says must be what the model says.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;

use blazedb_engine::env::{SimDisk, Survivors};
use blazedb_engine::{
    ChangeFeed, ChangeKind, CommitError, Durability, FeedEvent, Memory, Options, ReadView, Savepoint, Store, TreeId,
    WriteTransaction,
};

use crate::Rng;

const NAME: &str = "model.blaze";
/// So little memory that some dozen commits make a checkpoint due.
const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 24 << 10, log_bytes: 256 << 10 };
const TREES: [&str; 3] = ["apples", "pears", "quinces"];
/// Keys of a tree, so few that transactions meet.
const KEYS: usize = 120;
const OPEN_MAX: usize = 3;
const VIEWS_MAX: usize = 8;
/// Steps between two reopenings, on average.
const REOPEN_EVERY: usize = 500;
/// More commits than a step can make.
const FEED_COMMITS: usize = 16;

type Key = (u8, Vec<u8>);
type Value = Option<Rc<[u8]>>;

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps.
    pub steps: u64,
    /// Commits that changed something.
    pub commits: u64,
    /// Commits that were refused for a conflict, as the model said.
    pub conflicts: u64,
    /// Times that the store was closed, dropped or crashed, and opened again.
    pub reopenings: u64,
    /// Commits that a crash took away, as it may what is not durable.
    pub lost: u64,
    /// Looks at views that were older than the newest commit.
    pub old_looks: u64,
    /// Checkpoints.
    pub checkpoints: u64,
}

/// Every key's versions, ascending by commit.
#[derive(Default)]
struct Versions {
    of: BTreeMap<Key, Vec<(u64, Value)>>,
    newest: u64,
    durable: u64,
}

impl Versions {
    fn at(&self, key: &Key, commit_no: u64) -> Value {
        self.of.get(key).and_then(|versions| version_at(versions, commit_no))
    }

    /// The keys with values of a tree at a commit, within bounds, under a transaction's own writes.
    fn range(&self, tree: u8, bounds: &Bounds, commit_no: u64, own: &BTreeMap<Key, Value>) -> Vec<(Vec<u8>, Rc<[u8]>)> {
        let inside = |key: &Key| key.0 == tree && inside(bounds, &key.1);
        let mut all: BTreeMap<&Vec<u8>, Value> = BTreeMap::new();
        for (key, versions) in self.of.iter().filter(|(key, _)| inside(key)) {
            all.insert(&key.1, version_at(versions, commit_no));
        }
        for (key, value) in own.iter().filter(|(key, _)| inside(key)) {
            all.insert(&key.1, value.clone());
        }
        all.into_iter().filter_map(|(key, value)| Some((key.clone(), value?))).collect()
    }

    fn commit(&mut self, commit_no: u64, writes: &BTreeMap<Key, Value>) {
        self.newest = commit_no;
        for (key, value) in writes {
            self.of.entry(key.clone()).or_default().push((commit_no, value.clone()));
        }
    }

    /// With no view left that is older, only what is newest at `commit_no` counts; what is newer was lost.
    fn settle_at(&mut self, commit_no: u64) {
        self.of.retain(|_, versions| {
            let value = version_at(versions, commit_no);
            *versions = value.map(|value| vec![(0, Some(value))]).unwrap_or_default();
            !versions.is_empty()
        });
        (self.newest, self.durable) = (commit_no, commit_no);
    }
}

fn version_at(versions: &[(u64, Value)], commit_no: u64) -> Value {
    let after = versions.partition_point(|(no, _)| *no <= commit_no);
    versions[..after].last().and_then(|(_, value)| value.clone())
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn borrowed(bounds: &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice))
}

fn inside(bounds: &Bounds, key: &[u8]) -> bool {
    RangeBounds::<[u8]>::contains(&borrowed(bounds), key)
}

/// A transaction and what the model knows of it.
struct Open {
    tx: WriteTransaction,
    snapshot: u64,
    own: BTreeMap<Key, Value>,
    savepoints: Vec<(Savepoint, BTreeMap<Key, Value>)>,
    serializable: bool,
    /// Keys that must not move until the commit.
    checked: BTreeSet<Key>,
    ranges: Vec<(u8, Bounds)>,
}

/// A store, its model, and all that is open.
struct Run {
    rng: Rng,
    disk: SimDisk,
    store: Store,
    trees: [TreeId; 3],
    feed: ChangeFeed,
    versions: Versions,
    open: Vec<Open>,
    views: Vec<(ReadView, u64)>,
    report: Report,
}

/// Takes as many steps as asked for; panics at the first that the model does not agree with, naming it.
pub fn run(seed: u64, steps: u64) -> Report {
    let disk = SimDisk::new(seed);
    let (store, trees, feed) = open(&disk);
    let rng = Rng::new(seed);
    let versions = Versions::default();
    let report = Report::default();
    let mut run = Run { rng, disk, store, trees, feed, versions, open: Vec::new(), views: Vec::new(), report };
    for step in 1..=steps {
        let stepped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.step()));
        if let Err(panic) = stepped {
            let again = format!("again: cargo prove -- model --seed {seed} --steps {step}");
            let what = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("seed {seed}, step {step}: {what}\n{again}");
        }
        run.report.steps += 1;
    }
    run.report.checkpoints += run.store.stats().checkpoints;
    run.report
}

fn open(disk: &SimDisk) -> (Store, [TreeId; 3], ChangeFeed) {
    let options = Options::raw_key([5; 32]).memory(MEMORY).snapshot_bytes_max(1 << 30);
    let store = Store::open(disk.env(NAME), options).expect("a sound file opens");
    let trees = TREES.map(|name| store.tree(name).expect("a good name"));
    let feed = store.subscribe(FEED_COMMITS);
    (store, trees, feed)
}

const READS: &str = "a sound store reads";

impl Run {
    fn step(&mut self) {
        if self.rng.below(REOPEN_EVERY) == 0 {
            return self.reopen();
        }
        match self.rng.below(100) {
            0..4 => self.take_view(),
            4..12 => self.look_at_view(),
            12..13 if self.rng.chance(30) => {
                self.store.checkpoint().expect("checkpoints");
                self.versions.durable = self.versions.newest;
            }
            13..14 => {
                self.store.flush().expect("flushes");
                self.versions.durable = self.versions.newest;
            }
            14..15 if self.rng.chance(5) => {
                self.store.verify(&mut |_| {}).expect("pages and space agree");
            }
            _ if self.open.is_empty() || self.open.len() < OPEN_MAX && self.rng.chance(5) => self.begin(),
            15..26 => self.commit(),
            26..28 => {
                let at = self.rng.below(self.open.len());
                self.open.swap_remove(at);
            }
            28..55 => self.write(),
            55..60 => self.savepoint(),
            60..80 => self.read(),
            _ => self.read_range(),
        }
    }

    fn key(&mut self) -> Key {
        let tree = self.rng.below(TREES.len()) as u8;
        let n = self.rng.below(KEYS) as u16;
        // A few keys are long, so that inner nodes have to shorten them.
        let mut key = n.to_be_bytes().to_vec();
        key.resize(if n.is_multiple_of(16) { 300 } else { 2 + usize::from(n % 5) }, b'k');
        (tree, key)
    }

    fn value(&mut self) -> Rc<[u8]> {
        let len = match self.rng.below(400) {
            0 => 40_000,
            1..10 => self.rng.below(9_000),
            10..50 => self.rng.below(700),
            _ => self.rng.below(60),
        };
        let mut value = self.rng.draw().to_le_bytes().to_vec();
        value.resize(8 + len, value[0]);
        value.into()
    }

    fn begin(&mut self) {
        let mut tx = self.store.write();
        let snapshot = tx.snapshot_commit_no();
        assert_eq!(snapshot, self.versions.newest, "a transaction begins at the newest commit");
        let serializable = self.rng.chance(30);
        if serializable {
            tx.serializable();
        }
        self.open.push(Open {
            tx,
            snapshot,
            own: BTreeMap::new(),
            savepoints: Vec::new(),
            serializable,
            checked: BTreeSet::new(),
            ranges: Vec::new(),
        });
    }

    fn write(&mut self) {
        let at = self.rng.below(self.open.len());
        let key = self.key();
        let tree = self.trees[usize::from(key.0)];
        let value = (!self.rng.chance(25)).then(|| self.value());
        let cut = self.rng.chance(20).then(|| self.rng.below(8));
        let open = &mut self.open[at];
        match (&value, cut) {
            (Some(value), Some(cut)) => open.tx.put_pieces(tree, &key.1, &[&value[..cut], &value[cut..]]),
            (Some(value), None) => open.tx.put(tree, &key.1, value),
            (None, _) => open.tx.delete(tree, &key.1),
        }
        .expect("within all limits");
        open.own.insert(key, value);
    }

    fn savepoint(&mut self) {
        let at = self.rng.below(self.open.len());
        let back = self.rng.chance(50);
        let open = &mut self.open[at];
        if back && !open.savepoints.is_empty() {
            let to = self.rng.below(open.savepoints.len());
            open.savepoints.truncate(to + 1);
            let (savepoint, then) = open.savepoints[to].clone();
            open.tx.roll_back_to(savepoint);
            open.own = then;
        } else {
            open.savepoints.push((open.tx.savepoint(), open.own.clone()));
        }
    }

    fn read(&mut self) {
        let at = self.rng.below(self.open.len());
        let key = self.key();
        let checked = self.rng.chance(10);
        let tree = self.trees[usize::from(key.0)];
        let open = &mut self.open[at];
        let found = if checked { open.tx.read_checked(tree, &key.1) } else { open.tx.get(tree, &key.1) }.expect(READS);
        let own = open.own.get(&key).cloned();
        if checked || open.serializable && own.is_none() {
            open.checked.insert(key.clone());
        }
        let want = own.unwrap_or_else(|| self.versions.at(&key, open.snapshot));
        assert_eq!(found.as_deref(), want.as_deref(), "key {key:?}");
    }

    fn bounds(&mut self) -> Bounds {
        let mut bound = || {
            let (_, key) = self.key();
            match self.rng.below(5) {
                0 => Bound::Unbounded,
                1 | 2 => Bound::Included(key),
                _ => Bound::Excluded(key),
            }
        };
        (bound(), bound())
    }

    fn read_range(&mut self) {
        let at = self.rng.below(self.open.len());
        let tree = self.rng.below(TREES.len()) as u8;
        let by_prefix = self.rng.chance(10);
        let bounds = if by_prefix {
            let first = self.rng.below(2) as u8;
            (Bound::Included(vec![first]), Bound::Excluded(vec![first + 1]))
        } else {
            self.bounds()
        };
        let open = &mut self.open[at];
        let want = self.versions.range(tree, &bounds, open.snapshot, &open.own);
        let id = self.trees[usize::from(tree)];
        let cursor = match &bounds.0 {
            Bound::Included(prefix) if by_prefix => open.tx.prefix(id, prefix),
            _ => open.tx.range(id, borrowed(&bounds)),
        };
        walk(&mut self.rng, cursor, want);
        if open.serializable {
            open.ranges.push((tree, bounds));
        }
    }

    fn commit(&mut self) {
        let at = self.rng.below(self.open.len());
        let mut open = self.open.swap_remove(at);
        let durability = *self.rng.pick(&[Durability::Durable, Durability::Buffered, Durability::None]);
        // In the serial section the newest state is read and written, exempt from the check.
        let hooked = self.rng.chance(15).then(|| (self.key(), self.value()));
        let (may, must) = self.conflicts(&open);
        let refused = hooked.is_some() && self.rng.chance(10);
        let newest = self.versions.newest;
        let label = self.rng.draw() as u32;
        open.tx.label(label);
        let result = open.tx.commit_with(durability, |serial| {
            if let Some((key, value)) = &hooked {
                let tree = self.trees[usize::from(key.0)];
                let want = open.own.get(key).cloned().unwrap_or_else(|| self.versions.at(key, newest));
                assert_eq!(serial.get(tree, &key.1)?.as_deref(), want.as_deref(), "the hook reads the newest");
                assert_eq!(serial.commit_no(), newest + 1);
                serial.put(tree, &key.1, value)?;
            }
            if refused { Err(blazedb_engine::HookError::new("refused")) } else { Ok(()) }
        });
        match result {
            Ok(info) => {
                assert!(!must && !refused, "it should have been refused");
                if let Some((key, value)) = hooked {
                    open.own.insert(key, Some(value));
                }
                assert_eq!(info.changed, !open.own.is_empty());
                if info.changed {
                    assert_eq!(info.commit_no, newest + 1, "numbers have no gaps");
                    self.versions.commit(info.commit_no, &open.own);
                    self.report.commits += 1;
                    if durability == Durability::Durable {
                        self.versions.durable = info.commit_no;
                    }
                    self.check_news(info.commit_no, label, &open.own);
                }
            }
            Err(CommitError::Conflict { .. }) => {
                assert!(may, "nobody wrote what this transaction wrote or checked");
                self.report.conflicts += 1;
            }
            Err(CommitError::Hook(_)) => assert!(refused && !must),
            Err(error) => panic!("{error}"),
        }
        assert_eq!(self.feed.try_recv(), None, "nothing else was committed");
    }

    fn check_news(&self, commit_no: u64, label: u32, writes: &BTreeMap<Key, Value>) {
        let Some(FeedEvent::Commit(news)) = self.feed.try_recv() else { panic!("commit {commit_no} is not told") };
        assert_eq!((news.commit_no, news.label), (commit_no, label));
        let kind = |value: &Value| if value.is_some() { ChangeKind::Put } else { ChangeKind::Delete };
        let tell = |(key, value): (&'_ Key, &Value)| (self.trees[usize::from(key.0)], key.1.clone(), kind(value));
        // By number: which tree got which depends on which was written to first.
        let mut want: Vec<_> = writes.iter().map(tell).collect();
        want.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let told: Vec<_> = news.changes.iter().map(|c| (c.tree, c.key.to_vec(), c.kind)).collect();
        assert_eq!(told, want, "every key once, and no other");
    }

    /// Whether a commit may be refused, and whether it must be. Between the two lie keys that were changed and changed
    /// back: what a checkpoint has moved into pages is compared by value.
    fn conflicts(&self, open: &Open) -> (bool, bool) {
        let (mut may, mut must) = (false, false);
        let mut look = |key: &Key, versions: &[(u64, Value)]| {
            if versions.last().is_some_and(|(no, _)| *no > open.snapshot) {
                may = true;
                must |= self.versions.at(key, open.snapshot) != self.versions.at(key, self.versions.newest);
            }
        };
        for key in open.own.keys().chain(&open.checked) {
            if let Some(versions) = self.versions.of.get(key) {
                look(key, versions);
            }
        }
        for (tree, bounds) in &open.ranges {
            for (key, versions) in self.versions.of.iter().filter(|(k, _)| k.0 == *tree && inside(bounds, &k.1)) {
                look(key, versions);
            }
        }
        (may, must)
    }

    fn take_view(&mut self) {
        let view = if self.rng.chance(20) && !self.views.is_empty() {
            let (view, commit_no) = self.rng.pick(&self.views);
            (view.clone(), *commit_no)
        } else {
            let view = self.store.read();
            assert_eq!(view.commit_no(), self.versions.newest, "a view shows the newest commit");
            let commit_no = view.commit_no();
            (view, commit_no)
        };
        self.views.push(view);
        if self.views.len() > VIEWS_MAX {
            let gone = self.rng.below(self.views.len());
            self.views.swap_remove(gone);
        }
    }

    fn look_at_view(&mut self) {
        if self.views.is_empty() {
            return;
        }
        let at = self.rng.below(self.views.len());
        let (key, bounds, how) = (self.key(), self.bounds(), self.rng.below(7));
        let (view, commit_no) = &self.views[at];
        self.report.old_looks += u64::from(*commit_no < self.versions.newest);
        let tree = self.trees[usize::from(key.0)];
        let want = self.versions.at(&key, *commit_no);
        let everything =
            || self.versions.range(key.0, &(Bound::Unbounded, Bound::Unbounded), *commit_no, &BTreeMap::new());
        match how {
            0 => assert_eq!(view.get(tree, &key.1).expect(READS).as_deref(), want.as_deref()),
            1 => {
                let same = view.get_with(tree, &key.1, |value| Some(value) == want.as_deref()).expect(READS);
                assert!(same.unwrap_or(want.is_none()));
            }
            2 => {
                assert_eq!(view.contains(tree, &key.1).expect(READS), want.is_some());
                let len = want.as_ref().map(|value| value.len() as u64);
                assert_eq!(view.value_len(tree, &key.1).expect(READS), len);
            }
            3 => {
                let (mut part, offset) = ([0; 500], self.rng.below(5_000));
                let found = view.read_value(tree, &key.1, offset as u64, &mut part).expect(READS);
                let want =
                    want.as_deref().map(|value| &value[offset.min(value.len())..(offset + 500).min(value.len())]);
                assert_eq!(found.map(|n| &part[..n]), want);
            }
            4 => {
                let want = everything();
                assert_eq!(view.len(tree).expect(READS), want.len() as u64);
                assert_eq!(view.is_empty(tree).expect(READS), want.is_empty());
            }
            5 => walk(&mut self.rng, view.range(tree, ..), everything()),
            _ => {
                let want = self.versions.range(key.0, &bounds, *commit_no, &BTreeMap::new());
                walk(&mut self.rng, view.range(tree, borrowed(&bounds)), want);
            }
        }
    }

    fn reopen(&mut self) {
        self.report.reopenings += 1;
        self.report.checkpoints += self.store.stats().checkpoints;
        self.open.clear();
        self.views.clear();
        match self.rng.below(4) {
            // The last handle closes, too.
            0 => {}
            1 => {
                self.store.close().expect("closes");
            }
            _ => {
                let survivors = *self.rng.pick(&Survivors::ALL);
                self.disk = self.disk.after_crash(survivors, self.rng.draw());
            }
        }
        // The old store goes before its file is opened again.
        let empty = SimDisk::new(0);
        (self.store, self.trees, self.feed) = open(&empty);
        (self.store, self.trees, self.feed) = open(&self.disk);
        let found = self.store.read().commit_no();
        let (durable, newest) = (self.versions.durable, self.versions.newest);
        assert!((durable..=newest).contains(&found), "commit {found} of {durable} durable ones and {newest} in all");
        self.report.lost += newest - found;
        self.versions.settle_at(found);
        for tree in 0..TREES.len() as u8 {
            let want = self.versions.range(tree, &(Bound::Unbounded, Bound::Unbounded), found, &BTreeMap::new());
            walk(&mut self.rng, self.store.read().range(self.trees[usize::from(tree)], ..), want);
        }
    }
}

/// Compares what a cursor gives from both ends, in any order, with what it should.
fn walk(
    rng: &mut Rng,
    mut cursor: impl DoubleEndedIterator<Item = Result<(bytes::Bytes, bytes::Bytes), blazedb_engine::ReadError>>,
    want: Vec<(Vec<u8>, Rc<[u8]>)>,
) {
    let back_percent = *rng.pick(&[0, 50, 100]);
    // Cursors that are given up on the way are as common as those that come to their end.
    let steps = if rng.chance(50) { want.len() + 1 } else { rng.below(want.len() + 1) };
    let mut want = want.into_iter();
    for _ in 0..steps {
        let back = rng.chance(back_percent);
        let found = if back { cursor.next_back() } else { cursor.next() }.transpose().expect(READS);
        let next = if back { want.next_back() } else { want.next() };
        let same = match (&found, &next) {
            (Some((key, value)), Some(next)) => *key == next.0 && value[..] == next.1[..],
            (None, None) => true,
            _ => false,
        };
        assert!(same, "a cursor gives {:?}, not {:?}", found.map(|f| f.0), next.map(|n| n.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_does_what_the_model_does() {
        for seed in 1..=3 {
            let report = run(seed, 6_000);
            assert!(report.commits > 200 && report.conflicts > 5 && report.reopenings > 2, "{report:?}");
            assert!(report.old_looks > 100 && report.checkpoints > 10, "{report:?}");
        }
    }
}
