//! What comes back for mail that was sent: reports of many systems, and hostile ones.
#![cfg(feature = "server")]

mod corpus;
mod gone;
mod leaving;
mod postmark;
mod providers;
mod reports;
mod resend;
