//! The relay's process is killed with SIGKILL again and again while two devices write through it: whatever a device was
//! told is durable is on both in the end, once. BLAZE_KILLS sets the number of kills; an ordinary run makes 100.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blazedb::{Database, Document, Options, Relay, Value};

struct Process {
    child: Child,
    url: String,
    fingerprint: String,
}

impl Process {
    fn start(data: &Path, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_blazedb"))
            .args(["serve", "--listen", listen, "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the relay starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        out.read_line(&mut line).expect("the relay speaks");
        let rest = line.trim().strip_prefix("blazedb relay ready on ").expect("the ready line");
        let (url, fingerprint) = rest.split_once(" fingerprint ").expect("the ready line has a fingerprint");
        Self { child, url: url.to_owned(), fingerprint: fingerprint.to_owned() }
    }

    fn kill(&mut self) {
        self.child.kill().expect("the relay runs");
        self.child.wait().expect("the relay ended");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes until told to stop; returns how many writes were acknowledged.
fn write(db: &Database, device: i64, stop: &AtomicBool) -> i64 {
    let things = db.collection::<Document>("things").unwrap();
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let document = Document::from_pairs([("device", Value::I64(device)), ("n", Value::I64(count))]).unwrap();
        things.insert(&document).unwrap();
        count += 1;
        // A device that does nothing but write would leave no processor to the others.
        std::thread::sleep(Duration::from_millis(2));
    }
    count
}

#[test]
fn a_hundred_kills_of_the_relay_lose_nothing_and_double_nothing() {
    let kills: u64 = std::env::var("BLAZE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("relay");
    let mut relay = Process::start(&data, "127.0.0.1:0");
    let listen = relay.url.strip_prefix("https://").unwrap().to_owned();
    let token = blazedb_relay::token::issue(&data, "home", "test", Duration::from_secs(3600)).unwrap();
    let devices: Vec<Database> = (1..=2u8)
        .map(|n| Database::open(dir.path().join(format!("{n}.blaze")), Options::raw_key([n; 32])).unwrap())
        .collect();
    let syncs: Vec<_> = devices
        .iter()
        .map(|db| {
            let target = Relay::new(&relay.url).space("home").token(&token).fingerprint(&relay.fingerprint);
            db.enable_sync(target).unwrap()
        })
        .collect();
    let stop = AtomicBool::new(false);
    let mut chance = 0x9E37_79B9_7F4A_7C15u64;
    let counts: Vec<i64> = std::thread::scope(|scope| {
        let writers: Vec<_> = devices
            .iter()
            .enumerate()
            .map(|(n, db)| {
                let stop = &stop;
                scope.spawn(move || write(db, n as i64, stop))
            })
            .collect();
        for _ in 0..kills {
            // At some moment after both have reached it: reading, syncing, answering, starting to stream.
            for sync in &syncs {
                let connections = sync.status().unwrap().connections;
                for _ in 0..1000 {
                    let status = sync.status().unwrap();
                    if status.connections > connections || status.state == blazedb::SyncState::Online {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            std::thread::sleep(Duration::from_millis(chance % 80));
            relay.kill();
            relay = Process::start(&data, &listen);
        }
        stop.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    });
    // The first waits again once the second has sent everything.
    for sync in syncs.iter().chain(&syncs) {
        sync.wait_idle(Duration::from_secs(60)).unwrap();
    }
    let (seq, digest, documents) = syncs[0].relay_digest(Duration::from_secs(30)).unwrap();
    assert_eq!(seq as i64, counts.iter().sum::<i64>(), "the log holds each operation once");
    assert_eq!(documents as i64, counts.iter().sum::<i64>());
    for db in &devices {
        assert_eq!(db.digest().unwrap(), digest);
        let mut seen: BTreeMap<(i64, i64), u32> = BTreeMap::new();
        for item in db.collection::<Document>("things").unwrap().scan() {
            let (_, document) = item.unwrap();
            let field = |name| match document.get(name) {
                Some(Value::I64(n)) => *n,
                other => panic!("{name} is {other:?}"),
            };
            *seen.entry((field("device"), field("n"))).or_default() += 1;
        }
        for (device, count) in counts.iter().enumerate() {
            for n in 0..*count {
                assert_eq!(seen.get(&(device as i64, n)), Some(&1), "device {device}, write {n}");
            }
        }
    }
    assert!(counts.iter().all(|count| *count as u64 > kills), "the devices did hardly anything: {counts:?}");
}
