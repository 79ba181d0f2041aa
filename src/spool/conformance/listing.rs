//! What is found by asking, page by page, and whether the numbers are true.

use std::collections::BTreeSet;

use super::Bench;
use super::fixture::*;
use crate::delivery::{DeadReason, Route, Stage, State};
use crate::mail::{MailId, Priority, Timestamp, hours, minutes};
use crate::spool::{Query, Record, Spool, SpoolError};

fn ids_of(records: &[Record]) -> Vec<MailId> {
    records.iter().map(|record| record.manifest.id).collect()
}

pub async fn the_newest_mails_are_listed_first(bench: &dyn Bench) {
    let spool = open(bench, "newest").await;
    assert_eq!(
        list(&*spool, Query::default(), start()).await,
        [],
        "an empty spool lists nothing"
    );

    let new_mails = (0..7).map(|n| {
        let accepted_at = start() + minutes(n);
        Draft {
            accepted_at,
            due: accepted_at,
            ..draft()
        }
        .new_mail()
    });

    let mut expected = put_all(&*spool, new_mails.collect()).await;
    expected.reverse();
    for limit in [0, 1, 2, 3, 7, 1000, usize::MAX] {
        let found = list(
            &*spool,
            Query {
                limit,
                ..Query::default()
            },
            start(),
        )
        .await;
        assert_eq!(
            ids_of(&found),
            expected,
            "the newest come first, {limit} a page"
        );
    }

    let page = spool
        .list(
            Query {
                limit: 7,
                ..Query::default()
            },
            start(),
        )
        .await
        .expect("readable");

    if let Some(cursor) = page.next {
        let query = Query {
            limit: 7,
            cursor: Some(cursor),
            ..Query::default()
        };
        assert_eq!(
            list(&*spool, query, start()).await,
            [],
            "after the last mail there is none"
        );
    }
}

pub async fn mails_are_found_by_what_is_asked(bench: &dyn Bench) {
    let spool = open(bench, "found").await;
    let now = start() + hours(1);
    let mut all = Vec::new();
    for n in 0..60_u64 {
        let accepted_at = start() + minutes(n);
        let name = format!("user{}@example.org", n % 5);
        let mail = Draft {
            accepted_at,
            due: if n % 6 == 5 { now + hours(n) } else { start() },
            priority: Priority::ALL[usize::try_from(n).expect("small") % 3],
            to: vec![(name, "primary"), ("all@example.org".into(), "backup")],
            tags: if n % 4 == 0 {
                vec!["news", "monthly"]
            } else {
                vec!["newsletter"]
            },
            ..draft()
        };
        all.push(put(&*spool, mail).await);
    }

    let claims = claim(&*spool, request(25, now)).await;
    let mut held = Vec::new();
    for (n, claim) in claims.into_iter().enumerate() {
        match n % 5 {
            0 => settle(&*spool, vec![claim], now, delivered(now)).await,
            1 => settle(&*spool, vec![claim], now, dead(now, DeadReason::Rejected)).await,
            2 => {
                settle(
                    &*spool,
                    vec![claim],
                    now,
                    Stage::Pending {
                        due: now + minutes(n as u64),
                    },
                )
                .await
            }
            3 => drop(claim),
            _ => held.push(claim),
        }
    }

    let cancelled = all.iter().skip(50).copied();
    for id in cancelled {
        spool.cancel(id, now).await.expect("writable");
    }

    let everything = list(&*spool, Query::default(), now).await;
    assert_eq!(everything.len(), 60);
    let asked = |query: Query| {
        let spool = spool.clone();
        let everything = everything.clone();
        async move {
            let expected: BTreeSet<MailId> = everything
                .iter()
                .filter(|record| query.admits(record))
                .filter(|record| {
                    query
                        .state
                        .is_none_or(|state| record.states(now).any(|told| told == state))
                })
                .map(|record| record.manifest.id)
                .collect();
            let found = list(&*spool, query.clone(), now).await;
            let found: BTreeSet<MailId> = ids_of(&found).into_iter().collect();
            assert_eq!(
                found, expected,
                "exactly the mails that were asked for are found: {query:?}"
            );
            expected.len()
        }
    };

    let base = || Query {
        limit: 7,
        ..Query::default()
    };

    let mut hits = 0;
    for state in State::ALL.map(Some).into_iter().chain([None]) {
        hits += asked(Query { state, ..base() }).await;
        for n in 0..6 {
            let recipient = Some(address(&format!("user{n}@example.org")));
            hits += asked(Query {
                state,
                recipient,
                ..base()
            })
            .await;
        }
        for tag in ["news", "monthly", "newsletter", "new", ""] {
            hits += asked(Query {
                state,
                tag: Some(tag.into()),
                ..base()
            })
            .await;
        }
        for priority in Priority::ALL {
            hits += asked(Query {
                state,
                priority: Some(priority),
                ..base()
            })
            .await;
        }
        let (since, until) = (Some(start() + minutes(10)), Some(start() + minutes(31)));
        hits += asked(Query {
            state,
            since,
            ..base()
        })
        .await;
        hits += asked(Query {
            state,
            until,
            ..base()
        })
        .await;
        hits += asked(Query {
            state,
            since,
            until,
            ..base()
        })
        .await;
        let recipient = Some(address("user1@example.org"));
        let priority = Some(Priority::Bulk);
        let tag = Some("newsletter".to_owned());
        hits += asked(Query {
            state,
            since,
            until,
            recipient,
            priority,
            tag,
            ..base()
        })
        .await;
    }

    assert!(hits > 300, "the questions were worth asking");
}

