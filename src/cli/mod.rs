//! The command line: reads it, and hands each command to its room. One file a command.

mod bench;
mod check;
pub mod client;
mod demo;
mod dkim;
mod doors;
mod failure;
mod init;
mod logging;
mod run;
mod spool;

pub use failure::Failure;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Mistakes, Settings, Sources};

/// A durable mail dispatcher: hand it a mail and go on at once.
#[derive(Parser)]
#[command(
    name = "postrider",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 75 try again later."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service, in the foreground
    Run(run::Run),
    /// Send mails through the real engine into a sink of its own, to see it work
    Demo(demo::Demo),
    /// Look for mistakes in the configuration
    Check(check::Check),
    /// Write a commented configuration to start from
    Init(init::Init),
    /// Make a key that signs mail, and print its DNS record
    #[command(subcommand)]
    Dkim(dkim::Dkim),
    /// Look into the spool of a stopped service
    #[command(subcommand)]
    Spool(spool::Spool),
    /// Measure the engine against yardsticks in the same run; needs Postfix's smtp-sink and
    /// smtp-source
    Bench(bench::Bench),
    #[command(flatten)]
    Client(client::ClientCommand),
}

/// Which configuration file to read.
#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration; else the first of postrider.toml, config/postrider.toml,
    /// /etc/postrider/postrider.toml
    #[arg(long, value_name = "FILE", env = "POSTRIDER_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(self) -> Result<(Sources, Settings), Mistakes> {
        let sources = Sources::of_process(self.config);
        Settings::load(&sources).map(|settings| (sources, settings))
    }
}

/// Does what the command line asks for. Errors go to standard error as one readable message.
pub fn main() -> ExitCode {
    logging::tell_panics_in_a_line();
    let done = match Cli::parse_from(client::arguments(std::env::args_os())).command {
        Command::Run(run) => run.execute(),
        Command::Demo(demo) => demo.execute(),
        Command::Check(check) => check.execute(),
        Command::Init(init) => init.execute(),
        Command::Dkim(dkim) => dkim.execute(),
        Command::Spool(spool) => spool.execute(),
        Command::Bench(bench) => bench.execute(),
        Command::Client(client) => {
            return client.execute(Cli::command).unwrap_or_else(|failure| {
                eprintln!("postrider: {failure}");
                failure.exit_code()
            });
        }
    };
    exit_code(done)
}

/// `postrider bench` alone, for `cargo bench`.
pub fn bench() -> ExitCode {
    // Cargo adds this to what it was told itself.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    exit_code(bench::Bench::parse_from(arguments).execute())
}

fn exit_code(done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit_code()
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    built.map_err(|e| Failure::Failed(format!("cannot start threads: {e}")))
}
