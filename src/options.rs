//! `Options`: how to open a database file.

use blazedb_engine::{AutoVacuum, CipherChoice, KdfCost, KeySource, Memory, Secret};

/// How to open a database. There is no default key: say whether the file is encrypted, and with what.
///
/// ```
/// let options = blazedb::Options::passphrase("correct horse battery staple").create(true);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) engine: blazedb_engine::Options,
}

impl Options {
    /// Encrypts with a key derived from a passphrase by Argon2id. Opening takes about 0.1 s and 64 MiB for a moment,
    /// which is what makes guessing dear.
    pub fn passphrase(passphrase: impl Into<Secret>) -> Self {
        Self::with(KeySource::Passphrase(passphrase.into()))
    }

    /// Encrypts with 32 random bytes that the caller keeps, in a key store for example. Opening costs no derivation.
    pub fn raw_key(key: [u8; 32]) -> Self {
        Self { engine: blazedb_engine::Options::raw_key(key) }
    }

    /// Writes plaintext. Whoever can read the file can read the data.
    pub fn unencrypted() -> Self {
        Self::with(KeySource::None)
    }

    fn with(key: KeySource) -> Self {
        Self { engine: blazedb_engine::Options::with_key(key) }
    }

    /// Creates the file if it is not there. Default: true.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.engine.create = create;
        self
    }

    /// Opens for reading only: nothing is written, not even on recovery. Default: false.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.engine.read_only = read_only;
        self
    }

    /// Sets what a guess of the passphrase costs; recorded in the file when it is created. Default: 64 MiB, 3 passes.
    #[must_use]
    pub fn kdf(mut self, cost: KdfCost) -> Self {
        self.engine.kdf = cost;
        self
    }

    /// Sets how much memory the open file may take. Default: `Memory::CLIENT`, at most 10 MB.
    #[must_use]
    pub fn memory(mut self, memory: Memory) -> Self {
        self.engine.memory = memory;
        self
    }

    /// Sets when the file is made shorter without anybody asking: beside commits, and when the database is closed, which
    /// moves up to 16 MiB of it. `None`: never. Default: where 20 % of it, or 10 % as it is closed, and 256 KiB are of no use.
    #[must_use]
    pub fn auto_vacuum(mut self, when: Option<AutoVacuum>) -> Self {
        self.engine.auto_vacuum = when;
        self
    }

    /// Sets the cipher of a file that is created. Default: AES-256-GCM where this CPU has instructions for it, else
    /// ChaCha20-Poly1305.
    #[must_use]
    pub fn cipher(mut self, cipher: CipherChoice) -> Self {
        self.engine.cipher = cipher;
        self
    }
}
