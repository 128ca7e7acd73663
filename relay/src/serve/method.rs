//! Methods beside the relay's own: one message in and one out, or any number of them either way (spec: G-22).
//!
//! A gate names them ([`Gate::method`](super::Gate::method)). No message is copied and none waits in a channel: a streaming
//! method is asked for its next message when HTTP/2 has room for one, and asks in turn for what its client sends.
//!
//! Invariants: a method's future or state is dropped when its client gives the call up, when the call's time is over or
//! when the relay goes down; what is held for a call is one message that is being put together, those that the method
//! itself keeps, and one piece of at most 16 KiB or one message on its way out.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use blazedb_wire::grpc::{Code, Encoding, MessageBuf, MessageDecoder, Metadata, Packer, Status, encode_message};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Gate;
use super::answer::Reply;
use super::connection::{Running, Shared};
use super::grpc::{self, Deadlines, Waiting};
use super::web::Source;
use crate::limits::STREAM_AGE_MAX;
use crate::token::Grant;

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever has a token of this relay (spec: G-8).
    Token,
    /// Everybody. The connection stays a stranger's, whose bytes are read slowly.
    Open,
}

/// What a method is told about its call.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// What the client sent along.
    pub metadata: Metadata,
    /// What the token says; nothing for [`Access::Open`].
    pub grant: Option<Grant>,
}

/// The answer of a method that has one message.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The message.
    pub message: Bytes,
    /// Sent before it.
    pub metadata: Metadata,
    /// Sent after it.
    pub trailers: Metadata,
}

/// A call's answer, once it is there.
pub type AnswerFuture = Pin<Box<dyn Future<Output = Result<Answer, Status>> + Send>>;

/// Makes the answer of a call that has one message each way.
pub type Unary = Box<dyn FnOnce(Caller, Bytes) -> AnswerFuture + Send>;

/// How one call is answered.
pub enum Method {
    /// One message in, one out.
    Unary(Access, Unary),
    /// Any number of messages, each way.
    Streaming(Access, Box<dyn Exchange>),
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unary(access, _) => f.debug_tuple("Unary").field(access).finish_non_exhaustive(),
            Self::Streaming(access, _) => f.debug_tuple("Streaming").field(access).finish_non_exhaustive(),
        }
    }
}

/// One call of a streaming method.
pub trait Exchange: Send {
    /// Called once, before anything else; returns what is sent before the first message.
    fn begin(&mut self, _caller: &Caller) -> Metadata {
        Metadata::new()
    }

    /// Returns the next step, taking what the client sent from `requests` as it needs it. After [`Step::End`] it is not
    /// called again.
    fn poll_step(&mut self, requests: &mut Requests, cx: &mut Context<'_>) -> Poll<Step>;
}

/// What a streaming method does next.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends this message.
    Message(Bytes),
    /// Ends the call, with this after the last message.
    End(Status, Metadata),
}

/// What the client of a call sends.
pub struct Requests {
    source: Source,
    decoder: MessageDecoder,
    ended: bool,
    /// The source has nothing now, and wakes whoever asked.
    asked: bool,
    /// A chunk was taken that no message was asked of.
    ahead: bool,
    /// What ends the call, once a message is asked for.
    failed: Option<Status>,
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Requests {
    fn new(source: Source, encoding: Encoding, message_bytes_max: usize) -> Self {
        let decoder = encoding.decoder(message_bytes_max);
        Self { source, decoder, ended: false, asked: false, ahead: false, failed: None }
    }

    /// Returns the next message, nothing once the client has said all it will say, or how the call has to end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        loop {
            match self.decoder.poll_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            self.ahead = false;
            if let Some(status) = self.failed.take() {
                return Poll::Ready(Some(Err(status)));
            }
            if self.ended {
                return Poll::Ready(self.decoder.finish().err().map(Err));
            }
            if self.poll_source(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Takes what comes next from the source.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(next) = self.source.poll_chunk(cx) else {
            self.asked = true;
            return Poll::Pending;
        };
        self.asked = false;
        match next {
            Some(Ok(chunk)) => self.decoder.push(chunk),
            Some(Err(status)) => self.failed = Some(status),
            None => self.ended = true,
        }
        Poll::Ready(())
    }

    /// Looks whether the client goes on, for a method that did not: most that have one message never ask for the end. Takes one
    /// chunk at the most, so that what lies there for nobody is known to.
    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        while !(self.asked || self.ahead || self.ended || self.failed.is_some()) {
            self.ahead = self.poll_source(cx).is_ready();
        }
    }

