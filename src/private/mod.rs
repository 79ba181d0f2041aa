//! Creates directories and files that only their owner can read, whatever the umask is, because
//! they contain mail and keys. The spool, captured and exported mail, and the files of the command
//! line are written through here.
//!
//! *Invariant:* nothing is ever written through a link that somebody else may have put there.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

const DIRECTORY: u32 = 0o700;
const FILE: u32 = 0o600;
/// The bit of a directory that everybody may write into, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates a directory, and the missing ones above it.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY)
        .create(path)
}

/// Creates a directory for files of any name. It is an error if the directory itself is a link.
pub(crate) fn make_target(path: &Path) -> io::Result<()> {
    make_directory(path)?;
    // Without a slash at the end, which would follow the link.
    let path: std::path::PathBuf = path.components().collect();
    if fs::symlink_metadata(&path)?.is_symlink() {
        let reason = "it is a link; name the directory that it leads to";
        return Err(io::Error::new(ErrorKind::InvalidInput, reason));
    }
    Ok(())
}

/// Options for a file, which has the right mode if it is created.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(FILE);
    options
}

/// Writes a new file. It is an error if it exists.
#[cfg(feature = "server")]
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = options().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes a file atomically, in place of a file or link of the same name.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:016x}", rand::random::<u64>()));
    let new = path.with_file_name(name);
    let mut file = options().write(true).create_new(true).open(&new)?;
    let written = file.write_all(bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

/// Makes a directory and everything in it inaccessible to everybody but its owner, as far as this
/// process may change it.
pub(crate) fn close_off(directory: &Path) {
    // Another user's directory cannot be changed, and one that everybody shares must not be.
    let is_shared =
        fs::metadata(directory).is_ok_and(|metadata| metadata.permissions().mode() & STICKY != 0);
    if !is_shared {
        let _ = narrow(directory, DIRECTORY);
    }

    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => close_off(&entry.path()),
            Ok(kind) if kind.is_file() => _ = narrow(&entry.path(), FILE),
            _ => {}
        }
    }
}

fn narrow(path: &Path, to: u32) -> io::Result<()> {
    let mode = fs::metadata(path)?.permissions().mode();
    match mode & 0o777 & !to {
        0 => Ok(()),
        _ => fs::set_permissions(path, Permissions::from_mode(mode & !0o777 | mode & to)),
    }
}

/// Whether users other than the owner and the group may read a file.
#[cfg(feature = "server")]
pub(crate) fn is_readable_by_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, file) = (dir.path().join("a/b"), dir.path().join("a/b/file"));
        make_target(&inner).unwrap();
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 1);
        assert_eq!((mode(&inner), mode(&file)), (0o700, 0o600));
        assert_eq!(mode(&dir.path().join("a")), 0o700);
    }

    #[test]
    fn a_link_is_never_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, link) = (dir.path().join("theirs"), dir.path().join("link"));
        fs::write(&theirs, "theirs").unwrap();
        std::os::unix::fs::symlink(&theirs, &link).unwrap();
        write(&link, b"ours").unwrap();

        assert_eq!(fs::read(&theirs).unwrap(), b"theirs");
        assert_eq!(fs::read(&link).unwrap(), b"ours");

        let (directory, leads) = (dir.path().join("directory"), dir.path().join("leads"));
        fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink(&directory, &leads).unwrap();
        assert!(make_target(&leads).is_err() && make_target(&leads.join("")).is_err());
        assert!(make_target(&leads.join("below")).is_ok());
    }

    #[test]
    fn what_was_open_is_closed_off() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, file) = (dir.path().join("inner"), dir.path().join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        for (path, open) in [(dir.path(), 0o755), (&inner, 0o775), (&file, 0o664)] {
            fs::set_permissions(path, Permissions::from_mode(open)).unwrap();
        }
        close_off(dir.path());
        assert_eq!(
            (mode(dir.path()), mode(&inner), mode(&file)),
            (0o700, 0o700, 0o600)
        );
    }
}
