//! What is told to the outside: webhooks.

#[cfg(all(feature = "server", target_os = "linux"))]
mod service;
mod webhooks;
