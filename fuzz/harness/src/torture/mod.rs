//! Torture of one store: every promise about faults, kept as a number that anybody can see again.
//!
//! A [`Promise`] is a name, what its size counts, and a function that breaks things that often and counts what it did.
//! `cargo torture -- --list` shows them, `cargo torture -- NAME` keeps one at full size, and `tests/torture.rs` keeps a
//! slice of each in every test run. Whatever a promise does follows from its seed; a failure names the one command that
//! repeats it.
//!
//! `journal.rs` records a run's calls and plays them again, `workload.rs` is the run and its oracle; `crash.rs`,
//! `errors.rs`, `history.rs`, `tamper.rs`, `backup.rs`, `amplification.rs` and `pace.rs` are the promises. Planted bugs ([`Plant`]) prove that they can be broken.

mod amplification;
mod backup;
mod crash;
mod errors;
mod history;
mod journal;
mod pace;
mod tamper;
mod workload;

use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a promise is to do.
pub struct Plan<'p> {
    /// Everything random follows from it.
    pub seed: u64,
    /// How much to do, in the promise's own unit.
    pub size: u64,
    /// Does this one case only.
    pub only: Option<u64>,
    /// How many threads share the cases.
    pub jobs: u64,
    /// A bug to plant.
    pub plant: Option<Plant>,
    /// Is told now and then how many cases are done, of how many.
    pub progress: &'p (dyn Fn(u64, u64) + Sync),
}

/// What was done, as counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(pub Vec<(&'static str, u64)>);

impl Tally {
    /// Returns a count by its name; 0 where there is none.
    pub fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|(of, _)| *of == name).map_or(0, |(_, n)| *n)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, n) in &self.0 {
            write!(f, "{n} {name}, ")?;
        }
        f.write_str("0 failures")
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which case it was, for `Plan::only`.
    pub case: u64,
    /// What was seen.
    pub what: String,
}

