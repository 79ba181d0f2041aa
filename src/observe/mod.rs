//! Metrics for graphs and log lines for people. One fact, one call here.

mod labels;
mod log;
mod metrics;

pub(crate) use log::log;
pub use metrics::Metrics;
pub(crate) use metrics::{DeliveryResult, Gauges, RelayGauges};
