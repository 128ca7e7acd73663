//! A relay without a world: the real hub, a log in memory, clients that write down what they get.
//!
//! Effects wait in queues until a test lets them happen, all at once ([`Rig::settle`]) or one at a time in an order
//! drawn from a seed ([`Rig::step`]).

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use blazedb_relay::hub::{Access, ConnId, Effect, Hub, HubLimits, Input, Now, Origin, Received, SpaceDigest};
use blazedb_relay::log::{
    Append, AppendError, DeadDocuments, Known, LogError, PayloadDigest, RelayLog, SpaceInfo, StoredEntry,
};
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, Document, DocumentId, Envelope, ErrorFrame, Frame, Hello, Hlc, MergeKind, Op, OpId,
    OpKind, Reads, ReplicaId, Row, Shape, SpaceId, Value, Welcome,
};
use bytes::Bytes;
use parking_lot::Mutex;

pub(crate) const SPACE: &str = "home";
/// The wall clock of every rig, in milliseconds.
pub(crate) const WALL_MS: u64 = 1_700_000_000_000;

/// Small, seeded, good enough to pick the next step.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

pub(crate) fn replica(n: u8) -> ReplicaId {
    ReplicaId::from_bytes([n; 16])
}

pub(crate) fn document(n: u8) -> DocumentId {
    DocumentId::from_bytes([n; 16])
}

pub(crate) fn op(kind: OpKind, id: u8, cursor: u64, value: i64) -> Op {
    let row = || Row::encode(&Document::from_pairs([("n".to_owned(), Value::I64(value))]).unwrap()).unwrap();
    Op {
        kind,
        merge: MergeKind::Register,
        more: false,
        hlc: Hlc::from_parts(WALL_MS, 0),
        cursor,
        collection: Arc::from("things"),
        id: document(id),
        attrs: Bytes::new(),
        set: (kind != OpKind::Delete).then(row),
        unset: Shape::empty(),
    }
}

pub(crate) fn create(id: u8, cursor: u64) -> Op {
    op(OpKind::Create, id, cursor, 1)
}

pub(crate) fn update(id: u8, cursor: u64, value: i64) -> Op {
    op(OpKind::Update, id, cursor, value)
}

pub(crate) fn delete(id: u8, cursor: u64) -> Op {
    op(OpKind::Delete, id, cursor, 0)
}

pub(crate) fn batch_of(space: SpaceId, epoch: u32, author: ReplicaId, first_counter: u64, ops: &[Op]) -> Batch {
    let head = BatchHead { space, replica: author, first_counter, epoch, deps: Vec::new(), attrs: Bytes::new() };
    let mut builder = BatchBuilder::new(head);
    for op in ops {
        assert!(builder.try_push(op).unwrap(), "the batch of a test fits");
    }
    Batch::decode(builder.finish().unwrap()).unwrap()
}

/// A log in memory that can be told to fail.
#[derive(Default)]
pub(crate) struct MemoryLog {
    inner: Mutex<BTreeMap<String, MemorySpace>>,
    /// What the next append says instead of happening.
    pub(crate) fail_next: Mutex<Option<AppendError>>,
    pub(crate) appends: Mutex<usize>,
    pub(crate) digest_reads: Mutex<usize>,
}

#[derive(Clone)]
struct MemorySpace {
    info: SpaceInfo,
    entries: Vec<StoredEntry>,
    authors: Vec<(ReplicaId, u64, usize)>,
}

impl MemoryLog {
    pub(crate) fn entries(&self) -> Vec<(Envelope, Batch)> {
        let inner = self.inner.lock();
        let Some(space) = inner.get(SPACE) else { return Vec::new() };
        space.entries.iter().map(|entry| entry_of(&entry.frame)).collect()
    }

    pub(crate) fn info(&self) -> SpaceInfo {
        self.open_space(SPACE).unwrap()
    }

    /// Pretends that older entries were dropped.
    pub(crate) fn set_floor(&self, floor: u64) {
        self.inner.lock().get_mut(SPACE).unwrap().info.floor = floor;
    }
}

pub(crate) fn entry_of(frame: &Bytes) -> (Envelope, Batch) {
    match Frame::decode(frame.clone()).unwrap() {
        Frame::Entry { envelope, batch } => (envelope, batch),
        other => panic!("not an entry: {other:?}"),
    }
}

impl RelayLog for MemoryLog {
    fn open_space(&self, name: &str) -> Result<SpaceInfo, LogError> {
        let mut inner = self.inner.lock();
        let n = u8::try_from(inner.len()).unwrap() + 1;
        let space = inner.entry(name.to_owned()).or_insert_with(|| MemorySpace {
            info: SpaceInfo {
                id: SpaceId::from_bytes([0xa0 + n; 16]),
                epoch: 1,
                head: 0,
                floor: 0,
                counters: BTreeMap::new(),
                dead: DeadDocuments::default(),
                newest_stamp: Hlc::ZERO,
            },
            entries: Vec::new(),
            authors: Vec::new(),
        });
        Ok(space.info.clone())
    }

