//! The fuzz target of the JSON bridge: what must hold for every input.

use std::io::{BufReader, Read};

use super::{Documents, Layout, Limits, parse_value, write_document, write_value};

/// Panics unless the bridge keeps its word on `input`.
///
/// Post-conditions: reading ends; the chunks in which the input arrives change nothing; an error stands inside the
/// input or right behind it; a stream goes on after an error exactly when the error says so; what was accepted
/// writes a text that reads back as the same value and writes the same text.
pub fn fuzz_json(input: &[u8]) {
    for layout in [Layout::Auto, Layout::Lines, Layout::Concatenated] {
        let whole = read_all(Documents::with_layout(input, Limits::default(), layout), input);
        let chopped = BufReader::with_capacity(1, OneByte(input));
        let chopped = read_all(Documents::from_buffered(chopped, Limits::default(), layout), input);
        assert_eq!(whole, chopped, "chunks change what is read");
        let small = Limits { element_bytes_max: 8 };
        let _ = read_all(Documents::with_layout(input, small, layout), input);
    }
    if let Ok(value) = parse_value(input) {
        let mut text = Vec::new();
        write_value(&value, &mut text).expect("what JSON can say, JSON can write");
        let again = parse_value(&text).expect("what was written can be read");
        assert_eq!(again, value, "a value changed on its way");
        let mut again_text = Vec::new();
        write_value(&again, &mut again_text).expect("written once already");
        assert_eq!(again_text, text, "one value, two texts");
    }
}

/// Reads every element; returns texts of documents and of errors.
fn read_all<R: std::io::BufRead>(mut documents: Documents<R>, input: &[u8]) -> Vec<Result<String, String>> {
    let lines = input.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    let mut seen = Vec::new();
    let mut over = false;
    for element in documents.by_ref() {
        assert!(!over, "an element behind an error that ended the stream");
        assert!(seen.len() <= input.len(), "more elements than bytes");
        seen.push(match element {
            Ok(parsed) => {
                let mut text = Vec::new();
                write_document(&parsed.document, &mut text).expect("what JSON can say, JSON can write");
                let again = super::parse_document(&text).expect("what was written can be read");
                assert_eq!(again, parsed.document, "a document changed on its way");
                assert!(parsed.line <= lines, "a line behind the input");
                Ok(format!("{} {} {}", parsed.line, parsed.index, String::from_utf8_lossy(&text)))
            }
            Err(error) => {
                over = !error.resumable;
                assert!(error.line <= lines && error.column <= input.len() as u64 + 1, "an error behind the input");
                Err(format!("{error} {over}"))
            }
        });
    }
    assert!(documents.next().is_none(), "an element behind the end");
    seen
}

/// A reader that gives one byte at a time.
struct OneByte<'a>(&'a [u8]);

impl Read for OneByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(1);
        self.0.read(&mut buffer[..len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces that make JSON, nearly JSON, and what breaks it, when thrown together.
    const PIECES: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\n",
        " ",
        "\r\n",
        "\"",
        "\"a\"",
        "\"b\":",
        "{\"a\":",
        "1",
        "-0",
        "1e3",
        "0.1",
        "1e400",
        "0.30000000000000004",
        "123456789012345678901",
        "01",
        "null",
        "true",
        "fals",
        "\\",
        "\\ud800",
        "\\udc00",
        "\\n",
        "\\u0000",
        "\u{e9}",
        "\u{feff}",
        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        "{\"a\":1}\n",
        "\0",
        "\t",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_of_json(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..24)) {
            fuzz_json(pieces.concat().as_bytes());
        }

        #[test]
        fn damaged_lines(line in "\\{\"[a-c]\":(\\[[0-9.,e-]{0,8}\\]|\"[a-z\\\\\"\n]{0,4}\"),\"[a-c]\":[0-9]\\}", cut in 0usize..30) {
            let cut = cut.min(line.len());
            fuzz_json(format!("{line}\n{}\n{line}", &line[..cut]).as_bytes());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            fuzz_json(&bytes);
        }
    }
}
