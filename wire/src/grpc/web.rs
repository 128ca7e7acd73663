//! gRPC-Web: the same messages over any HTTP, for browsers, which see no trailers: those are a last message (spec: G-15).

use bytes::Bytes;

use super::{PREFIX_BYTES, Status};

/// Marks the message that holds the trailers.
const TRAILERS_FLAG: u8 = 0x80;

/// Returns the content type of the answer and whether both bodies are base64, or nothing where the request is not
/// gRPC-Web. `+proto` is echoed because some clients ask for it; it means nothing here.
pub fn answer_web_type(request: &[u8]) -> Option<(&'static str, bool)> {
    let (text, rest) = match after(request, b"application/grpc-web-text") {
        Some(rest) => (true, rest),
        None => (false, after(request, b"application/grpc-web")?),
    };
    let end = rest.iter().position(|byte| matches!(byte, b';' | b' ')).unwrap_or(rest.len());
    let proto = match &rest[..end] {
        b"" => false,
        [b'+', suffix @ ..] => suffix.eq_ignore_ascii_case(b"proto"),
        _ => return None,
    };
    let answer = match (text, proto) {
        (false, false) => "application/grpc-web",
        (false, true) => "application/grpc-web+proto",
        (true, false) => "application/grpc-web-text",
        (true, true) => "application/grpc-web-text+proto",
    };
    Some((answer, text))
}

/// Returns what follows `prefix`, whose letters may be of either case.
fn after<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Returns the message that ends an answer: the trailers as lines of text.
pub fn web_trailers(status: &Status) -> Bytes {
    let mut text = format!("grpc-status:{}\r\n", status.status_value());
    if let Some(message) = status.message_value() {
        text.push_str(&format!("grpc-message:{message}\r\n"));
    }
    let length = u32::try_from(text.len()).expect("a status and at most 3 KiB of text");
    let mut out = Vec::with_capacity(PREFIX_BYTES + text.len());
    out.push(TRAILERS_FLAG);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Code;

    #[test]
    fn content_types() {
        let check = |given: &str, want| assert_eq!(answer_web_type(given.as_bytes()), want, "{given}");
        check("application/grpc-web", Some(("application/grpc-web", false)));
        check("application/grpc-web+proto", Some(("application/grpc-web+proto", false)));
        check("Application/gRPC-Web+Proto; charset=x", Some(("application/grpc-web+proto", false)));
        check("application/grpc-web+blaze", Some(("application/grpc-web", false)));
        check("application/grpc-web-text", Some(("application/grpc-web-text", true)));
        check("application/grpc-web-text+proto", Some(("application/grpc-web-text+proto", true)));
        check("application/grpc-web-textual", None);
        check("application/grpc-webber", None);
        check("application/grpc", None);
        check("", None);
    }

    #[test]
    fn trailers_are_a_message() {
        assert_eq!(&web_trailers(&Status::ok())[..], b"\x80\0\0\0\x0fgrpc-status:0\r\n");
        let status = Status::new(Code::NotFound, "100%\n");
        assert_eq!(&web_trailers(&status)[..], b"\x80\0\0\0\x27grpc-status:5\r\ngrpc-message:100%25%0A\r\n");
    }
}