pub async fn pending_mails_are_listed_as_they_are_due(bench: &dyn Bench) {
    let spool = open(bench, "list-due").await;
    let dues = [50, 20, 40, 10, 30, 70, 60];
    put_all(
        &*spool,
        dues.map(|n| {
            Draft {
                due: start() + minutes(n),
                ..draft()
            }
            .new_mail()
        })
        .into(),
    )
    .await;

    let claims = claim(&*spool, request(2, start() + minutes(20))).await;
    for (claim, again) in claims.into_iter().zip([65, 45]) {
        settle(
            &*spool,
            vec![claim],
            start(),
            Stage::Pending {
                due: start() + minutes(again),
            },
        )
        .await;
    }

    let now = start() + minutes(45);
    for (state, expected) in [
        (State::Queued, &[30, 40, 45][..]),
        (State::Scheduled, &[50, 60, 70]),
        (State::Deferred, &[65]),
    ] {
        for limit in [1, 2, 100] {
            let found = list(
                &*spool,
                Query {
                    state: Some(state),
                    limit,
                    ..Query::default()
                },
                now,
            )
            .await;
            let told: Vec<_> = found
                .iter()
                .filter_map(|record| record.deliveries[0].stage.due())
                .collect();
            let sorted: Vec<_> = expected.iter().map(|n| start() + minutes(*n)).collect();
            assert_eq!(
                told, sorted,
                "of mails that are {state}, those that are due first come first"
            );
        }
    }
}

