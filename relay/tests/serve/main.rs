//! The network shell against real sockets: our client and raw HTTP/2 on one side, an echo behind the shell.

mod calls;
mod client;
#[cfg(target_os = "linux")]
mod crowd;
mod detour;
mod health;
mod memory;
mod methods;
mod tokens;
mod web;
mod websocket;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use blazedb::transport::{FrameReceiver, FrameSender, Target, TransportError, Trust, open_stream, parse_fingerprint};
use blazedb_relay::serve::{
    ConnId, Gate, GateConnection, Limits, Message, Outbound, Peer, Refusal, Room, ServeConfig, ServeError, bind,
};
use blazedb_relay::token::{self, Grant, LEEWAY_S};
use blazedb_wire::grpc::{
    Code, HEALTH_CHECK_PATH, MESSAGE_BYTES_MAX, MessageDecoder, SYNC_PATH, Status, encode_message,
};
use bytes::{Buf as _, Bytes};
use http::{Request, Response, StatusCode};
use http_body_util::channel::{Channel, Sender as BodySender};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// No step takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.unwrap_or_else(|_| panic!("{what}: nothing for {HANG:?}"))
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Connected(ConnId, String),
    Frame(ConnId, usize),
    Sent(ConnId, usize),
    Disconnected(ConnId),
}

/// Sends every frame back. `close` and `drop` as frames end the connection from this side; space `locked` is refused.
#[derive(Clone)]
struct Echo(Arc<EchoInner>);

struct EchoInner {
    next: AtomicU64,
    open: Mutex<HashMap<ConnId, mpsc::Sender<Outbound>>>,
    seen: mpsc::UnboundedSender<Seen>,
    /// Space `slow` waits for it in `connect`.
    release: Notify,
}

impl Gate for Echo {
    async fn connect(&self, grant: Grant, _peer: &Arc<Peer>) -> Result<GateConnection, Refusal> {
        if grant.space == "locked" {
            return Err(Refusal::Denied("100% locked".to_owned()));
        }
        let id = ConnId(self.0.next.fetch_add(1, Ordering::Relaxed));
        let _ = self.0.seen.send(Seen::Connected(id, grant.subject));
        if grant.space == "slow" {
            self.0.release.notified().await;
        }
        let (sender, outbound) = mpsc::channel(4);
        self.0.open.lock().insert(id, sender);
        Ok(GateConnection { id, outbound })
    }

    async fn frame(&self, id: ConnId, message: Message) -> Result<bool, Status> {
        let frame = message.bytes;
        let _ = self.0.seen.send(Seen::Frame(id, frame.len()));
        let Some(sender) = self.0.open.lock().get(&id).cloned() else {
            return Ok(false);
        };
        Ok(match &frame[..] {
            b"close" => {
                let status = Status::new(Code::FailedPrecondition, "closed by the gate: 100%\n");
                let _ = sender.send(Outbound::Close(status)).await;
                false
            }
            b"drop" => {
                self.0.open.lock().remove(&id);
                false
            }
            _ => sender.send(Outbound::Frame(frame)).await.is_ok(),
        })
    }

    fn sent(&self, id: ConnId, bytes: usize) {
        let _ = self.0.seen.send(Seen::Sent(id, bytes));
    }

    fn disconnect(&self, id: ConnId) {
        self.0.open.lock().remove(&id);
        let _ = self.0.seen.send(Seen::Disconnected(id));
    }
}

/// A relay that echoes, in this process.
struct Relay {
    dir: tempfile::TempDir,
    address: SocketAddr,
    fingerprint: String,
    gate: Echo,
    seen: mpsc::UnboundedReceiver<Seen>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = ServeConfig {
            dir: dir.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            names: Vec::new(),
            limits,
        };
        let bound = bind(config).await.unwrap();
        let (address, fingerprint) = (bound.address(), bound.fingerprint().to_string());
        let (events, seen) = mpsc::unbounded_channel();
        let gate = Echo(Arc::new(EchoInner {
            next: AtomicU64::new(1),
            open: Mutex::default(),
            seen: events,
            release: Notify::new(),
        }));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(bound.serve(gate.clone(), async {
            let _ = stopped.await;
        }));
        Self { dir, address, fingerprint, gate, seen, stop: Some(stop), task }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    fn token(&self, space: &str) -> String {
        token::issue(self.dir.path(), space, "ann", Duration::from_secs(3_600)).unwrap()
    }

