//! Does what was acknowledged survive a power cut? A killed process keeps the page cache; a power
//! cut does not. Here a spool's life is recorded write by write and sync by sync, cut at random
//! moments, and each disk that the cut could have left is opened and compared with what had been
//! acknowledged by then.
//!
//! `POWERCUT_TRIALS=2000 cargo test --release --test power_cut -- --nocapture` makes more cuts, of
//! longer lives.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "common/agreement.rs"]
mod agreement;
#[path = "power_cut/check.rs"]
mod check;
#[path = "power_cut/journal.rs"]
mod journal;
#[path = "power_cut/load.rs"]
mod load;
#[path = "power_cut/trace.rs"]
mod trace;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use self::journal::Debt;
use self::trace::{Disk, Mode, Trace};

/// The bytes of a segment of sled's log.
const SEGMENT: usize = 16 * 1024 * 1024;
/// Names the directory of the life to be lived, in the process that lives it.
const DIR: &str = "POWERCUT_DIR";

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let trials =
        env::var("POWERCUT_TRIALS").map_or(30, |trials| trials.parse().expect("a number of cuts"));
    let (lives, rounds, chained) = if trials > 100 {
        (8, 60, 10)
    } else {
        (2, 30, 1)
    };

    let shm = Path::new("/dev/shm");
    let home = if shm.is_dir() {
        tempfile::tempdir_in(shm)
    } else {
        tempfile::tempdir()
    }
    .unwrap();
    let recorder = build_recorder(home.path());

    let first = Recording::make(
        &home.path().join("first"),
        &recorder,
        0..lives,
        rounds,
        Debt::default(),
    );

    let failures = first.cut(trials, true);
    assert!(
        failures.is_empty(),
        "{} of {trials} cuts lost something:\n{}",
        failures.len(),
        summary(&failures)
    );

    // The power comes back, the spool recovers and works on, and the power fails again.
    for n in 0..chained {
        let second = home.path().join("second");
        let owed = first.leave(&second.join("root/spool"), u64::from(n));
        let second = Recording::make(
            &second,
            &recorder,
            lives + n..lives + n + 1,
            rounds / 4,
            owed,
        );
        let trials = trials.div_ceil(4 * chained as usize);
        let failures = second.cut(trials, true);
        let found = summary(&failures);
        assert!(
            failures.is_empty(),
            "{} of {trials} second cuts lost something:\n{found}",
            failures.len()
        );
        std::fs::remove_dir_all(second.home).unwrap();
    }

    let failures = first.cut(6, false);
    assert!(
        !failures.is_empty(),
        "a disk that ignores every sync is not found out: the proof proves nothing"
    );
}

/// Not a test of its own: the process that the test above starts under the recorder.
#[test]
fn a_life_is_lived_where_one_is_asked_for() {
    let (Ok(dir), Ok(life), Ok(rounds)) = (
        env::var(DIR),
        env::var("POWERCUT_LIFE"),
        env::var("POWERCUT_ROUNDS"),
    ) else {
        return;
    };

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();

    runtime.block_on(load::live(
        Path::new(&dir),
        life.parse().unwrap(),
        rounds.parse().unwrap(),
    ));
}

