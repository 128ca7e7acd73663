//! A key and its value in one allocation, handed out without copying.

use std::cmp::Ordering;

use bytes::Bytes;

/// A key and its value, one buffer; clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    bytes: Bytes,
    key_len: u32,
}

impl Record {
    pub(crate) fn new(key: &[u8], value: &[u8]) -> Self {
        Self::from_parts(key, &[value])
    }

    pub(crate) fn from_parts(key: &[u8], parts: &[&[u8]]) -> Self {
        let len = key.len() + parts.iter().map(|p| p.len()).sum::<usize>();
        let mut buffer = Vec::with_capacity(len);
        buffer.extend_from_slice(key);
        for part in parts {
            buffer.extend_from_slice(part);
        }
        Self { bytes: Bytes::from(buffer), key_len: key.len() as u32 }
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_len as usize]
    }

    pub(crate) fn value(&self) -> &[u8] {
        &self.bytes[self.key_len as usize..]
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

/// The first eight bytes of a key as a number: most comparisons end here, without following the pointer.
/// Zero padding keeps the order: where two heads differ, the keys differ the same way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Head(u64);

impl Head {
    pub(crate) fn of(key: &[u8]) -> Self {
        let mut first = [0; 8];
        let n = key.len().min(8);
        first[..n].copy_from_slice(&key[..n]);
        Self(u64::from_be_bytes(first))
    }

    pub(crate) fn compare(self, key: &[u8], other: Self, other_key: &[u8]) -> Ordering {
        self.cmp(&other).then_with(|| key.cmp(other_key))
    }
}
