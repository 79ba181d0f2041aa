//! What a put keeps, and what an idempotency key means.

use futures::FutureExt;

use super::Bench;
use super::fixture::*;
use crate::delivery::{Delivery, Route};
use crate::mail::{Guarantee, Priority, Submitter, hours};
use crate::spool::{PutResult, SpoolError, SpoolOptions};

pub async fn bodies_of_every_size_come_back_byte_for_byte(bench: &dyn Bench) {
    const SIZES: [usize; 9] = [
        0,
        1,
        4095,
        4096,
        4097,
        8192,
        300 * 1024,
        1024 * 1024 + 1,
        3 * 1024 * 1024,
    ];

    for cache_bytes in [0, 1024 * 1024 * 1024] {
        let spool = open_with(
            bench,
            &format!("bodies-{cache_bytes}"),
            SpoolOptions {
                cache_bytes,
                ..options()
            },
        )
        .await;
        let drafts: Vec<_> = SIZES
            .iter()
            .map(|size| {
                Draft {
                    body: noise(*size),
                    ..draft()
                }
                .new_mail()
            })
            .collect();
        let ids = put_all(&*spool, drafts).await;
        for (id, size) in ids.iter().zip(SIZES) {
            let body = spool
                .body(*id)
                .await
                .expect("readable")
                .expect("the body is kept");
            assert!(
                body == noise(size),
                "a body of {size} bytes comes back byte for byte"
            );
        }
        let claims = claim(&*spool, request(SIZES.len(), start())).await;
        assert_eq!(claims.len(), SIZES.len(), "every mail is handed out");
        for claim in claims {
            let size = usize::try_from(claim.manifest.size).expect("small");
            assert!(
                claim.body == noise(size),
                "a sender gets a body of {size} bytes byte for byte"
            );
        }
        audit(&*spool, start()).await;
    }
}

pub async fn all_that_is_known_of_a_mail_comes_back(bench: &dyn Bench) {
    let spool = open(bench, "known").await;
    let mut new_mail = Draft {
        priority: Priority::Bulk,
        guarantee: Guarantee::AtMostOnce,
        key: Some("order-42"),
        fingerprint: u128::MAX,
        tags: vec!["news", "Grüße"],
        ..draft()
    }
    .new_mail();

    new_mail.manifest.return_path = None;
    new_mail.manifest.subject = "Grüße\u{1F4EE}".into();
    new_mail.manifest.eight_bit = true;
    new_mail.manifest.smtputf8 = true;
    new_mail.deliveries[0].recipient = address("jürgen@exämple.org");

    let expected = new_mail.clone();
    put_all(&*spool, vec![new_mail]).await;
    let record = get(&*spool, expected.manifest.id).await;
    assert_eq!(
        record.manifest, expected.manifest,
        "what is known of a mail comes back unchanged"
    );

    assert_eq!(
        record.deliveries, expected.deliveries,
        "its deliveries come back unchanged"
    );

    assert_eq!(record.leased, [false], "nobody holds a new delivery");
    let claim = claim_one(&*spool, start()).await;
    assert_eq!(
        *claim.manifest, expected.manifest,
        "a sender is told all that is known of the mail"
    );

    assert_eq!(
        claim.deliveries[0].1, expected.deliveries[0],
        "a sender is told all that is known of the delivery"
    );

    assert_eq!(
        get(&*spool, expected.manifest.id).await.leased,
        [true],
        "a delivery in a sender's hands is shown so"
    );
}

