//! `InboxEntry`: what did not get into a document, kept so that nobody's work vanishes.
//!
//! The inbox is an ordinary tree of each file: key = name of the operation ([`InboxEntry::key`]), value = the entry. It is not
//! replicated; except for [`BoxReason::Refused`], which only the author has, every replica computes the same entries from
//! the log. An entry can be read by itself: collection, document and shapes are inline.
//!
//! ```text
//! key     replica 16 | counter u64 big-endian (so that a scan runs in the order of writing)
//! value   u8 reason | uvarint seq | stamp 12 | document 16 | uvarint len, collection | u8 1 if there is a row, else 0
//!         unset shape | [set shape | row body]
//! ```

use std::fmt;
use std::sync::Arc;

use blazedb_wire::limits::NAME_BYTES_MAX;
use blazedb_wire::varint::put_uvarint;
use blazedb_wire::{DecodeError, DecodeErrorKind, DocumentId, OpId, Reader, ReplicaId, Row, Shape, Stamp};
use bytes::Bytes;

use super::OpContext;
/// Bytes of an inbox key.
const KEY_BYTES: usize = 24;

/// Why something is in the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BoxReason {
    /// An edit or a create reached the relay after somebody had deleted the document.
    Absorbed,
    /// The relay refused the transaction.
    Refused,
    /// An edit of a document that is not there, because its create was refused or never arrived.
    Unknown,
    /// An edit that was written before the document was deleted and created anew.
    EarlierLife,
    /// A document as it was when somebody deleted it without having seen its newest edit.
    DeletedWhileEdited,
    /// With this edit the document would have exceeded a limit.
    TooLarge,
}

/// One entry of the conflict inbox.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxEntry {
    /// The operation that lost, or the delete that killed the image.
    pub id: OpId,
    /// Why it is here.
    pub reason: BoxReason,
    /// Relay sequence of the operation.
    pub seq: u64,
    /// Stamp of the operation.
    pub stamp: Stamp,
    /// Collection of the document.
    pub collection: Arc<str>,
    /// The document.
    pub document: DocumentId,
    /// The fields that were to be set, or the last image of the document; `None` for an operation that only unsets.
    pub row: Option<Row>,
    /// The names that were to be unset.
    pub unset: Shape,
}

/// Why stored bytes are not an inbox entry.
#[derive(Clone, Debug, PartialEq)]
pub struct InboxError(pub DecodeError);

impl fmt::Display for InboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry of the conflict inbox is damaged; verify the file")
    }
}

impl std::error::Error for InboxError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl From<DecodeError> for InboxError {
    fn from(error: DecodeError) -> Self {
        Self(error)
    }
}

impl BoxReason {
    const ALL: [(Self, u8); 6] = [
        (Self::Absorbed, 1),
        (Self::Refused, 2),
        (Self::Unknown, 3),
        (Self::EarlierLife, 4),
        (Self::DeletedWhileEdited, 5),
        (Self::TooLarge, 6),
    ];

    fn code(self) -> u8 {
        match self {
            Self::Absorbed => 1,
            Self::Refused => 2,
            Self::Unknown => 3,
            Self::EarlierLife => 4,
            Self::DeletedWhileEdited => 5,
            Self::TooLarge => 6,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == code).map(|(reason, _)| *reason)
    }
}

impl fmt::Display for BoxReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absorbed => "the document had been deleted before this arrived",
            Self::Refused => "the relay refused the transaction",
            Self::Unknown => "the document does not exist",
            Self::EarlierLife => "the document was deleted and created anew after this was written",
            Self::DeletedWhileEdited => "the document was deleted by somebody who had not seen its newest edit",
            Self::TooLarge => "the document would have become too large",
        })
    }
}

impl InboxEntry {
    /// Returns the entry of an operation that does not get into its document.
    pub fn of_op(op: &OpContext<'_>, reason: BoxReason) -> Self {
        Self {
            id: op.id,
            reason,
            seq: op.seq,
            stamp: op.stamp(),
            collection: op.op.collection.clone(),
            document: op.op.id,
            row: op.op.set.map(|set| set.to_row()),
            unset: op.op.unset.clone(),
        }
    }

    /// Returns the key of the entry in the inbox tree. The same operation has the same key on every replica.
    pub fn key(&self) -> [u8; 24] {
        // spec: M-16
        let mut key = [0; KEY_BYTES];
        key[..16].copy_from_slice(self.id.replica.as_bytes());
        key[16..].copy_from_slice(&self.id.counter.to_be_bytes());
        key
    }

    /// Appends the stored value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.reason.code());
        put_uvarint(out, self.seq);
        self.stamp.encode(out);
        out.extend_from_slice(self.document.as_bytes());
        put_uvarint(out, self.collection.len() as u64);
        out.extend_from_slice(self.collection.as_bytes());
        out.push(u8::from(self.row.is_some()));
        self.unset.encode(out);
        if let Some(row) = &self.row {
            row.shape().encode(out);
            out.extend_from_slice(row.body());
        }
    }

    /// Reads a stored entry; everything in it is verified.
    pub fn decode(key: &[u8], value: &Bytes) -> Result<Self, InboxError> {
        let mut reader = Reader::new(key);
        let replica = ReplicaId::from_bytes(reader.array()?);
        let counter = u64::from_be_bytes(reader.array()?);
        reader.finish()?;
        let mut reader = Reader::new(value);
        let code = reader.u8()?;
        let reason = BoxReason::from_code(code).ok_or_else(|| reader.fail(DecodeErrorKind::BadTag(code)))?;
        let seq = reader.uvarint()?;
        let stamp = Stamp::decode(&mut reader)?;
        let document = DocumentId::from_bytes(reader.array()?);
        let collection = reader.str_prefixed(NAME_BYTES_MAX, "collection name bytes")?.into();
        let has_row = match reader.u8()? {
            0 => false,
            1 => true,
            other => return Err(reader.fail(DecodeErrorKind::BadTag(other)).into()),
        };
        let unset = Shape::decode(&mut reader)?;
        let row = if has_row {
            let shape = Shape::decode(&mut reader)?;
            Some(Row::decode(shape, value.slice(reader.offset()..))?)
        } else {
            reader.finish()?;
            None
        };
        Ok(Self { id: OpId { replica, counter }, reason, seq, stamp, collection, document, row, unset })
    }
}
