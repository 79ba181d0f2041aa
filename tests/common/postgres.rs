//! A PostgreSQL server for tests: the one that `POSTRIDER_TEST_POSTGRES` names, else one that all
//! tests of a run share. Tests that end their server have a cluster of its own. Each is on a socket
//! and a port of its own, and ends with its process or with the run.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::real_servers::is_root;

/// A server. What is made in it is in schemas of the test's own.
pub struct Server {
    url: String,
    own: Option<Own>,
}

struct Own {
    dir: tempfile::TempDir,
    data: PathBuf,
    port: u16,
    postgres: Mutex<Child>,
}

impl Own {
    fn stop(&self) {
        // SIGQUIT, which is `-m immediate`; what it leaves is removed with its directory.
        if let Ok(pid) = std::fs::read_to_string(self.data.join("postmaster.pid"))
            && let Some(pid) = pid.lines().next()
        {
            let _ = Command::new("kill").args(["-QUIT", pid]).status();
        }
        let _ = self.postgres.lock().unwrap().wait();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Where Debian, or another system, puts the server's programs.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_default()
}

/// One of the server's programs, as somebody who is not root: it refuses that.
pub fn program(name: &str) -> Command {
    as_nobody(&programs().join(name))
}

/// A program, as somebody who is not root.
pub fn as_nobody(path: &Path) -> Command {
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]);
    command.arg(path);
    command
}

impl Server {
    /// The server that is named, or that which all tests of this run share: the first of them
    /// starts it.
    pub fn start() -> Self {
        match std::env::var("POSTRIDER_TEST_POSTGRES") {
            Ok(url) if !url.is_empty() => Server { url, own: None },
            _ => Server::shared(),
        }
    }

    fn shared() -> Self {
        let run = std::os::unix::process::parent_id();
        // A number is given again, to a process that began at another time.
        let stat = std::fs::read_to_string(format!("/proc/{run}/stat")).unwrap_or_default();
        let began = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split(' ').nth(20));
        let name = format!("postrider-tests-{run}-{}", began.unwrap_or("0"));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        let lock = std::fs::File::create(dir.join("lock")).expect("a file");
        lock.lock().expect("a lock");

        let port_file = dir.join("port");
        let port = match std::fs::read_to_string(&port_file) {
            Ok(port) => port.parse().expect("a port"),
            Err(_) => {
                let (data, port) = (dir.join("data"), free_port());
                std::fs::create_dir_all(&data).expect("a directory");
                give_away(&[&dir, &data]);
                make(&data);
                until_run_ends(run, &dir, &server(&dir, &data, port));
                std::fs::write(&port_file, port.to_string()).expect("a file");
                port
            }
        };

