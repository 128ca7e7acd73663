//! The relay is killed while two devices stream through it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Background, Folder, Relay, multiset, ndjson, parse_ndjson};

/// Records of each device: more than a transfer of a few moments on the machines this runs on.
const RECORDS: u64 = 4_000;

// As where its log lies on a disk that is full, or goes into a pipe whose reader has ended.
#[test]
fn a_relay_that_cannot_write_its_log_serves_all_the_same() {
    let folder = Folder::new();
    let mut relay = Relay::start_with(&folder, &[("BLAZEDB_LOG", "debug")]);
    relay.nobody_reads_its_errors();
    for device in ["a.blaze", "b.blaze"] {
        folder.import(&folder.write("part.ndjson", ndjson(&[json!({"of": device})])), device, "things", &[]);
        folder.sync(device, &relay);
    }
    folder.sync("a.blaze", &relay);
    assert_eq!(parse_ndjson(&folder.export("a.blaze", "things")).len(), 2);
    assert!(relay.child().try_wait().expect("a process").is_none(), "it runs");
}

#[test]
fn kill_nine_of_the_relay_under_two_watchers_loses_nothing() {
    let folder = Folder::new();
    let mut relay = Relay::start(&folder);
    let records = |device: &str| -> Vec<Value> {
        (0..RECORDS).map(|n| json!({"device": device, "n": n, "text": "x".repeat(40)})).collect()
    };
    let of = [records("a"), records("b")];
    for (db, records) in ["a.blaze", "b.blaze"].iter().zip(&of) {
        folder.import(&folder.write("part.ndjson", ndjson(records)), db, "things", &[]);
    }
    let watch = |db: &str, relay: &Relay| Background::start(folder.program().args(relay.sync_args(db)).arg("--watch"));
    let watchers = [watch("a.blaze", &relay), watch("b.blaze", &relay)];
    let mut seen = [0_u64; 2];
    let mut kills = 0;
    let begun = Instant::now();
    while seen != [RECORDS; 2] {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "the devices saw {seen:?} of {RECORDS} after {kills} kills"
        );
        for (watcher, seen) in watchers.iter().zip(&mut seen) {
            while let Ok(line) = watcher.lines.try_recv() {
                assert!(line.starts_with("put things "), "{line}");
                *seen += 1;
            }
        }
        // Twice, while some has arrived and not all; one device may be done before the other has the processor.
        let arrived: u64 = seen.iter().sum();
        if kills < 2 && arrived > kills * RECORDS * 2 / 3 && arrived < RECORDS * 2 {
            relay.kill();
            kills += 1;
            std::thread::sleep(Duration::from_millis(300));
            relay.start_again();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(kills > 0, "the devices were done before the relay could be killed");
    for watcher in watchers {
        assert_eq!(watcher.interrupt(), 0);
    }
    for db in ["a.blaze", "b.blaze", "fresh.blaze"] {
        folder.sync(db, &relay);
    }
    let on_a = folder.export("a.blaze", "things");
    assert_eq!(on_a, folder.export("b.blaze", "things"));
    assert_eq!(on_a, folder.export("fresh.blaze", "things"));
    assert_eq!(multiset(&parse_ndjson(&on_a)), multiset(of.iter().flatten()));
}
