//! Calls in any order on a store whose disk may lose power, beside a map of what each commit left.

use std::collections::BTreeMap;

use super::SMALL;
use crate::env::{SimDisk, Survivors};
use crate::options::Options;
use crate::store::Store;
use crate::txn::{Durability, ReadView};

/// Tree name -> key -> value.
type Model = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

const NAME: &str = "a.blaze";
const TREES: [&str; 3] = ["notes", "tags", "index"];
/// Calls of one input: what a long one adds are more of the same.
const CALLS_MAX: usize = 300;

/// What is changed between two commits.
type Changes = Vec<(&'static str, Vec<u8>, Option<Vec<u8>>)>;

struct World {
    disk: SimDisk,
    options: Options,
    store: Store,
    /// What each commit left, by its number; the first is that of `durable`.
    states: Vec<Model>,
    /// The newest commit that a power cut must not take away.
    durable: u64,
    views: Vec<(ReadView, Model)>,
}

/// Takes an input apart, a few bits at a time.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }
}

impl World {
    fn open(disk: SimDisk, options: Options) -> Self {
        let store = Store::open(disk.env(NAME), options.clone()).expect("a sound disk opens");
        Self { disk, options, store, states: vec![Model::new()], durable: 0, views: Vec::new() }
    }

    fn newest(&self) -> &Model {
        self.states.last().expect("there is always a state")
    }

    fn last_commit(&self) -> u64 {
        self.durable + self.states.len() as u64 - 1
    }

    /// Says that commits up to this one survive.
    fn survives(&mut self, commit_no: u64) {
        if commit_no > self.durable {
            self.states.drain(..(commit_no - self.durable) as usize);
            self.durable = commit_no;
        }
    }

    fn commit(&mut self, changes: Changes, durability: Durability) {
        let mut model = self.newest().clone();
        let mut tx = self.store.write();
        for (name, key, value) in changes {
            let tree = tx.tree(name).expect("a short name");
            match value {
                Some(value) => {
                    tx.put(tree, &key, &value).expect("it is short");
                    model.entry(name).or_default().insert(key, value);
                }
                None => {
                    tx.delete(tree, &key).expect("it is short");
                    if let Some(entries) = model.get_mut(name) {
                        entries.remove(&key);
                    }
                }
            }
        }
        let info = tx.commit_with(durability, |_| Ok(())).expect("nobody else writes, and the disk is sound");
        if info.changed {
            assert_eq!(info.commit_no, self.last_commit() + 1, "commits are numbered one after another");
            self.states.push(model);
            if durability == Durability::Durable {
                self.survives(info.commit_no);
            }
        }
    }

    /// Opens the store again after a close or a power cut, and finds out which state is there.
    fn open_again(&mut self) {
        self.views.clear();
        self.store = Store::open(self.disk.env(NAME), self.options.clone()).expect("what survived opens");
        let commit = self.store.stats().commit_no;
        assert!(commit >= self.durable, "commit {} was acknowledged, and {commit} is there", self.durable);
        assert!(commit <= self.last_commit(), "commit {commit} was never made");
        self.states.truncate((commit - self.durable) as usize + 1);
        // Whatever opening has shown must not be taken away any more.
        self.survives(commit);
        assert_shows(&self.store.read(), self.newest());
    }
}

fn assert_shows(view: &ReadView, model: &Model) {
    for name in TREES {
        let expected = model.get(name).cloned().unwrap_or_default();
        let Some(tree) = view.tree(name).expect("the disk is sound") else {
            assert!(expected.is_empty(), "{name} is gone");
            continue;
        };
        let pair = |item: Result<(bytes::Bytes, bytes::Bytes), _>| {
            let (key, value) = item.expect("the disk is sound");
            (key.to_vec(), value.to_vec())
        };
        let forward: Vec<_> = view.range(tree, ..).map(pair).collect();
        assert!(forward.iter().cloned().eq(expected.clone()), "{name} from the front");
        let backward: Vec<_> = view.range(tree, ..).rev().map(pair).collect();
        assert!(backward.into_iter().rev().eq(forward), "{name} from the back");
        assert_eq!(view.len(tree).expect("the disk is sound"), expected.len() as u64);
        for key in (0..8).map(key_of) {
            let found = view.get(tree, &key).expect("the disk is sound");
            assert_eq!(found.as_deref(), expected.get(&key).map(|value| &value[..]));
        }
    }
}

/// Few keys, so that they meet again; some longer than a page's beginning, some its beginning.
fn key_of(byte: u8) -> Vec<u8> {
    let mut key = vec![byte % 8; usize::from(byte / 8 % 4)];
    key.push(byte % 64);
    if byte >= 192 {
        key.resize(200, b'k');
    }
    key
}

/// Bytes as calls: the first says how the store is kept, then each call takes a byte or a few. After every call what
/// the store shows is what the map holds; after a power cut it is the state of a commit, not before the last one that
/// was acknowledged as durable.
pub fn fuzz_operations(bytes: &[u8]) {
    let mut input = Input(bytes);
    let how = input.byte();
    let options = if how & 1 == 0 { Options::unencrypted() } else { Options::raw_key([7; 32]) };
    let options = options.memory(SMALL).log_block_bytes(if how & 2 == 0 { 4096 } else { 16384 });
    let mut world =
        World::open(SimDisk::new(u64::from(how)), options.page_bytes([4096, 8192, 16384][usize::from(how >> 2) % 3]));
    let mut changes = Changes::new();
    for _ in 0..CALLS_MAX {
        if input.0.is_empty() {
            break;
        }
        let call = input.byte();
        match call % 16 {
            0..=4 => {
                let (key, fill) = (key_of(input.byte()), input.byte());
                let len = [3, 40, 300, 1200, 9000][usize::from(call % 16)] + usize::from(fill);
                changes.push((TREES[usize::from(call >> 4) % 3], key, Some(vec![fill; len])));
            }
            5 | 6 => changes.push((TREES[usize::from(call >> 4) % 3], key_of(input.byte()), None)),
            7 => changes.clear(),
            8 => world.commit(std::mem::take(&mut changes), Durability::Durable),
            9 => world.commit(std::mem::take(&mut changes), Durability::Buffered),
            10 => world.commit(std::mem::take(&mut changes), Durability::None),
            11 => {
                match call >> 4 {
                    0..=7 => world.store.flush().expect("the disk is sound"),
                    _ => world.store.checkpoint().expect("the disk is sound"),
                }
                world.survives(world.last_commit());
            }
            12 => assert_shows(&world.store.read(), world.newest()),
            13 if world.views.len() < 3 => world.views.push((world.store.read(), world.newest().clone())),
            13 => {
                let (view, model) = world.views.remove(usize::from(call >> 4) % 3);
                assert_shows(&view, &model);
            }
            14 => {
                world.store.close().expect("the disk is sound");
                world.survives(world.last_commit());
                world.open_again();
            }
            _ => {
                let survivors = Survivors::ALL[usize::from(call >> 4) % Survivors::ALL.len()];
                world.disk = world.disk.after_crash(survivors, u64::from(input.byte()));
                changes.clear();
                world.open_again();
            }
        }
    }
    assert_shows(&world.store.read(), world.newest());
    for (view, model) in &world.views {
        assert_shows(view, model);
    }
    world.store.verify(&mut |_| {}).expect("the disk is sound");
}

/// An input for `fuzz_operations`: calls by the toss of a coin, with a power cut here and there.
pub fn seed_operations(seed: u64) -> Vec<u8> {
    (0..80 + 20 * seed).map(|i| crate::env::mix(seed << 32 | i) as u8).collect()
}
