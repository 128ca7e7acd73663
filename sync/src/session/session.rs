//! `Session`: the machine. `handle_` takes in, `poll_` gives out; time is an argument.

use std::collections::{BTreeMap, VecDeque};

use blazedb_wire::limits::COLUMNS_BATCHES_MAX;
use blazedb_wire::{
    Batch, Codec, Columns, Envelope, ErrorCode, ErrorFrame, Frame, FrameKind, Hello, OpId, PROTOCOL_VERSION, Reads,
    ReplicaId, SpaceId, Welcome, columns_frame, compress_frame, push_frame,
};
use bytes::Bytes;

use super::flow::{BatchName, InFlight, Window};
use super::timer::{Backoff, Silence, SilenceCall};
use super::{DisconnectReason, Event, Millis, OpSource, OutboxPosition, SessionConfig, SessionState};
use crate::error::{PeerMisbehaved, SessionError};
use crate::limits::{EVENTS_MAX, PONGS_MAX, PUSHES_BYTES, PUSHES_BYTES_MIN, STABLE_AFTER_MS};

/// One client's session with one relay; survives reconnects.
///
/// Inputs may come in any order; those that make no sense in the present state (a frame after the connection ended) are
/// ignored.
#[derive(Clone, Debug)]
pub struct Session {
    state: SessionState,
    events: VecDeque<Event>,
    backoff: Backoff,
    /// Backoff: when to connect again.
    retry_at: Millis,
    /// Whether the Welcome was handed to the driver; until `resume` nothing more is.
    welcome_handed: bool,
    /// Connected: silence of the peer. The clock of a connection starts with `connected`.
    silence: Silence,
    /// Live: since when.
    live_since: Millis,
    /// The relay has made progress on this connection.
    progressed: bool,
    peer: Option<Peer>,
    window: Window,
    /// Highest counter that the relay is known to have, of this file's replicas.
    known: BTreeMap<ReplicaId, u64>,
    /// Where pushing goes on.
    send_after: OutboxPosition,
    /// A batch read from the outbox that did not fit the window.
    held: Option<(OutboxPosition, Bytes)>,
    /// The outbox has nothing after `send_after`.
    outbox_dry: bool,
    /// NeedFrom was received: pushing waits for the Pong with this nonce, then goes back.
    rewinding: Option<u64>,
    /// What the relay asked for by NeedFrom and was not sent yet.
    needed: BTreeMap<ReplicaId, u64>,
    nonce: u64,
    digest: Option<DigestWish>,
    digests_due: u32,
    out: Control,
}

/// What the two sides agreed on for the present connection.
#[derive(Clone, Debug)]
struct Peer {
    hello: Hello,
    space: SpaceId,
    epoch: u32,
    cursor: u64,
    head: u64,
    /// What the relay can read beside plain frames.
    reads: Reads,
}

#[derive(Clone, Copy, Debug)]
struct DigestWish {
    min_seq: u64,
    sent: bool,
}

/// Frames besides batches that wait for transmission.
#[derive(Clone, Debug, Default)]
struct Control {
    hello: Option<Bytes>,
    pongs: VecDeque<u64>,
    ping: Option<u64>,
    bye: bool,
    /// Pushes that were taken from the outbox together and go one by one.
    pushes: VecDeque<Bytes>,
}

impl Session {
    /// Returns a stopped session. The seed spreads the waits of reconnecting; give every client another one.
    pub const fn new(config: SessionConfig, jitter_seed: u64) -> Self {
        Self {
            state: SessionState::Stopped,
            events: VecDeque::new(),
            backoff: Backoff::new(jitter_seed),
            retry_at: 0,
            welcome_handed: false,
            silence: Silence::since(0),
            live_since: 0,
            progressed: false,
            peer: None,
            window: Window::new(config.window_bytes),
            known: BTreeMap::new(),
            send_after: OutboxPosition { incarnation: 0, counter: 0 },
            held: None,
            outbox_dry: false,
            rewinding: None,
            needed: BTreeMap::new(),
            nonce: 0,
            digest: None,
            digests_due: 0,
            out: Control { hello: None, pongs: VecDeque::new(), ping: None, bye: false, pushes: VecDeque::new() },
        }
    }

