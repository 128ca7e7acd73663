//! Attacks on a whole relay, over TLS, by hand-made HTTP/2: each costs its own connection or stream and bounded memory,
//! and the member beside it notices nothing ([`World`] checks that at its end). And the other way round, in `server`.
//!
//! A binary of its own, because memory is counted for the whole process.

mod floods;
mod http2;
mod lures;
mod messages;
mod pool;
mod rig;
mod room;
mod server;
mod shares;
mod streams;

use rig::World;
