//! Nonces: whatever happens to a store and to copies of it, no two seals share a key and a nonce.
//!
//! A watched disk reads every group and every page that is written, as anybody who steals the disk could, and keeps the
//! tag of each (purpose, subkey, counter). The same again with another tag is two seals under one nonce; with the same
//! tag it is the same bytes once more, which recovery may write (spec: E-13). Stores crash, are copied while they are
//! open, are put back to copies from days ago, and all copies go on. What is drawn at random goes on too, as it does
//! for a machine's own randomness, which no backup brings back.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use blazedb_engine::env::{FileIdentity, LockOutcome, OpenMode, SeededEntropy, SimDisk, Survivors};
use blazedb_engine::{Durability, Env, Memory, Options, Storage, StorageFile, Store};
use parking_lot::Mutex;

use crate::Rng;

const NAME: &str = "watched.blaze";
/// So little memory that every other dozen commits writes pages.
const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 16 << 10, log_bytes: 1 << 20 };
/// Where pages begin (spec: E-3), and how long each is.
const PAGES_START: u64 = 128 << 10;
const PAGE_BYTES: usize = 4096;
/// Copies that lie about, to be put back or to go on.
const COPIES_MAX: usize = 6;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// What happens when.
    pub seed: u64,
    /// Seals to be seen, at least.
    pub seals: u64,
    /// Crashes, restores and copies to be seen, at least.
    pub breaks: u64,
    /// Plants a bug: after every opening the same random bytes are drawn again.
    pub repeated_entropy: bool,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Seals of groups.
    pub groups: u64,
    /// Seals of pages.
    pub pages: u64,
    /// Seals that were written a second time, unchanged.
    pub repeats: u64,
    /// Subkeys that they were made with.
    pub subkeys: u64,
    /// Power cuts.
    pub crashes: u64,
    /// Disks put back to an older copy.
    pub restores: u64,
    /// Disks copied, both copies going on.
    pub copies: u64,
}

impl Seen {
    /// Returns all seals.
    pub fn seals(&self) -> u64 {
        self.groups + self.pages
    }

    /// Returns everything that could lead to a repetition.
    pub fn breaks(&self) -> u64 {
        self.crashes + self.restores + self.copies
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Purpose {
    Group,
    Page,
}

/// The first bytes of the tags of a subkey, by counter; 0 where there was none.
type Tags = Vec<u64>;

#[derive(Default)]
struct Ledger {
    tags: HashMap<(Purpose, [u8; 12]), Tags>,
    seen: Seen,
    /// The first nonce that was used twice.
    twice: Option<String>,
}

impl Ledger {
    fn note(&mut self, purpose: Purpose, nonce: &[u8], tag: &[u8]) {
        let subkey: [u8; 12] = array(nonce);
        let counter = u64::from_le_bytes(array(&nonce[12..])) as usize;
        let tag = u64::from_le_bytes(array(tag)).max(1);
        let tags = self.tags.entry((purpose, subkey)).or_default();
        if tags.len() <= counter {
            tags.resize(counter + 1, 0);
        }
        match std::mem::replace(&mut tags[counter], tag) {
            0 => match purpose {
                Purpose::Group => self.seen.groups += 1,
                Purpose::Page => self.seen.pages += 1,
            },
            before if before == tag => self.seen.repeats += 1,
            _ => {
                self.twice.get_or_insert_with(|| format!("{purpose:?}: counter {counter} of subkey {subkey:02x?}"));
            }
        }
    }

    /// Takes a write apart. Groups and pages are written whole; what else there is carries neither's marks.
    fn look(&mut self, is_log: bool, offset: u64, bytes: &[u8]) {
        if is_log {
            if bytes.len() >= 96 && bytes.starts_with(b"BLZG") {
                self.note(Purpose::Group, &bytes[40..64], &bytes[80..96]);
            }
        } else if offset >= PAGES_START {
            assert!(bytes.len().is_multiple_of(PAGE_BYTES), "pages are written whole");
            for page in bytes.chunks(PAGE_BYTES) {
                self.note(Purpose::Page, &page[16..40], &page[40..56]);
            }
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|n| bytes[n])
}

struct Watched(Arc<dyn Storage>, Arc<Mutex<Ledger>>);

struct WatchedFile {
    file: Arc<dyn StorageFile>,
    is_log: bool,
    ledger: Arc<Mutex<Ledger>>,
}

impl Storage for Watched {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let is_log = blazedb_engine::log_file_names(NAME).iter().any(|log| log == name);
        Ok(Arc::new(WatchedFile { file: self.0.open(name, mode)?, is_log, ledger: Arc::clone(&self.1) }))
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.0.exists(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.0.sync_dir()
    }
    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        self.0.is_current(name, file)
    }
    fn describe(&self, name: &str) -> String {
        self.0.describe(name)
    }
}

impl StorageFile for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Noted before it is written: half of it may reach the disk of a machine whose power goes.
        self.ledger.lock().look(self.is_log, offset, bytes);
        self.file.write_at(offset, bytes)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn try_lock(&self) -> io::Result<LockOutcome> {
        self.file.try_lock()
    }
    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }
}

