//! What a settle records, and what a lease that is not current cannot do.

use futures::FutureExt;

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Stage, State};
use crate::mail::{Guarantee, minutes};
use crate::spool::{LeaseToken, SettleResult};

pub async fn every_ending_is_recorded_and_is_the_end(bench: &dyn Bench) {
    let spool = open(bench, "endings").await;
    let at = start() + minutes(1);
    let reasons = [
        DeadReason::Rejected,
        DeadReason::Exhausted,
        DeadReason::Expired,
        DeadReason::InDoubt,
        DeadReason::Poisoned,
    ];
    let endings = reasons
        .map(|reason| dead(at, reason))
        .into_iter()
        .chain([delivered(at)]);

    for stage in endings {
        let id = put(&*spool, Draft { due: at, ..draft() }).await;
        let claim = claim_one(&*spool, at).await;
        let expected = tried(&claim.deliveries[0].1, at, stage);
        settle(&*spool, vec![claim], at, stage).await;
        let record = get(&*spool, id).await;
        assert_eq!(
            record.deliveries,
            [expected],
            "what became of a delivery is recorded, its attempts included"
        );
        assert_eq!(record.leased, [false], "a settle ends the lease");
        assert_eq!(record.finished_at(), Some(at));
        assert_nothing_due(
            &*spool,
            at + minutes(60),
            "what has ended is not sent again",
        )
        .await;
        assert_eq!(spool.pending(), 0, "what has ended is not pending");
    }

    audit(&*spool, at).await;
}

pub async fn a_deferred_delivery_comes_back_when_it_is_due(bench: &dyn Bench) {
    let spool = open(bench, "deferred").await;
    let due = start() + minutes(5);
    let id = put_at(&*spool, draft(), start(), Stage::Pending { due }).await;
    assert_nothing_due(&*spool, start() + minutes(4), "a deferred delivery waits").await;
    assert_eq!(states(&*spool, id, start()).await, [State::Deferred]);
    assert_eq!(states(&*spool, id, due).await, [State::Queued]);
    assert_eq!(spool.pending(), 1, "a deferred delivery is pending");
    audit(&*spool, start()).await;

    let claim = claim_one(&*spool, due).await;
    let delivery = &claim.deliveries[0].1;
    assert_eq!(
        (delivery.tries, delivery.counted, delivery.attempts.len()),
        (1, 1, 1),
        "its tries are not forgotten"
    );

    settle(&*spool, vec![claim], due, delivered(due)).await;
    assert_eq!(get(&*spool, id).await.deliveries[0].tries, 2);
    audit(&*spool, due).await;
}

pub async fn each_recipient_has_a_verdict_of_its_own(bench: &dyn Bench) {
    let spool = open(bench, "verdicts").await;
    let id = put(
        &*spool,
        Draft {
            to: crowd(4, "primary"),
            ..draft()
        },
    )
    .await;
    let claim = claim_one(&*spool, start()).await;

    let due = start() + minutes(5);
    let stages = [
        delivered(start()),
        dead(start(), DeadReason::Rejected),
        Stage::Pending { due },
    ];

    let mut leases = claim.deliveries.into_iter();
    let settled = leases
        .by_ref()
        .take(3)
        .zip(stages)
        .map(|((lease, delivery), stage)| {
            let next = tried(&delivery, start(), stage);
            (lease, next)
        });

    let settled: Vec<_> = settled.collect();
    assert_eq!(spool.settle(settled).await, Ok(vec![SettleResult::Done; 3]));
    use State::{Dead, Deferred, Delivered, Sending};
    assert_eq!(
        states(&*spool, id, start()).await,
        [Delivered, Dead, Deferred, Sending]
    );

    assert_eq!(
        get(&*spool, id).await.finished_at(),
        None,
        "a mail has not ended while one delivery has not"
    );

    audit(&*spool, start()).await;
    drop(leases);
    let back = claim_returned(&*spool, start()).await;
    assert_eq!(
        back.deliveries[0].0.token().index,
        3,
        "only the delivery whose lease was dropped comes back"
    );

    assert_eq!(
        back.deliveries.len(),
        1,
        "only the delivery whose lease was dropped comes back"
    );
}

