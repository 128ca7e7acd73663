//! Backup, restore and salvage of a file on a disk.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use blazedb::{Database, Document, History, Options, Value};
use serde_json::json;

use crate::support::{Background, Folder, ndjson, records, signal, wait};

#[test]
fn a_chain_of_backups_becomes_a_database_again() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(300)));
    folder.import(&file, "a.blaze", "things", &["--id-field", "id"]);
    let made = folder.run(["backup", "--db", "a.blaze", "--output", "full.bak"]).ok();
    assert!(made.stderr.contains("a full backup"), "{}", made.stderr);
    let one = folder.write("one.ndjson", ndjson(&[json!({"id": "record-3", "number": -5})]));
    folder.import(&one, "a.blaze", "things", &["--id-field", "id"]);
    let made = folder.run(["backup", "--db", "a.blaze", "--since", "full.bak", "--output", "more.bak"]).ok();
    assert!(made.stderr.contains("an increment"), "{}", made.stderr);
    let size = |name: &str| fs::metadata(folder.path().join(name)).expect("is there").len();
    assert!(size("more.bak") < size("full.bak") / 2, "{} and {} bytes", size("more.bak"), size("full.bak"));

    folder.run(["restore", "full.bak", "more.bak", "--db", "b.blaze", "--kdf", "light"]).ok();
    assert_eq!(folder.export("b.blaze", "things"), folder.export("a.blaze", "things"));
    folder.run(["restore", "full.bak", "--db", "old.blaze", "--kdf", "light"]).ok();
    assert_ne!(folder.export("old.blaze", "things"), folder.export("a.blaze", "things"));
    let names: Vec<_> = fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.contains("restoring") || name.contains("partial"))
        .collect();
    assert!(names.is_empty(), "left behind: {names:?}");
    #[cfg(unix)]
    {
        let mode =
            std::os::unix::fs::MetadataExt::mode(&fs::metadata(folder.path().join("full.bak")).expect("is there"));
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn a_backup_goes_through_a_pipe_and_the_new_file_may_have_another_passphrase() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(50)));
    folder.import(&file, "a.blaze", "things", &[]);
    let output =
        folder.program().args(["backup", "--db", "a.blaze", "-o", "-", "--rate", "100M"]).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plain = output.stdout.windows(7).any(|piece| piece == b"record-");
    assert!(!plain, "no plaintext");
    folder.write("new.txt", "another passphrase\n");
    let mut child = folder
        .program()
        .args(["restore", "-", "--db", "b.blaze", "--new-passphrase-file", "new.txt", "--kdf", "light"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(&output.stdout).expect("the program reads");
    let ended = child.wait_with_output().expect("the program ends");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    folder.run(["export", "--db", "b.blaze", "--collection", "things"]).refused(1, &["the passphrase does not open"]);
    let args = ["export", "--db", "b.blaze", "--collection", "things", "--passphrase-file", "new.txt"];
    assert_eq!(folder.run(args).ok().stdout, folder.export("a.blaze", "things"));
}

/// A folder's database is opened as an app would, to say what is kept.
#[test]
fn a_moment_is_restored_out_of_backups_with_history() {
    let folder = Folder::new();
    let db = Database::open(folder.path().join("a.blaze"), Options::unencrypted()).expect("creates");
    let things = db.collection::<Document>("things").expect("a good name");
    things.keep_history(Some(History::ALL)).expect("commits");
    let document = |n: i64| Document::from_pairs([("n", Value::from(n))]).expect("a document");
    let id = things.insert(&document(1)).expect("commits");
    let then = db.commit_no();
    things.replace(id, &document(2)).expect("commits");
    db.collection::<Document>("other").expect("a good name").insert(&document(3)).expect("commits");
    db.close().expect("closes");
    let plain = ["--unencrypted"];
    let run = |args: &[&str]| folder.run(args.iter().chain(&plain).copied());
    run(&["backup", "--db", "a.blaze", "-o", "all.bak", "--history"]).ok();
    let at = then.to_string();
    let made = run(&["restore", "all.bak", "--db", "then.blaze", "--at", &at]).ok();
    assert!(made.stderr.contains("without a history in it: other"), "{}", made.stderr);
    let export = |db: &str| run(&["export", "--db", db, "--collection", "things"]).ok().stdout;
    assert_eq!((export("then.blaze").trim(), export("a.blaze").trim()), ("{\"n\":1}", "{\"n\":2}"));
    run(&["restore", "all.bak", "--db", "b.blaze", "--at", "2001-02-03T04:05:06Z"]).refused(1, &["begins with commit"]);
    run(&["restore", "all.bak", "--db", "b.blaze", "--at", "99"]).refused(1, &["came after it"]);
    run(&["restore", "all.bak", "--db", "b.blaze", "--at", "2001-02-29T04:05Z"]).refused(2, &["not a time"]);
    run(&["backup", "--db", "a.blaze", "-o", "now.bak"]).ok();
    run(&["restore", "now.bak", "--db", "b.blaze", "--at", &at]).refused(1, &["the backups have no history"]);
    assert!(!folder.path().join("b.blaze").exists());
}

#[test]
fn refusals_say_what_to_do() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(20)));
    folder.import(&file, "a.blaze", "things", &[]);
    folder.run(["backup", "--db", "a.blaze", "-o", "full.bak"]).ok();
    folder.run(["backup", "--db", "a.blaze", "-o", "full.bak"]).refused(1, &["full.bak exists", "another name"]);
    folder.run(["restore", "full.bak", "--db", "a.blaze"]).refused(1, &["a.blaze exists", "another name"]);
    folder.run(["restore", "r.ndjson", "--db", "b.blaze"]).refused(1, &["no backup of BlazeDB"]);
    folder.run(["restore", "none.bak", "--db", "b.blaze"]).refused(1, &["cannot read none.bak"]);
    folder.run(["backup", "--db", "a.blaze", "--since", "full.bak", "-o", "more.bak"]).ok();
    folder.run(["restore", "more.bak", "--db", "b.blaze"]).refused(1, &["is an increment", "in the order"]);
    folder.run(["restore", "full.bak", "full.bak", "--db", "b.blaze"]).refused(1, &["is a full one", "in the order"]);
    let bytes = fs::read(folder.path().join("full.bak")).expect("is there");
    folder.write("cut.bak", &bytes[..bytes.len() - 9]);
    folder.run(["restore", "cut.bak", "--db", "b.blaze"]).refused(1, &["before its end", "another backup"]);
    folder.write("wrong.txt", "not this one");
    let args = ["restore", "full.bak", "--db", "b.blaze", "--passphrase-file", "wrong.txt"];
    folder.run(args).refused(1, &["does not open backup 1", "check the passphrase"]);
    folder.run(["backup", "--db", "a.blaze", "-o", "x.bak", "--rate", "fast"]).refused(2, &["unknown unit `fast`"]);
    // Somebody else's, or of a backup that is being written: two of one name would write into each other.
    folder.write("y.bak.partial", "precious");
    let refused = folder.run(["backup", "--db", "a.blaze", "-o", "y.bak"]);
    refused.refused(1, &["y.bak.partial exists", "another name"]);
    assert_eq!(fs::read(folder.path().join("y.bak.partial")).expect("is there"), b"precious");
    // What is there is said, and which option it takes.
    let plain = "--unencrypted";
    let encrypted = ["is encrypted", "leave --unencrypted away"];
    folder.run(["restore", "full.bak", "--db", "b.blaze", plain]).refused(1, &encrypted);
    folder.run(["backup", "--db", "a.blaze", "-o", "x.bak", plain]).refused(1, &encrypted);
    folder.run(["salvage", "--db", "a.blaze", "--to", "b.blaze", plain]).refused(1, &encrypted);
    folder
        .run(["salvage", "--db", "none.blaze", "--to", "b.blaze", plain])
        .refused(1, &["no database file none.blaze"]);
    folder.run(["import", "r.ndjson", "--db", "open.blaze", "--collection", "c", plain]).ok();
    folder.run(["salvage", "--db", "open.blaze", "--to", "b.blaze"]).refused(1, &["is not encrypted", "add --unencr"]);
    folder.run(["backup", "--db", "open.blaze", "-o", "open.bak", plain]).ok();
    folder.run(["restore", "open.bak", "--db", "b.blaze"]).refused(1, &["is not encrypted", "add --unencrypted"]);
    assert!(!folder.path().join("b.blaze").exists() && !folder.path().join("x.bak").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_without_room_is_not_blamed_on_the_database() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(200)));
    folder.import(&file, "a.blaze", "things", &[]);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let ran = crate::support::finish(folder.program().args(["backup", "--db", "a.blaze", "-o", "-"]).stdout(full));
    let ran = ran.refused(1, &["cannot write to stdout", "No space left", "make room where stdout goes"]);
    assert!(!ran.stderr.contains("verify"), "{}", ran.stderr);
}

