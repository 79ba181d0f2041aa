//! What users do with mail that was accepted, and what they are told of it, through the engine's
//! public door.
#![allow(clippy::unwrap_used)]

mod cancel;
#[path = "../common/mod.rs"]
mod common;
mod dead_letters;
mod direct;
mod full;
mod guarantee;
#[cfg(feature = "server")]
mod logs;
mod metrics;
mod reload;
mod told;
