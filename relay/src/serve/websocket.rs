//! Sync over WebSocket, for browsers and for proxies that break HTTP/2 (spec: G-17 to G-19): one binary message is one frame.
//!
//! ```text
//!   HTTP/1.1 GET with `upgrade: websocket` --101--> token -> Gate::connect -> messages both ways -> Close with the status
//! ```
//!
//! A refusal is told in the Close, too: a page sees nothing of an HTTP answer that is no 101. Read [`accept`] first.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blazedb::transport::websocket_accept;
use blazedb_wire::grpc::{Code, SYNC_PATH, Status};
use blazedb_wire::websocket::{Decoder, Event, OpCode, Side, close, encode, encode_close};
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{Running, Shared};
use super::grpc::{self, Deadlines, Seat, Waiting};
use super::{Gate, Held, Limits, Message, Outbound};
use crate::limits::{WEBSOCKET_PACK_BYTES_MAX, WEBSOCKET_READ_BYTES};

/// The subprotocol that the relay speaks.
const PROTOCOL: &str = "blaze.v1";
/// The subprotocol by which a page hands over its token: it can set no header.
const TOKEN_PREFIX: &str = "bearer.";

/// Says whether a request asks for a WebSocket on the session's path.
pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.uri().path() == SYNC_PATH
        && has_token(request.headers(), &UPGRADE, "websocket")
}

fn has_token(headers: &HeaderMap, name: &http::HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Answers the handshake: the status and header fields of the answer and, where it is 101, what is to be run once HTTP
/// has let go of the connection.
pub(super) fn accept<G: Gate>(
    shared: &Arc<Shared<G>>,
    request: &mut Request<Incoming>,
    running: &mut Option<Running>,
) -> (StatusCode, HeaderMap, Option<impl Future<Output = ()> + Send + use<G>>) {
    let mut answer = HeaderMap::new();
    let headers = request.headers();
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        answer.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return (StatusCode::UPGRADE_REQUIRED, answer, None);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).filter(|key| is_key(key));
    let Some(key) = key.filter(|_| has_token(headers, &CONNECTION, "upgrade")) else {
        return (StatusCode::BAD_REQUEST, answer, None);
    };
    let accepted = HeaderValue::from_str(&websocket_accept(key)).expect("base64 is visible ASCII");
    answer.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    answer.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|protocol| protocol == PROTOCOL) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let mut called = HeaderMap::new();
    for value in headers.get_all(AUTHORIZATION) {
        called.append(AUTHORIZATION, value.clone());
    }
    for token in tokens(headers, &SEC_WEBSOCKET_PROTOCOL).filter_map(|protocol| protocol.strip_prefix(TOKEN_PREFIX)) {
        if let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            called.append(AUTHORIZATION, value);
        }
    }
    let upgrade = hyper::upgrade::on(request);
    let shared = Arc::clone(shared);
    let running = running.take();
    let session = async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Some(mut running) = running else { return };
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        let mut out = Out { write, buffer: BytesMut::new(), frames: 0 };
        let ended = match open(&shared, &called, &running).await {
            Ok((seat, outbound, deadlines)) => {
                let held = Held::new(&running.activity().peer);
                serve(&shared.limits, read, held, &mut out, &seat, outbound, deadlines).await
            }
            Err(status) => Ending::Status(status),
        };
        running.answered();
        out.end(&ended, shared.limits.close_max).await;
    };
    (StatusCode::SWITCHING_PROTOCOLS, answer, Some(session))
}

/// A key is 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

async fn open<G: Gate>(
    shared: &Arc<Shared<G>>,
    headers: &HeaderMap,
    running: &Running,
) -> Result<(Arc<Seat<G>>, mpsc::Receiver<Outbound>, Deadlines), Status> {
    let (grant, deadlines) = grpc::admit(shared, headers, running, Waiting::default())?;
    let (seat, outbound) = grpc::take_seat(shared, grant, &running.activity().peer).await?;
    Ok((Arc::new(seat), outbound, deadlines))
}

