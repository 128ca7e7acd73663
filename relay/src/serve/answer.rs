//! Which request goes where, and what an answer looks like on the way out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use blazedb_wire::grpc::{self as wire, Code, MessageBuf, Metadata, Status};
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::{Running, Shared};
use super::health::{self, Service, Watch};
use super::method::{self, MethodBody, with_metadata};
use super::web::{self, Source};
use super::{Gate, grpc, websocket};

/// How a gRPC call is spoken, and so its answer.
#[derive(Clone, Copy)]
enum Dialect {
    Grpc(&'static str),
    /// For browsers; with base64 or without.
    Web(&'static str, bool),
}

impl Dialect {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(CONTENT_TYPE)?.as_bytes();
        let web = || wire::answer_web_type(value).map(|(answer, text)| Self::Web(answer, text));
        wire::answer_content_type(value).map(Self::Grpc).or_else(web)
    }

    fn content_type(self) -> HeaderValue {
        let (Self::Grpc(text) | Self::Web(text, _)) = self;
        HeaderValue::from_static(text)
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Web(_, true))
    }
}

/// Answers one request.
pub(super) async fn answer<G: Gate>(
    shared: &Arc<Shared<G>>,
    request: Request<Incoming>,
    running: Running,
) -> Response<Outgoing<G>> {
    let mut running = Some(running);
    let head = request.method() == Method::HEAD;
    let is_http1 = request.version() != Version::HTTP_2;
    let mut response = route(shared, request, &mut running).await;
    if head {
        keep_the_head(&mut response);
    }
    // One request a connection: the only plain page is the health answer. Said here, because hyper, asked for the same, would
    // say `close` of a connection that goes on as a WebSocket, too.
    if is_http1 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    // A stream has taken it along: its answer has only begun.
    if let Some(mut running) = running {
        running.answered();
    }
    response
}

/// Takes the body off an answer to HEAD: over HTTP/1.1 hyper sees to that, over HTTP/2 it would be sent.
fn keep_the_head<G: Gate>(response: &mut Response<Outgoing<G>>) {
    if let Reply::Whole(Some(bytes)) = &response.body().reply {
        let length = HeaderValue::from(bytes.len());
        response.headers_mut().insert(CONTENT_LENGTH, length);
        *response.body_mut() = Reply::Empty.plain();
    }
}

async fn route<G: Gate>(
    shared: &Arc<Shared<G>>,
    mut request: Request<Incoming>,
    running: &mut Option<Running>,
) -> Response<Outgoing<G>> {
    if request.headers().len() > shared.limits.headers_max {
        return plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many header fields\n");
    }
    let path = request.uri().path();
    if path == health::PATH {
        return health_answer(shared, request.method());
    }
    if web::is_preflight(&request) {
        let mut response = Response::new(Reply::Empty.plain());
        *response.status_mut() = StatusCode::NO_CONTENT;
        web::allow_calls(response.headers_mut());
        return response;
    }
    if websocket::is_upgrade(&request) {
        return upgrade(shared, &mut request, running);
    }
    let Some(dialect) = Dialect::of(request.headers()) else {
        // spec: G-2
        let own = matches!(path, wire::SYNC_PATH | wire::HEALTH_CHECK_PATH | wire::HEALTH_WATCH_PATH);
        return if own || shared.gate.method(path).is_some() {
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type must be application/grpc or application/grpc-web\n")
        } else {
            plain(StatusCode::NOT_FOUND, "not found\n")
        };
    };
    if matches!(dialect, Dialect::Grpc(_)) && request.version() != Version::HTTP_2 {
        return plain(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2; gRPC-Web does not\n");
    }
    let from_a_page = request.headers().contains_key(ORIGIN);
    let called = call(shared, request, dialect, running).await;
    if let Err(status) = &called
        && status.code == Code::Cancelled
    {
        // Nobody reads the answer.
        drop(running.take());
    }
    let mut response = match called {
        Ok((metadata, reply)) => {
            let mut response = Response::new(reply);
            *response.headers_mut() = with_metadata(HeaderMap::new(), &metadata);
            response
        }
        // Trailers-Only: refused before a single message.
        Err(status) => {
            let mut response = Response::new(Reply::Empty);
            *response.headers_mut() = grpc::trailers(&status);
            response
        }
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, dialect.content_type());
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(wire::ACCEPTED_ENCODINGS));
    if from_a_page {
        web::allow(headers);
    }
    response.map(|reply| match dialect {
        Dialect::Grpc(_) => reply.plain(),
        Dialect::Web(_, text) => Outgoing { reply, web: Some(text) },
    })
}

