//! Reads a whole log before sled does, and says whether all of it is there that was once on disk.
//!
//! Four things may rightly be torn after a power cut: what was written behind the last sync, at the
//! end of the log; the segments that would have come next; a place in the file that was being
//! written again for one of them, in which nothing stood any more that is needed; and such a place
//! that sled was filling with zeros, which it does while it opens the files. Everything else was
//! synced, and is damaged if it is not whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::frame::Scanner;
use super::log::{self, Kind, SEGMENT_HEAD, SegmentHeader};
use super::open::SEGMENT;
use super::outcomes;
use super::pages;
use super::watermark::{self, SpoolPhase, TornPlace, WatermarkRecord};

/// How near the end of a segment the log must end, for the next one to have been begun where
/// nothing in it tells; and how much of that may have been written.
const BEGUN: usize = SEGMENT / 4;
/// How many segments may have been begun.
const MOST_BEGUN: usize = 2;
/// What a disk writes as a whole, in bytes.
const DISK_PAGE: usize = 4096;

/// Why a spool is not opened.
#[derive(Debug)]
pub(super) enum CheckFailure {
    /// Something of it is not as it was on disk.
    Damaged { file: PathBuf, reason: String },
    /// A file cannot be read.
    Unread(io::Error),
    /// The log is gone, and with it all that was in it.
    Lost,
}

impl From<io::Error> for CheckFailure {
    fn from(error: io::Error) -> Self {
        CheckFailure::Unread(error)
    }
}

/// What is known of a log that is whole.
#[derive(Debug, Default)]
pub(super) struct LogCheck {
    pub mark: Option<WatermarkRecord>,
    /// Places that were being written again when the power was cut; nothing is in them.
    pub torn: Vec<TornPlace>,
    /// Damaged snapshots, which are not needed.
    pub worthless: Vec<PathBuf>,
}

/// sled's snapshots. One only saves reading again what lies before it in the log, as long as that
/// is there.
#[derive(Default)]
struct Snapshots {
    /// The place in the log of the newest that is whole.
    lsn: u64,
    worthless: Vec<PathBuf>,
}

impl Snapshots {
    fn read(dir: &Path) -> io::Result<Self> {
        let mut snapshots = Snapshots::default();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(lsn) = name.strip_prefix("snap.") else {
                continue;
            };
            match u64::from_str_radix(lsn, 16) {
                Ok(lsn) if is_snapshot_whole(&path)? => snapshots.lsn = snapshots.lsn.max(lsn),
                _ => snapshots.worthless.push(path),
            }
        }

        Ok(snapshots)
    }
}

/// What was read of a place in the file.
struct ReadSegment {
    at: u64,
    header: Option<SegmentHeader>,
    /// Where its whole messages end, and whether that is as it should be.
    end: usize,
    is_full: bool,
    /// The newest commit in its messages.
    commit: u64,
    /// The first batch that goes on behind them.
    unfinished: Option<LogBatch>,
    is_empty: bool,
}

/// Messages that count together or not at all.
#[derive(Clone, Copy)]
struct LogBatch {
    /// Where it begins in the log, and its last message.
    from: u64,
    upto: u64,
    /// The newest commit before it.
    commit: u64,
}

impl ReadSegment {
    fn lsn(&self) -> u64 {
        self.header.map_or(0, |header| header.lsn)
    }

    fn torn(&self) -> TornPlace {
        TornPlace {
            at: self.at,
            lsn: self.lsn(),
        }
    }
}

