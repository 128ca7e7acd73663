//! One session over one connection: `/blaze.v1.Relay/Sync` (spec: G-1), over gRPC or, where that does not get through, over
//! WebSocket (spec: G-17).
//!
//! Each session has a connection of its own: one that is shared would tie the fate of one database to another's.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use blazedb_wire::grpc::{CONTENT_TYPE_BLAZE, Code, Encoding, MESSAGE_BYTES_MAX, Metadata, SYNC_PATH, Status};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::call::{self, CallBody, Messages, QueueEnds, Spoken};
use super::connect::{Connection, Reached, Tuning, reach, speak_http2};
use super::limits::{CONNECT_MAX, CONNECTION_WINDOW_BYTES, DETOUR_MAX, SILENCE_MAX, STREAM_WINDOW_BYTES};
use super::tls::{ALPN_H2, ALPN_HTTP1};
use super::{Target, TransportError, websocket};

const TUNING: Tuning = Tuning {
    stream_window_bytes: STREAM_WINDOW_BYTES,
    connection_window_bytes: CONNECTION_WINDOW_BYTES,
    streams_at_first: 1,
    // The session pings by itself.
    ping_after: None,
};

/// What was learnt of the way to a relay.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Until when WebSocket goes first.
    detour_until: Mutex<Option<Instant>>,
}

impl Way {
    fn is_detour(&self) -> bool {
        self.detour_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn set_detour(&self, detour: bool) {
        *self.detour_until.lock() = detour.then(|| Instant::now() + DETOUR_MAX);
    }
}

/// The sending half. Dropping it ends our direction of the stream; over WebSocket, where no direction ends alone, the relay
/// hears of that when the other half is dropped.
#[derive(Debug)]
pub struct FrameSender {
    frames: mpsc::Sender<Bytes>,
}

impl FrameSender {
    /// Sends one whole frame; waits while the relay takes nothing. The frame is not copied unless it is small, or goes over
    /// WebSocket.
    ///
    /// An error means that the stream has ended; [`FrameReceiver::next`] says why. Cancelling the wait sends nothing.
    pub async fn send(&self, frame: Bytes) -> Result<(), TransportError> {
        if frame.len() > MESSAGE_BYTES_MAX {
            return Err(TransportError::Status(Status::new(
                Code::ResourceExhausted,
                format!("a frame of {} bytes; the limit is {MESSAGE_BYTES_MAX}", frame.len()),
            )));
        }
        self.frames.send(frame).await.map_err(|_| TransportError::Closed)
    }
}

/// The receiving half. Dropping it ends the stream and closes the connection.
#[derive(Debug)]
pub struct FrameReceiver {
    source: Source,
    way: Arc<Way>,
    opened_at: Instant,
    heard: Heard,
}

/// What came of waiting for the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// Nobody has waited.
    NotAsked,
    Nothing,
    /// A frame, an end that was told, or that the connection is lost: all of which a way that does not work keeps back.
    Something,
}

#[derive(Debug)]
enum Source {
    Grpc {
        messages: Messages,
        _kept: oneshot::Sender<Infallible>,
        /// The connection is cut soon after this is dropped.
        _connection: oneshot::Sender<Infallible>,
    },
    WebSocket(mpsc::Receiver<Result<Bytes, TransportError>>),
}

impl FrameReceiver {
    fn new(source: Source, target: &Target) -> Self {
        Self { source, way: Arc::clone(&target.way), opened_at: Instant::now(), heard: Heard::NotAsked }
    }

    /// Returns the next frame; nothing once the relay has ended the stream with status OK. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.heard == Heard::NotAsked {
            self.heard = Heard::Nothing;
        }
        let next = match &mut self.source {
            Source::Grpc { messages, .. } => messages.next().await,
            Source::WebSocket(received) => received.recv().await.transpose(),
        };
        self.heard = Heard::Something;
        next
    }

    /// Whether the session goes over WebSocket, because HTTP/2 did not get through.
    pub fn is_websocket(&self) -> bool {
        matches!(self.source, Source::WebSocket(_))
    }
}

