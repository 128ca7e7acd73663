//! Sessions through proxies that do not pass gRPC: they go over WebSocket.

use hyper::service::service_fn;

use super::*;

/// What a proxy makes of HTTP/2. It passes HTTP/1.1 as it comes, WebSockets with it, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ways {
    /// It does not offer it.
    None,
    /// It cannot reach anything by it.
    BadGateway,
    /// It answers with a page of its own.
    Page,
    /// It resets every stream.
    Resets,
    /// It takes the call, and keeps its answer until the call ends.
    Keeps,
    /// It passes neither this nor WebSocket.
    Nothing,
    /// It passes it, and HTTP/1.1 is not offered any more.
    Only,
    /// It passes it, and hangs up on HTTP/1.1.
    Better,
}

/// A proxy in front of a relay, whose key it has.
struct Proxy {
    url: String,
    /// Connections that chose HTTP/2, and HTTP/1.1.
    seen: Arc<[AtomicU64; 2]>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start(relay: &Relay, ways: Ways) -> Self {
        Self::start_at(relay, ways, "127.0.0.1:0").await
    }

    async fn start_at(relay: &Relay, ways: Ways, address: &str) -> Self {
        let pem = |name: &str| std::fs::read(relay.dir.path().join(name)).unwrap();
        let certificate = CertificateDer::from_pem_slice(&pem("tls.crt")).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&pem("tls.key")).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let protocols: &[&[u8]] = match ways {
            Ways::None => &[b"http/1.1"],
            Ways::Only => &[b"h2"],
            _ => &[b"h2", b"http/1.1"],
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let dir = relay.dir.path().to_owned();
        let behind = relay.address;
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let seen: Arc<[AtomicU64; 2]> = Arc::default();
        let counted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, dir, counted) = (acceptor.clone(), dir.clone(), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                        counted[0].fetch_add(1, Ordering::Relaxed);
                        if matches!(ways, Ways::Only | Ways::Better) {
                            return pass(tls, &dir, behind, b"h2").await;
                        }
                        let service = service_fn(move |request| answer(ways, request));
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(TokioIo::new(tls), service).await;
                    } else if ways != Ways::Nothing {
                        counted[1].fetch_add(1, Ordering::Relaxed);
                        if ways != Ways::Better {
                            pass(tls, &dir, behind, b"http/1.1").await;
                        }
                    }
                });
            }
        });
        Self { url, seen, task }
    }

    fn target(&self, relay: &Relay, token: &str) -> Target {
        Target::new(&self.url, &relay.pin(), token).unwrap()
    }

    fn seen(&self) -> [u64; 2] {
        [0, 1].map(|at| self.seen[at].load(Ordering::Relaxed))
    }
}

async fn answer(ways: Ways, _: Request<Incoming>) -> Result<Response<Channel<Bytes>>, std::io::Error> {
    let (sender, channel) = Channel::new(1);
    let response = match ways {
        Ways::Resets | Ways::Nothing | Ways::Only | Ways::Better => return Err(std::io::Error::other("not here")),
        Ways::BadGateway | Ways::None => Response::builder().status(StatusCode::BAD_GATEWAY),
        Ways::Page => Response::builder().header("content-type", "text/html"),
        Ways::Keeps => {
            tokio::spawn(async move {
                tokio::time::sleep(HANG).await;
                drop(sender);
            });
            Response::builder().header("content-type", "application/grpc")
        }
    };
    Ok(response.body(channel).unwrap())
}

/// Passes bytes both ways, between two encrypted connections.
async fn pass(mut near: tokio_rustls::server::TlsStream<TcpStream>, dir: &Path, behind: SocketAddr, protocol: &[u8]) {
    let mut far = tls_to(dir, behind, protocol).await;
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

/// Sends frames of many sizes and gets them back.
async fn echoes(relay: &mut Relay, (sender, mut receiver): (FrameSender, FrameReceiver)) {
    assert!(receiver.is_websocket());
    for size in [0, 1, 125, 126, 65_535, 65_536, 1_000_000, MESSAGE_BYTES_MAX, 7] {
        let frame = Bytes::from((0..size).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
        soon("a send", sender.send(frame.clone())).await.unwrap();
        let back = soon("an echo", receiver.next()).await.unwrap();
        assert!(back.is_some_and(|back| back == frame), "{size}");
    }
    let long = sender.send(Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1])).await.unwrap_err();
    assert_eq!(code_of(&long), Code::ResourceExhausted);
    // What was sent before the end gets there, and the relay hears of the end at once.
    sender.send(Bytes::from_static(b"last")).await.unwrap();
    drop((sender, receiver));
    let mut last = 0;
    loop {
        match relay.next().await {
            Seen::Frame(_, bytes) => last = bytes,
            Seen::Disconnected(_) => break,
            _ => {}
        }
    }
    assert_eq!(last, 4);
}

