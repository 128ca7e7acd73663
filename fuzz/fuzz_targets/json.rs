#![no_main]
//! Hostile text for `fuzz_json`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| blazedb_wire::json::fuzz_json(data));
