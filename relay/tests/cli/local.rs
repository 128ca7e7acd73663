//! One device, no network: import, export, stats, verify.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use blazedb::{Database, Document, Options};
use blazedb_engine::{Env, Options as StoreOptions, Store};
use serde_json::{Value, json};

use crate::support::{Folder, PASSPHRASE, finish, multiset, ndjson, parse_ndjson, records};

#[test]
fn every_layout_imports_the_same() {
    let folder = Folder::new();
    let records = records(50);
    let files = [
        ("lines.ndjson", ndjson(&records)),
        ("array.json", serde_json::to_string(&records).expect("records are JSON")),
        ("pretty.json", serde_json::to_string_pretty(&records).expect("records are JSON")),
    ];
    for (name, text) in &files {
        let file = folder.write(name, text);
        let db = format!("{name}.blaze");
        folder.import(&file, &db, "things", &["--id-field", "id"]);
        let exported = folder.export(&db, "things");
        assert_eq!(multiset(&parse_ndjson(&exported)), multiset(&records), "{name}");
    }
    let first = folder.export("lines.ndjson.blaze", "things");
    assert_eq!(first, folder.export("array.json.blaze", "things"), "named records are sorted by a name-made id");
    assert_eq!(first, folder.export("pretty.json.blaze", "things"));
}

