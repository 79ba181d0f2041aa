//! SMTP servers nobody here wrote, as child processes on a free port. A test that needs one fails
//! where it is missing.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running server; dropping it ends it.
pub struct RealServer {
    child: Child,
    address: SocketAddr,
}

impl RealServer {
    /// Postfix's `smtp-sink`, which takes everything. `-p` takes PIPELINING from its offer.
    pub fn smtp_sink(flags: &[&str]) -> Self {
        let program = ["/usr/sbin/smtp-sink", "/usr/bin/smtp-sink"]
            .into_iter()
            .find(|path| Path::new(path).exists());
        let program = program.expect("smtp-sink is missing: apt-get install postfix");
        RealServer::start(|address| {
            let mut command = Command::new(program);
            command.args(flags);
            // It refuses to run as root, and can drop to another user only as root.
            if is_root() {
                command.args(["-u", "nobody"]);
            }
            command.args([&address.to_string(), "1024"]);
            command
        })
    }

    /// Python's `aiosmtpd`, which prints each mail to its standard output.
    pub fn aiosmtpd() -> Self {
        RealServer::start(|address| {
            let mut command = Command::new("python3");
            command.args(["-m", "aiosmtpd", "-n", "-l", &address.to_string()]);
            command
        })
    }

    fn start(command: impl Fn(SocketAddr) -> Command) -> Self {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap();

        let mut command = command(address);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let mut server = RealServer {
            child: child.expect("the server's program is installed"),
            address,
        };

        let begun = Instant::now();
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("{command:?} ended with {status}: is it installed?");
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{command:?} does not listen on {address}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }

        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `smtp://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }
}

impl Drop for RealServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn is_root() -> bool {
    let id = Command::new("id")
        .arg("-u")
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    id.starts_with(b"0\n")
}

/// The library that sets a program's clock; Debian keeps it in a directory named after the
/// processor.
pub fn libfaketime() -> PathBuf {
    let mut found = std::fs::read_dir("/usr/lib")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    found
        .find(|path| path.exists())
        .expect("libfaketime is missing: apt-get install faketime")
}
