//! What the tests share: a seeded generator, a model of the store, and a workload that may crash anywhere.

use std::collections::BTreeMap;

use blazedb_engine::env::SimDisk;
use blazedb_engine::{
    CommitError, Durability, Env, Memory, Options, ReadError, ReadView, Store, TreeId, WriteTransaction,
};
use bytes::Bytes;

pub(crate) const NAME: &str = "a.blaze";

/// What a store holds: tree name -> key -> value.
pub(crate) type Model = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }

    pub(crate) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// So little memory that a few dozen commits make a checkpoint due.
pub(crate) const SMALL: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 24 << 10, log_bytes: 256 << 10 };

/// How many times as long as usual the tests with random steps run: `BLAZE_TEST_SCALE`, 1 where it is not set.
pub(crate) fn scale() -> u64 {
    std::env::var("BLAZE_TEST_SCALE").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// Options that open fast, as a raw key needs no stretching, and with little memory.
pub(crate) fn options() -> Options {
    Options::raw_key([42; 32]).memory(SMALL)
}

/// The same without encryption.
pub(crate) fn unencrypted() -> Options {
    Options::unencrypted().memory(SMALL)
}

/// The same with so much memory that only `Store::checkpoint` and a close write pages.
pub(crate) fn roomy() -> Options {
    options().memory(Memory::CLIENT)
}

pub(crate) fn open(disk: &SimDisk) -> Store {
    Store::open(disk.env(NAME), options()).expect("the store opens")
}

/// Returns what a cursor gave, as a map holds it.
pub(crate) fn owned(item: Result<(Bytes, Bytes), ReadError>) -> (Vec<u8>, Vec<u8>) {
    let (key, value) = item.expect("a sound store reads");
    (key.to_vec(), value.to_vec())
}

/// Reads everything there is.
pub(crate) fn content(view: &ReadView) -> Model {
    try_content(view).expect("a sound store reads")
}

/// Reads everything there is, from both ends.
pub(crate) fn try_content(view: &ReadView) -> Result<Model, ReadError> {
    let mut model = Model::new();
    for name in view.tree_names()? {
        let tree = view.tree(&name)?.expect("a name of this view");
        let mut entries = BTreeMap::new();
        for item in view.range(tree, ..) {
            let (key, value) = item?;
            entries.insert(key.to_vec(), value.to_vec());
        }
        let mut back = view.range(tree, ..).rev();
        for (key, value) in entries.iter().rev() {
            let found = back.next().expect("as long as forward")?;
            assert!(found.0 == key && found.1 == value, "backward shows what forward does");
        }
        assert!(back.next().is_none());
        assert_eq!(entries.len() as u64, view.len(tree)?);
        if !entries.is_empty() {
            model.insert(name, entries);
        }
    }
    Ok(model)
}

pub(crate) fn model_of(store: &Store) -> Model {
    content(&store.read())
}

/// Puts one value durably.
pub(crate) fn put(store: &Store, tree: &str, key: &[u8], value: &[u8]) -> Result<u64, CommitError> {
    let mut tx = store.write();
    let tree = tx.tree(tree)?;
    tx.put(tree, key, value)?;
    Ok(tx.commit()?.commit_no)
}

pub(crate) fn get(store: &Store, tree: &str, key: &[u8]) -> Option<Vec<u8>> {
    let view = store.read();
    let tree: TreeId = view.tree(tree).expect("the catalogue reads")?;
    view.get(tree, key).expect("a tree of this view").map(|v| v.to_vec())
}

/// Makes random changes in a transaction and in the model alike.
pub(crate) fn random_changes(random: &mut Random, tx: &mut WriteTransaction, model: &mut Model) {
    for _ in 0..=random.below(6) {
        let name = ["rows", "operations", "index"][random.below(3) as usize];
        let tree = tx.tree(name).expect("a good name");
        let key = random.below(40).to_be_bytes()[6..].to_vec();
        if random.below(4) == 0 {
            tx.delete(tree, &key).expect("a good key");
            if let Some(entries) = model.get_mut(name) {
                entries.remove(&key);
            }
        } else {
            let len = if random.below(8) == 0 { 3000 } else { 60 };
            let len = random.below(len);
            let value = random.bytes(len);
            tx.put(tree, &key, &value).expect("a good value");
            model.entry(name.to_owned()).or_default().insert(key, value);
        }
    }
    model.retain(|_, entries| !entries.is_empty());
}

/// A run of a workload: every state that the store was told to take, and which it must at least show now.
pub(crate) struct Run {
    pub(crate) states: Vec<Model>,
    pub(crate) acknowledged: usize,
    pub(crate) finished: bool,
}

impl Run {
    /// Panics unless `found` is a state of this run that is not older than the newest acknowledged one.
    pub(crate) fn check(&self, found: &Model, context: &str) {
        let fits = self.states[self.acknowledged..].iter().any(|state| state == found);
        assert!(
            fits,
            "{context}: the store shows {}, acknowledged was state {} of {}",
            match self.states.iter().rposition(|s| s == found) {
                Some(i) => format!("state {i}"),
                None => "no state that it was ever told to take".into(),
            },
            self.acknowledged,
            self.states.len() - 1,
        );
    }
}

/// Opens, commits in all ways, checkpoints, closes, opens again; stops at the first error. The states are those
/// after `base`.
pub(crate) fn workload(env: Env, options: &Options, seed: u64, steps: u64, base: Model) -> Run {
    let mut run = Run { states: vec![base], acknowledged: 0, finished: false };
    let mut random = Random::new(seed);
    let Ok(mut store) = Store::open(env.clone(), options.clone()) else { return run };
    for step in 1..=steps {
        let mut model = run.states.last().expect("there is a first state").clone();
        let mut tx = store.write();
        random_changes(&mut random, &mut tx, &mut model);
        let durability = if random.below(4) == 0 { Durability::Buffered } else { Durability::Durable };
        let counter = store.tree("counter").expect("a good name");
        model.entry("counter".into()).or_default().insert(b"n".to_vec(), step.to_le_bytes().to_vec());
        run.states.push(model);
        let committed = tx.commit_with(durability, |serial| {
            serial.put(counter, b"n", &step.to_le_bytes())?;
            Ok(())
        });
        if committed.is_err() {
            return run;
        }
        if durability == Durability::Durable {
            run.acknowledged = run.states.len() - 1;
        }
        let maintained = match random.below(12) {
            0 => store.checkpoint().is_ok(),
            1 => {
                let closed = store.close().is_ok();
                if closed {
                    run.acknowledged = run.states.len() - 1;
                }
                drop(store);
                match Store::open(env.clone(), options.clone()) {
                    Ok(again) => store = again,
                    Err(_) => return run,
                }
                closed
            }
            2 => {
                let flushed = store.flush().is_ok();
                if flushed {
                    run.acknowledged = run.states.len() - 1;
                }
                flushed
            }
            _ => true,
        };
        if !maintained {
            return run;
        }
    }
    run.finished = store.close().is_ok();
    if run.finished {
        run.acknowledged = run.states.len() - 1;
    }
    run
}