/// Makes one gRPC call, of whatever dialect.
async fn call<G: Gate>(
    shared: &Arc<Shared<G>>,
    request: Request<Incoming>,
    dialect: Dialect,
    running: &mut Option<Running>,
) -> Result<(Metadata, Reply<G>), Status> {
    let plainly = |reply| Ok((Metadata::new(), reply));
    if request.method() != Method::POST {
        return Err(Status::new(Code::Unimplemented, "gRPC calls are POST requests"));
    }
    let (parts, body) = request.into_parts();
    let unread = &running.as_ref().expect("nobody else takes it").activity().unread;
    let source = Source::new(body, dialect.is_text(), unread);
    match parts.uri.path() {
        wire::SYNC_PATH => plainly(Reply::Sync(grpc::sync(shared, &parts.headers, source, running).await?)),
        wire::HEALTH_CHECK_PATH => {
            let serving = !*shared.stop.borrow();
            grpc::call_timeout(&parts.headers)?;
            match health::asked(&shared.limits, &parts.headers, source).await? {
                Service::Known => {
                    let trailers = Some(grpc::trailers(&Status::ok()));
                    plainly(Reply::Unary { message: Some(health::answer_message(serving)), trailers })
                }
                Service::Unknown => Err(Status::new(Code::NotFound, "ask for no service, or for blaze.v1.Relay")),
            }
        }
        wire::HEALTH_WATCH_PATH => {
            let timeout = grpc::call_timeout(&parts.headers)?;
            let service = health::asked(&shared.limits, &parts.headers, source).await?;
            let running = running.take().expect("nobody else takes it");
            plainly(Reply::Watch(Watch::new(service, shared.stop.clone(), timeout, &shared.limits, running)))
        }
        path => {
            if let Some(method) = shared.gate.method(path) {
                return method::answer(shared, &parts.headers, source, method, running).await;
            }
            let path = path.get(..128).unwrap_or(path);
            Err(Status::new(Code::Unimplemented, format!("there is no method {path}")))
        }
    }
}

fn upgrade<G: Gate>(
    shared: &Arc<Shared<G>>,
    request: &mut Request<Incoming>,
    running: &mut Option<Running>,
) -> Response<Outgoing<G>> {
    let activity = running.as_ref().map(|running| Arc::clone(running.activity())).expect("nobody else takes it");
    let (status, headers, session) = websocket::accept(shared, request, running);
    if let Some(session) = session {
        *activity.upgraded.lock() = Some(Box::pin(session));
    }
    let mut response = Response::new(Reply::Empty.plain());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn health_answer<G: Gate>(shared: &Shared<G>, method: &Method) -> Response<Outgoing<G>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let text = health::answer(shared.started.elapsed());
    let mut response = plain(StatusCode::OK, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn plain<G: Gate>(status: StatusCode, text: impl Into<Bytes>) -> Response<Outgoing<G>> {
    let mut response = Response::new(Reply::Whole(Some(text.into())).plain());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// What an answer consists of.
pub(super) enum Reply<G: Gate> {
    Empty,
    Whole(Option<Bytes>),
    Unary { message: Option<MessageBuf>, trailers: Option<HeaderMap> },
    Watch(Watch),
    Sync(grpc::SyncBody<G>),
    Method(MethodBody),
}

impl<G: Gate> Reply<G> {
    fn plain(self) -> Outgoing<G> {
        Outgoing { reply: self, web: None }
    }
}

/// The body of an answer, in the dialect of its call.
pub(super) struct Outgoing<G: Gate> {
    reply: Reply<G>,
    /// For a browser, and whether in base64.
    web: Option<bool>,
}

impl<G: Gate> Body for Outgoing<G> {
    type Data = MessageBuf;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<MessageBuf>, Infallible>>> {
        let frame = match &mut self.reply {
            Reply::Empty => None,
            Reply::Whole(bytes) => bytes.take().map(|bytes| Frame::data(MessageBuf::from(bytes))),
            Reply::Unary { message, trailers } => {
                message.take().map(Frame::data).or_else(|| trailers.take().map(Frame::trailers))
            }
            Reply::Watch(watch) => std::task::ready!(watch.poll_frame(cx)),
            Reply::Sync(body) => std::task::ready!(body.poll_frame(cx)),
            Reply::Method(body) => std::task::ready!(body.poll_frame(cx)),
        };
        let frame = match self.web {
            Some(text) => frame.map(|frame| web::frame(frame, text)),
            None => frame,
        };
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.reply {
            Reply::Empty => true,
            Reply::Whole(bytes) => bytes.is_none(),
            Reply::Unary { trailers, .. } => trailers.is_none(),
            Reply::Watch(_) | Reply::Sync(_) | Reply::Method(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.reply {
            Reply::Empty => SizeHint::with_exact(0),
            Reply::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Reply::Unary { .. } | Reply::Watch(_) | Reply::Sync(_) | Reply::Method(_) => SizeHint::default(),
        }
    }
}
