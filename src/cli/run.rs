//! `postrider run`: the service, from its first signal to its last.
//!
//! SIGTERM and SIGINT close the doors, finish what is in flight within `service.drain_timeout`, sync and exit; a second one
//! stops at once, and what was accepted is in the spool. SIGHUP reads the configuration again: applied whole, or refused
//! whole with the old one kept.

use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout_at};

use super::doors::Doors;
use super::{ConfigFile, Failure, logging};
use crate::config::{self, Settings, Sources};
use crate::dispatch::{Dispatcher, Drain, Reload};

#[derive(clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    file: ConfigFile,
}

impl Run {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (sources, settings) = self.file.load()?;
        logging::start(&settings.log)?;
        let runtime = super::runtime()?;
        let done = runtime.block_on(serve(sources, settings));
        // Whatever still blocks must not hold up a stop that was asked for.
        runtime.shutdown_timeout(Duration::from_secs(1));
        done
    }
}
