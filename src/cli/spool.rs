//! `postrider spool verify`, `export`, `salvage`, `copy` and `migrate`: the commands for the spool
//! of a stopped service.

use std::path::PathBuf;
use std::process::ExitCode;

use secrecy::SecretString;
use serde::Serialize;

use super::screen::plain;
use super::{ConfigFile, Failure, Screen, runtime};
use crate::config::Settings;
use crate::delivery::printable;
use crate::dispatch::Error;
use crate::spool::postgres::PostgresSpool;
use crate::spool::sled::{export, salvage, verify};
use crate::spool::{SpoolError, SpoolLocation, copy};

#[derive(clap::Subcommand)]
pub(super) enum SpoolCommand {
    /// Read every record of a stopped service's spool, and report what is wrong; changes nothing
    Verify {
        /// The spool's directory or database (postgres://…); that of the configuration when absent
        #[arg(value_name = "SPOOL")]
        spool: Option<String>,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Write every mail of a stopped service's spool to DIR: ID.eml, and ID.json with its envelope;
    /// changes nothing
    #[command(override_usage = "postrider spool export [OPTIONS] [SPOOL] <DIR>")]
    Export {
        /// The directory to write to; before it, the spool's directory or database (that of the
        /// configuration when absent)
        #[arg(value_name = "DIR", num_args = 1..=2, required = true)]
        places: Vec<String>,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Copy a stopped service's spool into a new one, whole or not at all. Each is a directory or a
    /// database (postgres://…); changes nothing in the first
    Copy {
        /// The spool to copy
        #[arg(value_name = "FROM")]
        from: String,
        /// The new spool: a directory that is created, or a database whose schema is empty or does
        /// not exist
        #[arg(value_name = "TO")]
        to: String,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Create the tables of a spool on PostgreSQL, or upgrade them to this version
    Migrate {
        /// The database (postgres://…); that of the configuration when absent
        #[arg(value_name = "SPOOL")]
        spool: Option<String>,
        #[command(flatten)]
        report: ReportArgs,
    },
    /// Recover every record that is whole from a damaged spool into a new one, and report what is
    /// missing; changes nothing in the damaged one
    Salvage {
        /// The damaged spool's directory
        #[arg(value_name = "FROM")]
        from: PathBuf,
        /// The new spool's directory, which is created
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
    /// The schema of a database; that of the configuration, or `postrider`, when absent
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
    /// The file that holds a database's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Answer with JSON
    #[arg(long)]
    json: bool,
}

/// The result of a migration.
#[derive(Serialize)]
struct MigrationReport {
    before: usize,
    after: usize,
}

impl SpoolCommand {
    pub(super) fn execute(self, screen: &mut Screen) -> Result<ExitCode, Failure> {
        match self {
            SpoolCommand::Verify { spool, report } => {
                let place = report.place(spool)?;
                let found = match &place {
                    SpoolLocation::Directory(path) => verify(path),
                    SpoolLocation::Database(database) => runtime()?.block_on(database.verify()),
                };
                let found = found.map_err(failure)?;
                let sums = format!(
                    "{}: mails: {}; deliveries: {} pending, {} delivered, {} dead, {} cancelled; \
                     events: {}; quarantined: {}",
                    name(&place),
                    found.mails,
                    found.pending,
                    found.delivered,
                    found.dead,
                    found.cancelled,
                    found.events,
                    found.quarantined
                );
                print_result(report.json, &found, &sums, screen)?;
                sound(&found.problems, "the rest of the spool is sound")
            }
            SpoolCommand::Export { mut places, report } => {
                let dir = PathBuf::from(places.pop().unwrap_or_default());
                let written = match report.place(places.pop())? {
                    SpoolLocation::Directory(path) => export(&path, &dir),
                    SpoolLocation::Database(database) => runtime()?.block_on(database.export(&dir)),
                };
                let written = written.map_err(failure)?;
                print_result(
                    report.json,
                    &written,
                    &format!("mails written to {}: {}", dir.display(), written.mails),
                    screen,
                )?;
                sound(&written.problems, "everything else was written")
            }
            SpoolCommand::Copy { from, to, report } => {
                let (from, to) = (report.place(Some(from))?, report.place(Some(to))?);
                let sums = format!("{} is now in {}: ", name(&from), name(&to));
                let copied = runtime()?.block_on(copy(from, to)).map_err(failure)?;
                let sums = format!(
                    "{sums}mails: {}; deliveries: {}, {} of them pending; suppressions: {}; \
                     events: {}",
                    copied.mails,
                    copied.deliveries,
                    copied.pending,
                    copied.suppressions,
                    copied.events
                );
                print_result(report.json, &copied, &sums, screen)?;
                Ok(ExitCode::SUCCESS)
            }
            SpoolCommand::Migrate { spool, report } => {
                let SpoolLocation::Database(database) = report.place(spool)? else {
                    let reason = "needs a database: name one (postgres://…), or set `spool.url`";
                    return Err(Failure::Usage(format!("spool migrate {reason}")));
                };
                let migrated = runtime()?.block_on(database.migrate_now());
                let (before, after) = migrated.map_err(failure)?;
                let sums = match before == after {
                    true => format!("{}: version {after} already", database.name()),
                    false => format!("{}: version {before} is now {after}", database.name()),
                };
                print_result(
                    report.json,
                    &MigrationReport { before, after },
                    &sums,
                    screen,
                )?;
                Ok(ExitCode::SUCCESS)
            }
            SpoolCommand::Salvage { from, to, json } => {
                let saved = salvage(&from, &to).map_err(failure)?;
                let sums = format!(
                    "mails written to {}: {}; damaged places: {}; missing: {}",
                    to.display(),
                    saved.mails,
                    saved.damaged,
                    saved.missing.len()
                );
                print_result(json, &saved, &sums, screen)?;
                sound(&saved.missing, "everything else is in the new spool")
            }
        }
    }
}

impl ReportArgs {
    /// The spool that was named, or else that of the configuration.
    fn place(&self, named: Option<String>) -> Result<SpoolLocation, Failure> {
        let Some(named) = named else {
            let spool = Settings::spool(&self.file.sources())?;
            return Ok(match spool.database() {
                Some(database) => SpoolLocation::Database(self.with_options(database)?),
                None => SpoolLocation::Directory(spool.path),
            });
        };

        if !named.starts_with("postgres://") && !named.starts_with("postgresql://") {
            return Ok(SpoolLocation::Directory(named.into()));
        }

        let mut database = PostgresSpool::new(named);
        // If the configuration has a database, its schema is used, even on another server.
        if self.schema.is_none()
            && let Ok(spool) = Settings::spool(&self.file.sources())
            && spool.url.is_some()
        {
            database = database.schema(spool.schema);
        }

        database
            .check()
            .map_err(|reason| Failure::Usage(format!("the database's URL: {reason}")))?;
        Ok(SpoolLocation::Database(self.with_options(database)?))
    }

    fn with_options(&self, mut database: PostgresSpool) -> Result<PostgresSpool, Failure> {
        if let Some(schema) = &self.schema {
            database = database.schema(schema);
        }
        if let Some(file) = &self.password_file {
            let password = std::fs::read_to_string(file)
                .map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
            let password = password.trim_end_matches(['\r', '\n']);
            database = database.password(SecretString::from(password));
        }
        Ok(database)
    }
}

/// A spool's place for messages: its path, or the database's URL without the password.
fn name(place: &SpoolLocation) -> String {
    match place {
        SpoolLocation::Directory(path) => path.display().to_string(),
        SpoolLocation::Database(database) => database.name(),
    }
}

fn failure(error: SpoolError) -> Failure {
    Error::from(error).into()
}

fn print_result(
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
