//! One TCP connection: handshake, HTTP version, deadlines, and which request goes where.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{self as wire, Code, MessageBuf, Status};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::meter::{Bucket, Metered};
use super::{Gate, Limits, grpc, health, tls};
use crate::token::Verifier;

/// What all connections share.
pub(super) struct Shared<G> {
    pub(super) acceptor: TlsAcceptor,
    pub(super) verifier: Verifier,
    pub(super) limits: Limits,
    pub(super) gate: G,
    pub(super) started: Instant,
    /// True once the relay is going down.
    pub(super) stop: watch::Receiver<bool>,
    /// Every seat holds a clone, so that shutdown can wait for the last one.
    pub(super) seat_alive: mpsc::Sender<()>,
}

/// What the requests of one connection share.
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    /// Told why the connection is cut, whatever its calls are doing.
    cut: Notify,
    /// Set once a token was good.
    pub(super) known: Arc<AtomicBool>,
}

struct ActivityState {
    running: usize,
    any: bool,
    quiet_since: Instant,
    give_ups: Bucket,
    cut_because: &'static str,
}

impl Activity {
    fn new(limits: &Limits) -> Self {
        let now = Instant::now();
        let give_ups = Bucket::new(limits.give_ups_max, limits.give_ups_per_second, now);
        let state = ActivityState { running: 0, any: false, quiet_since: now, give_ups, cut_because: "" };
        Self { state: Mutex::new(state), cut: Notify::new(), known: Arc::default() }
    }

    /// Has the connection cut: HTTP/2 has no gentler way for what its client does.
    pub(super) fn cut(&self, because: &'static str) {
        self.state.lock().cut_because = because;
        self.cut.notify_one();
    }

    /// Returns when the connection has been quiet for too long, as far as is known now.
    fn quiet_until(&self, limits: &Limits) -> Instant {
        let state = self.state.lock();
        if state.running > 0 {
            return Instant::now() + limits.idle_max;
        }
        let patience = if state.any { limits.idle_max } else { limits.first_request_max };
        state.quiet_since + patience
    }
}

/// A request that is being served. One that is dropped before [`Running::answered`] was given up by its client.
pub(super) struct Running {
    activity: Arc<Activity>,
    answered: bool,
}

impl Running {
    fn begin(activity: &Arc<Activity>) -> Self {
        let mut state = activity.state.lock();
        state.running += 1;
        state.any = true;
        drop(state);
        Self { activity: Arc::clone(activity), answered: false }
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Says that the request has its whole answer.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = self.activity.state.lock();
        state.running -= 1;
        state.quiet_since = now;
        if !self.answered && state.give_ups.take(1, now) == 0 {
            drop(state);
            self.activity.cut("too many calls were opened and given up");
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn run<G: Gate>(
    shared: Arc<Shared<G>>,
    tcp: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    // Frames are batched above; waiting for more would only delay acknowledgements.
    let _ = tcp.set_nodelay(true);
    let buffer = shared.limits.tls_buffer_bytes_max;
    let handshake = shared.acceptor.accept_with(tcp, |session| session.set_buffer_limit(Some(buffer)));
    let mut stop = shared.stop.clone();
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(shared.limits.handshake_max, handshake) => accepted,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    drop(permit);
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::ALPN_H2) {
        run_http2(shared, stream, peer).await;
    } else {
        run_http1(shared, stream, peer).await;
    }
}

async fn run_http2<G: Gate>(shared: Arc<Shared<G>>, stream: TlsStream<TcpStream>, peer: SocketAddr) {
    let limits = &shared.limits;
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.http2_frame_bytes_max)
        .max_send_buf_size(limits.send_buffer_bytes_max)
        .max_pending_accept_reset_streams(limits.pending_resets_max)
        .max_local_error_reset_streams(limits.local_error_resets_max)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    let activity = Arc::new(Activity::new(limits));
    let known = Arc::clone(&activity.known);
    let stream = Metered::new(stream, known, limits.stranger_bytes_max, limits.stranger_bytes_per_second);
    let service = {
        let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
        service_fn(move |request| {
            let running = Running::begin(&activity);
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, request, running).await) }
        })
    };
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stop = shared.stop.clone();
    let mut saying_goodbye = false;
    let mut wake = Instant::now() + limits.first_request_max.min(limits.idle_max);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                return;
            }
            _ = stop.wait_for(|stop| *stop), if !saying_goodbye => {
                saying_goodbye = true;
                connection.as_mut().graceful_shutdown();
                wake = Instant::now() + limits.shutdown_max;
            }
            () = activity.cut.notified() => {
                let because = activity.state.lock().cut_because;
                return tracing::debug!(%peer, because, "connection cut");
            }
            () = tokio::time::sleep_until(wake) => {
                let quiet_until = activity.quiet_until(limits);
                if saying_goodbye {
                    return;
                } else if quiet_until <= Instant::now() {
                    saying_goodbye = true;
                    connection.as_mut().graceful_shutdown();
                    wake = Instant::now() + limits.shutdown_max;
                } else {
                    wake = quiet_until;
                }
            }
        }
    }
}

