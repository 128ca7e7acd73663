//! Keys at rest: passphrase or raw key -> key encryption key -> master key -> one key per purpose.
//!
//! The master key is random and never leaves memory but wrapped in a key slot. Everything else is derived from
//! it with HKDF-SHA-256 under the file's id and a label, so that no key serves two purposes. Keys are wiped when
//! dropped. Byte tables and rules: spec/crypto.md.

use std::io;

use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::env::Entropy;
use crate::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};
use crate::options::{KdfCost, KeySource};
use crate::seal::{Cipher, Seal, sealer};

pub(crate) type Key = Zeroizing<[u8; 32]>;

/// One key slot of the header: how the master key is wrapped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct KeySlot {
    pub(crate) kind: SlotKind,
    pub(crate) memory_kib: u32,
    pub(crate) passes: u32,
    pub(crate) lanes: u32,
    pub(crate) salt: [u8; 16],
    pub(crate) wrapped: [u8; 32],
    pub(crate) tag: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum SlotKind {
    #[default]
    Empty,
    Passphrase,
    Raw,
}

/// Why a slot did not give the master key.
#[derive(Debug)]
pub(crate) enum UnwrapError {
    /// The slot asks for more than a reader grants.
    Costs { what: &'static str, given: u64 },
    /// The tag does not fit: another key, or damage that the header's checksum did not see.
    WrongKey,
}

impl KeySlot {
    /// Wraps the master key for a new slot. spec: C-3
    pub(crate) fn wrap(
        master: &Key,
        source: &KeySource,
        cost: KdfCost,
        cipher: Cipher,
        uuid: &[u8; 16],
        entropy: &dyn Entropy,
    ) -> io::Result<Self> {
        let kind = match source {
            KeySource::Passphrase(_) => SlotKind::Passphrase,
            KeySource::Raw(_) => SlotKind::Raw,
            KeySource::None => return Ok(Self::default()),
        };
        let (memory_kib, passes, lanes) = if kind == SlotKind::Passphrase { cost.parameters() } else { (0, 0, 0) };
        let mut slot = Self { kind, memory_kib, passes, lanes, ..Self::default() };
        // A fresh salt per wrap: the wrapping key is used once, which is what lets its nonce be zero.
        entropy.public(&mut slot.salt)?;
        let kek = slot.key_encryption_key(source).expect("costs we chose ourselves are in range");
        let mut wrapped = Zeroizing::new(**master);
        slot.tag = sealer(cipher, &kek).seal(&[0; 12], &slot.associated_data(uuid), &mut wrapped[..]);
        slot.wrapped = *wrapped;
        Ok(slot)
    }

    /// Unwraps the master key. spec: C-3
    pub(crate) fn unwrap(&self, source: &KeySource, cipher: Cipher, uuid: &[u8; 16]) -> Result<Key, UnwrapError> {
        let kek = self.key_encryption_key(source)?;
        let mut master = Zeroizing::new(self.wrapped);
        sealer(cipher, &kek)
            .open(&[0; 12], &self.associated_data(uuid), &mut master[..], &self.tag)
            .map_err(|_| UnwrapError::WrongKey)?;
        Ok(master)
    }

    /// Returns whether this slot is for this kind of source.
    pub(crate) fn fits(&self, source: &KeySource) -> bool {
        matches!(
            (self.kind, source),
            (SlotKind::Passphrase, KeySource::Passphrase(_)) | (SlotKind::Raw, KeySource::Raw(_))
        )
    }

