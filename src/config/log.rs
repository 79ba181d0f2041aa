//! `[log]`: what is logged, and how.

use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use super::layers::LOG_VARIABLE;
use super::mistake::MistakeReport;

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Whether each accepted mail is logged at INFO.
    pub accepted: bool,
    /// The format of a line.
    pub format: LogFormat,
    /// What is logged: a level, or tracing's directives.
    pub level: String,
}

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs, one JSON object per line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            accepted: true,
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl Log {
    pub(super) fn check(&self, report: &mut MistakeReport<'_>) {
        // A single word that is not a level would be taken for a module's name, and would silence
        // everything else. RUST_LOG belongs to all Rust programs, and may name a module.
        let is_ours = report.source_of("log.level") != LOG_VARIABLE;

        let word = is_ours && !self.level.contains(['=', ',', '[']);
        if (word
            && self
                .level
                .parse::<tracing::level_filters::LevelFilter>()
                .is_err())
            || EnvFilter::try_new(&self.level).is_err()
        {
            let level = self.level.escape_debug();
            report.add(
                "log.level",
                format!(
                    "`{level}` is not one of off, error, warn, info, debug, trace, nor directives \
                     such as info,postrider=debug"
                ),
            );
        }
    }
}