/// Whatever waits for a pace, a disk or a pipe.
#[test]
fn what_is_cut_off_leaves_no_partial_file() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(2000)));
    folder.import(&file, "a.blaze", "things", &[]);
    let left = || -> Vec<String> {
        let names = fs::read_dir(folder.path()).expect("a folder");
        names
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.contains("x.bak") || name.contains("restoring"))
            .collect()
    };
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let args = ["backup", "--db", "a.blaze", "-o", "x.bak", "--rate", "1K"];
        let mut running = Background::start(folder.program().args(args));
        appears(&folder, "x.bak.partial");
        signal(&running.child, name);
        assert_eq!(wait(&mut running.child, Duration::from_secs(20)), code);
        running.wait_for("nothing was left behind");
        assert_eq!(left(), [""; 0], "after {name}");
    }
    folder.run(["backup", "--db", "a.blaze", "-o", "x.bak"]).ok();

    // A restore that waits for more of the backup, and for its first byte; what a kill leaves the next one removes.
    let bytes = fs::read(folder.path().join("x.bak")).expect("is there");
    for (name, code, begun) in [("-INT", 130, true), ("-TERM", 143, true), ("-INT", 130, false), ("-KILL", 0, true)] {
        let mut running = Background::start(
            folder.program().args(["restore", "-", "--db", "b.blaze", "--kdf", "light"]).stdin(Stdio::piped()),
        );
        let mut input = running.child.stdin.take().expect("a pipe");
        if begun {
            input.write_all(&bytes[..bytes.len() / 2]).expect("the program reads");
            appears(&folder, "b.blaze.restoring");
        } else {
            // It has asked to be told of signals as soon as it reads.
            std::thread::sleep(Duration::from_millis(500));
        }
        signal(&running.child, name);
        let ended = wait(&mut running.child, Duration::from_secs(20));
        assert!(!folder.path().join("b.blaze").exists());
        if name != "-KILL" {
            assert_eq!(ended, code);
            running.wait_for("nothing was left behind");
            assert_eq!(left(), ["x.bak"], "after {name}, {begun}");
        }
    }
    assert_ne!(left(), ["x.bak"], "a kill has left what was there");
    folder.run(["restore", "x.bak", "--db", "b.blaze", "--kdf", "light"]).ok();
    assert_eq!(left(), ["x.bak"], "the next one removed it");
    assert_eq!(folder.export("b.blaze", "things"), folder.export("a.blaze", "things"));
}

