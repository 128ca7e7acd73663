//! Three clients, a relay and bad lines between them, in virtual time from one seed.
//!
//! Lines drop connections and lose, double and swap messages in both directions. Whatever happens, every client takes in
//! every operation of the log exactly once and in order, and every operation that a client wrote is in the log exactly once.
//! At the end the lines are good and everything must come to rest.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;

use blazedb_sync::{
    DisconnectReason, Event, Millis, OpSource, OutboxPosition, SealContext, Session, SessionConfig, SessionState, seal,
};
use blazedb_wire::{Batch, Envelope, Frame, Hello, Hlc, Op, OpId, PROTOCOL_VERSION, Reads, ReplicaId, SpaceId, Value};
use bytes::Bytes;

use crate::make::{SPACE, create, replica};
use crate::random::Random;
use crate::relay::{Connection, EPOCH, Relay};

const WINDOW_BYTES: usize = 2_000;

/// What a client keeps on disk, and the driver around its session.
struct Client {
    // On disk.
    space: Option<SpaceId>,
    cursor: u64,
    taken: Vec<OpId>,
    incarnations: Vec<ReplicaId>,
    counter: u64,
    unsealed: Vec<Op>,
    outbox: BTreeMap<OutboxPosition, Bytes>,
    written: Vec<OpId>,
    // In memory.
    session: Session,
    line: Option<Line>,
    wants_line: bool,
    faults_seen: usize,
}

/// A connection: what is on its way in each direction.
#[derive(Default)]
struct Line {
    up: VecDeque<Bytes>,
    down: VecDeque<Bytes>,
    relay: Connection,
    /// Whether a fault has touched it.
    spoilt: bool,
}

struct Outbox<'a>(&'a BTreeMap<OutboxPosition, Bytes>);

impl OpSource for Outbox<'_> {
    type Error = Infallible;

    fn batch_after(&self, after: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Infallible> {
        use std::ops::Bound::{Excluded, Unbounded};
        Ok(self.0.range((Excluded(after), Unbounded)).next().map(|(at, bytes)| (*at, bytes.clone())))
    }
}

impl Client {
    fn new(n: u8, seed: u64) -> Self {
        Self {
            space: None,
            cursor: 0,
            taken: Vec::new(),
            incarnations: vec![replica(n)],
            counter: 0,
            unsealed: Vec::new(),
            outbox: BTreeMap::new(),
            written: Vec::new(),
            session: Session::new(SessionConfig { window_bytes: WINDOW_BYTES }, seed),
            line: None,
            wants_line: false,
            faults_seen: 0,
        }
    }

    fn me(&self) -> ReplicaId {
        *self.incarnations.last().expect("one at least")
    }

    fn write(&mut self, random: &mut Random) {
        for _ in 0..=random.below(3) {
            self.counter += 1;
            let filler = Value::Bytes(vec![0; random.below(700) as usize]);
            self.unsealed.push(create(self.counter, self.cursor, &[("f", filler)]));
            self.written.push(OpId { replica: self.me(), counter: self.counter });
        }
    }

    fn seal(&mut self) {
        let context = SealContext {
            space: SPACE,
            replica: self.me(),
            epoch: EPOCH,
            deps: &[],
            relay_now: None,
            max_seen: Hlc::ZERO,
            previous: Hlc::ZERO,
        };
        let first = self.counter - self.unsealed.len() as u64 + 1;
        // One batch per three operations, so that there is something to lose and to swap.
        let incarnation = self.incarnations.len() as u32;
        for (part, first) in self.unsealed.chunks(3).zip((first..).step_by(3)) {
            for batch in seal(first, part, &context).expect("small").batches {
                self.outbox.insert(OutboxPosition { incarnation, counter: batch.last_counter }, batch.bytes);
            }
        }
        self.unsealed.clear();
    }

    /// The process dies and starts again: memory is gone, what is on disk stays, a new replica id is minted.
    fn crash(&mut self, now: Millis, seed: u64, fresh: ReplicaId) {
        if self.space.is_some() {
            self.seal();
        }
        if self.unsealed.is_empty() {
            self.incarnations.push(fresh);
            self.counter = 0;
        }
        self.session = Session::new(SessionConfig { window_bytes: WINDOW_BYTES }, seed);
        self.line = None;
        self.wants_line = false;
        self.session.start(now);
    }

    fn hello(&self) -> Hello {
        let mut replicas: Vec<ReplicaId> =
            self.outbox.keys().map(|at| self.incarnations[at.incarnation as usize - 1]).collect();
        replicas.dedup();
        let epoch = if self.space.is_some() { EPOCH } else { 0 };
        Hello { protocol: PROTOCOL_VERSION, space: self.space, epoch, cursor: self.cursor, reads: Reads::ALL, replicas }
    }