pub async fn every_recipient_is_kept_in_the_envelopes_order(bench: &dyn Bench) {
    let spool = open(bench, "recipients").await;
    for count in [1, 2, 500] {
        let new_mail = Draft {
            to: crowd(count, "primary"),
            ..draft()
        }
        .new_mail();
        let (id, expected) = (new_mail.manifest.id, new_mail.deliveries.clone());
        put_all(&*spool, vec![new_mail]).await;
        assert_eq!(
            get(&*spool, id).await.deliveries,
            expected,
            "all {count} recipients are kept, in order"
        );
        let claim = claim_one(&*spool, start()).await;
        let handed: Vec<Delivery> = claim
            .deliveries
            .iter()
            .map(|(_, delivery)| delivery.clone())
            .collect();
        assert_eq!(
            handed, expected,
            "all {count} recipients are handed out, in order"
        );
        let places: Vec<usize> = claim
            .deliveries
            .iter()
            .map(|(lease, _)| usize::from(lease.token().index))
            .collect();
        assert_eq!(
            places,
            (0..count).collect::<Vec<_>>(),
            "a lease names the recipient's place in the envelope"
        );
        audit(&*spool, start()).await;
        settle(&*spool, vec![claim], start(), delivered(start())).await;
    }

    audit(&*spool, start()).await;
}

pub async fn a_group_is_answered_in_order(bench: &dyn Bench) {
    let spool = open(bench, "group").await;
    assert!(
        spool.put(Vec::new()).await.is_empty(),
        "an empty group has no results"
    );

    let keyed = |key, fingerprint| {
        Draft {
            key: Some(key),
            fingerprint,
            ..draft()
        }
        .new_mail()
    };

    let group = vec![
        keyed("a", 1),
        draft().new_mail(),
        keyed("a", 1),
        keyed("b", 1),
        keyed("a", 2),
        draft().new_mail(),
    ];
    let first = group[0].manifest.id;
    let ids: Vec<_> = group.iter().map(|new_mail| new_mail.manifest.id).collect();

    let expected = vec![
        Ok(PutResult::Stored),
        Ok(PutResult::Stored),
        Ok(PutResult::Duplicate(first)),
        Ok(PutResult::Stored),
        Err(SpoolError::KeyReused(first)),
        Ok(PutResult::Stored),
    ];

    assert_eq!(
        spool.put(group).await,
        expected,
        "each mail of a group has its own result, in order"
    );

    for (id, result) in ids.into_iter().zip(expected) {
        if result == Ok(PutResult::Stored) {
            get(&*spool, id).await;
        } else {
            assert_gone(&*spool, id).await;
        }
    }

    assert_eq!(spool.pending(), 4, "only what was stored is pending");
    audit(&*spool, start()).await;
}

pub async fn a_group_of_any_size_is_answered_in_order(bench: &dyn Bench) {
    let spool = open(bench, "large-group").await;
    let keyed = |key| {
        Draft {
            key: Some(key),
            ..draft()
        }
        .new_mail()
    };

    let bulky = || {
        (0..15).map(|_| {
            Draft {
                body: noise(100_000),
                ..draft()
            }
            .new_mail()
        })
    };

    let group: Vec<_> = bulky()
        .chain([keyed("a")])
        .chain(bulky())
        .chain([keyed("a"), keyed("b")])
        .collect();
    let first = group[15].manifest.id;

    let mut expected = vec![Ok(PutResult::Stored); group.len()];
    expected[31] = Ok(PutResult::Duplicate(first));
    assert_eq!(
        spool.put(group).await,
        expected,
        "each mail of a large group has its own result, in order"
    );

    audit(&*spool, start()).await;
}

pub async fn a_mail_that_is_put_again_is_one_mail(bench: &dyn Bench) {
    let spool = open(bench, "again").await;
    for size in [100, 1024 * 1024] {
        let new_mail = Draft {
            body: noise(size),
            ..draft()
        }
        .new_mail();
        let id = new_mail.manifest.id;
        let both = spool.put(vec![new_mail.clone(), new_mail.clone()]).await;
        assert_eq!(
            both,
            [Ok(PutResult::Stored), Ok(PutResult::Duplicate(id))],
            "twice in one group"
        );
        assert_eq!(
            spool.put(vec![new_mail.clone()]).await,
            [Ok(PutResult::Duplicate(id))],
            "once more, later"
        );
        let claim = claim_one(&*spool, start()).await;
        assert_eq!(
            spool.put(vec![new_mail.clone()]).await,
            [Ok(PutResult::Duplicate(id))],
            "while it is being sent"
        );
        settle(&*spool, vec![claim], start(), delivered(start())).await;
        assert_eq!(
            spool.put(vec![new_mail]).await,
            [Ok(PutResult::Duplicate(id))],
            "after it was delivered"
        );
        assert_nothing_due(&*spool, start(), "it was sent once").await;
    }

    audit(&*spool, start()).await;
}

