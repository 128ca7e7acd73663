//! The relay of BlazeDB: a log with opinions.
//!
//! Clients push batches of operations; the relay gives every operation a number, says what counts and what does not,
//! keeps the batch and passes it on. It never changes a byte of what it was given and builds no document to do so. The
//! normative text is spec/relay.md.
//!
//! ```text
//!   serve        TLS, HTTP/2, one stream per client           knows sockets, no spaces
//!   server       inputs in, effects out, on the real world    knows threads, no rules
//!   hub          who is where in which stream                 pure
//!   admit        what becomes of one batch at one head        pure
//!   log          conditional, durable append; reading         knows disks, no connections
//!   materialize  a database that follows the log              may be late, may be lost
//! ```
//!
//! Invariants: R1 sealed batch in = logged = out, the relay adds only its envelope; R2 numbers are gapless per space; R3 an
//! acknowledgement follows a sync, never precedes it; R4 no claim, no space; R5 memory per connection is bounded and a slow
//! subscriber harms only itself; R6 the hub never waits for the materialised copy.
//!
//! Read [`hub::Hub`] first, then [`log::RelayLog`]. The program around it is `blazedb serve`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod admit;
pub mod config;
pub mod hub;
mod limits;
pub mod log;
pub mod materialize;
pub mod secrets;
pub mod serve;
pub mod server;
pub mod token;
mod turns;
