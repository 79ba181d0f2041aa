//! The service as a process of its own, what it says and how much it takes, and small clients of
//! its doors.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

/// Nothing that is asked of it takes this long unless it hangs.
const WAIT_LIMIT: Duration = Duration::from_secs(40);

/// The binary's `run` in this directory, with this configuration.
pub fn configured(dir: &Path, config: &str) -> Command {
    std::fs::write(dir.join("postrider.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("run");
    clean(&mut command, dir);
    command
}

/// The same, started by a shell that says `first` before, such as `ulimit -n 64`.
pub fn configured_after(dir: &Path, config: &str, first: &str) -> Command {
    std::fs::write(dir.join("postrider.toml"), config).unwrap();
    let mut command = Command::new("sh");
    command.args([
        "-c",
        &format!("{first} && exec \"$0\" run"),
        env!("CARGO_BIN_EXE_postrider"),
    ]);
    clean(&mut command, dir);
    command
}

fn clean(command: &mut Command, dir: &Path) {
    command
        .current_dir(dir)
        .env_remove("POSTRIDER_CONFIG")
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET");
}

/// A configuration with both doors on free ports, a spool and one relay named `primary`; `more`
/// follows it.
pub fn configuration(spool: &Path, relay: &str, more: &str) -> String {
    format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[smtp]\nlisten = \"127.0.0.1:0\"\n\
         hostname = \"door.example\"\n\
         [[relays]]\nname = \"primary\"\nurl = \"{relay}\"\nclient_name = \"client.example\"\n\
         {more}\n{}",
        super::test_spool::section(spool)
    )
}

/// A running service; dropping it kills it.
pub struct Service {
    child: Child,
    log: Arc<Mutex<String>>,
    pub http: SocketAddr,
    pub smtp: SocketAddr,
}

impl Service {
    /// Starts it, and waits until its doors are open.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stderr(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();

        let log = Arc::new(Mutex::new(String::new()));
        let (said, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let mut said = said.lock();
                said.push_str(&String::from_utf8_lossy(&line));
                said.push('\n');
            }
        });

        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut service = Service {
            child,
            log,
            http: nowhere,
            smtp: nowhere,
        };

        service.http = service.door("HTTP door open");
        service.smtp = service.door("SMTP door open");
        service.says(" ready ");
        service
    }

    fn door(&mut self, words: &str) -> SocketAddr {
        self.says(words);
        let log = self.log();
        let line = log.lines().find(|line| line.contains(words)).unwrap();
        line.split("listen=")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// Waits until it has logged these words.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        let begun = Instant::now();
        while !self.log().contains(words) {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended with {ended:?}: {}", self.log());
            assert!(
                begun.elapsed() < WAIT_LIMIT,
                "it does not say {words}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn get(&self, path: &str) -> Answer {
        call(self.http, "GET", path, "")
    }

    pub fn post(&self, path: &str, body: &str) -> Answer {
        call(self.http, "POST", path, body)
    }

    /// Hands in a small mail over HTTP.
    pub fn hand_in(&self, to: &str, text: &str) -> Answer {
        let mail = serde_json::json!({"from": "shop@example.com", "to": to, "subject": "Your code",
            "text": text});
        self.post("/v1/mails", &mail.to_string())
    }

    /// Hands in so many small mails to `{name}{n}@example.org`, and returns their ids. All must be
    /// taken.
    pub fn hand_in_many(&self, name: &str, count: usize, text: &str) -> Vec<String> {
        let hand_in = |n| {
            let answer = self.hand_in(&format!("{name}{n}@example.org"), text);
            assert_eq!(answer.status, 202, "{answer:?}\n{}", self.log());
            answer.json()["id"].as_str().unwrap().to_owned()
        };
        (0..count).map(hand_in).collect()
    }

    /// Hands in a small mail over SMTP, and returns what was answered to the final dot, or to what
    /// was refused before.
    pub fn say(&self, to: &str) -> String {
        submit(self.smtp, to).unwrap_or_else(|e| panic!("{e}: {}", self.log()))
    }

    /// The state of a mail.
    pub fn state(&self, id: &str) -> String {
        let answer = self.get(&format!("/v1/mails/{id}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["state"].as_str().unwrap().to_owned()
    }

    /// Waits until each of these mails is in this state.
    #[track_caller]
    pub fn become_all(&self, ids: &[String], state: &str) {
        for id in ids {
            let begun = Instant::now();
            while self.state(id) != state {
                let last = self.get(&format!("/v1/mails/{id}"));
                assert!(
                    begun.elapsed() < WAIT_LIMIT,
                    "{id} is never {state}: {last:?}\n{}",
                    self.log()
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Whether it says that it is ready, and why not.
    pub fn readiness(&self) -> (bool, String) {
        let answer = self.get("/health/ready");
        (answer.status == 200, answer.body)
    }

    /// Resident memory, in KiB.
    pub fn memory(&self) -> u64 {
        self.kibibytes("VmRSS:")
    }

    /// The most that it was so far.
    pub fn peak_memory(&self) -> u64 {
        self.kibibytes("VmHWM:")
    }

    /// Lets [`Service::peak_memory`] begin anew with what it is now (proc_pid_clear_refs(5)).
    pub fn forget_peak_memory(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    fn kibibytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// The time that it has computed so far.
    pub fn computed(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        // utime and stime, in hundredths of a second on every Linux that there is.
        let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Sends it this signal.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        assert!(
            Command::new("kill")
                .arg(self.child.id().to_string())
                .status()
                .unwrap()
                .success()
        );
        self.end()
    }

    /// Waits until it has ended.
    pub fn end(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                begun.elapsed() < WAIT_LIMIT,
                "it does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it, as the system may.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// Refused for now, as a problem that says when to come back.
    #[track_caller]
    pub fn is_come_back_later(&self) {
        let head = self.head.to_ascii_lowercase();
        assert_eq!(self.status, 503, "{self:?}");
        assert!(
            head.contains("\r\nretry-after: ") && head.contains("application/problem+json"),
            "{self:?}"
        );
    }
}

/// One call, on a connection of its own.
pub fn call(address: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    try_call(address, method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

/// The same, where it may fail.
pub fn try_call(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(WAIT_LIMIT))?;
    let length = body.len();

    let head = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close";
    stream.write_all(
        format!("{method} {path} HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n")
            .as_bytes(),
    )?;

    // One who is turned away may hear so before all is said.
    let written = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let (Some(status), Some((head, body))) = (status, answer.split_once("\r\n\r\n")) else {
        written.and(read)?;
        return Err(std::io::Error::other(format!("no answer but {answer:?}")));
    };

    Ok(Answer {
        status,
        head: format!("{head}\r\n"),
        body: body.to_owned(),
    })
}

/// Hands in a small mail over SMTP; the last answer.
pub fn submit(address: SocketAddr, to: &str) -> std::io::Result<String> {
    submit_over(TcpStream::connect(address)?, to)
}

/// The same, over a connection that is there.
pub fn submit_over(stream: TcpStream, to: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(WAIT_LIMIT))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut next = || loop {
        let mut line = String::new();
        if answers.read_line(&mut line)? == 0 {
            return Err(std::io::Error::other("the service hung up"));
        }
        if line.as_bytes().get(3) == Some(&b' ') {
            return Ok(line);
        }
    };

    let mut answer = next()?;
    let rcpt = format!("RCPT TO:<{to}>");
    let message = "Subject: Your code\r\n\r\n123456\r\n.";
    for line in [
        "EHLO client.example",
        "MAIL FROM:<shop@example.com>",
        &rcpt,
        "DATA",
        message,
    ] {
        if !answer.starts_with(['2', '3']) {
            break;
        }
        write!(&stream, "{line}\r\n")?;
        answer = next()?;
    }

    Ok(answer)
}
