//! The HTTP door, as programs and people meet it: over the wire, on a port of its own.
#![cfg(feature = "server")]

mod access;
mod audit;
mod bounded;
mod bulk;
mod events;
mod every_route;
mod hostile_data;
mod inbox;
mod limits;
mod lists;
mod lookups;
mod operate;
mod preview;
mod quota;
mod records;
mod search;
mod series;
pub mod service;
mod status;
mod submit;
mod suppressions;
mod templates;
mod twice;
