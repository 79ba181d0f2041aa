//! A user takes a mail back: possible wherever it waits, and until its final dot is written; said
//! to be too late after.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use postrider::delivery::{Outcome, Phase, Reply};
use postrider::{Clock, Dispatcher, Error, MailId, Match, minutes};
use tokio::sync::Notify;

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, a_moment, becomes, engine, eventually,
    mail, mail_to, relay_at, submit,
};

#[tokio::test]
async fn a_scheduled_mail_is_cancelled_and_never_sent() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .delay(minutes(5))
            .build()
            .unwrap(),
    )
    .await;

    let status = postrider.cancel(id).await.unwrap();
    assert_eq!(status.state.as_str(), "cancelled");
    assert!(status.finished_at.is_some());
    assert_eq!(told.first("cancelled").await.mail, Some(id));
    clock.advance(minutes(10));
    postrider.wait_idle().await;

    assert!(scripted.begun().is_empty());
    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "cancelled",
        "whoever waits for it is told"
    );
}

#[tokio::test]
async fn a_queued_mail_is_cancelled_and_the_others_are_not() {
    let scripted = ScriptedRelay::free();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    let unwanted = submit(&postrider, mail("ada@example.org")).await;
    let wanted = submit(&postrider, mail("bob@example.org")).await;
    assert_eq!(
        postrider.cancel(unwanted).await.unwrap().state.as_str(),
        "cancelled"
    );

    postrider.resume("primary").await.unwrap();
    postrider.wait(wanted).await.unwrap();
    assert_eq!(scripted.begun(), ["bob@example.org"]);
}

#[tokio::test]
async fn a_deferred_mail_is_cancelled_and_keeps_its_attempts() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.answer(|_| Outcome::Deferred(Phase::RcptTo, Reply::new(450, "4.2.1 busy")));

    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;
    becomes(&postrider, id, "deferred").await;

    let status = postrider.cancel(id).await.unwrap();
    assert_eq!(
        (status.state.as_str(), status.deliveries[0].attempts.len()),
        ("cancelled", 1)
    );

    clock.advance(minutes(5));
    postrider.wait_idle().await;
    assert_eq!(scripted.begun().len(), 1);
}

#[tokio::test]
async fn a_mail_in_a_senders_batch_is_cancelled_before_its_turn() {
    let scripted = ScriptedRelay::held();
    let postrider = engine(scripted.relay().connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    let first = submit(&postrider, mail("first@example.org")).await;
    let second = submit(&postrider, mail("second@example.org")).await;
    let third = submit(&postrider, mail("third@example.org")).await;

    postrider.resume("primary").await.unwrap();
    scripted.begins(1).await;
    assert_eq!(
        postrider.status(second).await.unwrap().state.as_str(),
        "sending",
        "it is in the same batch"
    );

    let cancelling = tokio::spawn({
        let postrider = postrider.clone();
        async move { postrider.cancel(second).await }
    });

    a_moment().await;
    scripted.let_go();
    assert_eq!(
        cancelling.await.unwrap().unwrap().state.as_str(),
        "cancelled"
    );

    for id in [first, third] {
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered"
        );
    }

    assert_eq!(scripted.begun(), ["first@example.org", "third@example.org"]);
}

/// A server that takes its time over the first final dot, and tells when it has come.
async fn slow_to_answer_the_first_dot() -> (FakeSmtp, Arc<Notify>) {
    let came = Arc::new(Notify::new());
    let tell = came.clone();
    let rule = Rule::at(Step::FinalDot)
        .first(1)
        .act(Act::Delay(Duration::from_millis(80)));
    let rule = rule.when(move |_| {
        tell.notify_one();
        true
    });
    (FakeSmtp::builder().rule(rule).start().await, came)
}

#[tokio::test]
async fn a_mail_begun_behind_another_is_cancelled_before_its_turn() {
    let (server, dot) = slow_to_answer_the_first_dot().await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    let first = submit(&postrider, mail("first@example.org")).await;
    let second = submit(&postrider, mail("second@example.org")).await;
    postrider.resume("primary").await.unwrap();
    dot.notified().await;

    assert_eq!(
        postrider.cancel(second).await.unwrap().state.as_str(),
        "cancelled"
    );

    assert_eq!(
        postrider.wait(first).await.unwrap().state.as_str(),
        "delivered"
    );

    server.open_connections_fall_to(0).await;
    let arrived: Vec<String> = server
        .transactions()
        .into_iter()
        .flat_map(|mail| mail.recipients)
        .collect();

    assert_eq!(arrived, ["first@example.org"]);
}