impl Drop for FrameReceiver {
    fn drop(&mut self) {
        if self.heard == Heard::Nothing && self.opened_at.elapsed() >= SILENCE_MAX {
            self.way.set_detour(!self.is_websocket());
        }
    }
}

/// Connects and opens the stream; returns once the relay has accepted the token, or over WebSocket once it has answered:
/// there a refused token is the first thing that [`FrameReceiver::next`] says. Runs on the caller's tokio runtime, where it
/// leaves a few tasks that end with the stream.
///
/// gRPC goes first. Where a server takes HTTP/1.1 only, or something that is no gRPC answers, or nothing within 10 s, the
/// session goes over WebSocket; so do the next ones of this target and its clones, for an hour.
pub async fn open_stream(target: &Target) -> Result<(FrameSender, FrameReceiver), TransportError> {
    if target.way.is_detour() {
        let opened = match reach(target, &[ALPN_HTTP1]).await {
            Ok(reached) => over_websocket(target, reached).await,
            Err(error) => Err(error),
        };
        match opened {
            Ok(opened) => return Ok(opened),
            Err(error @ (TransportError::Fingerprint(_) | TransportError::Certificate(_))) => return Err(error),
            // It is worth no more than HTTP/2, which says the rest.
            Err(_) => target.way.set_detour(false),
        }
    }
    let reached = reach(target, &[ALPN_H2, ALPN_HTTP1]).await?;
    if !reached.is_http2() {
        return over_websocket(target, reached).await;
    }
    let blocked = match over_grpc(target, reached).await {
        Err(Failed { error, is_blocked: true }) => error,
        opened => return opened.map_err(|failed| failed.error),
    };
    let reached = reach(target, &[ALPN_HTTP1]).await.map_err(|_| ());
    let detour = match reached {
        Ok(reached) => over_websocket(target, reached).await.map_err(|_| ()),
        Err(()) => Err(()),
    };
    // What was wrong at first says more.
    let opened = detour.map_err(|()| blocked)?;
    target.way.set_detour(true);
    Ok(opened)
}

async fn over_websocket(target: &Target, reached: Reached) -> Result<(FrameSender, FrameReceiver), TransportError> {
    let websocket::Ends { frames, received } = websocket::open(target, reached.stream).await?;
    Ok((FrameSender { frames }, FrameReceiver::new(Source::WebSocket(received), target)))
}

/// Why gRPC opened no stream.
struct Failed {
    error: TransportError,
    /// Somebody in between may be to blame, who may let a WebSocket through.
    is_blocked: bool,
}

async fn over_grpc(target: &Target, reached: Reached) -> Result<(FrameSender, FrameReceiver), Failed> {
    let connection = speak_http2(reached, &TUNING).await;
    let Connection { mut requests, guard, .. } = connection.map_err(|error| Failed { error, is_blocked: false })?;
    // Frames carry a compression of their own (spec: F-21).
    let (body, QueueEnds { messages: frames, kept }) = CallBody::queue(Encoding::Identity);
    let spoken = Spoken { content_type: CONTENT_TYPE_BLAZE, ..Spoken::default() };
    let request = call::request(target, SYNC_PATH, &spoken, &Metadata::new(), body);
    let response = tokio::time::timeout(CONNECT_MAX, requests.send_request(request))
        .await
        .map_err(|_| {
            let error = TransportError::ConnectTimeout { address: target.authority.to_string() };
            Failed { error, is_blocked: true }
        })?
        .map_err(|error| Failed { is_blocked: is_reset(&error), error: TransportError::Http(error) })?;
    let answered = call::answered(response, MESSAGE_BYTES_MAX)
        .map_err(|refused| Failed { error: refused.error, is_blocked: refused.is_foreign })?;
    let source = Source::Grpc { messages: answered.messages, _kept: kept, _connection: guard };
    Ok((FrameSender { frames }, FrameReceiver::new(source, target)))
}

/// Whether a server that is there takes no such stream at all. One that is busy, or is asked too much at once, would.
fn is_reset(error: &hyper::Error) -> bool {
    let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let reason = reset.filter(|error| error.is_remote()).and_then(h2::Error::reason);
    reason.is_some_and(|reason| {
        !matches!(reason, h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM | h2::Reason::ENHANCE_YOUR_CALM)
    })
}
