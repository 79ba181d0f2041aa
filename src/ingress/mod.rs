//! The doors: how mail comes in from outside this process. A door sees only
//! [`Dispatcher`](crate::Dispatcher), what it reports, and [`mail`](crate::mail); it acknowledges
//! nothing before the dispatcher has.
//!
//! What a door's settings must be like stands here, beside the door, and nowhere else: whoever
//! checks a configuration asks the door.

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
