//! A folder, the program, a relay, and records to play with.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Panics with everything that was printed unless the program succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "the program failed\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Panics unless the program failed with this code and its errors contain every one of `texts`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in: {}", self.stderr);
        }
        if code == 1 {
            assert!(self.stderr.contains("error: ") && self.stderr.contains("\nnext: "), "{}", self.stderr);
        }
        self
    }
}

/// A folder that goes when it is dropped.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The program, about to run here with the passphrase in its environment.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_blazedb"));
        command
            .current_dir(self.path())
            .env("BLAZEDB_PASSPHRASE", PASSPHRASE)
            .env_remove("BLAZEDB_LOG")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        finish(self.program().args(args))
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).expect("a file in the temporary folder");
        path
    }

    /// Imports a file into a database that may be new.
    #[track_caller]
    pub(crate) fn import(&self, file: &Path, db: &str, collection: &str, more: &[&str]) -> Ran {
        let file = file.to_str().expect("temporary paths are UTF-8");
        let args = ["import", file, "--db", db, "--collection", collection, "--kdf", "light"];
        self.run(args.iter().chain(more)).ok()
    }

    /// Exports a collection.
    #[track_caller]
    pub(crate) fn export(&self, db: &str, collection: &str) -> String {
        self.run(["export", "--db", db, "--collection", collection]).ok().stdout
    }

    /// Syncs until nothing is left to do.
    #[track_caller]
    pub(crate) fn sync(&self, db: &str, relay: &Relay) -> Ran {
        self.run(relay.sync_args(db)).ok()
    }
}

