//! gRPC over HTTP/2, the part that is only bytes: length-prefixed messages, statuses, timeouts, content types.
//!
//! The client (`blazedb::transport`) and the relay (`blazedb_relay::serve`) put this on hyper's HTTP/2, and both
//! use every rule from here, so that the two ends cannot disagree. Rules: spec/grpc.md (`spec: G-1` and on).
//!
//! Must never: open a socket, keep time, trust a declared length. A message is handed out as a slice of the chunk it
//! arrived in; only a message that spans chunks is copied, once, into a buffer that grows with what has really come.
//!
//! Read [`MessageDecoder`] first, then [`MessageBuf`] and [`Packer`] for the other direction, then [`Status`].

#[cfg(feature = "encoding")]
mod encoding;
mod health;
mod message;
mod metadata;
mod status;
mod timeout;
mod web;

#[cfg(feature = "encoding")]
pub use encoding::{ACCEPTED_ENCODINGS, Encoding};
pub use health::{HEALTH_CHECK_PATH, HEALTH_WATCH_PATH, Health, health_request, health_request_service};
pub use message::{
    Begun, Inflate, MESSAGE_BYTES_MAX, MessageBuf, MessageDecoder, PACK_BYTES_MAX, PREFIX_BYTES, Packer, Travelled,
    encode_message, encode_packed,
};
pub use metadata::{
    METADATA_BYTES_MAX, METADATA_RECEIVED_MAX, Metadata, MetadataError, MetadataValue, RETRY_PUSHBACK, STATUS_DETAILS,
};
pub use status::{Code, MESSAGE_TEXT_BYTES_MAX, Status, percent_decode, percent_encode};
pub use timeout::{format_timeout, parse_timeout};
pub use web::{answer_web_type, web_trailers};

/// Path of the one streaming method (spec: G-1).
pub const SYNC_PATH: &str = "/blaze.v1.Relay/Sync";
/// Content type that our own client sends.
pub const CONTENT_TYPE_BLAZE: &str = "application/grpc+blaze";
/// Content type that every gRPC client can send.
pub const CONTENT_TYPE_GRPC: &str = "application/grpc";

/// Returns the content type of the answer, or nothing where the request is no gRPC request (HTTP 415).
///
/// The payload is fixed by the method, not by the content type: some client libraries refuse to send anything but
/// `application/grpc`, so that, any `+suffix` and any `;parameter` are accepted. `+blaze` is echoed only to a client
/// that sent it. `application/grpc-web` is another protocol: [`answer_web_type`] (spec: G-2).
pub fn answer_content_type(request: &[u8]) -> Option<&'static str> {
    let prefix = CONTENT_TYPE_GRPC.as_bytes();
    if request.len() < prefix.len() || !request[..prefix.len()].eq_ignore_ascii_case(prefix) {
        return None;
    }
    let rest = &request[prefix.len()..];
    match rest.first() {
        None | Some(b';' | b' ') => Some(CONTENT_TYPE_GRPC),
        Some(b'+') => {
            let end = rest.iter().position(|byte| matches!(byte, b';' | b' ')).unwrap_or(rest.len());
            if rest[1..end].eq_ignore_ascii_case(b"blaze") { Some(CONTENT_TYPE_BLAZE) } else { Some(CONTENT_TYPE_GRPC) }
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        let check =
            |given: &str, want: Option<&str>| assert_eq!(answer_content_type(given.as_bytes()), want, "{given}");
        check("application/grpc", Some(CONTENT_TYPE_GRPC));
        check("application/grpc+blaze", Some(CONTENT_TYPE_BLAZE));
        check("Application/GRPC+Blaze; charset=x", Some(CONTENT_TYPE_BLAZE));
        check("application/grpc+proto", Some(CONTENT_TYPE_GRPC));
        check("application/grpc;v=1", Some(CONTENT_TYPE_GRPC));
        check("application/grpc-web", None);
        check("application/grpc-web+proto", None);
        check("application/grpcx", None);
        check("application/json", None);
        check("application/grp", None);
        check("", None);
    }
}