    /// Returns where the session stands.
    pub const fn state(&self) -> SessionState {
        self.state
    }

    /// Returns the sequence up to which entries were handed over on this connection, and its epoch; `None` before Welcome.
    pub fn cursor(&self) -> Option<(u32, u64)> {
        self.welcomed().map(|peer| (peer.epoch, peer.cursor))
    }

    /// Returns the greatest sequence that the relay is known to have; `None` before Welcome.
    pub fn head(&self) -> Option<u64> {
        self.welcomed().map(|peer| peer.head)
    }

    /// Returns the bytes of batches that were pushed and not answered.
    pub const fn unanswered_bytes(&self) -> usize {
        self.window.bytes()
    }

    /// Returns the number of batches that were pushed and not answered.
    pub fn unanswered_batches(&self) -> usize {
        self.window.len()
    }

    /// Begins: asks for a connection. Also leaves [`SessionState::Rejected`], once the reason is gone.
    ///
    /// Does nothing while the session is under way.
    pub fn start(&mut self, _now: Millis) {
        if matches!(self.state, SessionState::Stopped | SessionState::Rejected) {
            self.backoff.reset();
            self.connect();
        }
    }

    /// Ends: says Bye if connected. [`Session::poll_transmit`] may be called once more before the driver hangs up.
    pub fn stop(&mut self, _now: Millis) {
        if self.state == SessionState::Stopped {
            return;
        }
        let connected = self.state.is_connected();
        self.forget_connection();
        self.out.bye = connected;
        if connected {
            self.emit(Event::Disconnect { reason: DisconnectReason::Stopped });
        }
        self.enter(SessionState::Stopped);
    }

    /// A connection stands. `hello` says what the file has applied and holds at this moment.
    ///
    /// The cursor in it is where the stream goes on, so it must be that of the applied state, not an older durable one.
    pub fn connected(&mut self, now: Millis, hello: Hello) {
        if self.state != SessionState::Connecting {
            return;
        }
        // spec: S-1
        self.out = Control { hello: Some(Frame::Hello(hello.clone()).to_bytes()), ..Control::default() };
        self.peer = Some(Peer {
            space: SpaceId::default(),
            epoch: hello.epoch,
            cursor: hello.cursor,
            head: 0,
            reads: Reads::default(),
            hello,
        });
        self.known.clear();
        self.needed.clear();
        self.send_after = OutboxPosition::default();
        self.outbox_dry = false;
        self.digests_due = 0;
        if let Some(wish) = &mut self.digest {
            wish.sent = false;
        }
        self.silence = Silence::since(now);
        self.progressed = false;
        self.enter(SessionState::Greeting);
    }

    /// The connection ended, or could not be made.
    pub fn disconnected(&mut self, now: Millis, _reason: DisconnectReason) {
        if self.state == SessionState::Connecting || self.state.is_connected() {
            self.back_off(now, 0);
        }
    }

    /// The driver is done with [`Event::Welcome`]: the file is bound, everything is sealed, documents are refolded.
    pub fn resume(&mut self, now: Millis) {
        if self.state == SessionState::Preparing && self.welcome_handed {
            // The driver may have worked for long without reading; that silence was ours.
            self.silence = Silence::since(now);
            self.live_since = now;
            self.outbox_dry = false;
            self.enter(SessionState::Live);
        }
    }

    /// There are more sealed batches in the outbox.
    pub fn local_sealed(&mut self, _now: Millis) {
        self.outbox_dry = false;
    }

    /// Asks the relay for the digest of its own copy at a sequence of at least `min_seq`, now or when next connected.
    ///
    /// A later request replaces an earlier one that is unanswered.
    pub fn request_digest(&mut self, min_seq: u64) {
        self.digest = Some(DigestWish { min_seq, sent: false });
    }

    /// Takes in one received message.
    pub fn handle_bytes(&mut self, now: Millis, message: Bytes) {
        match Frame::decode(message) {
            Ok(frame) => self.handle_frame(now, frame),
            Err(error) if self.state.is_connected() => self.misbehaved(now, PeerMisbehaved::Undecodable(error)),
            Err(_) => {}
        }
    }

