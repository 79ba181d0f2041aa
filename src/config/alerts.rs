//! `[[alerts]]`: digests of events that are sent by mail.

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::notify::{self, AtMost, Filter};

/// A digest of events, sent by mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alert {
    /// Names it, over restarts; its addresses when absent.
    pub name: Option<String>,
    /// Who is told.
    #[serde(deserialize_with = "units::one_or_many")]
    pub to: Vec<String>,
    /// From whom the mail is.
    pub from: Option<String>,
    /// What is told.
    pub events: Vec<String>,
    /// The tags of the mail that is told of; none: of all mail.
    pub tags: Vec<String>,
    /// How many mails there are at most.
    #[serde(deserialize_with = "units::at_most")]
    pub at_most: AtMost,
}

impl Default for Alert {
    fn default() -> Self {
        let usual = notify::Alert::new([""; 0]);
        Alert {
            name: None,
            to: Vec::new(),
            from: None,
            events: usual.filter.events,
            tags: Vec::new(),
            at_most: usual.at_most,
        }
    }
}

impl Alert {
    /// What the notices make of it.
    fn notice(&self) -> notify::Alert {
        let usual = notify::Alert::new(&self.to);
        notify::Alert {
            name: self.name.clone().unwrap_or(usual.name),
            from: self.from.clone(),
            filter: Filter {
                events: self.events.clone(),
                tags: self.tags.clone(),
            },
            at_most: self.at_most,
            to: usual.to,
        }
    }
}

/// What the notices make of them.
pub fn alerts(alerts: &[Alert]) -> Vec<notify::Alert> {
    alerts.iter().map(Alert::notice).collect()
}

pub(super) fn check(all: &[Alert], report: &mut MistakeReport<'_>) {
    let notices = alerts(all);
    for (n, alert) in notices.iter().enumerate() {
        let at = format!("alerts[{n}]");
        for (key, reason) in alert.mistakes() {
            // A name that was not given is that of the addresses, which are judged themselves.
            let key = if key == "name" && all[n].name.is_none() {
                "to"
            } else {
                key
            };
            report.add(format!("{at}.{key}"), reason);
        }
        if notices[..n]
            .iter()
            .any(|earlier| earlier.name == alert.name)
        {
            let name = alert.name.escape_debug();
            report.add(
                format!("{at}.name"),
                format!("`{name}` is the name of another; give each its own"),
            );
        }
    }
}