pub async fn a_settle_without_the_current_lease_changes_nothing(bench: &dyn Bench) {
    let spool = open(bench, "stale").await;
    let id = put(&*spool, draft()).await;
    let claim = claim_one(&*spool, start()).await;
    let old = claim.deliveries[0].0.token();
    let verdict = tried(&claim.deliveries[0].1, start(), delivered(start()));

    drop(claim);
    let stale = || spool.settle(vec![(forged(old), verdict.clone())]);
    let current = claim_returned(&*spool, start()).await;
    let before = get(&*spool, id).await;

    assert_eq!(
        stale().await,
        Ok(vec![SettleResult::Stale]),
        "a lease that was given back settles nothing"
    );

    assert_eq!(
        get(&*spool, id).await,
        before,
        "a stale settle changes nothing, the current lease included"
    );

    let other = put(&*spool, draft()).await;
    let others = claim_one(&*spool, start()).await;
    let mut mixed = vec![(forged(old), verdict.clone())];
    mixed.extend(others.deliveries.into_iter().map(|(lease, delivery)| {
        let next = tried(&delivery, start(), delivered(start()));
        (lease, next)
    }));
    mixed.push((forged(LeaseToken { index: 9, ..old }), verdict.clone()));

    let recorded = spool.settle(mixed).await;
    use SettleResult::{Done, Stale};
    assert_eq!(
        recorded,
        Ok(vec![Stale, Done, Stale]),
        "a stale settle does not hinder its neighbours"
    );

    assert_eq!(states(&*spool, other, start()).await, [State::Delivered]);
    assert_eq!(get(&*spool, id).await, before);

    settle(
        &*spool,
        vec![current],
        start(),
        dead(start(), DeadReason::Rejected),
    )
    .await;

    let ended = get(&*spool, id).await;
    assert_eq!(
        stale().await,
        Ok(vec![SettleResult::Stale]),
        "a lease that was used up settles nothing"
    );

    assert_eq!(
        get(&*spool, id).await,
        ended,
        "a stale settle does not overwrite an ending"
    );

    spool.purge(id).await.expect("writable");
    assert_eq!(
        stale().await,
        Ok(vec![SettleResult::Stale]),
        "the lease of a deleted mail settles nothing"
    );

    assert_gone(&*spool, id).await;
    let stats = spool.stats(start()).await.expect("readable");
    assert_eq!(stats.stale_settles, 5, "stale settles are counted");
    audit(&*spool, start()).await;
}

pub async fn a_settle_that_nobody_waits_for_is_recorded(bench: &dyn Bench) {
    let spool = open(bench, "unwaited").await;
    put_all(&*spool, (0..3).map(|_| draft().new_mail()).collect()).await;
    let mut claims = claim(&*spool, request(3, start())).await;
    let last = claims.pop().expect("three are due");
    let unwaited = ids(&claims);

    let mut futures: Vec<_> = claims
        .into_iter()
        .flat_map(|claim| claim.deliveries)
        .map(|(lease, delivery)| {
            let next = tried(&delivery, start(), delivered(start()));
            spool.settle(vec![(lease, next)])
        })
        .collect();

    drop(futures.remove(0));
    let _ = futures.remove(0).now_or_never();
    settle(&*spool, vec![last], start(), delivered(start())).await;
    for id in unwaited {
        let told = states(&*spool, id, start()).await;
        assert_eq!(
            told,
            [State::Delivered],
            "a settle is taken up as soon as the call is made, in the order of the calls"
        );
    }

    assert_nothing_due(
        &*spool,
        start(),
        "a delivery whose settle nobody waited for is not sent again",
    )
    .await;

    audit(&*spool, start()).await;
}

