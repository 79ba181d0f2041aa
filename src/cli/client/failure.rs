//! Why a command did not do what it was asked, and the exit code that says so.

use std::io;
use std::process::ExitCode;

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// The work can be tried again later: `EX_TEMPFAIL` of sysexits.h.
pub(super) const TRY_LATER: u8 = 75;

/// Why a command did not do what it was asked. Displayed, it is one message for a person, safe to
/// print.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or the environment asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// It was tried, and cannot be done.
    #[error("{0}")]
    Failed(String),
    /// It cannot be done now, and may be possible later.
    #[error("{0}")]
    TryLater(String),
    /// The service answered, and said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer cannot be written to standard output.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

/// What the service said when it said no.
#[derive(Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What is wrong, for a person.
    pub message: String,
    /// The fields that are wrong, as JSON pointers.
    pub pointers: Vec<String>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl Refusal {
    /// Whether the same request may be granted later.
    pub fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 425 | 429 | 502 | 503 | 504)
    }
}

impl Failure {
    /// 1 failed, 2 wrong usage, 75 try later.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) => ExitCode::from(USAGE),
            Failure::TryLater(_) => ExitCode::from(TRY_LATER),
            Failure::Refused(refusal) if refusal.is_transient() => ExitCode::from(TRY_LATER),
            Failure::Failed(_) | Failure::Refused(_) | Failure::Output(_) => ExitCode::FAILURE,
        }
    }
}
