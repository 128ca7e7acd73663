//! The parser: one value at a time, straight from the input into a [`Value`].
//!
//! It recurses once per container and a value has at most [`DEPTH_MAX`] of them, so the stack is bounded; what is
//! nested deeper is only skipped, by a loop with a stack of its own. A refusal (see
//! [`JsonErrorKind::is_malformed`]) is raised at its place, and every container on the way out reads itself to its
//! end before it passes the error on. So after a refusal the input stands right behind the refused value, and
//! whoever asked for it may go on; after a malformed text it stands where the text broke.

use std::io::BufRead;

use super::error::{JsonError, JsonErrorKind};
use super::input::{Input, Position};
use super::number;
use crate::limits::{DEPTH_MAX, FIELD_BYTES_MAX, FIELDS_MAX, NAME_BYTES_MAX};
use crate::{Document, Value};

/// The longest text of a number; every float written out in full stays below it. spec: J-13
const NUMBER_TEXT_BYTES_MAX: usize = 1_100;

/// How deep a refused value is followed to find its end; one byte of memory a level.
const SKIP_DEPTH_MAX: usize = 65_536;

/// Reads values from an input.
#[derive(Debug)]
pub(super) struct Parser<R> {
    pub(super) input: Input<R>,
    /// Whether a line feed inside a value is an error.
    pub(super) one_line: bool,
    /// Where the element began and how long it may get.
    element_start: u64,
    element_bytes_max: u64,
    /// The string or number being read; kept to reuse its memory.
    scratch: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq)]
enum Container {
    Object,
    Array,
}

impl Container {
    fn close(self) -> u8 {
        if self == Self::Object { b'}' } else { b']' }
    }

    fn wanted_after(self) -> &'static str {
        if self == Self::Object { "',' or '}'" } else { "',' or ']'" }
    }
}

/// What a skipped text must go on with.
enum Next {
    Key,
    Value,
    After,
}

impl<R: BufRead> Parser<R> {
    pub(super) fn new(reader: R, element_bytes_max: u64) -> Self {
        Self { input: Input::new(reader), one_line: false, element_start: 0, element_bytes_max, scratch: Vec::new() }
    }

    /// Reads one document. White space before it is already consumed. spec: J-1
    pub(super) fn document(&mut self) -> Result<Document, JsonError> {
        self.element_start = self.input.offset();
        let found = match self.input.peek()? {
            Some(b'{') => return self.object(0),
            Some(b'[') => "an array",
            Some(b'"') => "a text",
            Some(b'-' | b'0'..=b'9') => "a number",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            other => return Err(self.unexpected(other, "an object")),
        };
        self.refuse_value(JsonErrorKind::NotADocument { found })
    }

    /// Consumes a byte order mark at the very start of the input; a mark of UTF-16 is an error. spec: J-3
    pub(super) fn byte_order_mark(&mut self) -> Result<(), JsonError> {
        match self.input.peek()? {
            Some(0xef) => {
                for wanted in [0xef, 0xbb, 0xbf] {
                    match self.input.peek()? {
                        Some(byte) if byte == wanted => self.input.consume(1),
                        other => return Err(self.unexpected(other, "a value")),
                    }
                }
                self.input.restart_line();
                Ok(())
            }
            Some(0xfe | 0xff) => Err(self.input.error(JsonErrorKind::Utf16)),
            _ => Ok(()),
        }
    }

    /// Consumes white space up to the end of the input; anything else is an error.
    pub(super) fn trailing(&mut self) -> Result<(), JsonError> {
        self.input.skip_space(true)?;
        match self.input.peek()? {
            None => Ok(()),
            Some(_) => Err(self.input.error(JsonErrorKind::TrailingData)),
        }
    }

    /// Consumes what stands between two elements of the array of documents, or its end; returns whether an element
    /// follows.
    pub(super) fn after_array_item(&mut self) -> Result<bool, JsonError> {
        self.after_item(Container::Array)
    }

    /// Reads one value that is not a document. White space before it is already consumed.
    pub(super) fn top_value(&mut self) -> Result<Value, JsonError> {
        self.element_start = self.input.offset();
        self.value(1)
    }

