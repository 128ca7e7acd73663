//! The hub and admission know nothing of sockets, threads, files and clocks.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sources(&path, out) } else { out.push(path) }
    }
}

#[test]
fn the_hub_and_admission_name_nothing_of_the_world() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![src.join("admit.rs")];
    sources(&src.join("hub"), &mut files);
    assert!(files.len() >= 7);
    let world =
        ["tokio", "hyper", "std::time", "std::thread", "std::fs", "std::net", "std::env", "HashMap", "parking_lot"];
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in world {
                assert!(!line.contains(word), "{}: {line}", file.display());
            }
        }
    }
}
