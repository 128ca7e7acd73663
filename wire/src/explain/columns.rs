//! Columnar batches: tables one by one, streams as a whole with the first of what they say.

use super::{Short, Step, Walk, name};
use crate::error::DecodeErrorKind;
use crate::reader::Reader;

/// Groups of a stream that are shown.
const GROUPS_SHOWN: usize = 12;

/// Streams of the batches, of the envelopes and of the operations.
const OF_BATCHES: [&str; 8] = [
    "operations of each batch",
    "author of each batch",
    "first counter of each batch, as a step",
    "epoch of each batch, as a step",
    "dependencies of each batch",
    "replica of each dependency",
    "counter of each dependency",
    "bytes of attributes of each batch",
];
const OF_ENVELOPES: [&str; 6] = [
    "epoch of each envelope, as a step",
    "first number of each envelope, as a step",
    "the relay's time of each envelope, as a step",
    "verdict of each transaction",
    "absorbed, of each operation",
    "repeated, of each operation",
];
const OF_OPERATIONS: [&str; 6] = [
    "form of each operation",
    "MORE of each operation",
    "milliseconds of each operation, as a step",
    "clock's counter of each operation",
    "cursor of each operation, as a step",
    "bytes of attributes of each operation that has some",
];

/// Names of the classes of values (spec/columns.md, Columns).
const CLASSES: [&str; 19] = [
    "null",
    "false",
    "true",
    "integers",
    "integers from 2^63",
    "floats that are decimals",
    "floats of 32 bits",
    "floats of 64 bits",
    "timestamps",
    "UUIDs",
    "text that spells a UUID",
    "text",
    "bytes",
    "arrays",
    "maps",
    "decimals",
    "wide decimals",
    "vectors of 32 bits",
    "vectors of 64 bits",
];

/// What a stream of numbers says, as far as a line goes.
fn numbers(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "all zero".to_owned();
    }
    let mut reader = Reader::new(bytes);
    let mut words = Vec::new();
    while !reader.is_empty() && words.len() < GROUPS_SHOWN {
        let Ok(head) = reader.uvarint() else { break };
        if head & 1 == 1 {
            let Ok(n) = reader.uvarint() else { break };
            words.push(format!("{} x {n}", head >> 1));
            continue;
        }
        for _ in 0..head >> 1 {
            match reader.uvarint() {
                Ok(n) if words.len() < GROUPS_SHOWN => words.push(n.to_string()),
                _ => break,
            }
        }
    }
    if !reader.is_empty() {
        words.push("...".to_owned());
    }
    words.join(", ")
}

