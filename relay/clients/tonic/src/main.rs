//! tonic as a client of the relay: `blazedb-tonic-client ADDRESS CERTIFICATE TOKEN`. Says what it did; fails otherwise.
//! Without a token: of the interoperability service on the relay's server code.

mod interop;

use std::error::Error;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const SYNC: &str = "/blaze.v1.Relay/Sync";
const SERVING: &[u8] = &[8, 1];

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// Returns a frame of a session: 16 bytes of header and the body (spec/frame.md).
fn frame(kind: u8, body: &[u8]) -> Bytes {
    let mut out = vec![b'B', b'Z', 0, kind, 0, 0, 0, 0];
    out.extend(u32::try_from(body.len()).expect("short").to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out);
    crc.update(body);
    out.extend(crc.finalize().to_le_bytes());
    out.extend(body);
    Bytes::from(out)
}

fn hello() -> Bytes {
    let mut body = vec![1, 0];
    body.extend([0; 16]);
    body.extend([0, 0, 0]);
    frame(1, &body)
}

async fn unary(grpc: &mut Grpc<Channel>, path: &'static str, message: &'static [u8]) -> Result<Bytes, Status> {
    grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
    let request = Request::new(Bytes::from_static(message));
    Ok(grpc.unary(request, PathAndQuery::from_static(path), Raw).await?.into_inner())
}

fn refused<T>(what: &str, result: Result<T, Status>, code: Code) {
    match result {
        Err(status) if status.code() == code => println!("{what}: {code:?}, \"{}\"", status.message()),
        Err(status) => panic!("{what}: {status:?} instead of {code:?}"),
        Ok(_) => panic!("{what}: it went well instead of {code:?}"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(address), Some(certificate)) = (args.next(), args.next()) else {
        return Err("usage: blazedb-tonic-client ADDRESS CERTIFICATE [TOKEN]".into());
    };
    let authority = Certificate::from_pem(std::fs::read(certificate)?);
    let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
    let channel = Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?.connect().await?;
    let mut grpc = Grpc::new(channel.clone());
    let Some(token) = args.next() else { return interop::run(grpc).await };

    assert_eq!(unary(&mut grpc, CHECK, b"").await?, SERVING);
    assert_eq!(unary(&mut grpc, CHECK, b"\x0a\x0eblaze.v1.Relay").await?, SERVING);
    refused("a service that is not there", unary(&mut grpc, CHECK, b"\x0a\x05other").await, Code::NotFound);
    refused("a method that is not there", unary(&mut grpc, "/blaze.v1.Relay/Nothing", b"").await, Code::Unimplemented);
    refused("no token", unary(&mut grpc, SYNC, b"").await, Code::Unauthenticated);
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut packing = Grpc::new(channel.clone()).send_compressed(encoding);
        assert_eq!(unary(&mut packing, CHECK, b"\x0a\x0eblaze.v1.Relay").await?, SERVING);
        println!("{encoding:?}: read");
    }

    let mut request = Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(300));
    grpc.ready().await?;
    let mut watched = grpc.server_streaming(request, PathAndQuery::from_static(WATCH), Raw).await?.into_inner();
    assert_eq!(watched.next().await.expect("a message")?, SERVING);
    refused("a deadline", watched.next().await.expect("a status"), Code::DeadlineExceeded);

    // A session, and a second one that is given up.
    for finish in [true, false] {
        let (sender, messages) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(messages));
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        sender.send(hello()).await?;
        grpc.ready().await?;
        let mut session = grpc.streaming(request, PathAndQuery::from_static(SYNC), Raw).await?.into_inner();
        let welcome = session.next().await.expect("a welcome")?;
        assert_eq!((&welcome[..2], welcome[3]), (&b"BZ"[..], 2));
        for nonce in 0..100u64 {
            sender.send(frame(7, &nonce.to_le_bytes())).await?;
            assert_eq!(session.next().await.expect("a pong")?, frame(8, &nonce.to_le_bytes()));
        }
        if finish {
            drop(sender);
            assert!(session.next().await.is_none(), "status OK");
            println!("a session: welcome, 100 pings answered, OK");
        }
    }
    assert_eq!(unary(&mut grpc, CHECK, b"").await?, SERVING);

    // Many at once on one connection.
    let calls: Vec<_> = (0..500)
        .map(|_| {
            let mut grpc = Grpc::new(channel.clone());
            tokio::spawn(async move { unary(&mut grpc, CHECK, b"").await })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await??, SERVING);
    }
    println!("500 calls at once: answered");
    Ok(())
}
