//! Records which deliveries were written recently, and by which commit, in the file `outcomes`
//! beside the log. The outcome of a delivery and its removed position in the queue are close to
//! each other in the log, so one damage may destroy both; this file then tells a salvage that there
//! was an outcome. It is written after each sync and, like `synced`, never synced itself. Only a
//! salvage reads it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use parking_lot::Mutex;
use twox_hash::XxHash3_64;

use crate::private;

/// The file's name.
pub(super) const FILE: &str = "outcomes";
/// The bytes of one entry: the hash of a delivery's key, and the commit.
const ENTRY_BYTES: usize = 16;
/// How many entries are kept.
const MOST_ENTRIES: u64 = 1 << 20;

pub(super) struct Outcomes {
    file: File,
    state: Mutex<OutcomeState>,
}

struct OutcomeState {
    /// How many entries were written.
    count: u64,
    /// Entries that are not known to be on disk, with their commits.
    waiting: Vec<(u64, u64)>,
}

fn hash(key: &[u8]) -> u64 {
    XxHash3_64::oneshot(key)
}

impl Outcomes {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let file = private::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(FILE))?;
        // The position of the newest entry in a full file is unknown, so writing starts at the
        // front.
        let count = file.metadata()?.len() / ENTRY_BYTES as u64 % MOST_ENTRIES;
        let waiting = Vec::new();
        let state = Mutex::new(OutcomeState { count, waiting });
        Ok(Outcomes { file, state })
    }

    /// Remembers that a commit writes this delivery.
    pub(super) fn note(&self, key: &[u8], commit: u64) {
        self.state.lock().waiting.push((hash(key), commit));
    }

    /// Writes the entries of this commit and earlier ones, which are on disk now.
    pub(super) fn reach(&self, commit: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        let reached = state.waiting.partition_point(|(_, of)| *of <= commit);
        let mut bytes = Vec::with_capacity(reached * ENTRY_BYTES);
        for (hash, commit) in state.waiting.drain(..reached) {
            bytes.extend_from_slice(&hash.to_be_bytes());
            bytes.extend_from_slice(&commit.to_be_bytes());
        }

        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let place = state.count % MOST_ENTRIES;
            let room = usize::try_from(MOST_ENTRIES - place).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(rest.len().min(room.saturating_mul(ENTRY_BYTES)));
            self.file.write_all_at(now, place * ENTRY_BYTES as u64)?;
            state.count += (now.len() / ENTRY_BYTES) as u64;
            rest = later;
        }

        Ok(())
    }
}

/// The newest commit that is known to have written each delivery.
#[derive(Default)]
pub(super) struct NewestCommits(HashMap<u64, u64>);

impl NewestCommits {
    pub(super) fn read(dir: &Path) -> io::Result<Self> {
        let bytes = match std::fs::read(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let mut newest = HashMap::new();
        for entry in bytes.chunks_exact(ENTRY_BYTES) {
            let (hash, commit) = (number(&entry[..8]), number(&entry[8..]));
            let known = newest.entry(hash).or_insert(commit);
            *known = commit.max(*known);
        }
        Ok(NewestCommits(newest))
    }

    /// Whether a delivery was written after this commit.
    pub(super) fn is_newer(&self, key: &[u8], commit: u64) -> bool {
        self.0
            .get(&hash(key))
            .is_some_and(|newest| *newest > commit)
    }
}
