//! Rules about documents: names in ARCHITECTURE.md exist, links lead somewhere, and the commands that README.md
//! promises are the ones that CI runs.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::resolve;
use super::tree::{Offence, Source, Tree};

/// The two commands of the front page; `.ci/run` runs both.
const COMMANDS: [&str; 2] = ["cargo run --release -- demo", "cargo test --workspace"];

/// What the word before a name must be for that name to be defined there.
const DEFINES: [&str; 10] =
    ["fn", "struct", "enum", "trait", "mod", "type", "const", "static", "macro_rules!", "union"];

/// Lines outside fenced blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_fence = false;
    text.lines().enumerate().filter_map(move |(i, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_fence ^= is_fence;
        (!in_fence && !is_fence).then_some((i + 1, line))
    })
}

/// What stands between back-quotes on a line.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// For each name: the files that define it. Names of enum variants and fields count.
fn definitions(tree: &Tree) -> BTreeMap<String, BTreeSet<String>> {
    let mut defined: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut define = |name: &str, path: &str| {
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if !name.is_empty() {
            defined.entry(name).or_default().insert(path.to_owned());
        }
    };
    for (path, text) in tree.rust().filter(|(path, _)| !path.starts_with("tests/it/tidy")) {
        for line in Source::of(path, text).code.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.windows(2).filter(|pair| DEFINES.contains(&pair[0])) {
                define(pair[1], path);
            }
            let first = words.first().copied().unwrap_or_default();
            // A variant stands alone on its line, a field has a colon.
            let is_variant =
                first.starts_with(|c: char| c.is_ascii_uppercase()) && !line.contains("=>") && !first.contains("::");
            let is_field = line
                .trim_start()
                .trim_start_matches("pub ")
                .split_once(": ")
                .is_some_and(|(name, _)| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_'));
            if is_variant {
                define(first, path);
            }
            // Where a type is implemented, its functions are defined.
            if let Some(target) = impl_target(line.trim()) {
                define(target, path);
            }
            if is_field {
                define(words[usize::from(first == "pub")], path);
            }
        }
    }
    defined
}

/// The type that an `impl` line is about.
fn impl_target(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        Some(generics) => {
            let mut depth = 1;
            let end = generics.find(|c| {
                depth += i32::from(c == '<') - i32::from(c == '>');
                depth == 0
            })?;
            &generics[end + 1..]
        }
        None => rest,
    };
    let target = rest.split(" for ").last()?.trim_start();
    let path = target.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).next()?;
    path.rsplit("::").next()
}

/// Whether one part of a path such as `merge::apply` fits a file: as its crate, as a folder or file of its path, or as
/// something that the same file defines.
fn part_fits(part: &str, file: &str, defined: &BTreeMap<String, BTreeSet<String>>) -> bool {
    let room = match part {
        "crate" | "blazedb" => "src",
        other => other.strip_prefix("blazedb_").unwrap_or(other),
    };
    file.trim_end_matches(".rs").split('/').any(|component| component == room)
        || defined.get(part).is_some_and(|files| files.contains(file))
}

/// Every back-quoted type, function, `module::path` and file in ARCHITECTURE.md exists.
pub(super) fn architecture_names(tree: &Tree) -> Vec<Offence> {
    names_exist(tree, "ARCHITECTURE.md")
}

/// The tests and files that docs/promises.md names as proof exist.
pub(super) fn promised_proof(tree: &Tree) -> Vec<Offence> {
    names_exist(tree, "docs/promises.md")
}

