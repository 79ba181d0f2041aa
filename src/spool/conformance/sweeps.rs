//! What the clock does: expiry, retention, and when to look again.

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Stage, State};
use crate::mail::{Priority, Timestamp, hours, minutes};
use crate::spool::{EndedDelivery, Spool, SpoolOptions};

/// More than one bounded step can do.
const MANY: usize = 3000;

fn expired(mail: crate::mail::MailId, recipient: &str) -> EndedDelivery {
    EndedDelivery {
        mail,
        recipient: address(recipient),
        reason: DeadReason::Expired,
    }
}

pub async fn expiry_holds_in_every_state(bench: &dyn Bench) {
    let spool = open(bench, "expiry").await;
    let end = start() + hours(1);
    let mortal = || Draft {
        expires_at: end,
        ..draft()
    };

    let deferred = put_at(
        &*spool,
        mortal(),
        start(),
        Stage::Pending {
            due: end + hours(1),
        },
    )
    .await;

    let retried = put_at(
        &*spool,
        mortal(),
        start(),
        dead(start(), DeadReason::Rejected),
    )
    .await;

    spool
        .retry(retried, start(), hours(1))
        .await
        .expect("writable");

    let scheduled = put(
        &*spool,
        Draft {
            due: end + hours(1),
            ..mortal()
        },
    )
    .await;
    let queued = put(&*spool, mortal()).await;

    let delivered_mail = {
        let backup = Draft {
            to: crowd(1, "elsewhere"),
            ..mortal()
        };
        let id = put(&*spool, backup).await;
        spool.cancel(id, start()).await.expect("writable");
        id
    };
    let lasting = put(&*spool, draft()).await;

    let just_before = Timestamp::from_millis(end.as_millis() - 1);
    assert_eq!(
        sweep(&*spool, just_before).await.ended,
        [],
        "nothing expires before its time"
    );

    let mut ended = sweep(&*spool, end).await.ended;
    ended.sort_by_key(|ended| ended.mail);

    let mut expected =
        [deferred, retried, scheduled, queued].map(|id| expired(id, "ada@example.org"));
    expected.sort_by_key(|ended| ended.mail);
    assert_eq!(
        ended, expected,
        "what has expired is ended in every state, and told"
    );

    for id in [deferred, retried, scheduled, queued] {
        let stage = get(&*spool, id).await.deliveries[0].stage;
        assert_eq!(
            stage,
            dead(end, DeadReason::Expired),
            "what has expired is dead as expired"
        );
    }

    assert_eq!(
        states(&*spool, delivered_mail, end).await,
        [State::Cancelled],
        "what has ended does not expire"
    );

    let held = claim_one(&*spool, end).await;
    assert_eq!(
        held.manifest.id, lasting,
        "what lives on is handed out, and nothing else"
    );

    assert_nothing_due(&*spool, end + hours(2), "what has expired is not sent").await;
    assert_eq!(
        sweep(&*spool, end).await.ended,
        [],
        "what has expired is ended once"
    );

    audit(&*spool, end).await;
}

pub async fn what_a_sender_holds_is_left_to_it_by_expiry(bench: &dyn Bench) {
    let spool = open(bench, "expiry-held").await;
    let end = start() + hours(1);
    let mut new_mail = Draft {
        to: crowd(3, "primary"),
        expires_at: end,
        ..draft()
    }
    .new_mail();

    new_mail.deliveries[2].stage = Stage::Pending {
        due: end + hours(1),
    };
    let id = put_all(&*spool, vec![new_mail]).await[0];
    let claim = claim_one(&*spool, start()).await;

    let ended = sweep(&*spool, end + minutes(1)).await.ended;
    assert_eq!(
        ended,
        [expired(id, "r2@example.org")],
        "expiry takes what no sender holds"
    );

    use State::{Dead, Delivered, Sending};
    assert_eq!(states(&*spool, id, end).await, [Sending, Sending, Dead]);
    let mut deliveries = claim.deliveries.into_iter();
    let (lease, delivery) = deliveries.next().expect("two are held");

    let verdict = tried(&delivery, end, delivered(end));
    assert_eq!(
        spool.settle(vec![(lease, verdict)]).await,
        Ok(vec![crate::spool::SettleResult::Done])
    );

    drop(deliveries);
    let mut now = end + minutes(1);
    let mut ended = Vec::new();
    while ended.is_empty() {
        // A sweep that is due already lies behind the next due time.
        if !spool.is_sweep_due(now) {
            now = spool
                .next_due(now)
                .expect("a mail whose time is over is looked at again");
        }
        assert!(
            now < end + hours(1),
            "a mail whose time is over is looked at again soon"
        );
        ended = sweep(&*spool, now).await.ended;
    }

    assert_eq!(ended, [expired(id, "r1@example.org")]);
    assert_eq!(states(&*spool, id, end).await, [Delivered, Dead, Dead]);
    audit(&*spool, end).await;
}

