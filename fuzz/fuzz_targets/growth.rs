//! Makes a large input of each small one and looks at the time that it costs: `cargo +nightly fuzz
//! run growth`.
#![no_main]

#[path = "../growth_checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|input: &[u8]| checks::growth(input));