    /// Takes in one received frame.
    pub fn handle_frame(&mut self, now: Millis, frame: Frame) {
        if !self.state.is_connected() {
            return;
        }
        self.silence = Silence::since(now);
        if self.events.len() >= EVENTS_MAX {
            return self.fault(now, SessionError::EventsUnread { count: self.events.len() });
        }
        let kind = frame.kind();
        match frame {
            Frame::Welcome(welcome) if self.state == SessionState::Greeting => self.on_welcome(now, welcome),
            Frame::Entry { envelope, batch } if self.state.is_welcomed() => self.on_entry(now, envelope, batch),
            // spec: S-20
            Frame::Entries(entries) if self.state.is_welcomed() => {
                for (envelope, batch) in entries {
                    if !self.state.is_welcomed() {
                        break;
                    }
                    self.on_entry(now, envelope, batch);
                }
            }
            Frame::Ack(envelope) if self.state.is_welcomed() => self.on_ack(now, envelope),
            Frame::Error(error) => self.on_error(now, error),
            Frame::Ping(nonce) => {
                if self.out.pongs.len() == PONGS_MAX {
                    self.out.pongs.pop_front();
                }
                self.out.pongs.push_back(nonce);
            }
            Frame::Pong(nonce) => {
                if self.rewinding == Some(nonce) {
                    self.rewind();
                }
            }
            Frame::Bye => self.hang_up(now, DisconnectReason::Bye, 0),
            Frame::Digest { seq, digest, documents } if self.digests_due > 0 => {
                self.digests_due -= 1;
                if self.digest.is_some_and(|wish| wish.min_seq <= seq) {
                    self.digest = None;
                }
                self.emit(Event::Digest { seq, digest, documents });
            }
            // spec: S-14
            _ => self.unexpected(now, kind),
        }
    }

    /// The time given by [`Session::poll_timeout`] has come. Hand in received frames first: they may have made it moot.
    pub fn handle_timeout(&mut self, now: Millis) {
        match self.state {
            SessionState::Backoff if now >= self.retry_at => self.connect(),
            SessionState::Greeting | SessionState::Live => match self.silence.check(now) {
                SilenceCall::Nothing => {}
                // Before the Welcome nothing but the Hello may be sent.
                SilenceCall::Ping if self.state == SessionState::Greeting => {}
                SilenceCall::Ping => self.out.ping = Some(self.next_nonce()),
                SilenceCall::Dead => self.hang_up(now, DisconnectReason::Silent, 0),
            },
            _ => {}
        }
    }

    /// Returns when [`Session::handle_timeout`] has to be called, if at all.
    ///
    /// Changed by every other input.
    pub const fn poll_timeout(&self) -> Option<Millis> {
        match self.state {
            SessionState::Backoff => Some(self.retry_at),
            SessionState::Greeting | SessionState::Live => Some(self.silence.deadline()),
            // In Preparing it is the driver that works.
            SessionState::Stopped | SessionState::Connecting | SessionState::Preparing | SessionState::Rejected => None,
        }
    }

    /// Returns the next event.
    ///
    /// Changed by `handle_frame`, `handle_timeout`, `disconnected`, `start`, `stop`, `resume`. Between [`Event::Welcome`]
    /// and `resume` there is none.
    pub fn poll_event(&mut self) -> Option<Event> {
        // spec: S-2
        if self.state == SessionState::Preparing && self.welcome_handed {
            return None;
        }
        let event = self.events.pop_front()?;
        if matches!(event, Event::Welcome(_)) {
            self.welcome_handed = true;
        }
        Some(event)
    }

