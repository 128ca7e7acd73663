//! Generators of arbitrary values and the bodies of the fuzz targets, for tests of this and other rooms.
//!
//! The same seed gives the same values. A `fuzz_` function takes any bytes and panics if the formats break a promise:
//! that what is accepted is canonical, that borrowed and owned reading agree, that nothing else panics.

mod fuzz;

pub use fuzz::{
    fuzz_batch, fuzz_columns, fuzz_compressed, fuzz_envelope, fuzz_explain, fuzz_frame, fuzz_grpc, fuzz_metadata,
    fuzz_row, fuzz_value, fuzz_websocket, walk,
};

use crate::batch::{Batch, BatchBuilder, BatchHead, Columns};
use crate::envelope::{Bitmap, Envelope, Verdict};
use crate::frame::{COMPRESS_BYTES_MIN, ErrorCode, ErrorFrame, Frame, Hello, PROTOCOL_VERSION, Reads, Welcome};
use crate::grpc::{Metadata, percent_encode};
use crate::id::{DocumentId, OpId, ReplicaId, SpaceId};
use crate::op::{MergeKind, Op, OpKind};
use crate::row::Row;
use crate::shape::Shape;
use crate::time::Hlc;
use crate::value::{Decimal, Document, Timestamp, Uuid, Value, encode_value};
use crate::websocket::{OpCode, close, encode, encode_close};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

/// A seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Gen {
    state: u64,
}

/// Names that repeat, so that shapes and keys are shared; some are awkward on purpose.
const NAMES: [&str; 16] = [
    "id",
    "title",
    "done",
    "due",
    "tags",
    "owner",
    "a",
    "b",
    "c",
    "",
    "A",
    "z\u{e9}",
    "\u{1f980}",
    "x.y",
    "count",
    "_",
];

