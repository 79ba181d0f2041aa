//! Feeds random input to `content_checks::shown_html`: `cargo +nightly fuzz run shown_html --
//! -max_total_time=600`.
#![no_main]

#[path = "../content_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::shown_html(input));
