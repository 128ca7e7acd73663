//! Servers by hand, and what our client and its pool of connections make of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blazedb::transport::{
    Answer, CallError, CallOptions, Client, ClientOptions, ClientStats, Code, Metadata, Target, TransportError, Trust,
};
use blazedb_wire::grpc::MESSAGE_BYTES_MAX;
use bytes::Bytes;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::http2::*;

pub(crate) const GOOD: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const METHOD: &str = "/a.B/C";
/// No step takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(20);

/// One call as the server sees it, whole.
pub(crate) struct Asked {
    /// The connection it came on, from 0.
    pub(crate) connection: usize,
    pub(crate) stream: u32,
    pub(crate) body: Vec<u8>,
}

/// What a server has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    pub(crate) resets: AtomicUsize,
    /// Stalled connections that the client has given up.
    pub(crate) gone: AtomicUsize,
}

pub(crate) struct Server {
    pub(crate) target: Target,
    pub(crate) seen: Arc<Seen>,
}

impl Server {
    /// Serves TLS, says these settings on each connection, and answers each call with what `script` gives; nothing ends the
    /// connection.
    pub(crate) async fn start(
        settings: &'static [(u16, u32)],
        script: impl Fn(Asked) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        Self::start_after(0, settings, script).await
    }

    /// As [`Server::start`]; but the first `stalled` connections are taken, and nothing is ever said on them.
    pub(crate) async fn start_after(
        stalled: usize,
        settings: &'static [(u16, u32)],
        script: impl Fn(Asked) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
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
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let seen = Arc::new(Seen::default());
        let (script, counts) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let connection = counts.connections.fetch_add(1, Ordering::SeqCst);
                if connection < stalled {
                    let counts = Arc::clone(&counts);
                    tokio::spawn(async move {
                        while tcp.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
                        counts.gone.fetch_add(1, Ordering::SeqCst);
                    });
                    continue;
                }
                let (acceptor, script, counts) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&counts));
                tokio::spawn(async move {
                    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                    let values =
                        settings.iter().flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()));
                    tls.write_all(&frame(SETTINGS, 0, 0, &values.collect::<Vec<u8>>())).await.unwrap();
                    let mut preface = [0; 24];
                    if tls.read_exact(&mut preface).await.is_err() {
                        return;
                    }
                    let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
                    loop {
                        let mut head = [0; 9];
                        if tls.read_exact(&mut head).await.is_err() {
                            return;
                        }
                        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                        let mut payload = vec![0; length as usize];
                        tls.read_exact(&mut payload).await.unwrap();
                        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                        match head[3] {
                            SETTINGS if head[4] & ACK == 0 => {
                                tls.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
                            }
                            RST_STREAM => {
                                counts.resets.fetch_add(1, Ordering::SeqCst);
                            }
                            DATA => bodies.entry(stream).or_default().extend(payload),
                            _ => {}
                        }
                        if matches!(head[3], DATA | HEADERS) && head[4] & END_STREAM != 0 {
                            counts.calls.fetch_add(1, Ordering::SeqCst);
                            let body = bodies.remove(&stream).unwrap_or_default();
                            let Some(answer) = script(Asked { connection, stream, body }) else { return };
                            let _ = tls.write_all(&answer).await;
                            let _ = tls.flush().await;
                        }
                    }
                });
            }
        });
        let trust = Trust::CaPem(made.cert.pem().into_bytes());
        Self { target: Target::new(&url, &trust, "token").unwrap(), seen }
    }

    pub(crate) fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub(crate) fn client_with(&self, change: impl FnOnce(&mut ClientOptions)) -> Client {
        let mut options = ClientOptions::default();
        options.seed = 1;
        change(&mut options);
        Client::new(self.target.clone(), options)
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("an end in time")
}

pub(crate) async fn call(client: &Client) -> Result<Answer, CallError> {
    soon(client.unary(METHOD, Bytes::from_static(b"x"), &CallOptions::new())).await
}

pub(crate) fn head(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[&GOOD[..], more].concat()))
}

pub(crate) fn message(stream: u32, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    frame(DATA, 0, stream, &[&[0][..], &length, bytes].concat())
}

pub(crate) fn trailers(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(fields))
}

pub(crate) fn well(stream: u32) -> Vec<u8> {
    [head(stream, &[]), message(stream, b"well"), trailers(stream, &[("grpc-status", "0")])].concat()
}

pub(crate) fn goodbye(last_stream: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), code.to_be_bytes()].concat())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &code.to_be_bytes())
}