async fn run_http1<G: Gate>(shared: Arc<Shared<G>>, stream: TlsStream<TcpStream>, peer: SocketAddr) {
    let limits = &shared.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_request_max)
        .max_headers(limits.headers_max)
        .max_buf_size(usize::try_from(limits.header_list_bytes_max).unwrap_or(usize::MAX).max(8192))
        // One request a connection: the only plain page is the health answer.
        .keep_alive(false);
    let activity = Arc::new(Activity::new(limits));
    let service = {
        let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
        service_fn(move |request| {
            let running = Running::begin(&activity);
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, request, running).await) }
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    // One short request and its answer; whoever takes longer is cut.
    let longest = limits.first_request_max + Duration::from_secs(10);
    let mut stop = shared.stop.clone();
    tokio::select! {
        ended = tokio::time::timeout(longest, connection) => match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%peer, %error, "connection failed"),
            Err(_) => tracing::debug!(%peer, "HTTP/1.1 request took too long"),
        },
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn answer<G: Gate>(shared: &Arc<Shared<G>>, request: Request<Incoming>, running: Running) -> Response<Reply<G>> {
    let mut running = Some(running);
    let response = route(shared, request, &mut running).await;
    // A stream has taken it along: its answer has only begun.
    if let Some(mut running) = running {
        running.answered();
    }
    response
}

async fn route<G: Gate>(
    shared: &Arc<Shared<G>>,
    request: Request<Incoming>,
    running: &mut Option<Running>,
) -> Response<Reply<G>> {
    if request.headers().len() > shared.limits.headers_max {
        return plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields\n");
    }
    let path = request.uri().path();
    if path == health::PATH {
        return health_answer(shared, request.method());
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    let grpc_type = content_type.and_then(|value| wire::answer_content_type(value.as_bytes()));
    let Some(grpc_type) = grpc_type else {
        return if path == wire::SYNC_PATH {
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/grpc\n")
        } else {
            plain(StatusCode::NOT_FOUND, "not found\n")
        };
    };
    if request.version() != Version::HTTP_2 {
        return plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n");
    }
    let done = if request.method() != Method::POST {
        Err(Status::new(Code::Unimplemented, "gRPC calls are POST requests"))
    } else if path == health::CHECK_PATH {
        return health_check(shared, request, grpc_type, running).await;
    } else if path != wire::SYNC_PATH {
        let path = path.get(..128).unwrap_or(path);
        Err(Status::new(Code::Unimplemented, format!("there is no method {path}")))
    } else {
        grpc::sync(shared, request, running).await
    };
    match done {
        Ok(body) => {
            let mut response = Response::new(Reply::Sync(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(grpc_type));
            response
        }
        Err(status) => trailers_only(&status, grpc_type),
    }
}

/// Returns the answer to a call that ends before its first message.
fn trailers_only<G: Gate>(status: &Status, grpc_type: &'static str) -> Response<Reply<G>> {
    let mut response = Response::new(Reply::Empty);
    *response.headers_mut() = grpc::trailers(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(grpc_type));
    if status.code == Code::Unimplemented {
        response.headers_mut().insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    }
    response
}

async fn health_check<G: Gate>(
    shared: &Shared<G>,
    request: Request<Incoming>,
    grpc_type: &'static str,
    running: &mut Option<Running>,
) -> Response<Reply<G>> {
    let limits = &shared.limits;
    let called = async {
        // A caller without a token must not keep a stream by sending its one message slowly.
        let patience = grpc::call_timeout(request.headers())?.map_or(limits.check_max, |own| own.min(limits.check_max));
        grpc::refuse_encoding(request.headers())?;
        let serving = !*shared.stop.borrow();
        let checked = health::check(request.into_body(), limits.check_bytes_max, serving);
        tokio::time::timeout(patience, checked)
            .await
            .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "the request did not come in time")))
    };
    match called.await {
        Ok(message) => {
            let reply = Reply::Unary { message: Some(message), trailers: Some(grpc::trailers(&Status::ok())) };
            let mut response = Response::new(reply);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(grpc_type));
            response
        }
        Err(status) => {
            if status.code == Code::Cancelled {
                // Nobody reads the answer.
                drop(running.take());
            }
            trailers_only(&status, grpc_type)
        }
    }
}

fn health_answer<G: Gate>(shared: &Shared<G>, method: &Method) -> Response<Reply<G>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let text = health::answer(shared.started.elapsed());
    let mut response = plain(StatusCode::OK, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn plain<G: Gate>(status: StatusCode, text: impl Into<Bytes>) -> Response<Reply<G>> {
    let mut response = Response::new(Reply::Whole(Some(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The body of an answer.
pub(super) enum Reply<G: Gate> {
    Empty,
    Whole(Option<Bytes>),
    Unary { message: Option<MessageBuf>, trailers: Option<HeaderMap> },
    Sync(grpc::SyncBody<G>),
}

impl<G: Gate> Body for Reply<G> {
    type Data = MessageBuf;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<MessageBuf>, Infallible>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(MessageBuf::from(bytes))))),
            Self::Unary { message, trailers } => {
                let frame = message.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers));
                Poll::Ready(frame.map(Ok))
            }
            Self::Sync(body) => body.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Unary { trailers, .. } => trailers.is_none(),
            Self::Sync(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Unary { .. } | Self::Sync(_) => SizeHint::default(),
        }
    }
}