pub async fn the_same_key_with_the_same_content_is_the_same_mail(bench: &dyn Bench) {
    let spool = open(bench, "same-key").await;
    let keyed = || Draft {
        key: Some("order-42"),
        ..draft()
    };

    let first = put(&*spool, keyed()).await;
    for _ in 0..3 {
        let again = keyed().new_mail();
        let id = again.manifest.id;
        assert_eq!(
            spool.put(vec![again]).await,
            [Ok(PutResult::Duplicate(first))],
            "a known key names the first mail"
        );
        assert_gone(&*spool, id).await;
    }

    let claim = claim_one(&*spool, start()).await;
    settle(&*spool, vec![claim], start(), delivered(start())).await;
    let later = keyed().new_mail();
    assert_eq!(
        spool.put(vec![later]).await,
        [Ok(PutResult::Duplicate(first))],
        "a key outlasts its mail's delivery"
    );

    let unkeyed = vec![draft().new_mail(), draft().new_mail()];
    put_all(&*spool, unkeyed).await;
    audit(&*spool, start()).await;
}

pub async fn the_same_key_with_other_content_is_refused(bench: &dyn Bench) {
    let spool = open(bench, "other-content").await;
    let first = put(
        &*spool,
        Draft {
            key: Some("order-42"),
            fingerprint: 7,
            ..draft()
        },
    )
    .await;

    let other = Draft {
        key: Some("order-42"),
        fingerprint: 8,
        ..draft()
    }
    .new_mail();
    let id = other.manifest.id;

    assert_eq!(
        spool.put(vec![other]).await,
        [Err(SpoolError::KeyReused(first))],
        "a key that belongs to other content is refused, and the first mail is named"
    );

    assert_gone(&*spool, id).await;
    put(
        &*spool,
        Draft {
            key: Some("order-4"),
            fingerprint: 8,
            ..draft()
        },
    )
    .await;

    put(
        &*spool,
        Draft {
            key: Some("order-42 "),
            fingerprint: 8,
            ..draft()
        },
    )
    .await;

    audit(&*spool, start()).await;
}

pub async fn a_key_belongs_to_whoever_handed_the_mail_in(bench: &dyn Bench) {
    let spool = open(bench, "keys_of_many").await;
    let put = async |submitter: &Submitter, fingerprint| {
        let mut new_mail = Draft {
            key: Some("order-42"),
            fingerprint,
            ..draft()
        }
        .new_mail();
        new_mail.manifest.submitter = Some(submitter.clone());
        let id = new_mail.manifest.id;
        (id, spool.put(vec![new_mail]).await.remove(0))
    };

    let all = [
        Submitter::Local,
        Submitter::token("app"),
        Submitter::user("app"),
        Submitter::token("shop"),
    ];

    let mut own = Vec::new();
    for one in &all {
        let (id, stored) = put(one, 7).await;
        assert_eq!(stored, Ok(PutResult::Stored), "{one} learns of no other");
        let record = get(&*spool, id).await;
        assert_eq!(record.manifest.submitter.as_ref(), Some(one));
        own.push(id);
    }

    for (one, own) in all.iter().zip(own) {
        assert_eq!(put(one, 7).await.1, Ok(PutResult::Duplicate(own)), "{one}");
        let reused = Err(SpoolError::KeyReused(own));
        assert_eq!(put(one, 8).await.1, reused, "{one}");
    }

    audit(&*spool, start()).await;
}

