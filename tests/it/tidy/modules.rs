//! Finds Rust files that no crate compiles: a test file that nobody added to `main.rs` passes for ever.

use std::collections::BTreeSet;

use super::tree::{Offence, Source, Tree};

/// Every Rust file is a target of some package, or a module reachable from one.
pub(super) fn forgotten_files(tree: &Tree) -> Vec<Offence> {
    let mut reached = BTreeSet::new();
    let mut queue: Vec<String> =
        tree.rust().map(|(path, _)| path).filter(|path| is_target(tree, path)).map(str::to_owned).collect();
    while let Some(path) = queue.pop() {
        let Some(text) = tree.get(&path) else {
            continue;
        };
        if reached.insert(path.clone()) {
            queue.extend(children(&path, text, is_target(tree, &path)));
        }
    }
    tree.rust()
        .filter(|(path, _)| !reached.contains(*path))
        .map(|(path, _)| Offence::new(path, 1, "no target and no `mod` line reaches this file: it is never compiled"))
        .collect()
}

/// Whether Cargo compiles this file as the root of a crate, by its place or by a `path = ".."` line.
fn is_target(tree: &Tree, path: &str) -> bool {
    tree.manifests().any(|(manifest, text)| {
        let folder = manifest.trim_end_matches("Cargo.toml");
        let Some(inside) = path.strip_prefix(folder) else {
            return false;
        };
        let parts: Vec<&str> = inside.split('/').collect();
        let by_place = matches!(
            parts.as_slice(),
            ["build.rs"]
                | ["src", "lib.rs" | "main.rs"]
                | ["src", "bin", _]
                | ["tests" | "examples", _]
                | ["src", "bin", _, "main.rs"]
                | ["tests" | "examples", _, "main.rs"]
        );
        let named = format!("path = \"{inside}\"");
        // A bench is named by its stem: benches/ is a package, whose own benches lie in benches/benches/.
        let bench = inside
            .strip_prefix("benches/")
            .and_then(|file| file.strip_suffix(".rs"))
            .map(|stem| format!("name = \"{stem}\""));
        by_place
            || text.contains(&named)
            || bench.is_some_and(|bench| text.contains("[[bench]]") && text.contains(&bench))
    })
}

/// The files that `mod x;` lines of this file may mean.
fn children(path: &str, text: &str, is_root: bool) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let own_folder = if is_root || file == "mod.rs" {
        folder.to_owned()
    } else {
        format!("{folder}/{}", file.trim_end_matches(".rs"))
    };
    let code = Source::of(path, text).code;
    let mut found = Vec::new();
    for line in code.lines() {
        let Some(name) = line.trim().strip_suffix(';').and_then(|line| line.split("mod ").nth(1)) else {
            continue;
        };
        if name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            found.push(format!("{own_folder}/{name}.rs"));
            found.push(format!("{own_folder}/{name}/mod.rs"));
        }
    }
    // `#[path = ".."]` is relative to the folder of the file itself.
    found.extend(text.match_indices("#[path = \"").filter_map(|(at, open)| {
        let given = text[at + open.len()..].split('"').next()?;
        Some(resolve(folder, given))
    }));
    found
}

/// Joins a relative path to a folder of the tree, `..` included.
pub(super) fn resolve(folder: &str, relative: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in relative.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_files_are_found() {
        let tree = Tree::of(&[
            ("Cargo.toml", "[[test]]\nname = \"it\"\npath = \"tests/it/main.rs\"\n"),
            ("src/lib.rs", "mod a;\npub mod b;\n// mod dead;\n"),
            ("src/a.rs", "mod deep;"),
            ("src/a/deep.rs", "#[path = \"../odd.rs\"]\nmod other;"),
            ("src/odd.rs", ""),
            ("src/b/mod.rs", "pub(crate) mod c;"),
            ("src/b/c.rs", ""),
            ("src/a/dead.rs", ""),
            ("src/dead.rs", ""),
            ("tests/it/main.rs", "mod crash;"),
            ("tests/it/crash.rs", ""),
            ("tests/it/forgotten.rs", ""),
            ("benches/Cargo.toml", "[[bench]]\nname = \"codec\"\n"),
            ("benches/benches/codec.rs", ""),
            ("benches/benches/lost.rs", ""),
        ]);
        let found: Vec<_> = forgotten_files(&tree).into_iter().map(|o| o.path).collect();
        assert_eq!(found, ["benches/benches/lost.rs", "src/a/dead.rs", "src/dead.rs", "tests/it/forgotten.rs"]);
    }

    #[test]
    fn relative_paths_resolve() {
        assert_eq!(resolve("a/b", "../c/./d.rs"), "a/c/d.rs");
        assert_eq!(resolve("", "x.md"), "x.md");
    }
}
