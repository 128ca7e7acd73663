//! What people read: values, rows, operations, batches and frames in the notation of the test vectors.
//!
//! The notation is described in spec/vectors/README.md; it shows every type, where JSON knows six. It is for reading, in
//! logs, tests and `blazedb dump`: nothing reads it back.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::json::write_text;
use crate::{
    Batch, Bitmap, Columns, Document, Envelope, ErrorCode, Frame, Op, OpKind, OpRef, Reads, Row, RowRef, Shape, Value,
    ValueRef,
};

/// Text as JSON writes it, with quotes.
struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        write_text(self.0, &mut out);
        f.write_str(&String::from_utf8_lossy(&out))
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl Display for Hex<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Writes things with commas between them, in a pair of brackets.
fn list<T>(
    f: &mut Formatter<'_>,
    brackets: [char; 2],
    items: impl Iterator<Item = T>,
    mut each: impl FnMut(&mut Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    f.write_char(brackets[0])?;
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        each(f, item)?;
    }
    f.write_char(brackets[1])
}

fn array<T: Display>(f: &mut Formatter<'_>, items: impl Iterator<Item = T>) -> fmt::Result {
    list(f, ['[', ']'], items, |f, item| item.fmt(f))
}

fn map<'n, T: Display>(f: &mut Formatter<'_>, fields: impl Iterator<Item = (&'n str, T)>) -> fmt::Result {
    list(f, ['{', '}'], fields, |f, (name, value)| write!(f, "{}: {value}", Text(name)))
}

/// The notation of spec/vectors/README.md, which shows every type.
impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::I64(n) => write!(f, "{n}"),
            Self::U64(n) => write!(f, "{n}"),
            Self::F64(x) => write!(f, "{x:?}"),
            Self::Decimal(value) => write!(f, "decimal({value})"),
            Self::Text(value) => Text(value).fmt(f),
            Self::Bytes(bytes) => write!(f, "bytes({})", Hex(bytes)),
            Self::Timestamp(value) => write!(f, "timestamp({})", value.0),
            Self::Uuid(value) => write!(f, "uuid({value})"),
            Self::Array(items) => array(f, items.iter()),
            Self::Map(document) => document.fmt(f),
            Self::VectorF32(vector) => {
                f.write_str("f32")?;
                list(f, ['[', ']'], vector.0.iter(), |f, x| write!(f, "{:?}", f64::from(*x)))
            }
            Self::VectorF64(vector) => {
                f.write_str("f64")?;
                list(f, ['[', ']'], vector.0.iter(), |f, x| write!(f, "{x:?}"))
            }
        }
    }
}

/// As its owned form.
impl Display for ValueRef<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.to_value().fmt(f)
    }
}

/// Its fields by ascending name.
impl Display for Document {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        map(f, self.iter())
    }
}

/// Its names.
impl Display for Shape {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        array(f, self.names().map(Text))
    }
}

/// As its document.
impl Display for RowRef<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        map(f, self.iter())
    }
}

/// As its document.
impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// All of it on one line, with the digest of its payload.
impl Display for OpRef<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            OpKind::Create => "create",
            OpKind::Update => "update",
            OpKind::Delete => "delete",
        };
        write!(f, "{kind} {} {} hlc {} cursor {}", Text(self.collection), self.id, self.hlc, self.cursor)?;
        if !self.attrs.is_empty() {
            write!(f, " attrs {}", Hex(self.attrs))?;
        }
        if let Some(row) = self.set {
            write!(f, " set {row}")?;
        }
        if !self.unset.is_empty() {
            write!(f, " unset {}", self.unset)?;
        }
        if self.more {
            f.write_str(" more")?;
        }
        write!(f, " digest {}", Hex(&self.payload_digest()))
    }
}

/// All of it on one line, with the digest of its payload.
impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

/// Its head, then each operation on a line of its own.
impl Display for Batch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let head = self.head();
        let (space, replica, first, epoch) = (head.space, head.replica, head.first_counter, head.epoch);
        write!(f, "space {space} replica {replica} first {first} epoch {epoch} deps ")?;
        array(f, head.deps.iter())?;
        write!(f, " attrs \"{}\"", Hex(&head.attrs))?;
        self.ops().try_for_each(|op| write!(f, "\n{op}"))
    }
}

