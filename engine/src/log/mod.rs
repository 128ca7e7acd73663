//! The redo log: groups of commits, each sealed once, written once, synced once.
//!
//! ```text
//! header n-1 -> generation g-1 | group | group | ...        file (g-1) mod 3
//! header n   -> generation g   | group | group | ...        file  g    mod 3   commits until table g is frozen
//!               generation g+1 | group | tail               file (g+1) mod 3   commits since
//! ```
//!
//! A checkpoint freezes the table, the log goes on in the next generation, and when the header is written that names
//! the frozen table's pages, the generation before is needed by one header less. Two headers and the commits since
//! make three generations, so there are three files, each written over again and again. One chain of tags runs
//! through all generations: what a file holds of older ones is no successor of anything.
//!
//! Invariants: an acknowledged block is never written with other bytes while one of the two headers needs it; a
//! generation begins only when all before it is durable.
//!
//! `group.rs` is the frame of a group, `redo.rs` its payload, `writer.rs` appends, `replay.rs` reads it all back
//! and decides where the log ends, `search.rs` whether that is a torn tail. spec: E-7 to E-13, E-18 to E-21

pub(crate) mod group;
pub(crate) mod redo;
pub(crate) mod replay;
mod search;
#[cfg(test)]
mod tests;
pub(crate) mod writer;
