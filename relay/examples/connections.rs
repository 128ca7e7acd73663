//! Memory of a relay per idle connection: `cargo run --release -p blazedb-relay --example connections -- 500 1000 4000`.
//!
//! Starts a relay in a process of its own, opens so many connections with one session each (TLS 1.3, HTTP/2, Hello and
//! Welcome said, nothing to do), waits until it is quiet, and reads how much more memory the relay's process has than
//! before. One fresh relay for each number. Linux only: it reads /proc.

use std::error::Error;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use blazedb::transport::{FrameReceiver, FrameSender, Target, Trust, open_stream, parse_fingerprint};
use blazedb_relay::config::{Config, Copies};
use blazedb_relay::{server, token};
use blazedb_wire::{Frame, Hello};

/// Handshakes at one time: as many as the relay takes in all; of one address it takes some, and the others wait.
const AT_ONCE: usize = 32;
/// Long enough for what is freed late, too short for a ping.
const SETTLE: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "serve") {
        return serve(&args[1]);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut out = std::io::stdout();
    writeln!(out, "| connections | relay before, KiB | with them, KiB | each, KiB | opened in, s |")?;
    writeln!(out, "|---|---|---|---|---|")?;
    for arg in &args {
        let connections: usize = arg.parse()?;
        let dir = tempfile::tempdir()?;
        let mut relay = Served::start(dir.path().to_str().ok_or("a path in UTF-8")?)?;
        let target = relay.target.clone();
        // What a relay makes once it has had its first client is not a connection's.
        let first = runtime.block_on(open(&target))?;
        std::thread::sleep(SETTLE);
        let before = relay.resident_kib()?;
        let begun = Instant::now();
        let open = runtime.block_on(open_many(&target, connections))?;
        let took = begun.elapsed().as_secs_f64();
        std::thread::sleep(SETTLE);
        let after = relay.resident_kib()?;
        let each = (after - before) as f64 / connections as f64;
        writeln!(out, "| {connections} | {before} | {after} | {each:.1} | {took:.1} |")?;
        drop((first, open));
        relay.stop()?;
    }
    Ok(())
}

type Session = (FrameSender, FrameReceiver);

async fn open(target: &Target) -> Result<Session, Box<dyn Error + Send + Sync>> {
    let (sender, mut receiver) = open_stream(target).await?;
    let hello = Hello::first();
    sender.send(Frame::Hello(hello).to_bytes()).await?;
    receiver.next().await?.ok_or("the relay said nothing")?;
    Ok((sender, receiver))
}

async fn open_many(target: &Target, connections: usize) -> Result<Vec<Session>, Box<dyn Error + Send + Sync>> {
    let mut open_now = Vec::with_capacity(connections);
    while open_now.len() < connections {
        let more = AT_ONCE.min(connections - open_now.len());
        let opening: Vec<_> = (0..more)
            .map(|_| {
                let target = target.clone();
                tokio::spawn(async move { open(&target).await })
            })
            .collect();
        for opened in opening {
            open_now.push(opened.await??);
        }
    }
    Ok(open_now)
}

/// A relay in another process.
struct Served {
    process: Child,
    target: Target,
}

impl Served {
    fn start(dir: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().ok_or("its output")?).read_line(&mut line)?;
        let [address, fingerprint, token] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err("the relay did not start".into());
        };
        let trust = Trust::Fingerprint(parse_fingerprint(fingerprint)?);
        let target = Target::new(&format!("https://{address}"), &trust, token)?;
        Ok(Self { process, target })
    }

    fn resident_kib(&self) -> Result<u64, Box<dyn Error + Send + Sync>> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    fn stop(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        // The end of its input is the end.
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}

/// The relay's process: says where it is, and ends with its input.
fn serve(dir: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut config = Config::new(dir, "127.0.0.1:0".parse()?);
    config.copies = Copies::Memory;
    config.limits.connections_max = 100_000;
    config.limits.connections_per_address_max = 100_000;
    let token = token::issue(config.dir.as_path(), "home", "bench", Duration::from_secs(3_600))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ready = move |ready: &server::Ready| {
        // A parent that does not listen has gone.
        let _ = writeln!(std::io::stdout(), "{} {} {token}", ready.address, ready.fingerprint);
    };
    let until = async {
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    };
    runtime.block_on(server::run(config, ready, until))?;
    Ok(())
}
