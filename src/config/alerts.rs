//! `[[alerts]]`: events that are reported by mail, several in one digest.

use serde::Deserialize;

use super::mistake::MistakeReport;
use super::units;
use crate::notify::{self, AtMost, Filter};

/// An alert: events that are reported by mail.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alert {
    /// Its name; its position in the journal is kept under it. The recipients when absent.
    pub name: Option<String>,
    /// The recipients.
    #[serde(deserialize_with = "units::one_or_many")]
    pub to: Vec<String>,
    /// The sender; see [`notify::Alert::from`] when absent.
    pub from: Option<String>,
    /// The events to report.
    pub events: Vec<String>,
    /// Only events of mail that has one of these tags; if empty, of all mail.
    pub tags: Vec<String>,
    /// The most mails per time.
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
    /// The alert that [`Notices`](notify::Notices) runs.
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

/// The alerts that [`Notices`](notify::Notices) runs.
pub fn alerts(alerts: &[Alert]) -> Vec<notify::Alert> {
    alerts.iter().map(Alert::notice).collect()
}

pub(super) fn check(all: &[Alert], report: &mut MistakeReport<'_>) {
    let notices = alerts(all);
    for (n, alert) in notices.iter().enumerate() {
        let at = format!("alerts[{n}]");
        for (key, reason) in alert.mistakes() {
            // A name that was not given is made of the recipients, and a mistake in these is
            // reported there.
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
