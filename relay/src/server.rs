//! The shell: the hub on the real world.
//!
//! One task owns the hub: it takes inputs, asks the hub, does what it says. Everything that blocks or takes its time is
//! elsewhere: a frame is decoded before it comes here, by the task of its stream, one thread appends (what gathers while a
//! sync is under way shares the next one, spaces in turns), two read, one moves the copies. All of them answer into the task's queue, which is
//! unbounded; what may be in it is not, since every piece of work belongs to a connection's ledger and frames of clients take
//! one of their connection's places before they enter ([`Limits::frames_per_connection_max`](serve::Limits)).
//!
//! ```text
//!   serve --Gate: decode--> queue -> turns -> hub -> Append -> [append thread] -.
//!                             ^                 \--> turns -> Read -> [2 readers] |
//!                             |                  \-> copies -> [copy thread]     |
//!                             '--------------------------------------------------'
//! ```
//!
//! What clients say is heard in turns (turns.rs), and so are their reads; what the threads answer is heard at once.
//!
//! Nothing is acknowledged before the append thread has said that it is durable, so the process may be killed at any
//! moment. Start with [`run`].

mod appends;
mod handle;
mod threads;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blazedb_wire::grpc::{Code, Status};
use blazedb_wire::{ErrorCode, ErrorFrame, Frame};
use parking_lot::Mutex;
use tokio::sync::mpsc::{Sender, UnboundedReceiver};
use tokio::sync::oneshot;

use crate::config::{ClockTrust, Config, Copies};
use crate::hub::{ConnId, Effect, Hub, HubLimits, Input, Now, Origin};
use crate::limits::{INPUTS_AT_ONCE, READS_AHEAD, TURN_BYTES};
use crate::log::{Append, LogError, RelayLog, StoreLog, store_key};
use crate::materialize::{CopyThread, DatabaseCopies, SpaceEpoch};
use crate::secrets::{self, SecretError};
use crate::serve::{self, Bound, Fingerprint, Limits, Outbound, ServeConfig, ServeError};
use crate::turns::Turns;

use handle::{Message, Said};
use threads::{Read, append_all, read_all};

pub use handle::HubHandle;

/// Threads that read the log: one may wait for the disk while the other serves what is in memory.
const READERS: usize = 2;

/// How often the hub is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// What an operator needs to know once the relay takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The address that is listened on, with its real port.
    pub address: SocketAddr,
    /// The fingerprint of the certificate, for clients to pin.
    pub fingerprint: Fingerprint,
}

/// Why the relay could not run.
#[derive(Debug)]
pub enum ServerError {
    /// The folder or a key.
    Secret(SecretError),
    /// The network side.
    Serve(ServeError),
    /// The log.
    Log(LogError),
    /// A write or a sync of the log failed. What was acknowledged is durable; the rest shows when the log is opened again.
    LogOver(String),
    /// The system gave no thread, or ended one.
    Thread(std::io::Error),
    /// The hub panicked. What was acknowledged is durable.
    Failed,
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(error) => error.fmt(f),
            Self::Serve(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::LogOver(detail) => {
                write!(f, "the log stopped writing ({detail}): check the disk, and start the relay again")
            }
            Self::Thread(_) => f.write_str("the system gave the relay no thread: end other programs and try again"),
            Self::Failed => {
                f.write_str("the relay failed, which is a fault of this program; nothing acknowledged is lost")
            }
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(error) => error.source(),
            Self::Serve(error) => error.source(),
            Self::Log(error) => error.source(),
            Self::LogOver(_) | Self::Failed => None,
            Self::Thread(error) => Some(error),
        }
    }
}

/// Runs a relay until `shutdown` completes, or its log takes nothing more.
///
/// `on_ready` is called once it takes connections. On the way down everything in flight is made durable and acknowledged, clients
/// are told to come back, and the stores are closed.
pub async fn run(
    config: Config,
    on_ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    secrets::create_folder(&config.dir).map_err(ServerError::Secret)?;
    let (dir, options) = (config.dir.clone(), config.log);
    // The store comes first: its lock keeps a second relay away from the folder.
    let log = on_thread(move || StoreLog::open(&dir, options)).await?.map_err(ServerError::Log)?;
    let log = Arc::new(log);
    let result = run_with_log(&config, log.clone(), on_ready, shutdown).await;
    let closed = on_thread(move || log.close()).await?.map_err(ServerError::Log);
    result.and(closed)
}

