//! Isolation: threads work on one store, and what they saw is checked for anomalies afterwards.
//!
//! A round is one store of its own, eight threads and some thousand transactions over few keys: reads, ranges in both
//! directions, writes, deletes, savepoints, transactions that are given up, views that are held for a while; all kinds
//! of durability, a table so small that checkpoints happen all the time. The schedule of the threads is the machine's;
//! a seed repeats what each of them does, not when.
//!
//! Two checkers look at every round: `adya` looks for cycles and needs no numbers, but cannot tell one absence of a key
//! from another, so it leaves rounds with deletes out; `replay` compares with the store's own commit numbers. `Planted`
//! bugs prove that they find what they should.

mod adya;
mod history;
mod replay;
mod subject;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::{Durability, Env, Memory, Options, ReadView, Store};

pub use self::history::Anomaly;
use self::history::{History, Outcome, Read, Transaction, Value, Version, Write};
pub use self::subject::Planted;
use self::subject::{Keys, Subject, Tx};
use crate::Rng;

/// So little memory that some hundred commits make a checkpoint due.
const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 48 << 10, log_bytes: 1 << 20 };

/// Transactions for which a thread keeps a view open, at most.
const VIEW_HELD_MAX: usize = 60;

/// One store and what is done to it.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// What the threads do.
    pub seed: u64,
    /// How many there are.
    pub threads: u64,
    /// How many transactions all of them begin together.
    pub transactions: u64,
    /// A bug to plant.
    pub bug: Option<Planted>,
}

/// What happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Transactions and views, however they ended.
    pub transactions: u64,
    /// Those that changed something.
    pub committed: u64,
    /// Those that lost to another one, or were given up.
    pub aborted: u64,
    /// Reads of keys, one for each key of a range.
    pub reads: u64,
    /// Checkpoints that were written meanwhile.
    pub checkpoints: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.transactions += more.transactions;
        self.committed += more.committed;
        self.aborted += more.aborted;
        self.reads += more.reads;
        self.checkpoints += more.checkpoints;
    }
}

/// How a round goes about it, drawn from its seed.
struct Plan {
    keys: u16,
    all_serializable: bool,
    serializable_percent: u64,
    delete_percent: u64,
    durable_percent: u64,
}

impl Plan {
    fn draw(round: &Round) -> Self {
        let mut rng = Rng::new(round.seed);
        let all_serializable = rng.chance(40) || round.bug.is_some_and(Planted::needs_serializable);
        // A planted bug meets both checkers in turn.
        let deletes = match round.bug {
            None => rng.chance(30),
            Some(bug) => bug == Planted::LostDelete || round.seed.is_multiple_of(2),
        };
        Self {
            keys: *rng.pick(&[10, 24, 80, 300]),
            all_serializable,
            serializable_percent: if all_serializable { 100 } else { *rng.pick(&[0, 30]) },
            delete_percent: if deletes { 20 } else { 0 },
            durable_percent: *rng.pick(&[30, 70, 100]),
        }
    }
}

impl Round {
    /// Runs it and checks what was seen.
    pub fn run(&self) -> Result<Tally, Anomaly> {
        let plan = Plan::draw(self);
        // With a thread for checkpoints, which a world in memory does not have by itself.
        let env = Env { threads: true, ..Env::memory(self.seed) };
        let store = Store::open(env, Options::raw_key([7; 32]).memory(MEMORY)).expect("a new store opens");
        let subject = Subject::new(store.clone(), self.bug);
        let told = AtomicU64::new(0);
        let threads: Vec<Result<Vec<Transaction>, Anomaly>> = std::thread::scope(|scope| {
            let each = self.transactions.div_ceil(self.threads);
            let worker = |thread| Worker::new(thread, self.seed, &plan, &subject, &told);
            let workers: Vec<_> = (0..self.threads).map(worker).collect();
            let running = workers.into_iter().map(|worker| scope.spawn(move || worker.work(each)));
            running
                .collect::<Vec<_>>()
                .into_iter()
                .map(|thread| thread.join().expect("a thread of a round does not panic"))
                .collect()
        });
        let threads = threads.into_iter().collect::<Result<Vec<_>, Anomaly>>()?;
        let view = subject.view();
        let mut last = Vec::new();
        for key in 0..plan.keys {
            if let Some(value) = subject.get(&view, key) {
                last.push((key, decode(key, &value)?.version));
            }
        }
        let history = History { threads, last, has_deletes: plan.delete_percent > 0 };
        if !history.has_deletes {
            adya::check(&history, plan.all_serializable)?;
        }
        replay::check(&history)?;
        let checkpoints = store.stats().checkpoints;
        store.close().expect("the store closes");
        let mut tally = Tally { checkpoints, ..Tally::default() };
        for transaction in history.threads.iter().flatten() {
            tally.transactions += 1;
            tally.committed += u64::from(matches!(transaction.outcome, Outcome::Committed { commit_no: Some(_) }));
            tally.aborted += u64::from(transaction.outcome == Outcome::Aborted);
            tally.reads += transaction.reads.len() as u64;
        }
        Ok(tally)
    }

