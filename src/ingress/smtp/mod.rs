//! The SMTP submission door (RFC 6409, RFC 5321): any program that can speak SMTP hands its mail in
//! here.
//!
//! [`SmtpDoor`] listens. Each connection is a `connection` that moves bytes and a `session` that
//! knows the protocol; the session does no I/O, so that tests and a fuzzer can drive it. What a
//! client sent becomes a mail in `intake`.
//!
//! *Invariants made here:* `250` to the end of a mail is said only after
//! [`Dispatcher::submit`](crate::Dispatcher::submit) returned; only CRLF ends a command and only
//! CRLF.CRLF ends a mail; what is buffered for all connections together is bounded; a password
//! never leaves the machine in the clear and never reaches a log.

mod auth;
mod body;
mod budget;
mod command;
mod connection;
mod door;
mod intake;
mod reply;
mod session;
mod settings;
mod stdio;
mod trace;

pub use super::tls::TlsFiles;
pub use door::{Reloader, SmtpDoor};
#[cfg(feature = "testing")]
pub use session::exercise;
pub use settings::{Limits, SmtpError, SmtpSettings, User};
pub use stdio::{StdioRefusal, StdioSubmission, converse};
