//! A disk that can fail, for tests and simulations (feature `testing`).
//!
//! A `SimDisk` is a `Storage` in memory that keeps two versions of every file: what programs read (the cache) and
//! what the platter has. A write goes to the cache and is remembered as pending; `sync_data` moves the pending
//! writes of one file to the platter; `sync_dir` does the same for names. `after_crash` is a new disk that holds
//! what the platter had plus those pending sectors that the chosen `Survivors` let through. Everything follows
//! from one seed and the order of calls; `trace` is a hash of that order.
//!
//! The model, where it matters: sectors of 512 bytes survive whole or not at all; a failed sync loses the file's
//! pending writes for good although reads still show them (what Linux does); a rename survives with the bytes
//! that were synced, no others; a crash at a call hands that call's write to the disk as pending and fails it.
//!
//! ```
//! use blazedb_engine::env::{SimDisk, Survivors};
//! use blazedb_engine::{Options, Store};
//!
//! let disk = SimDisk::new(7);
//! let store = Store::open(disk.env("a.blaze"), Options::unencrypted())?;
//! let mut tx = store.write();
//! let tree = tx.tree("t")?;
//! tx.put(tree, b"k", b"v")?;
//! tx.commit()?;
//! let after = disk.after_crash(Survivors::None, 1);
//! let store = Store::open(after.env("a.blaze"), Options::unencrypted())?;
//! let view = store.read();
//! assert_eq!(view.get(view.tree("t")?.unwrap(), b"k")?.as_deref(), Some(&b"v"[..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::mem::{mix, read_slice, write_slice};
use super::{Clock, Entropy, Env, FileIdentity, LockOutcome, OpenMode, SeededEntropy, StepClock, Storage, StorageFile};

const SECTOR_BYTES: u64 = 512;

/// Which pending changes a crash lets through to the platter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survivors {
    /// None of them.
    None,
    /// All of them.
    All,
    /// The oldest ones, up to a random point.
    Prefix,
    /// Each sector, length change and name change by the toss of a coin.
    RandomSubset,
    /// All but the end of the last write, cut at a random sector.
    TornLast,
}

impl Survivors {
    /// All five.
    pub const ALL: [Self; 5] = [Self::None, Self::All, Self::Prefix, Self::RandomSubset, Self::TornLast];
}

/// A kind of call, for counting and failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallKind {
    /// Opening an existing file.
    Open,
    /// Creating a file.
    Create,
    /// A read.
    Read,
    /// A write.
    Write,
    /// A change of length.
    SetLen,
    /// A data sync or full sync of a file.
    Sync,
    /// A rename.
    Rename,
    /// A removal.
    Remove,
    /// A sync of the folder.
    SyncDir,
}

impl CallKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::SetLen,
        Self::Sync,
        Self::Rename,
        Self::Remove,
        Self::SyncDir,
    ];

    fn changes_the_disk(self) -> bool {
        !matches!(self, Self::Open | Self::Read)
    }
}

/// An error to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Which calls are counted.
    pub kind: CallKind,
    /// Which of them fails, counted from when the fault was set; 0 is the next one.
    pub nth: u64,
    /// What it fails with.
    pub error: io::ErrorKind,
    /// Whether all later calls of this kind fail, too.
    pub for_ever: bool,
}

/// A disk, and the folder on it. Clones are handles of the same disk.
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    clock: Arc<StepClock>,
    entropy: Arc<SeededEntropy>,
}

#[derive(Default)]
struct World {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    platter_names: BTreeMap<String, usize>,
    pending_names: Vec<(u64, NameChange)>,
    /// Order of pending changes over all files.
    sequence: u64,
    counts: BTreeMap<CallKind, u64>,
    changes: u64,
    crash_at: Option<u64>,
    dead: bool,
    sync_lies: bool,
    bytes_read: u64,
    bytes_written: u64,
    capacity: Option<u64>,
    faults: Vec<(Fault, u64)>,
    trace: u64,
}

#[derive(Default)]
struct File {
    // Shared by a disk and its copies until one of them writes: a test opens tens of thousands of copies.
    cache: Arc<Vec<u8>>,
    platter: Arc<Vec<u8>>,
    pending: Vec<(u64, Pending)>,
    locked: bool,
}

#[derive(Clone)]
enum Pending {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

#[derive(Clone)]
enum NameChange {
    Link { name: String, file: usize },
    Rename { from: String, to: String, file: usize },
    Unlink { name: String },
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> Self {
        Self { world: Arc::default(), clock: Arc::new(StepClock::new()), entropy: Arc::new(SeededEntropy::new(seed)) }
    }

