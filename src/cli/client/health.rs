//! `postrider health`: whether the service works, for monitoring such as a container's HEALTHCHECK.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use url::Url;

use super::place::{ServiceAddress, ServiceOptions};
use super::service::{ServiceClient, is_loopback};
use crate::cli::screen::{Screen, TextStyle, tinted};
use crate::cli::{Failure, ServiceRefusal};
use crate::config::{Settings, Sources};

/// `postrider health`.
#[derive(Args)]
pub struct HealthCommand {
    /// Check only whether it runs, not whether it accepts mail
    #[arg(long)]
    live: bool,
    /// How long the answer may take
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = crate::mail::parse_span)]
    timeout: Duration,
    #[command(flatten)]
    service: ServiceOptions,
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
}

impl HealthCommand {
    pub(super) fn run(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        let mut place = self.service.place()?;
        if !self.service.names_a_place()
            && let Some(url) = configured()
        {
            place.url = url;
        }

        // Health needs no token; and a certificate is not checked on this machine, because it is
        // for another name.
        let local = is_loopback(&place.url);
        let client = ServiceClient::new(
            ServiceAddress {
                authorization: None,
                ..place
            },
            self.timeout,
            local,
        );

        let path = if self.live { "live" } else { "ready" };
        match client.get(&["health", path], &vec![]) {
            Ok(answer) if self.json => screen.json(&answer.body)?,
            Ok(_) if self.live => screen.line(&[tinted("live", TextStyle::Good)])?,
            Ok(answer) => {
                screen.line(&[tinted("ready", TextStyle::Good)])?;
                let well: serde_json::Value = answer.decode()?;
                let warnings = well["warnings"].as_array().into_iter().flatten();
                for warning in warnings.filter_map(serde_json::Value::as_str) {
                    screen.line(&[tinted(warning, TextStyle::Bad)])?;
                }
            }
            Err(failure) => return Err(unhealthy(failure)),
        }

        Ok(ExitCode::SUCCESS)
    }
}

/// Whatever the reason, the service is not healthy: exit code 1, as HEALTHCHECK requires it.
fn unhealthy(failure: Failure) -> Failure {
    match failure {
        Failure::TryLater(why) => Failure::Failed(why),
        Failure::Refused(refusal) => {
            let ServiceRefusal { problem, .. } = &*refusal;
            let reason = problem
                .as_ref()
                .and_then(|problem| problem["detail"].as_str());
            Failure::Failed(reason.map_or(refusal.message.clone(), |reason| {
                format!("not ready: {}", crate::cli::screen::escaped(reason))
            }))
        }
        other => other,
    }
}

/// The address of the service that is configured on this machine, if it is known.
fn configured() -> Option<Url> {
    let settings = Settings::load(&Sources::of_process(None)).ok()?;
    let mut listen = settings.http.listen.address().filter(|at| at.port() != 0)?;
    if listen.ip().is_unspecified() {
        let loopback: std::net::IpAddr = match listen.is_ipv6() {
            true => std::net::Ipv6Addr::LOCALHOST.into(),
            false => std::net::Ipv4Addr::LOCALHOST.into(),
        };
        listen.set_ip(loopback);
    }

    let scheme = if settings.http.tls.is_some() {
        "https"
    } else {
        "http"
    };

    Url::parse(&format!("{scheme}://{listen}")).ok()
}
