//! What users see of a mail: events in order and without silent gaps, a status with every attempt,
//! the end of waiting for it.

use std::time::Duration;

use postrider::{Clock, Drain, Error, EventItem, EventKind, hours, minutes, seconds};

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, TestSpool, a_moment, engine, mail, mail_to,
    relay_at, submit,
};

#[tokio::test]
async fn events_report_a_mails_steps_in_order() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .first(1)
                .act(Act::reply(450, "4.2.1 mailbox busy")),
        )
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail("ada@example.org")).await;
    let mut story = told.until("deferred").await;
    let EventKind::Deferred { next_attempt_at } = story.last().unwrap().kind else {
        panic!("{story:?}")
    };

    assert_eq!(next_attempt_at, clock.now() + seconds(60));
    clock.advance(seconds(60));
    story.extend(told.until("delivered").await);

    let kinds: Vec<&str> = story.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "accepted",
            "attempted",
            "deferred",
            "attempted",
            "delivered"
        ]
    );

    let numbers: Vec<u64> = story.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    for event in &story {
        assert_eq!(event.mail, Some(id));
        let is_of_a_delivery = event.kind != EventKind::Accepted;
        assert_eq!(
            event.recipient.as_ref().map(|to| to.as_str()),
            is_of_a_delivery.then_some("ada@example.org")
        );
        assert_eq!(
            event.relay.as_deref(),
            is_of_a_delivery.then_some("primary")
        );
    }

    let EventKind::Attempted { attempt } = &story[1].kind else {
        panic!("{story:?}")
    };
    assert_eq!(
        (attempt.code, attempt.enhanced.as_deref()),
        (Some(450), Some("4.2.1"))
    );

    let mut again = EventLog::after(&postrider, 2);
    let kinds: Vec<String> = again
        .until("delivered")
        .await
        .iter()
        .map(|e| e.kind.as_str().to_owned())
        .collect();

    assert_eq!(
        kinds,
        ["deferred", "attempted", "delivered"],
        "and can be asked for again from any number"
    );
}

#[tokio::test]
async fn a_reader_that_is_slow_reads_from_the_spool_what_is_no_longer_in_memory() {
    let scripted = ScriptedRelay::free();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();
    let mut slow = EventLog::by(&postrider);

    let mails: Vec<_> = (0..3000)
        .map(|n| mail(&format!("user{n}@example.org")))
        .collect();
    for receipt in postrider.submit_many(mails).await {
        receipt.unwrap();
    }
    postrider.wait_idle().await;
    for seq in 1..=9000 {
        assert!(matches!(slow.item().await, EventItem::Event(event) if event.seq == seq));
    }

    let mut late = EventLog::after(&postrider, 0);
    for seq in 1..=9000 {
        assert!(matches!(late.item().await, EventItem::Event(event) if event.seq == seq));
    }
}

#[tokio::test]
async fn events_hold_over_a_restart_and_their_numbers_go_on() {
    let scripted = ScriptedRelay::free();
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fake();
    let builder = || engine(scripted.relay(), &clock).test_spool_in(dir.path());
    let postrider = builder().start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let tagged = mail_to("ada@example.org").tag("otp").idempotency_key("k-1");
    let first = submit(&postrider, tagged.build().unwrap()).await;

    let before = told.until("delivered").await;
    assert!(before.iter().all(|event| event.tags == ["otp"]));
    assert!(
        before
            .iter()
            .all(|event| event.key.as_deref() == Some("k-1"))
    );

    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(postrider);

    let postrider = builder().start().await.unwrap();
    let mut again = EventLog::after(&postrider, 0);
    assert_eq!(
        again.until("delivered").await,
        before,
        "what was told is told again"
    );

    let second = submit(&postrider, mail("bob@example.org")).await;
    let after = again.until("delivered").await;
    let numbers: Vec<u64> = after.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [4, 5, 6]);
    assert!(after.iter().all(|event| event.mail == Some(second)));

    let of_first: Vec<_> = {
        let mut stream = EventLog::of(&postrider, first, 0);
        stream.until("delivered").await
    };

    assert_eq!(of_first, before, "one mail's story is found by its record");
}

#[tokio::test]
async fn a_named_reader_reads_again_what_it_was_not_done_with() {
    let scripted = ScriptedRelay::free();
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fake();
    let builder = || engine(scripted.relay(), &clock).test_spool_in(dir.path());
    let postrider = builder().start().await.unwrap();
    let mut reader = postrider.journal().reader("hook", None).await.unwrap();

    submit(&postrider, mail("ada@example.org")).await;
    postrider.wait_idle().await;
    let mut numbers = Vec::new();
    while numbers.len() < 3 {
        let page = reader.next().await.unwrap();
        numbers.extend(page.events.iter().map(|event| event.seq));
    }

    assert_eq!(numbers, [1, 2, 3]);
    let kept = vec![(b"sum".to_vec(), Some(b"2".to_vec()))];
    reader.advance_with(2, kept).await.unwrap();
    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(postrider);

    let postrider = builder().start().await.unwrap();
    let mut reader = postrider.journal().reader("hook", None).await.unwrap();
    assert_eq!(reader.done(), 2);

    let page = reader.next().await.unwrap();
    assert_eq!(page.events[0].seq, 3, "it goes on where it was done");
    let kept = reader.kept(b"a".to_vec(), b"z".to_vec(), 10).await.unwrap();
    assert_eq!(kept, [(b"sum".to_vec(), b"2".to_vec())]);
    postrider.journal().forget("hook").await.unwrap();

    assert_eq!(postrider.journal().readers().await.unwrap(), []);
}

