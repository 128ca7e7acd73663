//! SIGKILL: a child process commits and says so over a pipe, is killed at a random moment, and everything it said must
//! be there. A real process, real files, the operating system's page cache: what a simulated disk cannot show.
//!
//! Three threads write, each over its own rows again and again: two with `Durable`, one with `Buffered`, which a kill
//! must not lose either. The table is so small that one kill in a few falls into a checkpoint.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use blazedb_engine::{CommitError, Durability, Env, Memory, Options, ReadError, Store};

use crate::Rng;

const MEMORY: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 24 << 10, log_bytes: 256 << 10 };
const THREADS: u8 = 3;
/// Each thread's rows: commit n writes row n modulo this many.
const ROWS: u64 = 150;
/// Bytes of an acknowledgement: thread and commit. One write to a pipe, which is never torn.
const ACK_BYTES: usize = 9;
/// When the kill comes: every other time after the start of the child, so that opening is hit, too; else after its first
/// acknowledgement, or a slow machine would see nothing but openings.
const KILL_MS: std::ops::RangeInclusive<u64> = 5..=60;

/// What happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Children killed.
    pub kills: u64,
    /// Commits that they acknowledged.
    pub acknowledged: u64,
    /// Groups that opening found in the log, all kills together.
    pub recovered_groups: u64,
    /// Kills after which pages held more than before.
    pub checkpointed: u64,
}

fn options() -> Options {
    Options::raw_key([9; 32]).memory(MEMORY)
}

fn value_of(thread: u8, n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(40) { 6000 } else { 8 + n % 300 };
    let mut value = n.to_le_bytes().to_vec();
    value.resize(len as usize, thread);
    value
}

/// What the child does, until it is killed: `acks` gets every acknowledged commit.
pub fn child(path: &Path, acks: impl Write + Send) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let store = Store::open(Env::file(path), options())?;
    let acks = parking_lot::Mutex::new(acks);
    let work = |thread: u8| {
        let tree = store.tree("rows")?;
        for n in count_of(&store, thread)?.. {
            let mut tx = store.write();
            tx.put(tree, &row(thread, n), &value_of(thread, n))?;
            tx.put(tree, &[thread], &(n + 1).to_le_bytes())?;
            let durability = if thread == 2 { Durability::Buffered } else { Durability::Durable };
            tx.commit_with(durability, |_| Ok(()))?;
            let mut ack = [thread; ACK_BYTES];
            ack[1..].copy_from_slice(&(n + 1).to_le_bytes());
            acks.lock().write_all(&ack)?;
        }
        Ok(())
    };
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a thread of the child does not panic"))
    })
}

fn row(thread: u8, n: u64) -> [u8; 9] {
    let mut key = [thread; 9];
    key[1..].copy_from_slice(&(n % ROWS).to_be_bytes());
    key
}

/// Returns how many commits of a thread there are, by its own count.
fn count_of(store: &Store, thread: u8) -> Result<u64, CommitError> {
    let view = store.read();
    let Some(tree) = view.tree("rows").map_err(CommitError::Read)? else { return Ok(0) };
    let count = view.get(tree, &[thread]).map_err(CommitError::Read)?;
    Ok(count.map_or(0, |count| u64::from_le_bytes(count[..].try_into().expect("a count is 8 bytes"))))
}

/// Kills children that `spawn` starts, and looks after each at what they left. `spawn` returns a command that calls
/// `child` on the path with its standard output.
pub fn run(kills: u64, seed: u64, path: &Path, spawn: impl Fn(&Path) -> Command) -> Result<Report, String> {
    let mut rng = Rng::new(seed);
    let mut report = Report::default();
    let mut acknowledged = [0_u64; THREADS as usize];
    let mut in_pages = 0;
    for kill in 0..kills {
        let after_ms = KILL_MS.start() + rng.draw() % (KILL_MS.end() - KILL_MS.start() + 1);
        let said =
            run_and_kill(spawn(path), after_ms, kill % 2 == 1).map_err(|error| format!("kill {kill}: {error}"))?;
        for (thread, count) in said {
            acknowledged[usize::from(thread)] = acknowledged[usize::from(thread)].max(count);
        }
        let store = Store::open(Env::file(path), options()).map_err(|error| format!("kill {kill}: {error}"))?;
        for thread in 0..THREADS {
            let told = acknowledged[usize::from(thread)];
            let found = look(&store, thread).map_err(|error| format!("kill {kill}, thread {thread}: {error}"))?;
            if found < told {
                return Err(format!("kill {kill}, thread {thread}: {told} were acknowledged, {found} are there"));
            }
        }
        store.verify(&mut |_| {}).map_err(|error| format!("kill {kill}: {error}"))?;
        let stats = store.stats();
        report.recovered_groups += stats.recovered_groups;
        report.checkpointed += u64::from(stats.checkpoint_commit_no > in_pages);
        in_pages = stats.checkpoint_commit_no;
        report.kills += 1;
    }
    report.acknowledged = acknowledged.iter().sum();
    Ok(report)
}

/// Returns how many commits of a thread there are, if its rows are what that many commits leave and nothing else.
fn look(store: &Store, thread: u8) -> Result<u64, String> {
    let count = count_of(store, thread).map_err(|error| error.to_string())?;
    let want: BTreeMap<[u8; 9], u64> = (count.saturating_sub(ROWS)..count).map(|n| (row(thread, n), n)).collect();
    let view = store.read();
    let Some(tree) = view.tree("rows").map_err(|error: ReadError| error.to_string())? else { return Ok(0) };
    let mut rows = 0;
    for item in view.prefix(tree, &[thread]) {
        let (key, value) = item.map_err(|error| error.to_string())?;
        if key.len() == 1 {
            continue;
        }
        let n = want.get(&key[..]).ok_or_else(|| format!("row {key:?} is not one of {count} commits"))?;
        if value != value_of(thread, *n) {
            return Err(format!("row {key:?} does not hold what commit {n} of {count} wrote"));
        }
        rows += 1;
    }
    if rows == want.len() { Ok(count) } else { Err(format!("{rows} rows after {count} commits")) }
}

/// Returns the last commit that each thread of the child acknowledged. `wait`: until it acknowledged the first.
fn run_and_kill(mut command: Command, after_ms: u64, wait: bool) -> std::io::Result<BTreeMap<u8, u64>> {
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut out = child.stdout.take().expect("it was asked for");
    let (began, begins) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut said = vec![0; ACK_BYTES];
        // A child that is killed before its first acknowledgement says nothing.
        if out.read_exact(&mut said).is_err() {
            return Ok(Vec::new());
        }
        // Nobody may be waiting for it.
        let _ = began.send(());
        out.read_to_end(&mut said).map(|_| said)
    });
    if wait {
        // An error: the child has ended, which is told below.
        let _ = begins.recv();
    }
    std::thread::sleep(Duration::from_millis(after_ms));
    child.kill()?;
    let status = child.wait()?;
    if status.code().is_some() {
        return Err(std::io::Error::other(format!("the child ended before it was killed, {status}")));
    }
    let said = reader.join().expect("reading does not panic")?;
    let acks = said.chunks_exact(ACK_BYTES);
    Ok(acks.map(|ack| (ack[0], u64::from_le_bytes(std::array::from_fn(|n| ack[n + 1])))).collect())
}
