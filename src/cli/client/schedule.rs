//! `postrider schedule`: lists the schedules, mail that is sent at the times of a cron expression.

use std::process::ExitCode;

use clap::Subcommand;
use serde::Deserialize;

use super::times::{local, relative};
use super::{Failure, ServiceArgs};
use crate::cli::screen::{ColumnFit, Screen, StyledText, TextStyle, plain, tinted};
use crate::mail::Timestamp;
use crate::notify::ScheduleStatus;

/// `postrider schedule`.
#[derive(Subcommand)]
pub enum ScheduleCommand {
    /// List the schedules, with the next and the last time of each
    List {
        #[command(flatten)]
        asking: ServiceArgs,
    },
}

#[derive(Deserialize)]
struct Schedules {
    schedules: Vec<ScheduleStatus>,
}

impl ScheduleCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let ScheduleCommand::List { asking } = self;
        let answer = asking
            .service
            .client()?
            .get(&["v1", "schedules"], &vec![])?;

        if asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let schedules = answer.decode::<Schedules>()?.schedules;
        if schedules.is_empty() {
            screen.line(&[tinted("no schedules", TextStyle::Faint)])?;
            return Ok(ExitCode::SUCCESS);
        }

        let now = Timestamp::now();
        let rows = schedules.iter().map(|one| row(one, now)).collect();
        let heads = ["SCHEDULE", "CRON", "TIME ZONE", "NEXT", "LAST", "MAIL"];
        screen.table(&heads, rows, ColumnFit::Wrap)?;

        for schedule in &schedules {
            if let Some(error) = &schedule.error {
                let text = format!("{} is not accepted: {error}", schedule.name);
                screen.line(&[tinted(text, TextStyle::Bad)])?;
            }
        }

        Ok(ExitCode::SUCCESS)
    }
}

fn row(schedule: &ScheduleStatus, now: Timestamp) -> Vec<StyledText> {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        plain(&schedule.name),
        plain(&schedule.cron),
        plain(&schedule.timezone),
        plain(or_none(schedule.next.map(local))),
        plain(or_none(schedule.last.map(|last| relative(last, now)))),
        plain(or_none(schedule.mail.map(|mail| mail.to_string()))),
    ]
}
