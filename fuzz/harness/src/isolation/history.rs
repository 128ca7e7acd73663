//! What the threads of a round did and saw, and the values that make it possible to tell.
//!
//! A value names the write that it comes from and the version that this write found in its place. So a set of values
//! is its own history: the order of a key's versions follows from what was read, not from what the store says about
//! itself. (Elle's lists do the same; here a version links to the one before instead of repeating it.)

/// A write: which transaction, and its how-manyth write it was. No transaction has the number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) writer: u64,
    pub(crate) nth: u32,
}

/// What a value says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) version: Version,
    /// What the writer found; `None`: the key had no value.
    pub(crate) replaced: Option<Version>,
}

const NAMES_BYTES: usize = 24;

impl Value {
    pub(crate) fn encode(self) -> Vec<u8> {
        let replaced = self.replaced.unwrap_or(Version { writer: 0, nth: 0 });
        let mut bytes = Vec::with_capacity(NAMES_BYTES);
        for version in [self.version, replaced] {
            bytes.extend(version.writer.to_le_bytes());
            bytes.extend(version.nth.to_le_bytes());
        }
        bytes.resize(NAMES_BYTES + self.filler_bytes(), self.version.writer as u8);
        bytes
    }

    /// Reads a value back; `None` where no `encode` can have made these bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let half = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let version = Version { writer: word(0)?, nth: half(8)? };
        let replaced = Version { writer: word(12)?, nth: half(20)? };
        let value = Self { version, replaced: (replaced.writer != 0).then_some(replaced) };
        (value.encode() == bytes).then_some(value)
    }

    /// Most values are small; one in sixteen is shared with the table instead of copied, one in sixty-four lies in
    /// pages of its own.
    fn filler_bytes(self) -> usize {
        let draw = crate::Rng::new(self.version.writer << 8 ^ u64::from(self.version.nth)).draw() as usize;
        match draw % 64 {
            0 => 5000,
            1..=3 => 600,
            _ => (draw >> 8) % 40,
        }
    }
}

/// A key is read where its transaction has not written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) key: u16,
    pub(crate) seen: Option<Version>,
}

/// A key's last write of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) key: u16,
    /// `None`: it was deleted.
    pub(crate) put: Option<Version>,
    pub(crate) replaced: Option<Version>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged; with a number of its own where it changed something. Views are among the others.
    Committed { commit_no: Option<u64> },
    /// Refused for a conflict, or given up by its caller.
    Aborted,
}

/// A transaction, or a view, from its begin to its end.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) id: u64,
    pub(crate) serializable: bool,
    /// The commit that the store says it shows.
    pub(crate) snapshot: u64,
    /// The newest commit that anybody had been told of when it began.
    pub(crate) acknowledged_before: u64,
    pub(crate) reads: Vec<Read>,
    pub(crate) writes: Vec<Write>,
    pub(crate) outcome: Outcome,
}

/// All threads' transactions; each thread's in the order of their begins.
#[derive(Default)]
pub(crate) struct History {
    pub(crate) threads: Vec<Vec<Transaction>>,
    /// What a view showed when all was over.
    pub(crate) last: Vec<(u16, Version)>,
    /// Keys were deleted: then a key without a value has more than one version, and values do not tell all.
    pub(crate) has_deletes: bool,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    /// Its name in the literature (Adya 1999; Berenson 1995), or in plain words where it has none.
    pub name: &'static str,
    /// Who and where.
    pub what: String,
}

impl std::fmt::Display for Anomaly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_it_was_written_and_in_no_other_way() {
        for n in 1..300 {
            let replaced = (n % 3 > 0).then_some(Version { writer: n * 5, nth: 1 });
            let value = Value { version: Version { writer: n, nth: n as u32 }, replaced };
            let bytes = value.encode();
            assert_eq!(Value::decode(&bytes), Some(value));
            assert_eq!(Value::decode(&bytes[..bytes.len() - 1]), None);
        }
    }
}
