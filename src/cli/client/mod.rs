//! The commands that call a running service, over its HTTP API.
//!
//! [`ClientCommand`] is flattened into the root's own commands; each command is one file. They
//! share `place`, which finds the service's address and token, `service`, which calls it and turns
//! its refusals into messages, and `screen`, which prints and escapes all output.

mod audit;
mod bounce;
mod dead;
mod filter;
mod health;
mod job;
mod letter;
mod list;
mod mail;
mod manual;
mod node;
mod place;
mod record;
mod relay;
mod schedule;
mod search;
mod search_progress;
mod send;
mod sendmail;
mod service;
mod sse;
mod stats;
mod suppression;
mod tail;
mod template;
mod times;
mod user;
mod webhook;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Failure, Screen};
use place::ServiceOptions;

/// The commands that talk to a running service.
#[derive(Subcommand)]
pub enum ClientCommand {
    /// Submit a mail
    #[command(after_help = send::EXAMPLES)]
    Send(Box<send::Send>),
    /// Show a mail's status
    Status(mail::StatusCommand),
    /// List mails, the newest first
    List(list::ListCommand),
    /// Count mails, by state
    Count(search::Count),
    /// Export mails as CSV or NDJSON
    Export(search::ExportCommand),
    /// Group dead and deferred mail by error or by domain
    Failures(search::FailureGroups),
    /// Show a mail's whole record, and the mail itself
    Show(mail::Show),
    /// Cancel a mail that has not been sent yet
    Cancel(mail::ActCommand),
    /// Send a dead, cancelled or deferred mail again, at once
    Retry(mail::ActCommand),
    /// Delete the mail that a search finds and that has ended, with its records
    Purge(job::Purge),
    /// Manage jobs: operations on many mails
    #[command(subcommand)]
    Job(job::JobCommand),
    /// Follow events as they happen
    Tail(tail::TailCommand),
    /// Show who did what, when, and to how many; the newest first
    Audit(audit::Audit),
    /// Show the service's numbers
    Stats(stats::StatsCommand),
    /// Manage dead letters: mail that could not be delivered
    #[command(subcommand)]
    Dead(dead::Dead),
    /// Manage relays
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Manage suppressions: addresses that get no mail
    #[command(subcommand)]
    Suppression(suppression::SuppressionCommand),
    /// Read a delivery report or a complaint from standard input
    #[command(after_help = bounce::EXAMPLES)]
    Bounce(bounce::Bounce),
    /// Manage the nodes that share the spool
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Manage webhooks
    #[command(subcommand)]
    Webhook(webhook::WebhookCommand),
    /// Manage schedules: mail that is sent at set times
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Manage templates
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Read a message from standard input, as the classic sendmail does
    #[command(after_help = sendmail::MANUAL)]
    Sendmail(sendmail::Sendmail),
    /// Check the service's health; exit code 0 means that it is ready
    Health(health::HealthCommand),
    /// Print completions for a shell
    Completions(manual::Completions),
    /// Print the manual page, or write one for each command
    Man(manual::Man),
}

/// The options of all commands that print an answer of the service.
#[derive(Args)]
pub struct ServiceArgs {
    #[command(flatten)]
    service: ServiceOptions,
    /// Print the service's answer as JSON
    #[arg(long)]
    json: bool,
}

impl ClientCommand {
    /// Runs the command. `root` makes the description of the whole command line, for completions
    /// and manual pages.
    ///
    /// # Errors
    /// A [`Failure`] with one readable message and an exit code.
    pub(super) fn execute(
        self,
        root: impl FnOnce() -> clap::Command,
        screen: &mut Screen,
    ) -> Result<ExitCode, Failure> {
        match self {
            ClientCommand::Send(send) => send.run(screen),
            ClientCommand::Status(status) => status.run(screen),
            ClientCommand::List(list) => list.run(screen),
            ClientCommand::Count(count) => count.run(screen),
            ClientCommand::Export(export) => export.run(screen),
            ClientCommand::Failures(failures) => failures.run(screen),
            ClientCommand::Job(job) => job.run(screen),
            ClientCommand::Show(show) => show.run(screen),
            ClientCommand::Cancel(act) => act.run("cancel", screen),
            ClientCommand::Retry(act) => act.run("retry", screen),
            ClientCommand::Purge(purge) => purge.run(screen),
            ClientCommand::Tail(tail) => tail.run(screen),
            ClientCommand::Audit(audit) => audit.run(screen),
            ClientCommand::Stats(stats) => stats.run(screen),
            ClientCommand::Dead(dead) => dead.run(screen),
            ClientCommand::Relay(relay) => relay.run(screen),
            ClientCommand::Suppression(suppression) => suppression.run(screen),
            ClientCommand::Bounce(bounce) => bounce.run(screen),
            ClientCommand::Node(node) => node.run(screen),
            ClientCommand::Webhook(webhook) => webhook.run(screen),
            ClientCommand::Schedule(schedule) => schedule.run(screen),
            ClientCommand::Template(template) => template.run(screen),
            ClientCommand::Sendmail(sendmail) => Ok(sendmail.run(screen)),
            ClientCommand::Health(health) => health.run(screen),
            ClientCommand::Completions(completions) => completions.run(root(), screen),
            ClientCommand::Man(man) => man.run(root(), screen),
        }
    }
}

/// The arguments to parse: if the binary is called as `sendmail`, `mailq` or `newaliases`, by a
/// link to it, these are those of `postrider sendmail`.
pub fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = given.into_iter().collect();
    let called = arguments
        .first()
        .and_then(|name| Path::new(name).file_stem());
    let task = match called.and_then(|name| name.to_str()) {
        Some("sendmail") => None,
        Some("mailq") => Some("-bp"),
        Some("newaliases") => Some("-bi"),
        _ => return arguments,
    };

    // After `--` every word belongs to sendmail, even one that looks like an option of ours.
    let words = ["sendmail", "--"]
        .into_iter()
        .chain(task)
        .map(OsString::from);

    arguments.splice(1..1, words);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_named_sendmail_is_the_sendmail_command() {
        let meant = |words: &[&str]| arguments(words.iter().map(OsString::from)).join(" ".as_ref());
        assert_eq!(
            meant(&["/usr/sbin/sendmail", "-t", "--", "-x"]),
            "/usr/sbin/sendmail sendmail -- -t -- -x"
        );
        assert_eq!(meant(&["/usr/bin/mailq"]), "/usr/bin/mailq sendmail -- -bp");
        assert_eq!(
            meant(&["newaliases", "-v"]),
            "newaliases sendmail -- -bi -v"
        );
        assert_eq!(meant(&["postrider", "send"]), "postrider send");
    }
}
