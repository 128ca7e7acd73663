//! Echo over TLS: the relay's server code beside tonic with a custom codec, on one machine.
//!
//!     cargo run --release --manifest-path benches/echo/Cargo.toml -- run [SECONDS] [ROUNDS] [KIND] [CONNECTIONS]
//!     cargo run --release --manifest-path benches/echo/Cargo.toml -- count
//!
//! `run` starts each server in a process of its own, with the same keys and the same runtime (two threads), drives it with one
//! load generator made of plain h2, which knows neither, and prints throughput, median latency and the server's own CPU time per
//! message. Rounds take turns, so that a machine that changes its mind changes it for both; the figures are medians of the rounds.
//! `count` does the same in the clear and counts the servers' allocations per message. Linux only: it reads /proc.

mod load;
mod ours;
mod peer;

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use load::{Kind, Load};

pub(crate) type Fault = Box<dyn Error + Send + Sync>;

const CONNECTIONS: [usize; 3] = [1, 8, 100];
const KINDS: [Kind; 2] = [Kind::Unary, Kind::Streaming];
const SERVERS: [&str; 2] = ["ours", "tonic"];

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches one number alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and every block came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `realloc`, and every block came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> Result<(), Fault> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| args.get(at).map_or(Ok(default), |text| text.parse());
    match args.first().map(String::as_str) {
        Some("serve") => serve(&args[1], Path::new(&args[2]), args[3] == "tls"),
        Some("run") => {
            let kind = args.get(3).map(String::as_str);
            run(Duration::from_secs(number(1, 3)?), usize::try_from(number(2, 3)?)?, kind, number(4, 0)?)
        }
        Some("count") => count(),
        _ => Err("usage: run [SECONDS] [ROUNDS] [unary|streaming] [CONNECTIONS] | count".into()),
    }
}

/// Serves until its input ends; a line of input asks for the number of allocations so far.
fn serve(which: &str, dir: &Path, tls: bool) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ready = |address: SocketAddr| {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{address}");
        let _ = out.flush();
    };
    std::thread::spawn(|| {
        for line in std::io::stdin().lines() {
            if line.is_err() {
                break;
            }
            let mut out = std::io::stdout();
            let _ = writeln!(out, "{}", ALLOCATIONS.load(Ordering::Relaxed));
            let _ = out.flush();
        }
        std::process::exit(0);
    });
    match which {
        "ours" => runtime.block_on(ours::serve(dir, tls, ready)),
        _ => runtime.block_on(peer::serve(dir, tls, ready)),
    }
}

/// A server in a process of its own.
struct Served {
    child: Child,
    out: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Served {
    fn start(which: &str, dir: &Path, tls: bool) -> Result<Self, Fault> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", which, dir.to_str().ok_or("a path in UTF-8")?, if tls { "tls" } else { "clear" }])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut out = BufReader::new(child.stdout.take().ok_or("it has an output")?);
        let mut line = String::new();
        out.read_line(&mut line)?;
        let address = line.trim().parse().map_err(|_| format!("{which} did not start: {line}"))?;
        Ok(Self { child, out, address })
    }

    fn allocations(&mut self) -> Result<u64, Fault> {
        self.child.stdin.as_mut().ok_or("it has an input")?.write_all(b"\n")?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line.trim().parse()?)
    }

    /// Returns the time that the server's threads have run, in nanoseconds.
    fn cpu_ns(&self) -> Result<u64, Fault> {
        let mut sum = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
            sum += text.split_whitespace().next().unwrap_or("0").parse::<u64>()?;
        }
        Ok(sum)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What one round of one case gave.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    median_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn run(time: Duration, rounds: usize, only: Option<&str>, only_connections: u64) -> Result<(), Fault> {
    let dir = keys()?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{} messages in flight on each connection, {} bytes each; {rounds} rounds of {time:?}",
        load::IN_FLIGHT,
        load::MESSAGE_BYTES
    )?;
    writeln!(out, "| calls | connections | server | messages/s | median, us | p99, us | server CPU per message, us |")?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for kind in KINDS.into_iter().filter(|kind| only.is_none_or(|only| format!("{kind:?}").eq_ignore_ascii_case(only)))
    {
        for connections in CONNECTIONS.into_iter().filter(|&count| [0, count as u64].contains(&only_connections)) {
            let mut seen = [Vec::new(), Vec::new()];
            for round in 0..rounds {
                for turn in 0..SERVERS.len() {
                    let which = (turn + round) % SERVERS.len();
                    let served = Served::start(SERVERS[which], dir.path(), true)?;
                    seen[which].push(measure(&served, kind, connections, dir.path(), time)?);
                }
            }
            for (server, seen) in SERVERS.iter().zip(&seen) {
                let middle = |of: fn(&Figures) -> f64| {
                    let mut all: Vec<f64> = seen.iter().map(of).collect();
                    all.sort_by(f64::total_cmp);
                    all[all.len() / 2]
                };
                let Figures { per_second, median_us, p99_us, cpu_us } = Figures {
                    per_second: middle(|figures| figures.per_second),
                    median_us: middle(|figures| figures.median_us),
                    p99_us: middle(|figures| figures.p99_us),
                    cpu_us: middle(|figures| figures.cpu_us),
                };
                writeln!(
                    out,
                    "| {kind:?} | {connections} | {server} | {per_second:.0} | {median_us:.0} | {p99_us:.0} | {cpu_us:.2} |"
                )?;
            }
        }
    }
    Ok(())
}

fn measure(served: &Served, kind: Kind, connections: usize, dir: &Path, time: Duration) -> Result<Figures, Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let load = Load::connect(served.address, Some(&certificate(dir)), kind, connections).await?;
        load.drive(Duration::from_millis(500)).await?;
        let before = served.cpu_ns()?;
        let begun = std::time::Instant::now();
        let mut took = load.drive(time).await?;
        let elapsed = begun.elapsed();
        let cpu_ns = served.cpu_ns()? - before;
        took.sort_unstable();
        let at = |part: f64| f64::from(took[((took.len() - 1) as f64 * part) as usize]) / 1_000.0;
        Ok(Figures {
            per_second: took.len() as f64 / elapsed.as_secs_f64(),
            median_us: at(0.5),
            p99_us: at(0.99),
            cpu_us: cpu_ns as f64 / took.len() as f64 / 1_000.0,
        })
    })
}

fn count() -> Result<(), Fault> {
    let dir = keys()?;
    let mut out = std::io::stdout();
    writeln!(out, "| calls | server | allocations per message, in the clear |")?;
    writeln!(out, "|---|---|---|")?;
    for kind in KINDS {
        for server in SERVERS {
            let mut served = Served::start(server, dir.path(), false)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let (count, messages) = runtime.block_on(async {
                let load = Load::connect(served.address, None, kind, 1).await?;
                load.drive(Duration::from_millis(500)).await?;
                let before = served.allocations()?;
                let messages = load.drive(Duration::from_secs(2)).await?.len();
                Ok::<_, Fault>((served.allocations()? - before, messages))
            })?;
            writeln!(out, "| {kind:?} | {server} | {:.4} |", count as f64 / messages as f64)?;
        }
    }
    Ok(())
}

/// Has the relay make the keys that both servers use.
fn keys() -> Result<tempfile::TempDir, Fault> {
    let dir = tempfile::tempdir()?;
    drop(Served::start("ours", dir.path(), true)?);
    Ok(dir)
}

fn certificate(dir: &Path) -> PathBuf {
    dir.join("tls.crt")
}
