//! What can happen to a spool.

use postrider::Priority;
use proptest::prelude::*;

/// One thing that happens. Numbers that name a mail or a claim are taken modulo how many there are.
#[derive(Clone, Debug)]
pub enum Step {
    Put(Vec<MailSketch>),
    Claim {
        turns: Vec<Priority>,
        critical_only: usize,
        max_recipients: usize,
        routes: Vec<&'static str>,
    },
    Mark {
        claim: usize,
    },
    Settle {
        claim: usize,
        verdicts: Vec<Verdict>,
    },
    SettleStale {
        claim: usize,
    },
    Drop {
        claim: usize,
    },
    /// The clock moves on, and what is due by then is swept as the scheduler does it.
    Pass {
        minutes: u64,
    },
    Cancel {
        mail: usize,
    },
    Retry {
        mail: usize,
    },
    Purge {
        mail: usize,
    },
    Reroute,
    Close,
    Kill,
}

/// A mail that is put.
#[derive(Clone, Debug)]
pub struct MailSketch {
    pub priority: Priority,
    pub routes: Vec<&'static str>,
    pub due_in: u64,
    pub expires_in: u64,
    pub key: Option<&'static str>,
    pub content: u128,
    pub at_most_once: bool,
    pub size: usize,
}

/// What a relay says to one recipient.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Delivered,
    Rejected,
    Deferred { minutes: u64 },
}

pub fn any_step() -> impl Strategy<Value = Step> {
    let any = any::<usize>;
    prop_oneof![
        6 => prop::collection::vec(any_sketch(), 1..4).prop_map(Step::Put),
        8 => any_claim(),
        1 => any().prop_map(|claim| Step::Mark { claim }),
        6 => (any(), prop::collection::vec(any_verdict(), 3)).prop_map(|(claim,
            verdicts)| Step::Settle { claim, verdicts }),
        1 => any().prop_map(|claim| Step::SettleStale { claim }),
        2 => any().prop_map(|claim| Step::Drop { claim }),
        4 => prop_oneof![0..10u64, 10..100u64,
            100..400u64].prop_map(|minutes| Step::Pass { minutes }),
        1 => any().prop_map(|mail| Step::Cancel { mail }),
        2 => any().prop_map(|mail| Step::Retry { mail }),
        1 => any().prop_map(|mail| Step::Purge { mail }),
        1 => Just(Step::Reroute),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ]
}

fn any_claim() -> impl Strategy<Value = Step> {
    let routes = prop::sample::subsequence(vec!["primary", "backup", "gone"], 1..=3);
    (
        prop::collection::vec(any_priority(), 0..5),
        0..2usize,
        1..4usize,
        routes,
    )
        .prop_map(
            |(turns, critical_only, max_recipients, routes)| Step::Claim {
                turns,
                critical_only,
                max_recipients,
                routes,
            },
        )
}

fn any_sketch() -> impl Strategy<Value = MailSketch> {
    let routes = prop::collection::vec(
        prop::sample::select(vec!["primary", "primary", "backup", "gone"]),
        1..4,
    );

    let due_in = prop_oneof![3 => Just(0), 1 => 1..60u64];
    let key = prop::option::weighted(0.3, prop::sample::select(vec!["a", "b", "c"]));
    let size = prop_oneof![3 => 0..100usize, 1 => 4000..9000usize, 1 => Just(300 * 1024)];
    (
        any_priority(),
        routes,
        due_in,
        1..200u64,
        key,
        0..2u128,
        prop::bool::weighted(0.3),
        size,
    )
        .prop_map(
            |(priority, routes, due_in, expires_in, key, content, at_most_once, size)| MailSketch {
                priority,
                routes,
                due_in,
                expires_in,
                key,
                content,
                at_most_once,
                size,
            },
        )
}

fn any_priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(Priority::ALL.to_vec())
}

fn any_verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        2 => Just(Verdict::Delivered),
        1 => Just(Verdict::Rejected),
        2 => (0..40u64).prop_map(|minutes| Verdict::Deferred { minutes }),
    ]
}