    fn pin(&self) -> Trust {
        Trust::Fingerprint(parse_fingerprint(&self.fingerprint).unwrap())
    }

    fn target(&self, token: &str) -> Target {
        Target::new(&self.url(), &self.pin(), token).unwrap()
    }

    async fn open(&self) -> (FrameSender, FrameReceiver) {
        soon("open", open_stream(&self.target(&self.token("home")))).await.unwrap()
    }

    async fn refused(&self, token: &str) -> TransportError {
        soon("open", open_stream(&self.target(token))).await.map(|_| ()).unwrap_err()
    }

    /// Waits for the next event that is no `Sent`.
    async fn next(&mut self) -> Seen {
        loop {
            match soon("an event", self.seen.recv()).await.unwrap() {
                Seen::Sent(..) => {}
                event => return event,
            }
        }
    }

    async fn until_disconnected(&mut self) -> ConnId {
        loop {
            if let Seen::Disconnected(id) = self.next().await {
                return id;
            }
        }
    }

    /// Stops it and returns what had been seen and not asked for.
    async fn stop(mut self) -> Vec<Seen> {
        let _ = self.stop.take().unwrap().send(());
        soon("shutdown", &mut self.task).await.unwrap();
        let mut rest = Vec::new();
        while let Ok(event) = self.seen.try_recv() {
            rest.push(event);
        }
        assert!(self.gate.0.open.lock().is_empty(), "every seat was given back");
        rest
    }

    async fn tls(&self, protocol: &[u8]) -> TlsStream<TcpStream> {
        tls_to(self.dir.path(), self.address, protocol).await
    }

    /// Returns an HTTP/2 connection that follows no rule of ours.
    async fn raw(&self) -> (http2::SendRequest<Channel<Bytes, std::io::Error>>, JoinHandle<()>) {
        self.raw_on(Spawned::default()).await
    }

    async fn raw_on(&self, executor: Spawned) -> (http2::SendRequest<Channel<Bytes, std::io::Error>>, JoinHandle<()>) {
        let io = TokioIo::new(self.tls(b"h2").await);
        let (requests, connection) = http2::handshake(executor, io).await.unwrap();
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        (requests, task)
    }

    fn request(&self, token: Option<&str>) -> http::request::Builder {
        let mut request = Request::post(format!("{}{SYNC_PATH}", self.url()))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        request
    }
}

/// Connects to a relay whose files are here.
async fn tls_to(dir: &Path, address: SocketAddr, protocol: &[u8]) -> TlsStream<TcpStream> {
    tls_over(dir, TcpStream::connect(address).await.unwrap(), protocol).await
}