/// As [`run`], with a log that is open, of whatever storage; its caller closes it.
pub async fn run_with_log(
    config: &Config,
    log: Arc<StoreLog>,
    on_ready: impl FnOnce(&Ready),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let serve_config = ServeConfig {
        dir: config.dir.clone(),
        listen: config.listen,
        names: config.names.clone(),
        limits: config.limits.clone(),
    };
    let bound: Bound = serve::bind(serve_config).await.map_err(ServerError::Serve)?;
    let ready = Ready { address: bound.address(), fingerprint: bound.fingerprint() };
    let copies = start_copies(config, &log)?;
    let (gate, shell) = start(log, copies, config.hub, config.clock, &config.limits).map_err(ServerError::Thread)?;
    let mut task = tokio::spawn(shell.run());
    on_ready(&ready);
    let leaving = gate.clone();
    let (mut log_over, mut ended) = (None, None);
    bound
        .serve(gate, async {
            tokio::select! {
                () = shutdown => {}
                // Only in a panic, which was printed where it happened: nobody would be answered any more.
                early = &mut task => return ended = Some(early),
                // A relay that writes nothing is better gone: whoever watches it starts it again, and that may be all it takes.
                detail = leaving.log_over() => log_over = Some(detail),
            }
            leaving.shut_down().await;
        })
        .await;
    drop(leaving);
    let ended = match ended {
        Some(early) => early,
        None => task.await,
    };
    ended.map_err(|_| ServerError::Failed)?;
    log_over.map_or(Ok(()), |detail| Err(ServerError::LogOver(detail)))
}

fn start_copies(config: &Config, log: &Arc<StoreLog>) -> Result<Option<CopyThread>, ServerError> {
    let copies = match config.copies {
        Copies::Off => return Ok(None),
        Copies::Memory => DatabaseCopies::in_memory(),
        Copies::Files => {
            let key = store_key(&config.dir).map_err(ServerError::Log)?;
            DatabaseCopies::in_folder(&config.dir.join("spaces"), &key)
                .map_err(|error| ServerError::Thread(std::io::Error::other(error)))?
        }
    };
    CopyThread::start(log.clone(), Box::new(copies)).map(Some).map_err(ServerError::Thread)
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServerError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ServerError::Thread(std::io::Error::other(error)))
}

struct Client {
    subject: Arc<str>,
    space: Arc<str>,
    origin: Origin,
    outbound: Sender<Outbound>,
}

/// The hub and the threads that work for it; [`Shell::run`] is the task.
pub struct Shell {
    hub: Hub,
    clients: HashMap<ConnId, Client>,
    queue: UnboundedReceiver<Message>,
    answers: HubHandle,
    appends: blocking::Sender<Append>,
    /// What clients have said and the hub has not heard.
    said: Turns<(ConnId, Said)>,
    reads: blocking::Sender<Read>,
    /// Reads for clients that no thread has been given yet.
    to_read: Turns<Read>,
    /// Reads for clients that a thread has been given and has not answered.
    reads_out: usize,
    threads: Vec<JoinHandle<()>>,
    copies: Option<CopyThread>,
    clock: ClockTrust,
    /// As of the last tick: asking costs a look at the file system.
    clock_trusted: bool,
    started: Instant,
    leaving: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shell").field("hub", &self.hub.stats()).finish_non_exhaustive()
    }
}

/// Starts the threads; the task is the caller's to spawn. It ends after [`HubHandle::shut_down`] once every handle is gone.
pub fn start(
    log: Arc<dyn RelayLog>,
    copies: Option<CopyThread>,
    limits: HubLimits,
    clock: ClockTrust,
    serving: &Limits,
) -> std::io::Result<(HubHandle, Shell)> {
    let (handle, receiver) = HubHandle::new(&limits, serving);
    let mut threads = Vec::new();
    let mut thread = |name: String, work: Box<dyn FnOnce() + Send>| -> std::io::Result<()> {
        threads.push(std::thread::Builder::new().name(name).spawn(work)?);
        Ok(())
    };
    let (appends, to_append) = blocking::channel();
    let (appender, answers) = (log.clone(), handle.clone());
    thread("relay-append".to_owned(), Box::new(move || append_all(&*appender, &to_append, &answers)))?;
    let (reads, to_read) = blocking::channel();
    let to_read = Arc::new(Mutex::new(to_read));
    for n in 1..=READERS {
        let (reader, to_read, answers) = (log.clone(), to_read.clone(), handle.clone());
        thread(format!("relay-read-{n}"), Box::new(move || read_all(&*reader, &to_read, &answers)))?;
    }
    let shell = Shell {
        hub: Hub::new(limits),
        clients: HashMap::new(),
        queue: receiver,
        answers: handle.clone(),
        appends,
        said: Turns::new(),
        reads,
        to_read: Turns::new(),
        reads_out: 0,
        threads,
        copies,
        clock,
        clock_trusted: is_trusted(clock),
        started: Instant::now(),
        leaving: None,
    };
    Ok((handle, shell))
}

