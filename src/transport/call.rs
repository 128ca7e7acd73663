//! One gRPC call on a connection that is there: the request, what is sent, and what comes back.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use blazedb_wire::grpc::{
    ACCEPTED_ENCODINGS, CONTENT_TYPE_GRPC, Code, Encoding, METADATA_BYTES_MAX, MessageBuf, MessageDecoder, Metadata,
    MetadataError, Packer, Status, answer_content_type, format_timeout,
};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};

use super::limits::{COMPRESS_BYTES_MIN, OUTBOUND_MESSAGES_MAX, REQUEST_HEADERS_BYTES_MAX, TIMEOUT_MAX};
use super::{Target, TransportError};

/// What HTTP/2 counts for each header field beside its name and value (RFC 9113, 6.5.2).
const HEADER_FIELD_BYTES: usize = 32;

/// How a call is spoken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoken {
    pub(super) content_type: &'static str,
    pub(super) timeout: Option<Duration>,
    pub(super) encoding: Encoding,
}

impl Default for Spoken {
    fn default() -> Self {
        Self { content_type: CONTENT_TYPE_GRPC, timeout: None, encoding: Encoding::Identity }
    }
}

/// Returns the request of a call. The path was checked, and so was the metadata.
pub(super) fn request(
    target: &Target,
    path: &str,
    spoken: &Spoken,
    metadata: &Metadata,
    body: CallBody,
) -> Request<CallBody> {
    let uri = Uri::builder()
        .scheme("https")
        .authority(target.authority.clone())
        .path_and_query(path)
        .build()
        .expect("a scheme, a checked authority and a checked path are a URI");
    let mut request = Request::post(uri).version(Version::HTTP_2).body(body).expect("a checked URI");
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(spoken.content_type));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(ACCEPTED_ENCODINGS));
    if let Some(authorization) = &target.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    if let Some(timeout) = spoken.timeout {
        let timeout = HeaderValue::from_str(&format_timeout(timeout)).expect("digits and a letter");
        headers.insert("grpc-timeout", timeout);
    }
    if spoken.encoding != Encoding::Identity {
        headers.insert("grpc-encoding", HeaderValue::from_static(spoken.encoding.name()));
    }
    for (name, value) in metadata.encoded() {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a checked name");
        headers.append(name, HeaderValue::from_str(&value).expect("visible ASCII and blanks"));
    }
    request
}

/// Refuses metadata that no request of ours has room for (spec: G-11, G-20): what was received may be handed on, and may be
/// more than what may be sent.
pub(super) fn check_metadata(
    target: &Target,
    path: &str,
    encoding: Encoding,
    metadata: &Metadata,
) -> Result<(), TransportError> {
    if metadata.is_empty() {
        return Ok(());
    }
    let check = |given, max| if given > max { Err(TransportError::MetadataTooLarge { given, max }) } else { Ok(()) };
    check(metadata.encoded().map(|(name, value)| name.len() + value.len()).sum(), METADATA_BYTES_MAX)?;
    let spoken = Spoken { timeout: Some(TIMEOUT_MAX), encoding, ..Spoken::default() };
    let request = request(target, path, &spoken, metadata, CallBody::One(None));
    let pseudo =
        [(":method", "POST"), (":scheme", "https"), (":authority", target.authority.as_str()), (":path", path)];
    let pseudo = pseudo.map(|(name, value)| name.len() + value.len() + HEADER_FIELD_BYTES).iter().sum::<usize>();
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + HEADER_FIELD_BYTES).sum::<usize>();
    check(pseudo + fields, REQUEST_HEADERS_BYTES_MAX)
}

/// An answer that has begun.
#[derive(Debug)]
pub(super) struct Answered {
    /// What came before the messages.
    pub(super) metadata: Metadata,
    pub(super) messages: Messages,
}

/// An answer that is none, and what came with it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) error: TransportError,
    pub(super) metadata: Metadata,
    /// Whoever answered speaks no gRPC: a proxy, as a rule.
    pub(super) is_foreign: bool,
}

impl From<TransportError> for Refused {
    fn from(error: TransportError) -> Self {
        Self { error, metadata: Metadata::new(), is_foreign: false }
    }
}

