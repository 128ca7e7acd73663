//! The hub against spec/relay.md, without a world (see [`rig`]), and the log on simulated disks.

mod admission;
mod ends;
mod failures;
mod interleavings;
mod purity;
mod rig;
mod shares;
mod store_log;
mod streams;
