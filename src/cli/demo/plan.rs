//! What goes wrong with which mail: decided by its number and a seed alone, so that every run of
//! the demo meets the same trouble, whatever the order in which mails arrive.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Which run this is; another number is another run's trouble.
const SEED: u64 = 42;

/// What the sink does to one mail, the first time or the first times that it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlannedFault {
    /// None: it takes it.
    None,
    /// It refuses the recipient for now (450), so many times.
    Refuse(u32),
    /// It reads the mail, and defers it (451), so many times.
    Defer(u32),
    /// It hangs up in the middle of the mail.
    HangUp,
    /// It takes the mail, and hangs up before it says so: nobody can know, so the mail is sent
    /// again, and arrives twice.
    HangUpAfter,
}

/// What happens to mail `number`: out of a thousand, 20 are refused, 20 deferred, 5 cut off and 3
/// cut off after they were taken.
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
