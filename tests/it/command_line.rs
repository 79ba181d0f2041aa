//! The commands that talk to a service: the real binary, against a scripted service on loopback.
#![cfg(feature = "server")]

mod audit;
mod end_to_end;
mod operate;
mod place;
mod record;
mod scripted;
#[cfg(target_os = "linux")]
mod secured;
mod send;
mod sendmail;
mod suppression;
mod tail;
mod template;

use std::io::Write;
use std::process::{Command, Stdio};

use scripted::ScriptedService;

/// An id as the service gives them.
const ID: &str = "0199c0de-0000-7000-8000-000000000001";

/// What a command printed, and how it ended.
#[derive(Debug)]
struct CommandResult {
    code: i32,
    out: String,
    err: String,
}

/// The binary, in an environment that says nothing about a service.
fn postrider() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    for name in [
        "POSTRIDER_URL",
        "POSTRIDER_TOKEN",
        "NO_COLOR",
        "HTTP_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }

    command.env("TZ", "UTC").stdin(Stdio::null());
    command
}

/// Runs a command against a service.
fn run(service: &ScriptedService, words: &[&str]) -> CommandResult {
    finish(
        postrider().args(words).env("POSTRIDER_URL", service.url()),
        b"",
    )
}

/// Runs a command against a service, with this on standard input.
fn run_with(service: &ScriptedService, words: &[&str], input: &[u8]) -> CommandResult {
    finish(
        postrider().args(words).env("POSTRIDER_URL", service.url()),
        input,
    )
}

fn finish(command: &mut Command, input: &[u8]) -> CommandResult {
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    if let Some(mut stdin) = child.stdin.take() {
        // A command that refuses its arguments does not read its input.
        let _ = stdin.write_all(input);
    }

    let output = child.wait_with_output().unwrap();
    CommandResult {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl CommandResult {
    /// It did what it was asked, and has nothing to complain about.
    #[track_caller]
    fn well(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    /// It failed with this code, printing nothing but one message.
    #[track_caller]
    fn failed(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{}", self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self.err
    }
}
