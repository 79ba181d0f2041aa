//! Schedules: a mail at times that a cron expression names, in a time zone. Each is submitted under
//! a key made of the schedule's name and of the time, so that however many nodes and restarts there
//! are it is sent once.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use futures::FutureExt;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::Attended;
use super::attending::{Closing, attend};
use crate::dispatch::{Dispatcher, Error, JournalReader, Turn};
use crate::mail::{Mail, MailId, Timestamp, hours, seconds};

/// How often the reader's place is moved on, so that it does not hold the journal back.
const MOVE_ON_EVERY: Duration = hours(1);
/// How long a mail that was not accepted waits to be submitted again: at first, and at most.
const FIRST_REST: Duration = seconds(2);
const LONGEST_REST: Duration = seconds(60);
/// How late a mail may be and is still no missed one, such as after a machine slept.
const LATE: Duration = seconds(60);
/// The longest time that a clock leaves out and that cron's own search looks over, in seconds.
const LONGEST_GAP: i32 = 2 * 60 * 60;
/// How many jumps of a clock are looked through: a hundred years of summer time.
const JUMPS: usize = 200;
/// So many of the last times that were due are remembered, for a clock that is set back.
const REMEMBERED: usize = 64;
/// Where it is kept how far it is.
const PLACE: &[u8] = b"place";
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
        let mut jumps = self.zone.following(from.timestamp()).take(JUMPS);
        let jump = jumps.find_map(|jump| self.long_jump(&jump))?;
        let goes_on = self.cron.find_next_occurrence(&jump, true).is_ok();
        goes_on.then(|| stamp(&jump))
    }

    /// The last time that is not after this one.
    fn last(&self, at: Timestamp) -> Option<Timestamp> {
        let from = self.zoned(at)?;
        if let Ok(found) = self.cron.find_previous_occurrence(&from, true) {
            return Some(stamp(&found));
        }
        let from = from.timestamp() + jiff::SignedDuration::from_secs(1);
        let mut jumps = self.zone.preceding(from).take(JUMPS);
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
    fn key(&self, due: Timestamp) -> String {
        format!("schedule:{}:{due}", self.name)
    }
}

/// How far a schedule is, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ScheduleProgress {
    /// By which expression, in which zone: what another one has missed is not missed by this.
    by: String,
    /// Everything up to this time is done with.
    done: Timestamp,
    /// The last time that was due.
    last: Option<Timestamp>,
    /// Its mail.
    mail: Option<MailId>,
    /// The last times that were due: none of them is due again, though the clock comes to it again.
    #[serde(default)]
    handled: VecDeque<Timestamp>,
}

/// A schedule that is being attended to.
pub(super) struct Calendar {
    schedule: Schedule,
    times: Times,
    shown: Mutex<(Option<ScheduleProgress>, Option<String>)>,
    closing: watch::Sender<bool>,
}

impl Calendar {
    pub(super) fn new(schedule: Schedule) -> Result<Self, (&'static str, String)> {
        if let Some(mistake) = schedule.mistakes().into_iter().next() {
            return Err(mistake);
        }
        Ok(Calendar {
            times: Times::read(&schedule.cron, &schedule.timezone)?,
            schedule,
            shown: Mutex::default(),
            closing: watch::Sender::new(false),
        })
    }

    pub(super) fn status(&self, now: Timestamp) -> ScheduleStatus {
        let (place, error) = self.shown.lock().clone();
        let schedule = &self.schedule;
        ScheduleStatus {
            name: schedule.name.clone(),
            cron: schedule.cron.clone(),
            timezone: schedule.timezone.clone(),
            missed: schedule.missed,
            next: self.times.after(now),
            last: place.as_ref().and_then(|place| place.last),
            mail: place.as_ref().and_then(|place| place.mail),
            error,
        }
    }
}

impl Attended for Calendar {
    const READERS: &'static str = "schedule:";

    fn name(&self) -> &str {
        &self.schedule.name
    }

    fn closing(&self) -> &watch::Sender<bool> {
        &self.closing
    }

    fn attend(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send {
        run(postrider, this)
    }
}

/// Works until the calendar is closed or the spool is. On every node: the key makes it one mail.
async fn run(postrider: Dispatcher, calendar: Arc<Calendar>) {
    let name = calendar.reader();
    let closing = calendar.closing.subscribe();
    attend(
        Turn::always(),
        &name,
        closing,
        |_| {},
        |_, closing| {
            let (postrider, calendar, name) =
                (postrider.clone(), Arc::clone(&calendar), name.clone());
            async move {
                let mut work = Work::open(&postrider, &calendar, &name).await?;
                work.go_on(closing).await
            }
            .boxed()
        },
    )
    .await;
}

struct Work<'a> {
    postrider: &'a Dispatcher,
    calendar: &'a Calendar,
    reader: JournalReader,
    place: ScheduleProgress,
    /// What was due before was missed.
    since: Timestamp,
}

