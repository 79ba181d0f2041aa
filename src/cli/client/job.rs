//! Operations on all mails that a search finds: `cancel -q`, `retry -q` and `purge -q` begin a job;
//! `postrider job` shows and stops jobs.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::service::Payload;
use super::times::relative;
use super::{Failure, ServiceArgs};
use crate::cli::screen::{
    ColumnFit, Screen, StyledText, TextStyle, counted, grouped, plain, tinted,
};
use crate::dispatch::{JobState, JobStatus};
use crate::mail::Timestamp;

/// Which mails an operation changes, and how fast.
#[derive(Args, Clone, Debug)]
pub struct BulkArgs {
    /// All mails that this search finds: `state:deferred code:451`
    #[arg(short, long, value_name = "SEARCH", allow_hyphen_values = true)]
    query: Option<String>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// Change at most this many mails
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Change at most this many mails per minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_minute: Option<u32>,
}

/// How many mails the search finds.
#[derive(Deserialize)]
struct MailCount {
    count: u64,
}

impl BulkArgs {
    /// Counts the mails, or begins the job; without a search, all mail is meant.
    pub fn act(
        self,
        act: &str,
        asking: &ServiceArgs,
        screen: &mut Screen,
    ) -> Result<ExitCode, Failure> {
        let mut request = Map::new();
        match self.query {
            Some(query) => request.insert("q".to_owned(), Value::from(query)),
            None => request.insert("all".to_owned(), Value::from(true)),
        };

        request.insert("dry_run".to_owned(), Value::from(self.dry_run));
        request.insert("limit".to_owned(), Value::from(self.limit));
        request.insert("per_minute".to_owned(), Value::from(self.per_minute));

        let client = asking.service.client()?;
        let payload = Payload::Json(Value::Object(request));
        let answer = match act {
            "purge" => client.delete_with(&["v1", "mails"], payload)?,
            _ => client.post(&["v1", "mails", act], &vec![], payload)?,
        };

        if asking.json {
            screen.json(&answer.body)?;
        } else if self.dry_run {
            let MailCount { count } = answer.decode()?;
            let mails = counted(count, "mail");
            screen.line(&[plain(format_args!("would {act} {mails}"))])?;
        } else {
            let job: JobStatus = answer.decode()?;
            screen.line(&[plain(format_args!(
                "job {} has begun; see its progress with `postrider job show {}`",
                job.id, job.id
            ))])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}

/// `postrider purge`.
#[derive(Args)]
pub struct Purge {
    /// Delete all ended mail, without a search
    #[arg(long, required_unless_present = "query", conflicts_with = "query")]
    all: bool,
    #[command(flatten)]
    many: BulkArgs,
    #[command(flatten)]
    asking: ServiceArgs,
}

impl Purge {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        self.many.act("purge", &self.asking, screen)
    }
}

/// `postrider job`.
#[derive(Subcommand)]
pub enum JobCommand {
    /// List the jobs of this run of the service, the newest first
    List {
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Show a job's progress
    Show {
        /// The job's id
        id: uuid::Uuid,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Stop a job; what it has done stays done
    Stop {
        /// The job's id
        id: uuid::Uuid,
        #[command(flatten)]
        asking: ServiceArgs,
    },
}

/// The jobs, as the service lists them.
#[derive(Deserialize)]
struct JobsAnswer {
    jobs: Vec<JobStatus>,
}

impl JobCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let (asking, answer) = match &self {
            JobCommand::List { asking } => {
                let answer = asking.service.client()?.get(&["v1", "jobs"], &vec![])?;
                (asking, answer)
            }
            JobCommand::Show { id, asking } => {
                let path = ["v1", "jobs", &id.to_string()];
                (asking, asking.service.client()?.get(&path, &vec![])?)
            }
            JobCommand::Stop { id, asking } => {
                let path = ["v1", "jobs", &id.to_string()];
                (asking, asking.service.client()?.delete(&path, &vec![])?)
            }
        };

        if asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let jobs = match self {
            JobCommand::List { .. } => answer.decode::<JobsAnswer>()?.jobs,
            JobCommand::Show { .. } | JobCommand::Stop { .. } => vec![answer.decode()?],
        };

        if jobs.is_empty() {
            screen.line(&[tinted("no jobs", TextStyle::Faint)])?;
            return Ok(ExitCode::SUCCESS);
        }

        let now = Timestamp::now();
        let rows = jobs.iter().map(|job| row(job, now)).collect();
        let heads = ["ID", "ACT", "STATE", "DONE", "BEGAN", "BY", "SEARCH"];
        screen.table(&heads, rows, ColumnFit::Wrap)?;
        for error in jobs.iter().filter_map(|job| job.error.as_ref()) {
            screen.line(&[tinted(error, TextStyle::Bad)])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}

fn row(job: &JobStatus, now: Timestamp) -> Vec<StyledText> {
    let state = match job.state {
        JobState::Running => tinted("running", TextStyle::Busy),
        JobState::Done => tinted("done", TextStyle::Good),
        JobState::Stopped => tinted("stopped", TextStyle::Warning),
        JobState::Failed => tinted("failed", TextStyle::Bad),
    };

    let of = job.total.map_or_else(|| "?".to_owned(), grouped);
    vec![
        plain(job.id),
        plain(job.act.as_str()),
        state,
        plain(format_args!("{} of {of}", grouped(job.done))),
        plain(relative(job.started_at, now)),
        plain(&job.by),
        plain(&job.search),
    ]
}
