//! Frames, envelopes, batches and operations.

use super::{Short, Step, Walk, name, number};
use crate::batch::{KIND_ROWS, op_bits};
use crate::error::DecodeErrorKind;
use crate::frame::{Codec, inflate};
use crate::json::write_rfc3339;
use crate::reader::Reader;
use crate::{FrameKind, HEADER_BYTES, Hlc};

/// A moment in milliseconds, as far as it is one that people use.
fn moment(ms: u64) -> String {
    let Some(micros) = i64::try_from(ms).ok().and_then(|ms| ms.checked_mul(1000)) else { return ms.to_string() };
    let mut text = Vec::new();
    write_rfc3339(micros, &mut text);
    format!("{ms}, which is {}", String::from_utf8_lossy(&text))
}

/// What a timestamp of the hybrid clock says.
fn clock(hlc: u64) -> String {
    format!("{} at {}", Hlc(hlc), moment(hlc >> 16))
}

/// What a side reads, by the bits of Hello and Welcome.
fn reads(flags: u64) -> String {
    let words = [(2, "zstd"), (4, "lz4"), (8, "columns")];
    words.iter().filter(|word| flags & word.0 != 0).map(|word| word.1).collect::<Vec<_>>().join(", ")
}

impl<'a> Walk<'a, '_> {
    fn plain(&mut self, what: &str) -> Step<u64> {
        self.uvarint(|n| format!("{what} {n}"))
    }

    /// A frame: header, then its body.
    pub(super) fn frame(&mut self) -> Step {
        self.take(2, |bytes| if bytes == b"BZ" { "\"BZ\"".into() } else { "not \"BZ\" (F-1)".into() })?;
        self.fixed(1, "version")?;
        let kind = self.take(1, |bytes| {
            let n = number(bytes) as u8;
            let reserved = FrameKind::RESERVED.iter().find(|reserved| reserved.0 == n);
            match (FrameKind::from_number(n), reserved) {
                (Some(kind), _) => format!("kind {n}: {kind:?}"),
                (None, Some(reserved)) => format!("kind {n}: {}, reserved (F-19)", reserved.1),
                (None, None) => format!("kind {n}: unknown (F-3)"),
            }
        })?;
        let codec = self.take(1, |bytes| {
            let n = number(bytes) as u8;
            Codec::from_number(n).map_or_else(|| format!("codec {n}: unknown (F-4)"), |it| format!("codec {n}: {it:?}"))
        })?;
        self.fixed(1, "flags")?;
        self.fixed(2, "reserved")?;
        let length = self.fixed(4, "bytes of the body:")?;
        self.take(4, |bytes| format!("CRC-32 {:08x}", number(bytes)))?;
        let left = self.reader.left();
        let wanted = usize::try_from(length).unwrap_or(usize::MAX);
        if wanted > left {
            return Err(self.reader.fail(DecodeErrorKind::UnexpectedEnd { wanted, left }));
        }
        let Some(kind) = FrameKind::from_number(number(kind) as u8) else { return self.unknown(wanted, "body") };
        match Codec::from_number(number(codec) as u8) {
            Some(Codec::None) => self.within(wanted, |walk| walk.body(kind)),
            Some(codec) if kind.may_compress() => self.within(wanted, |walk| walk.compressed(kind, codec)),
            _ => self.unknown(wanted, "body"),
        }
    }

    fn unknown(&mut self, count: usize, what: &str) -> Step {
        self.take(count, |_| format!("{what}: not understood")).map(drop)
    }

    /// A compressed body, and then what is in it (spec: F-21).
    fn compressed(&mut self, kind: FrameKind, codec: Codec) -> Step {
        let body = self.reader.clone().rest();
        self.fixed(4, "bytes of the body when inflated:")?;
        let left = self.reader.left();
        self.take(left, |_| format!("{codec:?} of {left} bytes: below is what is in it, counted from 0"))?;
        // The header is not looked at again, but has its place.
        let frame = inflate(codec, &[&[0; HEADER_BYTES][..], body].concat())?;
        let inflated = frame.slice(HEADER_BYTES.min(frame.len())..);
        let mut inside =
            Walk { reader: Reader::new(&inflated), depth: self.depth + 1, inflated: true, sink: &mut *self.sink };
        inside.all(|walk| walk.body(kind));
        Ok(())
    }

    fn body(&mut self, kind: FrameKind) -> Step {
        match kind {
            FrameKind::Hello => self.hello(),
            FrameKind::Welcome => self.welcome(),
            FrameKind::Push => self.batch(),
            FrameKind::Ack => self.envelope(),
            FrameKind::Entry => {
                let length = self.count("bytes of the envelope")?;
                self.within(length, Self::envelope)?;
                self.batch()
            }
            FrameKind::Error => self.error(),
            FrameKind::Ping | FrameKind::Pong => self.fixed(8, "nonce").map(drop),
            FrameKind::Bye => Ok(()),
            FrameKind::DigestRequest => self.plain("least sequence number").map(drop),
            FrameKind::Digest => {
                self.plain("sequence number")?;
                self.hex(32, "digest")?;
                self.plain("live documents:").map(drop)
            }
            FrameKind::Entries | FrameKind::Pushes => self.columns(),
        }
    }

    fn hello(&mut self) -> Step {
        self.plain("session protocol")?;
        self.take(1, |bytes| {
            let flags = number(bytes);
            let bound = if flags & 1 == 0 { "not bound to a space" } else { "bound to a space" };
            format!("flags {flags:02x}: {bound}; reads [{}]", reads(flags))
        })?;
        self.hex(16, "space")?;
        self.plain("epoch of the cursor")?;
        self.plain("cursor")?;
        for _ in 0..self.count("ids with operations that are not acknowledged")? {
            self.hex(16, "replica")?;
        }
        Ok(())
    }

    fn welcome(&mut self) -> Step {
        self.plain("session protocol")?;
        self.hex(16, "space")?;
        for what in ["epoch", "head of the sequence", "floor of the sequence"] {
            self.plain(what)?;
        }
        self.take(8, |bytes| format!("the relay's time {}", moment(number(bytes))))?;
        self.take(1, |bytes| {
            let flags = number(bytes);
            let clock = if flags & 1 == 0 { "does not trust" } else { "trusts" };
            format!("flags {flags:02x}: {clock} its clock; reads [{}]", reads(flags))
        })?;
        for _ in 0..self.count("counters")? {
            self.hex(16, "replica")?;
            self.plain("greatest counter known:")?;
        }
        Ok(())
    }

    fn error(&mut self) -> Step {
        let code = self.plain("code")?;
        self.fixed(1, "fatal:")?;
        self.plain("earliest retry in milliseconds:")?;
        self.prefixed(|bytes| format!("text {}", name(bytes)))?;
        if code == 6 {
            self.hex(16, "operation that is wanted: replica")?;
            self.plain("operation that is wanted: counter")?;
        }
        Ok(())
    }

    /// An envelope.
    pub(super) fn envelope(&mut self) -> Step {
        self.plain("epoch of the sequence")?;
        self.plain("number of the first operation:")?;
        self.take(8, |bytes| format!("the relay's time {}", moment(number(bytes))))?;
        self.hex(16, "author")?;
        self.plain("counter of the first operation:")?;
        let count = self.plain("number of operations:")?;
        for _ in 0..self.count("transactions")? {
            self.take(1, |bytes| {
                let words =
                    ["applied", "refused for its timestamp", "refused for lack of permission", "refused for a limit"];
                let n = number(bytes);
                let word = usize::try_from(n).ok().and_then(|n| words.get(n)).unwrap_or(&"unknown (F-12)");
                format!("verdict {n}: {word}")
            })?;
            self.plain("operations of it:")?;
        }
        let bitmap = usize::try_from(count.div_ceil(8)).unwrap_or(usize::MAX);
        self.hex(bitmap, "absorbed, one bit for each operation:")?;
        self.hex(bitmap, "repeated, one bit for each operation:")?;
        self.take(4, |bytes| format!("CRC-32 {:08x}", number(bytes))).map(drop)
    }

    /// A batch body.
    pub(super) fn batch(&mut self) -> Step {
        let kind = self.take(1, |bytes| format!("kind of the batch {}: 0 is rows", number(bytes)))?;
        if kind != [KIND_ROWS] {
            return Err(self.reader.fail(DecodeErrorKind::UnknownKind { kind: number(kind) as u8, rule: "B-1" }));
        }
        self.hex(16, "space")?;
        self.hex(16, "author")?;
        self.plain("counter of the first operation:")?;
        let base_hlc = number(self.take(8, |bytes| format!("base timestamp {}", clock(number(bytes))))?);
        self.plain("epoch of the cursors")?;
        let base_cursor = self.plain("base cursor")?;
        for _ in 0..self.count("dependencies")? {
            self.hex(16, "replica")?;
            self.plain("counter")?;
        }
        self.prefixed(|bytes| format!("attributes, {} bytes: {}", bytes.len(), Short(bytes)))?;
        let mut collections = Vec::new();
        for index in 0..self.count("collections")? {
            collections.push(self.prefixed(|bytes| format!("collection {index}: {}", name(bytes)))?);
        }
        let mut shapes = Vec::new();
        for index in 0..self.count("shapes")? {
            shapes.push(self.shape(&format!("shape {index}"))?);
        }
        for index in 0..self.count("operations")? {
            let length = self.count(&format!("bytes of operation {index}"))?;
            self.within(length, |walk| walk.operation(base_hlc, base_cursor, &collections, &shapes))?;
        }
        Ok(())
    }

    fn operation(
        &mut self,
        base_hlc: u64,
        base_cursor: u64,
        collections: &[&'a [u8]],
        shapes: &[Vec<&'a [u8]>],
    ) -> Step {
        let flags = self.take(1, |bytes| {
            let flags = number(bytes) as u8;
            let kind =
                ["create", "update", "delete"].get(usize::from(flags & op_bits::KIND)).unwrap_or(&"unknown (O-1)");
            let bits = [(op_bits::MORE, " MORE"), (op_bits::UNSET, " UNSET"), (op_bits::ATTRS, " ATTRS")];
            let words: String = bits.iter().filter(|bit| flags & bit.0 != 0).map(|bit| bit.1).collect();
            format!("{kind}{words}")
        })?;
        let flags = number(flags) as u8;
        self.take(1, |bytes| match number(bytes) {
            0 => "merge kind 0: register".to_owned(),
            n @ 1..=6 => format!("merge kind {n}: reserved (O-2)"),
            n => format!("merge kind {n}: unknown (O-2)"),
        })?;
        self.uvarint(|n| format!("timestamp {}", clock(base_hlc.saturating_add(n))))?;
        self.uvarint(|n| format!("cursor {}", base_cursor.saturating_add(n)))?;
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.uvarint(|n| {
            format!("collection {n}: {}", collections.get(at(n)).map_or_else(|| "none".into(), |it| name(it)))
        })?;
        self.hex(16, "document")?;
        if flags & op_bits::ATTRS != 0 {
            self.prefixed(|bytes| format!("attributes, {} bytes: {}", bytes.len(), Short(bytes)))?;
        }
        if flags & op_bits::KIND == 2 {
            return Ok(());
        }
        let set = self.plain("sets the fields of shape")?;
        if flags & op_bits::UNSET != 0 {
            self.plain("unsets the fields of shape")?;
        }
        let Some(names) = shapes.get(at(set)) else {
            let max = (shapes.len() as u64).saturating_sub(1);
            return Err(self.reader.fail(DecodeErrorKind::OutOfRange { what: "shape index", given: set, max }));
        };
        self.row(names)
    }
}

const _: () = assert!(HEADER_BYTES == 2 + 1 + 1 + 1 + 1 + 2 + 4 + 4, "the parts of a header");
