//! The harness: simulated worlds in which the real code must keep its promises.
//!
//! A [`World`] is a few devices and a relay in one thread: the real database on a simulated disk, the real session, the
//! real hub and log, and links that the world breaks. Everything follows from one seed: the same seed gives the same
//! trace, and a failure prints the one command that repeats it.
//!
//! Planted bugs ([`Bug`]) prove that the checks can fail.
//!
//! [`torture`] is about one store alone: every fault that a disk can have, at every place where it can have it.
//! So are [`isolation`] (what threads see), [`model`] (a map of versions), [`kills`] (real processes that die) and
//! [`nonces`] (what is sealed, across crashes and copies): `cargo prove` runs them at length. [`decade`] lives with a store for
//! ten years.

#![forbid(unsafe_code)]

mod bugs;
mod check;
pub mod decade;
mod device;
mod disk;
pub mod isolation;
pub mod kills;
mod link;
pub mod model;
pub mod nonces;
mod relay;
mod rng;
pub mod torture;
mod world;

pub use bugs::Bug;
pub use rng::Rng;
pub use world::{Config, Report, World};
