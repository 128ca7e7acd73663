//! SIGKILL: a child process commits and says so over a pipe, is killed at a random moment, and everything it said
//! must be there. `BLAZE_KILLS` sets how often (default 30).

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blazedb_engine::{Env, Store};

use crate::support::{Random, get, options, put};

const CHILD: &str = "BLAZE_KILL_TEST_CHILD";

/// Not a test of its own: what the child does. Without the variable it does nothing.
#[test]
fn child() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let store = Store::open(Env::file(&path), options()).expect("the child opens");
    let from = next(&store);
    let mut out = std::io::stdout().lock();
    for n in from.. {
        let value = vec![n as u8; (n % 5000) as usize];
        put(&store, "t", &n.to_be_bytes(), &value).expect("the child commits");
        if n % 40 == 39 {
            store.checkpoint().expect("the child checkpoints");
        }
        writeln!(out, "ack {n}").and_then(|()| out.flush()).expect("the parent listens");
    }
}

fn next(store: &Store) -> u64 {
    let view = store.read();
    view.tree("t").expect("the catalogue reads").map_or(0, |t| view.len(t).expect("the tree reads"))
}

#[test]
fn acknowledged_commits_survive_sigkill() {
    let kills: u64 = std::env::var("BLAZE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("killed.blaze");
    let mut random = Random::new(kills);
    let mut acknowledged = 0;
    for kill in 0..kills {
        acknowledged = acknowledged.max(run_and_kill(&path, 5 + random.below(45)));
        let store = Store::open(Env::file(&path), options()).expect("opens after the kill");
        let found = next(&store);
        assert!(found >= acknowledged, "kill {kill}: {acknowledged} were acknowledged, {found} are there");
        for n in (0..found).rev().take(50) {
            assert_eq!(get(&store, "t", &n.to_be_bytes()), Some(vec![n as u8; (n % 5000) as usize]), "kill {kill}");
        }
        store.verify(&mut |_| {}).expect("pages and space agree");
    }
    assert!(acknowledged > 0, "the children did commit");
}

/// Returns how many commits were acknowledged in all.
fn run_and_kill(path: &Path, after_ms: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test has a file"))
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let out = child.stdout.take().expect("piped");
    let reader = std::thread::spawn(move || {
        let mut last = 0;
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            // The test harness may have begun the line.
            if let Some(n) =
                line.rsplit("ack ").next().filter(|_| line.contains("ack ")).and_then(|n| n.parse::<u64>().ok())
            {
                last = n + 1;
            }
        }
        last
    });
    std::thread::sleep(Duration::from_millis(after_ms));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    reader.join().expect("the reader ends with the pipe")
}
