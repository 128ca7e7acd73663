//! Power cuts.
//!
//! A crash point lies before every call that changes the disk, and after the last one. There the recorded run is cut
//! off; the disk keeps what was synced and some of the rest; and what is then found must be a state of the run, whole,
//! not older than the newest that was acknowledged, not newer than the newest that was begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blazedb_engine::env::{SeededEntropy, SimDisk, Survivors};
use blazedb_engine::{Durability, Env, KdfCost, KeySource, MaintainError, OpenError, Options, Store};

use super::journal::{Event, NAME, Player, Recorder};
use super::workload::{
    Allowed, MEMORY, Runner, Step, Trace, chain, changes_the_disk, encrypted, random_step, random_trace, shown,
    unencrypted,
};
use super::{Cases, Failure, Plan, Plant, Tally};
use crate::rng::Rng;

/// Where pages begin; what lies before are the two slots of the header.
const PAGES_START: u64 = 128 << 10;

/// Returns the world on this disk, with randomness that depends on the case alone.
pub(super) fn env(disk: &SimDisk, case: u64) -> Env {
    Env { entropy: Arc::new(SeededEntropy::new(case)), ..disk.env(NAME) }
}

/// Plays a trace's events on a disk; a planted bug leaves some of them out, or changes them.
struct Stage<'t> {
    trace: &'t Trace,
    player: Player,
    plant: Option<Plant>,
    played: usize,
    /// Whether the last write to the main file was one of pages.
    pages_written: bool,
}

impl<'t> Stage<'t> {
    fn new(trace: &'t Trace, base: SimDisk, plant: Option<Plant>) -> Self {
        Self { trace, player: Player::new(base), plant, played: 0, pages_written: false }
    }

    fn next(&self) -> Option<&'t Event> {
        self.trace.journal.events.get(self.played)
    }

    fn play(&mut self, event: &Event) -> Result<(), String> {
        self.played += 1;
        let is_main = self.trace.journal.is_main(event);
        if let (true, Event::Write { offset, .. }) = (is_main, event) {
            self.pages_written = *offset >= PAGES_START;
        }
        let left_out = match (self.plant, event) {
            (Some(Plant::NoLogSync), Event::Sync { .. }) => !is_main,
            (Some(Plant::NoPageSync), Event::Sync { .. }) => is_main && self.pages_written,
            (Some(Plant::NoHeaderSync), Event::Sync { .. }) => is_main && !self.pages_written,
            (Some(Plant::NoFolderSync), Event::SyncDir) => true,
            _ => false,
        };
        if left_out {
            return Ok(());
        }
        let played = match (self.plant, event) {
            (Some(Plant::OneHeaderSlot), Event::Write { file, offset: 0 | 0x1_0000, bytes }) if is_main => {
                self.player.play(&Event::Write { file: *file, offset: 0, bytes: Arc::clone(bytes) })
            }
            _ => self.player.play(event),
        };
        played.map_err(|error| format!("the journal does not play: {error}"))
    }
}

/// Goes to every crash point of a trace, on all threads.
pub(super) fn at_every_point(
    plan: &Plan<'_>,
    trace: &Trace,
    point: impl Fn(&SimDisk, Allowed, u64) -> Result<(), String> + Sync,
) -> Result<u64, Failure> {
    let total = trace.journal.events.iter().filter(|event| changes_the_disk(event)).count() as u64 + 1;
    Cases::new(plan, total).share(|cases, job| {
        let mut stage = Stage::new(trace, SimDisk::new(plan.seed), plan.plant);
        let (mut at, mut mark, mut allowed) = (0, 0, Allowed::default());
        loop {
            let event = stage.next();
            if event.is_none_or(changes_the_disk) {
                allowed = trace.allowed_at(stage.played, &mut mark, allowed);
                let mine = at % cases.plan.jobs.max(1) == job;
                if mine && !cases.take(at, |at| point(&stage.player.disk, allowed, at)) {
                    return;
                }
                at += 1;
            }
            let Some(event) = event else { return };
            if let Err(what) = stage.play(event) {
                cases.take(cases.plan.only.unwrap_or(at), |_| Err(what));
                return;
            }
        }
    })
}

