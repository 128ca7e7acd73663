//! The way into the hub: what the network side hands over is decoded here, before the hub hears of it.
//!
//! A frame that may take its time to decode does so in its connection's turn, one of an address and one of all at once, on a
//! thread beside the runtime's; a usual one where it came in. So one who sends 112 bytes that unfold into 65,528
//! operations keeps others of its address waiting, if they do the same, and nobody else. Read [`HubHandle`]'s `frame` first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blazedb_wire::grpc::{Code, Status};
use blazedb_wire::limits::FRAME_BODY_BYTES_MAX;
use bytes::Bytes;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::threads::Read;
use crate::hub::{Access, ConnId, HubLimits, Input, Origin, Received, is_slow};
use crate::limits::TURN_BYTES;
use crate::serve::{self, Decoding, Gate, GateConnection, Held, Limits, Outbound, Peer, Refusal};
use crate::token::Grant;

/// How long shutdown waits for appends in flight before it sends everybody away regardless.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The least frame: what bounds the number of frames by the bytes of the ledger.
const FRAME_BYTES_MIN: usize = blazedb_wire::HEADER_BYTES;

/// The way into the hub; cheap to clone.
#[derive(Clone, Debug)]
pub struct HubHandle {
    queue: UnboundedSender<Message>,
    decode_here_bytes_max: usize,
    next_conn: Arc<AtomicU64>,
    outbound_frames_max: usize,
    /// Why the log takes nothing more.
    log_over: Arc<watch::Sender<Option<String>>>,
}

pub(super) enum Message {
    Connect {
        conn: ConnId,
        access: Access,
        origin: Origin,
        outbound: Sender<Outbound>,
    },
    /// What a client says or does, to be heard when it is its turn.
    Said(ConnId, Said),
    /// What a thread or the transport answers.
    Input(Input),
    /// A read for a client that takes more than one turn.
    ReadOn(ConnId, Read),
    ShutDown {
        done: oneshot::Sender<()>,
    },
}

pub(super) enum Said {
    /// A frame; its place and its memory are given back once the hub has it in its own ledger.
    Frame(Box<Received>, OwnedSemaphorePermit, Held),
    Finished,
    Disconnected,
    /// Not the client but the hub, on its behalf.
    GoOn,
}

impl Said {
    /// What it costs to hear it.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame, ..) => frame.memory_bytes(),
            Self::Finished | Self::Disconnected => 0,
            Self::GoOn => TURN_BYTES,
        }
    }
}

impl HubHandle {
    /// Returns a handle and what it fills.
    pub(super) fn new(hub: &HubLimits, serving: &Limits) -> (Self, UnboundedReceiver<Message>) {
        let (queue, receiver) = unbounded_channel();
        let ledger_max = hub.queue_bytes_max + hub.read_bytes_max + hub.answer_bytes_max + 2 * FRAME_BODY_BYTES_MAX;
        let handle = Self {
            queue,
            decode_here_bytes_max: serving.decode_here_bytes_max,
            next_conn: Arc::new(AtomicU64::new(1)),
            outbound_frames_max: ledger_max / FRAME_BYTES_MIN,
            log_over: Arc::default(),
        };
        (handle, receiver)
    }

    /// Tells the hub what a thread or the transport answers.
    pub(super) fn input(&self, input: Input) -> bool {
        self.queue.send(Message::Input(input)).is_ok()
    }

    /// Says that the log takes nothing more, now or later.
    pub(super) fn log_is_over(&self, detail: &str) {
        self.log_over.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| detail.to_owned());
            first
        });
    }

    /// Returns why the log takes nothing more; not before that is so. The relay is of no use then until its log was opened
    /// again: whoever runs it ends it.
    pub async fn log_over(&self) -> String {
        let mut over = self.log_over.subscribe();
        let known = over.wait_for(Option::is_some).await.expect("this handle has a sender");
        known.clone().expect("it was waited for")
    }

    /// Says that a read has had its turn, and goes on in the next one.
    pub(super) fn read_on(&self, conn: ConnId, read: Read) {
        // Nobody to read for if the hub has ended.
        let _ = self.queue.send(Message::ReadOn(conn, read));
    }

    fn said(&self, id: serve::ConnId, said: Said) -> bool {
        self.queue.send(Message::Said(ConnId(id.0), said)).is_ok()
    }

    /// Lets what is in flight become durable, sends everybody away, and returns when nobody is left.
    pub async fn shut_down(&self) {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Message::ShutDown { done }).is_ok() {
            // Late or gone: the caller goes on with its own shutdown either way.
            let _ = tokio::time::timeout(SHUTDOWN_MAX, finished).await;
        }
    }
}

impl Gate for HubHandle {
    async fn connect(&self, grant: Grant, peer: &Arc<Peer>) -> Result<GateConnection, Refusal> {
        let conn = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let (outbound, receiver) = channel(self.outbound_frames_max);
        let access = Access { space: grant.space.into(), subject: grant.subject.into() };
        let origin = Origin { address: peer.address(), connection: peer.connection() };
        match self.queue.send(Message::Connect { conn, access, origin, outbound }) {
            Ok(()) => Ok(GateConnection { id: serve::ConnId(conn.0), outbound: receiver }),
            Err(_) => Err(Refusal::Unavailable("the relay is going down; reconnect".to_owned())),
        }
    }

