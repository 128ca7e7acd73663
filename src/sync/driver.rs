//! The one loop that carries frames: it asks the pure session what to do, and does it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use blazedb_engine::Clock;
use blazedb_sync::{DisconnectReason, Event, Session, SessionConfig, SessionState};
use blazedb_wire::Envelope;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::status::{Shared, SyncState};
use crate::replica::{Applied, Replica};
use crate::transport::{FrameReceiver, FrameSender, Target, TransportError, open_stream};
use crate::{Error, ErrorKind};

/// What the handles tell the thread.
pub(super) enum Command {
    Committed,
    Digest { min_seq: u64 },
    Stop,
}

/// Everything that can wake the loop.
enum Wake {
    Connected(Box<Result<(FrameSender, FrameReceiver), TransportError>>),
    Received(Result<Option<Bytes>, TransportError>),
    SendFailed(TransportError),
    Command(Option<Command>),
    Timer,
}

type Connecting = Pin<Box<dyn Future<Output = Result<(FrameSender, FrameReceiver), TransportError>>>>;

/// One open stream: what we read, and the queue of the task that writes. The queue needs no bound of its own: the
/// session's window bounds what it hands out.
struct Link {
    receiver: FrameReceiver,
    outgoing: mpsc::UnboundedSender<Bytes>,
    failed: mpsc::UnboundedReceiver<TransportError>,
}

struct Driver<'a> {
    replica: Replica,
    session: Session,
    shared: &'a Shared,
    clock: Arc<dyn Clock>,
    /// The relay's clock at its welcome, if it trusts it, and our monotonic time then.
    relay_clock: Option<(u64, u64)>,
    /// Why nothing more is to be tried.
    stopped: Option<String>,
}