        let server = Server {
            url: at_socket(&dir, port),
            own: None,
        };
        server.wait_until_ready();
        server
    }

    /// One that is there already.
    pub fn named(url: String) -> Self {
        Server { url, own: None }
    }

    /// A cluster of its own, whatever is named: for tests that end it.
    pub fn of_its_own() -> Self {
        Server::with(&[])
    }

    /// The same, with these variables in its environment, `NAME=VALUE`.
    pub fn with(environment: &[String]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        give_away(&[dir.path(), &data]);

        make(&data);
        let port = free_port();
        // Not before it is who it is to be: what is preloaded would be another's.
        let mut command = as_nobody(Path::new("env"));
        command.args(environment).arg(programs().join("postgres"));
        let postgres = start(settings(command, dir.path(), &data, port));
        Server::at(dir, data, port, postgres)
    }

    /// Stops it as a power cut would, `-m immediate`.
    ///
    /// # Panics
    /// Where it is not a cluster of its own.
    pub fn stop(&self) {
        self.own.as_ref().expect("a cluster of its own").stop();
    }

    /// Starts it again.
    ///
    /// # Panics
    /// As [`Server::stop`].
    pub fn start_again(&self) {
        let own = self.own.as_ref().expect("a cluster of its own");
        *own.postgres.lock().unwrap() = run(own.dir.path(), &own.data, own.port);
        self.wait_until_ready();
    }

    /// Its port on this machine.
    ///
    /// # Panics
    /// As [`Server::stop`].
    pub fn port(&self) -> u16 {
        self.own.as_ref().expect("a cluster of its own").port
    }

    /// A standby of this server, for whose copy every commit here waits from now on.
    ///
    /// # Panics
    /// As [`Server::stop`], and where it cannot be made.
    pub fn standby(&self) -> Server {
        self.standby_at(free_port())
    }

    /// The same, on this port.
    ///
    /// # Panics
    /// As [`Server::standby`].
    pub fn standby_at(&self, port: u16) -> Server {
        let own = self.own.as_ref().expect("a cluster of its own");
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("data");
        give_away(&[dir.path()]);

        let copied = program("pg_basebackup")
            .args(["-U", "postgres", "-R", "-X", "stream", "--checkpoint=fast"])
            .args(["--no-sync", "-h", "127.0.0.1", "-p", &own.port.to_string()])
            .arg("-D")
            .arg(&data)
            .status()
            .expect("pg_basebackup runs");

        assert!(copied.success(), "a standby is made");
        let postgres = run(dir.path(), &data, port);
        let server = Server::at(dir, data, port, postgres);

        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
        self.sql("SELECT pg_reload_conf()");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != "1"
        {
            assert!(Instant::now() < deadline, "the standby follows");
            std::thread::sleep(Duration::from_millis(50));
        }

        server
    }

    /// Has a standby be the primary.
    pub fn promote(&self) {
        assert_eq!(self.sql("SELECT pg_promote()"), "t");
    }

    /// The directory of its data, and of its socket.
    ///
    /// # Panics
    /// As [`Server::stop`].
    pub fn data(&self) -> &Path {
        &self.own.as_ref().expect("a cluster of its own").data
    }

    fn at(dir: tempfile::TempDir, data: PathBuf, port: u16, postgres: Child) -> Server {
        let server = Server {
            url: at_socket(dir.path(), port),
            own: Some(Own {
                data,
                dir,
                port,
                postgres: Mutex::new(postgres),
            }),
        };

        server.wait_until_ready();
        server
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Waits until it answers.
    pub fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.try_sql("SELECT 1").is_err() {
            assert!(Instant::now() < deadline, "the server answers");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks something as its superuser, where it may fail.
    ///
    /// # Errors
    /// What it says.
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let asked = Command::new("psql")
            .args([
                "-X",
                "-A",
                "-t",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                &self.url,
                "-c",
                sql,
            ])
            .output()
            .map_err(|e| e.to_string())?;

        match asked.status.success() {
            true => Ok(String::from_utf8_lossy(&asked.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&asked.stderr).into_owned()),
        }
    }

    /// Asks something as its superuser.
    ///
    /// # Panics
    /// Where it cannot be answered.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Puts down under the name `copy` what a schema holds now, as a node that is killed would
    /// leave it for whoever comes after its lease.
    pub fn copy_schema(&self, schema: &str, copy: &str) {
        let tool = programs().join("pg_dump");
        let dumped = Command::new(tool)
            .args(["-n", &format!("\"{schema}\""), "-O", "-d", &self.url])
            .output()
            .expect("pg_dump runs");

        assert!(
            dumped.status.success(),
            "{}",
            String::from_utf8_lossy(&dumped.stderr)
        );

        let dump = String::from_utf8(dumped.stdout).expect("text");
        let dump = dump.replace(schema, copy);
        let mut psql = Command::new("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("psql runs");

        let mut into = psql.stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut into, dump.as_bytes()).expect("it reads");
        drop(into);
        assert!(psql.wait().expect("it ends").success(), "the copy is made");
        self.sql(&format!(
            "UPDATE \"{copy}\".sessions SET seen = seen - interval '1 hour'"
        ));
    }
}

/// Has somebody who is not root own these, as whom the server runs.
pub fn give_away(paths: &[&Path]) {
    if !is_root() {
        return;
    }
    for path in paths {
        let owned = Command::new("chown")
            .arg("nobody:nogroup")
            .arg(path)
            .status();
        assert!(owned.expect("chown runs").success());
    }
}

fn make(data: &Path) {
    let made = program("initdb")
        .args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"])
        .arg("-D")
        .arg(data)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .status()
        .expect("initdb runs; Debian's package is postgresql");
    assert!(made.success(), "a cluster is made");
}

fn at_socket(socket: &Path, port: u16) -> String {
    let socket = socket.display();
    format!("postgres://postgres@/postgres?host={socket}&port={port}")
}

fn run(socket: &Path, data: &Path, port: u16) -> Child {
    start(server(socket, data, port))
}

fn start(mut server: Command) -> Child {
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("postgres runs")
}

fn server(socket: &Path, data: &Path, port: u16) -> Command {
    settings(program("postgres"), socket, data, port)
}

fn settings(mut command: Command, socket: &Path, data: &Path, port: u16) -> Command {
    command.arg("-D").arg(data);
    command.args(["-k", &socket.display().to_string()]);
    for setting in [
        "listen_addresses=127.0.0.1",
        &format!("port={port}"),
        "max_connections=400",
        "shared_buffers=64MB",
        "wal_retrieve_retry_interval=200ms",
    ] {
        command.args(["-c", setting]);
    }
    command
}

/// Starts a server that ends, and whose directory goes, when this process has ended.
fn until_run_ends(run: u32, dir: &Path, server: &Command) {
    let script = "dir=$1; run=$2; shift 2; \"$@\" & server=$!
        while kill -0 \"$run\"; do sleep 1; done
        kill -QUIT $server; wait $server; rm -rf \"$dir\"";
    let started = Command::new("setsid")
        .args(["--fork", "sh", "-c", script, "sh"])
        .arg(dir)
        .arg(run.to_string())
        .arg(server.get_program())
        .args(server.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("setsid runs");
    assert!(started.success(), "a shell runs");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}
