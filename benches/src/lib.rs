//! What the measurements measure: made-up records that are the same on every machine and every run.
//!
//! [`Ticket`] is a bug-tracker entry of ten fields, about 370 bytes as JSON: text of several lengths, integers, a float,
//! a flag, a list. [`Tickets`] makes them from a seed, [`pairs`] makes keys and values for stores that know only bytes,
//! [`operations`] a backlog of a thousand operations.
//! Nothing here is measured itself, and nothing here knows a clock.

#![forbid(unsafe_code)]

pub mod operations;

use serde::{Deserialize, Serialize};

/// The record that every codec and every store is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    /// 36 characters in the form of a UUID; the key in stores that want one.
    pub id: String,
    /// About 30 characters.
    pub title: String,
    /// About 120 characters.
    pub body: String,
    /// One of four words.
    pub status: String,
    /// 0 to 4.
    pub priority: i64,
    /// 0.00 to 99.99: a float that JSON can say in few digits and every parser reads back exactly.
    pub score: f64,
    /// A flag.
    pub done: bool,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970.
    pub updated_ms: i64,
    /// Three words.
    pub tags: Vec<String>,
}

/// An endless row of tickets from one seed.
#[derive(Clone, Debug)]
pub struct Tickets {
    chance: Chance,
}

impl Tickets {
    /// Starts the row that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { chance: Chance::new(seed) }
    }
}

impl Iterator for Tickets {
    type Item = Ticket;

    fn next(&mut self) -> Option<Ticket> {
        let chance = &mut self.chance;
        let created_ms = 1_700_000_000_000 + chance.below(30_000_000_000) as i64;
        Some(Ticket {
            id: chance.uuid(),
            title: chance.text(30),
            body: chance.text(120),
            status: ["open", "active", "blocked", "closed"][chance.below(4) as usize].to_owned(),
            priority: chance.below(5) as i64,
            score: chance.below(10_000) as f64 / 100.0,
            done: chance.below(2) == 1,
            created_ms,
            updated_ms: created_ms + chance.below(1_000_000_000) as i64,
            tags: (0..3).map(|_| chance.word().to_owned()).collect(),
        })
    }
}

/// Key of [`pairs`], in bytes.
pub const KEY_BYTES: usize = 24;
/// Value of [`pairs`], in bytes.
pub const VALUE_BYTES: usize = 150;

/// An endless row of random keys and values from one seed.
pub fn pairs(seed: u64) -> impl Iterator<Item = ([u8; KEY_BYTES], [u8; VALUE_BYTES])> {
    (0..).map(move |index| pair(seed, index))
}

/// The pair at one place of that row, without making those before it: nobody has to keep a million rows in memory to
/// know them again.
#[must_use]
pub fn pair(seed: u64, index: u64) -> ([u8; KEY_BYTES], [u8; VALUE_BYTES]) {
    let mut chance = Chance::after(seed, index.wrapping_mul(DRAWS_PER_PAIR));
    let (mut key, mut value) = ([0; KEY_BYTES], [0; VALUE_BYTES]);
    chance.fill(&mut key);
    chance.fill(&mut value);
    (key, value)
}

/// The key of [`pair`] alone.
#[must_use]
pub fn pair_key(seed: u64, index: u64) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    Chance::after(seed, index.wrapping_mul(DRAWS_PER_PAIR)).fill(&mut key);
    key
}

/// Numbers that one pair uses up.
const DRAWS_PER_PAIR: u64 = (KEY_BYTES.div_ceil(8) + VALUE_BYTES.div_ceil(8)) as u64;

/// Seeded numbers (splitmix64): good enough to spread keys, the same everywhere.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Starts the row that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Starts as many numbers later.
    fn after(seed: u64, draws: u64) -> Self {
        Self(seed.wrapping_add(STEP.wrapping_mul(draws)))
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number under `limit`, which must not be 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            part.copy_from_slice(&bits[..part.len()]);
        }
    }

    fn uuid(&mut self) -> String {
        let (a, b) = (self.bits(), self.bits());
        format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xffff,
            b >> 48,
            b & 0xffff_ffff_ffff
        )
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len() as u64) as usize]
    }

    /// Words up to about `length` characters.
    fn text(&mut self, length: usize) -> String {
        let mut text = String::with_capacity(length + 12);
        while text.len() < length {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(self.word());
        }
        text
    }
}

/// What splitmix64 adds per number.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const WORDS: [&str; 64] = [
    "after", "again", "alarm", "answer", "basket", "before", "bridge", "button", "cable", "candle", "change", "cloud",
    "column", "corner", "crash", "cursor", "delay", "device", "door", "draft", "early", "empty", "error", "every",
    "field", "filter", "first", "folder", "forest", "garden", "glass", "green", "handle", "hidden", "hour", "image",
    "index", "island", "kernel", "ladder", "later", "letter", "list", "lost", "market", "memory", "minor", "missing",
    "morning", "number", "offline", "often", "order", "paper", "phone", "quiet", "river", "screen", "second", "silver",
    "slow", "table", "window", "wrong",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_one_row_of_tickets() {
        let some = |seed| Tickets::new(seed).take(20).collect::<Vec<_>>();
        assert_eq!(some(1), some(1));
        assert_ne!(some(1), some(2));
    }

    #[test]
    fn tickets_are_as_large_as_they_say() {
        let bytes: usize =
            Tickets::new(7).take(1000).map(|ticket| serde_json::to_vec(&ticket).expect("a ticket is JSON").len()).sum();
        assert!((350_000..390_000).contains(&bytes), "{bytes}");
        let ticket = Tickets::new(7).next().expect("the row is endless");
        assert_eq!(ticket.id.len(), 36);
        assert_eq!(
            serde_json::to_value(&ticket).expect("a ticket is JSON").as_object().map(serde_json::Map::len),
            Some(10)
        );
    }

    #[test]
    fn pairs_do_not_repeat() {
        let keys: std::collections::BTreeSet<_> = pairs(3).take(10_000).map(|(key, _)| key).collect();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn a_pair_is_found_again_by_its_place() {
        let mut chance = Chance::new(3);
        for index in 0..100 {
            let (mut key, mut value) = ([0; KEY_BYTES], [0; VALUE_BYTES]);
            chance.fill(&mut key);
            chance.fill(&mut value);
            assert_eq!(pair(3, index), (key, value));
            assert_eq!(pair_key(3, index), key);
        }
    }
}