// spec: G-23
#[tokio::test]
async fn where_http2_does_not_get_through_a_session_goes_over_websocket() {
    for ways in [Ways::None, Ways::BadGateway, Ways::Page, Ways::Resets] {
        let mut relay = Relay::start().await;
        let proxy = Proxy::start(&relay, ways).await;
        let target = proxy.target(&relay, &relay.token("home"));
        let first = soon("open", open_stream(&target)).await.unwrap_or_else(|error| panic!("{ways:?}: {error:?}"));
        echoes(&mut relay, first).await;
        let once = u64::from(ways != Ways::None);
        assert_eq!(proxy.seen(), [once, 1], "{ways:?}");
        // What was learnt is remembered, by clones as well.
        let second = soon("open", open_stream(&target.clone())).await.unwrap();
        echoes(&mut relay, second).await;
        assert_eq!(proxy.seen(), [once, 2], "{ways:?}");
        relay.stop().await;
    }
}

// spec: G-23
#[tokio::test]
async fn a_session_that_hears_nothing_goes_another_way_next_time() {
    let mut relay = Relay::start().await;
    let proxy = Proxy::start(&relay, Ways::Keeps).await;
    let target = proxy.target(&relay, &relay.token("home"));
    let (sender, mut receiver) = soon("open", open_stream(&target)).await.unwrap();
    assert!(!receiver.is_websocket());
    sender.send(Bytes::from_static(b"anybody?")).await.unwrap();
    let nothing = tokio::time::timeout(Duration::from_secs(6), receiver.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    drop((sender, receiver));
    let second = soon("open", open_stream(&target)).await.unwrap();
    echoes(&mut relay, second).await;
    assert_eq!(proxy.seen(), [1, 1]);
    relay.stop().await;
}

// spec: G-23
#[tokio::test]
async fn a_session_comes_back_from_its_detour_where_only_http2_is_spoken() {
    for ways in [Ways::Only, Ways::Better] {
        let mut relay = Relay::start().await;
        let before = Proxy::start(&relay, Ways::BadGateway).await;
        let target = before.target(&relay, &relay.token("home"));
        let first = soon("open", open_stream(&target)).await.unwrap();
        echoes(&mut relay, first).await;
        // The proxy is replaced by one that passes no WebSocket. What was learnt has become wrong.
        let address = before.url["https://".len()..].to_owned();
        drop(before);
        let after = loop {
            // The task that listens ends soon after it is aborted.
            tokio::task::yield_now().await;
            if TcpListener::bind(&address).await.is_ok() {
                break Proxy::start_at(&relay, ways, &address).await;
            }
        };
        for round in 1..=2 {
            let (sender, mut receiver) = soon("open", open_stream(&target)).await.unwrap();
            assert!(!receiver.is_websocket(), "{ways:?}");
            sender.send(Bytes::from_static(b"back again")).await.unwrap();
            assert_eq!(soon("an echo", receiver.next()).await.unwrap().unwrap(), "back again");
            let tried = u64::from(ways == Ways::Better);
            assert_eq!(after.seen(), [round, tried], "{ways:?}: the detour is tried once, and not remembered");
            drop((sender, receiver));
            relay.until_disconnected().await;
        }
        relay.stop().await;
    }
}

// spec: G-23
#[tokio::test]
async fn where_nothing_gets_through_the_first_error_is_told() {
    let relay = Relay::start().await;
    let proxy = Proxy::start(&relay, Ways::Nothing).await;
    let target = proxy.target(&relay, &relay.token("home"));
    for round in 1..=2 {
        let error = soon("open", open_stream(&target)).await.map(|_| ()).unwrap_err();
        assert!(matches!(error, TransportError::Http(_)) && error.is_retryable(), "{error:?}");
        assert_eq!(proxy.seen(), [round, 0], "HTTP/2 goes first again");
    }
    relay.stop().await;
}

// spec: G-8, G-18, G-19, G-23
#[tokio::test]
async fn over_a_websocket_a_refusal_is_the_first_that_is_heard() {
    let mut relay = Relay::start().await;
    let proxy = Proxy::start(&relay, Ways::None).await;
    for (token, code) in [("a.b.c".to_owned(), Code::Unauthenticated), (relay.token("locked"), Code::PermissionDenied)]
    {
        let (_sender, mut receiver) = soon("open", open_stream(&proxy.target(&relay, &token))).await.unwrap();
        let error = soon("an end", receiver.next()).await.unwrap_err();
        assert_eq!(code_of(&error), code);
        assert!(!error.is_retryable(), "{error}");
    }
    let open = async |frame: &'static [u8]| {
        let target = proxy.target(&relay, &relay.token("home"));
        let (sender, receiver) = soon("open", open_stream(&target)).await.unwrap();
        sender.send(Bytes::from_static(frame)).await.unwrap();
        (sender, receiver)
    };
    let (sender, mut receiver) = open(b"close").await;
    let error = soon("an end", receiver.next()).await.unwrap_err();
    let TransportError::Status(status) = &error else { panic!("{error:?}") };
    assert_eq!((status.code, status.message.as_str()), (Code::FailedPrecondition, "closed by the gate: 100%\n"));
    let closed = async {
        while sender.send(Bytes::from_static(b"more")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon("the other half ends", closed).await;
    let (_sender, mut receiver) = open(b"drop").await;
    let error = soon("an end", receiver.next()).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Unavailable);
    assert!(error.is_retryable());
    relay.until_disconnected().await;
    relay.stop().await;
}