async fn tls_over(dir: &Path, tcp: TcpStream, protocol: &[u8]) -> TlsStream<TcpStream> {
    let pem = std::fs::read(dir.join("tls.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

/// Runs what hyper spawns, the socket among it, and can pull the plug.
#[derive(Clone, Default)]
struct Spawned(Arc<Mutex<Vec<AbortHandle>>>);

impl<F> hyper::rt::Executor<F> for Spawned
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.lock().push(tokio::spawn(future).abort_handle());
    }
}

fn message(bytes: &[u8]) -> Bytes {
    let mut buf = encode_message(Bytes::copy_from_slice(bytes)).unwrap();
    buf.copy_to_bytes(buf.remaining())
}

fn status_in(headers: &http::HeaderMap) -> Status {
    Status::from_trailers(
        headers.get("grpc-status").map(|value| value.as_bytes()),
        headers.get("grpc-message").map(|value| value.as_bytes()),
    )
}

/// Reads a raw answer to its end.
async fn read_all(response: Response<Incoming>) -> (Vec<Bytes>, Status) {
    let mut body = response.into_body();
    let mut decoder = MessageDecoder::default();
    let mut messages = Vec::new();
    loop {
        let frame = soon("a frame", body.frame()).await.expect("trailers come before the end").unwrap();
        match frame.into_data() {
            Ok(chunk) => decoder.push(chunk),
            Err(frame) => return (messages, status_in(&frame.into_trailers().unwrap())),
        }
        while let Some(message) = decoder.poll_message().unwrap() {
            messages.push(message);
        }
    }
}

fn body() -> (BodySender<Bytes, std::io::Error>, Channel<Bytes, std::io::Error>) {
    Channel::new(16)
}

fn code_of(error: &TransportError) -> Code {
    match error {
        TransportError::Status(status) => status.code,
        other => panic!("not a status: {other:?}"),
    }
}

// spec: G-1, G-4, G-10
#[tokio::test]
async fn frames_go_both_ways_and_a_half_closed_stream_is_drained() {
    let mut relay = Relay::start().await;
    let target = relay.target(&relay.token("home"));
    let (sender, mut receiver) = soon("open", open_stream(&target)).await.unwrap();
    assert_eq!(relay.next().await, Seen::Connected(ConnId(1), "ann".to_owned()));
    let sizes = [0, 1, 5, 300, 16_379, 16_384, 100_000, MESSAGE_BYTES_MAX, 7];
    let frames: Vec<Bytes> = (0u8..).zip(sizes).map(|(fill, size)| Bytes::from(vec![fill; size])).collect();
    let sending = async {
        for frame in &frames {
            sender.send(frame.clone()).await.unwrap();
        }
        drop(sender);
    };
    let receiving = async {
        let mut back = Vec::new();
        while let Some(frame) = receiver.next().await.unwrap() {
            back.push(frame);
        }
        back
    };
    let ((), back) = soon("echo", async { tokio::join!(sending, receiving) }).await;
    assert!(back == frames, "every frame came back whole and in order");
    assert!(receiver.next().await.unwrap().is_none(), "the end stays the end");
    let bytes: usize = sizes.iter().sum();
    assert!(target.counters().sent() > bytes as u64 && target.counters().received() > bytes as u64);
    let (mut sent, mut gone) = (0, 0);
    for event in relay.stop().await {
        match event {
            Seen::Sent(_, bytes) => sent += bytes,
            Seen::Disconnected(id) => {
                assert_eq!(id, ConnId(1));
                gone += 1;
            }
            _ => {}
        }
    }
    assert_eq!((sent, gone), (bytes, 1), "the ledger balances, and the seat is given back once");
}

// spec: G-12
#[tokio::test]
async fn many_small_frames_keep_their_order() {
    let relay = Relay::start().await;
    let (sender, mut receiver) = relay.open().await;
    let sending = async {
        for number in 0..5_000u32 {
            sender.send(Bytes::copy_from_slice(&number.to_le_bytes())).await.unwrap();
        }
        sender
    };
    let receiving = async {
        for number in 0..5_000u32 {
            assert_eq!(receiver.next().await.unwrap().unwrap()[..], number.to_le_bytes());
        }
    };
    let (_sender, ()) = soon("echo", async { tokio::join!(sending, receiving) }).await;
    relay.stop().await;
}

// spec: G-9
#[tokio::test]
async fn another_key_is_refused_with_both_fingerprints() {
    let relay = Relay::start().await;
    let target = Target::new(&relay.url(), &Trust::Fingerprint([0xab; 32]), &relay.token("home")).unwrap();
    let error = soon("open", open_stream(&target)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, TransportError::Fingerprint(_)), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&relay.fingerprint) && text.contains(&"ab".repeat(32)), "{text}");
    assert!(!error.is_retryable());
    assert_eq!(relay.stop().await, [], "nothing reached the gate");
}

// spec: G-9
#[tokio::test]
async fn a_copied_certificate_without_its_key_is_refused() {
    let relay = Relay::start().await;
    let pem = std::fs::read(relay.dir.path().join("tls.crt")).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&pem).unwrap()];
    let other = rcgen::KeyPair::generate().unwrap().serialize_der();
    let other = PrivateKeyDer::Pkcs8(other.into());
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&other).unwrap();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let between = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config)).accept(tcp).await.map(|_| ()).unwrap_err()
    });
    let target = Target::new(&url, &relay.pin(), &relay.token("home")).unwrap();
    let error = soon("open", open_stream(&target)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, TransportError::Certificate(_)), "{error:?}");
    assert!(error.to_string().contains("do not connect") && !error.is_retryable(), "{error}");
    soon("the other end", between).await.unwrap();
    relay.stop().await;
}

