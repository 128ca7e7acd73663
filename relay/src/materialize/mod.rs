//! The copies: for each space a database that follows the log, for digests now and for queries later.
//!
//! A copy is disposable. It is fed from the log on a thread of its own, after the fact; if it is behind it catches up, if it
//! is missing or belongs to another epoch it is built again from the first entry. Nobody waits for it but those who ask it
//! something (R6). It applies entries with the code that clients apply them with, so that its digest says what theirs should.

mod database;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use blazedb_wire::SpaceId;

use crate::hub::SpaceDigest;
use crate::log::{LogError, RelayLog};

pub use database::DatabaseCopies;

/// Entries read at once for a copy that catches up, in bytes.
pub(crate) const READ_BYTES_MAX: usize = 1 << 20;

/// How long the thread collects news of a busy space before it moves that space's copy.
const REST: Duration = Duration::from_millis(20);

/// A space and the epoch that its numbers belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpaceEpoch {
    /// The space.
    pub space: SpaceId,
    /// The epoch.
    pub epoch: u32,
}

/// Copies of spaces that follow a log.
pub trait Materializer: Send + 'static {
    /// Moves the copy of a space up to `seq` at least.
    fn follow(&mut self, space: SpaceEpoch, log: &dyn RelayLog, seq: u64) -> Result<(), MaterializeError>;

    /// Returns the digest of a copy that has been followed.
    fn digest(&mut self, space: SpaceEpoch) -> Result<SpaceDigest, MaterializeError>;

    /// Closes the copies.
    fn close(&mut self);
}

/// Why a copy could not follow or answer.
#[derive(Debug)]
pub enum MaterializeError {
    /// The log could not be read.
    Log(LogError),
    /// The copy's database refused.
    Database {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: blazedb::Error,
    },
    /// The log ended before the number that was asked for.
    Behind {
        /// How far the copy came.
        seq: u64,
        /// The number asked for.
        wanted: u64,
    },
    /// The folder of the copies could not be prepared.
    Folder(std::io::Error),
}

impl fmt::Display for MaterializeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(_) => f.write_str("a copy could not read the log"),
            Self::Database { doing, .. } => write!(f, "a copy failed while {doing}: it is built again from the log"),
            Self::Behind { seq, wanted } => {
                write!(f, "a copy reached {seq} and found no entry up to {wanted}: verify the log")
            }
            Self::Folder(_) => f.write_str("the folder of the copies cannot be prepared: check its owner and the disk"),
        }
    }
}

impl std::error::Error for MaterializeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Log(error) => Some(error),
            Self::Database { source, .. } => Some(source),
            Self::Behind { .. } => None,
            Self::Folder(error) => Some(error),
        }
    }
}

type Reply = Box<dyn FnOnce(Option<SpaceDigest>) + Send>;

enum Command {
    Advance { space: SpaceEpoch, head: u64 },
    Digest { space: SpaceEpoch, min_seq: u64, reply: Reply },
    Stop,
}

/// The thread that moves the copies.
#[derive(Debug)]
pub struct CopyThread {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl CopyThread {
    /// Starts the thread.
    pub fn start(log: Arc<dyn RelayLog>, copies: Box<dyn Materializer>) -> std::io::Result<Self> {
        let (commands, receiver) = channel();
        let thread =
            std::thread::Builder::new().name("relay-copies".to_owned()).spawn(move || run(&*log, copies, &receiver))?;
        Ok(Self { commands, thread: Some(thread) })
    }

    /// Says that the log of a space has grown.
    pub fn advance(&self, space: SpaceEpoch, head: u64) {
        // A thread that has stopped has nothing to follow any more.
        let _ = self.commands.send(Command::Advance { space, head });
    }

    /// Asks for a digest at `min_seq` or later; `None` if the copy could not be brought there.
    pub fn digest(&self, space: SpaceEpoch, min_seq: u64, reply: impl FnOnce(Option<SpaceDigest>) + Send + 'static) {
        let _ = self.commands.send(Command::Digest { space, min_seq, reply: Box::new(reply) });
    }

    /// Stops the thread once it has done what it was asked before, and closes the copies.
    pub fn stop(mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic of the copies was printed where it happened; the log does not depend on them.
            let _ = thread.join();
        }
    }
}