    /// One transaction: the operations, the outbox and the cursor.
    fn apply(&mut self, envelope: &Envelope, batch: &Batch) {
        // spec: S-4, S-19
        assert_eq!(envelope.first_seq, self.cursor + 1, "in order and without a gap");
        for at in 0..batch.len() {
            if !envelope.repeated.get(at) {
                self.taken.push(batch.op_id(at));
            }
        }
        self.cursor = envelope.last_seq();
        let last = batch.op_id(batch.len() - 1);
        if let Some(at) = self.incarnations.iter().position(|id| *id == last.replica) {
            self.outbox.remove(&OutboxPosition { incarnation: at as u32 + 1, counter: last.counter });
        }
    }

    /// Drains the session.
    fn drive(&mut self, now: Millis) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::ConnectNow => self.wants_line = true,
                Event::Disconnect { reason } => {
                    let faulty = matches!(reason, DisconnectReason::Misbehaved(_));
                    assert!(!faulty || self.line.as_ref().is_some_and(|line| line.spoilt), "{reason:?} on a good line");
                    self.faults_seen += usize::from(faulty);
                    self.line = None;
                }
                Event::Welcome(welcome) => {
                    assert_eq!(*self.space.get_or_insert(welcome.space), welcome.space);
                    self.seal();
                    self.session.resume(now);
                }
                Event::Entry { envelope, batch } => self.apply(&envelope, &batch),
                Event::Ack(envelope) => {
                    let at = self.incarnations.iter().position(|id| *id == envelope.replica).expect("own");
                    let counter = envelope.first_counter + u64::from(envelope.n) - 1;
                    let bytes = self.outbox[&OutboxPosition { incarnation: at as u32 + 1, counter }].clone();
                    self.apply(&envelope, &Batch::decode(bytes).expect("sealed"));
                }
                Event::Rejected(error) => panic!("rejected: {error:?}"),
                Event::Unsupported(_) | Event::Digest { .. } | Event::StateChanged(_) => {}
            }
            if self.session.state() == SessionState::Live {
                assert_eq!(self.session.cursor().map(|(_, cursor)| cursor >= self.cursor), Some(true));
            }
        }
        while let Ok(Some(bytes)) = self.session.poll_transmit(now, &Outbox(&self.outbox)) {
            // spec: S-11
            let one = self.session.unanswered_batches() <= 1;
            assert!(one || self.session.unanswered_bytes() <= WINDOW_BYTES);
            if let Some(line) = &mut self.line {
                line.up.push_back(bytes);
            }
        }
    }
}

