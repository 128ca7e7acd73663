//! Rules about Rust files, one at a time.

use super::tree::{Offence, Source, Tree, has_word};

/// Longest source file, in lines: what one sitting can read.
const FILE_LINES_MAX: usize = 900;

/// Crate roots that forbid unsafe code.
const FORBIDS_UNSAFE: [&str; 4] = ["sync/src/lib.rs", "src/lib.rs", "relay/src/lib.rs", "relay/src/main.rs"];
/// Crate roots that deny it, and the three modules that may allow it: what is mapped, what is shared, and text.
const DENIES_UNSAFE: [&str; 2] = ["engine/src/lib.rs", "wire/src/lib.rs"];
const MAY_ALLOW_UNSAFE: [&str; 3] = ["engine/src/env/map.rs", "engine/src/pager/frames/slab.rs", "wire/src/text.rs"];
/// Most lines of such a module: what is unsafe is read as a whole.
const UNSAFE_LINES_MAX: usize = 299;

/// Folders of the rooms that get time, chance and files handed in.
const PURE: [&str; 3] = ["wire/src/", "sync/src/", "engine/src/"];
/// The one folder inside them that is the world.
const WORLD: &str = "engine/src/env/";
/// Words by which code reads a clock or makes chance.
const WORLD_WORDS: [&str; 6] = ["SystemTime", "Instant::now", "getrandom", "rand::", "thread_rng", "RandomState"];
/// Macros by which a library would talk past its caller.
const PRINTS: [&str; 4] = ["println!", "print!", "eprintln!", "eprint!"];

/// Whether code names a word that may end in the punctuation of a macro or a path.
fn names(code: &str, word: &str) -> bool {
    code.contains(word) && has_word(code, word.trim_end_matches(['!', ':']))
}

/// Crate roots carry `#![forbid(unsafe_code)]`; those of engine and wire deny it, and three short modules may allow it.
pub(super) fn forbids_unsafe(tree: &Tree) -> Vec<Offence> {
    let has_line = |path: &str, wanted: &str| {
        let text = tree.get(path).unwrap_or_default();
        Source::of(path, text).code.lines().any(|line| line.trim() == wanted)
    };
    let forbid = "#![forbid(unsafe_code)]";
    let mut offences: Vec<_> = FORBIDS_UNSAFE
        .into_iter()
        .filter(|path| !has_line(path, forbid))
        .map(|path| Offence::new(path, 1, "`#![forbid(unsafe_code)]` is missing"))
        .collect();
    for path in DENIES_UNSAFE.into_iter().filter(|path| !has_line(path, "#![deny(unsafe_code)]")) {
        offences.push(Offence::new(path, 1, "`#![deny(unsafe_code)]` is missing"));
    }
    let may_not = |path: &str| {
        DENIES_UNSAFE.iter().any(|root| path.starts_with(root.trim_end_matches("lib.rs")))
            && !MAY_ALLOW_UNSAFE.contains(&path)
            // What they test is nowhere else.
            && path != "engine/src/pager/frames/tests.rs"
    };
    for (path, text) in tree.rust().filter(|(path, _)| may_not(path)) {
        if Source::of(path, text).code.contains("allow(unsafe_code)") {
            offences.push(Offence::new(path, 1, "only the map, the frames and text may allow unsafe code"));
        }
    }
    for path in MAY_ALLOW_UNSAFE.into_iter().filter(|path| tree.exists(path)) {
        let lines = tree.get(path).unwrap_or_default().lines().count();
        if lines > UNSAFE_LINES_MAX {
            offences.push(Offence::new(path, lines, format!("unsafe code in more than {UNSAFE_LINES_MAX} lines")));
        }
    }
    offences
}

/// wire, sync and engine outside `env/` read no clock, make no chance and print nothing; the facade prints nothing.
pub(super) fn no_world(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.rust() {
        let is_pure = PURE.iter().any(|room| path.starts_with(room)) && !path.starts_with(WORLD);
        let is_silent = is_pure || path.starts_with("src/");
        for (line, code) in Source::of(path, text).product_lines() {
            for word in WORLD_WORDS.iter().filter(|word| is_pure && names(code, word)) {
                offences.push(Offence::new(path, line, format!("`{word}` outside {WORLD}: take it as an argument")));
            }
            for print in PRINTS.iter().filter(|print| is_silent && names(code, print)) {
                offences.push(Offence::new(path, line, format!("{print} in a library")));
            }
        }
    }
    offences
}

/// The first thing in every file, after inner attributes, is `//!`.
pub(super) fn opens_with_purpose(tree: &Tree) -> Vec<Offence> {
    let opens = |text: &str| {
        text.lines()
            .find(|line| !line.trim().is_empty() && !line.starts_with("#!"))
            .is_some_and(|line| line.starts_with("//! "))
    };
    tree.rust()
        .filter(|(_, text)| !opens(text))
        .map(|(path, _)| Offence::new(path, 1, "the module does not open with `//!` and its purpose"))
        .collect()
}

/// No macro or note that says the work is not finished.
pub(super) fn leftovers(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.rust() {
        let source = Source::of(path, text);
        for (i, (code, comment)) in source.code.lines().zip(source.comments.lines()).enumerate() {
            for name in ["todo!", "dbg!", "unimplemented!"] {
                if names(code, name) {
                    offences.push(Offence::new(path, i + 1, format!("leftover {name}")));
                }
            }
            for note in ["TODO", "FIXME", "XXX"] {
                if has_word(comment, note) {
                    offences.push(Offence::new(path, i + 1, format!("leftover {note}: do it, or open an issue")));
                }
            }
        }
    }
    offences
}

