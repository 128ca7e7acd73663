//! The end of a call: a code, and a text for people (spec: G-5, G-6).

use std::fmt;

/// Longest `grpc-message` that is sent; a longer text is cut at a character. It must fit a header list of 8 KiB when
/// every byte takes three.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 1024;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The seventeen gRPC status codes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: [Self; 17] = [$(Self::$name),*];

            /// Returns the code's name as gRPC writes it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns the code with this number.
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    /// No error.
    Ok = 0, "OK";
    /// The caller gave the call up.
    Cancelled = 1, "CANCELLED";
    /// An error that nobody could name.
    Unknown = 2, "UNKNOWN";
    /// The caller's argument is wrong whatever the state.
    InvalidArgument = 3, "INVALID_ARGUMENT";
    /// The call took longer than its `grpc-timeout`.
    DeadlineExceeded = 4, "DEADLINE_EXCEEDED";
    /// Something that was asked for does not exist.
    NotFound = 5, "NOT_FOUND";
    /// Something that was to be made exists.
    AlreadyExists = 6, "ALREADY_EXISTS";
    /// The caller is known and may not do this.
    PermissionDenied = 7, "PERMISSION_DENIED";
    /// A limit was hit.
    ResourceExhausted = 8, "RESOURCE_EXHAUSTED";
    /// The state does not allow it.
    FailedPrecondition = 9, "FAILED_PRECONDITION";
    /// Given up because of a conflict.
    Aborted = 10, "ABORTED";
    /// Past the end.
    OutOfRange = 11, "OUT_OF_RANGE";
    /// The server has no such method.
    Unimplemented = 12, "UNIMPLEMENTED";
    /// A rule of the protocol was broken.
    Internal = 13, "INTERNAL";
    /// The server cannot serve now; try again.
    Unavailable = 14, "UNAVAILABLE";
    /// Data was lost.
    DataLoss = 15, "DATA_LOSS";
    /// The caller is not known.
    Unauthenticated = 16, "UNAUTHENTICATED";
}

impl Code {
    /// Returns the code's number.
    pub fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What happened.
    pub code: Code,
    /// What a person should know or do about it; may be empty.
    pub message: String,
}

impl Status {
    /// Returns a status.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Returns the status of a call that ended well.
    pub fn ok() -> Self {
        Self::new(Code::Ok, "")
    }

    /// Returns the value of the `grpc-status` trailer.
    pub fn status_value(&self) -> String {
        self.code.number().to_string()
    }

    /// Returns the value of the `grpc-message` trailer, cut to [`MESSAGE_TEXT_BYTES_MAX`]; nothing if it is empty.
    pub fn message_value(&self) -> Option<String> {
        if self.message.is_empty() {
            return None;
        }
        let end = self.message.floor_char_boundary(MESSAGE_TEXT_BYTES_MAX);
        Some(percent_encode(&self.message[..end]))
    }

    /// Reads the two trailers of a call; a missing or misshapen `grpc-status` is [`Code::Unknown`].
    pub fn from_trailers(grpc_status: Option<&[u8]>, grpc_message: Option<&[u8]>) -> Self {
        let message = grpc_message.map(percent_decode).unwrap_or_default();
        let Some(raw) = grpc_status else {
            return Self::new(Code::Unknown, "the stream ended without grpc-status");
        };
        let number = match raw {
            [digit @ b'0'..=b'9'] => Some(digit - b'0'),
            [b'1', digit @ b'0'..=b'9'] => Some(10 + (digit - b'0')),
            _ => None,
        };
        match number.and_then(Code::from_number) {
            Some(code) => Self { code, message },
            None => Self::new(Code::Unknown, format!("grpc-status `{}`: {message}", String::from_utf8_lossy(raw))),
        }
    }

    /// Returns what an answer without `grpc-status` means: it came from something that is not a gRPC server, for
    /// example a proxy. The mapping is gRPC's own.
    pub fn from_http(status: u16) -> Self {
        let code = match status {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        Self::new(code, format!("HTTP status {status} without grpc-status"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { write!(f, "{}", self.code) } else { write!(f, "{}: {}", self.code, self.message) }
    }
}

impl std::error::Error for Status {}

/// Returns `text` with every byte outside 0x20..=0x7E, and `%`, as `%XX`.
pub fn percent_encode(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    out
}

/// Undoes [`percent_encode`]. Never fails: a `%` without two digits stays, bytes that are no UTF-8 become U+FFFD.
pub fn percent_decode(value: &[u8]) -> String {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        if let [b'%', high, low, ..] = value[at..]
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            out.push(high << 4 | low);
            at += 3;
        } else {
            out.push(value[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn codes_by_number() {
        for (number, code) in (0u8..).zip(Code::ALL) {
            assert_eq!(code.number(), number);
            assert_eq!(Code::from_number(number), Some(code));
            let status = Status::new(code, "why");
            assert_eq!(Status::from_trailers(Some(status.status_value().as_bytes()), Some(b"why")), status);
        }
        assert_eq!(Code::from_number(17), None);
    }

    #[test]
    fn misshapen_statuses_are_unknown() {
        for raw in ["00", "01", "17", "99", "", "-1", " 0", "0 ", "x", "116"] {
            assert_eq!(Status::from_trailers(Some(raw.as_bytes()), None).code, Code::Unknown, "{raw}");
        }
        assert_eq!(Status::from_trailers(None, None).code, Code::Unknown);
    }

    #[test]
    fn percent_encoding() {
        let check = |text: &str, value: &str| {
            assert_eq!(percent_encode(text), value);
            assert_eq!(percent_decode(value.as_bytes()), text);
        };
        check("", "");
        check("plain text, ~!", "plain text, ~!");
        check("100%", "100%25");
        check("a\nb\u{7f}", "a%0Ab%7F");
        check("\u{e4}\u{1f600}", "%C3%A4%F0%9F%98%80");
        assert_eq!(percent_decode(b"%zz%4"), "%zz%4");
        assert_eq!(percent_decode(b"%ff"), "\u{fffd}");
        assert_eq!(percent_decode(b"%c3%a4"), "\u{e4}");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let status = Status::new(Code::Internal, "\u{e4}".repeat(600));
        assert_eq!(status.message_value().unwrap(), "%C3%A4".repeat(512));
        assert_eq!(Status::ok().message_value(), None);
    }

    proptest! {
        #[test]
        fn percent_round_trip(text in any::<String>()) {
            let value = percent_encode(&text);
            prop_assert!(value.bytes().all(|byte| matches!(byte, 0x20..=0x7e)));
            prop_assert_eq!(percent_decode(value.as_bytes()), text);
        }
    }
}