pub async fn one_key_put_by_many_at_once_is_one_mail(bench: &dyn Bench) {
    let spool = open(bench, "key-race").await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let spool = spool.clone();
        racers.spawn(async move {
            let new_mail = Draft {
                key: Some("race"),
                ..draft()
            }
            .new_mail();
            (
                new_mail.manifest.id,
                spool
                    .put(vec![new_mail])
                    .await
                    .remove(0)
                    .expect("a put is answered"),
            )
        });
    }

    let results = racers.join_all().await;
    let stored: Vec<_> = results
        .iter()
        .filter(|(_, put)| *put == PutResult::Stored)
        .map(|(id, _)| *id)
        .collect();

    assert_eq!(stored.len(), 1, "of many puts with one key, one is stored");
    let duplicates = results
        .iter()
        .filter(|(_, put)| *put == PutResult::Duplicate(stored[0]))
        .count();

    assert_eq!(duplicates, 15, "all others are told the one that was");
    audit(&*spool, start()).await;
}

pub async fn a_key_is_remembered_while_its_mail_is_pending_and_forgotten_after_its_time(
    bench: &dyn Bench,
) {
    let spool = open(bench, "key-time").await;
    let keyed = |accepted_at| Draft {
        key: Some("otp"),
        accepted_at,
        due: accepted_at,
        ..draft()
    };
    let first = put(&*spool, keyed(start())).await;

    let before = start() + hours(1);
    sweep(&*spool, before).await;
    let again = spool.put(vec![keyed(before).new_mail()]).await;
    assert_eq!(
        again,
        [Ok(PutResult::Duplicate(first))],
        "a key is remembered for its time"
    );

    let after = start() + hours(3);
    sweep(&*spool, after).await;
    let again = spool.put(vec![keyed(after).new_mail()]).await;
    assert_eq!(
        again,
        [Ok(PutResult::Duplicate(first))],
        "a key is remembered while its mail is pending, its time over"
    );

    let claim = claim_one(&*spool, after).await;
    settle(&*spool, vec![claim], after, delivered(after)).await;
    let end = start() + hours(6);
    sweep(&*spool, end).await;

    let second = put(&*spool, keyed(end)).await;
    let again = spool.put(vec![keyed(end).new_mail()]).await;
    assert_eq!(
        again,
        [Ok(PutResult::Duplicate(second))],
        "a forgotten key is free, and then belongs to the new mail"
    );

    let pruned = start() + hours(7) + ms(1);
    sweep(&*spool, pruned).await;
    assert_gone(&*spool, first).await;

    let again = spool.put(vec![keyed(pruned).new_mail()]).await;
    assert_eq!(
        again,
        [Ok(PutResult::Duplicate(second))],
        "the end of a mail does not take a key that is another's by now"
    );

    audit(&*spool, pruned).await;
}

pub async fn a_put_that_nobody_waits_for_is_whole_or_not_there(bench: &dyn Bench) {
    let spool = open(bench, "unwaited-put").await;
    for size in [100, 1024 * 1024] {
        let new_mail = Draft {
            body: noise(size),
            to: vec![("x@example.org".into(), "elsewhere")],
            ..draft()
        }
        .new_mail();
        let id = new_mail.manifest.id;
        let answered = spool.put(vec![new_mail]).now_or_never();
        put(
            &*spool,
            Draft {
                to: vec![("y@example.org".into(), "elsewhere")],
                ..draft()
            },
        )
        .await;
        let record = spool.get(id).await.expect("readable");
        let body = spool.body(id).await.expect("readable");
        assert!(
            answered.is_none() || record.is_some(),
            "what was answered is there"
        );
        match record {
            Some(_) => assert!(
                body == Some(noise(size)),
                "a mail that is there has its whole body"
            ),
            None => assert_eq!(body, None, "a mail that is not there has no body"),
        }
    }

    let mut anything = request(10, start());
    anything.routes = vec![Route::over(["elsewhere"])];
    for claim in claim(&*spool, anything).await {
        let whole = claim.body.len() as u64 == claim.manifest.size;
        assert!(whole, "what is handed out is whole");
    }

    audit(&*spool, start()).await;
}