/// However much there is of the one, it is not looked through for the other.
pub async fn what_waits_for_its_time_is_found_beside_very_much_that_is_due(bench: &dyn Bench) {
    let spool = open(bench, "list-beside").await;
    let now = start() + minutes(10);
    let due_at = |minute: u64, priority, to: Vec<(String, &'static str)>| {
        Draft {
            due: start() + minutes(minute),
            priority,
            to,
            ..draft()
        }
        .new_mail()
    };

    // The first of the two recipients of one of them is tried, and waits; the other is due.
    let half = due_at(0, Priority::Default, crowd(2, "primary"));
    let half_id = half.manifest.id;
    put_all(&*spool, vec![half]).await;
    let mut claims = claim(&*spool, request(1, start())).await;
    claims[0].deliveries.truncate(1);
    let due = start() + minutes(15);
    settle(&*spool, claims, start(), Stage::Pending { due }).await;

    let priorities = [Priority::Critical, Priority::Default, Priority::Bulk];
    let routes = ["primary", "backup"];
    let (mut many, mut few) = (Vec::new(), Vec::new());
    for n in 0..600 {
        let to = crowd(1, routes[n % 2]);
        many.push(due_at(5, priorities[n % 3], to));
    }
    for n in 0..6 {
        let to = crowd(1, routes[n % 2]);
        few.push(due_at(20, priorities[n / 2], to));
    }

    put_all(&*spool, many).await;
    let few: BTreeSet<MailId> = put_all(&*spool, few).await.into_iter().collect();
    let asked = async |state, now| {
        let query = Query {
            state: Some(state),
            limit: 1000,
            ..Query::default()
        };
        let page = spool.list(query, now).await.expect("readable");
        assert_eq!(page.next, None);
        let found: BTreeSet<MailId> = ids_of(&page.mails).into_iter().collect();
        assert_eq!(found.len(), page.mails.len(), "each once");
        (found, page.looked_at)
    };

    let (scheduled, looked_at) = asked(State::Scheduled, now).await;
    assert_eq!(scheduled, few);
    assert!(looked_at <= 7, "{looked_at} were looked at");
    let (deferred, looked_at) = asked(State::Deferred, now).await;
    assert_eq!(deferred, BTreeSet::from([half_id]));
    assert!(looked_at <= 7, "{looked_at} were looked at");

    let (queued, _) = asked(State::Queued, now).await;
    assert_eq!(queued.len(), 601);
    assert!(queued.contains(&half_id) && queued.is_disjoint(&few));
    let (queued, looked_at) = asked(State::Queued, start()).await;
    assert_eq!(queued, BTreeSet::from([half_id]));
    assert!(looked_at <= 2, "{looked_at} were looked at");
}

pub async fn every_mail_is_on_exactly_one_page_while_others_arrive(bench: &dyn Bench) {
    let spool = open(bench, "pages").await;
    let new_mails = (0..230).map(|n| {
        Draft {
            due: start() + ms(n * 7919 % 60_000),
            tags: vec!["t"],
            ..draft()
        }
        .new_mail()
    });

    let there: BTreeSet<MailId> = put_all(&*spool, new_mails.collect())
        .await
        .into_iter()
        .collect();
    let now = start() + hours(1);

    let late = |n: u64| {
        Draft {
            due: start() + ms(n * 997 % 60_000),
            tags: vec!["t"],
            ..draft()
        }
        .new_mail()
    };

    for state in [None, Some(State::Queued)] {
        let mut query = Query {
            state,
            tag: Some("t".into()),
            limit: 11,
            ..Query::default()
        };
        let mut found = Vec::new();
        for n in 0..10_000 {
            let page = spool.list(query.clone(), now).await.expect("readable");
            found.extend(ids_of(&page.mails));
            put_all(&*spool, vec![late(n)]).await;
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        let distinct: BTreeSet<MailId> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "no mail is on two pages");
        assert!(
            distinct.is_superset(&there),
            "no mail is missing from the pages"
        );
    }
}

pub async fn a_cursor_that_makes_no_sense_is_an_error(bench: &dyn Bench) {
    let spool = open(bench, "cursor").await;
    let now = start();
    put_all(&*spool, (0..5).map(|_| draft().new_mail()).collect()).await;

    let long = "f".repeat(100_000);
    for state in [None, Some(State::Queued), Some(State::Delivered)] {
        for cursor in ["x", "zz", "\u{1F4EE}", "0", "é0", " ", &long] {
            let answer = spool
                .list(
                    Query {
                        state,
                        cursor: Some(cursor.into()),
                        ..Query::default()
                    },
                    now,
                )
                .await;
            assert_eq!(
                answer.err(),
                Some(SpoolError::BadCursor),
                "a cursor that makes no sense is an error"
            );
        }
    }

    let page = spool
        .list(
            Query {
                limit: 2,
                ..Query::default()
            },
            now,
        )
        .await
        .expect("readable");

    let cursor = page.next.expect("there are more");
    // What a cursor of another question finds is not promised; that it does no harm is.
    for state in State::ALL {
        let _ = spool
            .list(
                Query {
                    state: Some(state),
                    cursor: Some(cursor.clone()),
                    ..Query::default()
                },
                now,
            )
            .await;
    }

    let shortened: String = cursor.chars().take(cursor.chars().count() / 2).collect();
    let _ = spool
        .list(
            Query {
                cursor: Some(shortened),
                ..Query::default()
            },
            now,
        )
        .await;

    audit(&*spool, start()).await;
}

