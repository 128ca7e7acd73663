//! From a target to TLS 1.3 and HTTP/2: look-up, TCP, and the bytes counted below it.

use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::call::CallBody;
use super::limits::{
    ADDRESS_MAX, CONNECT_MAX, GOODBYE_MAX, HEADER_LIST_BYTES_MAX, PING_ANSWER_MAX, SEND_BUFFER_BYTES_MAX,
};
use super::{ByteCounters, Target, TransportError, tls};

/// What differs between a connection of one session and one of many calls.
pub(super) struct Tuning {
    pub(super) stream_window_bytes: u32,
    pub(super) connection_window_bytes: u32,
    /// Calls at one time until the server has said how many it takes.
    pub(super) streams_at_first: usize,
    /// A ping goes out when nothing has come for so long while a call is open.
    pub(super) ping_after: Option<Duration>,
}

/// An HTTP/2 connection. Its calls go on when it is dropped, but for what they can do within [`GOODBYE_MAX`].
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) requests: http2::SendRequest<CallBody>,
    /// Calls that the server takes at one time, as far as is known.
    pub(super) streams_max: Arc<AtomicUsize>,
    /// When something was received on it last.
    pub(super) heard: Arc<Heard>,
    /// The connection is cut soon after this is dropped.
    pub(super) guard: oneshot::Sender<Infallible>,
}

/// When something came last.
#[derive(Debug)]
pub(super) struct Heard {
    since: Instant,
    /// Milliseconds after `since`.
    last_ms: AtomicU64,
}

impl Heard {
    fn new() -> Self {
        Self { since: Instant::now(), last_ms: AtomicU64::new(0) }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note(&self) {
        self.last_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Returns for how long nothing has come.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }
}

/// A connection that is encrypted and counted.
pub(super) type Stream = TlsStream<Counted<TcpStream>>;

/// A connection before anything was said on it.
pub(super) struct Reached {
    pub(super) stream: Stream,
    heard: Arc<Heard>,
}

impl Reached {
    /// Whether the server chose HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(tls::ALPN_H2)
    }
}

/// Connects. Runs on the caller's tokio runtime, where it leaves a few tasks that end with the connection.
pub(super) async fn connect(target: &Target, tuning: &Tuning) -> Result<Connection, TransportError> {
    let reached = reach(target, &[tls::ALPN_H2]).await?;
    if !reached.is_http2() {
        return Err(TransportError::NotHttp2);
    }
    speak_http2(reached, tuning).await
}

/// Begins HTTP/2, as [`connect`].
pub(super) async fn speak_http2(reached: Reached, tuning: &Tuning) -> Result<Connection, TransportError> {
    let Reached { stream, heard } = reached;
    let (cut, uncut) = watch::channel(false);
    let builder = builder(tuning, Spawner { uncut });
    let (requests, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(TransportError::Http)?;
    let streams_max = Arc::new(AtomicUsize::new(tuning.streams_at_first));
    let (guard, dropped) = oneshot::channel::<Infallible>();
    // What goes wrong from here on reaches the callers through their calls.
    let said = Arc::clone(&streams_max);
    tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        std::future::poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            said.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        })
        .await
    });
    tokio::spawn(async move {
        let _ = dropped.await;
        let _ = tokio::time::timeout(GOODBYE_MAX, cut.closed()).await;
        cut.send_replace(true);
    });
    Ok(Connection { requests, streams_max, heard, guard })
}

fn builder(tuning: &Tuning, spawner: Spawner) -> http2::Builder<Spawner> {
    let mut builder = http2::Builder::new(spawner);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(tuning.stream_window_bytes)
        .initial_connection_window_size(tuning.connection_window_bytes)
        .initial_max_send_streams(tuning.streams_at_first)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(tuning.ping_after)
        .keep_alive_timeout(PING_ANSWER_MAX);
    builder
}

/// Connects up to TLS, offering these protocols, the one that is liked best first.
pub(super) async fn reach(target: &Target, protocols: &[&[u8]]) -> Result<Reached, TransportError> {
    let timeout = || TransportError::ConnectTimeout { address: target.authority.to_string() };
    let heard = Arc::new(Heard::new());
    let stream =
        tokio::time::timeout(CONNECT_MAX, encrypted(target, &heard, protocols)).await.map_err(|_| timeout())??;
    Ok(Reached { stream, heard })
}

