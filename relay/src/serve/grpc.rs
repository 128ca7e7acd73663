//! The one method: `/blaze.v1.Relay/Sync`, a stream of frames each way (spec: G-1, G-8, G-10).
//!
//! ```text
//!            token          Gate::connect
//!   request ------> grant ---------------> seat
//!                                           |-- pump (a task): body -> messages -> Gate::frame
//!                                           '-- SyncBody (polled by hyper): outbound -> packed messages
//! ```
//!
//! Whichever ends first ends the other: hyper drops the body when the stream is reset or the connection is lost, which
//! stops the pump; the pump tells the body how the call ends. The seat is given back once, by whoever is first.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{Code, Encoding, MessageBuf, MessageDecoder, Packer, Status, Travelled, parse_timeout};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::connection::{Activity, Running, Shared};
use super::web::Source;
use super::{ConnId, Gate, GateConnection, Held, Message, Outbound, Peer};
use crate::limits::STREAM_AGE_MAX;
use crate::token::{Grant, LEEWAY_S, Verifier, unix_now};

/// A place in the gate. Given back exactly once, at the latest when dropped.
pub(super) struct Seat<G: Gate> {
    gate: G,
    id: ConnId,
    left: AtomicBool,
    _alive: mpsc::Sender<()>,
}

impl<G: Gate> Seat<G> {
    /// Hands the gate one message; false if it takes no more.
    pub(super) async fn frame(&self, message: Message) -> Result<bool, Status> {
        self.gate.frame(self.id, message).await
    }

    /// Says that this many bytes of frames are on their way.
    pub(super) fn sent(&self, bytes: usize) {
        self.gate.sent(self.id, bytes);
    }

    /// Says that the client has closed its direction; true if the gate ends the stream itself.
    fn finished(&self) -> bool {
        self.gate.finished(self.id)
    }

    /// Gives the place back, if it has not been.
    pub(super) fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.gate.disconnect(self.id);
        }
    }
}

impl<G: Gate> Drop for Seat<G> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How the pump says that the call ends.
enum End {
    /// At once, whatever is still queued.
    Now(Status),
    /// After what the gate still sends; its own `Close` wins.
    Drained(Status),
}

/// Opens a stream, or says why not. Nothing of the body has been read then. The stream takes `running` along.
pub(super) async fn sync<G: Gate>(
    shared: &Arc<Shared<G>>,
    headers: &HeaderMap,
    source: Source,
    running: &mut Option<Running>,
) -> Result<SyncBody<G>, Status> {
    let activity = running.as_ref().expect("nobody else takes it");
    let waiting = Waiting::default();
    let (grant, deadlines) = admit(shared, headers, activity, Arc::clone(&waiting))?;
    let encoding = Encoding::of(encoding_field(headers))?;
    let peer = Arc::clone(&activity.activity().peer);
    let (seat, outbound) = take_seat(shared, grant, &peer).await?;
    let seat = Arc::new(seat);
    let (end_tx, end) = oneshot::channel();
    let decoder = encoding.decoder(shared.limits.message_bytes_max);
    let pump = Pump { seat: Arc::clone(&seat), source, decoder, held: Held::new(&peer) };
    let task = tokio::spawn(run_pump(pump, deadlines, Arc::clone(&seat), end_tx));
    Ok(SyncBody {
        outbound,
        seat,
        end: Some(end),
        after_drain: gone(),
        packer: Packer::new(),
        handed: 0,
        waiting,
        closing: None,
        done: false,
        pump: task.abort_handle(),
        running: running.take().expect("nobody else takes it"),
    })
}