    fn append(&self, group: &[Append]) -> Vec<Result<(), AppendError>> {
        *self.appends.lock() += 1;
        let mut inner = self.inner.lock();
        let mut results = Vec::new();
        for append in group {
            if let Some(error) = self.fail_next.lock().take() {
                results.push(Err(error));
                continue;
            }
            let space = inner.values_mut().find(|space| space.info.id == append.space).unwrap();
            if space.info.head != append.expected_head {
                let (expected, found) = (append.expected_head, space.info.head);
                results.push(Err(AppendError::HeadMismatch { expected, found }));
                continue;
            }
            for entry in &append.entries {
                assert_eq!(entry.first_seq, space.info.head + 1);
                space.info.head = entry.last_seq;
                let known: Known = entry.known;
                space.info.counters.insert(entry.replica, known);
                space.info.dead.apply(&entry.lives);
                space.info.newest_stamp = space.info.newest_stamp.max(entry.newest_stamp);
                space.authors.push((entry.replica, known.counter, space.entries.len()));
                space.entries.push(StoredEntry {
                    first_seq: entry.first_seq,
                    last_seq: entry.last_seq,
                    frame: entry.frame.clone(),
                });
            }
            results.push(Ok(()));
        }
        results
    }

    fn read(&self, space: SpaceId, after_seq: u64, bytes_max: usize) -> Result<Vec<StoredEntry>, LogError> {
        let inner = self.inner.lock();
        let space = inner.values().find(|open| open.info.id == space).ok_or(LogError::UnknownSpace(space))?;
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in space.entries.iter().filter(|entry| entry.first_seq > after_seq) {
            bytes += entry.frame.len();
            if bytes > bytes_max && !read.is_empty() {
                break;
            }
            read.push(entry.clone());
        }
        Ok(read)
    }

    fn digests(
        &self,
        space: SpaceId,
        author: ReplicaId,
        first: u64,
        last: u64,
        _bytes_max: usize,
    ) -> Result<Vec<PayloadDigest>, LogError> {
        *self.digest_reads.lock() += 1;
        let inner = self.inner.lock();
        let space = inner.values().find(|open| open.info.id == space).ok_or(LogError::UnknownSpace(space))?;
        (first..=last)
            .map(|counter| {
                let holder = space.authors.iter().find(|(known, newest, _)| *known == author && *newest >= counter);
                let (_, _, at) = holder.ok_or(LogError::Missing { replica: author, counter })?;
                let (_, batch) = entry_of(&space.entries[*at].frame);
                let i = usize::try_from(counter - batch.head().first_counter).unwrap();
                Ok(batch.op(i).payload_digest())
            })
            .collect()
    }
}

/// What one client has been sent, and what it makes of it.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) frames: Vec<Frame>,
    pub(crate) closed: Option<Option<ErrorFrame>>,
    /// Frames that have not been read, with their lengths.
    pub(crate) unread: VecDeque<Bytes>,
    pub(crate) space: String,
}

impl Seen {
    pub(crate) fn welcome(&self) -> &Welcome {
        match self.frames.first() {
            Some(Frame::Welcome(welcome)) => welcome,
            other => panic!("no Welcome but {other:?}"),
        }
    }

    pub(crate) fn acks(&self) -> Vec<&Envelope> {
        self.frames
            .iter()
            .filter_map(|frame| if let Frame::Ack(envelope) = frame { Some(envelope) } else { None })
            .collect()
    }

    pub(crate) fn entries(&self) -> Vec<(&Envelope, &Batch)> {
        self.frames
            .iter()
            .filter_map(
                |frame| if let Frame::Entry { envelope, batch } = frame { Some((envelope, batch)) } else { None },
            )
            .collect()
    }

    pub(crate) fn errors(&self) -> Vec<&ErrorFrame> {
        self.frames
            .iter()
            .filter_map(|frame| if let Frame::Error(error) = frame { Some(error) } else { None })
            .collect()
    }

    /// Bytes that were sent and not read.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.unread.iter().map(Bytes::len).sum()
    }

    pub(crate) fn closed_with(&self) -> &ErrorFrame {
        self.closed.as_ref().expect("the stream is closed").as_ref().expect("with an error")
    }

    /// The ranges of the stream, checked: contiguous from `cursor` (spec: R-9).
    pub(crate) fn position(&self, cursor: u64) -> u64 {
        let mut position = cursor;
        for frame in &self.frames {
            let envelope = match frame {
                Frame::Ack(envelope) if envelope.first_seq == 0 => continue,
                Frame::Ack(envelope) | Frame::Entry { envelope, .. } => envelope,
                _ => continue,
            };
            assert_eq!(envelope.first_seq, position + 1, "a gap or a duplicate in the stream");
            position = envelope.last_seq();
        }
        position
    }
}