    async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Waits for the one message of a call that has one.
    async fn only(&mut self) -> Result<Bytes, Status> {
        let one = |text| Status::new(Code::Internal, text);
        let message = self.next().await.ok_or_else(|| one("this call has one message; send it"))??;
        match self.next().await {
            None => Ok(message),
            Some(Err(status)) => Err(status),
            Some(Ok(_)) => Err(one("this call has one message; send no second")),
        }
    }
}

/// Answers a call, or says why not. Returns what is sent before the messages, too.
pub(super) async fn answer<G: Gate>(
    shared: &Arc<Shared<G>>,
    headers: &HeaderMap,
    source: Source,
    method: Method,
    running: &mut Option<Running>,
) -> Result<(Metadata, Reply<G>), Status> {
    let (Method::Unary(access, _) | Method::Streaming(access, _)) = &method;
    let activity = running.as_ref().expect("nobody else takes it");
    let waiting = Waiting::default();
    let (grant, mut deadlines) = match access {
        Access::Token => {
            let (grant, deadlines) = grpc::admit(shared, headers, activity, waiting)?;
            (Some(grant), deadlines)
        }
        Access::Open => (None, Deadlines::of_stranger(shared, headers, activity, waiting)?),
    };
    let caller = Caller { metadata: received(headers)?, grant };
    let encoding = Encoding::of(grpc::encoding_field(headers))?;
    let mut requests = Requests::new(source, encoding, shared.limits.message_bytes_max);
    match method {
        Method::Unary(_, handler) => {
            // A caller without a token must not keep a stream by sending its message slowly.
            let patience = if caller.grant.is_some() { STREAM_AGE_MAX } else { shared.limits.check_max };
            let asked = async {
                let message = tokio::time::timeout(patience, requests.only())
                    .await
                    .unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "the request did not come in time")))?;
                handler(caller, message).await
            };
            let answer = tokio::select! {
                biased;
                answer = asked => answer?,
                status = deadlines.reached() => return Err(status),
            };
            let Answer { message, metadata, trailers: after } = answer;
            sendable(&metadata)?;
            sendable(&after)?;
            let trailers = with_metadata(grpc::trailers(&Status::ok()), &after);
            if message.len() <= shared.limits.send_buffer_bytes_max {
                let message = encode_message(message).map_err(|_| too_long())?;
                return Ok((metadata, Reply::Unary { message: Some(message), trailers: Some(trailers) }));
            }
            // A client that does not take it must not keep it for ever.
            let whole = Box::new(Whole { message: Some(message), after });
            let running = running.take().expect("nobody else takes it");
            Ok((metadata, Reply::Method(MethodBody::new(whole, requests, deadlines, running))))
        }
        Method::Streaming(_, mut exchange) => {
            let metadata = exchange.begin(&caller);
            sendable(&metadata)?;
            let running = running.take().expect("nobody else takes it");
            Ok((metadata, Reply::Method(MethodBody::new(exchange, requests, deadlines, running))))
        }
    }
}

/// A method may send on what came, of which there may be more than an answer takes along (spec: G-20).
fn sendable(metadata: &Metadata) -> Result<(), Status> {
    metadata.check_to_send().map_err(|error| Status::new(Code::ResourceExhausted, error.to_string()))
}

fn too_long() -> Status {
    Status::new(Code::Internal, "the method made a message over the limit")
}

