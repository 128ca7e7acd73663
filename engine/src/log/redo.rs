//! The payload of a group: effects, not operations. Replaying it needs no code but this. spec: E-11, E-12
//!
//! A commit is `uvarint label | uvarint n | n effects`, effects in strictly ascending order of (tree, key). An
//! effect is a delete, a put with a literal value, a put of a value that lies in pages already, or a put in pieces,
//! where a piece may be a span: a stretch of this commit's own earlier bytes. So a row that stands in a record and in
//! an operation is logged once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::btree::{HEIGHT_MAX, ValueRef};
use crate::limits::{COMMIT_BYTES_MAX, KEY_BYTES_MAX, STORED_VALUE_BYTES_MAX, TREES_MAX, VALUE_BYTES_MAX};
use crate::pager::PageRef;

const PUT: u8 = 0;
const DELETE: u8 = 1;
const PUT_PIECES: u8 = 2;
const PUT_STORED: u8 = 3;

/// Pieces shorter than this are always literal: a span costs about as much, and hashing them more.
pub(crate) const SPAN_BYTES_MIN: usize = 48;

/// Writes one commit into a group's payload.
pub(crate) struct CommitEncoder<'p> {
    out: &'p mut Vec<u8>,
    start: usize,
    /// Where long literals of this commit were written, by hash; collisions are settled by comparing. `None` where no
    /// value is in pieces: most commits are like that, and pay nothing.
    seen: Option<HashMap<u64, (usize, usize), BuildHasherDefault<DefaultHasher>>>,
}

impl<'p> CommitEncoder<'p> {
    /// `has_pieces`: whether a value will come in pieces. Without any, bytes that come twice are written twice.
    pub(crate) fn new(out: &'p mut Vec<u8>, label: u32, effects: usize, has_pieces: bool) -> Self {
        let start = out.len();
        put_uvarint(out, u64::from(label));
        put_uvarint(out, effects as u64);
        Self { out, start, seen: has_pieces.then(HashMap::default) }
    }

    /// `ends` cut the value into the pieces that the caller gave; empty for a value given whole.
    pub(crate) fn put(&mut self, tree: u32, key: &[u8], value: &[u8], ends: &[u32]) {
        if ends.len() <= 1 && self.find(value).is_none() {
            self.key(PUT, tree, key);
            put_uvarint(self.out, value.len() as u64);
            self.literal(value);
            return;
        }
        self.key(PUT_PIECES, tree, key);
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

    /// A value whose pages are written already; they must be durable before the group is.
    pub(crate) fn put_stored(&mut self, tree: u32, key: &[u8], at: &ValueRef) {
        self.key(PUT_STORED, tree, key);
        put_uvarint(self.out, at.len);
        self.out.push(at.height);
        put_uvarint(self.out, at.page.no);
        self.out.extend_from_slice(&at.page.proof.to_le_bytes());
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
        if let Some(seen) = &mut self.seen
            && piece.len() >= SPAN_BYTES_MIN
        {
            seen.entry(hash(piece)).or_insert((self.out.len(), piece.len()));
        }
        self.out.extend_from_slice(piece);
    }

    fn find(&self, piece: &[u8]) -> Option<usize> {
        let seen = self.seen.as_ref().filter(|seen| piece.len() >= SPAN_BYTES_MIN && !seen.is_empty())?;
        let &(at, len) = seen.get(&hash(piece))?;
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
    fn put(&mut self, tree: u32, key: &[u8], value: &[u8]);
    fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef);
    fn delete(&mut self, tree: u32, key: &[u8]);

    /// Nothing more comes of this commit.
    fn end_commit(&mut self) {}
}

/// Reads a payload of `count` commits; the error is the rule that the bytes break. The payload has passed its
/// seal, so an error is a defect of the writer or, without encryption, somebody's forgery.
pub(crate) fn decode(payload: &[u8], first_commit: u64, count: u32, out: &mut dyn Effects) -> Result<(), &'static str> {
    let mut input = Input { bytes: payload, at: 0 };
    let mut value = Vec::new();
    for i in 0..count {
        decode_commit(&mut input, first_commit + u64::from(i), &mut value, out)?;
    }
    if input.at == payload.len() { Ok(()) } else { Err("no bytes after the last commit") }
}

