//! `blazedb dump`: what bytes say, and with `--hex` what each of them means.
//!
//! One frame, header slot or page is in memory at a time. Refused bytes are explained as far as they make sense.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use blazedb::{Env, Store};
use blazedb_engine::explain::{HEADER_SLOT_BYTES, HEADER_SLOTS, HeaderFacts, explain_page, explain_slot};
use blazedb_wire::explain::{Encoding, Part, explain, rule};
use blazedb_wire::limits::{BATCH_SINGLE_BYTES_MAX, COLUMNS_ROWS_BYTES_MAX, FRAME_BODY_BYTES_MAX};
use blazedb_wire::{Batch, Columns, DecodeError, Envelope, Frame, HEADER_BYTES, Reader, Row, Shape, Value};
use bytes::Bytes;

use super::args::{DumpArgs, DumpKind};
use super::failure::Failure;
use super::{Outcome, exit, passphrase};

/// Bytes of one line.
const LINE_BYTES: usize = 16;

/// Longest input that is no frames and no database: everything that it can be is shorter.
const WHOLE_BYTES_MAX: u64 = 2 * (BATCH_SINGLE_BYTES_MAX + COLUMNS_ROWS_BYTES_MAX) as u64;

/// What a database begins with, all but the last byte of its magic.
pub(crate) const STORE_MAGIC: &[u8; 7] = b"BLAZEDB";

/// How dumping may end early.
enum Stop {
    /// Nobody reads any more, or the disk is full.
    Output(io::Error),
    Input(Failure),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the command.
pub(crate) fn run(args: &DumpArgs) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = dump(args, &mut out).and_then(|refused| out.flush().map(|()| refused).map_err(Stop::Output));
    match outcome {
        Ok(0) => Ok(exit::DONE),
        Ok(refused) => Err(Failure::new(
            format!("{} in {} refused", super::ui::plural(refused, "thing"), args.file.display()),
            "look for `refused` in the output: it names the byte and the rule in spec/",
        )),
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        Err(Stop::Output(error)) => Err(Failure::io("cannot write", &error)),
        Err(Stop::Input(failure)) => Err(failure),
    }
}

/// Returns how many things were refused.
fn dump(args: &DumpArgs, out: &mut dyn Write) -> Result<u64, Stop> {
    let shown = args.file.display();
    let cannot_read = |error: io::Error| Stop::Input(Failure::io(format!("cannot read {shown}"), &error));
    if args.file == Path::new("-") {
        return stream(args, &mut BufReader::new(io::stdin().lock()), out);
    }
    let mut file = File::open(&args.file).map_err(cannot_read)?;
    let mut first = Vec::new();
    (&mut file).take(STORE_MAGIC.len() as u64).read_to_end(&mut first).map_err(cannot_read)?;
    let is_store = args.kind == DumpKind::Store || (args.kind == DumpKind::Auto && first == STORE_MAGIC);
    if is_store {
        return store(args, &mut file, out);
    }
    file.rewind().map_err(cannot_read)?;
    stream(args, &mut BufReader::new(file), out)
}

fn stream(args: &DumpArgs, input: &mut dyn Read, out: &mut dyn Write) -> Result<u64, Stop> {
    if args.page.is_some() {
        return Err(Stop::Input(Failure::new(
            format!("{} is no database file, so that it has no pages", args.file.display()),
            "leave --page away, or check the path",
        )));
    }
    let encoding = match args.kind {
        DumpKind::Auto | DumpKind::Frames | DumpKind::Store => return frames(args, input, out),
        DumpKind::Batch => Encoding::Batch,
        DumpKind::Envelope => Encoding::Envelope,
        DumpKind::Columns => Encoding::Columns,
        DumpKind::Row => Encoding::Row,
        DumpKind::Value => Encoding::Value,
    };
    let mut bytes = Vec::new();
    input.take(WHOLE_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| read_failed(args, &error))?;
    one(args, encoding, &bytes, 0, "", out)
}

fn read_failed(args: &DumpArgs, error: &io::Error) -> Stop {
    Stop::Input(Failure::io(format!("cannot read {}", args.file.display()), error))
}