fn run(log: &dyn RelayLog, mut copies: Box<dyn Materializer>, commands: &Receiver<Command>) {
    // The newest head of each space that has news: a thousand commits while one copy was busy are one piece of work.
    let mut news = BTreeMap::<SpaceEpoch, u64>::new();
    // Whoever asked for a digest of one space meanwhile gets the same one, and spaces take turns: however many streams a
    // member has, it costs the others one digest.
    let mut wanted = VecDeque::<(SpaceEpoch, u64, Vec<Reply>)>::new();
    loop {
        let command = if !wanted.is_empty() {
            commands.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else if news.is_empty() {
            commands.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            commands.recv_timeout(REST)
        };
        match command {
            Ok(Command::Advance { space, head }) => {
                let newest = news.entry(space).or_default();
                *newest = head.max(*newest);
            }
            Ok(Command::Digest { space, min_seq, reply }) => {
                match wanted.iter_mut().find(|(asked, ..)| *asked == space) {
                    Some((_, seq, replies)) => {
                        *seq = min_seq.max(*seq);
                        replies.push(reply);
                    }
                    None => wanted.push_back((space, min_seq, vec![reply])),
                }
            }
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if !wanted.is_empty() => {
                let (space, min_seq, replies) = wanted.pop_front().expect("it was just looked at");
                news.remove(&space);
                let digest = note(copies.follow(space, log, min_seq).and_then(|()| copies.digest(space)));
                for reply in replies {
                    reply(digest);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                for (space, head) in std::mem::take(&mut news) {
                    note(copies.follow(space, log, head));
                }
            }
        }
    }
    copies.close();
}

fn note<T>(result: Result<T, MaterializeError>) -> Option<T> {
    result.inspect_err(|error| tracing::warn!(error = error as &dyn std::error::Error, "a copy is behind")).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use blazedb_wire::ReplicaId;

    use super::*;
    use crate::log::{Append, AppendError, PayloadDigest, SpaceInfo, StoredEntry};

    /// Counts digests, each of which waits until it is let go.
    struct Counting {
        taken: Sender<SpaceEpoch>,
        go: Receiver<()>,
    }

    impl Materializer for Counting {
        fn follow(&mut self, _: SpaceEpoch, _: &dyn RelayLog, _: u64) -> Result<(), MaterializeError> {
            Ok(())
        }

        fn digest(&mut self, space: SpaceEpoch) -> Result<SpaceDigest, MaterializeError> {
            self.taken.send(space).unwrap();
            self.go.recv().unwrap();
            Ok(SpaceDigest { seq: 1, digest: [0; 32], documents: 0 })
        }

        fn close(&mut self) {}
    }

    struct NoLog;

    impl RelayLog for NoLog {
        fn open_space(&self, _: &str) -> Result<SpaceInfo, LogError> {
            unreachable!("nothing is opened here")
        }

        fn append(&self, _: &[Append]) -> Vec<Result<(), AppendError>> {
            unreachable!("nothing is appended here")
        }

        fn read(&self, _: SpaceId, _: u64, _: usize) -> Result<Vec<StoredEntry>, LogError> {
            unreachable!("nothing is read here")
        }

        fn digests(&self, _: SpaceId, _: ReplicaId, _: u64, _: u64, _: usize) -> Result<Vec<PayloadDigest>, LogError> {
            unreachable!("nothing is looked up here")
        }
    }

    // spec: R-22, L-26
    #[test]
    fn however_many_ask_for_a_space_meanwhile_it_is_one_digest_and_spaces_take_turns() {
        let space = |n| SpaceEpoch { space: SpaceId::from_bytes([n; 16]), epoch: 1 };
        let (taken, asked) = channel();
        let (let_go, go) = channel();
        let thread = CopyThread::start(Arc::new(NoLog), Box::new(Counting { taken, go })).unwrap();
        let answers = Arc::new(Mutex::new(Vec::new()));
        let ask = |n: u8| {
            let answers = Arc::clone(&answers);
            thread.digest(space(n), 1, move |digest| answers.lock().unwrap().push((n, digest.is_some())));
        };
        let next = || asked.recv_timeout(Duration::from_secs(20)).unwrap();
        ask(1);
        assert_eq!(next(), space(1));
        (0..32).for_each(|_| ask(1));
        ask(2);
        let_go.send(()).unwrap();
        assert_eq!(next(), space(1));
        (0..32).for_each(|_| ask(1));
        let_go.send(()).unwrap();
        assert_eq!(next(), space(2), "whoever asks again is behind the others");
        let_go.send(()).unwrap();
        assert_eq!(next(), space(1));
        let_go.send(()).unwrap();
        thread.stop();
        assert!(asked.try_recv().is_err(), "four digests for 66 answers");
        let answers = answers.lock().unwrap();
        assert_eq!((answers.len(), answers[33]), (66, (2, true)));
    }
}
