//! Checks a whole log before sled opens it: everything that was once on disk must still be there.
//!
//! After a power cut four things may be torn: what was written after the last sync, at the end of
//! the log; the segments that would have come next; a segment of the file that was being
//! overwritten by one of them, and contained nothing that was still needed; and such a segment that
//! sled was filling with zeros, which it does while it opens the files. Everything else was synced,
//! so it is damaged if it is not whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::Scanner;
use super::log::{self, Kind, SEGMENT_HEAD, SegmentHeader};
use super::open::SEGMENT;
use super::outcomes;
use super::pages;
use super::spare;
use super::watermark::{self, SpoolPhase, TornSegment, WatermarkRecord};

/// How near to the end of its segment the log must end for the next segment to have been started
/// without a trace of it, and how much of that segment may have been written.
const STARTED_BYTES: usize = SEGMENT / 4;
/// How many segments may have been started.
const MOST_STARTED: usize = 2;
/// The unit in which a disk writes, in bytes.
const DISK_PAGE: usize = 4096;

/// Why a spool cannot be opened.
#[derive(Debug)]
pub(super) enum CheckFailure {
    /// A file differs from what was on disk.
    Damaged { file: PathBuf, reason: String },
    /// A file cannot be read.
    Unread(io::Error),
    /// The log does not exist, and all mail was in it.
    Lost,
}

impl CheckFailure {
    /// What a file's error says does not name it.
    fn is_directory(file: PathBuf) -> Self {
        let reason = "is a directory, and must be a file".into();
        CheckFailure::Damaged { file, reason }
    }
}

impl From<io::Error> for CheckFailure {
    fn from(error: io::Error) -> Self {
        CheckFailure::Unread(error)
    }
}

/// The result of checking a log that is whole.
#[derive(Debug, Default)]
pub(super) struct LogCheck {
    pub mark: Option<WatermarkRecord>,
    /// Segments that were being overwritten when the power was cut; nothing in them is needed.
    pub torn: Vec<TornSegment>,
    /// Damaged snapshots; they are not needed.
    pub broken_snapshots: Vec<PathBuf>,
}

/// sled's snapshots. A snapshot only saves reading the log before it, so it is not needed while
/// that part of the log exists.
#[derive(Default)]
struct Snapshots {
    /// The position in the log of the newest whole snapshot.
    lsn: u64,
    broken: Vec<PathBuf>,
}

impl Snapshots {
    fn read(dir: &Path) -> Result<Self, CheckFailure> {
        let mut snapshots = Snapshots::default();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(lsn) = name.strip_prefix("snap.") else {
                continue;
            };
            if path.is_dir() {
                return Err(CheckFailure::is_directory(path));
            }
            match u64::from_str_radix(lsn, 16) {
                Ok(lsn) if is_snapshot_whole(&path)? => snapshots.lsn = snapshots.lsn.max(lsn),
                _ => snapshots.broken.push(path),
            }
        }

        Ok(snapshots)
    }
}

/// A segment of the file, as far as it could be read.
struct ReadSegment {
    at: u64,
    header: Option<SegmentHeader>,
    /// Where its whole messages end, and whether that is the end of the segment.
    end: usize,
    is_full: bool,
    /// The newest commit in its messages.
    commit: u64,
    /// The first batch that continues in the next segment.
    unfinished: Option<LogBatch>,
    is_empty: bool,
}

/// Messages that count only if all of them are whole.
#[derive(Clone, Copy)]
struct LogBatch {
    /// Where it begins in the log, and where its last message does.
    from: u64,
    upto: u64,
    /// The newest commit before it.
    commit: u64,
}

impl ReadSegment {
    fn lsn(&self) -> u64 {
        self.header.map_or(0, |header| header.lsn)
    }

    fn torn(&self) -> TornSegment {
        TornSegment {
            at: self.at,
            lsn: self.lsn(),
        }
    }
}