// spec: G-21
#[tokio::test]
async fn a_call_that_was_not_processed_goes_to_another_connection() {
    // The first connection serves one call and says goodbye before the second.
    let server = Server::start(&[], |asked| match (asked.connection, asked.stream) {
        (0, 1) => Some(well(1)),
        (0, _) => Some(goodbye(1, 0)),
        (_, stream) => Some(well(stream)),
    })
    .await;
    let client = server.client();
    for _ in 0..3 {
        assert_eq!(call(&client).await.unwrap().message, "well");
    }
    assert_eq!((server.connections(), server.calls()), (2, 4), "the second call came twice");

    // A refused stream comes back to the same connection.
    let server = Server::start(&[], |asked| match asked.stream {
        1 | 3 => Some(reset(asked.stream, REFUSED_STREAM)),
        stream => Some(well(stream)),
    })
    .await;
    assert_eq!(call(&server.client()).await.unwrap().message, "well");
    assert_eq!((server.connections(), server.calls()), (1, 3));
}

// spec: G-21
#[tokio::test]
async fn a_call_that_may_have_been_processed_is_not_made_again() {
    type Script = fn(Asked) -> Option<Vec<u8>>;
    let scripts: [(&str, Script); 7] = [
        ("a goodbye that counts the call, and the end", |asked| {
            // A reset of nobody's stream has the client end the connection.
            Some([goodbye(asked.stream, 0), reset(0, 0)].concat())
        }),
        ("a reset", |asked| Some(reset(asked.stream, CANCEL))),
        ("a reset for no reason", |asked| Some(reset(asked.stream, 2))),
        ("a cut", |_| None),
        ("rubbish", |_| Some(vec![0xff; 64])),
        ("a refusal of the stream once the answer has begun", |asked| {
            Some([head(asked.stream, &[]), reset(asked.stream, REFUSED_STREAM)].concat())
        }),
        ("UNAVAILABLE", |asked| Some(trailers(asked.stream, &[&GOOD[..], &[("grpc-status", "14")]].concat()))),
    ];
    for (what, script) in scripts {
        let server = Server::start(&[], script).await;
        let error = call(&server.client()).await.expect_err(what);
        assert!(!error.is_unprocessed(), "{what}: {error:?}");
        assert!(error.is_retryable(), "{what}: the caller may know better");
        assert_eq!(server.calls(), 1, "{what}");
    }
}

// spec: G-21
#[tokio::test]
async fn calls_that_are_open_finish_on_a_connection_that_says_goodbye() {
    let server = Server::start(&[], |asked| match (asked.connection, asked.stream) {
        (0, 1) => Some(Vec::new()),
        // The second call on it: goodbye, and only then the answer of the first.
        (0, 3) => Some([goodbye(1, 0), well(1)].concat()),
        (_, stream) => Some(well(stream)),
    })
    .await;
    let client = server.client();
    let first = tokio::spawn({
        let client = client.clone();
        async move { call(&client).await }
    });
    while server.calls() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(call(&client).await.unwrap().message, "well");
    assert_eq!(first.await.unwrap().unwrap().message, "well");
    assert_eq!((server.connections(), server.calls()), (2, 3), "the first call was made once");
}

// spec: G-21
#[tokio::test]
async fn a_storm_of_goodbyes_is_not_answered_by_a_storm_of_connections() {
    let server = Server::start(&[], |_| Some(goodbye(0, 0))).await;
    let client = server.client();
    let error = call(&client).await.unwrap_err();
    assert!(error.is_unprocessed() && matches!(error.error(), TransportError::Http(_)), "{error:?}");
    assert_eq!((server.calls(), server.connections()), (5, 5), "five attempts");
    // Many callers at once change nothing: one attempt to connect at a time, and each death lengthens the next wait.
    let begun = Instant::now();
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            let options = CallOptions::new().timeout(Duration::from_millis(1_500));
            tokio::spawn(async move { client.unary(METHOD, Bytes::new(), &options).await })
        })
        .collect();
    for call in calls {
        soon(call).await.unwrap().expect_err("nobody answers");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "deadlines hold: {:?}", begun.elapsed());
    assert!(server.connections() < 15, "{} connections", server.connections());
    assert_eq!(client.stats().calls_open + client.stats().calls_waiting, 0);
}

