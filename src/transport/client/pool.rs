//! The connections of a client: which one takes the next call, when another is made, and when none is any more.
//!
//! ```text
//!               full, or none          made
//!   (nothing) ----------------> connecting ----> link: takes calls, up to what the server allows
//!       ^  '--- backoff <--- failed ---'           |  goodbye of the server, cut, silent past a deadline
//!       '------------------------------------------'  its calls go on; it takes no more
//! ```
//!
//! Invariants: at most one attempt to connect at a time; a link that leaves the pool lives as long as its last call; a
//! link that died young counts as a failed attempt, so that a server that hangs up at once is not met with a storm.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use blazedb_sync::Backoff;
use blazedb_sync::limits::STABLE_AFTER_MS;
use blazedb_wire::grpc::{Code, Encoding, HEALTH_WATCH_PATH, Health, Metadata, Status, encode_message, health_request};
use hyper::client::conn::http2::SendRequest;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{CallError, ClientOptions, ClientStats};
use crate::transport::call::{self, CallBody, Spoken};
use crate::transport::connect::{Connection, Heard, Tuning, connect};
use crate::transport::limits::{CONNECT_MAX, HEALTH_BYTES_MAX};
use crate::transport::{Target, TransportError};

pub(super) struct Pool {
    pub(super) target: Target,
    pub(super) options: ClientOptions,
    state: Mutex<State>,
    /// Whether an attempt to connect is being made.
    connecting: AtomicBool,
    /// Told whenever a waiting call should look again.
    moved: Notify,
    /// Calls that are open or wait, for [`Pool::drain`].
    calls: AtomicUsize,
    waiting: AtomicUsize,
    /// What the server's last answer said it reads: bit 0 gzip, bit 1 zstd.
    reads: AtomicU8,
}

struct State {
    links: Vec<Arc<Link>>,
    /// The newest attempt to connect; ended with the last of those who could use what comes of it.
    attempt: Option<AbortHandle>,
    draining: bool,
    backoff: Backoff,
    /// Not before this is a connection tried.
    rest_until: Option<Instant>,
    /// Attempts that have failed.
    failures: u64,
    connections: u64,
    last_error: Option<Arc<TransportError>>,
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            attempt.abort();
        }
    }
}

/// What is known of the server's health on a connection.
const UNASKED: u8 = 0;
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// One connection.
pub(super) struct Link {
    requests: SendRequest<CallBody>,
    streams_max: Arc<AtomicUsize>,
    heard: Arc<Heard>,
    open: AtomicUsize,
    retired: AtomicBool,
    health: AtomicU8,
    born: Instant,
    watch: Mutex<Option<AbortHandle>>,
    _guard: oneshot::Sender<Infallible>,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.get_mut().take() {
            watch.abort();
        }
    }
}

impl Link {
    fn room(&self, calls_max: usize) -> bool {
        let most = calls_max.min(self.streams_max.load(Ordering::Relaxed)).max(1);
        self.health.load(Ordering::Acquire) == SERVING && self.open.load(Ordering::Relaxed) < most
    }

    fn is_gone(&self) -> bool {
        self.retired.load(Ordering::Acquire) || self.requests.is_closed()
    }
}

/// A call's place on a connection, or in the queue for one.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn begin(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A call's place on a connection; given back when dropped.
pub(super) struct Lease {
    pool: Arc<Pool>,
    link: Arc<Link>,
}

impl Lease {
    pub(super) fn requests(&self) -> SendRequest<CallBody> {
        self.link.requests.clone()
    }

    /// No further call goes to this connection; those that are open go on.
    pub(super) fn retire(&self) {
        self.link.retired.store(true, Ordering::Release);
    }

    /// The call's time is over. A connection on which nothing at all has come for long may be dead, and a call on a new one
    /// costs less than finding out.
    pub(super) fn timed_out(&self) {
        if self.link.heard.silence() >= self.pool.options.silence_max {
            self.retire();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.link.open.fetch_sub(1, Ordering::AcqRel);
        self.pool.calls.fetch_sub(1, Ordering::AcqRel);
        if self.pool.state.lock().draining {
            self.pool.moved.notify_waiters();
        } else {
            self.pool.moved.notify_one();
        }
    }
}

enum Place {
    Here(Lease),
    /// Until a connection moves, or this moment has come.
    Wait(Option<Instant>),
    Refused(TransportError),
}

impl Pool {
    pub(super) fn new(target: Target, options: ClientOptions) -> Arc<Self> {
        let state = State {
            links: Vec::new(),
            attempt: None,
            draining: false,
            backoff: Backoff::new(options.seed),
            rest_until: None,
            failures: 0,
            connections: 0,
            last_error: None,
        };
        Arc::new(Self {
            target,
            options,
            state: Mutex::new(state),
            connecting: AtomicBool::new(false),
            moved: Notify::new(),
            calls: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            reads: AtomicU8::new(0),
        })
    }

