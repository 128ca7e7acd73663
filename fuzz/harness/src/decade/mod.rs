//! Ten years of an app's use on a simulated clock: does the file stay as long as what is in it, and does opening it stay as
//! quick?
//!
//! A day has 50 openings. In each the app shows its newest notes and some others; in most it writes a few commits: notes are
//! inserted, edited and deleted, an index goes with them, files are attached now and then. Once a month some hundred notes
//! come at once, and some days later as many old ones go. History of the notes is kept for a month and a megabyte, automatic
//! vacuum is on, and one session in forty ends with the power going instead of a close. What is in the store is compared
//! with what must be there in every session, and all of it once a week.
//!
//! Everything follows from the seed: bytes and calls at opening stand for its time, allocations for memory. [`Report::judge`]
//! says whether a line is flat.

mod app;
mod disk;
mod plot;
mod trend;

use blazedb_engine::env::{CallKind, SimDisk, Survivors};
use blazedb_engine::{AutoVacuum, History, Memory, Options, Store, log_file_names};

use self::app::{Trees, Truth};
pub use self::plot::svg;
pub use self::trend::{Day, Report};
use crate::Rng;

const NAME: &str = "app.blaze";
const OPENS_PER_DAY: u64 = 50;
const DAY_MS: u64 = 86_400_000;

/// How the program that runs this counts memory.
#[derive(Clone, Copy)]
pub struct Gauge {
    /// From now on.
    pub begin: fn(),
    /// Returns how much more than when it began was in use at the worst moment.
    pub peak: fn() -> u64,
    /// What follows does not count.
    pub pause: fn(),
    /// It counts again.
    pub resume: fn(),
}

impl Gauge {
    /// Counts nothing.
    pub const NONE: Self = Self { begin: || {}, peak: || 0, pause: || {}, resume: || {} };

    fn aside<R>(self, work: impl FnOnce() -> R) -> R {
        (self.pause)();
        let done = work();
        (self.resume)();
        done
    }
}

/// What to simulate.
#[derive(Clone, Copy)]
pub struct Plan {
    /// What follows from it: everything.
    pub seed: u64,
    /// How long.
    pub days: u64,
    /// Notes that are there most of the time.
    pub notes: usize,
    /// How much history of them is kept.
    pub keep: History,
    /// When the store gives back by itself.
    pub auto_vacuum: Option<AutoVacuum>,
    /// How memory is counted.
    pub gauge: Gauge,
}

impl Plan {
    /// A life of so many days.
    pub fn new(seed: u64, days: u64, notes: usize) -> Self {
        let keep = History { keep_ms: 30 * DAY_MS, keep_bytes: 1 << 20 };
        let auto_vacuum = Some(AutoVacuum::default());
        Self { seed, days, notes, keep, auto_vacuum, gauge: Gauge::NONE }
    }

    /// Lives it. `each_day` is told of every day.
    ///
    /// # Errors
    /// What was not as it must be, and on which day.
    pub fn run(&self, each_day: &mut dyn FnMut(&Day)) -> Result<Report, String> {
        let mut life = Life::begin(*self)?;
        let mut days = Vec::new();
        for day in 0..self.days {
            let lived = life.day(day).map_err(|what| format!("day {day}: {what}"))?;
            each_day(&lived);
            days.push(lived);
        }
        Ok(Report { seed: self.seed, days })
    }
}

/// How a session ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Close,
    PowerCut,
}

struct Life {
    plan: Plan,
    disk: SimDisk,
    rng: Rng,
    truth: Truth,
}

impl Life {
    fn begin(plan: Plan) -> Result<Self, String> {
        let mut life = Self { plan, disk: SimDisk::new(plan.seed), rng: Rng::new(plan.seed), truth: Truth::default() };
        let store = life.open()?;
        let trees = Trees::open(&store)?;
        store.set_history(trees.notes, Some(plan.keep)).map_err(|e| e.to_string())?;
        while life.truth.notes() < plan.notes {
            life.commit(&store, 50, |truth, tx, rng| truth.insert(tx, &trees, rng))?;
        }
        for _ in 0..app::FILES {
            life.commit(&store, 1, |truth, tx, rng| truth.attach(tx, &trees, rng))?;
        }
        store.close().map_err(|e| e.to_string())?;
        Ok(life)
    }

    fn open(&self) -> Result<Store, String> {
        let options = Options::raw_key([7; 32]).memory(Memory::TINY).auto_vacuum(self.plan.auto_vacuum);
        Store::open(disk::env(&self.disk, NAME, self.plan.gauge), options).map_err(|e| format!("opening: {e}"))
    }

