//! `[[schedules]]`: mail that is sent at the times of a cron expression.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::mistake::MistakeReport;
use crate::content;
use crate::dispatch::Dispatcher;
use crate::ingress::http::read_scheduled;
use crate::notify::{self, Compose, Missed};

/// Mail that is sent at the times of a cron expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Schedule {
    /// Its name, which is the same on all nodes and after restarts.
    pub name: String,
    /// The cron expression.
    pub cron: String,
    /// The time zone of the cron expression; UTC when absent.
    pub timezone: Option<String>,
    /// What is done about times that passed while the service was down.
    pub missed: Missed,
    /// The mail, as `POST /v1/mails` takes it.
    pub mail: Map<String, Value>,
}

impl Schedule {
    /// The schedule that [`Notices`](notify::Notices) runs.
    fn notice(&self) -> notify::Schedule {
        let mail = self.mail.clone();
        let compose: Compose = Arc::new(move |postrider: &Dispatcher, key: &str| {
            read_scheduled(&mail, key, postrider.templates()).map_err(|(_, reason)| reason)
        });
        notify::Schedule {
            name: self.name.clone(),
            cron: self.cron.clone(),
            timezone: self.timezone.clone().unwrap_or_else(|| "UTC".to_owned()),
            missed: self.missed,
            compose,
        }
    }
}

/// The schedules that [`Notices`](notify::Notices) runs.
pub fn schedules(schedules: &[Schedule]) -> Vec<notify::Schedule> {
    schedules.iter().map(Schedule::notice).collect()
}

pub(super) fn check(
    schedules: &[Schedule],
    templates: Option<&content::Templates>,
    report: &mut MistakeReport<'_>,
) {
    for (n, schedule) in schedules.iter().enumerate() {
        let at = format!("schedules[{n}]");
        for (key, reason) in schedule.notice().mistakes() {
            report.add(format!("{at}.{key}"), reason);
        }
        let is_earlier = |earlier: &Schedule| earlier.name == schedule.name;
        if schedules[..n].iter().any(is_earlier) {
            let name = schedule.name.escape_debug();
            let reason = format!("`{name}` is the name of another; give each its own");
            report.add(format!("{at}.name"), reason);
        }
        let mail = &schedule.mail;
        if mail.contains_key("idempotency_key") {
            let reason = "is made of the schedule's name and the time; leave it out";
            report.add(format!("{at}.mail.idempotency_key"), reason);
        } else if mail.contains_key("send_at") {
            let reason = "is one time, and the schedule has many; leave it out";
            report.add(format!("{at}.mail.send_at"), reason);
        } else if mail.is_empty() {
            report.add(format!("{at}.mail"), "is missing");
        } else if let Some(templates) = templates
            && let Err((field, reason)) = read_scheduled(mail, "check", templates)
        {
            report.add(format!("{at}.mail{field}"), reason);
        }
    }
}
