//! Jobs: operations on all mails that a search finds, done in steps. A job can be inspected and
//! stopped while it runs.
//!
//! Jobs do not survive the process. A job that was interrupted can be started again, because each
//! operation checks the state of the mail.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::bulk::{Act, BulkSteps, STEP_MAILS};
use super::{Dispatcher, Error};
use crate::mail::Timestamp;
use crate::spool::Query;

/// How many jobs may run at once.
const MOST_RUNNING: usize = 16;

/// How many jobs are remembered. The oldest finished ones are forgotten first.
const MOST_KEPT: usize = 200;

/// What a job is to do.
#[derive(Clone, Debug)]
pub struct JobRequest {
    /// The operation on each mail.
    pub act: Act,
    /// The mails; state and cursor have the same meaning as in a list.
    pub query: Query,
    /// The most mails to change.
    pub limit: Option<u64>,
    /// The most mails to change per minute.
    pub per_minute: Option<u32>,
    /// The search as it was requested, for display.
    pub search: String,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It is running.
    Running,
    /// It has finished.
    Done,
    /// It was stopped by a user.
    Stopped,
    /// It failed; `error` has the reason.
    Failed,
}

/// A job and its progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct JobStatus {
    /// Its id.
    #[cfg_attr(feature = "server", schema(value_type = String, format = "uuid"))]
    pub id: Uuid,
    /// The operation on each mail.
    pub act: Act,
    /// The search as it was requested.
    pub search: String,
    /// Who requested it.
    pub by: String,
    /// Its state.
    pub state: JobState,
    /// How many mails it applies to; absent until they are counted.
    pub total: Option<u64>,
    /// How many mails were changed.
    pub done: u64,
    /// How many mails were left unchanged because their state no longer allowed the operation.
    pub skipped: u64,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The jobs of this process.
#[derive(Default)]
pub(super) struct JobTable {
    jobs: Mutex<VecDeque<Job>>,
}

struct Job {
    status: Arc<Mutex<JobStatus>>,
    task: Option<AbortHandle>,
}

impl JobTable {
    fn is_full(&self) -> bool {
        let running = |job: &&Job| job.status.lock().state == JobState::Running;
        self.jobs.lock().iter().filter(running).count() >= MOST_RUNNING
    }

    /// Adds a job, and forgets the oldest finished one if there are too many.
    fn add(&self, job: Job) {
        let mut jobs = self.jobs.lock();
        jobs.push_back(job);
        while jobs.len() > MOST_KEPT {
            let ended = |job: &Job| job.status.lock().state != JobState::Running;
            let Some(oldest) = jobs.iter().position(ended) else {
                return;
            };
            jobs.remove(oldest);
        }
    }
}

/// Operations on all mails that a search finds; see [`Dispatcher::jobs`].
#[derive(Clone, Copy)]
pub struct Jobs<'a> {
    postrider: &'a Dispatcher,
}

