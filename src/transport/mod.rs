//! The way to a relay: gRPC over HTTP/2 over TLS 1.3, or a WebSocket over TLS 1.3 where a proxy lets HTTP/2 not through;
//! nothing older and nothing in the clear.
//!
//! A [`Target`] says where the relay is, why it is to be believed, and with which token to enter; [`open_stream`]
//! gives a [`FrameSender`] and a [`FrameReceiver`] that carry whole frames of a session. There is no state beyond that:
//! reconnecting, backoff and what the frames mean belong to the session and its driver. A [`Client`] makes other calls,
//! of the relay's services or anybody's, over connections that it pools.
//!
//! ```text
//!        stream    client      a session on a connection of its own; calls on pooled connections
//!   websocket   call           the same frames as binary messages; one gRPC call: request, messages both ways, status
//!         connect              look-up, TCP, HTTP/2
//!           tls                TLS 1.3, and whom to believe
//! ```
//!
//! Must never: fall back to something weaker, send twice what may have been processed, or look into a message.

mod call;
mod client;
mod connect;
mod limits;
mod stream;
mod tls;
mod websocket;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use http::uri::{Authority, Scheme, Uri};
use rustls::pki_types::ServerName;

pub use blazedb_wire::grpc::{Code, Health, Metadata, MetadataError, MetadataValue, Status};
pub use client::{Answer, Answers, CallError, CallOptions, Client, ClientOptions, ClientStats, Requests};
pub use stream::{FrameReceiver, FrameSender, open_stream};
pub use tls::FingerprintMismatch;
pub use websocket::websocket_accept;

/// Port of `https://` addresses that name none.
const HTTPS_PORT: u16 = 443;

/// Why the relay's certificate is to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// An authority in the system's list signed it for the relay's name.
    System,
    /// One of these authorities (certificates in PEM) signed it for the relay's name.
    CaPem(Vec<u8>),
    /// SHA-256 of its SubjectPublicKeyInfo is this, whatever name and dates it bears; `blazedb serve` prints it.
    Fingerprint([u8; 32]),
}

/// Reads a fingerprint as `blazedb serve` prints it: 64 hexadecimal digits, with or without colons and blanks.
pub fn parse_fingerprint(text: &str) -> Result<[u8; 32], TransportError> {
    let mut digits = text.bytes().filter(|byte| !matches!(byte, b':' | b' '));
    let mut digit = || digits.next().and_then(|byte| char::from(byte).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; 32];
    for byte in &mut bytes {
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(TransportError::BadFingerprint);
        };
        *byte = high << 4 | low;
    }
    if digits.next().is_some() {
        return Err(TransportError::BadFingerprint);
    }
    Ok(bytes)
}

/// Bytes that went over the network, TLS and HTTP/2 included; counted at the TCP socket.
#[derive(Debug, Default)]
pub struct ByteCounters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl ByteCounters {
    /// Returns the bytes sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Returns the bytes received.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A relay, as one client sees it. Cheap to clone; clones share the counters, and what was learnt of the way there.
#[derive(Clone)]
pub struct Target {
    host: String,
    port: u16,
    authority: Authority,
    name: ServerName<'static>,
    authorization: Option<HeaderValue>,
    tls: Arc<rustls::ClientConfig>,
    counters: Arc<ByteCounters>,
    way: Arc<stream::Way>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token is a secret.
        f.debug_struct("Target").field("authority", &self.authority).finish_non_exhaustive()
    }
}

impl Target {
    /// Checks everything that can be checked without the network. `url` is `https://HOST[:PORT]`.
    pub fn new(url: &str, trust: &Trust, token: &str) -> Result<Self, TransportError> {
        let mut target = Self::anonymous(url, trust)?;
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| TransportError::BadToken)?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TransportError::BadToken);
        }
        authorization.set_sensitive(true);
        target.authorization = Some(authorization);
        Ok(target)
    }

    /// As [`Target::new`], with no token: for calls that need none, such as [`Client::check`].
    pub fn anonymous(url: &str, trust: &Trust) -> Result<Self, TransportError> {
        let bad = |why| TransportError::BadUrl { url: url.to_owned(), why };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(bad("a relay speaks TLS only, so it begins with https://"));
        }
        let authority = uri.authority().cloned().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a relay takes a token, not a user name"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(bad("it ends after the port"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| bad("its host is neither a name nor an address"))?;
        // `Authority::port` gives nothing for a port out of range, so the text behind the host is read here.
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => HTTPS_PORT,
            text => match text.strip_prefix(':').and_then(|digits| digits.parse().ok()) {
                Some(port) if port != 0 => port,
                _ => return Err(bad("its port is not in 1..=65535")),
            },
        };
        let tls = Arc::new(tls::client_config(trust)?);
        let counters = Arc::default();
        Ok(Self { host, port, authority, name, authorization: None, tls, counters, way: Arc::default() })
    }

    /// Returns the bytes sent and received through this target and its clones so far.
    pub fn counters(&self) -> &ByteCounters {
        &self.counters
    }
}