/// Checks the files of a spool that is not open.
pub(super) fn check(dir: &Path) -> Result<LogCheck, CheckFailure> {
    let damaged = |name: &str, reason: String| CheckFailure::Damaged {
        file: dir.join(name),
        reason,
    };

    // Nothing is left that a salvage could read.
    if dir.join("db").is_dir() {
        return Err(CheckFailure::Lost);
    }
    // For a directory, the error of the file system would not name it.
    for name in ["conf", watermark::FILE, outcomes::FILE] {
        if dir.join(name).is_dir() {
            return Err(CheckFailure::is_directory(dir.join(name)));
        }
    }

    let mark = watermark::read(dir).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => damaged(watermark::FILE, error.to_string()),
        _ => error.into(),
    })?;

    let reached = mark.map_or(0, |mark| mark.commit);
    let was_opened = |dir: &Path| reached > 0 || spare::is_kept(dir);
    let file = match File::open(dir.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !was_opened(dir) => {
            return Ok(LogCheck {
                mark,
                ..LogCheck::default()
            });
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(CheckFailure::Lost),
        Err(e) => return Err(e.into()),
    };

    if reached > 0 {
        match is_conf_whole(dir) {
            Ok(true) => {}
            Ok(false) => return Err(damaged("conf", "does not match its checksum".into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("conf", "is missing".into()));
            }
            Err(e) => return Err(e.into()),
        }
    }

    let segments = read_segments(&file)?;
    let snapshots = Snapshots::read(dir)?;
    let tail = LogTail::of(&segments, snapshots.lsn);
    if tail.commit < reached {
        let reason = "ends before the last commit that is known to be on disk";
        return Err(match snapshots.broken.into_iter().next() {
            // Without this snapshot, part of the log cannot be read again.
            Some(file) => CheckFailure::Damaged {
                file,
                reason: "does not match its checksum".into(),
            },
            None => damaged("db", reason.into()),
        });
    }

    // Values have had frames for as long as there has been this file, and it is on disk before any
    // of them is: somebody took it away, or left it out of a copy.
    if mark.is_none() && tail.commit > 0 {
        let reason = "is missing, and without it nobody can say whether the end of `db` is";
        return Err(damaged(watermark::FILE, reason.into()));
    }

    let phase = mark.map_or(SpoolPhase::Open, |mark| mark.phase);
    let known = watermark::torn(dir)?;
    let mut torn = Vec::new();
    let mut started = 0;
    let mut needed = None;
    let mut is_needed = |at| -> io::Result<bool> {
        let needed = match &mut needed {
            Some(needed) => needed,
            none => none.insert(pages::needed_segments(&file, tail.end)?),
        };
        Ok(needed.contains(&at))
    };

    for segment in &segments {
        let is_whole = match segment.header {
            Some(header) if header.lsn > tail.lsn => phase != SpoolPhase::Closed,
            Some(header) => header.lsn == tail.lsn || segment.is_full,
            None => segment.is_empty,
        };
        if is_whole {
            continue;
        }
        if known.contains(&segment.torn()) {
            torn.push(segment.torn());
            continue;
        }

        let mut content = vec![0; SEGMENT];
        let length = read_bytes(&file, segment.at, &mut content)?;
        let content = &content[..length];
        let may_be_torn = match phase {
            SpoolPhase::Closed => false,
            SpoolPhase::Opening if has_empty_page(content) => true,
            SpoolPhase::Opening | SpoolPhase::Open => {
                started += 1;
                let may_be_next = tail.is_near_boundary && segment.end <= STARTED_BYTES;
                started <= MOST_STARTED && (may_be_next || tail.is_before(content))
            }
        };

        if !may_be_torn || is_needed(segment.at)? {
            let at = segment.at + segment.end as u64;
            return Err(damaged("db", format!("is damaged at byte {at}")));
        }
        torn.push(segment.torn());
    }

    Ok(LogCheck {
        mark,
        torn,
        broken_snapshots: snapshots.broken,
    })
}

/// The end of the log.
struct LogTail {
    /// Where the last segment begins in the log.
    lsn: u64,
    /// The number of the next segment.
    next: u64,
    /// The position in the log at which the valid part ends.
    end: u64,
    /// The newest whole commit.
    commit: u64,
    /// Whether the next segment may have been started.
    is_near_boundary: bool,
}

impl LogTail {
    /// Finds the end as sled does: it starts with the segment up to which everything is known to be
    /// written, and goes on as long as each segment is whole and the next one exists.
    fn of(segments: &[ReadSegment], snapshot: u64) -> Self {
        let mut found: Vec<&ReadSegment> = segments
            .iter()
            .filter(|segment| segment.header.is_some())
            .collect();

        found.sort_by_key(|segment| segment.lsn());
        let stable = found
            .iter()
            .filter_map(|segment| segment.header)
            .map(|header| header.stable)
            .max();
        let size = SEGMENT as u64;
        let mut next = stable.unwrap_or(0).max(snapshot) / size * size;

        let mut last: Option<&ReadSegment> = None;
        for segment in &found {
            if segment.lsn() == next {
                last = Some(segment);
                if !segment.is_full {
                    break;
                }
                next += size;
            }
        }

        let Some(last) = last else {
            return LogTail {
                lsn: 0,
                next: 0,
                end: 0,
                commit: 0,
                is_near_boundary: true,
            };
        };

        let mut end = last.lsn() + last.end as u64;
        let mut commit = 0;
        for segment in found.iter().filter(|segment| segment.lsn() <= last.lsn()) {
            match segment.unfinished {
                Some(batch) if batch.upto >= end => {
                    commit = commit.max(batch.commit);
                    end = batch.from;
                    break;
                }
                _ => commit = commit.max(segment.commit),
            }
        }

        LogTail {
            lsn: last.lsn(),
            next: last.lsn() / size + 1,
            end,
            commit,
            is_near_boundary: last.is_full || last.end + STARTED_BYTES >= SEGMENT,
        }
    }

