//! What is read off: wall clocks, CPU clocks, resident memory, and the figures that a process hands over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::subjects::Failure;

/// Figures by name, as one process found them in one round.
pub(crate) type Figures = BTreeMap<String, f64>;

/// How often resident memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(2);

/// Wall time and this process's CPU time (user and system, all threads), running.
pub(crate) struct Watch {
    started: Instant,
    cpu: Duration,
}

/// What a watch showed.
#[derive(Clone, Copy, Default)]
pub(crate) struct Lap {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { cpu: cpu(ClockId::ProcessCPUTime), started: Instant::now() }
    }

    pub(crate) fn read(&self) -> Lap {
        Lap { wall: self.started.elapsed(), cpu: cpu(ClockId::ProcessCPUTime) - self.cpu }
    }
}

impl Lap {
    pub(crate) fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
    }

    /// Operations per second of wall time.
    pub(crate) fn rate(&self, operations: usize) -> f64 {
        operations as f64 / self.wall.as_secs_f64()
    }

    /// Microseconds of CPU time per operation.
    pub(crate) fn cpu_us(&self, operations: usize) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / operations as f64
    }
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(tv_sec.unsigned_abs(), u32::try_from(tv_nsec).expect("less than a second"))
}

/// The duration that this share of the operations stayed under, in microseconds. Sorts them.
pub(crate) fn percentile_us(each: &mut [Duration], percent: usize) -> f64 {
    each.sort_unstable();
    let index = (each.len() * percent / 100).min(each.len().saturating_sub(1));
    each.get(index).map_or(f64::NAN, |each| each.as_secs_f64() * 1e6)
}

/// The middle one, or what lies between the two in the middle.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len() / 2, values.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 0) => f64::midpoint(values[middle - 1], values[middle]),
        (middle, _) => values[middle],
    }
}

/// Resident memory of this process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Resident {
    /// What no file holds: heap and stacks.
    pub(crate) anonymous: u64,
    /// All of it, pages of mapped files included.
    pub(crate) all: u64,
}

pub(crate) fn resident() -> Result<Resident, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| -> Result<u64, Failure> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("a field of status is missing")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib << 10)
    };
    Ok(Resident { anonymous: field("RssAnon:")?, all: field("VmRSS:")? })
}

/// The most memory seen by a thread that keeps looking.
#[derive(Default)]
pub(crate) struct Peak {
    anonymous: AtomicU64,
    all: AtomicU64,
}

impl Peak {
    pub(crate) fn so_far(&self) -> Resident {
        Resident { anonymous: self.anonymous.load(Ordering::Relaxed), all: self.all.load(Ordering::Relaxed) }
    }

    fn look(&self) {
        // A look that fails is followed by another; what is never seen at all shows as 0.
        if let Ok(now) = resident() {
            self.anonymous.fetch_max(now.anonymous, Ordering::Relaxed);
            self.all.fetch_max(now.all, Ordering::Relaxed);
        }
    }
}

/// Does the work while another thread watches how much memory is resident.
pub(crate) fn watching_memory<R>(work: impl FnOnce(&Peak) -> R) -> R {
    let (peak, done) = (Peak::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                peak.look();
                std::thread::sleep(SAMPLE_EVERY);
            }
        });
        /// Ends the thread also where the work panics; the scope would wait for ever otherwise.
        struct Done<'d>(&'d AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        let result = work(&peak);
        peak.look();
        result
    })
}
