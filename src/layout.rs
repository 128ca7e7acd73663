//! Where things lie in the store: the names of the trees, their keys, and the small records of the `meta` tree.
//!
//! | Tree | Key | Value |
//! |---|---|---|
//! | `meta` | a name below | see there |
//! | `shapes` | number, u32 BE | shape |
//! | `replicas` | incarnation, u32 BE | [`Incarnation`] |
//! | `r:NAME` | document id | the document's state as shown: `blazedb_sync::DocState` |
//! | `b:NAME` | document id | [`Base`]: the state as sequenced, and the names of own operations on top |
//! | `pending` | incarnation, counter (BE) | an operation not yet sealed |
//! | `outbox` | incarnation, first counter (BE) | a sealed batch, verbatim |
//! | `inbox` | operation name | what a merge set aside: `blazedb_sync::InboxEntry` |
//!
//! Incarnations number the replica ids of one file, one for each open that wrote something.

use blazedb_engine::ReadView;
use blazedb_wire::varint::put_uvarint;
use blazedb_wire::{DecodeError, DocumentId, Hlc, OpId, Reader, ReplicaId, SpaceId};
use bytes::Bytes;

use crate::Error;

pub(crate) const META: &str = "meta";
pub(crate) const SHAPES: &str = "shapes";
pub(crate) const REPLICAS: &str = "replicas";
pub(crate) const PENDING: &str = "pending";
pub(crate) const OUTBOX: &str = "outbox";
pub(crate) const INBOX: &str = "inbox";
const RECORDS_PREFIX: &str = "r:";
const BASES_PREFIX: &str = "b:";

/// Longest name of a collection in bytes; the same limit as on the wire.
pub(crate) const COLLECTION_NAME_BYTES_MAX: usize = 255;

/// Longest name of a local setting in bytes.
pub(crate) const LOCAL_NAME_BYTES_MAX: usize = 255;

/// Longest value of a local setting in bytes: a mark or a preference, not a document.
pub(crate) const LOCAL_VALUE_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn records_tree(collection: &str) -> String {
    format!("{RECORDS_PREFIX}{collection}")
}

pub(crate) fn bases_tree(collection: &str) -> String {
    format!("{BASES_PREFIX}{collection}")
}

/// Returns whether the tree holds base rows.
pub(crate) fn is_bases_tree(tree: &str) -> bool {
    tree.starts_with(BASES_PREFIX)
}

/// Returns the collection whose records the tree holds, if it holds records.
pub(crate) fn collection_of(tree: &str) -> Option<&str> {
    tree.strip_prefix(RECORDS_PREFIX)
}

/// Returns the collection whose base rows the tree holds.
pub(crate) fn bases_of(tree: &str) -> Option<&str> {
    tree.strip_prefix(BASES_PREFIX)
}

/// Keys of the `meta` tree.
pub(crate) mod meta {
    /// [`super::Binding`].
    pub(crate) const BINDING: &[u8] = b"binding";
    /// Last relay sequence applied, of entries that are applied whole, uvarint.
    pub(crate) const CURSOR: &[u8] = b"cursor";
    /// How far the entry behind the cursor is applied: [`super::part`].
    pub(crate) const PART: &[u8] = b"part";
    /// [`super::Progress`].
    pub(crate) const PROGRESS: &[u8] = b"progress";
    /// Operations merged that did not know of an edit by another replica, uvarint.
    pub(crate) const CONFLICTS: &[u8] = b"conflicts";
    const LOCAL_PREFIX: &str = "local/";

    /// Key of an application's own setting, which stays in this file.
    pub(crate) fn local(name: &str) -> Vec<u8> {
        [LOCAL_PREFIX, name].concat().into_bytes()
    }
}

/// The space that a file belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) space: SpaceId,
    pub(crate) epoch: u32,
    /// A follower takes no local writes: the relay's materialised copy.
    pub(crate) follower: bool,
}

impl Binding {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = vec![u8::from(self.follower)];
        out.extend_from_slice(self.space.as_bytes());
        put_uvarint(&mut out, u64::from(self.epoch));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let follower = match r.u8()? {
            0 => false,
            1 => true,
            other => return Err(r.fail(blazedb_wire::DecodeErrorKind::BadTag(other))),
        };
        let space = SpaceId::from_bytes(r.array::<16>()?);
        let epoch = r.uvarint_max(u64::from(u32::MAX), "epoch")? as u32;
        r.finish()?;
        Ok(Self { space, epoch, follower })
    }
}

