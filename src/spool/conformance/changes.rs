//! What users can do to a mail: cancel, retry, purge; and what a changed configuration does:
//! reroute.

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Route, Stage, State};
use crate::mail::{MailId, hours, minutes};
use crate::spool::{ClaimRequest, OperationResult, Spool, SpoolError};

fn ada() -> Vec<crate::mail::Address> {
    vec![address("ada@example.org")]
}

fn unknown() -> MailId {
    MailId::from_bytes([7; 16])
}

pub async fn a_pending_mail_can_be_cancelled_and_no_other(bench: &dyn Bench) {
    let spool = open(bench, "cancel").await;
    let now = start() + minutes(1);
    assert_eq!(
        spool.cancel(unknown(), now).await,
        Ok(OperationResult::Unknown)
    );

    let scheduled = put(
        &*spool,
        Draft {
            due: now + hours(1),
            ..draft()
        },
    )
    .await;

    assert_eq!(
        spool.cancel(scheduled, now).await,
        Ok(OperationResult::Done(ada())),
        "a scheduled mail can be cancelled"
    );

    let deferred = put_at(
        &*spool,
        draft(),
        now,
        Stage::Pending {
            due: now + hours(1),
        },
    )
    .await;

    assert_eq!(
        spool.cancel(deferred, now).await,
        Ok(OperationResult::Done(ada())),
        "a deferred mail can be cancelled"
    );

    let queued = put(&*spool, draft()).await;
    assert_eq!(
        spool.cancel(queued, now).await,
        Ok(OperationResult::Done(ada())),
        "a queued mail can be cancelled"
    );

    for id in [scheduled, deferred, queued] {
        assert_eq!(
            get(&*spool, id).await.deliveries[0].stage,
            Stage::Cancelled { at: now }
        );
        assert_eq!(
            spool.cancel(id, now).await,
            Ok(OperationResult::TooLate),
            "a cancelled mail cannot be cancelled again"
        );
    }

    assert_nothing_due(&*spool, now + hours(2), "what was cancelled is not sent").await;
    assert_eq!(spool.pending(), 0);

    let sending = put(&*spool, draft()).await;
    let claim = claim_one(&*spool, now).await;
    assert_eq!(
        spool.cancel(sending, now).await,
        Ok(OperationResult::TooLate),
        "what is being sent cannot be cancelled"
    );

    settle(&*spool, vec![claim], now, delivered(now)).await;
    assert_eq!(
        spool.cancel(sending, now).await,
        Ok(OperationResult::TooLate),
        "what was delivered cannot be cancelled"
    );

    assert_eq!(states(&*spool, sending, now).await, [State::Delivered]);
    let dead = put_at(&*spool, draft(), now, dead(now, DeadReason::Rejected)).await;
    assert_eq!(
        spool.cancel(dead, now).await,
        Ok(OperationResult::TooLate),
        "a dead mail cannot be cancelled"
    );

    audit(&*spool, now).await;
}

pub async fn a_cancel_takes_the_recipients_that_it_can(bench: &dyn Bench) {
    let spool = open(bench, "cancel-partly").await;
    let id = mixed(&*spool).await;
    let held = claim_one_of(&*spool, "primary").await;
    let waiting = vec![
        address("deferred@example.org"),
        address("queued@example.org"),
    ];

    assert_eq!(
        spool.cancel(id, start()).await,
        Ok(OperationResult::Done(waiting)),
        "a cancel names whom it took"
    );

    use State::{Cancelled, Dead, Delivered, Sending};
    assert_eq!(
        states(&*spool, id, start()).await,
        [Delivered, Dead, Cancelled, Sending, Cancelled]
    );

    settle(&*spool, vec![held], start(), delivered(start())).await;
    assert_eq!(
        states(&*spool, id, start()).await,
        [Delivered, Dead, Cancelled, Delivered, Cancelled]
    );

    audit(&*spool, start()).await;
}

