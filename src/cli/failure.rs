//! Why a command of the server's side did not do what it was asked, and the exit code that says so.

use std::process::ExitCode;

use crate::config::Mistakes;
use crate::dispatch::Error;
use crate::spool::SpoolError;

/// Why a command did not do what it was asked. Displayed, it is a message for a person.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line asks for something that makes no sense, or the environment does.
    #[error("postrider: {0}")]
    Usage(String),
    /// The configuration is wrong: one line for each mistake, and nothing else, so that programs
    /// can read them.
    #[error("{0}")]
    Configuration(#[from] Mistakes),
    /// It was tried, and cannot be done.
    #[error("postrider: {0}")]
    Failed(String),
    /// It cannot be done now, and may be possible later.
    #[error("postrider: {0}")]
    TryLater(String),
}

impl Failure {
    /// 1 failed, 2 wrong usage or configuration, 75 try later.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) | Failure::Configuration(_) => ExitCode::from(2),
            Failure::Failed(_) => ExitCode::FAILURE,
            Failure::TryLater(_) => ExitCode::from(75),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::Configuration(_) | Error::Relay { .. } => Failure::Usage(message),
            Error::Full { .. } | Error::Spool(SpoolError::Locked(_)) => Failure::TryLater(message),
            _ => Failure::Failed(message),
        }
    }
}