fn build_recorder(dir: &Path) -> PathBuf {
    let recorder = dir.join("recorder.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/power_cut/recorder.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .arg(&recorder)
        .arg(source)
        .args(["-ldl", "-lpthread"]);

    assert!(
        cc.status()
            .expect("this test needs a C compiler, `cc`")
            .success()
    );

    recorder
}

/// What some lives of a spool did.
struct Recording {
    home: PathBuf,
    /// What was there before.
    files: Vec<(PathBuf, Vec<u8>)>,
    owed: Debt,
    trace: Trace,
}

impl Recording {
    /// Has the lives lived on the spool in `home/root/spool`, which is new or owes what `owed`
    /// says.
    fn make(home: &Path, recorder: &Path, lives: Range<u32>, rounds: u32, owed: Debt) -> Self {
        let root = home.join("root");
        std::fs::create_dir_all(root.join("spool")).unwrap();
        let entries = std::fs::read_dir(root.join("spool"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let files = entries
            .filter(|path| path.is_file())
            .map(|path| (path.clone(), std::fs::read(path).unwrap()));
        let files = files.collect();

        let mut logs = Vec::new();
        for life in lives {
            let log = home.join(format!("log.{life}"));
            let mut process = Command::new(env::current_exe().unwrap());
            process
                .args([
                    "--exact",
                    "a_life_is_lived_where_one_is_asked_for",
                    "--nocapture",
                ])
                .env("LD_PRELOAD", recorder)
                .env("POWERCUT_LOG", &log)
                .env(DIR, &root)
                .env("POWERCUT_LIFE", life.to_string())
                .env("POWERCUT_ROUNDS", rounds.to_string());
            let output = process.output().unwrap();
            assert!(
                output.status.success(),
                "life {life}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            logs.push(log);
        }

        Recording {
            home: home.to_owned(),
            files,
            owed,
            trace: Trace::read(&logs),
        }
    }

    /// Puts down what one cut left, and says what is owed by it.
    fn leave(&self, image: &Path, seed: u64) -> Debt {
        let mut random = StdRng::seed_from_u64(seed);
        let cut = random.random_range(self.trace.len() / 10..self.trace.len());
        let mut disk = Disk::new(&self.trace, &self.files, true);
        disk.advance(cut);

        disk.image(
            &self.home.join("root/spool"),
            image,
            Mode::ALL[random.random_range(0..Mode::ALL.len())],
            seed,
        );

        let mut owed = self.owed.clone();
        self.journal()
            .into_iter()
            .filter(|(event, _)| *event < cut)
            .for_each(|(_, lines)| owed.add(lines));
        owed
    }

    /// Makes so many cuts and returns what was lost.
    fn cut(&self, trials: usize, syncs: bool) -> Vec<Failure> {
        let mut points = self.points(trials);
        points.sort_unstable();

        let workers = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(8);
        std::thread::scope(|scope| {
            let chunks = points.chunks(trials.div_ceil(workers)).enumerate();
            let workers: Vec<_> = chunks
                .map(|(n, chunk)| scope.spawn(move || self.cut_at(n, chunk, syncs)))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        })
    }

    fn journal(&self) -> Vec<(usize, &str)> {
        self.trace.appended(&self.home.join("root/journal"))
    }

    /// A quarter anywhere; a quarter just after the load began something else, which is opening and
    /// closing; a quarter just before those syncs returned on which most depended; and a quarter
    /// just before those that put the beginning of a segment on disk.
    fn points(&self, trials: usize) -> Vec<usize> {
        let journal = self.journal();
        let notes = journal
            .iter()
            .filter(|(_, lines)| lines.starts_with("note"))
            .map(|(n, _)| *n);
        let notes: Vec<usize> = notes.collect();
        let syncs = self.trace.heavy_syncs();
        let segments = self.trace.segment_syncs(SEGMENT);

        let mut random = StdRng::seed_from_u64(trials as u64);
        let mut point = |n: usize| match n % 4 {
            0 => random.random_range(0..=self.trace.len()),
            1 => (notes[random.random_range(0..notes.len())] + random.random_range(0..60))
                .min(self.trace.len()),
            2 if !segments.is_empty() => segments[random.random_range(0..segments.len())],
            _ => syncs[random.random_range(0..syncs.len())],
        };

        (0..trials).map(&mut point).collect()
    }

    fn cut_at(&self, worker: usize, points: &[usize], syncs: bool) -> Vec<Failure> {
        let root = self.home.join("root/spool");
        let image = self.home.join(format!("image.{worker}"));
        let mut disk = Disk::new(&self.trace, &self.files, syncs);
        let mut journal = self.journal().into_iter().peekable();
        let mut debt = self.owed.clone();

        let mut failures = Vec::new();
        for (n, cut) in points.iter().enumerate() {
            if n > 0 && n % 100 == 0 {
                eprintln!(
                    "worker {worker}: {n} of {} cuts, {} lost something",
                    points.len(),
                    failures.len()
                );
            }
            disk.advance(*cut);
            while let Some((_, lines)) = journal.next_if(|(event, _)| event < cut) {
                debt.add(lines);
            }
            let mode = Mode::ALL[n % Mode::ALL.len()];
            let _ = std::fs::remove_dir_all(&image);
            let unsynced = disk.image(&root, &image, mode, (*cut + n) as u64);
            if let Err(what) = check::check(&image, &debt) {
                failures.push(Failure {
                    cut: *cut,
                    mode,
                    during: debt.during.clone(),
                    unsynced,
                    what,
                });
                if syncs {
                    keep(&image, cut, mode);
                }
            }
        }

        failures
    }
}

/// Keeps the image of a failure for a look, where `POWERCUT_KEEP` names a directory.
fn keep(image: &Path, cut: &usize, mode: Mode) {
    if let Ok(dir) = env::var("POWERCUT_KEEP") {
        let kept = Path::new(&dir).join(format!("{cut}-{mode:?}"));
        let _ = Command::new("cp").arg("-r").arg(image).arg(kept).status();
    }
}

struct Failure {
    cut: usize,
    mode: Mode,
    during: String,
    unsynced: Vec<String>,
    what: String,
}

/// How many of each kind, and the first few in full.
fn summary(failures: &[Failure]) -> String {
    let mut kinds: BTreeMap<(Mode, &str), usize> = BTreeMap::new();
    for failure in failures {
        *kinds.entry((failure.mode, &failure.during)).or_default() += 1;
    }

    let mut text = String::new();
    for ((mode, during), count) in kinds {
        writeln!(
            text,
            "{count} with {mode:?} of the unsynced writes, while {during}"
        )
        .unwrap();
    }

    for Failure {
        cut,
        mode,
        during,
        unsynced,
        what,
    } in failures.iter().take(12)
    {
        writeln!(
            text,
            "at event {cut}, {mode:?}, while {during}, unsynced {unsynced:?}: {what}"
        )
        .unwrap();
    }

    text
}
