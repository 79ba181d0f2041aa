//! The command line: reads it, and hands each command to its room.

pub mod client;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use client::ClientCommand;

/// A durable mail dispatcher: hand it a mail and go on at once.
#[derive(Parser)]
#[command(name = "postrider", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Client(ClientCommand),
}

/// Does what the command line asks for. Errors go to standard error as one readable message.
pub fn main() -> ExitCode {
    let Command::Client(command) = Cli::parse_from(client::arguments(std::env::args_os())).command;
    match command.execute(Cli::command) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("postrider: {failure}");
            failure.exit_code()
        }
    }
}
