//! Metadata of a call: names and values beside the messages, text or bytes (spec: G-20).
//!
//! Bytes travel as base64 under a name that ends in `-bin`. What HTTP and gRPC keep for themselves is no metadata.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// Most bytes of names and values, as they travel, that a call takes along: they must fit a header list of 8 KiB beside
/// what gRPC itself says there.
pub const METADATA_BYTES_MAX: usize = 6 * 1024;

/// Bytes of metadata that are taken from a peer, each value counted with its name and 32 more, as HTTP/2 counts header fields
/// (RFC 9113, 6.5.2): more than a peer may send of those, and no more than that where one field has many values.
pub const METADATA_RECEIVED_MAX: usize = 32 * 1024;

/// Ends the names of values that are bytes.
const BINARY_SUFFIX: &str = "-bin";

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataValue {
    /// Visible ASCII and blanks.
    Text(String),
    /// Bytes, under a name that ends in `-bin`.
    Binary(Bytes),
}

/// Names and values, in order; a name may come more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    entries: Vec<(Cow<'static, str>, MetadataValue)>,
}

/// Why something is no metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataError {
    /// A name is lower-case letters, digits, `-`, `_` and `.`.
    BadName(String),
    /// The name belongs to HTTP or to gRPC.
    Reserved(String),
    /// Text is visible ASCII and blanks, with no blank at either end.
    BadText(String),
    /// Bytes go under a name that ends in `-bin`, and text does not.
    WrongKind(String),
    /// What came under this name is not base64.
    NotBase64(String),
    /// More than [`METADATA_BYTES_MAX`] to send, or than [`METADATA_RECEIVED_MAX`] that came.
    TooMuch,
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(name) => write!(f, "`{name}` is no name of metadata: lower-case letters, digits, - _ . only"),
            Self::Reserved(name) => write!(f, "`{name}` belongs to HTTP or gRPC; choose another name"),
            Self::BadText(name) => {
                write!(f, "the value of `{name}` is not visible ASCII; send bytes under a `-bin` name")
            }
            Self::WrongKind(name) => write!(f, "`{name}`: bytes go under a name that ends in -bin, and text does not"),
            Self::NotBase64(name) => write!(f, "the value of `{name}` is not base64"),
            Self::TooMuch => {
                write!(f, "more than {METADATA_BYTES_MAX} bytes of metadata, or {METADATA_RECEIVED_MAX} that came")
            }
        }
    }
}

impl std::error::Error for MetadataError {}

impl Metadata {
    /// Returns empty metadata.
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Says whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a text, which must be visible ASCII.
    pub fn append_text(&mut self, name: &str, text: &str) -> Result<(), MetadataError> {
        if check_name(name)? {
            return Err(MetadataError::WrongKind(name.to_owned()));
        }
        if !is_text(text.as_bytes()) {
            return Err(MetadataError::BadText(name.to_owned()));
        }
        self.append(name, MetadataValue::Text(text.to_owned()))
    }

    /// Adds bytes, under a name that ends in `-bin`.
    pub fn append_binary(&mut self, name: &str, bytes: impl Into<Bytes>) -> Result<(), MetadataError> {
        if !check_name(name)? {
            return Err(MetadataError::WrongKind(name.to_owned()));
        }
        self.append(name, MetadataValue::Binary(bytes.into()))
    }

    fn append(&mut self, name: &str, value: MetadataValue) -> Result<(), MetadataError> {
        self.entries.push((Cow::Owned(name.to_owned()), value));
        self.check_to_send().inspect_err(|_| {
            self.entries.pop();
        })
    }

    /// Says whether all this may be sent (spec: G-20). What was appended may; what came may be more than that.
    pub fn check_to_send(&self) -> Result<(), MetadataError> {
        let bytes: usize = self.encoded().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > METADATA_BYTES_MAX { Err(MetadataError::TooMuch) } else { Ok(()) }
    }

    /// Takes one header field as it came. What HTTP and gRPC keep for themselves is passed over; several values of bytes
    /// may come in one field, with commas between. Memory: at most [`METADATA_RECEIVED_MAX`] for all fields.
    pub fn receive(&mut self, name: &str, value: &[u8]) -> Result<(), MetadataError> {
        if !is_name(name) || is_reserved(name) {
            return Ok(());
        }
        if !name.ends_with(BINARY_SUFFIX) {
            // Not visible ASCII: no text, and nothing that the peer was allowed to send.
            if let Some(text) = std::str::from_utf8(value).ok().filter(|text| is_text(text.trim_ascii().as_bytes())) {
                return self.take(name, MetadataValue::Text(text.trim_ascii().to_owned()));
            }
            return Ok(());
        }
        for part in value.split(|&byte| byte == b',') {
            let bytes = decode(part.trim_ascii()).ok_or_else(|| MetadataError::NotBase64(name.to_owned()))?;
            self.take(name, MetadataValue::Binary(Bytes::from(bytes)))?;
        }
        Ok(())
    }

