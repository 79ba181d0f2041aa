//! Who is not to get mail. A spool that keeps none passes: it says so.

use std::sync::Arc;

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Stage, State};
use crate::mail::{Priority, hours};
use crate::spool::{
    OperationResult, Query, Spool, Suppression, SuppressionQuery, SuppressionReason, Suppressions,
};

fn entry(to: &str, reason: SuppressionReason, list: Option<&str>) -> Suppression {
    Suppression {
        address: address(to),
        reason,
        list: list.map(str::to_owned),
        since: start(),
        until: None,
        note: None,
    }
}

fn kept(spool: &Arc<dyn Spool>) -> Option<&dyn Suppressions> {
    spool.suppressions()
}

async fn all(kept: &dyn Suppressions, query: SuppressionQuery) -> Vec<Suppression> {
    let mut query = query;
    let mut found = Vec::new();
    loop {
        let page = kept.page(query.clone()).await.expect("a page");
        found.extend(page.suppressions);
        query.cursor = page.next;
        if query.cursor.is_none() {
            return found;
        }
    }
}

pub async fn who_is_not_to_get_mail_is_kept_and_found(bench: &dyn Bench) {
    let spool = open(bench, "suppressed").await;
    let Some(kept) = kept(&spool) else { return };
    assert!(kept.is_empty());
    let bounce = Suppression {
        until: Some(start() + hours(1)),
        note: Some("550 5.1.1 no such user".into()),
        ..entry("ada@example.org", SuppressionReason::Bounce, None)
    };

    let left = entry(
        "Ada@Example.ORG",
        SuppressionReason::Unsubscribe,
        Some("news"),
    );

    let other = entry("ada@example.org.uk", SuppressionReason::Manual, None);
    let entries = vec![bounce.clone(), left.clone(), other];
    kept.add(entries).await.expect("added");
    assert!(!kept.is_empty());

    let asked = [
        "ADA@example.org",
        "nobody@example.org",
        "ada@example.org.uk",
    ];

    let found = kept.of(asked.map(address).to_vec()).await.expect("found");
    assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 1]);
    assert!(found[0].contains(&bounce), "{found:?}");

    let now = start();
    let stops = |list, priority| found[0][1].stops(list, priority, now);
    assert!(stops(Some("news"), Priority::Default) && !stops(None, Priority::Default));
    assert!(!stops(Some("news"), Priority::Critical));
    assert!(
        bounce.stops(None, Priority::Critical, now),
        "who does not exist gets no code"
    );

    assert!(
        !bounce.stops(None, Priority::Default, start() + hours(1)),
        "it has ended"
    );

    let again = Suppression {
        note: None,
        ..bounce
    };

    kept.add(vec![again.clone()]).await.expect("added");
    let found = kept
        .of(vec![address("ada@example.org")])
        .await
        .expect("found");

    assert!(
        found[0].len() == 2 && found[0].contains(&again),
        "{found:?}"
    );

    assert_eq!(kept.remove(vec![again.clone()]).await.expect("removed"), 1);
    assert_eq!(kept.remove(vec![again]).await.expect("removed"), 0);
    let found = kept
        .of(vec![address("ada@example.org")])
        .await
        .expect("found");

    assert_eq!(found[0].len(), 1, "{found:?}");
}

