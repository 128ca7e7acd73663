//! What messages may take: of an address, of the relay. Linux has all of 127.0.0.0/8 for addresses.

use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use tokio::net::TcpSocket;

use super::*;

pub(crate) type Requests = http2::SendRequest<Channel<Bytes, std::io::Error>>;

/// A message of `WHOLE` bytes of which `PART` have come.
const WHOLE: usize = 700 << 10;
const PART: usize = 600 << 10;

/// Connects from an address of its own.
pub(crate) async fn requests_from(relay: &Relay, from: &str) -> Requests {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let tcp = soon("connect", socket.connect(relay.address)).await.unwrap();
    let tls = soon("the handshake", tls_over(relay.dir.path(), tcp, b"h2")).await;
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    requests
}

/// Opens a stream and begins a message.
async fn begin(relay: &Relay, requests: &mut Requests) -> (BodySender<Bytes, std::io::Error>, Response<Incoming>) {
    let (mut sender, body) = body();
    let request = relay.request(Some(&relay.token("home"))).body(body).unwrap();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    let whole = message(&[7; WHOLE]);
    for piece in whole.slice(..PART).chunks(16 << 10) {
        // Whoever is refused takes no more.
        if soon("a piece", sender.send_data(Bytes::copy_from_slice(piece))).await.is_err() {
            break;
        }
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    (sender, response)
}

// spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_share_the_memory_of_an_address_and_of_the_relay() {
    let wide = Limits { room_wait_max: Duration::from_millis(200), ..Limits::default() };
    let (small, large) = (1 << 20, 8 << 20);
    let coming = |address, relay| Limits { coming_bytes: Room { address, relay }, ..wide.clone() };
    for (limits, other, refused, what) in [
        (coming(small, large), None, true, "of one connection"),
        (coming(small, large), Some("127.0.0.1"), true, "of one address"),
        (coming(small, large), Some("127.0.0.2"), false, "of two addresses"),
        (coming(large, small), Some("127.0.0.2"), true, "of all"),
        (coming(large, large), None, false, "below the limits"),
        (wide.clone(), None, false, "usual ones"),
    ] {
        let relay = Relay::with(limits).await;
        let mut one = requests_from(&relay, "127.0.0.1").await;
        let (mut sender, response) = begin(&relay, &mut one).await;
        let mut two = match other {
            Some(from) => requests_from(&relay, from).await,
            None => one.clone(),
        };
        let (_second, second_response) = begin(&relay, &mut two).await;
        if refused {
            let (messages, status) = read_all(second_response).await;
            assert_eq!((messages.len(), status.code), (0, Code::ResourceExhausted), "{what}");
            assert!(status.message.contains("come back"), "{what}: {status}");
        }
        // Whoever says little is heard meanwhile.
        let (mut short, body) = body();
        let request = relay.request(Some(&relay.token("home"))).body(body).unwrap();
        let answer = soon("answer", two.send_request(request)).await.unwrap();
        short.send_data(message(b"hello")).await.unwrap();
        drop(short);
        assert_eq!(read_all(answer).await.0, [&b"hello"[..]], "{what}");
        // And the first goes on, and gets its whole message back.
        sender.send_data(message(&[7; WHOLE]).slice(PART..)).await.unwrap();
        drop(sender);
        let (messages, status) = read_all(response).await;
        assert_eq!((messages.len(), messages[0].len(), status.code), (1, WHOLE, Code::Ok), "{what}");
        relay.stop().await;
    }
}