impl Shell {
    /// Runs the hub until it was told to shut down and everybody has left.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut messages = Vec::new();
        let mut effects = Vec::new();
        let mut finished = false;
        while !(finished && self.clients.is_empty()) {
            messages.clear();
            let more = self.said.any(|origin, said| may_be_heard(&self.hub, origin, said));
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    self.clock_trusted = is_trusted(self.clock);
                    self.hub.handle(self.now(), Input::Tick, &mut effects);
                }
                _ = self.queue.recv_many(&mut messages, INPUTS_AT_ONCE) => {}
                // Whoever brings messages and takes answers has its turn on this thread, too.
                () = tokio::task::yield_now(), if more => {}
            }
            let now = self.now();
            for message in messages.drain(..) {
                self.take(now, message, &mut effects);
            }
            // Whoever waits for an answer of a thread, and has the next question, does not wait for what is heard now.
            self.carry_out_all(&mut effects);
            self.hear(now, &mut effects);
            self.carry_out_all(&mut effects);
            if self.hub.is_finished() && !finished {
                finished = true;
                if let Some(leaving) = self.leaving.take() {
                    // Whoever asked may have stopped waiting.
                    let _ = leaving.send(());
                }
            }
        }
        let Self { appends, reads, threads, copies, .. } = self;
        // Their ends tell the threads to finish; both queues are empty, since nothing is in flight.
        drop((appends, reads));
        let ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // A panic of a thread was printed where it happened.
                let _ = thread.join();
            }
            if let Some(copies) = copies {
                copies.stop();
            }
        });
        let _ = ended.await;
    }

    /// Lets the hub hear what clients have said, each in its turn.
    fn hear(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Self { hub, said, clients, .. } = self;
        let (mut bytes, mut count) = (0, 0);
        while bytes < TURN_BYTES
            && count < INPUTS_AT_ONCE
            && let Some((cost, (conn, said))) = said.next(|origin, said| may_be_heard(hub, origin, said))
        {
            bytes += cost;
            count += 1;
            let input = match said {
                Said::Frame(frame, _place, _held) => Input::Frame { conn, frame: *frame },
                Said::Finished => Input::Finished { conn },
                Said::GoOn => Input::GoOn { conn },
                Said::Disconnected => {
                    clients.remove(&conn);
                    Input::Disconnected { conn }
                }
            };
            hub.handle(now, input, effects);
        }
    }

    /// Gives reads to the threads, each client's in its turn.
    fn hand_out_reads(&mut self) {
        while self.reads_out < READERS * READS_AHEAD
            && let Some((_, read)) = self.to_read.next(|_, _| true)
        {
            // Nobody waits for what was asked for a client that has gone.
            if read.conn().is_none_or(|conn| self.clients.contains_key(&conn)) {
                self.reads_out += 1;
                self.read(read);
            }
        }
    }

    fn take(&mut self, now: Now, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Connect { conn, access, origin, outbound } => {
                tracing::debug!(conn = conn.0, space = %access.space, subject = %access.subject, "connected");
                let (subject, space) = (access.subject.clone(), access.space.clone());
                self.clients.insert(conn, Client { subject, space, origin, outbound });
                self.hub.handle(now, Input::Connected { conn, access, origin }, effects);
            }
            Message::Said(conn, said) => {
                if let Some(client) = self.clients.get(&conn) {
                    self.said.push(client.origin, said.bytes(), (conn, said));
                }
            }
            Message::Input(input) => {
                if matches!(input, Input::LogRead { .. } | Input::DigestsFound { .. }) {
                    self.reads_out -= 1;
                }
                self.hub.handle(now, input, effects);
            }
            Message::ReadOn(conn, read) => {
                self.reads_out -= 1;
                self.read_in_turn(conn, read);
            }
            Message::ShutDown { done } => {
                self.leaving = Some(done);
                self.hub.handle(now, Input::Shutdown, effects);
            }
        }
    }

    fn carry_out_all(&mut self, effects: &mut Vec<Effect>) {
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.hand_out_reads();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Send { conn, bytes } => {
                if let Some(client) = self.clients.get(&conn) {
                    send(conn, client, Outbound::Frame(bytes));
                }
            }
            Effect::Close { conn, error } => {
                if let Some(client) = self.clients.get(&conn) {
                    let status = match error {
                        Some(error) => {
                            report(conn, client, &error);
                            let status = status_of(&error);
                            send(conn, client, Outbound::Frame(Frame::Error(error).to_bytes()));
                            status
                        }
                        None => Status::ok(),
                    };
                    send(conn, client, Outbound::Close(status));
                }
            }
            Effect::OpenSpace { name } => self.read(Read::Open { name }),
            Effect::ReadLog { conn, space, after_seq, bytes_max, packing } => {
                self.read_in_turn(conn, Read::Entries { conn, space, after_seq, bytes_max, packing });
            }
            Effect::FindDigests { conn, space, replica, first, last } => {
                self.read_in_turn(conn, Read::Digests { conn, space, replica, first, last, found: Vec::new() });
            }
            Effect::GoOn { conn } => {
                if let Some(client) = self.clients.get(&conn) {
                    self.said.push_front(client.origin, Said::GoOn.bytes(), (conn, Said::GoOn));
                }
            }
            Effect::Append(append) => {
                // The thread lives as long as this end: see `AbortOnPanic`.
                let _ = self.appends.send(append);
            }
            Effect::Materialize { space, epoch, head } => {
                if let Some(copies) = &self.copies {
                    copies.advance(SpaceEpoch { space, epoch }, head);
                }
            }
            Effect::DigestWanted { conn, space, epoch, min_seq } => match &self.copies {
                Some(copies) => {
                    let answers = self.answers.clone();
                    copies.digest(SpaceEpoch { space, epoch }, min_seq, move |digest| {
                        answers.input(Input::DigestReady { conn, digest });
                    });
                }
                None => {
                    self.answers.input(Input::DigestReady { conn, digest: None });
                }
            },
        }
    }

    fn read_in_turn(&mut self, conn: ConnId, read: Read) {
        if let Some(client) = self.clients.get(&conn) {
            self.to_read.push(client.origin, TURN_BYTES, read);
        }
    }

    fn read(&self, read: Read) {
        // The threads live as long as this end: see `AbortOnPanic`.
        let _ = self.reads.send(read);
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            clock_trusted: self.clock_trusted,
        }
    }
}