    /// A world on this disk whose store is called `name`. Clock and entropy are the disk's: every opening draws
    /// new bytes, and so does a disk after a crash.
    pub fn env(&self, name: &str) -> Env {
        Env {
            storage: Arc::new(self.clone()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy: Arc::clone(&self.entropy) as Arc<dyn Entropy>,
            name: name.to_owned(),
            threads: false,
        }
    }

    /// The clock of the worlds on this disk.
    pub fn clock(&self) -> &Arc<StepClock> {
        &self.clock
    }

    /// Returns the disk as it is after the power went: the platter and what survives of the pending changes. This
    /// disk stays as it is and can be asked again.
    pub fn after_crash(&self, survivors: Survivors, seed: u64) -> Self {
        self.after_crash_in_sectors(survivors, seed, SECTOR_BYTES)
    }

    /// The same for a disk whose sectors have this many bytes.
    pub fn after_crash_in_sectors(&self, survivors: Survivors, seed: u64, sector_bytes: u64) -> Self {
        let world = self.world.lock();
        let after = world.after_crash(survivors, mix(seed ^ 0xC0FF_EE00_0000_0000), sector_bytes);
        Self { world: Arc::new(Mutex::new(after)), clock: Arc::clone(&self.clock), entropy: Arc::clone(&self.entropy) }
    }

    /// Returns an independent copy of everything, the cache included: a file copied while nobody writes, or the
    /// clone of a machine.
    pub fn copy(&self) -> Self {
        self.after_crash(Survivors::All, 0)
    }

    /// Lets the power go at the `nth` call from now that changes the disk: that call and all later ones fail.
    pub fn crash_at(&self, nth: u64) {
        let mut world = self.world.lock();
        world.crash_at = Some(world.changes + nth);
    }

    /// Returns whether the power went.
    pub fn is_dead(&self) -> bool {
        self.world.lock().dead
    }

    /// Makes a call fail.
    pub fn fail(&self, fault: Fault) {
        let mut world = self.world.lock();
        let from = world.counts.get(&fault.kind).copied().unwrap_or(0);
        world.faults.push((fault, from + fault.nth));
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.world.lock().faults.clear();
    }

    /// Makes syncs return at once and do nothing, as some devices do.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.world.lock().sync_lies = lie;
    }

    /// Sets how many bytes all files may have together; writes beyond fail with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.world.lock().capacity = bytes;
    }

    /// Returns how many calls of a kind there were.
    pub fn calls(&self, kind: CallKind) -> u64 {
        self.world.lock().counts.get(&kind).copied().unwrap_or(0)
    }

    /// Returns how many bytes were read from files.
    pub fn bytes_read(&self) -> u64 {
        self.world.lock().bytes_read
    }

    /// Returns how many bytes were written to files.
    pub fn bytes_written(&self) -> u64 {
        self.world.lock().bytes_written
    }

    /// Returns how many sectors a crash now would decide on: those of writes that are not synced.
    pub fn pending_sectors(&self) -> u64 {
        let world = self.world.lock();
        let pending = world.files.iter().flat_map(|f| &f.pending);
        pending
            .map(|(_, p)| match p {
                Pending::Write { bytes, .. } => (bytes.len() as u64).div_ceil(SECTOR_BYTES),
                Pending::SetLen(_) => 1,
            })
            .sum()
    }

    /// Returns how many calls changed the disk, or would have: the crash points so far.
    pub fn changes(&self) -> u64 {
        self.world.lock().changes
    }

    /// Returns a hash of all changing calls so far, their order and their bytes.
    pub fn trace(&self) -> u64 {
        self.world.lock().trace
    }

    /// Returns the names of all files.
    pub fn names(&self) -> Vec<String> {
        self.world.lock().names.keys().cloned().collect()
    }

    /// Returns a file's bytes as programs read them.
    pub fn read_file(&self, name: &str) -> Option<Vec<u8>> {
        let world = self.world.lock();
        Some(world.files[*world.names.get(name)?].cache.to_vec())
    }

    /// Puts a file on the platter, replacing the bytes of one that exists.
    pub fn write_file(&self, name: &str, bytes: &[u8]) {
        let mut world = self.world.lock();
        let file = world.names.get(name).copied().unwrap_or_else(|| {
            world.files.push(File::default());
            world.files.len() - 1
        });
        world.names.insert(name.to_owned(), file);
        world.platter_names.insert(name.to_owned(), file);
        let file = &mut world.files[file];
        file.cache = Arc::new(bytes.to_vec());
        file.platter = Arc::clone(&file.cache);
        file.pending.clear();
    }

    /// Flips one bit of a file, counted from its first byte's lowest bit; false where the file ends before it.
    pub fn flip_bit(&self, name: &str, bit: u64) -> bool {
        let mut world = self.world.lock();
        let Some(&file) = world.names.get(name) else { return false };
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        let file = &mut world.files[file];
        for bytes in [&mut file.cache, &mut file.platter] {
            if let Some(byte) = Arc::make_mut(bytes).get_mut(at) {
                *byte ^= mask;
            }
        }
        at < file.cache.len()
    }
}

