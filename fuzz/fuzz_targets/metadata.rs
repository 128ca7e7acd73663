#![no_main]
//! Hostile bytes for `fuzz_metadata`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_wire::testing::fuzz_metadata(data));
