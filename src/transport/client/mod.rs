//! Calls of any gRPC service over a pool of connections, for users of the library.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use blazedb::transport::{CallOptions, Client, ClientOptions, Target, Trust};
//!
//! let target = Target::anonymous("https://relay.example:7420", &Trust::System)?;
//! let client = Client::new(target, ClientOptions::default());
//! println!("{:?}", client.check("blaze.v1.Relay", &CallOptions::new()).await?);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] makes connections when calls need them and keeps a few; each carries many calls. A call that surely was not
//! processed (it was never sent, the server said goodbye before it, or refused its stream) goes to another connection by
//! itself; every other failure is the caller's to judge: [`CallError::is_unprocessed`]. Every call has an end: its own
//! deadline, which the server is told (`grpc-timeout`), and dropping it, which the server is told, too.
//!
//! Memory: for each connection its window of received bytes, for each call one message that is being put together and at
//! most 64 KiB that wait to be sent. Read [`Client`] first, then [`Answers`].

mod answers;
mod pool;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use blazedb_sync::limits::RETRY_MS_MAX;
use blazedb_wire::grpc::{
    Code, Encoding, HEALTH_CHECK_PATH, Health, MESSAGE_BYTES_MAX, MessageBuf, Metadata, RETRY_PUSHBACK, Status,
    encode_message, encode_packed, health_request,
};
use bytes::Bytes;
use tokio::time::Instant;

pub use answers::{Answer, Answers, Requests};

use super::call::{CallBody, QueueEnds, pack};
use super::connect::Tuning;
use super::limits::{PATH_BYTES_MAX, TIMEOUT_MAX};
use super::{Target, TransportError};
use answers::{Again, Started};
use pool::Pool;

/// How a client behaves; the defaults are meant for everybody.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// Connections at one time, 4 by default. Another one is made when the others are full.
    pub connections_max: usize,
    /// Calls at one time on one connection, 32 by default, fewer if the server says so. Further calls wait.
    pub calls_per_connection_max: usize,
    /// Calls that wait for a connection at one time, 1,024 by default; further ones fail with RESOURCE_EXHAUSTED.
    pub waiting_max: usize,
    /// How long a call with no deadline of its own waits for a connection, 20 s by default.
    pub connection_wait_max: Duration,
    /// Deadline of unary calls that name none, 30 s by default.
    pub unary_timeout: Duration,
    /// Largest message of an answer, inflated; 4 MiB by default.
    pub message_bytes_max: usize,
    /// What one call may receive before it is taken; 256 KiB by default.
    pub stream_window_bytes: u32,
    /// What one connection may receive before it is taken; 1 MiB by default.
    pub connection_window_bytes: u32,
    /// A ping goes out when nothing has come for this long while a call is open. Five minutes by default: other servers end
    /// connections that ping more often. Our relay pings by itself.
    pub ping_after: Option<Duration>,
    /// A connection on which a call ran out of time and nothing at all came for this long takes no more calls; 10 s by
    /// default.
    pub silence_max: Duration,
    /// The service whose health is watched on every connection (`grpc.health.v1`): calls go only where it serves. None by
    /// default: a watch is one more call for each connection.
    pub health_service: Option<String>,
    /// Spreads the waits between attempts to connect; random by default.
    pub seed: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connections_max: 4,
            calls_per_connection_max: 32,
            waiting_max: 1_024,
            connection_wait_max: Duration::from_secs(20),
            unary_timeout: Duration::from_secs(30),
            message_bytes_max: MESSAGE_BYTES_MAX,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            ping_after: Some(Duration::from_secs(300)),
            silence_max: Duration::from_secs(10),
            health_service: None,
            seed: RandomState::new().hash_one(0),
        }
    }
}

impl ClientOptions {
    fn tuning(&self) -> Tuning {
        Tuning {
            stream_window_bytes: self.stream_window_bytes,
            connection_window_bytes: self.connection_window_bytes,
            streams_at_first: self.calls_per_connection_max,
            ping_after: self.ping_after,
        }
    }
}

/// What one call takes along.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    timeout: Option<Duration>,
    metadata: Metadata,
    compressed: bool,
}

impl CallOptions {
    /// Returns the options of a plain call.
    pub const fn new() -> Self {
        Self { timeout: None, metadata: Metadata::new(), compressed: false }
    }

    /// Ends the call with DEADLINE_EXCEEDED after this long, waiting for a connection included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout.min(TIMEOUT_MAX));
        self
    }

    /// Sends this along. A call whose metadata is over what a relay takes (6 KiB, and 8 KiB with all other header fields)
    /// fails with [`TransportError::MetadataTooLarge`] before anything is sent.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Compresses the messages of the call that get shorter by it, once an answer to this client has said what the server reads; those
    /// of less than 256 bytes stay as they are. Each message by itself. Off by default: who can see lengths learns about secrets that are compressed together with what somebody else chose.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.compressed = true;
        self
    }
}

