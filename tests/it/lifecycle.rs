//! What users do with mail that was accepted, and what they are told of it, through the engine's
//! public door.

mod acts;
mod bounded;
mod cancel;
mod dead_letters;
mod direct;
mod faults;
mod forgotten;
mod full;
mod guarantee;
mod journal;
#[cfg(feature = "server")]
mod logs;
mod looks;
mod metrics;
mod reload;
mod reporting;
mod series;
mod waiting;
