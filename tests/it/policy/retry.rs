//! What becomes of a mail after each kind of answer, and when it is tried again.

use std::time::Duration;

use postrider::delivery::Phase;
use postrider::transport::TimeOuts;
use postrider::{Clock, Dispatcher, Drain, MailStatus, RetryPolicy, minutes, seconds};

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, TestSpool, becomes, engine, mail, mail_to,
    relay_at, steady, submit,
};

#[tokio::test]
async fn a_refusal_is_judged_by_its_code_and_recorded_with_its_phase() {
    let phases = [
        (Step::Mail, Phase::MailFrom),
        (Step::Rcpt, Phase::RcptTo),
        (Step::Data, Phase::Data),
        (Step::FinalDot, Phase::FinalDot),
    ];

    for (step, phase) in phases {
        for (code, text, state) in [
            (451, "4.7.1 not now", "deferred"),
            (554, "5.7.1 never", "dead"),
        ] {
            let server = FakeSmtp::builder()
                .at(step, Act::reply(code, text))
                .start()
                .await;
            let postrider = engine(relay_at(&server), &Clock::fake())
                .start()
                .await
                .unwrap();
            let id = submit(&postrider, mail("ada@example.org")).await;
            let status = becomes(&postrider, id, state).await;
            let delivery = &status.deliveries[0];
            let attempt = &delivery.attempts[0];
            assert_eq!(
                (attempt.phase, attempt.code, attempt.relay.as_str()),
                (phase, Some(code), "primary")
            );
            assert_eq!(attempt.enhanced.as_deref(), Some(&text[..5]));
            assert_eq!(attempt.text, &text[6..]);
            assert_eq!(
                (delivery.attempts.len(), delivery.attempts_counted),
                (1, u32::from(code == 451))
            );
            assert_eq!(
                delivery.reason.map(|reason| reason.as_str()),
                (code == 554).then_some("rejected")
            );
        }
    }
}

#[tokio::test]
async fn a_relay_that_breaks_off_costs_the_mail_a_wait_and_no_attempt() {
    let brief = TimeOuts::all(Duration::from_millis(100));
    for (step, phase) in [(Step::Rcpt, Phase::RcptTo), (Step::Data, Phase::Data)] {
        for act in [
            Act::Cut,
            Act::Hang,
            Act::ReplyThenCut(421, "4.4.2 going down".into()),
        ] {
            let server = FakeSmtp::builder()
                .rule(Rule::at(step).first(1).act(act.clone()))
                .start()
                .await;
            let clock = Clock::fake();
            let postrider = engine(relay_at(&server).timeouts(brief), &clock)
                .start()
                .await
                .unwrap();
            let id = submit(&postrider, mail("ada@example.org")).await;
            let status = becomes(&postrider, id, "deferred").await;
            let delivery = &status.deliveries[0];
            assert_eq!(delivery.attempts[0].phase, phase, "{act:?}");
            assert_eq!(
                (delivery.attempts.len(), delivery.attempts_counted),
                (1, 0),
                "{step:?} {act:?}"
            );
            clock.advance(seconds(60));
            assert_eq!(
                postrider.wait(id).await.unwrap().state.as_str(),
                "delivered",
                "{step:?} {act:?}"
            );
            assert_eq!(server.accepted(), 1);
        }
    }
}

