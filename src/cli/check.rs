//! `postrider check`: reports every mistake in the configuration, and with `--connect` tries every
//! relay and the spool's database.

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use super::screen::{ColumnFit, Screen, TextStyle, plain, tinted};
use super::{ConfigFile, Failure};
use crate::config::{self, Listen, Mistake, Settings};
use crate::delivery::{Outcome, Phase, TlsUse, printable};
use crate::dispatch::Error;
use crate::spool::postgres::DatabaseProblem;
use crate::transport::Transport;

#[derive(clap::Args)]
pub(super) struct CheckCommand {
    #[command(flatten)]
    file: ConfigFile,
    /// Also connect to every relay and to the spool's database, up to and including the login, and
    /// send nothing
    #[arg(long)]
    connect: bool,
    /// Print what was found as JSON
    #[arg(long)]
    json: bool,
}

/// The findings as `--json` prints them.
#[derive(Serialize)]
struct Findings<'a> {
    ok: bool,
    file: &'a str,
    mistakes: &'a [Mistake],
    /// What works but should be corrected.
    warnings: &'a [Mistake],
    #[serde(skip_serializing_if = "Option::is_none")]
    relays: Option<&'a [RelayCheck]>,
}

impl CheckCommand {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let sources = self.file.sources();
        let file = sources
            .file
            .as_ref()
            .map_or("the defaults and the environment".to_owned(), |path| {
                path.display().to_string()
            });

        let checked = Settings::load(&sources).and_then(|settings| {
            settings.try_on_this_machine()?;
            Ok(settings)
        });

        let settings = match checked {
            Ok(settings) => settings,
            Err(mistakes) if self.json => {
                print(&file, (&mistakes.0, &[]), None, screen)?;
                return Ok(Failure::Configuration(mistakes).exit_code());
            }
            Err(mistakes) => return Err(mistakes.into()),
        };

        let (database, tried) = if self.connect {
            let runtime = super::runtime()?;
            let database = runtime.block_on(reach(&settings));
            (database, Some(runtime.block_on(connect(&settings))?))
        } else {
            (Ok(()), None)
        };

        let mistakes: Vec<Mistake> = database
            .as_ref()
            .err()
            .map(|(m, _)| m.clone())
            .into_iter()
            .collect();
        let database = database.map_err(|(mistake, passes)| match passes {
            true => Failure::TryLater(mistake.to_string()),
            false => mistake.into(),
        });
        let outcome = database.and_then(|()| tried.as_deref().map_or(Ok(()), verdict));
        if self.json {
            let found = (&mistakes[..], settings.warnings());
            print(&file, found, tried.as_deref(), screen)?;
            return Ok(outcome.map_or_else(|e| e.exit_code(), |()| ExitCode::SUCCESS));
        }

        for warning in settings.warnings() {
            screen.line(&[tinted("warning: ", TextStyle::Warning), plain(warning)])?;
        }
        if mistakes.is_empty() {
            screen.line(&[plain(format_args!(
                "{file}: no mistakes found ({})",
                summary(&settings)
            ))])?;
        }
        if let Some(tried) = &tried {
            table(tried, screen)?;
        }

        outcome.map(|()| ExitCode::SUCCESS)
    }
}

fn print(
    file: &str,
    (mistakes, warnings): (&[Mistake], &[Mistake]),
    relays: Option<&[RelayCheck]>,
    screen: &mut Screen,
) -> Result<(), Failure> {
    let reached = relays.is_none_or(|all| all.iter().all(|one| one.ok));
    let findings = Findings {
        ok: mistakes.is_empty() && reached,
        file,
        mistakes,
        warnings,
        relays,
    };
    let text = serde_json::to_vec(&findings).map_err(|e| Failure::Failed(e.to_string()))?;
    Ok(screen.json(&text)?)
}

fn summary(settings: &Settings) -> String {
    let door = |name: &str, listen: Listen| match listen {
        Listen::Off => format!("{name} off"),
        Listen::At(address) => format!("{name} on {address}"),
    };
    let relays: Vec<String> = settings.relays.iter().map(|relay| relay.name()).collect();
    format!(
        "relays: {}; spool: {}; {}; {}",
        relays.join(", "),
        settings.spool.place(),
        door("HTTP", settings.http.listen),
        door("SMTP", settings.smtp.listen)
    )
}

