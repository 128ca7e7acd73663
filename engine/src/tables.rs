//! The tables of spec/store.md and spec/crypto.md whose offsets are constants here, printed from those constants.
//!
//! The words are in this file and the offsets are not. BLAZE_BLESS=1 writes the tables into the documents.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::backup::format as backup;
use crate::log::group;
use crate::pager::page;
use crate::superblock::{self, KEY_SLOT_BYTES, KEY_SLOTS, SLOT_BYTES};

/// Compares a table of offsets with the first one behind `after`. The last offset is where the whole ends.
fn check(file: &str, after: &str, head: [&str; 3], offsets: &[usize], rows: &[(&str, String)]) {
    assert_eq!(offsets.len(), rows.len() + 1, "an offset for each row, and the end");
    let mut table = format!("| {} |\n|---|---|---|\n", head.join(" | "));
    for (pair, (width, field)) in offsets.windows(2).zip(rows) {
        let bytes = match width.split_once(' ') {
            _ if *width == "rest" || *width == "length" => pair[1] - pair[0],
            // Twelve and twelve.
            _ if width.contains(", ") => width.split(", ").map(|part| part.parse::<usize>().expect("a number")).sum(),
            Some((count, each)) if each.starts_with("x ") => {
                count.parse::<usize>().expect("a number") * each[2..].parse::<usize>().expect("a number")
            }
            _ => match width.strip_prefix('u') {
                Some(bits) => bits.parse::<usize>().expect("a number of bits") / 8,
                None => width.parse().expect("a number of bytes"),
            },
        };
        assert_eq!(pair[1] - pair[0], bytes, "{field} at {}", pair[0]);
        let _ = writeln!(table, "| {} | {width} | {field} |", pair[0]);
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../spec").join(file);
    let text = std::fs::read_to_string(&path).expect("spec/ is complete");
    let from = text.find(after).unwrap_or_else(|| panic!("{file} does not say {after}"));
    let first = format!("\n| {} |\n", head.join(" | "));
    let start = from + text[from..].find(&first).unwrap_or_else(|| panic!("{file}: no table behind {after}")) + 1;
    let end = start + text[start..].find("\n\n").expect("text follows") + 1;
    if std::env::var_os("BLAZE_BLESS").is_some() {
        std::fs::write(&path, [&text[..start], &table, &text[end..]].concat()).expect("spec/ can be written");
        return;
    }
    assert!(text[start..end] == table, "{file}: the code says\n{table}\nand the document\n{}", &text[start..end]);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

const HEAD: [&str; 3] = ["offset", "bytes", "field"];

// spec: BK-2
#[test]
fn the_header_of_a_backup_is_that_of_the_document() {
    let offsets: Vec<usize> = backup::PARTS.into_iter().chain([backup::HEADER_BYTES]).collect();
    let rows = [
        ("8", format!("magic `{}` (\"BLAZEBAK\")", hex(&backup::MAGIC))),
        ("u16", format!("format version: {}", backup::VERSION)),
        ("u8", "cipher (C-1)".into()),
        ("u8", "kind: 0 full, 1 increment".into()),
        ("u16", "key epoch (C-10); 0 with cipher 0".into()),
        ("2", "zero".into()),
        ("16", "file id of the store".into()),
        ("16", "id of the backup, random".into()),
        ("16", "id of the backup that an increment builds on, else zeros".into()),
        ("u64", "commit".into()),
        ("u64", "commit of the backup that an increment builds on, else 0".into()),
        ("u64", "when, in milliseconds since 1970; informative".into()),
        ("4 x 96", "key slots (C-3), as the store's header has them".into()),
        ("4", "zero".into()),
        ("32", "authentication (BK-3)".into()),
        ("u32", format!("CRC-32 of bytes 0 to {}", backup::HEADER_BYTES - 5)),
    ];
    check("backup.md", "## Header", HEAD, &offsets, &rows);
}

// spec: E-2
#[test]
fn the_header_is_that_of_the_document() {
    let offsets: Vec<usize> = superblock::PARTS.into_iter().chain([SLOT_BYTES]).collect();
    let sizes = |sizes: &[String]| match sizes.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    };
    let blocks = sizes(&superblock::LOG_BLOCK_BYTES.map(|bytes| bytes.to_string()));
    let pages = sizes(&crate::pager::PAGE_BYTES.map(|bytes| bytes.to_string()));
    let rows: Vec<(&str, String)> = [
        ("8", format!("magic `{}` (\"BLAZEDB\", zero)", hex(&superblock::MAGIC))),
        ("u16", format!("format version: {}", superblock::FORMAT_VERSION)),
        ("u16", "feature bits: 0".into()),
        ("u8", "cipher of the key epoch (C-1)".into()),
        ("1", "zero".into()),
        ("u16", "key epoch (C-10); 0 with cipher 0".into()),
        ("u64", "sequence; goes up by one with every header written".into()),
        ("16", "file id, random".into()),
        ("u32", format!("log block size: {blocks}")),
        ("u32", format!("page size: {pages}")),
        ("u64", "commit: the one whose state the pages hold".into()),
        ("u64", "durable floor: commits up to this one were durable when this header was written".into()),
        ("u64", "log position: generation (E-18)".into()),
        (
            "u64",
            "log position: offset in the generation's file, a multiple of the log block size".into(),
        ),
        ("16", "log position: chain tag, what the first group from there has for its `previous`".into()),
        ("u8", "height of the tree of roots; 0 where it is empty".into()),
        ("7", "zero".into()),
        ("u64", "page of that tree's root; 0 where it is empty".into()),
        ("u64", "proof of that page".into()),
        ("u64", "entries of that tree".into()),
        ("u64", "page of the space's root; 0 where there is none".into()),
        ("u64", "proof of that page".into()),
        (
            "u64",
            format!(
                "page count: what is named lies before it and the file reaches to it, the {} bytes at its start counted as pages",
                superblock::PAGES_START
            ),
        ),
        ("u64", "when the header was written, in milliseconds since 1970; informative".into()),
        ("52", "previous key (C-10), or zeros".into()),
        ("44", "zero".into()),
        ("4 x 96", "key slots (C-3)".into()),
        ("3420", "zero".into()),
        ("32", "authentication (C-6)".into()),
        ("u32", format!("CRC-32 of bytes 0 to {}", superblock::PARTS[superblock::PARTS.len() - 1] - 1)),
    ]
    .into();
    assert_eq!((KEY_SLOTS, KEY_SLOT_BYTES), (4, 96));
    check("store.md", "**E-2**", HEAD, &offsets, &rows);
}

// spec: E-30
#[test]
fn the_header_of_a_page_is_that_of_the_document() {
    let kinds = ["leaf", "branch", "value", "value index", "space", "space index"];
    let kinds: Vec<String> = kinds.iter().zip(1..).map(|(kind, number)| format!("{number} {kind}")).collect();
    assert_eq!(crate::pager::PageKind::SpaceIndex as usize, kinds.len());
    // A body ends where the page does, which is one of three places.
    let offsets: Vec<usize> = page::PARTS.into_iter().chain([4096]).collect();
    let rows = [
        ("u32", "CRC-32 of all that follows".to_owned()),
        ("u8", format!("kind: {}", kinds.join(", "))),
        ("u8", "cipher of the key epoch".into()),
        ("u16", "key epoch (C-10)".into()),
        ("u64", "page number".into()),
        ("12, 12", "nonce: generation and counter (C-5); zeros without encryption".into()),
        ("16", "tag (C-9)".into()),
        ("rest", "body, sealed; zeros behind what the kind says".into()),
    ];
    check("store.md", "**E-30**", HEAD, &offsets, &rows);
}

// spec: E-7
#[test]
fn the_header_of_a_group_is_that_of_the_document() {
    let offsets: Vec<usize> = group::PARTS.into_iter().chain([usize::MAX]).collect();
    let rows = [
        ("4", format!("magic `{}` (\"BLZG\")", hex(&group::MAGIC))),
        ("u32", format!("payload length, at most {}", crate::limits::GROUP_BYTES_MAX)),
        ("u32", "CRC-32 of the whole group, padding included, without these four bytes".into()),
        ("u32", "how many commits, at least 1".into()),
        ("u64", "number of the first commit".into()),
        ("u64", "durable commit: commits up to this one were durable when the group was written".into()),
        ("u64", "generation of the log (E-18)".into()),
        ("12", "generation of the nonce (C-5)".into()),
        ("u64", "counter (C-5)".into()),
        ("u16", "key epoch (C-10)".into()),
        ("2", "zero".into()),
        ("16", "previous: the tag of the group before; the header's chain tag for the first one after it".into()),
        ("16", "tag (C-7)".into()),
        ("length", "payload, sealed".into()),
    ];
    check("store.md", "**E-7**", HEAD, &offsets, &rows);
}
