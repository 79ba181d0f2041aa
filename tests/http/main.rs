//! The HTTP door, as programs and people meet it: over the wire, on a port of its own.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, missing_docs)]

mod access;
mod corpus;
mod events;
#[path = "../common/faulty_spool.rs"]
mod faulty_spool;
mod limits;
mod operate;
mod records;
mod search;
mod service;
mod submit;
