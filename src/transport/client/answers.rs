//! What a call sends and receives, and when it is made again by itself.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use blazedb_sync::Backoff;
use blazedb_wire::grpc::{Code, Encoding, MESSAGE_BYTES_MAX, MessageBuf, Metadata, Status};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::pool::{Lease, Pool};
use super::{CallError, check_path};
use crate::transport::call::{self, Answered, CallBody, Messages, Refused, Spoken};
use crate::transport::limits::ATTEMPTS_MAX;
use crate::transport::{Target, TransportError};

/// The answer of a call that has one.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The message.
    pub message: Bytes,
    /// What came before it.
    pub metadata: Metadata,
    /// What came after it.
    pub trailers: Metadata,
}

/// Where the messages of a call go in. Dropping it ends our direction.
#[derive(Clone, Debug)]
pub struct Requests {
    pub(super) messages: mpsc::Sender<Bytes>,
}

impl Requests {
    /// Sends one message; waits while the server takes nothing. It is not copied unless it is small. The call's deadline is
    /// kept by [`Answers`]: await both.
    ///
    /// An error means that the call has ended, and [`Answers`] say how; or that the message is over the limit. Cancelling
    /// the wait sends nothing.
    pub async fn send(&self, message: Bytes) -> Result<(), CallError> {
        if message.len() > MESSAGE_BYTES_MAX {
            let text = format!("a message of {} bytes; the limit is {MESSAGE_BYTES_MAX}", message.len());
            return Err(CallError::status_of(Code::ResourceExhausted, text));
        }
        self.messages.send(message).await.map_err(|_| CallError::new(TransportError::Closed))
    }
}

/// What is needed to make a call once more.
pub(super) struct Again {
    path: String,
    metadata: Metadata,
    encoding: Encoding,
    /// The message of a call that has one. A stream of them is gone once it was sent.
    message: Option<MessageBuf>,
    attempts: u32,
}

impl Again {
    pub(super) fn new(
        target: &Target,
        path: &str,
        metadata: Metadata,
        encoding: Encoding,
        message: Option<MessageBuf>,
    ) -> Result<Self, CallError> {
        check_path(path)?;
        call::check_metadata(target, path, encoding, &metadata).map_err(CallError::unsent)?;
        Ok(Self { path: path.to_owned(), metadata, encoding, message, attempts: 1 })
    }
}

type Sent = Pin<Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<CallBody>>>> + Send + Sync>>;

/// A call on its way.
pub(super) struct Started {
    lease: Lease,
    response: Sent,
}

impl Started {
    pub(super) fn on(lease: Lease, pool: &Pool, again: &Again, body: CallBody, deadline: Option<Instant>) -> Self {
        let spoken = Spoken {
            timeout: deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
            encoding: again.encoding,
            ..Spoken::default()
        };
        let request = call::request(&pool.target, &again.path, &spoken, &again.metadata, body);
        let response = Box::pin(lease.requests().try_send_request(request));
        Self { lease, response }
    }
}

/// What comes back: metadata, messages, and how it ended. Dropped before the end, it gives the call up, and the server is
/// told so.
pub struct Answers {
    pool: Arc<Pool>,
    again: Again,
    deadline: Option<Instant>,
    stage: Stage,
    /// Gives up a call that still sends when it is dropped.
    kept: Option<oneshot::Sender<Infallible>>,
}

/// ```text
/// Coming --head of the answer--> Here --end or error--> Over
///   ^ '--surely not processed--> Waiting
///   '---- a place on a connection ---'
/// ```
enum Stage {
    Coming(Started),
    /// To be made again. A stage of its own, so that whoever stops waiting in it can go on later.
    Waiting(Waiting),
    Here(Box<Here>),
    Over {
        metadata: Metadata,
        trailers: Metadata,
    },
}

struct Waiting {
    /// Taken with the place on a connection.
    body: Option<CallBody>,
    /// Not before.
    rest_until: Option<Instant>,
    /// Not after.
    until: Instant,
}

