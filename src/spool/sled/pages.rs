//! Reads sled's pages from a log that may be damaged, without sled. Whole messages are replayed;
//! the bytes between them are searched for frames.
//!
//! A page is its last whole image and the changes after it. If an image is damaged, the image
//! before it and all changes since give the same page, unless their segment was reused.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::frame::{MAGIC, Scanner, whole};
use super::log::{self, Kind, LogMessage, SEGMENT_HEAD, SegmentHeader};
use super::open::SEGMENT;

/// A value that was found.
pub(super) struct SalvagedValue {
    /// The commit that wrote it; 0 if it has no frame.
    pub commit: u64,
    pub value: Vec<u8>,
}

/// The result.
#[derive(Default)]
pub(super) struct Salvage {
    /// The newest value of each key that is not known to have been removed.
    pub values: BTreeMap<Vec<u8>, SalvagedValue>,
    /// The number of damaged ranges in the files.
    pub damaged: u64,
    /// The newest commit of which a value was found.
    pub newest: u64,
}

/// Where a message is.
#[derive(Clone, Copy)]
struct LogSpan {
    lsn: u64,
    at: u64,
    length: usize,
}

#[derive(Default)]
struct LoggedPage {
    image: Option<LogSpan>,
    changes: Vec<LogSpan>,
}

/// A page that contains values.
struct Leaf {
    lo: Vec<u8>,
    hi: Vec<u8>,
    /// The position of its image in the log.
    lsn: u64,
    removed: HashMap<Vec<u8>, u64>,
}

/// The range between two whole messages.
struct Gap {
    at: u64,
    length: usize,
    /// Its position in the log, if it is known.
    lsn: u64,
    /// Only values newer than this commit were lost here; anything else is older content of this
    /// range.
    after: u64,
}

/// The positions in the file of the segments that are still needed: those with the last image of a
/// page, or a change after it. sled reuses only other segments. The log is read up to the position
/// `end`.
pub(super) fn needed_segments(file: &File, end: u64) -> io::Result<HashSet<u64>> {
    let mut reader = PageReader::of(file);
    reader.end = end;
    reader.read_log()?;
    let spots = reader
        .pages
        .values()
        .flat_map(|page| page.image.iter().chain(&page.changes));
    let size = SEGMENT as u64;
    Ok(spots.map(|spot| spot.at / size * size).collect())
}

/// Reads the log `db` and the other files in the directory.
pub(super) fn salvage(dir: &Path) -> io::Result<Salvage> {
    let file = File::open(dir.join("db"))?;
    let mut reader = PageReader::of(&file);
    reader.read_log()?;
    reader.collect(dir)
}

struct PageReader<'a> {
    file: &'a File,
    scanner: Scanner,
    pages: HashMap<u64, LoggedPage>,
    gaps: Vec<Gap>,
    /// The position in the log from which on messages are ignored.
    end: u64,
    /// The newest commit that was seen.
    newest: u64,
}

impl<'a> PageReader<'a> {
    fn of(file: &'a File) -> Self {
        PageReader {
            file,
            scanner: Scanner::new(),
            pages: HashMap::new(),
            gaps: Vec::new(),
            end: u64::MAX,
            newest: 0,
        }
    }
}