/// Checks a disk after a crash in all five ways.
fn check_survivors(trace: &Trace, disk: &SimDisk, allowed: Allowed, at: u64) -> Result<(), String> {
    for (n, survivors) in Survivors::ALL.into_iter().enumerate() {
        let case = at * 5 + n as u64;
        let after = disk.after_crash(survivors, case);
        let found = trace.check_env(env(&after, case), allowed).map_err(|what| format!("{survivors:?}: {what}"))?;
        // Every store opens and is read; some of them also go on.
        if let (Some(store), true) = (found, case.is_multiple_of(11)) {
            goes_on(store, &after, &trace.options, case).map_err(|what| format!("{survivors:?}, going on: {what}"))?;
        }
    }
    Ok(())
}

/// A store that was recovered commits, checkpoints, and has it all after the next crash.
fn goes_on(store: Store, disk: &SimDisk, options: &Options, case: u64) -> Result<(), String> {
    let commit = |key: &[u8]| -> Result<(), String> {
        let mut tx = store.write();
        let tree = tx.tree("more").map_err(|error| chain(&error))?;
        tx.put(tree, key, &[7; 700]).map_err(|error| chain(&error))?;
        tx.commit().map(drop).map_err(|error| chain(&error))
    };
    commit(b"a")?;
    store.checkpoint().map_err(|error| chain(&error))?;
    commit(b"b")?;
    store.verify(&mut |_| {}).map_err(|error| chain(&error))?;
    let want = shown(&store.read()).map_err(|error| chain(&error))?;
    let after = disk.after_crash(Survivors::None, case);
    let store = Store::open(env(&after, case), options.clone().create(false)).map_err(|error| chain(&error))?;
    let found = shown(&store.read()).map_err(|error| chain(&error))?;
    if found == want { Ok(()) } else { Err("a commit after the recovery is lost".into()) }
}

/// Returns the trace of a workload that ran without an error.
fn sound_trace(plan: &Plan<'_>, options: &Options, operations: u64) -> Result<Trace, Failure> {
    let trace = random_trace(options, plan.seed, operations);
    match trace.error {
        Some(what) => Err(Failure { case: 0, what: format!("the workload failed: {what}") }),
        None => Ok(trace),
    }
}

/// A crash at every point of a random workload.
pub(super) fn everywhere(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let trace = sound_trace(plan, &encrypted(), plan.size)?;
    let points = at_every_point(plan, &trace, |disk, allowed, at| check_survivors(&trace, disk, allowed, at))?;
    Ok(Tally(vec![
        ("changes", trace.operations),
        ("checkpoints", trace.checkpoints),
        ("closes", trace.closes),
        ("crash points", points),
        ("crashes", points * Survivors::ALL.len() as u64),
    ]))
}

/// What the short sequences are made of.
const ALPHABET: [Step; 8] = [
    Step::Commit(Durability::Durable, 1),
    Step::Commit(Durability::Buffered, 2),
    Step::Commit(Durability::None, 1),
    Step::Commit(Durability::Durable, 25),
    Step::Large,
    Step::Checkpoint,
    Step::Flush,
    Step::Reopen,
];
/// 8 + 8 * 8 + 8 * 8 * 8.
const SEQUENCES: u64 = 584;

/// Returns the sequence of this number: shorter ones first.
fn sequence(mut number: u64) -> Vec<Step> {
    let mut length = 1;
    let mut of_this_length = 8;
    while number >= of_this_length {
        number -= of_this_length;
        of_this_length *= 8;
        length += 1;
    }
    (0..length)
        .map(|_| {
            let step = ALPHABET[(number % 8) as usize];
            number /= 8;
            step
        })
        .collect()
}

