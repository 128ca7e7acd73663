//! gRPC-Web: the same messages over any HTTP, for browsers, which see no trailers: those are a last message (spec: G-15).

use bytes::Bytes;

use super::PREFIX_BYTES;

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

/// Returns the message that ends an answer: the trailers, whose values are checked header values, as lines of text.
pub fn web_trailers<'t>(trailers: impl IntoIterator<Item = (&'t str, &'t [u8])>) -> Bytes {
    let mut out = vec![TRAILERS_FLAG, 0, 0, 0, 0];
    for (name, value) in trailers {
        for part in [name.as_bytes(), b":", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    let length = u32::try_from(out.len() - PREFIX_BYTES).expect("a status, a text and metadata within its limits");
    out[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(&web_trailers([("grpc-status", &b"0"[..])])[..], b"\x80\0\0\0\x0fgrpc-status:0\r\n");
        let trailers = [("grpc-status", &b"5"[..]), ("grpc-message", b"100%25%0A"), ("x", b"y")];
        assert_eq!(&web_trailers(trailers)[..], b"\x80\0\0\0\x2cgrpc-status:5\r\ngrpc-message:100%25%0A\r\nx:y\r\n");
    }
}
