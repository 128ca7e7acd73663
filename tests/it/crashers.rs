//! Replays every input that once hurt a decoder, and the seeds of the fuzzer, through the checks that the fuzzer runs.
//!
//! `spec/crashers/TARGET/` is where a crasher goes, named after its bug; `fuzz/seeds/TARGET/` holds small valid inputs.
//! Each must pass the target's own post-condition: a typed error, or a value that encodes to the same bytes.
//!
//! The binary seeds are made by the generators of `blazedb_wire::testing` and `blazedb_engine::testing`. After a change of format, `BLAZE_BLESS=1 cargo
//! test --test it crashers` writes them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use blazedb_engine::testing as engine;
use blazedb_wire::testing::{self as wire, Gen};
use blazedb_wire::{Document, Row, encode_value};

type Check = fn(&[u8]);

/// The fuzz targets by name.
const CHECKS: [(&str, Check); 18] = [
    ("row", wire::fuzz_row),
    ("value", wire::fuzz_value),
    ("batch", wire::fuzz_batch),
    ("frame", wire::fuzz_frame),
    ("envelope", wire::fuzz_envelope),
    ("columns", wire::fuzz_columns),
    ("compressed", wire::fuzz_compressed),
    ("grpc", wire::fuzz_grpc),
    ("metadata", wire::fuzz_metadata),
    ("websocket", wire::fuzz_websocket),
    ("explain", wire::fuzz_explain),
    ("json", blazedb_wire::json::fuzz_json),
    ("page", engine::fuzz_page),
    ("header", engine::fuzz_header),
    ("log", engine::fuzz_log_opened),
    ("store", engine::fuzz_store_opened),
    ("operations", engine::fuzz_operations),
    ("backup", engine::fuzz_backup),
];

/// Seeds of each binary target.
const SEEDS: u64 = 12;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What lies in a folder; nothing if there is no such folder.
fn list(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("a folder of the repository is readable").path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_stem().expect("a listed path has a name").to_string_lossy().into_owned()
}

/// Inputs of the binary targets that are valid today, by their path under fuzz/seeds/.
fn made_seeds() -> BTreeMap<String, Vec<u8>> {
    let mut made = BTreeMap::new();
    for seed in 0..SEEDS {
        let mut generator = Gen::new(seed);
        let mut put = |target: &str, bytes: Vec<u8>| made.insert(format!("{target}/{seed:02}"), bytes);

        let mut value = vec![0];
        value[0] = encode_value(&generator.value(3), &mut value).expect("generated values fit");
        put("value", value);

        let row = if seed == 0 { Row::encode(&Document::new()).expect("no fields fit") } else { generator.row() };
        let mut bytes = Vec::new();
        row.shape().encode(&mut bytes);
        bytes.extend_from_slice(row.body());
        put("row", bytes);

        let batch = generator.batch();
        put("batch", batch.bytes().to_vec());
        // The target appends a checksum, so that seeds go without theirs.
        let mut envelope = generator.envelope(&batch).to_vec();
        envelope.truncate(envelope.len() - 4);
        put("envelope", envelope);
        put("frame", generator.frame().to_bytes().to_vec());
        put("columns", generator.columns().to_vec());
        put("compressed", generator.compressed());
        put("grpc", generator.grpc());
        put("websocket", generator.websocket());
        put("explain", generator.explained());
        put("metadata", generator.metadata());

        put("page", engine::seed_page(seed));
        put("header", engine::seed_header(seed));
        put("backup", engine::seed_backup(seed));
        put("log", engine::seed_log(seed));
        put("store", engine::seed_store(seed));
        put("operations", engine::seed_operations(seed));
    }
    made
}

#[test]
fn seeds_are_what_the_generators_make() {
    let folder = root().join("fuzz/seeds");
    for (path, bytes) in made_seeds() {
        let path = folder.join(path);
        if std::env::var_os("BLAZE_BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a seed lies in a folder")).expect("the folder can be made");
            fs::write(&path, &bytes).expect("the seed can be written");
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == bytes, "{} is outdated; BLAZE_BLESS=1 cargo test --test it crashers", path.display());
    }
}

#[test]
fn what_once_hurt_does_not_hurt_again() {
    let mut broken = Vec::new();
    for (target, check) in CHECKS {
        for folder in ["spec/crashers", "fuzz/seeds"] {
            for path in list(&root().join(folder).join(target)) {
                let bytes = fs::read(&path).expect("a file of the repository is readable");
                if catch_unwind(|| check(&bytes)).is_err() {
                    broken.push(format!("{folder}/{target}/{}", name(&path)));
                }
            }
        }
    }
    assert!(broken.is_empty(), "inputs that fail their check again: {broken:#?}");
}

#[test]
fn every_fuzz_target_is_replayed_and_has_seeds() {
    let checked: BTreeSet<String> = CHECKS.iter().map(|(target, _)| (*target).to_owned()).collect();
    let targets: BTreeSet<String> = list(&root().join("fuzz/fuzz_targets")).iter().map(|path| name(path)).collect();
    assert_eq!(checked, targets, "a fuzz target without a line here, or the other way round");
    for folder in ["spec/crashers", "fuzz/seeds"] {
        for path in list(&root().join(folder)).iter().filter(|path| path.is_dir()) {
            assert!(checked.contains(&name(path)), "no check reads {folder}/{}", name(path));
        }
    }
    for target in checked {
        assert!(!list(&root().join("fuzz/seeds").join(&target)).is_empty(), "fuzz/seeds/{target} is empty");
    }
}