impl Jobs<'_> {
    /// How many mails of `query` the operation applies to. Takes 16 bytes of memory for each.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn count(&self, act: Act, query: Query) -> Result<u64, Error> {
        self.count_to(u64::MAX, act, query).await
    }

    /// The same as [`Jobs::count`], but stops counting at `most`.
    async fn count_to(&self, most: u64, act: Act, query: Query) -> Result<u64, Error> {
        let mut count = 0;
        let mut steps = BulkSteps::new(self.postrider, act, query);
        while count < most
            && let Some(step) = steps.next().await?
        {
            count += step.len() as u64;
        }
        Ok(count.min(most))
    }

    /// Starts a job, and returns at once.
    ///
    /// # Errors
    /// [`Error::TooManyJobs`], or [`Error::Stopped`].
    pub fn start(&self, request: JobRequest) -> Result<JobStatus, Error> {
        let engine = &self.postrider.inner.engine;
        engine.admits()?;
        let table = &self.postrider.inner.jobs;
        if table.is_full() {
            return Err(Error::TooManyJobs(MOST_RUNNING));
        }

        let status = JobStatus {
            id: Uuid::now_v7(),
            act: request.act,
            search: request.search.clone(),
            by: self.postrider.submitter.to_string(),
            state: JobState::Running,
            total: None,
            done: 0,
            skipped: 0,
            started_at: engine.clock.now(),
            finished_at: None,
            error: None,
        };

        tracing::info!(job = %status.id, act = request.act.as_str(), search = ?status.search,
            by = %status.by, "a job began");

        let shared = Arc::new(Mutex::new(status.clone()));
        let work = run(self.postrider.clone(), request, Arc::clone(&shared));
        let task = tokio::spawn(work).abort_handle();
        table.add(Job {
            status: shared,
            task: Some(task),
        });

        Ok(status)
    }

    /// A job; `None` if there is none with this id.
    pub fn get(&self, id: Uuid) -> Option<JobStatus> {
        self.list().into_iter().find(|job| job.id == id)
    }

    /// The jobs, the newest first.
    pub fn list(&self) -> Vec<JobStatus> {
        let jobs = self.postrider.inner.jobs.jobs.lock();
        jobs.iter()
            .rev()
            .map(|job| job.status.lock().clone())
            .collect()
    }

    /// Stops a job. What it has done remains. `None` if there is none with this id.
    pub fn stop(&self, id: Uuid) -> Option<JobStatus> {
        let jobs = self.postrider.inner.jobs.jobs.lock();
        let job = jobs.iter().find(|job| job.status.lock().id == id)?;
        let mut status = job.status.lock();
        if status.state == JobState::Running {
            if let Some(task) = &job.task {
                task.abort();
            }
            status.state = JobState::Stopped;
            status.finished_at = Some(self.postrider.inner.engine.clock.now());
            tracing::info!(job = %id, done = status.done, "a job was stopped");
            // The changes were requested by the one who started the job, not the one who stops it.
            let whose = status.by.parse().unwrap_or_default();
            let (postrider, act) = (self.postrider.on_behalf_of(whose), status.act);
            let (done, search) = (status.done, status.search.clone());
            tokio::spawn(async move { note(&postrider, act, done, search).await });
        }

        Some(status.clone())
    }
}

impl Dispatcher {
    /// Operations on all mails that a search finds.
    pub fn jobs(&self) -> Jobs<'_> {
        Jobs { postrider: self }
    }
}

async fn run(postrider: Dispatcher, request: JobRequest, status: Arc<Mutex<JobStatus>>) {
    // Each mail has an event with who requested it; the audit trail has one entry for the whole
    // job.
    let ended = walk(&postrider.as_part(), &request, &status).await;
    let done = status.lock().done;
    note(&postrider, request.act, done, request.search).await;

    let mut status = status.lock();
    status.finished_at = Some(postrider.inner.engine.clock.now());
    match ended {
        Ok(()) => {
            status.state = JobState::Done;
            tracing::info!(job = %status.id, done = status.done, skipped = status.skipped,
                "a job is done");
        }
        Err(error) => {
            status.state = JobState::Failed;
            status.error = Some(error.to_string());
            tracing::error!(job = %status.id, done = status.done, %error, "a job failed");
        }
    }
}

/// Records in the audit trail how many mails were changed.
async fn note(postrider: &Dispatcher, act: Act, done: u64, search: String) {
    postrider.note_many(act.as_str(), done, search).await;
}

async fn walk(
    postrider: &Dispatcher,
    request: &JobRequest,
    status: &Mutex<JobStatus>,
) -> Result<(), Error> {
    let most = request.limit.unwrap_or(u64::MAX);
    let jobs = postrider.jobs();
    let meant = jobs.count_to(most, request.act, request.query.clone());
    let meant = meant.await?;
    status.lock().total = Some(meant);

    let mut left = most;
    let mut steps = BulkSteps::new(postrider, request.act, request.query.clone());
    while left > 0
        && let Some(step) = steps.next().await?
    {
        let mut step = &step[..];
        while !step.is_empty() && left > 0 {
            let size = portion(request.per_minute).min(step.len() as u64).min(left);
            let (now, later) = step.split_at(usize::try_from(size).unwrap_or(STEP_MAILS));
            let began = Instant::now();
            let mut done = 0;
            let mut results = request.act.on_all(postrider, now);
            while let Some(result) = results.next().await {
                let mut status = status.lock();
                match result? {
                    true => (status.done, done) = (status.done + 1, done + 1),
                    false => status.skipped += 1,
                }
            }

            step = later;
            left -= done;
            if let Some(per_minute) = request.per_minute {
                let pause = Duration::from_secs(60).mul_f64(done as f64 / f64::from(per_minute));
                tokio::time::sleep_until(began + pause).await;
            }
        }
    }

    Ok(())
}

/// How many mails are changed at once: with a limit per minute, those of one second.
fn portion(per_minute: Option<u32>) -> u64 {
    per_minute.map_or(STEP_MAILS as u64, |pace| {
        u64::from(pace / 60).clamp(1, STEP_MAILS as u64)
    })
}
