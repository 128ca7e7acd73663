//! The whole relay in this process: real files, real TLS, databases as clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use blazedb::{Database, Document, Options, Patch, Relay, Sync, Value};
use blazedb_relay::config::{Config, Copies};
use blazedb_relay::server::{self, Ready, ServerError};
use blazedb_relay::token;

/// No step takes longer unless it hangs.
const HANG: Duration = Duration::from_secs(30);

struct Running {
    ready: Ready,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: JoinHandle<Result<(), ServerError>>,
}

fn start(dir: &Path, listen: SocketAddr, copies: Copies) -> Running {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (tell, told) = mpsc::channel();
    let config = Config { copies, ..Config::new(dir, listen) };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(server::run(config, move |ready| tell.send(*ready).unwrap(), async {
            let _ = stopped.await;
        }))
    });
    let ready = told.recv_timeout(HANG).expect("the relay is ready");
    Running { ready, stop: Some(stop), thread }
}

impl Running {
    fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.join().unwrap().unwrap();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn sync(database: &Database, dir: &Path, ready: &Ready) -> Sync {
    let token = token::issue(dir, "home", "test", Duration::from_secs(600)).unwrap();
    let relay = Relay::new(format!("https://{}", ready.address))
        .space("home")
        .token(token)
        .fingerprint(ready.fingerprint.to_string());
    database.enable_sync(relay).unwrap()
}

fn document(n: i64) -> Document {
    Document::from_pairs([("n".to_owned(), Value::I64(n)), ("done".to_owned(), Value::Bool(false))]).unwrap()
}

fn open(dir: &Path, name: &str) -> Database {
    Database::open(dir.join(name), Options::raw_key([1; 32])).unwrap()
}

/// Waits until a database has applied everything up to `seq`, then asks the relay for its digest: returns its number, whether
/// the two agree, and the documents.
fn settled(sync: &Sync, database: &Database, seq: u64) -> (u64, bool, u64) {
    let deadline = std::time::Instant::now() + HANG;
    while sync.status().unwrap().cursor < seq {
        assert!(std::time::Instant::now() < deadline, "not at {seq}: {:?}", sync.status().unwrap());
        std::thread::sleep(Duration::from_millis(2));
    }
    sync.wait_idle(HANG).unwrap();
    let (seq, digest, documents) = sync.relay_digest(HANG).unwrap();
    (seq, digest == database.digest().unwrap(), documents)
}

#[test]
fn two_databases_meet_and_survive_a_restart_of_the_relay() {
    let dir = tempfile::tempdir().unwrap();
    let relay_dir = dir.path().join("relay");
    let running = start(&relay_dir, any_port(), Copies::Files);
    let (a, b) = (open(dir.path(), "a.blaze"), open(dir.path(), "b.blaze"));
    let (sync_a, sync_b) = (sync(&a, &relay_dir, &running.ready), sync(&b, &relay_dir, &running.ready));
    let (in_a, in_b) = (a.collection::<Document>("things").unwrap(), b.collection::<Document>("things").unwrap());
    let ids: Vec<_> = (0..50).map(|n| in_a.insert(&document(n)).unwrap()).collect();
    sync_a.wait_idle(HANG).unwrap();
    assert_eq!(settled(&sync_a, &a, 50), (50, true, 50));
    assert_eq!(settled(&sync_b, &b, 50), (50, true, 50));

    // Both edit, also the same document; one deletes.
    in_a.update(ids[0], Patch::new().set("n", 100_i64)).unwrap();
    in_b.update(ids[0], Patch::new().set("done", true)).unwrap();
    in_b.delete(ids[1]).unwrap();
    sync_a.wait_idle(HANG).unwrap();
    sync_b.wait_idle(HANG).unwrap();
    assert_eq!(settled(&sync_a, &a, 53), (53, true, 49));
    assert_eq!(settled(&sync_b, &b, 53), (53, true, 49));
    let both = in_a.get(ids[0]).unwrap().unwrap();
    assert_eq!(both.get("n"), Some(&Value::I64(100)));
    assert_eq!(both.get("done"), Some(&Value::Bool(true)));

    // The relay goes away; both go on, and come back by themselves.
    let address = running.ready.address;
    running.stop();
    in_a.insert(&document(7)).unwrap();
    in_b.insert(&document(8)).unwrap();
    let running = start(&relay_dir, address, Copies::Files);
    sync_a.wait_idle(HANG).unwrap();
    sync_b.wait_idle(HANG).unwrap();
    assert_eq!(settled(&sync_a, &a, 55), (55, true, 51));
    assert_eq!(settled(&sync_b, &b, 55), (55, true, 51));
    sync_a.stop();
    sync_b.stop();

    // A copy that is lost is built again from the log, and a newcomer gets everything from it.
    running.stop();
    std::fs::remove_dir_all(relay_dir.join("spaces")).unwrap();
    let running = start(&relay_dir, any_port(), Copies::Files);
    let c = open(dir.path(), "c.blaze");
    let sync_c = sync(&c, &relay_dir, &running.ready);
    assert_eq!(settled(&sync_c, &c, 55), (55, true, 51));
    assert_eq!(c.digest().unwrap(), a.digest().unwrap());
    sync_c.stop();
    running.stop();
}

#[test]
fn a_second_relay_on_the_same_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), any_port(), Copies::Off);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = Config::new(dir.path(), any_port());
    let error = runtime.block_on(server::run(config, |_| {}, std::future::pending())).unwrap_err();
    assert!(matches!(error, ServerError::Log(_)), "{error}");
    running.stop();
}
