//! Feeds random input to `content_checks::suppression_file`: `cargo +nightly fuzz run
//! suppression_file -- -max_total_time=600`.
#![no_main]

#[path = "../content_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::suppression_file(input));
