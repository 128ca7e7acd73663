//! The command line: the only place of the project that prints.
//!
//! Results go to stdout, everything else (progress, questions, errors) to stderr, so that output can be piped. An
//! error says what happened and what to do next. Exit codes are the constants of [`exit`]; every `--help` names them.
//!
//! Read [`args`] first: it lists the commands. Each command has a file of its own; `demo` plays all of them together.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what a command line is for")]

mod args;
mod backup;
mod demo;
mod dump;
mod export;
mod failure;
mod import;
mod inspect;
mod load;
mod open;
mod partial;
mod passphrase;
mod rekey;
mod restore;
mod salvage;
mod serve;
mod signals;
mod space;
mod sync;
mod target;
mod ui;
mod vacuum;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::failure::Failure;

/// How the program can end.
pub(crate) mod exit {
    /// Everything asked for was done.
    pub(crate) const DONE: u8 = 0;
    /// It was not; stderr says why.
    pub(crate) const FAILED: u8 = 1;
    // 2 is clap's: wrong usage.
    /// Done, except for the records listed on stderr.
    pub(crate) const PARTLY: u8 = 3;
    /// Stopped by Ctrl-C, the way shells number it.
    pub(crate) const INTERRUPTED: u8 = 130;
    /// Stopped by SIGTERM, in the same way.
    pub(crate) const TERMINATED: u8 = 143;
}

/// Runs the command on the process's arguments and returns how it went.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Serve(args) => serve::serve(args),
        Command::Token(args) => serve::token(&args),
        Command::Import(args) => import::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Sync(args) => sync::run(&args),
        Command::Stats(args) => inspect::stats(&args),
        Command::Verify(args) => inspect::verify(&args),
        Command::Vacuum(args) => vacuum::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Salvage(args) => salvage::run(&args),
        Command::Rekey(args) => rekey::run(&args),
        Command::Inbox(args) => inspect::inbox(&args),
        Command::Dump(args) => dump::run(&args),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

/// What a command returns: an exit code, or why there is none.
type Outcome = Result<u8, Failure>;

/// The canonical JSON of a document.
fn json_text(document: &blazedb::Document) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    blazedb_wire::json::write_document(document, &mut text)
        .map_err(|e| Failure::new(format!("a document has no JSON form: {e}"), "change that field first"))?;
    Ok(text)
}
