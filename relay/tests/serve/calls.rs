//! Calls of every kind as other people's clients make them: server streaming, compressed messages, and what is no call.

use std::io::Write as _;

use super::*;

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";

impl Relay {
    /// Returns a request of this path, with one message and nothing after it.
    pub(crate) fn unary(
        &self,
        path: &str,
        message: Bytes,
        headers: &[(&str, &str)],
    ) -> Request<Channel<Bytes, std::io::Error>> {
        let (mut sender, body) = body();
        let mut request = Request::post(format!("{}{path}", self.url()));
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tokio::spawn(async move {
            let _ = sender.send_data(message).await;
        });
        request.body(body).unwrap()
    }
}

async fn next_message(body: &mut Incoming) -> Bytes {
    let frame = soon("a message", body.frame()).await.expect("it goes on").unwrap();
    frame.into_data().expect("a message, not the end")
}

// spec: G-14
#[tokio::test]
async fn health_is_watched_until_the_relay_goes() {
    let relay = Relay::start().await;
    let (mut requests, _task) = relay.raw().await;
    let mut watch = async |service: &[u8]| {
        let request = relay.unary(WATCH, message(service), &[]);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        response.into_body()
    };
    let mut whole = watch(b"").await;
    let mut named = watch(b"\x0a\x0eblaze.v1.Relay").await;
    let mut unknown = watch(b"\x0a\x05other").await;
    assert_eq!(next_message(&mut whole).await, message(b"\x08\x01"));
    assert_eq!(next_message(&mut named).await, message(b"\x08\x01"));
    assert_eq!(next_message(&mut unknown).await, message(b"\x08\x03"), "SERVICE_UNKNOWN, and it may come yet");
    // Nothing more until something changes.
    assert!(tokio::time::timeout(Duration::from_millis(100), whole.frame()).await.is_err());
    let stopping = tokio::spawn(relay.stop());
    assert_eq!(next_message(&mut whole).await, message(b"\x08\x02"));
    assert_eq!(next_message(&mut named).await, message(b"\x08\x02"));
    for body in [whole, named, unknown] {
        let (messages, status) = read_all(Response::new(body)).await;
        assert_eq!((messages.len(), status.code), (0, Code::Unavailable), "{status}");
    }
    assert!(soon("shutdown", stopping).await.unwrap().is_empty(), "the gate hears nothing of it");
}

