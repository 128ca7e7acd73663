//! A slice of the kills: `cargo prove -- kills` has the number that is promised.

use std::path::Path;
use std::process::Command;

use blazedb_harness::kills;

#[test]
fn acknowledged_commits_survive_sigkill() {
    let folder = tempfile::tempdir().expect("a folder");
    let spawn = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prove"));
        command.arg("kill-child").arg(path);
        command
    };
    let report = kills::run(30, 1, &folder.path().join("killed.blaze"), spawn).expect("nothing acknowledged is lost");
    assert!(report.acknowledged >= 15, "every other child got so far: {report:?}");
}
