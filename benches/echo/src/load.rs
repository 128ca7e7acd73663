//! The load: echo calls on plain h2, timed one by one. It knows neither server.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Request};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::Fault;

/// Calls, or messages of a stream, that are on their way on one connection at one time.
pub(crate) const IN_FLIGHT: usize = 4;
/// Bytes of a message.
pub(crate) const MESSAGE_BYTES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Unary,
    Streaming,
}

/// Connections that are up.
pub(crate) struct Load {
    kind: Kind,
    connections: Vec<SendRequest<Bytes>>,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Load {
    /// Connects, over TLS if there is a certificate to believe.
    pub(crate) async fn connect(
        address: SocketAddr,
        certificate: Option<&Path>,
        kind: Kind,
        connections: usize,
    ) -> Result<Self, Fault> {
        let connector = certificate.map(connector).transpose()?;
        let mut all = Vec::with_capacity(connections);
        for _ in 0..connections {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let io: Pin<Box<dyn Io>> = match &connector {
                Some(connector) => Box::pin(connector.connect(ServerName::try_from("localhost")?, tcp).await?),
                None => Box::pin(tcp),
            };
            let (requests, connection) = h2::client::Builder::new()
                .initial_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .handshake(io)
                .await?;
            tokio::spawn(connection);
            all.push(requests);
        }
        Ok(Self { kind, connections: all })
    }

    /// Drives all connections for so long, and returns how long each message took, in nanoseconds.
    pub(crate) async fn drive(&self, time: Duration) -> Result<Vec<u32>, Fault> {
        let until = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for requests in &self.connections {
            match self.kind {
                Kind::Unary => {
                    for _ in 0..IN_FLIGHT {
                        tasks.spawn(unary(requests.clone(), until));
                    }
                }
                Kind::Streaming => {
                    tasks.spawn(streaming(requests.clone(), until));
                }
            }
        }
        let mut all = Vec::new();
        while let Some(took) = tasks.join_next().await {
            all.extend(took??);
        }
        Ok(all)
    }
}

fn connector(certificate: &Path) -> Result<TlsConnector, Fault> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate)?)?;
    let mut config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("https://localhost{path}"))
        .header("content-type", HeaderValue::from_static("application/grpc"))
        .header("te", HeaderValue::from_static("trailers"))
        .body(())
        .expect("a request")
}

fn message() -> Bytes {
    let mut out = BytesMut::with_capacity(5 + MESSAGE_BYTES);
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&u32::try_from(MESSAGE_BYTES).expect("short").to_be_bytes());
    out.resize(5 + MESSAGE_BYTES, 7);
    out.freeze()
}

fn nanos(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_nanos()).unwrap_or(u32::MAX)
}

async fn unary(requests: SendRequest<Bytes>, until: Instant) -> Result<Vec<u32>, Fault> {
    let message = message();
    let mut took = Vec::with_capacity(1 << 16);
    let mut requests = requests;
    while Instant::now() < until {
        let begun = Instant::now();
        requests = requests.ready().await?;
        let (response, mut stream) = requests.send_request(request("/bench.Echo/Unary"), false)?;
        stream.send_data(message.clone(), true)?;
        let mut body = response.await?.into_body();
        let received = take(&mut body, usize::MAX).await?;
        let trailers = body.trailers().await?.ok_or("no trailers")?;
        if received != message.len() || trailers.get("grpc-status").is_none_or(|status| status != "0") {
            return Err("that is no echo".into());
        }
        took.push(nanos(begun));
    }
    Ok(took)
}

/// Takes this many bytes of a body, or all there are; returns how many there were.
async fn take(body: &mut RecvStream, most: usize) -> Result<usize, Fault> {
    let mut received = 0;
    while received < most {
        let Some(chunk) = body.data().await else { break };
        let chunk = chunk?;
        received += chunk.len();
        body.flow_control().release_capacity(chunk.len())?;
    }
    Ok(received)
}

async fn streaming(requests: SendRequest<Bytes>, until: Instant) -> Result<Vec<u32>, Fault> {
    let message = message();
    let mut took = Vec::with_capacity(1 << 16);
    let mut requests = requests.ready().await?;
    let (response, mut stream) = requests.send_request(request("/bench.Echo/Stream"), false)?;
    let mut sent = std::collections::VecDeque::new();
    for _ in 0..IN_FLIGHT {
        sent.push_back(Instant::now());
        send(&mut stream, &message).await?;
    }
    let mut body = response.await?.into_body();
    // Bytes received of the message that is next.
    let mut part = 0;
    while Instant::now() < until {
        let chunk = body.data().await.ok_or("the stream ended")??;
        body.flow_control().release_capacity(chunk.len())?;
        part += chunk.len();
        while part >= message.len() {
            part -= message.len();
            took.push(nanos(sent.pop_front().ok_or("more came back than was sent")?));
            sent.push_back(Instant::now());
            send(&mut stream, &message).await?;
        }
    }
    stream.send_data(Bytes::new(), true)?;
    take(&mut body, usize::MAX).await?;
    Ok(took)
}

async fn send(stream: &mut SendStream<Bytes>, message: &Bytes) -> Result<(), Fault> {
    stream.reserve_capacity(message.len());
    while stream.capacity() < message.len() {
        poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or("the stream was closed")??;
    }
    stream.send_data(message.clone(), false)?;
    Ok(())
}