/// Reads what the client sent along.
fn received(headers: &HeaderMap) -> Result<Metadata, Status> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        metadata
            .receive(name.as_str(), value.as_bytes())
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
    }
    Ok(metadata)
}

/// Adds metadata to header fields or trailers.
pub(super) fn with_metadata(mut headers: HeaderMap, metadata: &Metadata) -> HeaderMap {
    for (name, value) in metadata.encoded() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("metadata has checked names");
        headers.append(name, HeaderValue::from_str(&value).expect("metadata has checked values"));
    }
    headers
}

/// A large answer as a stream of one message.
struct Whole {
    message: Option<Bytes>,
    after: Metadata,
}

impl Exchange for Whole {
    fn poll_step(&mut self, _requests: &mut Requests, _cx: &mut Context<'_>) -> Poll<Step> {
        let end = || Step::End(Status::ok(), std::mem::take(&mut self.after));
        Poll::Ready(self.message.take().map_or_else(end, Step::Message))
    }
}

/// What a streaming method sends, as hyper asks for it.
pub(super) struct MethodBody {
    exchange: Box<dyn Exchange>,
    requests: Requests,
    packer: Packer,
    /// How the call ends once the packer is empty.
    closing: Option<(Status, Metadata)>,
    /// Told why the call has to end early.
    over: oneshot::Receiver<Status>,
    /// Since when HTTP/2 has had no room for more.
    waiting: Waiting,
    done: bool,
    watch: AbortHandle,
    running: Running,
}

impl MethodBody {
    fn new(exchange: Box<dyn Exchange>, requests: Requests, deadlines: Deadlines, running: Running) -> Self {
        let waiting = deadlines.waiting();
        let (end, over) = oneshot::channel();
        let watch = tokio::spawn(watch(deadlines, end)).abort_handle();
        Self { exchange, requests, packer: Packer::new(), closing: None, over, waiting, done: false, watch, running }
    }

    /// Returns the next piece of the stream, then its trailers, then nothing.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<MessageBuf>>> {
        *self.waiting.lock() = None;
        if self.done {
            return Poll::Ready(None);
        }
        if let Poll::Ready(Ok(status)) = Pin::new(&mut self.over).poll(cx) {
            return self.finish(&status, &Metadata::new());
        }
        self.requests.asked = false;
        while self.closing.is_none() && self.packer.wants_more() {
            match self.exchange.poll_step(&mut self.requests, cx) {
                Poll::Ready(Step::Message(message)) => {
                    if self.packer.push(message).is_err() {
                        self.closing = Some((too_long(), Metadata::new()));
                    }
                }
                Poll::Ready(Step::End(status, after)) => {
                    self.closing = Some(match sendable(&after) {
                        Ok(()) => (status, after),
                        Err(status) => (status, Metadata::new()),
                    });
                }
                Poll::Pending => break,
            }
        }
        if let Some(piece) = self.packer.take() {
            *self.waiting.lock() = Some(Instant::now());
            // Nobody asks before the client has taken this.
            self.requests.source.pause();
            return Poll::Ready(Some(Frame::data(piece)));
        }
        self.requests.look_ahead(cx);
        match self.closing.take() {
            Some((status, after)) => self.finish(&status, &after),
            None => Poll::Pending,
        }
    }

    fn finish(&mut self, status: &Status, after: &Metadata) -> Poll<Option<Frame<MessageBuf>>> {
        self.done = true;
        // Whatever the client still says, nobody listens.
        self.running.answered();
        Poll::Ready(Some(Frame::trailers(with_metadata(grpc::trailers(status), after))))
    }
}

impl Drop for MethodBody {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// Ends a call whose time is over, and its connection if nobody takes the end.
async fn watch(mut deadlines: Deadlines, end: oneshot::Sender<Status>) {
    let status = deadlines.reached().await;
    let _ = end.send(status);
    deadlines.cut_later().await;
}
