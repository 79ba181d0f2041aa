//! Slows down clients that guess tokens and passwords, by address: each failure delays the next
//! answer longer, and after a number of failures the address is banned for a while.
//!
//! Both listeners have one. An address that many clients may share, such as this machine's own (a
//! proxy) or one of a trusted network, is never banned: a correct token is always accepted from
//! there, and only wrong ones are delayed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Networks;
use super::admission::network;

/// How many failures have no consequence: people mistype, and a program may start with an old
/// token.
const FREE_FAILURES: u32 = 3;

/// The delay after the first failure beyond these; it doubles with each further one.
const FIRST_PENALTY: Duration = Duration::from_millis(250);

/// The longest delay.
const LONGEST_PENALTY: Duration = Duration::from_secs(8);

/// How many addresses are remembered.
const MAX_KNOWN: usize = 50_000;

/// Counts failures by address. Clones share the counts.
#[derive(Clone, Debug)]
pub(super) struct LoginGuard {
    ban_after: u32,
    ban_time: Duration,
    /// Networks that are never banned, besides this machine.
    trusted: Networks,
    known: Arc<Mutex<HashMap<IpAddr, FailureRecord>>>,
}

#[derive(Clone, Copy, Debug)]
struct FailureRecord {
    failures: u32,
    last: Instant,
    banned_until: Option<Instant>,
}

/// The consequence of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Consequence {
    /// How long to delay the answer.
    pub penalty: Duration,
    /// Whether the address is banned by this failure, and was not before.
    pub is_new_ban: bool,
    /// Whether the address is banned.
    pub is_banned: bool,
}

impl LoginGuard {
    /// Bans an address for `ban_time` after `ban_after` failures, each within that time of the one
    /// before; never if that is 0.
    pub fn new(ban_after: u32, ban_time: Duration, trusted: Networks) -> Self {
        LoginGuard {
            ban_after,
            ban_time,
            trusted,
            known: Arc::default(),
        }
    }

    /// Counts a failure.
    pub fn failed(&self, peer: IpAddr, now: Instant) -> Consequence {
        let mut known = self.known.lock();
        let whose = network(peer);
        if known.len() >= MAX_KNOWN && !known.contains_key(&whose) {
            known.retain(|_, record| !self.is_over(record, now));
            if known.len() >= MAX_KNOWN
                && let Some(any) = known.keys().next().copied()
            {
                known.remove(&any);
            }
        }

        let new = FailureRecord {
            failures: 0,
            last: now,
            banned_until: None,
        };

        let record = known.entry(whose).or_insert(new);
        if self.is_over(record, now) {
            *record = new;
        }
        record.failures = record.failures.saturating_add(1);
        record.last = now;

        let was_banned = record.banned_until.is_some();
        let is_banned = self.ban_after > 0 && record.failures >= self.ban_after;
        if is_banned && !was_banned {
            record.banned_until = Some(now + self.ban_time);
        }

        Consequence {
            penalty: penalty(record.failures),
            is_new_ban: is_banned && !was_banned,
            is_banned,
        }
    }

    /// Whether this address is banned at `now`.
    pub fn bans(&self, peer: IpAddr, now: Instant) -> bool {
        if self.is_shared(peer) {
            return false;
        }
        let known = self.known.lock();
        let record = known.get(&network(peer));
        record.is_some_and(|record| record.banned_until.is_some_and(|until| now < until))
    }

    fn is_shared(&self, peer: IpAddr) -> bool {
        peer.to_canonical().is_loopback() || self.trusted.contain(peer)
    }

    fn is_over(&self, record: &FailureRecord, now: Instant) -> bool {
        match record.banned_until {
            Some(until) => now >= until,
            None => now.saturating_duration_since(record.last) > self.ban_time,
        }
    }
}

fn penalty(failures: u32) -> Duration {
    match failures.checked_sub(FREE_FAILURES + 1) {
        None => Duration::ZERO,
        Some(more) => (FIRST_PENALTY * 2u32.saturating_pow(more.min(10))).min(LONGEST_PENALTY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Duration = Duration::from_secs(600);

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn failures_cost_more_and_more_and_in_the_end_the_address_is_shut_out_for_a_while() {
        let guard = LoginGuard::new(5, TEN, Networks::default());

        let now = Instant::now();
        let failures: Vec<_> = (0..5).map(|_| guard.failed(peer(1), now)).collect();
        let penalties: Vec<_> = failures.iter().map(|f| f.penalty.as_millis()).collect();
        assert_eq!(penalties, [0, 0, 0, 250, 500]);

        let bans: Vec<_> = failures.iter().map(|f| f.is_new_ban).collect();
        assert_eq!(bans, [false, false, false, false, true]);
        assert!(guard.bans(peer(1), now) && !guard.bans(peer(2), now));

        // One that was under way says nothing new.
        let late = guard.failed(peer(1), now);
        assert!(late.is_banned && !late.is_new_ban);
        assert!(!guard.bans(peer(1), now + TEN));
        assert_eq!(guard.failed(peer(1), now + TEN).penalty, Duration::ZERO);
    }

    #[test]
    fn failures_are_forgotten_and_some_are_never_too_many() {
        let guard = LoginGuard::new(2, TEN, Networks::default());
        let now = Instant::now();
        guard.failed(peer(1), now);
        assert!(!guard.failed(peer(1), now + TEN * 2).is_banned);
        let never = LoginGuard::new(0, TEN, Networks::default());
        (0..100).for_each(|_| _ = never.failed(peer(1), now));
        let most = never.failed(peer(1), now);
        assert!(most.penalty == LONGEST_PENALTY && !most.is_banned);
        assert!(!never.bans(peer(1), now));
    }

    #[test]
    fn an_address_that_others_share_waits_and_is_never_shut_out() {
        let trusted = Networks::new(["10.0.0.0/8".parse().expect("a network")]);
        let guard = LoginGuard::new(2, TEN, trusted);
        let now = Instant::now();
        for shared in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.1.2.3"] {
            let shared = shared.parse().expect("an address");
            (0..10).for_each(|_| _ = guard.failed(shared, now));
            let last = guard.failed(shared, now);
            assert!(last.is_banned && last.penalty == LONGEST_PENALTY);
            assert!(!guard.bans(shared, now), "{shared}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guard = LoginGuard::new(2, TEN, Networks::default());
        let now = Instant::now();
        for n in 0..MAX_KNOWN as u32 + 10 {
            guard.failed(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(guard.known.lock().len(), MAX_KNOWN);
        guard.failed(peer(1), now + TEN * 2);
        assert_eq!(guard.known.lock().len(), 1);
    }
}
