#![no_main]
//! Any calls for `fuzz_operations`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_engine::testing::fuzz_operations(data));
