//! The thin shell around the hub: TCP, TLS 1.3, HTTP/2, gRPC, health. It moves bytes and decides nothing about them.
//!
//! [`bind`] takes the port and the keys, so that the caller can print address and fingerprint before the first client;
//! [`Bound::serve`] runs until told to stop. What it serves is a [`Gate`]: the hub, or in tests an echo.
//!
//! ```text
//!   TCP -> address count -> a turn -> TLS 1.3 (ALPN) -> HTTP/2 or HTTP/1.1 -> /healthz, grpc.health.v1
//!                                                 |-> Sync: token -> Gate::connect -> frames both ways
//!                                                 \-> Gate::method: one message or many, each way
//!                                                 (gRPC over HTTP/2; gRPC-Web over both; WebSocket over HTTP/1.1)
//! ```
//!
//! Invariants: nothing of a session's body is read before its token is verified; every connection that a gate granted
//! is given back by exactly one `disconnect`; no error of a client ends the accept loop; every wait has an end
//! ([`Limits`]). Start with [`Gate`]; rules: spec/grpc.md.

mod answer;
mod beside;
mod connection;
mod crowd;
mod gather;
mod grpc;
mod health;
mod keepalive;
mod ledger;
mod meter;
mod method;
mod peer;
mod socket;
mod tls;
mod unread;
mod web;
mod websocket;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use blazedb_wire::grpc::{Code, Status};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crowd::Crowd;
pub use method::{Access, Answer, AnswerFuture, Caller, Exchange, Method, Requests, Step, Unary};
pub use peer::{Decoding, Held, Peer, Turn};
pub use tls::{CERTIFICATE_FILE, Fingerprint, KEY_FILE, TlsError};

use crate::limits::ACCEPT_REST;
pub use crate::limits::{Limits, Room};
use crate::token::{Grant, TokenError, Verifier};

/// Names one granted connection, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What a gate gives to one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// One frame, to be sent as one message.
    Frame(Bytes),
    /// The end, after the frames before it.
    Close(Status),
}

/// A granted connection.
#[derive(Debug)]
pub struct GateConnection {
    /// Its name in all later calls.
    pub id: ConnId,
    /// What is to be sent, in order. If the gate drops its end without a `Close`, the client is told to reconnect.
    pub outbound: mpsc::Receiver<Outbound>,
}

/// One message of a client, not looked at.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub bytes: Bytes,
    /// The memory it takes, counted until this is dropped.
    pub held: Held,
}

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A message of fewer bytes is copied out of what it was read with, which may be as much as HTTP/2's longest frame and the
/// next power of two: what is counted is its length, and a gate may keep it for long.
const OWN_BYTES_MAX: usize = 8 * 1024;

impl Message {
    /// A message in memory of its own, or of little more.
    fn owned(bytes: Bytes, held: Held) -> Self {
        let bytes = if bytes.len() < OWN_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        Self { bytes, held }
    }
}

/// Why a gate refuses a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This subject may not enter this space, or there is none of this name. PERMISSION_DENIED.
    Denied(String),
    /// A limit of the hub. RESOURCE_EXHAUSTED.
    Busy(String),
    /// The relay is going down or not up yet. UNAVAILABLE.
    Unavailable(String),
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(text) => Self::new(Code::PermissionDenied, text),
            Refusal::Busy(text) => Self::new(Code::ResourceExhausted, text),
            Refusal::Unavailable(text) => Self::new(Code::Unavailable, text),
        }
    }
}

/// What stands behind the shell.
///
/// For one connection (a stream) the calls are: `connect`, then any number of `frame` and `sent`, at most one `finished`, then
/// `disconnect` exactly once, also when the client vanished or the gate itself sent [`Outbound::Close`]. `frame` is awaited
/// before the next one is read, so a slow gate slows its client down and nobody else.
pub trait Gate: Clone + Send + Sync + 'static {
    /// Grants or refuses a connection. The token was verified.
    fn connect(&self, grant: Grant, peer: &Arc<Peer>) -> impl Future<Output = Result<GateConnection, Refusal>> + Send;
    /// Takes one message of a client. False: this connection is gone, stop reading. An error ends the stream.
    fn frame(&self, id: ConnId, message: Message) -> impl Future<Output = Result<bool, Status>> + Send;
    /// Says that this many bytes of frames have been given to HTTP/2 under flow control: they no longer count against
    /// the connection. Frames that were never given to it are not reported; `disconnect` settles them.
    fn sent(&self, id: ConnId, bytes: usize);
    /// Says that the client has closed its direction: no `frame` follows. True if the gate still answers what it was asked and
    /// then sends [`Outbound::Close`]; otherwise `disconnect` follows at once.
    fn finished(&self, _id: ConnId) -> bool {
        false
    }
    /// Returns how a call of this path is answered, if it is a method beside the relay's own.
    fn method(&self, _path: &str) -> Option<Method> {
        None
    }
    /// The connection has ended. The gate drops its end of `outbound`; frames already in it are still sent if the
    /// client only closed its own direction.
    fn disconnect(&self, id: ConnId);
}

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// Folder of `auth.key`, `tls.key` and `tls.crt`; made if it is not there.
    pub dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Further host names for a certificate made at first start.
    pub names: Vec<String>,
    /// Limits of the network side.
    pub limits: Limits,
}

