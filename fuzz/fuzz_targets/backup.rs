#![no_main]
//! Hostile bytes for `fuzz_backup`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_engine::testing::fuzz_backup(data));
