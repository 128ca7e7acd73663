//! The files of the repository as text, and the one thing that must be known about Rust to search it honestly: which
//! characters are code, which are comments, and which belong to test code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Folders that hold what tools made, never what we wrote.
const SKIPPED_FOLDERS: [&str; 5] = ["target", ".git", "corpus", "artifacts", "coverage"];

/// One broken rule at one place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offence {
    /// Path from the repository's root, with forward slashes.
    pub(super) path: String,
    /// Line, counted from 1.
    pub(super) line: usize,
    /// What is wrong and, where it is not plain, what to do.
    pub(super) what: String,
}

impl Offence {
    pub(super) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

/// Path to text, for every text file of the repository (or of a made-up one).
pub(super) struct Tree {
    files: BTreeMap<String, String>,
}

impl Tree {
    /// Reads the repository that this test was compiled from.
    pub(super) fn of_repository() -> Self {
        let mut files = BTreeMap::new();
        read_folder(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut files);
        assert!(files.len() > 10, "the repository was not found");
        Self { files }
    }

    /// Makes a tree up, for a rule's own test.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect() }
    }

    pub(super) fn get(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether a file or a folder of that name exists.
    pub(super) fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.files.contains_key(path) || self.files.keys().any(|file| file.starts_with(&folder))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// All Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// All manifests.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter(|(path, _)| *path == "Cargo.toml" || path.ends_with("/Cargo.toml"))
    }
}

fn read_folder(folder: &Path, prefix: &str, files: &mut BTreeMap<String, String>) {
    let entries = fs::read_dir(folder).expect("a folder of the repository can be listed");
    for entry in entries {
        let entry = entry.expect("a folder of the repository can be listed");
        let name = entry.file_name().into_string().expect("file names are UTF-8");
        let path = format!("{prefix}{name}");
        if entry.file_type().expect("an entry has a type").is_dir() {
            if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                read_folder(&entry.path(), &format!("{path}/"), files);
            }
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            // What is not UTF-8 is a binary test input: nothing here reads those.
            files.insert(path, text);
        }
    }
}

/// A Rust file taken apart. All texts are as long as the file and have its line breaks: what does not belong is blank.
pub(super) struct Source {
    /// Code without comments and without the inside of literals.
    pub(super) code: String,
    /// Comments only.
    pub(super) comments: String,
    /// For each line (from 0), whether it belongs to test code.
    pub(super) test_lines: Vec<bool>,
}

impl Source {
    pub(super) fn of(path: &str, text: &str) -> Self {
        let (code, comments) = split(text);
        let test_lines = test_lines(path, &code);
        Self { code, comments, test_lines }
    }

    /// Lines of code with their number from 1; test code is left out.
    pub(super) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .zip(&self.test_lines)
            .enumerate()
            .filter(|(_, (_, test))| !**test)
            .map(|(i, (l, _))| (i + 1, l))
    }
}

/// Parts code from comments. Understands nested block comments, raw strings, and that `'a` may be a lifetime.
fn split(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut code, mut comments) = (String::new(), String::new());
    let mut put = |c: char, is_code: bool, is_comment: bool| {
        code.push(if is_code || c == '\n' { c } else { ' ' });
        comments.push(if is_comment || c == '\n' { c } else { ' ' });
    };
    let mut i = 0;
    while i < chars.len() {
        let previous_is_word = i > 0 && (at(i - 1).is_alphanumeric() || at(i - 1) == '_');
        let end = match (at(i), at(i + 1)) {
            ('/', '/') => chars[i..].iter().position(|c| *c == '\n').map_or(chars.len(), |n| i + n),
            ('/', '*') => end_of_block_comment(&chars, i),
            ('"', _) => end_of_string(&chars, i),
            ('r', '"' | '#') if !previous_is_word || matches!(at(i - 1), 'b' | 'c') => {
                end_of_raw_string(&chars, i).unwrap_or(i)
            }
            ('\'', '\\') => chars[i + 3..].iter().position(|c| *c == '\'').map_or(chars.len(), |n| i + n + 4),
            ('\'', _) if at(i + 2) == '\'' => i + 3,
            _ => i,
        };
        if end == i {
            put(at(i), true, false);
            i += 1;
            continue;
        }
        let is_comment = at(i) == '/';
        for (n, c) in chars[i..end].iter().enumerate() {
            let is_edge = !is_comment && (n == 0 || i + n + 1 == end);
            put(*c, is_edge, is_comment);
        }
        i = end;
    }
    (code, comments)
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => {
                (depth, i) = (depth - 1, i + 2);
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// `None` when what follows `r` is no raw string (a raw identifier, say).
fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return None;
    }
    let mut i = start + 2 + hashes;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return Some(i + 1 + hashes);
        }
        i += 1;
    }
    Some(chars.len())
}

/// Marks the lines of items under `#[cfg(test)]`; files that are tests as a whole are marked from end to end.
fn test_lines(path: &str, code: &str) -> Vec<bool> {
    let whole = path.ends_with("/tests.rs") || path.split('/').any(|part| part == "tests");
    let mut marks = vec![whole; code.lines().count()];
    for (start, _) in code.match_indices("#[cfg(test)]") {
        let mut depth = 0_usize;
        let mut end = code.len();
        for (i, c) in code[start..].char_indices().skip("#[cfg(test)]".len()) {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => {
                    end = start + i;
                    break;
                }
                '}' => depth -= 1,
                ';' if depth == 0 => {
                    end = start + i;
                    break;
                }
                _ => {}
            }
        }
        let first = code[..start].matches('\n').count();
        let last = code[..end].matches('\n').count();
        marks.iter_mut().take(last + 1).skip(first).for_each(|mark| *mark = true);
    }
    marks
}

/// Whether `word` stands in `text` with no letter, digit or underscore at either side.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(is_word)
            && !text[at + word.len()..].chars().next().is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_told_from_code() {
        let text =
            "let a = \"now // \\\" x\"; // note\n/* one /* two */ still */ f('\"', '\\'', r#\"in \"raw\"\"#, b\"b\");";
        let source = Source::of("x.rs", text);
        assert!(!source.code.contains("now") && !source.code.contains("note") && !source.code.contains("still"));
        assert!(!source.code.contains("raw"));
        assert!(source.code.contains("let a") && source.code.contains("f("));
        assert!(source.comments.contains("// note") && source.comments.contains("still"));
        assert!(!source.comments.contains("let") && !source.comments.contains("now"));
        assert_eq!(source.code.lines().count(), 2);
    }

    #[test]
    fn lifetimes_do_not_open_a_literal() {
        let source = Source::of("x.rs", "fn f<'a>(x: &'a str) -> &'a str { x } // end");
        assert!(source.code.contains("{ x }"));
        assert!(source.comments.contains("end"));
    }

    #[test]
    fn test_code_is_marked() {
        let source = Source::of("x.rs", "a\n#[cfg(test)]\nmod tests {\n { b }\n}\nc\n#[cfg(test)]\nuse d;\ne");
        assert_eq!(source.product_lines().map(|(_, line)| line).collect::<String>(), "ace");
        assert_eq!(Source::of("wire/tests/x.rs", "a\nb").product_lines().count(), 0);
    }

    #[test]
    fn words_have_edges() {
        assert!(has_word("rand::x", "rand") && has_word("(rand)", "rand"));
        assert!(!has_word("operand", "rand") && !has_word("rand_core", "rand"));
    }
}
