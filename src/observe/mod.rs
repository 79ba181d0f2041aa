//! Metrics for graphs and log lines for people. `dispatch` and `notify` call it, once for each
//! fact.

mod labels;
mod log;
mod metrics;

pub(crate) use log::log;
pub use metrics::Metrics;
pub(crate) use metrics::{DeliveryResult, Gauges, RelayGauges};
