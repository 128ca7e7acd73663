//! One thread after another kind of work: durable commits beside the floor of the disk, batches, a bulk load, buffered
//! commits, gets, ranges; then two readers, and one beside a writer; then cold gets.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{BATCH_ROWS, Keys, RANGE_ROWS, Rows, SETTLE, Task, get_some, row};
use crate::floor::Floor;
use crate::measure::{Figures, Lap, Watch, median, percentile_us, thread_cpu};
use crate::subjects::{self, Durability, Failure, Reader, Subject, Views};

/// Rows of the small database that durable commits are compared on.
pub(crate) const SMALL_ROWS: usize = 1000;
/// Cache of the store that is opened again for cold gets: nearly every leaf is read from the system's cache.
pub(crate) const COLD_CACHE_BYTES: usize = 1 << 20;
/// How often floor, large and small database take turns.
const TURNS: usize = 8;
/// Passes over warm data, of which the median counts.
const PASSES: usize = 3;
/// Between two commits of the paced writer.
const PACE: Duration = Duration::from_millis(1);
/// Gets per snapshot of the reader beside the writer.
const GETS_PER_SNAPSHOT: usize = 1000;

pub(super) fn run(task: &Task) -> Result<Figures, Failure> {
    let mut found = Figures::new();
    let mut rows = Rows::new();
    let spec = subjects::find(&task.subject)?;
    let folder = task.folder.join("large");
    std::fs::create_dir(&folder)?;
    {
        let store = (spec.open)(&folder, task.cache_bytes)?;
        bulk(&*store, task.rows, &mut rows, &mut found)?;
        std::thread::sleep(SETTLE);
        singles(task, &*store, &mut rows, &mut found)?;
        batches(&*store, task.scaled(100), &mut rows, &mut found)?;
        buffered(&*store, task.scaled(50_000), &mut rows, &mut found)?;
        std::thread::sleep(SETTLE);
        gets(task, &*store, &mut found)?;
        two_readers(task, &*store, &mut found)?;
        beside_a_writer(task, &*store, &mut rows, &mut found)?;
    }
    for (name, open) in [("cold", Some(spec.open)), ("cold_second", spec.open_by_reads)] {
        if let Some(open) = open {
            cold(task, &*open(&folder, COLD_CACHE_BYTES)?, name, &mut found)?;
        }
    }
    Ok(found)
}

fn bulk(store: &dyn Subject, count: usize, rows: &mut Rows, found: &mut Figures) -> Result<(), Failure> {
    let watch = Watch::start();
    store.bulk_load(&mut rows.take(count))?;
    let lap = watch.read();
    found.insert("bulk".into(), lap.rate(count));
    found.insert("bulk_cpu_us".into(), lap.cpu_us(count));
    Ok(())
}

/// Floor, large database and small database take turns, so that a disk that slows down slows all three down.
fn singles(task: &Task, large: &dyn Subject, rows: &mut Rows, found: &mut Figures) -> Result<(), Failure> {
    let small_folder = task.folder.join("small");
    std::fs::create_dir(&small_folder)?;
    let small = (subjects::find(&task.subject)?.open)(&small_folder, task.cache_bytes)?;
    let mut small_rows = Rows::new();
    small.bulk_load(&mut small_rows.take(SMALL_ROWS))?;
    let mut floor = Floor::new(&small_folder)?;

    let per_turn = task.scaled(4000).div_ceil(TURNS);
    // So few that it stays small.
    let small_per_turn = (SMALL_ROWS / TURNS).min(per_turn);
    let mut floor_lap = Lap::default();
    let (mut large_lap, mut small_lap) = (Lap::default(), Lap::default());
    let (mut floor_each, mut large_each, mut small_each) = (Vec::new(), Vec::new(), Vec::new());
    floor.overwrite(per_turn, &mut Vec::new())?;
    for _ in 0..TURNS {
        floor_lap.add(floor.overwrite(per_turn, &mut floor_each)?);
        large_lap.add(commit_each(large, rows, per_turn, Durability::Durable, &mut large_each)?);
        small_lap.add(commit_each(&*small, &mut small_rows, small_per_turn, Durability::Durable, &mut small_each)?);
    }
    floor_lap.add(floor.overwrite(per_turn, &mut floor_each)?);

    found.insert("floor".into(), floor_lap.rate(floor_each.len()));
    found.insert("floor_p50_us".into(), percentile_us(&mut floor_each, 50));
    found.insert("floor_p99_us".into(), percentile_us(&mut floor_each, 99));
    let rate = large_lap.rate(large_each.len());
    found.insert("single".into(), rate);
    found.insert("single_of_floor".into(), rate / floor_lap.rate(floor_each.len()));
    found.insert("single_cpu_us".into(), large_lap.cpu_us(large_each.len()));
    let mean = large_lap.wall.as_secs_f64() / large_each.len() as f64;
    let small_mean = small_lap.wall.as_secs_f64() / small_each.len() as f64;
    found.insert("single_growth".into(), mean / small_mean);
    found.insert("single_small_cpu_us".into(), small_lap.cpu_us(small_each.len()));
    found.insert("single_p50_us".into(), percentile_us(&mut large_each, 50));
    found.insert("single_p99_us".into(), percentile_us(&mut large_each, 99));
    found.insert("single_small_p50_us".into(), percentile_us(&mut small_each, 50));
    Ok(())
}

