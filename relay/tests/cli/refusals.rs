//! What goes wrong, and whether the program says what to do about it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Background, Folder, PASSPHRASE, Relay, finish, ndjson, records};

#[test]
fn bad_records_are_named_by_line_and_path_and_nothing_is_imported() {
    let folder = Folder::new();
    folder.write(
        "bad.ndjson",
        "{\"a\":1}\n{\"a\":{\"b\":[1,0.1000000000000000055]}}\n{\"a\":1,\"a\":2}\n[1]\n{\"a\":tru}\n{\"z\":9}\n",
    );
    let args = ["import", "bad.ndjson", "--db", "a.blaze", "--collection", "c", "--kdf", "light"];
    folder.run(args).refused(
        1,
        &["4 of 6 records", "nothing was imported", "line 2", "$.a.b[1]", "line 3", "line 4", "line 5", "--keep-going"],
    );
    assert!(!folder.path().join("a.blaze").exists(), "a refused import creates no file");

    let kept = folder.run(args.iter().chain(&["--keep-going"]));
    let kept = kept.refused(
        3,
        &["left out: line 2", "left out: line 3", "left out: line 4", "left out: line 5", "4 records left out"],
    );
    assert!(kept.stderr.contains("imported 2 records"), "{}", kept.stderr);
    assert_eq!(folder.export("a.blaze", "c").lines().count(), 2);
}

#[test]
fn a_file_that_breaks_off_is_refused() {
    let folder = Folder::new();
    folder.write("cut.json", "[{\"a\":1},\n{\"a\":");
    folder
        .run(["import", "cut.json", "--db", "a.blaze", "--collection", "c", "--kdf", "light"])
        .refused(1, &["line 2", "nothing was imported"]);
    folder
        .run(["import", "absent.json", "--db", "a.blaze", "--collection", "c"])
        .refused(1, &["absent.json", "check the path"]);
}

#[test]
fn ids_must_be_there_be_text_or_integers_and_differ() {
    let folder = Folder::new();
    folder.write("ids.ndjson", "{\"id\":1}\n{\"id\":\"1\"}\n{\"id\":1}\n{\"id\":1.5}\n{\"x\":1}\n");
    folder
        .run(["import", "ids.ndjson", "--db", "a.blaze", "--collection", "c", "--id-field", "id", "--kdf", "light"])
        .refused(
            1,
            &[
                "3 of 5 records",
                "line 3, at $.id: the id of the record on line 1",
                "line 4, at $.id",
                "line 5, at $.id",
            ],
        );
}

#[test]
fn passphrases_are_checked() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "c", &[]);
    let export = ["export", "--db", "a.blaze", "--collection", "c"];
    finish(folder.program().env("BLAZEDB_PASSPHRASE", "wrong horse").args(export))
        .refused(1, &["the passphrase does not open a.blaze", "check the passphrase"]);
    finish(folder.program().env_remove("BLAZEDB_PASSPHRASE").args(export))
        .refused(1, &["no passphrase", "--passphrase-file", "BLAZEDB_PASSPHRASE"]);
    finish(folder.program().env("BLAZEDB_PASSPHRASE", "").args(export)).refused(1, &["is empty"]);
    folder
        .run(export.iter().chain(&["--unencrypted"]))
        .refused(1, &["a.blaze is encrypted", "leave --unencrypted away"]);

    folder.write("passphrase", format!("{PASSPHRASE}\n"));
    finish(folder.program().env_remove("BLAZEDB_PASSPHRASE").args(export).args(["--passphrase-file", "passphrase"]))
        .ok();

    let new = ["import", "r.ndjson", "--db", "new.blaze", "--collection", "c"];
    finish(folder.program().env("BLAZEDB_PASSPHRASE", "short").args(new))
        .refused(1, &["too short", "at least 8 characters"]);
    assert!(!folder.path().join("new.blaze").exists());
}

#[test]
fn missing_files_and_collections_are_named() {
    let folder = Folder::new();
    folder.run(["stats", "--db", "absent.blaze"]).refused(1, &["no database file absent.blaze", "check the path"]);
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "things", &[]);
    folder
        .run(["export", "--db", "a.blaze", "--collection", "thing"])
        .refused(1, &["no collection thing", "choose one of: things"]);
    folder
        .run(["import", "r.ndjson", "--db", "no/such/a.blaze", "--collection", "c"])
        .refused(1, &["no folder no/such"]);
    folder.write("noise.blaze", vec![7; 4096]);
    folder.run(["stats", "--db", "noise.blaze"]).refused(1, &["noise.blaze is not a BlazeDB file", "check the path"]);
}