    fn take(&mut self, name: &str, value: MetadataValue) -> Result<(), MetadataError> {
        let entry = |name: &str, value: &MetadataValue| {
            let len = match value {
                MetadataValue::Text(text) => text.len(),
                MetadataValue::Binary(bytes) => bytes.len(),
            };
            name.len() + len + 32
        };
        let bytes: usize = self.iter().map(|(name, value)| entry(name, value)).sum();
        // spec: G-20
        if bytes + entry(name, &value) > METADATA_RECEIVED_MAX {
            return Err(MetadataError::TooMuch);
        }
        self.entries.push((Cow::Owned(name.to_owned()), value));
        Ok(())
    }

    /// Returns the first text of this name.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(found, value)| match value {
            MetadataValue::Text(text) if found == name => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns the first bytes of this name.
    pub fn binary(&self, name: &str) -> Option<&Bytes> {
        self.iter().find_map(|(found, value)| match value {
            MetadataValue::Binary(bytes) if found == name => Some(bytes),
            _ => None,
        })
    }

    /// Returns all of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &MetadataValue)> {
        self.entries.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// Returns all of it as header fields: bytes as base64 without padding.
    pub fn encoded(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.iter().map(|(name, value)| match value {
            MetadataValue::Text(text) => (name, Cow::Borrowed(text.as_str())),
            MetadataValue::Binary(bytes) => (name, Cow::Owned(encode(bytes))),
        })
    }
}

/// Says whether values of this name are bytes.
fn check_name(name: &str) -> Result<bool, MetadataError> {
    if !is_name(name) {
        return Err(MetadataError::BadName(name.to_owned()));
    }
    if is_reserved(name) {
        return Err(MetadataError::Reserved(name.to_owned()));
    }
    Ok(name.ends_with(BINARY_SUFFIX))
}

fn is_name(name: &str) -> bool {
    let good = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    !name.is_empty() && name.bytes().all(good)
}

/// Says whether HTTP or gRPC keeps a name for itself: what a call is spoken with, and what HTTP/2 forbids.
fn is_reserved(name: &str) -> bool {
    match name {
        "te" | "content-type" | "content-length" | "user-agent" | "authorization" | "host" | "date" | "connection"
        | "keep-alive" | "transfer-encoding" | "upgrade" | "proxy-connection" | "trailer" => true,
        // What comes with a status is made by whoever makes the status.
        STATUS_DETAILS | RETRY_PUSHBACK => false,
        _ => name.starts_with("grpc-"),
    }
}

/// More about a status, in bytes whose meaning the two ends have agreed on.
pub const STATUS_DETAILS: &str = "grpc-status-details-bin";
/// A server's hint: how many milliseconds to wait before trying again.
pub const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

fn is_text(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, 0x20..=0x7e)) && text.first() != Some(&b' ') && text.last() != Some(&b' ')
}

/// Returns base64 without padding.
fn encode(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    crate::json::write_base64(bytes, &mut out);
    while out.last() == Some(&b'=') {
        out.pop();
    }
    String::from_utf8(out).expect("base64 is ASCII")
}

