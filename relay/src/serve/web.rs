//! gRPC-Web, for browsers (spec: G-15): the same calls over HTTP/1.1 or HTTP/2, trailers as a last message, on request
//! everything in base64; and what a browser asks before it lets a page call (CORS, spec: G-16).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blazedb_wire::grpc::{Code, MessageBuf, Status, web_trailers};
use bytes::{Buf as _, Bytes};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;

use super::unread::{Taker, Unread};

/// The body of a request, as it came or out of base64.
pub(super) struct Source {
    body: Incoming,
    /// Characters that do not make a group of four yet, of base64.
    left: Option<Vec<u8>>,
    taker: Taker,
}

impl Source {
    pub(super) fn new(body: Incoming, text: bool, unread: &Arc<Unread>) -> Self {
        Self { body, left: text.then(Vec::new), taker: Taker::new(unread) }
    }

    /// Says that nobody asks for what comes from now on.
    pub(super) fn pause(&self) {
        self.taker.pause();
    }

    /// Returns the next bytes; nothing at the end. An error is final. Cancelling loses nothing.
    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, Status>> {
        std::future::poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// As [`Source::chunk`].
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let chunk = loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                self.taker.found_nothing();
                return Poll::Pending;
            };
            match frame {
                None => break None,
                Some(Err(_)) => {
                    self.taker.ended();
                    return Poll::Ready(Some(Err(Status::new(Code::Cancelled, "the client gave the call up"))));
                }
                Some(Ok(frame)) => {
                    let Ok(chunk) = frame.into_data() else { continue };
                    self.taker.took(chunk.len());
                    break Some(chunk);
                }
            }
        };
        if chunk.is_none() || self.body.is_end_stream() {
            self.taker.ended();
        }
        Poll::Ready(match (chunk, &mut self.left) {
            (Some(chunk), None) => Some(Ok(chunk)),
            (Some(chunk), Some(left)) => Some(decode(left, &chunk)),
            (None, Some(left)) if !left.is_empty() => {
                left.clear();
                Some(Err(misshapen()))
            }
            (None, _) => None,
        })
    }
}

fn misshapen() -> Status {
    Status::new(Code::Internal, "the body is not base64")
}

/// Decodes whole groups of four characters, and keeps the rest. Padding may come in the middle: a client encodes what it
/// has, and goes on later.
fn decode(left: &mut Vec<u8>, chunk: &[u8]) -> Result<Bytes, Status> {
    left.extend_from_slice(chunk);
    let whole = left.len() / 4 * 4;
    let mut out = Vec::with_capacity(whole / 4 * 3);
    let mut begun = 0;
    while begun < whole {
        let rest = &left[begun..whole];
        let length = rest.iter().position(|&byte| byte == b'=').map_or(rest.len(), |at| (at / 4 + 1) * 4);
        STANDARD.decode_vec(&rest[..length], &mut out).map_err(|_| misshapen())?;
        begun += length;
    }
    left.drain(..whole);
    Ok(Bytes::from(out))
}

/// Turns a frame of an answer into what a browser can read.
pub(super) fn frame(frame: Frame<MessageBuf>, text: bool) -> Frame<MessageBuf> {
    let bytes = match frame.into_data() {
        Ok(data) if !text => return Frame::data(data),
        Ok(mut data) => data.copy_to_bytes(data.remaining()),
        Err(frame) => {
            let trailers = frame.into_trailers().unwrap_or_default();
            web_trailers(trailers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
        }
    };
    let bytes = if text { Bytes::from(STANDARD.encode(&bytes)) } else { bytes };
    Frame::data(MessageBuf::from(bytes))
}

/// Says whether a browser asks if a page may call.
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets every page read the answer. A page acts with the token that it was given, and with nothing that the browser
/// would add by itself: credentials stay forbidden.
pub(super) fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(VARY, HeaderValue::from_static("origin"));
    // Metadata may have any name; older browsers know no star.
    let exposed = "grpc-status,grpc-message,grpc-accept-encoding,*";
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
}

/// Answers [`is_preflight`].
pub(super) fn allow_calls(headers: &mut HeaderMap) {
    allow(headers);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    // A star stands for every name but `authorization`.
    let asked = "authorization,content-type,grpc-encoding,grpc-timeout,x-grpc-web,x-user-agent,*";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(asked));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: G-15
    #[test]
    fn base64_is_read_however_it_is_cut() {
        let text = [STANDARD.encode(b"a"), STANDARD.encode(b"bcdef"), STANDARD.encode(b"ghi")].concat();
        for cut in 0..=text.len() {
            let mut left = Vec::new();
            let mut out = decode(&mut left, &text.as_bytes()[..cut]).unwrap().to_vec();
            out.extend(decode(&mut left, &text.as_bytes()[cut..]).unwrap());
            assert_eq!((&out[..], left.len()), (&b"abcdefghi"[..], 0));
        }
        for bad in ["====", "a===", "YQ=x", "Y Q=", "\u{e4}aa"] {
            assert!(decode(&mut Vec::new(), bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
