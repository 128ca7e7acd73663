//! The rules of the session one by one, with a scripted peer.

use std::convert::Infallible;

use blazedb_sync::limits::{
    BACKOFF_FIRST_MS, BACKOFF_MAX_MS, DEAD_AFTER_MS, EVENTS_MAX, PING_AFTER_MS, PONGS_MAX, RETRY_MS_MAX, WINDOW_BYTES,
};
use blazedb_sync::{
    DisconnectReason, Event, OpSource, OutboxPosition, PeerMisbehaved, SealContext, Session, SessionConfig,
    SessionError, SessionState, seal,
};
use blazedb_wire::{
    Batch, Bitmap, Envelope, ErrorCode, ErrorFrame, Frame, FrameKind, Hello, Hlc, OpId, PROTOCOL_VERSION, Reads,
    ReplicaId, SpaceId, Value, Verdict, Welcome,
};
use bytes::Bytes;

use crate::make::{SPACE, create, replica};

const EPOCH: u32 = 4;

/// An outbox in the order of its batches.
#[derive(Default)]
struct Outbox(Vec<(OutboxPosition, Bytes)>);

impl OpSource for Outbox {
    type Error = Infallible;

    fn batch_after(&self, after: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Infallible> {
        Ok(self.0.iter().find(|(at, _)| *at > after).cloned())
    }
}

/// A sealed batch of `n` operations with `filler` bytes each.
fn batch_of(space: SpaceId, author: u8, first: u64, n: u64, filler: usize) -> Bytes {
    let ops: Vec<_> = (0..n)
        .map(|at| blazedb_wire::Op { more: at + 1 < n, ..create(at + 1, 0, &[("f", Value::Bytes(vec![0; filler]))]) })
        .collect();
    let context = SealContext {
        space,
        replica: replica(author),
        epoch: EPOCH,
        deps: &[],
        relay_now: None,
        max_seen: Hlc::ZERO,
        previous: Hlc::ZERO,
    };
    seal(first, &ops, &context).expect("small").batches.remove(0).bytes
}

/// Three batches of two operations of replica 1.
fn outbox(filler: usize) -> Outbox {
    Outbox(
        (0..3)
            .map(|n| (OutboxPosition { incarnation: 1, counter: 2 * n + 2 }, batch_of(SPACE, 1, 2 * n + 1, 2, filler)))
            .collect(),
    )
}

fn envelope(batch: &Bytes, first_seq: u64) -> Envelope {
    let batch = Batch::decode(batch.clone()).expect("sealed");
    let n = batch.len() as u32;
    Envelope {
        epoch: EPOCH,
        first_seq,
        relay_ms: 0,
        replica: batch.head().replica,
        first_counter: batch.head().first_counter,
        n,
        verdicts: vec![(Verdict::Applied, n)],
        absorbed: Bitmap::new(n),
        repeated: Bitmap::new(n),
    }
}

/// The entry of two operations of replica 9 that begins at `first_seq`.
fn entry(first_seq: u64) -> Frame {
    let bytes = batch_of(SPACE, 9, first_seq, 2, 0);
    Frame::Entry { envelope: envelope(&bytes, first_seq), batch: Batch::decode(bytes).expect("sealed") }
}

fn hello(cursor: u64) -> Hello {
    Hello {
        protocol: PROTOCOL_VERSION,
        space: Some(SPACE),
        epoch: EPOCH,
        cursor,
        reads: Reads::default(),
        replicas: vec![replica(1)],
    }
}

fn welcome(known: u64) -> Welcome {
    Welcome {
        protocol: PROTOCOL_VERSION,
        space: SPACE,
        epoch: EPOCH,
        head: 100,
        floor: 0,
        relay_ms: 0,
        clock_trusted: true,
        reads: Reads::default(),
        counters: vec![(replica(1), known)],
    }
}

/// A session with a peer that does as the test says.
struct Stage {
    session: Session,
    outbox: Outbox,
    now: u64,
}

impl Stage {
    /// Connected, Hello sent.
    fn greeting(cursor: u64, outbox: Outbox) -> Self {
        Self::greeting_within(WINDOW_BYTES, cursor, outbox)
    }

    fn greeting_within(window_bytes: usize, cursor: u64, outbox: Outbox) -> Self {
        let mut stage = Self { session: Session::new(SessionConfig { window_bytes }, 7), outbox, now: 1_000 };
        stage.session.start(stage.now);
        assert_eq!(stage.events(), [Event::StateChanged(SessionState::Connecting), Event::ConnectNow]);
        stage.session.connected(stage.now, hello(cursor));
        assert_eq!(stage.sent().len(), 1);
        stage.events();
        stage
    }

    /// Live, nothing pushed yet.
    fn live(cursor: u64, known: u64, outbox: Outbox) -> Self {
        Self::live_within(WINDOW_BYTES, cursor, known, outbox)
    }

