//! A session over WebSocket (spec: G-17 to G-19), where a proxy lets HTTP/2 not through: one binary message is one frame.
//!
//! ```text
//!   TLS 1.3 with `http/1.1` --GET, upgrade--> 101 -> a task that writes, a task that reads -> Close with the status
//! ```
//!
//! The relay looks at the token after the handshake, so that a refusal comes where the first frame would.

use std::convert::Infallible;
use std::io;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blazedb_engine::Entropy as _;
use blazedb_engine::env::OsEntropy;
use blazedb_wire::grpc::{Code, MESSAGE_BYTES_MAX, SYNC_PATH, Status};
use blazedb_wire::websocket::{Decoder, Event, OpCode, Side, close, encode, encode_close};
use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{
    AUTHORIZATION, CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::connect::Stream;
use super::limits::{CONNECT_MAX, GOODBYE_MAX, PACK_BYTES_MAX, QUEUE_FRAMES_MAX, READ_BYTES};
use super::{Target, TransportError};

/// The subprotocol that a relay speaks.
const PROTOCOL: &str = "blaze.v1";
/// What RFC 6455 appends to the key.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What goes in, and what comes out. Dropping `received` says Close and cuts the connection.
pub(super) struct Ends {
    pub(super) frames: mpsc::Sender<Bytes>,
    pub(super) received: mpsc::Receiver<Result<Bytes, TransportError>>,
}

/// Returns what proves that a server has read the `sec-websocket-key` of a handshake (RFC 6455, 4.2.2).
///
/// SHA-1 is the RFC's: it shows a cache or a server that knows no WebSocket, nothing rests on its strength.
pub fn websocket_accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(ACCEPT_SUFFIX);
    STANDARD.encode(hash.finish())
}

/// Opens a WebSocket on a connection that speaks HTTP/1.1.
pub(super) async fn open(target: &Target, stream: Stream) -> Result<Ends, TransportError> {
    let shaken = tokio::time::timeout(CONNECT_MAX, shake(target, stream));
    let upgraded =
        shaken.await.map_err(|_| TransportError::ConnectTimeout { address: target.authority.to_string() })??;
    Ok(start(TokioIo::new(upgraded)))
}

/// Starts the two tasks of a WebSocket that is open.
fn start(io: impl AsyncRead + AsyncWrite + Send + 'static) -> Ends {
    let (read, write) = tokio::io::split(io);
    let (frames, to_send) = mpsc::channel(QUEUE_FRAMES_MAX);
    let (hand_over, received) = mpsc::channel(QUEUE_FRAMES_MAX);
    let (replies, to_reply) = mpsc::channel(1);
    let (reading, unread) = oneshot::channel();
    let reader = Reader { read, decoder: Decoder::new(Side::Server, MESSAGE_BYTES_MAX), hand_over, replies };
    let writer = Writer { write, buffer: BytesMut::new(), masks: Masks::default() };
    tokio::spawn(async move {
        reader.run().await;
        drop(reading);
    });
    tokio::spawn(writer.run(to_send, to_reply, unread));
    Ends { frames, received }
}

