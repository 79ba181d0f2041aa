//! `postrider run`: starts the service, handles its signals, and stops it.
//!
//! SIGTERM and SIGINT close the listeners, finish what is in flight within `service.drain_timeout`,
//! sync the spool and exit; a second one stops at once, and accepted mail stays in the spool.
//! SIGHUP reads the configuration again: either all of it is applied, or the old one stays in
//! force.

use std::fmt::Debug;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::Level;

use super::doors::Doors;
use super::privileges::{self, Identity};
use super::{ConfigFile, Failure, descriptors, logging};
use crate::config::{self, LogFormat, Settings, Sources};
use crate::dispatch::{Dispatcher, Drain};

#[derive(clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
}

impl Run {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (sources, settings) = self.file.load()?;
        logging::start(&settings.log)?;

        // A program that reads the log in JSON also learns there why the service did not start.
        let is_for_programs =
            settings.log.format == LogFormat::Json && tracing::enabled!(Level::ERROR);
        start(sources, settings).map_err(|failure| match is_for_programs {
            true => {
                tracing::error!(error = %failure, exit_code = failure.code(), "the service ends");
                Failure::Logged(failure.code())
            }
            false => failure,
        })
    }
}

/// Runs the service, after descriptors, directories and rights were set up.
fn start(sources: Sources, settings: Settings) -> Result<(), Failure> {
    for warning in settings.warnings() {
        tracing::warn!(%warning, "the configuration should be corrected");
    }

    let open_files = descriptors::raise();
    settings.try_on_this_machine()?;
    let identity = Identity::of(&settings)?;
    if identity.is_some() || settings.service.confine {
        privileges::provide(&settings, identity.as_ref())?;
    }
    if settings.service.confine {
        privileges::confine(&settings)?;
    }

    let runtime = super::runtime()?;
    let done = runtime.block_on(serve(sources, settings, open_files, identity));

    // Blocking tasks that are still running must not delay the stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// A signal to the process.
enum Signal {
    Stop,
    Reload,
}

/// Listens to the signals from the start, so that none kills the process.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hang_up: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let hear = |kind| {
            signal(kind).map_err(|e| Failure::Failed(format!("cannot listen to signals: {e}")))
        };
        Ok(Signals {
            terminate: hear(SignalKind::terminate())?,
            interrupt: hear(SignalKind::interrupt())?,
            hang_up: hear(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }

    async fn stop(&mut self) {
        while !matches!(self.next().await, Signal::Stop) {}
    }
}

async fn serve(
    sources: Sources,
    mut settings: Settings,
    open_files: Option<usize>,
    identity: Option<Identity>,
) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let mut bound = None;
    if let Some(identity) = identity {
        bound = Some(Doors::bind(&settings, open_files).await?);
        identity.assume()?;
    }

    let dispatcher = tokio::select! {
        started = config::builder(&settings)?.start() => started?,
        () = signals.stop() => return Ok(()),
    };

    dispatcher.set_quotas(config::quotas(&settings));
    let opening = async {
        let bound = match bound {
            Some(bound) => bound,
            None => Doors::bind(&settings, open_files).await?,
        };
        bound.open(&dispatcher, &settings).await
    };

    let mut doors = match opening.await {
        Ok(doors) => doors,
        // Nothing was accepted, so the engine's own end is not reported.
        Err(failure) => {
            dispatcher.shutdown(Drain::within(Duration::ZERO)).await?;
            return Err(failure);
        }
    };

    tracing::info!(version = env!("CARGO_PKG_VERSION"), spool = %settings.spool.place(), "ready");
    dispatcher.note_start(env!("CARGO_PKG_VERSION")).await;
    notify_systemd(&[NotifyState::Ready]);
    let ended = loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Stop => break Ok(()),
                Signal::Reload => reload(&sources, &mut settings, &dispatcher, &doors).await,
            },
            failure = broken(&dispatcher, &mut doors) => break Err(failure),
        }
    };

    if let Err(failure) = &ended {
        tracing::error!(reason = %failure, "the service cannot go on");
    }
    notify_systemd(&[NotifyState::Stopping]);
    dispatcher.note_stop().await;

    let drain = settings.service.drain_timeout;
    tracing::info!(drain_timeout = %humantime::format_duration(drain), "stopping");
    let closed = tokio::select! {
        closed = close(doors, &dispatcher, &settings) => closed,
        () = signals.stop() => {
            tracing::warn!("stopped at once, as requested; accepted mail stays in the spool");
            Ok(())
        }
    };

    ended.and(closed)
}

/// Waits until the engine or a listener fails, and returns the reason.
async fn broken(dispatcher: &Dispatcher, doors: &mut Doors) -> Failure {
    tokio::select! {
        stopped = dispatcher.stopped() => match stopped {
            Ok(()) => Failure::Failed(
                "the dispatcher has stopped, although no stop was requested".to_owned(),
            ),
            Err(error) => error.into(),
        },
        failure = doors.failed() => failure,
    }
}