fn decode_commit(
    input: &mut Input<'_>,
    commit_no: u64,
    value: &mut Vec<u8>,
    out: &mut dyn Effects,
) -> Result<(), &'static str> {
    let start = input.at;
    let label = u32::try_from(input.uvarint()?).map_err(|_| "a label is 32 bits")?;
    let effects = input.uvarint()?;
    out.begin_commit(commit_no, label);
    let mut last: Option<(u32, &[u8])> = None;
    let mut room = COMMIT_BYTES_MAX;
    let mut take = |bytes: usize| {
        room = room.checked_sub(bytes).ok_or("a commit is below the limit")?;
        Ok::<(), &'static str>(())
    };
    for _ in 0..effects {
        let kind = input.bytes(1)?[0];
        let tree = input.uvarint_max(TREES_MAX as u64, "a tree number is below the limit")? as u32;
        let key_len = input.uvarint_max(KEY_BYTES_MAX as u64, "a key is below the limit")?;
        let key = input.bytes(key_len)?;
        if last.is_some_and(|l| l >= (tree, key)) {
            return Err("effects ascend by tree and key");
        }
        last = Some((tree, key));
        take(key_len)?;
        match kind {
            PUT => {
                let value = input.value()?;
                take(value.len())?;
                out.put(tree, key, value);
            }
            DELETE => out.delete(tree, key),
            PUT_PIECES => {
                decode_pieces(input, start, value)?;
                take(value.len())?;
                out.put(tree, key, value);
            }
            PUT_STORED => out.put_stored(tree, key, input.stored()?),
            _ => return Err("an effect is 0 to 3"),
        }
    }
    out.end_commit();
    Ok(())
}

