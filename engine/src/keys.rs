//! Keys at rest: passphrase, raw key or provider -> key encryption key -> master key -> one key per purpose.
//!
//! A master key is random and never leaves memory but wrapped in a key slot. Everything else is derived from
//! it with HKDF-SHA-256 under the file's id and a label, so that no key serves two purposes. Keys are wiped when
//! dropped. Byte tables and rules: spec/crypto.md.
//!
//! Each master key has an epoch, a number that pages and groups carry. While a change of master key goes on, a file
//! has two: `FileKeys` knows them all, and which of them seals. Read `FileKeys`, then `KeySlot`.

use std::error::Error;
use std::io;
use std::sync::Arc;

use hkdf::Hkdf;
use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::env::Entropy;
use crate::limits::{KDF_LANES_MAX, KDF_MEMORY_KIB_MAX, KDF_PASSES_MAX};
use crate::options::{KdfCost, KeyRequest, KeySource};
use crate::seal::{Cipher, Seal, sealer};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU16, Ordering};

pub(crate) type Key = Zeroizing<[u8; 32]>;

/// What the header's authentication is derived under.
const HEADER_LABEL: &[u8] = b"blaze header";
/// What the authentication of a backup's header is derived under.
const BACKUP_HEADER_LABEL: &[u8] = b"blaze backup header";

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
    Provider,
}

/// Why a slot did not give the master key.
#[derive(Debug)]
pub(crate) enum UnwrapError {
    /// The slot asks for more than a reader grants.
    Costs { what: &'static str, given: u64 },
    /// The tag does not fit: another key, or damage that the header's checksum did not see.
    WrongKey,
    /// The caller's key provider failed, with its own error.
    Provider(Box<dyn Error + Send + Sync>),
}

/// Why a slot was not made.
#[derive(Debug)]
pub(crate) enum WrapError {
    /// There were no random bytes.
    Io(io::Error),
    Provider(Box<dyn Error + Send + Sync>),
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
    ) -> Result<Self, WrapError> {
        let kind = SlotKind::of(source);
        if kind == SlotKind::Empty {
            return Ok(Self::default());
        }
        let (memory_kib, passes, lanes) = if kind == SlotKind::Passphrase { cost.parameters() } else { (0, 0, 0) };
        let mut slot = Self { kind, memory_kib, passes, lanes, ..Self::default() };
        // A fresh salt per wrap: the wrapping key is used once, which is what lets its nonce be zero.
        entropy.public(&mut slot.salt).map_err(WrapError::Io)?;
        let kek = match slot.key_encryption_key(source, uuid) {
            Ok(kek) => kek,
            Err(UnwrapError::Provider(error)) => return Err(WrapError::Provider(error)),
            Err(_) => unreachable!("costs we chose ourselves are in range"),
        };
        let mut wrapped = Zeroizing::new(**master);
        slot.tag = sealer(cipher, &kek).seal(&[0; 12], &slot.associated_data(uuid), &mut wrapped[..]);
        slot.wrapped = *wrapped;
        Ok(slot)
    }

    /// Unwraps the master key. spec: C-3
    pub(crate) fn unwrap(&self, source: &KeySource, cipher: Cipher, uuid: &[u8; 16]) -> Result<Key, UnwrapError> {
        let kek = self.key_encryption_key(source, uuid)?;
        let mut master = Zeroizing::new(self.wrapped);
        sealer(cipher, &kek)
            .open(&[0; 12], &self.associated_data(uuid), &mut master[..], &self.tag)
            .map_err(|_| UnwrapError::WrongKey)?;
        Ok(master)
    }

    /// Returns whether this slot is for this kind of source.
    pub(crate) fn fits(&self, source: &KeySource) -> bool {
        self.kind != SlotKind::Empty && self.kind == SlotKind::of(source)
    }

    fn key_encryption_key(&self, source: &KeySource, uuid: &[u8; 16]) -> Result<Key, UnwrapError> {
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
            KeySource::Provider(provider) => {
                provider.key(&KeyRequest { file: uuid, salt: &self.salt }).map_err(UnwrapError::Provider)?
            }
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
    fn of(source: &KeySource) -> Self {
        match source {
            KeySource::Passphrase(_) => Self::Passphrase,
            KeySource::Raw(_) => Self::Raw,
            KeySource::Provider(_) => Self::Provider,
            KeySource::None => Self::Empty,
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Empty => 0,
            Self::Passphrase => 1,
            Self::Raw => 2,
            Self::Provider => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Empty,
            1 => Self::Passphrase,
            2 => Self::Raw,
            3 => Self::Provider,
            _ => return None,
        })
    }
}

/// The master key of the epoch before, as the header keeps it while pages of that epoch are left. spec: C-10
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PreviousKey {
    pub(crate) epoch: u16,
    pub(crate) cipher: Cipher,
    pub(crate) wrapped: [u8; 32],
    pub(crate) tag: [u8; 16],
}