impl<'a> Work<'a> {
    async fn open(
        postrider: &'a Dispatcher,
        calendar: &'a Calendar,
        name: &str,
    ) -> Result<Self, Error> {
        let reader = postrider.journal().reader(name, None).await?;
        let to = [PLACE, &[0]].concat();
        let kept = reader.kept(PLACE.to_vec(), to, 1).await?;
        let kept = kept.first().map(|(_, bytes)| serde_json::from_slice(bytes));
        let kept: Option<ScheduleProgress> = kept.and_then(Result::ok);
        let now = postrider.clock().now();
        let schedule = &calendar.schedule;
        let by = format!("{} {}", schedule.cron, schedule.timezone);
        let is_known = kept.as_ref().is_some_and(|place| place.by == by);

        let place = kept
            .filter(|place| place.by == by)
            .unwrap_or(ScheduleProgress {
                by,
                done: now,
                last: None,
                mail: None,
                handled: VecDeque::new(),
            });

        let mut work = Work {
            postrider,
            calendar,
            reader,
            place,
            since: now,
        };

        if work.place.done > now {
            // A clock that was ahead, for a year perhaps, would else keep all mail until then.
            let (schedule, ahead) = (&schedule.name, work.place.done);
            tracing::warn!(schedule, %ahead, "the clock was ahead, and was set back since");
            work.place.done = now;
        }

        if !is_known {
            work.note().await?;
        }
        work.show(None);
        Ok(work)
    }

    async fn go_on(&mut self, closing: &mut Closing) -> Result<(), Error> {
        let clock = self.postrider.clock().clone();
        let mut rest = FIRST_REST;
        let mut moved_on = clock.now();
        while !*closing.borrow() {
            let now = clock.now();
            if now.since(moved_on) >= MOVE_ON_EVERY {
                moved_on = now;
                self.note().await?;
            }
            let times = &self.calendar.times;
            let next = times.after(self.place.done);
            if let Some(next) = next
                && next <= now
            {
                // Of several times that have passed the last one counts.
                let due = times.last(now).unwrap_or(next).max(next);
                match self.send(due, now).await {
                    Ok(()) => rest = FIRST_REST,
                    Err(error @ Error::Spool(_)) | Err(error @ Error::Stopped(_)) => {
                        self.show(Some(error.to_string()));
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!(schedule = self.calendar.schedule.name, %error,
                            "a mail of a schedule is not accepted; tried again");
                        self.show(Some(error.to_string()));
                        tokio::select! {
                            () = tokio::time::sleep(rest) => {}
                            _ = closing.changed() => {}
                        }
                        rest = (rest * 2).min(LONGEST_REST);
                    }
                }
                continue;
            }
            let until = next.unwrap_or(Timestamp::MAX).min(moved_on + MOVE_ON_EVERY);
            tokio::select! {
                () = clock.sleep_until(until) => {}
                _ = closing.changed() => {}
            }
        }

        Ok(())
    }

    /// Sends the mail of this time, or leaves it out where it was missed.
    async fn send(&mut self, due: Timestamp, now: Timestamp) -> Result<(), Error> {
        let schedule = &self.calendar.schedule;
        if self.place.handled.contains(&due) {
            self.place.done = due;
            return self.note().await;
        }

        let was_tried = self.calendar.shown.lock().1.is_some();
        let is_missed = due <= self.since || (now.since(due) > LATE && !was_tried);
        let mail = if is_missed && schedule.missed == Missed::Skip {
            tracing::warn!(
                schedule = schedule.name,
                %due,
                "a mail of a schedule was missed and is left out"
            );
            None
        } else {
            self.hand_in(due).await?
        };

        self.place.done = due;
        (self.place.last, self.place.mail) = (Some(due), mail);
        self.place.handled.push_back(due);
        if self.place.handled.len() > REMEMBERED {
            self.place.handled.pop_front();
        }
        self.note().await?;
        self.show(None);
        Ok(())
    }

