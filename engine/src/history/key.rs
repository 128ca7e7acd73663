//! The keys of a twin: in the order of the tree's keys, and of one key in the order of commits.
//!
//! A key must not be the beginning of another one here, or versions of the two would lie among each other. So each of its
//! bytes becomes nine bits, a 1 and the byte; behind the last one is a 0, and zeros fill the last byte. That costs an
//! eighth, whatever bytes there are. Behind it stands twice the commit that superseded the version, and one more where
//! there was a value. spec: E-42

use std::ops::Deref;

/// Bytes behind the key.
const COMMIT_BYTES: usize = 8;

/// What a twin's key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TwinKey {
    pub(crate) key: Vec<u8>,
    /// The commit that superseded the version.
    pub(crate) until: u64,
    /// There was a value.
    pub(crate) is_value: bool,
}

/// Bytes of a key that takes no memory of its own: most keys.
const SHORT_BYTES: usize = 64;

/// Where a key is put together.
pub(crate) trait Out {
    fn put(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A key to look for.
pub(crate) struct SeekKey {
    short: [u8; SHORT_BYTES],
    len: usize,
    /// In the place of a short one.
    long: Vec<u8>,
}

impl Out for SeekKey {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.short[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

impl Deref for SeekKey {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        if self.long.is_empty() { &self.short[..self.len] } else { &self.long }
    }
}

/// Adds a key in the order of twins, without a commit.
#[inline]
pub(crate) fn push_key(out: &mut impl Out, key: &[u8]) {
    let mut chunks = key.chunks_exact(8);
    for chunk in &mut chunks {
        // Eight bytes are nine, exactly.
        // Of the last one the first bit is in the eighth byte, and the rest is the ninth.
        let (last, first) = (chunk[7], &chunk[..7]);
        let bits = first.iter().fold(0_u64, |bits, &byte| bits << 9 | 0x100 | u64::from(byte));
        out.put(&(bits << 1 | 1).to_be_bytes());
        out.put(&[last]);
    }
    let rest = chunks.remainder();
    if rest.is_empty() {
        // A 0 and zeros; its own line, as most keys are like that and are looked for.
        return out.put(&[0]);
    }
    let mut bits = 0_u128;
    for &byte in rest {
        bits = bits << 9 | 0x100 | u128::from(byte);
    }
    let used = 9 * rest.len() + 1;
    let bytes = used.div_ceil(8);
    // One more bit, a 0, and zeros up to the byte's end.
    bits <<= 8 * bytes - (used - 1);
    out.put(&bits.to_be_bytes()[16 - bytes..]);
}

/// Adds a twin's key.
#[inline]
pub(crate) fn push_twin_key(out: &mut impl Out, key: &[u8], until: u64, is_value: bool) {
    push_key(out, key);
    out.put(&(until << 1 | u64::from(is_value)).to_be_bytes());
}

/// Returns where the entries of a key begin that were superseded after a commit.
pub(crate) fn seek_key(key: &[u8], after: u64) -> SeekKey {
    let mut out = SeekKey { short: [0; SHORT_BYTES], len: 0, long: Vec::new() };
    if (9 * key.len() + 1).div_ceil(8) + COMMIT_BYTES <= SHORT_BYTES {
        push_twin_key(&mut out, key, after + 1, false);
    } else {
        push_twin_key(&mut out.long, key, after + 1, false);
    }
    out
}

/// Splits a twin's key into the key, in the order of twins, and the commit; whether there was a value.
pub(crate) fn split(twin_key: &[u8]) -> Option<(&[u8], u64, bool)> {
    let (key, commit) = twin_key.split_last_chunk::<COMMIT_BYTES>()?;
    let commit = u64::from_be_bytes(*commit);
    Some((key, commit >> 1, commit & 1 == 1))
}

/// Reads a twin's key; `None` where it is none.
pub(crate) fn decode(twin_key: &[u8]) -> Option<TwinKey> {
    let (bits, until, is_value) = split(twin_key)?;
    Some(TwinKey { key: decode_key(bits)?, until, is_value })
}

/// Reads a key in the order of twins.
pub(crate) fn decode_key(bits: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(bits.len());
    let mut waiting = 0_u32;
    let mut count = 0;
    let mut ended = false;
    for &byte in bits {
        if ended {
            return None;
        }
        waiting = waiting << 8 | u32::from(byte);
        count += 8;
        loop {
            if count == 0 {
                break;
            }
            if waiting >> (count - 1) & 1 == 0 {
                // Nothing but zeros up to the byte's end.
                if waiting & ((1 << count) - 1) != 0 {
                    return None;
                }
                ended = true;
                break;
            }
            if count < 9 {
                break;
            }
            count -= 9;
            key.push((waiting >> count) as u8);
        }
    }
    ended.then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn twin_key(key: &[u8], until: u64, is_value: bool) -> Vec<u8> {
        let mut out = Vec::new();
        push_twin_key(&mut out, key, until, is_value);
        out
    }

    #[test]
    fn twin_keys_are_in_the_order_of_keys_and_then_of_commits_and_say_both() {
        let mut keys: Vec<Vec<u8>> = vec![vec![]];
        for len in 1..=20_usize {
            for byte in [0, 1, 0x7f, 0x80, 0xfe, 0xff] {
                keys.push(vec![byte; len]);
                let mut other = vec![0; len];
                other[len - 1] = byte;
                keys.push(other);
                let mut other = vec![byte; len];
                other[len / 2] = 0;
                keys.push(other);
            }
        }
        keys.push(vec![0; 1024]);
        keys.push(vec![0xff; 1024]);
        let mut all = Vec::new();
        for key in &keys {
            for until in [1, 2, 255, 256, u64::MAX >> 2] {
                all.push((key.clone(), until));
            }
        }
        all.sort();
        all.dedup();
        let coded: Vec<Vec<u8>> = all.iter().map(|(key, until)| twin_key(key, *until, until % 2 == 1)).collect();
        assert!(coded.windows(2).all(|pair| pair[0] < pair[1]));
        for ((key, until), coded) in all.iter().zip(&coded) {
            let expected = TwinKey { key: key.clone(), until: *until, is_value: until % 2 == 1 };
            assert_eq!(decode(coded), Some(expected));
            assert!(coded.len() <= crate::btree::PAGE_KEY_BYTES_MAX);
        }
        assert_eq!(coded.iter().map(Vec::len).max(), Some(crate::btree::PAGE_KEY_BYTES_MAX));
    }

    #[test]
    fn what_is_no_twin_key_is_refused() {
        let good = twin_key(b"abcdefgh", 7, true);
        assert_eq!(good.len(), 10 + 8);
        for wrong in [&good[..7], &good[1..], &[], &[good.clone(), vec![0]].concat()[..]] {
            assert_eq!(decode(wrong), None, "{wrong:02x?}");
        }
        let mut bits = Vec::new();
        push_key(&mut bits, b"a");
        for wrong in [vec![], vec![0x80], [bits.clone(), vec![0]].concat(), vec![bits[0], bits[1] | 1], vec![1]] {
            assert_eq!(decode_key(&wrong), None, "{wrong:02x?}");
        }
        assert_eq!(decode_key(&[0]), Some(Vec::new()));
        assert_eq!(decode_key(&[0xb0, 0x80]), Some(b"a".to_vec()));
    }
}