/// Frames one behind the other, until one has no length that can be believed.
fn frames(args: &DumpArgs, input: &mut dyn Read, out: &mut dyn Write) -> Result<u64, Stop> {
    let (mut at, mut refused) = (0, 0);
    for index in 0u64.. {
        let mut frame = Vec::new();
        let failed = |error| read_failed(args, &error);
        input.take(HEADER_BYTES as u64).read_to_end(&mut frame).map_err(failed)?;
        if frame.is_empty() {
            if index == 0 {
                writeln!(out, "no frame at all: an export of nothing is empty, too")?;
            }
            return Ok(refused);
        }
        let length = match frame.get(8..12).and_then(|length| <[u8; 4]>::try_from(length).ok()) {
            Some(length) if frame.starts_with(b"BZ") => u64::from(u32::from_le_bytes(length)),
            // Nothing says where the next one begins; what follows is shown as it is.
            _ => u64::MAX,
        };
        let is_believed = length <= FRAME_BODY_BYTES_MAX as u64;
        let wanted = length.min(FRAME_BODY_BYTES_MAX as u64);
        input.take(wanted).read_to_end(&mut frame).map_err(failed)?;
        refused += one(args, Encoding::Frame, &frame, at, &format!("frame {index}, "), out)?;
        at += frame.len();
        if !is_believed {
            writeln!(out, "no frame can be found after this one")?;
            return Ok(refused);
        }
    }
    Ok(refused)
}

/// One thing, which lies at `base` of the input; returns 1 if it is refused.
fn one(
    args: &DumpArgs,
    encoding: Encoding,
    bytes: &[u8],
    base: usize,
    label: &str,
    out: &mut dyn Write,
) -> Result<u64, Stop> {
    if args.hex {
        writeln!(out, "{label}{} bytes", bytes.len())?;
    }
    let mut printer = Printer { out, base, failed: None };
    let outcome = if args.hex {
        explain(encoding, bytes, &mut |part| printer.part(&part))
    } else {
        printer.says(encoding, bytes)
    };
    printer.finish()?;
    let Err(error) = outcome else { return Ok(0) };
    let at = base.saturating_add(error.offset);
    writeln!(out, "refused at byte {at:#x}, rule {}: {error}", rule(encoding, &error))?;
    Ok(1)
}

/// Writes lines; keeps the first error, as those who call it cannot take one.
struct Printer<'o> {
    out: &'o mut dyn Write,
    base: usize,
    failed: Option<io::Error>,
}

