//! Records how much of the log is known to be on disk, in the file `synced` beside it. It is
//! written after each sync and never synced itself: after a power cut it may be older than the log,
//! but never newer. A log that ends before it is damaged.
//!
//! Two slots are written in turn, each in a page of its own, so that one of them is always whole.

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
/// The size of a mark: the magic bytes, three numbers, the phase, a checksum.
const MARK_BYTES: usize = 8 + 3 * 8 + 1 + 8;
/// The magic bytes and size of marks written by versions without the journal's number.
const OLD_MAGIC: [u8; 8] = *b"PRsynced";
const OLD_MARK_BYTES: usize = MARK_BYTES - 8;
const SLOTS: [u64; 2] = [0, 4096];
/// The position of the list of torn segments.
const TORN_AT: u64 = 8192;
const TORN_MAGIC: [u8; 8] = *b"PRbegun\0";
/// How many torn segments are remembered.
const MOST_TORN: usize = 64;

/// A segment of the log's file that was being overwritten when the power was cut. It stays torn
/// until it is reused, which its header shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TornSegment {
    pub at: u64,
    /// The position in its header; 0 if that is torn too.
    pub lsn: u64,
}

/// What was being done with the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpoolPhase {
    /// It was open, and may have been written to.
    Open = 0,
    /// It was closed, and nothing was written since.
    Closed = 1,
    /// sled was opening its files, which fills unused segments with zeros.
    Opening = 2,
}

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WatermarkRecord {
    /// Increases with each write.
    turn: u64,
    /// The last commit that is on disk.
    pub commit: u64,
    /// The number of the journal's last event at that time.
    pub journal: u64,
    pub phase: SpoolPhase,
}

pub(super) struct Watermark {
    file: File,
    last: Mutex<WatermarkRecord>,
}

/// The record in this directory; `None` if there is no file.
///
/// # Errors
/// The file cannot be read, or none of its slots is whole.
pub(super) fn read(dir: &Path) -> io::Result<Option<WatermarkRecord>> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let marks = SLOTS
        .into_iter()
        .filter_map(|at| parse(bytes.get(usize::try_from(at).ok()?..)?));
    let newest = marks.max_by_key(|mark| mark.turn);
    let nothing = || io::Error::new(io::ErrorKind::InvalidData, "both of its copies are damaged");
    newest.map(Some).ok_or_else(nothing)
}

/// The segments that are known to be torn.
pub(super) fn torn(dir: &Path) -> io::Result<Vec<TornSegment>> {
    let bytes = match std::fs::read(dir.join(FILE)) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let at = usize::try_from(TORN_AT).unwrap_or(usize::MAX);
    Ok(bytes.get(at..).and_then(parse_torn).unwrap_or_default())
}

fn parse_torn(bytes: &[u8]) -> Option<Vec<TornSegment>> {
    let (content, checksum) = bytes.split_last_chunk::<8>()?;
    let list = content.strip_prefix(&TORN_MAGIC)?;
    if XxHash3_64::oneshot(content) != u64::from_be_bytes(*checksum) {
        return None;
    }

    let number = |bytes: &[u8]| bytes.first_chunk::<8>().map(|n| u64::from_be_bytes(*n));
    let read = |entry: &[u8]| {
        Some(TornSegment {
            at: number(entry)?,
            lsn: number(&entry[8..])?,
        })
    };

    list.chunks_exact(16).map(read).collect()
}

fn torn_bytes(torn: &[TornSegment]) -> Vec<u8> {
    let mut bytes = TORN_MAGIC.to_vec();
    for segment in torn.iter().take(MOST_TORN) {
        bytes.extend_from_slice(&segment.at.to_be_bytes());
        bytes.extend_from_slice(&segment.lsn.to_be_bytes());
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

    let (phase, numbers) = content.split_last()?;
    let number = |at: usize| {
        let bytes = numbers.get(at..)?.first_chunk::<8>()?;
        Some(u64::from_be_bytes(*bytes))
    };

    Some(WatermarkRecord {
        turn: number(8)?,
        commit: number(16)?,
        journal: number(24).unwrap_or(0),
        phase: match phase {
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
        bytes[32] = self.phase as u8;
        let checksum = XxHash3_64::oneshot(&bytes[..33]);
        bytes[33..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Watermark {
    /// Opens the file before sled opens the spool. The record that the spool is not closed is on
    /// disk when this returns.
    pub(super) fn open(
        dir: &Path,
        known: Option<WatermarkRecord>,
        torn: &[TornSegment],
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
            phase: SpoolPhase::Opening,
        });

        let last = Mutex::new(known);
        let watermark = Watermark { file, last };
        // Both slots, so that neither says that the spool is closed.
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

    /// Records that sled has opened its files and that its changes are on disk.
    pub(super) fn opened(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Open)
    }

    /// Records that this commit and all before it are on disk, and the journal's last event.
    pub(super) fn reach(&self, commit: u64, journal: u64) -> io::Result<()> {
        self.write(commit, journal, SpoolPhase::Open)
    }

    /// Writes the last record again and syncs it, to test whether the disk can be written.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Open)?;
        self.file.sync_data()
    }

    /// Records that everything is on disk and the spool is closed.
    pub(super) fn close(&self) -> io::Result<()> {
        self.write(0, 0, SpoolPhase::Closed)
    }

    fn write(&self, commit: u64, journal: u64, phase: SpoolPhase) -> io::Result<()> {
        let mut last = self.last.lock();
        let next = WatermarkRecord {
            turn: last.turn + 1,
            commit: last.commit.max(commit),
            journal: last.journal.max(journal),
            phase,
        };
        let slot = SLOTS[usize::from(next.turn % 2 == 1)];
        self.file.write_all_at(&next.to_bytes(), slot)?;
        *last = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_whole_mark_counts_whatever_becomes_of_one_slot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let watermark = Watermark::open(dir.path(), None, &[]).unwrap();
        watermark.reach(5, 70).unwrap();
        watermark.reach(6, 80).unwrap();
        watermark.reach(4, 60).unwrap();

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.commit, content.journal, content.phase),
            (6, 80, SpoolPhase::Open)
        );
        watermark.close().unwrap();
        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!((content.commit, content.phase), (6, SpoolPhase::Closed));

        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for slot in SLOTS {
            let mut torn = whole.clone();
            torn[usize::try_from(slot).unwrap() + 20] ^= 4;
            std::fs::write(&path, torn).unwrap();
            assert_eq!(read(dir.path()).unwrap().unwrap().commit, 6);
        }

        let begun = [TornSegment { at: 1, lsn: 2 }, TornSegment { at: 3, lsn: 0 }];
        let reopened = Watermark::open(dir.path(), Some(content), &begun).unwrap();
        assert_eq!(torn(dir.path()).unwrap(), begun);

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!((content.commit, content.phase), (6, SpoolPhase::Opening));
        reopened.opened().unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap().phase, SpoolPhase::Open);
        drop(reopened);

        let mut old = OLD_MAGIC.to_vec();
        old.extend([&99u64.to_be_bytes()[..], &7u64.to_be_bytes(), &[1]].concat());
        let checksum = XxHash3_64::oneshot(&old);
        old.extend(checksum.to_be_bytes());
        std::fs::write(&path, old).unwrap();

        let content = read(dir.path()).unwrap().unwrap();
        assert_eq!(
            (content.commit, content.journal, content.phase),
            (7, 0, SpoolPhase::Closed)
        );
        std::fs::write(&path, vec![0; 8000]).unwrap();
        assert!(read(dir.path()).is_err());
    }
}
