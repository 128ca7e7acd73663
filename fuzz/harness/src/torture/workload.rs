//! The workload of the crash tests, and what a store may show after it was cut short.
//!
//! Every commit, whatever else it does, writes its own number under one key. So the content that is found after a crash
//! says itself which state it claims to be; that it is that state, whole, is compared by a digest of all there is.

use std::collections::BTreeMap;

use blazedb_engine::env::SimDisk;
use blazedb_engine::{Durability, Env, History, Memory, Options, ReadError, ReadView, Store};

use super::journal::{Event, Journal, NAME, Recorder};
use crate::rng::Rng;

/// So little that a checkpoint is due every few dozen commits.
pub(crate) const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 12 << 10, log_bytes: 128 << 10 };

const TREES: [&str; 3] = ["rows", "operations", "index"];
const KEYS: usize = 40;
const COUNTER: (&str, &[u8]) = ("counter", b"n");

/// Returns options that open fast, as a raw key needs no stretching, and with little memory.
pub(crate) fn encrypted() -> Options {
    Options::raw_key([42; 32]).memory(MEMORY)
}

/// Returns the same without encryption.
pub(crate) fn unencrypted() -> Options {
    Options::unencrypted().memory(MEMORY)
}

/// A digest of everything that a store holds. Entries may come in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest(u64);

impl Digest {
    fn of(tree: &str, key: &[u8], value: &[u8]) -> u64 {
        // 64 bits are plenty: nobody looks for collisions here.
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        for part in [tree.as_bytes(), key, value] {
            for chunk in part.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                state = (state ^ u64::from_le_bytes(word)).wrapping_mul(0xBF58_476D_1CE4_E5B9).rotate_left(29);
            }
            state = (state ^ part.len() as u64).wrapping_mul(0x94D0_49BB_1331_11EB).rotate_left(31);
        }
        state ^ (state >> 32)
    }

    pub(crate) fn add(&mut self, tree: &str, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_add(Self::of(tree, key, value));
    }

    fn remove(&mut self, tree: &str, key: &[u8], value: &[u8]) {
        self.0 = self.0.wrapping_sub(Self::of(tree, key, value));
    }
}

/// What a store holds, with its digest.
#[derive(Clone, Default)]
pub(crate) struct Model {
    entries: BTreeMap<(&'static str, Vec<u8>), Vec<u8>>,
    pub(crate) digest: Digest,
}

impl Model {
    fn put(&mut self, tree: &'static str, key: &[u8], value: &[u8]) {
        self.digest.add(tree, key, value);
        if let Some(old) = self.entries.insert((tree, key.to_vec()), value.to_vec()) {
            self.digest.remove(tree, key, &old);
        }
    }

