//! Feeds random input to `content_checks::signed`: `cargo +nightly fuzz run signed --
//! -max_total_time=600`.
#![no_main]

#[path = "../content_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::signed(input));
