//! Bytes as text: the one place of this crate with `unsafe`.
//!
//! Text is read where it lies, over and over, out of bytes that were validated when they came in. To lend it as `&str`
//! the standard library looks at each byte again, one by one where they are few, which was a fifth of the time of reading a row.
//! Here bytes are looked at by words, and what is ASCII all through is lent as it is; the rest takes the standard library's
//! way. Nothing is believed of the bytes: a proof carried beside them would have to hold wherever a row can be made
//! without a check (`Row::trusted`, `RawField::value`), and so be a promise of every caller.
#![allow(unsafe_code)]

use std::str::{Utf8Error, from_utf8, from_utf8_unchecked};

/// Returns the text that these bytes are.
#[inline(always)]
pub(crate) fn as_text(bytes: &[u8]) -> Result<&str, Utf8Error> {
    if !is_ascii(bytes) {
        return from_utf8(bytes);
    }
    debug_assert!(bytes.is_ascii(), "looked at by words, as by bytes");
    // SAFETY: every byte is below 0x80, and each such byte is a character of its own in UTF-8.
    Ok(unsafe { from_utf8_unchecked(bytes) })
}

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// As the standard library's, which goes byte by byte where there are few. Of two pieces that cover a text one may
/// overlap the other.
#[inline(always)]
pub(crate) fn is_ascii(text: &[u8]) -> bool {
    let high = if text.len() < 16 {
        if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
            words(first) | words(last)
        } else if let (Some(first), Some(last)) = (text.first_chunk(), text.last_chunk()) {
            u64::from(u32::from_le_bytes(*first) | u32::from_le_bytes(*last))
        } else {
            text.iter().fold(0, |high, &byte| high | u64::from(byte))
        }
    } else if let Some(last) = text.last_chunk::<32>() {
        let (blocks, rest) = text.as_chunks::<64>();
        // A way out of the loop keeps the compiler from unrolling it, which so few rounds do not repay.
        for block in blocks {
            if words(block) & HIGH_BITS != 0 {
                return false;
            }
        }
        rest.first_chunk::<32>().map_or(0, words) | words(last)
    } else {
        text.first_chunk::<16>().map_or(0, words) | text.last_chunk::<16>().map_or(0, words)
    };
    high & HIGH_BITS == 0
}

/// Returns all words of a block in one.
#[inline(always)]
fn words<const N: usize>(block: &[u8; N]) -> u64 {
    block.as_chunks().0.iter().fold(0, |all, word| all | u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_high_bit_is_seen_wherever_it_is() {
        for len in 0..200 {
            let mut text = vec![0x7f; len];
            assert!(is_ascii(&text), "{len}");
            for at in 0..len {
                text[at] = 0x80;
                assert!(!is_ascii(&text), "{at} of {len}");
                text[at] = 0x7f;
            }
        }
    }

    #[test]
    fn text_is_what_the_standard_library_says_it_is() {
        let parts = ["", "a", "text", "\u{e4}", "\u{20ac}", "\u{1f980}", "sixteen bytes...", "\u{7f}"];
        let wrong: [&[u8]; 6] = [b"\x80", b"\xc3", b"\xe2\x82", b"\xff", b"\xc0\x80", b"\xed\xa0\x80"];
        for (one, two, three) in parts
            .iter()
            .flat_map(|a| parts.iter().map(move |b| (a, b)))
            .flat_map(|(a, b)| parts.iter().map(move |c| (a, b, c)))
        {
            let text = [*one, two, three].concat();
            assert_eq!(as_text(text.as_bytes()), Ok(&*text));
            for wrong in wrong {
                let bytes = [one.as_bytes(), wrong, two.as_bytes(), three.as_bytes()].concat();
                assert_eq!(as_text(&bytes), from_utf8(&bytes));
            }
        }
    }
}
