//! Feeds random input to `content_checks::provider_events`: `cargo +nightly fuzz run
//! provider_events -- -max_total_time=600`.
#![no_main]

#[path = "../content_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::provider_events(input));
