//! DECISIONS: when to try again, which relays to take, how fast, whose turn it is, and whether a
//! relay is up. Pure: time and chance come in as arguments.

mod breaker;
mod course;
mod limits;
mod pace;
mod quota;
mod rests;
mod retry;
mod route;
mod share;
mod streak;

pub use breaker::{Breaker, BreakerState};
pub use course::Course;
pub use limits::{Lesson, Limits};
pub use pace::{Allowance, Pace, Rate, RateError};
pub use quota::{Quota, SenderPattern, SenderPatternError};
pub use rests::{Admission, RestingDomain, Rests};
pub use retry::{Jitter, RetryPolicy};
pub use route::{Match, RouteRule, Routes};
pub use share::{Shares, Weights};
pub use streak::Streak;