#[tokio::test]
async fn recipients_of_one_mail_each_have_their_own_verdict() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bob@")
                .first(1)
                .act(Act::reply(450, "4.2.1 mailbox busy")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("carl@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();

    let three = mail_to("ada@example.org")
        .to("bob@example.org")
        .to("carl@example.org")
        .build()
        .unwrap();

    let id = submit(&postrider, three).await;
    let status = becomes(&postrider, id, "deferred").await;
    let states: Vec<&str> = status
        .deliveries
        .iter()
        .map(|delivery| delivery.state.as_str())
        .collect();

    assert_eq!(states, ["delivered", "deferred", "dead"]);
    assert_eq!(status.finished_at, None);
    clock.advance(seconds(60));

    let end = postrider.wait(id).await.unwrap();
    assert_eq!(end.state.as_str(), "partial");
    assert!(end.finished_at.is_some());
    let sent: Vec<Vec<String>> = server
        .mails()
        .into_iter()
        .map(|mail| mail.recipients)
        .collect();

    assert_eq!(
        sent,
        [["ada@example.org"], ["bob@example.org"]],
        "nobody gets it twice"
    );
}

#[tokio::test]
async fn the_schedule_is_walked_until_the_attempts_are_used_up() {
    let server = FakeSmtp::builder()
        .at(Step::Rcpt, Act::reply(450, "4.2.1 busy"))
        .start()
        .await;
    let clock = Clock::fake();
    let policy = RetryPolicy {
        max_attempts: Some(10),
        ..steady()
    };

    let postrider = engine(relay_at(&server), &clock)
        .retry(policy)
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail("ada@example.org")).await;

    let mut waits = Vec::new();
    for _ in 1..10 {
        told.first("deferred").await;
        let delivery = postrider.status(id).await.unwrap().deliveries.remove(0);
        let wait = delivery.next_attempt_at.unwrap().since(clock.now());
        waits.push(wait.as_secs());
        // A moment early is too early.
        clock.advance(wait - Duration::from_millis(1));
        assert_eq!(
            postrider.status(id).await.unwrap().state.as_str(),
            "deferred"
        );
        clock.advance(Duration::from_millis(1));
    }

    assert_eq!(waits, [60, 120, 240, 480, 900, 1800, 3600, 3600, 3600]);
    let end = postrider.wait(id).await.unwrap();
    assert_eq!(end.deliveries[0].reason.unwrap().as_str(), "exhausted");
    assert_eq!(
        (
            end.deliveries[0].attempts.len(),
            end.deliveries[0].attempts_counted
        ),
        (10, 10)
    );
}

#[tokio::test]
async fn attempts_are_counted_over_a_restart() {
    let server = FakeSmtp::builder()
        .at(Step::Data, Act::reply(451, "4.3.0 try later"))
        .start()
        .await;
    let (clock, dir) = (Clock::fake(), tempfile::tempdir().unwrap());
    let policy = RetryPolicy {
        max_attempts: Some(3),
        ..steady()
    };

    let start = || {
        engine(relay_at(&server), &clock)
            .retry(policy.clone())
            .test_spool_in(dir.path())
            .start()
    };

    let first: Dispatcher = start().await.unwrap();
    let id = submit(&first, mail("ada@example.org")).await;
    becomes(&first, id, "deferred").await;
    clock.advance(seconds(60));
    crate::common::eventually("a second attempt", async || {
        first.status(id).await.unwrap().deliveries[0].attempts_counted == 2
    })
    .await;

    assert!(first.shutdown(Drain::within(seconds(5))).await.unwrap());
    let second = start().await.unwrap();
    let delivery = second.status(id).await.unwrap().deliveries.remove(0);
    assert_eq!((delivery.attempts.len(), delivery.attempts_counted), (2, 2));
    assert_eq!(
        delivery.next_attempt_at.unwrap().since(clock.now()),
        seconds(120)
    );

    clock.advance(seconds(120));
    let end = second.wait(id).await.unwrap();
    assert_eq!(end.deliveries[0].reason.unwrap().as_str(), "exhausted");
    assert_eq!(end.deliveries[0].attempts.len(), 3);
}

#[tokio::test]
async fn what_failed_together_is_not_tried_together() {
    let clock = Clock::fake();
    let scripted = ScriptedRelay::free();
    scripted.answer(|_| {
        postrider::delivery::Outcome::Deferred(
            Phase::Data,
            postrider::delivery::Reply::new(451, "no"),
        )
    });

    let postrider = engine(scripted.relay(), &clock)
        .retry(RetryPolicy::default())
        .start()
        .await
        .unwrap();

    let mut due = Vec::new();
    for n in 0..20 {
        let id = submit(&postrider, mail(&format!("user{n}@example.org"))).await;
        scripted.begins(n + 1).await;
        crate::common::eventually("tried", async || {
            !postrider.status(id).await.unwrap().deliveries[0]
                .attempts
                .is_empty()
        })
        .await;
        due.extend(postrider.status(id).await.unwrap().deliveries[0].next_attempt_at);
    }

    assert!(due.iter().all(|at| {
        let wait = at.since(clock.now());
        (seconds(30)..=minutes(1)).contains(&wait)
    }));
    due.sort();
    due.dedup();

    assert!(due.len() > 10, "only {} different times", due.len());
}