pub async fn many_that_expire_at_once_are_ended_in_bounded_steps(bench: &dyn Bench) {
    let spool = open(bench, "expiry-many").await;
    let end = start() + hours(1);
    let new_mails = (0..MANY)
        .map(|_| {
            Draft {
                expires_at: end,
                ..draft()
            }
            .new_mail()
        })
        .collect();

    put_all(&*spool, new_mails).await;
    let step = spool.sweep(end).await.expect("writable");
    assert!(step.more, "a step that left something to do says so");
    assert!(!step.ended.is_empty(), "a step does something");
    assert!(step.ended.len() < MANY, "a step is bounded");

    let rest = sweep(&*spool, end).await;
    assert_eq!(
        step.ended.len() + rest.ended.len(),
        MANY,
        "all are ended, each once"
    );

    assert_eq!(spool.pending(), 0);
    audit(&*spool, end).await;
}

pub async fn finished_mail_is_kept_and_then_deleted_in_bounded_steps(bench: &dyn Bench) {
    let spool = open_with(
        bench,
        "retention",
        SpoolOptions {
            idempotency_ttl: hours(1),
            ..options()
        },
    )
    .await;

    let mut new_mails: Vec<_> = (1..MANY).map(|_| draft().new_mail()).collect();
    new_mails.push(
        Draft {
            key: Some("k"),
            body: noise(50_000),
            tags: vec!["t"],
            ..draft()
        }
        .new_mail(),
    );

    let ids_put = put_all(&*spool, new_mails).await;
    let waiting = put(
        &*spool,
        Draft {
            due: start() + hours(8),
            body: noise(9999),
            ..draft()
        },
    )
    .await;

    let claims = claim(&*spool, request(MANY, start())).await;
    settle(&*spool, claims, start(), delivered(start())).await;
    let partly = put(
        &*spool,
        Draft {
            to: crowd(2, "primary"),
            ..draft()
        },
    )
    .await;
    let mut claim = claim_one(&*spool, start()).await;
    let (lease, delivery) = claim.deliveries.remove(0);

    let verdict = tried(&delivery, start(), delivered(start()));
    spool
        .settle(vec![(lease, verdict)])
        .await
        .expect("writable");

    let keep = start() + hours(4);
    let just_before = Timestamp::from_millis(keep.as_millis() - 1);
    assert_eq!(
        sweep(&*spool, just_before).await.pruned,
        0,
        "what has ended is kept for the retention time"
    );

    get(&*spool, ids_put[0]).await;
    let step = spool.sweep(keep).await.expect("writable");
    assert!(step.more, "a step that left something to do says so");
    assert!(step.pruned > 0, "a step does something");
    assert!(step.pruned < MANY, "a step is bounded");

    assert_eq!(
        step.pruned + sweep(&*spool, keep).await.pruned,
        MANY,
        "all are deleted, each once"
    );

    for id in [ids_put[0], ids_put[MANY / 2], ids_put[MANY - 1]] {
        assert_gone(&*spool, id).await;
    }
    assert!(
        spool.body(waiting).await == Ok(Some(noise(9999))),
        "a mail that waits is untouched"
    );

    get(&*spool, partly).await;
    put(
        &*spool,
        Draft {
            key: Some("k"),
            fingerprint: 99,
            due: start() + hours(9),
            ..draft()
        },
    )
    .await;
    audit(&*spool, keep).await;

    // Retention counts from the end of the last delivery.
    let (lease, delivery) = claim.deliveries.remove(0);
    let verdict = tried(&delivery, keep, delivered(keep));
    spool
        .settle(vec![(lease, verdict)])
        .await
        .expect("writable");

    assert_eq!(
        sweep(&*spool, keep + hours(3)).await.pruned,
        0,
        "a mail ends with its last delivery"
    );

    assert_eq!(sweep(&*spool, keep + hours(4)).await.pruned, 1);
    assert_gone(&*spool, partly).await;
    audit(&*spool, keep).await;
}

