//! The SMTP submission door, through sockets: what a client says, what it is answered, and what
//! leaves the engine.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used)]

#[path = "submission/hostile.rs"]
mod hostile;
#[path = "submission/lifetime.rs"]
mod lifetime;
#[path = "submission/mail.rs"]
mod mail;
#[path = "submission/secured.rs"]
mod secured;

#[path = "common/mod.rs"]
mod common;