    /// Takes a place on a connection, waiting for one until `deadline`.
    pub(super) async fn lease(self: &Arc<Self>, deadline: Instant) -> Result<Lease, CallError> {
        let failures_before = self.state.lock().failures;
        let mut queued = None;
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            let until = match self.place(failures_before) {
                Place::Here(lease) => return Ok(lease),
                Place::Refused(error) => return Err(CallError::unsent(error)),
                Place::Wait(until) => until,
            };
            if queued.is_none() {
                if self.waiting.load(Ordering::Acquire) >= self.options.waiting_max {
                    let text = format!("{} calls wait for a connection already", self.options.waiting_max);
                    let status = Status::new(Code::ResourceExhausted, text);
                    return Err(CallError::unsent(TransportError::Status(status)));
                }
                queued = Some(Counted::begin(&self.waiting));
            }
            tokio::select! {
                () = moved => {}
                () = tokio::time::sleep_until(until.unwrap_or(deadline).min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(CallError::unsent(self.out_of_time()));
                    }
                }
            }
        }
    }

    /// Says why a call has found no connection in its time.
    fn out_of_time(&self) -> TransportError {
        match &self.state.lock().last_error {
            Some(source) => TransportError::NoConnection { source: Arc::clone(source) },
            None => TransportError::Status(Status::new(Code::DeadlineExceeded, "no connection was free in time")),
        }
    }

    fn place(self: &Arc<Self>, failures_before: u64) -> Place {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.draining {
            return Place::Refused(TransportError::Closed);
        }
        state.sweep(now);
        let room = |link: &&Arc<Link>| link.room(self.options.calls_per_connection_max);
        if let Some(link) =
            state.links.iter().filter(room).min_by_key(|link| link.open.load(Ordering::Relaxed)).map(Arc::clone)
        {
            link.open.fetch_add(1, Ordering::AcqRel);
            self.calls.fetch_add(1, Ordering::AcqRel);
            return Place::Here(Lease { pool: Arc::clone(self), link });
        }
        if state.failures > failures_before
            && let Some(error) = &state.last_error
            && !error.is_retryable()
        {
            return Place::Refused(TransportError::NoConnection { source: Arc::clone(error) });
        }
        // A connection whose health is not known yet may well serve.
        let unasked = state.links.iter().any(|link| link.health.load(Ordering::Acquire) == UNASKED);
        if self.connecting.load(Ordering::Acquire) || unasked || state.links.len() >= self.options.connections_max {
            return Place::Wait(None);
        }
        if let Some(rest) = state.rest_until.filter(|rest| *rest > now) {
            return Place::Wait(Some(rest));
        }
        self.connecting.store(true, Ordering::Release);
        let attempt = make(Attempt { pool: Arc::downgrade(self) }, self.target.clone(), self.options.tuning());
        state.attempt = Some(tokio::spawn(attempt).abort_handle());
        Place::Wait(None)
    }

    fn made(self: &Arc<Self>, made: Result<Connection, TransportError>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match made {
            Ok(Connection { requests, streams_max, heard, guard }) => {
                let watched = self.options.health_service.is_some();
                let link = Arc::new(Link {
                    requests,
                    streams_max,
                    heard,
                    open: AtomicUsize::new(0),
                    retired: AtomicBool::new(false),
                    health: AtomicU8::new(if watched { UNASKED } else { SERVING }),
                    born: now,
                    watch: Mutex::new(None),
                    _guard: guard,
                });
                if let Some(service) = &self.options.health_service {
                    let watch = watch_health(Arc::downgrade(self), Arc::downgrade(&link), service.clone());
                    *link.watch.lock() = Some(tokio::spawn(watch).abort_handle());
                }
                state.connections += 1;
                state.last_error = None;
                if !state.draining {
                    state.links.push(link);
                }
            }
            Err(error) => {
                state.failures += 1;
                state.rest(now, 0);
                state.last_error = Some(Arc::new(error));
            }
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// The server asks for a pause before the next connection.
    pub(super) fn pause(&self, hint: Duration) {
        let hint_ms = u64::try_from(hint.as_millis()).unwrap_or(u64::MAX);
        self.state.lock().rest(Instant::now(), hint_ms);
    }

    /// Notes what an answer says about what the server reads.
    pub(super) fn learn(&self, field: &[u8]) {
        let bit = |encoding: Encoding, bit| if encoding.is_accepted_by(field) { bit } else { 0 };
        self.reads.store(bit(Encoding::Gzip, 1) | bit(Encoding::Zstd, 2), Ordering::Relaxed);
    }

    /// Returns the best encoding that the server is known to read.
    pub(super) fn best_encoding(&self) -> Encoding {
        match self.reads.load(Ordering::Relaxed) {
            2.. => Encoding::Zstd,
            1 => Encoding::Gzip,
            0 => Encoding::Identity,
        }
    }

    /// Takes no more calls, and returns once those that are open have ended.
    pub(super) async fn drain(&self) {
        {
            let mut state = self.state.lock();
            state.draining = true;
            // Each lives as long as its last call.
            state.links.clear();
        }
        self.moved.notify_waiters();
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            moved.as_mut().enable();
            if self.calls.load(Ordering::Acquire) == 0 {
                return;
            }
            moved.await;
        }
    }

    pub(super) fn stats(&self) -> ClientStats {
        let mut state = self.state.lock();
        state.sweep(Instant::now());
        ClientStats {
            connections: state.links.len(),
            connections_made: state.connections,
            connections_failed: state.failures,
            calls_open: self.calls.load(Ordering::Acquire),
            calls_waiting: self.waiting.load(Ordering::Acquire),
        }
    }
}