    /// Whether this segment of the file contains messages of one of the next segments of the log:
    /// then its former content was no longer needed, because sled overwrites nothing else.
    fn is_before(&self, segment: &[u8]) -> bool {
        let mut numbers = self.next..self.next + MOST_STARTED as u64;
        numbers.any(|number| {
            (SEGMENT_HEAD..segment.len()).any(|at| log::message(segment, at, number).is_some())
        })
    }
}

/// Whether a page of this segment is filled with zeros.
fn has_empty_page(segment: &[u8]) -> bool {
    segment
        .chunks_exact(DISK_PAGE)
        .any(|page| page.iter().all(|byte| *byte == 0))
}

fn read_segments(file: &File) -> io::Result<Vec<ReadSegment>> {
    let length = file.metadata()?.len();
    let scanner = Scanner::new();
    let mut buffer = vec![0; SEGMENT];
    let mut segments = Vec::new();
    let mut at = 0;
    while at < length {
        let here = read_bytes(file, at, &mut buffer)?;
        segments.push(parse_segment(&scanner, &buffer[..here], at));
        at += SEGMENT as u64;
    }
    Ok(segments)
}

/// Reads the segment at this position of the file, and returns its length; the last one may be
/// short.
fn read_bytes(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let rest = file.metadata()?.len().saturating_sub(at);
    let here = usize::try_from(rest).unwrap_or(SEGMENT).min(SEGMENT);
    file.read_exact_at(&mut buffer[..here], at)?;
    Ok(here)
}

fn parse_segment(scanner: &Scanner, segment: &[u8], at: u64) -> ReadSegment {
    let Some(header) = SegmentHeader::read(segment) else {
        return ReadSegment {
            at,
            header: None,
            end: 0,
            is_full: false,
            commit: 0,
            unfinished: None,
            is_empty: segment.iter().all(|byte| *byte == 0) || segment.len() < SEGMENT_HEAD,
        };
    };

    let mut commit = 0;
    let mut batches: Vec<LogBatch> = Vec::new();
    let number = header.lsn / SEGMENT as u64;
    let (end, is_full) = log::messages(segment, number, SEGMENT, &mut |message| {
        if let Kind::Batch(upto) = message.kind {
            // Batches that are complete need not be remembered.
            let from = header.lsn + message.at as u64;
            batches.retain(|batch| batch.upto >= from);
            batches.push(LogBatch { from, upto, commit });
        }
        if matches!(message.kind, Kind::Page | Kind::Change) {
            scanner.scan(message.body, &mut |_, frame| {
                commit = commit.max(frame.commit)
            });
        }
    });

    let behind = header.lsn + end as u64;
    ReadSegment {
        at,
        header: Some(header),
        end,
        is_full,
        commit,
        unfinished: batches.into_iter().find(|batch| batch.upto >= behind),
        is_empty: false,
    }
}

/// Whether sled's settings are undamaged. They end with a checksum, which sled itself ignores.
fn is_conf_whole(dir: &Path) -> io::Result<bool> {
    let bytes = std::fs::read(dir.join("conf"))?;
    Ok(ends_with_checksum(&bytes))
}

fn ends_with_checksum(bytes: &[u8]) -> bool {
    bytes
        .split_last_chunk::<4>()
        .is_some_and(|(content, checksum)| {
            !content.is_empty() && crc32fast::hash(content) == u32::from_le_bytes(*checksum)
        })
}

/// Whether a snapshot is undamaged.
fn is_snapshot_whole(path: &Path) -> io::Result<bool> {
    let bytes = std::fs::read(path)?;
    let Some((rest, checksum)) = bytes.split_last_chunk::<4>() else {
        return Ok(false);
    };
    let Some((content, length)) = rest.split_last_chunk::<8>() else {
        return Ok(false);
    };
    Ok(!content.is_empty()
        && u64::from_le_bytes(*length) == content.len() as u64
        && crc32fast::hash(content) == u32::from_le_bytes(*checksum))
}
