//! Rules about Cargo manifests: direction of dependencies, their reasons, and where test features may go.
//!
//! Reads just as much TOML as our own manifests use: one table header or one `key = value` per line.

use super::tree::{Offence, Tree};

/// What each of our packages may name under `[dependencies]`, besides crates that are not ours.
const ARROWS: [(&str, &[&str]); 12] = [
    ("blazedb-wire", &[]),
    ("blazedb-engine", &["blazedb-wire"]),
    ("blazedb-sync", &["blazedb-wire"]),
    ("blazedb", &["blazedb-wire", "blazedb-engine", "blazedb-sync"]),
    ("blazedb-relay", &["blazedb-wire", "blazedb-engine", "blazedb-sync", "blazedb"]),
    ("blazedb-benches", EVERYTHING),
    ("blazedb-codecs", WITH_TOOLS),
    ("blazedb-compare", WITH_TOOLS),
    ("blazedb-echo", WITH_TOOLS),
    ("blazedb-harness", EVERYTHING),
    ("blazedb-tonic-client", &[]),
    ("blazedb-fuzz", WITH_TOOLS),
];
const EVERYTHING: &[&str] = &["blazedb-wire", "blazedb-engine", "blazedb-sync", "blazedb", "blazedb-relay"];
const WITH_TOOLS: &[&str] = &[
    "blazedb-wire",
    "blazedb-engine",
    "blazedb-sync",
    "blazedb",
    "blazedb-relay",
    "blazedb-harness",
    "blazedb-benches",
];

/// What the program is made of: in none of these may a normal dependency switch a `testing` feature on.
const PRODUCT: [&str; 5] = ["blazedb-wire", "blazedb-engine", "blazedb-sync", "blazedb", "blazedb-relay"];

/// One line of a manifest that sets something.
struct Entry<'a> {
    line: usize,
    /// The header above it, without brackets: `dependencies`, `target.'cfg(unix)'.dependencies`, `dependencies.serde`.
    table: &'a str,
    key: &'a str,
    value: &'a str,
    reason: Option<&'a str>,
}

impl Entry<'_> {
    /// The package that a dependency entry names; `None` for any other entry.
    fn dependency(&self, kind: &str) -> Option<&str> {
        let in_table =
            self.table == kind || (self.table.starts_with("target.") && self.table.ends_with(&format!(".{kind}")));
        if in_table {
            return Some(self.key.trim_end_matches(".workspace").trim_matches('"'));
        }
        self.table.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.'))
    }
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut table = "";
    let mut list = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let (set, reason) = match line.split_once(" #") {
            Some((set, reason)) => (set.trim(), Some(reason.trim())),
            None => (line.trim(), None),
        };
        if let Some(header) = set.strip_prefix('[').filter(|_| set.ends_with(']') && !set.contains('=')) {
            table = header.trim_matches(|c| c == '[' || c == ']');
        } else if let Some((key, value)) = set.split_once('=').filter(|_| !set.starts_with('#')) {
            list.push(Entry { line: i + 1, table, key: key.trim(), value: value.trim(), reason });
        }
    }
    list
}

fn package_name(text: &str) -> Option<&str> {
    entries(text).iter().find(|e| e.table == "package" && e.key == "name").map(|e| e.value.trim_matches('"'))
}

/// wire <- {engine, sync} <- blazedb <- relay: nothing of ours is a normal (or build) dependency against the arrows.
pub(super) fn direction(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.manifests() {
        let Some(package) = package_name(text) else {
            continue;
        };
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package) else {
            offences.push(Offence::new(path, 1, format!("package {package} has no place in the picture of arrows")));
            continue;
        };
        for entry in entries(text) {
            let Some(name) = entry.dependency("dependencies").or_else(|| entry.dependency("build-dependencies")) else {
                continue;
            };
            if name.starts_with("blazedb") && !allowed.contains(&name) {
                offences.push(Offence::new(path, entry.line, format!("{package} must not depend on {name}")));
            }
        }
    }
    offences
}

/// Every dependency of every package says in half a line what it is for.
pub(super) fn reasons(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.manifests() {
        for entry in entries(text) {
            let is_inline = entry.table.ends_with("dependencies") && entry.table != "workspace.dependencies";
            if is_inline && entry.reason.is_none_or(str::is_empty) {
                offences.push(Offence::new(path, entry.line, format!("{} lacks its reason: add `# why`", entry.key)));
            }
        }
    }
    offences
}