async fn encrypted(target: &Target, heard: &Arc<Heard>, protocols: &[&[u8]]) -> Result<Stream, TransportError> {
    let addresses = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|source| TransportError::Resolve { host: target.host.clone(), source })?;
    let address = target.authority.to_string();
    let tcp = match first_of(addresses.collect(), TcpStream::connect).await {
        Ok(tcp) => tcp,
        Err(source) => return Err(TransportError::Connect { address, source }),
    };
    // Frames are batched above; waiting for more would only delay acknowledgements.
    tcp.set_nodelay(true).map_err(|source| TransportError::Connect { address, source })?;
    let counted = Counted { inner: tcp, counters: Arc::clone(&target.counters), heard: Arc::clone(heard) };
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    connector.with_alpn(protocols).connect(target.name.clone(), counted).await.map_err(tls::explain)
}

/// Connects to the first address that answers. The last one has all the time that is left.
async fn first_of<T, F: Future<Output = io::Result<T>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for (at, address) in addresses.iter().enumerate() {
        let is_last = at + 1 == addresses.len();
        let connected = if is_last {
            connect(*address).await
        } else {
            let silent = |_| Err(io::ErrorKind::TimedOut.into());
            tokio::time::timeout(ADDRESS_MAX, connect(*address)).await.unwrap_or_else(silent)
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => failed = error,
        }
    }
    Err(failed)
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

/// Counts what passes, below TLS.
pub(super) struct Counted<S> {
    inner: S,
    counters: Arc<ByteCounters>,
    heard: Arc<Heard>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let count = buffer.filled().len() - before;
        self.counters.received.fetch_add(count as u64, Ordering::Relaxed);
        if count > 0 {
            self.heard.note();
        }
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

#[cfg(test)]
mod tests {
    use super::super::limits::OUTBOUND_MESSAGES_MAX;
    use super::*;

    /// A name with an address that swallows everything has another that answers.
    #[tokio::test]
    async fn an_address_that_says_nothing_does_not_take_the_time_of_the_next() {
        let address = |n: u16| SocketAddr::from(([127, 0, 0, 1], n));
        let connect = async |address: SocketAddr| match address.port() {
            1 => std::future::pending().await,
            2 => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        };
        let all = |ports: &[u16]| ports.iter().copied().map(address).collect::<Vec<_>>();
        let found = tokio::time::timeout(CONNECT_MAX, first_of(all(&[2, 1, 3]), connect)).await;
        assert_eq!(found.expect("in time").unwrap(), 3);
        assert_eq!(first_of(all(&[2, 2]), connect).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(first_of(Vec::new(), connect).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        // The last has all the time that there is.
        let alone = tokio::time::timeout(ADDRESS_MAX * 2, first_of(all(&[1]), connect)).await;
        assert!(alone.is_err());
    }

    #[tokio::test]
    async fn a_call_that_the_network_does_not_take_holds_64_kib_and_then_its_sender_waits() {
        const MESSAGE_BYTES: usize = 16 * 1024;
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let tuning = Tuning {
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
            streams_at_first: 1,
            ping_after: None,
        };
        let (_cut, uncut) = watch::channel(false);
        let builder = builder(&tuning, Spawner { uncut });
        let server = tokio::spawn(async move {
            // It would take a megabyte, and then reads nothing any more.
            let mut builder = h2::server::Builder::new();
            builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
            let mut connection = builder.handshake::<_, bytes::Bytes>(theirs).await.unwrap();
            let _call = connection.accept().await;
            std::future::pending::<()>().await;
        });
        let (mut requests, connection) = builder.handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(connection);
        let (body, ends) = CallBody::queue(blazedb_wire::grpc::Encoding::Identity);
        let call = requests.send_request(http::Request::post("https://localhost/a/b").body(body).unwrap());
        let call = tokio::spawn(call);
        let mut bytes = 0;
        let message = bytes::Bytes::from(vec![7; MESSAGE_BYTES]);
        while let Ok(sent) = tokio::time::timeout(Duration::from_millis(50), ends.messages.send(message.clone())).await
        {
            sent.unwrap();
            bytes += MESSAGE_BYTES;
        }
        let queued = OUTBOUND_MESSAGES_MAX * MESSAGE_BYTES;
        let held = bytes - queued;
        assert!((64 << 10..(64 << 10) + 3 * MESSAGE_BYTES).contains(&held), "{held} bytes");
        call.abort();
        server.abort();
    }
}