pub(super) fn run(
    replica: Replica,
    target: Target,
    clock: Arc<dyn Clock>,
    seed: u64,
    commands: mpsc::UnboundedReceiver<Command>,
    shared: &Shared,
) {
    let stop = |why: String| {
        shared.update(|link| {
            link.state = SyncState::Stopped;
            link.last_error = Some(why);
        });
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    match runtime {
        Ok(runtime) => {
            let session = Session::new(SessionConfig::default(), seed);
            let driver = Driver { replica, session, shared, clock, relay_clock: None, stopped: None };
            let local = tokio::task::LocalSet::new();
            if let Some(why) = local.block_on(&runtime, driver.drive(target, commands)) {
                stop(why);
            }
        }
        Err(e) => stop(format!("the sync thread's runtime could not be started: {e}")),
    }
}

impl Driver<'_> {
    fn now(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    /// Runs until told to stop; returns why, if it stopped by itself.
    async fn drive(mut self, target: Target, mut commands: mpsc::UnboundedReceiver<Command>) -> Option<String> {
        let mut link: Option<Link> = None;
        let mut connecting: Option<Connecting> = None;
        let now = self.now();
        self.session.start(now);
        loop {
            while let Some(event) = self.session.poll_event() {
                match event {
                    Event::ConnectNow => {
                        let target = target.clone();
                        connecting = Some(Box::pin(async move { open_stream(&target).await }));
                    }
                    Event::Disconnect { reason } => {
                        link = None;
                        connecting = None;
                        // A refusal tells its own reason.
                        if reason != DisconnectReason::Rejected {
                            self.lost(&format!("the connection ended: {reason:?}"));
                        }
                    }
                    event => {
                        if let Err(e) = self.handle(event) {
                            self.fail(&e);
                            link = None;
                        }
                    }
                }
            }
            if let Some(why) = self.stopped.take() {
                return Some(why);
            }
            if let Some(open) = &link
                && let Err(e) = self.send(open)
            {
                self.fail(&e);
                link = None;
                continue;
            }
            let wait = self.session.poll_timeout().map(|at| Duration::from_millis(at.saturating_sub(self.now())));
            let wake = tokio::select! {
                command = commands.recv() => Wake::Command(command),
                done = poll_connecting(&mut connecting) => Wake::Connected(Box::new(done)),
                (frame, failed) = poll_link(&mut link) => match failed {
                    Some(e) => Wake::SendFailed(e),
                    None => Wake::Received(frame),
                },
                () = sleep(wait) => Wake::Timer,
            };
            let now = self.now();
            match wake {
                Wake::Command(None | Some(Command::Stop)) => {
                    self.session.stop(now);
                    if let Some(open) = link.take() {
                        // A stopped session says Bye and does not look at the outbox: no error of the store is lost here.
                        if let Ok(Some(bye)) = self.session.poll_transmit(now, &self.replica) {
                            let _ = open.outgoing.send(bye);
                        }
                        // One turn for the writing task; a Bye that does not get out is only a courtesy less.
                        tokio::task::yield_now().await;
                    }
                    return None;
                }
                Wake::Command(Some(Command::Digest { min_seq })) => self.session.request_digest(min_seq),
                Wake::Command(Some(Command::Committed)) => {
                    // Many commits make one seal: whatever has gathered meanwhile goes along.
                    self.shared.committed.store(false, Ordering::Release);
                    if self.session.state() == SessionState::Live
                        && let Err(e) = self.seal()
                    {
                        self.fail(&e);
                    }
                }
                Wake::Connected(result) => {
                    connecting = None;
                    match *result {
                        Ok((sender, receiver)) => match self.replica.hello() {
                            Ok(hello) => {
                                link = Some(open_link(sender, receiver));
                                self.session.connected(now, hello);
                            }
                            Err(e) => self.fail(&e),
                        },
                        Err(e) => self.transport_failed(now, &e),
                    }
                }
                Wake::Received(Ok(Some(bytes))) => self.session.handle_bytes(now, bytes),
                Wake::Received(Ok(None)) => {
                    link = None;
                    self.lost("the relay ended the stream");
                    self.session.disconnected(now, DisconnectReason::Transport);
                }
                Wake::Received(Err(e)) | Wake::SendFailed(e) => {
                    link = None;
                    self.transport_failed(now, &e);
                }
                Wake::Timer => self.session.handle_timeout(now),
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Welcome(welcome) => {
                self.relay_clock = welcome.clock_trusted.then(|| (welcome.relay_ms, self.now()));
                self.replica.welcome(&welcome)?;
                self.shared.update(|link| {
                    link.space = Some(welcome.space);
                    link.epoch = welcome.epoch;
                    link.head = link.head.max(welcome.head);
                    link.connections += 1;
                });
                self.replica.seal(self.relay_now())?;
                let now = self.now();
                self.session.resume(now);
            }
            Event::Entry { envelope, batch } => {
                let applied = self.replica.apply_entry(&envelope, &batch)?;
                self.applied(&envelope, applied);
            }
            Event::Ack(envelope) => {
                let applied = self.replica.apply_ack(&envelope)?;
                self.applied(&envelope, applied);
            }
            Event::Rejected(error) => {
                self.stopped = Some(format!("the relay refused ({:?}): {}", error.code, error.text));
            }
            Event::Unsupported(error) => {
                self.lost(&format!("the relay does not do that ({:?}): {}", error.code, error.text));
            }
            Event::Digest { seq, digest, documents } => self.shared.digest_arrived((seq, digest, documents)),
            Event::StateChanged(state) => {
                let state = match state {
                    SessionState::Live => SyncState::Online,
                    SessionState::Connecting | SessionState::Greeting | SessionState::Preparing => {
                        SyncState::Connecting
                    }
                    SessionState::Stopped | SessionState::Backoff => SyncState::Offline,
                    // The thread says so itself, together with the reason.
                    SessionState::Rejected => return Ok(()),
                };
                self.shared.update(|link| link.state = state);
            }
            Event::ConnectNow | Event::Disconnect { .. } => {}
        }
        Ok(())
    }

    /// Returns the relay's time now, if it trusts its clock.
    fn relay_now(&self) -> Option<u64> {
        self.relay_clock.map(|(then, at)| then + self.now().saturating_sub(at))
    }

    /// Hands the writing task whatever the session wants sent now.
    fn send(&mut self, link: &Link) -> Result<(), Error> {
        let now = self.now();
        while let Some(frame) = self.session.poll_transmit(now, &self.replica)? {
            if link.outgoing.send(frame).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn seal(&mut self) -> Result<(), Error> {
        if self.replica.seal(self.relay_now())? > 0 {
            let now = self.now();
            self.session.local_sealed(now);
        }
        Ok(())
    }

    fn applied(&self, envelope: &Envelope, applied: Applied) {
        self.shared.conflicts_merged.fetch_add(applied.concurrent, Ordering::Relaxed);
        self.shared.boxed.fetch_add(applied.boxed, Ordering::Relaxed);
        let last = if envelope.first_seq == 0 { 0 } else { envelope.last_seq() };
        self.shared.update(|link| link.head = link.head.max(last));
    }

    fn lost(&self, why: &str) {
        self.shared.update(|link| link.last_error = Some(why.to_owned()));
    }

    fn transport_failed(&mut self, now: u64, e: &TransportError) {
        if e.is_retryable() {
            self.lost(&chain(e));
            self.session.disconnected(now, DisconnectReason::Transport);
        } else {
            self.stopped = Some(chain(e));
        }
    }

    /// The relay's fault ends the connection, and the next one may be better; the file's own fault ends the sync.
    fn fail(&mut self, e: &Error) {
        let passes = match e.kind() {
            ErrorKind::Sync => self.session.state() == SessionState::Live,
            // The first sync did not get its turn.
            ErrorKind::Conflict => true,
            _ => false,
        };
        if passes {
            self.lost(&chain(e));
            let now = self.now();
            self.session.disconnected(now, DisconnectReason::Transport);
        } else {
            self.stopped = Some(chain(e));
        }
    }
}

/// Prints an error with its sources.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut link = e.source();
    while let Some(source) = link {
        text.push_str(": ");
        text.push_str(&source.to_string());
        link = source.source();
    }
    text
}

fn open_link(sender: FrameSender, receiver: FrameReceiver) -> Link {
    let (outgoing, mut queue) = mpsc::unbounded_channel::<Bytes>();
    let (report, failed) = mpsc::unbounded_channel();
    tokio::task::spawn_local(async move {
        while let Some(frame) = queue.recv().await {
            if let Err(e) = sender.send(frame).await {
                // The loop may have gone first; then nobody needs to know.
                let _ = report.send(e);
                return;
            }
        }
    });
    Link { receiver, outgoing, failed }
}

async fn poll_connecting(connecting: &mut Option<Connecting>) -> Result<(FrameSender, FrameReceiver), TransportError> {
    match connecting {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits for the next frame, or for a failure of the writing task.
async fn poll_link(link: &mut Option<Link>) -> (Result<Option<Bytes>, TransportError>, Option<TransportError>) {
    let Some(link) = link else { return std::future::pending().await };
    tokio::select! {
        frame = link.receiver.next() => (frame, None),
        Some(e) = link.failed.recv() => (Ok(None), Some(e)),
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
