//! What is told about the work: metrics for graphs, log lines for people. One fact, one call here.

mod labels;
mod log;
mod metrics;

pub(crate) use log::log;
pub use metrics::Metrics;
pub(crate) use metrics::{DeliveryResult, Gauges, RelayGauges};
