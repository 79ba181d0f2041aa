//! The SMTP submission door, through sockets: what a client says, what it is answered, and what
//! leaves the engine.
#![cfg(feature = "server")]

mod hostile;
mod lifetime;
mod mail;
mod secured;