/// All short sequences, with a crash at every point of each.
pub(super) fn sequences(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let points = AtomicU64::new(0);
    let size = plan.size.clamp(1, SEQUENCES);
    let silent = |_, _| {};
    let done = Cases::new(plan, size).each(|at| {
        // A slice takes some of every length.
        let number = at * SEQUENCES / size;
        let options = if number.is_multiple_of(2) { encrypted() } else { unencrypted() };
        let seed = plan.seed + number;
        let mut runner = Runner::new(&SimDisk::new(seed), options, seed);
        let steps = sequence(number);
        for step in &steps {
            runner.step(*step);
        }
        let trace = runner.finish();
        if let Some(error) = &trace.error {
            return Err(format!("{steps:?}: {error}"));
        }
        let inner = Plan { seed, size: 0, only: None, jobs: 1, plant: plan.plant, progress: &silent };
        let found = at_every_point(&inner, &trace, |disk, allowed, at| check_survivors(&trace, disk, allowed, at));
        points.fetch_add(found.map_err(|f| format!("{steps:?}, point {}: {}", f.case, f.what))?, Ordering::Relaxed);
        Ok(())
    })?;
    let points = points.into_inner();
    Ok(Tally(vec![("sequences", done), ("crash points", points), ("crashes", points * 5)]))
}

/// Crashes, recoveries that crash at every point, and recoveries of those that do so again.
pub(super) fn in_recovery(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let trace = sound_trace(plan, &encrypted(), 1_000)?;
    let total = trace.journal.events.len() as u64;
    let wanted = plan.size.max(1);
    let (first, second) = (AtomicU64::new(0), AtomicU64::new(0));
    let events_per_crash = (total / wanted).max(1);
    let inner = Plan { only: None, ..*plan };
    let crashes = AtomicU64::new(0);
    at_every_point(&Plan { only: plan.only, ..inner }, &trace, |disk, allowed, at| {
        if plan.only.is_none() && (!at.is_multiple_of(events_per_crash) || at / events_per_crash >= wanted) {
            return Ok(());
        }
        crashes.fetch_add(1, Ordering::Relaxed);
        for (n, survivors) in Survivors::ALL.into_iter().enumerate() {
            let case = at * 5 + n as u64;
            let crashed = disk.after_crash(survivors, case);
            let once = crash_recovery(&trace, &crashed, allowed, case, &mut |disk, allowed, case| {
                first.fetch_add(1, Ordering::Relaxed);
                let twice = crash_recovery(&trace, disk, allowed, case, &mut |disk, allowed, case| {
                    second.fetch_add(1, Ordering::Relaxed);
                    trace.check_env(env(disk, case), allowed).map(drop)
                });
                twice.map_err(|what| format!("second recovery: {what}"))
            });
            once.map_err(|what| format!("{survivors:?}: {what}"))?;
        }
        Ok(())
    })?;
    Ok(Tally(vec![
        ("crashes", crashes.into_inner() * 5),
        ("crashes in recovery", first.into_inner()),
        ("crashes in that recovery", second.into_inner()),
    ]))
}

type Look<'l> = &'l mut dyn FnMut(&SimDisk, Allowed, u64) -> Result<(), String>;

