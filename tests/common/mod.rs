//! What the tests share: a scripted fake SMTP server, certificates to try it with, and servers nobody here wrote.
//!
//! Every test file says `mod common;` and takes what it needs, so much of it is unused in each.
#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

pub mod certificates;
pub mod fake_smtp;
pub mod real_servers;

pub use certificates::Cert;
pub use fake_smtp::{Act, FakeSmtp, Received, Rule, Step};
