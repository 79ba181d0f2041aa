//! `postrider check`: names every mistake in the configuration, and on demand tries every relay.

use std::time::{Duration, Instant};

use comfy_table::{Table, presets};

use super::{ConfigFile, Failure};
use crate::config::{self, Listen, Settings};
use crate::delivery::{Outcome, Phase, printable};
use crate::dispatch::Error;
use crate::transport::Transport;

#[derive(clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    file: ConfigFile,
    /// Also connect to every relay, up to and including the login, and send nothing
    #[arg(long)]
    connect: bool,
}

impl Check {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (sources, settings) = self.file.load()?;
        let file = sources
            .file
            .map_or("the defaults and the environment".to_owned(), |path| {
                path.display().to_string()
            });
        println!("{file}: no mistakes found ({})", summary(&settings));
        if self.connect {
            super::runtime()?.block_on(connect(&settings))
        } else {
            Ok(())
        }
    }
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
        settings.spool.path.display(),
        door("HTTP", settings.http.listen),
        door("SMTP", settings.smtp.listen)
    )
}

/// How one relay answered.
struct Tried {
    name: String,
    url: String,
    took: Duration,
    result: Result<(), (Phase, String)>,
}

async fn connect(settings: &Settings) -> Result<(), Failure> {
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
                .map_err(|e| Failure::Failed(format!("a try was broken off: {e}")))?,
        );
    }
    println!("{}", table(&tried));
    verdict(&tried)
}

async fn attempt(name: String, url: String, transport: std::sync::Arc<dyn Transport>) -> Tried {
    let began = Instant::now();
    let result = match transport.connect().await {
        Ok(connection) => {
            connection.close().await;
            Ok(())
        }
        Err(Outcome::Unavailable(phase, reason)) => Err((phase, reason)),
        Err(other) => Err((Phase::Connect, format!("{other:?}"))),
    };
    Tried {
        name,
        url,
        took: began.elapsed(),
        result,
    }
}

fn table(tried: &[Tried]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_BORDERS_ONLY)
        .set_header(["relay", "url", "result", "after"]);
    for one in tried {
        let result = match &one.result {
            Ok(()) => "ready".to_owned(),
            Err((phase, reason)) => format!("failed at {phase}: {}", printable(reason)),
        };
        table.add_row([&one.name, &one.url, &result, &format!("{:.0?}", one.took)]);
    }
    table
}

/// A relay that cannot be reached may be reached later; one that refuses the login or the
/// certificate needs a hand.
fn verdict(tried: &[Tried]) -> Result<(), Failure> {
    let failed: Vec<&Tried> = tried.iter().filter(|one| one.result.is_err()).collect();
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
        |one: &&Tried| matches!(one.result, Err((Phase::Tls | Phase::Auth | Phase::Ehlo, _)));
    if failed.iter().any(refused) {
        Err(Failure::Failed(message))
    } else {
        Err(Failure::TryLater(message))
    }
}
