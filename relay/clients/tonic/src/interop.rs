//! gRPC's list of interoperability tests, as tonic sees them, against `relay/examples/interop`.

use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::*;

const SERVICE: &str = "/grpc.testing.TestService/";

fn path(method: &str) -> PathAndQuery {
    PathAndQuery::try_from(format!("{SERVICE}{method}")).expect("a path")
}

/// Field `number` of protobuf: bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(bytes.len()), bytes].concat()
}

/// Field `number` of protobuf: a number.
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

/// A payload of so many zeros, as the first field of a message.
fn payload(size: usize) -> Vec<u8> {
    field(1, &field(2, &vec![0; size]))
}

/// A request for so many zeros that brings some along.
fn asks_for(size: usize, sent: usize) -> Bytes {
    Bytes::from([field(2, &number(1, size)), field(3, &field(2, &vec![0; sent]))].concat())
}

fn echo_status(text: &str) -> Vec<u8> {
    field(7, &[number(1, 2), field(2, text.as_bytes())].concat())
}

async fn call(
    grpc: &mut Grpc<Channel>,
    method: &str,
    request: Request<Bytes>,
) -> Result<tonic::Response<Bytes>, Status> {
    grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    grpc.unary(request, path(method), Raw).await
}

pub(super) async fn run(mut grpc: Grpc<Channel>) -> Result<(), Box<dyn Error>> {
    let plain = |message: Vec<u8>| Request::new(Bytes::from(message));
    let passed = |name: &str| println!("{name}: passed");

    assert_eq!(call(&mut grpc, "EmptyCall", plain(Vec::new())).await?.into_inner(), "");
    passed("empty_unary");

    let large = [number(2, 314_159), field(3, &field(2, &vec![0; 271_828]))].concat();
    assert!(call(&mut grpc, "UnaryCall", plain(large.clone())).await?.into_inner() == payload(314_159));
    passed("large_unary");

    let mut packing =
        grpc.clone().send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    assert!(call(&mut packing, "UnaryCall", plain(large)).await?.into_inner() == payload(314_159));
    passed("client_compressed_unary");

    let sent = [27_182, 8, 1_828, 45_904];
    let sizes = [31_415, 9, 2_653, 58_979];
    let parts: Vec<Bytes> = sent.iter().map(|&size| Bytes::from(payload(size))).collect();
    grpc.ready().await?;
    let sum = grpc.client_streaming(Request::new(tokio_stream::iter(parts)), path("StreamingInputCall"), Raw).await?;
    assert_eq!(sum.into_inner(), number(1, 74_922));
    passed("client_streaming");

    let request: Vec<u8> = sizes.iter().flat_map(|&size| field(2, &number(1, size))).collect();
    grpc.ready().await?;
    let mut answers = grpc.server_streaming(plain(request), path("StreamingOutputCall"), Raw).await?.into_inner();
    for size in sizes {
        assert!(answers.next().await.expect("a message")? == payload(size));
    }
    assert!(answers.next().await.is_none());
    passed("server_streaming");

    let (sender, messages) = mpsc::channel(1);
    sender.send(asks_for(sizes[0], sent[0])).await?;
    grpc.ready().await?;
    let request = Request::new(ReceiverStream::new(messages));
    let mut answers = grpc.streaming(request, path("FullDuplexCall"), Raw).await?.into_inner();
    for turn in 0..4 {
        assert!(answers.next().await.expect("a pong")? == payload(sizes[turn]));
        if let Some(&size) = sizes.get(turn + 1) {
            sender.send(asks_for(size, sent[turn + 1])).await?;
        }
    }
    drop(sender);
    assert!(answers.next().await.is_none());
    passed("ping_pong");

    grpc.ready().await?;
    let nothing = Request::new(tokio_stream::empty::<Bytes>());
    let mut answers = grpc.streaming(nothing, path("FullDuplexCall"), Raw).await?.into_inner();
    assert!(answers.next().await.is_none());
    passed("empty_stream");

    // The server answers nothing to this, and its client waits for 50 ms.
    let (sender, messages) = mpsc::channel(1);
    sender.send(Bytes::from(field(3, &field(2, &[0; 27_182])))).await?;
    let mut request = Request::new(ReceiverStream::new(messages));
    request.set_timeout(Duration::from_millis(50));
    grpc.ready().await?;
    let ended = match grpc.streaming(request, path("FullDuplexCall"), Raw).await {
        Ok(answers) => answers.into_inner().next().await.expect("a status").map(drop),
        Err(status) => Err(status),
    };
    // tonic's own timer may be the first, and calls that a cancellation.
    assert!(matches!(ended.unwrap_err().code(), Code::DeadlineExceeded | Code::Cancelled));
    drop(sender);
    passed("timeout_on_sleeping_server");

    let (sender, messages) = mpsc::channel::<Bytes>(1);
    let mut given_up = grpc.clone();
    given_up.ready().await?;
    let call_it = tokio::spawn(async move {
        given_up
            .client_streaming(Request::new(ReceiverStream::new(messages)), path("StreamingInputCall"), Raw)
            .await
            .map(drop)
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    call_it.abort();
    assert!(call_it.await.unwrap_err().is_cancelled());
    // tonic's own stream goes on until its sender is gone, too.
    drop(sender);
    assert_eq!(call(&mut grpc, "EmptyCall", plain(Vec::new())).await?.into_inner(), "");
    passed("cancel_after_begin");

    let (sender, messages) = mpsc::channel(1);
    sender.send(asks_for(31_415, 27_182)).await?;
    grpc.ready().await?;
    let request = Request::new(ReceiverStream::new(messages));
    let mut answers = grpc.streaming(request, path("FullDuplexCall"), Raw).await?.into_inner();
    assert!(answers.next().await.expect("a pong")? == payload(31_415));
    drop((answers, sender));
    assert_eq!(call(&mut grpc, "EmptyCall", plain(Vec::new())).await?.into_inner(), "");
    passed("cancel_after_first_response");

    let (initial, trailing) = ("x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin");
    fn with_metadata<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("x-grpc-test-echo-initial", MetadataValue::from_static("test_initial_metadata_value"));
        metadata.insert_bin("x-grpc-test-echo-trailing-bin", MetadataValue::from_bytes(&[0xab; 3]));
        request
    }
    let answer = call(&mut grpc, "UnaryCall", with_metadata(Bytes::from(number(2, 1)))).await?;
    assert_eq!(answer.metadata().get(initial).expect("it comes back"), "test_initial_metadata_value");
    // tonic joins what comes before and after the message of a unary call.
    assert_eq!(answer.metadata().get_bin(trailing).expect("it comes back").to_bytes()?, &[0xab; 3][..]);
    grpc.ready().await?;
    let request = with_metadata(tokio_stream::iter([asks_for(1, 1)]));
    let answers = grpc.streaming(request, path("FullDuplexCall"), Raw).await?;
    assert_eq!(answers.metadata().get(initial).expect("it comes back"), "test_initial_metadata_value");
    let mut answers = answers.into_inner();
    while answers.next().await.transpose()?.is_some() {}
    let trailers = answers.trailers().await?.expect("they have come");
    assert_eq!(trailers.get_bin(trailing).expect("it comes back").to_bytes()?, &[0xab; 3][..]);
    passed("custom_metadata");

    let special = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    for (name, text) in [("status_code_and_message", "test status message"), ("special_status_message", special)] {
        let status = call(&mut grpc, "UnaryCall", plain(echo_status(text))).await.expect_err(name);
        assert_eq!((status.code(), status.message()), (Code::Unknown, text));
        grpc.ready().await?;
        let asked = Request::new(tokio_stream::iter([Bytes::from(echo_status(text))]));
        let mut answers = grpc.streaming(asked, path("FullDuplexCall"), Raw).await?.into_inner();
        let status = answers.next().await.expect("a status").expect_err(name);
        assert_eq!((status.code(), status.message()), (Code::Unknown, text));
        passed(name);
    }

    let status = call(&mut grpc, "UnimplementedCall", plain(Vec::new())).await.expect_err("no such method");
    assert_eq!(status.code(), Code::Unimplemented);
    passed("unimplemented_method");
    let other = "/grpc.testing.UnimplementedService/UnimplementedCall";
    let status = unary(&mut grpc, other, b"").await.expect_err("no such service");
    assert_eq!(status.code(), Code::Unimplemented);
    passed("unimplemented_service");
    Ok(())
}
