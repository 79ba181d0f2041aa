//! The doors: how mail comes in from outside this process. A door sees only
//! [`Dispatcher`](crate::Dispatcher), what it reports, and [`mail`](crate::mail); it acknowledges
//! nothing before the dispatcher has.

pub mod http;
pub mod smtp;
