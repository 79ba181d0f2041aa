//! `postrider webhook`: lists and tests webhooks, and sends messages again.

use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::service::Payload;
use super::times::{past_time, relative};
use super::{Failure, ServiceArgs};
use crate::cli::screen::{ColumnFit, Screen, StyledText, TextStyle, grouped, plain, tinted};
use crate::mail::Timestamp;
use crate::notify::{Tested, WebhookState, WebhookStatus};

/// `postrider webhook`.
#[derive(Subcommand)]
pub enum WebhookCommand {
    /// List the webhooks, with the backlog and the last answer of each
    List {
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Send a webhook a message of the type `test`, and print its answer
    Test {
        /// The webhook's name
        name: String,
        #[command(flatten)]
        asking: ServiceArgs,
    },
    /// Send messages to a webhook again: all that failed, unless an option says otherwise; a
    /// webhook that is off is switched on
    Redeliver(RedeliverCommand),
    /// Print a new secret for a webhook
    Secret,
}

/// `postrider webhook redeliver`.
#[derive(Args)]
pub struct RedeliverCommand {
    /// The webhook's name
    name: String,
    /// All events since: a span such as 2h, or a time such as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = past_time)]
    since: Option<Timestamp>,
    /// The message with this id
    #[arg(long, value_name = "ID", conflicts_with = "since")]
    id: Option<String>,
    #[command(flatten)]
    asking: ServiceArgs,
}

#[derive(Deserialize)]
struct Webhooks {
    webhooks: Vec<WebhookStatus>,
}

impl WebhookCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            WebhookCommand::List { asking } => list(&asking, screen),
            WebhookCommand::Test { name, asking } => test(&name, &asking, screen),
            WebhookCommand::Redeliver(redeliver) => redeliver.run(screen),
            WebhookCommand::Secret => {
                let secret = STANDARD.encode(rand::random::<[u8; 32]>());
                screen.line(&[plain(format_args!("whsec_{secret}"))])?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

fn list(asking: &ServiceArgs, screen: &mut Screen) -> Result<ExitCode, Failure> {
    let answer = asking.service.client()?.get(&["v1", "webhooks"], &vec![])?;
    if asking.json {
        screen.json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }

    let webhooks = answer.decode::<Webhooks>()?.webhooks;
    if webhooks.is_empty() {
        screen.line(&[tinted("no webhooks", TextStyle::Faint)])?;
        return Ok(ExitCode::SUCCESS);
    }

    let now = Timestamp::now();
    let rows = webhooks.iter().map(|webhook| row(webhook, now)).collect();
    let heads = [
        "WEBHOOK",
        "STATE",
        "BACKLOG",
        "TO SEND AGAIN",
        "LAST",
        "URL",
    ];

    screen.table(&heads, rows, ColumnFit::Wrap)?;
    for webhook in &webhooks {
        if let Some(reason) = &webhook.reason {
            let text = format!("{} is off: {reason}", webhook.name);
            screen.line(&[tinted(text, TextStyle::Bad)])?;
        }
    }

    Ok(ExitCode::SUCCESS)
}

fn row(webhook: &WebhookStatus, now: Timestamp) -> Vec<StyledText> {
    let tint = match webhook.state {
        WebhookState::Active => TextStyle::Good,
        WebhookState::Failing => TextStyle::Warning,
        WebhookState::Off => TextStyle::Bad,
    };

    let last = webhook.last.as_ref().map_or_else(String::new, |last| {
        let said = match (&last.error, last.status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => status.to_string(),
            (None, None) => String::new(),
        };
        format!("{said}, {}", relative(last.at, now))
    });

    vec![
        plain(&webhook.name),
        tinted(webhook.state, tint),
        plain(grouped(webhook.backlog)),
        plain(grouped(webhook.waiting)),
        plain(last),
        plain(&webhook.url),
    ]
}

fn test(name: &str, asking: &ServiceArgs, screen: &mut Screen) -> Result<ExitCode, Failure> {
    let client = asking.service.client()?;

    let answer = client.post(&["v1", "webhooks", name, "test"], &vec![], Payload::None)?;
    let tested: Tested = answer.decode()?;
    let last = &tested.answer;
    if asking.json {
        screen.json(&answer.body)?;
    } else if tested.delivered {
        let status = last.status.unwrap_or_default();
        screen.line(&[plain(format_args!(
            "{name} answered {status} within {} ms",
            last.took_ms
        ))])?;
    } else {
        let error = last.error.as_deref().unwrap_or_default();
        screen.line(&[tinted(format!("{name} failed: {error}"), TextStyle::Bad)])?;
    }

    Ok(match tested.delivered {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl RedeliverCommand {
    fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut request = Map::new();
        if let Some(since) = self.since {
            request.insert("since".to_owned(), Value::from(since.to_string()));
        }
        if let Some(id) = self.id {
            request.insert("id".to_owned(), Value::from(id));
        }

        let client = self.asking.service.client()?;
        let path = ["v1", "webhooks", &self.name, "redeliver"];
        let answer = client.post(&path, &vec![], Payload::Json(Value::Object(request)))?;
        if self.asking.json {
            screen.json(&answer.body)?;
        } else {
            let status: WebhookStatus = answer.decode()?;
            screen.line(&[plain(format_args!(
                "{} is {}, with a backlog of {}",
                self.name,
                status.state,
                grouped(status.backlog)
            ))])?;
        }

        Ok(ExitCode::SUCCESS)
    }
}