// spec: G-3, G-4, G-5, G-20
#[tokio::test]
async fn answers_that_break_the_rules_of_a_unary_call_have_the_right_status() {
    type Script = fn(u32) -> Vec<u8>;
    fn over(stream: u32) -> Vec<u8> {
        let length = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
        [head(stream, &[]), frame(DATA, 0, stream, &[&[0][..], &length.to_be_bytes()].concat())].concat()
    }
    let scripts: [(&str, Script, Code); 11] = [
        ("over the limit", over, Code::ResourceExhausted),
        ("no message", |s| [head(s, &[]), trailers(s, &[("grpc-status", "0")])].concat(), Code::Internal),
        ("none at all", |s| trailers(s, &[&GOOD[..], &[("grpc-status", "0")]].concat()), Code::Internal),
        (
            "two messages",
            |s| [head(s, &[]), message(s, b"1"), message(s, b"2"), trailers(s, &[("grpc-status", "0")])].concat(),
            Code::Internal,
        ),
        (
            "no trailers",
            |s| [head(s, &[]), message(s, b"1"), frame(DATA, END_STREAM, s, &[])].concat(),
            Code::Unavailable,
        ),
        (
            "an end inside a message",
            |s| [head(s, &[]), frame(DATA, 0, s, &[0, 0, 0, 0, 9, 1]), trailers(s, &[("grpc-status", "0")])].concat(),
            Code::Internal,
        ),
        ("trailers without a status", |s| [head(s, &[]), trailers(s, &[("x", "y")])].concat(), Code::Unknown),
        ("an encoding that was not offered", |s| head(s, &[("grpc-encoding", "br")]), Code::Internal),
        ("a bad status", |s| [head(s, &[]), trailers(s, &[("grpc-status", "x")])].concat(), Code::Unknown),
        ("bytes that are no base64", |s| head(s, &[("x-bin", "!")]), Code::Internal),
        ("a proxy's page", |s| frame(HEADERS, END_HEADERS, s, &block(&[(":status", "200")])), Code::Unknown),
    ];
    for (what, script, code) in scripts {
        let server = Server::start(&[], move |asked| Some(script(asked.stream))).await;
        let client = server.client();
        let error = call(&client).await.expect_err(what);
        assert_eq!(error.status().unwrap_or_else(|| panic!("{what}: {error:?}")).code, code, "{what}");
        assert_eq!(server.calls(), 1, "{what}");
        assert_eq!(client.stats().calls_open, 0, "{what}");
    }
}

// spec: G-7
#[tokio::test]
async fn a_call_ends_with_its_time_and_the_server_is_told() {
    let server =
        Server::start(&[], |asked| Some(if asked.connection == 0 { Vec::new() } else { well(asked.stream) })).await;
    let client = server.client_with(|options| options.silence_max = Duration::from_millis(400));
    let begun = Instant::now();
    let options = CallOptions::new().timeout(Duration::from_millis(100));
    let error = soon(client.unary(METHOD, Bytes::new(), &options)).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(5) && !error.is_unprocessed());
    // Given up by dropping it, too.
    tokio::time::timeout(Duration::from_millis(100), call(&client)).await.expect_err("nobody answers");
    let told = async {
        while server.seen.resets.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(told).await;
    assert_eq!(client.stats().calls_open, 0);
    // A connection that is silent for too long is not believed in any more.
    assert_eq!(server.connections(), 1);
    let options = CallOptions::new().timeout(Duration::from_millis(500));
    soon(client.unary(METHOD, Bytes::new(), &options)).await.unwrap_err();
    assert_eq!(call(&client).await.unwrap().message, "well");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_server_that_takes_one_call_at_a_time_is_asked_one_at_a_time() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let server = Server::start(&[(MAX_CONCURRENT_STREAMS, 1)], |asked| Some(well(asked.stream))).await;
    let client = server.client_with(|options| options.connections_max = 2);
    call(&client).await.unwrap();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client).await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap().message, "well");
    }
    assert_eq!(server.calls(), 41, "none was refused, none came twice");
    assert!(server.connections() <= 2);
}