    /// One transaction of so many changes.
    fn commit(
        &mut self,
        store: &Store,
        changes: usize,
        mut change: impl FnMut(&mut Truth, &mut blazedb_engine::WriteTransaction, &mut Rng) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut tx = store.write();
        for _ in 0..changes {
            change(&mut self.truth, &mut tx, &mut self.rng)?;
        }
        tx.commit().map_err(|e| e.to_string())?;
        // What the store's own thread does between commits, where there are threads.
        blazedb_engine::testing::idle(store);
        Ok(())
    }

    fn day(&mut self, day: u64) -> Result<Day, String> {
        let mut lived = Day { day, ..Day::default() };
        let clock = disk::clock(&self.disk);
        for session in 0..OPENS_PER_DAY {
            clock.advance_ms(DAY_MS / OPENS_PER_DAY - 60_000);
            let end = if self.rng.below(40) == 0 { End::PowerCut } else { End::Close };
            self.session(day, session, end, &mut lived)?;
            clock.advance_ms(60_000);
        }
        let len = |name: &str| self.disk.read_file(name).map_or(0, |bytes| bytes.len() as u64);
        lived.file_bytes = len(NAME);
        lived.log_bytes = log_file_names(NAME).iter().map(|name| len(name)).sum();
        lived.live_bytes = self.truth.bytes;
        Ok(lived)
    }

    fn session(&mut self, day: u64, session: u64, end: End, lived: &mut Day) -> Result<(), String> {
        let (bytes, calls) = (self.disk.bytes_read(), self.disk.calls(CallKind::Read));
        (self.plan.gauge.begin)();
        let store = self.open()?;
        lived.opens += 1;
        lived.open_bytes_max = lived.open_bytes_max.max(self.disk.bytes_read() - bytes);
        lived.open_bytes_all += self.disk.bytes_read() - bytes;
        lived.open_reads_max = lived.open_reads_max.max(self.disk.calls(CallKind::Read) - calls);
        let trees = Trees::open(&store)?;
        let gauge = self.plan.gauge;
        let (truth, rng) = (&self.truth, &mut self.rng);
        truth.look(&store, &trees, rng)?;
        if self.rng.chance(70) {
            self.write(&store, &trees)?;
        }
        match (day % 30, session) {
            // Many at once, and days later as many old ones go.
            (10, 20) => {
                for _ in 0..10 {
                    self.commit(&store, self.plan.notes / 80, |t, tx, rng| t.insert(tx, &trees, rng))?;
                }
            }
            (14, 20) => {
                for _ in 0..10 {
                    self.commit(&store, self.plan.notes / 80, |t, tx, _| t.delete_oldest(tx, &trees))?;
                }
            }
            _ => {}
        }
        if day.is_multiple_of(3) && session == 5 {
            self.commit(&store, 1, |truth, tx, rng| truth.attach(tx, &trees, rng))?;
        }
        if day % 7 == 6 && session + 1 == OPENS_PER_DAY {
            self.truth.compare(&store, &trees)?;
            store.verify(&mut |_| {}).map_err(|e| e.to_string())?;
        }
        if session + 1 == OPENS_PER_DAY {
            let kept = store.history(trees.notes).map_err(|e| e.to_string())?;
            let kept = kept.ok_or("the history of the notes is kept")?;
            (lived.history_bytes, lived.history_versions) = (kept.bytes, kept.versions);
            // It is purged when an eighth may go, at the next checkpoint.
            let most = kept.keep.keep_bytes.saturating_add(kept.keep.keep_bytes / 8).saturating_add(64 << 10);
            if kept.bytes > most {
                return Err(format!("history has {} bytes, and {most} are the most", kept.bytes));
            }
            let stats = store.stats();
            lived.free_bytes = stats.free_bytes;
        }
        match end {
            End::Close => {
                store.close().map_err(|e| e.to_string())?;
                drop(store);
                lived.memory_max = lived.memory_max.max((gauge.peak)());
            }
            End::PowerCut => {
                lived.memory_max = lived.memory_max.max((gauge.peak)());
                lived.power_cuts += 1;
                let seed = self.rng.draw();
                let after = gauge.aside(|| self.disk.after_crash(Survivors::RandomSubset, seed));
                drop(store);
                self.disk = after;
            }
        }
        Ok(())
    }

    /// One to four commits of one to three changes. Inserts and deletes keep the number of notes where it is.
    fn write(&mut self, store: &Store, trees: &Trees) -> Result<(), String> {
        for _ in 0..1 + self.rng.below(4) {
            let changes = 1 + self.rng.below(3);
            let wanted = self.plan.notes;
            self.commit(store, changes, |truth, tx, rng| {
                let share = rng.below(100);
                let is_growing = rng.chance(if truth.notes() < wanted { 70 } else { 30 });
                match share {
                    0..50 => truth.edit(tx, trees, rng),
                    _ if is_growing => truth.insert(tx, trees, rng),
                    _ => truth.delete(tx, trees, rng),
                }
            })?;
        }
        Ok(())
    }
}