    fn delete(&mut self, tree: &'static str, key: &[u8]) {
        if let Some(old) = self.entries.remove(&(tree, key.to_vec())) {
            self.digest.remove(tree, key, &old);
        }
    }
}

/// Which state a store claims to show, and the digest of all that it shows.
pub(crate) fn shown(view: &ReadView) -> Result<(usize, Digest), ReadError> {
    let mut digest = Digest::default();
    let mut state = 0;
    for name in view.tree_names()? {
        let Some(tree) = view.tree(&name)? else { continue };
        for item in view.range(tree, ..) {
            let (key, value) = item?;
            digest.add(&name, &key, &value);
            if (name.as_str(), &key[..]) == COUNTER {
                state = value[..].try_into().map_or(usize::MAX, |bytes| u64::from_le_bytes(bytes) as usize);
            }
        }
    }
    Ok((state, digest))
}

/// The same as of a commit; `None` where history of some tree is not kept, or not from that commit on.
fn shown_as_of(store: &Store, commit_no: u64) -> Result<Option<(usize, Digest)>, ReadError> {
    let (mut digest, mut state) = (Digest::default(), 0);
    let (present, past) = (store.read(), store.as_of(commit_no)?);
    for name in TREES.into_iter().chain([COUNTER.0]) {
        let Some(tree) = present.tree(name)? else { return Ok(None) };
        let rows = match past.range(tree, ..) {
            Ok(rows) => rows,
            Err(ReadError::HistoryOff { .. } | ReadError::HistoryGone { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        for item in rows {
            let (key, value) = item?;
            digest.add(name, &key, &value);
            if (name, &key[..]) == COUNTER {
                state = value[..].try_into().map_or(usize::MAX, |bytes| u64::from_le_bytes(bytes) as usize);
            }
        }
    }
    Ok(Some((state, digest)))
}

/// What happened when, in events of the journal.
#[derive(Clone, Copy)]
struct Mark {
    at: usize,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    /// The store exists.
    Created,
    /// A commit of this state was begun: it may be seen from now on.
    Begun(usize),
    /// This state, and all before it, are durable.
    Acknowledged(usize),
}

/// A run of a workload: its journal, and what it was told.
pub(crate) struct Trace {
    pub(crate) journal: Journal,
    pub(crate) options: Options,
    marks: Vec<Mark>,
    states: Vec<Digest>,
    pub(crate) operations: u64,
    /// Checkpoints, closes and so on, for the reader of a report.
    pub(crate) checkpoints: u64,
    pub(crate) closes: u64,
    pub(crate) trace_hash: u64,
    /// What went wrong, where something did that the caller had provoked.
    pub(crate) error: Option<String>,
}

/// What may be seen at one place of the journal.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    created: bool,
    /// The newest acknowledged state.
    at_least: usize,
    /// The newest state whose commit was begun.
    at_most: usize,
}

impl Allowed {
    /// Returns whether the store must exist.
    pub(crate) fn is_created(&self) -> bool {
        self.created
    }

    /// Returns the same where somebody has seen this state.
    pub(crate) fn not_before(self, state: usize) -> Self {
        Self { at_least: self.at_least.max(state), created: true, ..self }
    }
}

impl Trace {
    /// Returns what is allowed after the first `at` events, given what is allowed before, as of mark `next`.
    pub(crate) fn allowed_at(&self, at: usize, next: &mut usize, mut now: Allowed) -> Allowed {
        while let Some(mark) = self.marks.get(*next) {
            // What was told after an event holds from then on; a commit cannot be seen before its first event.
            let reached = match mark.what {
                What::Begun(_) => mark.at < at,
                What::Created | What::Acknowledged(_) => mark.at <= at,
            };
            if !reached {
                break;
            }
            match mark.what {
                What::Created => now.created = true,
                What::Begun(state) => now.at_most = state,
                What::Acknowledged(state) => now.at_least = state,
            }
            *next += 1;
        }
        now
    }

    /// Returns what is allowed when everything has been played.
    pub(crate) fn allowed_at_end(&self) -> Allowed {
        self.allowed_at(usize::MAX, &mut 0, Allowed::default())
    }

    /// Opens what is on the disk, reads and verifies all of it, and says what is wrong with it. Returns the store where
    /// there is one.
    pub(crate) fn check(&self, disk: &SimDisk, allowed: Allowed) -> Result<Option<Store>, String> {
        self.check_env(disk.env(NAME), allowed)
    }

    pub(crate) fn check_env(&self, env: Env, allowed: Allowed) -> Result<Option<Store>, String> {
        let store = match Store::open(env, self.options.clone().create(false)) {
            Ok(store) => store,
            Err(blazedb_engine::OpenError::NotFound { .. }) if !allowed.created => return Ok(None),
            Err(error) => return Err(format!("it does not open: {}", chain(&error))),
        };
        self.check_store(&store, allowed)?;
        Ok(Some(store))
    }

    pub(crate) fn check_store(&self, store: &Store, allowed: Allowed) -> Result<(), String> {
        let (state, digest) = shown(&store.read()).map_err(|error| format!("it does not read: {}", chain(&error)))?;
        if state < allowed.at_least {
            return Err(format!("it shows state {state}, and state {} was acknowledged", allowed.at_least));
        }
        if state > allowed.at_most {
            return Err(format!("it shows state {state}, and only {} were begun", allowed.at_most));
        }
        if self.states[state] != digest {
            return Err(format!("it says that it is state {state} and holds something else"));
        }
        store.verify(&mut |_| {}).map_err(|error| format!("it does not verify: {}", chain(&error)))?;
        Ok(())
    }

    /// Compares what a store shows of its past, as of `step`-th commits from the newest one back: each is a state of the run,
    /// whole, and the states of neighbours are neighbours. Returns how many commits it could see.
    pub(crate) fn check_past(&self, store: &Store, step: u64) -> Result<u64, String> {
        let newest = store.read().commit_no();
        let (mut later, _) = shown(&store.read()).map_err(|error| chain(&error))?;
        let mut seen = 0;
        for commit_no in (0..=newest).rev().step_by(step as usize) {
            let told = |what: String| format!("as of commit {commit_no} of {newest}: {what}");
            let found = shown_as_of(store, commit_no).map_err(|error| told(chain(&error)))?;
            let Some((state, digest)) = found else { break };
            if self.states.get(state) != Some(&digest) {
                return Err(told(format!("it says that it is state {state} and holds something else")));
            }
            // A commit is one state, or none where it says what is kept.
            let most = if seen == 0 { 0 } else { step as usize };
            if state > later || later - state > most {
                return Err(told(format!("it shows state {state}, and the commit behind it state {later}")));
            }
            later = state;
            seen += 1;
        }
        Ok(seen)
    }

    /// Returns whether a state that was found is one of the run's, whole; of a disk that lies no more can be asked.
    pub(crate) fn knows(&self, state: usize, digest: Digest) -> bool {
        self.states.get(state) == Some(&digest)
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// One step of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A transaction of this many changes.
    Commit(Durability, usize),
    /// A durable transaction whose one value needs pages of its own.
    Large,
    Checkpoint,
    Flush,
    Reopen,
    /// From here on this many bytes of every tree's history are kept.
    KeepHistory(u64),
    Purge,
    Vacuum,
}

/// Runs steps, and keeps the model and the marks.
pub(crate) struct Runner {
    recorder: Recorder,
    store: Option<Store>,
    options: Options,
    model: Model,
    rng: Rng,
    trace: Trace,
    largest: usize,
}

impl Runner {
    /// Opens a new store on `disk`, which must be empty.
    pub(crate) fn new(disk: &SimDisk, options: Options, seed: u64) -> Self {
        let recorder = Recorder::new(disk);
        let trace = Trace {
            journal: Journal::default(),
            options: options.clone(),
            marks: Vec::new(),
            states: vec![Digest::default()],
            operations: 0,
            checkpoints: 0,
            closes: 0,
            trace_hash: 0,
            error: None,
        };
        let mut runner = Self {
            recorder,
            store: None,
            options,
            model: Model::default(),
            rng: Rng::new(seed),
            trace,
            largest: 20_000,
        };
        let opened = runner.open();
        runner.note_error(opened);
        runner.mark(What::Created);
        runner
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub(crate) fn operations(&self) -> u64 {
        self.trace.operations
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.trace.error.is_some()
    }

    /// Forgets an error that the caller provoked and has taken away; what the failed commit wrote was not seen.
    pub(crate) fn forgive(&mut self) -> Option<String> {
        self.trace.error.take()
    }

    /// Returns what the store must show now: everything that was begun and did not fail.
    pub(crate) fn check_now(&self) -> Result<(), String> {
        let Some(store) = &self.store else { return Err("it is not open".into()) };
        let (_, digest) = shown(&store.read()).map_err(|error| chain(&error))?;
        if digest == self.model.digest { Ok(()) } else { Err("it shows something else than was committed".into()) }
    }

    fn open(&mut self) -> Result<(), String> {
        let store = Store::open(self.recorder.env(), self.options.clone()).map_err(|error| chain(&error))?;
        self.store = Some(store);
        Ok(())
    }

    fn mark(&mut self, what: What) {
        if self.trace.error.is_none() {
            self.trace.marks.push(Mark { at: self.recorder.now(), what });
        }
    }

    fn note_error(&mut self, result: Result<(), String>) {
        if let Err(error) = result {
            self.trace.error.get_or_insert(error);
        }
    }

    /// Does a step; errors are noted, and further steps do nothing.
    pub(crate) fn step(&mut self, step: Step) {
        if self.trace.error.is_some() {
            return;
        }
        let result = match step {
            Step::Commit(durability, changes) => self.commit(durability, changes, value),
            Step::Large => self.commit(Durability::Durable, 1, |rng, largest| vec![rng.draw() as u8; largest]),
            Step::Checkpoint => self.maintain(|store| store.checkpoint()),
            Step::Flush => self.maintain(|store| store.flush()),
            Step::Reopen => self.close().and_then(|()| self.open()),
            Step::KeepHistory(keep_bytes) => self.keep_history(keep_bytes),
            Step::Purge => self.maintain(|store| store.purge_history()),
            Step::Vacuum => self.vacuum(),
        };
        self.note_error(result);
    }

    fn close(&mut self) -> Result<(), String> {
        let closed = self.maintain(|store| store.close());
        self.trace.closes += 1;
        self.store = None;
        closed
    }

    /// Commits that change no row.
    fn keep_history(&mut self, keep_bytes: u64) -> Result<(), String> {
        let Some(store) = self.store.clone() else { return Err("it is not open".into()) };
        for name in TREES.into_iter().chain([COUNTER.0]) {
            let tree = store.tree(name).map_err(|error| chain(&error))?;
            let keep = History { keep_ms: u64::MAX, keep_bytes };
            store.set_history(tree, Some(keep)).map_err(|error| chain(&error))?;
        }
        self.mark(What::Acknowledged(self.trace.states.len() - 1));
        Ok(())
    }

    /// Where there is nothing to do nothing becomes durable by it.
    fn vacuum(&mut self) -> Result<(), String> {
        let Some(store) = &self.store else { return Err("it is not open".into()) };
        store.vacuum(20, &mut |_| {}).map(drop).map_err(|error| chain(&error))
    }

    fn maintain(
        &mut self,
        act: impl FnOnce(&Store) -> Result<(), blazedb_engine::MaintainError>,
    ) -> Result<(), String> {
        let Some(store) = &self.store else { return Err("it is not open".into()) };
        let before = store.stats().checkpoints;
        act(store).map_err(|error| chain(&error))?;
        self.trace.checkpoints += store.stats().checkpoints - before;
        self.mark(What::Acknowledged(self.trace.states.len() - 1));
        Ok(())
    }

    fn commit(
        &mut self,
        durability: Durability,
        changes: usize,
        value: impl Fn(&mut Rng, usize) -> Vec<u8>,
    ) -> Result<(), String> {
        let Some(store) = self.store.clone() else { return Err("it is not open".into()) };
        let before = store.stats().checkpoints;
        let state = self.trace.states.len();
        let mut next = self.model.clone();
        let mut tx = store.write();
        let mut act = |tx: &mut blazedb_engine::WriteTransaction| -> Result<(), blazedb_engine::WriteError> {
            for _ in 0..changes {
                let name = *self.rng.pick(&TREES);
                let tree = tx.tree(name)?;
                let key = [b'k', self.rng.below(KEYS) as u8];
                if self.rng.chance(25) {
                    tx.delete(tree, &key)?;
                    next.delete(name, &key);
                } else {
                    let value = value(&mut self.rng, self.largest);
                    tx.put(tree, &key, &value)?;
                    next.put(name, &key, &value);
                }
            }
            let number = (state as u64).to_le_bytes();
            let counter = tx.tree(COUNTER.0)?;
            tx.put(counter, COUNTER.1, &number)?;
            next.put(COUNTER.0, COUNTER.1, &number);
            Ok(())
        };
        act(&mut tx).map_err(|error| chain(&error))?;
        self.trace.states.push(next.digest);
        self.mark(What::Begun(state));
        tx.commit_with(durability, |_| Ok(())).map_err(|error| chain(&error))?;
        self.model = next;
        self.trace.operations += changes as u64;
        self.trace.checkpoints += store.stats().checkpoints - before;
        if durability == Durability::Durable {
            self.mark(What::Acknowledged(state));
        }
        Ok(())
    }

    /// Closes and hands out the trace.
    pub(crate) fn finish(mut self) -> Trace {
        if self.trace.error.is_none() {
            let closed = self.close();
            self.note_error(closed);
        }
        self.store = None;
        self.trace.journal = self.recorder.take();
        self.trace
    }

    /// Hands out the trace as it is, as after a crash: the store goes without a close.
    pub(crate) fn abandon(mut self) -> Trace {
        let journal = self.recorder.take();
        self.trace.journal = journal;
        self.store = None;
        self.trace
    }
}

/// Most values are small, some fill a good part of a page, a few need pages of their own.
fn value(rng: &mut Rng, largest: usize) -> Vec<u8> {
    let most = match rng.below(50) {
        0 => largest,
        1..=4 => 3_000,
        5..=12 => 800,
        _ => 60,
    };
    let len = rng.below(most);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rng.draw().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// Returns a random step.
pub(crate) fn random_step(rng: &mut Rng) -> Step {
    match rng.below(100) {
        0 => Step::Checkpoint,
        1 | 2 => Step::Reopen,
        3 | 4 => Step::Flush,
        5..=16 => Step::Commit(Durability::Buffered, rng.below(4) + 1),
        17..=24 => Step::Commit(Durability::None, rng.below(4) + 1),
        25 => Step::Commit(Durability::Durable, 40),
        26 => Step::Large,
        27..=45 => Step::Commit(Durability::Durable, rng.below(4) + 2),
        _ => Step::Commit(Durability::Durable, 1),
    }
}

/// Returns a random step of a store that keeps history.
pub(crate) fn random_step_with_history(rng: &mut Rng) -> Step {
    match rng.below(60) {
        0 => Step::KeepHistory(1 << (10 + rng.below(8))),
        1 | 2 => Step::Purge,
        3 => Step::Vacuum,
        4 => Step::Checkpoint,
        _ => random_step(rng),
    }
}

/// Runs a random workload of this many changes, and closes.
pub(crate) fn random_trace(options: &Options, seed: u64, operations: u64) -> Trace {
    trace_of(options, seed, operations, &[], random_step)
}

/// The same of a store that keeps history.
pub(crate) fn random_trace_with_history(options: &Options, seed: u64, operations: u64) -> Trace {
    trace_of(options, seed, operations, &[Step::KeepHistory(u64::MAX)], random_step_with_history)
}

fn trace_of(options: &Options, seed: u64, operations: u64, first: &[Step], next: fn(&mut Rng) -> Step) -> Trace {
    let disk = SimDisk::new(seed);
    let mut runner = Runner::new(&disk, options.clone(), seed);
    first.iter().for_each(|step| runner.step(*step));
    while runner.operations() < operations && !runner.has_failed() {
        let step = next(runner.rng());
        runner.step(step);
    }
    let mut trace = runner.finish();
    trace.trace_hash = disk.trace();
    trace
}

/// Returns whether a crash before the next event leaves another disk than one before this event does.
pub(crate) fn changes_the_disk(event: &Event) -> bool {
    !matches!(event, Event::Open { mode, .. } if *mode != blazedb_engine::env::OpenMode::Create)
}