impl<'a> Walk<'a, '_> {
    fn number_stream(&mut self, what: &str) -> Step {
        self.prefixed(|bytes| format!("{what}: {}", numbers(bytes))).map(drop)
    }

    fn byte_stream(&mut self, what: &str) -> Step {
        self.prefixed(|bytes| format!("{what}, {} bytes: {}", bytes.len(), Short(bytes))).map(drop)
    }

    fn names(&mut self, what: &str) -> Step<Vec<&'a [u8]>> {
        let mut names = Vec::new();
        for index in 0..self.count(what)? {
            names.push(self.prefixed(|bytes| format!("{index}: {}", name(bytes)))?);
        }
        Ok(names)
    }

    /// A columnar batch.
    pub(super) fn columns(&mut self) -> Step {
        self.take(1, |bytes| {
            format!("kind of the batch {}: 1 is columnar", bytes.first().copied().unwrap_or_default())
        })?;
        let flags = self.take(1, |bytes| {
            let flags = bytes.first().copied().unwrap_or_default();
            format!("flags {flags}: {}", if flags & 1 == 0 { "no envelopes" } else { "with envelopes" })
        })?;
        self.take(16, |bytes| format!("space {}", Short(bytes)))?;
        for index in 0..self.count("replicas")? {
            self.take(16, |bytes| format!("replica {index}: {}", Short(bytes)))?;
        }
        self.names("collections")?;
        let fields = self.names("field names")?;
        for shape in 0..self.count("shapes")? {
            for _ in 0..self.count(&format!("names of shape {shape}"))? {
                let at =
                    |n: u64| usize::try_from(n).ok().and_then(|n| fields.get(n)).map_or("none".into(), |it| name(it));
                self.uvarint(|n| format!("name {n}: {}", at(n)))?;
            }
        }
        for form in 0..self.count("forms")? {
            let bits = self.take(1, |bytes| format!("form {form}: bits {}", Short(bytes)))?;
            let bits = bits.first().copied().unwrap_or_default();
            self.take(1, |bytes| format!("merge kind {}", Short(bytes)))?;
            self.uvarint(|n| format!("collection {n}"))?;
            if bits & 7 != 2 {
                self.uvarint(|n| format!("sets the fields of shape {n}"))?;
            }
            if bits & crate::batch::op_bits::UNSET != 0 {
                self.uvarint(|n| format!("unsets the fields of shape {n}"))?;
            }
        }
        self.uvarint(|n| format!("number of batches: {n}"))?;
        OF_BATCHES.iter().try_for_each(|what| self.number_stream(what))?;
        self.byte_stream("attributes of the batches")?;
        if flags.first().is_some_and(|flags| flags & 1 == 1) {
            OF_ENVELOPES.iter().try_for_each(|what| self.number_stream(what))?;
        }
        OF_OPERATIONS.iter().try_for_each(|what| self.number_stream(what))?;
        self.byte_stream("attributes of the operations")?;
        self.number_stream("references to documents")?;
        self.byte_stream("ids of documents, byte by byte of all")?;
        fields.iter().try_for_each(|field| self.column(&name(field)))
    }

    /// The column of one field.
    fn column(&mut self, field: &str) -> Step {
        let mask = self.uvarint(|mask| {
            let there = CLASSES.iter().enumerate().filter(|(class, _)| mask >> class & 1 == 1);
            format!("column of {field}: {}", there.map(|(_, class)| *class).collect::<Vec<_>>().join(", "))
        })?;
        if mask >> CLASSES.len() != 0 {
            let max = (1 << CLASSES.len()) - 1;
            return Err(self.reader.fail(DecodeErrorKind::OutOfRange { what: "classes", given: mask, max }));
        }
        self.depth += 1;
        if mask.count_ones() > 1 {
            self.number_stream("class of each value")?;
        }
        for (class, what) in CLASSES.iter().enumerate().filter(|(class, _)| mask >> class & 1 == 1) {
            match class {
                0..=2 => {}
                3 | 8 => self.series(what)?,
                5 => {
                    self.take(1, |bytes| format!("{what}: places {}", bytes.first().copied().unwrap_or_default()))?;
                    self.series(what)?;
                }
                4 | 6 | 7 => self.byte_stream(&format!("{what}, byte by byte of all"))?,
                9 | 10 => {
                    self.number_stream(&format!("{what}: references"))?;
                    self.byte_stream(&format!("{what}: new ones, byte by byte of all"))?;
                }
                15 => {
                    self.number_stream(&format!("{what}: places"))?;
                    self.series(what)?;
                }
                _ => {
                    if *what == "wide decimals" {
                        self.number_stream(&format!("{what}: places"))?;
                    }
                    self.number_stream(&format!("{what}: references"))?;
                    self.number_stream(&format!("{what}: bytes of the new ones"))?;
                    self.prefixed(|bytes| format!("{what}: new ones, {} bytes: {}", bytes.len(), shown(bytes)))?;
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn series(&mut self, what: &str) -> Step {
        self.take(1, |bytes| {
            let mode = bytes.first().copied().unwrap_or_default();
            let words = if mode & 1 == 1 { "steps" } else { "as they are" };
            format!("{what}: mode {mode}, {words}, times 1,000^{}", mode >> 1)
        })?;
        self.number_stream(&format!("{what}, zigzag"))
    }
}

/// Text where it is text, else digits.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes.get(..bytes.len().min(64)).unwrap_or_default()) {
        Ok(text) => format!("{text:?}"),
        Err(_) => Short(bytes).to_string(),
    }
}