/// A salvage that is stopped leaves neither a database nor a report.
#[test]
fn a_salvage_that_is_stopped_leaves_nothing() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(60_000)));
    folder.import(&file, "a.blaze", "things", &[]);
    let begin = || {
        let args = ["salvage", "--db", "a.blaze", "--to", "s.blaze", "--report", "s.txt", "--kdf", "light"];
        Background::start(folder.program().args(args))
    };
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut running = begin();
        appears(&folder, "s.blaze.restoring");
        signal(&running.child, name);
        assert_eq!(wait(&mut running.child, Duration::from_secs(20)), code);
        running.wait_for("nothing was left behind");
        let left: Vec<_> = fs::read_dir(folder.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter(|name| name.starts_with("s."))
            .collect();
        assert_eq!(left, [""; 0], "after {name}");
    }
    assert_eq!(wait(&mut begin().child, Duration::from_secs(60)), 0);
}

/// Names that a database needs for its log are no names for what is made beside it, and what lies under those that a new
/// database needs is seen before anything is made.
#[test]
fn names_of_logs_and_links_to_nothing_are_refused() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(20)));
    folder.import(&file, "a.blaze", "things", &[]);
    let needs = ["a.blaze-log.1 is a name that the database a.blaze needs for its log", "choose another name"];
    folder.run(["backup", "--db", "a.blaze", "-o", "a.blaze-log.1"]).refused(1, &needs);
    folder.run(["export", "--db", "a.blaze", "--collection", "things", "-o", "a.blaze-log.1"]).refused(1, &needs);
    folder.run(["salvage", "--db", "a.blaze", "--to", "s.blaze", "--report", "a.blaze-log.1"]).refused(1, &needs);
    folder.run(["backup", "--db", "a.blaze", "-o", "x.bak"]).ok();
    folder.run(["restore", "x.bak", "--db", "a.blaze-log.1", "--kdf", "light"]).refused(1, &needs);
    folder.run(["backup", "--db", "a.blaze", "-o", "other-log.1"]).ok();

    for name in ["a.blaze", "./a.blaze"] {
        let args = ["export", "--db", "a.blaze", "--collection", "things", "-o", name];
        folder.run(args).refused(1, &["is a database, and nothing is written over one", "choose another name"]);
    }
    folder.run(["verify", "--db", "a.blaze"]).ok();

    folder.write("q.blaze-log.0", "notes of somebody");
    let in_the_way = ["q.blaze-log.0 is in the way", "move that file away"];
    folder.run(["restore", "x.bak", "--db", "q.blaze", "--kdf", "light"]).refused(1, &in_the_way);
    let said = ["q.blaze-log.0 is in the way", "see that q.blaze can be written", "there is no new file"];
    let ran = folder.run(["salvage", "--db", "a.blaze", "--to", "q.blaze"]).refused(1, &said);
    assert!(!ran.stderr.contains("passphrase"), "{}", ran.stderr);
    assert_eq!(fs::read(folder.path().join("q.blaze-log.0")).expect("is there"), b"notes of somebody");
    assert!(!folder.path().join("q.blaze").exists());

    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("nowhere", folder.path().join("link")).expect("makes a link");
        let link = ["link is a link to a file that is not there", "remove the link"];
        folder.run(["backup", "--db", "a.blaze", "-o", "link"]).refused(1, &link);
        folder.run(["restore", "x.bak", "--db", "link"]).refused(1, &link);
        folder.run(["salvage", "--db", "a.blaze", "--to", "link"]).refused(1, &link);
        assert!(fs::symlink_metadata(folder.path().join("link")).expect("is there").is_symlink());
    }
}

