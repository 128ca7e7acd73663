//! A file that is cut under an open store: through a mapping that ends the process, as `PageAccess::Map` says; through
//! reads it is an error like any other. In child processes, as one of them has to die.

use std::path::Path;
use std::process::{Command, Stdio};

use blazedb_engine::{Env, MaintainError, Options, PageAccess, ReadError, Store};

use crate::support::{content, put, try_content, unencrypted};

const CHILD: &str = "BLAZE_MAPPING_TEST_CHILD";
/// What the child ends with where it saw the plain error, and where it saw no error at all.
const PLAIN_ERROR: i32 = 40;
const NO_ERROR: i32 = 41;

/// Not a test of its own: what the child does. Without the variable it does nothing.
#[test]
fn child() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let (access, path) = what.split_once(' ').expect("how and where");
    let access = if access == "map" { PageAccess::Map } else { PageAccess::Read };
    let store = Store::open(Env::file(path), unencrypted().access(access)).expect("the child opens");
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("the file is there");
    // Behind the store's back, which holds the lock that other stores would ask for.
    file.set_len((128 << 10) + 4096).expect("the file can be cut");
    let read = try_content(&store.read());
    let verified = store.verify(&mut |_| {});
    let code = match (read, verified) {
        (Err(ReadError::Corruption(_)), Err(MaintainError::Corruption(_))) => PLAIN_ERROR,
        _ => NO_ERROR,
    };
    std::process::exit(code);
}

fn run(access: &str, path: &Path) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().expect("this test has a file"))
        .args(["--exact", "mapping::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{access} {}", path.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("the child runs")
}

fn filled(path: &Path, options: Options) {
    let store = Store::open(Env::file(path), options).expect("opens");
    for n in 0..200_u8 {
        put(&store, "t", &[n], &[n; 900]).expect("commits");
    }
    assert_eq!(content(&store.read())["t"].len(), 200);
    store.close().expect("closes");
}

#[test]
fn a_file_cut_under_a_store_that_reads_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("read.blaze");
    filled(&path, unencrypted());
    assert_eq!(run("read", &path).code(), Some(PLAIN_ERROR));
    // It stays an error with a name, and what is left of the file stays as it is.
    let error = Store::open(Env::file(&path), unencrypted()).expect_err("it is too short");
    assert!(error.to_string().contains("damaged"), "{error}");
}

#[cfg(all(unix, target_pointer_width = "64"))]
#[test]
fn a_file_cut_under_a_store_that_maps_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    /// SIGBUS on Linux for x86 and Arm; other systems have another number for it.
    const SIGBUS: i32 = if cfg!(target_os = "linux") { 7 } else { 10 };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("map.blaze");
    filled(&path, unencrypted());
    let status = run("map", &path);
    assert_eq!(status.signal(), Some(SIGBUS), "{status}");
}