pub async fn a_marked_delivery_is_never_handed_out_again(bench: &dyn Bench) {
    let spool = open(bench, "marked").await;
    let id = put(
        &*spool,
        Draft {
            guarantee: Guarantee::AtMostOnce,
            ..draft()
        },
    )
    .await;

    let claim = claim_one(&*spool, start()).await;
    let token = claim.deliveries[0].0.token();
    assert_eq!(spool.mark(vec![token]).await, Ok(()));

    let record = get(&*spool, id).await;
    assert_eq!(
        record.deliveries[0].stage,
        Stage::Committing { due: start() },
        "a mark is recorded"
    );

    assert_eq!(record.leased, [true], "a mark leaves the lease");
    assert_nothing_due(&*spool, start(), "a marked delivery is in a sender's hands").await;
    audit(&*spool, start()).await;
    drop(claim);

    let later = start() + minutes(1);
    for _ in 0..3 {
        assert_nothing_due(&*spool, later, "what may have been sent is not sent again").await;
        sweep(&*spool, later).await;
    }

    let stage = get(&*spool, id).await.deliveries[0].stage;
    assert!(
        matches!(
            stage,
            Stage::Dead {
                reason: DeadReason::InDoubt,
                ..
            }
        ),
        "a marked delivery that its sender let go is dead in doubt, but it is {stage:?}"
    );

    audit(&*spool, later).await;
}

pub async fn a_mark_without_the_current_lease_changes_nothing(bench: &dyn Bench) {
    let spool = open(bench, "stale-mark").await;
    let id = put(
        &*spool,
        Draft {
            guarantee: Guarantee::AtMostOnce,
            ..draft()
        },
    )
    .await;
    let claim = claim_one(&*spool, start()).await;
    let old = claim.deliveries[0].0.token();

    drop(claim);
    let current = claim_returned(&*spool, start()).await;

    // Whether this is an error is the store's choice.
    let _ = spool.mark(vec![old]).await;
    let stage = get(&*spool, id).await.deliveries[0].stage;
    assert_eq!(
        stage,
        Stage::Pending { due: start() },
        "a stale mark changes nothing"
    );

    settle(&*spool, vec![current], start(), delivered(start())).await;
    let _ = spool.mark(vec![old]).await;
    assert_eq!(
        states(&*spool, id, start()).await,
        [State::Delivered],
        "a stale mark does not undo an ending"
    );

    audit(&*spool, start()).await;
}

pub async fn a_marked_delivery_can_be_settled_like_any_other(bench: &dyn Bench) {
    let spool = open(bench, "marked-settled").await;
    let marked = || Draft {
        guarantee: Guarantee::AtMostOnce,
        to: crowd(2, "primary"),
        ..draft()
    };

    let due = start() + minutes(5);
    for stage in [
        delivered(start()),
        dead(start(), DeadReason::Rejected),
        Stage::Pending { due },
    ] {
        let id = put(&*spool, marked()).await;
        let claim = claim_one(&*spool, start()).await;
        let tokens = claim
            .deliveries
            .iter()
            .map(|(lease, _)| lease.token())
            .collect();
        assert_eq!(spool.mark(tokens).await, Ok(()));
        settle(&*spool, vec![claim], start(), stage).await;
        let stages: Vec<Stage> = get(&*spool, id)
            .await
            .deliveries
            .iter()
            .map(|d| d.stage)
            .collect();
        assert_eq!(
            stages,
            [stage, stage],
            "a marked delivery is settled like any other"
        );
    }

    assert_nothing_due(&*spool, start(), "nothing is left").await;
    let again = claim_one(&*spool, due).await;
    assert_eq!(
        again.deliveries.len(),
        2,
        "what was put off under a mark comes back when it is due"
    );

    audit(&*spool, due).await;
}
