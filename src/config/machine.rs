//! Whether this machine can do what the settings ask for; `check` and `run` both ask.
//!
//! Only problems that a person must solve are mistakes here. A port in use, a spool that another
//! process has open and a full disk may pass by themselves.

use std::fs::{self, OpenOptions};
use std::io::{Error, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::mistake::MistakeReport;
use super::{Settings, listeners};

pub(super) fn check(settings: &Settings, report: &mut MistakeReport<'_>) {
    if settings.spool.url.is_none()
        && let Err((path, error)) = try_spool(&settings.spool.path)
        && !passes(&error)
    {
        let spool = settings.spool.path.display();
        let reason = match path == settings.spool.path {
            true => format!("cannot write into {spool}: {error}"),
            false => format!("cannot make {spool}: {}: {error}", path.display()),
        };
        report.add("spool.path", reason);
    }

    for (key, listen) in listeners::all(settings) {
        if let Err(error) = try_listener(listen)
            && !passes(&error)
        {
            report.add(key, format!("cannot listen on {listen}: {error}"));
        }
    }
}

/// Whether an error may have passed by the next attempt.
fn passes(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AddrInUse
            | ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::WouldBlock
            | ErrorKind::Interrupted
            | ErrorKind::OutOfMemory
            | ErrorKind::Other
    )
}

/// Creates a directory in the spool's place, or beside it, and removes it again; opens the files of
/// a spool that exists. The error is returned with the path that it is about.
fn try_spool(spool: &Path) -> Result<(), (&Path, Error)> {
    let nearest = spool
        .ancestors()
        .find(|path| path.as_os_str().is_empty() || path.symlink_metadata().is_ok())
        .unwrap_or(spool);

    let at = if nearest.as_os_str().is_empty() {
        Path::new(".")
    } else {
        nearest
    };

    if !at.is_dir() {
        return Err((nearest, ErrorKind::NotADirectory.into()));
    }

    let probe = at.join(format!(".postrider-check-{}", std::process::id()));
    fs::create_dir(&probe)
        .and_then(|()| fs::remove_dir(&probe))
        .map_err(|error| (nearest, error))?;

    for name in ["conf", "db", "synced", "outcomes"] {
        let file = spool.join(name);
        if fs::symlink_metadata(&file).is_ok() {
            let opened = OpenOptions::new().read(true).write(true).open(&file);
            match opened {
                // The spool has a way out of that.
                Err(error) if error.kind() == ErrorKind::IsADirectory => {}
                Err(error) => {
                    let named = format!("{name}: {error}");
                    return Err((spool, Error::new(error.kind(), named)));
                }
                Ok(_) => {}
            }
        }
    }

    Ok(())
}

fn try_listener(listen: SocketAddr) -> Result<(), Error> {
    TcpListener::bind(listen).map(drop)
}