/// Runs a command and collects what it printed.
pub(crate) fn finish(command: &mut Command) -> Ran {
    let output = command.output().expect("the program starts");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A child whose lines are collected by a thread; killed when dropped.
pub(crate) struct Background {
    pub(crate) child: Child,
    pub(crate) lines: Receiver<String>,
    pub(crate) errors: Receiver<String>,
}

impl Background {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = lines_of(child.stdout.take().expect("stdout is a pipe"));
        let errors = lines_of(child.stderr.take().expect("stderr is a pipe"));
        Self { child, lines, errors }
    }

    /// Waits for a line on stderr.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(60) {
            match self.errors.recv_timeout(Duration::from_secs(1)) {
                Ok(line) if line.contains(text) => return,
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        panic!("`{text}` did not appear on stderr");
    }

    /// Asks the program to stop, the way Ctrl-C does, and returns its exit code.
    pub(crate) fn interrupt(mut self) -> i32 {
        signal(&self.child, "-INT");
        wait(&mut self.child, Duration::from_secs(20))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

pub(crate) fn signal(child: &Child, signal: &str) {
    let status = Command::new("kill").arg(signal).arg(child.id().to_string()).status().expect("kill starts");
    assert!(status.success(), "kill {signal} {} failed", child.id());
}

/// Waits for a child to end by itself.
#[track_caller]
pub(crate) fn wait(child: &mut Child, within: Duration) -> i32 {
    let begun = Instant::now();
    while begun.elapsed() < within {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            return status.code().unwrap_or(-1);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the child did not end within {within:?}");
}

/// A running relay with a token for the space `home`; killed when dropped.
pub(crate) struct Relay {
    process: Background,
    data: PathBuf,
    pub(crate) url: String,
    pub(crate) fingerprint: String,
}

impl Relay {
    pub(crate) fn start(folder: &Folder) -> Self {
        Self::start_with(folder, &[])
    }

    pub(crate) fn start_with(folder: &Folder, env: &[(&str, &str)]) -> Self {
        let data = folder.path().join("relay-data");
        let (process, url, fingerprint) = launch(&data, "127.0.0.1:0", env);
        let relay = Self { process, data, url, fingerprint };
        let token = folder.run(["token", "--data", relay.data(), "--space", "home", "--subject", "test"]).ok();
        folder.write("home.token", token.stdout);
        relay
    }

    pub(crate) fn data(&self) -> &str {
        self.data.to_str().expect("temporary paths are UTF-8")
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.process.child
    }

    /// From the next line on, its stderr is a pipe without a reader.
    pub(crate) fn nobody_reads_its_errors(&mut self) {
        self.process.errors = channel().1;
    }

    /// SIGKILL: no farewell, no flush.
    pub(crate) fn kill(&mut self) {
        self.process.child.kill().expect("the relay runs");
        self.process.child.wait().expect("the relay ended");
    }

    /// Starts again on the same port and data.
    pub(crate) fn start_again(&mut self) {
        let listen = self.url.strip_prefix("https://").expect("an https address").to_owned();
        let fingerprint = self.fingerprint.clone();
        (self.process, self.url, self.fingerprint) = launch(&self.data, &listen, &[]);
        assert_eq!(self.fingerprint, fingerprint, "the relay's key is kept");
    }

    pub(crate) fn sync_args(&self, db: &str) -> Vec<String> {
        self.sync_args_with(db, "home.token", &self.fingerprint)
    }

    pub(crate) fn sync_args_with(&self, db: &str, token: &str, fingerprint: &str) -> Vec<String> {
        [
            "sync",
            "--db",
            db,
            "--relay",
            &self.url,
            "--space",
            "home",
            "--token-file",
            token,
            "--fingerprint",
            fingerprint,
            "--kdf",
            "light",
        ]
        .map(str::to_owned)
        .to_vec()
    }
}

fn launch(data: &Path, listen: &str, env: &[(&str, &str)]) -> (Background, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_blazedb"));
    command.envs(env.iter().copied());
    command.arg("serve").arg("--data").arg(data).args(["--listen", listen]).stdin(Stdio::null());
    let process = Background::start(&mut command);
    let line = process.lines.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| {
        panic!("the relay is not ready: {}", process.errors.try_iter().collect::<Vec<_>>().join("\n"))
    });
    let rest = line.strip_prefix("blazedb relay ready on ").expect("the ready line");
    let (url, fingerprint) = rest.split_once(" fingerprint ").expect("the ready line has a fingerprint");
    let (url, fingerprint) = (url.to_owned(), fingerprint.to_owned());
    (process, url, fingerprint)
}

/// Records of every kind of JSON value, `count` of them, the same every time.
pub(crate) fn records(count: u64) -> Vec<Value> {
    (0..count)
        .map(|n| {
            let mut record = json!({
                "id": format!("record-{n}"),
                "number": n,
                "negative": -(n as i64) * 1_000_003,
                "fraction": n as f64 / 8.0,
                "tiny": 5e-324 * (n + 1) as f64,
                "flag": n % 2 == 0,
                "nothing": null,
                "text": format!("line {n}\n\ttab \"quotes\" \\ \u{e9}\u{4e2d}\u{1f525}\u{0}"),
                "list": [n, [n, []], {}, "", {"deep": {"deeper": [null, true, -1]}}],
                "a key with spaces": {"": "empty key", "\u{e9}": 1},
            });
            match n % 5 {
                0 => record["extreme"] = json!([u64::MAX, i64::MIN, i64::MAX, 1.7976931348623157e308, -0.0]),
                1 => record["only sometimes"] = json!("x".repeat(300)),
                _ => {}
            }
            record
        })
        .collect()
}

pub(crate) fn ndjson(records: &[Value]) -> String {
    records.iter().map(|record| format!("{record}\n")).collect()
}

/// How often each value occurs, by its text.
pub(crate) fn multiset<'a>(values: impl IntoIterator<Item = &'a Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value.to_string()).or_insert(0) += 1;
    }
    counts
}

pub(crate) fn parse_ndjson(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("an exported line is JSON")).collect()
}

/// Every file under a folder.
pub(crate) fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(files_under(&path)) } else { files.push(path) }
    }
    files
}

/// Copies a database: the file and, where there is one, the log beside it.
pub(crate) fn copy_database(folder: &Path, from: &str, to: &str) {
    fs::copy(folder.join(from), folder.join(to)).expect("the database is copied");
    for (log, copy) in blazedb::log_file_names(from).iter().zip(blazedb::log_file_names(to)) {
        if folder.join(log).exists() {
            fs::copy(folder.join(log), folder.join(copy)).expect("the log is copied");
        }
    }
}

/// Says something that the test harness does not swallow.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
