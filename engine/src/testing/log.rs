//! A log in front of an empty checkpoint, without encryption.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::page::file_of;
use super::{SMALL, options};
use crate::btree::ValueRef;
use crate::env::{Env, OpenMode};
use crate::error::OpenError;
use crate::keys::{EpochKey, FileKeys};
use crate::log::group::{self, GroupHeader, HEADER_BYTES, Nonce};
use crate::log::redo::Effects;
use crate::log::replay::{LogEnd, replay};
use crate::log::writer::{FILES, LogPosition, log_file_names};
use crate::options::Options;
use crate::seal::Cipher;
use crate::store::Store;
use crate::superblock::{SLOT_BYTES, SLOT_OFFSETS, Superblock, Unchecked};

/// The file of a new store, its newest header, and its keys.
fn empty() -> &'static (Vec<u8>, Superblock, FileKeys) {
    static EMPTY: OnceLock<(Vec<u8>, Superblock, FileKeys)> = OnceLock::new();
    EMPTY.get_or_init(|| {
        let env = Env::memory(1);
        drop(Store::open(env.clone(), options()).expect("a store in memory opens"));
        let file = file_of(&env, &env.name);
        let newest = SLOT_OFFSETS
            .into_iter()
            .map(|at| {
                let slot: [u8; SLOT_BYTES] = file[at as usize..][..SLOT_BYTES].try_into().expect("a whole slot");
                let decoded = Unchecked::decode(Box::new(slot), at).expect("our own header").expect("our own header");
                decoded.superblock
            })
            .max_by_key(|header| header.sequence)
            .expect("two slots");
        let keys = FileKeys::new(newest.uuid, EpochKey::new(newest.key_epoch, Cipher::None, None));
        (file, newest, keys)
    })
}

/// What a piece of the input does; the numbers are the lower half of its first byte.
const IN_PLACE: u8 = 0;
const NEXT_GENERATION: u8 = 1;
const RAW: u8 = 2;
const GAP: u8 = 3;

/// Lays groups out as the input says: pieces of `u8 what | u8 commits | u16 length | payload`. Groups are sealed and
/// chained, so that payloads get past the seals; the upper half of `what` spoils one thing each.
fn lay_out(bytes: &[u8]) -> [Vec<u8>; FILES] {
    let (_, header, keys) = empty();
    let sealer = keys.log_sealer(header.key_epoch, &[0; 12]).expect("its own epoch");
    let block = u64::from(header.log_block_bytes);
    let mut files: [Vec<u8>; FILES] = Default::default();
    let mut at = header.log;
    let mut next = header.commit_no + 1;
    let mut rest = bytes;
    while let [what, commits, low, high, more @ ..] = rest {
        let (payload, more) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = more;
        let flag = |bit: u8| what >> bit & 1 != 0;
        match what & 15 {
            NEXT_GENERATION => {
                at = LogPosition { generation: at.generation + 1, offset: 0, ..at };
                files[at.file()].clear();
            }
            RAW => {
                let file = &mut files[at.file()];
                file.resize(file.len().max(at.offset as usize), 0);
                file.extend_from_slice(payload);
                at.offset = (file.len() as u64).next_multiple_of(block);
                continue;
            }
            GAP => {
                at.offset += block;
                continue;
            }
            _ => {}
        }
        let count = u32::from(*commits).max(1);
        let header_of_group = GroupHeader {
            len: payload.len() as u32,
            count,
            first_commit: next + u64::from(flag(4)),
            durable_commit: if flag(5) { next + 1 } else { next - 1 },
            generation: at.generation + u64::from(flag(6)),
            nonce: Nonce { subkey: [0; 12], counter: 0, epoch: header.key_epoch },
            previous: if flag(7) { [9; 16] } else { at.tag },
            tag: [0; 16],
        };
        let mut sealed = vec![0; HEADER_BYTES];
        sealed.extend_from_slice(payload);
        at.tag = group::seal(&mut sealed, &header_of_group, &header.uuid, &*sealer);
        let file = &mut files[at.file()];
        file.resize(at.offset as usize, 0);
        file.extend_from_slice(&sealed);
        at.offset += sealed.len() as u64;
        next += u64::from(count);
    }
    files
}

/// A world with these log files and nothing else.
fn world(files: &[Vec<u8>]) -> Env {
    let env = Env::memory(2);
    for (name, bytes) in log_file_names(&env.name).iter().zip(files) {
        put_file(&env, name, bytes);
    }
    env
}

fn put_file(env: &Env, name: &str, bytes: &[u8]) {
    let file = env.storage.open(name, OpenMode::Create).expect("memory does not fail");
    file.write_at(0, bytes).expect("memory does not fail");
}

/// What replay told: tree number -> key -> value.
#[derive(Default)]
struct Told {
    trees: BTreeMap<u32, BTreeMap<Vec<u8>, Vec<u8>>>,
    commits: u64,
    has_stored: bool,
}

impl Effects for Told {
    fn begin_commit(&mut self, _commit_no: u64, _label: u32) {
        self.commits += 1;
    }

    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
        self.trees.entry(tree).or_default().insert(key.to_vec(), value.to_vec());
    }

    fn put_stored(&mut self, tree: u32, key: &[u8], _at: ValueRef) {
        self.has_stored = true;
        self.delete(tree, key);
    }

    fn delete(&mut self, tree: u32, key: &[u8]) {
        self.trees.entry(tree).or_default().remove(key);
    }
}