    /// Returns the next message to send, one whole frame.
    ///
    /// Changed by `connected`, `handle_frame`, `handle_timeout`, `resume`, `local_sealed`, `request_digest`, `stop`.
    ///
    /// # Errors
    /// The outbox could not be read. Nothing is taken for sent by that: the next call asks for the same batch again.
    pub fn poll_transmit<O: OpSource>(&mut self, now: Millis, outbox: &O) -> Result<Option<Bytes>, O::Error> {
        if let Some(hello) = self.out.hello.take() {
            return Ok(Some(hello));
        }
        if std::mem::take(&mut self.out.bye) {
            return Ok(Some(Frame::Bye.to_bytes()));
        }
        if !self.state.is_welcomed() {
            return Ok(None);
        }
        if let Some(nonce) = self.out.pongs.pop_front() {
            return Ok(Some(Frame::Pong(nonce).to_bytes()));
        }
        if let Some(nonce) = self.out.ping.take() {
            return Ok(Some(Frame::Ping(nonce).to_bytes()));
        }
        if self.state != SessionState::Live {
            return Ok(None);
        }
        if let Some(wish) = &mut self.digest
            && !wish.sent
        {
            wish.sent = true;
            self.digests_due += 1;
            return Ok(Some(Frame::DigestRequest { min_seq: wish.min_seq }.to_bytes()));
        }
        if let Some(push) = self.out.pushes.pop_front() {
            return Ok(Some(push));
        }
        self.next_pushes(now, outbox)
    }

    /// Makes the next frame that pushes: what is new goes as it is, a backlog in columns, if the relay reads them.
    fn next_pushes<O: OpSource>(&mut self, now: Millis, outbox: &O) -> Result<Option<Bytes>, O::Error> {
        let Some(first) = self.next_push(now, outbox)? else { return Ok(None) };
        let reads = self.peer.as_ref().map_or_else(Reads::default, |peer| peer.reads);
        let mut batches = vec![first];
        if reads.columns {
            let mut bytes = batches[0].len();
            while bytes < PUSHES_BYTES && batches.len() < COLUMNS_BATCHES_MAX {
                // An outbox that fails now fails again at the next call, when nothing else is in hand.
                let Ok(Some(batch)) = self.next_push(now, outbox) else { break };
                bytes += batch.len();
                batches.push(batch);
            }
            if self.state != SessionState::Live {
                return Ok(None);
            }
            if bytes >= PUSHES_BYTES_MIN
                && let Some(columns) = in_columns(&batches)
            {
                return Ok(Some(compressed(columns_frame(FrameKind::Pushes, &columns), reads)));
            }
        }
        self.out.pushes.extend(batches.iter().map(|batch| compressed(push_frame(batch), reads)));
        Ok(self.out.pushes.pop_front())
    }

    /// Finds the next batch to push, if the window has room for one.
    fn next_push<O: OpSource>(&mut self, now: Millis, outbox: &O) -> Result<Option<Bytes>, O::Error> {
        while self.rewinding.is_none() && !self.outbox_dry {
            let next = match self.held.take() {
                Some(held) => Some(held),
                None => outbox.batch_after(self.send_after)?,
            };
            let Some((position, batch)) = next else {
                self.outbox_dry = true;
                break;
            };
            let name = match self.name_to_push(position, &batch) {
                Ok(name) => name,
                Err(error) => {
                    self.fault(now, error);
                    break;
                }
            };
            // spec: S-12
            let known = self.known.get(&name.replica).copied().unwrap_or(0);
            if position.counter <= known || self.window.contains(name) {
                self.send_after = position;
                continue;
            }
            if !self.window.has_room(batch.len()) {
                self.held = Some((position, batch));
                break;
            }
            self.needed.remove(&name.replica);
            self.known.entry(name.replica).or_insert(0);
            self.window.push(InFlight { name, last_counter: position.counter, bytes: batch.len() });
            self.send_after = position;
            return Ok(Some(batch));
        }
        Ok(None)
    }

    /// Reads the name of a batch of the outbox, and checks that it is the one that goes next.
    fn name_to_push(&self, position: OutboxPosition, batch: &[u8]) -> Result<BatchName, SessionError> {
        // spec: S-10
        if position <= self.send_after {
            return Err(SessionError::OutboxOutOfOrder);
        }
        let name = BatchName::read(batch).map_err(SessionError::OutboxDamaged)?;
        match self.needed.get(&name.replica).copied() {
            Some(wanted) if name.first_counter > wanted => {
                Err(SessionError::OutboxGap { replica: name.replica, wanted, have: name.first_counter })
            }
            _ => Ok(name),
        }
    }

