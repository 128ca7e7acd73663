//! One TCP connection: handshake, HTTP version, deadlines.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::answer::{Outgoing, answer};
use super::beside::{First, beside};
use super::crowd::{Admission, Standing};
use super::gather::Gathered;
use super::keepalive::Keepalive;
use super::meter::{Bucket, Metered};
use super::socket::Socket;
use super::unread::Unread;
use super::{Gate, Limits, Peer, tls};
use crate::token::Verifier;

/// What all connections share.
pub(super) struct Shared<G> {
    /// Nothing only where a bench counts what a call costs without TLS.
    pub(super) acceptor: Option<TlsAcceptor>,
    /// How many more handshakes may have their turn.
    pub(super) handshakes: Semaphore,
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
    /// What they share with others.
    pub(super) peer: Arc<Peer>,
    state: Mutex<ActivityState>,
    /// Told why the connection is cut, whatever its calls are doing.
    cut: Notify,
    /// Set once a token was good.
    pub(super) known: Arc<AtomicBool>,
    /// What lies there and was not taken.
    pub(super) unread: Arc<Unread>,
    /// What goes on with the connection once HTTP/1.1 has let go of it.
    pub(super) upgraded: Mutex<Option<Upgraded>>,
}

/// What is run on a connection that is no longer HTTP.
pub(super) type Upgraded = Pin<Box<dyn Future<Output = ()> + Send>>;

struct ActivityState {
    running: usize,
    any: bool,
    quiet_since: Instant,
    give_ups: Bucket,
    cut_because: &'static str,
}

impl Activity {
    fn new(limits: &Limits, peer: &Arc<Peer>, standing: &Standing) -> Self {
        let now = Instant::now();
        let give_ups = Bucket::new(limits.give_ups_max, limits.give_ups_per_second, now);
        let state = ActivityState { running: 0, any: false, quiet_since: now, give_ups, cut_because: "" };
        Self {
            peer: Arc::clone(peer),
            state: Mutex::new(state),
            cut: Notify::new(),
            known: Arc::clone(&standing.known),
            unread: Arc::default(),
            upgraded: Mutex::default(),
        }
    }

