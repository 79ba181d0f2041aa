//! Limits how fast a relay is used, with the generic cell rate algorithm (a token bucket).

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// A number of mails per span of time: `100/s`, `600/m`, `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    per: Duration,
}

impl Rate {
    /// `count` mails a second.
    ///
    /// # Errors
    /// `count` is zero.
    pub fn per_second(count: u32) -> Result<Self, RateError> {
        format!("{count}/s").parse()
    }

    /// The share of this rate for the node `rank` (from 0) of `nodes`. The shares add up to the
    /// rate.
    pub(crate) fn shared(self, rank: u32, nodes: u32) -> Rate {
        let nodes = nodes.max(1);
        let whole = self.count.get();

        match NonZeroU32::new(whole / nodes + u32::from(rank < whole % nodes)) {
            Some(count) if whole >= nodes => Rate {
                count,
                per: self.per,
            },
            // Fewer than one mail per node and period: the period is longer instead.
            _ => Rate {
                count: self.count,
                per: self.per * nodes,
            },
        }
    }

    /// The burst that is allowed: a tenth of a second's mails, enough to use connections well
    /// without exceeding the rate noticeably.
    fn short_burst(self) -> NonZeroU32 {
        let a_tenth = f64::from(self.count.get()) / self.per.as_secs_f64() / 10.0;
        NonZeroU32::new(a_tenth as u32).unwrap_or(NonZeroU32::MIN)
    }
}

impl FromStr for Rate {
    type Err = RateError;
    fn from_str(text: &str) -> Result<Self, RateError> {
        let fail = || RateError(text.chars().take(64).collect());
        let (count, unit) = text.split_once('/').ok_or_else(fail)?;
        let count: NonZeroU32 = count.trim().replace('_', "").parse().map_err(|_| fail())?;
        let per = match unit.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(fail()),
        };

        Ok(Rate {
            count,
            per: Duration::from_secs(per),
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per.as_secs() {
            1 => "s",
            60 => "m",
            3600 => "h",
            86_400 => "d",
            seconds => return write!(f, "{}/{seconds}s", self.count),
        };
        write!(f, "{}/{unit}", self.count)
    }
}

/// The text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a rate; write a count above zero and a unit, such as 100/s, 600/m, 1000/h or \
     5000/d",
    .0.escape_debug()
)]
pub struct RateError(String);

/// Permits mails at no more than a rate; without a rate, permits all.
///
/// Each mail moves the time at which the next one is due forward by one interval; a mail may be
/// earlier than that by a tolerance.
pub struct Pace {
    limit: Option<Limit>,
}

struct Limit {
    interval: Duration,
    tolerance: Duration,
    /// When the next mail is due, in monotonic time.
    due: Duration,
}

/// What is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// How many mails are permitted now.
    pub mails: usize,
    /// When to ask again, if that is fewer than requested.
    pub again_in: Option<Duration>,
}

impl Pace {
    /// Permits `rate`, with bursts of a tenth of a second's mails.
    pub fn new(rate: Option<Rate>) -> Self {
        let limit = rate.and_then(|rate| Limit::of(rate, rate.short_burst()));
        Pace { limit }
    }

    /// Permits `rate`, with bursts of all mails of one period.
    pub fn at_once(rate: Rate) -> Self {
        let limit = Limit::of(rate, rate.count);
        Pace { limit }
    }

    /// Requests permission for up to `wish` mails at the monotonic time `now`. Permission that is
    /// not used is to be returned with [`Pace::give_back`].
    pub fn take(&mut self, wish: usize, now: Duration) -> Allowance {
        let Some(limit) = &mut self.limit else {
            return Allowance {
                mails: wish,
                again_in: None,
            };
        };

        let mails = limit.allowed(now).min(wish);
        limit.due = limit.due.max(now) + limit.span(mails);
        let too_early = (limit.due - now).saturating_sub(limit.tolerance);
        Allowance {
            mails,
            again_in: (mails < wish).then(|| too_early.max(Duration::from_millis(1))),
        }
    }