/// How a call failed.
#[derive(Debug)]
pub struct CallError {
    error: TransportError,
    metadata: Metadata,
    unprocessed: bool,
}

impl CallError {
    fn new(error: TransportError) -> Self {
        Self { error, metadata: Metadata::new(), unprocessed: false }
    }

    fn unsent(error: TransportError) -> Self {
        Self { error, metadata: Metadata::new(), unprocessed: true }
    }

    fn status_of(code: Code, text: impl Into<String>) -> Self {
        Self::new(TransportError::Status(Status::new(code, text)))
    }

    /// Returns what went wrong.
    pub fn error(&self) -> &TransportError {
        &self.error
    }

    /// Returns the status, if the call ended with one.
    pub fn status(&self) -> Option<&Status> {
        match &self.error {
            TransportError::Status(status) => Some(status),
            _ => None,
        }
    }

    /// Returns what came with the status.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Says whether the server surely did not process the call, so that it may be made again whatever it does.
    pub fn is_unprocessed(&self) -> bool {
        self.unprocessed
    }

    /// Says whether making the call again without a change could help. If it changes something and
    /// [`CallError::is_unprocessed`] is false, it may happen twice.
    pub fn is_retryable(&self) -> bool {
        self.error.is_retryable()
    }

    /// Returns how long the server asks to wait before the call is made again, ten minutes at most, whatever it asks for.
    pub fn retry_after(&self) -> Option<Duration> {
        let asked: u64 = self.metadata.text(RETRY_PUSHBACK)?.parse().ok()?;
        Some(Duration::from_millis(asked.min(RETRY_MS_MAX)))
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// A client in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Connections that take calls.
    pub connections: usize,
    /// Connections made since the client was.
    pub connections_made: u64,
    /// Attempts to connect that failed.
    pub connections_failed: u64,
    /// Calls that are open.
    pub calls_open: usize,
    /// Calls that wait for a connection.
    pub calls_waiting: usize,
}

/// Makes calls. Cheap to clone; clones share the connections, which end with the last of them and its calls.
///
/// Runs on the caller's tokio runtime (with time and network), where it leaves a few tasks for each connection.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("target", &self.pool.target).field("stats", &self.stats()).finish()
    }
}

impl Client {
    /// Returns a client that has not connected yet; the first call does.
    pub fn new(target: Target, options: ClientOptions) -> Self {
        Self { pool: Pool::new(target, options) }
    }

    /// Sends one message and returns the one that comes back. `path` is `/package.Service/Method`.
    pub async fn unary(&self, path: &str, message: Bytes, options: &CallOptions) -> Result<Answer, CallError> {
        let timeout = options.timeout.unwrap_or(self.pool.options.unary_timeout);
        self.start_one(path, message, options, Some(timeout)).await?.only().await
    }

    /// Sends one message and returns the stream of messages that comes back.
    pub async fn server_streaming(
        &self,
        path: &str,
        message: Bytes,
        options: &CallOptions,
    ) -> Result<Answers, CallError> {
        let mut answers = self.start_one(path, message, options, options.timeout).await?;
        answers.metadata().await?;
        Ok(answers)
    }

    /// Opens a call that sends any number of messages, and receives one ([`Answers::only`]) or any number. It is on its way
    /// when this returns; the server has not answered yet.
    pub async fn streaming(&self, path: &str, options: &CallOptions) -> Result<(Requests, Answers), CallError> {
        let encoding = self.encoding(options);
        let (body, QueueEnds { messages, kept }) = CallBody::queue(encoding);
        let again = Again::new(&self.pool.target, path, options.metadata.clone(), encoding, None)?;
        let mut answers = self.start(again, body, options.timeout).await?;
        answers.keep(kept);
        Ok((Requests { messages }, answers))
    }

    /// Asks for the health of a service; the empty name asks for the whole server.
    pub async fn check(&self, service: &str, options: &CallOptions) -> Result<Health, CallError> {
        let answer = self.unary(HEALTH_CHECK_PATH, health_request(service), options).await?;
        let misshapen = || CallError::status_of(Code::Internal, "the HealthCheckResponse is misshapen");
        Health::decode(&answer.message).ok_or_else(misshapen)
    }

    /// Takes no more calls, and returns when those that are open have ended. Further calls fail with
    /// [`TransportError::Closed`].
    pub async fn drain(&self) {
        self.pool.drain().await;
    }

    /// Returns the client in numbers.
    pub fn stats(&self) -> ClientStats {
        self.pool.stats()
    }

