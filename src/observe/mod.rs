//! What is told about the work: events for programs, metrics for graphs, log lines for people. One
//! fact, one call here.

mod event;
mod log;
mod metrics;

pub(crate) use event::Events;
pub use event::{Event, EventItem, EventKind, EventStream};
pub(crate) use log::log;
pub use metrics::Metrics;
pub(crate) use metrics::{DeliveryResult, Gauges, RelayGauges};