// spec: G-9
#[tokio::test]
async fn authorities_are_believed_for_the_right_name_only() {
    let mut relay = Relay::start().await;
    let pem = std::fs::read(relay.dir.path().join("tls.crt")).unwrap();
    let token = relay.token("home");
    let target = Target::new(&relay.url(), &Trust::CaPem(pem), &token).unwrap();
    soon("open", open_stream(&target)).await.unwrap();
    relay.until_disconnected().await;

    let other = Relay::start().await;
    let pem = std::fs::read(other.dir.path().join("tls.crt")).unwrap();
    let target = Target::new(&relay.url(), &Trust::CaPem(pem), &token).unwrap();
    let error = soon("open", open_stream(&target)).await.map(|_| ()).unwrap_err();
    assert!(matches!(error, TransportError::Certificate(_)), "{error:?}");
    assert!(error.to_string().contains("fingerprint"), "{error}");
    assert_eq!(relay.stop().await, []);
    other.stop().await;
}

// spec: G-5, G-6, G-8
#[tokio::test]
async fn tokens_open_the_door() {
    let relay = Relay::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3_600);
    let foreign = token::issue(elsewhere.path(), "home", "eve", hour).unwrap();
    let long_ago = token::unix_now() - 3_600 - LEEWAY_S - 1;
    let expired = token::issue_at(relay.dir.path(), "home", "ann", hour, long_ago).unwrap();
    for (token, word) in [(&*foreign, "another key"), (&*expired, "expired"), ("a.b.c", "no token")] {
        let error = relay.refused(token).await;
        assert_eq!(code_of(&error), Code::Unauthenticated);
        assert!(error.to_string().contains(word), "{error}");
        assert!(!error.is_retryable());
    }
    let error = relay.refused(&relay.token("locked")).await;
    assert_eq!(code_of(&error), Code::PermissionDenied);
    assert!(error.to_string().contains("100% locked"), "{error}");

    let (mut requests, _task) = relay.raw().await;
    for header in [None, Some("Basic abc"), Some("Bearer"), Some("Bearer ")] {
        let mut request = relay.request(None);
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        // The body never ends: the answer must come without reading it.
        let (_sender, body) = body();
        let response = soon("answer", requests.send_request(request.body(body).unwrap())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(status_in(response.headers()).code, Code::Unauthenticated, "{header:?}");
        assert_eq!(response.headers()["content-type"], "application/grpc");
    }
    assert_eq!(relay.stop().await, [], "nothing reached the gate");
}

// spec: G-10
#[tokio::test]
async fn a_stream_ends_when_its_token_does() {
    let mut relay = Relay::start().await;
    // It expired long enough ago to have two seconds of leeway left.
    let issued = token::unix_now() - LEEWAY_S + 2 - 60;
    let token = token::issue_at(relay.dir.path(), "home", "ann", Duration::from_secs(60), issued).unwrap();
    let (sender, mut receiver) = soon("open", open_stream(&relay.target(&token))).await.unwrap();
    sender.send(Bytes::from_static(b"still good")).await.unwrap();
    assert_eq!(soon("echo", receiver.next()).await.unwrap().unwrap(), "still good");
    let error = soon("expiry", receiver.next()).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unauthenticated);
    assert!(error.to_string().contains("expired while"), "{error}");
    relay.until_disconnected().await;
    relay.stop().await;
}

// spec: G-3, G-4
#[tokio::test]
async fn rubbish_ends_one_stream_and_not_its_neighbour() {
    let mut relay = Relay::start().await;
    let token = relay.token("home");
    let (mut requests, _task) = relay.raw().await;
    let (mut good, good_body) = body();
    let request = relay.request(Some(&token)).body(good_body).unwrap();
    let mut neighbour = soon("answer", requests.send_request(request)).await.unwrap().into_body();
    let over = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
    let [a, b, c, d] = over.to_be_bytes();
    let cases = [
        (vec![9, 0, 0, 0, 1, 1], Code::Internal),
        (vec![1, 0, 0, 0, 1, 1], Code::Internal),
        (vec![0, a, b, c, d], Code::ResourceExhausted),
        (vec![0, 0xff, 0xff, 0xff, 0xff, 1], Code::ResourceExhausted),
    ];
    for (bytes, code) in cases {
        let (mut sender, body) = body();
        sender.send_data(Bytes::from(bytes)).await.unwrap();
        let request = relay.request(Some(&token)).body(body).unwrap();
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        let (messages, status) = read_all(response).await;
        assert_eq!((messages.len(), status.code), (0, code), "{status}");
        relay.until_disconnected().await;

        good.send_data(message(b"hello")).await.unwrap();
        let frame = soon("the neighbour", neighbour.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message(b"hello"));
    }
    // The end inside a message is rubbish as well.
    let (mut sender, cut) = body();
    sender.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1])).await.unwrap();
    drop(sender);
    let response = requests.send_request(relay.request(Some(&token)).body(cut).unwrap()).await.unwrap();
    let (_, status) = read_all(response).await;
    assert_eq!(status, Status::new(Code::Internal, "the stream ended inside a message"));
    relay.stop().await;
}

