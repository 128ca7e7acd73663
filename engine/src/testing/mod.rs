//! What measures and fuzzes the engine from outside: single pages, and the checks of the fuzzer.
//!
//! Each `fuzz_*` takes any bytes and states its own post-condition: hostile bytes are a typed error, or they are what
//! the engine would have written itself. fuzz/ calls them, and so do the tests that replay its seeds. Nothing here is
//! for programs that use a store.

mod backup;
mod log;
mod operations;
mod page;
mod pages;
mod store;

pub use self::backup::{fuzz_backup, seed_backup};
pub use self::log::{fuzz_log, fuzz_log_opened, seed_log};
pub use self::operations::{fuzz_operations, seed_operations};
pub use self::page::{PageBench, fuzz_header, fuzz_page, seed_header, seed_page};
pub use self::pages::NamedPages;
pub use self::store::{fuzz_store, fuzz_store_opened, seed_store};

use crate::options::{Memory, Options};
use crate::store::Store;

/// So little memory that a few commits make a checkpoint due.
const SMALL: Memory = Memory { cache_bytes: 64 << 10, table_bytes: 24 << 10, log_bytes: 256 << 10 };

/// Does what the thread of a store does after a checkpoint, for stores that have none: whatever automatic vacuum is due.
pub fn idle(store: &Store) {
    while store.inner.auto_vacuum().is_some() {}
}

/// What the fuzzer opens: only without encryption do changed bytes get past the seals.
fn options() -> Options {
    Options::unencrypted().memory(SMALL)
}

/// One input in so many is opened as a store, which takes a hundred times as long as decoding it. Which ones depends on
/// the input alone, so that a finding is found again.
const OPENED: u32 = 64;

fn is_opened(input: &[u8]) -> bool {
    crc32fast::hash(input).is_multiple_of(OPENED)
}
