//! `decade`: ten years of an app's use on a simulated clock, as a table and a picture. `cargo decade -- --help` tells how.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to a person")]

#[path = "../counting.rs"]
mod counting;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use blazedb_harness::decade::{Plan, svg};
use clap::Parser;

/// Lives with a store for years, and says whether its file, its opening and its memory stay as they were.
#[derive(Parser)]
#[command(
    after_help = "Examples:\n  cargo decade                          ten years; the figures, nothing written\n  cargo decade -- --days 365            one year\n  cargo decade -- --csv docs/decade.csv --svg docs/decade.svg"
)]
struct Args {
    /// How long.
    #[arg(long, default_value_t = 3_650)]
    days: u64,
    /// Notes that are there most of the time.
    #[arg(long, default_value_t = 8_000)]
    notes: usize,
    /// What happens when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days in which the file finds its size; they are not judged.
    #[arg(long, default_value_t = 60)]
    settle: usize,
    /// Switches automatic vacuum off.
    #[arg(long)]
    no_vacuum: bool,
    /// Writes the worst of every week here.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draws it here.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let mut plan = Plan { gauge: counting::GAUGE, ..Plan::new(args.seed, args.days, args.notes) };
    if args.no_vacuum {
        plan.auto_vacuum = None;
    }
    let lived = plan.run(&mut |day| {
        if day.day % 100 == 99 {
            eprintln!("day {}: {} KiB, {:.0} s", day.day + 1, day.file_bytes >> 10, began.elapsed().as_secs_f64());
        }
    });
    let report = match lived {
        Ok(report) => report,
        Err(what) => {
            eprintln!("{what}\nagain: cargo decade -- --seed {} --days {}", args.seed, args.days);
            return ExitCode::FAILURE;
        }
    };
    let week = 7;
    for (path, text) in [(&args.csv, report.csv(week)), (&args.svg, svg(&report, week))] {
        if let Some(path) = path
            && let Err(error) = std::fs::write(path, text)
        {
            eprintln!("{} cannot be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    let opens: u64 = report.days.iter().map(|day| day.opens).sum();
    let cuts: u64 = report.days.iter().map(|day| day.power_cuts).sum();
    println!("{} days, {opens} openings, {cuts} power cuts, {:.0} s", args.days, began.elapsed().as_secs_f64());
    match report.judge(args.settle) {
        Ok(said) => {
            print!("{said}");
            ExitCode::SUCCESS
        }
        Err(said) => {
            eprint!("{said}");
            ExitCode::FAILURE
        }
    }
}