    /// Reads one value; were it a container, it would be the `depth`-th one around its items.
    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        if self.input.offset() - self.element_start > self.element_bytes_max {
            return self
                .refuse_value(JsonErrorKind::Limit { what: "bytes in one element", max: self.element_bytes_max });
        }
        match self.input.peek()? {
            Some(b'{' | b'[') if depth > DEPTH_MAX => self.refuse_value(JsonErrorKind::TooDeep { max: DEPTH_MAX }),
            Some(b'{') => self.object(depth).map(Value::Map),
            Some(b'[') => self.array(depth).map(Value::Array),
            Some(b'"') => self.string("bytes in one text", FIELD_BYTES_MAX).map(Value::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.literal("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.literal("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.literal("null").map(|()| Value::Null),
            other => Err(self.unexpected(other, "a value")),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, JsonError> {
        self.input.consume(1);
        let mut items = Vec::new();
        self.space()?;
        if self.input.peek()? == Some(b']') {
            self.input.consume(1);
            return Ok(items);
        }
        loop {
            match self.value(depth + 1) {
                Ok(item) => items.push(item),
                Err(error) => {
                    return Err(self.leave(Container::Array, error.prepend_index(items.len() as u64)));
                }
            }
            if !self.after_item(Container::Array)? {
                return Ok(items);
            }
        }
    }

    /// Reads an object. spec: J-4, J-5, J-6
    fn object(&mut self, depth: usize) -> Result<Document, JsonError> {
        self.input.consume(1);
        let mut fields = Fields::default();
        self.space()?;
        if self.input.peek()? == Some(b'}') {
            self.input.consume(1);
            return Ok(Document::new());
        }
        loop {
            let key_at = self.input.position();
            let key = match self.input.peek()? {
                Some(b'"') => self.string("bytes in one key", NAME_BYTES_MAX),
                other => return Err(self.unexpected(other, "a key in quotes")),
            };
            let value = match key {
                Err(error) if error.kind.is_malformed() => return Err(error),
                Err(error) => self.refuse_field(error),
                Ok(key) => match fields.place(&key) {
                    None => {
                        let error = key_at.error(JsonErrorKind::DuplicateKey(key));
                        self.refuse_field(error)
                    }
                    Some(_) if fields.pairs.len() == FIELDS_MAX => {
                        let error =
                            key_at.error(JsonErrorKind::Limit { what: "fields in one object", max: FIELDS_MAX as u64 });
                        self.refuse_field(error)
                    }
                    Some(place) => {
                        self.colon()?;
                        self.value(depth + 1)
                            .map_err(|error| error.prepend_key(&key))
                            .map(|value| fields.insert(place, key, value))
                    }
                },
            };
            if let Err(error) = value {
                return Err(self.leave(Container::Object, error));
            }
            if !self.after_item(Container::Object)? {
                return Ok(fields.into_document());
            }
        }
    }

    /// Reads `:` and a value only to pass over them, then gives back the refusal of their key.
    fn refuse_field(&mut self, error: JsonError) -> Result<(), JsonError> {
        self.colon()?;
        self.skip(Vec::new(), Next::Value)?;
        Err(error)
    }

    /// Passes over the value that stands here, then refuses it.
    fn refuse_value<T>(&mut self, kind: JsonErrorKind) -> Result<T, JsonError> {
        let error = self.input.error(kind);
        self.skip(Vec::new(), Next::Value)?;
        Err(error)
    }

    /// Takes a failed item out of its container: behind a refusal the container is read to its end first.
    fn leave(&mut self, container: Container, error: JsonError) -> JsonError {
        if error.kind.is_malformed() {
            return error;
        }
        match self.skip(vec![container], Next::After) {
            Ok(()) => error,
            Err(worse) => worse,
        }
    }

    /// Consumes what stands between two items, or the end of the container; returns whether an item follows.
    fn after_item(&mut self, container: Container) -> Result<bool, JsonError> {
        self.space()?;
        match self.input.peek()? {
            Some(b',') => {
                self.input.consume(1);
                self.space()?;
                if self.input.peek()? == Some(container.close()) {
                    return Err(self.input.error(JsonErrorKind::TrailingComma));
                }
                Ok(true)
            }
            Some(byte) if byte == container.close() => {
                self.input.consume(1);
                Ok(false)
            }
            other => Err(self.unexpected(other, container.wanted_after())),
        }
    }

    fn colon(&mut self) -> Result<(), JsonError> {
        self.space()?;
        match self.input.peek()? {
            Some(b':') => {
                self.input.consume(1);
                self.space()
            }
            other => Err(self.unexpected(other, "':'")),
        }
    }

    /// Passes over text that is checked for its grammar only, until nothing in `open` is open any more.
    fn skip(&mut self, mut open: Vec<Container>, mut next: Next) -> Result<(), JsonError> {
        loop {
            next = match next {
                Next::Key => {
                    match self.input.peek()? {
                        Some(b'"') => drop(self.scan_string(0)?),
                        other => return Err(self.unexpected(other, "a key in quotes")),
                    }
                    self.colon()?;
                    Next::Value
                }
                Next::Value => match self.input.peek()? {
                    Some(byte @ (b'{' | b'[')) => {
                        if open.len() == SKIP_DEPTH_MAX {
                            return Err(self.input.error(JsonErrorKind::SkipTooDeep { max: SKIP_DEPTH_MAX }));
                        }
                        self.input.consume(1);
                        self.space()?;
                        let (container, first) =
                            if byte == b'{' { (Container::Object, Next::Key) } else { (Container::Array, Next::Value) };
                        if self.input.peek()? == Some(container.close()) {
                            self.input.consume(1);
                            Next::After
                        } else {
                            open.push(container);
                            first
                        }
                    }
                    Some(b'"') => {
                        drop(self.scan_string(0)?);
                        Next::After
                    }
                    Some(b'-' | b'0'..=b'9') => {
                        self.scan_number()?;
                        Next::After
                    }
                    Some(b't') => self.literal("true").map(|()| Next::After)?,
                    Some(b'f') => self.literal("false").map(|()| Next::After)?,
                    Some(b'n') => self.literal("null").map(|()| Next::After)?,
                    other => return Err(self.unexpected(other, "a value")),
                },
                Next::After => match open.last() {
                    None => return Ok(()),
                    Some(&container) => {
                        if !self.after_item(container)? {
                            open.pop();
                            Next::After
                        } else if container == Container::Object {
                            Next::Key
                        } else {
                            Next::Value
                        }
                    }
                },
            };
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), JsonError> {
        for &wanted in word.as_bytes() {
            match self.input.peek()? {
                Some(byte) if byte == wanted => self.input.consume(1),
                other => return Err(self.unexpected(other, "true, false or null")),
            }
        }
        Ok(())
    }

    /// Reads a number. spec: J-10, J-13
    fn number(&mut self) -> Result<Value, JsonError> {
        let at = self.input.position();
        if !self.scan_number()? {
            return Err(
                at.error(JsonErrorKind::Limit { what: "bytes in one number", max: NUMBER_TEXT_BYTES_MAX as u64 })
            );
        }
        let text = str::from_utf8(&self.scratch).expect("digits, signs and points are ASCII");
        number::number_from_text(text).map_err(|kind| at.error(kind))
    }

    /// Consumes a number and leaves its text in `scratch`; returns whether the text fits.
    fn scan_number(&mut self) -> Result<bool, JsonError> {
        self.scratch.clear();
        let mut fits = true;
        if self.input.peek()? == Some(b'-') {
            self.take_digit(b'-', &mut fits);
        }
        match self.input.peek()? {
            Some(b'0') => {
                self.take_digit(b'0', &mut fits);
                if self.input.peek()?.is_some_and(|byte| byte.is_ascii_digit()) {
                    return Err(self.input.error(JsonErrorKind::BadNumber("a zero in front of other digits")));
                }
            }
            _ => self.scan_digits("no digit", &mut fits)?,
        }
        if self.input.peek()? == Some(b'.') {
            self.take_digit(b'.', &mut fits);
            self.scan_digits("no digit behind the point", &mut fits)?;
        }
        if let Some(byte @ (b'e' | b'E')) = self.input.peek()? {
            self.take_digit(byte, &mut fits);
            if let Some(sign @ (b'+' | b'-')) = self.input.peek()? {
                self.take_digit(sign, &mut fits);
            }
            self.scan_digits("no digit in the exponent", &mut fits)?;
        }
        Ok(fits)
    }

    fn scan_digits(&mut self, missing: &'static str, fits: &mut bool) -> Result<(), JsonError> {
        match self.input.peek()? {
            Some(byte) if byte.is_ascii_digit() => {}
            _ => return Err(self.input.error(JsonErrorKind::BadNumber(missing))),
        }
        while let Some(byte @ b'0'..=b'9') = self.input.peek()? {
            self.take_digit(byte, fits);
        }
        Ok(())
    }

    fn take_digit(&mut self, byte: u8, fits: &mut bool) {
        self.input.consume(1);
        if self.scratch.len() < NUMBER_TEXT_BYTES_MAX {
            self.scratch.push(byte);
        } else {
            *fits = false;
        }
    }

    /// Reads a string of at most `max` bytes. spec: J-7, J-8, J-9
    fn string(&mut self, what: &'static str, max: usize) -> Result<String, JsonError> {
        let at = self.input.position();
        match self.scan_string(max)? {
            Some(Refused::TooLong) => Err(at.error(JsonErrorKind::Limit { what, max: max as u64 })),
            Some(Refused::At(at, kind)) => Err(at.error(kind)),
            None => Ok(str::from_utf8(&self.scratch)
                .expect("every run was checked, every escape is a character")
                .to_owned()),
        }
    }

    /// Consumes a string and leaves at most `max` bytes of it in `scratch`. Returns the first reason to refuse it.
    fn scan_string(&mut self, max: usize) -> Result<Option<Refused>, JsonError> {
        self.scratch.clear();
        let mut refused = None;
        // The first half of a surrogate pair, waiting for the second right behind it.
        let mut high: Option<(u32, Position)> = None;
        self.input.consume(1);
        loop {
            let run_at = self.input.position();
            let run_offset = self.input.offset();
            let stopper = self.scan_run(max, &mut refused)?;
            if self.input.offset() != run_offset || stopper != Some(b'\\') {
                refuse_lone(high.take(), &mut refused);
            }
            match stopper {
                Some(b'"') => {
                    self.input.consume(1);
                    return Ok(refused);
                }
                Some(b'\\') => {
                    let at = run_at.plus((self.input.offset() - run_offset) as usize);
                    let unit = self.escape()?;
                    let low = (0xdc00..0xe000).contains(&unit);
                    let scalar = match high {
                        Some((first, _)) if low => 0x10000 + ((first - 0xd800) << 10) + (unit - 0xdc00),
                        _ => unit,
                    };
                    if let Some(character) = char::from_u32(scalar) {
                        if scalar == unit {
                            refuse_lone(high, &mut refused);
                        }
                        high = None;
                        self.push_character(character, max, &mut refused);
                    } else {
                        refuse_lone(high.take(), &mut refused);
                        if low {
                            refuse_lone(Some((unit, at)), &mut refused);
                        } else {
                            high = Some((unit, at));
                        }
                    }
                }
                Some(b'\n') if self.one_line => {
                    return Err(self.input.error(JsonErrorKind::NewlineInValue));
                }
                Some(control) => {
                    return Err(self.input.error(JsonErrorKind::ControlCharacter(control)));
                }
                None => return Err(self.unexpected(None, "'\"'")),
            }
        }
    }

    /// Consumes bytes of a string up to a quote, a backslash or a control character, and returns that unconsumed.
    ///
    /// An escape cannot stand inside a character of UTF-8, so each run must be UTF-8 by itself.
    fn scan_run(&mut self, max: usize, refused: &mut Option<Refused>) -> Result<Option<u8>, JsonError> {
        let run_at = self.input.position();
        let run_start = self.scratch.len();
        let stopper = loop {
            let chunk = self.input.chunk()?;
            let len =
                chunk.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\').unwrap_or(chunk.len());
            let stopper = chunk.get(len).copied();
            let at_end = chunk.is_empty();
            let room = max.saturating_sub(self.scratch.len());
            self.scratch.extend_from_slice(&chunk[..len.min(room)]);
            if len > room {
                refused.get_or_insert(Refused::TooLong);
            }
            self.input.consume(len);
            if stopper.is_some() || at_end {
                break stopper;
            }
        };
        if refused.is_none()
            && let Err(error) = str::from_utf8(&self.scratch[run_start..])
        {
            *refused = Some(Refused::At(run_at.plus(error.valid_up_to()), JsonErrorKind::InvalidUtf8));
        }
        Ok(stopper)
    }

    /// Consumes one escape; returns its character, or one half of a surrogate pair.
    fn escape(&mut self) -> Result<u32, JsonError> {
        self.input.consume(1);
        let byte = self.input.peek()?;
        let unit = match byte {
            Some(byte @ (b'"' | b'\\' | b'/')) => u32::from(byte),
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => 0x0a,
            Some(b'r') => 0x0d,
            Some(b't') => 0x09,
            Some(b'u') => {
                self.input.consume(1);
                return self.four_hex();
            }
            Some(b'\n') if self.one_line => {
                return Err(self.input.error(JsonErrorKind::NewlineInValue));
            }
            Some(byte) => return Err(self.input.error(JsonErrorKind::BadEscape(byte))),
            None => return Err(self.unexpected(None, "an escape")),
        };
        self.input.consume(1);
        Ok(unit)
    }

    fn four_hex(&mut self) -> Result<u32, JsonError> {
        let mut unit = 0;
        for _ in 0..4 {
            let byte = self.input.peek()?;
            match byte.and_then(|byte| char::from(byte).to_digit(16)) {
                Some(digit) => unit = unit << 4 | digit,
                None => return Err(self.unexpected(byte, "four hexadecimal digits behind \\u")),
            }
            self.input.consume(1);
        }
        Ok(unit)
    }

    fn push_character(&mut self, character: char, max: usize, refused: &mut Option<Refused>) {
        if self.scratch.len() + character.len_utf8() <= max {
            self.scratch.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        } else {
            refused.get_or_insert(Refused::TooLong);
        }
    }

    /// Consumes white space inside a value.
    fn space(&mut self) -> Result<(), JsonError> {
        if self.input.skip_space(!self.one_line)? && self.one_line {
            return Err(self.input.error(JsonErrorKind::NewlineInValue));
        }
        Ok(())
    }

    pub(super) fn unexpected(&self, found: Option<u8>, wanted: &'static str) -> JsonError {
        self.input.error(match found {
            Some(b'\n') if self.one_line => JsonErrorKind::NewlineInValue,
            Some(found) => JsonErrorKind::UnexpectedByte { found, wanted },
            None => JsonErrorKind::UnexpectedEnd { wanted },
        })
    }
}

/// Why a string that ended properly is not accepted.
enum Refused {
    TooLong,
    At(Position, JsonErrorKind),
}

/// Records that `half` stayed alone, if there is one.
fn refuse_lone(half: Option<(u32, Position)>, refused: &mut Option<Refused>) {
    if let Some((unit, at)) = half {
        refused.get_or_insert(Refused::At(at, JsonErrorKind::LoneSurrogate(unit)));
    }
}

/// The fields of an object while it is read, in the order of the text, with their order by name beside them.
#[derive(Default)]
struct Fields {
    pairs: Vec<(String, Value)>,
    /// Indexes into `pairs`, by ascending name. A name is found by bisection, and a late small name moves two bytes
    /// per field instead of a whole pair.
    by_name: Vec<u16>,
}

const _: () = assert!(FIELDS_MAX <= u16::MAX as usize + 1);

impl Fields {
    /// Returns where `key` belongs among the names, or `None` when it is there already.
    fn place(&self, key: &str) -> Option<usize> {
        // Most objects are written with their names in one order; the first question is whether this is the last.
        match self.by_name.last() {
            None => Some(0),
            Some(&last) if self.pairs[usize::from(last)].0.as_str() < key => Some(self.by_name.len()),
            Some(_) => self.by_name.binary_search_by(|&index| self.pairs[usize::from(index)].0.as_str().cmp(key)).err(),
        }
    }

    fn insert(&mut self, place: usize, key: String, value: Value) {
        self.by_name.insert(place, self.pairs.len() as u16);
        self.pairs.push((key, value));
    }

    fn into_document(mut self) -> Document {
        if !self.by_name.is_sorted() {
            self.pairs.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        }
        Document::from_sorted(self.pairs)
    }
}
