//! What is answered without a token: the health page, and gRPC's own health check.

use super::*;

// spec: G-13
#[tokio::test]
async fn health_over_both_protocols() {
    let relay = Relay::start().await;
    let check = |response: Response<Incoming>| async move {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/json");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["status"], "serving");
    };
    let get = |path: &str| Request::get(format!("{}{path}", relay.url())).body(Empty::<Bytes>::new()).unwrap();

    let io = TokioIo::new(relay.tls(b"http/1.1").await);
    let (mut requests, connection) = http1::handshake(io).await.unwrap();
    let task = tokio::spawn(connection);
    let mut request = get("/healthz");
    *request.uri_mut() = "/healthz".parse().unwrap();
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    check(soon("answer", requests.send_request(request)).await.unwrap()).await;
    soon("one request a connection", task).await.unwrap().unwrap();

    let io = TokioIo::new(relay.tls(b"h2").await);
    let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    check(soon("answer", requests.send_request(get("/healthz"))).await.unwrap()).await;
    let missing = soon("answer", requests.send_request(get("/"))).await.unwrap();
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    let mut post = get("/healthz");
    *post.method_mut() = http::Method::POST;
    let refused = soon("answer", requests.send_request(post)).await.unwrap();
    assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
    relay.stop().await;
}

// spec: G-13
#[tokio::test]
async fn head_is_answered_without_a_body() {
    let relay = Relay::start().await;
    let head = |path: String| Request::head(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    let check = |response: Response<Incoming>, status| async move {
        assert_eq!(response.status(), status);
        let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 5, "that of the answer to GET: {length}");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    };
    for (path, status) in [("/healthz", StatusCode::OK), ("/", StatusCode::NOT_FOUND)] {
        let io = TokioIo::new(relay.tls(b"http/1.1").await);
        let (mut requests, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        check(soon("answer", requests.send_request(head(path.to_owned()))).await.unwrap(), status).await;

        let io = TokioIo::new(relay.tls(b"h2").await);
        let (mut requests, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let response = soon("answer", requests.send_request(head(format!("{}{path}", relay.url())))).await.unwrap();
        check(response, status).await;
    }
    relay.stop().await;
}

// spec: G-14
#[tokio::test]
async fn health_is_a_unary_grpc_call() {
    let limits = Limits { check_max: Duration::from_millis(300), ..Limits::default() };
    let relay = Relay::with(limits).await;
    let (mut requests, _task) = relay.raw().await;
    let mut call = async |messages: &[&[u8]], end: bool, header: Option<(&'static str, &'static str)>| {
        let (mut sender, body) = body();
        let mut request = relay.request(None).body(body).unwrap();
        *request.uri_mut() = format!("{}/grpc.health.v1.Health/Check", relay.url()).parse().unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        for bytes in messages {
            sender.send_data(message(bytes)).await.unwrap();
        }
        // Kept open where the request has to end in another way.
        let _open = if end {
            drop(sender);
            None
        } else {
            Some(sender)
        };
        let response = soon("answer", requests.send_request(request)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        if response.headers().contains_key("grpc-status") {
            return (Vec::new(), status_in(response.headers()).code);
        }
        let (messages, status) = read_all(response).await;
        (messages, status.code)
    };

    let serving = (vec![Bytes::from_static(&[0x08, 1])], Code::Ok);
    assert_eq!(call(&[b""], true, None).await, serving);
    assert_eq!(call(&[b"\x0a\x0eblaze.v1.Relay"], true, None).await, serving);
    let refused = |code| (Vec::new(), code);
    assert_eq!(call(&[b"\x0a\x05other"], true, None).await, refused(Code::NotFound));
    assert_eq!(call(&[b"\x0a\x05cut"], true, None).await, refused(Code::Internal));
    assert_eq!(call(&[], true, None).await, refused(Code::Internal));
    assert_eq!(call(&[b"", b""], false, None).await, refused(Code::Internal));
    assert_eq!(call(&[&[0; 1025]], false, None).await, refused(Code::ResourceExhausted));
    assert_eq!(call(&[b""], false, None).await, refused(Code::DeadlineExceeded));
    assert_eq!(call(&[b""], false, Some(("grpc-timeout", "1m"))).await, refused(Code::DeadlineExceeded));
    assert_eq!(call(&[b""], true, Some(("grpc-timeout", "soon"))).await, refused(Code::Internal));
    assert_eq!(call(&[b""], true, Some(("grpc-encoding", "br"))).await, refused(Code::Unimplemented));
    // None of it cost the connection.
    assert_eq!(call(&[b""], true, None).await, serving);
    assert!(relay.stop().await.is_empty(), "the gate hears nothing of it");
}