#[test]
fn one_object_and_stdin() {
    let folder = Folder::new();
    let mut child = folder
        .program()
        .args(["import", "-", "--db", "one.blaze", "--collection", "c", "--kdf", "light"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(b"{\n  \"a\": {\n \"b\": 1.0}\n}").expect("the program reads");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(folder.export("one.blaze", "c"), "{\"a\":{\"b\":1.0}}\n");
}

#[test]
fn importing_again_changes_nothing_and_parts_are_merged() {
    let folder = Folder::new();
    let all = folder.write("all.ndjson", ndjson(&records(40)));
    let first = folder.import(&all, "a.blaze", "things", &["--id-field", "id"]);
    assert!(first.stderr.contains("40 new, 0 changed, 0 as they were"), "{}", first.stderr);
    let before = folder.export("a.blaze", "things");
    let again = folder.import(&all, "a.blaze", "things", &["--id-field", "id"]);
    assert!(again.stderr.contains("0 new, 0 changed, 40 as they were"), "{}", again.stderr);
    assert_eq!(folder.export("a.blaze", "things"), before);

    let part = folder.write("part.ndjson", ndjson(&[json!({"id": "record-3", "number": -5, "extra": [1]})]));
    let part = folder.import(&part, "a.blaze", "things", &["--id-field", "id"]);
    assert!(part.stderr.contains("0 new, 1 changed, 0 as they were"), "{}", part.stderr);
    let mut expected = records(40);
    expected[3]["number"] = json!(-5);
    expected[3]["extra"] = json!([1]);
    assert_eq!(multiset(&parse_ndjson(&folder.export("a.blaze", "things"))), multiset(&expected));
}

#[test]
fn an_import_that_was_killed_goes_on_where_it_stopped() {
    const RECORDS: u64 = 30_000;
    let folder = Folder::new();
    let all: Vec<_> = (0..RECORDS).map(|n| json!({"n": n, "text": "x".repeat(60)})).collect();
    let file = folder.write("all.ndjson", ndjson(&all));
    // Killed at growing moments until one falls into the loading.
    for (attempt, after_ms) in (50..).step_by(25).enumerate() {
        assert!(attempt < 200, "the import was never interrupted in the middle");
        let db = format!("{attempt}.blaze");
        let mut child = folder
            .program()
            .args(["import", file.to_str().unwrap(), "--db", &db, "--collection", "c", "--kdf", "light"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        child.kill().unwrap();
        let ended = child.wait().unwrap().success();
        let again = folder.import(&file, &db, "c", &[]);
        if again.stderr.contains("going on where an interrupted import stopped") {
            let found = parse_ndjson(&folder.export(&db, "c"));
            assert_eq!(found.len() as u64, RECORDS);
            assert_eq!(multiset(&found), multiset(&all));
            // The mark is gone with the end: importing the file once more is a new import.
            folder.import(&file, &db, "c", &[]);
            assert_eq!(parse_ndjson(&folder.export(&db, "c")).len() as u64, 2 * RECORDS);
            return;
        }
        assert!(!ended, "the import ended before it could be interrupted in the middle");
    }
}

#[test]
fn exports_come_in_two_formats_with_and_without_ids() {
    let folder = Folder::new();
    let records = records(12);
    let file = folder.write("r.ndjson", ndjson(&records));
    folder.import(&file, "a.blaze", "things", &[]);
    let array = folder.run(["export", "--db", "a.blaze", "--collection", "things", "--format", "json"]).ok();
    let array: Vec<Value> = serde_json::from_str(&array.stdout).expect("an array");
    assert_eq!(multiset(&array), multiset(&records));

    let with_id = folder.run(["export", "--db", "a.blaze", "--collection", "things", "--with-id"]).ok();
    let wrapped = parse_ndjson(&with_id.stdout);
    let ids: Vec<&str> = wrapped.iter().map(|w| w["id"].as_str().expect("an id")).collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 36), "{ids:?}");
    assert_eq!(multiset(wrapped.iter().map(|w| &w["record"])), multiset(&records));

    folder.run(["export", "--db", "a.blaze", "--collection", "things", "-o", "out.ndjson"]).ok();
    assert!(!folder.path().join("out.ndjson.partial").exists());
    // Somebody else's, or of an export that is being written.
    folder.write("more.ndjson.partial", "precious");
    let args = ["export", "--db", "a.blaze", "--collection", "things", "-o", "more.ndjson"];
    folder.run(args).refused(1, &["more.ndjson.partial exists", "another name"]);
    assert_eq!(fs::read(folder.path().join("more.ndjson.partial")).expect("is there"), b"precious");
    assert!(!folder.path().join("more.ndjson").exists());
    let written = fs::read_to_string(folder.path().join("out.ndjson")).expect("the export");
    assert_eq!(written, folder.export("a.blaze", "things"));
    assert!(!folder.path().join("out.ndjson.partial").exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_not_an_error() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(3_000)));
    folder.import(&file, "a.blaze", "things", &[]);
    let mut child = folder
        .program()
        .args(["export", "--db", "a.blaze", "--collection", "things"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    // The pipe is closed at the end of this statement, long before the program has written a megabyte.
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(line.starts_with('{'));
}

#[test]
fn stats_verify_and_inbox_look_without_changing() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(30)));
    folder.import(&file, "a.blaze", "things", &[]);
    let before = fs::read(folder.path().join("a.blaze")).expect("the database");
    let stats = folder.run(["stats", "--db", "a.blaze", "--json"]).ok();
    let stats: Value = serde_json::from_str(&stats.stdout).expect("stats are JSON");
    assert_eq!(stats["collections"]["things"]["documents"], 30);
    assert_eq!(stats["space"], Value::Null);
    assert!(stats["bytes_on_disk"].as_u64().expect("a number") > 0);
    let table = folder.run(["stats", "--db", "a.blaze"]).ok();
    assert!(table.stdout.contains("30 documents"), "{}", table.stdout);
    // The picture: plain characters, which say the same without colour.
    assert!(table.stdout.contains("[#") && table.stdout.contains("# live ") && table.stdout.is_ascii());
    let file = &stats["file"];
    let parts = ["live_bytes", "history_bytes", "overhead_bytes", "held_bytes", "free_bytes"];
    let sum: u64 = parts.iter().map(|part| file[part].as_u64().expect("a number")).sum();
    assert_eq!(file["file_bytes"].as_u64(), Some(sum), "{file}");
    assert!(file["trees"].as_array().expect("trees").iter().any(|t| t["name"] == "r:things" && t["entries"] == 30));
    let verify = folder.run(["verify", "--db", "a.blaze"]).ok();
    assert!(verify.stdout.contains("is sound: 30 documents"), "{}", verify.stdout);
    assert_eq!(folder.run(["inbox", "--db", "a.blaze"]).ok().stdout, "the inbox is empty\n");
    assert_eq!(fs::read(folder.path().join("a.blaze")).expect("the database"), before);
}

