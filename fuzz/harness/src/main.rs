//! `sim`: runs simulated worlds. `cargo sim -- --help` tells how.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a person")]

use std::process::ExitCode;
use std::time::Instant;

use blazedb_harness::{Bug, Config, World};
use clap::Parser;

/// Simulates clusters: real databases, sessions, hub and log, on disks that crash and links that lose.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo sim -- --seeds 10000          ten thousand worlds\n  cargo sim -- --seed 17              one world again, with the same faults\n  cargo sim -- --seed 17 --steps 80   the same world, stopped early\n  cargo sim -- --bug lying-sync       a planted bug: must be found"
)]
struct Args {
    /// How many worlds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Seed of the first world.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Runs this one world only.
    #[arg(long)]
    seed: Option<u64>,
    /// Steps with faults in each world.
    #[arg(long, default_value_t = 400)]
    steps: u64,
    /// Plants a bug; succeeds if some world notices it.
    #[arg(long)]
    bug: Option<Bug>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.first..args.first + args.seeds,
    };
    let began = Instant::now();
    let (mut worlds, mut ops, mut crashes, mut connections, mut boxed) = (0u64, 0, 0, 0, 0);
    let mut told = Instant::now();
    for seed in seeds {
        match (World::new(Config { seed, steps: args.steps, bug: args.bug }).run(), args.bug) {
            (Ok(report), _) => {
                worlds += 1;
                ops += report.ops;
                crashes += report.crashes;
                connections += report.connections;
                boxed += report.boxed;
                if args.seed.is_some() {
                    println!("{report:#?}");
                }
            }
            (Err(what), Some(bug)) => {
                println!("planted bug {bug} was found by seed {seed} after {worlds} worlds: {what}");
                return ExitCode::SUCCESS;
            }
            (Err(what), None) => {
                eprintln!("seed {seed}: {what}");
                eprintln!("again: cargo sim -- --seed {seed} --steps {}", args.steps);
                return ExitCode::FAILURE;
            }
        }
        if told.elapsed().as_secs() >= 2 {
            told = Instant::now();
            eprintln!("{worlds} worlds, {:.0} per second", worlds as f64 / began.elapsed().as_secs_f64());
        }
    }
    println!(
        "{worlds} worlds came to rest and were right: {ops} operations, {crashes} power cuts, {connections} connections, \
         {boxed} things set aside, {:.1} s",
        began.elapsed().as_secs_f64()
    );
    match args.bug {
        Some(bug) => {
            eprintln!("planted bug {bug} was NOT found");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}