struct World {
    random: Random,
    now: Millis,
    relay: Relay,
    clients: Vec<Client>,
    next_replica: u8,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut clients: Vec<Client> = (1..4).map(|n| Client::new(n, seed + u64::from(n))).collect();
        for client in &mut clients {
            client.session.start(0);
        }
        Self { random: Random::new(seed), now: 0, relay: Relay::default(), clients, next_replica: 3 }
    }

    fn connect(&mut self, which: usize) {
        let client = &mut self.clients[which];
        if std::mem::take(&mut client.wants_line) {
            if self.random.one_in(8) {
                return client.session.disconnected(self.now, DisconnectReason::Transport);
            }
            let whole = self.random.one_in(4);
            let mut line = Line::default();
            line.relay.whole = whole;
            client.line = Some(line);
            client.session.connected(self.now, client.hello());
        }
    }

    fn relay_takes(&mut self, which: usize) {
        let Some(line) = &mut self.clients[which].line else { return };
        let Some(bytes) = line.up.pop_front() else { return };
        let frame = Frame::decode(bytes).expect("clients send whole frames");
        let pushed = match &frame {
            Frame::Push(batch) => std::slice::from_ref(batch),
            Frame::Pushes(batches) => batches,
            _ => &[],
        };
        for batch in pushed.iter().filter(|_| !line.spoilt) {
            self.relay.check_once(&mut line.relay, batch);
        }
        self.relay.take(&mut line.relay, frame);
        for client in &mut self.clients {
            if let Some(line) = &mut client.line {
                self.relay.send_entries(&mut line.relay);
                line.down.extend(line.relay.out.drain(..).map(|frame| frame.to_bytes()));
            }
        }
    }

    fn client_takes(&mut self, which: usize) {
        let client = &mut self.clients[which];
        let message = client.line.as_mut().and_then(|line| line.down.pop_front());
        if let Some(bytes) = message {
            client.session.handle_bytes(self.now, bytes);
        }
    }

    /// Loses, doubles or swaps one message, or cuts the line.
    fn fault(&mut self, which: usize) {
        let client = &mut self.clients[which];
        let Some(line) = &mut client.line else { return };
        line.spoilt = true;
        let queue = if self.random.one_in(2) { &mut line.up } else { &mut line.down };
        match self.random.below(4) {
            0 => {
                queue.pop_front();
            }
            1 => {
                if let Some(first) = queue.front().cloned() {
                    // A doubled Hello is a fault of the line that no relay has to bear.
                    if !matches!(Frame::decode(first.clone()), Ok(Frame::Hello(_))) {
                        queue.push_front(first);
                    }
                }
            }
            2 if queue.len() > 1 => queue.swap(0, 1),
            _ => {
                client.line = None;
                client.session.disconnected(self.now, DisconnectReason::Transport);
            }
        }
    }

    fn step(&mut self) {
        let which = self.random.below(3) as usize;
        match self.random.below(40) {
            0..=3 => {
                self.clients[which].write(&mut self.random);
                if self.clients[which].session.state() == SessionState::Live {
                    self.clients[which].seal();
                    self.clients[which].session.local_sealed(self.now);
                }
            }
            4..=14 => self.relay_takes(which),
            15..=28 => self.client_takes(which),
            29..=31 => self.connect(which),
            32 => self.fault(which),
            33 if self.random.one_in(4) => {
                self.next_replica += 1;
                let fresh = replica(self.next_replica);
                let seed = self.random.next();
                self.clients[which].crash(self.now, seed, fresh);
            }
            _ => {
                self.now += self.random.below(400);
                let due = self.clients[which].session.poll_timeout().is_some_and(|at| at <= self.now);
                if due {
                    self.clients[which].session.handle_timeout(self.now);
                }
            }
        }
        self.clients[which].drive(self.now);
    }

    /// Cuts every line once and lets everything come to rest over good ones.
    fn settle(&mut self) {
        for client in &mut self.clients {
            client.line = None;
            client.session.disconnected(self.now, DisconnectReason::Transport);
        }
        for _ in 0..20_000 {
            let mut moved = false;
            for which in 0..3 {
                if self.clients[which].session.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.clients[which].session.handle_timeout(self.now);
                }
                self.clients[which].drive(self.now);
                self.connect(which);
                self.clients[which].drive(self.now);
                let waiting =
                    self.clients[which].line.as_ref().is_some_and(|line| !line.up.is_empty() || !line.down.is_empty());
                moved |= waiting;
                self.relay_takes(which);
                self.client_takes(which);
                self.clients[which].drive(self.now);
            }
            let live = |client: &Client| client.session.state() == SessionState::Live;
            if !moved && self.clients.iter().all(live) && self.clients.iter().all(|client| client.outbox.is_empty()) {
                return;
            }
            self.now += if moved { 0 } else { 50 };
        }
        panic!("no rest: {:?}", self.clients.iter().map(|client| client.session.state()).collect::<Vec<_>>());
    }

    fn check(&self) {
        let mut logged: Vec<OpId> = Vec::new();
        for (envelope, batch) in &self.relay.log {
            logged.extend((0..batch.len()).filter(|at| !envelope.repeated.get(*at)).map(|at| batch.op_id(at)));
        }
        for client in &self.clients {
            assert_eq!(client.taken, logged, "each client took in the log, once and in order");
            assert_eq!((client.cursor, client.session.head()), (self.relay.head(), Some(self.relay.head())));
            assert_eq!(client.session.unanswered_bytes(), 0);
            for id in &client.written {
                assert_eq!(logged.iter().filter(|logged| *logged == id).count(), 1, "{id} is in the log once");
            }
        }
        assert_eq!(logged.len(), self.clients.iter().map(|client| client.written.len()).sum::<usize>());
    }
}

#[test]
fn every_operation_arrives_exactly_once_over_bad_lines() {
    // spec: S-4, S-5, S-10, S-11, S-12, S-13, S-19
    let (mut operations, mut faults) = (0, 0);
    for seed in 0..3_000 {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..500 {
                world.step();
            }
            world.settle();
            world.check();
            let faults: usize = world.clients.iter().map(|client| client.faults_seen).sum();
            (world.relay.head(), faults)
        });
        let Ok((head, seen)) = result else { panic!("world {seed} fails") };
        operations += head;
        faults += seen;
    }
    assert!(operations > 100_000, "{operations} operations");
    assert!(faults > 1_000, "{faults} faults of lines were noticed");
}
