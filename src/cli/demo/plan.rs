//! The faults of the demo's mail server: decided by a mail's number and a seed alone, so that they
//! are the same in every run, whatever the order in which mails arrive.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The seed of the faults.
const SEED: u64 = 42;

/// What the sink does to one mail at its first attempt or attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlannedFault {
    /// It accepts the mail.
    None,
    /// It defers the recipient (450) this many times.
    Refuse(u32),
    /// It reads the mail and defers it (451) this many times.
    Defer(u32),
    /// It hangs up in the middle of the mail.
    HangUp,
    /// It accepts the mail and hangs up before it answers. The outcome is in doubt, so the mail is
    /// sent again and arrives twice.
    HangUpAfter,
}

/// The fault of mail `number`: out of a thousand, 20 recipients are deferred, 20 mails are
/// deferred, 5 are cut off, and 3 are cut off after they were accepted.
pub(super) fn trouble(number: usize) -> PlannedFault {
    let mut chance =
        SmallRng::seed_from_u64(SEED ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let times = chance.random_range(1..=2);
    match chance.random_range(0..1000) {
        0..20 => PlannedFault::Refuse(times),
        20..40 => PlannedFault::Defer(times),
        40..45 => PlannedFault::HangUp,
        45..48 => PlannedFault::HangUpAfter,
        _ => PlannedFault::None,
    }
}