/// Why a relay was not reached, or a stream ended.
#[derive(Debug)]
pub enum TransportError {
    /// The URL is no relay's.
    BadUrl {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The token has characters that no token has.
    BadToken,
    /// The fingerprint is not 64 hexadecimal digits.
    BadFingerprint,
    /// The certificates given as authorities are none, or the system has no list.
    BadAuthorities {
        /// What is wrong with them.
        why: String,
    },
    /// The host's name has no address.
    Resolve {
        /// The name.
        host: String,
        /// The system's answer.
        source: io::Error,
    },
    /// No TCP connection.
    Connect {
        /// Host and port.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Connecting took longer than the limit.
    ConnectTimeout {
        /// Host and port.
        address: String,
    },
    /// The relay's key is not the one that was pinned.
    Fingerprint(FingerprintMismatch),
    /// The relay's certificate is not believed.
    Certificate(rustls::Error),
    /// TLS failed otherwise.
    Tls(io::Error),
    /// The server does not speak HTTP/2.
    NotHttp2,
    /// HTTP failed, or the connection was lost.
    Http(hyper::Error),
    /// The connection of a WebSocket was lost.
    Lost(io::Error),
    /// The relay ended the call with a status that is not OK.
    Status(Status),
    /// What a call takes along is more than a relay takes; nothing was sent.
    MetadataTooLarge {
        /// Its bytes, as they would travel.
        given: usize,
        /// How many there may be.
        max: usize,
    },
    /// No connection was made in the time of a call.
    NoConnection {
        /// Why the last attempt failed.
        source: Arc<Self>,
    },
    /// The stream has ended; [`FrameReceiver::next`] says how. Of a client: it was drained.
    Closed,
}

impl TransportError {
    /// Says whether trying again without a change could help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::Tls(_)
            | Self::Http(_)
            | Self::Lost(_)
            | Self::Closed => true,
            Self::BadUrl { .. }
            | Self::BadToken
            | Self::BadFingerprint
            | Self::BadAuthorities { .. }
            | Self::Fingerprint(_)
            | Self::Certificate(_)
            | Self::MetadataTooLarge { .. }
            | Self::NotHttp2 => false,
            Self::NoConnection { source } => source.is_retryable(),
            Self::Status(status) => !matches!(
                status.code,
                Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::Unimplemented
                    | Code::InvalidArgument
                    | Code::NotFound
            ),
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadUrl { url, why } => {
                write!(f, "`{url}` is no relay's address: {why}; write it as https://HOST:PORT")
            }
            Self::BadToken => f.write_str(
                "the token is empty or has characters that no token has; copy all of what `blazedb token` prints",
            ),
            Self::BadFingerprint => {
                f.write_str("a fingerprint is 64 hexadecimal digits; copy it from what `blazedb serve` prints at start")
            }
            Self::BadAuthorities { why } => {
                write!(f, "no certificate authority to believe: {why}; give one in PEM, or the relay's fingerprint")
            }
            Self::Resolve { host, .. } => {
                write!(f, "the name `{host}` has no address; check the spelling and the network")
            }
            Self::Connect { address, .. } => {
                write!(f, "cannot connect to {address}; check that the relay runs and that no firewall is between")
            }
            Self::ConnectTimeout { address } => write!(
                f,
                "no answer from {address} within {} s; check the address and the network",
                limits::CONNECT_MAX.as_secs()
            ),
            Self::Fingerprint(mismatch) => mismatch.fmt(f),
            Self::Certificate(rustls::Error::InvalidCertificate(rustls::CertificateError::BadSignature)) => f
                .write_str(
                    "the server is not proved to hold the key that is trusted; if the relay was given a new \
                     certificate, trust that one, or pin the fingerprint that `blazedb serve` prints; otherwise \
                     somebody is in between: do not connect",
                ),
            Self::Certificate(_) => f.write_str(
                "the relay's certificate is not trusted; if it is the relay's own, pin the fingerprint that \
                 `blazedb serve` prints",
            ),
            Self::Tls(_) => f.write_str("TLS with the relay failed; check that the port is a relay's (TLS 1.3)"),
            Self::NotHttp2 => f.write_str(
                "the server does not speak HTTP/2; check the port, and that a proxy in between passes HTTP/2",
            ),
            Self::Http(_) | Self::Lost(_) => f.write_str("the connection to the relay was lost; reconnect"),
            Self::Status(status) => match status.code {
                Code::Unauthenticated => write!(f, "the relay refused the token ({status})"),
                Code::PermissionDenied => write!(f, "the token does not open this space ({status})"),
                Code::ResourceExhausted => write!(f, "a limit of the relay was hit ({status})"),
                Code::Unimplemented => {
                    write!(f, "the server is no relay of this version ({status}); check URL and versions")
                }
                Code::Unavailable => write!(f, "the relay cannot serve now ({status}); it is worth trying again"),
                _ => write!(f, "the relay ended the stream ({status})"),
            },
            Self::MetadataTooLarge { given, max } => write!(
                f,
                "the call takes along {given} bytes of metadata and header fields, and {max} is the most; put more into \
                 the message"
            ),
            Self::NoConnection { .. } => f.write_str("no connection was made in time"),
            Self::Closed => f.write_str("the stream to the relay has ended; reconnect"),
        }
    }
}