struct Here {
    lease: Lease,
    metadata: Metadata,
    messages: Messages,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("path", &self.again.path).finish_non_exhaustive()
    }
}

impl Answers {
    pub(super) fn new(pool: Arc<Pool>, again: Again, started: Started, deadline: Option<Instant>) -> Self {
        Self { pool, again, deadline, stage: Stage::Coming(started), kept: None }
    }

    pub(super) fn keep(&mut self, kept: oneshot::Sender<Infallible>) {
        self.kept = Some(kept);
    }

    /// Waits for the head of the answer, and returns what came with it. Cancelling loses nothing.
    pub async fn metadata(&mut self) -> Result<&Metadata, CallError> {
        self.head().await?;
        match &self.stage {
            Stage::Here(here) => Ok(&here.metadata),
            Stage::Over { metadata, .. } => Ok(metadata),
            Stage::Coming(_) | Stage::Waiting(_) => unreachable!("the head has come"),
        }
    }

    /// Returns the next message; nothing once the server has ended the call with OK. An error is final. Cancelling loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        self.head().await?;
        let Stage::Here(here) = &mut self.stage else { return Ok(None) };
        let polled = match self.deadline {
            None => here.messages.next().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, here.messages.next()).await {
                Ok(polled) => polled,
                Err(_) => {
                    here.lease.timed_out();
                    Err(out_of_time())
                }
            },
        };
        let error = match polled {
            Ok(Some(message)) => return Ok(Some(message)),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        let trailers = std::mem::take(&mut here.messages.trailers);
        let metadata = std::mem::take(&mut here.metadata);
        let failed = error.map(|error| self.failed(error, trailers.clone()));
        self.stage = Stage::Over { metadata, trailers };
        failed.map_or(Ok(None), Err)
    }

    /// Returns what came with the end, once [`Answers::next`] has said that there is one.
    pub fn trailers(&self) -> Option<&Metadata> {
        match &self.stage {
            Stage::Over { trailers, .. } => Some(trailers),
            Stage::Coming(_) | Stage::Waiting(_) | Stage::Here(_) => None,
        }
    }

    /// Waits for the one message of a call that has one, and for its end.
    pub async fn only(mut self) -> Result<Answer, CallError> {
        let Some(message) = self.next().await? else {
            return Err(CallError::status_of(Code::Internal, "the server ended the call without a message"));
        };
        if self.next().await?.is_some() {
            return Err(CallError::status_of(Code::Internal, "the server sent a second message"));
        }
        match self.stage {
            Stage::Over { metadata, trailers } => Ok(Answer { message, metadata, trailers }),
            Stage::Coming(_) | Stage::Waiting(_) | Stage::Here(_) => unreachable!("the end has come"),
        }
    }

    /// Waits for the head of the answer, and makes the call again where that is safe.
    async fn head(&mut self) -> Result<(), CallError> {
        loop {
            let started = match &mut self.stage {
                Stage::Coming(started) => started,
                Stage::Waiting(waiting) => {
                    if let Some(rest) = waiting.rest_until {
                        tokio::time::sleep_until(rest.min(waiting.until)).await;
                        waiting.rest_until = None;
                    }
                    if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(self.over(CallError::unsent(out_of_time())));
                    }
                    let leased = self.pool.lease(waiting.until).await;
                    match leased {
                        Ok(lease) => {
                            let body = waiting.body.take().expect("it is taken with its place, once");
                            let started = Started::on(lease, &self.pool, &self.again, body, self.deadline);
                            self.stage = Stage::Coming(started);
                        }
                        Err(error) => return Err(self.over(error)),
                    }
                    continue;
                }
                Stage::Here(_) | Stage::Over { .. } => return Ok(()),
            };
            let polled = match self.deadline {
                None => started.response.as_mut().await,
                Some(deadline) => match tokio::time::timeout_at(deadline, started.response.as_mut()).await {
                    Ok(polled) => polled,
                    Err(_) => {
                        started.lease.timed_out();
                        return Err(self.over(CallError::new(out_of_time())));
                    }
                },
            };
            match polled {
                Ok(response) => self.begun(response)?,
                Err(failed) => self.make_again(failed)?,
            }
        }
    }

    fn begun(&mut self, response: Response<Incoming>) -> Result<(), CallError> {
        if let Some(field) = response.headers().get("grpc-accept-encoding") {
            self.pool.learn(HeaderValue::as_bytes(field));
        }
        match call::answered(response, self.pool.options.message_bytes_max) {
            Ok(Answered { metadata, messages }) => {
                let over = Stage::Over { metadata: Metadata::new(), trailers: Metadata::new() };
                let Stage::Coming(Started { lease, .. }) = std::mem::replace(&mut self.stage, over) else {
                    unreachable!("only a call that is coming begins")
                };
                self.stage = Stage::Here(Box::new(Here { lease, metadata, messages }));
                Ok(())
            }
            Err(Refused { error, metadata, .. }) => {
                let failed = self.failed(error, metadata);
                Err(self.over(failed))
            }
        }
    }

    /// The call failed before its answer began. It goes to another connection if it was not sent at all, or if the server
    /// said that it had not begun to process it (GOAWAY with an earlier stream, REFUSED_STREAM).
    fn make_again(&mut self, mut failed: TrySendError<Request<CallBody>>) -> Result<(), CallError> {
        let Stage::Coming(started) = &self.stage else { unreachable!("only a call that is coming fails so") };
        let unsent = failed.take_message().map(Request::into_body);
        let error = failed.into_error();
        let fate = fate_of(&error);
        let surely = unsent.is_some() || fate != Fate::Unknown;
        if unsent.is_some() || fate == Fate::Goodbye {
            started.lease.retire();
        }
        let body = unsent.or_else(|| self.again.message.clone().map(|message| CallBody::One(Some(message))));
        let body = body.filter(|_| surely && self.again.attempts < ATTEMPTS_MAX);
        let Some(body) = body else {
            let error = CallError { unprocessed: surely, ..CallError::new(TransportError::Http(error)) };
            return Err(self.over(error));
        };
        self.again.attempts += 1;
        let now = Instant::now();
        // The connection is well, and full: whoever comes back at once is refused once more.
        let rest_until = (fate == Fate::Refused).then(|| {
            let wait = Backoff::new(self.pool.options.seed ^ u64::from(self.again.attempts)).next(0);
            now + Duration::from_millis(wait)
        });
        let until = self.deadline.unwrap_or(now + self.pool.options.connection_wait_max);
        self.stage = Stage::Waiting(Waiting { body: Some(body), rest_until, until });
        Ok(())
    }

    fn failed(&self, error: TransportError, metadata: Metadata) -> CallError {
        let failed = CallError { error, metadata, unprocessed: false };
        let busy = failed.status().is_some_and(|s| matches!(s.code, Code::Unavailable | Code::ResourceExhausted));
        if busy && let Some(wait) = failed.retry_after() {
            self.pool.pause(wait);
        }
        failed
    }

    /// The call is over: gives its place back.
    fn over(&mut self, error: CallError) -> CallError {
        self.stage = Stage::Over { metadata: Metadata::new(), trailers: error.metadata.clone() };
        error
    }
}

fn out_of_time() -> TransportError {
    TransportError::Status(Status::new(Code::DeadlineExceeded, "the call's time is over"))
}

/// What is known about a call that failed before its answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The server said goodbye and has not looked at it.
    Goodbye,
    /// The server refused its stream.
    Refused,
    /// It may have been processed.
    Unknown,
}

fn fate_of(error: &hyper::Error) -> Fate {
    let http2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    match http2 {
        // h2 fails a stream so only if its number is above the last one that the goodbye names, or if it was not opened.
        Some(error) if error.is_go_away() && error.is_remote() => Fate::Goodbye,
        Some(error) if error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM) => {
            Fate::Refused
        }
        _ => Fate::Unknown,
    }
}