fn appears(folder: &Folder, name: &str) {
    let begun = Instant::now();
    while !folder.path().join(name).exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{name} did not appear");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_file_of_which_not_one_row_can_be_read_gives_no_file_and_a_list() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(300)));
    folder.import(&file, "a.blaze", "things", &[]);
    let path = folder.path().join("a.blaze");
    let mut bytes = fs::read(&path).expect("is there");
    bytes[32 * 4096..].fill(0x5a);
    fs::write(&path, &bytes).expect("can be written");
    for log in blazedb::log_file_names("a.blaze") {
        let _ = fs::remove_file(folder.path().join(log));
    }
    let said = ["not one row of a.blaze can be read, and no file was made", "restore a backup", "sync a new file"];
    let ran = folder.run(["salvage", "--db", "a.blaze", "--to", "b.blaze"]).refused(1, &said);
    assert!(ran.stderr.contains("lost: where trees begin"), "{}", ran.stderr);
    // As one that was cut off leaves it, which is no reason to refuse.
    folder.write("lost.txt", "");
    let args = ["salvage", "--db", "a.blaze", "--to", "b.blaze", "--report", "lost.txt"];
    let ran = folder.run(args).refused(1, &said);
    assert!(!ran.stderr.contains("lost: "), "{}", ran.stderr);
    let lost = fs::read_to_string(folder.path().join("lost.txt")).expect("a report");
    assert!(lost.contains("where trees begin"), "{lost}");
    let names = fs::read_dir(folder.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let made: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("b.blaze")).collect();
    assert!(made.is_empty(), "{made:?}");
}