#[test]
fn a_vacuum_makes_the_file_shorter_and_leaves_what_is_in_it() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(4_000)));
    folder.import(&file, "a.blaze", "things", &["--id-field", "id"]);
    // An app that deletes half of it, and whose database gives nothing back by itself.
    let options = Options::passphrase(PASSPHRASE).auto_vacuum(None);
    let db = Database::open(folder.path().join("a.blaze"), options).expect("opens");
    let things = db.collection::<Document>("things").expect("a good name");
    let ids: Vec<_> = things.scan().map(|item| item.expect("reads").0).collect();
    for part in ids.chunks(200) {
        db.transaction(|tx| {
            let things = tx.collection::<Document>("things")?;
            part.iter().step_by(2).try_for_each(|id| things.delete(*id).map(drop))
        })
        .expect("commits");
    }
    db.close().expect("closes");
    let bytes = || fs::metadata(folder.path().join("a.blaze")).expect("the database").len();
    let (before, exported) = (bytes(), folder.export("a.blaze", "things"));
    let foretold = folder.run(["stats", "--db", "a.blaze"]).ok().stdout;
    assert!(foretold.contains("could be given back, by writing") && foretold.contains("blazedb vacuum"), "{foretold}");
    let ran = folder.run(["vacuum", "--db", "a.blaze"]).ok();
    assert!(!folder.run(["stats", "--db", "a.blaze"]).ok().stdout.contains("advice:"), "nothing is left to say");
    assert!(ran.stdout.starts_with("a.blaze: ") && ran.stdout.contains(" on disk, "), "{}", ran.stdout);
    assert!(bytes() < before, "{before} bytes became {}", bytes());
    assert!(folder.run(["verify", "--db", "a.blaze"]).ok().stdout.contains("is sound: 2,000 documents"));
    assert_eq!(folder.export("a.blaze", "things"), exported);
    // What is packed has nothing to give back, also where it became some pages longer.
    let mut was_packed = false;
    for _ in 0..3 {
        let before = blazedb_bytes(&folder, "a.blaze");
        let ran = folder.run(["vacuum", "--db", "a.blaze"]).ok();
        let is_shorter = blazedb_bytes(&folder, "a.blaze") < before;
        let said = if is_shorter { " given back" } else { "packed already, and there was nothing to give back" };
        assert!(ran.stdout.contains(said), "{}", ran.stdout);
        assert_eq!(ran.stdout.contains(" before"), is_shorter, "{}", ran.stdout);
        was_packed |= !is_shorter;
    }
    assert!(was_packed, "each time it became shorter");
    folder.run(["vacuum", "--db", "b.blaze"]).refused(1, &["there is no database file b.blaze"]);
}

/// Of the file and its logs.
fn blazedb_bytes(folder: &Folder, db: &str) -> u64 {
    let logs = blazedb::log_file_names(db);
    let names = [db].into_iter().chain(logs.iter().map(String::as_str));
    names.filter_map(|name| fs::metadata(folder.path().join(name)).ok()).map(|found| found.len()).sum()
}

#[test]
fn a_file_can_have_no_encryption_when_asked_for() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", "{\"marker\":\"PLAIN-TEXT-MARKER\"}\n");
    let args = ["import", file.to_str().expect("UTF-8"), "--db", "open.blaze", "--collection", "c", "--unencrypted"];
    let imported = finish(folder.program().env_remove("BLAZEDB_PASSPHRASE").args(args)).ok();
    assert!(imported.stderr.contains("no encryption"), "{}", imported.stderr);
    let export = ["export", "--db", "open.blaze", "--collection", "c", "--unencrypted"];
    let exported = finish(folder.program().env_remove("BLAZEDB_PASSPHRASE").args(export)).ok();
    assert_eq!(exported.stdout, "{\"marker\":\"PLAIN-TEXT-MARKER\"}\n");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let folder = Folder::new();
    let root = folder.run(["--help"]).ok();
    assert!(root.stdout.contains("Exit codes:") && root.stdout.contains("Examples:"));
    let said = root.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for code in
        ["3 done in part (`import --keep-going` left records out, `salvage` could not", "130 and 143 interrupted"]
    {
        assert!(said.contains(code), "{code}: {said}");
    }
    let commands = [
        "demo", "serve", "token", "import", "export", "sync", "stats", "verify", "vacuum", "backup", "restore",
        "salvage", "rekey", "inbox", "dump",
    ];
    for command in commands {
        let help = folder.run([command, "--help"]).ok();
        assert!(help.stdout.contains(&format!("blazedb {command}")), "{command}: {}", help.stdout);
    }
    assert_eq!(folder.run(["nonsense"]).code, 2);
}

