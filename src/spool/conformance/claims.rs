//! Who is handed what, in which order, and never twice.

use std::collections::BTreeSet;

use super::Bench;
use super::fixture::*;
use crate::delivery::{Delivery, Route, Stage, State};
use crate::mail::{MailId, Priority, Timestamp, minutes};
use crate::spool::{ClaimRequest, SpoolOptions};

pub async fn nothing_is_handed_out_before_it_is_due(bench: &dyn Bench) {
    let spool = open(bench, "due").await;
    let due = start() + minutes(10);
    let id = put(&*spool, Draft { due, ..draft() }).await;
    assert_nothing_due(&*spool, start(), "a scheduled mail waits").await;

    let just_before = Timestamp::from_millis(due.as_millis() - 1);
    assert_nothing_due(
        &*spool,
        just_before,
        "a scheduled mail waits to the last millisecond",
    )
    .await;
    assert_eq!(states(&*spool, id, just_before).await, [State::Scheduled]);
    assert_eq!(states(&*spool, id, due).await, [State::Queued]);

    assert_eq!(ids(&[claim_one(&*spool, due).await]), [id]);
}

pub async fn what_was_due_first_comes_first(bench: &dyn Bench) {
    let spool = open(bench, "order").await;
    let dues = [7, 3, 9, 1, 5, 2, 8, 4, 6, 0];
    let new_mails = dues.map(|n| {
        Draft {
            due: start() + ms(n),
            ..draft()
        }
        .new_mail()
    });

    put_all(&*spool, new_mails.into()).await;
    let mut seen = Vec::new();
    for turns in [1, 2, 3, 4] {
        let claims = claim(&*spool, request(turns, start() + ms(100))).await;
        assert_eq!(
            claims.len(),
            turns,
            "as many mails as are wanted are handed out while there are as many"
        );
        seen.extend(claims.iter().map(due_of));
        settle(&*spool, claims, start(), delivered(start())).await;
    }

    let sorted: Vec<Timestamp> = (0..10).map(|n| start() + ms(n)).collect();
    assert_eq!(
        seen, sorted,
        "within one queue and priority, what was due first comes first"
    );
}

pub async fn each_turn_takes_its_priority_and_falls_through_to_the_most_urgent(bench: &dyn Bench) {
    use Priority::{Bulk, Critical, Default};
    let spool = open(bench, "turns").await;
    let mut new_mails = Vec::new();
    for (priority, count) in [(Bulk, 4), (Default, 2), (Critical, 3)] {
        new_mails.extend((0..count).map(|_| {
            Draft {
                priority,
                ..draft()
            }
            .new_mail()
        }));
    }

    put_all(&*spool, new_mails).await;

    let turns = vec![
        Bulk, Default, Critical, Default, Default, Bulk, Default, Critical, Critical, Default,
    ];
    let claims = claim(
        &*spool,
        ClaimRequest {
            turns,
            ..request(0, start())
        },
    )
    .await;

    let given: Vec<Priority> = claims.iter().map(|claim| claim.manifest.priority).collect();
    assert_eq!(
        given,
        [
            Bulk, Default, Critical, Default, Critical, Bulk, Critical, Bulk, Bulk
        ],
        "each turn takes its priority, and where that has nothing due, the most urgent that has"
    );
}

pub async fn further_claims_are_for_critical_mail_only(bench: &dyn Bench) {
    let spool = open(bench, "critical-only").await;
    let draft_of = |priority| {
        Draft {
            priority,
            ..draft()
        }
        .new_mail()
    };

    put_all(
        &*spool,
        vec![draft_of(Priority::Default), draft_of(Priority::Bulk)],
    )
    .await;

    let only = |critical_only| ClaimRequest {
        critical_only,
        ..request(0, start())
    };

    let claims = claim(&*spool, only(5)).await;
    assert!(
        claims.is_empty(),
        "what is kept for critical mail is given to no other"
    );

    put_all(
        &*spool,
        vec![
            draft_of(Priority::Critical),
            draft_of(Priority::Critical),
            draft_of(Priority::Critical),
        ],
    )
    .await;

    let first = claim(&*spool, only(2)).await;
    assert_eq!(
        first.len(),
        2,
        "as much critical mail as is wanted is handed out"
    );

    let rest = claim(
        &*spool,
        ClaimRequest {
            turns: vec![Priority::Bulk],
            ..only(2)
        },
    )
    .await;

    let given: Vec<Priority> = rest.iter().map(|claim| claim.manifest.priority).collect();
    assert_eq!(
        given,
        [Priority::Bulk, Priority::Critical],
        "further critical mail comes after the turns"
    );
}

