//! A reader of bytes that knows where it stands.
//!
//! Only white space may hold a line feed in a well-formed text, so the line moves in exactly one place,
//! [`Input::newline`]; whoever eats a line feed calls it.

use std::io::{BufRead, ErrorKind};

use super::error::{JsonError, JsonErrorKind};

/// A place in the input, before it is turned into a line and a column for people.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    line: u64,
    column: u64,
}

impl Position {
    /// The same line, `bytes` further on.
    pub(super) fn plus(self, bytes: usize) -> Self {
        Self { column: self.column + bytes as u64, ..self }
    }

    pub(super) fn line(self) -> u64 {
        self.line
    }

    fn io_error(self, error: &std::io::Error) -> JsonError {
        self.error(JsonErrorKind::Io { kind: error.kind(), message: error.to_string() })
    }

    /// An error at this place; its path is still empty.
    pub(super) fn error(self, kind: JsonErrorKind) -> JsonError {
        JsonError { line: self.line, column: self.column, path: String::new(), kind, resumable: false }
    }
}

/// The input: chunks of a reader, consumed byte by byte or run by run.
#[derive(Debug)]
pub(super) struct Input<R> {
    reader: R,
    /// Bytes consumed so far.
    offset: u64,
    /// The current line, from 1.
    line: u64,
    /// The offset of the current line's first byte.
    line_start: u64,
}

impl<R: BufRead> Input<R> {
    pub(super) fn new(reader: R) -> Self {
        Self { reader, offset: 0, line: 1, line_start: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn position(&self) -> Position {
        Position { line: self.line, column: self.offset - self.line_start + 1 }
    }

    pub(super) fn error(&self, kind: JsonErrorKind) -> JsonError {
        self.position().error(kind)
    }

    /// Returns the bytes at hand without consuming them; empty only at the end of the input.
    pub(super) fn chunk(&mut self) -> Result<&[u8], JsonError> {
        loop {
            match self.reader.fill_buf() {
                Ok([]) => return Ok(&[]),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.position().io_error(&error)),
            }
        }
        // Asked twice because a borrow cannot leave the loop above; the second time the bytes are there already.
        let position = self.position();
        self.reader.fill_buf().map_err(|error| position.io_error(&error))
    }

    /// Returns the next byte without consuming it, `None` at the end.
    #[inline]
    pub(super) fn peek(&mut self) -> Result<Option<u8>, JsonError> {
        // What `chunk` does, without its second question: this is asked for every byte between strings.
        match self.reader.fill_buf() {
            Ok(chunk) => Ok(chunk.first().copied()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(self.chunk()?.first().copied()),
            Err(error) => Err(self.position().io_error(&error)),
        }
    }

    /// Consumes `count` bytes of the chunk, none of them a line feed (see [`newline`](Self::newline)).
    #[inline]
    pub(super) fn consume(&mut self, count: usize) {
        self.reader.consume(count);
        self.offset += count as u64;
    }

    /// Tells that the byte just consumed was a line feed.
    pub(super) fn newline(&mut self) {
        self.line += 1;
        self.line_start = self.offset;
    }

    /// Makes the next byte column 1 of the line; used behind a byte order mark, which no editor shows.
    pub(super) fn restart_line(&mut self) {
        self.line_start = self.offset;
    }

    /// Consumes white space, and what it is told to allow of line feeds. Returns whether it stopped at a line feed
    /// that it was not to cross.
    pub(super) fn skip_space(&mut self, cross_lines: bool) -> Result<bool, JsonError> {
        loop {
            let chunk = self.chunk()?;
            let blank = chunk.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r')).count();
            let stopper = chunk.get(blank).copied();
            let at_end = chunk.is_empty();
            self.consume(blank);
            match stopper {
                Some(b'\n') if cross_lines => {
                    self.consume(1);
                    self.newline();
                }
                Some(byte) => return Ok(byte == b'\n'),
                None if at_end => return Ok(false),
                None => {}
            }
        }
    }

    /// Consumes everything up to and including the next line feed.
    pub(super) fn skip_line(&mut self) -> Result<(), JsonError> {
        loop {
            let chunk = self.chunk()?;
            let len = chunk.len();
            if len == 0 {
                return Ok(());
            }
            match chunk.iter().position(|&byte| byte == b'\n') {
                Some(at) => {
                    self.consume(at + 1);
                    self.newline();
                    return Ok(());
                }
                None => self.consume(len),
            }
        }
    }
}