#[tokio::test]
async fn our_client_refuses_to_send_too_much() {
    let relay = Relay::start().await;
    let (sender, _receiver) = relay.open().await;
    let error = sender.send(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])).await.unwrap_err();
    assert_eq!(code_of(&error), Code::ResourceExhausted);
    relay.stop().await;
}

#[tokio::test]
async fn a_client_that_vanishes_inside_a_message_gives_its_seat_back() {
    let mut relay = Relay::start().await;
    let token = relay.token("home");
    // Once by losing the connection, once by a reset of the stream alone.
    for lost in [true, false] {
        let executor = Spawned::default();
        let (mut requests, _task) = relay.raw_on(executor.clone()).await;
        let (mut sender, body) = body();
        sender.send_data(message(b"whole")).await.unwrap();
        sender.send_data(Bytes::from_static(&[0, 0, 0, 1, 0, 42])).await.unwrap();
        let request = relay.request(Some(&token)).body(body).unwrap();
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        let Seen::Connected(id, _) = relay.next().await else { panic!("connected first") };
        assert_eq!(relay.next().await, Seen::Frame(id, 5));
        if lost {
            executor.0.lock().iter().for_each(AbortHandle::abort);
        } else {
            sender.abort(std::io::Error::other("gone"));
            drop(response);
        }
        assert_eq!(relay.next().await, Seen::Disconnected(id));
    }
    // The relay goes on.
    let (sender, mut receiver) = relay.open().await;
    sender.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon("echo", receiver.next()).await.unwrap().unwrap(), "x");
    relay.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_before_it_is_let_in_gives_its_seat_back() {
    let mut relay = Relay::start().await;
    let token = relay.token("slow");
    let target = relay.target(&token);
    let opening = tokio::spawn(async move { open_stream(&target).await.map(|_| ()) });
    let Seen::Connected(id, _) = relay.next().await else { panic!("connected first") };
    opening.abort();
    assert!(opening.await.unwrap_err().is_cancelled());
    relay.gate.0.release.notify_one();
    assert_eq!(relay.next().await, Seen::Disconnected(id));
    relay.stop().await;
}

#[tokio::test]
async fn a_slow_reader_slows_itself_and_nobody_else() {
    let mut relay = Relay::start().await;
    let (sender, mut receiver) = relay.open().await;
    let frame = Bytes::from(vec![7; 64 * 1024]);
    // Windows, queues and socket buffers together are far below 64 MiB.
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_secs(1), sender.send(frame.clone())).await.is_ok() {
        sent += 1;
        assert!(sent < 1_000, "nothing holds the sender back");
    }
    let (other, mut others) = relay.open().await;
    other.send(Bytes::from_static(b"quick")).await.unwrap();
    assert_eq!(soon("the other client", others.next()).await.unwrap().unwrap(), "quick");
    // Nothing was lost meanwhile.
    for _ in 0..sent {
        assert_eq!(soon("a late frame", receiver.next()).await.unwrap().unwrap(), frame);
    }
    drop((sender, receiver));
    relay.until_disconnected().await;
    relay.stop().await;
}

// spec: G-5, G-6
#[tokio::test]
async fn the_gate_ends_a_stream() {
    let mut relay = Relay::start().await;
    let (sender, mut receiver) = relay.open().await;
    sender.send(Bytes::from_static(b"first")).await.unwrap();
    sender.send(Bytes::from_static(b"close")).await.unwrap();
    assert_eq!(soon("echo", receiver.next()).await.unwrap().unwrap(), "first");
    let error = soon("the end", receiver.next()).await.unwrap_err();
    let TransportError::Status(status) = &error else { panic!("{error:?}") };
    assert_eq!(*status, Status::new(Code::FailedPrecondition, "closed by the gate: 100%\n"));
    relay.until_disconnected().await;

    let (sender, mut receiver) = relay.open().await;
    sender.send(Bytes::from_static(b"drop")).await.unwrap();
    let error = soon("the end", receiver.next()).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    assert!(error.is_retryable());
    relay.until_disconnected().await;
    let closed = soon("a send after the end", async {
        loop {
            if let Err(error) = sender.send(Bytes::from_static(b"x")).await {
                return error;
            }
        }
    });
    assert!(matches!(closed.await, TransportError::Closed));
    relay.stop().await;
}