#[tokio::test]
async fn a_mail_is_taken_back_until_its_final_dot() {
    let server = FakeSmtp::builder()
        .at(Step::Data, Act::Delay(Duration::from_millis(80)))
        .start()
        .await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();
    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, mail("ada@example.org")).await;

    eventually("DATA", async || {
        server.commands().iter().any(|line| line == "DATA")
    })
    .await;

    let status = postrider.cancel(id).await.unwrap();
    assert_eq!(status.state.as_str(), "cancelled");
    server.open_connections_fall_to(0).await;
    assert!(server.transactions().is_empty(), "no final dot came");
    assert!(
        !server.commands().contains(&"QUIT".to_owned()),
        "QUIT would have been a line of the message"
    );

    let kinds: Vec<&str> = told
        .until("cancelled")
        .await
        .iter()
        .map(|event| event.kind.as_str())
        .collect();

    assert_eq!(kinds, ["accepted", "attempted", "cancelled"]);
    server.behave();
    let next = submit(&postrider, mail("bob@example.org")).await;
    assert_eq!(
        postrider.wait(next).await.unwrap().state.as_str(),
        "delivered",
        "the relay is none the worse for it"
    );

    assert_eq!(postrider.relays().await.unwrap()[0].last_failure, None);
}

#[tokio::test]
async fn after_the_final_dot_it_is_too_late() {
    let (server, dot) = slow_to_answer_the_first_dot().await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;

    dot.notified().await;
    let refused = postrider.cancel(id).await.unwrap_err();
    assert_eq!(
        refused,
        Error::TooLate {
            id,
            state: "delivered"
        }
    );

    assert_eq!(
        refused.to_string(),
        format!("mail {id} is delivered, so it is too late for that")
    );

    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn what_is_left_of_a_mail_is_cancelled() {
    let clock = Clock::fake();
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bob@")
                .act(Act::reply(450, "4.2.1 mailbox busy")),
        )
        .start()
        .await;

    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .to("bob@example.org")
            .build()
            .unwrap(),
    )
    .await;

    becomes(&postrider, id, "deferred").await;
    let status = postrider.cancel(id).await.unwrap();
    let states: Vec<&str> = status
        .deliveries
        .iter()
        .map(|delivery| delivery.state.as_str())
        .collect();

    assert_eq!(
        (status.state.as_str(), states),
        ("partial", vec!["delivered", "cancelled"])
    );
}

#[tokio::test]
async fn an_unknown_mail_cannot_be_cancelled_and_a_cancelled_one_stays_so() {
    let postrider = engine(ScriptedRelay::free().relay(), &Clock::fake())
        .start()
        .await
        .unwrap();

    let unknown = MailId::from_bytes([7; 16]);
    assert_eq!(
        postrider.cancel(unknown).await.unwrap_err(),
        Error::UnknownMail(unknown)
    );

    assert_eq!(
        postrider.retry(unknown).await.unwrap_err(),
        Error::UnknownMail(unknown)
    );

    assert_eq!(
        postrider.status(unknown).await.unwrap_err(),
        Error::UnknownMail(unknown)
    );

    assert_eq!(
        postrider.raw(unknown).await.unwrap_err(),
        Error::UnknownMail(unknown)
    );

    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .delay(minutes(5))
            .build()
            .unwrap(),
    )
    .await;

    for _ in 0..2 {
        assert_eq!(
            postrider.cancel(id).await.unwrap().state.as_str(),
            "cancelled"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_under_way_slow_nobody() {
    const UNDER_WAY: usize = 50;
    let (held, free) = (ScriptedRelay::held(), ScriptedRelay::free());
    let on_held = Match {
        tag: vec!["held".to_owned()],
        ..Match::default()
    };
    let postrider = engine(held.relay().connections(60), &Clock::system())
        .relay(free.named("free"))
        .route(on_held, ["primary"])
        .route(Match::default(), ["free"])
        .start()
        .await
        .unwrap();

    let mut sending = Vec::new();
    for n in 0..UNDER_WAY {
        let mail = mail_to(&format!("held{n}@example.org")).tag("held");
        sending.push(submit(&postrider, mail.build().unwrap()).await);
    }
    held.begins(UNDER_WAY).await;

    let before = a_thousand_take(&postrider).await;
    let cancelling: Vec<_> = sending
        .into_iter()
        .map(|id| {
            let postrider = postrider.clone();
            tokio::spawn(async move { postrider.cancel(id).await })
        })
        .collect();
    a_moment().await;
    let meanwhile = a_thousand_take(&postrider).await;

    println!("a thousand mails: {before:?}, and {meanwhile:?} while 50 are cancelled");
    assert!(cancelling.iter().all(|one| !one.is_finished()));
    assert!(
        meanwhile <= before * 2,
        "{meanwhile:?} instead of {before:?}"
    );
    held.let_go();
}

/// How long it takes to accept and send a thousand mails: the least of several times.
async fn a_thousand_take(postrider: &Dispatcher) -> Duration {
    let mut least = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        let mails = (0..1000).map(|n| mail(&format!("user{n}@example.org")));
        let accepted = join_all(mails.map(|mail| submit(postrider, mail))).await;
        join_all(accepted.into_iter().map(|id| postrider.wait(id))).await;
        least = least.min(began.elapsed());
    }
    least
}