pub async fn every_entry_is_on_exactly_one_page(bench: &dyn Bench) {
    let spool = open(bench, "pages").await;
    let Some(kept) = kept(&spool) else { return };
    let mut entries = Vec::new();
    for n in 0..250 {
        let reason = SuppressionReason::ALL[n % 4];
        let list = (n % 5 == 0).then_some("news");
        entries.push(entry(&format!("a{n}@example.org"), reason, list));
    }

    kept.add(entries).await.expect("added");
    let query = |limit| SuppressionQuery {
        limit,
        ..SuppressionQuery::default()
    };

    for limit in [1, 7, 1000] {
        let found = all(kept, query(limit)).await;
        let mut addresses: Vec<&str> = found.iter().map(|one| one.address.as_str()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!((found.len(), addresses.len()), (250, 250), "{limit}");
    }

    let of_list = SuppressionQuery {
        list: Some("news".into()),
        reason: Some(SuppressionReason::Bounce),
        ..query(10)
    };

    assert_eq!(all(kept, of_list).await.len(), 13);
    let of_one = SuppressionQuery {
        address: Some(address("A7@example.org")),
        ..query(10)
    };

    assert_eq!(all(kept, of_one).await.len(), 1);
    let nonsense = SuppressionQuery {
        cursor: Some("?".into()),
        ..query(10)
    };

    assert!(kept.page(nonsense).await.is_err());
}

pub async fn a_delivery_that_is_dead_from_the_start_is_kept_and_never_handed_out(
    bench: &dyn Bench,
) {
    let few = crowd(3, "primary");
    // So many recipients are queued after their mail is accepted.
    let many = crowd(5000, "primary");

    for (store, to) in [("dead-few", few), ("dead-many", many)] {
        let spool = open(bench, store).await;
        if kept(&spool).is_none() {
            return;
        }
        let all = to.len();
        let mut new_mail = Draft { to, ..draft() }.new_mail();
        let dead = Stage::Dead {
            at: start(),
            reason: DeadReason::Suppressed,
        };
        for delivery in new_mail.deliveries.iter_mut().skip(1).step_by(2) {
            delivery.stage = dead;
        }
        let id = put_all(&*spool, vec![new_mail]).await[0];
        let pending = spool.pending() as usize;
        assert_eq!(pending, all.div_ceil(2), "{store}");
        audit(&*spool, start()).await;
        for (place, delivery) in get(&*spool, id).await.deliveries.iter().enumerate() {
            assert_eq!(delivery.stage == dead, place % 2 == 1, "{store}: {place}");
        }
        let dead_ones = Query {
            state: Some(State::Dead),
            ..Query::default()
        };
        assert_eq!(list(&*spool, dead_ones, start()).await.len(), 1, "{store}");
        let mut claimed = 0;
        loop {
            let claims = claim(&*spool, request(1, start())).await;
            let Some(one) = claims.into_iter().next() else {
                break;
            };
            claimed += one.deliveries.len();
            let held = one.deliveries.iter();
            assert!(
                held.clone().all(|(_, delivery)| delivery.stage != dead),
                "{store}"
            );
            let at = start();
            settle(&*spool, vec![one], at, Stage::Delivered { at }).await;
        }
        assert_eq!(claimed, pending, "{store}");
        let expected = OperationResult::Done(
            get(&*spool, id)
                .await
                .deliveries
                .iter()
                .skip(1)
                .step_by(2)
                .map(|delivery| delivery.recipient.clone())
                .collect(),
        );
        assert_eq!(
            spool.retry(id, start(), hours(1)).await,
            Ok(expected),
            "{store}"
        );
        audit(&*spool, start()).await;
    }
}

pub async fn who_is_not_to_get_mail_survives_close_and_kill(bench: &dyn Bench) {
    if !bench.persistent() {
        return;
    }
    let spool = open(bench, "kept").await;
    let Some(kept) = kept(&spool) else { return };

    let one = entry("ada@example.org", SuppressionReason::Complaint, None);
    kept.add(vec![one.clone()]).await.expect("added");
    bench.kill("kept", "copy");
    spool.close().await.expect("closed");
    drop(spool);

    for store in ["kept", "copy"] {
        let spool = bench.open(store, options()).await.expect("opens");
        let kept = spool.suppressions().expect("as before");
        assert!(!kept.is_empty(), "{store}");
        let found = kept.of(vec![one.address.clone()]).await.expect("found");
        assert_eq!(found[0], std::slice::from_ref(&one), "{store}");
        spool.close().await.expect("closed");
    }
}
