//! A second, careless writer: it writes batches, envelopes and frames part by part as told, right or wrong.
//!
//! Defaults are right, so that each refused vector changes one thing.

use blazedb_wire::writer::{put_prefixed, put_uvarint};

pub(super) fn uvarint(n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_uvarint(&mut out, n);
    out
}

pub(super) fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_prefixed(&mut out, bytes);
    out
}

/// An operation, part by part.
#[derive(Clone)]
pub(super) struct RawOp {
    pub(super) flags: u8,
    pub(super) merge: u8,
    pub(super) hlc: Vec<u8>,
    pub(super) cursor: Vec<u8>,
    pub(super) collection: Vec<u8>,
    /// Attributes, shape indices, row body.
    pub(super) rest: Vec<u8>,
}

impl Default for RawOp {
    /// A create of {"a": true} in the first collection.
    fn default() -> Self {
        Self { flags: 0, merge: 0, hlc: vec![0], cursor: vec![0], collection: vec![0], rest: vec![0, 1, 2] }
    }
}

impl RawOp {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self { flags, merge, hlc, cursor, collection, rest } = self;
        [&[*flags, *merge][..], hlc, cursor, collection, &[0x33; 16], rest].concat()
    }
}

/// A batch, part by part.
#[derive(Clone)]
pub(super) struct RawBatch {
    pub(super) kind: u8,
    pub(super) first_counter: Vec<u8>,
    pub(super) base_hlc: u64,
    pub(super) epoch: Vec<u8>,
    pub(super) base_cursor: Vec<u8>,
    /// Count and dependencies.
    pub(super) deps: Vec<u8>,
    pub(super) attrs: Vec<u8>,
    /// Count and names.
    pub(super) collections: Vec<u8>,
    /// Count and shapes.
    pub(super) shapes: Vec<u8>,
    pub(super) count: Option<Vec<u8>>,
    pub(super) ops: Vec<Vec<u8>>,
    pub(super) after: Vec<u8>,
}

impl Default for RawBatch {
    fn default() -> Self {
        Self {
            kind: 0,
            first_counter: vec![1],
            base_hlc: 5 << 16,
            epoch: vec![1],
            base_cursor: vec![9],
            deps: vec![0],
            attrs: vec![0],
            collections: b"\x01\x01c".to_vec(),
            shapes: b"\x01\x01\x01a".to_vec(),
            count: None,
            ops: vec![RawOp::default().bytes()],
            after: vec![],
        }
    }
}

impl RawBatch {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.kind];
        out.extend([0x11; 16]);
        out.extend([0x22; 16]);
        out.extend(&self.first_counter);
        out.extend(self.base_hlc.to_le_bytes());
        for part in [&self.epoch, &self.base_cursor, &self.deps, &self.attrs, &self.collections, &self.shapes] {
            out.extend(part);
        }
        out.extend(self.count.clone().unwrap_or_else(|| uvarint(self.ops.len() as u64)));
        for op in &self.ops {
            out.extend(prefixed(op));
        }
        out.extend(&self.after);
        out
    }

    /// Where the collections start, and where the length of the first operation lies.
    pub(super) fn offsets(&self) -> (usize, usize) {
        let parts = [&self.first_counter, &self.epoch, &self.base_cursor, &self.deps, &self.attrs];
        let collections = 33 + 8 + parts.iter().map(|part| part.len()).sum::<usize>();
        (collections, collections + self.collections.len() + self.shapes.len() + 1)
    }
}

/// An envelope over `RawBatch::default`, part by part, its checksum always right.
#[derive(Clone)]
pub(super) struct RawEnvelope {
    pub(super) epoch: Vec<u8>,
    pub(super) first_seq: Vec<u8>,
    pub(super) first_counter: Vec<u8>,
    pub(super) n: Vec<u8>,
    /// Count and verdicts.
    pub(super) verdicts: Vec<u8>,
    pub(super) bitmaps: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl Default for RawEnvelope {
    fn default() -> Self {
        Self {
            epoch: vec![1],
            first_seq: vec![10],
            first_counter: vec![1],
            n: vec![1],
            verdicts: vec![1, 0, 1],
            bitmaps: vec![0, 0],
            after: vec![],
        }
    }
}

impl RawEnvelope {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = [&self.epoch[..], &self.first_seq, &7u64.to_le_bytes(), &[0x22; 16]].concat();
        for part in [&self.first_counter, &self.n, &self.verdicts, &self.bitmaps, &self.after] {
            out.extend(part);
        }
        let crc = crc32fast::hash(&out);
        out.extend(crc.to_le_bytes());
        out
    }
}

/// A frame with any header and a right checksum.
pub(super) fn frame_with(header: [u8; 8], body: &[u8]) -> Vec<u8> {
    let mut out = header.to_vec();
    out.extend((body.len() as u32).to_le_bytes());
    let crc = crc32fast::hash(&[&out[..], body].concat());
    out.extend(crc.to_le_bytes());
    out.extend(body);
    out
}

/// A frame of this kind.
pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    frame_with([b'B', b'Z', 0, kind, 0, 0, 0, 0], body)
}