impl PreviousKey {
    /// Wraps a master key under the one that comes after it.
    pub(crate) fn wrap(previous: &EpochKey, newest: &EpochKey, uuid: &[u8; 16]) -> Self {
        let (Some(master), Some(_)) = (&previous.master, &newest.master) else {
            panic!("files without encryption have no keys to change");
        };
        let mut this = Self { epoch: previous.epoch, cipher: previous.cipher, wrapped: **master, tag: [0; 16] };
        // Each new master key wraps one key, ever: that is what lets the nonce be zero.
        let ad = this.associated_data(newest, uuid);
        this.tag = this.sealer(newest, uuid).seal(&[0; 12], &ad, &mut this.wrapped);
        this
    }

    /// Unwraps it; `None`: it was not wrapped under this key.
    pub(crate) fn unwrap(&self, newest: &EpochKey, uuid: &[u8; 16]) -> Option<EpochKey> {
        newest.master.as_ref()?;
        let mut master = Zeroizing::new(self.wrapped);
        let ad = self.associated_data(newest, uuid);
        self.sealer(newest, uuid).open(&[0; 12], &ad, &mut master[..], &self.tag).ok()?;
        Some(EpochKey { epoch: self.epoch, cipher: self.cipher, master: Some(master) })
    }

    fn sealer(&self, newest: &EpochKey, uuid: &[u8; 16]) -> Box<dyn Seal> {
        newest.sealer(uuid, &[b"blaze previous key"])
    }

    fn associated_data(&self, newest: &EpochKey, uuid: &[u8; 16]) -> Vec<u8> {
        let mut ad = b"blaze previous key".to_vec();
        ad.extend_from_slice(uuid);
        for (epoch, cipher) in [(newest.epoch, newest.cipher), (self.epoch, self.cipher)] {
            ad.extend_from_slice(&epoch.to_le_bytes());
            ad.push(cipher.code());
        }
        ad
    }
}

/// One master key, and the cipher that goes with it.
pub(crate) struct EpochKey {
    pub(crate) epoch: u16,
    pub(crate) cipher: Cipher,
    /// `None` exactly where the file is not encrypted.
    master: Option<Key>,
}

impl EpochKey {
    pub(crate) fn new(epoch: u16, cipher: Cipher, master: Option<Key>) -> Self {
        assert_eq!(cipher == Cipher::None, master.is_none(), "a file has a master key exactly when it is encrypted");
        Self { epoch, cipher, master }
    }

    /// Returns the key of the next epoch: random. The numbers come round after 65536; pages of two epochs at most
    /// stand side by side.
    pub(crate) fn draw(epoch: u16, cipher: Cipher, entropy: &dyn Entropy) -> io::Result<Self> {
        let mut master = Key::default();
        entropy.secret(&mut master[..])?;
        Ok(Self::new(epoch, cipher, Some(master)))
    }

    pub(crate) fn master(&self) -> Option<&Key> {
        self.master.as_ref()
    }

    /// Returns the sealer of one part of one backup. No two backups have one id, so no two share a key. spec: BK-4
    pub(crate) fn backup_sealer(&self, uuid: &[u8; 16], backup: &[u8; 16], part: u64) -> Box<dyn Seal> {
        self.sealer(uuid, &[b"blaze backup", &self.epoch.to_le_bytes(), backup, &part.to_le_bytes()])
    }

    /// Authenticates a backup's header; without encryption a plain digest. spec: BK-3
    pub(crate) fn backup_mac(&self, uuid: &[u8; 16], bytes: &[u8]) -> [u8; 32] {
        match self.header_hmac(uuid, BACKUP_HEADER_LABEL, bytes) {
            Some(mac) => mac.finalize().into_bytes().into(),
            None => Sha256::digest(bytes).into(),
        }
    }

    /// Compares in constant time.
    pub(crate) fn backup_mac_fits(&self, uuid: &[u8; 16], bytes: &[u8], stored: &[u8]) -> bool {
        match self.header_hmac(uuid, BACKUP_HEADER_LABEL, bytes) {
            Some(mac) => mac.verify_slice(stored).is_ok(),
            None => Sha256::digest(bytes)[..] == *stored,
        }
    }

    fn sealer(&self, uuid: &[u8; 16], info: &[&[u8]]) -> Box<dyn Seal> {
        match &self.master {
            Some(master) => sealer(self.cipher, &derive(&master[..], uuid, info)),
            None => sealer(Cipher::None, &Key::default()),
        }
    }

    fn header_hmac(&self, uuid: &[u8; 16], label: &[u8], bytes: &[u8]) -> Option<Hmac<Sha256>> {
        let key = derive(&self.master.as_ref()?[..], uuid, &[label]);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key[..]).expect("HMAC takes keys of any length");
        mac.update(bytes);
        Some(mac)
    }
}

/// The keys of one open file, shared by all who seal and open: one epoch's, or those of several while a change goes on
/// or views live that are older than its end. Which of them seals is one number, looked at before every seal.
#[derive(Clone)]
pub(crate) struct FileKeys(Arc<Ring>);

