//! What closing, killing and opening again leave.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Route, Stage, State};
use crate::mail::{Guarantee, MailId, Priority, hours, minutes};
use crate::spool::{OperationResult, PutResult, Query, Record, SettleResult, Spool, SpoolError};

pub async fn after_close_everything_is_answered_with_closed(bench: &dyn Bench) {
    let spool = open(bench, "closed").await;
    let id = put(&*spool, draft()).await;
    put(&*spool, draft()).await;
    let mut claims = claim(&*spool, request(2, start())).await;
    let held = claims.pop().expect("two are due");
    let (lease, delivery) = claims.remove(0).deliveries.remove(0);
    let token = lease.token();

    assert_eq!(spool.close().await, Ok(()));
    let closed = SpoolError::Closed;
    let now = start();
    assert_eq!(
        spool
            .put(vec![draft().new_mail(), draft().new_mail()])
            .await,
        [Err(closed.clone()), Err(closed.clone())]
    );

    assert_eq!(
        spool
            .claim(request(1, now))
            .await
            .map(|claims| claims.len()),
        Err(closed.clone())
    );

    assert_eq!(spool.mark(vec![token]).await, Err(closed.clone()));
    assert_eq!(
        spool.settle(vec![(lease, delivery)]).await,
        Err(closed.clone())
    );

    assert_eq!(spool.get(id).await, Err(closed.clone()));
    assert_eq!(spool.body(id).await, Err(closed.clone()));
    assert_eq!(
        spool
            .list(Query::default(), now)
            .await
            .map(|page| page.mails),
        Err(closed.clone())
    );

    assert_eq!(spool.cancel(id, now).await, Err(closed.clone()));
    assert_eq!(spool.retry(id, now, hours(1)).await, Err(closed.clone()));
    assert_eq!(spool.purge(id).await, Err(closed.clone()));
    assert_eq!(
        spool.sweep(now).await.map(|swept| swept.pruned),
        Err(closed.clone())
    );

    assert_eq!(
        spool.reroute(Vec::new(), Route::over(["backup"])).await,
        Err(closed.clone())
    );

    assert_eq!(spool.stats(now).await, Err(closed));
    let _ = (
        spool.close().await,
        spool.pending(),
        spool.next_due(now),
        spool.failure(),
        spool.durability(),
    );

    drop(held);
}

pub async fn a_store_that_is_open_cannot_be_opened_again(bench: &dyn Bench) {
    if !bench.persistent() || bench.is_shared() {
        return;
    }
    let mut spool = open(bench, "locked").await;
    let id = put(&*spool, draft()).await;

    match bench.open("locked", options()).await {
        Err(SpoolError::Locked(path)) => assert!(
            path.ends_with("locked"),
            "the error names the directory: {path:?}"
        ),
        Err(other) => panic!("a store that is open is locked, but: {other}"),
        Ok(_) => panic!("a store that is open cannot be opened again"),
    }

    get(&*spool, id).await;
    put(&*spool, draft()).await;
    for _ in 0..10 {
        spool.close().await.expect("closes");
        spool = open(bench, "locked").await;
    }

    get(&*spool, id).await;
}

pub async fn a_store_that_is_shared_is_one_queue_for_all_who_have_it_open(bench: &dyn Bench) {
    if !bench.is_shared() {
        return;
    }
    let first = open(bench, "shared").await;
    let second = open(bench, "shared").await;
    let here = put(&*first, draft()).await;

    let there = put(&*second, draft()).await;
    for spool in [&first, &second] {
        assert_eq!(get(&**spool, here).await.manifest.id, here);
        assert_eq!(get(&**spool, there).await.manifest.id, there);
    }

    let claims = claim(&*first, request(5, start())).await;
    assert_eq!(claims.len(), 2, "whoever claims first is handed out all");
    assert_nothing_due(&*second, start(), "what one holds no other is handed out").await;
    assert_eq!(
        states(&*second, here, start()).await,
        [State::Sending],
        "what one holds is shown so by the others"
    );

    assert_eq!(
        second.cancel(here, start()).await,
        Ok(OperationResult::TooLate),
        "what one holds no other takes away"
    );

    let keyed = || Draft {
        key: Some("shared"),
        ..draft()
    };

    let (mine, yours) = (keyed().new_mail(), keyed().new_mail());
    let id = mine.manifest.id;
    put_all(&*first, vec![mine]).await;
    assert_eq!(
        second.put(vec![yours]).await,
        [Ok(PutResult::Duplicate(id))],
        "one key is one mail, whoever puts it"
    );
    assert_eq!(ids(&[claim_one(&*second, start()).await]), [id]);

    settle(&*first, claims, start(), delivered(start())).await;
    assert_eq!(
        states(&*second, here, start()).await,
        [State::Delivered],
        "what became of it is seen by all"
    );

    first.close().await.expect("an open spool closes");
    put(&*second, draft()).await;
    second.close().await.expect("an open spool closes");
}

