//! Authenticated encryption behind one small trait, so that a faster crate can take a cipher's place.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;
use sha2::{Digest, Sha256};

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
        Cipher::Aes256Gcm => Box::new(Aead(Aes256Gcm::new_from_slice(&key[..]).expect("32 bytes are an AES-256 key"))),
        Cipher::ChaCha20Poly1305 => {
            Box::new(Aead(ChaCha20Poly1305::new_from_slice(&key[..]).expect("32 bytes are a ChaCha20 key")))
        }
    }
}

struct Aead<A>(A);

impl<A: AeadInOut + Send + Sync> Seal for Aead<A> {
    fn seal(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8]) -> Tag {
        let nonce = nonce.as_slice().try_into().expect("both ciphers take 12 bytes");
        let tag = self
            .0
            .encrypt_inout_detached(nonce, associated_data, bytes.into())
            .expect("groups are far below the ciphers' length limit");
        tag.as_slice().try_into().expect("both ciphers give 16 bytes")
    }

    fn open(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8], tag: &Tag) -> Result<(), Unsealed> {
        let nonce = nonce.as_slice().try_into().expect("both ciphers take 12 bytes");
        let tag = tag.as_slice().try_into().expect("both ciphers give 16 bytes");
        self.0.decrypt_inout_detached(nonce, associated_data, bytes.into(), tag).map_err(|_| Unsealed)
    }
}

/// No encryption: a hash in the tag's place, so that groups still chain and damage is still seen. It stops
/// nobody from writing a file of his own.
struct Digested;

impl Digested {
    fn tag(nonce: &[u8; 12], associated_data: &[u8], bytes: &[u8]) -> Tag {
        let mut hash = Sha256::new();
        hash.update(b"blaze group");
        hash.update(nonce);
        hash.update((associated_data.len() as u64).to_le_bytes());
        hash.update(associated_data);
        hash.update(bytes);
        let mut tag = Tag::default();
        tag.copy_from_slice(&hash.finalize()[..16]);
        tag
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
}
