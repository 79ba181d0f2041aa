//! `postrider spool verify`, `export` and `salvage`: what is done to a spool that no service has
//! open.

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::screen::plain;
use super::{ConfigFile, Failure, Screen};
use crate::config::Settings;
use crate::delivery::printable;
use crate::dispatch::Error;
use crate::spool::SpoolError;
use crate::spool::sled::{export, salvage, verify};

#[derive(clap::Subcommand)]
pub(super) enum Spool {
    /// Read every record of a stopped spool, and say what is wrong; changes nothing
    Verify {
        /// The spool's directory; `spool.path` of the configuration when absent
        #[arg(value_name = "SPOOL")]
        path: Option<PathBuf>,
        #[command(flatten)]
        told: ReportArgs,
    },
    /// Write every mail of a stopped spool to DIR: ID.eml, and ID.json with its envelope; changes
    /// nothing
    #[command(override_usage = "postrider spool export [OPTIONS] [SPOOL] <DIR>")]
    Export {
        /// Where to write; before it the spool's directory, `spool.path` of the configuration when
        /// absent
        #[arg(value_name = "DIR", num_args = 1..=2, required = true)]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        told: ReportArgs,
    },
    /// Write every record that is whole in a damaged spool to a new one, and say what is missing;
    /// changes nothing in the damaged one
    Salvage {
        /// The damaged spool's directory
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// The new spool's directory, which is made
        #[arg(value_name = "TO")]
        to: PathBuf,
        /// Answer with JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

impl Spool {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            Spool::Verify { path, told } => {
                let json = told.json;
                let path = told.spool(path)?;
                let found = verify(&path).map_err(failure)?;
                let sums = format!(
                    "{}: mails: {}; deliveries: {} pending, {} delivered, {} dead, {} cancelled; events: {}; quarantined: {}",
                    path.display(),
                    found.mails,
                    found.pending,
                    found.delivered,
                    found.dead,
                    found.cancelled,
                    found.events,
                    found.quarantined
                );
                tell(json, &found, &sums, screen)?;
                sound(&found.problems, "the rest of the spool is sound")
            }
            Spool::Export { mut paths, told } => {
                let json = told.json;
                let dir = paths.pop().unwrap_or_default();
                let path = told.spool(paths.pop())?;
                let written = export(&path, &dir).map_err(failure)?;
                tell(
                    json,
                    &written,
                    &format!("mails written to {}: {}", dir.display(), written.mails),
                    screen,
                )?;
                sound(&written.problems, "everything else was written")
            }
            Spool::Salvage { from, to, json } => {
                let saved = salvage(&from, &to).map_err(failure)?;
                let sums = format!(
                    "mails written to {}: {}; damaged places: {}; missing: {}",
                    to.display(),
                    saved.mails,
                    saved.damaged,
                    saved.missing.len()
                );
                tell(json, &saved, &sums, screen)?;
                sound(&saved.missing, "everything else is in the new spool")
            }
        }
    }
}

impl ReportArgs {
    fn spool(self, path: Option<PathBuf>) -> Result<PathBuf, Failure> {
        match path {
            Some(path) => Ok(path),
            None => Ok(Settings::spool_path(&self.file.sources())?),
        }
    }
}

fn failure(error: SpoolError) -> Failure {
    Error::from(error).into()
}

fn tell(
    json: bool,
    found: &impl Serialize,
    sums: &str,
    screen: &mut Screen,
) -> Result<(), Failure> {
    if json {
        let text =
            serde_json::to_string_pretty(found).map_err(|e| Failure::Failed(e.to_string()))?;
        screen.json(text.as_bytes())?;
    } else {
        screen.line(&[plain(sums)])?;
    }
    Ok(())
}

fn sound(problems: &[String], otherwise: &str) -> Result<ExitCode, Failure> {
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let lines: Vec<String> = problems.iter().map(|problem| printable(problem)).collect();
    Err(Failure::Failed(format!(
        "problems: {}; {otherwise}:\n  {}",
        lines.len(),
        lines.join("\n  ")
    )))
}
