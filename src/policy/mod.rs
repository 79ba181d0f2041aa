//! DECISIONS: when to try again, which relays to take, how fast, whose turn it is, and whether a
//! relay is up. Pure: time and chance come in as arguments.

mod breaker;
mod pace;
mod retry;
mod route;
mod share;

pub use breaker::{Breaker, BreakerState};
pub use pace::{Allowance, Pace, Rate, RateError};
pub use retry::{Jitter, RetryPolicy};
pub use route::{Match, RouteRule, Routes};
pub use share::{Shares, Weights};
