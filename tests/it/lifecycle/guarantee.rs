//! What is done in doubt: an at-least-once mail is sent again, an at-most-once mail never is.

use postrider::{Clock, Guarantee, Mail, hours, minutes, seconds};

use crate::common::{
    Act, FakeSmtp, Rule, Step, a_moment, becomes, engine, mail, mail_to, relay_at, submit,
};

fn once(to: &str) -> Mail {
    mail_to(to)
        .guarantee(Guarantee::AtMostOnce)
        .build()
        .unwrap()
}

#[tokio::test]
async fn an_at_most_once_mail_in_doubt_is_dead_and_never_sent_again() {
    for act in [Act::Cut, Act::Garbage, Act::WrongClass] {
        let server = FakeSmtp::builder().at(Step::FinalDot, act).start().await;
        let clock = Clock::fake();
        let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
        let id = submit(&postrider, once("ada@example.org")).await;
        let status = postrider.wait(id).await.unwrap();
        assert_eq!(status.state.as_str(), "dead");
        assert_eq!(status.deliveries[0].reason.unwrap().as_str(), "in_doubt");
        assert_eq!(status.deliveries[0].attempts[0].phase.as_str(), "final_dot");
        server.behave();
        clock.advance(hours(1));
        a_moment().await;
        assert_eq!(server.transactions().len(), 1);
    }
}

/// Each attempt may be one more copy for the recipient.
#[tokio::test]
async fn a_relay_that_never_answers_a_message_gets_few_copies_of_it() {
    let server = FakeSmtp::builder()
        .at(Step::FinalDot, Act::Cut)
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;

    let mut copies = 0;
    for _ in 0..10_000 {
        let status = postrider.status(id).await.unwrap();
        let delivery = &status.deliveries[0];
        let counted = delivery.attempts_counted as usize;
        if status.state.as_str() == "dead" {
            assert_eq!(server.transactions().len(), counted);
            assert!((10..20).contains(&counted), "{counted} copies in two days");
            return;
        }
        match delivery.next_attempt_at {
            Some(next) if counted > copies => {
                copies = counted;
                clock.advance(next.since(clock.now()));
            }
            _ => {
                // The relay may be probed somewhat later than the mail is due.
                clock.advance(seconds(60));
                a_moment().await;
            }
        }
    }
    panic!("it went on");
}

#[tokio::test]
async fn an_at_most_once_mail_that_was_surely_not_taken_is_tried_again() {
    let refusals = [
        (Step::Data, Act::Cut),
        (Step::FinalDot, Act::reply(451, "4.3.0 try later")),
        (Step::Rcpt, Act::Cut),
    ];

    for (step, act) in refusals {
        let server = FakeSmtp::builder()
            .rule(Rule::at(step).first(1).act(act))
            .start()
            .await;
        let clock = Clock::fake();
        let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
        let id = submit(&postrider, once("ada@example.org")).await;
        becomes(&postrider, id, "deferred").await;
        clock.advance(seconds(60));
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered",
            "{step:?}"
        );
        assert_eq!(server.accepted(), 1);
    }
}

#[tokio::test]
async fn an_at_most_once_mail_survives_a_relay_that_is_down() {
    let server = FakeSmtp::builder()
        .at(Step::Greeting, Act::reply(421, "4.3.2 maintenance"))
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let mut told = crate::common::EventLog::by(&postrider);
    let id = submit(&postrider, once("ada@example.org")).await;

    told.first("relay_down").await;
    server.behave();
    clock.advance(minutes(1));

    let status = postrider.wait(id).await.unwrap();
    assert_eq!(
        (status.state.as_str(), status.deliveries[0].attempts.len()),
        ("delivered", 1)
    );
}

#[tokio::test]
async fn an_at_most_once_mail_is_not_begun_before_its_turn() {
    let server = FakeSmtp::start().await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    let first = submit(&postrider, mail("first@example.org")).await;
    let second = submit(&postrider, once("second@example.org")).await;
    let third = submit(&postrider, mail("third@example.org")).await;

    postrider.resume("primary").await.unwrap();
    for id in [first, second, third] {
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered"
        );
    }

    let overlapped: Vec<bool> = server.mails().iter().map(|mail| mail.overlapped).collect();
    assert_eq!(
        overlapped,
        [false, false, true],
        "it is marked on disk first"
    );
}