impl Gen {
    /// Returns a generator; equal seeds give equal values.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns 64 arbitrary bits.
    pub fn u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, or 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.u64() % bound as u64) as usize }
    }

    /// Returns true once in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Returns 64 bits of which a random number are significant, so that every width occurs.
    pub fn bits(&mut self) -> u64 {
        let shift = self.below(64);
        self.u64() >> shift
    }

    /// Returns arbitrary bytes, fewer than `bound`.
    pub fn bytes(&mut self, bound: usize) -> Vec<u8> {
        (0..self.below(bound)).map(|_| self.u64() as u8).collect()
    }

    /// Returns 16 arbitrary bytes.
    pub fn array16(&mut self) -> [u8; 16] {
        std::array::from_fn(|_| self.u64() as u8)
    }

    /// Returns a text of fewer than `bound` characters, some of them outside of ASCII.
    pub fn text(&mut self, bound: usize) -> String {
        (0..self.below(bound))
            .map(|_| match self.below(20) {
                0 => '\u{e9}',
                1 => '\u{4e2d}',
                2 => '\u{1f980}',
                3 => '\0',
                _ => (b' ' + self.below(95) as u8) as char,
            })
            .collect()
    }

    /// Returns a field name.
    pub fn name(&mut self) -> String {
        match self.below(12) {
            0 => self.text(20),
            1 => format!("field{}", self.below(300)),
            _ => NAMES[self.below(NAMES.len())].to_owned(),
        }
    }

    /// Returns a float, special ones often.
    pub fn float(&mut self) -> f64 {
        let special = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE];
        match self.below(4) {
            0 => special[self.below(special.len())],
            1 => f64::from(f32::from_bits(self.u64() as u32)),
            2 => f64::from_bits(self.u64()),
            _ => self.below(100_000) as f64 / 100.0,
        }
    }

    /// Returns a decimal, mostly with few places.
    pub fn decimal(&mut self) -> Decimal {
        let places = if self.one_in(4) { self.below(39) } else { self.below(4) } as u8;
        let wide = i128::from(self.u64()) << 62 | i128::from(self.u64() >> 2);
        let coefficient = match self.below(3) {
            0 => wide % 10i128.pow(38),
            1 => self.below(100_000) as i128,
            _ => self.bits().into(),
        };
        Decimal::new(if self.one_in(2) { coefficient } else { -coefficient }, places).expect("at most 38 digits")
    }

    /// Returns a value whose containers nest at most `depth` deep.
    pub fn value(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 15 } else { 18 }) {
            0 => Value::Null,
            1 => Value::Bool(self.one_in(2)),
            2 | 3 => Value::I64(self.below(20) as i64 - 10),
            4 => Value::I64(if self.one_in(2) { self.bits() as i64 } else { !(self.bits() as i64) }),
            5 => Value::from(self.u64()),
            6 => Value::F64(self.float()),
            7 => Value::Timestamp(Timestamp(self.bits() as i64)),
            8 => Value::Uuid(Uuid(self.array16())),
            9 | 10 => {
                // Seldom long enough for wider ends.
                let bound = if self.one_in(30) { 400 } else { 30 };
                Value::Text(self.text(bound))
            }
            11 => Value::Bytes(self.bytes(30)),
            12 => Value::Decimal(self.decimal()),
            13 => Value::VectorF32((0..self.below(9)).map(|_| self.float() as f32).collect()),
            14 => Value::VectorF64((0..self.below(9)).map(|_| self.float()).collect()),
            15 => {
                let count = self.below(6);
                Value::Array((0..count).map(|_| self.value(depth - 1)).collect())
            }
            16 => Value::Map(self.map(depth - 1)),
            _ => {
                // Many maps of one shape.
                let like = self.map(0);
                let count = self.below(5);
                let mut again = || like.keys().map(|name| (name.to_owned(), self.value(0))).collect::<Document>();
                Value::Array((0..count).map(|_| Value::Map(again())).collect())
            }
        }
    }

    fn map(&mut self, depth: usize) -> Document {
        (0..self.below(7)).map(|_| (self.name(), self.value(depth))).collect()
    }

    /// Returns a document.
    pub fn document(&mut self) -> Document {
        (0..self.below(12)).map(|_| (self.name(), self.value(3))).collect()
    }

    /// Returns a row.
    pub fn row(&mut self) -> Row {
        Row::encode(&self.document()).expect("generated documents are within the limits")
    }

    /// Returns an operation that keeps the rules, its transaction ended.
    pub fn op(&mut self) -> Op {
        let kind = [OpKind::Create, OpKind::Update, OpKind::Update, OpKind::Delete][self.below(4)];
        let mut op = Op {
            kind,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc::from_parts(1_700_000_000_000 + self.below(100_000) as u64, self.below(3) as u16),
            cursor: 1000 + self.below(300) as u64,
            collection: Arc::from(["todos", "people", "a", "\u{e9}t\u{e9}"][self.below(4)]),
            id: DocumentId(self.array16()),
            attrs: Bytes::new(),
            set: (kind != OpKind::Delete).then(|| self.row()),
            unset: Shape::empty(),
        };
        if self.one_in(8) {
            op.attrs = Bytes::from(self.bytes(40));
        }
        if kind == OpKind::Update {
            let set = op.set.as_ref().map(|row| row.shape().clone()).unwrap_or_default();
            let mut names: Vec<String> = (0..self.below(4)).map(|_| self.name()).collect();
            names.sort_unstable();
            names.dedup();
            names.retain(|name| set.index_of(name).is_none());
            if names.is_empty() && set.is_empty() {
                names.push("gone".to_owned());
            }
            op.unset = Shape::new(names).expect("distinct names");
        }
        op
    }

    /// Returns a batch head that keeps the rules.
    pub fn batch_head(&mut self) -> BatchHead {
        let count = if self.one_in(4) { self.below(4) } else { 0 };
        let mut deps: Vec<OpId> =
            (0..count).map(|_| OpId { replica: ReplicaId(self.array16()), counter: self.bits() | 1 }).collect();
        deps.sort_unstable();
        BatchHead {
            space: SpaceId(self.array16()),
            replica: ReplicaId(self.array16()),
            first_counter: 1 + (self.bits() >> 1),
            epoch: self.bits() as u32,
            deps,
            attrs: if self.one_in(8) { Bytes::from(self.bytes(20)) } else { Bytes::new() },
        }
    }

    /// Returns a batch of a few operations in transactions of arbitrary length.
    pub fn batch(&mut self) -> Batch {
        let mut builder = BatchBuilder::new(self.batch_head());
        let count = 1 + self.below(12);
        for index in 0..count {
            let more = index + 1 < count && self.one_in(3);
            let op = Op { more, ..self.op() };
            assert_eq!(builder.try_push(&op), Ok(true), "a dozen small operations fit");
        }
        let bytes = builder.finish().expect("the last operation ends its transaction");
        Batch::decode(bytes).expect("what the builder wrote is accepted")
    }

    /// Returns an envelope for a batch, with arbitrary verdicts and bits.
    pub fn envelope(&mut self, batch: &Batch) -> Envelope {
        let all = [
            Verdict::Applied,
            Verdict::Applied,
            Verdict::RefusedClock,
            Verdict::RefusedPermission,
            Verdict::RefusedLimit,
        ];
        let n = batch.len() as u32;
        let mut envelope = Envelope {
            epoch: self.bits() as u32,
            first_seq: 1 + (self.bits() >> 1),
            relay_ms: self.bits(),
            replica: batch.head().replica,
            first_counter: batch.head().first_counter,
            n,
            verdicts: batch.transactions().map(|range| (all[self.below(all.len())], range.len() as u32)).collect(),
            absorbed: Bitmap::new(n),
            repeated: Bitmap::new(n),
        };
        for index in 0..n as usize {
            if self.one_in(5) {
                envelope.absorbed.set(index);
            }
            if self.one_in(5) {
                envelope.repeated.set(index);
            }
        }
        envelope
    }

    /// Returns a few batches of one space, by few authors, one after another for each.
    pub fn batches(&mut self) -> Vec<Batch> {
        let space = SpaceId(self.array16());
        let authors: Vec<ReplicaId> = (0..1 + self.below(3)).map(|_| ReplicaId(self.array16())).collect();
        let mut counters = vec![1; authors.len()];
        let documents: Vec<DocumentId> = (0..4).map(|_| DocumentId(self.array16())).collect();
        let mut batches = Vec::new();
        for _ in 0..1 + self.below(5) {
            let author = self.below(authors.len());
            if self.one_in(8) {
                counters[author] = 1 + (self.bits() >> 1);
            }
            let head =
                BatchHead { space, replica: authors[author], first_counter: counters[author], ..self.batch_head() };
            let ops: Vec<Op> = self.batch().ops().map(|op| op.to_op()).collect();
            let mut builder = BatchBuilder::new(head);
            for mut op in ops {
                if self.one_in(2) {
                    op.id = documents[self.below(documents.len())];
                }
                assert_eq!(builder.try_push(&op), Ok(true), "a dozen small operations fit");
            }
            let bytes = builder.finish().expect("the last operation ends its transaction");
            let batch = Batch::decode(bytes).expect("what the builder wrote is accepted");
            counters[author] = batch.counter_range().end;
            batches.push(batch);
        }
        batches
    }

    /// Returns a few batches of one space, and envelopes over them, mostly one after another.
    pub fn entries(&mut self) -> Vec<(Envelope, Batch)> {
        let mut seq = 1 + self.below(1000) as u64;
        let mut entries = Vec::new();
        for batch in self.batches() {
            let envelope = Envelope { first_seq: seq, ..self.envelope(&batch) };
            seq = if self.one_in(8) { 1 + (self.bits() >> 1) } else { envelope.last_seq() + 1 };
            entries.push((envelope, batch));
        }
        entries
    }

    /// Returns a columnar batch.
    pub fn columns(&mut self) -> Bytes {
        let columns =
            if self.one_in(2) { Columns::encode(&self.batches()) } else { Columns::encode_entries(&self.entries()) };
        columns.expect("a few small batches of one space")
    }

    /// Returns what `fuzz_compressed` reads: kind, codec, inflated length, compressed body.
    pub fn compressed(&mut self) -> Vec<u8> {
        let body = loop {
            let body = self.columns();
            if body.len() >= COMPRESS_BYTES_MIN {
                break body;
            }
        };
        let codec = self.below(2) as u8;
        let packed = match codec {
            0 => zstd::bulk::compress(&body, 3).expect("memory suffices"),
            _ => lz4_flex::block::compress(&body),
        };
        // Entries have envelopes, Pushes have not.
        let kind = if body[1] == 1 { 2 } else { 3 };
        [&[kind, codec][..], &(body.len() as u32).to_le_bytes(), &packed].concat()
    }

    /// Returns what `fuzz_grpc` reads: how the stream is cut, then messages with their prefixes.
    pub fn grpc(&mut self) -> Vec<u8> {
        let mut out = self.bytes(20);
        out.insert(0, out.len() as u8);
        for _ in 0..self.below(4) {
            let message = self.frame().to_bytes();
            out.push(u8::from(self.one_in(8)));
            out.extend_from_slice(&(message.len() as u32).to_be_bytes());
            out.extend_from_slice(&message);
        }
        out
    }

    /// Returns what `fuzz_metadata` reads: lines of a name, a blank and a value.
    pub fn metadata(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..=self.below(5) {
            let bytes = self.bytes(12);
            let (name, value): (&str, Vec<u8>) = match self.below(9) {
                0 => (
                    "grpc-timeout",
                    format!("{}{}", self.below(100_000_000), "numSMH".chars().nth(self.below(6)).unwrap_or('S')).into(),
                ),
                1 => ("grpc-message", percent_encode(&String::from_utf8_lossy(&bytes)).into()),
                2 => ("grpc-status", self.below(18).to_string().into()),
                3 => ("grpc-encoding", [&b"gzip"[..], b"zstd", b"identity", b"br"][self.below(4)].to_vec()),
                4 => ("grpc-accept-encoding", b"identity, gzip,zstd".to_vec()),
                5 => (
                    "content-type",
                    [&b"application/grpc+blaze"[..], b"application/grpc-web-text+proto"][self.below(2)].to_vec(),
                ),
                6 => ("x-text", b"visible ASCII".to_vec()),
                7 => ("grpc-status-details-bin", b"CAUSA2Zvbw==".to_vec()),
                _ => {
                    let mut metadata = Metadata::new();
                    metadata.append_binary("x-bin", bytes).expect("a few bytes under a good name");
                    let encoded = metadata.encoded().map(|(_, text)| text.into_owned()).collect::<Vec<_>>();
                    ("x-bin", [encoded.concat(), encoded.concat()].join(",").into())
                }
            };
            out.extend_from_slice(name.as_bytes());
            out.push(b' ');
            out.extend(value);
            out.push(b'\n');
        }
        out
    }

    /// Returns what `fuzz_websocket` reads: who sends, how it is cut, then messages in fragments, pings, perhaps a close.
    pub fn websocket(&mut self) -> Vec<u8> {
        let mut out = self.bytes(20);
        let is_server = self.one_in(2);
        out.insert(0, out.len() as u8 | u8::from(is_server) << 7);
        let mut stream = BytesMut::new();
        for _ in 0..self.below(4) {
            let message = self.frame().to_bytes();
            let mask = if is_server { None } else { Some(self.u64() as u32) };
            let mask = mask.map(u32::to_le_bytes);
            let (first, rest) = message.split_at(message.len() / 2);
            let at = stream.len();
            if self.one_in(2) {
                encode(OpCode::Binary, first, mask, &mut stream);
                // Not the last.
                stream[at] &= 0x7f;
                encode(OpCode::Ping, b"there?", mask, &mut stream);
                encode(OpCode::Continuation, rest, mask, &mut stream);
            } else {
                encode(OpCode::Binary, &message, mask, &mut stream);
                encode(OpCode::Pong, b"", mask, &mut stream);
            }
            if self.one_in(4) {
                encode_close(close::NORMAL, "done", mask, &mut stream);
            }
        }
        out.extend_from_slice(&stream);
        out
    }

    /// Returns what `fuzz_explain` reads: the number of an encoding, then bytes of it.
    pub fn explained(&mut self) -> Vec<u8> {
        let which = self.below(6);
        let bytes = match which {
            0 if self.one_in(4) => {
                let packed = self.compressed();
                let mut frame = [b'B', b'Z', 0, packed[0], packed[1] + 1, 0, 0, 0].to_vec();
                frame[3] = if packed[0] == 2 { 12 } else { 13 };
                frame.extend_from_slice(&(packed.len() as u32 - 2).to_le_bytes());
                let sum = crc32fast::hash(&[&frame[..], &packed[2..]].concat());
                frame.extend_from_slice(&sum.to_le_bytes());
                frame.extend_from_slice(&packed[2..]);
                frame
            }
            0 => self.frame().to_bytes().to_vec(),
            1 => self.batch().bytes().to_vec(),
            2 => {
                let batch = self.batch();
                self.envelope(&batch).to_vec()
            }
            3 => self.columns().to_vec(),
            4 => {
                let row = self.row();
                let mut out = Vec::new();
                row.shape().encode(&mut out);
                out.extend_from_slice(row.body());
                out
            }
            _ => {
                let mut out = vec![0];
                out[0] = encode_value(&self.value(4), &mut out).expect("generated values are within the limits");
                out
            }
        };
        [&[which as u8][..], &bytes].concat()
    }

    fn reads(&mut self) -> Reads {
        Reads { zstd: self.one_in(2), lz4: self.one_in(2), columns: self.one_in(2) }
    }

    /// Returns a frame of any kind.
    pub fn frame(&mut self) -> Frame {
        match self.below(13) {
            0 => Frame::Hello(Hello {
                protocol: PROTOCOL_VERSION,
                space: self.one_in(2).then(|| SpaceId(self.array16())),
                epoch: self.bits() as u32,
                cursor: self.bits(),
                reads: self.reads(),
                replicas: (0..self.below(4)).map(|_| ReplicaId(self.array16())).collect(),
            }),
            1 => Frame::Welcome(Welcome {
                protocol: PROTOCOL_VERSION,
                space: SpaceId(self.array16()),
                epoch: self.bits() as u32,
                head: self.bits(),
                floor: self.bits(),
                relay_ms: self.bits(),
                clock_trusted: self.one_in(2),
                reads: self.reads(),
                counters: (0..self.below(4)).map(|_| (ReplicaId(self.array16()), self.bits())).collect(),
            }),
            2 => Frame::Push(self.batch()),
            3 => {
                let batch = self.batch();
                let mut envelope = self.envelope(&batch);
                if self.one_in(4) {
                    envelope.first_seq = 0;
                }
                Frame::Ack(envelope)
            }
            4 => {
                let batch = self.batch();
                Frame::Entry { envelope: self.envelope(&batch), batch }
            }
            5 => {
                let codes = [
                    ErrorCode::Malformed,
                    ErrorCode::Overloaded,
                    ErrorCode::NeedFrom(OpId { replica: ReplicaId(self.array16()), counter: self.bits() | 1 }),
                    ErrorCode::CursorAhead,
                ];
                let code = codes[self.below(codes.len())];
                let fatal = self.one_in(2);
                Frame::Error(ErrorFrame { code, fatal, retry_ms: self.bits(), text: self.text(40) })
            }
            6 => Frame::Ping(self.u64()),
            7 => Frame::Pong(self.u64()),
            8 => Frame::Bye,
            9 => Frame::DigestRequest { min_seq: self.bits() },
            10 => Frame::Entries(self.entries()),
            11 => Frame::Pushes(self.batches()),
            _ => Frame::Digest {
                seq: self.bits(),
                digest: std::array::from_fn(|_| self.u64() as u8),
                documents: self.bits(),
            },
        }
    }
}