#[test]
fn a_locked_file_names_its_holder_and_can_still_be_read() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let file = folder.write("r.ndjson", ndjson(&records(3)));
    folder.import(&file, "a.blaze", "c", &[]);
    let watcher = Background::start(folder.program().args(relay.sync_args("a.blaze")).arg("--watch"));
    let pid = format!("process {}", watcher.child.id());
    watcher.wait_for("connected");
    folder
        .run(["import", "r.ndjson", "--db", "a.blaze", "--collection", "c"])
        .refused(1, &["open for writing", &pid, "end that program"]);
    assert_eq!(folder.export("a.blaze", "c").lines().count(), 3, "reading goes on beside the writer");
    assert_eq!(watcher.interrupt(), 0);
}

#[test]
fn a_relay_that_is_somebody_else_is_refused() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let wrong = "0".repeat(64);
    folder
        .run(
            relay.sync_args_with("a.blaze", "home.token", &wrong).iter().map(String::as_str).chain(["--timeout", "5s"]),
        )
        .refused(1, &["fingerprint", "blazedb serve"]);
    let by_certificate: Vec<String> = {
        let mut args = relay.sync_args("a.blaze");
        let at = args.iter().position(|arg| arg == "--fingerprint").expect("the fingerprint is given");
        args.splice(at..at + 2, ["--ca".to_owned(), format!("{}/tls.crt", relay.data())]);
        args
    };
    folder.run(by_certificate).ok();
}

#[test]
fn tokens_are_checked() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    let an_hour = Duration::from_secs(3_600);
    let data = std::path::Path::new(relay.data());
    let expired = blazedb_relay::token::issue_at(data, "home", "test", an_hour, now - 3 * 3_600).expect("a token");
    folder.write("expired.token", expired);
    folder.write("forged.token", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.AAAA");
    folder.write("empty.token", "\n");
    let sync = |token: &str| {
        let args = relay.sync_args_with("a.blaze", token, &relay.fingerprint);
        folder.run(args.iter().map(String::as_str).chain(["--timeout", "5s"]))
    };
    sync("expired.token").refused(1, &["expired", "make a new token"]);
    sync("forged.token").refused(1, &["token", "make a new token"]);
    sync("empty.token").refused(1, &["is empty", "blazedb token"]);
    sync("absent.token").refused(1, &["absent.token", "blazedb token"]);
    sync("home.token").ok();
}

#[test]
fn a_relay_that_is_not_there_is_given_up() {
    let folder = Folder::new();
    folder.write("home.token", "x.y.z");
    let args = [
        "sync",
        "--db",
        "a.blaze",
        "--relay",
        "https://127.0.0.1:9",
        "--space",
        "home",
        "--token-file",
        "home.token",
        "--fingerprint",
        &"0".repeat(64),
        "--kdf",
        "light",
        "--timeout",
        "2s",
    ];
    folder.run(args).refused(1, &["cannot sync with https://127.0.0.1:9", "nothing is lost"]);
    folder
        .run(args.map(|arg| if arg.starts_with("https") { "http://127.0.0.1:9" } else { arg }))
        .refused(1, &["not an https address"]);
}

#[test]
fn one_relay_at_a_time_has_a_folder() {
    let folder = Folder::new();
    let relay = Relay::start(&folder);
    folder.run(["serve", "--data", relay.data(), "--listen", "127.0.0.1:0"]).refused(1, &["relay-data"]);
}

#[test]
fn a_file_from_the_future_says_which_version_it_is_and_what_to_do() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", "{}\n");
    folder.import(&file, "a.blaze", "things", &[]);
    let path = folder.path().join("a.blaze");
    let mut bytes = std::fs::read(&path).expect("the database");
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).expect("can be written");
    for command in ["stats", "verify", "vacuum", "rekey", "inbox"] {
        let said = ["format version 3", "reads version 0", "get the newest blazedb", "blazedb export"];
        folder.run([command, "--db", "a.blaze"]).refused(1, &said);
    }
    let said = ["format version 3", "reads version 0", "the file is whole", "get the newest blazedb"];
    let refused = folder.run(["salvage", "--db", "a.blaze", "--to", "s.blaze"]).refused(1, &said);
    assert!(!refused.stderr.contains("passphrase"), "{}", refused.stderr);
    assert!(!folder.path().join("s.blaze").exists());
    assert!(std::fs::read(&path).expect("the database") == bytes, "nothing was changed");
}

#[test]
fn a_backup_from_the_future_is_no_matter_of_passphrases() {
    let folder = Folder::new();
    let file = folder.write("r.ndjson", "{}\n");
    folder.import(&file, "a.blaze", "things", &[]);
    folder.run(["backup", "--db", "a.blaze", "-o", "a.backup"]).ok();
    let path = folder.path().join("a.backup");
    let mut bytes = std::fs::read(&path).expect("the backup");
    bytes[8] = 3;
    let crc = crc32fast::hash(&bytes[..508]);
    bytes[508..512].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).expect("can be written");
    let said = ["version 3", "the backup is whole", "get the newest blazedb"];
    let refused = folder.run(["restore", "a.backup", "--db", "r.blaze"]).refused(1, &said);
    assert!(!refused.stderr.contains("check the passphrase"), "{}", refused.stderr);
    assert!(!folder.path().join("r.blaze").exists());
}
