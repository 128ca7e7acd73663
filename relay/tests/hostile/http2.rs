//! HTTP/2 by hand: frames as bytes, so that every rule can be broken.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No step takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(20);

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const STREAM_CLOSED: u32 = 5;
pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame as it came.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// GOAWAY with this code.
    GoAway(u32),
    /// Without a word.
    Cut,
}

/// Returns one frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Returns a header block without compression.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend(text.as_bytes());
        }
    }
    out
}

/// Appends an integer of HPACK with a prefix of seven bits.
pub(crate) fn integer(out: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(127) else {
        return out.push(u8::try_from(value).unwrap());
    };
    out.push(127);
    while rest >= 128 {
        out.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    out.push(u8::try_from(rest).unwrap());
}

/// Returns the header fields of a call.
pub(crate) fn call<'a>(path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.extend(more);
    block(&fields)
}

/// A connection on which the preface has been said and nothing else.
pub(crate) struct Raw {
    stream: TlsStream<TcpStream>,
    input: Vec<u8>,
}

impl Raw {
    /// Connects, and says the preface with these settings.
    pub(crate) async fn connect(address: SocketAddr, certificate: &Path, settings: &[(u16, u32)]) -> Self {
        Self::connect_from("127.0.0.1", address, certificate, settings).await
    }

    /// As [`Raw::connect`], from an address of its own: Linux has all of 127.0.0.0/8.
    pub(crate) async fn connect_from(
        from: &str,
        address: SocketAddr,
        certificate: &Path,
        settings: &[(u16, u32)],
    ) -> Self {
        let mut raw = Self::over_tls_from(from, address, certificate, b"h2").await;
        let mut values = Vec::new();
        for (id, value) in settings {
            values.extend(id.to_be_bytes());
            values.extend(value.to_be_bytes());
        }
        raw.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(&frame(SETTINGS, 0, 0, &values)).await;
        raw
    }

    /// Connects and says nothing.
    pub(crate) async fn over_tls(address: SocketAddr, certificate: &Path, protocol: &[u8]) -> Self {
        Self::over_tls_from("127.0.0.1", address, certificate, protocol).await
    }

    async fn over_tls_from(from: &str, address: SocketAddr, certificate: &Path, protocol: &[u8]) -> Self {
        let pem = std::fs::read(certificate).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let tcp = socket.connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        Self { stream, input: Vec::new() }
    }

    /// Sends bytes that the relay has to take.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        assert!(self.try_send(bytes).await, "the relay closed the connection too early");
    }

    /// Sends bytes; says whether the connection still stood.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        let sent = async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        tokio::time::timeout(HANG, sent).await.expect("the relay takes the bytes or ends the connection")
    }

    /// Sends the same bytes again and again and reads nothing, for at most so long. Returns how many times they went out,
    /// and whether the connection still stands.
    pub(crate) async fn flood(&mut self, bytes: &[u8], time: Duration) -> (usize, bool) {
        let until = tokio::time::Instant::now() + time;
        let mut count = 0;
        loop {
            match tokio::time::timeout_at(until, self.stream.write_all(bytes)).await {
                Ok(Ok(())) => count += 1,
                Ok(Err(_)) => return (count, false),
                Err(_) => return (count, true),
            }
        }
    }

    /// Returns the next frame; nothing once the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(head) = self.input.get(..9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.input.len() >= 9 + length {
                    let (kind, flags) = (head[3], head[4]);
                    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let rest = self.input.split_off(9 + length);
                    let mut whole = std::mem::replace(&mut self.input, rest);
                    let payload = whole.split_off(9);
                    return Some(Frame { kind, flags, stream, payload });
                }
            }
            let mut chunk = [0; 4096];
            let read = tokio::time::timeout(HANG, self.stream.read(&mut chunk)).await.expect("something comes");
            match read {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.extend(&chunk[..count]),
            }
        }
    }

    /// Reads to the end of the connection; it must come.
    pub(crate) async fn ending(&mut self) -> Ending {
        while let Some(frame) = self.next().await {
            if frame.kind == GOAWAY {
                return Ending::GoAway(code(&frame.payload[4..]));
            }
        }
        Ending::Cut
    }

    /// Reads until something of this kind comes for this stream.
    pub(crate) async fn until(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("no frame of kind {kind} for {stream}"));
            assert_ne!(frame.kind, GOAWAY, "{frame:?}");
            if frame.kind == kind && frame.stream == stream {
                return frame;
            }
        }
    }

    /// Waits until the relay resets this stream and returns the code.
    pub(crate) async fn reset(&mut self, stream: u32) -> u32 {
        code(&self.until(RST_STREAM, stream).await.payload)
    }

    /// Asks for the relay's health on a stream of this connection, which must still stand.
    pub(crate) async fn still_serves(&mut self, stream: u32) {
        self.send(&frame(HEADERS, END_HEADERS, stream, &call("/grpc.health.v1.Health/Check", &[]))).await;
        self.send(&frame(DATA, END_STREAM, stream, &[0; 5])).await;
        let answer = self.until(DATA, stream).await;
        assert_eq!(answer.payload, [0, 0, 0, 0, 2, 8, 1]);
    }
}

/// Returns the number in a frame's payload.
pub(crate) fn code(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}
