//! gRPC-Web, as a browser speaks it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The trailers of an answer that went well, as a message.
pub(crate) const GOOD_END: &[u8] = b"\x80\0\0\0\x0fgrpc-status:0\r\n";

pub(crate) async fn whole(response: Response<Incoming>) -> Vec<u8> {
    soon("the body", response.into_body().collect()).await.unwrap().to_bytes().to_vec()
}

impl Relay {
    pub(crate) async fn http1(&self) -> http1::SendRequest<Channel<Bytes, std::io::Error>> {
        let io = TokioIo::new(self.tls(b"http/1.1").await);
        let (requests, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        requests
    }

    pub(crate) fn web(
        &self,
        path: &str,
        body: impl Into<Bytes>,
        content_type: &str,
        more: &[(&str, &str)],
    ) -> Request<Channel<Bytes, std::io::Error>> {
        let headers = [&[("content-type", content_type), ("origin", "https://app.example")][..], more].concat();
        let mut request = self.unary(path, body.into(), &headers);
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        request
    }
}

pub(crate) fn to_path(mut request: Request<Channel<Bytes, std::io::Error>>) -> Request<Channel<Bytes, std::io::Error>> {
    *request.uri_mut() = request.uri().path().parse().unwrap();
    request
}

// spec: G-15
#[tokio::test]
async fn a_browser_calls_over_both_protocols_in_both_dialects() {
    let relay = Relay::start().await;
    let want = [&message(b"\x08\x01")[..], GOOD_END].concat();
    for (content_type, answered, text) in [
        ("application/grpc-web", "application/grpc-web", false),
        ("application/grpc-web+proto", "application/grpc-web+proto", false),
        ("application/grpc-web-text", "application/grpc-web-text", true),
        ("application/grpc-web-text+proto", "application/grpc-web-text+proto", true),
    ] {
        for over_http1 in [true, false] {
            let body = if text { Bytes::from(STANDARD.encode(message(b""))) } else { message(b"") };
            let request = relay.web(CHECK, body, content_type, &[]);
            let response = if over_http1 {
                soon("answer", relay.http1().await.send_request(to_path(request))).await.unwrap()
            } else {
                let (mut requests, _task) = relay.raw().await;
                let response = soon("answer", requests.send_request(request)).await.unwrap();
                assert_eq!(response.headers()["content-type"], answered);
                let got = whole(response).await;
                let got = if text { decode_pieces(&got) } else { got };
                assert_eq!(got, want, "{content_type}");
                continue;
            };
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["content-type"], answered);
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert!(!response.headers().contains_key("access-control-allow-credentials"));
            let got = whole(response).await;
            let got = if text { decode_pieces(&got) } else { got };
            assert_eq!(got, want, "{content_type}");
        }
    }
    assert!(relay.stop().await.is_empty());
}

/// Decodes base64 that was encoded piece by piece.
fn decode_pieces(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|four| STANDARD.decode(four).unwrap()).collect()
}

// spec: G-5, G-15
#[tokio::test]
async fn a_browser_is_told_what_was_wrong() {
    let relay = Relay::start().await;
    let refused = async |path: &str, body: Bytes, content_type: &str| {
        let request = to_path(relay.web(path, body, content_type, &[]));
        let response = soon("answer", relay.http1().await.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
        assert!(exposed.contains("grpc-status") && exposed.contains("grpc-message"), "{exposed}");
        let code = status_in(response.headers()).code;
        assert!(whole(response).await.is_empty());
        code
    };
    let web = "application/grpc-web";
    assert_eq!(refused("/blaze.v1.Relay/Nothing", message(b""), web).await, Code::Unimplemented);
    assert_eq!(refused(CHECK, message(b"\x0a\x05other"), web).await, Code::NotFound);
    assert_eq!(refused(SYNC_PATH, message(b"x"), web).await, Code::Unauthenticated);
    assert_eq!(refused(CHECK, Bytes::from_static(b"!!!!"), "application/grpc-web-text").await, Code::Internal);
    assert_eq!(refused(CHECK, Bytes::from_static(b"AAAAAA"), "application/grpc-web-text").await, Code::Internal);
    assert!(relay.stop().await.is_empty());
}

// spec: G-15
#[tokio::test]
async fn streams_reach_a_browser_message_by_message() {
    let limits = Limits { first_request_max: Duration::from_millis(100), ..Limits::default() };
    let mut relay = Relay::with(limits).await;
    let mut requests = relay.http1().await;
    let request = to_path(relay.web(WATCH, message(b""), "application/grpc-web", &[]));
    let mut watched = soon("answer", requests.send_request(request)).await.unwrap().into_body();
    let first = soon("the first message", watched.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, message(b"\x08\x01"));

    let token = format!("Bearer {}", relay.token("home"));
    let sent = [message(b"one"), message(b"two")].concat();
    let request = to_path(relay.web(SYNC_PATH, sent, "application/grpc-web", &[("authorization", &token)]));
    let response = soon("answer", relay.http1().await.send_request(request)).await.unwrap();
    let want = [&message(b"one")[..], &message(b"two"), GOOD_END].concat();
    assert_eq!(whole(response).await, want);
    relay.until_disconnected().await;

    let stopping = tokio::spawn(relay.stop());
    let rest = soon("the end", watched.collect()).await.unwrap().to_bytes();
    assert!(rest.starts_with(&message(b"\x08\x02")), "{rest:?}");
    assert!(String::from_utf8_lossy(&rest).contains("grpc-status:14\r\n"), "{rest:?}");
    soon("shutdown", stopping).await.unwrap();
}

// spec: G-16
#[tokio::test]
async fn a_browser_may_ask_first() {
    let relay = Relay::start().await;
    for path in [SYNC_PATH, CHECK, "/anything"] {
        let headers = [("access-control-request-method", "POST"), ("access-control-request-headers", "authorization")];
        let mut request = to_path(relay.web(path, Bytes::new(), "text/plain", &headers));
        *request.method_mut() = http::Method::OPTIONS;
        let response = soon("answer", relay.http1().await.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        let get = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(get("access-control-allow-origin"), "*");
        assert_eq!(get("access-control-allow-methods"), "POST");
        for name in ["authorization", "content-type", "grpc-timeout", "x-grpc-web"] {
            assert!(get("access-control-allow-headers").split(',').any(|allowed| allowed == name), "{name}");
        }
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }
    assert!(relay.stop().await.is_empty());
}