    async fn hand_in(&self, due: Timestamp) -> Result<Option<MailId>, Error> {
        let schedule = &self.calendar.schedule;
        let key = schedule.key(due);
        let mail = (schedule.compose)(self.postrider, &key).map_err(|reason| {
            Error::Configuration(format!("the schedule {}: {reason}", schedule.name))
        })?;
        match self.postrider.submit(mail).await {
            Ok(receipt) => {
                tracing::info!(schedule = schedule.name, %due, mail.id = %receipt.id,
                    duplicate = receipt.duplicate, "a mail of a schedule is submitted");
                Ok(Some(receipt.id))
            }
            // Another node, or this one before it ended, has submitted what the schedule said then.
            Err(Error::KeyReused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes how far it is.
    async fn note(&mut self) -> Result<(), Error> {
        let last = self.postrider.journal().last()?.max(self.reader.done());
        let change = (PLACE.to_vec(), serde_json::to_vec(&self.place).ok());
        self.reader.advance_with(last, vec![change]).await
    }

    fn show(&self, error: Option<String>) {
        *self.calendar.shown.lock() = (Some(self.place.clone()), error);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn times(cron: &str, zone: &str) -> Times {
        Times::read(cron, zone).unwrap()
    }

    /// All times from one to another, forwards; backwards they must be the same.
    fn between(times: &Times, from: &str, to: &str) -> Vec<String> {
        let (from, to): (Timestamp, Timestamp) = (from.parse().unwrap(), to.parse().unwrap());
        let mut all = Vec::new();
        let mut at = from;
        while let Some(next) = times.after(at).filter(|next| *next <= to) {
            all.push(next);
            at = next;
        }

        let mut back = Vec::new();
        let mut at = times.last(to);
        while let Some(last) = at.filter(|last| *last > from) {
            back.push(last);
            at = times.last(Timestamp::from_millis(last.as_millis() - 1000));
        }

        back.reverse();
        assert_eq!(back, all, "backwards they are others");
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_hour_that_the_clock_leaves_out_is_not_left_out() {
        // On 2026-03-29 the clock in Berlin goes from 2:00 to 3:00, which is 01:00 UTC.
        let daily = times("30 2 * * *", "Europe/Berlin");
        let found = between(&daily, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(
            found,
            [
                "2026-03-28T01:30:00.000Z",
                "2026-03-29T01:00:00.000Z",
                "2026-03-30T00:30:00.000Z",
            ]
        );

        let mondays = times("0 8 * * MON", "Europe/Berlin");
        let found = between(&mondays, "2026-03-22T12:00:00Z", "2026-03-31T00:00:00Z");
        assert_eq!(
            found,
            ["2026-03-23T07:00:00.000Z", "2026-03-30T06:00:00.000Z"]
        );
    }

    #[test]
    fn an_hour_that_comes_twice_sends_once_what_is_for_one_time_of_day() {
        // On 2026-10-25 the clock in Berlin goes from 3:00 back to 2:00, which is 01:00 UTC.
        let daily = times("30 2 * * *", "Europe/Berlin");
        let found = between(&daily, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(
            found,
            ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]
        );
        // What comes every half an hour goes on doing so.
        let half_hourly = times("*/30 * * * *", "Europe/Berlin");
        let found = between(&half_hourly, "2026-10-24T23:59:00Z", "2026-10-25T02:00:00Z");
        assert_eq!(found.len(), 5, "{found:?}");
    }

    /// Where the clock jumps at another hour, by half an hour, and over a whole day. What falls
    /// into a time that there is not comes when the clock jumps; what there is twice comes once.
    #[test]
    fn every_zones_jumps_leave_nothing_out_and_double_nothing() {
        let table: [(&str, &str, &str, &str, &[&str]); 8] = [
            // 2:00 to 3:00 at 07:00 UTC; and 2:00 back to 1:00 at 06:00 UTC.
            (
                "30 2 * * *",
                "America/New_York",
                "2026-03-07T00:00:00Z",
                "2026-03-09T12:00:00Z",
                &["03-07T07:30", "03-08T07:00", "03-09T06:30"],
            ),
            (
                "30 1 * * *",
                "America/New_York",
                "2026-10-31T12:00:00Z",
                "2026-11-02T12:00:00Z",
                &["11-01T05:30", "11-02T06:30"],
            ),
            // 2:00 to 2:30 at 15:30 UTC; and 2:00 back to 1:30 at 15:00 UTC.
            (
                "15 2 * * *",
                "Australia/Lord_Howe",
                "2026-10-02T00:00:00Z",
                "2026-10-05T00:00:00Z",
                &["10-02T15:45", "10-03T15:30", "10-04T15:15"],
            ),
            (
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-04T00:00:00Z",
                "2026-04-06T00:00:00Z",
                &["04-04T14:45", "04-05T15:15"],
            ),
            (
                "*/15 * * * *",
                "Australia/Lord_Howe",
                "2026-04-04T14:25:00Z",
                "2026-04-04T15:35:00Z",
                &[
                    "04-04T14:30",
                    "04-04T14:45",
                    "04-04T15:00",
                    "04-04T15:15",
                    "04-04T15:30",
                ],
            ),
            // There was no 30 December 2011: the day ended at 10:00 UTC, and the 31st began.
            (
                "0 8 * * *",
                "Pacific/Apia",
                "2011-12-29T00:00:00Z",
                "2012-01-01T00:00:00Z",
                &["12-29T18:00", "12-30T10:00", "12-30T18:00", "12-31T18:00"],
            ),
            (
                "0 8 30 12 *",
                "Pacific/Apia",
                "2010-12-29T00:00:00Z",
                "2012-12-31T00:00:00Z",
                &["12-30T18:00", "12-30T10:00", "12-29T18:00"],
            ),
            (
                "0 * * * *",
                "Pacific/Apia",
                "2011-12-30T07:30:00Z",
                "2011-12-30T12:30:00Z",
                &[
                    "12-30T08:00",
                    "12-30T09:00",
                    "12-30T10:00",
                    "12-30T11:00",
                    "12-30T12:00",
                ],
            ),
        ];
        for (cron, zone, from, to, wanted) in table {
            let found = between(&times(cron, zone), from, to);
            let found: Vec<&str> = found.iter().map(|at| &at[5..16]).collect();
            assert_eq!(found, wanted, "{cron} {zone}");
        }
    }

    #[test]
    fn steps_names_ends_of_months_and_seconds_mean_what_cron_means() {
        for (cron, from, next) in [
            ("*/7 * * * *", "2026-01-01T00:56:00", "2026-01-01T01:00:00"),
            ("*/7 * * * *", "2026-01-01T00:49:00", "2026-01-01T00:56:00"),
            ("0 0 L * *", "2026-02-01T00:00:00", "2026-02-28T00:00:00"),
            ("0 0 L * *", "2028-02-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 0 31 * *", "2026-01-31T00:00:00", "2026-03-31T00:00:00"),
            ("0 0 29 2 *", "2026-03-01T00:00:00", "2028-02-29T00:00:00"),
            ("0 8 * * 7", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
            ("0 8 * * 0", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
            ("0 8 * * sun", "2026-01-01T00:00:00", "2026-01-04T08:00:00"),
            (
                "0 8 1 JAN,JUL *",
                "2026-01-02T00:00:00",
                "2026-07-01T08:00:00",
            ),
            (
                "0 8 * * MON-FRI",
                "2026-01-02T09:00:00",
                "2026-01-05T08:00:00",
            ),
            (
                "0 8 * * FRI#2",
                "2026-01-01T00:00:00",
                "2026-01-09T08:00:00",
            ),
            ("0 8 * * FRIL", "2026-01-01T00:00:00", "2026-01-30T08:00:00"),
            // Where both days are told, either will do.
            ("0 8 13 * FRI", "2026-01-10T00:00:00", "2026-01-13T08:00:00"),
            ("0 8 13 * FRI", "2026-01-13T09:00:00", "2026-01-16T08:00:00"),
            (
                "*/20 * * * * *",
                "2026-01-01T00:00:41",
                "2026-01-01T00:01:00",
            ),
            ("@weekly", "2026-01-01T00:00:00", "2026-01-04T00:00:00"),
        ] {
            let from: Timestamp = format!("{from}Z").parse().unwrap();
            let found = times(cron, "UTC").after(from).unwrap().to_string();
            assert_eq!(&found[..19], next, "{cron}");
        }
    }

    #[test]
    fn what_names_no_time_is_refused() {
        for (cron, zone, key) in [
            ("", "UTC", "cron"),
            ("61 * * * *", "UTC", "cron"),
            ("* * * *", "UTC", "cron"),
            ("0 8 30 2 *", "UTC", "cron"),
            ("0 0 31 2 *", "UTC", "cron"),
            ("0 0 31 4,6,9,11 *", "UTC", "cron"),
            ("0 0 * * * * * *", "UTC", "cron"),
            ("@reboot", "UTC", "cron"),
            ("0 8 * * *", "Berlin", "timezone"),
            ("0 8 * * *", "", "timezone"),
        ] {
            assert_eq!(Times::read(cron, zone).unwrap_err().0, key, "{cron} {zone}");
        }

        assert!(
            Times::read("*/5 * * * * *", "America/New_York").is_ok(),
            "with seconds"
        );

        assert!(Times::read("@daily", "UTC").is_ok());
    }
}
