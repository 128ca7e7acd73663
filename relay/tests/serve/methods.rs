//! Methods beside the relay's own: gRPC's interoperability list, called by our own client. tonic calls the same in
//! `.ci/clients`.

#[path = "../../examples/interop/service.rs"]
mod service;

use blazedb::transport::{Answer, CallError, CallOptions, Client, ClientOptions, Metadata};
use blazedb_wire::grpc::METADATA_BYTES_MAX;

use super::*;

const SERVICE: &str = "/grpc.testing.TestService/";

/// A relay with the interoperability service behind it.
struct Interop {
    dir: tempfile::TempDir,
    address: SocketAddr,
    client: Client,
    target: Target,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Interop {
    async fn start(change: impl FnOnce(&mut Limits)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut limits =
            Limits { stranger_bytes_max: 64 << 20, stranger_bytes_per_second: 64 << 20, ..Limits::default() };
        change(&mut limits);
        let listen = "127.0.0.1:0".parse().unwrap();
        let bound = bind(ServeConfig { dir: dir.path().to_owned(), listen, names: Vec::new(), limits }).await.unwrap();
        let address = bound.address();
        let url = format!("https://{address}");
        let trust = Trust::Fingerprint(bound.fingerprint().0);
        let target = Target::anonymous(&url, &trust).unwrap();
        let client = Client::new(target.clone(), ClientOptions::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(bound.serve(service::Interop, async {
            let _ = stopped.await;
        }));
        Self { dir, address, client, target, stop, task }
    }

    async fn unary(&self, method: &str, message: Vec<u8>, options: &CallOptions) -> Result<Answer, CallError> {
        let path = format!("{SERVICE}{method}");
        soon(method, self.client.unary(&path, Bytes::from(message), options)).await
    }

    async fn stop(self) {
        assert_eq!(self.client.stats().calls_open, 0, "no call is left");
        let _ = self.stop.send(());
        soon("shutdown", self.task).await.unwrap();
    }
}

/// Appends field `number` of protobuf: bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    out.extend(varint(bytes.len()));
    out.extend(bytes);
    out
}

/// Returns field `number` of protobuf: a number.
fn number(number: u8, value: usize) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Returns a response whose payload is so many zeros.
fn payload(size: usize) -> Vec<u8> {
    field(1, &field(2, &vec![0; size]))
}

fn asks_for(size: usize, sent: usize) -> Vec<u8> {
    [field(2, &number(1, size)), field(3, &field(2, &vec![0; sent]))].concat()
}

// spec: G-22
#[tokio::test]
async fn unary_methods() {
    let server = Interop::start(|_| {}).await;
    let plain = CallOptions::new();
    assert_eq!(server.unary("EmptyCall", Vec::new(), &plain).await.unwrap().message, "");
    // large_unary: 271,828 bytes there, 314,159 back; and as much as a message holds.
    for (sent, size) in [(271_828, 314_159), (0, 0), (10, 4 * 1024 * 1024 - 64)] {
        let request = [number(2, size), field(3, &field(2, &vec![0; sent]))].concat();
        assert!(server.unary("UnaryCall", request, &plain).await.unwrap().message == payload(size), "{size}");
    }
    // Compressed, once the server has said what it reads.
    let request = [number(2, 5), field(3, &field(2, &vec![0; 100_000]))].concat();
    assert!(server.unary("UnaryCall", request, &CallOptions::new().compressed()).await.unwrap().message == payload(5));
    // custom_metadata
    let mut metadata = Metadata::new();
    metadata.append_text("x-grpc-test-echo-initial", "test_initial_metadata_value").unwrap();
    metadata.append_binary("x-grpc-test-echo-trailing-bin", &b"\xab\xab\xab"[..]).unwrap();
    let answer = server.unary("UnaryCall", number(2, 1), &CallOptions::new().metadata(metadata)).await.unwrap();
    assert_eq!(answer.metadata.text("x-grpc-test-echo-initial"), Some("test_initial_metadata_value"));
    assert_eq!(answer.trailers.binary("x-grpc-test-echo-trailing-bin").unwrap()[..], [0xab; 3]);
    // status_code_and_message, special_status_message
    let special = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    for text in ["test status message", special] {
        let status = field(7, &[number(1, 2), field(2, text.as_bytes())].concat());
        let error = server.unary("UnaryCall", status, &plain).await.unwrap_err();
        assert_eq!(error.status(), Some(&Status::new(Code::Unknown, text)));
    }
    // unimplemented_method, unimplemented_service
    let error = server.unary("UnimplementedCall", Vec::new(), &plain).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::Unimplemented);
    let path = "/grpc.testing.UnimplementedService/UnimplementedCall";
    let error = soon("call", server.client.unary(path, Bytes::new(), &plain)).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::Unimplemented);
    // A message that is none, none at all, and two.
    let error = server.unary("UnaryCall", vec![0xff], &plain).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::InvalidArgument);
    for messages in [0, 2] {
        let path = format!("{SERVICE}UnaryCall");
        let (requests, answers) = soon("open", server.client.streaming(&path, &plain)).await.unwrap();
        for _ in 0..messages {
            requests.send(Bytes::new()).await.unwrap();
        }
        drop(requests);
        let error = soon("a refusal", answers.only()).await.unwrap_err();
        assert_eq!(error.status().unwrap().code, Code::Internal, "{messages} messages");
    }
    server.stop().await;
}

