//! The disk of one machine in a simulated world, with the machine's clock and its randomness.

use std::sync::Arc;

use blazedb_engine::env::{SeededEntropy, SimDisk, StepClock, Survivors};
use blazedb_engine::{Clock, Entropy, Env, Memory};

use crate::rng::Rng;

/// Name of the one database file.
const FILE: &str = "world.blaze";

pub(crate) struct Disk {
    disk: SimDisk,
    clock: Arc<StepClock>,
    entropy: Arc<dyn Entropy>,
    lies: bool,
}

/// So little that checkpoints come every few commits, in the middle of everything else.
pub(crate) const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 12 << 10, log_bytes: 128 << 10 };

impl Disk {
    pub(crate) fn new(seed: u64, lies: bool) -> Self {
        let disk = SimDisk::new(seed);
        disk.lie_about_syncs(lies);
        Self { disk, clock: Arc::new(StepClock::new()), entropy: Arc::new(SeededEntropy::new(seed)), lies }
    }

    /// Returns a machine of its own with the same files.
    pub(crate) fn copy(&self, seed: u64) -> Self {
        Self {
            disk: self.disk.copy(),
            clock: Arc::new(StepClock::new()),
            entropy: Arc::new(SeededEntropy::new(seed)),
            lies: self.lies,
        }
    }

    pub(crate) fn env(&self) -> Env {
        Env {
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            entropy: Arc::clone(&self.entropy),
            ..self.disk.env(FILE)
        }
    }

    /// Begins the machine's randomness anew.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.entropy = Arc::new(SeededEntropy::new(seed));
    }

    pub(crate) fn set_wall_ms(&self, to: u64) {
        self.clock.set_wall_ms(to);
    }

    /// The power goes: nothing that runs gets another byte onto the disk.
    pub(crate) fn cut(&self) {
        self.disk.crash_at(0);
    }

    /// The power comes back; some of what was not synced is there, some is not.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let survivors = *rng.pick(&Survivors::ALL);
        self.disk = self.disk.after_crash(survivors, rng.draw());
        self.disk.lie_about_syncs(self.lies);
    }
}