pub async fn every_state_survives_close_and_kill(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }
    let mut spool = open(bench, "survivors").await;

    let now = start() + minutes(1);
    let later = now + hours(1);
    for stage in [
        delivered(now),
        dead(now, DeadReason::Rejected),
        Stage::Pending { due: later },
    ] {
        put_at(
            &*spool,
            Draft {
                to: crowd(3, "primary"),
                body: noise(10_000),
                ..draft()
            },
            now,
            stage,
        )
        .await;
    }

    let cancelled = put(&*spool, draft()).await;
    spool.cancel(cancelled, now).await.expect("writable");
    let retried = put_at(&*spool, draft(), now, dead(now, DeadReason::Exhausted)).await;
    spool
        .retry(retried, later, hours(3))
        .await
        .expect("writable");

    put(
        &*spool,
        Draft {
            expires_at: now,
            ..draft()
        },
    )
    .await;
    sweep(&*spool, now).await;

    for priority in Priority::ALL {
        put(
            &*spool,
            Draft {
                priority,
                tags: vec!["t"],
                body: noise(300 * 1024),
                ..draft()
            },
        )
        .await;
    }

    put(
        &*spool,
        Draft {
            due: later,
            to: crowd(500, "backup"),
            ..draft()
        },
    )
    .await;

    put(
        &*spool,
        Draft {
            to: crowd(1, "gone"),
            ..draft()
        },
    )
    .await;

    let known = vec![Route::over(["primary"]), Route::over(["backup"])];
    spool
        .reroute(known, Route::over(["backup"]))
        .await
        .expect("writable");

    let before = everything(&*spool).await;
    let numbers = spool.stats(now).await.expect("readable").counts;
    let mut name = "survivors".to_owned();
    for ending in ["close", "kill", "close", "kill"] {
        (spool, name) = reopened(bench, spool, &name, ending).await;
        assert!(
            everything(&*spool).await == before,
            "after a {ending} every mail is as it was, byte for byte"
        );
        assert_eq!(
            spool.stats(now).await.expect("readable").counts,
            numbers,
            "after a {ending} the numbers are right"
        );
        audit(&*spool, now).await;
        let first_due = spool.next_due(now).expect("something is to come");
        assert!(
            first_due > now && first_due <= later,
            "after a {ending} what is to come is known"
        );
    }

    let mut wanted = request(0, now);
    wanted.turns = vec![
        Priority::Bulk,
        Priority::Critical,
        Priority::Default,
        Priority::Default,
    ];

    let held = claim(&*spool, wanted).await;
    let given: Vec<Priority> = held.iter().map(|claim| claim.manifest.priority).collect();
    use Priority::{Bulk, Critical, Default};
    assert_eq!(
        given,
        [Bulk, Critical, Default, Default],
        "after opening again, what is due is handed out"
    );

    let due_later = claim(&*spool, request(10, later)).await;
    assert_eq!(
        due_later.len(),
        3,
        "after opening again, what is due later is handed out later"
    );
}

pub async fn what_was_in_flight_is_queued_again(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }

    for ending in ["close", "kill"] {
        let store = format!("in-flight-{ending}");
        let spool = open(bench, &store).await;
        let at_most_once = Draft {
            guarantee: Guarantee::AtMostOnce,
            ..draft()
        };
        let ids_put = put_all(&*spool, vec![draft().new_mail(), at_most_once.new_mail()]).await;
        let before = everything(&*spool).await;
        let held = claim(&*spool, request(2, start())).await;
        assert_eq!(held.len(), 2);
        let (spool, _) = reopened(bench, spool, &store, ending).await;
        drop(held);
        assert!(
            everything(&*spool).await == before,
            "after a {ending} what was in flight is as it was before"
        );
        for id in &ids_put {
            assert_eq!(
                states(&*spool, *id, start()).await,
                [State::Queued],
                "what was in flight is queued again"
            );
        }
        audit(&*spool, start()).await;
        let again = claim(&*spool, request(3, start())).await;
        assert_eq!(
            again.len(),
            2,
            "after a {ending} what was in flight is handed out again, once"
        );
    }
}