pub async fn a_claim_stops_before_its_bodies_add_up_to_too_much(bench: &dyn Bench) {
    let spool = open(bench, "max-bytes").await;
    let sizes = [5000, 2000, 2000, 2000];
    let new_mails = sizes.iter().zip(0..).map(|(size, n)| Draft {
        body: noise(*size),
        due: start() + ms(n),
        ..draft()
    });

    put_all(&*spool, new_mails.map(Draft::new_mail).collect()).await;
    let now = start() + ms(100);
    let bounded = |max_bytes| ClaimRequest {
        max_bytes,
        ..request(4, now)
    };

    let first = claim(&*spool, bounded(1000)).await;
    assert_eq!(
        sizes_of(&first),
        [5000],
        "the first mail is handed out whatever its size"
    );

    let second = claim(&*spool, bounded(4500)).await;
    assert_eq!(
        sizes_of(&second),
        [2000, 2000],
        "a claim stops before its bodies add up to more than is wanted"
    );

    let third = claim(&*spool, bounded(4500)).await;
    assert_eq!(
        sizes_of(&third),
        [2000],
        "what was left over comes with the next claim"
    );

    audit(&*spool, now).await;
}

pub async fn a_claim_holds_no_more_recipients_than_are_wanted(bench: &dyn Bench) {
    let spool = open(bench, "max-recipients").await;
    let id = put(
        &*spool,
        Draft {
            to: crowd(250, "primary"),
            ..draft()
        },
    )
    .await;
    let mut places = BTreeSet::new();

    let mut held = Vec::new();
    for expected in [100, 100, 50] {
        let mut claims = claim(
            &*spool,
            ClaimRequest {
                max_recipients: 100,
                ..request(1, start())
            },
        )
        .await;
        let claim = claims
            .pop()
            .expect("the rest of the recipients are still due");
        assert_eq!(claim.manifest.id, id);
        assert_eq!(
            claim.deliveries.len(),
            expected,
            "a claim holds no more recipients than are wanted, and no fewer"
        );
        places.extend(
            claim
                .deliveries
                .iter()
                .map(|(lease, _)| lease.token().index),
        );
        held.push(claim);
    }

    assert_eq!(
        places,
        (0..250).collect(),
        "every recipient is handed out once"
    );

    assert_nothing_due(&*spool, start(), "all recipients are in a sender's hands").await;
    audit(&*spool, start()).await;
}

pub async fn only_the_wanted_queues_are_touched(bench: &dyn Bench) {
    let spool = open(bench, "routes").await;
    let to = |route| {
        Draft {
            to: crowd(1, route),
            ..draft()
        }
        .new_mail()
    };

    let ids_put = put_all(
        &*spool,
        vec![
            to("primary"),
            to("backup"),
            to("primary,backup"),
            to("other"),
        ],
    )
    .await;
    let from = |routes: &[&str]| ClaimRequest {
        routes: routes.iter().map(|r| Route::over([*r])).collect(),
        ..request(9, start())
    };

    assert!(
        claim(&*spool, from(&[])).await.is_empty(),
        "who wants from no queue gets nothing"
    );

    assert!(
        claim(&*spool, from(&["unheard-of"])).await.is_empty(),
        "an unknown queue is empty"
    );

    assert!(
        claim(&*spool, from(&["prim"])).await.is_empty(),
        "a queue is not taken for one whose name begins alike"
    );

    let both = claim(&*spool, from(&["primary,backup"])).await;
    assert_eq!(
        ids(&both),
        [ids_put[2]],
        "a queue is known by its whole name"
    );

    let primary = claim(&*spool, from(&["primary"])).await;
    assert_eq!(
        ids(&primary),
        [ids_put[0]],
        "only the wanted queue is touched"
    );

    let rest: BTreeSet<MailId> = ids(&claim(&*spool, from(&["primary", "other", "backup"])).await)
        .into_iter()
        .collect();
    assert_eq!(
        rest,
        BTreeSet::from([ids_put[1], ids_put[3]]),
        "all wanted queues are looked at"
    );
}

