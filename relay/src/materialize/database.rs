//! Copies as databases: the facade's follower, one for each space.
//!
//! Keys of the files are derived from the relay's own (HKDF-SHA256 over the space id), never from a passphrase: a
//! relay may hold thousands. A copy that refuses an entry or does not open is removed and built again once; if that
//! fails as well, the reason is the log's or the disk's and is reported.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use blazedb::{Database, Options, Replica};
use blazedb_engine::Env;
use blazedb_wire::Frame;
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{MaterializeError, Materializer, READ_BYTES_MAX, SpaceEpoch};
use crate::hub::SpaceDigest;
use crate::log::{LogError, RelayLog};
use crate::secrets;

/// Copies that are open at one time. Each takes up to 10 MB of memory (`Memory::CLIENT`).
const OPEN_MAX: usize = 64;

/// A [`Materializer`] whose copies are databases.
pub struct DatabaseCopies {
    place: Place,
    open: BTreeMap<SpaceEpoch, Copy>,
    uses: u64,
}

enum Place {
    Memory,
    Folder { dir: PathBuf, key: Zeroizing<[u8; 32]> },
}

struct Copy {
    database: Database,
    replica: Replica,
    used: u64,
    /// The digest as it was taken last: it costs a walk over all documents, and holds until the copy moves on.
    digest: Option<SpaceDigest>,
}

impl fmt::Debug for DatabaseCopies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseCopies").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl DatabaseCopies {
    /// Keeps the copies in memory.
    pub fn in_memory() -> Self {
        Self { place: Place::Memory, open: BTreeMap::new(), uses: 0 }
    }

    /// Keeps the copies as `<space>.blaze` in this folder, which is made if it is not there.
    pub fn in_folder(dir: &Path, relay_key: &[u8; 32]) -> Result<Self, MaterializeError> {
        secrets::create_folder(dir).map_err(|error| MaterializeError::Folder(io::Error::other(error)))?;
        let place = Place::Folder { dir: dir.to_owned(), key: Zeroizing::new(*relay_key) };
        Ok(Self { place, open: BTreeMap::new(), uses: 0 })
    }

    /// Returns the copy of a space, opened if it is not.
    fn copy(&mut self, space: SpaceEpoch) -> Result<&mut Copy, MaterializeError> {
        self.uses += 1;
        let uses = self.uses;
        if !self.open.contains_key(&space) {
            if self.open.len() >= OPEN_MAX {
                let oldest = self.open.iter().min_by_key(|(_, copy)| copy.used).map(|(space, _)| *space);
                if let Some(copy) = oldest.and_then(|space| self.open.remove(&space)) {
                    copy.close();
                }
            }
            let copy = self.open_copy(space)?;
            self.open.insert(space, copy);
        }
        let copy = self.open.get_mut(&space).expect("it was just put there");
        copy.used = uses;
        Ok(copy)
    }

    fn open_copy(&self, space: SpaceEpoch) -> Result<Copy, MaterializeError> {
        let failed = |doing| move |source| MaterializeError::Database { doing, source };
        let (env, options) = match &self.place {
            // The seed only feeds ids, and a copy makes none.
            Place::Memory => (Env::memory(0), Options::unencrypted()),
            Place::Folder { dir, key } => {
                let mut raw = Zeroizing::new([0; 32]);
                Hkdf::<Sha256>::new(Some(b"blazedb relay copy"), &key[..])
                    .expand(space.space.as_bytes(), &mut raw[..])
                    .expect("32 bytes are within what HKDF-SHA256 gives");
                (Env::file(file(dir, space)), Options::raw_key(*raw))
            }
        };
        let database = Database::open_in(env, options).map_err(failed("opening"))?;
        database.follow(space.space, space.epoch).map_err(failed("binding it to its space"))?;
        let replica = database.replica();
        Ok(Copy { database, replica, used: 0, digest: None })
    }

    fn try_follow(&mut self, space: SpaceEpoch, log: &dyn RelayLog, seq: u64) -> Result<(), MaterializeError> {
        let copy = self.copy(space)?;
        while copy.replica.cursor() < seq {
            let cursor = copy.replica.cursor();
            let entries = log.read(space.space, cursor, READ_BYTES_MAX).map_err(MaterializeError::Log)?;
            for entry in entries {
                let Ok(Frame::Entry { envelope, batch }) = Frame::decode(entry.frame) else {
                    let detail = format!("the entry at {} is no entry", entry.first_seq);
                    return Err(MaterializeError::Log(LogError::Damaged { table: "entries", detail }));
                };
                let doing = "applying an entry";
                copy.replica
                    .apply_entry(&envelope, &batch)
                    .map_err(|source| MaterializeError::Database { doing, source })?;
            }
            if copy.replica.cursor() == cursor {
                return Err(MaterializeError::Behind { seq: cursor, wanted: seq });
            }
        }
        Ok(())
    }

    /// Throws a copy away.
    fn remove(&mut self, space: SpaceEpoch) -> Result<(), MaterializeError> {
        if let Some(copy) = self.open.remove(&space) {
            copy.close();
        }
        let Place::Folder { dir, .. } = &self.place else { return Ok(()) };
        let path = file(dir, space);
        let logs = blazedb::log_file_names(&path.to_string_lossy()).map(PathBuf::from);
        for path in [path].into_iter().chain(logs) {
            if let Err(error) = fs::remove_file(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(MaterializeError::Folder(error));
            }
        }
        Ok(())
    }
}