async fn close(doors: Doors, dispatcher: &Dispatcher, settings: &Settings) -> Result<(), Failure> {
    let deadline = Instant::now() + settings.service.drain_timeout;
    doors.close(settings).await;
    close_engine(
        dispatcher,
        deadline.saturating_duration_since(Instant::now()),
    )
    .await
}

async fn close_engine(dispatcher: &Dispatcher, drain: Duration) -> Result<(), Failure> {
    match dispatcher.shutdown(Drain::within(drain)).await {
        Ok(true) => tracing::info!("stopped; everything in flight was finished"),
        Ok(false) => tracing::warn!(
            "stopped; what was in flight stays in the spool and is sent at the next start"
        ),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

/// Reads the configuration again. If there is any mistake, the old one stays in force.
async fn reload(
    sources: &Sources,
    settings: &mut Settings,
    dispatcher: &Dispatcher,
    doors: &Doors,
) {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify_systemd(&[NotifyState::Reloading, now]);
    }
    match read_and_apply(sources, settings, dispatcher, doors).await {
        Ok(new) => {
            warn_of_changes_that_need_a_restart(settings, &new);
            tracing::info!(
                "the configuration was read again: relays, routes, priorities, templates, \
                 webhooks, alerts, schedules, tokens and users are as it says"
            );
            *settings = new;
            dispatcher.note_reload(None).await;
        }
        Err(failure) => {
            for mistake in failure.to_string().lines() {
                tracing::error!(
                    mistake,
                    "the configuration could not be reloaded, and the old one stays in force"
                );
            }
            dispatcher.note_reload(Some(failure.to_string())).await;
        }
    }

    notify_systemd(&[NotifyState::Ready]);
}

async fn read_and_apply(
    sources: &Sources,
    old: &Settings,
    dispatcher: &Dispatcher,
    doors: &Doors,
) -> Result<Settings, Failure> {
    let sources = sources.clone();

    let read = tokio::task::spawn_blocking(move || Settings::load(&sources)).await;
    let new = read.map_err(|e| Failure::Failed(format!("reading it was aborted: {e}")))??;
    let engine = config::reload(&new)?;
    let applied = async {
        doors.reload(&new)?;
        doors.reload_notices(&new).await?;
        Ok(dispatcher.reload(engine).await?)
    };

    if let Err(failure) = applied.await {
        doors.reload(old)?;
        doors.reload_notices(old).await?;
        return Err(failure);
    }

    dispatcher.templates().replace(&new.templates.loaded());
    dispatcher.set_quotas(config::quotas(&new));
    Ok(new)
}

fn warn_of_changes_that_need_a_restart(old: &Settings, new: &Settings) {
    let differ = |old: &dyn Debug, new: &dyn Debug| format!("{old:?}") != format!("{new:?}");
    // Tokens, users and certificates were applied already.
    let (mut http, mut smtp) = (new.http.clone(), new.smtp.clone());
    http.tokens.clone_from(&old.http.tokens);
    smtp.users.clone_from(&old.smtp.users);
    if smtp.tls.is_some() == old.smtp.tls.is_some() {
        smtp.tls.clone_from(&old.smtp.tls);
    }

    let rights = |settings: &Settings| {
        let service = &settings.service;
        (service.user.clone(), service.group.clone(), service.confine)
    };

    let sections: [(&str, bool); 8] = [
        ("service", differ(&rights(old), &rights(new))),
        ("spool", differ(&old.spool, &new.spool)),
        ("journal", differ(&old.journal, &new.journal)),
        ("retry", differ(&old.retry, &new.retry)),
        ("status", old.status.is_other_than(&new.status)),
        ("http", differ(&old.http, &http)),
        ("smtp", differ(&old.smtp, &smtp)),
        ("log", differ(&old.log, &new.log)),
    ];

    for (section, _) in sections.iter().filter(|(_, differs)| *differs) {
        tracing::warn!(section, "changes there take effect at the next start");
    }
}

/// Reports the service's state to systemd; does nothing if systemd did not start it.
fn notify_systemd(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(false, state) {
        tracing::warn!(error = %e, "systemd could not be notified");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Listen;
    use crate::transport::{Capture, Relay};

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_gives_up_is_a_failure_that_says_why() {
        let relay = Relay::capture(&Capture::default());
        let dispatcher = Dispatcher::builder()
            .relay(relay)
            .spool_in_memory()
            .start()
            .await
            .unwrap();

        let mut settings = Settings::default();
        settings.http.listen = Listen::Off;
        settings.smtp.listen = Listen::Off;
        let bound = Doors::bind(&settings, None).await.unwrap();
        let mut doors = bound.open(&dispatcher, &settings).await.unwrap();

        let crashing = async {
            loop {
                dispatcher.crash("router");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };

        let failure = tokio::select! {
            failure = broken(&dispatcher, &mut doors) => failure,
            () = crashing => unreachable!("it never ends"),
        };

        assert!(
            failure
                .to_string()
                .starts_with("the dispatcher has stopped: "),
            "{failure}"
        );

        assert!(matches!(failure, Failure::Failed(_)), "exit code 1");
    }
}
