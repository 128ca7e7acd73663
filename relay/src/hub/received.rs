//! A message that was decoded before the hub hears of it: validating one may take longer than deciding a thousand.

use blazedb_wire::{Batch, DecodeError, Frame, FrameHeader, FrameKind, HEADER_BYTES};
use bytes::Bytes;

/// One message of a client and what it says, if it can be read.
#[derive(Debug)]
pub struct Received {
    /// What its header says it is; nothing if not even that can be read.
    pub(super) kind: Option<FrameKind>,
    /// What it counts in its stream's window, which clients count as well: batches as if they had come one by one (spec: F-23).
    pub(super) length: usize,
    /// The memory that it takes, about.
    pub(super) memory: usize,
    pub(super) frame: Result<Frame, DecodeError>,
}

impl Received {
    /// Decodes a message: pure, and as slow as the message makes it ([`is_slow`]).
    pub fn decode(bytes: Bytes) -> Self {
        let kind = header_of(&bytes).map(|header| header.kind);
        let length = bytes.len();
        let frame = Frame::decode(bytes);
        let batches = match &frame {
            Ok(Frame::Push(batch)) => std::slice::from_ref(batch),
            Ok(Frame::Pushes(batches)) => batches,
            _ => return Self { kind, length, memory: length, frame },
        };
        let (length, memory) = (batches.iter().map(length_of).sum(), batches.iter().map(memory_of).sum());
        Self { kind, length, memory, frame }
    }

    /// Returns the memory that it takes, about.
    pub fn memory_bytes(&self) -> usize {
        self.memory
    }
}

/// Says whether a message may take its time to decode, or more memory than its bytes: it is long, compressed or in columns.
pub fn is_slow(bytes: &[u8], long_bytes: usize) -> bool {
    let unfolds = |header: FrameHeader| {
        header.codec != blazedb_wire::Codec::None || matches!(header.kind, FrameKind::Pushes | FrameKind::Entries)
    };
    bytes.len() > long_bytes || header_of(bytes).is_some_and(unfolds)
}

fn header_of(bytes: &[u8]) -> Option<FrameHeader> {
    bytes.first_chunk().and_then(|header| FrameHeader::decode(header).ok())
}

/// What a batch counts in its stream's window.
pub(super) fn length_of(batch: &Batch) -> usize {
    HEADER_BYTES + batch.bytes().len()
}

/// The memory that a batch takes.
pub(super) fn memory_of(batch: &Batch) -> usize {
    HEADER_BYTES + batch.memory_bytes()
}