pub async fn dead_and_cancelled_deliveries_can_be_tried_again(bench: &dyn Bench) {
    let spool = open(bench, "retry").await;
    let now = start() + hours(1);
    assert_eq!(
        spool.retry(unknown(), now, hours(9)).await,
        Ok(OperationResult::Unknown)
    );

    let short = || Draft {
        expires_at: start() + hours(2),
        ..draft()
    };

    let dead = put_at(
        &*spool,
        short(),
        start(),
        dead(start(), DeadReason::Exhausted),
    )
    .await;

    let cancelled = put(&*spool, short()).await;
    spool.cancel(cancelled, start()).await.expect("writable");
    for (id, tries) in [(dead, 1), (cancelled, 0)] {
        assert_eq!(
            spool.retry(id, now, hours(9)).await,
            Ok(OperationResult::Done(ada())),
            "a retry names whom it queued"
        );
        let record = get(&*spool, id).await;
        let delivery = &record.deliveries[0];
        assert_eq!(
            delivery.stage.due(),
            Some(now),
            "what is retried is due at once"
        );
        assert_eq!(
            delivery.counted, 0,
            "what is retried has all its attempts again"
        );
        assert_eq!(
            delivery.attempts.len(),
            tries,
            "what was tried before is not forgotten"
        );
        assert_eq!(
            record.manifest.expires_at,
            now + hours(9),
            "what is retried has a new lifetime"
        );
        assert_eq!(states(&*spool, id, now).await, [State::Queued]);
        let claim = claim_one(&*spool, now).await;
        assert_eq!(claim.manifest.id, id, "what is retried is handed out");
        assert_eq!(
            claim.manifest.expires_at,
            now + hours(9),
            "its sender is told of the new lifetime"
        );
        assert_eq!(
            spool.retry(id, now, hours(9)).await,
            Ok(OperationResult::TooLate),
            "what is being sent cannot be retried"
        );
        settle(&*spool, vec![claim], now, delivered(now)).await;
        assert_eq!(
            spool.retry(id, now, hours(9)).await,
            Ok(OperationResult::TooLate),
            "what was delivered cannot be retried"
        );
    }

    audit(&*spool, now).await;
}

pub async fn a_deferred_delivery_can_be_tried_at_once(bench: &dyn Bench) {
    let spool = open(bench, "retry-deferred").await;
    let now = start() + minutes(1);
    let id = put_at(
        &*spool,
        draft(),
        start(),
        Stage::Pending {
            due: now + hours(1),
        },
    )
    .await;

    assert_nothing_due(&*spool, now, "a deferred delivery waits").await;
    assert_eq!(
        spool.retry(id, now, hours(9)).await,
        Ok(OperationResult::Done(ada()))
    );

    let claim = claim_one(&*spool, now).await;
    assert_eq!(
        claim.manifest.id, id,
        "a deferred delivery can be tried at once"
    );

    settle(&*spool, vec![claim], now, delivered(now)).await;
    assert_nothing_due(
        &*spool,
        now + hours(2),
        "it is not tried again at its old time",
    )
    .await;

    audit(&*spool, now).await;
}

pub async fn a_retry_leaves_what_was_delivered_alone(bench: &dyn Bench) {
    let spool = open(bench, "retry-partly").await;
    let id = mixed(&*spool).await;
    let held = claim_one_of(&*spool, "primary").await;
    let now = start() + minutes(1);
    let change = spool.retry(id, now, hours(9)).await.expect("writable");
    let OperationResult::Done(again) = change else {
        panic!("a mail with a dead delivery can be retried, but: {change:?}")
    };

    assert!(
        again.contains(&address("dead@example.org")),
        "the dead recipient is queued again"
    );

    assert!(
        again.contains(&address("deferred@example.org")),
        "the deferred recipient is due at once"
    );

    assert!(
        !again.contains(&address("delivered@example.org")),
        "who has the mail does not get it twice"
    );

    assert!(
        !again.contains(&address("sending@example.org")),
        "what is being sent is left alone"
    );

    let told = states(&*spool, id, now).await;
    use State::{Delivered, Queued, Sending};
    assert_eq!(told, [Delivered, Queued, Queued, Sending, Queued]);
    drop(held);
    audit(&*spool, now).await;
}

