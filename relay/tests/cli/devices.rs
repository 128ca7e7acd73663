//! Two devices and a relay: what goes in comes out on the other side.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Folder, PASSPHRASE, Relay, copy_database, files_under, multiset, ndjson, note, parse_ndjson, records, signal, wait,
};

#[test]
fn generated_records_travel_unchanged() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let records = records(700);
    let file = folder.write("records.ndjson", ndjson(&records));
    folder.import(&file, "a.blaze", "things", &[]);
    let sent = folder.sync("a.blaze", &relay);
    assert_eq!(sent.stderr.lines().filter(|line| line.starts_with("in sync with home")).count(), 1, "{}", sent.stderr);
    folder.sync("b.blaze", &relay);
    let on_a = folder.export("a.blaze", "things");
    assert_eq!(on_a, folder.export("b.blaze", "things"), "equal replicas export equal bytes");
    assert_eq!(multiset(&parse_ndjson(&on_a)), multiset(&records));
    for db in ["a.blaze", "b.blaze"] {
        folder.run(["verify", "--db", db]).ok();
    }
}

#[test]
fn real_files_travel_unchanged() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/json");
    let Ok(entries) = fs::read_dir(&source) else {
        note(&format!("skipped real_files_travel_unchanged: there is no {}", source.display()));
        return;
    };
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let files: Vec<_> =
        entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "json")).collect();
    assert!(!files.is_empty(), "{} has no JSON", source.display());
    let name = |file: &Path| file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
    for file in &files {
        folder.import(file, "a.blaze", &name(file), &[]);
    }
    folder.sync("a.blaze", &relay);
    folder.sync("b.blaze", &relay);
    for file in &files {
        let on_a = folder.export("a.blaze", &name(file));
        assert_eq!(on_a, folder.export("b.blaze", &name(file)), "{}", file.display());
        let input: Value = serde_json::from_slice(&fs::read(file).expect("a file")).expect("it is JSON");
        let input = match input {
            Value::Array(records) => records,
            one => vec![one],
        };
        assert_eq!(multiset(&parse_ndjson(&on_a)), multiset(&input), "{}", file.display());
    }
}

#[test]
fn offline_edits_of_different_fields_both_survive() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let part =
        |field: &str| -> Vec<Value> { (0..60).map(|n| json!({"id": n, field: format!("{field} {n}")})).collect() };
    let by_id = ["--id-field", "id"];

    // Neither device has heard of the records before: both create them.
    folder.import(&folder.write("left.ndjson", ndjson(&part("left"))), "a.blaze", "things", &by_id);
    folder.import(&folder.write("right.ndjson", ndjson(&part("right"))), "b.blaze", "things", &by_id);
    // And once more with records that both know.
    for round in 0..2 {
        for db in ["a.blaze", "b.blaze", "a.blaze"] {
            folder.sync(db, &relay);
        }
        let on_a = folder.export("a.blaze", "things");
        assert_eq!(on_a, folder.export("b.blaze", "things"));
        let expected: Vec<Value> = (0..60)
            .map(|n| {
                let mut record = json!({"id": n, "left": format!("left {n}"), "right": format!("right {n}")});
                if round == 1 {
                    record["up"] = json!(format!("up {n}"));
                    record["down"] = json!(format!("down {n}"));
                }
                record
            })
            .collect();
        assert_eq!(multiset(&parse_ndjson(&on_a)), multiset(&expected), "round {round}");
        if round == 0 {
            folder.import(&folder.write("up.ndjson", ndjson(&part("up"))), "a.blaze", "things", &by_id);
            folder.import(&folder.write("down.ndjson", ndjson(&part("down"))), "b.blaze", "things", &by_id);
        }
    }
}

#[test]
fn a_copied_file_loses_and_doubles_nothing() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let import = |db: &str, from: u64, to: u64| {
        let records: Vec<Value> = (from..to).map(|n| json!({"n": n, "text": format!("record {n}")})).collect();
        folder.import(&folder.write("part.ndjson", ndjson(&records)), db, "things", &[]);
    };
    import("a.blaze", 0, 100);
    folder.sync("a.blaze", &relay);
    // These wait in the outbox of the original and of the copy.
    import("a.blaze", 100, 200);
    copy_database(folder.path(), "a.blaze", "copy.blaze");
    import("a.blaze", 200, 300);
    import("copy.blaze", 300, 400);
    for db in ["a.blaze", "copy.blaze", "a.blaze", "fresh.blaze"] {
        folder.sync(db, &relay);
    }
    let on_a = folder.export("a.blaze", "things");
    assert_eq!(on_a, folder.export("copy.blaze", "things"));
    assert_eq!(on_a, folder.export("fresh.blaze", "things"));
    let mut numbers: Vec<u64> = parse_ndjson(&on_a).iter().map(|r| r["n"].as_u64().expect("a number")).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
}

#[test]
fn tokens_are_made_while_the_relay_runs_and_stand_alone_on_stdout() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let token = folder.run(["token", "--data", relay.data(), "--space", "home", "--ttl", "10m"]).ok();
    assert_eq!(token.stdout.lines().count(), 1);
    assert_eq!(token.stdout.trim().split('.').count(), 3, "{}", token.stdout);
    assert_eq!(token.stderr, "");
    folder.write("home.token", &token.stdout);
    folder.sync("a.blaze", &relay);
    // A token for one space does not open another.
    let other = folder.run(["token", "--data", relay.data(), "--space", "other"]).ok();
    folder.write("home.token", other.stdout);
    let args = relay.sync_args("b.blaze");
    folder.run(args.iter().map(String::as_str).chain(["--timeout", "3s"])).refused(1, &["space"]);
}

#[test]
fn the_relay_stops_cleanly_when_asked() {
    let folder = Folder::new();
    let mut relay = Relay::start(&folder);
    let file = folder.write("r.ndjson", ndjson(&records(20)));
    folder.import(&file, "a.blaze", "things", &[]);
    folder.sync("a.blaze", &relay);
    signal(relay.child(), "-TERM");
    assert_eq!(wait(relay.child(), std::time::Duration::from_secs(20)), 0);
    relay.start_again();
    folder.sync("b.blaze", &relay);
    assert_eq!(folder.export("a.blaze", "things"), folder.export("b.blaze", "things"));
}

#[test]
fn nothing_that_was_planted_is_found_in_any_file() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let planted =
        ["PLANTED-VALUE-7f3a", "PLANTED-FIELD-9b1c", "PLANTED-COLLECTION-2e5d", "PLANTED-KEY-4c8e", PASSPHRASE];
    let records: Vec<Value> =
        (0..200).map(|n| json!({"id": format!("{}-{n}", planted[3]), planted[1]: planted[0]})).collect();
    let inputs = Folder::new();
    let file = inputs.write("planted.ndjson", ndjson(&records));
    folder.import(&file, "a.blaze", planted[2], &["--id-field", "id"]);
    folder.sync("a.blaze", &relay);
    folder.sync("b.blaze", &relay);
    assert_eq!(folder.export("b.blaze", planted[2]).lines().count(), 200, "the records did arrive");
    let files = files_under(folder.path());
    assert!(files.len() >= 6, "two databases, the relay's store and keys: {files:?}");
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        for text in planted {
            let found = bytes.windows(text.len()).position(|window| window == text.as_bytes());
            assert_eq!(found, None, "{text} is readable in {}", file.display());
        }
    }
}
