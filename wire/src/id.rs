//! Ids: newtypes over 16 bytes, names of operations, and the names that are made from caller-chosen keys.

use crate::value::Value;
use crate::writer::put_prefixed;
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Text that is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an id; write 32 hexadecimal digits, with or without the hyphens of a UUID")
    }
}

impl std::error::Error for ParseIdError {}

/// Writes 16 bytes as 32 lower-case digits.
pub(crate) fn write_hex(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Writes 16 bytes as a UUID: groups of 8, 4, 4, 4 and 12 digits.
pub(crate) fn write_hyphenated(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Reads 32 digits of either case; hyphens only where a UUID has them, and then all four.
pub(crate) fn parse_hex(text: &str) -> Result<[u8; 16], ParseIdError> {
    let bytes = text.as_bytes();
    let hyphenated = match bytes.len() {
        32 => false,
        36 => true,
        _ => return Err(ParseIdError),
    };
    let mut out = [0u8; 16];
    let mut digits = 0;
    for (i, &byte) in bytes.iter().enumerate() {
        if hyphenated && matches!(i, 8 | 13 | 18 | 23) {
            if byte != b'-' {
                return Err(ParseIdError);
            }
            continue;
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(ParseIdError),
        };
        if let Some(slot) = out.get_mut(digits / 2) {
            *slot = *slot << 4 | digit;
        }
        digits += 1;
    }
    Ok(out)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $write:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Returns the id that these bytes are.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $write(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                $write(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map(Self)
            }
        }
    };
}

id!(
    /// The name of a document: a UUID, or made from a key the caller chose.
    DocumentId,
    write_hyphenated
);
id!(
    /// The name of a copy, minted anew at the first local write of each open: the first half of the SHA-256 of a
    /// public key born with it.
    ReplicaId,
    write_hex
);
id!(
    /// The name of a unit of sharing and permission.
    SpaceId,
    write_hex
);

fn first_half(hasher: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = hasher.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(&whole[..16]);
    half
}

pub(crate) fn sha256_half(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    first_half(hasher)
}

impl DocumentId {
    /// Returns a UUID of version 7: the milliseconds since 1970 (48 bits), then 74 of the 80 random bits.
    pub fn v7(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        for (i, slot) in bytes.iter_mut().take(6).enumerate() {
            *slot = (unix_ms >> (40 - 8 * i)) as u8;
        }
        bytes[6..].copy_from_slice(&random);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Returns the id of the document that has this key in this collection, in its given life (spec: O-12).
    ///
    /// Two replicas that insert the same key meet in one document; `generation` grows by one when a key is used again
    /// after its document was deleted.
    pub fn for_key(collection: &str, key: &Key, generation: u32) -> Self {
        let mut head = Vec::with_capacity(7 + 5 + collection.len() + 9);
        head.extend_from_slice(b"BZ-key\0");
        put_prefixed(&mut head, collection.as_bytes());
        let tail: &[u8] = match key {
            Key::Text(text) => {
                head.push(1);
                text.as_bytes()
            }
            // spec: O-13
            Key::U64(n) if i64::try_from(*n).is_err() => {
                head.push(4);
                &n.to_le_bytes()
            }
            Key::U64(n) => {
                head.push(2);
                &n.to_le_bytes()
            }
            Key::I64(n) => {
                head.push(2);
                &n.to_le_bytes()
            }
            Key::Bytes(bytes) => {
                head.push(3);
                bytes
            }
        };
        Self(sha256_half(&[&head, tail, &generation.to_le_bytes()]))
    }
}

impl ReplicaId {
    /// Returns the id of a replica with this public key.
    pub fn for_public_key(public_key: &[u8]) -> Self {
        Self(sha256_half(&[public_key]))
    }

    /// Returns the tag that stands for this replica in stamps: the first four bytes, least significant first.
    pub const fn tag(&self) -> u32 {
        let [a, b, c, d, ..] = self.0;
        u32::from_le_bytes([a, b, c, d])
    }
}

/// A key that the caller chose for a document.
///
/// Integers are one domain: `U64(5)` and `I64(5)` name the same document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Text.
    Text(String),
    /// A signed integer.
    I64(i64),
    /// An unsigned integer, for those above `i64::MAX`.
    U64(u64),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Key {
    /// Returns the key as a value, for the row that keeps it.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Text(text) => Value::Text(text.clone()),
            Self::I64(n) => Value::I64(*n),
            Self::U64(n) => Value::from(*n),
            Self::Bytes(bytes) => Value::Bytes(bytes.clone()),
        }
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Key {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&String> for Key {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<i64> for Key {
    fn from(n: i64) -> Self {
        Self::I64(n)
    }
}

impl From<i32> for Key {
    fn from(n: i32) -> Self {
        Self::I64(n.into())
    }
}

impl From<u32> for Key {
    fn from(n: u32) -> Self {
        Self::I64(n.into())
    }
}

impl From<u64> for Key {
    fn from(n: u64) -> Self {
        i64::try_from(n).map_or(Self::U64(n), Self::I64)
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<Vec<u8>> for Key {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

/// The name of an operation: its author and the author's count, which starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId {
    /// The author.
    pub replica: ReplicaId,
    /// Its place among the author's operations.
    pub counter: u64,
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replica, self.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        let bytes: [u8; 16] = std::array::from_fn(|i| (i * 17) as u8);
        let document = DocumentId(bytes);
        assert_eq!(document.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(document.to_string().parse(), Ok(document));
        let replica = ReplicaId(bytes);
        assert_eq!(replica.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(replica.to_string().to_uppercase().parse(), Ok(replica));
        assert_eq!(replica.tag(), 0x3322_1100);
        for text in ["", "0", "00112233445566778899aabbccddeef", "00112233445566778899aabbccddeefg"] {
            assert_eq!(text.parse::<SpaceId>(), Err(ParseIdError), "{text}");
        }
        assert!("00112233-4455-6677-8899aabbccddeeff-".parse::<DocumentId>().is_err());
    }

    #[test]
    fn version_7_has_its_bits() {
        let id = DocumentId::v7(0x0123_4567_89ab, [0xff; 10]);
        assert_eq!(id.to_string(), "01234567-89ab-7fff-bfff-ffffffffffff");
        assert_eq!(DocumentId::v7(1, [0; 10]).to_string(), "00000000-0001-7000-8000-000000000000");
    }
}
