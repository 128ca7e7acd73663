//! Unsigned varints: LEB128, seven bits a byte, least significant first, canonical form only (spec: V-1, V-2).

/// Longest encoding of a 64-bit number, in bytes.
pub const UVARINT_BYTES_MAX: usize = 10;

/// Why a varint was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VarintError {
    /// The input ended inside the varint.
    End,
    /// The last byte is zero, or the number does not fit 64 bits.
    Overlong,
}

/// Returns how many bytes `put_uvarint` writes for `value`.
#[inline]
pub const fn uvarint_len(value: u64) -> usize {
    // Bits in use, rounded up to groups of seven; zero takes one byte too.
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Appends `value` to `out`.
#[inline]
pub fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads a varint from the start of `bytes`; returns it and its length.
#[inline]
pub(crate) fn read_uvarint(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    // Nearly every varint of the formats is one byte long.
    match bytes.first() {
        Some(&byte) if byte < 0x80 => Ok((u64::from(byte), 1)),
        Some(_) => read_long(bytes),
        None => Err(VarintError::End),
    }
}

#[inline(never)]
fn read_long(bytes: &[u8]) -> Result<(u64, usize), VarintError> {
    let mut value = 0u64;
    for (i, &byte) in bytes.iter().take(UVARINT_BYTES_MAX).enumerate() {
        let low = u64::from(byte & 0x7f);
        // The tenth byte holds bit 63 alone.
        if i == UVARINT_BYTES_MAX - 1 && byte > 1 {
            return Err(VarintError::Overlong);
        }
        value |= low << (7 * i);
        if byte < 0x80 {
            return if byte == 0 { Err(VarintError::Overlong) } else { Ok((value, i + 1)) };
        }
    }
    if bytes.len() < UVARINT_BYTES_MAX { Err(VarintError::End) } else { Err(VarintError::Overlong) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_width() {
        for shift in 0..64 {
            for value in [(1u64 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let mut out = Vec::new();
                put_uvarint(&mut out, value);
                assert_eq!(out.len(), uvarint_len(value), "{value}");
                assert_eq!(read_uvarint(&out), Ok((value, out.len())));
            }
        }
        let mut out = Vec::new();
        put_uvarint(&mut out, u64::MAX);
        assert_eq!(out.len(), UVARINT_BYTES_MAX);
        assert_eq!(read_uvarint(&out), Ok((u64::MAX, 10)));
    }

    // spec: V-1, V-2
    #[test]
    fn refuses_overlong_and_cut() {
        for bytes in [&[0x80, 0x00][..], &[0xff, 0x80, 0x00], &[0xff; 10], &[0x80; 11]] {
            assert_eq!(read_uvarint(bytes), Err(VarintError::Overlong), "{bytes:?}");
        }
        let mut two_to_the_64 = [0x80; 10];
        two_to_the_64[9] = 2;
        assert_eq!(read_uvarint(&two_to_the_64), Err(VarintError::Overlong));
        for bytes in [&[][..], &[0x80], &[0xff; 9]] {
            assert_eq!(read_uvarint(bytes), Err(VarintError::End), "{bytes:?}");
        }
    }
}