/// How a session ends.
enum Ending {
    /// With the status of the call.
    Status(Status),
    /// The client broke a rule of WebSocket: the code for that.
    Broken(u16),
    /// The client said Close, and is answered.
    Closed,
    /// The client is gone, and nothing more can be said.
    Gone,
}

type Io = TokioIo<hyper::upgrade::Upgraded>;

async fn serve<G: Gate>(
    limits: &Limits,
    read: ReadHalf<Io>,
    held: Held,
    out: &mut Out,
    seat: &Arc<Seat<G>>,
    outbound: mpsc::Receiver<Outbound>,
    mut deadlines: Deadlines,
) -> Ending {
    let (pongs, to_pong) = mpsc::channel(limits.websocket_pongs_max);
    let heard = Mutex::new(Some(Instant::now()));
    let reader =
        Reader { read, decoder: Decoder::new(Side::Client, limits.message_bytes_max), held, pongs, heard: &heard };
    let waiting = deadlines.waiting();
    let mut reading = std::pin::pin!(reader.run(&**seat));
    let mut reads = true;
    let mut writing = std::pin::pin!(write(out, seat, outbound, to_pong, &waiting, limits.keepalive_interval));
    let ended = loop {
        let patience = limits.keepalive_interval + limits.keepalive_timeout;
        let silent_at = heard.lock().unwrap_or_else(Instant::now) + patience;
        tokio::select! {
            biased;
            status = deadlines.reached() => break Ending::Status(status),
            ended = &mut reading, if reads => match ended {
                Some(ended) => break ended,
                // The gate takes no more; what it still sends goes out.
                None => reads = false,
            },
            ended = &mut writing => break ended,
            () = tokio::time::sleep_until(silent_at), if reads => {
                let silent = heard.lock().is_some_and(|heard| heard + patience <= Instant::now());
                if silent {
                    break Ending::Gone;
                }
            }
        }
    };
    seat.leave();
    ended
}

struct Reader<'a> {
    read: ReadHalf<Io>,
    decoder: Decoder,
    /// What the next message takes, from its beginning.
    held: Held,
    pongs: mpsc::Sender<Bytes>,
    /// When the client was last heard; nothing while nobody listens, because the gate takes its time.
    heard: &'a Mutex<Option<Instant>>,
}

impl Reader<'_> {
    /// Hands messages to the gate until the client ends it; nothing if the gate did.
    async fn run<G: Gate>(mut self, seat: &Seat<G>) -> Option<Ending> {
        loop {
            loop {
                match self.decoder.poll_event() {
                    Err(code) => return Some(Ending::Broken(code)),
                    Ok(None) => {
                        // A read of it is here; no more is read before there is room for all, or for all of a fragment.
                        if let Err(status) = self.held.expect(self.decoder.begun_bytes()).await {
                            return Some(Ending::Status(status));
                        }
                        break;
                    }
                    Ok(Some(Event::Message(message))) => {
                        *self.heard.lock() = None;
                        let fresh = Held::new(self.held.peer());
                        let held = std::mem::replace(&mut self.held, fresh);
                        let taken = async {
                            held.whole()?;
                            seat.frame(Message::owned(message, held)).await
                        };
                        match taken.await {
                            Ok(true) => {}
                            Ok(false) => return None,
                            Err(status) => return Some(Ending::Status(status)),
                        }
                    }
                    Ok(Some(Event::Ping(payload))) => {
                        tokio::select! {
                            biased;
                            // Who takes no pongs must not keep what others need.
                            status = self.held.lost() => return Some(Ending::Status(status)),
                            // Nobody to answer if the writing half has ended.
                            _ = self.pongs.send(payload) => {}
                        }
                    }
                    Ok(Some(Event::Pong)) => {}
                    Ok(Some(Event::Close { .. })) => return Some(Ending::Closed),
                }
            }
            self.heard.lock().get_or_insert_with(Instant::now);
            let input = self.decoder.input();
            input.reserve(WEBSOCKET_READ_BYTES);
            let read = tokio::select! {
                biased;
                status = self.held.lost() => return Some(Ending::Status(status)),
                read = self.read.read_buf(input) => read,
            };
            match read {
                Ok(0) | Err(_) => return Some(Ending::Gone),
                Ok(_) => *self.heard.lock() = Some(Instant::now()),
            }
        }
    }
}

