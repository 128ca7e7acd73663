//! Writing: small functions that append to a caller's buffer, little-endian.

pub use crate::varint::{put_uvarint, uvarint_len};

/// Appends two bytes, least significant first.
#[inline]
pub fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends four bytes, least significant first.
#[inline]
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends eight bytes, least significant first.
#[inline]
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a varint length and then the bytes.
#[inline]
pub fn put_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Returns how many bytes `put_prefixed` writes for `len` bytes.
#[inline]
pub const fn prefixed_len(len: usize) -> usize {
    uvarint_len(len as u64) + len
}