    fn live_within(window_bytes: usize, cursor: u64, known: u64, outbox: Outbox) -> Self {
        let mut stage = Self::greeting_within(window_bytes, cursor, outbox);
        stage.hear(Frame::Welcome(welcome(known)));
        stage.events();
        stage.session.resume(stage.now);
        assert_eq!(stage.events(), [Event::StateChanged(SessionState::Live)]);
        stage
    }

    fn hear(&mut self, frame: Frame) {
        self.session.handle_bytes(self.now, frame.to_bytes());
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    fn sent(&mut self) -> Vec<Frame> {
        let sent = std::iter::from_fn(|| {
            let Ok(frame) = self.session.poll_transmit(self.now, &self.outbox);
            frame
        });
        sent.map(|bytes| Frame::decode(bytes).expect("whole frames")).collect()
    }

    /// The first counters of the batches that are pushed now.
    fn pushes(&mut self) -> Vec<u64> {
        let first = |frame| match frame {
            Frame::Push(batch) => Some(batch.head().first_counter),
            _ => None,
        };
        self.sent().into_iter().filter_map(first).collect()
    }

    fn ack(&mut self, which: usize, first_seq: u64) {
        let envelope = envelope(&self.outbox.0[which].1, first_seq);
        self.hear(Frame::Ack(envelope));
    }

    /// Hears `frame` and expects the connection to end for this reason.
    #[track_caller]
    fn ends(mut self, frame: Frame, wanted: DisconnectReason) {
        self.hear(frame);
        let events = self.events();
        assert_eq!(events[..], [Event::Disconnect { reason: wanted }, Event::StateChanged(SessionState::Backoff)]);
        assert_eq!(self.sent(), []);
    }

    #[track_caller]
    fn misbehaves(self, frame: Frame, wanted: PeerMisbehaved, rule: &str) {
        assert_eq!(wanted.rule(), rule);
        self.ends(frame, DisconnectReason::Misbehaved(wanted));
    }

    #[track_caller]
    fn rejects(mut self, frame: Frame, code: ErrorCode) {
        self.hear(frame);
        let events = self.events();
        let [Event::Rejected(error), Event::Disconnect { reason }, Event::StateChanged(state)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(
            (error.code, error.fatal, reason, *state),
            (code, true, &DisconnectReason::Rejected, SessionState::Rejected)
        );
        assert_eq!((self.session.poll_timeout(), self.sent()), (None, vec![]));
        self.session.handle_timeout(u64::MAX);
        assert_eq!(self.events(), [], "nothing happens by itself");
        self.session.start(self.now);
        assert_eq!(self.events(), [Event::StateChanged(SessionState::Connecting), Event::ConnectNow]);
    }
}

#[test]
fn hello_comes_first_and_nothing_else_before_welcome() {
    // spec: S-1
    let mut session = Session::new(SessionConfig::default(), 7);
    session.start(0);
    session.connected(0, hello(5));
    session.request_digest(1);
    session.local_sealed(0);
    session.handle_frame(0, Frame::Ping(3));
    session.handle_timeout(PING_AFTER_MS);
    let outbox = outbox(0);
    let Ok(Some(first)) = session.poll_transmit(PING_AFTER_MS, &outbox) else { panic!("no hello") };
    assert_eq!(Frame::decode(first), Ok(Frame::Hello(hello(5))));
    assert_eq!(session.poll_transmit(PING_AFTER_MS, &outbox), Ok(None));
}

#[test]
fn nothing_is_pushed_or_handed_over_before_the_driver_resumes() {
    // spec: S-2
    let mut stage = Stage::greeting(0, outbox(0));
    stage.hear(Frame::Welcome(welcome(0)));
    stage.hear(entry(1));
    stage.hear(Frame::Ping(3));
    let events = stage.events();
    assert_eq!(events[..], [Event::StateChanged(SessionState::Preparing), Event::Welcome(welcome(0))]);
    assert_eq!(stage.sent(), [Frame::Pong(3)]);
    assert_eq!(stage.session.poll_timeout(), None, "it is the driver that works");
    stage.now += 10 * DEAD_AFTER_MS;
    stage.session.resume(stage.now);
    assert_eq!(stage.session.poll_timeout(), Some(stage.now + PING_AFTER_MS));
    let events = stage.events();
    assert!(matches!(events[..], [Event::Entry { .. }, Event::StateChanged(SessionState::Live)]));
    assert_eq!(stage.pushes(), [1, 3, 5]);
}

#[test]
fn entries_that_the_driver_never_got_are_dropped_with_the_connection() {
    // spec: S-2, S-19
    let mut stage = Stage::greeting(0, outbox(0));
    stage.hear(Frame::Welcome(welcome(0)));
    stage.hear(entry(1));
    stage.events();
    stage.session.disconnected(stage.now, DisconnectReason::Transport);
    assert_eq!(stage.events(), [Event::StateChanged(SessionState::Backoff)]);
    // Those of a live connection were in order and stay.
    let mut stage = Stage::live(0, 0, outbox(0));
    stage.hear(entry(1));
    stage.session.disconnected(stage.now, DisconnectReason::Transport);
    assert!(matches!(stage.events()[..], [Event::Entry { .. }, Event::StateChanged(SessionState::Backoff)]));
}

#[test]
fn another_space_epoch_or_past_is_refused() {
    // spec: S-2
    let check = |cursor: u64, welcome: Welcome, code| {
        Stage::greeting(cursor, Outbox::default()).rejects(Frame::Welcome(welcome), code);
    };
    check(0, Welcome { space: SpaceId([1; 16]), ..welcome(0) }, ErrorCode::SpaceMismatch);
    check(0, Welcome { epoch: EPOCH + 1, ..welcome(0) }, ErrorCode::EpochMismatch);
    check(101, welcome(0), ErrorCode::CursorAhead);
    check(9, Welcome { floor: 10, ..welcome(0) }, ErrorCode::Unsupported);
    // An unbound file takes what it is given.
    let mut session = Session::new(SessionConfig::default(), 7);
    session.start(0);
    session.connected(0, Hello { space: None, epoch: 0, ..hello(0) });
    session.handle_frame(0, Frame::Welcome(welcome(0)));
    assert_eq!(
        (session.state(), session.cursor(), session.head()),
        (SessionState::Preparing, Some((EPOCH, 0)), Some(100))
    );
}

#[test]
fn a_welcome_that_does_not_answer_the_hello_ends_the_connection() {
    // spec: S-3
    let check = |welcome: Welcome, wanted| {
        Stage::greeting(0, Outbox::default()).misbehaves(Frame::Welcome(welcome), wanted, "S-3");
    };
    check(Welcome { protocol: 2, ..welcome(0) }, PeerMisbehaved::Protocol { given: 2 });
    check(Welcome { counters: vec![], ..welcome(0) }, PeerMisbehaved::WelcomeReplicas { position: 0 });
    check(Welcome { counters: vec![(replica(2), 0)], ..welcome(0) }, PeerMisbehaved::WelcomeReplicas { position: 0 });
    let two = vec![(replica(1), 0), (replica(2), 0)];
    check(Welcome { counters: two, ..welcome(0) }, PeerMisbehaved::WelcomeReplicas { position: 1 });
    check(Welcome { floor: 101, ..welcome(0) }, PeerMisbehaved::WelcomeFloor { floor: 101, head: 100 });
}

#[test]
fn entries_are_contiguous_and_duplicates_are_dropped() {
    // spec: S-4, S-5, S-6
    let mut stage = Stage::live(10, 0, Outbox::default());
    for first_seq in [11, 11, 13, 9, 11, 13, 15] {
        stage.hear(entry(first_seq));
    }
    let handed: Vec<u64> = stage
        .events()
        .iter()
        .map(|event| match event {
            Event::Entry { envelope, .. } => envelope.first_seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(handed, [11, 13, 15]);
    assert_eq!(stage.session.cursor(), Some((EPOCH, 16)));
    stage.misbehaves(entry(18), PeerMisbehaved::SequenceGap { wanted: 17, given: 18 }, "S-4");
    let overlap = PeerMisbehaved::SequenceOverlap { cursor: 10, first: 10, last: 11 };
    Stage::live(10, 0, Outbox::default()).misbehaves(entry(10), overlap, "S-6");
    Stage::live(10, 0, Outbox::default()).misbehaves(
        entry(12),
        PeerMisbehaved::SequenceGap { wanted: 11, given: 12 },
        "S-4",
    );
}

#[test]
fn entries_of_another_epoch_or_space_end_the_connection() {
    // spec: S-7, S-8
    let Frame::Entry { envelope: good, batch } = entry(11) else { unreachable!("an entry") };
    let other = Frame::Entry { envelope: Envelope { epoch: 5, ..good.clone() }, batch: batch.clone() };
    Stage::live(10, 0, Outbox::default()).misbehaves(
        other,
        PeerMisbehaved::EntryEpoch { wanted: EPOCH, given: 5 },
        "S-7",
    );

    let bytes = batch_of(SpaceId([1; 16]), 9, 11, 2, 0);
    let other = Frame::Entry { envelope: good.clone(), batch: Batch::decode(bytes).expect("sealed") };
    Stage::live(10, 0, Outbox::default()).misbehaves(
        other,
        PeerMisbehaved::EntrySpace { given: SpaceId([1; 16]) },
        "S-7",
    );

    // Frames that were never bytes are checked here.
    for envelope in [
        Envelope { replica: replica(8), ..good.clone() },
        Envelope { first_counter: 12, ..good.clone() },
        Envelope { n: 1, ..good.clone() },
    ] {
        let mut stage = Stage::live(10, 0, Outbox::default());
        stage.session.handle_frame(stage.now, Frame::Entry { envelope, batch: batch.clone() });
        let wanted = PeerMisbehaved::EnvelopeMismatch { first: 11 };
        assert_eq!(stage.events()[0], Event::Disconnect { reason: DisconnectReason::Misbehaved(wanted) });
    }
    let mut stage = Stage::live(10, 0, Outbox::default());
    stage.session.handle_frame(stage.now, Frame::Entry { envelope: Envelope { first_seq: 0, ..good }, batch });
    let wanted = DisconnectReason::Misbehaved(PeerMisbehaved::EntryUnnumbered);
    assert_eq!(stage.events()[0], Event::Disconnect { reason: wanted });
}

#[test]
fn an_ack_takes_the_place_of_an_entry() {
    // spec: S-9
    let mut stage = Stage::live(10, 0, outbox(0));
    assert_eq!(stage.pushes(), [1, 3, 5]);
    stage.hear(entry(11));
    stage.ack(0, 13);
    stage.ack(0, 13);
    assert!(matches!(&stage.events()[..], [Event::Entry { .. }, Event::Ack(ack)] if ack.first_seq == 13));
    assert_eq!((stage.session.cursor(), stage.session.unanswered_batches()), (Some((EPOCH, 14)), 2));
    // Known in full already: frees the window, moves nothing.
    stage.ack(1, 0);
    assert_eq!((stage.events(), stage.session.unanswered_batches()), (vec![], 1));
    assert_eq!(stage.session.cursor(), Some((EPOCH, 14)));
    stage.ack(1, 0);
    assert_eq!(stage.events(), [], "nothing waits for it");
    // The relay may send the author's own entry whole.
    let bytes = stage.outbox.0[2].1.clone();
    stage.hear(Frame::Entry { envelope: envelope(&bytes, 15), batch: Batch::decode(bytes).expect("sealed") });
    assert!(matches!(stage.events()[..], [Event::Entry { .. }]));
    assert_eq!(stage.session.unanswered_bytes(), 0);
    assert_eq!(stage.pushes(), [0u64; 0]);

    let unasked = PeerMisbehaved::AckUnasked { replica: replica(1), first_counter: 1 };
    let ack = Frame::Ack(envelope(&outbox(0).0[0].1, 11));
    Stage::live(10, 0, outbox(0)).misbehaves(ack, unasked, "S-9");
    let mut stage = Stage::live(10, 0, outbox(0));
    stage.pushes();
    let ack = Frame::Ack(envelope(&outbox(0).0[0].1, 12));
    stage.misbehaves(ack, PeerMisbehaved::SequenceGap { wanted: 11, given: 12 }, "S-4");
}

#[test]
fn the_window_bounds_what_is_on_its_way() {
    // spec: S-10, S-11
    let outbox = outbox(100_000);
    let bytes = outbox.0[0].1.len();
    let mut stage = Stage::live_within(3 * bytes - 1, 0, 0, outbox);
    assert_eq!(stage.pushes(), [1, 3]);
    assert_eq!(stage.session.unanswered_bytes(), 2 * bytes);
    stage.session.local_sealed(stage.now);
    assert_eq!(stage.pushes(), [0u64; 0]);
    stage.ack(0, 1);
    assert_eq!(stage.pushes(), [5]);
    assert_eq!(stage.pushes(), [0u64; 0]);
    // More appears behind what was sent.
    stage.outbox.0.push((OutboxPosition { incarnation: 2, counter: 1 }, batch_of(SPACE, 2, 1, 1, 0)));
    assert_eq!(stage.pushes(), [0u64; 0], "nobody said so");
    stage.session.local_sealed(stage.now);
    assert_eq!(stage.pushes(), [1]);
}

#[test]
fn a_batch_larger_than_the_window_goes_alone() {
    // spec: S-11
    let mut stage = Stage::live_within(10, 0, 0, outbox(100));
    assert_eq!(stage.pushes(), [1]);
    stage.ack(0, 1);
    assert_eq!(stage.pushes(), [3]);
}

#[test]
fn what_the_relay_has_is_not_pushed() {
    // spec: S-12
    let check = |known: u64, wanted: &[u64]| assert_eq!(Stage::live(0, known, outbox(0)).pushes(), wanted);
    check(0, &[1, 3, 5]);
    check(1, &[1, 3, 5]);
    check(2, &[3, 5]);
    check(3, &[3, 5]);
    check(6, &[]);
    // Its entry may say so later than Welcome.
    let mut stage = Stage::live(0, 0, outbox(0));
    let bytes = stage.outbox.0[0].1.clone();
    stage.hear(Frame::Entry { envelope: envelope(&bytes, 1), batch: Batch::decode(bytes).expect("sealed") });
    assert_eq!(stage.pushes(), [3, 5]);
}

fn need_from(counter: u64) -> Frame {
    let need = OpId { replica: replica(1), counter };
    Frame::Error(ErrorFrame::new(ErrorCode::NeedFrom(need), "gap"))
}

/// Expects a Ping and nothing else.
#[track_caller]
fn pinged(stage: &mut Stage) -> u64 {
    match stage.sent()[..] {
        [Frame::Ping(nonce)] => nonce,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn need_from_goes_back_once() {
    // spec: S-13. The first batch was lost: both behind it are answered alike.
    let mut stage = Stage::live(0, 0, outbox(0));
    assert_eq!(stage.pushes(), [1, 3, 5]);
    stage.hear(need_from(1));
    let nonce = pinged(&mut stage);
    stage.hear(need_from(1));
    stage.hear(Frame::Pong(nonce + 1));
    assert_eq!(stage.sent(), []);
    stage.hear(Frame::Pong(nonce));
    assert_eq!(stage.pushes(), [1, 3, 5]);
    for which in 0..3 {
        stage.ack(which, 2 * which as u64 + 1);
    }
    assert_eq!((stage.session.unanswered_bytes(), stage.session.cursor()), (0, Some((EPOCH, 6))));

    // What is on its way below the gap stays there, the rest goes out again.
    let mut stage = Stage::live(0, 0, outbox(0));
    stage.pushes();
    stage.hear(need_from(3));
    let nonce = pinged(&mut stage);
    stage.hear(Frame::Pong(nonce));
    assert_eq!(stage.pushes(), [3, 5]);

    // The missing batch was overtaken and is answered before the Pong, and has left the outbox.
    let mut stage = Stage::live(0, 0, outbox(0));
    stage.pushes();
    stage.hear(need_from(1));
    let nonce = pinged(&mut stage);
    stage.ack(0, 1);
    stage.outbox.0.remove(0);
    stage.hear(Frame::Pong(nonce));
    assert_eq!(stage.pushes(), [3, 5]);
}

#[test]
fn need_from_below_the_outbox_is_final() {
    // spec: S-13
    let mut stage = Stage::live(0, 0, outbox(0));
    stage.outbox.0.remove(0);
    assert_eq!(stage.pushes(), [3, 5]);
    stage.hear(need_from(1));
    let nonce = pinged(&mut stage);
    stage.hear(Frame::Pong(nonce));
    assert_eq!(stage.sent(), []);
    let need = OpId { replica: replica(1), counter: 1 };
    let events = stage.events();
    assert!(matches!(&events[0], Event::Rejected(error) if error.code == ErrorCode::NeedFrom(need)), "{events:?}");
}

#[test]
fn a_need_from_that_nothing_explains_ends_the_connection() {
    // spec: S-13
    let unasked = |counter| PeerMisbehaved::NeedFromUnasked { replica: replica(1), counter };
    // Nothing was pushed; the relay has said that it has it; nothing lies above it.
    Stage::live(0, 6, outbox(0)).misbehaves(need_from(7), unasked(7), "S-13");
    let mut stage = Stage::live(0, 2, outbox(0));
    stage.pushes();
    stage.misbehaves(need_from(2), unasked(2), "S-13");
    let mut stage = Stage::live(0, 0, outbox(0));
    stage.pushes();
    stage.misbehaves(need_from(5), unasked(5), "S-13");
}

#[test]
fn frames_out_of_place_end_the_connection() {
    // spec: S-14
    let unexpected = |kind, state| PeerMisbehaved::UnexpectedFrame { kind, state };
    let live = || Stage::live(10, 0, Outbox::default());
    live().misbehaves(Frame::Welcome(welcome(0)), unexpected(FrameKind::Welcome, SessionState::Live), "S-14");
    live().misbehaves(Frame::Hello(hello(0)), unexpected(FrameKind::Hello, SessionState::Live), "S-14");
    let digest = Frame::Digest { seq: 1, digest: [0; 32], documents: 1 };
    live().misbehaves(digest, unexpected(FrameKind::Digest, SessionState::Live), "S-14");
    Stage::greeting(10, Outbox::default()).misbehaves(
        entry(11),
        unexpected(FrameKind::Entry, SessionState::Greeting),
        "S-14",
    );

    let mut stage = live();
    let mut bytes = Frame::Ping(1).to_bytes().to_vec();
    bytes[17] ^= 1;
    stage.session.handle_bytes(stage.now, Bytes::from(bytes));
    let events = stage.events();
    let [Event::Disconnect { reason: DisconnectReason::Misbehaved(fault) }, _] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(matches!(fault, PeerMisbehaved::Undecodable(_)));
    assert_eq!(fault.rule(), "S-14");
    // Late frames of a connection that is gone are nobody's fault.
    stage.session.handle_bytes(stage.now, Bytes::from_static(b"late"));
    stage.hear(entry(99));
    assert_eq!(stage.events(), []);
}

#[test]
fn silence_is_met_with_a_ping_and_then_with_the_end() {
    // spec: S-15
    let mut stage = Stage::live(10, 0, Outbox::default());
    let heard = stage.now;
    assert_eq!(stage.session.poll_timeout(), Some(heard + PING_AFTER_MS));
    stage.now = heard + PING_AFTER_MS;
    stage.session.handle_timeout(stage.now);
    let sent = stage.sent();
    let [Frame::Ping(nonce)] = sent[..] else { panic!("{sent:?}") };
    stage.session.handle_timeout(stage.now + 1);
    assert_eq!(stage.sent(), [], "one is enough");
    stage.now += 5;
    stage.hear(Frame::Pong(nonce));
    assert_eq!(stage.session.poll_timeout(), Some(stage.now + PING_AFTER_MS));
    let heard = stage.now;
    stage.session.handle_timeout(heard + PING_AFTER_MS);
    assert_eq!(stage.session.poll_timeout(), Some(heard + DEAD_AFTER_MS));
    stage.session.handle_timeout(heard + DEAD_AFTER_MS);
    assert_eq!(stage.events()[0], Event::Disconnect { reason: DisconnectReason::Silent });
    assert_eq!(stage.sent(), []);

    let mut stage = Stage::greeting(0, Outbox::default());
    stage.session.handle_timeout(stage.now + DEAD_AFTER_MS);
    assert_eq!(stage.events()[0], Event::Disconnect { reason: DisconnectReason::Silent });

    let mut stage = Stage::live(10, 0, Outbox::default());
    for nonce in 0..2 * PONGS_MAX as u64 {
        stage.hear(Frame::Ping(nonce));
    }
    let pongs: Vec<Frame> = (PONGS_MAX as u64..2 * PONGS_MAX as u64).map(Frame::Pong).collect();
    assert_eq!(stage.sent(), pongs, "a flood of pings does not fill the memory");
}

#[test]
fn attempts_grow_apart_until_there_is_progress() {
    // spec: S-16
    let wait = |stage: &mut Stage, retry_ms: u64| {
        let error = ErrorFrame { retry_ms, ..ErrorFrame::new(ErrorCode::Overloaded, "later") };
        stage.hear(Frame::Error(error));
        let at = stage.session.poll_timeout().expect("backing off");
        stage.session.handle_timeout(at - 1);
        assert_eq!(stage.session.state(), if at > stage.now { SessionState::Backoff } else { stage.session.state() });
        let waited = at - stage.now;
        stage.now = at;
        stage.session.handle_timeout(at);
        assert_eq!(stage.session.state(), SessionState::Connecting);
        stage.session.connected(at, hello(0));
        stage.sent();
        stage.events();
        waited
    };
    let mut stage = Stage::greeting(0, Outbox::default());
    let waits: Vec<u64> = (0..40).map(|_| wait(&mut stage, 0)).collect();
    assert!(waits.iter().all(|waited| *waited <= BACKOFF_MAX_MS));
    assert!(waits[12..].iter().sum::<u64>() > 28 * BACKOFF_MAX_MS / 4, "late waits are long: {waits:?}");
    assert!((5_000..=5_000 + BACKOFF_MAX_MS).contains(&wait(&mut stage, 5_000)));
    assert!(wait(&mut stage, u64::MAX) <= RETRY_MS_MAX + BACKOFF_MAX_MS);

    // A Welcome alone is no progress; an entry is, and so is time.
    let mut resume = |progress: &dyn Fn(&mut Stage)| {
        for _ in 0..20 {
            wait(&mut stage, 0);
        }
        stage.hear(Frame::Welcome(welcome(0)));
        stage.events();
        stage.session.resume(stage.now);
        progress(&mut stage);
        wait(&mut stage, 0)
    };
    let idle: u64 = (0..6).map(|_| resume(&|_| ())).sum();
    assert!(idle > 6 * BACKOFF_FIRST_MS);
    assert!(resume(&|stage| stage.hear(entry(1))) <= BACKOFF_FIRST_MS);
    assert!(resume(&|stage| stage.now += 10_000) <= BACKOFF_FIRST_MS);
}

#[test]
fn fatal_errors_are_final_and_others_are_not() {
    // spec: S-17
    let need = ErrorCode::NeedFrom(OpId { replica: replica(1), counter: 1 });
    let codes = [
        ErrorCode::Malformed,
        ErrorCode::Unauthenticated,
        ErrorCode::PermissionDenied,
        ErrorCode::SpaceMismatch,
        ErrorCode::EpochMismatch,
        need,
        ErrorCode::NameClash,
        ErrorCode::TooLarge,
        ErrorCode::Overloaded,
        ErrorCode::Unsupported,
        ErrorCode::Internal,
        ErrorCode::ShuttingDown,
        ErrorCode::CursorAhead,
    ];
    for code in codes {
        Stage::greeting(0, Outbox::default()).rejects(Frame::Error(ErrorFrame::fatal(code, "no")), code);
        Stage::live(10, 0, outbox(0)).rejects(Frame::Error(ErrorFrame::fatal(code, "no")), code);
        if !matches!(code, ErrorCode::NeedFrom(_) | ErrorCode::Unsupported | ErrorCode::CursorAhead) {
            let error = Frame::Error(ErrorFrame::new(code, "later"));
            Stage::live(10, 0, Outbox::default()).ends(error, DisconnectReason::Relay(code));
        }
    }
    Stage::live(10, 0, Outbox::default()).ends(Frame::Bye, DisconnectReason::Bye);
}

#[test]
fn a_digest_request_survives_reconnects() {
    // spec: S-18
    let mut stage = Stage::live(10, 0, Outbox::default());
    stage.session.request_digest(7);
    assert_eq!(stage.sent(), [Frame::DigestRequest { min_seq: 7 }]);
    assert_eq!(stage.sent(), []);
    stage.hear(Frame::Bye);
    let at = stage.session.poll_timeout().expect("backing off");
    stage.session.handle_timeout(at);
    stage.events();
    stage.session.connected(at, hello(10));
    stage.sent();
    stage.hear(Frame::Welcome(welcome(0)));
    stage.events();
    stage.session.resume(at);
    assert_eq!(stage.sent(), [Frame::DigestRequest { min_seq: 7 }]);
    stage.events();
    stage.hear(Frame::Digest { seq: 8, digest: [3; 32], documents: 5 });
    assert_eq!(stage.events(), [Event::Digest { seq: 8, digest: [3; 32], documents: 5 }]);

    for code in [ErrorCode::Unsupported, ErrorCode::CursorAhead] {
        stage.session.request_digest(9);
        assert_eq!(stage.sent(), [Frame::DigestRequest { min_seq: 9 }]);
        let error = ErrorFrame::new(code, "no digests here");
        stage.hear(Frame::Error(error.clone()));
        assert_eq!(stage.events(), [Event::Unsupported(error)]);
        assert_eq!((stage.session.state(), stage.sent()), (SessionState::Live, vec![]));
    }
}

#[test]
fn stop_says_bye_and_start_begins_anew() {
    let mut stage = Stage::live(10, 0, outbox(0));
    stage.session.stop(stage.now);
    let stopped = [Event::Disconnect { reason: DisconnectReason::Stopped }, Event::StateChanged(SessionState::Stopped)];
    assert_eq!(stage.events(), stopped);
    assert_eq!(stage.sent(), [Frame::Bye]);
    assert_eq!(stage.session.poll_timeout(), None);
    stage.session.disconnected(stage.now, DisconnectReason::Transport);
    stage.session.stop(stage.now);
    assert_eq!(stage.events(), []);
    stage.session.start(stage.now);
    assert_eq!(stage.events(), [Event::StateChanged(SessionState::Connecting), Event::ConnectNow]);
    stage.session.start(stage.now);
    assert_eq!(stage.events(), [], "it is under way");
}

#[test]
fn an_outbox_that_is_wrong_ends_the_connection_with_a_name() {
    struct Stuck;
    impl OpSource for Stuck {
        type Error = Infallible;

        fn batch_after(&self, _: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, Infallible> {
            Ok(Some((OutboxPosition::default(), Bytes::new())))
        }
    }
    let fault = |stage: &mut Stage, wanted: &dyn Fn(&SessionError) -> bool| {
        let events = stage.events();
        let [Event::Disconnect { reason: DisconnectReason::Session(error) }, Event::StateChanged(_)] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert!(wanted(error), "{error:?}");
    };
    let mut stage = Stage::live(0, 0, Outbox::default());
    assert_eq!(stage.session.poll_transmit(stage.now, &Stuck), Ok(None));
    fault(&mut stage, &|error| *error == SessionError::OutboxOutOfOrder);

    let damaged = Outbox(vec![(OutboxPosition { incarnation: 1, counter: 1 }, Bytes::from_static(&[0; 20]))]);
    let mut stage = Stage::live(0, 0, damaged);
    assert_eq!(stage.sent(), []);
    fault(&mut stage, &|error| matches!(error, SessionError::OutboxDamaged(_)));
}

#[test]
fn an_outbox_that_cannot_be_read_is_told_to_the_driver_and_asked_again() {
    struct Unreadable;
    impl OpSource for Unreadable {
        type Error = &'static str;

        fn batch_after(&self, _: OutboxPosition) -> Result<Option<(OutboxPosition, Bytes)>, &'static str> {
            Err("the disk failed")
        }
    }
    let mut stage = Stage::live(0, 0, outbox(0));
    for _ in 0..2 {
        assert_eq!(stage.session.poll_transmit(stage.now, &Unreadable), Err("the disk failed"));
    }
    assert_eq!(stage.events(), [], "what to do about it is the driver's to say");
    assert_eq!(stage.pushes(), [1, 3, 5], "nothing was taken for sent, nor the outbox for empty");
}

#[test]
fn several_incarnations_are_pushed_in_the_order_of_the_outbox() {
    // spec: S-10
    let mut outbox = outbox(0);
    outbox.0.push((OutboxPosition { incarnation: 2, counter: 1 }, batch_of(SPACE, 2, 1, 1, 0)));
    let mut stage = Stage::live(0, 4, outbox);
    let names: Vec<(ReplicaId, u64)> = stage
        .sent()
        .into_iter()
        .map(|frame| match frame {
            Frame::Push(batch) => (batch.head().replica, batch.head().first_counter),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [(replica(1), 5), (replica(2), 1)]);
}

#[test]
fn a_driver_that_reads_no_events_is_told() {
    let mut stage = Stage::live(0, 0, Outbox::default());
    let error = Frame::Error(ErrorFrame::new(ErrorCode::Unsupported, "no"));
    for _ in 0..EVENTS_MAX {
        stage.session.handle_frame(stage.now, error.clone());
    }
    assert_eq!(stage.session.state(), SessionState::Live);
    stage.session.handle_frame(stage.now, error);
    let events = stage.events();
    let wanted = DisconnectReason::Session(SessionError::EventsUnread { count: EVENTS_MAX });
    assert_eq!(
        events[EVENTS_MAX..],
        [Event::Disconnect { reason: wanted }, Event::StateChanged(SessionState::Backoff)]
    );
}

// spec: S-20
#[test]
fn a_backlog_goes_in_columns_where_the_relay_reads_them() {
    let live = |reads: Reads, filler: usize| {
        let mut stage = Stage::greeting(100, outbox(filler));
        stage.hear(Frame::Welcome(Welcome { reads, ..welcome(0) }));
        stage.events();
        stage.session.resume(stage.now);
        stage.events();
        stage
    };
    let mut stage = live(Reads::ALL, 2000);
    let frame = stage.session.poll_transmit(stage.now, &stage.outbox).unwrap().expect("a push");
    assert_eq!((frame[3], frame[4]), (FrameKind::Pushes.number(), 1), "columns under zstd");
    let Ok(Frame::Pushes(batches)) = Frame::decode(frame) else { panic!("a Pushes frame") };
    let expected: Vec<Bytes> = stage.outbox.0.iter().map(|entry| entry.1.clone()).collect();
    assert_eq!(batches.iter().map(|batch| batch.bytes().clone()).collect::<Vec<_>>(), expected, "the sealed bytes");
    assert_eq!(stage.session.unanswered_batches(), 3, "each is answered by itself");
    assert_eq!(stage.session.unanswered_bytes(), expected.iter().map(|bytes| bytes.len()).sum::<usize>());
    assert!(stage.sent().is_empty());
    stage.hear(Frame::Ack(envelope(&expected[0], 101)));
    assert_eq!(stage.session.unanswered_batches(), 2);
    // Few bytes, or a relay that does not read columns: rows, one by one.
    for (reads, filler) in [(Reads::ALL, 0), (Reads { columns: false, ..Reads::ALL }, 2000), (Reads::default(), 2000)] {
        let mut stage = live(reads, filler);
        let codecs: Vec<u8> = std::iter::from_fn(|| {
            let Ok(frame) = stage.session.poll_transmit(stage.now, &stage.outbox);
            frame.map(|bytes| {
                assert_eq!(bytes[3], FrameKind::Push.number());
                bytes[4]
            })
        })
        .collect();
        let packed = u8::from(reads.zstd && filler > 0);
        assert_eq!(codecs, [packed; 3], "{reads:?} {filler}");
        assert_eq!(stage.session.unanswered_batches(), 3);
    }
}

// spec: S-20
#[test]
fn entries_in_columns_are_entries_one_after_another() {
    let one = |first_seq| match entry(first_seq) {
        Frame::Entry { envelope, batch } => (envelope, batch),
        _ => unreachable!("an entry"),
    };
    let mut stage = Stage::live(10, 0, outbox(0));
    stage.hear(Frame::Entries(vec![one(9), one(11), one(13)]));
    let sequences: Vec<u64> = stage
        .events()
        .iter()
        .map(|event| match event {
            Event::Entry { envelope, .. } => envelope.first_seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sequences, [11, 13], "the first is a duplicate (S-5)");
    assert_eq!(stage.session.cursor(), Some((EPOCH, 14)));
    // A gap in the middle ends the connection; what came before it holds.
    stage.hear(Frame::Entries(vec![one(15), one(19), one(21)]));
    let events = stage.events();
    assert!(matches!(&events[0], Event::Entry { envelope, .. } if envelope.first_seq == 15), "{events:?}");
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Entry { .. })).count(), 1);
    assert_ne!(stage.session.state(), SessionState::Live);
}