/// What the clock and the counter have reached; written by every commit that stamps something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Newest stamp issued or observed.
    pub(crate) clock: Hlc,
    /// Incarnation that wrote last; numbers are never used again.
    pub(crate) incarnation: u32,
    /// Last counter given out by that incarnation.
    pub(crate) counter: u64,
    /// Newest stamp sealed.
    pub(crate) sealed: Hlc,
    /// Newest stamp of the relay's log.
    pub(crate) seen: Hlc,
}

impl Progress {
    pub(crate) fn encode(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.extend_from_slice(&self.clock.0.to_le_bytes());
        out.extend_from_slice(&self.sealed.0.to_le_bytes());
        out.extend_from_slice(&self.seen.0.to_le_bytes());
        put_uvarint(&mut out, u64::from(self.incarnation));
        put_uvarint(&mut out, self.counter);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let clock = Hlc(r.u64()?);
        let sealed = Hlc(r.u64()?);
        let seen = Hlc(r.u64()?);
        let incarnation = r.uvarint_max(u64::from(u32::MAX), "incarnation")? as u32;
        let counter = r.uvarint()?;
        r.finish()?;
        Ok(Self { clock, incarnation, counter, sealed, seen })
    }

    pub(crate) fn from_stored(bytes: Option<&[u8]>) -> Result<Self, Error> {
        match bytes {
            None => Ok(Self::default()),
            Some(b) => Self::decode(b).map_err(|e| Error::corrupt("the file's clock", e)),
        }
    }
}

/// One replica id of this file, born with the first write of one open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incarnation {
    pub(crate) replica: ReplicaId,
    /// Secret half of the key pair whose public half gave the replica id; signs batches in a later format.
    pub(crate) secret: [u8; 32],
    /// Highest counter whose operation came back from the relay.
    pub(crate) acked: u64,
    /// Operations of earlier incarnations that were not acknowledged when this one was born: it builds on them.
    pub(crate) deps: Vec<OpId>,
}

impl Incarnation {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.deps.len() * 24);
        out.extend_from_slice(self.replica.as_bytes());
        out.extend_from_slice(&self.secret);
        put_uvarint(&mut out, self.acked);
        put_uvarint(&mut out, self.deps.len() as u64);
        for dep in &self.deps {
            out.extend_from_slice(dep.replica.as_bytes());
            put_uvarint(&mut out, dep.counter);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let replica = ReplicaId::from_bytes(r.array::<16>()?);
        let secret = r.array::<32>()?;
        let acked = r.uvarint()?;
        let count = r.uvarint_max(bytes.len() as u64 / 17, "deps")? as usize;
        let mut deps = Vec::with_capacity(count);
        for _ in 0..count {
            let replica = ReplicaId::from_bytes(r.array::<16>()?);
            deps.push(OpId { replica, counter: r.uvarint()? });
        }
        r.finish()?;
        Ok(Self { replica, secret, acked, deps })
    }
}

/// A document's state by the sequenced log alone, beside the own operations that are not sequenced yet.
/// Exists only while there are such operations (joints P3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Stored document state; `None` if the log knows nothing of the document.
    pub(crate) state: Option<Bytes>,
    /// Own operations on top, in the order of their writing.
    pub(crate) ops: Vec<LocalName>,
}

/// Name of an own operation inside this file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LocalName {
    pub(crate) incarnation: u32,
    pub(crate) counter: u64,
}

impl LocalName {
    pub(crate) fn key(self) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&self.incarnation.to_be_bytes());
        key[4..].copy_from_slice(&self.counter.to_be_bytes());
        key
    }

    pub(crate) fn from_key(key: &[u8]) -> Result<Self, Error> {
        let key: [u8; 12] =
            key.try_into().map_err(|_| Error::new(crate::ErrorKind::Corrupt, "an outbox key has the wrong length"))?;
        let (incarnation, counter) = key.split_at(4);
        Ok(Self {
            incarnation: u32::from_be_bytes(incarnation.try_into().expect("four of twelve bytes")),
            counter: u64::from_be_bytes(counter.try_into().expect("eight of twelve bytes")),
        })
    }
}

impl Base {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let state = self.state.as_deref().unwrap_or_default();
        let mut out = Vec::with_capacity(state.len() + 8 + self.ops.len() * 6);
        put_uvarint(&mut out, self.ops.len() as u64);
        for op in &self.ops {
            put_uvarint(&mut out, u64::from(op.incarnation));
            put_uvarint(&mut out, op.counter);
        }
        out.push(u8::from(self.state.is_some()));
        out.extend_from_slice(state);
        out
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let count = r.uvarint_max(bytes.len() as u64 / 2, "own operations")? as usize;
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            let incarnation = r.uvarint_max(u64::from(u32::MAX), "incarnation")? as u32;
            ops.push(LocalName { incarnation, counter: r.uvarint()? });
        }
        let state = match r.u8()? {
            0 => {
                r.finish()?;
                None
            }
            1 => Some(bytes.slice(bytes.len() - r.left()..)),
            other => return Err(r.fail(blazedb_wire::DecodeErrorKind::BadTag(other))),
        };
        Ok(Self { state, ops })
    }
}

