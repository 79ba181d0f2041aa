//! Feeds random input to `http_checks::json_mail`: `cargo +nightly fuzz run json_mail`.
#![no_main]

#[path = "../http_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::json_mail(input));
