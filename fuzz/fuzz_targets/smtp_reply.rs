//! Lets a relay say anything, over loopback: `cargo +nightly fuzz run smtp_reply`.
#![no_main]

#[path = "../relay_checks.rs"]
mod checks;

use std::sync::LazyLock;

use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

static RELAY: LazyLock<(Runtime, TcpListener)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    (runtime, listener)
});

libfuzzer_sys::fuzz_target!(|said: &[u8]| {
    let (runtime, listener) = &*RELAY;
    runtime.block_on(checks::smtp_reply(listener, said));
});