pub async fn a_retry_of_dead_letters_leaves_what_was_withdrawn_beside_them_alone(
    bench: &dyn Bench,
) {
    let spool = open(bench, "retry-withdrawn").await;
    let id = mixed(&*spool).await;
    let now = start() + minutes(1);
    assert!(matches!(
        spool.cancel(id, now).await,
        Ok(OperationResult::Done(withdrawn)) if withdrawn.len() == 3
    ));

    let dead = address("dead@example.org");
    assert_eq!(
        spool.retry(id, now, hours(9)).await,
        Ok(OperationResult::Done(vec![dead]))
    );

    use State::{Cancelled, Delivered, Queued};
    assert_eq!(
        states(&*spool, id, now).await,
        [Delivered, Queued, Cancelled, Cancelled, Cancelled]
    );

    audit(&*spool, now).await;
}

pub async fn only_a_mail_that_has_ended_can_be_purged(bench: &dyn Bench) {
    let spool = open(bench, "purge").await;
    assert_eq!(spool.purge(unknown()).await, Ok(OperationResult::Unknown));
    let id = put(
        &*spool,
        Draft {
            to: crowd(2, "primary"),
            body: noise(10_000),
            ..draft()
        },
    )
    .await;

    let neighbour = put(
        &*spool,
        Draft {
            body: noise(10_001),
            due: start() + hours(1),
            ..draft()
        },
    )
    .await;

    assert_eq!(
        spool.purge(id).await,
        Ok(OperationResult::TooLate),
        "a mail that waits cannot be purged"
    );

    let claim = claim_one(&*spool, start()).await;
    assert_eq!(
        spool.purge(id).await,
        Ok(OperationResult::TooLate),
        "a mail that is being sent cannot be purged"
    );

    let mut deliveries = claim.deliveries.into_iter();
    let (lease, delivery) = deliveries.next().expect("two recipients");
    let verdict = tried(&delivery, start(), delivered(start()));
    spool
        .settle(vec![(lease, verdict)])
        .await
        .expect("writable");

    assert_eq!(
        spool.purge(id).await,
        Ok(OperationResult::TooLate),
        "a mail of which one delivery has not ended stays"
    );

    let (lease, delivery) = deliveries.next().expect("two recipients");
    let verdict = tried(&delivery, start(), dead(start(), DeadReason::Rejected));
    spool
        .settle(vec![(lease, verdict)])
        .await
        .expect("writable");

    let change = spool.purge(id).await;
    assert!(
        matches!(change, Ok(OperationResult::Done(_))),
        "a mail that has ended can be purged, but: {change:?}"
    );

    assert_gone(&*spool, id).await;
    assert_eq!(
        spool.purge(id).await,
        Ok(OperationResult::Unknown),
        "what was purged is unknown"
    );

    assert_eq!(
        spool.retry(id, start(), hours(1)).await,
        Ok(OperationResult::Unknown),
        "what was purged cannot be retried"
    );

    assert!(
        spool.body(neighbour).await == Ok(Some(noise(10_001))),
        "its neighbour is untouched"
    );

    audit(&*spool, start()).await;
}

