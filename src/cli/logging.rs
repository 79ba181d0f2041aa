//! Log lines on standard error, as `[log]` says; the variable RUST_LOG wins over `log.level`.

use std::io::{IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Failure;
use super::log_fields::LogFields;
use super::screen::note;
use crate::config::{Log, LogFormat};
use crate::mail::is_harmless;

/// Starts logging.
pub(super) fn start(log: &Log) -> Result<(), Failure> {
    // RUST_LOG has replaced the level already, and both were checked.
    let filter = EnvFilter::try_new(directives(&log.level))
        .map_err(|e| Failure::Usage(format!("log.level cannot be read: {e}")))?;
    let filter = match log.accepted {
        true => filter,
        false => filter.add_directive(
            "postrider::accepted=off"
                .parse()
                .map_err(|e| Failure::Failed(format!("cannot log: {e}")))?,
        ),
    };

    let colours = log.format == LogFormat::Text
        && stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || SanitizedWriter(stderr(), colours));
    let started = match log.format {
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => lines
            .with_ansi(colours)
            .fmt_fields(LogFields)
            .finish()
            .try_init(),
    };

    started.map_err(|e| Failure::Failed(format!("cannot log: {e}")))
}

/// The levels of libraries if everything of the service is to be logged.
const LIBRARIES: &str = "sled=warn,rustls=warn,hyper=info,hyper_util=info,h2=info,ractor=info,\
                         html5ever=info,tokio_postgres=info";

/// The directives for a configured level. `debug` and `trace` mean the service alone: what
/// libraries log about pages, handshakes and frames is left out unless they are named.
fn directives(level: &str) -> String {
    let mut named = level.split(',').map(|one| one.trim().to_ascii_lowercase());
    match named.any(|one| ["debug", "trace"].contains(&one.as_str())) {
        true => format!("{LIBRARIES},{level}"),
        false => level.to_owned(),
    }
}

/// Escapes all characters that move the cursor, end the line or reverse the reading direction, in
/// whatever part of a line and in whatever format. With colours, which begin with ESC, that
/// character is left: in values it was escaped before.
struct SanitizedWriter<W>(W, bool);

impl<W: Write> Write for SanitizedWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let passes = |c: char| c == '\n' || is_harmless(c) || (self.1 && c == '\u{1b}');
        if text.chars().all(passes) {
            self.0.write_all(bytes)?;
            return Ok(bytes.len());
        }

        let mut line = String::with_capacity(text.len());
        for c in text.chars() {
            match passes(c) {
                true => line.push(c),
                // JSON's own escape; every such character is below U+10000.
                false => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            }
        }

        self.0.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Reports a panic in one line: in the log, or on standard error before there is one. A panic is a
/// bug of ours; an actor that panics is re-created.
pub(super) fn report_panics_in_one_line() {
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
            note(format_args!(
                "postrider: a bug, please report it: {reason} (at {place})"
            ));
        }
    }));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_line_has_a_character_that_a_terminal_obeys() {
        let written = |text: &str, colours| {
            let mut line = Vec::new();
            SanitizedWriter(&mut line, colours)
                .write_all(text.as_bytes())
                .unwrap();
            String::from_utf8(line).unwrap()
        };

        assert_eq!(
            written("to \u{202e}adA\u{7}\r\n", false),
            "to \\u202eadA\\u0007\\u000d\n"
        );

        assert_eq!(written("\u{1b}[1mgrün\n", true), "\u{1b}[1mgrün\n");
        assert_eq!(written("\u{1b}[1m", false), "\\u001b[1m");
    }
}