    fn key_encryption_key(&self, source: &KeySource) -> Result<Key, UnwrapError> {
        let stretched: Key = match source {
            KeySource::Passphrase(secret) => {
                // Before anything is allocated: a file may not make its reader allocate what it likes. spec: C-4
                let caps = [
                    ("Argon2id memory in KiB", self.memory_kib, KDF_MEMORY_KIB_MAX),
                    ("Argon2id passes", self.passes, KDF_PASSES_MAX),
                    ("Argon2id lanes", self.lanes, KDF_LANES_MAX),
                ];
                for (what, given, max) in caps {
                    if given > max {
                        return Err(UnwrapError::Costs { what, given: u64::from(given) });
                    }
                }
                let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| {
                    UnwrapError::Costs { what: "Argon2id memory in KiB", given: u64::from(self.memory_kib) }
                })?;
                let mut out = Key::default();
                argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
                    .hash_password_into(secret.expose(), &self.salt, &mut out[..])
                    .map_err(|_| UnwrapError::Costs {
                        what: "passphrase length",
                        given: secret.expose().len() as u64,
                    })?;
                out
            }
            KeySource::Raw(key) => key.clone(),
            KeySource::None => return Err(UnwrapError::WrongKey),
        };
        Ok(derive(&stretched[..], &self.salt, &[b"blaze key slot"]))
    }

    fn associated_data(&self, uuid: &[u8; 16]) -> Vec<u8> {
        let mut ad = b"blaze key slot".to_vec();
        ad.extend_from_slice(uuid);
        ad.push(self.kind.code());
        for n in [self.memory_kib, self.passes, self.lanes] {
            ad.extend_from_slice(&n.to_le_bytes());
        }
        ad
    }
}

impl SlotKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Passphrase => 1,
            Self::Raw => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Empty,
            1 => Self::Passphrase,
            2 => Self::Raw,
            _ => return None,
        })
    }
}

/// The keys of one open file.
#[derive(Clone)]
pub(crate) struct FileKeys {
    pub(crate) cipher: Cipher,
    uuid: [u8; 16],
    master: Option<Key>,
}

impl FileKeys {
    pub(crate) fn new(cipher: Cipher, uuid: [u8; 16], master: Option<Key>) -> Self {
        assert_eq!(cipher == Cipher::None, master.is_none(), "a file has a master key exactly when it is encrypted");
        Self { cipher, uuid, master }
    }

    pub(crate) fn master(&self) -> Option<&Key> {
        self.master.as_ref()
    }

    /// Returns the sealer of one generation: its subkey is derived from the log key and the generation, so that
    /// two copies of a file that go their own ways never share a (key, nonce). spec: C-5
    pub(crate) fn log_sealer(&self, generation: &[u8; 12]) -> Box<dyn Seal> {
        match &self.master {
            Some(master) => sealer(self.cipher, &derive(&master[..], &self.uuid, &[b"blaze log", generation])),
            None => sealer(Cipher::None, &Key::default()),
        }
    }

    /// Returns the sealer of one generation of pages. The epoch is in the label as well: it names the master key,
    /// so that pages sealed before and after a change of it can stand side by side. spec: C-5
    pub(crate) fn page_sealer(&self, epoch: u16, generation: &[u8; 12]) -> Box<dyn Seal> {
        match &self.master {
            Some(master) => {
                let info: [&[u8]; 3] = [b"blaze page", &epoch.to_le_bytes(), generation];
                sealer(self.cipher, &derive(&master[..], &self.uuid, &info))
            }
            None => sealer(Cipher::None, &Key::default()),
        }
    }

    pub(crate) fn uuid(&self) -> &[u8; 16] {
        &self.uuid
    }

    /// Authenticates the header's bytes; without encryption a plain digest. spec: C-6
    pub(crate) fn header_mac(&self, bytes: &[u8]) -> [u8; 32] {
        match self.header_hmac(bytes) {
            Some(mac) => mac.finalize().into_bytes().into(),
            None => Sha256::digest(bytes).into(),
        }
    }

    /// Compares in constant time.
    pub(crate) fn header_mac_fits(&self, bytes: &[u8], stored: &[u8]) -> bool {
        match self.header_hmac(bytes) {
            Some(mac) => mac.verify_slice(stored).is_ok(),
            None => Sha256::digest(bytes)[..] == *stored,
        }
    }

    fn header_hmac(&self, bytes: &[u8]) -> Option<Hmac<Sha256>> {
        let key = derive(&self.master.as_ref()?[..], &self.uuid, &[b"blaze header"]);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
        mac.update(bytes);
        Some(mac)
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Key {
    let mut out = Key::default();
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, &mut out[..])
        .expect("32 bytes are within HKDF's output length");
    out
}
