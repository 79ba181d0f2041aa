//! Feeds random input to `checks::address`: `cargo +nightly fuzz run address`.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::address(input));