// spec: G-22
#[tokio::test]
async fn streaming_methods() {
    let server = Interop::start(|_| {}).await;
    let open = async |method: &str, options: &CallOptions| {
        let path = format!("{SERVICE}{method}");
        soon("open", server.client.streaming(&path, options)).await.unwrap()
    };
    let plain = CallOptions::new();
    let sizes = [31_415, 9, 2_653, 58_979];
    // client_streaming
    let (requests, answers) = open("StreamingInputCall", &plain).await;
    for size in [27_182, 8, 1_828, 45_904] {
        requests.send(Bytes::from(field(1, &field(2, &vec![0; size])))).await.unwrap();
    }
    drop(requests);
    assert_eq!(soon("the sum", answers.only()).await.unwrap().message, number(1, 74_922));
    // server_streaming
    let request: Vec<u8> = sizes.iter().flat_map(|&size| field(2, &number(1, size))).collect();
    let path = format!("{SERVICE}StreamingOutputCall");
    let mut answers = soon("open", server.client.server_streaming(&path, request.into(), &plain)).await.unwrap();
    for size in sizes {
        assert!(soon("a message", answers.next()).await.unwrap().unwrap() == payload(size));
    }
    assert_eq!(soon("the end", answers.next()).await.unwrap(), None);
    // ping_pong, with metadata
    let mut metadata = Metadata::new();
    metadata.append_text("x-grpc-test-echo-initial", "one").unwrap();
    metadata.append_binary("x-grpc-test-echo-trailing-bin", &b"\0\x01"[..]).unwrap();
    let (requests, mut answers) = open("FullDuplexCall", &CallOptions::new().metadata(metadata)).await;
    assert_eq!(soon("the head", answers.metadata()).await.unwrap().text("x-grpc-test-echo-initial"), Some("one"));
    for (size, sent) in sizes.into_iter().zip([27_182, 8, 1_828, 45_904]) {
        requests.send(Bytes::from(asks_for(size, sent))).await.unwrap();
        assert!(soon("a pong", answers.next()).await.unwrap().unwrap() == payload(size));
    }
    drop(requests);
    assert_eq!(soon("the end", answers.next()).await.unwrap(), None);
    assert_eq!(answers.trailers().unwrap().binary("x-grpc-test-echo-trailing-bin").unwrap()[..], [0, 1]);
    // empty_stream
    let (requests, mut answers) = open("FullDuplexCall", &plain).await;
    drop(requests);
    assert_eq!(soon("the end", answers.next()).await.unwrap(), None);
    // timeout_on_sleeping_server
    let (requests, mut answers) = open("FullDuplexCall", &CallOptions::new().timeout(Duration::from_millis(50))).await;
    requests.send(Bytes::from(field(3, &field(2, &[0; 27_182])))).await.unwrap();
    let error = soon("its time", answers.next()).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::DeadlineExceeded);
    // cancel_after_begin, cancel_after_first_response
    drop(open("StreamingInputCall", &plain).await);
    let (requests, mut answers) = open("FullDuplexCall", &plain).await;
    requests.send(Bytes::from(asks_for(31_415, 27_182))).await.unwrap();
    assert!(soon("a pong", answers.next()).await.unwrap().unwrap() == payload(31_415));
    drop(answers);
    // A status in the middle of a stream.
    let (requests, mut answers) = open("FullDuplexCall", &plain).await;
    requests.send(Bytes::from(asks_for(5, 0))).await.unwrap();
    assert!(soon("a pong", answers.next()).await.unwrap().unwrap() == payload(5));
    let status = field(7, &[number(1, 2), field(2, b"test status message")].concat());
    requests.send(Bytes::from(status)).await.unwrap();
    let error = soon("a status", answers.next()).await.unwrap_err();
    assert_eq!(error.status(), Some(&Status::new(Code::Unknown, "test status message")));
    server.stop().await;
}