pub async fn a_marked_delivery_is_dead_in_doubt_after_a_kill(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }
    let spool = open(bench, "doubt").await;

    let at_most_once = Draft {
        guarantee: Guarantee::AtMostOnce,
        to: crowd(4, "primary"),
        ..draft()
    };

    let id = put(&*spool, at_most_once).await;
    let mut claim = claim_one(&*spool, start()).await;
    let tokens: Vec<_> = claim
        .deliveries
        .iter()
        .take(3)
        .map(|(lease, _)| lease.token())
        .collect();

    assert_eq!(spool.mark(tokens).await, Ok(()));
    let (lease, delivery) = claim.deliveries.remove(2);
    let verdict = tried(
        &delivery,
        start(),
        Stage::Pending {
            due: start() + hours(1),
        },
    );

    assert_eq!(
        spool.settle(vec![(lease, verdict)]).await,
        Ok(vec![SettleResult::Done])
    );

    let (spool, name) = reopened(bench, spool, "doubt", "kill").await;
    drop(claim);
    use State::{Dead, Deferred, Queued};
    assert_eq!(
        states(&*spool, id, start()).await,
        [Dead, Dead, Deferred, Queued]
    );

    for delivery in &get(&*spool, id).await.deliveries[..2] {
        let in_doubt = matches!(
            delivery.stage,
            Stage::Dead {
                reason: DeadReason::InDoubt,
                ..
            }
        );
        assert!(
            in_doubt,
            "what may have been sent when the process was killed is dead in doubt"
        );
    }

    assert_eq!(spool.pending(), 2);
    audit(&*spool, start()).await;
    let (spool, _) = reopened(bench, spool, &name, "close").await;
    assert_eq!(
        states(&*spool, id, start()).await,
        [Dead, Dead, Deferred, Queued],
        "and stays so"
    );

    let recipients = vec![
        address("r0@example.org"),
        address("r1@example.org"),
        address("r2@example.org"),
    ];

    let change = spool.retry(id, start(), hours(1)).await;
    assert_eq!(
        change,
        Ok(OperationResult::Done(recipients)),
        "a user can decide to send it again"
    );
}

pub async fn keys_survive(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }
    let mut spool = open(bench, "keys").await;

    let keyed = |key, fingerprint| Draft {
        key: Some(key),
        fingerprint,
        ..draft()
    };

    let ended = put_at(&*spool, keyed("ended", 1), start(), delivered(start())).await;
    let waiting = put(&*spool, keyed("waiting", 1)).await;
    let mut name = "keys".to_owned();
    for ending in ["close", "kill"] {
        (spool, name) = reopened(bench, spool, &name, ending).await;
        let group = vec![
            keyed("ended", 1).new_mail(),
            keyed("waiting", 1).new_mail(),
            keyed("ended", 2).new_mail(),
        ];
        let expected = [
            Ok(PutResult::Duplicate(ended)),
            Ok(PutResult::Duplicate(waiting)),
            Err(SpoolError::KeyReused(ended)),
        ];
        assert_eq!(
            spool.put(group).await,
            expected,
            "after a {ending} one key is still one mail"
        );
    }

    let after = start() + hours(3);
    sweep(&*spool, after).await;
    let again = spool.put(vec![keyed("waiting", 1).new_mail()]).await;
    assert_eq!(
        again,
        [Ok(PutResult::Duplicate(waiting))],
        "a key is remembered while its mail is pending"
    );

    put(&*spool, keyed("ended", 2)).await;
    audit(&*spool, after).await;
}

