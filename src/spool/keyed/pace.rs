//! The pace of writing while the files are almost as large as `max_size` allows. The log is cleaned
//! behind what is written. As long as cleaning keeps up, new segments are written where old ones
//! were, and the files do not grow. So writing slows down when they grow, and speeds up again when
//! they do not.
//!
//! The size of the files alone does not tell: cleaned segments stay in the file until they are used
//! again, and a file that has once become large may keep its size.

use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// How many bytes may be written in a second when the files reach 9/10 of `max_size`. Below that
/// there is no limit.
const FASTEST: u64 = 32 * MIB;
/// How many bytes may be written in a second however much the files grow.
const SLOWEST: u64 = MIB;
/// Writing slows to half each time the files grow by this fraction of `max_size`, or by a segment
/// of the log if that is more. What grows by less is not the log.
const STEPS: u64 = 64;
const LEAST_STEP: u64 = 16 * MIB;
/// The files may shrink and grow again by this fraction of `max_size` without slowing writing.
const SLACK: u64 = 8;
/// Writing becomes twice as fast each time this many bytes were written without growth; sooner
/// while the files are below 9/10 of `max_size`.
const TRIED_AFTER: u64 = 64 * MIB;
const TRIED_AFTER_BELOW: u64 = 16 * MIB;
/// The longest single wait. The rest of a longer one follows after the next writes, so that one
/// large message does not delay everything else.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// The current pace. Sizes are in bytes.
pub(super) struct Pace {
    /// How many bytes may be written in a second.
    rate: u64,
    /// The size up to which growth has slowed writing down.
    answered: u64,
    /// How many bytes were written since it was last slowed down or sped up.
    written: u64,
    /// The waits that are still to come.
    owed: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            rate: FASTEST,
            answered: 0,
            written: 0,
            owed: Duration::ZERO,
        }
    }
}

impl Pace {
    /// How long to wait after `written` bytes were written to files that now have the size `files`
    /// and contain `kept` bytes of records.
    ///
    /// Waiting helps only if what is kept leaves room for segments that are being cleaned.
    pub(super) fn wait_after(&mut self, written: u64, files: u64, max: u64, kept: u64) -> Duration {
        let full = max - max / 10;
        self.adapt(written, files, full, max);
        if files <= full || kept > max - max / 3 {
            self.owed = Duration::ZERO;
            return Duration::ZERO;
        }

        self.owed += Duration::from_secs_f64(written as f64 / self.rate as f64);
        let wait = self.owed.min(LONGEST_WAIT);
        self.owed -= wait;
        wait
    }

    fn adapt(&mut self, written: u64, files: u64, full: u64, max: u64) {
        self.answered = self.answered.max(full);
        let step = (max / STEPS).max(LEAST_STEP);
        let halvings = files.saturating_sub(self.answered) / step;

        if halvings > 0 {
            self.written = 0;
            self.answered += halvings * step;
            self.rate = (self.rate >> halvings.min(63)).max(SLOWEST);
        } else {
            self.written += written;
            let tried_after = match files > full {
                true => TRIED_AFTER,
                false => TRIED_AFTER_BELOW,
            };
            if self.written >= tried_after {
                self.written = 0;
                self.rate = (self.rate * 2).min(FASTEST);
            }
        }

        // The last segments come and go; after the files have shrunk by more, growth counts again.
        self.answered = self.answered.min(files.saturating_add(max / SLACK));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1024 * MIB;

    /// The wait after a megabyte, in seconds, as the pace asks for it.
    fn seconds(pace: &mut Pace, files: u64) -> f64 {
        let wait = pace.wait_after(MIB, files * MIB, MAX, MAX / 4);
        (wait + std::mem::take(&mut pace.owed)).as_secs_f64()
    }

    fn rate(pace: &mut Pace, files: u64) -> f64 {
        (1.0 / seconds(pace, files)).round()
    }

    #[test]
    fn writing_waits_where_the_files_are_almost_full_and_cleaning_can_make_room() {
        let mut pace = Pace::default();
        assert_eq!(seconds(&mut pace, 0), 0.0);
        assert_eq!(seconds(&mut pace, 921), 0.0);
        assert_eq!(rate(&mut pace, 923), 32.0);
        let in_vain = pace.wait_after(MIB, 1024 * MIB, MAX, 700 * MIB);
        assert_eq!(in_vain, Duration::ZERO);
    }

    #[test]
    fn it_slows_down_as_the_files_grow_and_is_never_stopped() {
        let mut pace = Pace::default();
        assert_eq!(rate(&mut pace, 930), 32.0);
        assert_eq!(rate(&mut pace, 938), 16.0);
        assert_eq!(rate(&mut pace, 970), 4.0);
        assert_eq!(rate(&mut pace, 5000), 1.0);
    }

    #[test]
    fn files_that_stay_large_do_not_keep_it_slow() {
        let mut pace = Pace::default();
        assert_eq!(rate(&mut pace, 5000), 1.0);
        for faster in [2.0, 4.0, 8.0, 16.0, 32.0, 32.0] {
            (1..64).for_each(|_| _ = seconds(&mut pace, 5000));
            assert_eq!(rate(&mut pace, 5000), faster);
        }
        assert_eq!(rate(&mut pace, 5032), 8.0);
    }

    #[test]
    fn what_grows_a_little_with_each_write_does_not_keep_it_slow() {
        let mut pace = Pace::default();
        assert_eq!(rate(&mut pace, 970), 4.0);
        for written in 0..128 {
            let files = 970 * MIB + written * 4096;
            let _ = pace.wait_after(MIB, files, MAX, MAX / 4);
            pace.owed = Duration::ZERO;
        }
        assert_eq!(rate(&mut pace, 970), 16.0);
    }

    #[test]
    fn what_comes_and_goes_is_no_growth_and_what_grew_before_they_shrank_counts_again() {
        let mut pace = Pace::default();
        assert_eq!(rate(&mut pace, 954), 8.0);
        for _ in 0..31 {
            assert_eq!(rate(&mut pace, 922), 8.0);
            assert_eq!(rate(&mut pace, 954), 8.0);
        }
        assert_eq!(rate(&mut pace, 922), 8.0);
        assert_eq!(rate(&mut pace, 954), 16.0);
        assert_eq!(rate(&mut pace, 1050), 1.0);
        assert_eq!(seconds(&mut pace, 500), 0.0);
        assert_eq!(rate(&mut pace, 954), 1.0);
    }

    #[test]
    fn one_large_message_is_waited_for_in_parts() {
        let mut pace = Pace::default();
        let (files, kept) = (5000 * MIB, MAX / 4);
        assert_eq!(pace.wait_after(MIB, files, MAX, kept), LONGEST_WAIT);
        let waits = (0..100).map(|_| pace.wait_after(0, files, MAX, kept));
        let waits: Vec<Duration> = waits.collect();
        assert_eq!(waits.iter().sum::<Duration>(), Duration::from_millis(900));
        assert!(waits.iter().all(|wait| *wait <= LONGEST_WAIT));
    }
}