pub async fn mail_of_unknown_routes_is_moved_to_the_fallback(bench: &dyn Bench) {
    let spool = open(bench, "reroute").await;
    let to = |route| Draft {
        to: crowd(2, route),
        ..draft()
    };

    let kept = put(&*spool, to("primary")).await;
    let mut moved = Vec::new();
    for _ in 0..300 {
        moved.push(to("gone").new_mail());
    }

    moved.push(
        Draft {
            due: start() + hours(1),
            ..to("also-gone")
        }
        .new_mail(),
    );

    let moved = put_all(&*spool, moved).await;
    let ended = put(&*spool, to("gone")).await;
    spool.cancel(ended, start()).await.expect("writable");
    let known = vec![Route::over(["primary"]), Route::over(["backup"])];

    let mut sum = 0;
    for _ in 0..10_000 {
        match spool
            .reroute(known.clone(), Route::over(["backup"]))
            .await
            .expect("writable")
        {
            0 => break,
            some => sum += some,
        }
    }

    assert_eq!(
        sum,
        2 * moved.len(),
        "every pending delivery of an unknown route is moved, and counted"
    );

    let routes = |record: crate::spool::Record| -> Vec<String> {
        record
            .deliveries
            .iter()
            .map(|d| d.route.as_str().to_owned())
            .collect()
    };

    assert_eq!(
        routes(get(&*spool, kept).await),
        ["primary", "primary"],
        "a known route is left alone"
    );

    for id in &moved {
        assert_eq!(
            routes(get(&*spool, *id).await),
            ["backup", "backup"],
            "an unknown route becomes the fallback"
        );
    }

    audit(&*spool, start()).await;
    let from = |route, now| ClaimRequest {
        routes: vec![Route::over([route])],
        ..request(1000, now)
    };

    assert!(
        claim(&*spool, from("gone", start())).await.is_empty(),
        "the old queue is empty"
    );

    let claims = claim(&*spool, from("backup", start())).await;
    assert_eq!(
        claims.len(),
        300,
        "what was moved is handed out in its new queue"
    );

    assert!(
        claims.iter().all(|claim| claim.deliveries.len() == 2),
        "recipients of one mail still come together"
    );

    let later = claim(&*spool, from("backup", start() + hours(1))).await;
    assert_eq!(ids(&later), [moved[300]], "what was moved keeps its time");
    audit(&*spool, start()).await;
}

pub async fn callers_that_wait_for_changes_are_notified(bench: &dyn Bench) {
    let spool = open(bench, "changed").await;
    let told = async |what: &str| {
        let waited = tokio::time::timeout(LONGEST_WAIT, spool.changed().notified()).await;
        assert!(
            waited.is_ok(),
            "whoever waits for changes is told of {what}"
        );
    };

    let id = put(&*spool, draft()).await;
    told("a new mail").await;

    drop(claim_one(&*spool, start()).await);
    told("a lease that was given back").await;

    let due = start() + minutes(5);
    let claim = claim_returned(&*spool, start()).await;
    settle(&*spool, vec![claim], start(), Stage::Pending { due }).await;
    told("a deferred delivery's next time").await;

    spool.retry(id, start(), hours(9)).await.expect("writable");
    told("a manual retry").await;

    let known = vec![Route::over(["else"])];
    assert_eq!(
        spool.reroute(known, Route::over(["else"])).await,
        Ok::<_, SpoolError>(1)
    );

    told("mail that was moved to another queue").await;
}

/// A mail with a recipient in each of: delivered, dead, deferred, due on `primary`, due on
/// `backup`.
async fn mixed(spool: &dyn Spool) -> MailId {
    let names = ["delivered", "dead", "deferred", "sending", "queued"];
    let routes = ["first", "first", "first", "primary", "backup"];
    let to = names
        .iter()
        .zip(routes)
        .map(|(name, route)| (format!("{name}@example.org"), route))
        .collect();
    let id = put(spool, Draft { to, ..draft() }).await;
    let claim = claim_one_of(spool, "first").await;

    let due = start() + hours(1);
    let stages = [
        delivered(start()),
        dead(start(), DeadReason::Rejected),
        Stage::Pending { due },
    ];

    let settled = claim
        .deliveries
        .into_iter()
        .zip(stages)
        .map(|((lease, delivery), stage)| {
            let next = tried(&delivery, start(), stage);
            (lease, next)
        });

    spool.settle(settled.collect()).await.expect("writable");
    id
}

async fn claim_one_of(spool: &dyn Spool, route: &str) -> crate::spool::Claim {
    let wanted = ClaimRequest {
        routes: vec![Route::over([route])],
        ..request(1, start())
    };
    claim(spool, wanted)
        .await
        .pop()
        .expect("its recipient is due")
}
