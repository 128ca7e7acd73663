//! `Documents`: a stream of JSON as a stream of documents.
//!
//! ```text
//!             '['                ']'
//!   Start ---------> Array -----------------> Done
//!     |                |  malformed            ^
//!     | else           '-----------------------|
//!     '------------> Values -------------------'
//!                    |    ^   end, or malformed where
//!          malformed '----'   values are not lines
//!        (next line)
//! ```
//!
//! One element is in memory at a time. After a refused element the stream stands behind it and goes on; after a
//! malformed one it can only go on where something other than the text itself says where the next value begins,
//! and that is the end of a line.

use std::io::{BufRead, BufReader, Read};

use super::Limits;
use super::error::{JsonError, JsonErrorKind};
use super::parse::Parser;
use crate::Document;

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How the documents of an input follow each other. spec: J-2
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// Found out from the input: `[` first means one array; else it is [`Lines`](Self::Lines) when the first value
    /// ends on the line where it began, and [`Concatenated`](Self::Concatenated) when it does not.
    #[default]
    Auto,
    /// No value crosses the end of a line (NDJSON, JSON Lines). A malformed line is lost alone.
    Lines,
    /// Values one after another, across lines as they like. A malformed value ends the stream.
    Concatenated,
}

/// A document and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    /// The document.
    pub document: Document,
    /// The line where it begins, from 1.
    pub line: u64,
    /// Its number among the elements of the input, from 0; elements that were not accepted count.
    pub index: u64,
}

/// Reads documents from a stream of JSON: one array of objects, objects one after another, or one object.
///
/// Memory is bounded by the largest element, and that by [`Limits`]. An error does not always end the stream:
/// [`JsonError::resumable`] says whether the next call goes on behind it, so a caller that wants to keep going
/// reports the error and calls again, and a caller that does not stops.
///
/// ```
/// use blazedb_wire::json::{Documents, Limits};
///
/// let input = b"{\"n\": 1}\n{\"n\": 0.1000000000000000055}\n{\"n\": 3}\n";
/// let read: Vec<_> = Documents::new(&input[..], Limits::default()).collect();
/// assert_eq!(read[0].as_ref().unwrap().line, 1);
/// let error = read[1].as_ref().unwrap_err();
/// assert_eq!((error.line, error.path.as_str(), error.resumable), (2, "$.n", true));
/// assert_eq!(read[2].as_ref().unwrap().index, 2);
/// ```
#[derive(Debug)]
pub struct Documents<R> {
    parser: Parser<R>,
    layout: Layout,
    state: State,
    /// The number of the next element.
    index: u64,
}

/// See the picture at the top of this file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Start,
    Array,
    Values,
    Done,
}

impl<R: Read> Documents<BufReader<R>> {
    /// Returns the documents of `reader`, whose layout is found out from its first bytes. The reader needs no
    /// buffer of its own.
    pub fn new(reader: R, limits: Limits) -> Self {
        Self::with_layout(reader, limits, Layout::Auto)
    }

    /// Returns the documents of `reader`, laid out as the caller knows.
    pub fn with_layout(reader: R, limits: Limits, layout: Layout) -> Self {
        Self::from_buffered(BufReader::with_capacity(CHUNK_BYTES, reader), limits, layout)
    }
}

impl<R: BufRead> Documents<R> {
    /// Returns the documents of a reader that has a buffer already.
    pub fn from_buffered(reader: R, limits: Limits, layout: Layout) -> Self {
        Self { parser: Parser::new(reader, limits.element_bytes_max), layout, state: State::Start, index: 0 }
    }

    /// Returns how many bytes of the input were consumed so far; for progress.
    pub fn bytes_read(&self) -> u64 {
        self.parser.input.offset()
    }

    /// Returns the next document, `None` at the end of the input.
    fn step(&mut self) -> Result<Option<Parsed>, JsonError> {
        if self.state == State::Done {
            return Ok(None);
        }
        if self.state == State::Start {
            self.parser.byte_order_mark()?;
        }
        self.parser.input.skip_space(true)?;
        let next = self.parser.input.peek()?;
        match self.state {
            State::Start if next == Some(b'[') && self.layout == Layout::Auto => {
                self.state = State::Array;
                self.parser.input.consume(1);
                self.parser.input.skip_space(true)?;
                if self.parser.input.peek()? == Some(b']') {
                    return self.close();
                }
                self.element().map(Some)
            }
            State::Array => {
                if !self.parser.after_array_item()? {
                    return self.end();
                }
                self.element().map(Some)
            }
            State::Start | State::Values => {
                self.state = State::Values;
                match next {
                    None => self.end(),
                    Some(_) => self.element().map(Some),
                }
            }
            State::Done => Ok(None),
        }
    }

    /// Reads the element that stands here.
    fn element(&mut self) -> Result<Parsed, JsonError> {
        let line = self.parser.input.position().line();
        let index = self.index;
        self.index += 1;
        self.parser.one_line = self.state == State::Values && self.layout == Layout::Lines;
        let result = self.parser.document();
        self.parser.one_line = false;
        let end_line = self.parser.input.position().line();
        if self.state == State::Values && self.layout == Layout::Auto {
            self.layout = if line == end_line { Layout::Lines } else { Layout::Concatenated };
        }
        match result {
            Ok(document) => Ok(Parsed { document, line, index }),
            Err(error) if self.state == State::Array => Err(error.prepend_index(index)),
            Err(error) => Err(error),
        }
    }

    /// Consumes the `]` that stands here.
    fn close(&mut self) -> Result<Option<Parsed>, JsonError> {
        self.parser.input.consume(1);
        self.end()
    }

    /// Makes sure that nothing follows.
    fn end(&mut self) -> Result<Option<Parsed>, JsonError> {
        self.parser.trailing()?;
        self.state = State::Done;
        Ok(None)
    }

    /// Finds out whether the stream can go on behind an error, and gets it there.
    fn recover(&mut self, mut error: JsonError) -> JsonError {
        let io = matches!(error.kind, JsonErrorKind::Io { .. });
        error.resumable = if !error.kind.is_malformed() {
            true
        } else if !io && self.state == State::Values && self.layout == Layout::Lines {
            // A failure to read on will be met again, and told, by the next call.
            let _ = self.parser.input.skip_line();
            true
        } else {
            self.state = State::Done;
            false
        };
        error.finish()
    }
}

impl<R: BufRead> Iterator for Documents<R> {
    type Item = Result<Parsed, JsonError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(parsed) => parsed.map(Ok),
            Err(error) => Some(Err(self.recover(error))),
        }
    }
}

impl<R: BufRead> std::iter::FusedIterator for Documents<R> {}