/// Log files as `lay_out` makes them, behind the header of a new store. Replay says that they are damaged, or where
/// they end: within the files, as many commits on as it told. Some are then opened, as `fuzz_log_opened` does with all.
pub fn fuzz_log(bytes: &[u8]) {
    check(bytes, super::is_opened(bytes));
}

/// As `fuzz_log`, and either opening a store on them says that they are damaged or none of its own, or the store shows
/// what replay told; and once more after a checkpoint and a close.
pub fn fuzz_log_opened(bytes: &[u8]) {
    check(bytes, true);
}

fn check(bytes: &[u8], is_opened: bool) {
    let (file, header, keys) = empty();
    let files = lay_out(bytes);
    let env = world(&files);
    let mut told = Told::default();
    let end = replay(&env, header, keys, &mut told);
    match &end {
        Ok(end) => {
            assert_eq!(end.last_commit, header.commit_no + told.commits, "replay tells each commit");
            assert!(end.at.generation >= header.log.generation, "a log goes on");
            let len = files[end.at.file()].len().max(header.log.offset as usize) as u64;
            assert!(end.at.offset <= len.next_multiple_of(u64::from(header.log_block_bytes)), "a log ends in its file");
            assert!(end.unproven_from <= end.at.offset, "what is unproven is part of the log");
        }
        Err(OpenError::Corruption(_)) => {}
        Err(error) => panic!("only damage is an error: {error}"),
    }
    if is_opened {
        put_file(&env, &env.name, file);
        opened(env, &told, end);
    }
}

/// Opens what replay has read.
fn opened(env: Env, told: &Told, end: Result<LogEnd, OpenError>) {
    let names = log_file_names(&env.name);
    let store = match (Store::open(env.clone(), options().create(false)), &end) {
        (Ok(store), Ok(_)) => store,
        (Err(OpenError::Corruption(_)), _) => return,
        // Nothing in the file says that a store has made it: then replay has read nothing of it either.
        (Err(OpenError::InTheWay { path }), Ok(end)) => {
            assert!(end.groups == 0 || path != names[end.at.file()], "a log is no log");
            return;
        }
        (Err(error), _) => panic!("only damage is an error: {error}"),
        (Ok(_), Err(error)) => panic!("a store opened on a log that replay refuses: {error}"),
    };
    let end = end.expect("matched above");
    assert_eq!(store.stats().commit_no, end.last_commit);
    if told.has_stored {
        // Nobody has written the pages that it names.
        let _ = super::store::walk(&store, false);
        return;
    }
    let shows = |store: &Store| {
        let view = store.read();
        for name in view.tree_names().expect("memory does not fail") {
            let tree = view.tree(&name).expect("memory does not fail").expect("it was listed");
            let found: Result<BTreeMap<_, _>, _> =
                view.range(tree, ..).map(|item| item.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect();
            let expected = told.trees.get(&tree.0).cloned().unwrap_or_default();
            assert!(found.expect("memory does not fail") == expected, "a store shows what its log tells");
        }
    };
    shows(&store);
    store.close().expect("memory does not fail");
    let store = Store::open(env, options().create(false)).expect("what was closed opens");
    shows(&store);
    store.verify(&mut |_| {}).expect("what was closed is sound");
}

/// A valid input for `fuzz_log`: the log of a small store, and the same with one thing spoiled.
pub fn seed_log(seed: u64) -> Vec<u8> {
    let env = Env::memory(seed);
    let store = Store::open(env.clone(), Options::unencrypted().memory(SMALL)).expect("a store in memory opens");
    for commit in 0..2 + seed % 3 {
        let mut tx = store.write();
        for key in 0..1 + seed % 5 {
            let tree = tx.tree(["notes", "tags"][(key % 2) as usize]).expect("a short name");
            let row = vec![commit as u8; (40 + 30 * seed) as usize];
            match (commit + key) % 4 {
                3 => tx.delete(tree, format!("key {key}").as_bytes()),
                2 => tx.put_pieces(tree, format!("key {key}").as_bytes(), &[b"meta", &row, &row]),
                _ => tx.put(tree, format!("key {key}").as_bytes(), &row),
            }
            .expect("it is short");
        }
        tx.commit().expect("memory does not fail");
    }
    let log = file_of(&env, &log_file_names(&env.name)[0]);
    let mut input = Vec::new();
    let mut at = 0;
    while let Some(header) = log.get(at..).and_then(GroupHeader::parse) {
        let spoiled = if input.is_empty() { 0 } else { (seed % 6) as u8 };
        let what = [IN_PLACE, NEXT_GENERATION, RAW, GAP, 1 << 4, 1 << 5][usize::from(spoiled)];
        input.extend_from_slice(&[what, header.count as u8]);
        input.extend_from_slice(&(header.len as u16).to_le_bytes());
        input.extend_from_slice(&log[at + HEADER_BYTES..][..header.len as usize]);
        at += header.total_bytes().next_multiple_of(4096) as usize;
    }
    input
}
