//! The rules of spec/: each has an id such as `V-3`; code cites ids, and what MUST hold is tested.
//!
//! A rule begins on the line whose first word, past list and emphasis marks, is its id, and goes on until a blank line,
//! a heading, or the next rule. A comment cites rules as `spec: V-3` or `spec: V-3, F-12`. In test code any mention of
//! an id counts as its test, and so does one in spec/vectors/.

use std::collections::BTreeMap;

use super::tree::{Offence, Source, Tree, has_word};

/// What precedes the ids that a comment cites.
const CITATION: &str = "spec: ";

struct Rule {
    path: String,
    line: usize,
    is_must: bool,
}

/// The id at the start of `text`: one to four capitals, a dash, a number.
fn leading_id(text: &str) -> Option<&str> {
    let letters = text.bytes().take_while(u8::is_ascii_uppercase).count();
    let digits = text.get(letters..)?.strip_prefix('-')?.bytes().take_while(u8::is_ascii_digit).count();
    let id = &text[..letters + 1 + digits];
    let goes_on = text[id.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_');
    ((1..=4).contains(&letters) && digits > 0 && !goes_on).then_some(id)
}

fn rules(tree: &Tree) -> BTreeMap<String, Rule> {
    let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.starts_with("spec/") && path.ends_with(".md")) {
        let mut current: Option<String> = None;
        let mut in_fence = false;
        for (i, line) in text.lines().enumerate() {
            in_fence ^= line.trim_start().starts_with("```");
            if in_fence {
                continue;
            }
            if let Some(id) = leading_id(line.trim_start_matches([' ', '-', '*', '|', '#', '`', '['])) {
                // The first place that opens with an id defines it; a later list that opens with it only refers to it.
                let is_new = !rules.contains_key(id);
                current = is_new.then(|| id.to_owned());
                if is_new {
                    rules.insert(id.to_owned(), Rule { path: path.to_owned(), line: i + 1, is_must: false });
                }
            } else if line.trim().is_empty() || line.starts_with('#') {
                current = None;
            }
            if let Some(rule) = current.as_ref().and_then(|id| rules.get_mut(id)) {
                rule.is_must |= has_word(line, "MUST");
            }
        }
    }
    rules
}

/// Every rule that a comment cites is in spec/.
pub(super) fn citations(tree: &Tree) -> Vec<Offence> {
    let rules = rules(tree);
    let mut offences = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !path.starts_with("tests/it/tidy")) {
        for (i, comment) in Source::of(path, text).comments.lines().enumerate() {
            for (at, _) in comment.match_indices(CITATION) {
                let mut rest = &comment[at + CITATION.len()..];
                if leading_id(rest.trim_start_matches('`')).is_none() {
                    continue; // the word "spec:" in a sentence
                }
                while let Some(id) = leading_id(rest.trim_start_matches([' ', ',', '`'])) {
                    if !rules.contains_key(id) {
                        offences.push(Offence::new(path, i + 1, format!("spec/ has no rule {id}")));
                    }
                    rest = &rest[rest.find(id).expect("it was found there") + id.len()..];
                }
            }
        }
    }
    offences
}

/// Every rule that says MUST is named by a test or by a vector.
pub(super) fn musts_are_tested(tree: &Tree) -> Vec<Offence> {
    let mut evidence = String::new();
    for (path, text) in tree.iter() {
        if path.starts_with("spec/vectors/") {
            evidence.push_str(text);
        } else if path.ends_with(".rs") && !path.starts_with("tests/it/tidy") {
            let marks = Source::of(path, text).test_lines;
            let is_harness = path.starts_with("fuzz/");
            for (line, is_test) in text.lines().zip(marks) {
                if is_test || is_harness {
                    evidence.push_str(line);
                    evidence.push('\n');
                }
            }
        }
    }
    rules(tree)
        .into_iter()
        .filter(|(id, rule)| rule.is_must && !has_word(&evidence, id))
        .map(|(id, rule)| {
            Offence::new(&rule.path, rule.line, format!("{id} says MUST, and no test or vector names it"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "# V: values\n\n**V-1** A decoder MUST refuse it.\n\n- V-2: two lines, the second\n  MUST hold.\n- V-3: no duty.\n\nIt MUST not count here.\n\n```text\nV-9 is a picture\n```\n";

    #[test]
    fn ids_are_read() {
        assert_eq!(leading_id("V-12 x"), Some("V-12"));
        assert_eq!(leading_id("SYN-1."), Some("SYN-1"));
        for text in ["v-1", "V-", "V", "-1", "V-1a", "ABCDE-1", "UTF8-1"] {
            assert_eq!(leading_id(text), None, "{text}");
        }
    }

    #[test]
    fn a_citation_of_nothing_is_found() {
        let code =
            "// spec: V-1, V-7\nlet s = \"spec: V-8\";\n/// See spec: `V-2`.\n// what the spec: says\n// spec: V-9\n";
        let found = citations(&Tree::of(&[("spec/value.md", SPEC), ("wire/src/a.rs", code)]));
        assert_eq!(
            found.iter().map(|o| (o.line, o.what.as_str())).collect::<Vec<_>>(),
            [(1, "spec/ has no rule V-7"), (5, "spec/ has no rule V-9")]
        );
    }

    #[test]
    fn an_untested_must_is_found() {
        let product = ("wire/src/a.rs", "// spec: V-1\n// spec: V-2\n");
        let untested = musts_are_tested(&Tree::of(&[("spec/value.md", SPEC), product]));
        assert_eq!(untested.iter().map(|o| o.line).collect::<Vec<_>>(), [3, 5]);
        let test = ("wire/src/b.rs", "#[cfg(test)]\nmod tests {\n // spec: V-1\n}\n");
        let vector = ("spec/vectors/value.toml", "rule = \"V-2\"\n");
        assert_eq!(musts_are_tested(&Tree::of(&[("spec/value.md", SPEC), product, test, vector])), []);
    }
}