/// Checks the token of a call and says when the call ends at the latest. From here on the connection is a member's.
pub(super) fn admit<G: Gate>(
    shared: &Arc<Shared<G>>,
    headers: &HeaderMap,
    running: &Running,
    waiting: Waiting,
) -> Result<(Grant, Deadlines), Status> {
    let now_unix = unix_now();
    let grant = authorize(&shared.verifier, headers, now_unix)?;
    let activity = Arc::clone(running.activity());
    activity.known.store(true, Ordering::Release);
    let now = Instant::now();
    let token_left = Duration::from_secs(grant.expires_unix.saturating_add(LEEWAY_S).saturating_sub(now_unix));
    let deadlines = Deadlines::new(shared, headers, activity, waiting, now + token_left.min(STREAM_AGE_MAX))?;
    Ok((grant, deadlines))
}

/// Returns the request's `grpc-encoding`, if it has one.
pub(super) fn encoding_field(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("grpc-encoding").map(HeaderValue::as_bytes)
}

/// Returns the request's `grpc-timeout`, if it has one (spec: G-7); what is over before it began ends the call here, as an
/// answer could be faster than a timer.
pub(super) fn call_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    match parse_timeout(value.as_bytes()) {
        Some(Duration::ZERO) => Err(Status::new(Code::DeadlineExceeded, "grpc-timeout is over")),
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Status::new(Code::Internal, "grpc-timeout is misshapen")),
    }
}

/// Asks the gate in a task of its own: if the client goes away meanwhile, the answer, and with it the seat, is
/// dropped, and so given back.
pub(super) async fn take_seat<G: Gate>(
    shared: &Arc<Shared<G>>,
    grant: Grant,
    peer: &Arc<Peer>,
) -> Result<(Seat<G>, mpsc::Receiver<Outbound>), Status> {
    let gate = shared.gate.clone();
    let alive = shared.seat_alive.clone();
    let peer = Arc::clone(peer);
    let asked = tokio::spawn(async move {
        let GateConnection { id, outbound } = gate.connect(grant, &peer).await?;
        Ok((Seat { gate, id, left: AtomicBool::new(false), _alive: alive }, outbound))
    });
    match asked.await {
        Ok(Ok(granted)) => Ok(granted),
        Ok(Err(refusal)) => Err(super::Refusal::into(refusal)),
        Err(_) => Err(Status::new(Code::Internal, "the relay failed to open the stream; try again")),
    }
}

fn authorize(verifier: &Verifier, headers: &HeaderMap, now_unix: u64) -> Result<Grant, Status> {
    let refused = |text: &str| Status::new(Code::Unauthenticated, text);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Err(refused("a token is needed: `authorization: Bearer TOKEN`; issue one with `blazedb token`"));
    };
    if values.next().is_some() {
        return Err(refused("more than one authorization header"));
    }
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        return Err(refused("the authorization header must be `Bearer TOKEN`"));
    };
    verifier.verify(token, now_unix).map_err(|error| refused(&error.to_string()))
}

/// Returns the trailers that end a call.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert("grpc-status", HeaderValue::from(u16::from(status.code.number())));
    if let Some(message) = status.message_value() {
        let message = HeaderValue::from_str(&message).expect("percent-encoded text is visible ASCII");
        headers.insert("grpc-message", message);
    }
    headers
}

struct Pump<G: Gate> {
    seat: Arc<Seat<G>>,
    source: Source,
    decoder: MessageDecoder,
    /// What the next message takes, from its beginning.
    held: Held,
}

impl<G: Gate> Pump<G> {
    /// Hands messages to the gate until the client, the gate or a broken rule ends it.
    async fn read(mut self) -> End {
        loop {
            let chunk = tokio::select! {
                biased;
                status = self.held.lost() => return End::Now(status),
                chunk = self.source.chunk() => chunk,
            };
            let chunk = match chunk {
                None => {
                    return match self.decoder.finish() {
                        Ok(()) => End::Drained(Status::ok()),
                        Err(status) => End::Now(status),
                    };
                }
                Some(Err(status)) => return End::Now(status),
                Some(Ok(chunk)) => chunk,
            };
            self.decoder.push(chunk);
            match self.hand_over().await {
                Ok(true) => {}
                Ok(false) => return End::Drained(gone()),
                Err(status) => return End::Now(status),
            }
        }
    }