struct Ring {
    uuid: [u8; 16],
    is_encrypted: bool,
    sealing: AtomicU16,
    epochs: RwLock<Vec<Arc<EpochKey>>>,
}

impl FileKeys {
    /// Begins with one key, which seals.
    pub(crate) fn new(uuid: [u8; 16], key: EpochKey) -> Self {
        Self(Arc::new(Ring {
            uuid,
            is_encrypted: key.master.is_some(),
            sealing: AtomicU16::new(key.epoch),
            epochs: RwLock::new(vec![Arc::new(key)]),
        }))
    }

    pub(crate) fn uuid(&self) -> &[u8; 16] {
        &self.0.uuid
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.0.is_encrypted
    }

    /// Returns the key of an epoch, if the file has it.
    pub(crate) fn of(&self, epoch: u16) -> Option<Arc<EpochKey>> {
        self.0.epochs.read().iter().find(|key| key.epoch == epoch).map(Arc::clone)
    }

    /// Returns the epoch whose key seals.
    pub(crate) fn sealing_epoch(&self) -> u16 {
        self.0.sealing.load(Ordering::Acquire)
    }

    /// Takes in a key, for opening; one of the same epoch stays as it is.
    pub(crate) fn add(&self, key: EpochKey) {
        let mut epochs = self.0.epochs.write();
        if epochs.iter().all(|known| known.epoch != key.epoch) {
            epochs.push(Arc::new(key));
        }
    }

    /// From now on this epoch's key seals; both header slots announce it.
    pub(crate) fn seal_with(&self, epoch: u16) {
        assert!(self.of(epoch).is_some(), "a key is added before it seals");
        self.0.sealing.store(epoch, Ordering::Release);
    }

    /// Takes the key that seals in hand: as long as the caller keeps it, no change of the master key goes past it.
    pub(crate) fn take_in_hand(&self) -> Arc<EpochKey> {
        loop {
            let epoch = self.sealing_epoch();
            let key = self.of(epoch).expect("the key that seals is known");
            // Whoever changed it in between may have looked into our hand before we had it.
            if self.sealing_epoch() == epoch {
                return key;
            }
        }
    }

    /// Returns whether somebody else has this epoch's key in hand: whoever seals pages keeps it for as long as their
    /// content may still become part of the store.
    pub(crate) fn is_in_hand(&self, epoch: u16) -> bool {
        // For writing, so that a key is taken in hand before this, or after what came before this is seen.
        self.0.epochs.write().iter().any(|key| key.epoch == epoch && Arc::strong_count(key) > 1)
    }

    /// Lets a key go that nothing needs any more. It is wiped.
    pub(crate) fn forget(&self, epoch: u16) {
        assert_ne!(epoch, self.sealing_epoch(), "the key that seals is needed");
        self.0.epochs.write().retain(|key| key.epoch != epoch);
    }

    /// Returns the sealer of one generation: its subkey is derived from the log key and the generation, so that
    /// two copies of a file that go their own ways never share a (key, nonce). `None`: the epoch is unknown. spec: C-5
    pub(crate) fn log_sealer(&self, epoch: u16, generation: &[u8; 12]) -> Option<Box<dyn Seal>> {
        let info: [&[u8]; 3] = [b"blaze log", &epoch.to_le_bytes(), generation];
        self.of(epoch).map(|key| key.sealer(self.uuid(), &info))
    }

    /// Returns the sealer of one generation of pages. spec: C-5
    pub(crate) fn page_sealer(&self, key: &EpochKey, generation: &[u8; 12]) -> Box<dyn Seal> {
        key.sealer(self.uuid(), &[b"blaze page", &key.epoch.to_le_bytes(), generation])
    }

    /// Authenticates the bytes of a header of this epoch; without encryption a plain digest. spec: C-6
    pub(crate) fn header_mac(&self, epoch: u16, bytes: &[u8]) -> [u8; 32] {
        let key = self.of(epoch).expect("whoever writes a header has its key");
        match key.header_hmac(self.uuid(), HEADER_LABEL, bytes) {
            Some(mac) => mac.finalize().into_bytes().into(),
            None => Sha256::digest(bytes).into(),
        }
    }

    /// Compares in constant time. False, too, where the header's epoch is unknown.
    pub(crate) fn header_mac_fits(&self, epoch: u16, bytes: &[u8], stored: &[u8]) -> bool {
        let Some(key) = self.of(epoch) else { return false };
        match key.header_hmac(self.uuid(), HEADER_LABEL, bytes) {
            Some(mac) => mac.verify_slice(stored).is_ok(),
            None => Sha256::digest(bytes)[..] == *stored,
        }
    }
}

fn derive(secret: &[u8], salt: &[u8], info: &[&[u8]]) -> Key {
    let mut out = Key::default();
    Hkdf::<Sha256>::new(Some(salt), secret)
        .expand_multi_info(info, &mut out[..])
        .expect("32 bytes are within HKDF's output length");
    out
}