pub async fn recipients_of_one_mail_on_one_route_come_together(bench: &dyn Bench) {
    let spool = open(bench, "together").await;
    let to = ["primary", "backup", "primary", "backup", "primary"];
    let to = to
        .iter()
        .enumerate()
        .map(|(n, route)| (format!("r{n}@example.org"), *route))
        .collect();
    let mut new_mail = Draft { to, ..draft() }.new_mail();

    let later = start() + minutes(5);
    new_mail.deliveries[4].stage = Stage::Pending { due: later };
    let id = new_mail.manifest.id;
    put_all(&*spool, vec![new_mail]).await;

    let claims = claim(&*spool, request(5, start())).await;
    let mut groups: Vec<Vec<u16>> = claims
        .iter()
        .map(|claim| places(&claim.deliveries))
        .collect();

    groups.sort();
    assert_eq!(
        groups,
        [vec![0, 2], vec![1, 3]],
        "the due recipients of one mail on one route are handed out together"
    );

    for claim in &claims {
        let routes: BTreeSet<&Route> = claim
            .deliveries
            .iter()
            .map(|(_, delivery)| &delivery.route)
            .collect();
        assert_eq!(routes.len(), 1, "a claim is for one route");
    }

    use State::{Scheduled, Sending};
    assert_eq!(
        states(&*spool, id, start()).await,
        [Sending, Sending, Sending, Sending, Scheduled]
    );

    let last = claim_one(&*spool, later).await;
    assert_eq!(
        places(&last.deliveries),
        [4],
        "a recipient that is due later comes later"
    );

    audit(&*spool, later).await;
}

pub async fn no_delivery_is_leased_twice_by_many_claimers(bench: &dyn Bench) {
    const MAILS: usize = 400;
    let spool = open(bench, "claimers").await;
    let new_mails = (0..MAILS)
        .map(|n| {
            Draft {
                to: crowd(1 + n % 3, "primary"),
                ..draft()
            }
            .new_mail()
        })
        .collect();

    put_all(&*spool, new_mails).await;
    let mut claimers = tokio::task::JoinSet::new();
    for n in 0..16 {
        let spool = spool.clone();
        claimers.spawn(async move {
            let mut held = Vec::new();
            loop {
                let claims = claim(&*spool, request(1 + n % 5, start())).await;
                if claims.is_empty() {
                    return held;
                }
                held.extend(claims);
                tokio::task::yield_now().await;
            }
        });
    }

    let held: Vec<_> = claimers.join_all().await.into_iter().flatten().collect();
    let tokens = || {
        held.iter()
            .flat_map(|claim| &claim.deliveries)
            .map(|(lease, _)| lease.token())
    };

    let deliveries: BTreeSet<(MailId, u16)> =
        tokens().map(|token| (token.mail, token.index)).collect();
    let serials: BTreeSet<u64> = tokens().map(|token| token.serial).collect();

    let all = (0..MAILS).map(|n| 1 + n % 3).sum::<usize>();
    assert_eq!(
        tokens().count(),
        all,
        "every delivery is leased, and none twice"
    );

    assert_eq!(deliveries.len(), all, "no delivery is leased twice");
    assert_eq!(serials.len(), all, "no lease is like another");
    audit(&*spool, start()).await;
}

pub async fn a_dropped_lease_gives_its_delivery_back_as_it_was(bench: &dyn Bench) {
    let spool = open(bench, "dropped").await;
    let id = put(
        &*spool,
        Draft {
            to: crowd(3, "primary"),
            ..draft()
        },
    )
    .await;
    let before = get(&*spool, id).await;

    let claim = claim_one(&*spool, start()).await;
    let first: Vec<u64> = claim
        .deliveries
        .iter()
        .map(|(lease, _)| lease.token().serial)
        .collect();

    drop(claim);
    let mut again = Vec::new();
    while again
        .iter()
        .map(|claim: &crate::spool::Claim| claim.deliveries.len())
        .sum::<usize>()
        < 3
    {
        again.push(claim_returned(&*spool, start()).await);
    }

    for (lease, delivery) in again.iter().flat_map(|claim| &claim.deliveries) {
        let token = lease.token();
        assert!(
            !first.contains(&token.serial),
            "a lease that ended is not given again"
        );
        assert_eq!(
            *delivery,
            before.deliveries[usize::from(token.index)],
            "a delivery comes back as it was"
        );
    }

    drop(again);
    claim_returned(&*spool, start()).await;

    let panicked = {
        let claim = claim_returned(&*spool, start()).await;
        tokio::spawn(async move {
            let _held = claim;
            std::panic::resume_unwind(Box::new("a sender dies"));
        })
    };

    assert!(panicked.await.is_err_and(|error| error.is_panic()));
    claim_returned(&*spool, start()).await;
}

