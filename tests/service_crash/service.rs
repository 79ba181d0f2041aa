//! The service as a process that can be killed, and its spool, which can be looked into meanwhile.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Nothing takes this long.
const WAIT_LIMIT: Duration = Duration::from_secs(120);
/// Connections to the relay, and so senders.
pub const SENDERS: usize = 4;

/// Where the service lives, over all its lives: configuration, spool, addresses.
pub struct ServiceFiles {
    dir: TempDir,
    pub http: SocketAddr,
    pub smtp: SocketAddr,
}

impl ServiceFiles {
    /// Files of a service that sends over `relay`; `more` stands in its configuration besides.
    pub fn new(relay: &str, more: &str) -> Self {
        let [http, smtp] = [(); 2]
            .map(|()| free_port())
            .map(|listener| listener.local_addr().unwrap());
        let files = ServiceFiles {
            dir: tempfile::tempdir().unwrap(),
            http,
            smtp,
        };

        // Few deliveries may wait, so that each life is spent on sending as much as on accepting,
        // and so that clients are told to come back later.
        let text = format!(
            r#"
            spool = {{ path = "spool", max_pending = 1500, accept_timeout = "200ms" }}
            relays = [{{ name = "relay", url = "{relay}", connections = {SENDERS} }}]
            retry = {{ schedule = ["40ms"], max_attempts = 10000 }}
            http = {{ listen = "{}" }}
            smtp = {{ listen = "{}", hostname = "door.example" }}
            log = {{ level = "error" }}
            {more}
            "#,
            files.http, files.smtp
        );

        std::fs::write(files.path("postrider.toml"), text).unwrap();
        File::create(files.path("log")).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command
            .args(arguments)
            .args(["--config", "postrider.toml"])
            .current_dir(self.dir.path());
        command
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Starts the service, in a process group of its own.
    pub fn start(&self) -> Service {
        let log = File::options().append(true).open(self.path("log")).unwrap();
        let process = self
            .command(&["run"])
            .process_group(0)
            .stderr(log)
            .spawn()
            .unwrap();
        Service {
            process,
            began: Instant::now(),
        }
    }

    /// What the service had to complain about so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    /// What `spool verify` says about the spool of the stopped service, which must be sound.
    pub async fn verify(&self) -> Value {
        let output = self
            .command(&["spool", "verify", "--json"])
            .output()
            .await
            .unwrap();

        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_clean = found["problems"] == serde_json::json!([]) && found["quarantined"] == 0;
        assert!(
            output.status.success() && is_clean,
            "{found}: {}",
            String::from_utf8_lossy(&output.stderr)
        );

        found
    }
}

/// A port that stays free while the service is dead: one outside of the range from which the kernel
/// takes ports for clients, one of which would otherwise take it sooner or later, or be connected
/// with itself.
fn free_port() -> TcpListener {
    loop {
        let port = rand::rng().random_range(10_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

/// One life of the service.
pub struct Service {
    process: Child,
    began: Instant,
}

impl Service {
    /// Waits until something has happened; the service must live until then.
    pub async fn lives_until<T>(&mut self, happened: impl Future<Output = T>) -> T {
        let rest = WAIT_LIMIT.saturating_sub(self.began.elapsed());
        tokio::select! {
            done = happened => done,
            status = self.process.wait() => panic!("it ended by itself: {status:?}"),
            () = tokio::time::sleep(rest) => panic!("it takes too long"),
        }
    }

    /// Kills it, with SIGKILL.
    pub async fn kill(mut self) {
        self.process.kill().await.unwrap();
    }

    /// Asks it to stop, with SIGTERM.
    pub async fn stop(mut self) -> ExitStatus {
        let pid = self.process.id().unwrap().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .await
                .unwrap()
                .success()
        );

        tokio::time::timeout(WAIT_LIMIT, self.process.wait())
            .await
            .expect("it stops")
            .unwrap()
    }
}