    /// Runs rounds with a planted bug until one of the checkers finds it; how many it took, and what was found.
    pub fn find(bug: Planted, rounds: u64, transactions: u64) -> Option<(u64, Anomaly)> {
        (1..=rounds).find_map(|seed| {
            let round = Self { seed, threads: 8, transactions, bug: Some(bug) };
            round.run().err().map(|anomaly| (seed, anomaly))
        })
    }
}

fn decode(key: u16, bytes: &[u8]) -> Result<Value, Anomaly> {
    Value::decode(bytes)
        .ok_or_else(|| Anomaly { name: "a value nobody wrote", what: format!("{} bytes under key {key}", bytes.len()) })
}

struct Worker<'r> {
    thread: u64,
    rng: Rng,
    plan: &'r Plan,
    subject: &'r Subject,
    /// The newest commit that anybody has been told of.
    told: &'r AtomicU64,
    done: Vec<Transaction>,
    /// A view to be looked at again: its record, and until when it is held.
    held: Option<(ReadView, usize, usize)>,
}

/// What a transaction itself has written: the version and what it replaced, `None` for a delete.
type Own = BTreeMap<u16, (Option<Version>, Option<Version>)>;

impl<'r> Worker<'r> {
    fn new(thread: u64, seed: u64, plan: &'r Plan, subject: &'r Subject, told: &'r AtomicU64) -> Self {
        let rng = Rng::new(seed ^ (thread + 1) << 40);
        Self { thread, rng, plan, subject, told, done: Vec::new(), held: None }
    }

    fn work(mut self, transactions: u64) -> Result<Vec<Transaction>, Anomaly> {
        while (self.done.len() as u64) < transactions {
            if self.held.as_ref().is_some_and(|(_, _, until)| self.done.len() >= *until) {
                self.look_again()?;
            }
            if self.rng.chance(10) && self.held.is_none() {
                self.take_view()?;
            } else {
                self.transact()?;
            }
        }
        self.look_again()?;
        Ok(self.done)
    }

    fn record(&mut self, serializable: bool, acknowledged_before: u64, snapshot: u64) -> Transaction {
        Transaction {
            id: (self.done.len() as u64 + 1) << 8 | self.thread,
            serializable,
            snapshot,
            acknowledged_before,
            reads: Vec::new(),
            writes: Vec::new(),
            outcome: Outcome::Committed { commit_no: None },
        }
    }

    fn key(&mut self) -> u16 {
        self.rng.below(usize::from(self.plan.keys)) as u16
    }

    fn keys(&mut self) -> Keys {
        let from = self.key();
        let to = (from + 1 + self.rng.below(12) as u16).min(self.plan.keys);
        Keys { tree: self.rng.below(2), from, to, backward: self.rng.chance(50) }
    }

    fn take_view(&mut self) -> Result<(), Anomaly> {
        let before = self.told.load(Ordering::SeqCst);
        let view = self.subject.view();
        let record = self.record(false, before, view.commit_no());
        self.done.push(record);
        let until = self.done.len() + self.rng.below(VIEW_HELD_MAX);
        self.held = Some((view, self.done.len() - 1, until));
        self.look(3)
    }

    /// Reads some keys of the view that is held.
    fn look(&mut self, times: usize) -> Result<(), Anomaly> {
        let Some((view, at, until)) = self.held.take() else { return Ok(()) };
        for _ in 0..times {
            let reads = if self.rng.chance(30) {
                let keys = self.keys();
                seen_in_range(&keys, &self.subject.range(&view, &keys), &Own::new())?
            } else {
                let key = self.key();
                vec![Read { key, seen: seen(key, self.subject.get(&view, key))? }]
            };
            self.done[at].reads.extend(reads);
            std::thread::yield_now();
        }
        self.held = Some((view, at, until));
        Ok(())
    }

    fn look_again(&mut self) -> Result<(), Anomaly> {
        self.look(4)?;
        self.held = None;
        Ok(())
    }

