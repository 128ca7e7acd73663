//! Random histories of three files and a relay, one document, compared after every step with a naive oracle.
//!
//! The oracle keeps every edit of a life in a list and every field in a map; it knows nothing of row stamps, exceptions or
//! `other_seq`. A failure prints its seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use blazedb_sync::merge::absorbs;
use blazedb_sync::{BoxReason, DocState, Fate, HlcClock, InboxEntry, OpContext, fold, settle};
use blazedb_wire::{Op, OpId, OpKind, ReplicaId, Value, Verdict};

use crate::make::{create, delete, id, text, update};
use crate::random::Random;

/// One operation in the relay's log.
#[derive(Clone, Debug)]
struct Entry {
    id: OpId,
    op: Op,
    deps: Vec<OpId>,
    fate: Fate,
}

impl Entry {
    fn context(&self, seq: u64) -> OpContext<'_> {
        OpContext { op: self.op.as_ref(), id: self.id, seq, deps: &self.deps }
    }

    fn hand(&self) -> BTreeSet<ReplicaId> {
        self.deps.iter().map(|dep| dep.replica).chain([self.id.replica]).collect()
    }
}

type Cell = (u64, u32, Option<(u8, Vec<u8>)>);

/// The oracle: one document, everything remembered.
#[derive(Clone, Debug, Default)]
struct Naive {
    life: Life,
    cells: BTreeMap<String, Cell>,
    /// Edits of the present life that had an effect: number and author.
    edits: Vec<(u64, ReplicaId)>,
    reborn: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Life {
    #[default]
    Absent,
    Live,
    Dead(u64),
}

impl Naive {
    /// Applies an entry; returns why something was boxed.
    fn apply(&mut self, entry: &Entry, seq: u64, own: bool) -> Option<BoxReason> {
        match entry.fate {
            Fate::Repeated => return None,
            Fate::Absorbed => return Some(BoxReason::Absorbed),
            Fate::Refused(_) => return own.then_some(BoxReason::Refused),
            Fate::Applied => {}
        }
        let Entry { id, op, .. } = entry;
        let hand = entry.hand();
        match (op.kind, self.life) {
            (OpKind::Delete, Life::Dead(_)) => return None,
            (OpKind::Delete, _) => {
                let missed = self.edits.iter().any(|(seq, author)| *seq > op.cursor && !hand.contains(author));
                *self = Self { life: Life::Dead(seq), ..Self::default() };
                return missed.then_some(BoxReason::DeletedWhileEdited);
            }
            (OpKind::Update, Life::Absent | Life::Dead(_)) => return Some(BoxReason::Unknown),
            (OpKind::Update, Life::Live) => {
                let (birth, creator) = self.edits[0];
                if self.reborn && op.cursor < birth && !hand.contains(&creator) {
                    return Some(BoxReason::EarlierLife);
                }
            }
            (OpKind::Create, Life::Live) => {}
            (OpKind::Create, before) => {
                *self = Self { life: Life::Live, reborn: before != Life::Absent, ..Self::default() };
            }
        }
        let stamp = (op.hlc.0, id.replica.tag());
        let row = op.set.as_ref().expect("creates and updates have one").as_ref();
        let set =
            (0..row.len()).map(|at| (row.shape().name(at), Some((row.field(at).tag, row.field(at).payload.to_vec()))));
        for (name, field) in set.chain(op.unset.names().map(|name| (name, None))) {
            let cell = (stamp.0, stamp.1, field);
            let known = self.cells.entry(name.to_owned()).or_insert_with(|| cell.clone());
            if cell > *known {
                *known = cell;
            }
        }
        self.edits.push((seq, id.replica));
        None
    }

    /// Says what the relay will say of an operation that comes next.
    fn foresee(&self, op: &Op) -> Fate {
        match (self.life, op.kind) {
            (Life::Dead(_), OpKind::Update) => Fate::Absorbed,
            (Life::Dead(death), OpKind::Create) if op.cursor < death => Fate::Absorbed,
            _ => Fate::Applied,
        }
    }

    fn agrees(&self, state: &DocState) -> bool {
        match (self.life, state) {
            (Life::Absent, DocState::Absent) | (Life::Dead(_), DocState::Dead(_)) => true,
            (Life::Live, DocState::Live(record)) => {
                let row = record.row.as_ref();
                let names = row.shape().names().map(str::to_owned);
                let fields = row.fields().map(|field| (field.tag, field.payload.to_vec()));
                let stamps = (0..row.len()).map(|at| record.field_stamp(at));
                let mut cells: BTreeMap<String, Cell> = names
                    .zip(fields.zip(stamps))
                    .map(|(name, (field, stamp))| (name, (stamp.hlc.0, stamp.tag, Some(field))))
                    .collect();
                cells.extend(record.meta.unset.iter().map(|(name, at)| (name.to_string(), (at.hlc.0, at.tag, None))));
                cells == self.cells
            }
            _ => false,
        }
    }
}

/// One file: its base, what it has not got back from the relay, its inbox.
struct File {
    incarnations: Vec<OpId>,
    clock: HlcClock,
    skew: u64,
    cursor: usize,
    base: DocState,
    naive: Naive,
    pending: VecDeque<(Entry, bool)>,
    inbox: BTreeMap<[u8; 24], InboxEntry>,
    naive_inbox: BTreeMap<OpId, BoxReason>,
}

impl File {
    fn owns(&self, id: OpId) -> bool {
        self.incarnations.iter().any(|known| known.replica == id.replica)
    }

