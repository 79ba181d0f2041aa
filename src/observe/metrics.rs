//! Counters and histograms for Prometheus, one registry a dispatcher.

/// The numbers that graphs are made from. Names and labels are part of the public contract.
pub struct Metrics {}