/// Something that a store promises.
pub struct Promise {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is promised.
    pub says: &'static str,
    /// What its size counts.
    pub unit: &'static str,
    /// The size at which it is kept.
    pub full: u64,
    /// The size of a slice that takes a second or two.
    pub slice: u64,
    /// Keeps it.
    pub keep: fn(&Plan<'_>) -> Result<Tally, Failure>,
}

/// Every promise.
pub const PROMISES: &[Promise] = &[
    Promise {
        name: "crash",
        says: "a power cut at every I/O of a random workload, with five ways for unsynced sectors to survive, loses \
               nothing acknowledged and shows no transaction in part",
        unit: "changes of the workload",
        full: 10_000,
        slice: 120,
        keep: crash::everywhere,
    },
    Promise {
        name: "sequences",
        says: "the same for all sequences of at most 3 of 8 operations",
        unit: "sequences, of 584",
        full: 584,
        slice: 24,
        keep: crash::sequences,
    },
    Promise {
        name: "recovery",
        says: "the same in recovery, and again in the recovery after that; what a reopened store has shown stays",
        unit: "crashes to recover from",
        full: 250,
        slice: 5,
        keep: crash::in_recovery,
    },
    Promise {
        name: "maintenance",
        says: "the same inside checkpoint, clean close and change of key, which can be done again afterwards",
        unit: "stores",
        full: 60,
        slice: 3,
        keep: crash::in_maintenance,
    },
    Promise {
        name: "vacuum",
        says: "the same inside a vacuum, which packs, moves and cuts the file in steps, and can be done again afterwards",
        unit: "stores",
        full: 25,
        slice: 1,
        keep: crash::in_vacuum,
    },
    Promise {
        name: "history",
        says: "the same of a workload with history, its end by bytes, purges, vacuums and checkpoints: as of every commit that \
               is kept there is what there was, and nothing else",
        unit: "changes of the workload",
        full: 4_000,
        slice: 60,
        keep: history::everywhere,
    },
    Promise {
        name: "restore",
        says: "a power cut at every I/O of a restore of a full backup and two increments leaves no store or a whole one, \
               and the restore can be done again",
        unit: "stores",
        full: 40,
        slice: 1,
        keep: backup::restores,
    },
    Promise {
        name: "salvage",
        says: "of a file with one page in a hundred overwritten every row comes back that can be read, and every other one \
               is in the report",
        unit: "files",
        full: 500,
        slice: 4,
        keep: backup::salvages,
    },
    Promise {
        name: "tears",
        says: "any subset of the unsynced sectors, of 512 and of 4096 bytes, may survive",
        unit: "sampled subsets",
        full: 100_000,
        slice: 500,
        keep: crash::tears,
    },
    Promise {
        name: "lies",
        says: "a device that ignores syncs and then loses power: an older whole state or an error, never a wrong state",
        unit: "power cuts",
        full: 10_000,
        slice: 60,
        keep: crash::lies,
    },
    Promise {
        name: "errors",
        says: "an error of the k-th call of each kind, for all k: nothing acknowledged is lost, after a failed write or \
               sync nothing more is acknowledged",
        unit: "changes of the workload",
        full: 1_000,
        slice: 8,
        keep: errors::every_call,
    },
    Promise {
        name: "failed-sync",
        says: "after a sync that failed once, no later commit succeeds and nothing is written or synced again",
        unit: "changes of the workload",
        full: 1_000,
        slice: 40,
        keep: errors::failed_syncs,
    },
    Promise {
        name: "full-disk",
        says: "a disk that is full at every allocation: reads go on, and so do writes when there is room again",
        unit: "changes of the workload",
        full: 1_500,
        slice: 60,
        keep: errors::full_disk,
    },
    Promise {
        name: "bits",
        says: "every single flipped bit of a page in use is noticed, its checksum mended (on a sample of pages) or not",
        unit: "KiB of the file",
        full: 11_000,
        slice: 64,
        keep: tamper::bits,
    },
    Promise {
        name: "header-and-log-bits",
        says: "every single flipped bit of both headers and of the log, through a full open: refused, or harmless, or \
               a torn tail",
        unit: "bits of each of 8 blocks",
        full: 32_768,
        slice: 60,
        keep: tamper::header_and_log_bits,
    },
    Promise {
        name: "pages",
        says: "pages exchanged, copied, replayed from older states, relabelled or taken from another file are noticed",
        unit: "cases",
        full: 10_000,
        slice: 150,
        keep: tamper::pages,
    },
    Promise {
        name: "wrong-key",
        says: "a wrong key, or no store at all: refused with one constant message, and not a byte written",
        unit: "files",
        full: 2_000,
        slice: 20,
        keep: tamper::wrong_keys,
    },
    Promise {
        name: "syncs",
        says: "exactly one data sync per group and two per checkpoint, no acknowledgement without one",
        unit: "changes of the workload",
        full: 10_000,
        slice: 150,
        keep: pace::syncs,
    },
    Promise {
        name: "groups",
        says: "on a sync of 10 ms, 64 writers commit at least 50 times as fast as one; on one of 30 ms, 500 writers \
               commit 10,000 times a second (a disk in memory, real threads, real sleep)",
        unit: "commits per writer",
        full: 40,
        slice: 4,
        keep: pace::groups,
    },
    Promise {
        name: "pauses",
        says: "beside a vacuum of a half deleted file no durable commit waits for longer than 10 ms (a disk in memory, real threads)",
        unit: "thousand rows of 158 bytes",
        full: 200,
        slice: 20,
        keep: pace::pauses,
    },
    Promise {
        name: "retention",
        says: "after each purge history is within the bytes and the time that are kept, and so is the ledger of times",
        unit: "thousand operations",
        full: 1_000,
        slice: 20,
        keep: pace::retention,
    },
    Promise {
        name: "reopen",
        says: "a full log of 64 MiB is recovered in a second, and what is read at opening does not grow with the file",
        unit: "MiB of log",
        full: 64,
        slice: 1,
        keep: pace::reopen,
    },
    Promise {
        name: "amplification",
        says: "for a byte of rows that are overwritten at random in a file of 1 GB the disk is given at most 25, with the \
               preset for servers (the others are counted); for one that is inserted by batches the log at most 2",
        unit: "thousand rows of 174 bytes",
        full: 5_750,
        slice: 20,
        keep: amplification::amplification,
    },
    Promise {
        name: "determinism",
        says: "the same seed gives the same calls with the same bytes",
        unit: "seeds",
        full: 100,
        slice: 5,
        keep: pace::determinism,
    },
];

/// Returns the promise of this name.
pub fn promise(name: &str) -> Option<&'static Promise> {
    PROMISES.iter().find(|promise| promise.name == name)
}

