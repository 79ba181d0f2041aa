//! Decisions: when to try again, which relay to use, how fast to send, which priority is next, and
//! whether a relay is up. Pure functions; time and random numbers are arguments.

mod breaker;
mod limits;
mod pace;
mod quota;
mod rests;
mod retry;
mod route;
mod share;
mod slewed_clock;
mod streak;

pub use breaker::{Breaker, BreakerState};
pub use limits::{LearnedCount, Limits};
pub use pace::{Allowance, Pace, Rate, RateError};
pub use quota::{Quota, SenderPattern, SenderPatternError};
pub use rests::{DomainAdmission, RestingDomain, Rests};
pub use retry::{Jitter, RetryPolicy};
pub use route::{Match, RouteRule, Routes};
pub use share::{Shares, Weights};
pub use slewed_clock::SlewedClock;
pub use streak::Streak;