impl std::error::Error for TransportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Resolve { source, .. } | Self::Connect { source, .. } => Some(source),
            Self::Certificate(source) => Some(source),
            Self::Tls(source) | Self::Lost(source) => Some(source),
            Self::Http(source) => Some(source),
            Self::NoConnection { source } => Some(source.as_ref()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIN: Trust = Trust::Fingerprint([7; 32]);

    #[test]
    fn urls() {
        let check = |url: &str, want: Option<(&str, u16)>| {
            let target = Target::new(url, &PIN, "token");
            match (&target, want) {
                (Ok(target), Some((host, port))) => {
                    assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
                }
                (Err(TransportError::BadUrl { .. }), None) => {}
                _ => panic!("{url}: {target:?}"),
            }
        };
        check("https://127.0.0.1:7420", Some(("127.0.0.1", 7420)));
        check("https://relay.example/", Some(("relay.example", 443)));
        check("https://[::1]:7420", Some(("::1", 7420)));
        check("https://localhost:1", Some(("localhost", 1)));
        for bad in [
            "",
            "relay.example:7420",
            "http://relay.example",
            "https://",
            "https://user@relay.example",
            "https://relay.example/path",
            "https://relay.example/?q=1",
            "https://relay.example:70000",
            "https://relay.example:0",
            "https://relay.example:",
            "https://rel ay",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn tokens_are_checked_and_not_printed() {
        let target = Target::new("https://localhost:1", &PIN, "a.b.c").unwrap();
        assert!(!format!("{target:?}").contains("a.b.c"));
        for bad in ["", "a b", "a\nb", "\u{e4}"] {
            let refused = Target::new("https://localhost:1", &PIN, bad);
            assert!(matches!(refused, Err(TransportError::BadToken)), "{bad:?}");
        }
    }

    #[test]
    fn fingerprints() {
        let plain = "00ff".repeat(16);
        let mut want = [0; 32];
        want.iter_mut().skip(1).step_by(2).for_each(|byte| *byte = 0xff);
        assert_eq!(parse_fingerprint(&plain).unwrap(), want);
        assert_eq!(parse_fingerprint(&"00:FF:".repeat(16)).unwrap(), want);
        for bad in ["", "00", &plain[1..], &format!("{plain}0"), &plain.replace('f', "g")] {
            assert!(matches!(parse_fingerprint(bad), Err(TransportError::BadFingerprint)), "{bad}");
        }
    }

    #[test]
    fn authorities() {
        let refused = Target::new("https://localhost:1", &Trust::CaPem(b"rubbish".to_vec()), "t");
        assert!(matches!(refused, Err(TransportError::BadAuthorities { .. })));
    }
}
