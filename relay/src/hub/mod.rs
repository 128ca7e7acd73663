//! The hub: who is connected, what has been said, what comes next.
//!
//! Pure: no I/O, no clock, no threads, no async; it builds without hyper and tokio. The shell tells it what happened
//! ([`Input`]) and does what it is told ([`Effect`]); the same inputs at the same times give the same effects.
//!
//! One space is one pipeline. A batch is admitted against the head as it will be once the appends in flight are in, so
//! that many connections can push without waiting for each other's sync, up to what the log does in a moment; its append names that head, and only when the
//! log says that it is durable does the entry move the durable head forward and out to the subscribers:
//!
//! ```text
//!   Frame(Push) -> admit -> Effect::Append ... Input::Appended -> Ack to the author, Entry to the others
//!                  head+n    (log, one sync)    durable+n          (one buffer, counted references)
//! ```
//!
//! A connection is a position in that stream. It is *live* when its position is the durable head: entries are queued for it
//! as they become durable. Otherwise it reads from the log, a slice at a time, until it has caught up; a slow one
//! falls back to that (lagging) and costs nobody else anything. Whatever it is owed besides entries (acks of batches known
//! already, digests) is kept until its position has passed the number it speaks about.
//!
//! Invariants: H1 nothing leaves before it is durable; H2 a connection's position never exceeds the durable head; H3 the
//! entries sent on a connection are contiguous from its Hello's cursor; H4 what is held for a connection is at most
//! [`HubLimits`] plus one entry; H5 an error of one connection ends at most that connection; H6 no effect waits for the
//! materialiser. Read [`Hub::handle`] first.

mod account;
mod conn;
mod io;
mod push;
mod received;
mod space;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blazedb_wire::{
    DecodeError, DecodeErrorKind, ErrorCode, ErrorFrame, Frame, FrameKind, Hello, PROTOCOL_VERSION, Reads, SpaceId,
    Welcome,
};

use crate::log::SpaceInfo;

use account::Accounts;
use conn::{Conn, Deciding, Phase, Wait, Waiting};
use space::{Slot, Space};

pub use io::{Access, ConnId, Effect, HubLimits, HubStats, Input, Now, Origin, Shares, SpaceDigest, Unavailable};
pub use received::{Received, is_slow};

/// Every connection and space of one relay.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    accounts: Accounts,
    conns: BTreeMap<ConnId, Conn>,
    slots: BTreeMap<Arc<str>, Slot>,
    names: BTreeMap<SpaceId, Arc<str>>,
    /// Connections whose clients have closed their direction and are still answered.
    finishing: BTreeMap<Arc<str>, BTreeSet<ConnId>>,
    next_append: u64,
    closing: bool,
    stats: HubStats,
}

impl Hub {
    /// Returns a hub that knows nobody.
    pub fn new(limits: HubLimits) -> Self {
        Self {
            limits,
            accounts: Accounts::default(),
            conns: BTreeMap::new(),
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
            finishing: BTreeMap::new(),
            next_append: 1,
            closing: false,
            stats: HubStats::default(),
        }
    }

    /// Returns the counts.
    pub fn stats(&self) -> HubStats {
        HubStats {
            connections: self.conns.len(),
            spaces: self.slots.len(),
            appends_inflight: self.slots.values().map(Slot::inflight).sum(),
            ..self.stats
        }
    }

    /// Returns whether the hub was told to shut down and nobody is left.
    pub fn is_finished(&self) -> bool {
        self.closing && self.conns.is_empty() && self.slots.values().all(|slot| slot.inflight() == 0)
    }

    /// Returns whether what was pushed from there leaves room for more; if not, frames wait with whoever brings them.
    pub fn takes(&self, origin: Origin) -> bool {
        self.accounts.has_room(origin, self.limits.pushed)
    }

    /// Returns whether it is worth the while to let a connection go on ([`Effect::GoOn`]): while the log has much to do for its
    /// space, batches for it wait for their turn.
    pub fn may_go_on(&self, conn: ConnId) -> bool {
        let slot = self.conns.get(&conn).and_then(|state| self.slots.get(&state.access.space));
        !matches!(slot, Some(Slot::Open(space)) if !space.has_room(self.limits.space_bytes_max))
    }