impl Materializer for DatabaseCopies {
    fn follow(&mut self, space: SpaceEpoch, log: &dyn RelayLog, seq: u64) -> Result<(), MaterializeError> {
        match self.try_follow(space, log, seq) {
            Err(error @ MaterializeError::Database { .. }) => {
                tracing::warn!(space = %space.space, error = &error as &dyn std::error::Error, "a copy is built again");
                self.remove(space)?;
                self.try_follow(space, log, seq)
            }
            result => result,
        }
    }

    fn digest(&mut self, space: SpaceEpoch) -> Result<SpaceDigest, MaterializeError> {
        let copy = self.copy(space)?;
        let failed = |source| MaterializeError::Database { doing: "taking a digest", source };
        if let Some(known) = copy.digest.filter(|known| known.seq == copy.replica.cursor()) {
            return Ok(known);
        }
        let (seq, digest, documents) = copy.database.digest_at_cursor().map_err(failed)?;
        let taken = SpaceDigest { seq, digest, documents };
        copy.digest = Some(taken);
        Ok(taken)
    }

    fn close(&mut self) {
        for (_, copy) in std::mem::take(&mut self.open) {
            copy.close();
        }
    }
}

impl Copy {
    fn close(self) {
        drop(self.replica);
        // A copy that does not close cleanly is caught up or built again; nothing of it is missed.
        if let Err(error) = self.database.close() {
            tracing::debug!(error = &error as &dyn std::error::Error, "a copy did not close");
        }
    }
}

/// Of another epoch is another file: what the old one holds is of no use to the new one.
fn file(dir: &Path, space: SpaceEpoch) -> PathBuf {
    dir.join(format!("{}-{}.blaze", space.space, space.epoch))
}

#[cfg(test)]
mod tests {
    use blazedb_wire::{
        Batch, BatchBuilder, BatchHead, Bitmap, DocumentId, Envelope, Hlc, MergeKind, Op, OpKind, ReplicaId, Row,
        Shape, SpaceId, Verdict, entry_frame,
    };
    use bytes::Bytes;

    use super::*;
    use crate::log::{Append, AppendError, PayloadDigest, SpaceInfo, StoredEntry};

    const SPACE: SpaceEpoch = SpaceEpoch { space: SpaceId::from_bytes([1; 16]), epoch: 1 };

    /// A log whose entry `n` makes document `n`.
    struct Documents;

    fn entry(n: u64) -> StoredEntry {
        let replica = ReplicaId::from_bytes([2; 16]);
        let (space, epoch) = (SPACE.space, SPACE.epoch);
        let head = BatchHead { space, replica, first_counter: n, epoch, deps: Vec::new(), attrs: Bytes::new() };
        let mut builder = BatchBuilder::new(head);
        let op = Op {
            kind: OpKind::Create,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc::from_parts(1_700_000_000_000 + n, 0),
            cursor: 0,
            collection: "things".into(),
            id: DocumentId::from_bytes([u8::try_from(n).unwrap(); 16]),
            attrs: Bytes::new(),
            set: Some(Row::encode(&blazedb::Document::new()).unwrap()),
            unset: Shape::empty(),
        };
        assert!(builder.try_push(&op).unwrap());
        let batch = Batch::decode(builder.finish().unwrap()).unwrap();
        let envelope = Envelope {
            epoch,
            first_seq: n,
            relay_ms: 1_700_000_000_000 + n,
            replica,
            first_counter: n,
            n: 1,
            verdicts: vec![(Verdict::Applied, 1)],
            absorbed: Bitmap::new(1),
            repeated: Bitmap::new(1),
        };
        StoredEntry { first_seq: n, last_seq: n, frame: entry_frame(&envelope.to_vec(), batch.bytes()) }
    }

    impl RelayLog for Documents {
        fn open_space(&self, _: &str) -> Result<SpaceInfo, LogError> {
            unreachable!("nothing is opened here")
        }

        fn append(&self, _: &[Append]) -> Vec<Result<(), AppendError>> {
            unreachable!("nothing is appended here")
        }

        fn read(&self, _: SpaceId, after_seq: u64, _: usize) -> Result<Vec<StoredEntry>, LogError> {
            Ok(vec![entry(after_seq + 1)])
        }

        fn digests(&self, _: SpaceId, _: ReplicaId, _: u64, _: u64, _: usize) -> Result<Vec<PayloadDigest>, LogError> {
            unreachable!("nothing is looked up here")
        }
    }

    // spec: R-22
    #[test]
    fn a_digest_is_taken_once_and_again_when_its_copy_has_moved_on() {
        let mut copies = DatabaseCopies::in_memory();
        let at = |copies: &mut DatabaseCopies, seq| {
            copies.follow(SPACE, &Documents, seq).unwrap();
            copies.digest(SPACE).unwrap()
        };
        let first = at(&mut copies, 1);
        assert_eq!((first.seq, first.documents), (1, 1));
        // What nobody could have taken: who gets it got it from here.
        let planted = SpaceDigest { digest: [9; 32], ..first };
        copies.open.get_mut(&SPACE).unwrap().digest = Some(planted);
        assert_eq!(at(&mut copies, 1), planted, "documents were not looked at again");
        let second = at(&mut copies, 2);
        assert_eq!((second.seq, second.documents), (2, 2));
        assert!(![first.digest, planted.digest].contains(&second.digest));
    }
}
