//! Decodes any bytes as each kind of spool record: `cargo +nightly fuzz run spool_record`.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|record: &[u8]| checks::spool_record(record));