/// Opens what is on the disk, and crashes that at every point. With so little memory the opening writes a checkpoint
/// where there is anything to write.
fn crash_recovery(trace: &Trace, disk: &SimDisk, allowed: Allowed, case: u64, look: Look<'_>) -> Result<(), String> {
    let recorder = Recorder::new(&disk.copy());
    let entropy = Arc::new(SeededEntropy::new(case));
    let mut options = trace.options.clone().create(false);
    options.memory.table_bytes = 2 << 10;
    let store = match Store::open(Env { entropy, ..recorder.env() }, options) {
        Ok(store) => Some(store),
        Err(OpenError::NotFound { .. }) if !allowed.is_created() => None,
        Err(error) => return Err(format!("it does not open: {}", chain(&error))),
    };
    let shown_after = match &store {
        Some(store) => {
            trace.check_store(store, allowed)?;
            allowed.not_before(shown(&store.read()).map_err(|error| chain(&error))?.0)
        }
        None => allowed,
    };
    // Taken before the store goes: a close is no part of the recovery.
    let journal = recorder.take();
    drop(store);
    let mut player = Player::new(disk.copy());
    let mut chance = Rng::new(case);
    let mut events = journal.events.iter();
    loop {
        let event = events.next();
        if event.is_none_or(changes_the_disk) {
            let survivors = *chance.pick(&Survivors::ALL);
            let case = chance.draw();
            let allowed = if event.is_none() { shown_after } else { allowed };
            look(&player.disk.after_crash(survivors, case), allowed, case)?;
        }
        let Some(event) = event else { return Ok(()) };
        player.play(event).map_err(|error| format!("the journal does not play: {error}"))?;
    }
}

/// Something that a store does to itself. A new one is one more line in `MAINTENANCE`.
struct Maintenance {
    name: &'static str,
    act: fn(&Store) -> Result<(), MaintainError>,
    /// What the store does before, on top of a random workload.
    before: fn(&Store) -> Result<(), String>,
    /// Whether the store has another key afterwards.
    new_key: bool,
}

const MAINTENANCE: &[Maintenance] = &[
    Maintenance { name: "checkpoint", act: |store| store.checkpoint(), before: |_| Ok(()), new_key: false },
    Maintenance { name: "close", act: |store| store.close(), before: |_| Ok(()), new_key: false },
    Maintenance {
        name: "change of key",
        act: |store| store.change_key(&KeySource::Raw(NEW_KEY.into()), KdfCost::InsecureForTests),
        before: |_| Ok(()),
        new_key: true,
    },
];

/// Packing, moving and cutting, in small steps, in a store that has lost most of what it held.
const VACUUM: Maintenance = Maintenance {
    name: "vacuum",
    act: |store| store.vacuum(9, &mut |_| {}).map(drop),
    before: fill_and_delete,
    new_key: false,
};

fn fill_and_delete(store: &Store) -> Result<(), String> {
    let mut tx = store.write();
    let tree = tx.tree("bulk").map_err(|error| chain(&error))?;
    for n in 0..500_u64 {
        let value = vec![n as u8; if n % 250 == 200 { 20_000 } else { 350 }];
        tx.put(tree, &n.to_be_bytes(), &value).map_err(|error| chain(&error))?;
    }
    tx.commit().map_err(|error| chain(&error))?;
    store.checkpoint().map_err(|error| chain(&error))?;
    let mut tx = store.write();
    for n in (0..500_u64).filter(|n| n % 8 != 0) {
        tx.delete(tree, &n.to_be_bytes()).map_err(|error| chain(&error))?;
    }
    tx.commit().map(drop).map_err(|error| chain(&error))
}

const NEW_KEY: [u8; 32] = [43; 32];

/// Crashes inside everything that a store does to itself.
pub(super) fn in_maintenance(plan: &Plan<'_>) -> Result<Tally, Failure> {
    in_each(plan, MAINTENANCE)
}

/// Crashes inside a vacuum.
pub(super) fn in_vacuum(plan: &Plan<'_>) -> Result<Tally, Failure> {
    in_each(plan, &[VACUUM])
}

