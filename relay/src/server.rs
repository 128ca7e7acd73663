//! The shell: the hub on the real world.
//!
//! One task owns the hub: it takes inputs in the order in which they came, asks the hub, does what it says. Everything that
//! blocks is elsewhere: one thread appends (what gathers while a sync is under way shares the next one), two read, one
//! moves the copies. All of them answer into the task's queue, which is unbounded; what may be in it is not, since every
//! piece of work belongs to a connection's ledger and frames of clients take one of [`FRAMES_MAX`] places before they enter.
//!
//! ```text
//!   serve --Gate--> queue -> hub -> Append -> [append thread] -.
//!                     ^        \--> Read   -> [2 readers]      |
//!                     |         \-> copies -> [copy thread]    |
//!                     '----------------------------------------'
//! ```
//!
//! Nothing is acknowledged before the append thread has said that it is durable, so the process may be killed at any
//! moment. Start with [`run`].

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc as blocking;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use blazedb_wire::grpc::{Code, Status};
use blazedb_wire::{ErrorCode, ErrorFrame, Frame, ReplicaId, SpaceId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::config::{ClockTrust, Config, Copies};
use crate::hub::{Access, ConnId, Effect, Hub, HubLimits, Input, Now, Unavailable};
use crate::log::{Append, LogError, Packing, RelayLog, StoreLog, store_key};
use crate::materialize::{CopyThread, DatabaseCopies, SpaceEpoch};
use crate::secrets::{self, SecretError};
use crate::serve::{self, Bound, Fingerprint, Gate, GateConnection, Outbound, Refusal, ServeConfig, ServeError};
use crate::token::Grant;

/// Frames of clients that wait for the hub at one time. At 8 to 16 KiB each, the usual size, 256 are 4 MiB.
pub const FRAMES_MAX: usize = 256;

/// Threads that read the log: one may wait for the disk while the other serves what is in memory.
const READERS: usize = 2;

/// Bytes of appends that share one sync at most: beyond this a sync costs more than it is shared by.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// Inputs handled before their effects are carried out.
const INPUTS_AT_ONCE: usize = 256;

/// How often the hub is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// How long shutdown waits for appends in flight before it sends everybody away regardless.
const SHUTDOWN_MAX: Duration = Duration::from_secs(5);

/// The least frame: what bounds the number of frames by the bytes of the ledger.
const FRAME_BYTES_MIN: usize = blazedb_wire::HEADER_BYTES;

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
    /// The system gave no thread, or ended one.
    Thread(std::io::Error),
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(error) => error.fmt(f),
            Self::Serve(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Thread(_) => f.write_str("the system gave the relay no thread: end other programs and try again"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(error) => error.source(),
            Self::Serve(error) => error.source(),
            Self::Log(error) => error.source(),
            Self::Thread(error) => Some(error),
        }
    }
}

/// Runs a relay until `shutdown` completes.
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

async fn run_with_log(
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
    let (gate, shell) = start(log, copies, config.hub, config.clock).map_err(ServerError::Thread)?;
    let task = tokio::spawn(shell.run());
    on_ready(&ready);
    let leaving = gate.clone();
    bound
        .serve(gate, async move {
            shutdown.await;
            leaving.shut_down().await;
        })
        .await;
    task.await.map_err(|error| ServerError::Thread(std::io::Error::other(error)))
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

/// The way into the hub; cheap to clone.
#[derive(Clone, Debug)]
pub struct HubHandle {
    queue: UnboundedSender<Message>,
    places: Arc<Semaphore>,
    next_conn: Arc<AtomicU64>,
    outbound_frames_max: usize,
}

enum Message {
    Connect { conn: ConnId, access: Access, outbound: Sender<Outbound> },
    Input { input: Input, _place: Option<OwnedSemaphorePermit> },
    ShutDown { done: oneshot::Sender<()> },
}

impl HubHandle {
    fn input(&self, input: Input) -> bool {
        self.queue.send(Message::Input { input, _place: None }).is_ok()
    }

    /// Lets what is in flight become durable, sends everybody away, and returns when nobody is left.
    pub async fn shut_down(&self) {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Message::ShutDown { done }).is_ok() {
            // Late or gone: the caller goes on with its own shutdown either way.
            let _ = tokio::time::timeout(SHUTDOWN_MAX, finished).await;
        }
    }
}

impl Gate for HubHandle {
    async fn connect(&self, grant: Grant) -> Result<GateConnection, Refusal> {
        let conn = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let (outbound, receiver) = channel(self.outbound_frames_max);
        let access = Access { space: grant.space.into(), subject: grant.subject.into() };
        match self.queue.send(Message::Connect { conn, access, outbound }) {
            Ok(()) => Ok(GateConnection { id: serve::ConnId(conn.0), outbound: receiver }),
            Err(_) => Err(Refusal::Unavailable("the relay is going down; reconnect".to_owned())),
        }
    }

    async fn frame(&self, id: serve::ConnId, frame: Bytes) -> bool {
        let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return false };
        let input = Input::Frame { conn: ConnId(id.0), bytes: frame };
        self.queue.send(Message::Input { input, _place: Some(place) }).is_ok()
    }

    fn sent(&self, id: serve::ConnId, bytes: usize) {
        self.input(Input::Sent { conn: ConnId(id.0), bytes });
    }

    fn finished(&self, id: serve::ConnId) -> bool {
        self.input(Input::Finished { conn: ConnId(id.0) })
    }

    fn disconnect(&self, id: serve::ConnId) {
        self.input(Input::Disconnected { conn: ConnId(id.0) });
    }
}