pub async fn the_next_due_time_is_the_first_at_which_something_is_to_be_done(bench: &dyn Bench) {
    let spool = open(bench, "next-due").await;
    assert_eq!(
        spool.next_due(start()),
        None,
        "an empty spool has nothing to wait for"
    );

    let (due, end) = (start() + minutes(10), start() + minutes(50));
    let id = put(
        &*spool,
        Draft {
            due,
            expires_at: end,
            ..draft()
        },
    )
    .await;

    assert_eq!(
        spool.next_due(start()),
        Some(due),
        "a scheduled mail is waited for"
    );

    put(
        &*spool,
        Draft {
            due: due + minutes(1),
            to: crowd(1, "elsewhere"),
            ..draft()
        },
    )
    .await;

    assert_eq!(
        spool.next_due(start()),
        Some(due),
        "the first of many is waited for"
    );

    assert_eq!(
        spool.next_due(due),
        Some(due + minutes(1)),
        "what is due already is not waited for"
    );

    assert_eq!(
        spool.next_due(due + minutes(1)),
        Some(end),
        "an expiry is waited for"
    );

    let again = start() + minutes(20);
    let claim = claim_one(&*spool, due).await;
    settle(&*spool, vec![claim], due, Stage::Pending { due: again }).await;
    assert_eq!(
        spool.next_due(due + minutes(1)),
        Some(again),
        "a deferred delivery is waited for"
    );

    spool.cancel(id, again).await.expect("writable");

    let next = spool
        .next_due(again)
        .expect("the other mail is still there");
    assert!(next > again, "the next due time lies ahead");
    assert!(
        next <= again + hours(4),
        "the end of a finished mail's retention is waited for, but {next} is told"
    );
}

pub async fn a_clock_that_follows_the_next_due_time_brings_every_mail_to_its_end(
    bench: &dyn Bench,
) {
    let spool = open(bench, "clockwork").await;
    let mut new_mails = Vec::new();
    for n in 0..60 {
        let due = start() + minutes(n * 17 % 90);
        let expires_at = start() + minutes(40 + n * 7 % 30);
        let key = (n == 7).then_some("seven");
        let priority = Priority::ALL[usize::try_from(n).expect("small") % 3];
        new_mails.push(
            Draft {
                due,
                expires_at,
                key,
                priority,
                ..draft()
            }
            .new_mail(),
        );
    }

    let count = new_mails.len();
    put_all(&*spool, new_mails).await;
    let (mut now, mut ended, mut pruned, mut sent) = (start(), 0, 0, 0);
    for steps in 0.. {
        let claims = claim(&*spool, request(100, now)).await;
        for (n, claim) in claims.into_iter().enumerate() {
            let first_try = claim.deliveries[0].1.tries == 0;
            let stage = if n % 2 == 0 && first_try {
                Stage::Pending {
                    due: now + minutes(3),
                }
            } else {
                delivered(now)
            };
            sent += usize::from(stage == delivered(now));
            settle(&*spool, vec![claim], now, stage).await;
        }
        let swept = sweep(&*spool, now).await;
        ended += swept.ended.len();
        pruned += swept.pruned;
        audit(&*spool, now).await;
        let Some(next) = spool.next_due(now) else {
            break;
        };
        assert!(next > now, "the next due time lies ahead");
        assert!(
            steps < 1000,
            "the next due time is one at which something is to be done"
        );
        now = next;
    }

    assert_eq!(
        sent + ended,
        count,
        "every mail was sent or has expired, by following the next due time alone"
    );

    assert!(sent > 0 && ended > 0, "some were sent and some expired");
    assert_eq!(pruned, count, "every finished mail was deleted in the end");
    assert_eq!(still_there(&*spool).await, 0);
}

async fn still_there(spool: &dyn Spool) -> usize {
    list(spool, crate::spool::Query::default(), start())
        .await
        .len()
}
