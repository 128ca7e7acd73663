//! The demo's relay: a child process of the same program, which never outlives the demo.
//!
//! Three things see to that: dropping the handle kills it, it stops by itself when its stdin ends (so that it also
//! goes when the demo is killed), and it is in a process group of its own, so that Ctrl-C reaches the demo first.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::cli::failure::Failure;
use crate::cli::{passphrase, serve};

/// How long a relay may take from its start to its ready line.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long a relay may take to close its files.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// How much of the relay's log is shown when it does not start.
const LOG_LINES_SHOWN: usize = 5;

/// A running relay.
pub(crate) struct RelayProcess {
    child: Child,
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    ready: serve::Ready,
}

impl RelayProcess {
    /// Starts a relay on a free port of this machine and waits until it is ready.
    pub(crate) fn start(data: &Path, log: &Path) -> Result<Self, Failure> {
        // Asked once: after the file was replaced by a new build, Linux would name the deleted one.
        let program = std::env::current_exe().map_err(|e| Failure::io("cannot find this program's own file", &e))?;
        Self::start_on(&program, data, log, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn start_on(program: &Path, data: &Path, log: &Path, listen: SocketAddr) -> Result<Self, Failure> {
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(|e| Failure::io(format!("cannot write {}", log.display()), &e))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .arg("--data")
            .arg(data)
            .arg("--listen")
            .arg(listen.to_string())
            .arg("--until-stdin-ends")
            .env_remove(passphrase::VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|e| Failure::io("cannot start the relay", &e))?;
        // The guard comes first: whatever goes wrong from here on, dropping it ends the child.
        let mut relay = Self {
            child,
            program: program.to_owned(),
            data: data.to_owned(),
            log: log.to_owned(),
            ready: serve::Ready { address: listen, fingerprint: String::new() },
        };
        relay.ready = relay.wait_ready()?;
        Ok(relay)
    }

    /// Reads the ready line; a thread does the reading, since a pipe has no timeout.
    fn wait_ready(&mut self) -> Result<serve::Ready, Failure> {
        let stdout = self.child.stdout.take().expect("stdout was asked to be a pipe");
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // The receiver is gone if waiting took too long; then nobody wants the line.
            let _ = send.send(read.map(|_| line));
        });
        match receive.recv_timeout(READY_WITHIN) {
            Ok(Ok(line)) => serve::Ready::parse(line.trim_end()).ok_or_else(|| self.did_not_start("it ended at once")),
            Ok(Err(e)) => Err(self.did_not_start(&e.to_string())),
            Err(_) => Err(self.did_not_start("it was not ready in time")),
        }
    }

    fn did_not_start(&self, why: &str) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let mut what = format!("the relay did not start: {why}");
        for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
            what.push_str("\n  relay: ");
            what.push_str(line);
        }
        Failure::new(what, "run `blazedb serve --data DIR` by itself to see more")
    }

    /// Kills the relay the way a power cut would (SIGKILL on Unix): no farewell, no flush.
    pub(crate) fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|e| Failure::io("cannot kill the relay", &e))?;
        Ok(())
    }

    /// Asks the relay to stop by ending its stdin, and waits until it has closed its files.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let begun = Instant::now();
        while begun.elapsed() < STOP_WITHIN {
            if self.child.try_wait().map_err(|e| Failure::io("cannot wait for the relay", &e))?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Failure::new("the relay did not stop when asked", "this is a defect; please report it"))
    }

    /// Starts a new process on the same port and data; returns how long it took to be ready.
    pub(crate) fn start_again(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let fingerprint = self.ready.fingerprint.clone();
        *self = Self::start_on(&self.program.clone(), &self.data.clone(), &self.log.clone(), self.ready.address)?;
        if self.ready.fingerprint != fingerprint {
            return Err(Failure::new("the relay came back with another key", "this is a defect; please report it"));
        }
        Ok(begun.elapsed())
    }

    /// Returns the address that clients use.
    pub(crate) fn url(&self) -> String {
        self.ready.url()
    }

    /// Returns the fingerprint that clients pin.
    pub(crate) fn fingerprint(&self) -> &str {
        &self.ready.fingerprint
    }

    /// Returns the process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        // Both fail only if it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
