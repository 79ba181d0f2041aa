//! Reads sled's log, the file `db`, without sled: segments of one size, each with a header and
//! consecutive messages, all with checksums. sled takes any damage for the torn end of the log,
//! silently drops everything after it and fills it with zeros; so Postrider reads the log before
//! sled opens it.

use crc32fast::Hasher;

/// The bytes of a segment's header.
pub(super) const SEGMENT_HEAD: usize = 20;
/// A message begins only where the longest possible header would fit.
const MESSAGE_HEAD: usize = 32;
/// sled XORs numbers and checksums with these, so that zeros are not valid.
const NUMBER_MASK: u64 = 0x7FFF_FFFF_FFFF_FFFF;
const CHECKSUM_MASK: u32 = u32::MAX;

/// The header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The position of its first byte in the log. The log reuses the segments of the file, so this
    /// is no position in the file.
    pub lsn: u64,
    /// How far the log was known to be written at that time.
    pub stable: u64,
}

impl SegmentHeader {
    pub(super) fn read(segment: &[u8]) -> Option<Self> {
        let head = segment.first_chunk::<SEGMENT_HEAD>()?;
        let checksum = u32::from_le_bytes(*head.first_chunk::<4>()?);
        let number = |at: usize| {
            let bytes = head[at..].first_chunk::<8>()?;
            Some(u64::from_le_bytes(*bytes) ^ NUMBER_MASK)
        };
        let header = SegmentHeader {
            lsn: number(4)?,
            // Negative in the first segment, when nothing was.
            stable: u64::try_from(number(12)?.cast_signed()).unwrap_or(0),
        };
        (crc32fast::hash(&head[4..]) == checksum ^ CHECKSUM_MASK).then_some(header)
    }
}

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the write was abandoned.
    Cancelled,
    /// The end of this segment.
    Cap,
    /// The messages up to this position of the log count only if all of them are whole.
    Batch(u64),
    /// A page was freed.
    Free,
    /// A whole page.
    Page,
    /// A change of a page.
    Change,
    /// Anything else; also values that have a file of their own.
    Other,
}

/// One message of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogMessage<'a> {
    pub kind: Kind,
    pub page: u64,
    pub body: &'a [u8],
    /// Where it begins and ends in its segment.
    pub at: usize,
    pub end: usize,
}

/// The whole message at this position, if there is one. `number` is the segment's position in the
/// log, counted in segments.
pub(super) fn message(segment: &[u8], at: usize, number: u64) -> Option<LogMessage<'_>> {
    let (message, segment_number) = any_message(segment, at, Some(number))?;
    (segment_number == number).then_some(message)
}

/// The number of the segment, from a whole message at this position.
pub(super) fn number_of_message(segment: &[u8], at: usize) -> Option<u64> {
    any_message(segment, at, None).map(|(_, number)| number)
}

fn any_message(segment: &[u8], at: usize, expected: Option<u64>) -> Option<(LogMessage<'_>, u64)> {
    let bytes = segment.get(at..)?;
    let (checksum, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, mut rest) = rest.split_first()?;
    if !(1..=11).contains(kind) {
        return None;
    }

    let length = usize::try_from(varint(&mut rest)?).ok()?;
    let number = varint(&mut rest)?;
    if expected.is_some_and(|expected| expected != number) {
        return None;
    }

    let page = varint(&mut rest)?;
    let head = bytes.len() - rest.len();
    let body = rest.get(..length)?;

    let mut hasher = Hasher::new();
    hasher.update(body);
    hasher.update(&bytes[4..head]);
    if hasher.finalize() ^ CHECKSUM_MASK != u32::from_le_bytes(*checksum) {
        return None;
    }

    let kind = match kind {
        1 => Kind::Cancelled,
        2 => Kind::Cap,
        3 => Kind::Batch(u64::from_le_bytes(*body.first_chunk::<8>()?)),
        4 => Kind::Free,
        8 => Kind::Page,
        10 => Kind::Change,
        _ => Kind::Other,
    };

    let message = LogMessage {
        kind,
        page,
        body,
        at,
        end: at + head + length,
    };

    Some((message, number))
}

/// Whether a message may begin here in a segment of this size.
pub(super) fn has_place(at: usize, size: usize) -> bool {
    at + MESSAGE_HEAD <= size
}

/// Calls `show` with each whole message. Returns where they end, and whether that is the end of the
/// segment.
pub(super) fn messages<'a>(
    segment: &'a [u8],
    number: u64,
    size: usize,
    show: &mut dyn FnMut(LogMessage<'a>),
) -> (usize, bool) {
    let mut at = SEGMENT_HEAD;
    while has_place(at, size) {
        match message(segment, at, number) {
            Some(cap) if cap.kind == Kind::Cap => return (at, true),
            Some(message) => {
                at = message.end;
                show(message);
            }
            None => return (at, false),
        }
    }
    (at, true)
}

/// Takes a number in sled's variable-length encoding off the front of the bytes.
pub(super) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (first, rest) = bytes.split_first()?;
    let first = *first;
    let (value, length) = match first {
        0..=240 => (u64::from(first), 0),
        241..=248 => (
            240 + 256 * (u64::from(first) - 241) + u64::from(*rest.first()?),
            1,
        ),
        249 => (
            2288 + 256 * u64::from(*rest.first()?) + u64::from(*rest.get(1)?),
            2,
        ),
        250..=255 => {
            let length = usize::from(first) - 247;
            let mut wide = [0; 8];
            wide[..length].copy_from_slice(rest.get(..length)?);
            (u64::from_le_bytes(wide), length)
        }
    };
    *bytes = &rest[length..];

    Some(value)
}