pub(crate) fn document_id(key: &[u8]) -> Result<DocumentId, Error> {
    <[u8; 16]>::try_from(key)
        .map(DocumentId::from_bytes)
        .map_err(|_| Error::new(crate::ErrorKind::Corrupt, "a document id has the wrong length"))
}

pub(crate) fn uvarint(value: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    put_uvarint(&mut out, value);
    out
}

pub(crate) fn read_uvarint(bytes: Option<&[u8]>) -> Result<u64, Error> {
    let Some(bytes) = bytes else { return Ok(0) };
    let mut r = Reader::new(bytes);
    r.uvarint().and_then(|n| r.finish().map(|()| n)).map_err(|e| Error::corrupt("a counter of the file", e))
}

/// Encodes how far an entry is applied: the cursor that the entry follows, and the sequence of the last operation applied.
pub(crate) fn part(cursor: u64, applied: u64) -> Vec<u8> {
    let mut out = uvarint(cursor);
    put_uvarint(&mut out, applied);
    out
}

/// Returns the cursor, and the sequence of the last operation that is applied: it lies behind the cursor while an entry
/// is applied in parts.
pub(crate) fn read_cursor(read: impl Fn(&[u8]) -> Result<Option<Bytes>, Error>) -> Result<(u64, u64), Error> {
    let cursor = read_uvarint(read(meta::CURSOR)?.as_deref())?;
    let Some(bytes) = read(meta::PART)? else { return Ok((cursor, cursor)) };
    let mut r = Reader::new(&bytes);
    let (of, applied) = (|| {
        let pair = (r.uvarint()?, r.uvarint()?);
        r.finish().map(|()| pair)
    })()
    .map_err(|e| Error::corrupt("how far the file has applied an entry of the log", e))?;
    // Where the two do not belong together one of them was lost: what is applied twice changes nothing.
    Ok((cursor, if of == cursor { applied.max(cursor) } else { cursor }))
}

/// Reads one key of the `meta` tree as of a snapshot.
pub(crate) fn read_meta(view: &ReadView, key: &[u8]) -> Result<Option<Bytes>, Error> {
    match view.tree(META)? {
        Some(tree) => Ok(view.get(tree, key)?),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec: D-9
    #[test]
    fn a_part_counts_beside_its_own_cursor_only() {
        let read = |cursor: u64, bytes: Option<Vec<u8>>| {
            read_cursor(
                |key| Ok(if key == meta::PART { bytes.clone() } else { Some(uvarint(cursor)) }.map(Bytes::from)),
            )
        };
        assert_eq!(read(5, None).unwrap(), (5, 5));
        assert_eq!(read(5, Some(part(5, 300))).unwrap(), (5, 300));
        assert_eq!(read(4, Some(part(5, 300))).unwrap(), (4, 4), "the cursor was lost");
        assert_eq!(read(300, Some(part(5, 300))).unwrap(), (300, 300));
        assert!(read(5, Some(vec![5])).is_err());
    }

    #[test]
    fn small_records_survive_a_round_trip() {
        let binding = Binding { space: SpaceId::from_bytes([7; 16]), epoch: 300, follower: true };
        assert_eq!(Binding::decode(&binding.encode()).unwrap(), binding);
        let progress = Progress { clock: Hlc(5), incarnation: 9, counter: 1 << 40, sealed: Hlc(4), seen: Hlc(3) };
        assert_eq!(Progress::decode(&progress.encode()).unwrap(), progress);
        let replica = ReplicaId::from_bytes([3; 16]);
        let incarnation =
            Incarnation { replica, secret: [8; 32], acked: 1, deps: vec![OpId { replica, counter: 200 }] };
        assert_eq!(Incarnation::decode(&incarnation.encode()).unwrap(), incarnation);
        for state in [None, Some(Bytes::from_static(b"state"))] {
            let base = Base { state, ops: vec![LocalName { incarnation: 1, counter: 500 }] };
            assert_eq!(Base::decode(&Bytes::from(base.encode())).unwrap(), base);
        }
        let name = LocalName { incarnation: 258, counter: 7 };
        assert_eq!(LocalName::from_key(&name.key()).unwrap(), name);
        assert!(LocalName::from_key(&name.key()[1..]).is_err());
    }

    #[test]
    fn keys_of_own_operations_sort_by_age() {
        let old = LocalName { incarnation: 1, counter: u64::MAX };
        let new = LocalName { incarnation: 2, counter: 1 };
        assert!(old.key() < new.key());
    }
}
