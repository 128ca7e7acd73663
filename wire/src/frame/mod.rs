//! `Frame`: one message on a session.
//!
//! Sixteen bytes of header, then the body; one gRPC message is one frame (spec: F-18). The checksum covers the header
//! too, so that a damaged kind or length is seen. `FrameHeader` can be read without the body; holding a `Frame` is the
//! proof that all of it was checked.

mod codec;
mod header;
mod messages;

pub(crate) use codec::inflate;
pub use codec::{COMPRESS_BYTES_MIN, Codec, compress_frame};
pub use header::{FrameHeader, FrameKind, HEADER_BYTES};
#[cfg(test)]
pub(crate) use header::{HEADER_AT, MAGIC, VERSION};
pub use messages::{ErrorCode, ErrorFrame, Hello, Reads, Welcome};

use crate::batch::{Batch, Columns};
use crate::envelope::Envelope;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::limits::FRAME_BODY_BYTES_MAX;
use crate::reader::Reader;
use crate::writer::{prefixed_len, put_prefixed, put_u64, put_uvarint};
use bytes::Bytes;
use header::{begin, end};

/// The version of the session protocol that this program speaks, said in Hello and Welcome.
pub const PROTOCOL_VERSION: u32 = 1;

/// A message that was checked, or is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A client says where it stands.
    Hello(Hello),
    /// The relay says where it stands.
    Welcome(Welcome),
    /// A client hands in a batch.
    Push(Batch),
    /// The relay tells the author what became of its batch, in stream order.
    Ack(Envelope),
    /// The relay passes a batch on.
    Entry {
        /// What the relay says about it.
        envelope: Envelope,
        /// The batch, verbatim.
        batch: Batch,
    },
    /// Something is wrong.
    Error(ErrorFrame),
    /// Are you there? Carries a number to be returned.
    Ping(u64),
    /// I am; returns the number.
    Pong(u64),
    /// The sender is about to close the connection.
    Bye,
    /// Asks the relay for the digest of a space.
    DigestRequest {
        /// At this sequence number or a later one.
        min_seq: u64,
    },
    /// The digest of a space.
    Digest {
        /// The sequence number at which it was taken.
        seq: u64,
        /// The digest.
        digest: [u8; 32],
        /// The number of live documents.
        documents: u64,
    },
    /// The relay passes many batches on, at least one.
    Entries(Vec<(Envelope, Batch)>),
    /// A client hands in many batches, at least one.
    Pushes(Vec<Batch>),
}