/// Reads the head of an answer.
pub(super) fn answered(response: Response<Incoming>, message_bytes_max: usize) -> Result<Answered, Refused> {
    let headers = response.headers();
    let refused = |status| Refused::from(TransportError::Status(status));
    let foreign = |status| Refused { is_foreign: true, ..refused(status) };
    if headers.contains_key("grpc-status") {
        // Trailers-Only: refused before a single message, or nothing to say.
        let status = status_of(headers);
        let metadata = metadata_of(headers);
        if status.code != Code::Ok {
            let metadata = metadata.unwrap_or_default();
            return Err(Refused { error: TransportError::Status(status), metadata, is_foreign: false });
        }
        let trailers = metadata?;
        let decoder = MessageDecoder::new(message_bytes_max);
        let messages = Messages { body: response.into_body(), decoder, ended: true, trailers };
        return Ok(Answered { metadata: Metadata::new(), messages });
    }
    if response.status() != StatusCode::OK {
        return Err(foreign(Status::from_http(response.status().as_u16())));
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if answer_content_type(content_type).is_none() {
        let text = "the answer is not gRPC; a proxy in between may have given it";
        return Err(foreign(Status::new(Code::Unknown, text)));
    }
    let encoding = Encoding::of(headers.get("grpc-encoding").map(HeaderValue::as_bytes))
        .map_err(|_| refused(Status::new(Code::Internal, "the answer's grpc-encoding was not offered")))?;
    let metadata = metadata_of(headers)?;
    let decoder = encoding.decoder(message_bytes_max);
    let messages = Messages { body: response.into_body(), decoder, ended: false, trailers: Metadata::new() };
    Ok(Answered { metadata, messages })
}

/// Returns the metadata among header fields.
fn metadata_of(headers: &HeaderMap) -> Result<Metadata, TransportError> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        metadata.receive(name.as_str(), value.as_bytes()).map_err(|error: MetadataError| {
            TransportError::Status(Status::new(Code::Internal, format!("the server's metadata: {error}")))
        })?;
    }
    Ok(metadata)
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_trailers(
        headers.get("grpc-status").map(HeaderValue::as_bytes),
        headers.get("grpc-message").map(HeaderValue::as_bytes),
    )
}

/// The messages of an answer, then its end. Dropped before its end, it gives the call up.
#[derive(Debug)]
pub(super) struct Messages {
    body: Incoming,
    decoder: MessageDecoder,
    ended: bool,
    /// What came with the status, once it has come.
    pub(super) trailers: Metadata,
}

impl Messages {
    /// Returns the next message; nothing once the server has ended the call with status OK. Cancelling loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            if let Some(message) = self.decoder.poll_message().map_err(TransportError::Status)? {
                return Ok(Some(message));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => {
                    return Err(TransportError::Status(Status::new(
                        Code::Unavailable,
                        "the stream ended without a status",
                    )));
                }
                Some(Err(error)) => return Err(TransportError::Http(error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => self.decoder.push(chunk),
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else { continue };
                        self.end(&trailers)?;
                    }
                },
            }
        }
    }

    fn end(&mut self, trailers: &HeaderMap) -> Result<(), TransportError> {
        let status = status_of(trailers);
        let metadata = metadata_of(trailers);
        if status.code != Code::Ok {
            self.trailers = metadata.unwrap_or_default();
            return Err(TransportError::Status(status));
        }
        self.trailers = metadata?;
        self.decoder.finish().map_err(TransportError::Status)?;
        self.ended = true;
        Ok(())
    }
}

/// What we send, as hyper asks for it.
#[derive(Debug)]
pub(super) enum CallBody {
    /// One message, and the end.
    One(Option<MessageBuf>),
    /// What the caller sends, until it drops its end, or gives the call up.
    Queue {
        messages: Option<mpsc::Receiver<Bytes>>,
        encoding: Encoding,
        packer: Packer,
        given_up: oneshot::Receiver<Infallible>,
    },
}

/// Compresses a message, if that is worth it.
pub(super) fn pack(encoding: Encoding, message: &[u8]) -> Option<Bytes> {
    if message.len() < COMPRESS_BYTES_MIN { None } else { encoding.deflate(message) }
}

/// Where a call's messages go in, and what gives the call up when it is dropped: HTTP/2 resets a stream by itself only when
/// nobody sends on it any more either.
pub(super) struct QueueEnds {
    pub(super) messages: mpsc::Sender<Bytes>,
    pub(super) kept: oneshot::Sender<Infallible>,
}

impl CallBody {
    /// Returns a body, and its other ends. Messages that get shorter by it go compressed.
    pub(super) fn queue(encoding: Encoding) -> (Self, QueueEnds) {
        let (messages, queue) = mpsc::channel(OUTBOUND_MESSAGES_MAX);
        let (kept, given_up) = oneshot::channel();
        let body = Self::Queue { messages: Some(queue), encoding, packer: Packer::new(), given_up };
        (body, QueueEnds { messages, kept })
    }
}

impl Body for CallBody {
    type Data = MessageBuf;
    /// Its reason is what the stream is reset with.
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<MessageBuf>, h2::Error>>> {
        let (queue, encoding, packer) = match &mut *self {
            Self::One(message) => return Poll::Ready(message.take().map(|message| Ok(Frame::data(message)))),
            Self::Queue { messages, encoding, packer, given_up } => {
                if Pin::new(given_up).poll(cx).is_ready() {
                    return Poll::Ready(Some(Err(h2::Reason::CANCEL.into())));
                }
                (messages, *encoding, packer)
            }
        };
        while packer.wants_more()
            && let Some(open) = queue
        {
            match open.poll_recv(cx) {
                Poll::Ready(Some(message)) => {
                    let pushed = match pack(encoding, &message) {
                        Some(packed) => packer.push_packed(packed),
                        None => packer.push(message),
                    };
                    if pushed.is_err() {
                        return Poll::Ready(Some(Err(h2::Reason::CANCEL.into())));
                    }
                }
                Poll::Ready(None) => *queue = None,
                Poll::Pending => break,
            }
        }
        match packer.take() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if queue.is_none() => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::One(message) => message.is_none(),
            Self::Queue { messages, packer, .. } => messages.is_none() && packer.is_empty(),
        }
    }
}