impl Printer<'_> {
    fn line(&mut self, line: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.out, "{line}").err();
        }
    }

    fn part(&mut self, part: &Part<'_>) {
        let offset = self.base.saturating_add(part.offset);
        let meaning = format!("{}{}", "  ".repeat(part.depth), part.meaning);
        match part.inflated {
            true => self.columns('+', part.offset, part.bytes, &meaning),
            false => self.columns('0', offset, part.bytes, &meaning),
        }
    }

    /// Offset, bytes, meaning.
    fn columns(&mut self, sign: char, offset: usize, bytes: &[u8], meaning: &str) {
        for (index, bytes) in bytes.chunks(LINE_BYTES).enumerate() {
            let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            let offset = format!("{sign}{:07x}", offset.saturating_add(index * LINE_BYTES));
            let line = match index {
                0 => format!("{offset}  {digits:47}  {meaning}"),
                _ => format!("{offset}  {digits}"),
            };
            self.line(&line);
        }
    }

    /// What bytes say, in the notation of the test vectors.
    fn says(&mut self, encoding: Encoding, bytes: &[u8]) -> Result<(), DecodeError> {
        let owned = || Bytes::copy_from_slice(bytes);
        let text = match encoding {
            Encoding::Frame => Frame::decode(owned())?.to_string(),
            Encoding::Batch => Batch::decode(owned())?.to_string(),
            Encoding::Envelope => Envelope::decode(bytes)?.to_string(),
            Encoding::Columns => Columns::decode(bytes)?.to_string(),
            Encoding::Row => {
                let mut reader = Reader::new(bytes);
                let shape = Shape::decode(&mut reader)?;
                let at = reader.offset();
                let body = Bytes::copy_from_slice(reader.rest());
                Row::decode(shape, body).map_err(|error| error.shifted(at))?.to_string()
            }
            Encoding::Value => {
                let (tag, payload) = bytes.split_at(bytes.len().min(1));
                // Without a tag there is nothing, which is no value.
                let tag = tag.first().copied().unwrap_or(0xff);
                Value::decode(tag, payload).map_err(|error| error.shifted(1))?.to_string()
            }
        };
        for line in text.lines() {
            // Control characters in a text are escaped already, but for those above 127.
            let line: String = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            self.line(&line);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Stop> {
        self.failed.map_or(Ok(()), |error| Err(Stop::Output(error)))
    }
}

/// The header of a database, and a page if one is asked for.
fn store(args: &DumpArgs, file: &mut File, out: &mut dyn Write) -> Result<u64, Stop> {
    let mut refused = 0;
    let mut newest: Option<HeaderFacts> = None;
    for (index, &offset) in HEADER_SLOTS.iter().enumerate() {
        let slot = read_at(args, file, offset, HEADER_SLOT_BYTES)?;
        if args.hex {
            writeln!(out, "header slot {index}, {} bytes", slot.len())?;
        }
        let mut printer = Printer { out, base: 0, failed: None };
        let found = explain_slot(&slot, offset, &mut |part| {
            if args.hex {
                printer.columns('0', part.offset as usize, part.bytes, &part.meaning);
            }
        });
        printer.finish()?;
        match found {
            Ok(Some(facts)) => {
                let HeaderFacts { sequence, page_bytes, first_page, page_count, encrypted } = facts;
                let seal = if encrypted { "encrypted" } else { "not encrypted" };
                writeln!(
                    out,
                    "header slot {index}: header {sequence}, pages of {page_bytes} bytes, from {first_page} up to {page_count}, {seal}"
                )?;
                newest = newest.filter(|newest| newest.sequence > sequence).or(Some(facts));
            }
            // A new store has written one of them alone.
            Ok(None) if slot.len() < HEADER_SLOT_BYTES => {
                writeln!(out, "refused at byte {offset:#x}, rule E-5: the file ends in or before this slot")?;
                refused += 1;
            }
            Ok(None) if slot.iter().all(|&byte| byte == 0) => writeln!(out, "header slot {index}: not written yet")?,
            Ok(None) => {
                writeln!(out, "refused at byte {offset:#x}, rule E-4: magic or checksum of this slot do not hold")?;
                refused += 1;
            }
            Err(error) => {
                writeln!(out, "refused at byte {offset:#x}, rule E-3: {error}")?;
                refused += 1;
            }
        }
    }
    let Some(no) = args.page else { return Ok(refused) };
    let Some(facts) = newest else {
        return Err(Stop::Input(Failure::new(
            format!("{} has no header that says how long its pages are", args.file.display()),
            "restore a copy of the file",
        )));
    };
    if !(facts.first_page..facts.page_count).contains(&no) {
        return Err(Stop::Input(Failure::new(
            format!("there is no page {no}: the pages are {} up to {}", facts.first_page, facts.page_count),
            "choose one of them",
        )));
    }
    Ok(refused + page(args, file, facts, no, out)?)
}

fn page(args: &DumpArgs, file: &mut File, facts: HeaderFacts, no: u64, out: &mut dyn Write) -> Result<u64, Stop> {
    let offset = no.saturating_mul(facts.page_bytes as u64);
    let bytes = read_at(args, file, offset, facts.page_bytes)?;
    let opened = match facts.encrypted {
        true if args.passphrase_file.is_some() => Some(open_page(args, no)?),
        _ => None,
    };
    writeln!(out, "page {no}, {} bytes", bytes.len())?;
    let body = opened.as_ref().and_then(|opened| opened.as_ref().ok()).map(Vec::as_slice);
    let mut printer = Printer { out, base: 0, failed: None };
    let outcome = explain_page(&bytes, offset, body, &mut |part| {
        printer.columns('0', part.offset as usize, part.bytes, &part.meaning);
    });
    printer.finish()?;
    let mut refused = 0;
    if let Err((at, rule)) = outcome {
        writeln!(out, "refused at byte {at:#x}, rule {rule}")?;
        refused += 1;
    }
    if let Some(Err(why)) = opened {
        writeln!(out, "refused at byte {offset:#x}, rule E-32: {why}")?;
        refused += 1;
    }
    Ok(refused)
}

/// Reads as many bytes as there are, up to `count`.
fn read_at(args: &DumpArgs, file: &mut File, offset: u64, count: usize) -> Result<Vec<u8>, Stop> {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(count as u64).read_to_end(&mut bytes));
    read.map_err(|error| read_failed(args, &error))?;
    Ok(bytes)
}

/// Opens the store for one page.
fn open_page(args: &DumpArgs, no: u64) -> Result<Result<Vec<u8>, &'static str>, Stop> {
    let secret = passphrase::find(&args.file, args.passphrase_file.as_deref(), false).map_err(Stop::Input)?;
    let options = blazedb_engine::Options::passphrase(secret.as_str()).create(false).read_only(true);
    let next = "check the passphrase and the path; without --passphrase-file the page's header is shown";
    let store = Store::open(Env::file(&args.file), options)
        .map_err(|error| Stop::Input(Failure::because(format!("cannot open {}", args.file.display()), &error, next)))?;
    store.open_page(no).map_err(|error| read_failed(args, &error))
}