    /// Hands over what has come whole; false if the gate takes no more.
    async fn hand_over(&mut self) -> Result<bool, Status> {
        while let Some(begun) = self.decoder.poll_begun()? {
            // What is whole here came as a frame of HTTP/2 at the most; the stream is not read on before there is room for all.
            if !begun.whole || begun.packed {
                self.held.expect(begun.bytes).await?;
            }
            if !begun.whole {
                return Ok(true);
            }
            self.held.whole()?;
            let fresh = Held::new(self.held.peer());
            let held = std::mem::replace(&mut self.held, fresh);
            let travelled = self.decoder.poll_travelled()?.expect("it is whole");
            let message =
                if begun.packed { inflate(travelled, held).await? } else { Message::owned(travelled.message()?, held) };
            if !self.seat.frame(message).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Inflates a message: four kilobytes may be four megabytes, and take as long as a thousand messages.
async fn inflate(travelled: Travelled, mut held: Held) -> Result<Message, Status> {
    loop {
        let turn = held.peer().turn().await;
        let travelled = travelled.clone();
        // It keeps its turn and its memory to its end, though its stream is gone before.
        let inflating = tokio::task::spawn_blocking(move || (travelled.message(), held, turn));
        let failed = |_| Status::new(Code::Internal, "the relay failed; reconnect");
        let (message, still_held, turn) = inflating.await.map_err(failed)?;
        held = still_held;
        let bytes = message?;
        let length = bytes.len();
        if held.inflated(length) {
            return Ok(Message { bytes, held });
        }
        // It is made again once there is room for it: to wait with it would take memory that nobody counts.
        drop((bytes, turn));
        held.room_inflated(length).await?;
    }
}

pub(super) fn gone() -> Status {
    Status::new(Code::Unavailable, "the relay closed this stream; reconnect")
}

/// When a call ends for a reason that is not in its bytes.
pub(super) struct Deadlines {
    expiry: Instant,
    at_expiry: (Code, &'static str),
    deadline: Option<Instant>,
    stall_max: Duration,
    close_max: Duration,
    waiting: Waiting,
    stop: tokio::sync::watch::Receiver<bool>,
    activity: Arc<Activity>,
}

impl Deadlines {
    fn new<G: Gate>(
        shared: &Arc<Shared<G>>,
        headers: &HeaderMap,
        activity: Arc<Activity>,
        waiting: Waiting,
        expiry: Instant,
    ) -> Result<Self, Status> {
        Ok(Self {
            expiry,
            at_expiry: (
                Code::Unauthenticated,
                "the token expired while the stream was open; issue another with `blazedb token` and reconnect",
            ),
            deadline: call_timeout(headers)?.map(|timeout| Instant::now() + timeout.min(STREAM_AGE_MAX)),
            stall_max: shared.limits.stall_max,
            close_max: shared.limits.close_max,
            stop: shared.stop.clone(),
            waiting,
            activity,
        })
    }

    /// Those of a call that needs no token: it ends when a watch would.
    pub(super) fn of_stranger<G: Gate>(
        shared: &Arc<Shared<G>>,
        headers: &HeaderMap,
        running: &Running,
        waiting: Waiting,
    ) -> Result<Self, Status> {
        let expiry = Instant::now() + shared.limits.watch_max;
        let deadlines = Self::new(shared, headers, Arc::clone(running.activity()), waiting, expiry)?;
        Ok(Self { at_expiry: (Code::Unavailable, "open for long enough; call again"), ..deadlines })
    }

    /// Cuts the connection if the client does not take the end of the call, for which HTTP/2 has no gentler way.
    pub(super) async fn cut_later(self) {
        tokio::time::sleep(self.close_max).await;
        self.activity.cut("the client takes nothing of an ended stream");
    }

    /// Returns where the call notes that something waits for its client.
    pub(super) fn waiting(&self) -> Waiting {
        Arc::clone(&self.waiting)
    }

    /// Returns when the call has to end.
    pub(super) async fn reached(&mut self) -> Status {
        let deadline = self.deadline;
        let timed_out = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let stalled = async {
            loop {
                let since = *self.waiting.lock();
                let due = since.unwrap_or_else(Instant::now) + self.stall_max;
                if due <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(due).await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(self.expiry) => Status::new(self.at_expiry.0, self.at_expiry.1),
            () = timed_out => Status::new(Code::DeadlineExceeded, "grpc-timeout is over"),
            () = stalled => Status::new(Code::ResourceExhausted, "the client takes nothing of this stream; reconnect"),
            _ = self.stop.wait_for(|stop| *stop) => {
                Status::new(Code::Unavailable, "the relay is shutting down; reconnect")
            }
        }
    }
}

async fn run_pump<G: Gate>(pump: Pump<G>, mut deadlines: Deadlines, seat: Arc<Seat<G>>, end: oneshot::Sender<End>) {
    let reading = async {
        let ended = pump.read().await;
        if matches!(&ended, End::Drained(status) if status.code == Code::Ok) && seat.finished() {
            // What was asked is still answered, and then the gate ends the stream (spec: G-10).
            std::future::pending::<()>().await;
        }
        ended
    };
    let ended = tokio::select! {
        biased;
        status = deadlines.reached() => End::Now(status),
        ended = reading => ended,
    };
    // Before the seat is left, by which the gate drops its end: the body asks for this then. It is gone if nobody listens, and
    // has also ended this task.
    let _ = end.send(ended);
    seat.leave();
    // hyper drops the body once the rest and the trailers are out, and that ends this task.
    deadlines.cut_later().await;
}

/// Since when a piece waits for the client to make room, if one does.
pub(super) type Waiting = Arc<Mutex<Option<Instant>>>;

/// What the relay sends, as hyper asks for it.
pub(super) struct SyncBody<G: Gate> {
    outbound: mpsc::Receiver<Outbound>,
    seat: Arc<Seat<G>>,
    end: Option<oneshot::Receiver<End>>,
    /// How the call ends once the gate has dropped its end of `outbound`.
    after_drain: Status,
    packer: Packer,
    /// Bytes of frames that hyper took last; given to HTTP/2 by the time it asks again.
    handed: usize,
    /// When that was.
    waiting: Waiting,
    /// How the call ends once the packer is empty.
    closing: Option<Status>,
    done: bool,
    pump: AbortHandle,
    running: Running,
}

impl<G: Gate> SyncBody<G> {
    /// Returns the next piece of the stream, then its trailers, then nothing.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<MessageBuf>>> {
        if self.handed > 0 {
            // hyper asks again only after HTTP/2 has taken the piece before.
            self.seat.sent(std::mem::take(&mut self.handed));
        }
        *self.waiting.lock() = None;
        if self.done {
            return Poll::Ready(None);
        }
        if let Some(status) = self.ended(cx) {
            return self.finish(&status);
        }
        while self.closing.is_none() && self.packer.wants_more() {
            match self.outbound.poll_recv(cx) {
                Poll::Ready(Some(Outbound::Frame(frame))) => {
                    if let Err(status) = self.packer.push(frame) {
                        tracing::error!(%status, "the gate made a frame over the limit");
                        self.closing = Some(Status::new(Code::Internal, "a frame over the limit"));
                    }
                }
                Poll::Ready(Some(Outbound::Close(status))) => self.closing = Some(status),
                Poll::Ready(None) => {
                    // Both may have come since the other was asked for.
                    if let Some(status) = self.ended(cx) {
                        return self.finish(&status);
                    }
                    self.closing = Some(self.after_drain.clone());
                }
                Poll::Pending => break,
            }
        }
        if let Some(piece) = self.packer.take() {
            self.handed = piece.message_bytes();
            *self.waiting.lock() = Some(Instant::now());
            return Poll::Ready(Some(Frame::data(piece)));
        }
        match self.closing.take() {
            Some(status) => self.finish(&status),
            None => Poll::Pending,
        }
    }

    /// Hears how the call ends, if the pump has said so; returns the status if that is now.
    fn ended(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let Poll::Ready(ended) = Pin::new(self.end.as_mut()?).poll(cx) else { return None };
        self.end = None;
        match ended {
            Ok(End::Drained(status)) => {
                self.after_drain = status;
                None
            }
            Ok(End::Now(status)) => Some(status),
            // The pump never ends without a word unless it panicked.
            Err(_) => Some(Status::new(Code::Internal, "the relay failed; reconnect")),
        }
    }

    fn finish(&mut self, status: &Status) -> Poll<Option<Frame<MessageBuf>>> {
        self.done = true;
        self.running.answered();
        self.seat.leave();
        Poll::Ready(Some(Frame::trailers(trailers(status))))
    }
}

impl<G: Gate> Drop for SyncBody<G> {
    fn drop(&mut self) {
        self.pump.abort();
        self.seat.leave();
    }
}

#[cfg(test)]
mod tests {
    use bytes::{Buf as _, Bytes};

    use super::*;
    use crate::serve::{Limits, Room};

    // spec: L-24
    #[test]
    fn what_is_inflated_keeps_its_turn_and_its_memory_when_its_stream_is_gone() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().max_blocking_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            let room = Room { address: 100_000, relay: 200_000 };
            let limits = Limits { free_bytes: 0, coming_bytes: room, inflated_bytes: room, ..Limits::default() };
            let (one, other) = Peer::pair(&limits);
            // The only thread that inflates is busy.
            let (go_on, busy) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || busy.recv().is_err());
            let mut held = Held::new(&one);
            held.expect(90_000).await.expect("room");
            let soon = Duration::from_millis(50);
            let inflating = inflate(travelled(&[7; 50_000]), held);
            assert!(tokio::time::timeout(soon, inflating).await.is_err(), "it waits for the thread");
            assert!(tokio::time::timeout(soon, other.turn()).await.is_err(), "it is still to be inflated");
            let mut next = Held::new(&other);
            assert!(tokio::time::timeout(soon, next.expect(20_000)).await.is_err(), "its memory is still taken");
            drop(go_on);
            assert!(busy.await.expect("no panic"));
            next.expect(90_000).await.expect("it is inflated, and nobody wants it");
            drop(next);
            // One that is wanted is what it was, and takes what it is.
            let mut held = Held::new(&one);
            held.expect(90_000).await.expect("room");
            let first = inflate(travelled(&[9; 50_000]), held).await.expect("it is right");
            assert_eq!(first.bytes, vec![9; 50_000]);
            let mut held = Held::new(&other);
            held.expect(90_000).await.expect("what travelled is counted no more");
            // The next one has no room, waits for it without its turn, and is made again.
            let mut waits = std::pin::pin!(inflate(travelled(&[8; 60_000]), held));
            assert!(tokio::time::timeout(soon, waits.as_mut()).await.is_err(), "there is room for 50,000");
            tokio::time::timeout(soon, one.turn()).await.expect("it has no turn while it waits");
            drop(first);
            let second =
                tokio::time::timeout(Duration::from_secs(5), waits).await.expect("in time").expect("it is right");
            assert_eq!(second.bytes, vec![8; 60_000]);
        });
    }

    fn travelled(bytes: &[u8]) -> Travelled {
        let mut decoder = Encoding::Gzip.decoder(bytes.len());
        decoder.push(message_of(bytes));
        decoder.poll_travelled().expect("it may be packed").expect("it is whole")
    }

    fn message_of(bytes: &[u8]) -> Bytes {
        let packed = Encoding::Gzip.deflate(bytes).expect("it gets smaller");
        let mut message = blazedb_wire::grpc::encode_packed(packed).expect("it is short");
        message.copy_to_bytes(message.remaining())
    }
}
