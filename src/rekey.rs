//! The keys of an open database, and the change of the one that everything is sealed with.

use blazedb_engine::{CipherChoice, KdfCost, KeySlotInfo, KeySource, MaintainError, RekeyOptions, RekeyProgress};

use crate::database::Database;
use crate::{Error, ErrorKind};

impl Database {
    /// Returns which keys open the file, as far as the file tells: their kinds and costs. None where it is not encrypted.
    pub fn key_slots(&self) -> Vec<KeySlotInfo> {
        self.inner.store.key_slots()
    }

    /// Returns the cipher that the file is sealed with from now on; `None` where it is not encrypted.
    pub fn cipher(&self) -> Option<CipherChoice> {
        self.inner.store.cipher()
    }

    /// Returns the epoch of the master key: it goes up by one with each [`Database::rekey`].
    pub fn key_epoch(&self) -> u16 {
        self.inner.store.key_epoch()
    }

    /// Puts a new passphrase or key in the place of the one that this database was opened with. Nothing is sealed anew, so
    /// it is done at once; whoever kept a copy of the file and the old passphrase can still read that copy, and with the
    /// master key out of it what is written later. Where that matters, see [`Database::rekey`].
    ///
    /// # Errors
    /// [`ErrorKind::State`]: the file is not encrypted, or open for reading only. [`ErrorKind::Storage`]: the disk.
    pub fn change_key(&self, key: &KeySource, cost: KdfCost) -> Result<(), Error> {
        self.inner.store.change_key(key, cost).map_err(not_changed)
    }

    /// Begins to seal everything in the file anew: with a new master key, under the passphrases or keys that `options`
    /// gives, and with another cipher if it says so. What is written from now on is sealed with the new key;
    /// [`Database::rekey_step`] and [`Database::rekey_all`] seal what was written before, while everything else goes on. A
    /// crash at any point loses nothing: the next step after opening goes on with it.
    ///
    /// ```
    /// # use blazedb::{CipherChoice, Database, KdfCost, KeySource, Options, RekeyOptions};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("todo.blaze");
    /// # let cost = KdfCost::InsecureForTests;
    /// let db = Database::open(&path, Options::passphrase("the old words").kdf(cost))?;
    /// let new = KeySource::Passphrase("the new words".into());
    /// let options = RekeyOptions::new(new, cost).cipher(CipherChoice::ChaCha20Poly1305);
    /// db.rekey(&options.lock_out_old_keys(true))?; // else the old words must be among those that are given
    /// db.rekey_all(&mut |now| println!("{} of {} pages", now.done, now.total))?;
    /// db.close()?;
    /// assert!(Database::open(&path, Options::passphrase("the old words")).is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Open`]: none of the given keys opens the file now, and `options` does not say that this is meant.
    /// [`ErrorKind::State`]: the file is not encrypted, open for reading only, or a change is under way, which
    /// [`Database::rekey_all`] ends. [`ErrorKind::Storage`]: the disk.
    pub fn rekey(&self, options: &RekeyOptions) -> Result<(), Error> {
        self.inner.store.rekey(options).map_err(not_changed)
    }

    /// Returns how far a change of the master key is, if one is under way: begun here or before the file was opened.
    pub fn rekey_progress(&self) -> Option<RekeyProgress> {
        self.inner.store.stats().rekey
    }

    /// Goes on with a change of the master key by about this many pages. Does nothing where none is under way.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`]: the disk is full or failed. What was sealed stays sealed; another step goes on.
    /// [`ErrorKind::Corrupt`]: the file is damaged, and the change does not end before that is mended. What was sealed stays
    /// sealed, and all that is not damaged can be read, as both keys are kept.
    pub fn rekey_step(&self, budget_pages: u64) -> Result<RekeyProgress, Error> {
        self.inner.store.rekey_step(budget_pages).map_err(not_ended)
    }

    /// Takes steps until a change of the master key has ended, and tells after each how far it is.
    ///
    /// # Errors
    /// As [`Database::rekey_step`].
    pub fn rekey_all(&self, progress: &mut dyn FnMut(RekeyProgress)) -> Result<(), Error> {
        self.inner.store.rekey_all(progress).map_err(not_ended)
    }
}

fn not_changed(e: MaintainError) -> Error {
    Error::with(kind(&e), "the keys of the file were not changed", e)
}

/// The new key has been in place since the change began; pages before the one that failed are sealed with it.
fn not_ended(e: MaintainError) -> Error {
    Error::with(kind(&e), "the change of the key has not ended; what was sealed anew stays so, and readable", e)
}

fn kind(e: &MaintainError) -> ErrorKind {
    use MaintainError as E;

    match e {
        E::WrongKey | E::KeyProvider { .. } => ErrorKind::Open,
        E::NotEncrypted | E::ReadOnly | E::Closed | E::TooManyKeys | E::LastKey | E::RekeyUnderWay => ErrorKind::State,
        E::Corruption(_) | E::Space { .. } => ErrorKind::Corrupt,
        _ => ErrorKind::Storage,
    }
}