/// The hub, its log, its clients.
pub(crate) struct Rig {
    pub(crate) hub: Hub,
    pub(crate) log: MemoryLog,
    pub(crate) now: Now,
    pub(crate) clients: BTreeMap<ConnId, Seen>,
    next_conn: u64,
    opens: VecDeque<Arc<str>>,
    appends: VecDeque<Append>,
    /// Done by the log, not told to the hub yet.
    appended: VecDeque<Input>,
    others: Vec<Effect>,
    /// How often one of them was not carried out, as the hub would not hear of it yet.
    pub(crate) held_back: usize,
    /// Whether clients read what they are sent.
    pub(crate) reading: Cell<bool>,
    pub(crate) materialized: BTreeMap<SpaceId, u64>,
    pub(crate) copies: bool,
    /// Where the next stream comes from.
    pub(crate) origin: Origin,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(HubLimits::default())
    }

    pub(crate) fn with(limits: HubLimits) -> Self {
        Self {
            hub: Hub::new(limits),
            log: MemoryLog::default(),
            now: Now { mono_ms: 0, wall_ms: WALL_MS, clock_trusted: true },
            clients: BTreeMap::new(),
            next_conn: 1,
            opens: VecDeque::new(),
            appends: VecDeque::new(),
            appended: VecDeque::new(),
            others: Vec::new(),
            held_back: 0,
            reading: Cell::new(true),
            materialized: BTreeMap::new(),
            copies: true,
            origin: Origin { address: 1, connection: 1 },
        }
    }

    pub(crate) fn handle(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.hub.handle(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::OpenSpace { name } => self.opens.push_back(name),
                Effect::Append(append) => self.appends.push_back(append),
                Effect::Send { conn, bytes } => self.clients.get_mut(&conn).unwrap().unread.push_back(bytes),
                Effect::Close { conn, error } => {
                    let client = self.clients.get_mut(&conn).unwrap();
                    assert!(client.closed.is_none(), "closed twice");
                    client.closed = Some(error);
                }
                Effect::Materialize { space, head, .. } => {
                    self.materialized.insert(space, head);
                }
                other => self.others.push(other),
            }
        }
    }

    /// Opens a stream and says nothing.
    pub(crate) fn open(&mut self, space: &str) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.clients.insert(conn, Seen { space: space.to_owned(), ..Seen::default() });
        let access = Access { space: space.into(), subject: "test".into() };
        self.handle(Input::Connected { conn, access, origin: self.origin });
        conn
    }

    pub(crate) fn send(&mut self, conn: ConnId, frame: &Frame) {
        self.handle(Input::Frame { conn, frame: Received::decode(frame.to_bytes()) });
    }

    pub(crate) fn hello(&mut self, cursor: u64, replicas: &[ReplicaId]) -> Hello {
        let known = cursor > 0;
        let space = known.then(|| self.log.info().id);
        Hello {
            protocol: 1,
            space,
            epoch: u32::from(known),
            cursor,
            reads: Reads::default(),
            replicas: replicas.to_vec(),
        }
    }

    /// Opens a stream with a Hello at this cursor and lets everything happen.
    pub(crate) fn connect(&mut self, cursor: u64) -> ConnId {
        let conn = self.open(SPACE);
        let hello = self.hello(cursor, &[]);
        self.send(conn, &Frame::Hello(hello));
        self.settle();
        conn
    }

    pub(crate) fn batch(&self, author: u8, first_counter: u64, ops: &[Op]) -> Batch {
        let info = self.log.info();
        batch_of(info.id, info.epoch, replica(author), first_counter, ops)
    }

    pub(crate) fn push(&mut self, conn: ConnId, author: u8, first_counter: u64, ops: &[Op]) {
        let batch = self.batch(author, first_counter, ops);
        self.send(conn, &Frame::Push(batch));
    }

    pub(crate) fn disconnect(&mut self, conn: ConnId) {
        self.handle(Input::Disconnected { conn });
    }

    pub(crate) fn seen(&self, conn: ConnId) -> &Seen {
        &self.clients[&conn]
    }

    /// Reads one frame of a client, if there is one.
    pub(crate) fn read_one(&mut self, conn: ConnId) -> bool {
        let client = self.clients.get_mut(&conn).unwrap();
        let Some(bytes) = client.unread.pop_front() else { return false };
        client.frames.push(Frame::decode(bytes.clone()).expect("the relay sends whole frames"));
        self.handle(Input::Sent { conn, bytes: bytes.len() });
        true
    }

    fn open_one(&mut self) -> bool {
        let Some(name) = self.opens.pop_front() else { return false };
        let result = Ok(self.log.open_space(&name).unwrap());
        self.handle(Input::SpaceOpened { name, result });
        true
    }

    /// The log takes everything that waits, under one sync.
    fn append_some(&mut self, at_most: usize) -> bool {
        let group: Vec<Append> = self.appends.drain(..at_most.min(self.appends.len())).collect();
        if group.is_empty() {
            return false;
        }
        let results = self.log.append(&group);
        for (append, result) in group.iter().zip(results) {
            self.appended.push_back(Input::Appended { space: append.space, append: append.id, result });
        }
        true
    }

    fn answer_append(&mut self) -> bool {
        let Some(input) = self.appended.pop_front() else { return false };
        self.handle(input);
        true
    }

    fn other(&mut self, at: usize) {
        let input = match self.others.remove(at) {
            Effect::ReadLog { conn, space, after_seq, bytes_max, packing } => {
                let entries = self.log.read(space, after_seq, bytes_max).unwrap();
                Input::LogRead { conn, result: Ok(packing.pack(entries)) }
            }
            Effect::FindDigests { conn, space, replica, first, last } => {
                let result = Ok(self.log.digests(space, replica, first, last, usize::MAX).unwrap());
                Input::DigestsFound { conn, replica, first, result }
            }
            Effect::DigestWanted { conn, min_seq, .. } => {
                let digest = SpaceDigest { seq: min_seq, digest: [7; 32], documents: 3 };
                Input::DigestReady { conn, digest: self.copies.then_some(digest) }
            }
            Effect::GoOn { conn } => Input::GoOn { conn },
            other => panic!("not expected here: {other:?}"),
        };
        self.handle(input);
    }

    /// Lets the log do one group of appends without the hub hearing of it.
    pub(crate) fn append_silently(&mut self) {
        assert!(self.append_some(usize::MAX), "an append was waiting");
    }

    /// Lets one connection go on whose turn it was to wait; false if none waits that may.
    pub(crate) fn one_turn(&mut self) -> bool {
        let may = |other: &Effect| matches!(other, Effect::GoOn { conn } if self.hub.may_go_on(*conn));
        let Some(at) = self.others.iter().position(may) else { return false };
        self.other(at);
        true
    }

    /// Lets the log open what it was asked to open.
    pub(crate) fn answer_opens(&mut self) {
        while self.open_one() {}
    }

    /// Lets the log answer whatever it was asked, but for appends.
    pub(crate) fn answer_reads(&mut self) {
        while !self.others.is_empty() {
            self.other(0);
        }
    }

    /// Lets the log do one group of appends, and the hub hear of it.
    pub(crate) fn append_all(&mut self) {
        self.append_silently();
        while self.answer_append() {}
    }

    pub(crate) fn waiting_appends(&self) -> usize {
        self.appends.len()
    }

    /// As the shell asks before it lets the hub go on with a connection.
    fn may_happen(&self, effect: &Effect) -> bool {
        !matches!(effect, Effect::GoOn { conn } if !self.hub.may_go_on(*conn))
    }

    /// Says that nothing waits for anything.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.others.is_empty() && self.hub.stats().appends_inflight == 0
    }

    /// Lets everything happen until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut busy = self.open_one() | self.append_some(usize::MAX) | self.answer_append();
            if let Some(at) = self.others.iter().position(|effect| self.may_happen(effect)) {
                self.other(at);
                busy = true;
            }
            if self.reading.get() {
                let conns: Vec<ConnId> = self.clients.keys().copied().collect();
                for conn in conns {
                    busy |= self.read_one(conn);
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// Lets one thing happen; false if there was nothing of the kind drawn.
    pub(crate) fn step(&mut self, rng: &mut Rng) -> bool {
        match rng.below(6) {
            0 => self.open_one(),
            1 => {
                let group = 1 + rng.below(3);
                self.append_some(group)
            }
            2 => self.answer_append(),
            3 if !self.others.is_empty() => {
                let at = rng.below(self.others.len());
                let may = self.may_happen(&self.others[at]);
                if may {
                    self.other(at);
                } else {
                    self.held_back += 1;
                }
                may
            }
            _ => {
                let conns: Vec<ConnId> = self.clients.keys().copied().collect();
                !conns.is_empty() && self.read_one(conns[rng.below(conns.len())])
            }
        }
    }
}

/// The names of the operations that a stream has shown, oldest first.
pub(crate) fn names(entries: &[(&Envelope, &Batch)]) -> Vec<OpId> {
    entries
        .iter()
        .flat_map(|(envelope, _)| {
            (0..u64::from(envelope.n)).map(|i| OpId { replica: envelope.replica, counter: envelope.first_counter + i })
        })
        .collect()
}