impl PageReader<'_> {
    /// Replays all segments in the order of the log.
    fn read_log(&mut self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        let mut order = Vec::new();
        let mut at = 0;
        while at < length {
            let segment = self.segment(at, length)?;
            match number_of(&segment) {
                Some((number, is_whole)) => order.push((number, at, is_whole)),
                None if segment.iter().all(|byte| *byte == 0) => {}
                None => self.gaps.push(Gap {
                    at,
                    length: segment.len(),
                    lsn: 0,
                    after: 0,
                }),
            }
            at += SEGMENT as u64;
        }

        order.sort_unstable();
        let last = order.last().map(|(number, _, _)| *number);
        for (number, at, is_whole) in order {
            let segment = self.segment(at, length)?;
            if !is_whole {
                self.gaps.push(Gap {
                    at,
                    length: SEGMENT_HEAD,
                    lsn: number * SEGMENT as u64,
                    after: u64::MAX,
                });
            }
            self.read_segment(&segment, at, number, last == Some(number));
        }

        Ok(())
    }

    fn segment(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let here = usize::try_from(length - at).unwrap_or(SEGMENT).min(SEGMENT);
        let mut segment = vec![0; here];
        self.file.read_exact_at(&mut segment, at)?;
        Ok(segment)
    }

    fn read_segment(&mut self, segment: &[u8], base: u64, number: u64, is_last: bool) {
        let mut at = SEGMENT_HEAD;
        while log::has_place(at, SEGMENT) && at < segment.len() {
            if let Some(message) = log::message(segment, at, number) {
                if message.kind == Kind::Cap {
                    return;
                }
                self.replay(&message, base, number);
                at = message.end;
                continue;
            }
            let next = (at + 1..segment.len()).find(|at| {
                log::has_place(*at, SEGMENT) && log::message(segment, *at, number).is_some()
            });
            let end = next.unwrap_or(segment.len());
            let is_end = next.is_none() && is_last;
            // After the end of the log there is older content of the segment, or nothing.
            if !is_end || segment[at..end].iter().any(|byte| *byte != 0) {
                self.gaps.push(Gap {
                    at: base + at as u64,
                    length: end - at,
                    lsn: number * SEGMENT as u64 + at as u64,
                    after: if is_end { self.newest } else { 0 },
                });
            }
            at = end;
        }
    }

    fn replay(&mut self, message: &LogMessage<'_>, base: u64, number: u64) {
        let spot = LogSpan {
            lsn: number * SEGMENT as u64 + message.at as u64,
            at: base + (message.end - message.body.len()) as u64,
            length: message.body.len(),
        };
        if spot.lsn >= self.end {
            return;
        }

        let page = match message.kind {
            Kind::Page | Kind::Change | Kind::Free => self.pages.entry(message.page).or_default(),
            _ => return,
        };

        match message.kind {
            Kind::Page => {
                *page = LoggedPage {
                    image: Some(spot),
                    ..LoggedPage::default()
                }
            }
            Kind::Free => *page = LoggedPage::default(),
            _ => page.changes.push(spot),
        }

        let newest = &mut self.newest;
        self.scanner.scan(message.body, &mut |_, frame| {
            *newest = frame.commit.max(*newest)
        });
    }

    fn collect(self, dir: &Path) -> io::Result<Salvage> {
        let mut found = Salvage::default();
        let mut leaves = Vec::new();
        for page in self.pages.values() {
            self.read_page(page, &mut found, &mut leaves)?;
        }
        leaves.sort_by(|a, b| a.lo.cmp(&b.lo));

        let mut gaps = Vec::new();
        for gap in &self.gaps {
            let mut bytes = vec![0; gap.length];
            self.file.read_exact_at(&mut bytes, gap.at)?;
            gaps.push((bytes, gap.lsn, gap.after));
        }

        found.damaged = gaps.iter().filter(|(_, _, after)| *after == 0).count() as u64;
        if let Ok(blobs) = std::fs::read_dir(dir.join("blobs")) {
            for blob in blobs.flatten() {
                let lsn = blob.file_name().to_string_lossy().parse().unwrap_or(0);
                gaps.push((std::fs::read(blob.path())?, lsn, 0));
            }
        }

        for (bytes, lsn, after) in &gaps {
            self.scanner.scan(bytes, &mut |_, frame| {
                if frame.commit > *after && !is_removed(&leaves, frame.key, *lsn) {
                    found.add(frame.key, frame.commit, frame.value);
                }
            });
        }

        Ok(found)
    }

    fn read_page(
        &self,
        page: &LoggedPage,
        found: &mut Salvage,
        leaves: &mut Vec<Leaf>,
    ) -> io::Result<()> {
        let mut values: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut leaf = None;
        let mut prefix = Vec::new();
        if let Some(image) = page.image {
            let body = self.body(image)?;
            let Some(node) = PageImage::read(&body) else {
                return Ok(());
            };
            prefix = node.prefix().to_vec();
            leaf = Some(Leaf {
                lo: node.lo.to_vec(),
                hi: node.hi.to_vec(),
                lsn: image.lsn,
                removed: HashMap::new(),
            });
            for (key, value) in node.values {
                values.insert([&prefix[..], key].concat(), value.to_vec());
            }
        }

        for change in &page.changes {
            let body = self.body(*change)?;
            match Change::read(&body) {
                // If the image is lost, its key prefix is too; the frame has the whole key.
                Some(Change::Set(key, value)) => {
                    let key = match whole(value) {
                        Some(frame) => frame.key.to_vec(),
                        None => [&prefix[..], key].concat(),
                    };
                    values.insert(key, value.to_vec());
                }
                Some(Change::Remove(key)) => {
                    let key = [&prefix[..], key].concat();
                    values.remove(&key);
                    if let Some(leaf) = &mut leaf {
                        leaf.removed.insert(key, change.lsn);
                    }
                }
                None => {}
            }
        }

        for (key, value) in values {
            match whole(&value) {
                Some(frame) => found.add(&key, frame.commit, frame.value),
                None if value.starts_with(&MAGIC) => {}
                None => found.add(&key, 0, &value),
            }
        }

        leaves.extend(leaf);
        Ok(())
    }

    fn body(&self, spot: LogSpan) -> io::Result<Vec<u8>> {
        let mut body = vec![0; spot.length];
        self.file.read_exact_at(&mut body, spot.at)?;
        Ok(body)
    }
}

