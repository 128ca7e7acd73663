//! `torture`: keeps the store's promises about faults. `cargo torture -- --list` tells which there are.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a person")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use blazedb_harness::torture::{PROMISES, Plan, Plant, Promise, promise};
use clap::Parser;

/// Breaks disks and files under the store, and counts whether it keeps its promises.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo torture -- --list                       what there is, with full sizes\n  cargo torture -- crash                        one promise, at full size\n  cargo torture -- crash tears --size 500       two of them, smaller\n  cargo torture -- all                          every one at full size\n  cargo torture -- crash --only 4711            one case again\n  cargo torture -- crash --plant no-page-sync   a planted bug: must be noticed"
)]
struct Args {
    /// Which promises to keep, or `all`.
    promises: Vec<String>,
    /// Tells which promises there are.
    #[arg(long)]
    list: bool,
    /// Everything random follows from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How much to do, in the promise's unit; its full size where it is not given.
    #[arg(long)]
    size: Option<u64>,
    /// Does this one case only.
    #[arg(long)]
    only: Option<u64>,
    /// How many threads share the cases; as many as there are cores where it is not given.
    #[arg(long)]
    jobs: Option<u64>,
    /// Plants a bug; succeeds if it is noticed.
    #[arg(long)]
    plant: Option<Plant>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list || args.promises.is_empty() {
        for promise in PROMISES {
            println!("{:20} {} {}: {}", promise.name, promise.full, promise.unit, promise.says);
        }
        return ExitCode::SUCCESS;
    }
    let mut chosen: Vec<&Promise> = Vec::new();
    for name in &args.promises {
        match (name.as_str(), promise(name)) {
            ("all", _) => chosen.extend(PROMISES),
            (_, Some(promise)) => chosen.push(promise),
            (_, None) => {
                eprintln!("there is no promise {name}; cargo torture -- --list tells which there are");
                return ExitCode::FAILURE;
            }
        }
    }
    let mut kept = true;
    for promise in chosen {
        kept &= keep(promise, &args);
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Keeps one promise; returns whether that is as it should be.
fn keep(promise: &Promise, args: &Args) -> bool {
    let began = Instant::now();
    let told = Mutex::new(Instant::now());
    let progress = |done: u64, total: u64| {
        let mut told = told.lock().expect("telling does not panic");
        if told.elapsed() >= Duration::from_secs(5) {
            *told = Instant::now();
            eprintln!("{}: {done} of {total}, {:.0} s", promise.name, began.elapsed().as_secs_f64());
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let plan = Plan {
        seed: args.seed,
        size: args.size.unwrap_or(promise.full),
        only: args.only,
        jobs: args.jobs.unwrap_or(cores),
        plant: args.plant,
        progress: &progress,
    };
    let result = (promise.keep)(&plan);
    let seconds = began.elapsed().as_secs_f64();
    match (result, args.plant) {
        (Ok(tally), None) => {
            println!("{}: {tally}, seed {}, {seconds:.1} s", promise.name, plan.seed);
            true
        }
        (Err(failure), None) => {
            println!("{}: BROKEN at case {}: {}", promise.name, failure.case, failure.what);
            println!(
                "again: cargo torture -- {} --seed {} --size {} --only {}",
                promise.name, plan.seed, plan.size, failure.case
            );
            false
        }
        (Err(failure), Some(plant)) => {
            println!("{}: {plant} was noticed at case {}: {}", promise.name, failure.case, failure.what);
            true
        }
        (Ok(tally), Some(plant)) => {
            println!("{}: {plant} was NOT noticed: {tally}", promise.name);
            false
        }
    }
}
