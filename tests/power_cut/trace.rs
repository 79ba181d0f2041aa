//! What a process did to its files, and the images of the disk that a power cut could have left of
//! it.
//!
//! Of a file everything is there that was written before a sync began that returned; of what came
//! later nothing, all, a random half of the pages, a prefix or a suffix. Names of files (made,
//! renamed, deleted) are kept in the order in which they were changed, as journals do: those up to
//! a sync of their directory, or of a file that was made, and of the rest a prefix.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PAGE: usize = 4096;

enum Event {
    Create,
    Empty,
    Write {
        at: usize,
        bytes: Range<usize>,
    },
    Resize(usize),
    /// Covers all events before this one.
    Sync(usize),
    Unlink,
    Rename(PathBuf),
}

/// Everything that was recorded, in order.
pub struct Trace {
    bytes: Vec<u8>,
    events: Vec<(PathBuf, Event)>,
}

impl Trace {
    /// Reads the records of several processes that followed each other.
    pub fn read(logs: &[PathBuf]) -> Self {
        let mut trace = Trace {
            bytes: Vec::new(),
            events: Vec::new(),
        };

        for log in logs {
            let first = trace.events.len();
            let mut at = trace.bytes.len();
            trace.bytes.extend(fs::read(log).unwrap());
            while at < trace.bytes.len() {
                at = trace.read_record(at, first);
            }
        }

        trace
    }

    fn read_record(&mut self, at: usize, first: usize) -> usize {
        let number = |at: usize, len: usize| {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&self.bytes[at..at + len]);
            usize::try_from(u64::from_le_bytes(bytes)).unwrap()
        };

        let kind = self.bytes[at..at + 8]
            .split(|byte| *byte == 0)
            .next()
            .unwrap();

        assert_eq!(
            number(at + 8, 8),
            self.events.len() - first + 1,
            "records come in order and without gaps"
        );

        let value = number(at + 16, 8);
        let path = at + 32..at + 32 + number(at + 24, 4);
        let data = path.end..path.end + number(at + 28, 4);

        let text = |range: &Range<usize>| {
            PathBuf::from(str::from_utf8(&self.bytes[range.clone()]).unwrap())
        };
        let event = match kind {
            b"create" => Event::Create,
            b"empty" => Event::Empty,
            b"write" => Event::Write {
                at: value,
                bytes: data.clone(),
            },
            b"resize" => Event::Resize(value),
            b"sync" => Event::Sync(first + value),
            b"unlink" => Event::Unlink,
            b"rename" => Event::Rename(text(&data)),
            other => panic!("an unknown record {other:?}"),
        };

        let path = text(&path);
        self.events.push((path, event));
        data.end
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// The syncs before which most was written, as events: a tenth of all.
    pub fn heavy_syncs(&self) -> Vec<usize> {
        let mut syncs = Vec::new();
        let mut written = 0;
        for (n, (_, event)) in self.events.iter().enumerate() {
            match event {
                Event::Write { bytes, .. } => written += bytes.len(),
                Event::Sync(_) => syncs.push((std::mem::take(&mut written), n)),
                _ => {}
            }
        }

        syncs.sort_unstable();
        syncs
            .split_off(syncs.len() - syncs.len().div_ceil(10))
            .into_iter()
            .map(|(_, n)| n)
            .collect()
    }

    /// The syncs before which the log went on in another segment, which is as long as `segment`, as
    /// events.
    pub fn segment_syncs(&self, segment: usize) -> Vec<usize> {
        let mut syncs = Vec::new();
        let mut has_begun = false;
        for (n, (path, event)) in self.events.iter().enumerate() {
            match event {
                // Opening fills the rest of a segment, or all of it, with zeros.
                Event::Write { at, bytes } if path.ends_with("db") => {
                    let is_zero = self.bytes[bytes.clone()].iter().all(|byte| *byte == 0);
                    has_begun |= at.is_multiple_of(segment) && !is_zero;
                }
                Event::Sync(_) if path.ends_with("db") && std::mem::take(&mut has_begun) => {
                    syncs.push(n);
                }
                _ => {}
            }
        }
        syncs
    }

    /// What was written to a file that is only appended to, up to a cut; with the event after which
    /// each part was there.
    pub fn appended(&self, path: &Path) -> Vec<(usize, &str)> {
        let written = self
            .events
            .iter()
            .enumerate()
            .filter_map(|(n, (file, event))| match event {
                Event::Write { bytes, .. } if file == path => {
                    Some((n, str::from_utf8(&self.bytes[bytes.clone()]).unwrap()))
                }
                _ => None,
            });
        written.collect()
    }
}

/// What of the unsynced writes is there after a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Nothing,
    Everything,
    HalfThePages,
    Prefix,
    Suffix,
}

impl Mode {
    pub const ALL: [Mode; 5] = [
        Mode::Nothing,
        Mode::Everything,
        Mode::HalfThePages,
        Mode::Prefix,
        Mode::Suffix,
    ];
}

#[derive(Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<usize>,
}