    fn current(&self) -> DocState {
        fold(&self.base, self.pending.iter().map(|(entry, _)| entry.context(0)))
    }

    fn write(&mut self, random: &mut Random, now: u64) {
        let current = self.current();
        let cursor = self.cursor as u64;
        let hlc = self.clock.tick(now + self.skew).0;
        let mut fields: Vec<(&str, Value)> = Vec::new();
        for name in ["a", "b", "c"] {
            if random.one_in(2) {
                let small = random.below(5);
                fields.push((name, if small < 3 { Value::I64(small as i64) } else { text(&small.to_string()) }));
            }
        }
        let unset: Vec<&str> = ["a", "b", "c"]
            .into_iter()
            .filter(|name| fields.iter().all(|(set, _)| set != name) && random.one_in(4))
            .collect();
        let kind = match (&current, random.below(10)) {
            (DocState::Live(_), 0..=6) | (_, 9) => OpKind::Update,
            (DocState::Live(_), 7) | (_, 0..=6) => OpKind::Create,
            _ => OpKind::Delete,
        };
        let op = match kind {
            OpKind::Create => create(hlc, cursor, &fields),
            OpKind::Update if fields.is_empty() && unset.is_empty() => update(hlc, cursor, &[("a", Value::Null)], &[]),
            OpKind::Update => update(hlc, cursor, &fields, &unset),
            OpKind::Delete => delete(hlc, cursor),
        };
        let (me, earlier) = self.incarnations.split_last_mut().expect("one at least");
        me.counter += 1;
        let entry = Entry { id: *me, op, deps: earlier.to_vec(), fate: Fate::Applied };
        self.pending.push_back((entry, false));
    }

    fn pull(&mut self, log: &[Entry], many: usize) {
        for entry in log.iter().skip(self.cursor).take(many) {
            self.cursor += 1;
            let seq = self.cursor as u64;
            let own = self.owns(entry.id);
            let outcome = settle(&self.base, &entry.context(seq), entry.fate, own);
            if let Some(state) = outcome.state {
                self.base = state;
            }
            if let Some(boxed) = outcome.boxed {
                assert_eq!((boxed.id, boxed.seq), (entry.id, seq));
                self.inbox.insert(boxed.key(), boxed);
            }
            if let Some(reason) = self.naive.apply(entry, seq, own) {
                self.naive_inbox.insert(entry.id, reason);
            }
            if own && entry.fate != Fate::Repeated {
                let (front, _) = self.pending.pop_front().expect("own work comes back once");
                assert_eq!(front.id, entry.id, "and in order");
            }
            self.clock.observe(entry.op.hlc);
        }
    }

