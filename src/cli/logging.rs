//! Log lines on standard error, as `[log]` says; the variable RUST_LOG wins over `log.level`.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use crate::config::{Log, LogFormat};

/// Begins to log.
pub(super) fn start(log: &Log) -> Result<(), Failure> {
    // The variable RUST_LOG has been laid over the level already, and both have been checked.
    let filter = EnvFilter::try_new(&log.level)
        .map_err(|e| Failure::Usage(format!("log.level cannot be read: {e}")))?;
    let filter = match log.accepted {
        true => filter,
        false => filter.add_directive(
            "postrider::accepted=off"
                .parse()
                .map_err(|e| Failure::Failed(format!("cannot log: {e}")))?,
        ),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let started = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => {
            let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            lines.with_ansi(colours).finish().try_init()
        }
    };
    started.map_err(|e| Failure::Failed(format!("cannot log: {e}")))
}

/// A panic is a bug of ours, told in one line: in the log where there is one. An actor that panics
/// is re-created.
pub(super) fn tell_panics_in_a_line() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let reason = payload
            .downcast_ref::<&str>()
            .copied()
            .or(payload.downcast_ref::<String>().map(String::as_str));
        let reason = crate::delivery::printable(reason.unwrap_or("no reason given"));
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(place, reason, "a bug in postrider: please report it");
        } else {
            eprintln!("postrider: a bug, please report it: {reason} (at {place})");
        }
    }));
}