/// Connects to the spool's database, if there is one. The error is the mistake, and whether it may
/// pass by itself.
async fn reach(settings: &Settings) -> Result<(), (Mistake, bool)> {
    let Some(database) = settings.spool.database() else {
        return Ok(());
    };
    let Err(reason) = database.probe().await else {
        return Ok(());
    };

    let key = match reason {
        DatabaseProblem::Login(_) if settings.spool.password_file.is_some() => {
            "spool.password_file"
        }
        DatabaseProblem::Login(_) if settings.spool.password.is_some() => "spool.password",
        DatabaseProblem::Schema(_) => "spool.schema",
        DatabaseProblem::Login(_) | DatabaseProblem::Name(_) | DatabaseProblem::Server(_) => {
            "spool.url"
        }
    };
    let passes = matches!(reason, DatabaseProblem::Server(_));
    Err((
        settings.mistake(key, printable(&reason.to_string())),
        passes,
    ))
}

/// The result of trying one relay.
#[derive(Serialize)]
struct RelayCheck {
    name: String,
    url: String,
    ok: bool,
    /// The step at which it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How the connection was encrypted; `None` if it was not, or if that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsUse>,
    took_ms: u128,
}

async fn connect(settings: &Settings) -> Result<Vec<RelayCheck>, Failure> {
    let relays = config::reload(settings)?.relays;
    let mut tries = Vec::new();
    for (relay, configured) in relays.into_iter().zip(&settings.relays) {
        let name = configured.name();
        let transport = relay.transport().map_err(|error| Error::Relay {
            name: name.clone(),
            error,
        })?;
        tries.push(tokio::spawn(attempt(
            name,
            configured.url.to_string(),
            transport,
        )));
    }

    let mut tried = Vec::new();
    for one in tries {
        tried.push(
            one.await
                .map_err(|e| Failure::Failed(format!("an attempt was aborted: {e}")))?,
        );
    }

    Ok(tried)
}

async fn attempt(
    name: String,
    url: String,
    transport: std::sync::Arc<dyn Transport>,
) -> RelayCheck {
    let began = Instant::now();
    let mut tls = None;
    let failed = match transport.connect().await {
        Ok(connection) => {
            tls = connection.tls();
            connection.close().await;
            None
        }
        Err(Outcome::Unavailable(phase, reason)) => Some((phase, printable(&reason))),
        Err(other) => Some((Phase::Connect, format!("{other:?}"))),
    };

    let took_ms = began.elapsed().as_millis();
    let (phase, reason) = failed.unzip();
    RelayCheck {
        name,
        url,
        ok: phase.is_none(),
        phase,
        reason,
        tls,
        took_ms,
    }
}

fn table(tried: &[RelayCheck], screen: &mut Screen) -> Result<(), Failure> {
    let row = |one: &RelayCheck| {
        let result = match (one.phase, &one.reason) {
            (Some(phase), Some(reason)) => {
                tinted(format_args!("failed at {phase}: {reason}"), TextStyle::Bad)
            }
            _ if one.url.starts_with("smtp://") => tinted("ready, without TLS", TextStyle::Warning),
            _ => tinted("ready", TextStyle::Good),
        };
        vec![
            plain(&one.name),
            plain(&one.url),
            result,
            plain(format_args!("{} ms", one.took_ms)),
        ]
    };

    let rows = tried.iter().map(row).collect();
    Ok(screen.table(&["RELAY", "URL", "RESULT", "AFTER"], rows, ColumnFit::Wrap)?)
}

/// A relay that cannot be reached may be reachable later (exit code 75); one that refuses the
/// login, or has a wrong certificate, needs a person (exit code 1).
fn verdict(tried: &[RelayCheck]) -> Result<(), Failure> {
    let failed: Vec<&RelayCheck> = tried.iter().filter(|one| !one.ok).collect();
    if failed.is_empty() {
        return Ok(());
    }

    let names: Vec<&str> = failed.iter().map(|one| one.name.as_str()).collect();
    let message = format!(
        "{} of {} relays cannot be used now: {}",
        failed.len(),
        tried.len(),
        names.join(", ")
    );

    let refused =
        |one: &&RelayCheck| matches!(one.phase, Some(Phase::Tls | Phase::Auth | Phase::Ehlo));
    if failed.iter().any(refused) {
        Err(Failure::Failed(message))
    } else {
        Err(Failure::TryLater(message))
    }
}