/// Sends what the gate has to say until it has said all.
async fn write<G: Gate>(
    out: &mut Out,
    seat: &Arc<Seat<G>>,
    mut outbound: mpsc::Receiver<Outbound>,
    mut pongs: mpsc::Receiver<Bytes>,
    waiting: &Waiting,
    ping_after: Duration,
) -> Ending {
    let mut ended = None;
    let mut pings_at = Instant::now() + ping_after;
    loop {
        tokio::select! {
            biased;
            Some(payload) = pongs.recv() => encode(OpCode::Pong, &payload, None, &mut out.buffer),
            next = outbound.recv() => ended = out.take(next),
            () = tokio::time::sleep_until(pings_at) => {
                encode(OpCode::Ping, b"", None, &mut out.buffer);
                pings_at = Instant::now() + ping_after;
            }
        }
        while ended.is_none()
            && out.buffer.len() < WEBSOCKET_PACK_BYTES_MAX
            && let Ok(next) = outbound.try_recv()
        {
            ended = out.take(Some(next));
        }
        let bytes = std::mem::take(&mut out.frames);
        *waiting.lock() = Some(Instant::now());
        if out.flush().await.is_err() {
            return Ending::Gone;
        }
        *waiting.lock() = None;
        if bytes > 0 {
            seat.sent(bytes);
        }
        if let Some(status) = ended {
            return Ending::Status(status);
        }
    }
}

/// The writing half. What is in the buffer is whole frames, or the rest of one: whoever goes on after a wait was cancelled
/// goes on in the right place.
struct Out {
    write: WriteHalf<Io>,
    buffer: BytesMut,
    /// Bytes of frames of a session in the buffer, headers not counted.
    frames: usize,
}

impl Out {
    /// Takes one thing to send; returns the status if that ends the call.
    fn take(&mut self, next: Option<Outbound>) -> Option<Status> {
        match next {
            Some(Outbound::Frame(frame)) => {
                self.frames += frame.len();
                encode(OpCode::Binary, &frame, None, &mut self.buffer);
                None
            }
            Some(Outbound::Close(status)) => Some(status),
            None => Some(grpc::gone()),
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        while self.buffer.has_remaining() {
            if self.write.write_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
        }
        // A large frame's memory is not kept for an idle session.
        if self.buffer.capacity() > 2 * WEBSOCKET_PACK_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.write.flush().await
    }

    /// Says goodbye, and cuts the connection if that is not taken in time.
    async fn end(&mut self, ended: &Ending, close_max: Duration) {
        match ended {
            Ending::Status(status) if status.code == Code::Ok => {
                encode_close(close::NORMAL, "", None, &mut self.buffer);
            }
            Ending::Status(status) => {
                let code = close::STATUS_BASE + u16::from(status.code.number());
                encode_close(code, &status.message, None, &mut self.buffer);
            }
            Ending::Broken(code) => encode_close(*code, "", None, &mut self.buffer),
            Ending::Closed => encode_close(close::NORMAL, "", None, &mut self.buffer),
            Ending::Gone => return,
        }
        let goodbye = async {
            self.flush().await?;
            self.write.shutdown().await
        };
        // Whoever takes no goodbye goes without.
        let _ = tokio::time::timeout(close_max, goodbye).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: G-17
    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ==") && !is_key(b"c2hvcnQ=") && !is_key(b"no base64"));
    }
}