    fn transact(&mut self) -> Result<(), Anomaly> {
        let serializable = self.rng.chance(self.plan.serializable_percent);
        let before = self.told.load(Ordering::SeqCst);
        let mut tx = self.subject.begin(serializable);
        let mut record = self.record(serializable, before, tx.snapshot());
        let mut own = Own::new();
        let mut nth = 0;
        for _ in 0..1 + self.rng.below(6) {
            match self.rng.below(100) {
                0..25 => drop(self.read(&mut tx, &mut record, &own)?),
                25..40 => self.read_range(&mut tx, &mut record, &own)?,
                40..92 => self.write(&mut tx, &mut record, &mut own, &mut nth)?,
                _ => {
                    let savepoint = tx.savepoint();
                    let then = own.clone();
                    for _ in 0..1 + self.rng.below(3) {
                        self.write(&mut tx, &mut record, &mut own, &mut nth)?;
                    }
                    if self.rng.chance(60) {
                        tx.roll_back_to(savepoint);
                        own = then;
                    }
                }
            }
            if self.rng.chance(30) {
                std::thread::yield_now();
            }
        }
        record.writes = own.iter().map(|(&key, &(put, replaced))| Write { key, put, replaced }).collect();
        record.outcome = if self.rng.chance(6) {
            tx.abort();
            Outcome::Aborted
        } else {
            let durability = match self.rng.below(100) as u64 {
                n if n < self.plan.durable_percent => Durability::Durable,
                n if n % 2 == 0 => Durability::Buffered,
                _ => Durability::None,
            };
            match tx.commit(durability) {
                Some(info) => {
                    self.told.fetch_max(info.commit_no, Ordering::SeqCst);
                    Outcome::Committed { commit_no: info.changed.then_some(info.commit_no) }
                }
                None => Outcome::Aborted,
            }
        };
        self.done.push(record);
        Ok(())
    }

    fn read(&mut self, tx: &mut Tx<'_>, record: &mut Transaction, own: &Own) -> Result<(), Anomaly> {
        let key = self.key();
        read_key(tx, record, own, key).map(drop)
    }

    fn read_range(&mut self, tx: &mut Tx<'_>, record: &mut Transaction, own: &Own) -> Result<(), Anomaly> {
        let keys = self.keys();
        record.reads.extend(seen_in_range(&keys, &tx.range(&keys), own)?);
        Ok(())
    }

    /// Reads a key and writes over what it found: nobody writes blindly, so that versions link up.
    fn write(
        &mut self,
        tx: &mut Tx<'_>,
        record: &mut Transaction,
        own: &mut Own,
        nth: &mut u32,
    ) -> Result<(), Anomaly> {
        let key = self.key();
        let found = read_key(tx, record, own, key)?;
        let replaced = own.get(&key).map_or(found, |(_, replaced)| *replaced);
        if self.rng.chance(self.plan.delete_percent) {
            tx.delete(key);
            own.insert(key, (None, replaced));
        } else {
            *nth += 1;
            let version = Version { writer: record.id, nth: *nth };
            tx.put(key, &Value { version, replaced }.encode());
            own.insert(key, (Some(version), replaced));
        }
        Ok(())
    }
}

fn seen(key: u16, value: Option<Vec<u8>>) -> Result<Option<Version>, Anomaly> {
    value.map(|value| decode(key, &value).map(|value| value.version)).transpose()
}

/// Reads a key. Own writes must be seen; what is seen of others is recorded.
fn read_key(tx: &mut Tx<'_>, record: &mut Transaction, own: &Own, key: u16) -> Result<Option<Version>, Anomaly> {
    let found = seen(key, tx.get(key))?;
    match own.get(&key) {
        Some((mine, _)) if *mine != found => Err(not_own(key, found)),
        Some(_) => Ok(found),
        None => {
            record.reads.push(Read { key, seen: found });
            Ok(found)
        }
    }
}

/// What a range says about each of its keys, absent ones included.
fn seen_in_range(keys: &Keys, found: &[(u16, Vec<u8>)], own: &Own) -> Result<Vec<Read>, Anomaly> {
    let mut of_key = BTreeMap::new();
    for (n, (key, value)) in found.iter().enumerate() {
        let in_order = n == 0 || (found[n - 1].0 < *key) != keys.backward;
        if !in_order || of_key.insert(*key, decode(*key, value)?.version).is_some() {
            return Err(Anomaly { name: "a range out of order", what: format!("{keys:?} at key {key}") });
        }
    }
    let mut reads = Vec::new();
    for key in keys.iter() {
        let seen = of_key.remove(&key);
        match own.get(&key) {
            Some((mine, _)) if *mine != seen => return Err(not_own(key, seen)),
            Some(_) => {}
            None => reads.push(Read { key, seen }),
        }
    }
    match of_key.keys().next() {
        Some(key) => Err(Anomaly { name: "a range beyond its bounds", what: format!("{keys:?} gave key {key}") }),
        None => Ok(reads),
    }
}

fn not_own(key: u16, found: Option<Version>) -> Anomaly {
    Anomaly { name: "own write not seen", what: format!("key {key} shows {found:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_see_no_anomaly() {
        let mut all = Tally::default();
        for seed in 1..=6 {
            let round = Round { seed, threads: 8, transactions: 1500, bug: None };
            match round.run() {
                Ok(tally) => all += tally,
                Err(anomaly) => panic!("round {seed}: {anomaly}"),
            }
        }
        assert!(all.committed > 2000 && all.aborted > 100 && all.checkpoints > 0, "{all:?}");
    }

    #[test]
    fn every_planted_bug_is_found() {
        for bug in Planted::ALL {
            assert!(Round::find(bug, 20, 1500).is_some(), "{bug} was not found");
        }
    }
}
