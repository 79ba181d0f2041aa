//! Feeds random input to `checks::freeze`: `cargo +nightly fuzz run freeze`.
#![no_main]

#[path = "../checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::freeze(input));