async fn shake(target: &Target, stream: Stream) -> Result<hyper::upgrade::Upgraded, TransportError> {
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(TransportError::Http)?;
    // Ends with the upgrade, or with the connection.
    tokio::spawn(connection.with_upgrades());
    let mut nonce = [0; 16];
    OsEntropy.public(&mut nonce).map_err(TransportError::Tls)?;
    let key = STANDARD.encode(nonce);
    let mut request = Request::get(SYNC_PATH).body(Empty::<Bytes>::new()).expect("a path is a URI");
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(target.authority.as_str()).expect("an authority is visible ASCII"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::from_str(&key).expect("base64 is visible ASCII"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    if let Some(authorization) = &target.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    let response = requests.send_request(request).await.map_err(TransportError::Http)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(TransportError::Status(Status::from_http(response.status().as_u16())));
    }
    let has = |name, wanted: &str| {
        let value = response.headers().get(name).map(HeaderValue::as_bytes);
        value.is_some_and(|value| value.eq_ignore_ascii_case(wanted.as_bytes()))
    };
    let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
    let proved = accepted == Some(websocket_accept(key.as_bytes()).as_bytes());
    if !proved || !has(UPGRADE, "websocket") || !has(SEC_WEBSOCKET_PROTOCOL, PROTOCOL) {
        let text = "the server's WebSocket is not a relay's; a proxy in between may have answered";
        return Err(TransportError::Status(Status::new(Code::Unimplemented, text)));
    }
    hyper::upgrade::on(response).await.map_err(TransportError::Http)
}

/// What the reading task has the writing one say.
enum Reply {
    Pong(Bytes),
    Close(u16),
}

struct Reader<Io> {
    read: ReadHalf<Io>,
    decoder: Decoder,
    hand_over: mpsc::Sender<Result<Bytes, TransportError>>,
    replies: mpsc::Sender<Reply>,
}

impl<Io: AsyncRead> Reader<Io> {
    /// Hands frames over until the relay says Close, the connection is lost, or nobody takes them any more.
    async fn run(mut self) {
        let ended = tokio::select! {
            ended = read_to_end(&mut self.read, &mut self.decoder, &self.hand_over, &self.replies) => ended,
            () = self.hand_over.closed() => return,
            () = self.replies.closed() => Some(TransportError::Lost(io::ErrorKind::BrokenPipe.into())),
        };
        // Status OK is the end of the queue.
        if let Some(error) = ended {
            let _ = self.hand_over.send(Err(error)).await;
        }
    }
}

async fn read_to_end(
    read: &mut ReadHalf<impl AsyncRead>,
    decoder: &mut Decoder,
    hand_over: &mpsc::Sender<Result<Bytes, TransportError>>,
    replies: &mpsc::Sender<Reply>,
) -> Option<TransportError> {
    loop {
        loop {
            match decoder.poll_event() {
                Ok(None) => break,
                Ok(Some(Event::Message(message))) => {
                    if hand_over.send(Ok(message)).await.is_err() {
                        return None;
                    }
                }
                Ok(Some(Event::Ping(payload))) => {
                    // One that waits already says as much, and reading must not wait for writing.
                    let _ = replies.try_send(Reply::Pong(payload));
                }
                Ok(Some(Event::Pong)) => {}
                Ok(Some(Event::Close { code, reason })) => {
                    let _ = replies.send(Reply::Close(close::NORMAL)).await;
                    return status_of(code, reason).map(TransportError::Status);
                }
                Err(code) => {
                    let _ = replies.send(Reply::Close(code)).await;
                    let text = format!("the relay broke a rule of WebSocket ({code})");
                    return Some(TransportError::Status(Status::new(Code::Internal, text)));
                }
            }
        }
        let input = decoder.input();
        input.reserve(READ_BYTES);
        match read.read_buf(input).await {
            Ok(0) => {
                let text = "the connection ended without a Close";
                return Some(TransportError::Status(Status::new(Code::Unavailable, text)));
            }
            Ok(_) => {}
            Err(error) => return Some(TransportError::Lost(error)),
        }
    }
}

/// Returns the status that a Close stands for (G-19); nothing for OK.
fn status_of(code: Option<u16>, reason: String) -> Option<Status> {
    match code {
        Some(close::NORMAL) => None,
        Some(code) => {
            let number = code.checked_sub(close::STATUS_BASE).and_then(|number| u8::try_from(number).ok());
            Some(match number.and_then(Code::from_number) {
                // Said by a Close that is no error, it would be 1000.
                Some(Code::Ok) | None => Status::new(Code::Unavailable, format!("closed with {code}: {reason}")),
                Some(code) => Status { code, message: reason },
            })
        }
        None => Some(Status::new(Code::Unavailable, "closed without a code")),
    }
}

struct Writer<Io> {
    write: WriteHalf<Io>,
    buffer: BytesMut,
    masks: Masks,
}

impl<Io: AsyncWrite> Writer<Io> {
    /// Writes until the reading task is gone, then says goodbye: what was sent before goes first.
    async fn run(
        mut self,
        mut frames: mpsc::Receiver<Bytes>,
        mut replies: mpsc::Receiver<Reply>,
        mut unread: oneshot::Receiver<Infallible>,
    ) {
        // Nobody waits for what the network does not take.
        let closing = tokio::select! {
            biased;
            closing = self.write_on(&mut frames, &mut replies) => closing,
            _ = &mut unread => Ok(close::NORMAL),
        };
        let Ok(closing) = closing else { return };
        let goodbye = async {
            while let Ok(frame) = frames.try_recv() {
                self.push(OpCode::Binary, &frame)?;
            }
            encode_close(closing, "", Some(self.masks.next()?), &mut self.buffer);
            self.flush().await?;
            self.write.shutdown().await
        };
        // Whoever takes no goodbye goes without.
        let _ = tokio::time::timeout(GOODBYE_MAX, goodbye).await;
    }

    /// Returns the code to close with.
    async fn write_on(
        &mut self,
        frames: &mut mpsc::Receiver<Bytes>,
        replies: &mut mpsc::Receiver<Reply>,
    ) -> io::Result<u16> {
        let mut open = true;
        loop {
            tokio::select! {
                biased;
                Some(reply) = replies.recv() => match reply {
                    Reply::Pong(payload) => self.push(OpCode::Pong, &payload)?,
                    Reply::Close(code) => return Ok(code),
                },
                frame = frames.recv(), if open => match frame {
                    Some(frame) => self.push(OpCode::Binary, &frame)?,
                    // A WebSocket has no half that could end alone: the relay hears of it when all is over.
                    None => open = false,
                },
                else => return Ok(close::NORMAL),
            }
            while self.buffer.len() < PACK_BYTES_MAX
                && let Ok(frame) = frames.try_recv()
            {
                self.push(OpCode::Binary, &frame)?;
            }
            self.flush().await?;
        }
    }

    fn push(&mut self, op: OpCode, payload: &[u8]) -> io::Result<()> {
        encode(op, payload, Some(self.masks.next()?), &mut self.buffer);
        Ok(())
    }

    /// What is in the buffer is whole frames, or the rest of one: whoever goes on after a wait was cancelled goes on in the
    /// right place.
    async fn flush(&mut self) -> io::Result<()> {
        while self.buffer.has_remaining() {
            if self.write.write_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        // A large frame's memory is not kept for an idle session.
        if self.buffer.capacity() > 2 * PACK_BYTES_MAX {
            self.buffer = BytesMut::new();
        }
        self.write.flush().await
    }
}

/// Masks that nobody can foresee, as the RFC wants them so that no page can make a proxy read what it likes out of them.
struct Masks {
    ready: [u8; 256],
    used: usize,
}

impl Default for Masks {
    fn default() -> Self {
        Self { ready: [0; 256], used: 256 }
    }
}

impl Masks {
    fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.used == self.ready.len() {
            OsEntropy.secret(&mut self.ready)?;
            self.used = 0;
        }
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.ready[self.used..self.used + 4]);
        self.used += 4;
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};
    use std::time::Duration;

    use parking_lot::Mutex;
    use tokio::io::ReadBuf;

    use super::*;

    // spec: G-17. The example of RFC 6455, section 1.3.
    #[test]
    fn the_key_is_answered_as_in_the_rfc() {
        assert_eq!(websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    // spec: G-19
    #[test]
    fn a_close_is_the_status_that_it_stands_for() {
        let code = |code| status_of(code, "why".to_owned()).map(|status| (status.code, status.message));
        assert_eq!(code(Some(close::NORMAL)), None);
        assert_eq!(code(Some(4016)), Some((Code::Unauthenticated, "why".to_owned())));
        for other in [Some(1001), Some(1011), Some(4000), Some(4999), None] {
            assert_eq!(code(other).expect("no end that is well").0, Code::Unavailable, "{other:?}");
        }
    }

    /// Waits until the tasks have nothing left to do.
    async fn rest() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    fn in_messages(count: usize, bytes: usize) -> BytesMut {
        let mut out = BytesMut::new();
        (0..count).for_each(|_| encode(OpCode::Binary, &vec![7; bytes], None, &mut out));
        out
    }

    #[tokio::test]
    async fn eight_frames_wait_each_way_and_whoever_sends_more_waits() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let mut ends = start(ours);
        let mut sent = 0;
        for _ in 0..100 {
            rest().await;
            sent += usize::from(ends.frames.try_send(Bytes::from(vec![7; PACK_BYTES_MAX])).is_ok());
        }
        assert_eq!(sent, 8 + 1, "one is being written");
        // They say more than is taken: what is left stays with the network.
        let sender = tokio::spawn(async move { theirs.write_all(&in_messages(100, READ_BYTES)).await });
        while ends.received.len() < 8 {
            rest().await;
        }
        for _ in 0..100 {
            rest().await;
        }
        assert_eq!(ends.received.len(), 8);
        assert!(!sender.is_finished());
        assert!(ends.received.recv().await.is_some_and(|received| received.is_ok()));
        sender.abort();
    }

    /// Takes everything, and remembers how long each piece was.
    #[derive(Default)]
    struct Pieces(Arc<Mutex<Vec<usize>>>);

    impl AsyncWrite for Pieces {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.lock().push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Pieces {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn ready_frames_share_a_write_up_to_a_record_of_tls() {
        let pieces = Arc::default();
        let (_read, write) = tokio::io::split(Pieces(Arc::clone(&pieces)));
        let mut writer = Writer { write, buffer: BytesMut::new(), masks: Masks::default() };
        let (frames, mut to_send) = mpsc::channel(100);
        let (_replies, mut to_reply) = mpsc::channel(1);
        (0..40).for_each(|_| frames.try_send(Bytes::from(vec![7; 992])).expect("there is room"));
        drop(frames);
        let writing = writer.write_on(&mut to_send, &mut to_reply);
        assert!(tokio::time::timeout(Duration::from_millis(20), writing).await.is_err(), "it waits for replies");
        // With its header and mask each is 1,000 bytes, and the one that goes beyond 16 KiB is in it.
        assert_eq!(*pieces.lock(), [17_000, 17_000, 6_000]);
    }

    #[test]
    fn masks_differ() {
        let mut masks = Masks::default();
        let seen: std::collections::HashSet<[u8; 4]> = (0..1_000).map(|_| masks.next().unwrap()).collect();
        assert!(seen.len() > 990, "{}", seen.len());
    }
}