    fn encoding(&self, options: &CallOptions) -> Encoding {
        if options.compressed { self.pool.best_encoding() } else { Encoding::Identity }
    }

    async fn start_one(
        &self,
        path: &str,
        message: Bytes,
        options: &CallOptions,
        timeout: Option<Duration>,
    ) -> Result<Answers, CallError> {
        let best = self.encoding(options);
        let too_long = |status| CallError::unsent(TransportError::Status(status));
        let packed = pack(best, &message);
        let (message, encoding): (MessageBuf, Encoding) = match packed {
            Some(packed) if message.len() <= MESSAGE_BYTES_MAX => (encode_packed(packed).map_err(too_long)?, best),
            _ => (encode_message(message).map_err(too_long)?, Encoding::Identity),
        };
        let again = Again::new(&self.pool.target, path, options.metadata.clone(), encoding, Some(message.clone()))?;
        self.start(again, CallBody::One(Some(message)), timeout).await
    }

    async fn start(&self, again: Again, body: CallBody, timeout: Option<Duration>) -> Result<Answers, CallError> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout.min(TIMEOUT_MAX));
        let wait_until = deadline.unwrap_or_else(|| Instant::now() + self.pool.options.connection_wait_max);
        let lease = self.pool.lease(wait_until).await?;
        let started = Started::on(lease, &self.pool, &again, body, deadline);
        Ok(Answers::new(Arc::clone(&self.pool), again, started, deadline))
    }
}

/// Refuses what is no path of a method.
fn check_path(path: &str) -> Result<(), CallError> {
    let mut parts = path.split('/');
    let good = |part: Option<&str>| {
        part.is_some_and(|part| {
            !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
    };
    let shaped = parts.next() == Some("") && good(parts.next()) && good(parts.next()) && parts.next().is_none();
    if shaped && path.len() <= PATH_BYTES_MAX {
        return Ok(());
    }
    let text = "the path of a method is /package.Service/Method";
    Err(CallError::unsent(TransportError::Status(Status::new(Code::InvalidArgument, text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["/blaze.v1.Relay/Sync", "/a/b", "/a-1_2.B/c"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        let long = format!("/a/{}", "b".repeat(PATH_BYTES_MAX));
        for bad in ["", "/", "a/b", "/a", "/a/", "//b", "/a/b/c", "/a/b?c", "/a/b c", "/a/\u{e4}", "/a/b\r\n", &long] {
            let error = check_path(bad).unwrap_err();
            assert_eq!(error.status().unwrap().code, Code::InvalidArgument, "{bad}");
        }
    }

    // spec: G-11, G-20
    #[tokio::test]
    async fn metadata_over_the_limit_is_refused_before_anything_is_sent() {
        let target = Target::anonymous("https://localhost:1", &crate::transport::Trust::Fingerprint([7; 32])).unwrap();
        let client = Client::new(target.clone(), ClientOptions::default());
        // What was received may be more than what may be sent.
        let received = |fields: usize, bytes: usize| {
            let mut metadata = Metadata::new();
            for _ in 0..fields {
                metadata.receive("x", "y".repeat(bytes).as_bytes()).unwrap();
            }
            metadata
        };
        let check =
            |metadata: &Metadata| crate::transport::call::check_metadata(&target, "/a/b", Encoding::Zstd, metadata);
        for (fields, bytes, fits) in [(1, 6_143, true), (1, 6_144, false), (150, 5, true), (400, 5, false)] {
            let metadata = received(fields, bytes);
            assert_eq!(check(&metadata).is_ok(), fits, "{fields} of {bytes}");
            if fits {
                continue;
            }
            let options = CallOptions::new().metadata(metadata);
            let unary = client.unary("/a/b", Bytes::new(), &options).await.unwrap_err();
            let streaming = client.streaming("/a/b", &options).await.unwrap_err();
            for error in [unary, streaming] {
                let TransportError::MetadataTooLarge { given, max } = error.error() else { panic!("{error:?}") };
                assert!(given > max && *max <= 8192, "{error:?}");
                assert!(error.is_unprocessed() && !error.is_retryable());
            }
        }
        assert_eq!(client.stats().connections_failed, 0, "nobody even tried to connect");
    }

    #[tokio::test]
    async fn a_message_over_the_limit_is_refused_before_it_leaves() {
        let target = Target::anonymous("https://localhost:1", &crate::transport::Trust::Fingerprint([7; 32])).unwrap();
        let client = Client::new(target, ClientOptions::default());
        let message = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
        let error = client.unary("/a/b", message, &CallOptions::new()).await.unwrap_err();
        assert_eq!(error.status().unwrap().code, Code::ResourceExhausted);
        assert!(error.is_unprocessed());
        assert_eq!(client.stats().connections_failed, 0, "nobody even tried to connect");
    }
}
