//! `prove`: the engine's promises of concurrency, at the sizes that are promised. `cargo prove -- --help` tells how.
//!
//! `cargo test` runs a slice of each of these.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a person")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use blazedb_harness::isolation::{Planted, Round, Tally};
use blazedb_harness::nonces::Watch;
use blazedb_harness::{kills, model};
use clap::{Parser, Subcommand};

/// Proves, as far as running can, that the engine keeps its promises beside threads, crashes and copies.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo prove -- isolation                  what eight threads see is snapshot isolation\n  cargo prove -- isolation --planted        every planted bug is found\n  cargo prove -- isolation --seed 17 --rounds 1   one round again\n  cargo prove -- model                      a million steps against a map of versions\n  cargo prove -- kills                      a thousand real SIGKILLs\n  cargo prove -- nonces                     ten million seals, no nonce twice"
)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Threads on one store, and a checker of what they saw.
    Isolation {
        /// Stores to try, one after the other.
        #[arg(long, default_value_t = 40)]
        rounds: u64,
        /// Transactions of each.
        #[arg(long, default_value_t = 6_000)]
        transactions: u64,
        /// Threads of each.
        #[arg(long, default_value_t = 8)]
        threads: u64,
        /// Seed of the first.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Plants one bug after the other; succeeds if all of them are found.
        #[arg(long)]
        planted: bool,
    },
    /// One step after the other against a map of versions.
    Model {
        /// Steps, all seeds together.
        #[arg(long, default_value_t = 1_000_000)]
        steps: u64,
        /// Runs this one seed only.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Processes that are killed while they commit.
    Kills {
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        kills: u64,
        /// When they come.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Seals, crashes, restores and copies.
    Nonces {
        /// Seals to see.
        #[arg(long, default_value_t = 10_000_000)]
        seals: u64,
        /// Crashes, restores and copies to see.
        #[arg(long, default_value_t = 1_500)]
        breaks: u64,
        /// What happens when.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// What `kills` kills.
    #[command(hide = true)]
    KillChild { path: PathBuf },
}

/// Steps of one seed of the model: the store is made anew after them.
const STEPS_PER_SEED: u64 = 50_000;

fn main() -> ExitCode {
    let began = Instant::now();
    let done = match Args::parse().what {
        What::Isolation { planted: true, transactions, .. } => plant(transactions),
        What::Isolation { rounds, transactions, threads, seed, planted: false } => {
            isolation(seed..seed + rounds, transactions, threads)
        }
        What::Model { steps, seed: Some(seed) } => Ok(format!("{:?}", model::run(seed, steps))),
        What::Model { steps, seed: None } => Ok(model_steps(steps)),
        What::Kills { kills, seed } => kill(kills, seed),
        What::Nonces { seals, breaks, seed } => {
            let watch = Watch { seed, seals, breaks, repeated_entropy: false };
            let seen = watch.run().map_err(|what| format!("{what}\nagain: cargo prove -- nonces --seed {seed}"));
            seen.map(|seen| {
                let (seals, breaks) = (seen.seals(), seen.breaks());
                format!("{seals} seals across {breaks} crashes, restores and copies, no nonce twice: {seen:?}")
            })
        }
        What::KillChild { path } => {
            return match kills::child(&path, std::io::stdout()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("{error}");
                    ExitCode::FAILURE
                }
            };
        }
    };
    match done {
        Ok(what) => {
            println!("{what}, {:.1} s", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("{what}");
            ExitCode::FAILURE
        }
    }
}

fn isolation(seeds: std::ops::Range<u64>, transactions: u64, threads: u64) -> Result<String, String> {
    let mut all = Tally::default();
    for seed in seeds {
        let round = Round { seed, threads, transactions, bug: None };
        all += round.run().map_err(|anomaly| {
            let again = format!("cargo prove -- isolation --seed {seed} --rounds 1 --transactions {transactions}");
            format!("seed {seed}: {anomaly}\nagain, though threads may meet otherwise: {again}")
        })?;
    }
    Ok(format!("no anomaly: {all:?}"))
}

fn plant(transactions: u64) -> Result<String, String> {
    const ROUNDS: u64 = 50;
    for bug in Planted::ALL {
        match Round::find(bug, ROUNDS, transactions) {
            Some((round, anomaly)) => println!("{bug} was found in round {round}: {anomaly}"),
            None => return Err(format!("{bug} was NOT found in {ROUNDS} rounds")),
        }
    }
    Ok(format!("{0} of {0} planted bugs were found", Planted::ALL.len()))
}

fn model_steps(steps: u64) -> String {
    let mut all = model::Report::default();
    for seed in 1..=steps.div_ceil(STEPS_PER_SEED) {
        let report = model::run(seed, STEPS_PER_SEED.min(steps - all.steps));
        all.steps += report.steps;
        all.commits += report.commits;
        all.conflicts += report.conflicts;
        all.reopenings += report.reopenings;
        all.lost += report.lost;
        all.old_looks += report.old_looks;
        all.checkpoints += report.checkpoints;
    }
    format!("store and model agree: {all:?}")
}

fn kill(count: u64, seed: u64) -> Result<String, String> {
    let told = |error: std::io::Error| error.to_string();
    let own = std::env::current_exe().map_err(told)?;
    let folder = tempfile::tempdir().map_err(told)?;
    let spawn = |path: &Path| {
        let mut command = Command::new(&own);
        command.arg("kill-child").arg(path);
        command
    };
    let report = kills::run(count, seed, &folder.path().join("killed.blaze"), spawn);
    report.map(|report| format!("everything acknowledged was there: {report:?}"))
}
