#![no_main]
//! Hostile bytes for `fuzz_compressed`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_wire::testing::fuzz_compressed(data));
