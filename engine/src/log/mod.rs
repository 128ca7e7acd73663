//! The redo log: groups of commits, each sealed once, written once, synced once.
//!
//! `group.rs` is the frame of a group, `redo.rs` its payload, `writer.rs` appends, `replay.rs` reads it all back
//! and decides where the log ends. A group's first byte is on a block boundary and an acknowledged block is never
//! written with other bytes. spec: E-7 to E-13

pub(crate) mod group;
pub(crate) mod redo;
pub(crate) mod replay;
pub(crate) mod writer;
