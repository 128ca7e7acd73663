//! BlazeDB beside other embedded stores: one program, one machine, one run.
//!
//! `cargo run --release -- --help` in this folder says how it is called. The program starts itself once for every subject and set of
//! workloads ([`child`]), so that each one has a fresh process and a fresh folder; it goes over all subjects in every
//! round, forward and backward in turns, and prints medians with the least and the most ([`report`]). Stores are behind
//! one trait ([`subjects`]), what is done to them is written once ([`workloads`]).

#![deny(unsafe_code)]

mod child;
mod documents;
mod floor;
mod machine;
mod measure;
mod report;
mod subjects;
mod workloads;

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use report::Report;
use subjects::Failure;
use workloads::{Part, Task};

const EXAMPLES: &str = "\
Examples:
  cargo run --release -- --out ../record/DATE-compare.md     everything, a million rows, three rounds
  cargo run --release --features rocksdb -- speed threads    with RocksDB, two of the sets
  cargo run --release -- memory                              peak memory only
  cargo run --release -- --rows 50000 --rounds 1             that it runs, in a minute or two
  cargo run --release -- speed --only blazedb,blazedb-plain,lmdb --dir /mnt/disk";

/// Measures BlazeDB's engine and other embedded stores in one run: the same rows, the same durability, the same cache.
#[derive(Parser)]
#[command(name = "blazedb-compare", after_help = EXAMPLES, max_term_width = 110)]
pub(crate) struct Arguments {
    /// What to measure; everything if nothing is named
    #[arg(value_enum)]
    sets: Vec<Set>,
    /// Rows of the database: keys of 24 bytes, values of 150. The number of operations grows and shrinks with it
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..))]
    rows: u32,
    /// How often everything is measured; cells show the median, the least and the most
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Subjects to measure, by name; all if none is given (a name that is none lists them)
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    only: Vec<String>,
    /// Cache of every store
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    cache_mib: u32,
    /// How long each number of threads commits
    #[arg(long, default_value_t = 4, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Where the files go; this says which disk is measured. A folder inside it is made and removed [default: beside
    /// this program]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Write the report to this file, too
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Set {
    /// Loads, commits, batches, gets, ranges; with the floor of the disk
    Speed,
    /// Durable commits by 1, 8 and 32 threads
    Threads,
    /// What encryption costs, both kinds in turns in one process; BlazeDB only
    Encryption,
    /// Peak anonymous memory with a cache of 128 MiB
    Memory,
    /// Opening after SIGKILL, about 1 GB
    Recovery,
    /// Length of the files after a load, after overwriting, and after deleting most; a fifth of the rows
    Space,
    /// Memory of an idle database and of a scan in the preset for clients; BlazeDB only
    Client,
    /// `Collection` beside SQLite with a JSON column
    Documents,
    /// p99 of durable commits beside a vacuum and beside a backup, in turns with none, preset `client`; BlazeDB only
    Upkeep,
}

impl Set {
    fn part(self) -> Part {
        match self {
            Self::Speed => Part::Speed,
            Self::Threads => Part::Threads,
            Self::Encryption => Part::Encryption,
            Self::Memory => Part::Memory,
            Self::Recovery => Part::Recovery,
            Self::Space => Part::Space,
            Self::Client => Part::Client,
            Self::Documents => Part::Documents,
            Self::Upkeep => Part::Upkeep,
        }
    }

    /// Who takes part, by name.
    fn subjects(self) -> Vec<&'static str> {
        match self {
            Self::Encryption => vec![subjects::ENCRYPTED],
            Self::Client | Self::Upkeep => subjects::CLIENT_SUBJECTS.to_vec(),
            Self::Documents => documents::SUBJECTS.iter().map(|(id, _)| *id).collect(),
            _ => subjects::all().iter().map(|spec| spec.id).collect(),
        }
    }
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    if let (Some(child::CHILD), Some(task)) = (args.next().as_deref(), args.next()) {
        return child::work(&task);
    }
    let mut arguments = Arguments::parse();
    if arguments.sets.is_empty() {
        arguments.sets = Set::value_variants().to_vec();
    }
    let known: BTreeSet<_> = Set::value_variants().iter().flat_map(|set| set.subjects()).collect();
    if let Some(name) = arguments.only.iter().find(|name| !known.contains(name.as_str())) {
        let known = known.into_iter().collect::<Vec<_>>().join(", ");
        return Err(format!("no subject is called {name}; there are {known}").into());
    }
    let dir = match &arguments.dir {
        Some(dir) => dir.clone(),
        None => std::env::current_exe()?.parent().ok_or("this program lies nowhere")?.to_owned(),
    };

    let mut report = Report::new(&dir);
    for round in 0..arguments.rounds {
        for set in &arguments.sets {
            let mut subjects = set.subjects();
            subjects.retain(|id| arguments.only.is_empty() || arguments.only.iter().any(|only| only == id));
            if round % 2 == 1 {
                subjects.reverse();
            }
            for subject in subjects {
                eprintln!("round {} of {}: {}, {subject}", round + 1, arguments.rounds, set.part().name());
                let folder = tempfile::Builder::new().prefix("blazedb-compare-").tempdir_in(&dir)?;
                let task = Task {
                    part: set.part(),
                    subject: subject.to_owned(),
                    folder: folder.path().to_owned(),
                    rows: arguments.rows as usize,
                    cache_bytes: (arguments.cache_mib as usize) << 20,
                    seconds: arguments.seconds,
                };
                report.add(*set, subject, child::run(&task)?);
            }
        }
    }
    let text = report.to_markdown(&arguments);
    println!("{text}");
    if let Some(path) = &arguments.out {
        std::fs::write(path, text)?;
    }
    Ok(())
}
