//! The payload of a group: effects, not operations. Replaying it needs no code but this. spec: E-11, E-12
//!
//! A commit is `uvarint label | uvarint n | n effects`, effects in strictly ascending order of (tree, key). An
//! effect is a delete, a put with a literal value, or a put in pieces, where a piece may be a span: a stretch of
//! this commit's own earlier bytes. So a row that stands in a record and in an operation is logged once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::memtable::Record;

const PUT: u8 = 0;
const DELETE: u8 = 1;
const PUT_PIECES: u8 = 2;

/// Pieces shorter than this are always literal: a span costs about as much, and hashing them more.
const SPAN_BYTES_MIN: usize = 48;

/// Writes one commit into a group's payload.
pub(crate) struct CommitEncoder<'p> {
    out: &'p mut Vec<u8>,
    start: usize,
    /// Where long pieces of this commit were written, by hash; collisions are settled by comparing.
    seen: HashMap<u64, (usize, usize), BuildHasherDefault<DefaultHasher>>,
}

impl<'p> CommitEncoder<'p> {
    pub(crate) fn new(out: &'p mut Vec<u8>, label: u32, effects: usize) -> Self {
        let start = out.len();
        put_uvarint(out, u64::from(label));
        put_uvarint(out, effects as u64);
        Self { out, start, seen: HashMap::default() }
    }

    /// `ends` cut the value into the pieces that the caller gave; empty for a value given whole.
    pub(crate) fn put(&mut self, tree: u32, record: &Record, ends: &[u32]) {
        let value = record.value();
        if ends.len() <= 1 && !self.is_span(value) {
            self.key(PUT, tree, record.key());
            put_uvarint(self.out, value.len() as u64);
            self.literal(value);
            return;
        }
        self.key(PUT_PIECES, tree, record.key());
        let whole = [value.len() as u32];
        let ends = if ends.is_empty() { &whole[..] } else { ends };
        put_uvarint(self.out, ends.len() as u64);
        let mut from = 0;
        for &end in ends {
            let piece = &value[from..end as usize];
            from = end as usize;
            match self.find(piece) {
                Some(at) => {
                    put_uvarint(self.out, (piece.len() as u64) << 1 | 1);
                    put_uvarint(self.out, (at - self.start) as u64);
                }
                None => {
                    put_uvarint(self.out, (piece.len() as u64) << 1);
                    self.literal(piece);
                }
            }
        }
    }

    pub(crate) fn delete(&mut self, tree: u32, key: &[u8]) {
        self.key(DELETE, tree, key);
    }

    fn key(&mut self, kind: u8, tree: u32, key: &[u8]) {
        self.out.push(kind);
        put_uvarint(self.out, u64::from(tree));
        put_uvarint(self.out, key.len() as u64);
        self.out.extend_from_slice(key);
    }

    fn literal(&mut self, piece: &[u8]) {
        if piece.len() >= SPAN_BYTES_MIN {
            self.seen.entry(hash(piece)).or_insert((self.out.len(), piece.len()));
        }
        self.out.extend_from_slice(piece);
    }

    fn is_span(&self, piece: &[u8]) -> bool {
        self.find(piece).is_some()
    }

    fn find(&self, piece: &[u8]) -> Option<usize> {
        if piece.len() < SPAN_BYTES_MIN || self.seen.is_empty() {
            return None;
        }
        let &(at, len) = self.seen.get(&hash(piece))?;
        (self.out[at..at + len] == *piece).then_some(at)
    }
}

fn hash(piece: &[u8]) -> u64 {
    // Only finds candidates; `find` compares the bytes.
    u64::from(crc32fast::hash(piece)) << 32 | piece.len() as u64
}

/// Takes what a payload says.
pub(crate) trait Effects {
    fn begin_commit(&mut self, commit_no: u64, label: u32);
    fn put(&mut self, tree: u32, record: Record);
    fn delete(&mut self, tree: u32, key: &[u8]);
}

/// Reads a payload of `count` commits; the error is the rule that the bytes break. The payload has passed its
/// seal, so an error is a defect of the writer or, without encryption, somebody's forgery.
pub(crate) fn decode(payload: &[u8], first_commit: u64, count: u32, out: &mut dyn Effects) -> Result<(), &'static str> {
    let mut input = Input { bytes: payload, at: 0 };
    for i in 0..count {
        decode_commit(&mut input, first_commit + u64::from(i), out)?;
    }
    if input.at == payload.len() { Ok(()) } else { Err("no bytes after the last commit") }
}