    /// Returns when nothing will have been served for so long, as far as is known now.
    fn quiet_for(&self, patience: Duration) -> Instant {
        let state = self.state.lock();
        let since = if state.running > 0 { Instant::now() } else { state.quiet_since };
        since + patience
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

/// Serves one connection until it ends, or until another has its place.
pub(super) async fn run<G: Gate>(shared: Arc<Shared<G>>, tcp: TcpStream, peer: SocketAddr, admission: Admission) {
    tokio::select! {
        () = run_alone(shared, tcp, peer, &admission) => {}
        () = admission.standing.given_up() => tracing::debug!(%peer, "a stranger's connection gave way to another"),
    }
}

async fn run_alone<G: Gate>(shared: Arc<Shared<G>>, tcp: TcpStream, peer: SocketAddr, admission: &Admission) {
    // Frames are batched above; waiting for more would only delay acknowledgements.
    let _ = tcp.set_nodelay(true);
    let Some(acceptor) = &shared.acceptor else {
        return run_http2(Arc::clone(&shared), tcp, peer, admission).await;
    };
    let limits = &shared.limits;
    let handshake = async {
        // One that says nothing takes nobody's turn. What fails here fails in the handshake, too.
        let _ = tcp.peek(&mut [0]).await;
        let turn = Turn::take(admission, &shared.handshakes).await;
        let accepting = acceptor.accept_with(Socket(tcp), |session| tls::bound(session, limits));
        let mut accepting = std::pin::pin!(accepting);
        let accepted = tokio::time::timeout(limits.handshake_turn_max, accepting.as_mut()).await;
        drop(turn);
        match accepted {
            Ok(accepted) => accepted,
            Err(_) => accepting.await,
        }
    };
    let mut stop = shared.stop.clone();
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(limits.handshake_max, handshake) => accepted,
        _ = stop.wait_for(|stop| *stop) => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(tls::ALPN_H2) {
        run_http2(shared, stream, peer, admission).await;
    } else {
        run_http1(shared, stream, peer, admission).await;
    }
}

/// The right of one connection to be in the handshake while others wait for it.
struct Turn<'a> {
    _of_address: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl<'a> Turn<'a> {
    /// Waits among those of the same address first, so that of one address only a few wait among all.
    async fn take(admission: &'a Admission, all: &'a Semaphore) -> Self {
        let never = "neither semaphore is ever closed";
        Self {
            _of_address: admission.handshakes.acquire().await.expect(never),
            _of_all: all.acquire().await.expect(never),
        }
    }
}

async fn run_http2<G: Gate>(
    shared: Arc<Shared<G>>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    admission: &Admission,
) {
    let limits = &shared.limits;
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .max_concurrent_streams(limits.streams_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.http2_frame_bytes_max)
        .max_send_buf_size(limits.send_buffer_bytes_max)
        .max_pending_accept_reset_streams(limits.pending_resets_max)
        .max_local_error_reset_streams(limits.local_error_resets_max);
    let activity = Arc::new(Activity::new(limits, &admission.peer, &admission.standing));
    let (known, unread) = (Arc::clone(&activity.known), Arc::clone(&activity.unread));
    let stream = Metered::new(stream, known, unread, limits);
    let mut keepalive = Keepalive::new(limits.keepalive_interval, limits.keepalive_timeout, Instant::now());
    let stream = Gathered::new(stream, keepalive.line());
    let service = service(&shared, &activity);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut stop = shared.stop.clone();
    let mut saying_goodbye = false;
    let mut wake = Instant::now() + limits.first_request_max.min(limits.idle_max);
    loop {
        let rare = async {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop), if !saying_goodbye => Rare::Stop,
                () = activity.cut.notified() => Rare::Cut,
                () = tokio::time::sleep_until(wake.min(keepalive.due())) => Rare::Time,
            }
        };
        match beside(connection.as_mut(), rare).await {
            First::Busy(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                return;
            }
            First::Rare(Rare::Stop) => {
                saying_goodbye = true;
                connection.as_mut().graceful_shutdown();
                wake = Instant::now() + limits.shutdown_max;
            }
            First::Rare(Rare::Cut) => {
                let because = activity.state.lock().cut_because;
                return tracing::debug!(%peer, because, "connection cut");
            }
            First::Rare(Rare::Time) => {
                let now = Instant::now();
                if !keepalive.look(now) {
                    return tracing::debug!(%peer, "the client does not answer; connection cut");
                }
                if wake > now {
                    continue;
                }
                let quiet_until = activity.quiet_until(limits);
                if saying_goodbye {
                    return;
                } else if quiet_until <= now {
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

/// What a connection is told from outside.
enum Rare {
    /// The relay goes down.
    Stop,
    /// Its client does what HTTP/2 has no gentler answer to.
    Cut,
    /// It is time to look after it.
    Time,
}

/// Answers the requests of one connection, and counts those that run.
fn service<G: Gate>(
    shared: &Arc<Shared<G>>,
    activity: &Arc<Activity>,
) -> impl Service<Request<Incoming>, Response = Response<Outgoing<G>>, Error = Infallible, Future: Send> + use<G> {
    let (shared, activity) = (Arc::clone(shared), Arc::clone(activity));
    service_fn(move |request| {
        let running = Running::begin(&activity);
        let shared = Arc::clone(&shared);
        async move { Ok(answer(&shared, request, running).await) }
    })
}

async fn run_http1<G: Gate>(
    shared: Arc<Shared<G>>,
    stream: TlsStream<Socket>,
    peer: SocketAddr,
    admission: &Admission,
) {
    let limits = &shared.limits;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.first_request_max)
        .max_headers(limits.headers_max)
        .max_buf_size(usize::try_from(limits.header_list_bytes_max).unwrap_or(usize::MAX).max(8192));
    let activity = Arc::new(Activity::new(limits, &admission.peer, &admission.standing));
    let (known, unread) = (Arc::clone(&activity.known), Arc::clone(&activity.unread));
    let stream = Metered::new(stream, known, unread, limits);
    let service = service(&shared, &activity);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut stop = shared.stop.clone();
    let mut saying_goodbye = false;
    // One request and its answer. While that is made it may take what it takes (gRPC-Web has streams, too); whoever says it
    // or takes it slowly is cut.
    let patience = limits.first_request_max + limits.answer_taken_max;
    let mut wake = Instant::now() + patience;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection failed");
                }
                break;
            }
            _ = stop.wait_for(|stop| *stop), if !saying_goodbye => {
                // An answer that has begun is ended by its own deadline; what has not begun needs no goodbye.
                saying_goodbye = true;
                connection.as_mut().graceful_shutdown();
                wake = Instant::now() + limits.shutdown_max;
            }
            () = activity.cut.notified() => {
                let because = activity.state.lock().cut_because;
                return tracing::debug!(%peer, because, "connection cut");
            }
            () = tokio::time::sleep_until(wake) => {
                let quiet_until = activity.quiet_for(patience);
                if saying_goodbye || quiet_until <= Instant::now() {
                    return tracing::debug!(%peer, "HTTP/1.1 request took too long");
                }
                wake = quiet_until;
            }
        }
    }
    let upgraded = activity.upgraded.lock().take();
    if let Some(upgraded) = upgraded {
        upgraded.await;
    }
}
