//! What is told to the outside, and what is sent by the clock: webhooks, alerts, schedules.

mod alerts;
mod schedules;
#[cfg(all(feature = "server", target_os = "linux"))]
mod service;
mod webhooks;