impl World {
    /// Counts a call, and fails it where the power is gone or a fault is due. `true`: the power goes with this
    /// call, whose change still reaches the disk as pending.
    fn call(&mut self, kind: CallKind, what: u64) -> io::Result<bool> {
        if self.dead {
            return Err(power_is_gone());
        }
        let count = self.counts.entry(kind).or_insert(0);
        let nth = *count;
        *count += 1;
        if kind.changes_the_disk() {
            self.trace = mix(self.trace ^ mix(kind as u64 ^ what));
            let at = self.changes;
            self.changes += 1;
            if self.crash_at.is_some_and(|crash| at >= crash) {
                self.dead = true;
                return Ok(true);
            }
        }
        match self.faults.iter().find(|(f, at)| f.kind == kind && (nth == *at || (f.for_ever && nth > *at))) {
            Some((fault, _)) => Err(fault.error.into()),
            None => Ok(false),
        }
    }

    fn next(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn room_for(&self, file: usize, end: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let used: u64 = self.names.values().map(|&f| self.files[f].cache.len() as u64).sum();
        let more = end.saturating_sub(self.files[file].cache.len() as u64);
        if more > 0 && used + more > capacity { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn name_change(&mut self, change: NameChange) {
        let sequence = self.next();
        self.pending_names.push((sequence, change));
    }

    fn sync(&mut self, file: usize) {
        let file = &mut self.files[file];
        for (_, pending) in file.pending.drain(..) {
            pending.apply(Arc::make_mut(&mut file.platter));
        }
    }

    fn after_crash(&self, survivors: Survivors, seed: u64, sector_bytes: u64) -> Self {
        let mut chance = Chance(seed);
        let last_write = self
            .files
            .iter()
            .flat_map(|f| &f.pending)
            .filter(|(_, p)| matches!(p, Pending::Write { .. }))
            .map(|(n, _)| *n)
            .max();
        let mut order: Vec<u64> = self.files.iter().flat_map(|f| f.pending.iter().map(|(n, _)| *n)).collect();
        order.extend(self.pending_names.iter().map(|(n, _)| *n));
        order.sort_unstable();
        let cut = order.get(chance.below(order.len() as u64 + 1) as usize).copied().unwrap_or(u64::MAX);
        let keeps = |n: u64, chance: &mut Chance| match survivors {
            Survivors::None => false,
            Survivors::All | Survivors::TornLast => true,
            Survivors::Prefix => n < cut,
            Survivors::RandomSubset => chance.below(2) == 0,
        };
        let mut after = Self::default();
        for file in &self.files {
            let mut shared = Arc::clone(&file.platter);
            if file.pending.is_empty() || survivors == Survivors::None {
                after.files.push(File {
                    cache: Arc::clone(&shared),
                    platter: shared,
                    pending: Vec::new(),
                    locked: false,
                });
                continue;
            }
            let bytes = Arc::make_mut(&mut shared);
            for (n, pending) in &file.pending {
                match pending {
                    Pending::Write { offset, bytes: written } if survivors == Survivors::RandomSubset => {
                        sectors(*offset, written, sector_bytes, |at, sector| {
                            if chance.below(2) == 0 {
                                write_slice(bytes, at, sector);
                            }
                        });
                    }
                    Pending::Write { offset, bytes: written }
                        if survivors == Survivors::TornLast && Some(*n) == last_write =>
                    {
                        let kept = chance.below(written.len() as u64 / sector_bytes + 1);
                        let mut i = 0;
                        sectors(*offset, written, sector_bytes, |at, sector| {
                            if i < kept {
                                write_slice(bytes, at, sector);
                            }
                            i += 1;
                        });
                    }
                    _ if keeps(*n, &mut chance) => pending.apply(bytes),
                    _ => {}
                }
            }
            after.files.push(File { cache: Arc::clone(&shared), platter: shared, pending: Vec::new(), locked: false });
        }
        after.names = self.platter_names.clone();
        for (n, change) in &self.pending_names {
            if keeps(*n, &mut chance) {
                change.apply(&mut after.names);
            }
        }
        after.platter_names = after.names.clone();
        after
    }
}

/// Cuts a write at the disk's sector boundaries.
fn sectors(offset: u64, bytes: &[u8], sector_bytes: u64, mut each: impl FnMut(u64, &[u8])) {
    let mut from = 0;
    while from < bytes.len() {
        let at = offset + from as u64;
        let n = ((sector_bytes - at % sector_bytes) as usize).min(bytes.len() - from);
        each(at, &bytes[from..from + n]);
        from += n;
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes: written } => write_slice(bytes, *offset, written),
            Self::SetLen(len) => bytes.resize(*len as usize, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Rename { from, to, file } => {
                names.remove(from);
                names.insert(to.clone(), *file);
            }
            Self::Unlink { name } => {
                names.remove(name);
            }
        }
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = mix(self.0);
        self.0 % n.max(1)
    }
}

fn power_is_gone() -> io::Error {
    io::Error::other("the simulated power is gone")
}

impl Storage for SimDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut world = self.world.lock();
        let file = match world.names.get(name) {
            Some(&file) => {
                world.call(CallKind::Open, 0)?;
                file
            }
            None if mode != OpenMode::Create => {
                world.call(CallKind::Open, 0)?;
                return Err(io::ErrorKind::NotFound.into());
            }
            None => {
                let dies = world.call(CallKind::Create, u64::from(crc32fast::hash(name.as_bytes())))?;
                world.files.push(File::default());
                let file = world.files.len() - 1;
                world.names.insert(name.to_owned(), file);
                world.name_change(NameChange::Link { name: name.to_owned(), file });
                if dies {
                    return Err(power_is_gone());
                }
                file
            }
        };
        Ok(Arc::new(Handle { disk: self.clone(), file, holds_lock: AtomicBool::new(false) }))
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        Ok(self.world.lock().names.contains_key(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        let dies = world.call(CallKind::Rename, u64::from(crc32fast::hash(to.as_bytes())))?;
        let file = world.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), file);
        world.name_change(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), file });
        if dies { Err(power_is_gone()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world.lock();
        let dies = world.call(CallKind::Remove, u64::from(crc32fast::hash(name.as_bytes())))?;
        world.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        world.name_change(NameChange::Unlink { name: name.to_owned() });
        if dies { Err(power_is_gone()) } else { Ok(()) }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        if world.call(CallKind::SyncDir, 0)? {
            return Err(power_is_gone());
        }
        if !world.sync_lies {
            world.pending_names.clear();
            world.platter_names = world.names.clone();
        }
        Ok(())
    }

    fn is_current(&self, name: &str, file: &dyn StorageFile) -> io::Result<bool> {
        let identity = file.identity()?;
        Ok(self.world.lock().names.get(name).is_some_and(|&f| FileIdentity(0, f as u64) == identity))
    }

    fn describe(&self, name: &str) -> String {
        format!("sim:{name}")
    }
}

