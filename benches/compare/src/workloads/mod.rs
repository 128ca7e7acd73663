//! What is done to every store. Each set of workloads runs in a fresh process with a fresh folder, and says what it found.

mod client;
mod encryption;
mod memory;
mod recovery;
mod space;
mod speed;
mod threads;
mod upkeep;

use std::path::PathBuf;
use std::time::Duration;

use blazedb_benches::{Chance, pair, pair_key};
use serde::{Deserialize, Serialize};

use crate::documents;
use crate::measure::Figures;
use crate::subjects::{self, Failure, Key, Reader, Row, Subject};

pub(crate) use memory::CACHE_BYTES as MEMORY_CACHE_BYTES;
pub(crate) use speed::{COLD_CACHE_BYTES, SMALL_ROWS};
pub(crate) use threads::THREADS;

/// The same rows for everybody.
const SEED: u64 = 20_260_901;
/// Rows of a batch.
pub(crate) const BATCH_ROWS: usize = 1000;
/// Rows a range reads.
pub(crate) const RANGE_ROWS: usize = 10;
/// After a bulk load and before reads: what runs in the background may come to its end. The same for everybody.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// What a process of its own is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) part: Part,
    pub(crate) subject: String,
    /// Empty at the start, except where `part` says otherwise.
    pub(crate) folder: PathBuf,
    pub(crate) rows: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    Speed,
    Threads,
    Encryption,
    Memory,
    Recovery,
    /// Fills a store for `Recovery` and goes on writing until it is killed.
    RecoveryWriter,
    Space,
    Client,
    /// Fills a store for `Client`.
    ClientLoad,
    Documents,
    Upkeep,
}

impl Part {
    /// As progress and errors name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Speed => "speed",
            Self::Threads => "threads",
            Self::Encryption => "encryption",
            Self::Memory => "memory",
            Self::Recovery => "recovery",
            Self::RecoveryWriter => "recovery's writer",
            Self::Space => "space",
            Self::Client => "client",
            Self::ClientLoad => "client's load",
            Self::Documents => "documents",
            Self::Upkeep => "upkeep",
        }
    }
}

impl Task {
    pub(crate) fn run(&self) -> Result<Figures, Failure> {
        match self.part {
            Part::Speed => speed::run(self),
            Part::Threads => threads::run(self),
            Part::Encryption => encryption::run(self),
            Part::Memory => memory::run(self),
            Part::Recovery => recovery::run(self),
            Part::RecoveryWriter => recovery::write(self),
            Part::Space => space::run(self),
            Part::Client => client::run(self),
            Part::ClientLoad => client::load(self),
            Part::Documents => documents::run(self),
            Part::Upkeep => upkeep::run(self),
        }
    }

    fn open(&self) -> Result<Box<dyn Subject>, Failure> {
        (subjects::find(&self.subject)?.open)(&self.folder, self.cache_bytes)
    }

    /// A count of operations that is `full` at a million rows; never none.
    pub(crate) fn scaled(&self, full: usize) -> usize {
        (full as u128 * self.rows as u128 / 1_000_000).max(10) as usize
    }
}

/// Rows in their order, from the beginning: their keys are random.
struct Rows {
    next: u64,
}

impl Rows {
    fn new() -> Self {
        Self { next: 0 }
    }

    fn take(&mut self, count: usize) -> impl Iterator<Item = Row> + use<> {
        let from = self.next;
        self.next += count as u64;
        (from..self.next).map(row)
    }
}

fn row(index: u64) -> Row {
    pair(SEED, index)
}

/// Keys of the first rows in no order, for ever.
struct Keys {
    chance: Chance,
    count: u64,
}

impl Keys {
    fn new(seed: u64, count: usize) -> Self {
        Self { chance: Chance::new(seed), count: count as u64 }
    }

    fn next(&mut self) -> Key {
        pair_key(SEED, self.chance.below(self.count))
    }
}

/// Gets so many random rows of the first `count`; an error if one is not there.
fn get_some(reader: &mut dyn Reader, keys: &mut Keys, gets: usize) -> Result<(), Failure> {
    let mut sum = 0;
    for _ in 0..gets {
        if !reader.get(&keys.next(), &mut |value| sum ^= touch(value))? {
            return Err("a row is missing".into());
        }
    }
    std::hint::black_box(sum);
    Ok(())
}

/// Reads a value at both ends, which is as much as a program does at least.
fn touch(value: &[u8]) -> u64 {
    let first = value.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let last = value.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    first ^ last
}
