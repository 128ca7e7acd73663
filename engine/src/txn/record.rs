//! A key and its value in one allocation, handed out without copying.

use bytes::Bytes;

/// A key and its value, one buffer; clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    bytes: Bytes,
    key_len: u32,
}

impl Record {
    /// A key of this many bytes and behind it a value.
    pub(crate) fn new(bytes: Bytes, key_len: usize) -> Self {
        Self { bytes, key_len: key_len as u32 }
    }

    pub(crate) fn from_parts(key: &[u8], parts: &[&[u8]]) -> Self {
        let len = key.len() + parts.iter().map(|p| p.len()).sum::<usize>();
        let mut buffer = Vec::with_capacity(len);
        buffer.extend_from_slice(key);
        for part in parts {
            buffer.extend_from_slice(part);
        }
        Self::new(Bytes::from(buffer), key.len())
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
    }

    /// Returns the key and behind it the value.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(crate) fn key_bytes(&self) -> Bytes {
        self.bytes.slice(..self.key_len as usize)
    }

    pub(crate) fn value_bytes(&self) -> Bytes {
        self.bytes.slice(self.key_len as usize..)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}