fn decode_commit(input: &mut Input<'_>, commit_no: u64, out: &mut dyn Effects) -> Result<(), &'static str> {
    let start = input.at;
    let label = u32::try_from(input.uvarint()?).map_err(|_| "a label is 32 bits")?;
    let effects = input.uvarint()?;
    out.begin_commit(commit_no, label);
    let mut last: Option<(u32, &[u8])> = None;
    for _ in 0..effects {
        let kind = input.bytes(1)?[0];
        let tree = input.uvarint_max(crate::limits::TREES_MAX as u64, "a tree number is below the limit")? as u32;
        let key_len = input.uvarint_max(crate::limits::KEY_BYTES_MAX as u64, "a key is below the limit")?;
        let key = input.bytes(key_len)?;
        if last.is_some_and(|l| l >= (tree, key)) {
            return Err("effects ascend by tree and key");
        }
        last = Some((tree, key));
        match kind {
            PUT => {
                let len = input.uvarint_max(crate::limits::VALUE_BYTES_MAX as u64, "a value is below the limit")?;
                out.put(tree, Record::new(key, input.bytes(len)?));
            }
            DELETE => out.delete(tree, key),
            PUT_PIECES => out.put(tree, decode_pieces(input, start, key)?),
            _ => return Err("an effect is 0, 1 or 2"),
        }
    }
    Ok(())
}

fn decode_pieces(input: &mut Input<'_>, commit_start: usize, key: &[u8]) -> Result<Record, &'static str> {
    let n = input.uvarint()?;
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut total = 0_usize;
    for _ in 0..n {
        let head = input.uvarint_max(2 * crate::limits::VALUE_BYTES_MAX as u64 + 1, "a piece is below the limit")?;
        let len = head >> 1;
        total += len;
        if total > crate::limits::VALUE_BYTES_MAX {
            return Err("a value is below the limit");
        }
        if head & 1 == 0 {
            pieces.push(input.bytes(len)?);
            continue;
        }
        let before = input.at - commit_start;
        let at = input.uvarint_max(before as u64, "a span lies before itself")?;
        if at + len > before {
            return Err("a span lies before itself");
        }
        pieces.push(&input.bytes[commit_start + at..][..len]);
    }
    Ok(Record::from_parts(key, &pieces))
}

struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let got = self.bytes[self.at..].get(..n).ok_or("nothing runs past the payload's end")?;
        self.at += n;
        Ok(got)
    }

    fn uvarint(&mut self) -> Result<u64, &'static str> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err("a number is 64 bits");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err("a number is as short as can be") } else { Ok(value) };
            }
        }
        Err("a number is 64 bits")
    }

    fn uvarint_max(&mut self, max: u64, rule: &'static str) -> Result<usize, &'static str> {
        let value = self.uvarint()?;
        if value <= max { Ok(value as usize) } else { Err(rule) }
    }
}

fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    type SeenEffect = (u64, u32, u32, Vec<u8>, Option<Vec<u8>>);

    #[derive(Default)]
    struct Seen(Vec<SeenEffect>, (u64, u32));

    impl Effects for Seen {
        fn begin_commit(&mut self, commit_no: u64, label: u32) {
            self.1 = (commit_no, label);
        }
        fn put(&mut self, tree: u32, record: Record) {
            self.0.push((self.1.0, self.1.1, tree, record.key().to_vec(), Some(record.value().to_vec())));
        }
        fn delete(&mut self, tree: u32, key: &[u8]) {
            self.0.push((self.1.0, self.1.1, tree, key.to_vec(), None));
        }
    }

    fn two_commits() -> Vec<u8> {
        let row = [7_u8; 200];
        let mut out = Vec::new();
        let mut c = CommitEncoder::new(&mut out, 9, 4);
        c.put(1, &Record::from_parts(b"record", &[b"meta", &row]), &[4, 204]);
        c.put(1, &Record::new(b"same again", &row), &[]);
        c.delete(2, b"gone");
        c.put(3, &Record::from_parts(b"op", &[b"header", &row, b"!"]), &[6, 206, 207]);
        let mut c = CommitEncoder::new(&mut out, 0, 1);
        c.put(0, &Record::new(b"", b""), &[]);
        out
    }

    /// spec: E-11
    #[test]
    fn effects_come_back_and_a_row_is_logged_once() {
        let bytes = two_commits();
        assert!(bytes.len() < 280, "the 200 byte row stands there once, got {}", bytes.len());
        let mut seen = Seen::default();
        decode(&bytes, 41, 2, &mut seen).expect("what was written");
        let row = vec![7_u8; 200];
        let want = vec![
            (41, 9, 1, b"record".to_vec(), Some([b"meta", &row[..]].concat())),
            (41, 9, 1, b"same again".to_vec(), Some(row.clone())),
            (41, 9, 2, b"gone".to_vec(), None),
            (41, 9, 3, b"op".to_vec(), Some([b"header", &row[..], b"!"].concat())),
            (42, 0, 0, vec![], Some(vec![])),
        ];
        assert_eq!(seen.0, want);
    }

    /// spec: E-12
    #[test]
    fn hostile_payloads_are_refused_without_panic() {
        let bytes = two_commits();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], 1, 2, &mut Seen::default()).is_err(), "cut at {cut}");
        }
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[i] ^= 1 << bit;
                let _ = decode(&b, 1, 2, &mut Seen::default());
            }
        }
        let check = |bytes: &[u8], rule: &str| {
            assert_eq!(decode(bytes, 1, 1, &mut Seen::default()), Err(rule), "{bytes:?}");
        };
        check(&[0, 0, 0], "no bytes after the last commit");
        check(&[0x80, 0, 0], "a number is as short as can be");
        check(&[0, 2, DELETE, 1, 1, b'b', DELETE, 1, 1, b'a'], "effects ascend by tree and key");
        check(&[0, 2, DELETE, 1, 1, b'a', DELETE, 1, 1, b'a'], "effects ascend by tree and key");
        check(&[0, 1, 3, 1, 0], "an effect is 0, 1 or 2");
        check(&[0, 1, PUT_PIECES, 1, 0, 1, 201, 1, 1], "a span lies before itself");
        check(&[0, 1, PUT, 1, 0, 5, 1], "nothing runs past the payload's end");
    }
}