    /// Takes one input and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        let concerned = self.concerned(&input);
        match input {
            Input::Connected { conn, access, origin } => self.handle_connected(now, conn, (access, origin), out),
            Input::Frame { conn, frame } => self.handle_received(now, conn, frame, out),
            Input::GoOn { conn } => {
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.goes_on = false;
                    self.drain(now, conn, out);
                }
            }
            Input::Sent { conn, bytes } => {
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.account.unqueue(bytes);
                    if state.finished {
                        // It has no other way left to say that it is there.
                        state.heard_ms = now.mono_ms;
                    }
                    self.advance(conn, out);
                }
            }
            Input::Finished { conn } => {
                if let Some(state) = self.conns.get_mut(&conn) {
                    state.finished = true;
                    self.finishing.entry(state.access.space.clone()).or_default().insert(conn);
                }
            }
            Input::Disconnected { conn } => self.forget(now, conn),
            Input::SpaceOpened { name, result } => self.handle_space_opened(now, &name, result, out),
            Input::Appended { space, append, result } => self.handle_appended(now, space, append, result, out),
            Input::LogRead { conn, result } => self.handle_log_read(now, conn, result, out),
            Input::DigestsFound { conn, replica, first, result } => {
                self.handle_digests_found(now, conn, (replica, first), result, out);
            }
            Input::DigestReady { conn, digest } => self.handle_digest_ready(conn, digest, out),
            Input::Tick => self.handle_tick(now, out),
            Input::Shutdown => {
                self.closing = true;
                self.finish_closing(now, out);
            }
        }
        match concerned {
            _ if self.finishing.is_empty() => {}
            Concerned::Nobody => {}
            Concerned::One(conn) => self.end_if_answered(now, conn, out),
            Concerned::Space(name) => {
                for conn in self.finishing.get(&name).cloned().unwrap_or_default() {
                    self.end_if_answered(now, conn, out);
                }
            }
        }
    }

    fn concerned(&self, input: &Input) -> Concerned {
        match input {
            Input::Sent { conn, .. }
            | Input::Finished { conn }
            | Input::GoOn { conn }
            | Input::LogRead { conn, .. }
            | Input::DigestsFound { conn, .. }
            | Input::DigestReady { conn, .. } => Concerned::One(*conn),
            Input::SpaceOpened { name, .. } => Concerned::Space(name.clone()),
            Input::Appended { space, .. } => self.names.get(space).cloned().map_or(Concerned::Nobody, Concerned::Space),
            Input::Connected { .. }
            | Input::Frame { .. }
            | Input::Disconnected { .. }
            | Input::Tick
            | Input::Shutdown => Concerned::Nobody,
        }
    }

    /// Ends a connection that says nothing more once it has the answers to what it said and the stream up to there.
    fn end_if_answered(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get(&conn) else { return };
        if !state.finished || !state.is_decided() {
            return;
        }
        if state.phase == Phase::BeforeHello {
            return self.close(now, conn, None, out);
        }
        let Some((state, space)) = streaming(&mut self.conns, &mut self.slots, conn) else { return };
        // What was in flight may have been given up since, and the head with it.
        let head = space.state.head();
        let wanted = if state.said_bye { state.pushed_to } else { head };
        let until = head.min(*state.until.get_or_insert(wanted));
        if state.position >= until && state.owed_bytes == 0 && !state.digest_wanted {
            self.close(now, conn, None, out);
        }
    }

    /// A client that leaves: what it pushed is still answered, and what follows its goodbye is not looked at (spec: G-10).
    fn handle_bye(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.leave();
        self.finishing.entry(state.access.space.clone()).or_default().insert(conn);
        self.end_if_answered(now, conn, out);
    }

    // ---- connections ----

    fn handle_connected(&mut self, now: Now, conn: ConnId, (access, origin): (Access, Origin), out: &mut Vec<Effect>) {
        let account = self.accounts.open(origin);
        self.conns.insert(conn, Conn::new(access, account, now.mono_ms));
        if self.closing {
            self.close(now, conn, Some(self.shutting_down()), out);
        }
    }

    fn handle_received(&mut self, now: Now, conn: ConnId, frame: Received, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get_mut(&conn).filter(|state| !state.said_bye) else { return };
        state.heard_ms = now.mono_ms;
        state.inflight_bytes += frame.length;
        if state.inflight_bytes > self.limits.inflight_bytes_max {
            return self.too_much_pushed(now, conn, out);
        }
        let hold = state.account.hold(frame.memory);
        state.waiting.push_back(Waiting::Frame(frame, hold));
        self.drain(now, conn, out);
    }

    fn too_much_pushed(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let text = "more was pushed than the relay takes at once: wait for acks";
        self.close(now, conn, Some(error(ErrorCode::Overloaded, self.limits.retry_ms, text)), out);
    }

    /// Handles the frames that wait on a connection until one of them has to wait for something, or it is the turn of others.
    fn drain(&mut self, now: Now, conn: ConnId, out: &mut Vec<Effect>) {
        let mut ops = 0;
        while let Some(state) = self.conns.get_mut(&conn) {
            if state.wait != Wait::Nothing || state.goes_on {
                return;
            }
            let full = state.deciding.is_some() && !self.may_go_on(conn);
            let Some(state) = self.conns.get_mut(&conn) else { return };
            if full || (ops >= self.limits.turn_ops_max && !state.is_decided()) {
                state.goes_on = true;
                return out.push(Effect::GoOn { conn });
            }
            if let Some(deciding) = &state.deciding {
                ops += deciding.batch.len();
                self.decide(now, conn, out);
                continue;
            }
            let Some(waiting) = state.waiting.pop_front() else { return };
            let length = waiting.len();
            // Before the Hello only the header says what it is, whatever is in the body.
            if state.phase == Phase::BeforeHello
                && let Waiting::Frame(Received { kind: Some(kind), .. }, _) = &waiting
                && !matches!(kind, FrameKind::Hello | FrameKind::Bye | FrameKind::Error)
            {
                return self.close(now, conn, Some(no_hello()), out);
            }
            let (frame, hold) = match waiting {
                Waiting::Frame(received, hold) => (received.frame, hold),
                Waiting::Batch(batch, hold) => (Ok(Frame::Push(batch)), hold),
            };
            match frame {
                Ok(Frame::Pushes(batches)) if state.phase == Phase::Streaming => {
                    // From here on they count as if they had come one by one (spec: F-23).
                    for batch in batches.into_iter().rev() {
                        let hold = state.account.hold(received::memory_of(&batch));
                        state.waiting.push_front(Waiting::Batch(batch, hold));
                    }
                }
                Ok(Frame::Push(batch)) if state.phase == Phase::Streaming => {
                    // Its bytes stay in the ledger until the batch is durable or refused.
                    state.deciding = Some(Deciding { batch, length, found: BTreeMap::new(), hold });
                }
                Ok(frame) => {
                    state.inflight_bytes -= length;
                    self.handle_frame(now, conn, frame, out);
                }
                Err(cause) => {
                    state.inflight_bytes -= length;
                    self.handle_rubbish(now, conn, &cause, out);
                }
            }
        }
    }

    fn handle_frame(&mut self, now: Now, conn: ConnId, frame: Frame, out: &mut Vec<Effect>) {
        let streaming = self.conns.get(&conn).is_some_and(|state| state.phase == Phase::Streaming);
        match frame {
            Frame::Hello(hello) if !streaming => self.handle_hello(now, conn, hello, out),
            Frame::Hello(_) => {
                self.close(now, conn, Some(fatal(ErrorCode::Malformed, "a second Hello on one stream")), out);
            }
            Frame::Bye => self.handle_bye(now, conn, out),
            // A client that reports an error is about to go; there is nothing to say back.
            Frame::Error(_) => self.close(now, conn, None, out),
            _ if !streaming => {
                self.close(now, conn, Some(no_hello()), out);
            }
            Frame::Ping(nonce) => self.answer(now, conn, &Frame::Pong(nonce), out),
            Frame::Pong(_) => {}
            Frame::DigestRequest { min_seq } => self.handle_digest_request(now, conn, min_seq, out),
            Frame::Push(_) | Frame::Pushes(_) => unreachable!("pushes of a stream are decided in drain"),
            Frame::Welcome(_) | Frame::Ack(_) | Frame::Entry { .. } | Frame::Entries(_) | Frame::Digest { .. } => {
                self.close(now, conn, Some(fatal(ErrorCode::Malformed, "a frame that only a relay sends")), out);
            }
        }
    }

    fn handle_rubbish(&mut self, now: Now, conn: ConnId, cause: &DecodeError, out: &mut Vec<Effect>) {
        let text = format!("the message cannot be read: {cause}");
        match cause.kind {
            DecodeErrorKind::UnknownKind { .. } => {
                let frame = Frame::Error(error(ErrorCode::Unsupported, 0, &text));
                self.answer(now, conn, &frame, out);
            }
            DecodeErrorKind::Limit { .. } => self.close(now, conn, Some(fatal(ErrorCode::TooLarge, &text)), out),
            _ => self.close(now, conn, Some(fatal(ErrorCode::Malformed, &text)), out),
        }
    }

    fn handle_hello(&mut self, now: Now, conn: ConnId, hello: Hello, out: &mut Vec<Effect>) {
        let Some(state) = self.conns.get_mut(&conn) else { return };
        let name = state.access.space.clone();
        state.wait = Wait::Space;
        state.hello = Some(hello);
        let open = self.slots.len();
        match self.slots.get_mut(&name) {
            Some(Slot::Opening { conns }) => {
                conns.insert(conn);
            }
            Some(Slot::Open(space)) => {
                space.conns.insert(conn);
                self.welcome(now, conn, &name, out);
                self.drain(now, conn, out);
            }
            None if open >= self.limits.spaces_max => {
                let error = error(ErrorCode::Overloaded, self.limits.retry_full_ms, "too many spaces are open");
                self.close(now, conn, Some(error), out);
            }
            None => {
                self.slots.insert(name.clone(), Slot::Opening { conns: BTreeSet::from([conn]) });
                out.push(Effect::OpenSpace { name });
            }
        }
    }

    fn handle_space_opened(
        &mut self,
        now: Now,
        name: &Arc<str>,
        result: Result<SpaceInfo, Unavailable>,
        out: &mut Vec<Effect>,
    ) {
        let Some(Slot::Opening { conns }) = self.slots.get_mut(name) else { return };
        let conns = std::mem::take(conns);
        match result {
            Ok(info) => {
                self.names.insert(info.id, name.clone());
                out.push(Effect::Materialize { space: info.id, epoch: info.epoch, head: info.head });
                self.slots.insert(name.clone(), Slot::Open(Box::new(Space::new(info, conns.clone()))));
                for conn in conns {
                    self.welcome(now, conn, name, out);
                    self.drain(now, conn, out);
                }
            }
            Err(Unavailable) => {
                self.slots.remove(name);
                let error = error(ErrorCode::Internal, self.limits.retry_ms, "the relay cannot read this space");
                for conn in conns {
                    self.close(now, conn, Some(error.clone()), out);
                }
            }
        }
        self.finish_closing(now, out);
    }

    /// Answers the Hello of a connection whose space is open, or lets one go on whose space was read again.
    fn welcome(&mut self, now: Now, conn: ConnId, name: &Arc<str>, out: &mut Vec<Effect>) {
        let Some(Slot::Open(space)) = self.slots.get(name) else { return };
        let Some(state) = self.conns.get_mut(&conn) else { return };
        state.wait = Wait::Nothing;
        let Some(hello) = state.hello.take() else {
            // It was streaming before the space was read again: only its position matters, and that has not moved.
            return self.advance(conn, out);
        };
        let refusal = if hello.protocol != PROTOCOL_VERSION {
            let text = format!(
                "the client speaks protocol {}, this relay {PROTOCOL_VERSION}: update the older one",
                hello.protocol
            );
            Some(fatal(ErrorCode::Unsupported, &text))
        } else if hello.space.is_some_and(|given| given != space.state.id()) {
            let here = space.state.id();
            let text =
                format!("the file belongs to another space than this token ({here}): use the token of its own space");
            Some(fatal(ErrorCode::SpaceMismatch, &text))
        } else if hello.space.is_some() && hello.epoch != space.state.epoch() {
            let text = format!(
                "the file is in epoch {}, the space in {}: start this copy again",
                hello.epoch,
                space.state.epoch()
            );
            Some(fatal(ErrorCode::EpochMismatch, &text))
        } else if hello.cursor > space.durable {
            let text = format!(
                "this copy has seen operation {}, the relay has {}: the relay was restored from an older state",
                hello.cursor, space.durable
            );
            Some(fatal(ErrorCode::CursorAhead, &text))
        } else if hello.cursor < space.state.floor() {
            Some(fatal(
                ErrorCode::Unsupported,
                "the log no longer reaches back to this copy's cursor: start this copy again",
            ))
        } else {
            None
        };
        if let Some(error) = refusal {
            return self.close(now, conn, Some(error), out);
        }
        state.phase = Phase::Streaming;
        state.position = hello.cursor;
        state.reads = hello.reads;
        let welcome = Welcome {
            protocol: PROTOCOL_VERSION,
            space: space.state.id(),
            epoch: space.state.epoch(),
            head: space.durable,
            floor: space.state.floor(),
            relay_ms: space.state.relay_ms(now.admit_time()),
            clock_trusted: now.clock_trusted,
            reads: Reads::ALL,
            counters: hello.replicas.iter().map(|replica| (*replica, space.durable_counter(*replica))).collect(),
        };
        self.answer(now, conn, &Frame::Welcome(welcome), out);
        self.advance(conn, out);
    }

    // ---- time and end ----

    fn handle_tick(&mut self, now: Now, out: &mut Vec<Effect>) {
        let late: Vec<(ConnId, ErrorFrame)> = self
            .conns
            .iter()
            .filter_map(|(conn, state)| {
                let silent_ms = now.mono_ms.saturating_sub(state.heard_ms);
                if state.phase == Phase::BeforeHello && state.hello.is_none() && silent_ms > self.limits.hello_ms_max {
                    Some((*conn, error(ErrorCode::Malformed, self.limits.retry_ms, "no Hello came in time")))
                } else if silent_ms > self.limits.silence_ms_max {
                    Some((*conn, error(ErrorCode::Overloaded, self.limits.retry_ms, "nothing was heard for too long")))
                } else {
                    None
                }
            })
            .collect();
        for (conn, error) in late {
            self.close(now, conn, Some(error), out);
        }
        self.accounts.tidy();
        let idle_ms = self.limits.space_idle_ms;
        let names = &mut self.names;
        self.slots.retain(|_, slot| {
            let Slot::Open(space) = slot else { return true };
            let keep = !space.is_idle() || now.mono_ms.saturating_sub(space.left_ms) < idle_ms;
            if !keep {
                names.remove(&space.state.id());
            }
            keep
        });
        self.finish_closing(now, out);
    }

    /// Sends everybody away once nothing is in flight any more.
    fn finish_closing(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.closing || self.slots.values().any(|slot| slot.inflight() > 0) {
            return;
        }
        let conns: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close(now, conn, Some(self.shutting_down()), out);
        }
    }

    fn close(&mut self, now: Now, conn: ConnId, error: Option<ErrorFrame>, out: &mut Vec<Effect>) {
        if self.conns.contains_key(&conn) {
            self.forget(now, conn);
            out.push(Effect::Close { conn, error });
        }
    }

    fn forget(&mut self, now: Now, conn: ConnId) {
        let Some(state) = self.conns.remove(&conn) else { return };
        if let Some(finishing) = self.finishing.get_mut(&state.access.space) {
            finishing.remove(&conn);
            if finishing.is_empty() {
                self.finishing.remove(&state.access.space);
            }
        }
        match self.slots.get_mut(&state.access.space) {
            Some(Slot::Opening { conns }) => {
                conns.remove(&conn);
            }
            Some(Slot::Open(space)) => {
                space.conns.remove(&conn);
                space.left_ms = now.mono_ms;
            }
            None => {}
        }
    }

    fn shutting_down(&self) -> ErrorFrame {
        error(ErrorCode::ShuttingDown, self.limits.retry_ms, "the relay is going down and will be back")
    }
}

