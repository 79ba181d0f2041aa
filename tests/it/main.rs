//! The ordinary suites, in one binary: it is linked once. Apart from it stand what kills processes
//! or records their writes (`crash`, `service_crash`, `power_cut`), what runs for long (`soak`),
//! the programs that others wrote (`clients`), and what reads the sources alone (`layers`).
//!
//! One suite: `cargo nextest run --all-features --test it policy::`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod actors;
mod check;
mod command_line;
mod composition;
mod configuration;
mod contrib;
mod corpus;
mod damage;
mod demo;
mod dkim;
mod engine;
mod fake_smtp;
mod feedback;
mod growth;
mod hostile_relay;
mod http;
mod lifecycle;
#[cfg(feature = "notify")]
mod notify;
mod policy;
mod privacy;
mod providers;
mod run;
mod spool;
mod spool_model;
mod submission;
mod transport;
mod trouble;