/// Commits so many rows, one by one.
pub(super) fn commit_each(
    store: &dyn Subject,
    rows: &mut Rows,
    count: usize,
    durability: Durability,
    each: &mut Vec<Duration>,
) -> Result<Lap, Failure> {
    let watch = Watch::start();
    for row in rows.take(count) {
        let before = Instant::now();
        store.commit(&[row], durability)?;
        each.push(before.elapsed());
    }
    Ok(watch.read())
}

fn batches(store: &dyn Subject, count: usize, rows: &mut Rows, found: &mut Figures) -> Result<(), Failure> {
    let mut each = Vec::with_capacity(count);
    let mut all = Lap::default();
    for _ in 0..count {
        let batch: Vec<_> = rows.take(BATCH_ROWS).collect();
        let watch = Watch::start();
        store.commit(&batch, Durability::Durable)?;
        let lap = watch.read();
        each.push(lap.wall);
        all.add(lap);
    }
    found.insert("batch".into(), all.rate(count * BATCH_ROWS));
    found.insert("batch_cpu_us".into(), all.cpu_us(count * BATCH_ROWS));
    found.insert("batch_p50_us".into(), percentile_us(&mut each, 50));
    found.insert("batch_p99_us".into(), percentile_us(&mut each, 99));
    Ok(())
}

fn buffered(store: &dyn Subject, count: usize, rows: &mut Rows, found: &mut Figures) -> Result<(), Failure> {
    let mut each = Vec::with_capacity(count);
    let lap = commit_each(store, rows, count, Durability::Buffered, &mut each)?;
    found.insert("buffered".into(), lap.rate(count));
    found.insert("buffered_cpu_us".into(), lap.cpu_us(count));
    found.insert("buffered_p99_us".into(), percentile_us(&mut each, 99));
    let watch = Watch::start();
    let mut in_memory = 0;
    for row in rows.take(count) {
        match store.commit_in_memory(&row) {
            Some(committed) => committed?,
            None => break,
        }
        in_memory += 1;
    }
    if in_memory > 0 {
        found.insert("in_memory".into(), watch.read().rate(in_memory));
    }
    // What follows must not find a device that is busy with what came before.
    store.commit(&rows.take(1).collect::<Vec<_>>(), Durability::Durable)
}

fn gets(task: &Task, store: &dyn Subject, found: &mut Figures) -> Result<(), Failure> {
    let gets = task.rows;
    store.with_reader(Views::One, &mut |reader| {
        read_all(reader, task.rows)?;
        let lap = median_pass(|pass| get_some(reader, &mut Keys::new(pass, task.rows), gets))?;
        found.insert("get".into(), lap.rate(gets));
        found.insert("get_cpu_us".into(), lap.cpu_us(gets));
        let ranges = task.scaled(100_000);
        let lap = median_pass(|pass| range_some(reader, &mut Keys::new(pass, task.rows), ranges))?;
        found.insert("range".into(), lap.rate(ranges));
        found.insert("range_cpu_us".into(), lap.cpu_us(ranges));
        Ok(())
    })?;
    store.with_reader(Views::PerGet, &mut |reader| {
        let lap = median_pass(|pass| get_some(reader, &mut Keys::new(pass, task.rows), gets))?;
        found.insert("get_alone".into(), lap.rate(gets));
        Ok(())
    })
}

/// Fills the caches, and makes sure that the store holds what it was given.
pub(super) fn read_all(reader: &mut dyn Reader, count: usize) -> Result<(), Failure> {
    for index in 0..count as u64 {
        let (key, value) = row(index);
        let mut same = false;
        reader.get(&key, &mut |found| same = found == value)?;
        if !same {
            return Err(format!("row {index} is not what was put there").into());
        }
    }
    Ok(())
}