#[tokio::test]
async fn calls_that_wait_are_bounded_and_told_why() {
    let server = Server::start(&[], |_| Some(Vec::new())).await;
    let client = server.client_with(|options| {
        (options.connections_max, options.calls_per_connection_max, options.waiting_max) = (1, 1, 2);
    });
    let begin = || {
        let client = client.clone();
        let options = CallOptions::new().timeout(Duration::from_millis(800));
        tokio::spawn(async move { client.unary(METHOD, Bytes::new(), &options).await.unwrap_err() })
    };
    let until = |ready: fn(&ClientStats) -> bool| {
        let client = client.clone();
        soon(async move {
            while !ready(&client.stats()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    };
    let mut open = vec![begin()];
    until(|stats| stats.calls_open == 1).await;
    open.extend([begin(), begin()]);
    until(|stats| stats.calls_waiting == 2).await;
    let error = call(&client).await.unwrap_err();
    assert_eq!(error.status().unwrap().code, Code::ResourceExhausted);
    assert!(error.is_unprocessed());
    for call in open {
        assert_eq!(soon(call).await.unwrap().status().unwrap().code, Code::DeadlineExceeded);
    }
}

// spec: G-20
#[tokio::test]
async fn metadata_of_bytes_and_text_comes_with_an_answer_and_with_a_refusal() {
    let server = Server::start(&[], |asked| {
        let stream = asked.stream;
        Some(match stream {
            1 => [
                head(stream, &[("x-text", "one"), ("x-bin", "qw, q6s=")]),
                message(stream, b"well"),
                trailers(stream, &[("grpc-status", "0"), ("y-bin", "AA")]),
            ]
            .concat(),
            _ => {
                let more =
                    [("grpc-status", "14"), ("grpc-status-details-bin", "AQI"), ("grpc-retry-pushback-ms", "250")];
                trailers(stream, &[&GOOD[..], &more].concat())
            }
        })
    })
    .await;
    let client = server.client();
    let mut metadata = Metadata::new();
    metadata.append_text("x-asked", "two").unwrap();
    metadata.append_binary("x-asked-bin", &b"\xab"[..]).unwrap();
    let options = CallOptions::new().metadata(metadata);
    let answer = soon(client.unary(METHOD, Bytes::new(), &options)).await.unwrap();
    assert_eq!(answer.metadata.text("x-text"), Some("one"));
    assert_eq!(answer.metadata.iter().filter(|(name, _)| *name == "x-bin").count(), 2);
    assert_eq!(answer.trailers.binary("y-bin").unwrap()[..], [0]);
    let error = call(&client).await.unwrap_err();
    assert_eq!(error.metadata().binary("grpc-status-details-bin").unwrap()[..], [1, 2]);
    assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
}

// spec: G-3
#[tokio::test]
async fn a_message_is_compressed_once_the_server_has_said_that_it_reads_that() {
    let server = Server::start(&[], |asked| {
        let stream = asked.stream;
        let flag = [asked.body[0]];
        let accepts = [("grpc-accept-encoding", "identity, gzip")];
        Some([head(stream, &accepts), message(stream, &flag), trailers(stream, &[("grpc-status", "0")])].concat())
    })
    .await;
    let client = server.client();
    let message = Bytes::from(vec![7; 10_000]);
    let options = CallOptions::new().compressed();
    for flag in [0, 1, 1] {
        let answer = soon(client.unary(METHOD, message.clone(), &options)).await.unwrap();
        assert_eq!(answer.message[..], [flag]);
    }
    let plain = soon(client.unary(METHOD, message, &CallOptions::new())).await.unwrap();
    assert_eq!(plain.message[..], [0], "only where it is asked for");
}

// spec: G-14
#[tokio::test]
async fn calls_go_where_the_service_serves() {
    // Health is the first call on each connection.
    let server = Server::start(&[], |asked| {
        let (connection, stream) = (asked.connection, asked.stream);
        Some(match stream {
            1 => [head(stream, &[]), message(stream, &[8, if connection == 0 { 2 } else { 1 }])].concat(),
            _ => {
                assert_eq!(connection, 1, "the first one does not serve");
                well(stream)
            }
        })
    })
    .await;
    let client = server.client_with(|options| options.health_service = Some(String::new()));
    for _ in 0..5 {
        assert_eq!(call(&client).await.unwrap().message, "well");
    }
    assert_eq!(server.connections(), 2);
    // A server that has no such service serves as far as anybody can tell.
    let server = Server::start(&[], |asked| match asked.stream {
        1 => Some(trailers(1, &[&GOOD[..], &[("grpc-status", "12")]].concat())),
        stream => Some(well(stream)),
    })
    .await;
    let client = server.client_with(|options| options.health_service = Some("a.B".to_owned()));
    assert_eq!(call(&client).await.unwrap().message, "well");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_and_one_that_is_another_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = Client::new(Target::anonymous(&url, &Trust::Fingerprint([7; 32])).unwrap(), ClientOptions::default());
    let options = CallOptions::new().timeout(Duration::from_millis(600));
    let error = soon(client.unary(METHOD, Bytes::new(), &options)).await.unwrap_err();
    let TransportError::NoConnection { source } = error.error() else { panic!("{error:?}") };
    assert!(matches!(**source, TransportError::Connect { .. }) && error.is_retryable() && error.is_unprocessed());
    let failed = client.stats().connections_failed;
    assert!((2..12).contains(&failed), "it tried again, with rests between: {failed}");

    let server = Server::start(&[], |asked| Some(well(asked.stream))).await;
    let url = format!("{:?}", server.target);
    let port = url.rsplit(':').next().unwrap().trim_matches(|c: char| !c.is_ascii_digit());
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    let target = Target::anonymous(&format!("https://localhost:{port}"), &Trust::Fingerprint([7; 32])).unwrap();
    let begun = Instant::now();
    let error = call(&Client::new(target, ClientOptions::default())).await.unwrap_err();
    let TransportError::NoConnection { source } = error.error() else { panic!("{error:?}") };
    assert!(matches!(**source, TransportError::Fingerprint(_)) && !error.is_retryable());
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing is tried again that cannot help");
}
