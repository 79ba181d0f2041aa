//! `postrider bounce`: submits a report from standard input, for an alias that pipes returned mail.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde::Deserialize;

use super::service::{Parameters, Payload};
use super::{Failure, ServiceArgs, send};
use crate::cli::screen::{Screen, plain};

/// The end of the help: how to configure a mail server to pipe reports.
pub const EXAMPLES: &str = "\
In a mail server's aliases:
  bounces: \"|/usr/bin/postrider bounce\"

Where the service has tokens, one of the scope `admin` is needed.";

/// `postrider bounce`.
#[derive(Args)]
pub struct Bounce {
    /// The addresses that the report was sent to, if known
    #[arg(value_name = "ADDRESS")]
    to: Vec<String>,
    #[command(flatten)]
    asking: ServiceArgs,
}

#[derive(Deserialize)]
struct FeedbackAnswer {
    results: Vec<ReportedFeedback>,
}

#[derive(Deserialize)]
struct ReportedFeedback {
    mail: String,
    recipient: String,
    kind: String,
    #[serde(default)]
    status: Option<String>,
    duplicate: bool,
    suppressed: bool,
}

impl Bounce {
    /// Submits the report.
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let report = send::read(Path::new("-"))?;
        let to: Parameters = self.to.into_iter().map(|to| ("to", to)).collect();
        let client = self.asking.service.client()?;

        let path = ["v1", "feedback", "report"];
        let answer = client.post(&path, &to, Payload::Message(report))?;
        if self.asking.json {
            screen.json(&answer.body)?;
            return Ok(ExitCode::SUCCESS);
        }

        let FeedbackAnswer { results } = answer.decode()?;
        if results.is_empty() {
            screen.line(&[plain("this report changes nothing")])?;
        }

        for one in results {
            let status = one.status.unwrap_or_default();
            let known = if one.duplicate { ", known already" } else { "" };
            let ends = if one.suppressed {
                ", gets no more mail"
            } else {
                ""
            };
            let (mail, to, kind) = (one.mail, one.recipient, one.kind);
            screen.line(&[plain(format_args!(
                "{mail}  {to}  {kind} {status}{known}{ends}"
            ))])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}