/// Every back-quoted name of a page is in the tree. What has blanks or other punctuation in it (a command, a formula) is
/// not a name and is let be.
fn names_exist(tree: &Tree, page: &str) -> Vec<Offence> {
    let Some(text) = tree.get(page) else {
        return vec![Offence::new(page, 1, "the page is missing")];
    };
    let defined = definitions(tree);
    let packages: BTreeSet<String> =
        tree.manifests().flat_map(|(_, text)| text.lines()).filter_map(package_line).collect();
    let mut offences = Vec::new();
    for (line, prose) in prose(text) {
        for name in quoted(prose) {
            let tight = name.trim_end_matches("()").trim_end_matches('!');
            let is_path =
                tight.contains('/') || tight.ends_with(".rs") || tight.ends_with(".md") || tight.ends_with(".toml");
            let is_name =
                tight.split("::").all(|part| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_'));
            let exists = if is_path && !tight.contains([' ', '*', '<', ':']) {
                tree.exists(tight)
            } else if is_name && !tight.starts_with(|c: char| c.is_ascii_digit()) {
                let parts: Vec<&str> = tight.split("::").collect();
                let (last, parents) = parts.split_last().expect("splitting yields a part");
                let by_definition = defined.get(*last).is_some_and(|files| {
                    files.iter().any(|file| parents.iter().all(|part| part_fits(part, file, &defined)))
                });
                by_definition || (parents.is_empty() && (packages.contains(*last) || tree.exists(last)))
            } else {
                packages.contains(tight) || !tight.starts_with("blazedb-")
            };
            if !exists {
                offences.push(Offence::new(page, line, format!("`{name}` is not in the tree")));
            }
        }
    }
    offences
}

/// The name in a manifest's `name = ".."` line: of a package, a library or a program.
fn package_line(line: &str) -> Option<String> {
    line.strip_prefix("name = \"").map(|rest| rest.trim_end_matches('"').to_owned())
}

/// Relative links of every document lead to a file or folder.
pub(super) fn links(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line, prose) in prose(text) {
            for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                let file = target.split('#').next().unwrap_or_default();
                let is_outside = file.is_empty() || file.contains("://") || file.starts_with("mailto:");
                if !is_outside && !tree.exists(&resolve(folder, file)) {
                    offences.push(Offence::new(path, line, format!("link to {target} leads nowhere")));
                }
            }
        }
    }
    offences
}

/// README.md names the two commands, and `.ci/run` runs what README.md names.
pub(super) fn commands(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for path in ["README.md", ".ci/run"] {
        let text = tree.get(path).unwrap_or_default();
        let is_named =
            |command: &str| text.lines().any(|line| !line.trim_start().starts_with("# ") && line.contains(command));
        for command in COMMANDS.into_iter().filter(|command| !is_named(command)) {
            offences.push(Offence::new(path, 1, format!("`{command}` is missing")));
        }
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(page: &str) -> Vec<String> {
        let tree = Tree::of(&[
            ("ARCHITECTURE.md", page),
            ("wire/Cargo.toml", "[package]\nname = \"blazedb-wire\"\n"),
            (
                "wire/src/batch.rs",
                "pub struct Batch {\n    pub head: u8,\n}\nimpl Batch {\n    pub fn decode() {}\n}\nenum Kind {\n    Rows,\n}\n",
            ),
            ("sync/src/merge/mod.rs", "pub fn apply() {}\n"),
        ]);
        architecture_names(&tree).into_iter().map(|offence| offence.what).collect()
    }

    #[test]
    fn names_that_exist_are_let_be() {
        let page = "`Batch`, `Batch::decode()`, `Kind::Rows`, `blazedb_sync::merge::apply`, `wire::batch`, `wire/src/batch.rs`,\n`sync`, `blazedb-wire`, `cargo test --workspace`, `head`, `spec: V-3`, `<=`\n```\n`Gone`\n```\n";
        let expected = ["`wire::batch` is not in the tree"]; // a module needs its `mod` line
        assert_eq!(found(page), expected);
    }

    #[test]
    fn names_that_do_not_exist_are_found() {
        for name in [
            "Gone",
            "Batch::encode",
            "sync::Batch",
            "merge::gone()",
            "wire/src/gone.rs",
            "gone.md",
            "blazedb-gone",
            "gone!",
        ] {
            assert_eq!(found(&format!("text `{name}` text")).len(), 1, "{name}");
        }
    }

    #[test]
    fn implementations_are_read() {
        for line in [
            "impl Row {",
            "impl<T: Into<X>> Row<T>",
            "impl fmt::Display for Row {",
            "impl<'a> From<&'a str> for wire::Row",
        ] {
            assert_eq!(impl_target(line), Some("Row"), "{line}");
        }
        assert_eq!(impl_target("let implied = 1;"), None);
    }

    #[test]
    fn a_missing_page_is_found() {
        assert_eq!(architecture_names(&Tree::of(&[])).len(), 1);
    }

    #[test]
    fn broken_links_are_found() {
        let page = "[a](../b.md) [c](https://example.org/x) [d](#here) [e](gone.md)\n[f](../gone/) [g](../b.md#part)\n";
        let found = links(&Tree::of(&[("docs/a.md", page), ("b.md", "")]));
        assert_eq!(found.iter().map(|o| o.line).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn missing_commands_are_found() {
        let good = COMMANDS.join("\n");
        assert_eq!(commands(&Tree::of(&[("README.md", &good), (".ci/run", &good)])), []);
        assert_eq!(commands(&Tree::of(&[("README.md", &good), (".ci/run", "# cargo test --workspace\n")])).len(), 2);
        assert_eq!(commands(&Tree::of(&[(".ci/run", &good)])).len(), 2);
    }
}
