//! A whole relay in this process, a member whose database syncs through it, and the memory of both, counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use blazedb::{Collection, Database, Document, Options, Relay, Sync, Value};
use blazedb_relay::config::Config;
use blazedb_relay::serve::Limits;
use blazedb_relay::server::{self, Ready, ServerError};
use blazedb_relay::token;

use super::http2::{Raw, WINDOW_UPDATE, frame};

/// No step takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(30);

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches two numbers alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the count is the whole process's.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) struct World {
    dir: tempfile::TempDir,
    ready: Ready,
    database: Database,
    things: Collection<Document>,
    sync: Option<Sync>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
    baseline: usize,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let turn = TURN.lock().await;
        let dir = tempfile::tempdir().unwrap();
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = Config::new(dir.path().join("relay"), listen);
        change(&mut config.limits);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(server::run(config, move |ready| tell.send(*ready).unwrap(), async {
                let _ = stopped.await;
            }))
        });
        let ready = told.recv_timeout(HANG).expect("the relay is ready");
        let database = Database::open(dir.path().join("member.blaze"), Options::raw_key([1; 32])).unwrap();
        let things = database.collection::<Document>("things").unwrap();
        let mut world = Self {
            dir,
            ready,
            database,
            things,
            sync: None,
            stop: Some(stop),
            thread: Some(thread),
            baseline: 0,
            _turn: turn,
        };
        let relay =
            Relay::new(world.url()).space("home").token(world.token()).fingerprint(ready.fingerprint.to_string());
        world.sync = Some(world.database.enable_sync(relay).unwrap());
        // A first attacker, so that what is made once has been made before the memory is counted.
        world.neighbour_lives(100);
        let mut first = world.attacker().await;
        first.still_serves(1).await;
        drop(first);
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.count_from_here();
        world
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.ready.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.ready.address
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.ready.fingerprint.0
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.dir.path().join("relay").join("tls.crt")
    }

    pub(crate) fn token(&self) -> String {
        token::issue(&self.dir.path().join("relay"), "home", "member", Duration::from_secs(600)).unwrap()
    }

    pub(crate) async fn attacker(&self) -> Raw {
        self.attacker_with(&[]).await
    }

    pub(crate) async fn attacker_with(&self, settings: &[(u16, u32)]) -> Raw {
        Raw::connect(self.ready.address, &self.certificate(), settings).await
    }

    /// From an address of its own, with windows that the log fits in.
    pub(crate) async fn attacker_from(&self, from: &str) -> Raw {
        let mut raw = Raw::connect_from(from, self.ready.address, &self.certificate(), &[(4, 16 << 20)]).await;
        raw.send(&frame(WINDOW_UPDATE, 0, 0, &[1, 0, 0, 0])).await;
        raw
    }

    /// Begins to count the memory that the process holds at its worst.
    pub(crate) fn count_from_here(&mut self) {
        self.baseline = HELD.load(Ordering::Relaxed);
        PEAK.store(self.baseline, Ordering::Relaxed);
    }

    /// Returns how much more the process has held at its worst, attacker and relay together.
    pub(crate) fn worst(&self) -> usize {
        PEAK.load(Ordering::Relaxed).saturating_sub(self.baseline)
    }

    /// Checks the memory of an attack. The member is not counted: ask before it writes.
    #[track_caller]
    pub(crate) fn memory_stayed_below(&self, bytes: usize) {
        let worst = self.worst();
        assert!(worst < bytes, "{worst} bytes at the worst, {bytes} are allowed");
    }

    /// The member writes this many documents, and has them acknowledged.
    #[track_caller]
    pub(crate) fn neighbour_lives(&self, documents: usize) {
        self.neighbour_writes((0..documents).map(|_| Value::Text("x".repeat(1_000))));
    }

    /// ... with these values.
    #[track_caller]
    pub(crate) fn neighbour_writes(&self, values: impl Iterator<Item = Value>) {
        let sync = self.sync.as_ref().expect("it runs");
        let connections = sync.status().unwrap().connections;
        for (n, value) in values.enumerate() {
            let pairs = [("n".to_owned(), Value::U64(n as u64)), ("text".to_owned(), value)];
            self.things.insert(&Document::from_pairs(pairs).unwrap()).unwrap();
        }
        sync.wait_idle(HANG).unwrap();
        if connections > 0 {
            assert_eq!(sync.status().unwrap().connections, connections, "the member was not thrown out");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.neighbour_lives(10);
        self.sync.take().expect("it runs").stop();
        let _ = self.stop.take().expect("it runs").send(());
        self.thread.take().expect("it runs").join().unwrap().unwrap();
    }
}