impl Watch {
    /// Runs stores until enough was seen; fails with the first nonce that was used twice.
    pub fn run(&self) -> Result<Seen, String> {
        let mut rng = Rng::new(self.seed);
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let first = SimDisk::new(self.seed);
        // Made here, so that all copies are of one file with one master key.
        let store = Store::open(first.env(NAME), options()).map_err(|error| error.to_string())?;
        store.close().map_err(|error| error.to_string())?;
        drop(store);
        let mut disks = vec![first];
        let mut seen = Seen::default();
        while seen.seals() < self.seals || seen.breaks() < self.breaks {
            // What is still missing, spread over the lives that are still to come.
            let lives = self.breaks.saturating_sub(seen.breaks()).max(8);
            let commits = (self.seals.saturating_sub(seen.seals()) / lives / 3).clamp(20, 20_000);
            let at = rng.below(disks.len());
            let old = disks[at].copy();
            match self.life(&mut rng, &disks[at], &ledger, commits as usize) {
                Some(after) => {
                    seen.crashes += 1;
                    disks[at] = after;
                }
                None if rng.chance(50) => {
                    seen.restores += 1;
                    disks[at] = old;
                }
                None => {}
            }
            if rng.chance(40) {
                seen.copies += 1;
                let copy = disks[at].copy();
                disks.push(copy);
            }
            if disks.len() > COPIES_MAX {
                let gone = rng.below(disks.len());
                disks.swap_remove(gone);
            }
            let ledger = ledger.lock();
            if let Some(twice) = &ledger.twice {
                return Err(format!("used twice: {twice}"));
            }
            let Seen { crashes, restores, copies, .. } = seen;
            seen = Seen { subkeys: ledger.tags.len() as u64, crashes, restores, copies, ..ledger.seen };
        }
        Ok(seen)
    }

    /// Opens a store, works with it, ends it. Returns the disk after the crash if it ended with one.
    fn life(&self, rng: &mut Rng, disk: &SimDisk, ledger: &Arc<Mutex<Ledger>>, commits: usize) -> Option<SimDisk> {
        let env = disk.env(NAME);
        let mut env = Env { storage: Arc::new(Watched(Arc::clone(&env.storage), Arc::clone(ledger))), ..env };
        if self.repeated_entropy {
            env.entropy = Arc::new(SeededEntropy::new(1));
        }
        let crashes = rng.chance(60);
        if crashes {
            disk.crash_at(1 + rng.below(commits) as u64);
        }
        let done = work(rng, env, commits);
        if !crashes {
            done.expect("nothing fails without a fault");
            return None;
        }
        let survivors = *rng.pick(&Survivors::ALL);
        Some(disk.after_crash(survivors, rng.draw()))
    }
}

fn options() -> Options {
    Options::raw_key([3; 32]).memory(MEMORY)
}

fn work(rng: &mut Rng, env: Env, commits: usize) -> Result<(), Box<dyn std::error::Error>> {
    let store = Store::open(env, options())?;
    let tree = store.tree("t")?;
    for _ in 0..commits {
        let mut tx = store.write();
        for _ in 0..1 + rng.below(3) {
            let len = if rng.chance(1) { 6000 } else { 20 + rng.below(200) };
            tx.put(tree, &(rng.below(3000) as u16).to_be_bytes(), &vec![rng.draw() as u8; len])?;
        }
        let durability = if rng.chance(30) { Durability::Durable } else { Durability::Buffered };
        tx.commit_with(durability, |_| Ok(()))?;
    }
    if rng.chance(50) {
        store.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_nonce_is_used_twice() {
        let watch = Watch { seed: 1, seals: 20_000, breaks: 60, repeated_entropy: false };
        let seen = watch.run().expect("no nonce is used twice");
        assert!(seen.groups > 1000 && seen.pages > 1000 && seen.crashes > 10 && seen.restores > 5, "{seen:?}");
    }

    #[test]
    fn entropy_that_repeats_is_noticed() {
        let watch = Watch { seed: 1, seals: 20_000, breaks: 60, repeated_entropy: true };
        assert!(watch.run().is_err());
    }
}