#[tokio::test]
async fn a_status_shows_every_attempt() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::FinalDot)
                .first(1)
                .act(Act::reply(452, "4.3.1 mail system full")),
        )
        .rule(Rule::at(Step::Rcpt).first(1).act(Act::Cut))
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let accepted_at = clock.now();
    let builder = mail_to("ada@example.org")
        .tag("otp")
        .idempotency_key("otp-42")
        .expires_in(hours(1));
    let mail = builder.build().unwrap();
    let (message_id, message) = (mail.message_id().to_owned(), mail.message().clone());
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail).await;

    for wait in [60, 120] {
        told.first("deferred").await;
        clock.advance(seconds(wait));
    }

    let status = postrider.wait(id).await.unwrap();
    assert_eq!(
        (status.created_at, status.finished_at),
        (accepted_at, Some(clock.now()))
    );

    assert_eq!(
        (status.expires_at, status.message_id),
        (accepted_at + hours(1), message_id)
    );

    assert_eq!(
        (status.subject.as_str(), status.tags[0].as_str()),
        ("Your code", "otp")
    );

    assert_eq!(
        (status.idempotency_key.as_deref(), status.size),
        (Some("otp-42"), message.len() as u64)
    );

    let delivery = &status.deliveries[0];
    assert_eq!(
        (delivery.relays.as_slice(), delivery.next_attempt_at),
        (["primary".to_owned()].as_slice(), None)
    );

    let attempts: Vec<(u64, &str, Option<u16>, Option<&str>)> = delivery
        .attempts
        .iter()
        .map(|a| {
            (
                a.at.since(accepted_at).as_secs(),
                a.phase.as_str(),
                a.code,
                a.enhanced.as_deref(),
            )
        })
        .collect();

    let expected = [
        (0, "rcpt_to", None, None),
        (60, "final_dot", Some(452), Some("4.3.1")),
        (180, "final_dot", Some(250), Some("2.0.0")),
    ];

    assert_eq!(attempts, expected);
    assert!(
        !delivery.attempts[0].text.is_empty(),
        "what happened instead of an answer"
    );

    assert_eq!(delivery.attempts[1].text, "mail system full");
    assert_eq!(postrider.raw(id).await.unwrap(), message);
    assert!(
        server
            .transactions()
            .iter()
            .all(|sent| sent.message == message),
        "every try sends the same bytes"
    );
}

#[tokio::test]
async fn a_mail_is_sent_at_the_time_it_is_meant_for() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let at = clock.now() + minutes(5);
    let id = submit(
        &postrider,
        mail_to("ada@example.org").send_at(at).build().unwrap(),
    )
    .await;

    assert_eq!(
        postrider.status(id).await.unwrap().deliveries[0].next_attempt_at,
        Some(at)
    );

    clock.advance(minutes(5) - Duration::from_millis(1));
    a_moment().await;
    assert_eq!(
        postrider.status(id).await.unwrap().state.as_str(),
        "scheduled"
    );

    assert!(scripted.begun().is_empty());
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        postrider.wait(id).await.unwrap().deliveries[0].attempts[0].at,
        at
    );

    let past = clock.now() + Duration::ZERO;
    clock.advance(minutes(1));
    let id = submit(
        &postrider,
        mail_to("bob@example.org").send_at(past).build().unwrap(),
    )
    .await;

    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered",
        "a time gone by is now"
    );
}

#[tokio::test]
async fn everybody_who_waits_is_notified_and_nobody_waits_for_an_engine_that_has_stopped() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;

    scripted.begins(1).await;
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let postrider = postrider.clone();
            tokio::spawn(async move { postrider.wait(id).await })
        })
        .collect();

    a_moment().await;
    scripted.let_through(1);
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().unwrap().state.as_str(), "delivered");
    }

    let never = submit(
        &postrider,
        mail_to("bob@example.org").delay(hours(1)).build().unwrap(),
    )
    .await;
    let waiting = tokio::spawn({
        let postrider = postrider.clone();
        async move { postrider.wait(never).await }
    });

    a_moment().await;
    assert!(postrider.shutdown(Drain::within(seconds(5))).await.unwrap());
    assert!(matches!(
        waiting.await.unwrap(),
        Err(Error::Stopped(_) | Error::Spool(_))
    ));

    assert!(matches!(
        postrider.submit(mail("carl@example.org")).await,
        Err(Error::Stopped(_))
    ));
}
