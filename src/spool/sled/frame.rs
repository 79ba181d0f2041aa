//! The encoding of a value in sled's files: a frame with its key, the number of the commit that
//! wrote it, and a checksum. So it can be found anywhere in the files without sled, and a damaged
//! value is never mistaken for a whole one.
//!
//! | bytes | |
//! |---|---|
//! | 4 | [`MAGIC`] |
//! | 8 | the number of the commit, big-endian as all numbers here |
//! | 2, 4 | the lengths of the key and of the value |
//! | | the key, the value |
//! | 8 | XXH3 over all of that |

use memchr::memmem::Finder;
use twox_hash::XxHash3_64;

/// The start of every frame. No record begins with this first byte, so a damaged frame never
/// decodes as a record.
pub(super) const MAGIC: [u8; 4] = [0xF7, 0xB3, b'p', 0xD1];
const HEAD: usize = 4 + 8 + 2 + 4;
const TAIL: usize = 8;
/// The longest value that is accepted when searching for frames in arbitrary bytes.
const LONGEST_VALUE: usize = 8 * 1024 * 1024;

/// A value that is undamaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ValueFrame<'a> {
    pub commit: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Puts the value of a key into a frame.
pub(super) fn wrap(commit: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + key.len() + value.len() + TAIL);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&commit.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(&XxHash3_64::oneshot(&bytes).to_be_bytes());
    bytes
}

/// The whole frame at the start of some bytes, and its length.
fn read(bytes: &[u8]) -> Option<(ValueFrame<'_>, usize)> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (commit, rest) = rest.split_first_chunk::<8>()?;
    let (key_length, rest) = rest.split_first_chunk::<2>()?;

    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if length > LONGEST_VALUE {
        return None;
    }

    let (key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*key_length)))?;
    let (value, rest) = rest.split_at_checked(length)?;
    let (checksum, _) = rest.split_first_chunk::<8>()?;
    let end = HEAD + key.len() + value.len();

    let frame = ValueFrame {
        commit: u64::from_be_bytes(*commit),
        key,
        value,
    };

    (XxHash3_64::oneshot(&bytes[..end]) == u64::from_be_bytes(*checksum))
        .then_some((frame, end + TAIL))
}

/// The frame, if these bytes are exactly one whole frame.
pub(super) fn whole(bytes: &[u8]) -> Option<ValueFrame<'_>> {
    read(bytes)
        .filter(|(_, length)| *length == bytes.len())
        .map(|(frame, _)| frame)
}

/// The value of this key. Returns a damaged frame unchanged; it does not decode as a record.
pub(super) fn unwrap<'a>(key: &[u8], bytes: &'a [u8]) -> &'a [u8] {
    match whole(bytes) {
        Some(frame) if frame.key == key => frame.value,
        _ => bytes,
    }
}

/// The commit that wrote the value of this key; `None` if the frame is damaged.
pub(super) fn commit_of(key: &[u8], bytes: &[u8]) -> Option<u64> {
    whole(bytes)
        .filter(|frame| frame.key == key)
        .map(|frame| frame.commit)
}

/// Finds frames in arbitrary bytes.
pub(super) struct Scanner(Finder<'static>);

impl Scanner {
    pub(super) fn new() -> Self {
        Scanner(Finder::new(&MAGIC).into_owned())
    }

    /// Calls `show` with each whole frame and its position.
    pub(super) fn scan<'a>(&self, bytes: &'a [u8], show: &mut dyn FnMut(usize, ValueFrame<'a>)) {
        let mut at = 0;
        while let Some(found) = self.0.find(&bytes[at..]) {
            let start = at + found;
            match read(&bytes[start..]) {
                Some((frame, length)) => {
                    show(start, frame);
                    at = start + length;
                }
                None => at = start + 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_among_anything_and_any_flipped_bit_is_seen() {
        let framed = wrap(7, b"mail", b"its record");
        assert_eq!(unwrap(b"mail", &framed), b"its record");
        assert_eq!(commit_of(b"mail", &framed), Some(7));
        assert_eq!(commit_of(b"male", &framed), None);

        let around = [&MAGIC[..], b"rubbish", &framed, &framed, &framed[..20]].concat();
        let mut found = Vec::new();
        Scanner::new().scan(&around, &mut |at, frame| found.push((at, frame.commit)));
        assert_eq!(found, [(11, 7), (11 + framed.len(), 7)]);

        for bit in 0..framed.len() * 8 {
            let mut flipped = framed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unwrap(b"mail", &flipped), flipped, "bit {bit}");
        }
    }
}