/// One digit for each bit.
impl Display for Bitmap {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|bit| f.write_char(if bit { '1' } else { '0' }))
    }
}

/// All of it on one line.
impl Display for Envelope {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "epoch {} first_seq {} relay_ms {} replica {} first {} n {} verdicts ",
            self.epoch, self.first_seq, self.relay_ms, self.replica, self.first_counter, self.n
        )?;
        let each = |f: &mut Formatter<'_>, (verdict, count): &(crate::Verdict, u32)| {
            write!(f, "{} x {count}", verdict.number())
        };
        list(f, ['[', ']'], self.verdicts.iter(), each)?;
        write!(f, " absorbed {} repeated {}", self.absorbed, self.repeated)
    }
}

/// Each batch, under its envelope if there are envelopes.
impl Display for Columns {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("columns")?;
        let mut over = self.envelopes().iter();
        for under in self.batches() {
            if let Some(over) = over.next() {
                write!(f, "\n{over}")?;
            }
            write!(f, "\n{under}")?;
        }
        Ok(())
    }
}

/// The words of what a side reads.
struct Words(Reads);

impl Display for Words {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Reads { zstd, lz4, columns } = self.0;
        array(f, [(zstd, "zstd"), (lz4, "lz4"), (columns, "columns")].into_iter().filter(|one| one.0).map(|one| one.1))
    }
}

/// Its kind and its parts; batches and operations on lines of their own.
impl Display for Frame {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(hello) => {
                write!(f, "Hello protocol {} space ", hello.protocol)?;
                match hello.space {
                    Some(space) => write!(f, "{space}")?,
                    None => f.write_str("none")?,
                }
                write!(f, " epoch {} cursor {} reads {} replicas ", hello.epoch, hello.cursor, Words(hello.reads))?;
                array(f, hello.replicas.iter())
            }
            Self::Welcome(welcome) => {
                write!(
                    f,
                    "Welcome protocol {} space {} epoch {} head {} floor {} relay_ms {} clock_trusted {} reads {} counters ",
                    welcome.protocol,
                    welcome.space,
                    welcome.epoch,
                    welcome.head,
                    welcome.floor,
                    welcome.relay_ms,
                    welcome.clock_trusted,
                    Words(welcome.reads)
                )?;
                list(f, ['[', ']'], welcome.counters.iter(), |f, (replica, counter)| write!(f, "{replica}:{counter}"))
            }
            Self::Push(batch) => write!(f, "Push\n{batch}"),
            Self::Ack(envelope) => write!(f, "Ack\n{envelope}"),
            Self::Entry { envelope, batch } => write!(f, "Entry\n{envelope}\n{batch}"),
            Self::Error(error) => {
                match error.code {
                    ErrorCode::NeedFrom(from) => write!(f, "Error NeedFrom({}:{})", from.replica, from.counter)?,
                    code => write!(f, "Error {code:?}")?,
                }
                write!(f, " fatal {} retry_ms {} {}", error.fatal, error.retry_ms, Text(&error.text))
            }
            Self::Ping(nonce) => write!(f, "Ping {nonce}"),
            Self::Pong(nonce) => write!(f, "Pong {nonce}"),
            Self::Bye => f.write_str("Bye"),
            Self::DigestRequest { min_seq } => write!(f, "DigestRequest min_seq {min_seq}"),
            Self::Entries(entries) => {
                f.write_str("Entries")?;
                entries.iter().try_for_each(|(envelope, batch)| write!(f, "\n{envelope}\n{batch}"))
            }
            Self::Pushes(batches) => {
                f.write_str("Pushes")?;
                batches.iter().try_for_each(|batch| write!(f, "\n{batch}"))
            }
            Self::Digest { seq, digest, documents } => {
                write!(f, "Digest seq {seq} digest {} documents {documents}", Hex(digest))
            }
        }
    }
}
