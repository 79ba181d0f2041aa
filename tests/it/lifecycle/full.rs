//! Backpressure: how many may be pending, who waits for room, and who is told at once.

use std::time::Duration;

use postrider::{Clock, Drain, Error, seconds};

use crate::common::{ScriptedRelay, a_moment, becomes, engine, eventually, mail, mail_to, submit};

#[tokio::test]
async fn a_full_queue_refuses_at_once_where_nobody_wants_to_wait() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .max_pending(2)
        .start()
        .await
        .unwrap();

    submit(
        &postrider,
        mail_to("ada@example.org")
            .to("bob@example.org")
            .build()
            .unwrap(),
    )
    .await;

    let full = postrider
        .try_submit(mail("carl@example.org"))
        .await
        .unwrap_err();

    assert_eq!(full, Error::Full { pending: 2, max: 2 });
    assert!(full.to_string().contains("the queue is full"), "{full}");
    assert!(!postrider.health().ready);
    scripted.let_go();
    eventually("room", async || postrider.health().ready).await;
    postrider
        .try_submit(mail("carl@example.org"))
        .await
        .unwrap();
}

#[tokio::test]
async fn submit_waits_for_room_for_as_long_as_it_may() {
    let scripted = ScriptedRelay::held();
    let builder = engine(scripted.relay(), &Clock::fake()).max_pending(1);
    let patient = builder.accept_timeout(seconds(30)).start().await.unwrap();
    let first = submit(&patient, mail("ada@example.org")).await;
    let waiting = tokio::spawn({
        let patient = patient.clone();
        async move { patient.submit(mail("bob@example.org")).await }
    });

    a_moment().await;
    assert!(!waiting.is_finished());
    scripted.let_through(1);
    patient.wait(first).await.unwrap();

    let second = waiting.await.unwrap().unwrap().id;
    scripted.let_go();
    becomes(&patient, second, "delivered").await;

    let held = ScriptedRelay::held();
    let builder = engine(held.relay(), &Clock::fake()).max_pending(1);
    let hasty = builder
        .accept_timeout(Duration::from_millis(10))
        .start()
        .await
        .unwrap();

    submit(&hasty, mail("ada@example.org")).await;
    assert_eq!(
        hasty.submit(mail("bob@example.org")).await.unwrap_err(),
        Error::Full { pending: 1, max: 1 }
    );
}

#[tokio::test]
async fn submit_may_wait_for_room_for_ever() {
    let scripted = ScriptedRelay::held();
    let builder = engine(scripted.relay(), &Clock::fake()).max_pending(1);
    let patient = builder.accept_timeout(Duration::MAX).start().await.unwrap();
    submit(&patient, mail("ada@example.org")).await;

    let waiting = tokio::spawn({
        let patient = patient.clone();
        async move { patient.submit(mail("bob@example.org")).await }
    });

    a_moment().await;
    assert!(!waiting.is_finished());
    scripted.let_go();

    let second = waiting.await.unwrap().unwrap().id;
    becomes(&patient, second, "delivered").await;
    assert!(
        patient
            .shutdown(Drain::within(Duration::MAX))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn a_batch_waits_for_room_too_and_one_that_may_not_wait_is_asked_to_come_again() {
    let scripted = ScriptedRelay::held();
    let builder = engine(scripted.relay(), &Clock::fake()).max_pending(2);
    let patient = builder.accept_timeout(seconds(30)).start().await.unwrap();
    let mails = |names: &[&str]| names.iter().map(|name| mail(name)).collect::<Vec<_>>();

    let five = [
        "a@x.example",
        "b@x.example",
        "c@x.example",
        "d@x.example",
        "e@x.example",
    ];

    let hasty = patient.try_submit_many(mails(&five)).await;
    let full = hasty[2].as_ref().unwrap_err();
    assert!(full.is_retryable(), "{full}");
    assert!(hasty[1].is_ok());

    let waiting = tokio::spawn({
        let (patient, more) = (patient.clone(), mails(&five[2..]));
        async move { patient.submit_many(more).await }
    });

    a_moment().await;
    assert!(!waiting.is_finished());
    scripted.let_go();
    for answer in waiting.await.unwrap() {
        becomes(&patient, answer.unwrap().id, "delivered").await;
    }
    assert_eq!(scripted.begun().len(), 5);

    let unknown = patient
        .status("0199c0de-0000-7000-8000-000000000001".parse().unwrap())
        .await
        .unwrap_err();

    assert!(!unknown.is_retryable(), "{unknown}");
}

#[tokio::test]
async fn whoever_waits_for_a_mail_may_do_so_for_a_while_only() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;
    let begun = std::time::Instant::now();

    let status = postrider.wait_within(id, Duration::from_millis(200)).await;
    assert!(!status.unwrap().state.is_final());
    assert!(begun.elapsed() >= Duration::from_millis(200));

    scripted.let_go();
    let status = postrider.wait_within(id, seconds(30)).await.unwrap();
    assert_eq!(status.state.as_str(), "delivered");
}

#[tokio::test]
async fn a_batch_is_accepted_as_far_as_there_is_room_each_with_its_own_answer() {
    let scripted = ScriptedRelay::held();
    let builder = engine(scripted.relay(), &Clock::fake())
        .max_pending(3)
        .accept_timeout(Duration::from_millis(10))
        .max_message_size(10_000);
    let postrider = builder.start().await.unwrap();
    let large = mail_to("large@example.org")
        .text("x".repeat(20_000))
        .build()
        .unwrap();

    let mails = vec![
        mail("a@example.org"),
        large,
        mail("b@example.org"),
        mail("c@example.org"),
        mail("d@example.org"),
    ];

    let answers = postrider.submit_many(mails).await;
    assert!(answers[0].is_ok() && answers[2].is_ok() && answers[3].is_ok());
    assert!(
        matches!(&answers[1], Err(Error::Mail(error)) if error.to_string().contains("10000")),
        "{:?}",
        answers[1]
    );

    assert!(matches!(answers[4], Err(Error::Full { .. })));
    scripted.let_go();
    for answer in answers.into_iter().flatten() {
        assert_eq!(
            postrider.wait(answer.id).await.unwrap().state.as_str(),
            "delivered"
        );
    }

    assert_eq!(scripted.begun().len(), 3);
}

#[tokio::test]
async fn many_at_once_do_not_overfill_the_queue() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .max_pending(50)
        .start()
        .await
        .unwrap();

    let offers = (0..200).map(|n| postrider.try_submit(mail(&format!("user{n}@example.org"))));
    let answers = futures::future::join_all(offers).await;
    // While mails are being accepted they may count twice for a moment, so that too few are let in
    // rather than too many.
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();

    assert!((25..=50).contains(&accepted), "{accepted}");
    assert_eq!(postrider.stats().await.unwrap().pending, accepted as u64);
    scripted.let_go();
    postrider.wait_idle().await;
    postrider
        .try_submit(mail("late@example.org"))
        .await
        .unwrap();
}