/// Whose answers may be complete with an input.
enum Concerned {
    Nobody,
    One(ConnId),
    /// Those of this space.
    Space(Arc<str>),
}

/// A connection after its Welcome, and its space, unless that is being read (again).
fn streaming<'a>(
    conns: &'a mut BTreeMap<ConnId, Conn>,
    slots: &'a mut BTreeMap<Arc<str>, Slot>,
    conn: ConnId,
) -> Option<(&'a mut Conn, &'a mut Space)> {
    let state = conns.get_mut(&conn)?;
    if state.phase != Phase::Streaming {
        return None;
    }
    match slots.get_mut(&state.access.space)? {
        Slot::Open(space) => Some((state, space)),
        Slot::Opening { .. } => None,
    }
}

/// An error that ends the stream and that a retry does not cure.
fn fatal(code: ErrorCode, text: &str) -> ErrorFrame {
    ErrorFrame::fatal(code, text)
}

fn no_hello() -> ErrorFrame {
    fatal(ErrorCode::Malformed, "the first frame of a stream is Hello")
}

/// An error after which the client may come back, or go on where the stream stays open.
fn error(code: ErrorCode, retry_ms: u64, text: &str) -> ErrorFrame {
    ErrorFrame { retry_ms, ..ErrorFrame::new(code, text) }
}