    fn on_welcome(&mut self, now: Millis, welcome: Welcome) {
        let Some(peer) = &mut self.peer else { return };
        // spec: S-3
        let asked = &peer.hello.replicas;
        if welcome.protocol != PROTOCOL_VERSION {
            return self.misbehaved(now, PeerMisbehaved::Protocol { given: welcome.protocol });
        }
        if welcome.counters.len() != asked.len() || !welcome.counters.iter().map(|(replica, _)| replica).eq(asked) {
            let position = welcome.counters.iter().zip(asked).take_while(|((given, _), asked)| given == *asked).count();
            return self.misbehaved(now, PeerMisbehaved::WelcomeReplicas { position });
        }
        if welcome.floor > welcome.head {
            return self.misbehaved(now, PeerMisbehaved::WelcomeFloor { floor: welcome.floor, head: welcome.head });
        }
        // spec: S-2
        let refusal = match peer.hello.space {
            Some(space) if space != welcome.space => {
                Some((ErrorCode::SpaceMismatch, "the relay serves another space than the file is bound to"))
            }
            Some(_) if peer.hello.epoch != welcome.epoch => {
                Some((ErrorCode::EpochMismatch, "the relay began a new epoch of this space"))
            }
            _ if peer.cursor > welcome.head => {
                Some((ErrorCode::CursorAhead, "the relay has forgotten entries that the file has applied"))
            }
            _ if peer.cursor < welcome.floor => {
                Some((ErrorCode::Unsupported, "the relay has dropped entries that the file has not applied"))
            }
            _ => None,
        };
        if let Some((code, text)) = refusal {
            return self.reject(ErrorFrame::fatal(code, text));
        }
        peer.space = welcome.space;
        peer.epoch = welcome.epoch;
        peer.head = welcome.head;
        peer.reads = welcome.reads;
        self.known = welcome.counters.iter().copied().collect();
        self.welcome_handed = false;
        self.enter(SessionState::Preparing);
        self.emit(Event::Welcome(welcome));
    }

    fn on_entry(&mut self, now: Millis, envelope: Envelope, batch: Batch) {
        let Some(last_seq) = self.accept(now, &envelope) else {
            return;
        };
        // spec: S-8
        if !describes(&envelope, &batch) {
            return self.misbehaved(now, PeerMisbehaved::EnvelopeMismatch { first: envelope.first_seq });
        }
        // spec: S-7
        let space = batch.head().space;
        if self.peer.as_ref().is_some_and(|peer| peer.space != space) {
            return self.misbehaved(now, PeerMisbehaved::EntrySpace { given: space });
        }
        // A batch of this file that an earlier connection pushed, or that the relay chose to send whole.
        self.note_answered(&envelope);
        self.advance(last_seq);
        self.emit(Event::Entry { envelope, batch });
    }

    fn on_ack(&mut self, now: Millis, envelope: Envelope) {
        // spec: S-9
        if envelope.first_seq == 0 {
            self.note_answered(&envelope);
            return;
        }
        let Some(last_seq) = self.accept(now, &envelope) else {
            return;
        };
        if !self.note_answered(&envelope) {
            let (replica, first_counter) = (envelope.replica, envelope.first_counter);
            return self.misbehaved(now, PeerMisbehaved::AckUnasked { replica, first_counter });
        }
        self.advance(last_seq);
        self.emit(Event::Ack(envelope));
    }