// spec: G-7
#[tokio::test]
async fn the_clients_deadline_ends_the_call() {
    let mut relay = Relay::start().await;
    let (mut requests, _task) = relay.raw().await;
    let (_sender, waiting) = body();
    let token = relay.token("home");
    let request = relay.request(Some(&token)).header("grpc-timeout", "50m").body(waiting).unwrap();
    let (_, status) = read_all(soon("answer", requests.send_request(request)).await.unwrap()).await;
    assert_eq!(status.code, Code::DeadlineExceeded);
    relay.until_disconnected().await;
    let (_sender, misshapen) = body();
    let request = relay.request(Some(&token)).header("grpc-timeout", "5x").body(misshapen).unwrap();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(status_in(response.headers()).code, Code::Internal);
    // No time at all is over, however fast the answer is.
    for (path, zero) in [(SYNC_PATH, "0S"), (HEALTH_CHECK_PATH, "0n"), (HEALTH_CHECK_PATH, "00000000H")] {
        let request = Request::post(format!("{}{path}", relay.url()))
            .header("content-type", "application/grpc")
            .header("authorization", format!("Bearer {token}"))
            .header("grpc-timeout", zero)
            .body(http_body_util::Full::new(message(&[])))
            .unwrap();
        let io = TokioIo::new(relay.tls(b"h2").await);
        let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(status_in(response.headers()).code, Code::DeadlineExceeded, "{path} {zero}");
    }
    relay.stop().await;
}

// spec: G-10
#[tokio::test]
async fn a_client_that_takes_nothing_of_an_ended_stream_is_cut() {
    let limits = Limits { close_max: Duration::from_millis(50), ..Limits::default() };
    let mut relay = Relay::with(limits).await;
    let (mut requests, task) = relay.raw().await;
    let (mut sender, echoed) = body();
    let token = relay.token("home");
    let request = relay.request(Some(&token)).header("grpc-timeout", "1S").body(echoed).unwrap();
    // More than the client's default window of 64 KiB comes back, and nobody reads it.
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    let feeding = tokio::spawn(async move { while sender.send_data(message(&[1; 32 * 1024])).await.is_ok() {} });
    relay.until_disconnected().await;
    soon("the cut", task).await.unwrap();
    drop(response);
    soon("the end of the body", feeding).await.unwrap();
    relay.stop().await;
}

// spec: G-9
#[tokio::test]
async fn grpc_is_spoken_over_http1_by_nobody() {
    let relay = Relay::start().await;
    let io = TokioIo::new(relay.tls(b"http/1.1").await);
    let (mut requests, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(SYNC_PATH)
        .header("host", "localhost")
        .header("content-type", "application/grpc")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::HTTP_VERSION_NOT_SUPPORTED);
    relay.stop().await;
}

// spec: G-1, G-2, G-3, G-11
#[tokio::test]
async fn wrong_requests_get_the_right_answers() {
    let relay = Relay::start().await;
    let token = relay.token("home");
    let (mut requests, _task) = relay.raw().await;

    for content_type in [None, Some("application/json"), Some("application/grpcx")] {
        let mut request = Request::post(format!("{}{SYNC_PATH}", relay.url()));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let (_sender, body) = body();
        let response = soon("answer", requests.send_request(request.body(body).unwrap())).await.unwrap();
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{content_type:?}");
    }

    for (sent, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("application/grpc+blaze", "application/grpc+blaze"),
    ] {
        let (sender, empty) = body();
        drop(sender);
        let mut request = relay.request(Some(&token)).body(empty).unwrap();
        request.headers_mut().insert("content-type", sent.parse().unwrap());
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.headers()["content-type"], answered);
        assert_eq!(read_all(response).await.1, Status::ok(), "{sent}");
    }

    // 65 header fields that fit the list, and one that does not.
    let mut many = relay.request(Some(&token));
    for number in 0..65 {
        many = many.header(format!("x-{number}"), "1");
    }
    let long = relay.request(Some(&token)).header("x-long", "x".repeat(9_000));
    for request in [many, long] {
        let (_sender, unread) = body();
        let response = soon("answer", requests.send_request(request.body(unread).unwrap())).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    relay.stop().await;
}