// spec: G-7, G-14
#[tokio::test]
async fn a_watch_ends_with_its_time_and_when_it_is_given_up() {
    let limits = Limits { watch_max: Duration::from_millis(200), ..Limits::default() };
    let relay = Relay::with(limits).await;
    let (mut requests, _task) = relay.raw().await;
    for (headers, code) in [
        (&[("grpc-timeout", "50m")][..], Code::DeadlineExceeded),
        (&[("grpc-timeout", "1H")], Code::Unavailable),
        (&[], Code::Unavailable),
    ] {
        let request = relay.unary(WATCH, message(b""), headers);
        let (messages, status) = read_all(soon("answer", requests.send_request(request)).await.unwrap()).await;
        assert_eq!((&messages[..], status.code), (&[Bytes::from_static(b"\x08\x01")][..], code), "{status}");
    }
    let request = relay.unary(WATCH, message(b""), &[("grpc-timeout", "soon")]);
    let response = soon("answer", requests.send_request(request)).await.unwrap();
    assert_eq!(status_in(response.headers()).code, Code::Internal);
    // Given up again and again, and the connection still answers: fewer than it may.
    for _ in 0..50 {
        let request = relay.unary(WATCH, message(b""), &[]);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(next_message(&mut response.into_body()).await, message(b"\x08\x01"));
    }
    relay.stop().await;
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed(bytes: &[u8]) -> Bytes {
    let mut message = vec![1];
    message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend(bytes);
    Bytes::from(message)
}

// spec: G-3
#[tokio::test]
async fn compressed_messages_are_read_and_bombs_are_not() {
    let relay = Relay::start().await;
    let (mut requests, _task) = relay.raw().await;
    let mut check = async |encoding: &str, body: Bytes| {
        let request = relay.unary(CHECK, body, &[("grpc-encoding", encoding)]);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip,zstd");
        if response.headers().contains_key("grpc-status") {
            return status_in(response.headers()).code;
        }
        let (messages, status) = read_all(response).await;
        assert_eq!(messages, [&b"\x08\x01"[..]]);
        status.code
    };
    let asked = b"\x0a\x0eblaze.v1.Relay";
    assert_eq!(check("gzip", packed(&gzip(asked))).await, Code::Ok);
    assert_eq!(check("zstd", packed(&zstd::bulk::compress(asked, 3).unwrap())).await, Code::Ok);
    assert_eq!(check("gzip", message(asked)).await, Code::Ok, "a message may stay as it is");
    assert_eq!(check("identity", message(asked)).await, Code::Ok);
    assert_eq!(check("identity", packed(&gzip(asked))).await, Code::Internal);
    assert_eq!(check("gzip", packed(b"rubbish")).await, Code::Internal);
    assert_eq!(check("gzip", packed(&gzip(&vec![0; 500_000]))).await, Code::ResourceExhausted);
    let bomb = zstd::bulk::compress(&vec![0; 4_000_000], 3).unwrap();
    assert_eq!(check("zstd", packed(&bomb)).await, Code::ResourceExhausted);
    for unknown in ["deflate", "br", "GZIP", ""] {
        assert_eq!(check(unknown, packed(&gzip(asked))).await, Code::Unimplemented, "{unknown}");
    }

    // A session's messages, too.
    let token = format!("Bearer {}", relay.token("home"));
    let headers = [("authorization", token.as_str()), ("grpc-encoding", "gzip")];
    let request = relay.unary(SYNC_PATH, packed(&gzip(&[7; 100_000])), &headers);
    let (messages, status) = read_all(soon("answer", requests.send_request(request)).await.unwrap()).await;
    assert_eq!((messages, status), (vec![Bytes::from(vec![7; 100_000])], Status::ok()));
    let request = relay.unary(SYNC_PATH, packed(&gzip(&vec![7; MESSAGE_BYTES_MAX + 1])), &headers);
    let (messages, status) = read_all(soon("answer", requests.send_request(request)).await.unwrap()).await;
    assert_eq!((messages.len(), status.code), (0, Code::ResourceExhausted));
    relay.stop().await;
}

// spec: G-1, G-2, G-5
#[tokio::test]
async fn what_is_no_call_is_told_so() {
    let relay = Relay::start().await;
    let (mut requests, _task) = relay.raw().await;
    for path in [
        "/blaze.v1.Relay/Nothing",
        "/nobody.v1.Knows/Sync",
        "/grpc.health.v1.Health/List",
        "/blaze.v1.Relay/sync",
        "/blaze.v1.Relay/Sync/",
        "/blaze.v1.Relay",
        "//",
        "/",
    ] {
        let request = relay.unary(path, message(b""), &[]);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let status = status_in(response.headers());
        assert_eq!(status.code, Code::Unimplemented, "{path}: {status}");
        assert!(status.message.contains(path), "{status}");
        assert_eq!(response.headers()["content-type"], "application/grpc", "Trailers-Only");
        assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip,zstd");
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let mut request = relay.unary(CHECK, message(b""), &[]);
        *request.method_mut() = method.parse().unwrap();
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(status_in(response.headers()).code, Code::Unimplemented, "{method}");
    }
    for (path, content_type, answer) in [
        (SYNC_PATH, "application/json", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (CHECK, "text/plain", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (WATCH, "application/grpc-webber", StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("/index.html", "text/html", StatusCode::NOT_FOUND),
    ] {
        let request = relay.unary(path, message(b""), &[("content-type", content_type)]);
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.status(), answer, "{path} {content_type}");
        assert!(!response.headers().contains_key("grpc-status"));
    }
    assert!(relay.stop().await.is_empty());
}
