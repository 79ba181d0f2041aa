//! What each token and user has pending, and has submitted.

use std::sync::Arc;

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Stage};
use crate::mail::{Submitter, hours};
use crate::spool::{NewMail, OperationResult, PutResult, Spool};

fn of(who: &Submitter, draft: Draft) -> NewMail {
    let mut mail = draft.new_mail();
    mail.manifest.submitter = Some(who.clone());
    mail
}

fn today() -> i64 {
    start().day()
}

/// What one has pending, and submitted on the first day.
fn counted(spool: &dyn Spool, who: &Submitter) -> (u64, u64) {
    (spool.pending_of(who), spool.accepted_on(who, today()))
}

pub async fn what_each_has_pending_and_handed_in_is_counted(bench: &dyn Bench) {
    let spool = open(bench, "accounts").await;
    let (app, user) = (Submitter::token("app"), Submitter::user("app"));
    let three = Draft {
        to: crowd(3, "primary"),
        ..draft()
    };

    let id = put_all(&*spool, vec![of(&app, three)]).await[0];
    let keyed = Draft {
        key: Some("order"),
        ..draft()
    };

    put_all(&*spool, vec![of(&user, keyed.clone())]).await;
    put_all(&*spool, vec![of(&Submitter::Local, draft())]).await;
    let again = spool.put(vec![of(&user, keyed)]).await;
    assert!(matches!(again[..], [Ok(PutResult::Duplicate(_))]));
    assert_eq!(counted(&*spool, &app), (3, 3));
    assert_eq!(counted(&*spool, &user), (1, 1), "a duplicate is none");
    assert_eq!(counted(&*spool, &Submitter::Local), (0, 0), "nobody's");
    assert_eq!(counted(&*spool, &Submitter::token("other")), (0, 0));

    // One is delivered, one deferred, one withdrawn and queued again.
    let of_one = crate::spool::ClaimRequest {
        max_recipients: 2,
        ..request(1, start())
    };

    let mut claims = claim(&*spool, of_one).await;
    let deliveries = std::mem::take(&mut claims[0].deliveries);
    let stages = [
        delivered(start()),
        Stage::Pending {
            due: start() + hours(1),
        },
    ];
    let settled = deliveries
        .into_iter()
        .zip(stages)
        .map(|((lease, delivery), stage)| (lease, tried(&delivery, start(), stage)));

    spool.settle(settled.collect()).await.expect("settled");
    assert_eq!(counted(&*spool, &app), (2, 3));
    let cancelled = spool.cancel(id, start()).await;
    assert!(matches!(cancelled, Ok(OperationResult::Done(_))));
    assert_eq!(counted(&*spool, &app), (0, 3));

    let retried = spool.retry(id, start(), hours(1)).await;
    assert!(matches!(retried, Ok(OperationResult::Done(_))));
    assert_eq!(counted(&*spool, &app), (2, 3));
    sweep(&*spool, start() + hours(30)).await;

    assert_eq!(spool.pending_of(&app), 0, "it has expired");
    assert_eq!(spool.pending_of(&user), 0);

    let tomorrow = Draft {
        accepted_at: start() + hours(24),
        due: start() + hours(24),
        expires_at: start() + hours(48),
        ..draft()
    };

    put_all(&*spool, vec![of(&app, tomorrow)]).await;
    assert_eq!(spool.accepted_on(&app, today() + 1), 1, "another day");
    assert_eq!(spool.accepted_on(&app, today()), 0);
}

pub async fn recipients_that_are_dead_from_the_start_are_handed_in_and_not_pending(
    bench: &dyn Bench,
) {
    let spool = open(bench, "accounts-dead").await;
    let app = Submitter::token("app");
    let two = Draft {
        to: crowd(2, "primary"),
        ..draft()
    };
    let mut mail = of(&app, two);
    mail.deliveries[1].stage = dead(start(), DeadReason::Suppressed);
    put_all(&*spool, vec![mail]).await;
    assert_eq!(counted(&*spool, &app), (1, 2));
}

pub async fn what_each_has_handed_in_is_known_to_whoever_opens_the_store(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }
    let spool = open(bench, "accounts-kept").await;
    let app = Submitter::token("app");
    let two = || Draft {
        to: crowd(2, "primary"),
        ..draft()
    };

    put_all(&*spool, vec![of(&app, two())]).await;
    if bench.is_shared() {
        let other = open(bench, "accounts-kept").await;
        assert_eq!(counted(&*other, &app), (2, 2));
        put_all(&*other, vec![of(&app, two())]).await;
        until(&spool, || counted(&*spool, &app) == (4, 4)).await;
        other.close().await.expect("closed");
    } else {
        put_all(&*spool, vec![of(&app, two())]).await;
    }

    bench.kill("accounts-kept", "accounts-copy");
    spool.close().await.expect("closed");
    drop(spool);
    for store in ["accounts-kept", "accounts-copy"] {
        let spool = open(bench, store).await;
        assert_eq!(counted(&*spool, &app), (4, 4), "{store}");
        spool.close().await.expect("closed");
    }
}

/// Waits until it is so; whoever changes a shared store is seen soon.
async fn until(spool: &Arc<dyn Spool>, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            let soon = tokio::time::timeout(ms(20), spool.changed().notified());
            let _ = soon.await;
        }
    };
    let seen = tokio::time::timeout(LONGEST_WAIT, wait).await;
    seen.expect("what another has put is counted here as well");
}
