//! A relay that is none: what our client makes of its answers.

use std::sync::Arc;
use std::time::Duration;

use blazedb::transport::{FrameReceiver, FrameSender, Target, TransportError, Trust, open_stream};
use blazedb_wire::grpc::{Code, MESSAGE_BYTES_MAX};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::http2::*;

const GOOD: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

/// Opens a stream to a server that says its settings, waits for a call, sends these bytes, and then takes whatever comes.
async fn call(answer: Vec<u8>) -> Result<(FrameSender, FrameReceiver), TransportError> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut tls = TlsAcceptor::from(Arc::new(config)).accept(tcp).await.unwrap();
        tls.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        // The call's headers are the first frame of kind 1; whatever else comes meanwhile is settings and windows.
        let mut came = vec![0; 24];
        tls.read_exact(&mut came).await.unwrap();
        loop {
            let mut head = [0; 9];
            tls.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            tls.read_exact(&mut vec![0; length as usize]).await.unwrap();
            if head[3] == HEADERS {
                break;
            }
        }
        let _ = tls.write_all(&answer).await;
        let _ = tls.flush().await;
        let mut sink = [0; 4096];
        while tls.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    let trust = Trust::CaPem(made.cert.pem().into_bytes());
    let target = Target::new(&url, &trust, "token").unwrap();
    let opened = tokio::time::timeout(Duration::from_secs(20), open_stream(&target));
    opened.await.expect("an answer in time")
}

/// The status that the call ends with, wherever it ends.
async fn status(answer: Vec<u8>) -> (Code, bool) {
    let error = match call(answer).await {
        Err(error) => error,
        Ok((_sender, mut receiver)) => {
            let next = tokio::time::timeout(Duration::from_secs(20), async {
                loop {
                    if let Err(error) = receiver.next().await {
                        return error;
                    }
                }
            });
            next.await.expect("an end in time")
        }
    };
    let TransportError::Status(status) = &error else { panic!("{error:?}") };
    (status.code, error.is_retryable())
}

fn answered(more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 1, &block(&[&GOOD[..], more].concat()))
}

fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

// spec: G-3, G-4, G-5
#[tokio::test]
async fn answers_that_break_the_rules_end_the_call_with_the_right_status() {
    let over = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
    let over = [&[0][..], &over.to_be_bytes()].concat();
    let with = |data: &[u8]| [answered(&[]), frame(DATA, 0, 1, data)].concat();
    let ended = |data: &[u8], fields: &[(&str, &str)]| [with(data), trailers(fields)].concat();
    let ok = [("grpc-status", "0")];
    for (what, answer, code, retried) in [
        ("a message over the limit", with(&over), Code::ResourceExhausted, true),
        ("a compressed message that nobody agreed on", with(&[1, 0, 0, 0, 1, 7]), Code::Internal, true),
        ("an unknown flag", with(&[9, 0, 0, 0, 0]), Code::Internal, true),
        ("an end inside a message", ended(&[0, 0, 0, 0, 9, 1], &ok), Code::Internal, true),
        ("a status of two digits too many", ended(&[], &[("grpc-status", "016")]), Code::Unknown, true),
        ("no status at all", ended(&[], &[("x", "y")]), Code::Unknown, true),
        ("a refusal", trailers(&[&GOOD[..], &[("grpc-status", "16")]].concat()), Code::Unauthenticated, false),
        ("a proxy's error", frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "502")])), Code::Unavailable, true),
        ("a proxy's page", frame(HEADERS, END_HEADERS, 1, &block(&[(":status", "200")])), Code::Unknown, true),
    ] {
        assert_eq!(status(answer).await, (code, retried), "{what}");
    }
}

// spec: G-11
#[tokio::test]
async fn a_connection_that_a_server_ends_is_worth_another_try() {
    let go_away = |code: u32| frame(GOAWAY, 0, 0, &[&[0; 4][..], &code.to_be_bytes()].concat());
    for (what, answer) in [
        ("a reset", [answered(&[]), frame(RST_STREAM, 0, 1, &CANCEL.to_be_bytes())].concat()),
        ("a goodbye without the call", go_away(0)),
        ("a goodbye because of too many pings", go_away(ENHANCE_YOUR_CALM)),
        ("a header list of 9 KiB", answered(&[("x", &"y".repeat(9_000))])),
        ("a frame over 16 KiB", [answered(&[]), frame(DATA, 0, 1, &[0; 16_385])].concat()),
        ("rubbish", vec![0xff; 64]),
    ] {
        let error = match call(answer).await {
            Err(error) => error,
            Ok((_sender, mut receiver)) => {
                let next = tokio::time::timeout(Duration::from_secs(20), receiver.next());
                next.await.expect("an end in time").expect_err(what)
            }
        };
        assert!(matches!(error, TransportError::Http(_)), "{what}: {error:?}");
        assert!(error.is_retryable(), "{what}");
    }
}