/// `testing` features (fault injection, generators) never reach the program: not through a normal dependency, not
/// through a default feature, and not through the harness being built beside it.
pub(super) fn testing_features(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (path, text) in tree.manifests() {
        let is_product = package_name(text).is_some_and(|package| PRODUCT.contains(&package));
        for entry in entries(text) {
            let is_normal = entry.dependency("dependencies").is_some() || entry.table == "workspace.dependencies";
            if is_product && is_normal && entry.value.contains("\"testing\"") {
                offences.push(Offence::new(path, entry.line, "a normal dependency switches `testing` on"));
            }
            let is_feature = entry.table == "features" && entry.key != "testing";
            if is_product && is_feature && entry.value.contains("testing\"") {
                offences.push(Offence::new(path, entry.line, format!("feature {} switches `testing` on", entry.key)));
            }
        }
    }
    let root = tree.get("Cargo.toml").unwrap_or_default();
    let root_entries = entries(root);
    match root_entries.iter().find(|e| e.table == "workspace" && e.key == "default-members") {
        Some(entry) if !entry.value.contains("harness") && !entry.value.contains("benches") => {}
        Some(entry) => {
            offences.push(Offence::new("Cargo.toml", entry.line, "harness and benches are not default members"));
        }
        None => offences.push(Offence::new("Cargo.toml", 1, "default-members is missing: the harness would be one")),
    }
    let resolver = root_entries.iter().find(|e| e.table == "workspace" && e.key == "resolver").map_or("", |e| e.value);
    if !matches!(resolver, "\"2\"" | "\"3\"") {
        offences.push(Offence::new("Cargo.toml", 1, "with resolver 1, features of dev-dependencies reach the program"));
    }
    offences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_against_the_arrows_is_found() {
        let tree = Tree::of(&[
            ("wire/Cargo.toml", "[package]\nname = \"blazedb-wire\"\n[dependencies]\nserde.workspace = true # s\n"),
            (
                "sync/Cargo.toml",
                "[package]\nname = \"blazedb-sync\"\n[dependencies]\nblazedb-engine.workspace = true # e\n",
            ),
            (
                "engine/Cargo.toml",
                "[package]\nname = \"blazedb-engine\"\n[target.'cfg(unix)'.dependencies]\nblazedb = { path = \"..\" }\n",
            ),
            (
                "relay/Cargo.toml",
                "[package]\nname = \"blazedb-relay\"\n[dependencies.blazedb-harness]\nworkspace = true\n",
            ),
            ("new/Cargo.toml", "[package]\nname = \"blazedb-new\"\n"),
        ]);
        let found = direction(&tree);
        let lines: Vec<_> = found.iter().map(|o| (o.path.as_str(), o.line)).collect();
        assert_eq!(
            lines,
            [("engine/Cargo.toml", 4), ("new/Cargo.toml", 1), ("relay/Cargo.toml", 4), ("sync/Cargo.toml", 4)]
        );
    }

    #[test]
    fn dev_dependencies_may_go_anywhere() {
        let tree = Tree::of(&[(
            "wire/Cargo.toml",
            "[package]\nname = \"blazedb-wire\"\n[dev-dependencies]\nblazedb-harness.workspace = true # generators\n",
        )]);
        assert_eq!(direction(&tree), []);
    }

    #[test]
    fn a_missing_reason_is_found() {
        let tree = Tree::of(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\nserde = \"1\"\n[dependencies]\na = \"1\" # why\nb.workspace = true\n",
            ),
            ("x/Cargo.toml", "[dev-dependencies]\nc = { version = \"1\", features = [\"d\"] } #\n"),
        ]);
        let found = reasons(&tree);
        assert_eq!(
            found.iter().map(|o| (o.path.as_str(), o.line)).collect::<Vec<_>>(),
            [("Cargo.toml", 5), ("x/Cargo.toml", 2)]
        );
    }

    #[test]
    fn a_leaking_testing_feature_is_found() {
        let root = |members: &str| format!("[workspace]\nresolver = \"3\"\ndefault-members = [{members}]\n");
        let clean = root("\".\", \"relay\"");
        let engine = "[package]\nname = \"blazedb-engine\"\n[features]\ntesting = []\n[dev-dependencies]\nx = { features = [\"testing\"] }\n";
        assert_eq!(testing_features(&Tree::of(&[("Cargo.toml", &clean), ("engine/Cargo.toml", engine)])), []);

        let by_dependency = "[package]\nname = \"blazedb-relay\"\n[dependencies]\nblazedb-engine = { workspace = true, features = [\"testing\"] }\n";
        let by_default = "[package]\nname = \"blazedb\"\n[features]\ndefault = [\"blazedb-engine/testing\"]\n";
        for manifest in [by_dependency, by_default] {
            let found = testing_features(&Tree::of(&[("Cargo.toml", &clean), ("x/Cargo.toml", manifest)]));
            assert_eq!(found.len(), 1, "{manifest}");
            assert_eq!(found[0].line, 4);
        }
        for workspace in [
            root("\".\", \"fuzz/harness\""),
            "[workspace]\nresolver = \"3\"\n".to_owned(),
            root("\".\"").replace('3', "1"),
        ] {
            assert_eq!(testing_features(&Tree::of(&[("Cargo.toml", &workspace)])).len(), 1, "{workspace}");
        }
    }
}
