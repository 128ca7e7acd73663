//! The program from the outside: start it, read what it prints, look at the files it leaves.
//!
//! Every test has a folder of its own and starts relays on free ports, so that all of them run at once.

#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod backup;
mod crash;
mod demo;
mod devices;
mod dump;
mod local;
mod refusals;
mod rekey;
mod support;
