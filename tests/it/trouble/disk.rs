//! A small file system of the test's own, and a disk that fails.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::real_servers::is_root;
use crate::common::test_spool::is_of_files;

pub const MIB: u64 = 1024 * 1024;

/// A mounted file system; dropping it unmounts it.
pub struct Disk {
    /// Holds it, and what is not on it.
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    /// One in memory, of so many bytes. `None`, with a line that says so, where nothing may be
    /// mounted.
    pub fn of(bytes: u64) -> Option<Self> {
        if is_of_files("a disk") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).unwrap();

        let options = format!("size={bytes},mode=1777");
        let mounted = as_root(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &options,
                "tmpfs",
                &path.display().to_string(),
            ],
        );

        if let Err(reason) = mounted {
            println!("SKIPPED: a file system cannot be mounted here: {reason}");
            return None;
        }

        Some(Disk { dir, path })
    }

    /// A place on it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory that is not on it.
    pub fn beside(&self) -> &Path {
        self.dir.path()
    }

    /// The bytes that are free.
    pub fn free(&self) -> u64 {
        fs4::available_space(&self.path).unwrap()
    }

    /// Takes room until so many bytes are free.
    pub fn fill_until(&self, free: u64) {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.at("ballast"))
            .unwrap();
        while self.free() > free {
            let room = usize::try_from((self.free() - free).min(MIB)).unwrap();
            if file.write_all(&vec![b'x'; room]).is_err() {
                return;
            }
        }
    }

    /// Gives back what was taken.
    pub fn make_room(&self) {
        std::fs::remove_file(self.at("ballast")).unwrap();
    }

    /// Lets nothing be written any more.
    pub fn make_read_only(&self) {
        as_root(
            "mount",
            &["-o", "remount,ro", &self.path.display().to_string()],
        )
        .unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what still has it open, after a failed test, must not keep it mounted.
        let _ = as_root("umount", &["-l", &self.path.display().to_string()]);
    }
}

/// Runs a program as root; why it could not do what it was asked.
pub fn as_root(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(if is_root() { program } else { "sudo" });
    if !is_root() {
        command.args(["-n", program]);
    }

    let output = command
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;

    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

/// Makes each sync of a process fail with an input/output error, as long as it lives. `None`, with
/// a line that says so, where no process may be traced.
pub struct FailingSyncs(Child);

impl FailingSyncs {
    pub fn of(pid: u32) -> Option<Self> {
        let pid = pid.to_string();
        let mut command = Command::new(if is_root() { "strace" } else { "sudo" });
        if !is_root() {
            command.args(["-n", "strace"]);
        }

        command.args([
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            "trace=fdatasync",
            "-e",
            "inject=fdatasync:error=EIO",
        ]);

        let mut strace = command
            .args(["-p", &pid])
            .spawn()
            .expect("strace is missing: apt-get install strace");

        let begun = Instant::now();
        while !is_traced(&pid) {
            if let Some(status) = strace.try_wait().unwrap() {
                println!("SKIPPED: a process cannot be traced here: strace ended with {status}");
                return None;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "strace does not attach"
            );
            std::thread::sleep(Duration::from_millis(10));
        }

        Some(FailingSyncs(strace))
    }
}

impl Drop for FailingSyncs {
    fn drop(&mut self) {
        // Asked and not killed, so that it lets go of every thread.
        let _ = as_root("kill", &[&self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

/// Whether every thread of a process is traced.
fn is_traced(pid: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}
