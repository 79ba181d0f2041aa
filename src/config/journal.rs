//! `[journal]`: how long events are kept, and how many.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::mail::days;

/// How long events are kept, and how many bytes of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Journal {
    /// How long they are kept.
    #[serde(deserialize_with = "units::duration")]
    pub keep: Duration,
    /// The most bytes of them.
    #[serde(deserialize_with = "units::size")]
    pub max_size: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Journal {
            keep: days(7),
            max_size: ByteSize::gib(1),
        }
    }
}

impl Journal {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        if self.keep.is_zero() {
            report.add("journal.keep", "is zero, so that no event would be kept");
        }
        if self.max_size < ByteSize::mib(1) {
            report.add("journal.max_size", "must be at least 1MiB");
        }
    }
}
