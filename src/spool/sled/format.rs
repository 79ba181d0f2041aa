//! The format of the values in the database. It has a key of its own, which is read whenever a
//! spool is opened. Format 1 had neither that key nor frames; it is upgraded in steps, each in one
//! commit.

use std::path::Path;

use super::open::unopenable;
use super::{OpenFiles, frame, guarded};
use crate::spool::SpoolError;
use crate::spool::keyed::TOTALS;

/// The format that this version writes.
const FORMAT: u8 = 2;
/// The first byte of the store's own keys. No key of the keyed spool begins with it.
const STORE_PREFIX: u8 = 0;
pub(super) const FORMAT_KEY: &[u8] = b"\0f";
/// Written in commits that do not write the totals, so that every commit leaves its number.
pub(super) const COMMIT_KEY: &[u8] = b"\0c";
/// The last key that has a frame, while an upgrade adds them.
const FRAMED_KEY: &[u8] = b"\0m";
/// How many bytes are upgraded in one step.
const STEP_BYTES: usize = 256 * 1024;

/// The number of the first commit after opening. It leaves a gap, so that the numbers of commits
/// that were written but did not reach the disk are not used again.
pub(super) fn next_life(last_commit: u64) -> u64 {
    ((last_commit >> 32) + 1) << 32
}

/// The number of the last commit.
pub(super) fn last_commit(db: &sled::Db) -> Result<u64, sled::Error> {
    let mut last = 0;
    for key in [TOTALS, COMMIT_KEY, FORMAT_KEY] {
        if let Some(bytes) = guarded(|| db.get(key))? {
            last = last.max(frame::commit_of(key, &bytes).unwrap_or(0));
        }
    }
    Ok(last)
}

/// Upgrades a database to the current format.
pub(super) fn adopt(opened: &OpenFiles, path: &Path) -> Result<(), SpoolError> {
    let unopenable = |error: sled::Error| unopenable(path, error);
    let db = &opened.db;
    let stored = guarded(|| db.get(FORMAT_KEY)).map_err(unopenable)?;
    match stored
        .as_deref()
        .map(|bytes| frame::unwrap(FORMAT_KEY, bytes))
    {
        Some([FORMAT]) => return Ok(()),
        Some([newer]) if *newer > FORMAT => {
            let reason = format!(
                "its format is {newer}, and this version of Postrider knows {FORMAT}; use the \
                 version that wrote it"
            );
            return Err(super::open::unopenable(path, reason));
        }
        Some(_) => {
            return Err(super::open::unopenable(path, "its format cannot be read"));
        }
        None => {}
    }

    let commit = next_life(last_commit(db).map_err(unopenable)?);
    let is_new = guarded(|| db.first()).map_err(unopenable)?.is_none();
    if !is_new {
        tracing::info!(spool = %path.display(), "upgrading the spool to format {FORMAT}");
        frame_all(opened, commit).map_err(unopenable)?;
    }

    let mut last = sled::Batch::default();
    last.remove(FRAMED_KEY);
    last.insert(FORMAT_KEY, frame::wrap(commit, FORMAT_KEY, &[FORMAT]));
    step(opened, last).map_err(unopenable)
}

fn frame_all(opened: &OpenFiles, commit: u64) -> Result<(), sled::Error> {
    let db = &opened.db;
    let framed = guarded(|| db.get(FRAMED_KEY))?;
    let mut from = match &framed {
        Some(key) => [&key[..], &[0]].concat(),
        None => vec![STORE_PREFIX + 1],
    };

    loop {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        let mut last = None;
        let mut range = db.range(from..);
        while bytes < STEP_BYTES
            && let Some(next) = guarded(|| range.next().transpose())?
        {
            let (key, value) = next;
            bytes += key.len() + value.len();
            batch.insert(&key, frame::wrap(commit, &key, &value));
            last = Some(key);
        }
        let Some(key) = last else { return Ok(()) };
        batch.insert(FRAMED_KEY, &key);
        step(opened, batch)?;
        from = [&key[..], &[0]].concat();
    }
}

/// Writes a batch and syncs it.
fn step(opened: &OpenFiles, batch: sled::Batch) -> Result<(), sled::Error> {
    guarded(|| opened.db.apply_batch(batch))?;
    guarded(|| opened.db.flush())?;
    Ok(opened.log.sync_data()?)
}

#[cfg(test)]
mod tests {
    use super::super::open::{Purpose, open_files};
    use super::*;

    /// Opens a spool whose format key has this value.
    fn opens_with(value: &[u8]) -> Result<(), SpoolError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("spool");
        let (opened, _) = open_files(&path, Purpose::Serve).expect("a new one");
        opened.db.insert(FORMAT_KEY, value).expect("writes");
        opened.db.flush().expect("syncs");
        adopt(&opened, &path)
    }

    #[test]
    fn a_newer_format_is_refused_and_so_is_one_that_cannot_be_read() {
        let newer = frame::wrap(1 << 40, FORMAT_KEY, &[FORMAT + 1]);
        let refused = opens_with(&newer).expect_err("it is newer").to_string();
        assert!(refused.contains("its format is 3"), "{refused}");
        assert!(
            refused.contains("use the version that wrote it"),
            "{refused}"
        );

        let long = frame::wrap(1 << 40, FORMAT_KEY, b"two");
        for unreadable in [&long[..], b"two", b""] {
            let refused = opens_with(unreadable).expect_err("it is unreadable");
            let refused = refused.to_string();
            assert!(refused.contains("format cannot be read"), "{refused}");
        }
    }
}
