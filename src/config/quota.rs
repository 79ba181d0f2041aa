//! The quota of a token or an SMTP user. The keys are the same for both.

use std::time::Duration;

use super::mistake::MistakeReport;
use crate::policy::{Quota, Rate, SenderPattern};

/// A quota as it is in the file.
pub(super) struct QuotaSettings<'a> {
    pub max_pending: Option<u64>,
    pub rate: Option<Rate>,
    pub max_per_day: Option<u64>,
    pub from: Option<&'a [String]>,
    pub max_delay: Duration,
    pub max_lifetime: Duration,
}

impl QuotaSettings<'_> {
    /// The quota. Invalid patterns are left out; [`Self::check`] reports them.
    pub fn quota(self) -> Quota {
        let from = self
            .from
            .unwrap_or_default()
            .iter()
            .filter_map(|text| text.parse().ok());
        Quota {
            max_pending: self.max_pending,
            rate: self.rate,
            max_per_day: self.max_per_day,
            from: from.collect(),
            max_delay: self.max_delay,
            max_lifetime: self.max_lifetime,
        }
    }

    pub fn check(&self, at: &str, report: &mut MistakeReport<'_>) {
        for (key, bound) in [
            ("max_pending", self.max_pending),
            ("max_per_day", self.max_per_day),
        ] {
            if bound == Some(0) {
                report.add(
                    format!("{at}.{key}"),
                    "is 0, so that nothing could be submitted",
                );
            }
        }

        // The engine takes none for all, which nobody means who writes an empty list.
        if self.from.is_some_and(<[String]>::is_empty) {
            report.add(
                format!("{at}.from"),
                "is empty, so that nothing could be sent; name addresses and domains, or leave \
                 the key out, and all are allowed",
            );
        }

        for (n, text) in self.from.unwrap_or_default().iter().enumerate() {
            if let Err(error) = text.parse::<SenderPattern>() {
                report.add(format!("{at}.from[{n}]"), error);
            }
        }

        if self.max_lifetime.is_zero() {
            report.add(
                format!("{at}.max_lifetime"),
                "is zero, so that no mail would live",
            );
        }
    }
}
