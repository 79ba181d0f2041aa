//! Schedules: a mail at times that a cron expression names, in a time zone. Each is submitted under
//! a key made of the schedule's name and of the time, so that however many nodes and restarts there
//! are it is sent once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use croner::Cron;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::dispatch::Dispatcher;
use crate::mail::{Mail, MailId, Timestamp};

/// The longest time that a clock leaves out and that cron's own search looks over, in seconds.
const LONGEST_GAP: i32 = 2 * 60 * 60;
/// How many jumps of a clock are looked through: a hundred years of summer time.
const MOST_JUMPS: usize = 200;
/// The longest name.
const LONGEST_NAME: usize = 64;

/// Makes the mail, with this idempotency key.
pub type Compose = Arc<dyn Fn(&Dispatcher, &str) -> Result<Mail, String> + Send + Sync>;

/// What is done about times that passed while nobody was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// One mail is sent for all of them.
    #[default]
    Once,
    /// None is sent.
    Skip,
}

/// A mail that is sent at times that a cron expression names.
#[derive(Clone)]
pub struct Schedule {
    /// Names it, over restarts and nodes.
    pub name: String,
    /// When: minute, hour, day of the month, month, day of the week, as cron has them; seconds may
    /// stand before them.
    pub cron: String,
    /// The time zone that is meant, such as `Europe/Berlin`.
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

/// A schedule, now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct ScheduleStatus {
    /// Its name.
    pub name: String,
    /// When, as it was written.
    pub cron: String,
    /// The time zone that is meant.
    pub timezone: String,
    /// What is done about times that were missed.
    pub missed: Missed,
    /// When the next mail is sent; absent where there is no such time.
    pub next: Option<Timestamp>,
    /// The last time that was due; absent before the first.
    pub last: Option<Timestamp>,
    /// The mail that was sent for it; absent where it was missed or sent by another node.
    #[cfg_attr(feature = "server", schema(value_type = Option<String>))]
    pub mail: Option<MailId>,
    /// Why its mail is not accepted yet, where it is not.
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
    /// The key that is wrong, and why.
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
            None => Err(("cron", "names no time that is to come".to_owned())),
        }
    }

    /// The first time after this one.
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

    /// The last time that is not after this one.
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

    /// Where a zone left out a whole day, as Samoa did the 30 December 2011, cron's own search
    /// gives up. What falls into that day comes when the clock jumps, as with an hour.
    fn long_jump(&self, jump: &jiff::tz::TimeZoneTransition<'_>) -> Option<jiff::Zoned> {
        let second = jiff::SignedDuration::from_secs(1);
        let before = self.zone.to_offset(jump.timestamp() - second);
        let leaves_out = jump.offset().seconds() - before.seconds();
        (leaves_out > LONGEST_GAP).then(|| jump.timestamp().to_zoned(self.zone.clone()))
    }

    /// In whole seconds: cron knows nothing finer.
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
    /// Why it cannot be used, by the key that says so.
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

    /// The key under which the mail of this time is submitted.
    pub(super) fn key(&self, due: Timestamp) -> String {
        format!("schedule:{}:{due}", self.name)
    }
}

#[cfg(test)]
mod tests;
