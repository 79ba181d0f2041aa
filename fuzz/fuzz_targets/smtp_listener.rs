//! Feeds random input to the SMTP listener, without sockets: `cargo +nightly fuzz run
//! smtp_listener`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| postrider::ingress::smtp::exercise(input));
