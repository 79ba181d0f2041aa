//! The task of one schedule: it waits for the next time, submits the mail, and stores that this
//! time was handled.
//!
//! *Invariant:* a mail is submitted with the idempotency key of its time before that time is stored
//! as handled. A crash in between submits the same mail again, which changes nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::NamedTask;
use super::schedule::{Missed, Schedule, ScheduleStatus, Times};
use super::task::{Closing, run_turns};
use crate::dispatch::{Dispatcher, Error, JournalReader, Turn};
use crate::mail::{MailId, Timestamp, hours, seconds};

/// How often the reader's position is moved forward, so that the journal need not keep events for
/// it.
const MOVE_ON_INTERVAL: Duration = hours(1);
/// How long a mail that was not accepted waits to be submitted again: at first, and at most.
const FIRST_REST: Duration = seconds(2);
const LONGEST_REST: Duration = seconds(60);
/// How late a mail may be without counting as missed, for example after the machine was suspended.
const LATENESS_ALLOWED: Duration = seconds(60);
/// How many of the last due times are remembered, in case the clock is set back.
const REMEMBERED_TIMES: usize = 64;
/// The key of the reader's record with the progress.
const PROGRESS_KEY: &[u8] = b"place";

/// A schedule's progress, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ScheduleProgress {
    /// The expression and the zone that it is about: after a change of either, nothing counts as
    /// missed.
    by: String,
    /// All times up to this one are handled.
    done: Timestamp,
    /// The last time that was due.
    last: Option<Timestamp>,
    /// Its mail.
    mail: Option<MailId>,
    /// The last times that were due. None of them is due again, even if the clock reaches it again.
    #[serde(default)]
    handled: VecDeque<Timestamp>,
}

/// The task of a schedule.
pub(super) struct ScheduleTask {
    schedule: Schedule,
    times: Times,
    shown: Mutex<(Option<ScheduleProgress>, Option<String>)>,
    closing: watch::Sender<bool>,
}

impl ScheduleTask {
    pub(super) fn new(schedule: Schedule) -> Result<Self, (&'static str, String)> {
        if let Some(mistake) = schedule.mistakes().into_iter().next() {
            return Err(mistake);
        }
        Ok(ScheduleTask {
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

impl NamedTask for ScheduleTask {
    const READERS: &'static str = "schedule:";

    fn name(&self) -> &str {
        &self.schedule.name
    }

    fn closing(&self) -> &watch::Sender<bool> {
        &self.closing
    }

    fn run(postrider: Dispatcher, this: Arc<Self>) -> impl Future<Output = ()> + Send {
        run(postrider, this)
    }
}

/// Runs until it is to end, or the spool is closed; on every node, since the idempotency key makes
/// it one mail.
async fn run(postrider: Dispatcher, task: Arc<ScheduleTask>) {
    let name = task.reader();
    let closing = task.closing.subscribe();

    run_turns(
        Turn::always(),
        &name,
        closing,
        |_| {},
        |_, closing| {
            let (postrider, task, name) = (postrider.clone(), Arc::clone(&task), name.clone());
            async move {
                let mut work = ScheduleRun::open(&postrider, &task, &name).await?;
                work.go_on(closing).await
            }
            .boxed()
        },
    )
    .await;
}

struct ScheduleRun<'a> {
    postrider: &'a Dispatcher,
    task: &'a ScheduleTask,
    reader: JournalReader,
    place: ScheduleProgress,
    /// Times before this one were missed.
    since: Timestamp,
}

impl<'a> ScheduleRun<'a> {
    async fn open(
        postrider: &'a Dispatcher,
        task: &'a ScheduleTask,
        name: &str,
    ) -> Result<Self, Error> {
        let reader = postrider.journal().reader(name, None).await?;
        let to = [PROGRESS_KEY, &[0]].concat();
        let kept = reader.kept(PROGRESS_KEY.to_vec(), to, 1).await?;
        let kept = kept.first().map(|(_, bytes)| serde_json::from_slice(bytes));
        let kept: Option<ScheduleProgress> = kept.and_then(Result::ok);
        let now = postrider.clock().now();
        let schedule = &task.schedule;
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

        let mut work = ScheduleRun {
            postrider,
            task,
            reader,
            place,
            since: now,
        };

        if work.place.done > now {
            // Otherwise a clock that was once a year ahead would hold back all mail for that year.
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
            if now.since(moved_on) >= MOVE_ON_INTERVAL {
                moved_on = now;
                self.note().await?;
            }
            let times = &self.task.times;
            let next = times.after(self.place.done);
            if let Some(next) = next
                && next <= now
            {
                // If several times have passed, the last one counts.
                let due = times.last(now).unwrap_or(next).max(next);
                match self.send(due, now).await {
                    Ok(()) => rest = FIRST_REST,
                    Err(error @ Error::Spool(_)) | Err(error @ Error::Stopped(_)) => {
                        self.show(Some(error.to_string()));
                        return Err(error);
                    }
                    Err(error) => {
                        tracing::error!(schedule = self.task.schedule.name, %error,
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
            let until = next
                .unwrap_or(Timestamp::MAX)
                .min(moved_on + MOVE_ON_INTERVAL);
            tokio::select! {
                () = clock.sleep_until(until) => {}
                _ = closing.changed() => {}
            }
        }

        Ok(())
    }

    /// Submits the mail of this time, or skips it if the time was missed and is to be skipped.
    async fn send(&mut self, due: Timestamp, now: Timestamp) -> Result<(), Error> {
        let schedule = &self.task.schedule;
        if self.place.handled.contains(&due) {
            self.place.done = due;
            return self.note().await;
        }

        let was_tried = self.task.shown.lock().1.is_some();
        let is_missed = due <= self.since || (now.since(due) > LATENESS_ALLOWED && !was_tried);
        let mail = if is_missed && schedule.missed == Missed::Skip {
            tracing::warn!(
                schedule = schedule.name,
                %due,
                "a mail of a schedule was missed and is left out"
            );
            None
        } else {
            self.submit(due).await?
        };

        self.place.done = due;
        (self.place.last, self.place.mail) = (Some(due), mail);
        self.place.handled.push_back(due);
        if self.place.handled.len() > REMEMBERED_TIMES {
            self.place.handled.pop_front();
        }
        self.note().await?;
        self.show(None);
        Ok(())
    }

    async fn submit(&self, due: Timestamp) -> Result<Option<MailId>, Error> {
        let schedule = &self.task.schedule;
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
            // Another node, or this one before a restart, has submitted it with other content.
            Err(Error::KeyReused(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the progress.
    async fn note(&mut self) -> Result<(), Error> {
        let last = self.postrider.journal().last()?.max(self.reader.done());
        let change = (PROGRESS_KEY.to_vec(), serde_json::to_vec(&self.place).ok());
        self.reader.advance_with(last, vec![change]).await
    }

    fn show(&self, error: Option<String>) {
        *self.task.shown.lock() = (Some(self.place.clone()), error);
    }
}