#[derive(Clone)]
enum Naming {
    Made(PathBuf, usize),
    Gone(PathBuf),
    Renamed(PathBuf, PathBuf),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Made(path, file) => _ = names.insert(path.clone(), *file),
            Naming::Gone(path) => _ = names.remove(path),
            Naming::Renamed(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

/// The disk at some moment of a trace.
pub struct Disk<'a> {
    trace: &'a Trace,
    next: usize,
    /// Whether syncs do what they promise; without them the proof must find losses.
    syncs: bool,
    files: Vec<File>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pending_names: Vec<(usize, Naming)>,
}

impl<'a> Disk<'a> {
    /// A disk that holds `files` when the trace begins.
    pub fn new(trace: &'a Trace, files: &[(PathBuf, Vec<u8>)], syncs: bool) -> Self {
        let names: BTreeMap<PathBuf, usize> = files
            .iter()
            .map(|(path, _)| path.clone())
            .zip(0..)
            .collect();

        let durable = files.iter().map(|(_, bytes)| bytes.clone());
        Disk {
            trace,
            next: 0,
            syncs,
            files: durable
                .map(|durable| File {
                    durable,
                    pending: Vec::new(),
                })
                .collect(),
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
        }
    }

    /// Goes on to just before the event `cut`.
    pub fn advance(&mut self, cut: usize) {
        while self.next < cut {
            self.step(self.next);
            self.next += 1;
        }
    }

    fn step(&mut self, n: usize) {
        let (path, event) = &self.trace.events[n];
        match event {
            Event::Create => {
                let file = self.files.len();
                self.files.push(File::default());
                self.rename(n, Naming::Made(path.clone(), file));
            }
            Event::Unlink => self.rename(n, Naming::Gone(path.clone())),
            Event::Rename(to) => self.rename(n, Naming::Renamed(path.clone(), to.clone())),
            Event::Sync(_) if !self.syncs => {}
            Event::Sync(covers) => match self.names.get(path) {
                Some(file) => self.sync(*file, *covers),
                // No file has this name: it is the directory.
                None => self.keep_names(*covers),
            },
            Event::Empty | Event::Write { .. } | Event::Resize(_) => {
                if let Some(file) = self.names.get(path) {
                    self.files[*file].pending.push(n);
                }
            }
        }
    }

    fn rename(&mut self, n: usize, naming: Naming) {
        naming.apply(&mut self.names);
        self.pending_names.push((n, naming));
    }

    fn sync(&mut self, file: usize, covers: usize) {
        let is_this = |naming: &Naming| matches!(naming, Naming::Made(_, made) if *made == file);
        if let Some((made, _)) = self
            .pending_names
            .iter()
            .find(|(n, naming)| *n < covers && is_this(naming))
        {
            self.keep_names(made + 1);
        }

        let File { durable, pending } = &mut self.files[file];
        let covered = pending.partition_point(|n| *n < covers);
        for n in pending.drain(..covered) {
            apply(self.trace, durable, n, None);
        }
    }

    fn keep_names(&mut self, covers: usize) {
        let covered = self.pending_names.partition_point(|(n, _)| *n < covers);
        for (_, naming) in self.pending_names.drain(..covered) {
            naming.apply(&mut self.durable_names);
        }
    }

    /// Writes what a cut now could leave of the files under `root` to `to`. Returns which files had
    /// unsynced writes.
    pub fn image(&self, root: &Path, to: &Path, mode: Mode, seed: u64) -> Vec<String> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut names = self.durable_names.clone();
        let kept = match mode {
            Mode::Nothing => 0,
            Mode::Everything => self.pending_names.len(),
            _ => random.random_range(0..=self.pending_names.len()),
        };

        for (_, naming) in &self.pending_names[..kept] {
            naming.apply(&mut names);
        }

        let mut unsynced = Vec::new();
        for (path, file) in &names {
            let Ok(name) = path.strip_prefix(root) else {
                continue;
            };
            let File { durable, pending } = &self.files[*file];
            let mut bytes = durable.clone();
            let some = random.random_range(0..=pending.len());
            let (written, page_by_page) = match mode {
                Mode::Nothing => (&pending[..0], false),
                Mode::Everything => (&pending[..], false),
                Mode::HalfThePages => (&pending[..], true),
                Mode::Prefix => (&pending[..some], false),
                Mode::Suffix => (&pending[some..], false),
            };
            for n in written {
                apply(
                    self.trace,
                    &mut bytes,
                    *n,
                    page_by_page.then_some(&mut random),
                );
            }
            if !pending.is_empty() {
                unsynced.push(format!("{} ({} writes)", name.display(), pending.len()));
            }
            let path = to.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }

        unsynced
    }
}

/// Applies one write, or each of its pages with a chance of one half.
fn apply(trace: &Trace, file: &mut Vec<u8>, n: usize, mut random: Option<&mut StdRng>) {
    match &trace.events[n].1 {
        Event::Write { at, bytes } => {
            let mut data = &trace.bytes[bytes.clone()];
            let mut at = *at;
            while !data.is_empty() {
                let step = if random.is_some() {
                    data.len().min(PAGE - at % PAGE)
                } else {
                    data.len()
                };
                if random.as_mut().is_none_or(|random| random.random()) {
                    if file.len() < at + step {
                        file.resize(at + step, 0);
                    }
                    file[at..at + step].copy_from_slice(&data[..step]);
                }
                at += step;
                data = &data[step..];
            }
        }
        _ if random.is_some_and(|random| random.random()) => {}
        Event::Resize(len) => file.resize(*len, 0),
        Event::Empty => file.clear(),
        _ => unreachable!("only writes wait for a sync"),
    }
}