    async fn frame(&self, id: serve::ConnId, message: serve::Message) -> Result<bool, Status> {
        let serve::Message { bytes, mut held } = message;
        let Some(place) = held.peer().place().await else { return Ok(false) };
        let slow = is_slow(&bytes, self.decode_here_bytes_max);
        let decoding = if slow { Decoding::InTurn } else { Decoding::Here };
        loop {
            let (frame, mut still_held) = decode(decoding, bytes.clone(), held).await?;
            let memory = frame.memory_bytes();
            if still_held.decoded(decoding, memory) {
                return Ok(self.said(id, Said::Frame(frame, place, still_held)));
            }
            // It is made again once there is room for it. To wait with it would take memory that nobody counts, and to wait in
            // turn the time of its neighbours.
            drop(frame);
            still_held.room(decoding, memory).await?;
            held = still_held;
        }
    }

    fn sent(&self, id: serve::ConnId, bytes: usize) {
        self.input(Input::Sent { conn: ConnId(id.0), bytes });
    }

    fn finished(&self, id: serve::ConnId) -> bool {
        self.said(id, Said::Finished)
    }

    fn disconnect(&self, id: serve::ConnId) {
        self.said(id, Said::Disconnected);
    }
}

/// Decodes a message where it came in, or on a thread of its own, so that the runtime's go on with everything else.
async fn decode(decoding: Decoding, bytes: Bytes, held: Held) -> Result<(Box<Received>, Held), Status> {
    if decoding == Decoding::Here {
        return Ok((Box::new(Received::decode(bytes)), held));
    }
    let turn = held.peer().turn().await;
    // It keeps its turn and its memory to its end, though its stream is gone before: who begins and resets streams has one
    // decoded at a time, too.
    let decoding = tokio::task::spawn_blocking(move || (Box::new(Received::decode(bytes)), held, turn));
    let (frame, held, _) =
        decoding.await.map_err(|_| Status::new(Code::Internal, "the relay failed; send it again"))?;
    Ok((frame, held))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use blazedb_wire::Frame;

    use super::*;
    use crate::serve::Room;

    // spec: L-23
    #[tokio::test(start_paused = true)]
    async fn so_many_frames_of_a_connection_wait_for_the_hub() {
        let limits = Limits::default();
        let (handle, mut queue) = HubHandle::new(&HubLimits::default(), &limits);
        let (one, other) = Peer::pair(&limits);
        let send = |peer: &Arc<Peer>| {
            let message = serve::Message { bytes: Frame::Ping(1).to_bytes(), held: Held::new(peer) };
            tokio::time::timeout(Duration::from_secs(1), handle.frame(serve::ConnId(1), message))
        };
        for n in 0..16 {
            assert_eq!(send(&one).await, Ok(Ok(true)), "{n}");
        }
        assert!(send(&one).await.is_err(), "and no more");
        assert_eq!(send(&other).await, Ok(Ok(true)), "another connection has places of its own");
        drop(queue.recv().await);
        assert_eq!(send(&one).await, Ok(Ok(true)), "the hub has taken one");
    }

    // spec: L-24
    #[tokio::test]
    async fn who_waits_for_room_has_no_turn() {
        let room = Room { address: 1 << 20, relay: 1 << 20 };
        let limits = Limits { decoded_in_turn_bytes: room, ..Limits::default() };
        let (handle, mut queue) = HubHandle::new(&HubLimits::default(), &limits);
        let (one, other) = Peer::pair(&limits);
        let mut fills = Held::new(&other);
        assert!(fills.decoded(Decoding::InTurn, 1 << 20));
        let bytes = vec![0; limits.decode_here_bytes_max + 1].into();
        let mut waits = pin!(handle.frame(serve::ConnId(1), serve::Message { bytes, held: Held::new(&one) }));
        let soon = Duration::from_millis(200);
        assert!(tokio::time::timeout(soon, waits.as_mut()).await.is_err(), "there is none");
        drop(tokio::time::timeout(soon, other.turn()).await.expect("a turn of its neighbour's"));
        drop(fills);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), waits).await, Ok(Ok(true)));
        assert!(queue.try_recv().is_ok(), "and it is heard");
    }

    // spec: L-24
    #[test]
    fn what_is_decoded_keeps_its_turn_when_its_stream_is_gone() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().max_blocking_threads(1).build().expect("a runtime");
        runtime.block_on(async {
            let limits = Limits::default();
            let (handle, _queue) = HubHandle::new(&HubLimits::default(), &limits);
            let (one, other) = Peer::pair(&limits);
            // The only thread that decodes is busy.
            let (go_on, busy) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || busy.recv().is_err());
            let long = vec![0; limits.decode_here_bytes_max + 1].into();
            let soon = Duration::from_millis(50);
            let message = serve::Message { bytes: long, held: Held::new(&one) };
            let given_up = tokio::time::timeout(soon, handle.frame(serve::ConnId(1), message)).await;
            assert!(given_up.is_err(), "it waits for the thread");
            assert!(tokio::time::timeout(soon, other.turn()).await.is_err(), "it is still to be decoded");
            drop(go_on);
            assert!(busy.await.expect("no panic"));
            tokio::time::timeout(Duration::from_secs(10), other.turn()).await.expect("it is decoded");
        });
    }
}