/// A test that does not run is a promise that nobody keeps.
pub(super) fn ignored_tests(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.rust() {
        for (i, code) in Source::of(path, text).code.lines().enumerate() {
            let tight: String = code.chars().filter(|c| !c.is_whitespace()).collect();
            if tight.contains("#[ignore") || (tight.contains("cfg_attr(") && tight.contains(",ignore")) {
                offences.push(Offence::new(path, i + 1, "ignored test: make it run, or delete it"));
            }
        }
    }
    offences
}

/// Sources and manifests are plain ASCII; other characters are written as escapes.
pub(super) fn ascii(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.rust().chain(tree.manifests()) {
        for (i, line) in text.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| !c.is_ascii() || (c.is_ascii_control() && *c != '\t')) {
                offences.push(Offence::new(path, i + 1, format!("U+{:04X} in source", u32::from(c))));
            }
        }
    }
    offences
}

/// No file is longer than one sitting.
pub(super) fn length(tree: &Tree) -> Vec<Offence> {
    tree.rust()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(path, lines)| Offence::new(path, lines, format!("{lines} lines; split it at {FILE_LINES_MAX}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(offences: &[Offence]) -> Vec<usize> {
        offences.iter().map(|offence| offence.line).collect()
    }

    #[test]
    fn a_crate_without_the_attribute_is_found() {
        let good = "//! Good.\n#![forbid(unsafe_code)]\n";
        let in_a_comment = "//! #![forbid(unsafe_code)]\n";
        let mut files: Vec<_> = FORBIDS_UNSAFE.iter().map(|path| (*path, good)).collect();
        files.extend(DENIES_UNSAFE.map(|path| (path, "//! Good.\n#![deny(unsafe_code)]\n")));
        files.push((MAY_ALLOW_UNSAFE[0], "//! Good.\n#![allow(unsafe_code)]\n"));
        assert_eq!(forbids_unsafe(&Tree::of(&files)), []);
        let mut broken = files.clone();
        broken[0].1 = in_a_comment;
        assert_eq!(forbids_unsafe(&Tree::of(&broken))[0].path, "sync/src/lib.rs");
        let long = format!("//! Long.\n{}", "\n".repeat(UNSAFE_LINES_MAX));
        let mut broken = files.clone();
        broken.last_mut().expect("there are some").1 = &long;
        assert_eq!(forbids_unsafe(&Tree::of(&broken))[0].path, MAY_ALLOW_UNSAFE[0]);
        for path in ["engine/src/store.rs", "wire/src/row.rs"] {
            let mut broken = files.clone();
            broken.push((path, "//! Bad.\n#![allow(unsafe_code)]\n"));
            assert_eq!(forbids_unsafe(&Tree::of(&broken))[0].path, path);
        }
    }

    #[test]
    fn the_world_in_a_pure_room_is_found() {
        let text = "//! Instant::now is only named here.\nlet t = Instant::now();\nlet s = \"SystemTime\";\nprintln!(\"x\");\nlet r = rand::random();\n#[cfg(test)]\nmod tests { fn f() { println!(\"y\"); } }\n";
        assert_eq!(lines(&no_world(&Tree::of(&[("sync/src/clock.rs", text)]))), [2, 4, 5]);
        assert_eq!(lines(&no_world(&Tree::of(&[("src/database.rs", text)]))), [4]);
        assert_eq!(no_world(&Tree::of(&[("relay/src/main.rs", text)])), []);
        assert_eq!(no_world(&Tree::of(&[("engine/src/env/file.rs", "fn now() { Instant::now() }")])), []);
    }

    #[test]
    fn a_module_without_a_purpose_is_found() {
        assert_eq!(
            opens_with_purpose(&Tree::of(&[("a.rs", "#![no_main]\n//! Good.\n"), ("b.rs", "\n//! Good.\n")])),
            []
        );
        for text in ["use std::fmt;\n//! Late.\n", "", "// Not a doc comment.\n", "//!\n"] {
            assert_eq!(opens_with_purpose(&Tree::of(&[("a.rs", text)])).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn leftovers_are_found() {
        let text = "fn f() { todo!() }\nlet x = dbg!(1);\n// TODO: more\nlet s = \"TODO todo!()\";\nlet todo = 1;\n";
        assert_eq!(lines(&leftovers(&Tree::of(&[("a.rs", text)]))), [1, 2, 3]);
    }

    #[test]
    fn ignored_tests_are_found() {
        let text = "#[test]\n#[ignore]\nfn a() {}\n# [ ignore = \"slow\" ]\n#[cfg_attr(debug_assertions, ignore)]\n// #[ignore]\n";
        assert_eq!(lines(&ignored_tests(&Tree::of(&[("a.rs", text)]))), [2, 4, 5]);
    }

    #[test]
    fn other_characters_are_found() {
        let tree = Tree::of(&[("a.rs", "plain\ncaf\u{e9}\n"), ("x/Cargo.toml", "# \u{2014}\n"), ("a.md", "\u{e9}")]);
        assert_eq!(lines(&ascii(&tree)), [2, 1]);
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(length(&Tree::of(&[("a.rs", &"x\n".repeat(FILE_LINES_MAX))])), []);
        assert_eq!(length(&Tree::of(&[("a.rs", &"x\n".repeat(FILE_LINES_MAX + 1))])).len(), 1);
    }
}
