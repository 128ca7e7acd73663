//! `blazedb dump`: every byte has a meaning, and refused bytes are said to break a rule.

use std::fs;

use serde_json::json;

use crate::support::{Folder, PASSPHRASE, Ran, ndjson, records};

/// Returns the bytes that the lines of a dump show, by their offsets; lines of what was inflated are left out.
fn bytes_of(dump: &str) -> Vec<(usize, Vec<u8>)> {
    let mut out = Vec::new();
    for line in dump.lines() {
        let Some((offset, rest)) = line.split_once("  ") else { continue };
        let (Ok(offset), 8) = (usize::from_str_radix(offset, 16), offset.len()) else { continue };
        let digits: String = rest.chars().take(47).collect();
        let bytes = digits.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect();
        out.push((offset, bytes));
    }
    out
}

/// Asserts that the lines of a dump show all of `bytes`, one after another from `start`.
fn covers(dump: &str, start: usize, bytes: &[u8]) {
    let mut next = start;
    for (offset, shown) in bytes_of(dump).into_iter().filter(|line| line.0 >= start) {
        assert_eq!(offset, next, "lines follow one another");
        assert_eq!(shown, bytes[offset - start..][..shown.len()], "at {offset:x}");
        next += shown.len();
    }
    assert_eq!(next - start, bytes.len(), "every byte is shown");
}

/// Asserts that a dump was refused, with a byte and a rule.
fn is_refused(ran: &Ran, context: &str) {
    assert_eq!(ran.code, 1, "{context}: {ran:?}");
    let line = ran.stdout.lines().find(|line| line.starts_with("refused at byte 0x"));
    assert!(line.is_some_and(|line| line.contains(", rule ")), "{context}: {ran:?}");
}

#[test]
fn an_export_is_explained_byte_by_byte() {
    let folder = Folder::new();
    let file = folder.write("all.ndjson", ndjson(&records(20)));
    folder.import(&file, "a.blaze", "things", &["--id-field", "id"]);
    folder.run(["export", "--db", "a.blaze", "--collection", "things", "--format", "blaze", "-o", "things.bb"]).ok();
    let bytes = fs::read(folder.path().join("things.bb")).expect("the export");
    let dump = folder.run(["dump", "--hex", "things.bb"]).ok().stdout;
    covers(&dump, 0, &bytes);
    for wanted in ["\"BZ\"", "kind 13: Pushes", "CRC-32 ", "0: \"things\"", "column of \"id\"", "kind 9: Bye"] {
        assert!(dump.contains(wanted), "{wanted} is not in {dump}");
    }
    assert!(!dump.contains("not understood"), "{dump}");
    let said = folder.run(["dump", "things.bb"]).ok().stdout;
    assert!(said.starts_with("Pushes\nspace 0000") && said.ends_with("\nBye\n"), "{said}");
    assert_eq!(said.matches("\ncreate \"things\" ").count(), 20);

    // Cut short, or one bit turned: the same lines as far as they go, and then a byte and a rule.
    for at in (0..bytes.len() - 17).step_by(bytes.len() / 9) {
        folder.write("bad.bb", &bytes[..at + 1]);
        is_refused(&folder.run(["dump", "--hex", "bad.bb"]), &format!("cut to {}", at + 1));
        let mut turned = bytes.clone();
        turned[at] ^= 0x10;
        folder.write("bad.bb", &turned);
        is_refused(&folder.run(["dump", "--hex", "bad.bb"]), &format!("a bit of byte {at}"));
        is_refused(&folder.run(["dump", "bad.bb"]), &format!("a bit of byte {at}"));
    }
    folder.write("empty.bb", []);
    assert!(folder.run(["dump", "--hex", "empty.bb"]).ok().stdout.starts_with("no frame at all"));
    folder.run(["dump", "--hex", "none.bb"]).refused(1, &["cannot read none.bb"]);
}

#[test]
fn a_row_and_a_value_are_explained() {
    let folder = Folder::new();
    folder.write("row.bin", b"\x02\x04done\x05title\x01\x02\x80\x00milk");
    let dump = folder.run(["dump", "--hex", "--as", "row", "row.bin"]).ok().stdout;
    covers(&dump, 0, b"\x02\x04done\x05title\x01\x02\x80\x00milk");
    assert!(dump.contains("tag of \"done\": true") && dump.contains("\"title\" = \"milk\""), "{dump}");
    assert_eq!(folder.run(["dump", "--as", "row", "row.bin"]).ok().stdout, "{\"done\": true, \"title\": \"milk\"}\n");

    folder.write("value.bin", [0x52, 0xd2, 4]);
    let dump = folder.run(["dump", "--hex", "--as", "value", "value.bin"]).ok().stdout;
    assert!(dump.contains("decimal of 2 places") && dump.contains("= decimal(12.34)"), "{dump}");
    folder.write("value.bin", [0x22, 7, 0]);
    let ran = folder.run(["dump", "--hex", "--as", "value", "value.bin"]);
    is_refused(&ran, "an integer in two bytes");
    assert!(ran.stdout.contains("refused at byte 0x1, rule V-8:"), "{ran:?}");
    // What a terminal would obey is shown, not sent.
    folder.write("value.bin", b"\x80\x1b[2J\xc2\x9b31m");
    for hex in [&["--hex"][..], &[]] {
        let ran = folder.run([&["dump", "--as", "value", "value.bin"], hex].concat()).ok();
        assert!(!ran.stdout.chars().any(|c| c.is_control() && c != '\n'), "{ran:?}");
    }
}

