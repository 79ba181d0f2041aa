//! The doors, which is the crate's word for listeners: how mail comes in from outside this process.
//! A door uses only [`Dispatcher`](crate::Dispatcher), the dispatcher's reports, and
//! [`mail`](crate::mail); it acknowledges nothing before the dispatcher has.
//!
//! The rules for a door's settings are here, beside the door: the check of a configuration calls
//! them.

mod admission;
mod guard;
pub mod http;
mod limits;
mod log_throttle;
mod networks;
mod secrets;
pub mod smtp;
mod tls;

pub use networks::Networks;
pub use tls::TlsFiles;
