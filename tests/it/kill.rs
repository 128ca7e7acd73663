//! A real process, killed with SIGKILL at random moments, a hundred times: what it acknowledged is there after
//! reopening, and no transaction is there in part. BLAZE_KILLS sets another number.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use blazedb::{Database, Document, DocumentId, Options, Patch, Value};

const CHILD: &str = "BLAZE_KILL_CHILD";
/// Documents of one transaction, which must be there together.
const GROUP: i64 = 3;

fn open(path: &str) -> Database {
    Database::open(path, Options::raw_key([3; 32])).unwrap()
}

fn member(round: i64, number: i64) -> Document {
    Document::from_pairs([("round", Value::I64(round)), ("member", Value::I64(number)), ("seen", Value::I64(0))])
        .unwrap()
}

fn round_of(document: &Document, field: &str) -> i64 {
    match document.get(field) {
        Some(Value::I64(n)) => *n,
        other => panic!("{field} is {other:?}"),
    }
}

/// The process that gets killed: writes groups and says which it was told are durable. Does nothing in an ordinary run.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let db = open(&path);
    let first = db.collection::<Document>("groups").unwrap().len().unwrap() as i64;
    let mut out = std::io::stdout();
    for round in first.. {
        db.transaction(|tx| {
            let groups = tx.collection::<Document>("groups")?;
            let mut last = None;
            for number in 0..GROUP {
                last = Some(groups.insert(&member(round, number))?);
            }
            // The same transaction touches one of its own documents again.
            groups.update(last.expect("the group is not empty"), Patch::new().set("seen", 1))?;
            Ok(())
        })
        .unwrap();
        writeln!(out, "\ndurable {round}").and_then(|()| out.flush()).unwrap();
    }
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_there_in_part() {
    let kills: u64 = std::env::var("BLAZE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("killed.blaze");
    let path = path.to_str().unwrap();
    let mut chance = 0x2545_F491_4F6C_DD1Du64;
    let mut acknowledged = Vec::new();
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let durable = |line: String| line.strip_prefix("durable ").and_then(|n| n.parse::<i64>().ok());
            lines.lines().map_while(Result::ok).filter_map(durable).collect::<Vec<_>>()
        });
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        std::thread::sleep(Duration::from_millis(10 + chance % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(reader.join().unwrap());

        let db = open(path);
        let mut groups: BTreeMap<i64, Vec<(DocumentId, i64, i64)>> = BTreeMap::new();
        for item in db.collection::<Document>("groups").unwrap().scan() {
            let (id, document) = item.unwrap();
            let entry = (id, round_of(&document, "member"), round_of(&document, "seen"));
            groups.entry(round_of(&document, "round")).or_default().push(entry);
        }
        for round in &acknowledged {
            assert!(groups.contains_key(round), "kill {kill}: acknowledged group {round} is gone");
        }
        for (round, members) in &groups {
            assert_eq!(members.len() as i64, GROUP, "kill {kill}: group {round} is there in part");
            let seen: i64 = members.iter().map(|(_, _, seen)| seen).sum();
            assert_eq!(seen, 1, "kill {kill}: group {round} lacks its last write");
        }
        db.verify(&mut |_| {}).unwrap();
    }
    assert!(acknowledged.len() as u64 > kills, "the writer did hardly anything: {} groups", acknowledged.len());
}
