//! How far the log is known to be on disk: the file `synced` beside it. It is written after each
//! sync and never synced itself, so that it may be older than the log after a power cut, and is
//! never ahead of it. A log that ends before it is damaged.
//!
//! Two places are written in turn, each in a page of its own, so that one of them is always whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use crate::private;

/// The file's name.
pub(super) const FILE: &str = "synced";
const MAGIC: [u8; 8] = *b"PRsynct2";
/// The bytes of a mark: this, three numbers, the stage, a checksum.
const MARK_BYTES: usize = 8 + 3 * 8 + 1 + 8;
/// How a mark began and how long it was before it told of the journal.
const OLD_MAGIC: [u8; 8] = *b"PRsynced";
const OLD_MARK_BYTES: usize = MARK_BYTES - 8;
const PLACES: [u64; 2] = [0, 4096];
/// Where the torn places of the log stand.
const TORN_AT: u64 = 8192;
const TORN_MAGIC: [u8; 8] = *b"PRbegun\0";
/// The most of them that are remembered.
const MOST_TORN: usize = 64;

/// A place in the log's file that was being written again when the power was cut. It stays as it is
/// until it is used again, which shows in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TornPlace {
    pub at: u64,
    /// What its header says; 0 where that is torn as well.
    pub lsn: u64,
}

/// What was being done with the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpoolPhase {
    /// It was open, and may have been written to.
    Open = 0,
    /// It was closed: nothing was being written since.
    Closed = 1,
    /// sled was opening its files: it fills with zeros what it does not need.
    Opening = 2,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatermarkRecord {
    /// Grows with each writing.
    turn: u64,
    /// The last commit that is on disk.
    pub commit: u64,
    /// The number of the last event that the journal has told by then.
    pub journal: u64,
    pub stage: SpoolPhase,
}

pub(super) struct Watermark {
    file: File,
    last: Mutex<WatermarkRecord>,
}

/// What the file in this directory says; `None` where there is none.
///
/// # Errors
/// Where it cannot be read, and where it says nothing that is whole.
pub(super) fn read(dir: &Path) -> io::Result<Option<WatermarkRecord>> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let marks = PLACES
        .into_iter()
        .filter_map(|at| parse(bytes.get(usize::try_from(at).ok()?..)?));
    let newest = marks.max_by_key(|mark| mark.turn);
    let nothing = || io::Error::new(io::ErrorKind::InvalidData, "nothing in it is whole");
    newest.map(Some).ok_or_else(nothing)
}

/// The places that are known to be torn.
pub(super) fn torn(dir: &Path) -> io::Result<Vec<TornPlace>> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let at = usize::try_from(TORN_AT).unwrap_or(usize::MAX);
    Ok(bytes.get(at..).and_then(parse_torn).unwrap_or_default())
}

fn parse_torn(bytes: &[u8]) -> Option<Vec<TornPlace>> {
    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    let list = content.strip_prefix(&TORN_MAGIC)?;
    if XxHash3_64::oneshot(content) != u64::from_be_bytes(*checksum) {
        return None;
    }

    let number = |bytes: &[u8]| bytes.first_chunk::<8>().map(|n| u64::from_be_bytes(*n));
    let read = |entry: &[u8]| {
        Some(TornPlace {
            at: number(entry)?,
            lsn: number(&entry[8..])?,
        })
    };

    list.chunks_exact(16).map(read).collect()
}

fn torn_bytes(torn: &[TornPlace]) -> Vec<u8> {
    let mut bytes = TORN_MAGIC.to_vec();
    for place in torn.iter().take(MOST_TORN) {
        bytes.extend_from_slice(&place.at.to_be_bytes());
        bytes.extend_from_slice(&place.lsn.to_be_bytes());
    }
    let checksum = XxHash3_64::oneshot(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    bytes
}

fn parse(bytes: &[u8]) -> Option<WatermarkRecord> {
    let bytes = match bytes.get(..8)? {
        magic if magic == MAGIC => bytes.get(..MARK_BYTES)?,
        magic if magic == OLD_MAGIC => bytes.get(..OLD_MARK_BYTES)?,
        _ => return None,
    };

    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    if XxHash3_64::oneshot(content) != u64::from_be_bytes(*checksum) {
        return None;
    }

    let (stage, numbers) = content.split_last()?;
    let number = |at: usize| {
        let bytes = numbers.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_be_bytes(*bytes))
    };

    Some(WatermarkRecord {
        turn: number(8)?,
        commit: number(16)?,
        journal: number(24).unwrap_or(0),
        stage: match stage {
            1 => SpoolPhase::Closed,
            2 => SpoolPhase::Opening,
            _ => SpoolPhase::Open,
        },
    })
}

