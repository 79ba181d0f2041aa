//! Why a command failed, with its exit code.

use std::io;
use std::process::ExitCode;

use serde_json::json;

use super::FieldError;
use super::screen::{Screen, note};
use crate::config::{Mistake, Mistakes};
use crate::dispatch::Error;
use crate::spool::SpoolError;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The work can be tried again later: `EX_TEMPFAIL` of sysexits.h.
pub(super) const TRY_LATER: u8 = 75;

/// Why a command failed. Its display is one message for a person, safe to print.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error("{0}")]
    Configuration(#[from] Mistakes),
    /// It failed, and would fail again.
    #[error("{0}")]
    Failed(String),
    /// It failed now, and may succeed later.
    #[error("{0}")]
    TryLater(String),
    /// The service refused it.
    #[error("{0}")]
    Refused(Box<ServiceRefusal>),
    /// It was logged already; this is the exit code.
    #[error("the reason is in the log")]
    Logged(u8),
    /// The output cannot be written to standard output.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// A refusal by the service.
#[derive(Debug)]
pub struct ServiceRefusal {
    /// The HTTP status.
    pub status: u16,
    /// The message for a person.
    pub message: String,
    /// What is wrong with each field.
    pub errors: Vec<FieldError>,
    /// The service's answer, if it is a problem in the form of RFC 9457.
    pub problem: Option<serde_json::Value>,
}

impl std::fmt::Display for ServiceRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl ServiceRefusal {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 502 | 503 | 504)
    }
}

impl Failure {
    /// 1 failed, 2 wrong usage or configuration, 75 try later.
    pub fn code(&self) -> u8 {
        match self {
            Failure::Usage(_) | Failure::Configuration(_) => USAGE,
            Failure::TryLater(_) => TRY_LATER,
            Failure::Logged(code) => *code,
            Failure::Refused(refusal) if refusal.is_transient() => TRY_LATER,
            Failure::Failed(_) | Failure::Refused(_) | Failure::Output(_) => 1,
        }
    }

    /// The exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    /// Prints it to standard error: as text, or as one line of JSON.
    pub fn print(&self, as_json: bool) {
        match self {
            Failure::Logged(_) => {}
            _ if as_json => {
                let json = self.json().to_string();
                // If it cannot be printed, only the exit code is left.
                let _ = Screen::for_notes().json(json.as_bytes());
            }
            // One line per mistake and nothing else, so that programs can read them.
            Failure::Configuration(mistakes) => note(mistakes),
            _ => note(format_args!("postrider: {self}")),
        }
    }

    /// `{"error": …, "exit_code": …}` and the details that are known.
    fn json(&self) -> serde_json::Value {
        let mut fields = json!({"error": self.to_string(), "exit_code": self.code()});
        match self {
            Failure::Refused(refusal) => {
                fields["status"] = refusal.status.into();
                if !refusal.errors.is_empty() {
                    fields["errors"] = json!(refusal.errors);
                }
                if let Some(problem) = &refusal.problem {
                    fields["problem"] = problem.clone();
                }
            }
            Failure::Configuration(Mistakes(mistakes)) => fields["mistakes"] = json!(mistakes),
            _ => {}
        }

        fields
    }
}

impl From<Mistake> for Failure {
    fn from(mistake: Mistake) -> Self {
        Failure::Configuration(Mistakes(vec![mistake]))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Configuration(_) | Error::Relay { .. } => Failure::Usage(message),
            Error::Full { .. }
            | Error::SpoolFull { .. }
            | Error::Spool(
                SpoolError::Locked(_)
                | SpoolError::Unreachable { .. }
                | SpoolError::DiskFull { .. },
            ) => Failure::TryLater(message),
            _ => Failure::Failed(message),
        }
    }
}