// spec: G-22
#[tokio::test]
async fn a_call_of_a_method_ends_when_nobody_takes_it_and_when_the_relay_goes() {
    let server = Interop::start(|limits| limits.stall_max = Duration::from_millis(300)).await;
    // 20 MB that nobody takes, through a window of 256 KiB.
    let request: Vec<u8> = (0..5).flat_map(|_| field(2, &number(1, 4_000_000))).collect();
    let path = format!("{SERVICE}StreamingOutputCall");
    let plain = CallOptions::new();
    let mut stalled = soon("open", server.client.server_streaming(&path, request.into(), &plain)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let ended = async {
        loop {
            match stalled.next().await {
                Ok(Some(_)) => {}
                end => return end.map(drop),
            }
        }
    };
    let error = soon("its end", ended).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::ResourceExhausted, "{error}");

    let path = format!("{SERVICE}FullDuplexCall");
    let (_requests, mut answers) = soon("open", server.client.streaming(&path, &plain)).await.unwrap();
    soon("the head", answers.metadata()).await.unwrap();
    let Interop { stop, task, .. } = server;
    let _ = stop.send(());
    let error = soon("the end", answers.next()).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::Unavailable, "{error}");
    drop(answers);
    soon("shutdown", task).await.unwrap();
}

// spec: G-2
#[tokio::test]
async fn a_method_is_not_called_by_another_content_type() {
    let server = Interop::start(|_| {}).await;
    let io = TokioIo::new(tls_to(server.dir.path(), server.address, b"h2").await);
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for (method, answered) in [("UnaryCall", 415), ("FullDuplexCall", 415), ("NoSuchCall", 404)] {
        let request = Request::post(format!("https://localhost{SERVICE}{method}"))
            .header("content-type", "application/json")
            .body(http_body_util::Full::new(Bytes::new()))
            .unwrap();
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.status().as_u16(), answered, "{method}");
    }
    server.stop().await;
}

// spec: G-11
#[tokio::test]
async fn a_stranger_is_read_slowly_over_http1_too() {
    let server =
        Interop::start(|limits| (limits.stranger_bytes_max, limits.stranger_bytes_per_second) = (16_384, 32_768)).await;
    let io = TokioIo::new(tls_to(server.dir.path(), server.address, b"http/1.1").await);
    let (mut requests, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("{SERVICE}UnaryCall"))
        .header("host", "localhost")
        .header("content-type", "application/grpc-web")
        .body(http_body_util::Full::new(message(&field(3, &field(2, &[0; 49_152])))))
        .unwrap();
    let started = std::time::Instant::now();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(started.elapsed() > Duration::from_millis(700), "32 KiB beyond the first 16: {:?}", started.elapsed());
    server.stop().await;
}

