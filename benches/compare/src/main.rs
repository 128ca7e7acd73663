//! Durable inserts in one run on one machine: `Store` beside redb, `Collection` beside SQLite with a JSON column, with
//! encryption and without, above the floor that the disk itself sets.
//!
//! Every insert here is durable when it is counted: redb commits with `Durability::Immediate`, SQLite runs in WAL mode
//! with `synchronous=FULL`. Rounds are interleaved, so that a machine that slows down slows everybody down; a cell is
//! the median of the rounds and, in brackets, the least and the most.
//!
//! ```text
//! cargo run --release -- [--rounds N] [--scale PERCENT] [--dir DIR] [--out FILE.md]
//! ```
//!
//! `--dir` says which file system is measured; a folder inside it is made and removed. Read [`measure`] first.

#![forbid(unsafe_code)]

mod floor;
mod measure;
mod report;
mod subjects;

use std::error::Error;
use std::path::PathBuf;

use measure::Load;

/// What the command line says.
struct Settings {
    rounds: usize,
    /// Of the full number of inserts; small values only show that everything runs.
    scale_percent: usize,
    dir: PathBuf,
    out: Option<PathBuf>,
}

fn settings() -> Result<Settings, Box<dyn Error>> {
    let mut settings = Settings { rounds: 3, scale_percent: 100, dir: std::env::temp_dir(), out: None };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} wants a value; see the top of main.rs"))?;
        match name.as_str() {
            "--rounds" => settings.rounds = value.parse::<usize>()?.max(1),
            "--scale" => settings.scale_percent = value.parse::<usize>()?.max(1),
            "--dir" => settings.dir = value.into(),
            "--out" => settings.out = Some(value.into()),
            _ => {
                return Err(format!("{name} is unknown; --rounds, --scale, --dir and --out are known").into());
            }
        }
    }
    Ok(settings)
}

fn main() -> Result<(), Box<dyn Error>> {
    let settings = settings()?;
    let load = Load::scaled(settings.scale_percent);
    let mut report = report::Report::new(&settings);
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        let folder = || tempfile::tempdir_in(&settings.dir);
        report.floor(floor::overwrite(folder()?.path(), &load)?);
        for subject in subjects::stores() {
            eprintln!("  {}", subject.name);
            report.store(subject.name, measure::run(&subject, folder()?.path(), &load)?);
        }
        for subject in subjects::documents() {
            eprintln!("  {}", subject.name);
            report.document(subject.name, measure::run(&subject, folder()?.path(), &load)?);
        }
    }
    let text = report.to_markdown(&load);
    println!("{text}");
    if let Some(path) = settings.out {
        std::fs::write(path, text)?;
    }
    Ok(())
}
