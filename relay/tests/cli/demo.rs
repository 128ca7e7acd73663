//! `blazedb demo`, shorter than people see it.

use std::process::Stdio;
use std::time::Duration;

use crate::support::{Background, Folder, ndjson, records, signal, wait};

#[test]
fn the_demo_ends_with_three_identical_copies_and_leaves_nothing() {
    let folder = Folder::new();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let file = folder.write("records.ndjson", ndjson(&records(120)));
    let mut command = folder.program();
    command.env("TMPDIR", &temporary).args(["demo", "--edits", "500", "--input"]).arg(file);
    let ran = crate::support::finish(&mut command).ok();
    let last = ran.stdout.lines().last().unwrap_or_default();
    let digest = last
        .strip_prefix("A == B == relay: identical (digest ")
        .and_then(|rest| rest.strip_suffix("...)"))
        .unwrap_or_else(|| panic!("the last line is: {last}"));
    assert!(digest.len() == 16 && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
    for row in [
        "records",
        "operations",
        "bytes as JSON",
        "bytes on disk",
        "bytes on the wire",
        "time to converge",
        "p50",
        "p99",
        "conflicts merged",
    ] {
        assert!(ran.stdout.contains(row), "{row} is not in the table:\n{}", ran.stdout);
    }
    assert_eq!(std::fs::read_dir(&temporary).expect("a folder").count(), 0, "the demo cleans up");
}

#[test]
fn an_interrupted_demo_leaves_no_relay_behind() {
    let folder = Folder::new();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).expect("a folder");
    let file = folder.write("records.ndjson", ndjson(&records(50)));
    let mut command = folder.program();
    command.env("TMPDIR", &temporary).args(["demo", "--edits", "5000", "--input"]).arg(file);
    let mut demo = Background::start(&mut command);
    let pid = loop {
        let line = demo.lines.recv_timeout(Duration::from_secs(60)).expect("the demo tells what it does");
        if let Some(rest) = line.strip_prefix("relay: process ") {
            break rest.split(' ').next().expect("a process number").to_owned();
        }
    };
    signal(&demo.child, "-INT");
    assert_eq!(wait(&mut demo.child, Duration::from_secs(30)), 130);
    let alive =
        std::process::Command::new("kill").args(["-0", &pid]).stderr(Stdio::null()).status().expect("kill starts");
    assert!(!alive.success(), "the relay (process {pid}) still runs");
    assert_eq!(std::fs::read_dir(&temporary).expect("a folder").count(), 0, "the demo cleans up");
}
