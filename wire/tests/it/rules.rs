//! Rules of the specification and their citations: none is invented, none is left untested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the texts of all files below `folder` that end in `ending`.
fn texts(folder: &Path, ending: &str) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of this repository") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            out.extend(texts(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            out.push(fs::read_to_string(&path).expect("text"));
        }
    }
    out
}

/// Returns what looks like a rule id at the start of `text`: a letter of ours, a hyphen, digits.
fn rule_at(text: &str) -> Option<&str> {
    let rest = text.strip_prefix(['V', 'O', 'B', 'F', 'L', 'K', 'J', 'G'])?.strip_prefix('-')?;
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    (digits > 0).then(|| &text[..2 + digits])
}

/// Returns the rules in lists that follow `spec: `.
fn cited(text: &str) -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for list in text.split("spec: ").skip(1) {
        let mut rest = list;
        while let Some(rule) = rule_at(rest) {
            rules.insert(rule.to_owned());
            let after = &rest[rule.len()..];
            match after.strip_prefix(", ").or_else(|| after.strip_prefix(" to ")) {
                Some(next) => rest = next,
                None => break,
            }
        }
    }
    rules
}

/// Returns the rules that the files of this room define, in bold.
fn defined() -> BTreeSet<String> {
    let mut rules = BTreeSet::new();
    for file in ["value.md", "op.md", "columns.md", "frame.md", "limits.md", "json.md", "grpc.md"] {
        let text = fs::read_to_string(root().join("spec").join(file)).expect("spec/ is complete");
        for part in text.split("**").skip(1) {
            if let Some(rule) = rule_at(part).filter(|rule| rule.len() == part.len()) {
                assert!(rules.insert(rule.to_owned()), "{rule} is defined twice");
            }
        }
    }
    rules
}

#[test]
fn every_rule_is_cited_by_a_test_or_a_vector() {
    let mut tested = BTreeSet::new();
    // The program writes the export files, and the relay and its client speak gRPC.
    for (folder, ending) in [("wire/tests", ".rs"), ("spec/vectors", ".toml"), ("relay/tests", ".rs")] {
        texts(&root().join(folder), ending).iter().for_each(|text| tested.extend(cited(text)));
    }
    for folder in ["wire/src", "relay/src"] {
        for text in texts(&root().join(folder), ".rs") {
            if let Some((_, tests)) = text.split_once("#[cfg(test)]") {
                tested.extend(cited(tests));
            }
        }
    }
    let untested: Vec<String> = defined().difference(&tested).cloned().collect();
    assert!(untested.is_empty(), "no test or vector cites {untested:?}");
}

#[test]
fn every_citation_is_of_a_rule() {
    let rules = defined();
    assert!(rules.len() > 80, "{} rules were found", rules.len());
    for folder in ["wire/src", "wire/tests"] {
        for text in texts(&root().join(folder), ".rs") {
            for rule in cited(&text) {
                assert!(rules.contains(&rule), "{rule} is cited in {folder} but not defined in spec/");
            }
            // Errors name rules too.
            for name in ["NotCanonical(\"", "Order(\"", "refuse(\"", "bad(\"", "not_canonical(\""] {
                for part in text.split(name).skip(1) {
                    if let Some(rule) = rule_at(part) {
                        assert!(rules.contains(rule), "{rule} is named by an error but not defined in spec/");
                    }
                }
            }
        }
    }
}
