//! The SMTP submission listener (RFC 6409, RFC 5321), for any program that speaks SMTP.
//!
//! [`SmtpDoor`] listens. Each connection consists of a `connection` that transfers bytes and a
//! `session` that knows the protocol; the session does no I/O, so that tests and a fuzzer can drive
//! it. `intake` turns a received message into a mail.
//!
//! *Invariants:* the end of a mail is answered with `250` only after
//! [`Dispatcher::submit`](crate::Dispatcher::submit) returned; only CRLF ends a command and only
//! CRLF.CRLF ends a mail; the buffers of all connections together are bounded; a password is never
//! accepted over an untrusted network without TLS, and never logged.

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
