//! One gRPC stream over one connection: `/blaze.v1.Relay/Sync` (spec: G-1).
//!
//! Each stream has a connection of its own: a session is one stream, and a connection that is shared would tie the
//! fate of one database to another's.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{
    CONTENT_TYPE_BLAZE, Code, MESSAGE_BYTES_MAX, MessageBuf, MessageDecoder, Packer, SYNC_PATH, Status,
    answer_content_type,
};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_rustls::TlsConnector;

use super::{ByteCounters, Target, TransportError, tls};

/// From the first look-up to the end of the TLS handshake; and again from the request to the relay's answer.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Frames between the caller and HTTP/2. More than one, so that small frames can share a DATA frame.
const OUTBOUND_FRAMES_MAX: usize = 8;

/// Flow-control window of the stream: what the relay may send that nobody has taken yet. A home link of 100 Mbit/s and
/// 80 ms holds 1 MB.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Flow-control window of the connection. Twice the stream's: h2 tolerates tiny frames up to half of it.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Bytes that HTTP/2 may hold before [`FrameSender::send`] waits.
const SEND_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Header fields of an answer: a status and a text of at most 3 KiB.
const HEADER_LIST_BYTES_MAX: u32 = 8 * 1024;
/// How long a connection may take to say goodbye after its stream was dropped.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

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
    body: Incoming,
    decoder: MessageDecoder,
    ended: bool,
    /// The connection is cut soon after this is dropped.
    _connection: oneshot::Sender<Infallible>,
}

impl FrameReceiver {
    /// Returns the next frame; nothing once the relay has ended the stream with status OK. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            if let Some(message) = self.decoder.poll_message().map_err(TransportError::Status)? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => {
                    return Err(TransportError::Status(Status::new(
                        Code::Unavailable,
                        "the stream ended without a status",
                    )));
                }
                Some(Err(error)) => return Err(TransportError::Http2(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.decoder.push(chunk),
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        self.end(&trailers)?;
                    }
                },
            }
        }
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), TransportError> {
        let status = status_of(trailers);
        if status.code != Code::Ok {
            return Err(TransportError::Status(status));
        }
        self.decoder.finish().map_err(TransportError::Status)?;
        self.ended = true;
        Ok(())
    }
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_trailers(
        headers.get("grpc-status").map(HeaderValue::as_bytes),
        headers.get("grpc-message").map(HeaderValue::as_bytes),
    )
}

/// Connects and opens the stream; returns once the relay has accepted the token. Runs on the caller's tokio runtime,
/// where it leaves a few tasks that end with the stream.
pub async fn open_stream(target: &Target) -> Result<(FrameSender, FrameReceiver), TransportError> {
    let timeout = || TransportError::ConnectTimeout { address: target.authority.to_string() };
    let stream = tokio::time::timeout(CONNECT_MAX, connect(target)).await.map_err(|_| timeout())??;
    let (cut, uncut) = watch::channel(false);
    let mut builder = hyper::client::conn::http2::Builder::new(Spawner { uncut });
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX);
    let (mut requests, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(TransportError::Http2)?;
    let (guard, dropped) = oneshot::channel::<Infallible>();
    // What goes wrong from here on reaches the caller through the stream.
    tokio::spawn(connection);
    tokio::spawn(async move {
        let _ = dropped.await;
        let _ = tokio::time::timeout(GOODBYE_MAX, cut.closed()).await;
        cut.send_replace(true);
    });
    let (frames, queue) = mpsc::channel(OUTBOUND_FRAMES_MAX);
    let request = request(target, RequestBody { queue: Some(queue), packer: Packer::new() });
    let response = tokio::time::timeout(CONNECT_MAX, requests.send_request(request))
        .await
        .map_err(|_| timeout())?
        .map_err(TransportError::Http2)?;
    check_response(&response)?;
    let receiver = FrameReceiver {
        body: response.into_body(),
        decoder: MessageDecoder::default(),
        ended: false,
        _connection: guard,
    };
    Ok((FrameSender { frames }, receiver))
}

async fn connect(target: &Target) -> Result<tokio_rustls::client::TlsStream<Counted<TcpStream>>, TransportError> {
    let addresses = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|source| TransportError::Resolve { host: target.host.clone(), source })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    let mut connected = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                connected = Some(tcp);
                break;
            }
            Err(error) => last = error,
        }
    }
    let address = target.authority.to_string();
    let Some(tcp) = connected else {
        return Err(TransportError::Connect { address, source: last });
    };
    // Frames are batched above; waiting for more would only delay acknowledgements.
    tcp.set_nodelay(true).map_err(|source| TransportError::Connect { address, source })?;
    let counted = Counted { inner: tcp, counters: Arc::clone(&target.counters) };
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    let stream = connector.connect(target.name.clone(), counted).await.map_err(tls::explain)?;
    if stream.get_ref().1.alpn_protocol() != Some(tls::ALPN_H2) {
        return Err(TransportError::NotHttp2);
    }
    Ok(stream)
}

fn request(target: &Target, body: RequestBody) -> Request<RequestBody> {
    let uri = Uri::builder()
        .scheme("https")
        .authority(target.authority.clone())
        .path_and_query(SYNC_PATH)
        .build()
        .expect("a scheme, a checked authority and a constant path are a URI");
    let mut request = Request::post(uri).version(Version::HTTP_2).body(body).expect("a checked URI");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE_BLAZE));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(AUTHORIZATION, target.authorization.clone());
    request
}

fn check_response(response: &Response<Incoming>) -> Result<(), TransportError> {
    let headers = response.headers();
    if headers.contains_key("grpc-status") {
        // Trailers-Only: refused before a single message.
        return Err(TransportError::Status(status_of(headers)));
    }
    if response.status() != StatusCode::OK {
        return Err(TransportError::Status(Status::from_http(response.status().as_u16())));
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if answer_content_type(content_type).is_none() {
        return Err(TransportError::Status(Status::new(
            Code::Unknown,
            "the answer is not gRPC; a proxy in between may have given it",
        )));
    }
    Ok(())
}

/// Runs what hyper spawns, the socket among it, until the connection is cut: a goodbye that the network does not take
/// would otherwise keep the socket until TCP gives up, which takes a quarter of an hour.
#[derive(Clone)]
struct Spawner {
    uncut: watch::Receiver<bool>,
}

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let mut uncut = self.uncut.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = future => {}
                _ = uncut.wait_for(|cut| *cut) => {}
            }
        });
    }
}

/// What we send, as hyper asks for it.
struct RequestBody {
    queue: Option<mpsc::Receiver<Bytes>>,
    packer: Packer,
}

impl Body for RequestBody {
    type Data = MessageBuf;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<MessageBuf>, Status>>> {
        let Self { queue, packer } = &mut *self;
        while packer.wants_more()
            && let Some(open) = queue
        {
            match open.poll_recv(cx) {
                Poll::Ready(Some(frame)) => {
                    if let Err(status) = packer.push(frame) {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                Poll::Ready(None) => *queue = None,
                Poll::Pending => break,
            }
        }
        match packer.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if queue.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// Counts what passes, below TLS.
struct Counted<S> {
    inner: S,
    counters: Arc<ByteCounters>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.counters.received.fetch_add(count as u64, Ordering::Relaxed);
        polled
    }
}

impl<S> Counted<S> {
    fn count_sent(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.counters.sent.fetch_add(*count as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.count_sent(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.count_sent(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