pub async fn what_was_deleted_stays_deleted(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }

    for ending in ["close", "kill"] {
        let store = format!("deleted-{ending}");
        let spool = open(bench, &store).await;
        let kept = put(
            &*spool,
            Draft {
                due: start() + hours(20),
                body: noise(20_000),
                ..draft()
            },
        )
        .await;
        let big = || Draft {
            body: noise(100_000),
            key: None,
            ..draft()
        };
        let purged = put_at(&*spool, big(), start(), delivered(start())).await;
        spool.purge(purged).await.expect("writable");
        let pruned = put_at(&*spool, big(), start(), delivered(start())).await;
        sweep(&*spool, start() + hours(4)).await;
        let before = everything(&*spool).await;
        let (spool, _) = reopened(bench, spool, &store, ending).await;
        assert!(
            everything(&*spool).await == before,
            "after a {ending} what was deleted stays deleted"
        );
        assert_gone(&*spool, purged).await;
        assert_gone(&*spool, pruned).await;
        get(&*spool, kept).await;
        audit(&*spool, start()).await;
    }
}

pub async fn a_store_that_was_dropped_unclosed_opens_again(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }

    let spool = open(bench, "dropped-open").await;
    let id = put(
        &*spool,
        Draft {
            body: noise(5000),
            ..draft()
        },
    )
    .await;
    let held = claim_one(&*spool, start()).await;

    drop(spool);
    if bench.is_shared() {
        // Another that has it open gets what was held, soon.
        let spool = open(bench, "dropped-open").await;
        drop(held);
        assert_eq!(claim_returned(&*spool, start()).await.manifest.id, id);
        return;
    }

    // A lease does not keep its spool; whoever held the store needs a moment to let go of it.
    let wait = async {
        loop {
            match bench.open("dropped-open", options()).await {
                Err(SpoolError::Locked(_)) => tokio::time::sleep(ms(5)).await,
                opened => return opened.expect("the store opens"),
            }
        }
    };

    let spool = tokio::time::timeout(LONGEST_WAIT, wait)
        .await
        .expect("a store that was dropped is not locked for ever");
    drop(held);

    assert!(
        spool.body(id).await == Ok(Some(noise(5000))),
        "what was accepted is there"
    );

    assert_eq!(ids(&[claim_one(&*spool, start()).await]), [id]);
}

/// Ends the store and opens it again, under the name that is returned.
async fn reopened(
    bench: &dyn Bench,
    spool: Arc<dyn Spool>,
    store: &str,
    ending: &str,
) -> (Arc<dyn Spool>, String) {
    if ending == "close" {
        spool.close().await.expect("an open spool closes");
        drop(spool);
        return (open(bench, store).await, store.to_owned());
    }
    let copy = format!("{store}-killed");
    bench.kill(store, &copy);
    (open(bench, &copy).await, copy)
}

type Kept = (Record, Vec<u8>);

/// Each mail's record, as it is when no sender holds any, and its body.
async fn everything(spool: &dyn Spool) -> BTreeMap<MailId, Kept> {
    let mut all = BTreeMap::new();
    for mut record in list(
        spool,
        Query {
            limit: 1000,
            ..Query::default()
        },
        start(),
    )
    .await
    {
        let id = record.manifest.id;
        record.leased.fill(false);
        let body = spool
            .body(id)
            .await
            .expect("readable")
            .expect("a mail has a body");
        all.insert(id, (record, body.to_vec()));
    }

    all
}

pub async fn a_pause_survives_until_it_is_over(bench: &dyn Bench) {
    let spool = open(bench, "paused").await;
    assert_eq!(spool.paused().await, Ok(BTreeSet::new()));
    for relay in ["primary", "the other", "primary"] {
        assert_eq!(spool.set_paused(relay, true).await, Ok(()));
    }
    let both = BTreeSet::from(["primary".to_owned(), "the other".to_owned()]);
    assert_eq!(spool.paused().await, Ok(both.clone()));
    if !bench.persistent() {
        return;
    }

    spool.close().await.expect("closed");
    let spool = open(bench, "paused").await;
    assert_eq!(spool.paused().await, Ok(both));
    assert_eq!(spool.set_paused("primary", false).await, Ok(()));
    let other = BTreeSet::from(["the other".to_owned()]);
    assert_eq!(spool.paused().await, Ok(other.clone()));

    bench.kill("paused", "paused-killed");
    spool.close().await.expect("closed");
    let spool = open(bench, "paused-killed").await;
    assert_eq!(spool.paused().await, Ok(other));
}