/// Reads base64, padded or not. Nothing if it is misshapen, or not how the bytes are written.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    if padding > 0 && (padding > 2 || !text.len().is_multiple_of(4)) {
        return None;
    }
    let digits = &text[..text.len() - padding];
    if digits.len() % 4 == 1 {
        return None;
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut word = 0u32;
        for &byte in group {
            word = word << 6 | u32::from(digit(byte)?);
        }
        word <<= 6 * (4 - group.len());
        let [_, bytes @ ..] = word.to_be_bytes();
        let count = group.len() - 1;
        if bytes[count..].iter().any(|&byte| byte != 0) {
            return None;
        }
        out.extend_from_slice(&bytes[..count]);
    }
    Some(out)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // spec: G-20
    #[test]
    fn names_and_texts_that_are_none_are_refused() {
        let mut metadata = Metadata::new();
        for bad in ["", "Upper", "a b", "a:b", "\u{e4}", ":path"] {
            assert_eq!(metadata.append_text(bad, "x"), Err(MetadataError::BadName(bad.to_owned())));
        }
        for reserved in ["te", "content-type", "authorization", "grpc-status", "grpc-timeout", "host", "connection"] {
            assert_eq!(metadata.append_text(reserved, "x"), Err(MetadataError::Reserved(reserved.to_owned())));
        }
        for bad in ["a\nb", "\u{7f}", "\u{e4}", " a", "a "] {
            assert_eq!(metadata.append_text("x", bad), Err(MetadataError::BadText("x".to_owned())), "{bad:?}");
        }
        assert_eq!(metadata.append_text("x-bin", "x"), Err(MetadataError::WrongKind("x-bin".to_owned())));
        assert_eq!(metadata.append_binary("x", &b"x"[..]), Err(MetadataError::WrongKind("x".to_owned())));
        assert!(metadata.is_empty());
        metadata.append_text("x", "").unwrap();
        metadata.append_text("x", "one, two").unwrap();
        assert_eq!(metadata.text("x"), Some(""));
    }

    #[test]
    fn what_a_call_takes_along_is_bounded_at_the_edge() {
        let mut metadata = Metadata::new();
        metadata.append_text("x", &"a".repeat(METADATA_BYTES_MAX - 1)).unwrap();
        assert_eq!(metadata.append_text("y", ""), Err(MetadataError::TooMuch));
        let mut metadata = Metadata::new();
        assert_eq!(metadata.append_binary("x-bin", vec![0; METADATA_BYTES_MAX]), Err(MetadataError::TooMuch));
        assert!(metadata.is_empty());
    }

    // spec: G-20
    #[test]
    fn a_field_of_many_values_takes_no_more_memory_than_many_fields() {
        let (name, mut metadata) = (format!("{}-bin", "n".repeat(4000)), Metadata::new());
        assert_eq!(metadata.receive(&name, ",".repeat(3900).as_bytes()), Err(MetadataError::TooMuch));
        assert_eq!(metadata.iter().count(), 8);
        let mut metadata = Metadata::new();
        (0..100).for_each(|_| metadata.receive("x-text", &[b'a'; 120]).unwrap());
        assert_eq!(metadata.iter().count(), 100, "what 16 KiB of header fields can say");
    }

    // spec: G-20
    #[test]
    fn bytes_are_read_padded_or_not_and_several_at_once() {
        let read = |value: &str| {
            let mut metadata = Metadata::new();
            metadata.receive("x-bin", value.as_bytes())?;
            Ok(metadata.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>())
        };
        let bytes = |parts: &[&'static [u8]]| {
            Ok(parts.iter().map(|part| MetadataValue::Binary(Bytes::from_static(part))).collect::<Vec<_>>())
        };
        assert_eq!(read(""), bytes(&[b""]));
        assert_eq!(read("q6ur"), bytes(&[b"\xab\xab\xab"]));
        assert_eq!(read("qw"), bytes(&[b"\xab"]));
        assert_eq!(read("qw=="), bytes(&[b"\xab"]));
        assert_eq!(read("qw==,q6s=, q6s,AA"), bytes(&[b"\xab", b"\xab\xab", b"\xab\xab", b"\0"]));
        for bad in ["q", "qw=", "q=w=", "====", "qw===", "qx", "q\nw", "-_-_", "q6urq", "\u{e4}"] {
            assert_eq!(read(bad), Err(MetadataError::NotBase64("x-bin".to_owned())), "{bad}");
        }
    }

    #[test]
    fn what_belongs_to_http_and_grpc_is_passed_over() {
        let mut metadata = Metadata::new();
        for (name, value) in [
            ("content-type", "application/grpc"),
            ("grpc-status", "0"),
            ("grpc-encoding", "gzip"),
            ("date", "today"),
            ("x", " text "),
            ("y", "\u{e4}"),
            ("grpc-status-details-bin", "AQ"),
            ("grpc-retry-pushback-ms", "250"),
        ] {
            metadata.receive(name, value.as_bytes()).unwrap();
        }
        let names: Vec<&str> = metadata.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x", STATUS_DETAILS, RETRY_PUSHBACK]);
        assert_eq!(metadata.text("x"), Some("text"));
        assert_eq!(metadata.binary(STATUS_DETAILS).unwrap()[..], [1]);
    }

    proptest! {
        #[test]
        fn whatever_is_sent_arrives(values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8)) {
            let mut metadata = Metadata::new();
            for value in &values {
                metadata.append_binary("x-bin", value.clone()).unwrap();
            }
            let mut received = Metadata::new();
            for (name, value) in metadata.encoded() {
                prop_assert!(!value.contains('='));
                received.receive(name, value.as_bytes()).unwrap();
            }
            prop_assert_eq!(received, metadata);
        }

        #[test]
        fn rubbish_never_panics_and_has_one_form(value in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(bytes) = decode(&value) {
                let text = String::from_utf8(value).unwrap();
                prop_assert_eq!(encode(&bytes), text.trim_end_matches('='));
            }
        }
    }
}
