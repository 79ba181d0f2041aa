//! Schedules: a mail at the times of a cron expression in a time zone. Each mail has an idempotency
//! key made of the schedule's name and the time, so that it is sent once, however many nodes and
//! restarts there are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use croner::Cron;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::dispatch::Dispatcher;
use crate::mail::{Mail, MailId, Timestamp};

/// The longest gap of a local clock, in seconds, that croner's own search can pass.
const LONGEST_GAP: i32 = 2 * 60 * 60;
/// The most clock changes that a search passes: a hundred years of summer time.
const MOST_JUMPS: usize = 200;
/// The longest name.
const LONGEST_NAME: usize = 64;

/// Makes the mail, with this idempotency key.
pub type Compose = Arc<dyn Fn(&Dispatcher, &str) -> Result<Mail, String> + Send + Sync>;

/// What is done about times that passed while no service was running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// One mail is sent for all of them.
    #[default]
    Once,
    /// No mail is sent.
    Skip,
}

/// A mail that is sent at the times of a cron expression.
#[derive(Clone)]
pub struct Schedule {
    /// Its name, which is the same on all nodes and after restarts.
    pub name: String,
    /// The times: minute, hour, day of the month, month, day of the week, as in cron; seconds may
    /// precede them.
    pub cron: String,
    /// The time zone of these times, such as `Europe/Berlin`.
    pub timezone: String,
    /// What is done about times that were missed.
    pub missed: Missed,
    /// Makes the mail.
    pub compose: Compose,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schedule")
            .field("name", &self.name)
            .field("cron", &self.cron)
            .field("timezone", &self.timezone)
            .field("missed", &self.missed)
            .finish_non_exhaustive()
    }
}

/// The status of a schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// The cron expression, as it was configured.
    pub cron: String,
    /// The time zone of its times.
    pub timezone: String,
    /// What is done about times that were missed.
    pub missed: Missed,
    /// When the next mail is sent; absent if there is no such time.
    pub next: Option<Timestamp>,
    /// The last time that was due; absent before the first.
    pub last: Option<Timestamp>,
    /// The mail that was sent for it; absent if it was missed, or sent by another node.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub mail: Option<MailId>,
    /// Why its mail is not accepted yet; absent if it is.
    pub error: Option<String>,
}

/// The times of a schedule.
#[derive(Clone, Debug)]
pub(super) struct Times {
    cron: Cron,
    zone: TimeZone,
}

impl Times {
    /// # Errors
    /// The key of the setting that is wrong, and why.
    pub(super) fn read(cron: &str, zone: &str) -> Result<Self, (&'static str, String)> {
        let cron = Cron::from_str(cron).map_err(|error| {
            let reason = format!(
                "`{}` is not a cron expression: {error}",
                cron.escape_debug()
            );
            ("cron", reason)
        })?;

        let zone = TimeZone::get(zone).map_err(|_| {
            let reason = format!(
                "`{}` is not a time zone such as Europe/Berlin",
                zone.escape_debug()
            );
            ("timezone", reason)
        })?;

        let times = Times { cron, zone };
        match times.after(Timestamp::now()) {
            Some(_) => Ok(times),
            None => Err(("cron", "names no future time".to_owned())),
        }
    }

    /// The first time of the schedule after `at`.
    pub(super) fn after(&self, at: Timestamp) -> Option<Timestamp> {
        let from = self.zoned(at)?;
        if let Ok(found) = self.cron.find_next_occurrence(&from, false) {
            return Some(stamp(&found));
        }
        let mut jumps = self.zone.following(from.timestamp()).take(MOST_JUMPS);
        let jump = jumps.find_map(|jump| self.long_jump(&jump))?;
        let goes_on = self.cron.find_next_occurrence(&jump, true).is_ok();
        goes_on.then(|| stamp(&jump))
    }

    /// The last time of the schedule that is not after `at`.
    pub(super) fn last(&self, at: Timestamp) -> Option<Timestamp> {
        let from = self.zoned(at)?;
        if let Ok(found) = self.cron.find_previous_occurrence(&from, true) {
            return Some(stamp(&found));
        }
        let from = from.timestamp() + jiff::SignedDuration::from_secs(1);
        let mut jumps = self.zone.preceding(from).take(MOST_JUMPS);
        let jump = jumps.find_map(|jump| self.long_jump(&jump))?;
        Some(stamp(&jump))
    }

    /// Where a zone skipped a whole day, as Samoa did on 30 December 2011, croner's own search
    /// gives up. Times on that day are moved to the moment of the jump, as they are for an hour.
    fn long_jump(&self, jump: &jiff::tz::TimeZoneTransition<'_>) -> Option<jiff::Zoned> {
        let second = jiff::SignedDuration::from_secs(1);
        let before = self.zone.to_offset(jump.timestamp() - second);
        let leaves_out = jump.offset().seconds() - before.seconds();
        (leaves_out > LONGEST_GAP).then(|| jump.timestamp().to_zoned(self.zone.clone()))
    }

    /// In whole seconds, the finest that a cron expression knows.
    fn zoned(&self, at: Timestamp) -> Option<jiff::Zoned> {
        let second = at.as_millis().div_euclid(1000);
        let at = jiff::Timestamp::from_second(second).ok()?;
        Some(at.to_zoned(self.zone.clone()))
    }
}

fn stamp(at: &jiff::Zoned) -> Timestamp {
    Timestamp::from_millis(at.timestamp().as_millisecond())
}

impl Schedule {
    /// Why it cannot be used: each mistake with the key of its setting.
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &self.name;
        if name.is_empty() || name.len() > LONGEST_NAME || !name.chars().all(is_name) {
            let reason = format!("must be 1 to {LONGEST_NAME} letters, digits, `-`, `_` and `.`");
            mistakes.push(("name", reason));
        }
        if let Err(mistake) = Times::read(&self.cron, &self.timezone) {
            mistakes.push(mistake);
        }
        mistakes
    }

    /// The idempotency key of the mail of this time.
    pub(super) fn key(&self, due: Timestamp) -> String {
        format!("schedule:{}:{due}", self.name)
    }
}

#[cfg(test)]
mod tests;