#[tokio::test]
async fn a_mail_in_doubt_is_sent_again_and_the_try_counts() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::FinalDot).first(1))
        .start()
        .await;
    let clock = Clock::fake();

    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;
    let status = becomes(&postrider, id, "deferred").await;
    assert_eq!(status.deliveries[0].attempts[0].phase, Phase::FinalDot);

    assert_eq!(
        (
            status.deliveries[0].attempts[0].code,
            status.deliveries[0].attempts_counted
        ),
        (None, 1)
    );

    clock.advance(seconds(60));
    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );

    assert_eq!(server.transactions().len(), 2);
}

#[tokio::test]
async fn a_mail_that_is_deferred_throughout_lives_its_two_days() {
    let server = FakeSmtp::builder()
        .at(Step::Rcpt, Act::reply(450, "4.2.1 busy"))
        .start()
        .await;

    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock)
        .retry(RetryPolicy::default())
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);
    let (begin, two_days) = (clock.now(), minutes(2 * 24 * 60));
    let id = submit(&postrider, mail("ada@example.org")).await;

    let mut tries = 0;
    let end = loop {
        told.first("attempted").await;
        tries += 1;
        let status = steady_state(&postrider, id).await;
        match status.deliveries[0].next_attempt_at {
            Some(due) if !status.state.is_final() => clock.advance(due.since(clock.now())),
            _ => break status,
        }
    };

    assert!((48..110).contains(&tries), "{tries} tries in two days");
    assert_eq!(end.deliveries[0].reason.unwrap().as_str(), "expired");

    // It ends when no further try would come in time.
    let lived = clock.now().since(begin);
    assert!(lived + minutes(61) >= two_days, "{lived:?}");
}

/// The status once the last try is recorded.
async fn steady_state(postrider: &postrider::Dispatcher, id: postrider::MailId) -> MailStatus {
    loop {
        let status = postrider.status(id).await.unwrap();
        if status.state.is_final() || status.state.as_str() == "deferred" {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn the_schedules_of_other_dispatchers_are_one_setting_each() {
    let minutes_apart = vec![60, 120, 240, 480, 900];
    let cases = [
        (minutes_apart.clone(), 6, minutes_apart.clone()),
        (
            minutes_apart.clone(),
            11,
            vec![60, 120, 240, 480, 900, 900, 900, 900, 900, 900],
        ),
        (vec![2, 4, 6], 3, vec![2, 4]),
    ];

    for (schedule, most, expected) in cases {
        let server = FakeSmtp::builder()
            .at(Step::Rcpt, Act::reply(450, "4.2.1 busy"))
            .start()
            .await;
        let clock = Clock::fake();
        let policy = RetryPolicy {
            schedule: schedule.into_iter().map(seconds).collect(),
            max_attempts: Some(most),
            ..steady()
        };
        let postrider = engine(relay_at(&server), &clock)
            .retry(policy)
            .start()
            .await
            .unwrap();
        let mut told = EventLog::by(&postrider);
        let id = submit(&postrider, mail("ada@example.org")).await;
        let mut waits = Vec::new();
        for _ in 1..most {
            told.first("deferred").await;
            let delivery = postrider.status(id).await.unwrap().deliveries.remove(0);
            let wait = delivery.next_attempt_at.unwrap().since(clock.now());
            waits.push(wait.as_secs());
            clock.advance(wait);
        }
        assert_eq!(waits, expected);
        let end = postrider.wait(id).await.unwrap();
        assert_eq!(end.deliveries[0].reason.unwrap().as_str(), "exhausted");
        assert_eq!(end.deliveries[0].attempts_counted, most);
    }
}
