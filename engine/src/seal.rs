//! Authenticated encryption behind one small trait, so that a faster crate can take a cipher's place.
//!
//! Two sources of the same two ciphers, byte for byte the same: with the feature `aws-lc` (default) the assembly of
//! aws-lc, which rustls brings along anyway; without it the pure Rust crates, for targets without a C compiler.
//!
//! | ns a seal (2026-11-24, AMD EPYC, 2 cores) | 200 B | 4 KiB | 64 KiB |
//! |---|---|---|---|
//! | AES-256-GCM, aws-lc-rs 1.19 | 136 | 565 | 6,300 |
//! | AES-256-GCM, aes-gcm 0.11 | 564 | 2,190 | 30,000 to 47,000 |
//! | ChaCha20-Poly1305, aws-lc-rs 1.19 | 250 | 1,730 | 25,400 |
//! | ChaCha20-Poly1305, chacha20poly1305 0.11 | 2,050 | 4,240 | 42,500 |
//!
//! To open costs the same within a tenth, but for aes-gcm at 4 KiB (3,400).

#[cfg(feature = "aws-lc")]
mod aws_lc;
// Compiled beside aws-lc in tests only, where each opens what the other sealed.
#[cfg(any(test, not(feature = "aws-lc")))]
mod pure;

use xxhash_rust::xxh3::Xxh3Default;

#[cfg(feature = "aws-lc")]
use self::aws_lc as backend;
#[cfg(not(feature = "aws-lc"))]
use self::pure as backend;
use crate::keys::Key;
use crate::options::CipherChoice;

pub(crate) type Tag = [u8; 16];

/// What a file is sealed with; the numbers are in its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cipher {
    None,
    Aes256Gcm,
    ChaCha20Poly1305,
}

impl Cipher {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Aes256Gcm => 1,
            Self::ChaCha20Poly1305 => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::None,
            1 => Self::Aes256Gcm,
            2 => Self::ChaCha20Poly1305,
            _ => return None,
        })
    }

    /// Settles `Auto` by what this CPU can do.
    pub(crate) fn choose(choice: CipherChoice) -> Self {
        match choice {
            CipherChoice::Aes256Gcm => Self::Aes256Gcm,
            CipherChoice::ChaCha20Poly1305 => Self::ChaCha20Poly1305,
            CipherChoice::Auto if cpu_has_aes() => Self::Aes256Gcm,
            CipherChoice::Auto => Self::ChaCha20Poly1305,
        }
    }

    /// Returns the choice that gives this one.
    pub(crate) fn choice(self) -> Option<CipherChoice> {
        match self {
            Self::None => None,
            Self::Aes256Gcm => Some(CipherChoice::Aes256Gcm),
            Self::ChaCha20Poly1305 => Some(CipherChoice::ChaCha20Poly1305),
        }
    }
}

fn cpu_has_aes() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// The seal does not fit the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unsealed;

/// Seals and opens under one key. Nobody may seal twice under one nonce.
pub(crate) trait Seal: Send + Sync {
    fn seal(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8]) -> Tag;

    /// On an error `bytes` hold nothing of use.
    fn open(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8], tag: &Tag) -> Result<(), Unsealed>;
}

pub(crate) fn sealer(cipher: Cipher, key: &Key) -> Box<dyn Seal> {
    match cipher {
        Cipher::None => Box::new(Digested),
        Cipher::Aes256Gcm => backend::aes_256_gcm(key),
        Cipher::ChaCha20Poly1305 => backend::chacha20_poly1305(key),
    }
}

/// No encryption: a hash in the tag's place (xxh3, 128 bits), so that groups and pages still chain and damage is
/// still seen. It chains, it does not authenticate: a cryptographic hash without a key would stop nobody from
/// writing a file of his own either, and costs more than ten times as much.
pub(crate) struct Digested;

impl Digested {
    fn tag(nonce: &[u8; 12], associated_data: &[u8], bytes: &[u8]) -> Tag {
        let mut hash = Xxh3Default::new();
        hash.update(nonce);
        hash.update(&(associated_data.len() as u64).to_le_bytes());
        hash.update(associated_data);
        hash.update(bytes);
        hash.digest128().to_le_bytes()
    }
}

impl Seal for Digested {
    fn seal(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8]) -> Tag {
        Self::tag(nonce, associated_data, bytes)
    }

    fn open(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8], tag: &Tag) -> Result<(), Unsealed> {
        if Self::tag(nonce, associated_data, bytes) == *tag { Ok(()) } else { Err(Unsealed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cipher_opens_its_own_and_nothing_changed() {
        let key = Key::new([7; 32]);
        for cipher in [Cipher::None, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            let s = sealer(cipher, &key);
            let mut bytes = b"some payload".to_vec();
            let tag = s.seal(&[1; 12], b"ad", &mut bytes);
            assert_eq!(bytes == b"some payload", cipher == Cipher::None);
            assert_eq!(s.open(&[1; 12], b"AD", &mut bytes.clone(), &tag), Err(Unsealed), "{cipher:?} other ad");
            assert_eq!(s.open(&[2; 12], b"ad", &mut bytes.clone(), &tag), Err(Unsealed), "{cipher:?} other nonce");
            let mut flipped = bytes.clone();
            flipped[3] ^= 1;
            assert_eq!(s.open(&[1; 12], b"ad", &mut flipped, &tag), Err(Unsealed), "{cipher:?} flipped");
            s.open(&[1; 12], b"ad", &mut bytes, &tag).expect("its own seal");
            assert_eq!(bytes, b"some payload");
        }
    }

    #[cfg(feature = "aws-lc")]
    #[test]
    fn both_sources_of_a_cipher_write_the_same_bytes() {
        let key = Key::new([0x5A; 32]);
        let pairs = [
            (aws_lc::aes_256_gcm(&key), pure::aes_256_gcm(&key)),
            (aws_lc::chacha20_poly1305(&key), pure::chacha20_poly1305(&key)),
        ];
        for (a, b) in pairs {
            for len in [0, 1, 15, 16, 17, 200, 4040, 16328, 65537] {
                let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
                let (mut by_a, mut by_b) = (plain.clone(), plain.clone());
                let tag_a = a.seal(&[9; 12], b"associated", &mut by_a);
                let tag_b = b.seal(&[9; 12], b"associated", &mut by_b);
                assert_eq!((&by_a, tag_a), (&by_b, tag_b), "{len} bytes");
                b.open(&[9; 12], b"associated", &mut by_a, &tag_a).expect("the other's seal");
                a.open(&[9; 12], b"associated", &mut by_b, &tag_b).expect("the other's seal");
                assert_eq!((&by_a, &by_b), (&plain, &plain));
            }
        }
    }
}
