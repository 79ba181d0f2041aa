//! A mail that has expired is never sent, wherever it waits; and whoever asks is told that it
//! expired.

use std::time::Duration;

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::{Clock, Dispatcher, Mail, MailStatus, Priority, minutes, seconds};

use crate::common::{
    Act, EventLog, FakeSmtp, Rule, ScriptedRelay, Step, a_moment, as_time_passes, becomes, engine,
    mail, mail_to, relay_at, submit,
};

fn code_to(to: &str) -> Mail {
    mail_to(to)
        .priority(Priority::Critical)
        .expires_in(minutes(5))
        .build()
        .unwrap()
}

fn assert_expired(status: &MailStatus) {
    assert_eq!(status.state.as_str(), "dead");
    assert_eq!(status.deliveries[0].reason.unwrap().as_str(), "expired");
}

async fn engine_on(scripted: &ScriptedRelay, clock: &Clock) -> Dispatcher {
    engine(scripted.relay().connections(1), clock)
        .start()
        .await
        .unwrap()
}

#[tokio::test]
async fn a_scheduled_mail_whose_whole_time_went_by_is_not_sent_late() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine_on(&scripted, &clock).await;
    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .delay(minutes(1))
            .expires_in(minutes(5))
            .build()
            .unwrap(),
    )
    .await;

    assert_eq!(
        postrider.status(id).await.unwrap().state.as_str(),
        "scheduled"
    );

    clock.advance(minutes(5));
    assert_expired(&postrider.wait(id).await.unwrap());
    assert!(scripted.begun().is_empty());
}

#[tokio::test]
async fn a_mail_expires_behind_a_relay_that_is_paused() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    let postrider = engine_on(&scripted, &clock).await;
    postrider.pause("primary").await.unwrap();
    let id = submit(&postrider, code_to("ada@example.org")).await;

    clock.advance(minutes(5) - Duration::from_millis(1));
    a_moment().await;
    assert_eq!(
        postrider.status(id).await.unwrap().state.as_str(),
        "queued",
        "not a moment too soon"
    );

    clock.advance(Duration::from_millis(1));
    assert_expired(&postrider.wait(id).await.unwrap());
    postrider.resume("primary").await.unwrap();
    postrider.wait_idle().await;

    assert!(scripted.begun().is_empty());
}

#[tokio::test]
async fn a_code_expires_behind_a_relay_that_is_down_and_is_not_sent_when_it_comes_back() {
    let server = FakeSmtp::builder()
        .at(Step::Greeting, Act::reply(421, "4.3.2 maintenance"))
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let mut told = EventLog::by(&postrider);
    let code = submit(&postrider, code_to("ada@example.org")).await;
    let letter = submit(&postrider, mail("bob@example.org")).await;

    told.first("relay_down").await;
    clock.advance(minutes(10));

    // It may be in the hands of a sender that is finding out that the relay is down; then it ends
    // when it is back.
    let dead = as_time_passes(&clock, told.first("dead")).await;
    assert_eq!(dead.mail, Some(code));

    let status = postrider.wait(code).await.unwrap();
    assert_expired(&status);
    assert!(
        status.deliveries[0].attempts.is_empty(),
        "it never was in question"
    );

    server.behave();

    let letter = as_time_passes(&clock, postrider.wait(letter))
        .await
        .unwrap();
    assert_eq!(letter.state.as_str(), "delivered");

    let arrived: Vec<String> = server
        .mails()
        .into_iter()
        .flat_map(|mail| mail.recipients)
        .collect();

    assert_eq!(arrived, ["bob@example.org"]);
}

#[tokio::test]
async fn a_deferred_mail_expires_at_its_time() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.answer(|_| Outcome::Deferred(Phase::RcptTo, Reply::new(450, "4.2.1 busy")));
    let postrider = engine_on(&scripted, &clock).await;
    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .expires_in(seconds(90))
            .build()
            .unwrap(),
    )
    .await;

    becomes(&postrider, id, "deferred").await;
    postrider.pause("primary").await.unwrap();
    clock.advance(seconds(60));
    becomes(&postrider, id, "queued").await;
    clock.advance(seconds(30));

    assert_expired(&postrider.wait(id).await.unwrap());
    assert_eq!(scripted.begun().len(), 1);
}

#[tokio::test]
async fn a_mail_with_no_time_for_another_try_is_given_up_at_once() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.answer(|_| Outcome::Deferred(Phase::RcptTo, Reply::new(450, "4.2.1 busy")));
    let postrider = engine_on(&scripted, &clock).await;
    let id = submit(
        &postrider,
        mail_to("ada@example.org")
            .expires_in(seconds(59))
            .build()
            .unwrap(),
    )
    .await;

    let status = postrider.wait(id).await.unwrap();
    assert_expired(&status);
    assert_eq!(
        status.deliveries[0].attempts[0].code,
        Some(450),
        "and why it had to be tried again is told"
    );
}

#[tokio::test]
async fn a_mail_expires_in_a_senders_batch() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::held());
    let postrider = engine_on(&scripted, &clock).await;
    postrider.pause("primary").await.unwrap();
    let first = submit(&postrider, mail("first@example.org")).await;

    let brief = submit(
        &postrider,
        mail_to("brief@example.org")
            .expires_in(minutes(5))
            .build()
            .unwrap(),
    )
    .await;
    let last = submit(&postrider, mail("last@example.org")).await;

    postrider.resume("primary").await.unwrap();
    assert_eq!(scripted.begins(1).await, ["first@example.org"]);
    assert_eq!(
        postrider.status(brief).await.unwrap().state.as_str(),
        "sending",
        "it is in the same batch"
    );

    clock.advance(minutes(5));
    scripted.let_go();
    assert_expired(&postrider.wait(brief).await.unwrap());
    for id in [first, last] {
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered"
        );
    }

    assert_eq!(scripted.begun(), ["first@example.org", "last@example.org"]);
}

#[tokio::test]
async fn a_code_that_expires_while_the_server_hesitates_is_taken_back_before_its_final_dot() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Data)
                .first(1)
                .act(Act::Delay(Duration::from_millis(60))),
        )
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let id = submit(&postrider, code_to("ada@example.org")).await;

    crate::common::eventually("DATA", async || {
        server.commands().iter().any(|line| line == "DATA")
    })
    .await;
    clock.advance(minutes(5));

    let status = postrider.wait(id).await.unwrap();
    assert_expired(&status);
    server.open_connections_fall_to(0).await;
    assert!(server.transactions().is_empty());

    assert_eq!(
        postrider.relays().await.unwrap()[0].state,
        "up",
        "the relay did nothing wrong"
    );
}