#[test]
fn what_can_be_read_of_a_damaged_file_is_saved_and_the_rest_is_listed() {
    let folder = Folder::new();
    let all: Vec<_> = (0..3000).map(|n| json!({"n": n, "text": "x".repeat(60)})).collect();
    let file = folder.write("r.ndjson", ndjson(&all));
    folder.import(&file, "a.blaze", "things", &[]);
    let args = ["salvage", "--db", "a.blaze", "--to", "same.blaze", "--kdf", "light"];
    let saved = folder.run(args).ok();
    assert!(saved.stdout.contains("nothing: all was saved"), "{}", saved.stdout);
    assert_eq!(folder.export("same.blaze", "things"), folder.export("a.blaze", "things"));

    // One page of rows.
    let path = folder.path().join("a.blaze");
    let mut bytes = fs::read(&path).expect("is there");
    let pages: Vec<usize> = (32..bytes.len() / 4096).filter(|no| bytes[no * 4096 + 4] == 1).collect();
    let page = pages[pages.len() / 2];
    bytes[page * 4096 + 2000] ^= 1;
    fs::write(&path, &bytes).expect("can be written");
    folder.run(["verify", "--db", "a.blaze"]).refused(1, &["is damaged", "blazedb salvage"]);
    let args = ["salvage", "--db", "a.blaze", "--to", "b.blaze", "--report", "lost.txt", "--kdf", "light"];
    let saved = folder.run(args);
    assert_eq!(saved.code, 3, "{}", saved.stderr);
    assert!(saved.stdout.contains("missing") && saved.stdout.contains("1 place"), "{}", saved.stdout);
    let lost = fs::read_to_string(folder.path().join("lost.txt")).expect("a report");
    assert!(lost.contains(&format!("page {page}")), "{lost}");
    assert_eq!(fs::read(&path).expect("is there"), bytes, "the damaged file is as it was");
    let left = folder.export("b.blaze", "things").lines().count();
    assert!((2900..3000).contains(&left), "{left} records");
    folder.run(["salvage", "--db", "a.blaze", "--to", "b.blaze"]).refused(1, &["b.blaze exists"]);
    // A report goes over no file: not over the damaged one, not over what is saved, not over another.
    let saved = fs::read(folder.path().join("b.blaze")).expect("is there");
    for report in ["a.blaze", "b.blaze", "lost.txt"] {
        let args = ["salvage", "--db", "a.blaze", "--to", "d.blaze", "--report", report, "--kdf", "light"];
        folder.run(args).refused(1, &[&format!("{report} exists"), "--report"]);
    }
    let args = ["salvage", "--db", "a.blaze", "--to", "d.blaze", "--report", "d.blaze"];
    folder.run(args).refused(1, &["name the same file"]);
    let args = ["salvage", "--db", "a.blaze", "--to", "d.blaze", "--report", "nowhere/lost.txt"];
    folder.run(args).refused(1, &["cannot write nowhere/lost.txt"]);
    assert!(!folder.path().join("d.blaze").exists());
    assert_eq!(fs::read(&path).expect("is there"), bytes);
    assert_eq!(fs::read(folder.path().join("b.blaze")).expect("is there"), saved);
    assert_eq!(fs::read_to_string(folder.path().join("lost.txt")).expect("is there"), lost);

    // Both headers: nothing can be had.
    let mut file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("opens");
    for at in [300_u64, 65_836] {
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("reads");
        byte[0] ^= 1;
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&byte)).expect("writes");
    }
    folder.run(["salvage", "--db", "a.blaze", "--to", "c.blaze"]).refused(1, &["neither of the file's headers"]);
}
