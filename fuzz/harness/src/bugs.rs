//! Planted bugs: each breaks one promise on purpose, and the world must notice. A check that no bug can trip checks nothing.

use std::fmt;
use std::str::FromStr;

/// A bug that can be planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The relay answers before its append is durable.
    AckBeforeSync,
    /// A device's disk says that it synced, and did not.
    LyingSync,
    /// The relay takes sequence numbers outside of the critical section: batches reach the log in another order than
    /// that of their numbers.
    SequenceOutside,
    /// A file restored from a backup goes on with the replica id and the counters of the life that was lost.
    CounterReused,
}

impl Bug {
    /// Every bug.
    pub const ALL: [Self; 4] = [Self::AckBeforeSync, Self::LyingSync, Self::SequenceOutside, Self::CounterReused];

    fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::LyingSync => "lying-sync",
            Self::SequenceOutside => "sequence-outside",
            Self::CounterReused => "counter-reused",
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|bug| bug.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|bug| bug.name()).collect();
            format!("no such bug; one of {}", names.join(", "))
        })
    }
}
