//! The hub against spec/relay.md, without a world: see [`rig`].

mod admission;
mod failures;
mod interleavings;
mod rig;
mod streams;