pub async fn order_holds_over_more_mail_than_is_kept_at_hand(bench: &dyn Bench) {
    const MAILS: u64 = 5000;
    let spool = open_with(
        bench,
        "many",
        SpoolOptions {
            cache_bytes: 4096,
            ..options()
        },
    )
    .await;
    let now = start() + minutes(1);

    // 7919 is a prime, so this is a permutation: the mails arrive in no order.
    let dues = (0..MAILS).map(|n| start() + ms(10 + n * 7919 % MAILS));
    put_all(
        &*spool,
        dues.map(|due| Draft { due, ..draft() }.new_mail())
            .collect(),
    )
    .await;

    let mut seen: Vec<Timestamp> = Vec::new();
    let mut held = claim(&*spool, request(700, now)).await;
    seen.extend(held.iter().map(due_of));
    let earliest = put(&*spool, draft()).await;

    let overtaking = claim(&*spool, request(1, now)).await;
    assert_eq!(
        ids(&overtaking),
        [earliest],
        "a mail that is due earlier than all that wait is next"
    );

    loop {
        let claims = claim(&*spool, request(700, now)).await;
        if claims.is_empty() {
            break;
        }
        seen.extend(claims.iter().map(due_of));
        held.extend(claims);
    }

    let sorted: Vec<Timestamp> = (0..MAILS).map(|n| start() + ms(10 + n)).collect();
    assert!(
        seen == sorted,
        "however many wait, each is handed out once, and what was due first comes first"
    );

    let given_back = held.split_off(200);
    settle(&*spool, held, now, delivered(now)).await;
    drop(given_back);

    let mut returned = BTreeSet::new();
    while returned.len() < seen.len() - 200 {
        let first = claim_returned(&*spool, now).await;
        assert!(
            returned.insert(first.manifest.id),
            "what came back is handed out once"
        );
        settle(&*spool, vec![first], now, delivered(now)).await;
        let more = claim(&*spool, request(500, now)).await;
        for id in ids(&more) {
            assert!(returned.insert(id), "what came back is handed out once");
        }
        settle(&*spool, more, now, delivered(now)).await;
    }

    drop(overtaking);
    claim_returned(&*spool, now).await;
}

pub async fn critical_mail_overtakes_what_was_queued_before(bench: &dyn Bench) {
    let spool = open(bench, "overtake").await;
    let bulk = Draft {
        priority: Priority::Bulk,
        ..draft()
    };

    put_all(
        &*spool,
        (0..3000).map(|_| bulk.clone().new_mail()).collect(),
    )
    .await;

    let now = start() + minutes(1);
    let held = claim(
        &*spool,
        ClaimRequest {
            turns: vec![Priority::Bulk; 10],
            ..request(0, now)
        },
    )
    .await;

    let code = put(
        &*spool,
        Draft {
            priority: Priority::Critical,
            due: now,
            ..draft()
        },
    )
    .await;

    let mut wanted = request(0, now);
    wanted.turns = vec![Priority::Critical];
    assert_eq!(
        ids(&claim(&*spool, wanted).await),
        [code],
        "critical mail overtakes any number of others"
    );

    drop(held);
}

fn due_of(claim: &crate::spool::Claim) -> Timestamp {
    claim.deliveries[0]
        .1
        .stage
        .due()
        .expect("what is handed out is pending")
}

fn sizes_of(claims: &[crate::spool::Claim]) -> Vec<usize> {
    claims.iter().map(|claim| claim.body.len()).collect()
}

fn places(deliveries: &[(crate::spool::Lease, Delivery)]) -> Vec<u16> {
    deliveries
        .iter()
        .map(|(lease, _)| lease.token().index)
        .collect()
}