fn in_each(plan: &Plan<'_>, all: &[Maintenance]) -> Result<Tally, Failure> {
    let (points, cuts) = (AtomicU64::new(0), AtomicU64::new(0));
    let stores = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let base = SimDisk::new(seed);
        let mut runner = Runner::new(&base, encrypted(), seed);
        // Stores of all ages, from one that has never seen a checkpoint.
        let operations = at * 17 % 400;
        while runner.operations() < operations && !runner.has_failed() {
            let step = random_step(runner.rng());
            runner.step(step);
        }
        let base = base.copy();
        if let Some(error) = runner.abandon().error {
            return Err(error);
        }
        for maintenance in all {
            let found = crash_maintenance(maintenance, &base, seed);
            let found = found.map_err(|what| format!("{}: {what}", maintenance.name))?;
            points.fetch_add(found.points, Ordering::Relaxed);
            cuts.fetch_add(found.cuts, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let points = points.into_inner();
    let counts = [("stores", stores), ("cuts", cuts.into_inner()), ("crash points", points), ("crashes", points * 5)];
    Ok(Tally(counts.to_vec()))
}

/// What was crashed.
#[derive(Default)]
struct Crashed {
    points: u64,
    /// How often the main file was cut.
    cuts: u64,
}

fn crash_maintenance(maintenance: &Maintenance, base: &SimDisk, seed: u64) -> Result<Crashed, String> {
    // Room for everything in the table: only what is looked at writes pages.
    let old = encrypted().memory(blazedb_engine::Memory { table_bytes: 1 << 20, ..MEMORY });
    let new = match maintenance.new_key {
        true => Options { key: KeySource::Raw(NEW_KEY.into()), ..old.clone() },
        false => old.clone(),
    };
    let recorder = Recorder::new(&base.copy());
    let entropy = Arc::new(SeededEntropy::new(seed));
    let store = Store::open(Env { entropy, ..recorder.env() }, old.clone()).map_err(|error| chain(&error))?;
    for n in 0..seed % 30 {
        let mut tx = store.write();
        let tree = tx.tree("before").map_err(|error| chain(&error))?;
        let value = vec![n as u8; (n * 331 % 5000) as usize];
        tx.put(tree, &n.to_be_bytes(), &value).map_err(|error| chain(&error))?;
        tx.commit().map_err(|error| chain(&error))?;
    }
    (maintenance.before)(&store)?;
    let want = shown(&store.read()).map_err(|error| chain(&error))?;
    let from = recorder.now();
    (maintenance.act)(&store).map_err(|error| chain(&error))?;
    let journal = recorder.take();
    drop(store);

    let mut player = Player::new(base.copy());
    let mut crashed = Crashed::default();
    for at in 0..=journal.events.len() {
        let event = journal.events.get(at);
        if at >= from && event.is_none_or(changes_the_disk) {
            crashed.points += 1;
            let is_cut = |event: &Event| matches!(event, Event::SetLen { .. }) && journal.is_main(event);
            crashed.cuts += u64::from(event.is_some_and(is_cut));
            for (n, survivors) in Survivors::ALL.into_iter().enumerate() {
                let case = (seed << 20) + at as u64 * 5 + n as u64;
                let after = player.disk.after_crash(survivors, case);
                let what = |what: String| {
                    format!("event {} of {}, {survivors:?}: {what}", at - from, journal.events.len() - from)
                };
                resume(maintenance, &after, [&old, &new], event.is_none(), want, case).map_err(what)?;
            }
        }
        if let Some(event) = event {
            player.play(event).map_err(|error| format!("the journal does not play: {error}"))?;
        }
    }
    Ok(crashed)
}

/// Opens what a crash left, with the key that it has by then, looks at all of it, and does the same thing again.
fn resume(
    maintenance: &Maintenance,
    disk: &SimDisk,
    [old, new]: [&Options; 2],
    was_done: bool,
    want: (usize, super::workload::Digest),
    case: u64,
) -> Result<(), String> {
    let opened = match Store::open(env(disk, case), new.clone()) {
        Err(OpenError::WrongKey) if !was_done => Store::open(env(disk, case), old.clone()),
        opened => opened,
    };
    if maintenance.new_key
        && was_done
        && !matches!(Store::open(env(&disk.copy(), case), old.clone()), Err(OpenError::WrongKey))
    {
        return Err("the old key still opens it".into());
    }
    let store = opened.map_err(|error| format!("it does not open: {}", chain(&error)))?;
    let look = |store: &Store| -> Result<(), String> {
        let found = shown(&store.read()).map_err(|error| format!("it does not read: {}", chain(&error)))?;
        store.verify(&mut |_| {}).map_err(|error| format!("it does not verify: {}", chain(&error)))?;
        if found == want { Ok(()) } else { Err("it holds something else".into()) }
    };
    look(&store)?;
    (maintenance.act)(&store).map_err(|error| format!("not a second time: {}", chain(&error)))?;
    drop(store);
    let store = Store::open(env(disk, case + 1), new.clone())
        .map_err(|error| format!("it does not open again: {}", chain(&error)))?;
    look(&store)
}

/// Any subset of the unsynced sectors, of two sizes.
pub(super) fn tears(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let trace = sound_trace(plan, &encrypted(), 2_000)?;
    // How many crash points have something to tear, so that the subsets are spread over all of them.
    let torn = AtomicU64::new(0);
    let count = Plan { plant: None, only: None, progress: &|_, _| {}, ..*plan };
    at_every_point(&count, &trace, |disk, _, _| {
        torn.fetch_add(u64::from(disk.pending_sectors() > 1), Ordering::Relaxed);
        Ok(())
    })?;
    let each = plan.size.div_ceil(torn.into_inner().max(1)).max(2);
    let (subsets, points) = (AtomicU64::new(0), AtomicU64::new(0));
    at_every_point(plan, &trace, |disk, allowed, at| {
        if disk.pending_sectors() <= 1 {
            return Ok(());
        }
        points.fetch_add(1, Ordering::Relaxed);
        for n in 0..each {
            let case = at * each + n;
            let sector_bytes = if n % 2 == 0 { 512 } else { 4096 };
            let after = disk.after_crash_in_sectors(Survivors::RandomSubset, case, sector_bytes);
            let found = trace.check_env(env(&after, case), allowed);
            found.map_err(|what| format!("subset {n} of sectors of {sector_bytes}: {what}"))?;
            subsets.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?;
    Ok(Tally(vec![("crash points", points.into_inner()), ("subsets", subsets.into_inner())]))
}

/// Devices that ignore syncs from some moment on.
pub(super) fn lies(plan: &Plan<'_>) -> Result<Tally, Failure> {
    let (whole, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let cuts = Cases::new(plan, plan.size).each(|at| {
        let seed = plan.seed + at;
        let disk = SimDisk::new(seed);
        let options = if at % 4 == 0 { unencrypted() } else { encrypted() };
        let mut runner = Runner::new(&disk, options, seed);
        let (honest, lying) = (runner.rng().below(30), runner.rng().below(30) + 1);
        for n in 0..honest + lying {
            disk.lie_about_syncs(n >= honest);
            let step = random_step(runner.rng());
            runner.step(step);
        }
        let after = disk.after_crash(*Rng::new(seed).pick(&Survivors::ALL), seed);
        let trace = runner.abandon();
        if let Some(error) = &trace.error {
            return Err(error.clone());
        }
        let store = match Store::open(env(&after, seed), trace.options.clone().create(false)) {
            Ok(store) => store,
            Err(OpenError::Corruption(_) | OpenError::NotAStore { .. } | OpenError::NotFound { .. }) => {
                refused.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            Err(error) => return Err(chain(&error)),
        };
        match shown(&store.read()) {
            Ok((state, digest)) if trace.knows(state, digest) => {
                whole.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Ok((state, _)) => Err(format!("it says that it is state {state} and holds something else")),
            Err(blazedb_engine::ReadError::Corruption(_)) => {
                refused.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(chain(&error)),
        }
    })?;
    Ok(Tally(vec![
        ("power cuts", cuts),
        ("older whole states", whole.into_inner()),
        ("plain errors", refused.into_inner()),
    ]))
}