impl Frame {
    /// Returns the kind.
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::Welcome(_) => FrameKind::Welcome,
            Self::Push(_) => FrameKind::Push,
            Self::Ack(_) => FrameKind::Ack,
            Self::Entry { .. } => FrameKind::Entry,
            Self::Error(_) => FrameKind::Error,
            Self::Ping(_) => FrameKind::Ping,
            Self::Pong(_) => FrameKind::Pong,
            Self::Bye => FrameKind::Bye,
            Self::DigestRequest { .. } => FrameKind::DigestRequest,
            Self::Digest { .. } => FrameKind::Digest,
            Self::Entries(_) => FrameKind::Entries,
            Self::Pushes(_) => FrameKind::Pushes,
        }
    }

    /// Appends header and body, not compressed.
    ///
    /// Writes what it is given: a Hello or Welcome above `HELLO_REPLICAS_MAX` replicas is refused by its receiver, and so
    /// are Entries and Pushes that cannot be columns (see [`columns_frame`], which says so).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = begin(out, self.kind(), Codec::None);
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Welcome(welcome) => welcome.encode(out),
            Self::Push(batch) => out.extend_from_slice(batch.bytes()),
            Self::Ack(envelope) => envelope.encode(out),
            Self::Entry { envelope, batch } => {
                put_prefixed(out, &envelope.to_vec());
                out.extend_from_slice(batch.bytes());
            }
            Self::Error(error) => error.encode(out),
            Self::Ping(nonce) | Self::Pong(nonce) => put_u64(out, *nonce),
            Self::Bye => {}
            Self::DigestRequest { min_seq } => put_uvarint(out, *min_seq),
            Self::Digest { seq, digest, documents } => {
                put_uvarint(out, *seq);
                out.extend_from_slice(digest);
                put_uvarint(out, *documents);
            }
            Self::Entries(entries) => out.extend_from_slice(&Columns::encode_entries(entries).unwrap_or_default()),
            Self::Pushes(batches) => out.extend_from_slice(&Columns::encode(batches).unwrap_or_default()),
        }
        end(out, start);
    }

    /// Returns header and body.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        Bytes::from(out)
    }

    /// Checks a frame from outside; it must be all of `bytes`.
    ///
    /// Batches keep borrowing from `bytes`; nothing of them is copied, unless the body is compressed or in columns. Of a
    /// compressed frame the offsets of errors count as if it were not. The checksum is looked at before anything else of
    /// the body.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let header = FrameHeader::check(&bytes)?;
        let bytes = match header.codec {
            Codec::None => bytes,
            codec => inflate(codec, &bytes)?,
        };
        let mut reader = Reader::with_offset(bytes.get(HEADER_BYTES..).unwrap_or_default(), HEADER_BYTES);
        let frame = match header.kind {
            FrameKind::Hello => Self::Hello(Hello::decode(&mut reader)?),
            FrameKind::Welcome => Self::Welcome(Welcome::decode(&mut reader)?),
            FrameKind::Push => {
                reader.rest();
                Self::Push(Batch::decode_at(bytes.slice(HEADER_BYTES..), HEADER_BYTES)?)
            }
            FrameKind::Ack => Self::Ack(Envelope::decode_at(reader.rest(), HEADER_BYTES)?),
            FrameKind::Entry => {
                let envelope = reader.bytes_prefixed(FRAME_BODY_BYTES_MAX, "envelope bytes")?;
                let batch_at = reader.offset();
                let envelope = Envelope::decode_at(envelope, batch_at - envelope.len())?;
                reader.rest();
                let batch = Batch::decode_at(bytes.slice(batch_at..), batch_at)?;
                check_entry(&envelope, &batch)?;
                Self::Entry { envelope, batch }
            }
            FrameKind::Error => Self::Error(ErrorFrame::decode(&mut reader)?),
            FrameKind::Ping => Self::Ping(reader.u64()?),
            FrameKind::Pong => Self::Pong(reader.u64()?),
            FrameKind::Bye => Self::Bye,
            FrameKind::DigestRequest => Self::DigestRequest { min_seq: reader.uvarint()? },
            FrameKind::Digest => {
                Self::Digest { seq: reader.uvarint()?, digest: reader.array()?, documents: reader.uvarint()? }
            }
            FrameKind::Entries => {
                let columns = Columns::decode_at(reader.rest(), HEADER_BYTES)?;
                // spec: F-22
                let kind = DecodeErrorKind::NotCanonical("F-22");
                Self::Entries(columns.into_entries().ok_or(DecodeError::new(HEADER_BYTES + 1, kind))?)
            }
            FrameKind::Pushes => {
                let columns = Columns::decode_at(reader.rest(), HEADER_BYTES)?;
                // spec: F-22
                if !columns.envelopes().is_empty() {
                    let kind = DecodeErrorKind::NotCanonical("F-22");
                    return Err(DecodeError::new(HEADER_BYTES + 1, kind));
                }
                Self::Pushes(columns.into_batches())
            }
        };
        // spec: F-8
        reader.finish()?;
        Ok(frame)
    }
}

/// Checks that an envelope speaks of this batch (spec: F-14, F-15).
pub(crate) fn check_entry(envelope: &Envelope, batch: &Batch) -> Result<(), DecodeError> {
    let refuse = |rule| Err(DecodeError::new(HEADER_BYTES, DecodeErrorKind::NotCanonical(rule)));
    if envelope.first_seq == 0 {
        return refuse("F-14");
    }
    let head = batch.head();
    let same = envelope.replica == head.replica
        && envelope.first_counter == head.first_counter
        && envelope.n as usize == batch.len()
        && batch.transactions().map(|range| range.len()).eq(envelope.verdicts.iter().map(|txn| txn.1 as usize));
    if same { Ok(()) } else { refuse("F-15") }
}

/// Returns an Entry frame made of an encoded envelope and a batch body, both verbatim.
pub fn entry_frame(envelope: &[u8], batch: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + prefixed_len(envelope.len()) + batch.len());
    let start = begin(&mut out, FrameKind::Entry, Codec::None);
    put_prefixed(&mut out, envelope);
    out.extend_from_slice(batch);
    end(&mut out, start);
    Bytes::from(out)
}

/// Returns an Entries or Pushes frame made of a columnar batch that [`Columns`] has written.
pub fn columns_frame(kind: FrameKind, columns: &[u8]) -> Bytes {
    debug_assert!(matches!(kind, FrameKind::Entries | FrameKind::Pushes), "a kind whose body is columns");
    verbatim(kind, columns)
}

/// Returns an Ack frame made of an encoded envelope, verbatim.
pub fn ack_frame(envelope: &[u8]) -> Bytes {
    verbatim(FrameKind::Ack, envelope)
}

/// Returns a Push frame made of a batch body, verbatim.
pub fn push_frame(batch: &[u8]) -> Bytes {
    verbatim(FrameKind::Push, batch)
}

fn verbatim(kind: FrameKind, body: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    let start = begin(&mut out, kind, Codec::None);
    out.extend_from_slice(body);
    end(&mut out, start);
    Bytes::from(out)
}
