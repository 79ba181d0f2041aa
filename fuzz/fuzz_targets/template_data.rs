//! Feeds random input to `content_checks::template_data`: `cargo +nightly fuzz run template_data --
//! -max_total_time=600`.
#![no_main]

#[path = "../content_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::template_data(input));
