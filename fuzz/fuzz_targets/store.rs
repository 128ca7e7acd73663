#![no_main]
//! Hostile bytes for `fuzz_store`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_engine::testing::fuzz_store(data));
