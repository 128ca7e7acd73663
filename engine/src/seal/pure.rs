//! The ciphers of the RustCrypto crates.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut, KeyInit};
use chacha20poly1305::ChaCha20Poly1305;

use super::{Seal, Tag, Unsealed};
use crate::keys::Key;

pub(super) fn aes_256_gcm(key: &Key) -> Box<dyn Seal> {
    Box::new(Aead(Aes256Gcm::new_from_slice(&key[..]).expect("32 bytes are an AES-256 key")))
}

pub(super) fn chacha20_poly1305(key: &Key) -> Box<dyn Seal> {
    Box::new(Aead(ChaCha20Poly1305::new_from_slice(&key[..]).expect("32 bytes are a ChaCha20 key")))
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