/// Sends one message, in pieces, and reads it back.
pub(crate) async fn pushed(request: http::request::Builder, mut requests: Requests, length: usize) -> (usize, Status) {
    let (mut sender, body) = body();
    let response = soon("answer", requests.send_request(request.body(body).unwrap())).await.unwrap();
    for piece in message(&vec![7; length]).chunks(16 << 10) {
        if sender.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    drop(sender);
    let (messages, status) = read_all(response).await;
    (messages.iter().map(Bytes::len).sum(), status)
}

// What comes for one is not what lies there for another. spec: G-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_which_nothing_comes_slows_no_other_of_its_connection() {
    let limits = Limits {
        connection_window_bytes: 65_535,
        stranger_bytes_max: 16 << 10,
        stranger_bytes_per_second: 256,
        ..Limits::default()
    };
    let relay = Relay::with(limits).await;
    let mut requests = requests_from(&relay, "127.0.0.1").await;
    let mut open = Vec::new();
    for _ in 0..2 {
        let (mut sender, body) = body();
        let request = relay.request(Some(&relay.token("home"))).body(body).unwrap();
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        sender.send_data(message(b"hello")).await.unwrap();
        open.push((sender, response));
    }
    let (mut busy, answers) = open.pop().unwrap();
    let (mut answers, mut decoder, mut came) = (answers.into_body(), MessageDecoder::default(), 0);
    // Nine bytes of each belong to no message: more than a window in all, and than what comes at once then.
    let begun = tokio::time::Instant::now();
    for round in 1..=800 {
        for _ in 0..16 {
            busy.send_data(message(b"ping")).await.unwrap();
        }
        while came < 1 + 16 * round {
            let chunk = soon("an answer", answers.frame()).await.unwrap().unwrap().into_data().unwrap();
            decoder.push(chunk);
            came += std::iter::from_fn(|| decoder.poll_message().unwrap()).count();
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop((open, busy));
    relay.stop().await;
}

// Each of them would hold a part and wait for the rest. spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_share_a_room_come_one_after_another_and_all_of_them() {
    let room = Room { address: 4 << 20, relay: 8 << 20 };
    for (limits, connections, streams, length) in [
        (Limits { coming_bytes: room, ..Limits::default() }, 24, 1, 600 << 10),
        (Limits::default(), 64, 1, 1_060 << 10),
        (Limits::default(), 1, 32, 900 << 10),
    ] {
        let relay = Relay::with(limits).await;
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let requests = requests_from(&relay, "127.0.0.1").await;
            for _ in 0..streams {
                all.spawn(pushed(relay.request(Some(&relay.token("home"))), requests.clone(), length));
            }
        }
        while let Some(one) = all.join_next().await {
            assert_eq!(one.unwrap(), (length, Status::ok()), "{connections} connections, {streams} streams");
        }
        relay.stop().await;
    }
}

// What they may become is not counted before it has come whole, nor beside what is coming. spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_messages_are_counted_as_they_travel_and_then_as_what_they_are() {
    let room = |bytes| Room { address: bytes, relay: bytes };
    let wait = Duration::from_millis(300);
    let limits = |coming, inflated| Limits {
        coming_bytes: room(coming),
        inflated_bytes: room(inflated),
        room_wait_max: wait,
        ..Limits::default()
    };
    let packed = |bytes: &[u8]| {
        let packed = blazedb_wire::grpc::Encoding::Gzip.deflate(bytes).unwrap();
        let mut message = blazedb_wire::grpc::encode_packed(packed).unwrap();
        message.copy_to_bytes(message.remaining())
    };
    let noise: Vec<u8> = (0..100_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()).collect();
    for (limits, answered) in [(limits(8 << 20, 1 << 20), 16), (limits(8 << 20, 100_000), 0)] {
        let relay = Relay::with(limits).await;
        let mut requests = requests_from(&relay, "127.0.0.1").await;
        let (whole, mut all) = (packed(&noise), Vec::new());
        assert!(whole.len() > 100_000, "{}", whole.len());
        for _ in 0..16 {
            let (mut sender, body) = body();
            let request = relay.request(Some(&relay.token("home"))).header("grpc-encoding", "gzip").body(body).unwrap();
            let response = soon("answer", requests.send_request(request)).await.unwrap();
            // All of them are on their way at one time, and none is whole.
            sender.send_data(whole.slice(..whole.len() / 20)).await.unwrap();
            all.push((sender, response));
        }
        tokio::time::sleep(2 * wait).await;
        let mut came = 0;
        for (mut sender, response) in all {
            let rest = whole.slice(whole.len() / 20..);
            for piece in rest.chunks(16 << 10) {
                // Whoever is refused takes no more.
                if sender.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                    break;
                }
            }
            drop(sender);
            let (messages, status) = read_all(response).await;
            assert_eq!(status.code, if messages.is_empty() { Code::ResourceExhausted } else { Code::Ok }, "{status}");
            came += usize::from(messages == [&noise[..]]);
        }
        assert_eq!(came, answered);
        relay.stop().await;
    }
}