    /// Checks that an entry is the next of the stream; returns its last sequence. A duplicate is dropped in silence.
    fn accept(&mut self, now: Millis, envelope: &Envelope) -> Option<u64> {
        let peer = self.peer.as_ref()?;
        let (epoch, cursor, first) = (peer.epoch, peer.cursor, envelope.first_seq);
        let last = first.checked_add(u64::from(envelope.n).saturating_sub(1));
        let fault = match last {
            // spec: S-7
            _ if envelope.epoch != epoch => PeerMisbehaved::EntryEpoch { wanted: epoch, given: envelope.epoch },
            // spec: S-8
            _ if first == 0 => PeerMisbehaved::EntryUnnumbered,
            None => PeerMisbehaved::EnvelopeMismatch { first },
            // spec: S-5
            Some(last) if last <= cursor => return None,
            // spec: S-6
            Some(last) if first <= cursor => PeerMisbehaved::SequenceOverlap { cursor, first, last },
            // spec: S-4
            Some(_) if first > cursor + 1 => PeerMisbehaved::SequenceGap { wanted: cursor + 1, given: first },
            Some(last) => return Some(last),
        };
        self.misbehaved(now, fault);
        None
    }

    /// Moves the cursor over an accepted entry.
    fn advance(&mut self, last_seq: u64) {
        if let Some(peer) = &mut self.peer {
            peer.cursor = last_seq;
            peer.head = peer.head.max(last_seq);
        }
        self.progressed = true;
    }

    /// Frees the window of what `envelope` answers and remembers that the relay has it; returns whether it was on its way.
    fn note_answered(&mut self, envelope: &Envelope) -> bool {
        let name = BatchName { replica: envelope.replica, first_counter: envelope.first_counter };
        let last_counter = envelope.first_counter.saturating_add(u64::from(envelope.n).saturating_sub(1));
        if let Some(known) = self.known.get_mut(&envelope.replica) {
            *known = last_counter.max(*known);
            // What was missing came by another way: swapped on the line, or from a copy of this file.
            if self.needed.get(&envelope.replica).is_some_and(|wanted| *wanted <= last_counter) {
                self.needed.remove(&envelope.replica);
            }
        }
        self.window.take(name, last_counter).is_some()
    }

    fn on_error(&mut self, now: Millis, error: ErrorFrame) {
        // spec: S-17
        if error.fatal {
            return self.reject(error);
        }
        match error.code {
            ErrorCode::NeedFrom(OpId { replica, counter }) if self.state.is_welcomed() => {
                self.on_need_from(now, replica, counter);
            }
            ErrorCode::Unsupported | ErrorCode::CursorAhead if self.state.is_welcomed() => {
                self.digests_due = self.digests_due.saturating_sub(1);
                self.digest = None;
                self.emit(Event::Unsupported(error));
            }
            _ => self.hang_up(now, DisconnectReason::Relay(error.code), error.retry_ms),
        }
    }

    /// spec: S-13: every batch that was pushed above the gap is answered by a NeedFrom of its own. A Ping is sent behind them;
    /// when its Pong is back those answers have been heard, and pushing goes back once instead of once for each.
    fn on_need_from(&mut self, now: Millis, replica: ReplicaId, counter: u64) {
        if self.known.get(&replica).is_some_and(|known| *known >= counter) {
            // The relay has said on this very connection that it has that operation. An answer that was doubled or held up on
            // the way looks like this; a relay that really lost something says so in its next Welcome.
            return self.misbehaved(now, PeerMisbehaved::NeedFromUnasked { replica, counter });
        }
        let taken = self.window.take_above(replica, counter);
        if self.rewinding.is_some() {
            // Another answer of the same gap, or of a gap of another replica.
        } else if taken {
            let nonce = self.next_nonce();
            self.rewinding = Some(nonce);
            self.out.ping = Some(nonce);
        } else {
            return self.misbehaved(now, PeerMisbehaved::NeedFromUnasked { replica, counter });
        }
        self.known.insert(replica, counter.saturating_sub(1));
        self.needed.insert(replica, counter);
    }

    /// Goes back to the start of the outbox; what the relay has or what is on its way is passed over on the way forward.
    ///
    /// What holds an operation that is still wanted did not arrive: otherwise its answer would be here before the Pong, or
    /// follow at once, and then the second push of it is a repeat without effect.
    fn rewind(&mut self) {
        for (replica, wanted) in &self.needed {
            self.window.take_from(*replica, *wanted);
        }
        self.rewinding = None;
        self.held = None;
        self.send_after = OutboxPosition::default();
        self.outbox_dry = false;
    }

