//! What the caller decides when a store is opened: the key, what may be created, ceilings, costs.

use std::fmt;

use zeroize::Zeroizing;

use crate::limits::TABLE_BYTES_MAX_DEFAULT;

/// Bytes that are wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over the bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// Returns the bytes; copies made of them are the caller's to wipe.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where the file's key comes from.
#[derive(Clone)]
pub enum KeySource {
    /// A person's words, stretched with Argon2id. The bytes are used as given: no Unicode normalisation.
    Passphrase(Secret),
    /// 32 bytes of full entropy, from a key store of the system for example. Not stretched.
    Raw(Zeroizing<[u8; 32]>),
    /// The file is not encrypted.
    None,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::Raw(_) => "Raw(..)",
            Self::None => "None",
        })
    }
}

/// How dear it is to try a passphrase: Argon2id's memory and passes, written into the file when its key slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KdfCost {
    /// 64 MiB, 3 passes: the second choice of RFC 9106; about 0.1 to 0.2 s on a desktop.
    Standard,
    /// 19 MiB, 2 passes: OWASP's floor, for a Raspberry Pi or a phone.
    Light,
    /// 8 KiB, 1 pass: no protection at all. For tests that open thousands of files.
    InsecureForTests,
}

impl KdfCost {
    /// Returns (memory in KiB, passes, lanes).
    pub(crate) fn parameters(self) -> (u32, u32, u32) {
        match self {
            Self::Standard => (64 << 10, 3, 1),
            Self::Light => (19 << 10, 2, 1),
            Self::InsecureForTests => (8, 1, 1),
        }
    }
}

/// Which cipher a new file uses; an existing file says it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherChoice {
    /// AES-256-GCM where this CPU has AES instructions, else ChaCha20-Poly1305.
    Auto,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305,
}

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// The key. There is no default: a file is unencrypted only where somebody wrote `KeySource::None`.
    pub key: KeySource,
    /// Create the file when it does not exist. Default true.
    pub create: bool,
    /// Read only: takes no lock, never writes, works beside a writer; sees the commits that were in the file when
    /// it was opened. Default false.
    pub read_only: bool,
    /// Ceiling of the table in bytes: live entries, and old versions that readers hold. Default 256 MiB.
    pub table_bytes_max: usize,
    /// Cost of the passphrase for a file that this open creates. Default `KdfCost::Standard`.
    pub kdf: KdfCost,
    /// Cipher of a file that this open creates. Default `CipherChoice::Auto`.
    pub cipher: CipherChoice,
}

impl Options {
    /// Defaults with the given key.
    pub fn with_key(key: KeySource) -> Self {
        Self {
            key,
            create: true,
            read_only: false,
            table_bytes_max: TABLE_BYTES_MAX_DEFAULT,
            kdf: KdfCost::Standard,
            cipher: CipherChoice::Auto,
        }
    }

    /// Encrypted under a passphrase.
    pub fn passphrase(secret: impl Into<Secret>) -> Self {
        Self::with_key(KeySource::Passphrase(secret.into()))
    }

    /// Encrypted under 32 bytes of full entropy.
    pub fn raw_key(key: [u8; 32]) -> Self {
        Self::with_key(KeySource::Raw(Zeroizing::new(key)))
    }

    /// Not encrypted.
    pub fn unencrypted() -> Self {
        Self::with_key(KeySource::None)
    }

    /// Sets `create`.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Sets `read_only`.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// Sets `table_bytes_max`.
    pub fn table_bytes_max(mut self, bytes: usize) -> Self {
        self.table_bytes_max = bytes;
        self
    }

    /// Sets `kdf`.
    pub fn kdf(mut self, cost: KdfCost) -> Self {
        self.kdf = cost;
        self
    }

    /// Sets `cipher`.
    pub fn cipher(mut self, cipher: CipherChoice) -> Self {
        self.cipher = cipher;
        self
    }
}