pub async fn the_numbers_are_the_truth(bench: &dyn Bench) {
    let spool = open(bench, "numbers").await;
    let now = start() + hours(1);
    audit(&*spool, now).await;
    for (n, priority) in Priority::ALL.into_iter().cycle().take(30).enumerate() {
        let due = start() + minutes(n as u64);
        let route = ["primary", "backup", "primary,backup"][n / 3 % 3];
        put(
            &*spool,
            Draft {
                priority,
                due,
                to: crowd(1 + n % 2, route),
                ..draft()
            },
        )
        .await;
    }

    for at in [start(), start() + minutes(10), now] {
        audit(&*spool, at).await;
    }

    let stats = spool.stats(now).await.expect("readable");
    assert_eq!(
        stats.backlog.iter().filter(|(_, count)| *count > 0).count(),
        3,
        "each queue has its number"
    );

    assert_eq!(
        stats.oldest_due,
        Some(start()),
        "the longest-waiting delivery is told"
    );

    let by_state = |state: State| stats.counts.in_state(state);
    assert_eq!(by_state(State::Queued), 45, "45 deliveries are due");

    let mut wanted = request(6, now);
    wanted.routes.push(Route::over(["primary,backup"]));
    let held = claim(&*spool, wanted.clone()).await;
    audit(&*spool, now).await;

    let mut claims = claim(&*spool, wanted).await.into_iter();
    let stages = [
        delivered(now),
        dead(now, DeadReason::Rejected),
        Stage::Pending {
            due: now + minutes(1),
        },
    ];

    for (claim, stage) in claims.by_ref().zip(stages) {
        settle(&*spool, vec![claim], now, stage).await;
        audit(&*spool, now).await;
    }

    drop(claims);
    drop(held);
    sweep(&*spool, now).await;
    wait_until_nothing_is_held(&*spool, now).await;
    for at in [start(), now, now + minutes(1), now + hours(1)] {
        audit(&*spool, at).await;
    }
}

async fn wait_until_nothing_is_held(spool: &dyn Spool, now: Timestamp) {
    let wait = async {
        while list(spool, Query::default(), now)
            .await
            .iter()
            .any(|record| record.leased.contains(&true))
        {
            spool.changed().notified().await;
        }
    };
    tokio::time::timeout(LONGEST_WAIT, wait)
        .await
        .expect("leases that were dropped come back");
}

pub async fn mail_to_thousands_fills_a_page_sooner(bench: &dyn Bench) {
    const RECIPIENTS: usize = 6_000;
    let spool = open(bench, "page-of-many").await;
    let to = |n| (format!("user{n}@example.org"), "primary");
    for _ in 0..3 {
        let many = Draft {
            to: (0..RECIPIENTS).map(to).collect(),
            ..draft()
        };
        put_all(&*spool, vec![many.new_mail()]).await;
    }

    for state in [None, Some(State::Queued)] {
        let query = Query {
            state,
            limit: 1000,
            ..Query::default()
        };
        let page = spool.list(query.clone(), start()).await;
        let page = page.expect("an open spool lets list");
        assert_eq!(page.mails.len(), 2, "{state:?}: a page is held in memory");
        assert!(page.next.is_some(), "{state:?}: it says that there is more");
        assert_eq!(list(&*spool, query, start()).await.len(), 3, "{state:?}");
    }
}