// spec: G-9, G-11
#[tokio::test]
async fn strangers_on_the_port_harm_nobody() {
    let limits = Limits { handshake_max: Duration::from_millis(200), ..Limits::default() };
    let relay = Relay::with(limits).await;
    let mut silent = TcpStream::connect(relay.address).await.unwrap();
    for rubbish in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], &[0x16, 3, 1, 0xff, 0xff, 1]] {
        let mut stranger = TcpStream::connect(relay.address).await.unwrap();
        let _ = stranger.write_all(rubbish).await;
        // Whatever comes (an alert, a reset), the end comes soon.
        let mut answer = Vec::new();
        let _ = soon("the end", stranger.read_to_end(&mut answer)).await;
    }
    let mut answer = Vec::new();
    let _ = soon("the handshake's deadline", silent.read_to_end(&mut answer)).await;
    assert!(answer.is_empty());
    let (sender, mut receiver) = relay.open().await;
    sender.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon("echo", receiver.next()).await.unwrap().unwrap(), "x");
    relay.stop().await;
}

// spec: G-11
#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed() {
    let limits = Limits { first_request_max: Duration::from_millis(100), ..Limits::default() };
    let relay = Relay::with(limits).await;
    let (_requests, task) = relay.raw().await;
    soon("the end", task).await.unwrap();
    // One that did ask is left alone for the longer time.
    let (sender, mut receiver) = relay.open().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    sender.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon("echo", receiver.next()).await.unwrap().unwrap(), "x");
    relay.stop().await;
}

// spec: G-11
#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits { idle_max: Duration::from_millis(100), ..Limits::default() };
    let relay = Relay::with(limits).await;
    let (mut requests, task) = relay.raw().await;
    let (_sender, asked) = body();
    let request = relay.request(None).body(asked).unwrap();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(status_in(response.headers()).code, Code::Unauthenticated);
    drop(response);
    soon("the end", task).await.unwrap();
    relay.stop().await;
}

// spec: G-11
#[tokio::test]
async fn one_address_gets_so_many_connections() {
    let limits = Limits { connections_per_address_max: 2, ..Limits::default() };
    let mut relay = Relay::with(limits).await;
    let first = relay.open().await;
    let _second = relay.open().await;
    let error = relay.refused(&relay.token("home")).await;
    assert!(error.is_retryable(), "{error:?}");
    drop(first);
    relay.until_disconnected().await;
    // The place is free once the relay has noticed that the connection, too, has ended.
    let target = relay.target(&relay.token("home"));
    let _third = soon("a free place", async {
        loop {
            if let Ok(opened) = open_stream(&target).await {
                return opened;
            }
        }
    })
    .await;
    relay.stop().await;
}

// spec: G-10
#[tokio::test]
async fn shutdown_says_goodbye() {
    let mut relay = Relay::start().await;
    let (_sender, mut receiver) = relay.open().await;
    let Seen::Connected(id, _) = relay.next().await else { panic!("connected first") };
    let ended = tokio::spawn(async move { receiver.next().await });
    assert_eq!(relay.stop().await, [Seen::Disconnected(id)], "given back before serve returns");
    let error = soon("the end", ended).await.unwrap().unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    assert!(error.to_string().contains("shutting down"), "{error}");
}

#[tokio::test]
async fn what_stops_a_relay_from_starting_is_said() {
    let relay = Relay::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut config =
        ServeConfig { dir: dir.path().to_owned(), listen: relay.address, names: Vec::new(), limits: Limits::default() };
    let error = bind(config.clone()).await.unwrap_err();
    assert!(error.to_string().contains("is in use"), "{error}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let key = dir.path().join(token::KEY_FILE);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        config.listen.set_port(0);
        let error = bind(config).await.unwrap_err();
        assert!(matches!(error, ServeError::Token(_)), "{error:?}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    let address = relay.address;
    let target = relay.target(&relay.token("home"));
    relay.stop().await;
    let error = soon("open", open_stream(&target)).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    assert!(matches!(error, TransportError::Connect { .. }) && error.is_retryable(), "{error:?}");
}