fn range_some(reader: &mut dyn Reader, keys: &mut Keys, ranges: usize) -> Result<(), Failure> {
    let mut bytes = 0;
    for _ in 0..ranges {
        reader.range(&keys.next(), RANGE_ROWS, &mut |key, value| bytes += key.len() + value.len())?;
    }
    std::hint::black_box(bytes);
    Ok(())
}

/// The pass of the median wall time.
fn median_pass(mut pass: impl FnMut(u64) -> Result<(), Failure>) -> Result<Lap, Failure> {
    let mut laps = Vec::new();
    for number in 0..PASSES as u64 {
        let watch = Watch::start();
        pass(number)?;
        laps.push(watch.read());
    }
    laps.sort_by_key(|lap| lap.wall);
    Ok(laps[PASSES / 2])
}

fn two_readers(task: &Task, store: &dyn Subject, found: &mut Figures) -> Result<(), Failure> {
    let mut ratios = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..PASSES {
        let one = readers(task, store, 1)?;
        let two = readers(task, store, 2)?;
        ratios.push(two / one);
        rates.push(two);
    }
    found.insert("get_two".into(), median(&mut rates));
    found.insert("get_two_of_one".into(), median(&mut ratios));
    Ok(())
}

/// Gets per second of all threads together; each has a snapshot of its own and starts when all are ready.
fn readers(task: &Task, store: &dyn Subject, threads: usize) -> Result<f64, Failure> {
    let ready = Barrier::new(threads);
    let read = |thread: usize| -> Result<f64, Failure> {
        let mut seconds = 0.0;
        store.with_reader(Views::One, &mut |reader| {
            // A reader that is new to the thread fills what belongs to it.
            get_some(reader, &mut Keys::new(thread as u64, task.rows), task.rows / 4)?;
            ready.wait();
            let started = Instant::now();
            get_some(reader, &mut Keys::new(thread as u64 + 10, task.rows), task.rows)?;
            seconds = started.elapsed().as_secs_f64();
            Ok(())
        })?;
        Ok(task.rows as f64 / seconds)
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|thread| scope.spawn(move || read(thread))).collect();
        all.into_iter().map(|one| one.join().expect("a thread that panicked has said so")).sum()
    })
}

/// CPU time of one reader's get, alone and while another thread commits durably at a steady pace.
fn beside_a_writer(task: &Task, store: &dyn Subject, rows: &mut Rows, found: &mut Figures) -> Result<(), Failure> {
    let alone = reader_cpu_us(task, store)?;
    let done = AtomicBool::new(false);
    let (beside, commits) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| write_paced(store, rows, &done));
        let beside = reader_cpu_us(task, store);
        done.store(true, Ordering::Relaxed);
        (beside, writer.join().expect("a thread that panicked has said so"))
    });
    let beside = beside?;
    found.insert("reader_alone_cpu_us".into(), alone);
    found.insert("reader_beside_cpu_us".into(), beside);
    found.insert("reader_keeps".into(), alone / beside);
    found.insert("writer_beside".into(), commits?);
    Ok(())
}

/// Reads for a while, a new snapshot every now and then, and returns microseconds of CPU time per get.
fn reader_cpu_us(task: &Task, store: &dyn Subject) -> Result<f64, Failure> {
    let mut keys = Keys::new(77, task.rows);
    let (mut gets, mut used) = (0, Duration::ZERO);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(task.seconds.into()) / 2 {
        store.with_reader(Views::One, &mut |reader| {
            let before = thread_cpu();
            get_some(reader, &mut keys, GETS_PER_SNAPSHOT)?;
            used += thread_cpu() - before;
            gets += GETS_PER_SNAPSHOT;
            Ok(())
        })?;
    }
    Ok(used.as_secs_f64() * 1e6 / gets as f64)
}

/// Commits a row durably at every tick, until told to stop; returns commits per second.
fn write_paced(store: &dyn Subject, rows: &mut Rows, done: &AtomicBool) -> Result<f64, Failure> {
    let started = Instant::now();
    let mut commits = 0;
    while !done.load(Ordering::Relaxed) {
        store.commit(&rows.take(1).collect::<Vec<_>>(), Durability::Durable)?;
        commits += 1;
        let due = started + PACE * commits;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(f64::from(commits) / started.elapsed().as_secs_f64())
}

fn cold(task: &Task, store: &dyn Subject, name: &str, found: &mut Figures) -> Result<(), Failure> {
    let gets = task.scaled(200_000);
    store.with_reader(Views::One, &mut |reader| {
        let lap = median_pass(|pass| get_some(reader, &mut Keys::new(pass + 100, task.rows), gets))?;
        found.insert(name.into(), lap.rate(gets));
        found.insert(format!("{name}_cpu_us"), lap.cpu_us(gets));
        Ok(())
    })
}
