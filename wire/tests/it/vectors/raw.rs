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

/// A columnar batch, part by part.
#[derive(Clone)]
pub(super) struct RawColumns {
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// Counts and entries of the tables.
    pub(super) replicas: Vec<u8>,
    pub(super) collections: Vec<u8>,
    pub(super) names: Vec<u8>,
    pub(super) shapes: Vec<u8>,
    pub(super) forms: Vec<u8>,
    pub(super) count: Vec<u8>,
    /// Streams with their lengths: of the batches, of the envelopes, of the operations.
    pub(super) heads: [Vec<u8>; 9],
    pub(super) over: Vec<Vec<u8>>,
    pub(super) ops: [Vec<u8>; 7],
    pub(super) documents: [Vec<u8>; 2],
    pub(super) columns: Vec<Vec<u8>>,
    pub(super) after: Vec<u8>,
}

impl Default for RawColumns {
    /// A batch that creates {"a": true}.
    fn default() -> Self {
        let none = || vec![0];
        Self {
            kind: 1,
            flags: 0,
            replicas: [&[1][..], &[0x22; 16]].concat(),
            collections: b"\x01\x01c".to_vec(),
            names: b"\x01\x01a".to_vec(),
            shapes: vec![1, 1, 0],
            forms: vec![1, 0, 0, 0, 0],
            count: vec![1],
            heads: [list(&[1]), none(), none(), list(&[2]), none(), none(), none(), none(), none()],
            over: vec![],
            ops: [none(), none(), list(&[10]), none(), list(&[18]), none(), none()],
            documents: [none(), prefixed(&[0x33; 16])],
            columns: vec![vec![4]],
            after: vec![],
        }
    }
}

/// A stream that is one list.
pub(super) fn list(numbers: &[u64]) -> Vec<u8> {
    let mut out = uvarint(2 * numbers.len() as u64);
    numbers.iter().for_each(|&number| put_uvarint(&mut out, number));
    prefixed(&out)
}

impl RawColumns {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.kind, self.flags];
        out.extend([0x11; 16]);
        for part in [&self.replicas, &self.collections, &self.names, &self.shapes, &self.forms, &self.count] {
            out.extend(part);
        }
        for streams in [&self.heads[..], &self.over, &self.ops, &self.documents, &self.columns] {
            streams.iter().for_each(|stream| out.extend(stream));
        }
        out.extend(&self.after);
        out
    }

    /// The default with columns and a form of that many fields: the values of the first are given.
    pub(super) fn of(values: &[u8]) -> Self {
        Self { columns: vec![values.to_vec()], ..Self::default() }
    }

    /// Several operations, all of the default form, each on a document of its own.
    pub(super) fn several(count: u64, values: &[u8]) -> Self {
        let planes: Vec<u8> = (0..16).flat_map(|_| 1..=count as u8).collect();
        Self {
            heads: [list(&[count]), vec![0], vec![0], list(&[2]), vec![0], vec![0], vec![0], vec![0], vec![0]],
            ops: [vec![0], vec![0], steps(10, count), vec![0], steps(18, count), vec![0], vec![0]],
            documents: [vec![0], prefixed(&planes)],
            ..Self::of(values)
        }
    }
}

/// A first difference and then none.
fn steps(first: u64, count: u64) -> Vec<u8> {
    let mut out = vec![2];
    put_uvarint(&mut out, first);
    match count - 1 {
        0 => {}
        rest @ 1..4 => {
            out[0] = 2 + 2 * rest as u8;
            out.extend(vec![0; rest as usize]);
        }
        rest => {
            put_uvarint(&mut out, rest << 1 | 1);
            out.push(0);
        }
    }
    prefixed(&out)
}