    /// Returns unused permission. It does not accumulate while there is no mail.
    pub fn give_back(&mut self, mails: usize) {
        if let Some(limit) = &mut self.limit {
            limit.due = limit.due.saturating_sub(limit.span(mails));
        }
    }
}

impl Limit {
    /// `None` for a rate whose interval is below the resolution of the clock.
    fn of(rate: Rate, burst: NonZeroU32) -> Option<Self> {
        let interval = rate.per / rate.count.get();
        (!interval.is_zero()).then(|| Limit {
            interval,
            tolerance: interval * (burst.get() - 1),
            due: Duration::ZERO,
        })
    }

    /// How many mails are permitted now.
    fn allowed(&self, now: Duration) -> usize {
        let early = self.due.saturating_sub(now);
        self.tolerance.checked_sub(early).map_or(0, |room| {
            let more = room.as_nanos() / self.interval.as_nanos();
            usize::try_from(more)
                .unwrap_or(usize::MAX)
                .saturating_add(1)
        })
    }

    fn span(&self, mails: usize) -> Duration {
        let mails = u32::try_from(mails).unwrap_or(u32::MAX);
        self.interval.saturating_mul(mails)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_shares_of_a_rate_add_up_to_it() {
        let rate = |text: &str| text.parse::<Rate>().expect("a rate");
        for (whole, nodes) in [("100/s", 3), ("7/m", 4), ("10/s", 10), ("5/s", 1)] {
            let shares = (0..nodes).map(|rank| rate(whole).shared(rank, nodes).count.get());
            assert_eq!(shares.sum::<u32>(), rate(whole).count.get(), "{whole}");
        }
        // Fewer mails than nodes: all are equally slow, and together keep to the rate.
        let slow = rate("2/s").shared(1, 3);
        assert_eq!(slow.to_string(), "2/3s");
    }

    #[test]
    fn a_rate_holds_over_a_second_and_says_when_to_ask_again() {
        let mut pace = Pace::new(Some("100/s".parse().expect("valid")));
        let sent: usize = (0..1000).map(|ms| pace.take(50, at(ms)).mails).sum();
        assert!((100..=110).contains(&sent), "{sent} in a second");

        let none = pace.take(50, at(1000));
        let none = if none.mails > 0 {
            pace.take(50, at(1000))
        } else {
            none
        };

        assert_eq!(none.mails, 0);
        assert!(
            none.again_in
                .is_some_and(|wait| wait <= Duration::from_millis(10))
        );
    }

    #[test]
    fn all_of_a_rate_may_come_at_once_and_then_no_faster_than_it() {
        let mut pace = Pace::at_once("3/m".parse().expect("valid"));
        assert_eq!(pace.take(5, at(0)).mails, 3);
        let next = pace.take(1, at(1000));
        assert_eq!((next.mails, next.again_in), (0, Some(at(19_000))));
        assert_eq!(pace.take(5, at(20_000)).mails, 1);
    }

    #[test]
    fn what_was_not_used_is_not_lost() {
        let mut pace = Pace::new(Some("1/h".parse().expect("valid")));
        assert_eq!(pace.take(5, at(0)).mails, 1);
        pace.give_back(1);
        assert_eq!(pace.take(5, at(1)).mails, 1);
        assert_eq!(pace.take(5, at(2)).mails, 0);
    }

    #[test]
    fn what_was_not_used_does_not_pile_up() {
        let mut pace = Pace::new(Some("10/s".parse().expect("valid")));
        for second in 0..100 {
            let allowed = pace.take(50, at(second * 1000)).mails;
            pace.give_back(allowed);
        }
        assert!(
            pace.take(50, at(99_000)).mails <= 2,
            "a long rest is no licence for a flood"
        );
    }

    #[test]
    fn a_rate_reads_as_it_is_written() {
        for text in ["100/s", "600/m", "1000/h", "5/d"] {
            assert_eq!(text.parse::<Rate>().expect("valid").to_string(), text);
        }
        for text in ["", "100", "0/s", "-1/s", "1/w", "x/s", "1.5/s"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