/// Puts the pieces together in `value`, whose length is bounded however many pieces there are.
fn decode_pieces(input: &mut Input<'_>, commit_start: usize, value: &mut Vec<u8>) -> Result<(), &'static str> {
    value.clear();
    for _ in 0..input.uvarint()? {
        let head = input.uvarint_max(2 * VALUE_BYTES_MAX as u64 + 1, "a piece is below the limit")?;
        let len = head >> 1;
        if value.len() + len > VALUE_BYTES_MAX {
            return Err("a value is below the limit");
        }
        if head & 1 == 0 {
            value.extend_from_slice(input.bytes(len)?);
            continue;
        }
        let before = input.at - commit_start;
        let at = input.uvarint_max(before as u64, "a span lies before itself")?;
        if at + len > before {
            return Err("a span lies before itself");
        }
        value.extend_from_slice(&input.bytes[commit_start + at..][..len]);
    }
    Ok(())
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

    fn value(&mut self) -> Result<&'a [u8], &'static str> {
        let len = self.uvarint_max(VALUE_BYTES_MAX as u64, "a value is below the limit")?;
        self.bytes(len)
    }

    fn stored(&mut self) -> Result<ValueRef, &'static str> {
        let len = self.uvarint()?;
        if len == 0 || len > STORED_VALUE_BYTES_MAX {
            return Err("a stored value is within the limits");
        }
        let height = self.bytes(1)?[0];
        if height == 0 || height > HEIGHT_MAX {
            return Err("a stored value's tree is within the limits");
        }
        let no = self.uvarint()?;
        let proof = self.bytes(8)?.try_into().expect("8 bytes");
        Ok(ValueRef { len, height, page: PageRef { no, proof: u64::from_le_bytes(proof) } })
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

    type ShownEffect = (u64, u32, u32, Vec<u8>, Option<Vec<u8>>);

    #[derive(Default)]
    struct Shown(Vec<ShownEffect>, (u64, u32));

    impl Effects for Shown {
        fn begin_commit(&mut self, commit_no: u64, label: u32) {
            self.1 = (commit_no, label);
        }
        fn put(&mut self, tree: u32, key: &[u8], value: &[u8]) {
            self.0.push((self.1.0, self.1.1, tree, key.to_vec(), Some(value.to_vec())));
        }
        fn put_stored(&mut self, tree: u32, key: &[u8], at: ValueRef) {
            self.put(tree, key, format!("{at:?}").as_bytes());
        }
        fn delete(&mut self, tree: u32, key: &[u8]) {
            self.0.push((self.1.0, self.1.1, tree, key.to_vec(), None));
        }
    }

    const LONG: ValueRef = ValueRef { len: 1 << 30, height: 3, page: PageRef { no: 1 << 40, proof: 0x0123_4567 } };

    fn two_commits() -> Vec<u8> {
        let row = [7_u8; 200];
        let mut out = Vec::new();
        let mut c = CommitEncoder::new(&mut out, 9, 6, true);
        c.put(1, b"plain", &[8; 60], &[]);
        c.put(1, b"record", &[b"meta", &row[..]].concat(), &[4, 204]);
        c.put(1, b"same again", &row, &[]);
        c.delete(2, b"gone");
        c.put_stored(2, b"long", &LONG);
        c.put(3, b"op", &[b"header", &row[..], &[8; 60]].concat(), &[6, 206, 266]);
        let mut c = CommitEncoder::new(&mut out, 0, 1, false);
        c.put(0, b"", b"", &[]);
        out
    }

    /// spec: E-11
    #[test]
    fn effects_come_back_and_a_row_is_logged_once() {
        let bytes = two_commits();
        assert!(bytes.len() < 380, "the 200 byte row stands there once, got {}", bytes.len());
        let mut seen = Shown::default();
        decode(&bytes, 41, 2, &mut seen).expect("what was written");
        let row = vec![7_u8; 200];
        let want = vec![
            (41, 9, 1, b"plain".to_vec(), Some(vec![8; 60])),
            (41, 9, 1, b"record".to_vec(), Some([b"meta", &row[..]].concat())),
            (41, 9, 1, b"same again".to_vec(), Some(row.clone())),
            (41, 9, 2, b"gone".to_vec(), None),
            (41, 9, 2, b"long".to_vec(), Some(format!("{LONG:?}").into_bytes())),
            (41, 9, 3, b"op".to_vec(), Some([b"header", &row[..], &[8; 60]].concat())),
            (42, 0, 0, vec![], Some(vec![])),
        ];
        assert_eq!(seen.0, want);
    }

    /// spec: E-12
    #[test]
    fn hostile_payloads_are_refused_without_panic() {
        let bytes = two_commits();
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut], 1, 2, &mut Shown::default()).is_err(), "cut at {cut}");
        }
        for i in 0..bytes.len() {
            for bit in 0..8 {
                let mut b = bytes.clone();
                b[i] ^= 1 << bit;
                let _ = decode(&b, 1, 2, &mut Shown::default());
            }
        }
        let check = |bytes: &[u8], rule: &str| {
            assert_eq!(decode(bytes, 1, 1, &mut Shown::default()), Err(rule), "{bytes:?}");
        };
        check(&[0, 0, 0], "no bytes after the last commit");
        check(&[0x80, 0, 0], "a number is as short as can be");
        check(&[0, 2, DELETE, 1, 1, b'b', DELETE, 1, 1, b'a'], "effects ascend by tree and key");
        check(&[0, 2, DELETE, 1, 1, b'a', DELETE, 1, 1, b'a'], "effects ascend by tree and key");
        check(&[0, 1, 4, 1, 0], "an effect is 0 to 3");
        check(&[0, 1, PUT_STORED, 1, 0, 0], "a stored value is within the limits");
        check(&[0, 1, PUT_STORED, 1, 0, 1, 0], "a stored value's tree is within the limits");
        check(&[0, 1, PUT_STORED, 1, 0, 1, 1, 9, 1, 2, 3], "nothing runs past the payload's end");
        check(&[0, 1, PUT_PIECES, 1, 0, 1, 201, 1, 1], "a span lies before itself");
        check(&[0, 1, PUT, 1, 0, 5, 1], "nothing runs past the payload's end");
    }
    /// spec: E-11
    #[test]
    fn spans_are_looked_for_where_there_are_pieces() {
        let row = [7_u8; 200];
        for has_pieces in [false, true] {
            let mut out = vec![0; 3]; // An earlier commit of the group.
            let mut c = CommitEncoder::new(&mut out, 0, 3, has_pieces);
            c.put(1, b"a", &row, &[]);
            c.put(1, b"b", &row, &[]);
            c.put(2, b"c", &[&row[..], b"!"].concat(), if has_pieces { &[200, 201] } else { &[] });
            assert_eq!(out.len() < 260, has_pieces, "{}", out.len());
            let mut shown = Shown::default();
            decode(&out[3..], 1, 1, &mut shown).expect("what was written");
            assert_eq!(shown.0[1].4.as_deref(), Some(&row[..]));
            assert_eq!(shown.0[2].4.as_deref(), Some(&[&row[..], b"!"].concat()[..]));
        }
    }

    /// Zero-length pieces without number take no memory, and a value's limit holds for the sum. spec: E-12
    #[test]
    fn pieces_are_bounded_by_the_value() {
        let mut bytes = vec![0, 1, PUT_PIECES, 1, 0];
        put_uvarint(&mut bytes, 1000);
        bytes.extend([0; 1000]);
        decode(&bytes, 1, 1, &mut Shown::default()).expect("an empty value");
        let mut bytes = vec![0, 1, PUT_PIECES, 1, 0, 3];
        put_uvarint(&mut bytes, 2 << 20);
        bytes.resize(bytes.len() + (1 << 20), 7);
        for _ in 0..2 {
            put_uvarint(&mut bytes, 2 << 20 | 1);
            put_uvarint(&mut bytes, 8);
        }
        assert_eq!(decode(&bytes, 1, 1, &mut Shown::default()), Err("a value is below the limit"));
    }

    /// Spans of spans' surroundings: a kilobyte more of encoding says two megabytes more of values. spec: E-11, E-12
    #[test]
    fn a_commit_is_bounded_however_short_its_encoding() {
        struct Sum(usize);
        impl Effects for Sum {
            fn begin_commit(&mut self, _: u64, _: u32) {}
            fn put(&mut self, _: u32, key: &[u8], value: &[u8]) {
                self.0 += key.len() + value.len();
            }
            fn put_stored(&mut self, _: u32, _: &[u8], _: ValueRef) {}
            fn delete(&mut self, _: u32, _: &[u8]) {}
        }
        let (piece, pieces) = (64 << 10, 32_u8);
        let bomb = |effects: u8| {
            let mut bytes = vec![0, effects];
            for key in 0..effects {
                bytes.extend([PUT_PIECES, 1, 1, key, pieces]);
                for n in 0..pieces {
                    let is_first = key == 0 && n == 0;
                    put_uvarint(&mut bytes, piece << 1 | u64::from(!is_first));
                    match is_first {
                        true => bytes.resize(bytes.len() + piece as usize, 7),
                        false => put_uvarint(&mut bytes, 10),
                    }
                }
            }
            let mut sum = Sum(0);
            let decoded = decode(&bytes, 1, 1, &mut sum);
            assert!(bytes.len() < 80 << 10 && sum.0 <= COMMIT_BYTES_MAX);
            decoded
        };
        assert_eq!(bomb(17), Ok(()));
        assert_eq!(bomb(18), Err("a commit is below the limit"));
        assert_eq!(bomb(100), Err("a commit is below the limit"));
    }
}