enum Read {
    Open { name: Arc<str> },
    Entries { conn: ConnId, space: SpaceId, after_seq: u64, bytes_max: usize, packing: Packing },
    Digests { conn: ConnId, space: SpaceId, replica: ReplicaId, first: u64, last: u64 },
}

struct Client {
    subject: Arc<str>,
    space: Arc<str>,
    outbound: Sender<Outbound>,
}

/// The hub and the threads that work for it; [`Shell::run`] is the task.
pub struct Shell {
    hub: Hub,
    clients: HashMap<ConnId, Client>,
    queue: UnboundedReceiver<Message>,
    answers: HubHandle,
    appends: blocking::Sender<Append>,
    reads: blocking::Sender<Read>,
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
) -> std::io::Result<(HubHandle, Shell)> {
    let (queue, receiver) = unbounded_channel();
    let ledger_max = limits.queue_bytes_max
        + limits.read_bytes_max
        + limits.answer_bytes_max
        + 2 * blazedb_wire::limits::FRAME_BODY_BYTES_MAX;
    let handle = HubHandle {
        queue,
        places: Arc::new(Semaphore::new(FRAMES_MAX)),
        next_conn: Arc::new(AtomicU64::new(1)),
        outbound_frames_max: ledger_max / FRAME_BYTES_MIN,
    };
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
        reads,
        threads,
        copies,
        clock,
        clock_trusted: is_trusted(clock),
        started: Instant::now(),
        leaving: None,
    };
    Ok((handle, shell))
}

/// A relay that cannot reach its log is better dead, since it may be killed at any moment and somebody restarts it, than
/// alive with clients who wait for answers that no thread will give.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the log panicked: the relay ends, nothing acknowledged is lost");
            std::process::abort();
        }
    }
}

/// The append thread: whatever has gathered goes in under one sync.
fn append_all(log: &dyn RelayLog, appends: &blocking::Receiver<Append>, answers: &HubHandle) {
    let _guard = AbortOnPanic;
    while let Ok(first) = appends.recv() {
        let mut bytes = bytes_of(&first);
        let mut group = vec![first];
        while bytes < GROUP_BYTES_MAX
            && let Ok(next) = appends.try_recv()
        {
            bytes += bytes_of(&next);
            group.push(next);
        }
        let results = log.append(&group);
        for (append, result) in group.iter().zip(results) {
            if let Err(error) = &result {
                tracing::error!(space = %append.space, %error, "an append failed");
            }
            answers.input(Input::Appended { space: append.space, append: append.id, result });
        }
    }
}

/// What an append puts into the log's transaction, about: a batch of many deletes writes more than it holds.
fn bytes_of(append: &Append) -> usize {
    let lives = append.entries.iter().flat_map(|entry| &entry.lives).map(|change| 128 + change.collection.len());
    append.entries.iter().map(|entry| 512 + entry.frame.len()).chain(lives).sum()
}

/// A reader thread.
fn read_all(log: &dyn RelayLog, reads: &Mutex<blocking::Receiver<Read>>, answers: &HubHandle) {
    let unavailable = |error: LogError| {
        tracing::error!(%error, "the log could not be read");
        Unavailable
    };
    let _guard = AbortOnPanic;
    loop {
        // Whoever holds the receiver waits for work; the others wait for the receiver.
        let Ok(read) = reads.lock().recv() else { return };
        let input = match read {
            Read::Open { name } => {
                let result = log.open_space(&name).map_err(unavailable);
                Input::SpaceOpened { name, result }
            }
            Read::Entries { conn, space, after_seq, bytes_max, packing } => {
                let read = log.read(space, after_seq, bytes_max).map(|entries| packing.pack(entries));
                Input::LogRead { conn, result: read.map_err(unavailable) }
            }
            Read::Digests { conn, space, replica, first, last } => {
                let result = log.digests(space, replica, first, last).map_err(unavailable);
                Input::DigestsFound { conn, replica, first, result }
            }
        };
        answers.input(input);
    }
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
            tokio::select! {
                _ = self.queue.recv_many(&mut messages, INPUTS_AT_ONCE) => {}
                _ = tick.tick() => {
                    self.clock_trusted = is_trusted(self.clock);
                    self.hub.handle(self.now(), Input::Tick, &mut effects);
                }
            }
            let now = self.now();
            for message in messages.drain(..) {
                self.take(now, message, &mut effects);
            }
            for effect in effects.drain(..) {
                self.carry_out(effect);
            }
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

    fn take(&mut self, now: Now, message: Message, effects: &mut Vec<Effect>) {
        match message {
            Message::Connect { conn, access, outbound } => {
                tracing::debug!(conn = conn.0, space = %access.space, subject = %access.subject, "connected");
                let client = Client { subject: access.subject.clone(), space: access.space.clone(), outbound };
                self.clients.insert(conn, client);
                self.hub.handle(now, Input::Connected { conn, access }, effects);
            }
            Message::Input { input, _place } => {
                if let Input::Disconnected { conn } = &input {
                    self.clients.remove(conn);
                }
                self.hub.handle(now, input, effects);
            }
            Message::ShutDown { done } => {
                self.leaving = Some(done);
                self.hub.handle(now, Input::Shutdown, effects);
            }
        }
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
                self.read(Read::Entries { conn, space, after_seq, bytes_max, packing });
            }
            Effect::FindDigests { conn, space, replica, first, last } => {
                self.read(Read::Digests { conn, space, replica, first, last });
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