#[test]
fn pages_of_a_database_are_explained_and_sealed_ones_only_with_the_key() {
    let folder = Folder::new();
    let file = folder.write("one.ndjson", ndjson(&[json!({"marker": "PLAIN-TEXT-MARKER"})]));
    folder.import(&file, "sealed.blaze", "c", &[]);
    folder.import(&file, "open.blaze", "c", &["--unencrypted"]);
    folder.write("secret.txt", PASSPHRASE);
    let first = (128 << 10) / 4096;
    let pages = |name: &str| fs::metadata(folder.path().join(name)).expect("the file").len() / 4096;
    let dump = |name: &str, page: u64, more: &[&str]| {
        let page = page.to_string();
        folder.run([&["dump", "--hex", "--page", &page], more, &[name]].concat())
    };
    let is_marked = |ran: &Ran| {
        let shown: Vec<u8> = bytes_of(&ran.stdout).into_iter().flat_map(|line| line.1).collect();
        shown.windows(17).any(|window| window == b"PLAIN-TEXT-MARKER")
    };

    let header = folder.run(["dump", "--hex", "sealed.blaze"]).ok().stdout;
    let bytes = fs::read(folder.path().join("sealed.blaze")).expect("the file");
    let (one, two) = header.split_once("header slot 1, 4096 bytes").expect("two slots");
    covers(one, 0, &bytes[..4096]);
    covers(two, 64 << 10, &bytes[64 << 10..][..4096]);
    assert!(header.contains("magic \"BLAZEDB") && header.contains("key slot 0: passphrase"), "{header}");

    let with_key = &["--passphrase-file", "secret.txt"][..];
    let (mut kinds, mut marked) = (String::new(), 0);
    for page in first..pages("sealed.blaze") {
        let sealed = dump("sealed.blaze", page, &[]);
        let at = page as usize * 4096;
        covers(sealed.stdout.split_once("\npage ").expect("a page").1, at, &bytes[at..][..4096]);
        assert!(!is_marked(&sealed), "{sealed:?}");
        // A page that was never written has neither a checksum nor a kind.
        let is_written = bytes[at..][..4096].iter().any(|&byte| byte != 0);
        assert_eq!(sealed.code == 0, is_written, "{sealed:?}");
        assert_eq!(sealed.stdout.contains("body, sealed: 4040 bytes"), is_written, "{sealed:?}");
        let opened = dump("sealed.blaze", page, with_key);
        if opened.code == 0 {
            assert!(!opened.stdout.contains("not understood"), "{opened:?}");
            kinds += &opened.stdout;
            marked += u32::from(is_marked(&opened));
        }
    }
    assert_eq!(marked, 1, "the record is in one page");
    for kind in ["kind 1: leaf", "kind 5: space", "kind 6: space index"] {
        assert!(kinds.contains(kind), "{kind} is not there");
    }
    assert!((first..pages("open.blaze")).any(|page| is_marked(&dump("open.blaze", page, &[]))), "not sealed");

    // A bit of the body, of the header, and of a header slot.
    for at in [first as usize * 4096 + 2000, first as usize * 4096 + 9] {
        let mut turned = bytes.clone();
        turned[at] ^= 1;
        folder.write("bad.blaze", &turned);
        is_refused(&dump("bad.blaze", first, &[]), "a page");
        assert_eq!(dump("bad.blaze", first, with_key).code, 1);
    }
    let mut turned = bytes.clone();
    turned[100] ^= 1;
    folder.write("bad.blaze", &turned);
    is_refused(&folder.run(["dump", "bad.blaze"]), "a slot");
    folder.write("bad.blaze", &bytes[..60_000]);
    is_refused(&folder.run(["dump", "--hex", "bad.blaze"]), "half a file");
    dump("sealed.blaze", 1 << 40, &[]).refused(1, &["there is no page 1099511627776"]);
    dump("sealed.blaze", 0, &[]).refused(1, &["there is no page 0"]);
}
