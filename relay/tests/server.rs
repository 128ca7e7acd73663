//! The whole relay in this process: real files, real TLS, databases as clients.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use blazedb::transport::{Target, Trust, open_stream};
use blazedb::{Database, Document, Options, Patch, Relay, Sync, Value};
use blazedb_engine::env::{CallKind, Fault, SimDisk};
use blazedb_relay::config::{Config, Copies};
use blazedb_relay::log::{StoreLog, StoreLogOptions};
use blazedb_relay::server::{self, Ready, ServerError};
use blazedb_relay::token;
use blazedb_wire::grpc::MessageDecoder;
use blazedb_wire::{
    Batch, BatchBuilder, BatchHead, DocumentId, Frame, FrameKind, Hello, Hlc, MergeKind, Op, OpKind, ReplicaId, Shape,
    SpaceId, Welcome,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

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

/// Deletes that nobody minds, one to a batch.
fn batches(space: SpaceId, epoch: u32, author: u8, many: u64) -> Vec<Batch> {
    let one = |counter| {
        let replica = ReplicaId::from_bytes([author; 16]);
        let head = BatchHead { space, replica, first_counter: counter, epoch, deps: Vec::new(), attrs: Bytes::new() };
        let mut builder = BatchBuilder::new(head);
        let op = Op {
            kind: OpKind::Delete,
            merge: MergeKind::Register,
            more: false,
            hlc: Hlc::from_parts(1_700_000_000_000, 0),
            cursor: 0,
            collection: "things".into(),
            id: DocumentId::from_bytes([author; 16]),
            attrs: Bytes::new(),
            set: None,
            unset: Shape::empty(),
        };
        assert!(builder.try_push(&op).unwrap());
        Batch::decode(builder.finish().unwrap()).unwrap()
    };
    (1..=many).map(one).collect()
}

/// What is said at one go.
fn one_go(pushes: Vec<Batch>) -> Vec<Bytes> {
    let hello = Hello::first();
    let frames = [Frame::Hello(hello), Frame::Pushes(pushes)];
    frames.iter().map(Frame::to_bytes).collect()
}

#[track_caller]
fn is_answered(frames: &[Bytes], entries: usize, acks: usize) {
    let mut kinds: Vec<FrameKind> = frames.iter().map(|frame| Frame::decode(frame.clone()).unwrap().kind()).collect();
    assert_eq!(kinds.remove(0), FrameKind::Welcome);
    assert_eq!(kinds, [vec![FrameKind::Entry; entries], vec![FrameKind::Ack; acks]].concat());
}

// spec: G-10, G-15
#[tokio::test]
async fn a_session_may_be_one_exchange() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path(), any_port(), Copies::Off);
    let token = token::issue(dir.path(), "home", "test", Duration::from_secs(600)).unwrap();
    let trust = Trust::Fingerprint(running.ready.fingerprint.0);
    let target = Target::new(&format!("https://{}", running.ready.address), &trust, &token).unwrap();
    let exchange = async |frames: Vec<Bytes>| {
        let (sender, mut receiver) = open_stream(&target).await.unwrap();
        for frame in frames {
            sender.send(frame).await.unwrap();
        }
        drop(sender);
        let mut answer = Vec::new();
        while let Some(frame) = receiver.next().await.unwrap() {
            answer.push(frame);
        }
        answer
    };
    let welcome = exchange(one_go(Vec::new())[..1].to_vec()).await.remove(0);
    let Frame::Welcome(Welcome { space, epoch, .. }) = Frame::decode(welcome).unwrap() else { panic!("no Welcome") };
    is_answered(&exchange(one_go(batches(space, epoch, 1, 20))).await, 0, 20);

    // As a browser does it, over HTTP/1.1.
    let body: Vec<u8> = one_go(batches(space, epoch, 2, 30))
        .iter()
        .flat_map(|frame| [&[0][..], &u32::try_from(frame.len()).unwrap().to_be_bytes(), frame].concat())
        .collect();
    let request = Request::post("/blaze.v1.Relay/Sync")
        .header("host", "localhost")
        .header("content-type", "application/grpc-web")
        .header("authorization", format!("Bearer {token}"))
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let tls = tls(running.ready.address, &dir.path().join("tls.crt")).await;
    let (mut requests, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let answer = requests.send_request(request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    let mut decoder = MessageDecoder::default();
    let end = answer.len() - GOOD_END.len();
    assert_eq!(answer[end..], *GOOD_END);
    decoder.push(answer.slice(..end));
    let mut frames = Vec::new();
    while let Some(frame) = decoder.poll_message().unwrap() {
        frames.push(frame);
    }
    is_answered(&frames, 20, 30);
    running.stop();
}

/// The trailers of gRPC-Web of an answer that went well.
const GOOD_END: &[u8] = b"\x80\0\0\0\x0fgrpc-status:0\r\n";

async fn tls(address: SocketAddr, certificate: &Path) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

// Alive it would refuse every push for ever, and say that all is well.
#[test]
fn a_relay_whose_log_takes_nothing_more_ends_and_what_was_acknowledged_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let relay_dir = dir.path().join("relay");
    std::fs::create_dir(&relay_dir).unwrap();
    std::fs::set_permissions(&relay_dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let disk = SimDisk::new(1);
    let begin = |disk: &SimDisk| {
        let log = Arc::new(StoreLog::open_in(disk.env("log"), [3; 32], StoreLogOptions::default()).unwrap());
        let config = Config { copies: Copies::Memory, ..Config::new(&relay_dir, any_port()) };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(server::run_with_log(&config, log, move |ready| tell.send(*ready).unwrap(), async {
                let _ = stopped.await;
            }))
        });
        Running { ready: told.recv_timeout(HANG).expect("the relay is ready"), stop: Some(stop), thread }
    };
    let running = begin(&disk);
    let a = open(dir.path(), "a.blaze");
    let sync_a = sync(&a, &relay_dir, &running.ready);
    let in_a = a.collection::<Document>("things").unwrap();
    let insert = |n| {
        in_a.insert(&document(n)).unwrap();
    };
    (0..10).for_each(insert);
    sync_a.wait_idle(HANG).unwrap();
    disk.fail(Fault { kind: CallKind::Sync, nth: 0, error: std::io::ErrorKind::Other, for_ever: false });
    (10..20).for_each(insert);
    let ended = running.thread.join().unwrap();
    assert!(matches!(ended, Err(ServerError::LogOver(_))), "{ended:?}");
    sync_a.stop();
    // Whoever started it starts it again, which is all it takes here. The client sends what was not acknowledged once more.
    let running = begin(&disk);
    let sync_a = sync(&a, &relay_dir, &running.ready);
    sync_a.wait_idle(HANG).unwrap();
    let (_, agree, documents) = settled(&sync_a, &a, 20);
    assert_eq!((agree, documents), (true, 20));
    sync_a.stop();
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