impl WatermarkRecord {
    fn to_bytes(self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..16].copy_from_slice(&self.turn.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.commit.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.journal.to_be_bytes());
        bytes[32] = self.stage as u8;
        let checksum = XxHash3_64::oneshot(&bytes[..33]);
        bytes[33..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Watermark {
    /// Opens the file of a spool whose files sled is about to open: from now on it is not closed.
    /// That is on disk when this returns.
    pub(super) fn open(
        dir: &Path,
        known: Option<WatermarkRecord>,
        torn: &[TornPlace],
    ) -> io::Result<Self> {
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(FILE))?;

        let known = known.unwrap_or(WatermarkRecord {
            turn: 0,
            commit: 0,
            journal: 0,
            stage: SpoolPhase::Opening,
        });

        let last = Mutex::new(known);
        let watermark = Watermark { file, last };
        // Both places, so that neither says that it is closed.
        watermark.write(known.commit, 0, SpoolPhase::Opening)?;
        watermark.write(known.commit, 0, SpoolPhase::Opening)?;

        if !torn.is_empty() || watermark.file.metadata()?.len() > TORN_AT {
            let bytes = torn_bytes(torn);
            watermark.file.write_all_at(&bytes, TORN_AT)?;
            watermark.file.set_len(TORN_AT + bytes.len() as u64)?;
        }

        watermark.file.sync_all()?;
        Ok(watermark)
    }

    /// Notes that sled has opened its files, and what it did then is on disk.
    pub(super) fn opened(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Open)
    }

    /// Notes that this commit and all before it are on disk, and what the journal has told by then.
    pub(super) fn reach(&self, commit: u64, journal: u64) -> io::Result<()> {
        self.write(commit, journal, SpoolPhase::Open)
    }

    /// Writes what is noted once more and syncs it: whether the disk takes anything.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Open)?;
        self.file.sync_data()
    }

    /// Notes that all is on disk and the spool is closed.
    pub(super) fn close(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Closed)
    }

    fn write(&self, commit: u64, journal: u64, stage: SpoolPhase) -> io::Result<()> {
        let mut last = self.last.lock();
        let next = WatermarkRecord {
            turn: last.turn + 1,
            commit: last.commit.max(commit),
            journal: last.journal.max(journal),
            stage,
        };
        let place = PLACES[usize::from(next.turn % 2 == 1)];
        self.file.write_all_at(&next.to_bytes(), place)?;
        *last = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_whole_mark_counts_whatever_becomes_of_one_place() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let watermark = Watermark::open(dir.path(), None, &[]).unwrap();
        watermark.reach(5, 70).unwrap();
        watermark.reach(6, 80).unwrap();
        watermark.reach(4, 60).unwrap();

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.commit, content.journal, content.stage),
            (6, 80, SpoolPhase::Open)
        );
        watermark.close().unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!((content.commit, content.stage), (6, SpoolPhase::Closed));

        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for place in PLACES {
            let mut torn = whole.clone();
            torn[usize::try_from(place).unwrap() + 20] ^= 4;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(read(dir.path()).unwrap().unwrap().commit, 6);
        }

        let begun = [TornPlace { at: 1, lsn: 2 }, TornPlace { at: 3, lsn: 0 }];
        let reopened = Watermark::open(dir.path(), Some(content), &begun).unwrap();
        assert_eq!(torn(dir.path()).unwrap(), begun);

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!((content.commit, content.stage), (6, SpoolPhase::Opening));
        reopened.opened().unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().stage, SpoolPhase::Open);
        drop(reopened);

        let mut old = OLD_MAGIC.to_vec();
        old.extend([&99u64.to_be_bytes()[..], &7u64.to_be_bytes(), &[1]].concat());
        let checksum = XxHash3_64::oneshot(&old);
        old.extend(checksum.to_be_bytes());
        std::fs::write(&path, old).unwrap();

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.commit, content.journal, content.stage),
            (7, 0, SpoolPhase::Closed)
        );
        std::fs::write(&path, vec![0; 8000]).unwrap();
        assert!(read(dir.path()).is_err());
    }
}
