//! How long messages are kept.

use std::time::Duration;

use super::Bench;
use super::fixture::*;
use crate::delivery::DeadReason;
use crate::mail::{hours, minutes};
use crate::spool::{OperationResult, SpoolError, SpoolOptions};

fn keep(keep_bodies: Duration) -> SpoolOptions {
    SpoolOptions {
        keep_bodies,
        ..options()
    }
}

pub async fn the_message_of_delivered_mail_goes_and_its_record_stays(bench: &dyn Bench) {
    let spool = open_with(bench, "bodies", keep(hours(1))).await;
    let mail = |size| Draft {
        body: noise(size),
        ..draft()
    };

    let mut delivered_ones = Vec::new();
    for size in [100, 10_000, 500_000] {
        let at = delivered(start());
        delivered_ones.push(put_at(&*spool, mail(size), start(), at).await);
    }

    let end = dead(start(), DeadReason::Rejected);
    let rejected = put_at(&*spool, mail(100), start(), end).await;
    assert!(
        spool
            .next_due(start())
            .is_some_and(|at| at <= start() + hours(1)),
        "it is known when the first goes"
    );

    sweep(&*spool, start() + minutes(59)).await;
    for id in &delivered_ones {
        assert!(matches!(spool.body(*id).await, Ok(Some(_))), "not yet");
    }
    sweep(&*spool, start() + hours(1)).await;

    for id in &delivered_ones {
        let forgotten = Err(SpoolError::Forgotten(*id));
        assert_eq!(spool.body(*id).await, forgotten);
        assert_eq!(get(&*spool, *id).await.deliveries[0].attempts.len(), 1);
        let retried = spool.retry(*id, start() + hours(1), hours(1)).await;
        assert_eq!(retried, Err(SpoolError::Forgotten(*id)));
    }

    assert!(
        matches!(spool.body(rejected).await, Ok(Some(_))),
        "what did not arrive can be tried again"
    );

    audit(&*spool, start() + hours(1)).await;
    sweep(&*spool, start() + hours(5)).await;
    assert_gone(&*spool, delivered_ones[0]).await;
}

pub async fn a_message_stays_until_every_recipient_has_it(bench: &dyn Bench) {
    let spool = open_with(bench, "bodies-two", keep(hours(1))).await;
    let two = Draft {
        to: crowd(2, "primary"),
        ..draft()
    };

    let id = put(&*spool, two).await;
    let one = crate::spool::ClaimRequest {
        max_recipients: 1,
        ..request(1, start())
    };

    let claims = claim(&*spool, one.clone()).await;
    settle(&*spool, claims, start(), delivered(start())).await;
    sweep(&*spool, start() + hours(2)).await;
    assert!(matches!(spool.body(id).await, Ok(Some(_))), "one waits");

    let later = start() + hours(2);
    let claims = claim(&*spool, crate::spool::ClaimRequest { now: later, ..one }).await;
    settle(&*spool, claims, later, dead(later, DeadReason::Rejected)).await;

    let latest = later + hours(1);
    sweep(&*spool, latest).await;
    assert!(matches!(spool.body(id).await, Ok(Some(_))), "one is dead");

    let retried = spool.retry(id, latest, hours(1)).await;
    assert!(matches!(retried, Ok(OperationResult::Done(_))));
    let claims = claim(&*spool, request(1, latest)).await;
    settle(&*spool, claims, latest, delivered(latest)).await;
    sweep(&*spool, latest + hours(1)).await;

    assert_eq!(spool.body(id).await, Err(SpoolError::Forgotten(id)));
}

pub async fn a_message_that_is_not_kept_is_gone_at_once(bench: &dyn Bench) {
    let spool = open_with(bench, "bodies-none", keep(Duration::ZERO)).await;
    let id = put_at(&*spool, draft(), start(), delivered(start())).await;
    assert_eq!(spool.body(id).await, Err(SpoolError::Forgotten(id)));
    let end = dead(start(), DeadReason::Rejected);
    let rejected = put_at(&*spool, draft(), start(), end).await;
    assert!(matches!(spool.body(rejected).await, Ok(Some(_))));
}
