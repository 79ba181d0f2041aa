//! What the system reports about this process, and the programs that a benchmark starts.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cli::Failure;

/// A running `smtp-sink`, which accepts every mail and keeps none. It ends when this is dropped.
pub(super) struct SinkProcess {
    process: Child,
    pub port: u16,
}

impl SinkProcess {
    pub(super) fn start() -> Result<Self, Failure> {
        let fail = |e: std::io::Error| {
            Failure::Failed(format!(
                "smtp-sink cannot be started ({e}); install postfix"
            ))
        };

        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|free| free.local_addr())
            .map_err(fail)?
            .port();

        let mut command = Command::new("smtp-sink");
        command.args(["-u", "nobody", &format!("127.0.0.1:{port}"), "1024"]);
        let process = command
            .env("PATH", path())
            .stdout(Stdio::null())
            .spawn()
            .map_err(fail)?;
        let sink = SinkProcess { process, port };

        let deadline = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > deadline {
                return Err(Failure::Failed("smtp-sink does not answer".into()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }

        Ok(sink)
    }

    /// The rate of `smtp-source` into it with this many connections, in mails a second.
    pub(super) fn yardstick(
        &self,
        count: usize,
        size: usize,
        connections: usize,
    ) -> Result<f64, Failure> {
        let started = Instant::now();
        let mut command = Command::new("smtp-source");
        let (connections, size, count_text) =
            (connections.to_string(), size.to_string(), count.to_string());

        let to = format!("127.0.0.1:{}", self.port);
        command
            .args([
                "-d",
                "-s",
                &connections,
                "-l",
                &size,
                "-m",
                &count_text,
                &to,
            ])
            .env("PATH", path());

        match command.status() {
            Ok(status) if status.success() => Ok(count as f64 / started.elapsed().as_secs_f64()),
            Ok(status) => Err(Failure::Failed(format!("smtp-source ended with {status}"))),
            Err(e) => Err(Failure::Failed(format!(
                "smtp-source cannot be started ({e}); install postfix"
            ))),
        }
    }
}

impl Drop for SinkProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A PATH with the directories of Postfix's programs, which are in root's only.
fn path() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default())
}

/// The CPU seconds of this process so far.
pub(super) fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();

    // utime and stime (proc(5)), in hundredths of a second wherever Linux runs today.
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|ticks| ticks.parse::<f64>().ok())
            .unwrap_or_default()
    };

    (ticks(11) + ticks(12)) / 100.0
}

/// The CPU seconds so far of this process's living threads with this name.
pub(super) fn thread_seconds(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten();
    let nanoseconds = tasks.flatten().filter_map(|task| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        let is_meant = read("comm").is_some_and(|comm| comm.trim_end() == name);
        // The first number is the time on a processor (proc-pid-schedstat).
        let spent = read("schedstat").filter(|_| is_meant)?;
        spent.split_whitespace().next()?.parse::<u64>().ok()
    });
    nanoseconds.sum::<u64>() as f64 / 1e9
}

/// The most memory that this process has had, in megabytes.
pub(super) fn peak_megabytes() -> u64 {
    megabytes("VmHWM")
}

/// The memory that this process has now, in megabytes.
pub(super) fn resident_megabytes() -> u64 {
    megabytes("VmRSS")
}

fn megabytes(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with(what))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or_default()
        / 1024
}