struct Handle {
    disk: SimDisk,
    file: usize,
    holds_lock: AtomicBool,
}

impl StorageFile for Handle {
    fn len(&self) -> io::Result<u64> {
        let mut world = self.disk.world.lock();
        world.call(CallKind::Read, 0)?;
        Ok(world.files[self.file].cache.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut world = self.disk.world.lock();
        world.call(CallKind::Read, 0)?;
        let read = read_slice(&world.files[self.file].cache, offset, buf);
        world.bytes_read += read as u64;
        Ok(read)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let dies = world.call(CallKind::Write, offset << 32 ^ u64::from(crc32fast::hash(bytes)))?;
        world.room_for(self.file, offset + bytes.len() as u64)?;
        let sequence = world.next();
        world.bytes_written += bytes.len() as u64;
        let file = &mut world.files[self.file];
        write_slice(Arc::make_mut(&mut file.cache), offset, bytes);
        file.pending.push((sequence, Pending::Write { offset, bytes: bytes.to_vec() }));
        if dies { Err(power_is_gone()) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        let dies = world.call(CallKind::SetLen, len)?;
        world.room_for(self.file, len)?;
        let sequence = world.next();
        let file = &mut world.files[self.file];
        Arc::make_mut(&mut file.cache).resize(len as usize, 0);
        file.pending.push((sequence, Pending::SetLen(len)));
        if dies { Err(power_is_gone()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.world.lock();
        match world.call(CallKind::Sync, self.file as u64) {
            Ok(false) => {}
            Ok(true) => return Err(power_is_gone()),
            Err(e) => {
                // What was pending is lost for good, and reads go on showing it.
                if !world.dead {
                    world.files[self.file].pending.clear();
                }
                return Err(e);
            }
        }
        if !world.sync_lies {
            world.sync(self.file);
        }
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn try_lock(&self) -> io::Result<LockOutcome> {
        let mut world = self.disk.world.lock();
        let file = &mut world.files[self.file];
        if !self.holds_lock.load(Ordering::Acquire) {
            if file.locked {
                return Ok(LockOutcome::Held);
            }
            file.locked = true;
            self.holds_lock.store(true, Ordering::Release);
        }
        Ok(LockOutcome::Acquired)
    }

    fn unlock(&self) -> io::Result<()> {
        if self.holds_lock.swap(false, Ordering::AcqRel) {
            self.disk.world.lock().files[self.file].locked = false;
        }
        Ok(())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity(0, self.file as u64))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.holds_lock.load(Ordering::Acquire) {
            self.disk.world.lock().files[self.file].locked = false;
        }
    }
}