/// Why the relay cannot serve.
#[derive(Debug)]
pub enum ServeError {
    /// The signing key of tokens.
    Token(TokenError),
    /// The TLS key or certificate.
    Tls(TlsError),
    /// The address cannot be listened on.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "{address} is in use; stop the other program, or listen on another port")
            }
            Self::Listen { address, .. } => {
                write!(f, "cannot listen on {address}; give an address of this machine")
            }
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Token(error) => error.source(),
            Self::Tls(error) => error.source(),
            Self::Listen { source, .. } => Some(source),
        }
    }
}

/// A relay that holds its port and keys and has not begun to accept.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    identity: tls::Identity,
    verifier: Verifier,
    limits: Limits,
    /// False only where a bench counts what a call costs without TLS.
    tls: bool,
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Loads or makes the keys and takes the port. Connections wait in the kernel's backlog until [`Bound::serve`].
pub async fn bind(config: ServeConfig) -> Result<Bound, ServeError> {
    let verifier = Verifier::load_or_create(&config.dir).map_err(ServeError::Token)?;
    let identity = tls::load_or_create(&config.dir, config.listen.ip(), &config.names).map_err(ServeError::Tls)?;
    let failed = |source| ServeError::Listen { address: config.listen, source };
    let listener = listen(config.listen).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound { listener, address, identity, verifier, limits: config.limits, tls: true })
}

/// As [`TcpListener::bind`], with room for more connections that are not accepted yet than the system's default of 128.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A relay that starts again takes its port at once. On Windows this would mean that others may take it, too.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds and serves; for callers that need not know the address.
pub async fn serve<G: Gate>(
    config: ServeConfig,
    gate: G,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    bind(config).await?.serve(gate, shutdown).await;
    Ok(())
}

impl Bound {
    /// Returns the address that is listened on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the fingerprint that clients pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint
    }

    /// Speaks HTTP/2 without TLS, for a bench that counts allocations: those of TLS would hide the others.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn in_the_clear(mut self) -> Self {
        self.tls = false;
        self
    }

    /// Serves until `shutdown` completes; then says goodbye (GOAWAY, every stream UNAVAILABLE), waits at most
    /// [`Limits::shutdown_max`], and returns when every granted connection has been given back to the gate.
    pub async fn serve<G: Gate>(self, gate: G, shutdown: impl Future<Output = ()>) {
        let Self { listener, identity, verifier, limits, tls, .. } = self;
        let (stopping, stop) = watch::channel(false);
        let (seat_alive, mut seats_gone) = mpsc::channel::<()>(1);
        let shutdown_max = limits.shutdown_max;
        let crowd = Crowd::new(&limits);
        let shared = Arc::new(connection::Shared {
            acceptor: tls.then(|| TlsAcceptor::from(identity.config)),
            handshakes: Semaphore::new(limits.handshakes_max),
            verifier,
            limits,
            gate,
            started: tokio::time::Instant::now(),
            stop,
            seat_alive,
        });
        let mut tasks = JoinSet::new();
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            // Nothing is waited for but the next one: whoever is not accepted is not counted, and could hold up the others.
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if is_of_one_client(&error) => continue,
                Err(error) => {
                    tracing::warn!(%error, "accept failed; the relay goes on");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            };
            let Some(admission) = Crowd::admit(&crowd, peer.ip()) else {
                tracing::debug!(%peer, "too many connections; closed");
                continue;
            };
            let shared = Arc::clone(&shared);
            tasks.spawn(connection::run(shared, tcp, peer, admission));
            while let Some(ended) = tasks.try_join_next() {
                log_panic(ended);
            }
        }
        drop(listener);
        stopping.send_replace(true);
        drop(shared);
        let ended = tokio::time::timeout(shutdown_max, async {
            while let Some(ended) = tasks.join_next().await {
                log_panic(ended);
            }
        });
        if ended.await.is_err() {
            tracing::debug!(left = tasks.len(), "connections did not end in time; cut");
            tasks.shutdown().await;
        }
        // Nothing is ever sent: the channel ends when the last seat has been given back.
        let _ = seats_gone.recv().await;
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; the relay goes on");
    }
}

/// Says whether accept failed because of the client it was about to return.
fn is_of_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
