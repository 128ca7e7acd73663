//! Our client's calls of every kind, over its pool, against our relay.

use super::*;

use blazedb::transport::{CallOptions, Client, ClientOptions, Health};

const WATCH: &str = "/grpc.health.v1.Health/Watch";

impl Relay {
    fn client(&self) -> Client {
        Client::new(self.target(&self.token("home")), ClientOptions::default())
    }
}

// spec: G-14, G-21
#[tokio::test]
async fn unary_calls_share_a_few_connections() {
    let relay = Relay::start().await;
    let target = Target::anonymous(&relay.url(), &relay.pin()).unwrap();
    let client = Client::new(target, ClientOptions::default());
    let plain = CallOptions::new();
    assert_eq!(soon("check", client.check("", &plain)).await.unwrap(), Health::Serving);
    let error = soon("check", client.check("other", &plain)).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::NotFound);
    let error = soon("call", client.unary("/blaze.v1.Relay/Nothing", Bytes::new(), &plain)).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::Unimplemented);
    assert!(error.to_string().contains("no relay of this version") && !error.is_retryable(), "{error}");
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.check("blaze.v1.Relay", &CallOptions::new().compressed()).await })
        })
        .collect();
    for call in calls {
        assert_eq!(soon("check", call).await.unwrap().unwrap(), Health::Serving);
    }
    let stats = client.stats();
    assert_eq!((stats.connections_failed, stats.calls_open, stats.calls_waiting), (0, 0, 0));
    assert!((1..=4).contains(&stats.connections_made), "{stats:?}");
    assert!(relay.stop().await.is_empty(), "the gate hears nothing of it");
}

// spec: G-7, G-10
#[tokio::test]
async fn streams_of_every_kind() {
    let mut relay = Relay::start().await;
    let client = relay.client();
    let plain = CallOptions::new();

    // Messages in both directions, on one connection with other calls.
    let (requests, mut answers) = soon("open", client.streaming(SYNC_PATH, &plain)).await.unwrap();
    for size in [0, 1, 300, 20_000, 100_000] {
        soon("send", requests.send(Bytes::from(vec![7; size]))).await.unwrap();
        assert_eq!(soon("echo", answers.next()).await.unwrap().unwrap().len(), size);
        assert_eq!(soon("check", client.check("", &plain)).await.unwrap(), Health::Serving);
    }
    drop(requests);
    assert_eq!(soon("the end", answers.next()).await.unwrap(), None);
    assert!(answers.trailers().is_some());
    assert_eq!(client.stats().connections_made, 1);

    // Many messages and one answer.
    let (requests, answers) = soon("open", client.streaming(SYNC_PATH, &plain)).await.unwrap();
    requests.send(Bytes::from_static(b"one")).await.unwrap();
    drop(requests);
    assert_eq!(soon("the answer", answers.only()).await.unwrap().message, "one");

    // One message and many answers, until its time is over.
    let options = CallOptions::new().timeout(Duration::from_millis(300));
    let mut watch = soon("watch", client.server_streaming(WATCH, Bytes::new(), &options)).await.unwrap();
    assert_eq!(soon("health", watch.next()).await.unwrap().unwrap()[..], [8, 1]);
    let error = soon("its end", watch.next()).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::DeadlineExceeded);
    assert_eq!(soon("after the end", watch.next()).await.unwrap(), None, "an error is final");

    // How the relay ends a stream is told, with its text.
    let (requests, mut answers) = soon("open", client.streaming(SYNC_PATH, &plain)).await.unwrap();
    requests.send(Bytes::from_static(b"close")).await.unwrap();
    let error = soon("the status", answers.next()).await.unwrap_err();
    assert_eq!(error.status().unwrap().message, "closed by the gate: 100%\n");

    // Given up: the relay lets go of it.
    let (requests, answers) = soon("open", client.streaming(SYNC_PATH, &plain)).await.unwrap();
    requests.send(Bytes::from_static(b"x")).await.unwrap();
    while relay.next().await != Seen::Frame(ConnId(4), 1) {}
    drop(answers);
    while relay.until_disconnected().await != ConnId(4) {}
    let ended = async { while requests.send(Bytes::from_static(b"x")).await.is_ok() {} };
    soon("its sender is told", ended).await;
    assert_eq!(client.stats().calls_open, 0);
    relay.stop().await;
}

#[tokio::test]
async fn a_client_is_drained_after_its_last_call() {
    let relay = Relay::start().await;
    let client = relay.client();
    let (requests, mut answers) = soon("open", client.streaming(SYNC_PATH, &CallOptions::new())).await.unwrap();
    requests.send(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(soon("echo", answers.next()).await.unwrap().unwrap(), "x");
    let mut drained = tokio::spawn({
        let client = client.clone();
        async move { client.drain().await }
    });
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut drained).await.is_err(), "a call is open");
    let error = soon("check", client.check("", &CallOptions::new())).await.unwrap_err();
    assert!(matches!(error.error(), TransportError::Closed) && error.is_unprocessed());
    requests.send(Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(soon("echo", answers.next()).await.unwrap().unwrap(), "y", "it goes on meanwhile");
    drop(requests);
    assert_eq!(soon("the end", answers.next()).await.unwrap(), None);
    soon("drained", drained).await.unwrap();
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_comes_back_is_found_again() {
    let relay = Relay::start().await;
    let (address, dir) = (relay.address, tempfile::tempdir().unwrap());
    for name in ["auth.key", "tls.key", "tls.crt"] {
        std::fs::copy(relay.dir.path().join(name), dir.path().join(name)).unwrap();
    }
    let client = relay.client();
    assert_eq!(soon("check", client.check("", &CallOptions::new())).await.unwrap(), Health::Serving);
    relay.stop().await;
    let waits = tokio::spawn({
        let client = client.clone();
        async move { client.check("", &CallOptions::new().timeout(HANG)).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let config =
        ServeConfig { dir: dir.path().to_owned(), listen: address, names: Vec::new(), limits: Limits::default() };
    let gate = Echo(Arc::new(EchoInner {
        next: AtomicU64::new(1),
        open: Mutex::default(),
        seen: mpsc::unbounded_channel().0,
        release: Notify::new(),
    }));
    let (stop, stopped) = oneshot::channel::<()>();
    let back = tokio::spawn(bind(config).await.unwrap().serve(gate, async {
        let _ = stopped.await;
    }));
    assert_eq!(soon("the call that waited", waits).await.unwrap().unwrap(), Health::Serving);
    let _ = stop.send(());
    soon("shutdown", back).await.unwrap();
}
