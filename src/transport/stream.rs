//! One session over one connection: `/blaze.v1.Relay/Sync` (spec: G-1).
//!
//! Each session has a connection of its own: one that is shared would tie the fate of one database to another's.

use std::convert::Infallible;

use blazedb_wire::grpc::{CONTENT_TYPE_BLAZE, Code, MESSAGE_BYTES_MAX, Metadata, SYNC_PATH, Status};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::call::{self, CallBody, Messages, QueueEnds, Spoken};
use super::connect::{CONNECT_MAX, Connection, Tuning, connect};
use super::{Target, TransportError};

/// Flow-control window of the stream: what the relay may send that nobody has taken yet. A home link of 100 Mbit/s and
/// 80 ms holds 1 MB.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Flow-control window of the connection. Twice the stream's: h2 tolerates tiny frames up to half of it.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

const TUNING: Tuning = Tuning {
    stream_window_bytes: STREAM_WINDOW_BYTES,
    connection_window_bytes: CONNECTION_WINDOW_BYTES,
    streams_at_first: 1,
    // The session pings by itself.
    ping_after: None,
};

/// The sending half. Dropping it ends our direction of the stream.
#[derive(Debug)]
pub struct FrameSender {
    frames: mpsc::Sender<Bytes>,
}

impl FrameSender {
    /// Sends one whole frame; waits while the relay takes nothing. The frame is not copied unless it is small.
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
    messages: Messages,
    _kept: oneshot::Sender<Infallible>,
    /// The connection is cut soon after this is dropped.
    _connection: oneshot::Sender<Infallible>,
}

impl FrameReceiver {
    /// Returns the next frame; nothing once the relay has ended the stream with status OK. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.messages.next().await
    }
}

/// Connects and opens the stream; returns once the relay has accepted the token. Runs on the caller's tokio runtime,
/// where it leaves a few tasks that end with the stream.
pub async fn open_stream(target: &Target) -> Result<(FrameSender, FrameReceiver), TransportError> {
    let Connection { mut requests, guard, .. } = connect(target, &TUNING).await?;
    let (body, QueueEnds { messages: frames, kept }) = CallBody::queue();
    let spoken = Spoken { content_type: CONTENT_TYPE_BLAZE, ..Spoken::default() };
    let request = call::request(target, SYNC_PATH, &spoken, &Metadata::new(), body);
    let response = tokio::time::timeout(CONNECT_MAX, requests.send_request(request))
        .await
        .map_err(|_| TransportError::ConnectTimeout { address: target.authority.to_string() })?
        .map_err(TransportError::Http2)?;
    let answered = call::answered(response, MESSAGE_BYTES_MAX).map_err(|refused| refused.error)?;
    Ok((FrameSender { frames }, FrameReceiver { messages: answered.messages, _kept: kept, _connection: guard }))
}