/// A bug that can be planted into the order of calls: the promise `crash` must notice each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Commits are acknowledged without a sync of the log.
    NoLogSync,
    /// A checkpoint writes its header without having synced its pages.
    NoPageSync,
    /// A checkpoint goes on without having synced its header.
    NoHeaderSync,
    /// The folder is not synced when the log gets a new file.
    NoFolderSync,
    /// A header goes into the slot of the newest one.
    OneHeaderSlot,
}

impl Plant {
    /// Every bug.
    pub const ALL: [Self; 5] =
        [Self::NoLogSync, Self::NoPageSync, Self::NoHeaderSync, Self::NoFolderSync, Self::OneHeaderSlot];

    fn name(self) -> &'static str {
        match self {
            Self::NoLogSync => "no-log-sync",
            Self::NoPageSync => "no-page-sync",
            Self::NoHeaderSync => "no-header-sync",
            Self::NoFolderSync => "no-folder-sync",
            Self::OneHeaderSlot => "one-header-slot",
        }
    }
}

impl fmt::Display for Plant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Plant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|plant| plant.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|plant| plant.name()).collect();
            format!("no such bug; one of {}", names.join(", "))
        })
    }
}

/// Cases shared by several threads: counts, progress, and the first failure.
struct Cases<'p> {
    plan: &'p Plan<'p>,
    total: u64,
    done: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<Failure>>,
}

impl<'p> Cases<'p> {
    fn new(plan: &'p Plan<'p>, total: u64) -> Self {
        Self { plan, total, done: AtomicU64::new(0), stop: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// Runs `work` on each of the threads; it is told which one it is.
    fn share(self, work: impl Fn(&Self, u64) + Sync) -> Result<u64, Failure> {
        let jobs = self.plan.jobs.max(1);
        std::thread::scope(|scope| {
            for job in 1..jobs {
                let (this, work) = (&self, &work);
                scope.spawn(move || work(this, job));
            }
            work(&self, 0);
        });
        match self.failure.into_inner().expect("no thread panicked") {
            Some(failure) => Err(failure),
            None => Ok(self.done.into_inner()),
        }
    }

    /// Does every case of `0..total` once.
    fn each(self, case: impl Fn(u64) -> Result<(), String> + Sync) -> Result<u64, Failure> {
        let total = self.total;
        self.share(|cases, job| {
            for at in (job..total).step_by(cases.plan.jobs.max(1) as usize) {
                if !cases.take(at, &case) {
                    break;
                }
            }
        })
    }

    /// Does one case, if it is wanted. Returns whether to go on.
    fn take(&self, at: u64, case: impl FnOnce(u64) -> Result<(), String>) -> bool {
        if self.stop.load(Ordering::Relaxed) {
            return false;
        }
        if self.plan.only.is_some_and(|only| only != at) {
            return true;
        }
        if let Err(what) = case(at) {
            self.stop.store(true, Ordering::Relaxed);
            let mut failure = self.failure.lock().expect("no thread panicked");
            // The earliest case is the easiest to understand.
            if failure.as_ref().is_none_or(|known| at < known.case) {
                *failure = Some(Failure { case: at, what });
            }
            return false;
        }
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        (self.plan.progress)(done, self.total);
        true
    }
}