/// Frames wait while what was pushed from there leaves no room for more. What the hub has of them goes on, since that makes
/// room, but waits while its space has none.
fn may_be_heard(hub: &Hub, origin: Origin, (conn, said): &(ConnId, Said)) -> bool {
    match said {
        Said::Frame(..) => hub.takes(origin),
        Said::GoOn => hub.may_go_on(*conn),
        Said::Finished | Said::Disconnected => true,
    }
}

fn send(conn: ConnId, client: &Client, what: Outbound) {
    // Full is impossible within the hub's ledger, closed means that `disconnect` is on its way.
    if let Err(tokio::sync::mpsc::error::TrySendError::Full(_)) = client.outbound.try_send(what) {
        tracing::error!(conn = conn.0, "a queue is longer than the ledger allows");
    }
}

fn report(conn: ConnId, client: &Client, error: &ErrorFrame) {
    let (subject, space) = (&client.subject, &client.space);
    match error.code {
        ErrorCode::NameClash | ErrorCode::Internal | ErrorCode::CursorAhead => {
            tracing::error!(conn = conn.0, %subject, %space, code = ?error.code, text = %error.text, "a stream was ended");
        }
        ErrorCode::ShuttingDown => {}
        _ => {
            tracing::warn!(conn = conn.0, %subject, %space, code = ?error.code, text = %error.text, "a stream was ended");
        }
    }
}

/// The gRPC status that goes with an error frame, for clients that only look there.
fn status_of(error: &ErrorFrame) -> Status {
    let code = match error.code {
        ErrorCode::Malformed => Code::InvalidArgument,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::SpaceMismatch | ErrorCode::EpochMismatch | ErrorCode::CursorAhead => Code::FailedPrecondition,
        ErrorCode::NeedFrom(_) => Code::OutOfRange,
        ErrorCode::NameClash => Code::AlreadyExists,
        ErrorCode::TooLarge | ErrorCode::Overloaded => Code::ResourceExhausted,
        ErrorCode::Unsupported => Code::Unimplemented,
        ErrorCode::Internal => Code::Internal,
        ErrorCode::ShuttingDown => Code::Unavailable,
    };
    Status::new(code, error.text.clone())
}

/// Says whether the wall clock may correct and refuse stamps (spec: R-19).
fn is_trusted(clock: ClockTrust) -> bool {
    match clock {
        ClockTrust::Trusted => true,
        ClockTrust::Untrusted => false,
        // The service keeps its folder while it runs, and the file once it has reached a server since boot.
        ClockTrust::Auto => {
            let service = Path::new("/run/systemd/timesync");
            !service.is_dir() || service.join("synchronized").exists()
        }
    }
}