/// An export in BlazeBinary, read by the reader that was written from the specification alone, says what the JSON one says.
// spec: F-24
#[test]
fn the_reader_in_python_reads_an_export() {
    let folder = Folder::new();
    let file = folder.write("all.ndjson", ndjson(&records(3_000)));
    folder.import(&file, "a.blaze", "things", &["--id-field", "id"]);
    let export = ["export", "--db", "a.blaze", "--collection", "things"];
    folder.run(export.iter().chain(&["--format", "blaze", "--output", "things.bb"])).ok();
    let read = |name: &str| {
        let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/reference/blaze_reader.py");
        Command::new("python3").arg("-B").arg(reader).arg(folder.path().join(name)).output()
    };
    let Ok(output) = read("things.bb") else {
        eprintln!("skipped: there is no python3");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("the reader writes UTF-8");
    let expected = parse_ndjson(&folder.run(export.iter().chain(&["--with-id"])).ok().stdout);
    let found = said.lines().map(|line| {
        let (id, record) = line.split_once(' ').expect("an id and a record");
        let record: Value = serde_json::from_str(record).expect("these records have a notation that is JSON");
        json!({"id": id, "record": record})
    });
    assert!(found.eq(expected), "the two exports differ");
    // A file that was cut is refused.
    let whole = fs::read(folder.path().join("things.bb")).expect("it was written");
    folder.write("cut.bb", &whole[..whole.len() - 1]);
    let output = read("cut.bb").expect("it ran before");
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("refused"));
}

/// A header that cannot be read alarms nobody where all is there; where the log is lost as well, commits may be missing.
#[test]
fn a_header_that_cannot_be_read_is_told_from_commits_that_may_be_missing() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(20)));
    folder.import(&file, "a.blaze", "things", &[]);
    let damage = |name: &str| {
        let path = folder.path().join(name);
        let mut bytes = fs::read(&path).expect("the database");
        let sequence = |at: usize| u64::from_le_bytes(bytes[at + 16..][..8].try_into().expect("8 bytes"));
        let newest = if sequence(65_536) > sequence(0) { 65_536 } else { 0 };
        bytes[newest + 100] ^= 0x55;
        fs::write(&path, bytes).expect("can be written");
    };
    // One that is open, as a kill leaves it, and of which nobody copies the log.
    let store =
        Store::open(Env::file(folder.path().join("a.blaze")), StoreOptions::passphrase(PASSPHRASE)).expect("opens");
    for i in 0..2_u8 {
        let tree = store.tree("t").expect("a good name");
        let mut tx = store.write();
        tx.put(tree, &[i], b"v").expect("it is short");
        tx.commit().expect("commits");
        store.checkpoint().expect("checkpoints");
    }
    fs::copy(folder.path().join("a.blaze"), folder.path().join("b.blaze")).expect("can be copied");
    store.close().expect("closes");

    damage("a.blaze");
    let ran = folder.run(["verify", "--db", "a.blaze"]).ok();
    assert!(
        ran.stderr.contains("one of the two headers") && ran.stderr.contains("Nothing is missing"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("is sound"), "{}", ran.stdout);
    let ran = folder.run(["salvage", "--db", "a.blaze", "--to", "s.blaze", "--kdf", "light"]).ok();
    assert!(ran.stdout.contains("one of the two headers") && ran.stdout.contains("all was saved"), "{}", ran.stdout);

    damage("b.blaze");
    let ran = folder.run(["verify", "--db", "b.blaze"]).refused(3, &["one of the two headers", "may be missing"]);
    assert!(!ran.stdout.contains("b.blaze is sound") && !ran.stderr.contains("Nothing is missing"), "{}", ran.stdout);
    let ran = folder.run(["stats", "--db", "b.blaze"]).ok();
    assert!(ran.stdout.contains("the last commits may be missing"), "{}", ran.stdout);
    let ran = folder.run(["stats", "--db", "b.blaze", "--json"]).ok();
    assert!(ran.stdout.contains("\"recovered_surely\":false"), "{}", ran.stdout);
    let ran = folder.run(["backup", "--db", "b.blaze", "-o", "b.bak"]).ok();
    assert!(ran.stderr.contains("warning: b.blaze: the last commits may be missing"), "{}", ran.stderr);
    let said = ["may be missing", "the log does not reach commit"];
    folder.run(["salvage", "--db", "b.blaze", "--to", "t.blaze", "--kdf", "light"]).refused(3, &said);
    // Whoever writes mends the header, and so is the last one who can say it.
    let ran = folder.run(["vacuum", "--db", "b.blaze"]).ok();
    assert!(ran.stderr.contains("warning: b.blaze: the last commits may be missing"), "{}", ran.stderr);
}
