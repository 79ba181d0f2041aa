//! Programs that others wrote, on both sides of Postrider: mail clients at its doors, a whole
//! Postfix as its relay, what plays a provider or signs its tokens, schemathesis at its API, a
//! browser on its page.
#![cfg(feature = "server")]
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod http_schemathesis;
#[cfg(target_os = "linux")]
mod page;
#[cfg(target_os = "linux")]
mod readme;
mod real_clients;
#[cfg(target_os = "linux")]
mod real_dkim;
mod real_oauth2;
mod real_providers;
#[cfg(target_os = "linux")]
mod real_relay;
#[cfg(target_os = "linux")]
mod real_sendmail;
mod standard_webhooks;