// spec: L-23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_lost_to_who_holds_less() {
    let room = Room { address: 1 << 20, relay: 1 << 20 };
    let grace = Duration::from_millis(200);
    let relay = Relay::with(Limits { coming_bytes: room, room_grace: grace, ..Limits::default() }).await;
    let mut one = requests_from(&relay, "127.0.0.1").await;
    let (mut sender, response) = begin(&relay, &mut one).await;
    let two = requests_from(&relay, "127.0.0.2").await;
    // As much as the first holds: that goes on.
    let request = || relay.request(Some(&relay.token("home")));
    let waits = tokio::spawn(pushed(request(), two.clone(), WHOLE));
    tokio::time::sleep(2 * grace).await;
    assert!(!waits.is_finished());
    sender.send_data(Bytes::from_static(b"goes on")).await.expect("it is not lost");
    waits.abort();
    // Less than it holds.
    let begun = tokio::time::Instant::now();
    assert_eq!(pushed(request(), two, WHOLE / 2).await, (WHOLE / 2, Status::ok()));
    assert!(begun.elapsed() >= grace, "not at once: {:?}", begun.elapsed());
    let (messages, status) = read_all(response).await;
    assert_eq!((messages.len(), status.code), (0, Code::ResourceExhausted), "{status}");
    assert!(status.message.contains("come back"), "{status}");
    relay.stop().await;
}

/// A connection that can be left alone: then nobody reads its socket.
struct Frozen<F>(Pin<Box<F>>, Arc<AtomicBool>);

impl<F: Future> Future for Frozen<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.1.load(Ordering::Relaxed) { Poll::Pending } else { self.0.as_mut().poll(cx).map(drop) }
    }
}

/// Runs what hyper spawns, the socket among it, until it is left alone.
#[derive(Clone)]
struct Freezing(Arc<AtomicBool>);

impl<F: Future + Send + 'static> hyper::rt::Executor<F> for Freezing {
    fn execute(&self, future: F) {
        tokio::spawn(Frozen(Box::pin(future), Arc::clone(&self.0)));
    }
}

// spec: G-11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_client_reads_nothing_takes_its_send_buffer_and_no_more() {
    const STREAMS: usize = 32;
    let relay = Relay::start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 << 10).unwrap();
    let tcp = soon("connect", socket.connect(relay.address)).await.unwrap();
    let tls = tls_over(relay.dir.path(), tcp, b"h2").await;
    let frozen = Arc::new(AtomicBool::new(false));
    let (mut requests, connection) = http2::Builder::new(Freezing(Arc::clone(&frozen)))
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(256 << 20)
        .handshake(TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(Frozen(Box::pin(connection), Arc::clone(&frozen)));
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let (sender, body) = body();
        let request = relay.request(Some(&relay.token("home"))).body(body).unwrap();
        open.push((sender, soon("answer", requests.send_request(request)).await.unwrap()));
    }
    frozen.store(true, Ordering::Relaxed);
    let senders: Vec<_> = relay.gate.0.open.lock().values().cloned().collect();
    assert_eq!(senders.len(), STREAMS);
    let mut taken = 0;
    for sender in &senders {
        let frame = Bytes::from(vec![7; 16 << 10]);
        while let Ok(sent) =
            tokio::time::timeout(Duration::from_millis(300), sender.send(Outbound::Frame(frame.clone()))).await
        {
            sent.unwrap();
            taken += frame.len();
        }
    }
    // Each has its buffer, one message and four in the channel of the gate; the connection has TLS and the kernel.
    let of_one = Limits::default().send_buffer_bytes_max + (16 << 10) + 4 * (16 << 10);
    assert_eq!(Limits::default().send_buffer_bytes_max, 64 << 10);
    assert!(taken > STREAMS * (32 << 10), "{taken}");
    assert!(taken < STREAMS * of_one + (6 << 20), "{taken}");
    drop(open);
}