// spec: G-20
#[tokio::test]
async fn metadata_that_came_is_not_sent_back_beyond_the_limit() {
    let server = Interop::start(|_| {}).await;
    let io = TokioIo::new(tls_to(server.dir.path(), server.address, b"h2").await);
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    for (name, value) in [
        ("x-grpc-test-echo-initial", "a".repeat(METADATA_BYTES_MAX)),
        ("x-grpc-test-echo-trailing-bin", "YWFh".repeat(METADATA_BYTES_MAX / 4)),
    ] {
        for method in ["UnaryCall", "FullDuplexCall"] {
            let request = Request::post(format!("https://localhost{SERVICE}{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header(name, &value)
                .body(http_body_util::Full::new(message(&number(2, 1))))
                .unwrap();
            let response = soon("answer", requests.send_request(request)).await.expect("the server lives");
            let head = response.headers().get("grpc-status").cloned();
            let body = soon("the body", response.into_body().collect()).await.unwrap();
            let status = head.or_else(|| body.trailers()?.get("grpc-status").cloned());
            assert_eq!(status.as_ref().map(|code| code.as_bytes()), Some(&b"8"[..]), "{method}, {name}");
        }
    }
    server.stop().await;
}

// spec: G-15, G-16, G-22
#[tokio::test]
async fn a_browser_gives_and_gets_metadata() {
    let server = Interop::start(|_| {}).await;
    let io = TokioIo::new(tls_to(server.dir.path(), server.address, b"http/1.1").await);
    let (mut requests, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("{SERVICE}UnaryCall"))
        .header("host", "localhost")
        .header("origin", "https://app.example")
        .header("content-type", "application/grpc-web")
        .header("x-grpc-test-echo-initial", "before")
        .header("x-grpc-test-echo-trailing-bin", "q6ur")
        .body(http_body_util::Full::new(message(&number(2, 1))))
        .unwrap();
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(response.headers()["x-grpc-test-echo-initial"], "before");
    assert!(response.headers()["access-control-expose-headers"].to_str().unwrap().ends_with(",*"));
    let body = soon("the body", response.into_body().collect()).await.unwrap().to_bytes();
    let end = &body[message(&payload(1)).len()..];
    assert_eq!((end[0], usize::from(end[4])), (0x80, end.len() - 5), "one message of trailers");
    let lines = std::str::from_utf8(&end[5..]).unwrap();
    assert!(lines.contains("grpc-status:0\r\n"), "{lines}");
    assert!(lines.contains("x-grpc-test-echo-trailing-bin:q6ur\r\n"), "{lines}");
    server.stop().await;
}

// spec: G-3
#[tokio::test]
async fn streamed_messages_are_compressed_once_the_server_has_said_what_it_reads() {
    let server = Interop::start(|_| {}).await;
    let path = format!("{SERVICE}StreamingInputCall");
    let mut sent = [0; 3];
    for (sent, options) in
        sent.iter_mut().zip([CallOptions::new(), CallOptions::new().compressed(), CallOptions::new()])
    {
        let before = server.target.counters().sent();
        let (requests, answers) = soon("open", server.client.streaming(&path, &options)).await.unwrap();
        // Long ones and short ones, which share a piece.
        for size in [100_000, 10, 300, 5, 50_000] {
            requests.send(Bytes::from(field(1, &field(2, &vec![0; size])))).await.unwrap();
        }
        drop(requests);
        let answer = soon("a sum", answers.only()).await.unwrap();
        assert_eq!(answer.message, number(1, 150_315), "whatever way they came");
        *sent = server.target.counters().sent() - before;
    }
    assert!(sent[0] > 150_000 && sent[2] > 150_000 && sent[1] < 5_000, "{sent:?}");
    server.stop().await;
}