/// Checks the files of a spool that nobody has open.
pub(super) fn check(dir: &Path) -> Result<LogCheck, CheckFailure> {
    let damaged = |name: &str, reason: String| CheckFailure::Damaged {
        file: dir.join(name),
        reason,
    };

    // What a file's error says does not name it.
    for name in ["db", "conf", watermark::FILE, outcomes::FILE] {
        if dir.join(name).is_dir() {
            return Err(damaged(name, "is a directory, and must be a file".into()));
        }
    }

    let mark = watermark::read(dir).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => damaged(watermark::FILE, error.to_string()),
        _ => error.into(),
    })?;

    let reached = mark.map_or(0, |mark| mark.commit);
    let file = match File::open(dir.join("db")) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound && reached == 0 => {
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
            Ok(false) => return Err(damaged("conf", "is not what was written".into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("conf", "is missing".into()));
            }
            Err(e) => return Err(e.into()),
        }
    }

    let places = read_places(&file)?;
    let snapshots = Snapshots::read(dir)?;
    let tail = LogTail::of(&places, snapshots.lsn);
    if tail.commit < reached {
        let reason = "ends before what is known to have been on disk";
        return Err(match snapshots.worthless.into_iter().next() {
            // Without it not all of the log can be read again.
            Some(file) => CheckFailure::Damaged {
                file,
                reason: "is not what was written".into(),
            },
            None => damaged("db", reason.into()),
        });
    }

    let stage = mark.map_or(SpoolPhase::Open, |mark| mark.stage);
    let known = watermark::torn(dir)?;
    let mut torn = Vec::new();
    let mut begun = 0;
    let mut needed = None;
    let mut is_needed = |at| -> io::Result<bool> {
        let needed = match &mut needed {
            Some(needed) => needed,
            none => none.insert(pages::needed_segments(&file, tail.end)?),
        };
        Ok(needed.contains(&at))
    };

    for place in &places {
        let is_whole = match place.header {
            Some(header) if header.lsn > tail.lsn => stage != SpoolPhase::Closed,
            Some(header) => header.lsn == tail.lsn || place.is_full,
            None => place.is_empty,
        };
        if is_whole {
            continue;
        }
        if known.contains(&place.torn()) {
            torn.push(place.torn());
            continue;
        }

        let mut segment = vec![0; SEGMENT];
        let length = read_segment(&file, place.at, &mut segment)?;
        let segment = &segment[..length];
        let may_be_torn = match stage {
            SpoolPhase::Closed => false,
            SpoolPhase::Opening if has_empty_page(segment) => true,
            SpoolPhase::Opening | SpoolPhase::Open => {
                begun += 1;
                let may_be_next = tail.is_near_boundary && place.end <= BEGUN;
                begun <= MOST_BEGUN && (may_be_next || tail.is_before(segment))
            }
        };

        if !may_be_torn || is_needed(place.at)? {
            let at = place.at + place.end as u64;
            return Err(damaged("db", format!("is damaged at byte {at}")));
        }
        torn.push(place.torn());
    }

    Ok(LogCheck {
        mark,
        torn,
        worthless: snapshots.worthless,
    })
}

/// Where the log ends.
struct LogTail {
    /// Where its last segment begins in the log.
    lsn: u64,
    /// The number of the segment that comes next.
    next: u64,
    /// Up to where in the log it counts.
    end: u64,
    /// The newest commit that is whole.
    commit: u64,
    /// Whether the next segment may have been begun.
    is_near_boundary: bool,
}

impl LogTail {
    /// As sled finds it: from the segment up to which all was known to be written, as long as one
    /// follows the other and each is whole.
    fn of(places: &[ReadSegment], snapshot: u64) -> Self {
        let mut found: Vec<&ReadSegment> = places
            .iter()
            .filter(|place| place.header.is_some())
            .collect();

        found.sort_by_key(|place| place.lsn());
        let stable = found
            .iter()
            .filter_map(|place| place.header)
            .map(|header| header.stable)
            .max();
        let size = SEGMENT as u64;
        let mut next = stable.unwrap_or(0).max(snapshot) / size * size;

        let mut last: Option<&ReadSegment> = None;
        for place in &found {
            if place.lsn() == next {
                last = Some(place);
                if !place.is_full {
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
        for place in found.iter().filter(|place| place.lsn() <= last.lsn()) {
            match place.unfinished {
                Some(batch) if batch.upto >= end => {
                    commit = commit.max(batch.commit);
                    end = batch.from;
                    break;
                }
                _ => commit = commit.max(place.commit),
            }
        }

        LogTail {
            lsn: last.lsn(),
            next: last.lsn() / size + 1,
            end,
            commit,
            is_near_boundary: last.is_full || last.end + BEGUN >= SEGMENT,
        }
    }

    /// Whether this place holds something of the segments that come next: then sled had no use any
    /// more for what stood there, for it writes nowhere else.
    fn is_before(&self, segment: &[u8]) -> bool {
        let mut numbers = self.next..self.next + MOST_BEGUN as u64;
        numbers.any(|number| {
            (SEGMENT_HEAD..segment.len()).any(|at| log::message(segment, at, number).is_some())
        })
    }
}

/// Whether a part of this place was filled with zeros.
fn has_empty_page(segment: &[u8]) -> bool {
    segment
        .chunks_exact(DISK_PAGE)
        .any(|page| page.iter().all(|byte| *byte == 0))
}

fn read_places(file: &File) -> io::Result<Vec<ReadSegment>> {
    let length = file.metadata()?.len();
    let scanner = Scanner::new();
    let mut buffer = vec![0; SEGMENT];
    let mut places = Vec::new();
    let mut at = 0;
    while at < length {
        let here = read_segment(file, at, &mut buffer)?;
        places.push(read_place(&scanner, &buffer[..here], at));
        at += SEGMENT as u64;
    }
    Ok(places)
}

/// Reads what there is of the segment that begins here, and says how much.
fn read_segment(file: &File, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let rest = file.metadata()?.len().saturating_sub(at);
    let here = usize::try_from(rest).unwrap_or(SEGMENT).min(SEGMENT);
    file.read_exact_at(&mut buffer[..here], at)?;
    Ok(here)
}

fn read_place(scanner: &Scanner, segment: &[u8], at: u64) -> ReadSegment {
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
            // Those before it that are finished need not be kept.
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

/// Whether sled's settings are as they were written: they end with a checksum that sled itself does
/// not mind.
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

/// Whether a snapshot of sled's is as it was written.
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