    fn welcomed(&self) -> Option<&Peer> {
        self.peer.as_ref().filter(|_| self.state.is_welcomed())
    }

    fn next_nonce(&mut self) -> u64 {
        self.nonce += 1;
        self.nonce
    }

    fn unexpected(&mut self, now: Millis, kind: FrameKind) {
        self.misbehaved(now, PeerMisbehaved::UnexpectedFrame { kind, state: self.state });
    }

    fn misbehaved(&mut self, now: Millis, fault: PeerMisbehaved) {
        self.hang_up(now, DisconnectReason::Misbehaved(fault), 0);
    }

    /// A fault of this side. The gap is final, like a refusal; the others are retried with backoff and reported each time.
    fn fault(&mut self, now: Millis, error: SessionError) {
        if let SessionError::OutboxGap { replica, wanted, .. } = error {
            let code = ErrorCode::NeedFrom(OpId { replica, counter: wanted });
            return self.reject(ErrorFrame::fatal(code, "the relay lacks operations that it had acknowledged"));
        }
        self.hang_up(now, DisconnectReason::Session(error), 0);
    }

    fn hang_up(&mut self, now: Millis, reason: DisconnectReason, retry_ms: u64) {
        self.emit(Event::Disconnect { reason });
        self.back_off(now, retry_ms);
    }

    fn back_off(&mut self, now: Millis, retry_ms: u64) {
        let stable = self.state == SessionState::Live && now.saturating_sub(self.live_since) >= STABLE_AFTER_MS;
        if self.progressed || stable {
            self.backoff.reset();
        }
        self.forget_connection();
        self.retry_at = now.saturating_add(self.backoff.next(retry_ms));
        self.enter(SessionState::Backoff);
    }

    /// spec: S-17
    fn reject(&mut self, error: ErrorFrame) {
        self.forget_connection();
        self.emit(Event::Rejected(error));
        self.emit(Event::Disconnect { reason: DisconnectReason::Rejected });
        self.enter(SessionState::Rejected);
    }

    fn connect(&mut self) {
        self.enter(SessionState::Connecting);
        self.emit(Event::ConnectNow);
    }

    /// Drops what belongs to the connection. Entries that the driver may not have yet (it has not resumed) are dropped, too:
    /// they come again. Those of a live connection stay: they lie before the next ConnectNow, so the next Hello knows them.
    fn forget_connection(&mut self) {
        if self.state != SessionState::Live {
            let of_connection =
                |event: &Event| matches!(event, Event::Welcome(_) | Event::Entry { .. } | Event::Ack(_));
            self.events.retain(|event| !of_connection(event));
        }
        self.peer = None;
        self.window.clear();
        self.held = None;
        self.rewinding = None;
        self.progressed = false;
        self.out = Control::default();
    }

    fn enter(&mut self, state: SessionState) {
        self.state = state;
        self.emit(Event::StateChanged(state));
    }

    fn emit(&mut self, event: Event) {
        self.events.push_back(event);
    }
}

/// Turns batches of the outbox into columns; none if they cannot share them. What is damaged is left for the relay to refuse.
fn in_columns(batches: &[Bytes]) -> Option<Bytes> {
    let batches: Vec<Batch> = batches.iter().map(|bytes| Batch::decode(bytes.clone()).ok()).collect::<Option<_>>()?;
    Columns::encode(&batches).ok()
}

/// Compresses a frame in the best way that its reader knows.
fn compressed(frame: Bytes, reads: Reads) -> Bytes {
    match (reads.zstd, reads.lz4) {
        (true, _) => compress_frame(&frame, Codec::Zstd),
        (false, true) => compress_frame(&frame, Codec::Lz4),
        (false, false) => frame,
    }
}

/// spec: S-8: what decoding an Entry checked in full, once more for frames that were never bytes.
fn describes(envelope: &Envelope, batch: &Batch) -> bool {
    let head = batch.head();
    envelope.replica == head.replica
        && envelope.first_counter == head.first_counter
        && envelope.n as usize == batch.len()
}
