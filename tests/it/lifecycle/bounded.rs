//! A spool that may keep so many bytes: what ended first goes before its time, then accepting says
//! that it is full.

use std::time::Duration;

use postrider::spool::sled;
use postrider::{Clock, Error, Mail, MailId, Query};

use crate::common::{
    ScriptedRelay, TestSpool, becomes, engine, eventually, mail, mail_to, test_spool::is_of_files,
};

const MAX: u64 = 1024 * 1024;
const TEXT: usize = 50_000;

fn large(n: usize) -> Mail {
    let line = "a line of some length that is repeated\r\n";
    let text = line.repeat(TEXT / line.len());
    mail_to(&format!("user{n}@example.org"))
        .text(text)
        .build()
        .unwrap()
}

#[tokio::test]
async fn what_ended_first_goes_before_its_time_and_nothing_is_refused_for_it() {
    if is_of_files("the bytes that a spool may have") {
        return;
    }

    let home = tempfile::tempdir().unwrap();
    let scripted = ScriptedRelay::held();
    scripted.let_go();
    let builder = engine(scripted.relay(), &Clock::fake())
        .test_spool_in(home.path())
        .max_size(MAX);
    let postrider = builder.start().await.unwrap();

    let mut ids: Vec<MailId> = Vec::new();
    for n in 0..80 {
        let receipt = postrider
            .try_submit(large(n))
            .await
            .expect("there is space");
        postrider.wait(receipt.id).await.unwrap();
        ids.push(receipt.id);
    }

    let kept = postrider
        .list(Query {
            limit: 1000,
            ..Query::default()
        })
        .await
        .unwrap()
        .mails;

    let kept: Vec<MailId> = kept.iter().map(|mail| mail.id).collect();
    assert!(
        (10..=20).contains(&kept.len()),
        "{} of 80 are kept",
        kept.len()
    );

    let newest = &ids[ids.len() - kept.len()..];
    assert!(
        newest.iter().all(|id| kept.contains(id)),
        "the oldest went first"
    );

    // What was counted is what is there, also after a restart.
    postrider
        .shutdown(postrider::Drain::within(postrider::seconds(10)))
        .await
        .unwrap();
    drop(postrider);

    let verified = sled::verify(home.path()).unwrap();
    assert_eq!(
        (verified.mails, verified.problems),
        (kept.len() as u64, vec![])
    );
}

#[tokio::test]
async fn the_keys_of_mail_that_is_gone_do_not_fill_it() {
    if is_of_files("the bytes that a spool may have") {
        return;
    }

    let scripted = ScriptedRelay::held();
    scripted.let_go();
    let builder = engine(scripted.relay(), &Clock::fake()).max_size(MAX / 4);
    let postrider = builder.start().await.unwrap();

    // A key takes some 128 bytes, so that 2,048 would be all of it.
    let keyed = |n: usize| {
        mail_to(&format!("user{n}@example.org"))
            .idempotency_key(format!("order-{n}"))
            .build()
            .unwrap()
    };
    let mut last = None;
    for batch in 0..120 {
        let mails = (batch * 25..(batch + 1) * 25).map(keyed).collect();
        for receipt in postrider.submit_many(mails).await {
            let receipt = receipt.unwrap_or_else(|error| panic!("batch {batch}: {error}"));
            postrider.wait(receipt.id).await.unwrap();
            last = Some(receipt);
        }
    }

    let again = postrider.submit(keyed(2999)).await.unwrap();
    assert_eq!(
        (again.id, again.duplicate),
        (last.unwrap().id, true),
        "what came lately is known"
    );
    let oldest = postrider.submit(keyed(0)).await.unwrap();
    assert!(!oldest.duplicate, "the oldest key went first");
}

#[tokio::test]
async fn where_all_of_it_still_waits_accepting_says_full_until_something_has_ended() {
    if is_of_files("the bytes that a spool may have") {
        return;
    }

    let scripted = ScriptedRelay::held();
    let builder = engine(scripted.relay(), &Clock::fake()).max_size(MAX);
    let hasty = builder
        .accept_timeout(Duration::from_millis(10))
        .start()
        .await
        .unwrap();

    let mut accepted = Vec::new();
    let full = loop {
        match hasty.try_submit(large(accepted.len())).await {
            Ok(receipt) => accepted.push(receipt.id),
            Err(error) => break error,
        }
    };

    assert!(matches!(full, Error::SpoolFull { max: MAX, .. }), "{full}");
    assert!(full.to_string().contains("spool.max_size"), "{full}");
    assert!(
        (12..=20).contains(&accepted.len()),
        "{} were accepted",
        accepted.len()
    );

    let too_late = hasty.submit(large(99)).await.unwrap_err();
    assert!(matches!(too_late, Error::SpoolFull { .. }), "{too_late}");
    let answers = hasty.submit_many(vec![large(99), large(99)]).await;
    assert!(
        answers
            .iter()
            .all(|answer| matches!(answer, Err(Error::SpoolFull { .. })))
    );

    while hasty.try_submit(mail("small@example.org")).await.is_ok() {}
    let health = hasty.health();
    assert!(!health.ready && health.reason.unwrap().contains("max_size"));

    scripted.let_go();
    for id in &accepted {
        becomes(&hasty, *id, "delivered").await;
    }
    eventually("space", async || hasty.health().ready).await;
    hasty
        .try_submit(large(99))
        .await
        .expect("what has ended goes");

    assert!(hasty.status(accepted[0]).await.is_err(), "the oldest went");
    hasty
        .status(*accepted.last().unwrap())
        .await
        .expect("the newest stays");
}