    fn check(&self) {
        // spec: M-1
        assert!(self.naive.agrees(&self.base), "base {:?}\noracle {:?}", self.base, self.naive);
        let boxed: BTreeMap<OpId, BoxReason> = self.inbox.values().map(|entry| (entry.id, entry.reason)).collect();
        assert_eq!(boxed, self.naive_inbox);
        // spec: M-14
        let mut ahead = self.naive.clone();
        for ((entry, _), seq) in self.pending.iter().zip(self.cursor as u64 + 1..) {
            let entry = Entry { fate: ahead.foresee(&entry.op), ..entry.clone() };
            ahead.apply(&entry, seq, true);
        }
        let current = self.current();
        assert!(
            ahead.agrees(&current),
            "shown {current:?}\noracle {ahead:?}\nbase {:?}\npending {:?}",
            self.base,
            self.pending
        );
    }
}

/// The relay: numbers operations and judges them with the same rule as clients foresee it.
#[derive(Default)]
struct Relay {
    log: Vec<Entry>,
    state: DocState,
}

impl Relay {
    fn admit(&mut self, entry: &Entry, fate: Option<Fate>) {
        let judged = match &self.state {
            DocState::Dead(tombstone) if absorbs(tombstone, entry.op.kind, entry.op.cursor) => Fate::Absorbed,
            _ => Fate::Applied,
        };
        let entry = Entry { fate: fate.unwrap_or(judged), ..entry.clone() };
        let outcome = settle(&self.state, &entry.context(self.log.len() as u64 + 1), entry.fate, false);
        if let Some(state) = outcome.state {
            self.state = state;
        }
        self.log.push(entry);
    }
}

fn run(seed: u64) -> (Vec<Entry>, Vec<BTreeMap<[u8; 24], InboxEntry>>) {
    let mut random = Random::new(seed);
    let mut relay = Relay::default();
    let mut next_replica = 0u8;
    let mut mint = || {
        next_replica += 1;
        id(next_replica, 0)
    };
    let mut files: Vec<File> = (0..3)
        .map(|n| File {
            incarnations: vec![mint()],
            clock: HlcClock::new(),
            skew: n * random.below(20),
            cursor: 0,
            base: DocState::Absent,
            naive: Naive::default(),
            pending: VecDeque::new(),
            inbox: BTreeMap::new(),
            naive_inbox: BTreeMap::new(),
        })
        .collect();
    let steps = 10 + random.below(50);
    for now in 0..steps {
        let which = random.below(3) as usize;
        let file = &mut files[which];
        match random.below(20) {
            0..=8 => file.write(&mut random, now),
            9..=12 => {
                let many = 1 + random.below(4) as usize;
                let unsent = file.pending.iter_mut().filter(|(_, sent)| !sent);
                for (entry, sent) in unsent.take(many) {
                    *sent = true;
                    let refused = random.one_in(25).then_some(Fate::Refused(Verdict::RefusedClock));
                    relay.admit(entry, refused);
                }
            }
            13..=17 => file.pull(&relay.log, 1 + random.below(6) as usize),
            18 => {
                let fresh = mint();
                file.incarnations.push(fresh);
            }
            // A copy of the file sends something once more.
            _ => {
                if let Some((entry, _)) = file.pending.iter().find(|(_, sent)| *sent) {
                    relay.admit(entry, Some(Fate::Repeated));
                }
            }
        }
        files[which].check();
    }
    for file in &mut files {
        for (entry, sent) in &mut file.pending {
            if !*sent {
                *sent = true;
                relay.admit(entry, None);
            }
        }
    }
    for file in &mut files {
        file.pull(&relay.log, usize::MAX);
        file.check();
        assert!(file.pending.is_empty());
        assert_eq!(file.base, relay.state, "every replica computes the same");
        assert_eq!(file.current(), file.base);
    }
    let inboxes = files.iter().map(|file| {
        let shared = |(key, entry): (&[u8; 24], &InboxEntry)| {
            (entry.reason != BoxReason::Refused).then(|| (*key, entry.clone()))
        };
        file.inbox.iter().filter_map(shared).collect()
    });
    let inboxes: Vec<_> = inboxes.collect();
    assert!(inboxes.windows(2).all(|pair| pair[0] == pair[1]), "every replica boxes the same");
    let refused = |entry: &&Entry| matches!(entry.fate, Fate::Refused(_));
    for entry in relay.log.iter().filter(refused) {
        let key = |file: &File| file.inbox.values().any(|boxed| boxed.id == entry.id);
        let holders: Vec<bool> = files.iter().map(|file| key(file) && !file.owns(entry.id)).collect();
        assert!(!holders.contains(&true), "refused work is the author's");
        assert!(files.iter().any(|file| file.owns(entry.id) && key(file)));
    }
    (relay.log, inboxes)
}

/// Every field that was written and sequenced is in the document, lost to a greater stamp, died in a delete that knew of it,
/// or is in the inbox.
fn nothing_vanishes(log: &[Entry], inbox: &BTreeMap<[u8; 24], InboxEntry>) {
    let boxed = |id: OpId| inbox.values().any(|entry| entry.id == id);
    let mut naive = Naive::default();
    let mut edits: Vec<(u64, &Entry)> = Vec::new();
    for (entry, seq) in log.iter().zip(1..) {
        let before = naive.life;
        naive.apply(entry, seq, false);
        match (before, naive.life) {
            (Life::Live, Life::Dead(_)) => {
                let missed =
                    edits.iter().filter(|(at, edit)| *at > entry.op.cursor && !entry.hand().contains(&edit.id.replica));
                // spec: M-10
                assert_eq!(missed.count() > 0, boxed(entry.id), "delete at {seq}");
                edits.clear();
            }
            (_, Life::Live) if entry.fate == Fate::Applied && !boxed(entry.id) => edits.push((seq, entry)),
            _ => {}
        }
    }
    for (_, edit) in &edits {
        let row = edit.op.set.as_ref().expect("an edit").as_ref();
        for at in 0..row.len() {
            let written =
                (edit.op.hlc.0, edit.id.replica.tag(), Some((row.field(at).tag, row.field(at).payload.to_vec())));
            assert!(naive.cells[row.shape().name(at)] >= written, "a written field vanished");
        }
    }
}

#[test]
fn replicas_agree_with_the_oracle_after_every_step() {
    // spec: M-1, M-14
    let mut boxed: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..12_000 {
        let result = std::panic::catch_unwind(|| {
            let (log, inboxes) = run(seed);
            nothing_vanishes(&log, &inboxes[0]);
            inboxes
        });
        let Ok(inboxes) = result else { panic!("history {seed} fails") };
        for entry in inboxes[0].values() {
            *boxed.entry(format!("{:?}", entry.reason)).or_default() += 1;
        }
    }
    // The histories reach every reason but the one that needs a megabyte.
    for reason in ["Absorbed", "Unknown", "EarlierLife", "DeletedWhileEdited"] {
        assert!(boxed.get(reason).is_some_and(|count| *count > 100), "{reason} is rare: {boxed:?}");
    }
}