impl State {
    /// Lets go of connections that take no more calls.
    fn sweep(&mut self, now: Instant) {
        let mut links = std::mem::take(&mut self.links);
        links.retain(|link| {
            if !link.is_gone() {
                return true;
            }
            if now.saturating_duration_since(link.born) >= Duration::from_millis(STABLE_AFTER_MS) {
                self.backoff.reset();
            } else {
                self.rest(now, 0);
            }
            false
        });
        self.links = links;
    }

    fn rest(&mut self, now: Instant, hint_ms: u64) {
        let until = now + Duration::from_millis(self.backoff.next(hint_ms));
        self.rest_until = self.rest_until.max(Some(until));
    }
}

/// An attempt to connect. Whatever ends it, a runtime that goes away while other callers have theirs among it, the next call
/// can make another.
struct Attempt {
    pool: Weak<Pool>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else { return };
        // No lock: where the runtime is gone already, this is dropped by the one who wanted to begin it.
        pool.connecting.store(false, Ordering::Release);
        pool.moved.notify_waiters();
    }
}

async fn make(attempt: Attempt, target: Target, tuning: Tuning) {
    let made = connect(&target, &tuning).await;
    // Nobody needs it if the client has gone.
    if let Some(pool) = attempt.pool.upgrade() {
        pool.made(made);
    }
}

/// Follows the health of a service on one connection, as `grpc.health.v1` has it. A server that does not know the service
/// of health serves as far as anybody can tell.
async fn watch_health(pool: Weak<Pool>, link: Weak<Link>, service: String) {
    let mut backoff = Backoff::new(service.len() as u64);
    let set = |serving: bool| {
        let (Some(pool), Some(link)) = (pool.upgrade(), link.upgrade()) else { return };
        link.health.store(if serving { SERVING } else { NOT_SERVING }, Ordering::Release);
        pool.moved.notify_waiters();
    };
    loop {
        let begun = Instant::now();
        let asked = {
            let (Some(pool), Some(link)) = (pool.upgrade(), link.upgrade()) else { return };
            if link.requests.is_closed() {
                return;
            }
            let message = encode_message(health_request(&service)).expect("a name is below every limit");
            let body = CallBody::One(Some(message));
            let spoken = Spoken::default();
            let request = call::request(&pool.target, HEALTH_WATCH_PATH, &spoken, &Metadata::new(), body);
            link.requests.clone().send_request(request)
        };
        // One that does not answer is not asked for ever before another connection is tried.
        let ended = match tokio::time::timeout(CONNECT_MAX, asked).await {
            Err(_) => {
                set(false);
                TransportError::Status(Status::new(Code::DeadlineExceeded, "no answer about health"))
            }
            Ok(Err(error)) => TransportError::Http(error),
            Ok(Ok(response)) => match call::answered(response, HEALTH_BYTES_MAX) {
                Err(refused) => refused.error,
                Ok(mut answered) => loop {
                    match answered.messages.next().await {
                        Ok(Some(message)) => {
                            set(Health::decode(&message) == Some(Health::Serving));
                        }
                        Ok(None) => break TransportError::Closed,
                        Err(error) => break error,
                    }
                },
            },
        };
        if let TransportError::Status(status) = &ended
            && status.code == Code::Unimplemented
        {
            return set(true);
        }
        // One that has never said that it serves does not: calls that wait for it may go to another connection. Otherwise
        // its hour is over, for example, and the health stays what it was until the next answer.
        let is_unasked = link.upgrade().is_some_and(|link| link.health.load(Ordering::Acquire) == UNASKED);
        if is_unasked {
            set(false);
        }
        // One that answers and ends it at once, again and again, is not asked the faster for it.
        if begun.elapsed() >= Duration::from_millis(STABLE_AFTER_MS) {
            backoff.reset();
        }
        tokio::time::sleep(Duration::from_millis(backoff.next(0))).await;
    }
}
