//! The command line: parses the arguments and runs the command. There is one file for each command.

mod bench;
mod check;
pub mod client;
mod demo;
mod descriptors;
mod dkim;
mod doors;
mod failure;
mod field;
mod init;
mod log_fields;
mod logging;
mod privileges;
mod run;
mod screen;
mod spool;

pub use failure::{Failure, ServiceRefusal};
pub use field::FieldError;

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Mistakes, Settings, Sources};
use screen::Screen;

/// A durable mail dispatcher: it stores mail on disk before it acknowledges it, and then delivers
/// it.
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
    /// Send mails through the real engine into a mail server of its own, to see it work
    Demo(demo::Demo),
    /// Check the configuration for mistakes
    Check(check::CheckCommand),
    /// Write a commented configuration to start from
    Init(init::Init),
    /// Make a key that signs mail, and print its DNS record
    #[command(subcommand)]
    Dkim(dkim::DkimCommand),
    /// Inspect the spool of a stopped service
    #[command(subcommand)]
    Spool(spool::SpoolCommand),
    /// Measure the engine beside a baseline in the same run; needs Postfix's smtp-sink and
    /// smtp-source
    Bench(bench::BenchCommand),
    #[command(flatten)]
    Client(client::ClientCommand),
}

/// Which configuration file to read.
#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration; else the first of postrider.toml, config/postrider.toml,
    /// /etc/postrider/postrider.toml [env: POSTRIDER_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn sources(&self) -> Sources {
        Sources::of_process(self.config.clone())
    }

    fn load(self) -> Result<(Sources, Settings), Mistakes> {
        let sources = self.sources();
        Settings::load(&sources).map(|settings| (sources, settings))
    }
}

/// Runs the command line of this process, and returns its exit code. Errors are printed to standard
/// error as one readable message, or with `--json` as JSON.
pub fn main() -> ExitCode {
    logging::report_panics_in_one_line();
    let arguments = client::arguments(std::env::args_os());
    let as_json = arguments.iter().any(|argument| argument == "--json");
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help and version are no errors.
        Err(error) if as_json && error.use_stderr() => {
            return finish(Err(Failure::Usage(usage(&error))), true);
        }
        Err(error) => error.exit(),
    };

    // Files that libraries create, such as sled's, are readable by their owner only, like our own.
    // Manual pages are for everybody.
    #[cfg(target_os = "linux")]
    if !matches!(cli.command, Command::Client(_)) {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    }

    let mut screen = Screen::new();
    let done = match cli.command {
        Command::Run(run) => run.execute().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.execute(&mut screen).map(|()| ExitCode::SUCCESS),
        Command::Check(check) => check.execute(&mut screen),
        Command::Init(init) => init.execute(&mut screen),
        Command::Dkim(dkim) => dkim.execute(&mut screen).map(|()| ExitCode::SUCCESS),
        Command::Spool(spool) => spool.execute(&mut screen),
        Command::Bench(bench) => bench.execute(&mut screen).map(|()| ExitCode::SUCCESS),
        Command::Client(client) => client.execute(Cli::command, &mut screen),
    };

    finish(done, as_json)
}

/// clap's error as one line, without its heading.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let first = text.split("\n\n").next().unwrap_or(text);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs `postrider bench`, for `cargo bench`.
pub fn bench() -> ExitCode {
    // Cargo adds this argument itself.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    let done = bench::BenchCommand::parse_from(arguments).execute(&mut Screen::new());
    finish(done.map(|()| ExitCode::SUCCESS), false)
}

/// Prints the error, if there is one, and returns the exit code.
fn finish(done: Result<ExitCode, Failure>, as_json: bool) -> ExitCode {
    match done {
        Ok(code) => code,
        // The reader of the output has closed it, as in `postrider list | head`.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print(as_json);
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