impl Salvage {
    pub(super) fn add(&mut self, key: &[u8], commit: u64, value: &[u8]) {
        self.newest = commit.max(self.newest);
        match self.values.get(key) {
            Some(known) if known.commit >= commit => {}
            _ => {
                let value = value.to_vec();
                self.values
                    .insert(key.to_vec(), SalvagedValue { commit, value });
            }
        }
    }
}

/// Whether a key that was written at this position of the log is known to have been removed later.
fn is_removed(leaves: &[Leaf], key: &[u8], lsn: u64) -> bool {
    let from = leaves.partition_point(|leaf| leaf.lo.as_slice() <= key);
    let covering = leaves[..from]
        .iter()
        .rev()
        .find(|leaf| leaf.hi.is_empty() || leaf.hi.as_slice() > key);
    covering.is_some_and(|leaf| {
        leaf.lsn > lsn || leaf.removed.get(key).is_some_and(|removed| *removed > lsn)
    })
}

/// The number of a segment, from its header or else from a message, and whether the header is
/// whole.
fn number_of(segment: &[u8]) -> Option<(u64, bool)> {
    if let Some(header) = SegmentHeader::read(segment) {
        return Some((header.lsn / SEGMENT as u64, true));
    }
    let stretch = segment.len().min(SEGMENT / 16);
    (SEGMENT_HEAD..stretch)
        .find_map(|at| log::number_of_message(segment, at))
        .map(|number| (number, false))
}

/// The image of a page.
struct PageImage<'a> {
    prefix: usize,
    lo: &'a [u8],
    hi: &'a [u8],
    values: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> PageImage<'a> {
    /// `None` for a page without values.
    fn read(mut bytes: &'a [u8]) -> Option<Self> {
        let bytes = &mut bytes;
        log::varint(bytes)?;
        log::varint(bytes)?;
        let (flags, rest) = bytes.split_first_chunk::<2>()?;
        *bytes = rest;
        let lo = sized(bytes)?;
        let hi = sized(bytes)?;

        let (kind, rest) = bytes.split_first()?;
        *bytes = rest;
        if *kind != 0 {
            return None;
        }

        let count = usize::try_from(log::varint(bytes)?).ok()?;
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(sized(bytes)?);
        }

        let mut values = Vec::with_capacity(count);
        for key in keys {
            values.push((key, sized(bytes)?));
        }

        let prefix = usize::from(flags[1]);
        (prefix <= lo.len()).then_some(PageImage {
            prefix,
            lo,
            hi,
            values,
        })
    }

    /// The common prefix of its keys.
    fn prefix(&self) -> &'a [u8] {
        &self.lo[..self.prefix]
    }
}

enum Change<'a> {
    Set(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
}

impl<'a> Change<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        match kind {
            0 => Some(Change::Set(sized(&mut rest)?, sized(&mut rest)?)),
            1 => Some(Change::Remove(sized(&mut rest)?)),
            _ => None,
        }
    }
}

/// Takes a byte string that follows its length off the front of the bytes.
fn sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(log::varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
