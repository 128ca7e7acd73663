//! The ciphers of aws-lc. Its key schedules are wiped when freed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::{Seal, Tag, Unsealed};
use crate::keys::Key;

pub(super) fn aes_256_gcm(key: &Key) -> Box<dyn Seal> {
    bound(&AES_256_GCM, key)
}

pub(super) fn chacha20_poly1305(key: &Key) -> Box<dyn Seal> {
    bound(&CHACHA20_POLY1305, key)
}

fn bound(algorithm: &'static Algorithm, key: &Key) -> Box<dyn Seal> {
    Box::new(Aead(LessSafeKey::new(UnboundKey::new(algorithm, &key[..]).expect("both ciphers take 32 bytes"))))
}

/// "Less safe" because the caller brings the nonces; `Seal`'s contract says who looks after them.
struct Aead(LessSafeKey);

impl Seal for Aead {
    fn seal(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8]) -> Tag {
        let tag = self
            .0
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(associated_data), bytes)
            .expect("groups are far below the ciphers' length limit");
        tag.as_ref().try_into().expect("both ciphers give 16 bytes")
    }

    fn open(&self, nonce: &[u8; 12], associated_data: &[u8], bytes: &mut [u8], tag: &Tag) -> Result<(), Unsealed> {
        let nonce = Nonce::assume_unique_for_key(*nonce);
        match self.0.open_in_place_separate_tag(nonce, Aad::from(associated_data), tag, bytes) {
            Ok(_) => Ok(()),
            Err(_) => Err(Unsealed),
        }
    }
}
