//! One relay at several addresses: the next one is tried whatever goes wrong at the one before, and
//! a bad one is remembered (RFC 5321 §5.1).

use std::net::SocketAddr;

use postrider::transport::TimeOuts;
use postrider::{Clock, Dispatcher, Relay, seconds};

use crate::common::{
    Act, FakeSmtp, Rule, Step, as_time_passes, becomes, engine, eventually, mail, submit,
};

/// A relay at these two, over one connection a mail.
fn relay_of(first: &FakeSmtp, second: &FakeSmtp) -> Relay {
    let addresses: [SocketAddr; 2] = [first.address(), second.address()];
    Relay::smtp("smtp://user:s3cret-pw@relay.invalid")
        .unwrap()
        .name("primary")
        .addresses(addresses)
        .connections(1)
        .messages_per_connection(1)
        .timeouts(TimeOuts {
            greeting: seconds(1),
            auth: seconds(1),
            ..TimeOuts::all(seconds(10))
        })
}

async fn sends(postrider: &Dispatcher, count: usize) {
    for n in 0..count {
        let id = submit(postrider, mail(&format!("to{n}@example.org"))).await;
        let status = postrider.wait(id).await.unwrap();
        assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
        assert_eq!(status.deliveries[0].attempts.len(), 1, "{status:#?}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_whatever_goes_wrong_at_one_and_it_is_remembered() {
    // A server may quote what we sent; what it said is not shown then, and decides all the same.
    let quoting = "4.7.0 try again AHVzZXIAczNjcmV0LXB3";
    for (step, act) in [
        (Step::Greeting, Act::reply(421, "4.3.2 busy")),
        (
            Step::Greeting,
            Act::ReplyThenCut(554, "5.7.1 not you".into()),
        ),
        (Step::Greeting, Act::Cut),
        (Step::Greeting, Act::Hang),
        (Step::Greeting, Act::Garbage),
        (Step::Ehlo, Act::reply(421, "4.3.2 going down")),
        (Step::Ehlo, Act::Cut),
        (Step::Ehlo, Act::Hang),
        (Step::Auth, Act::reply(454, "4.7.0 temporary failure")),
        (Step::Auth, Act::reply(454, quoting)),
        (Step::Auth, Act::Cut),
        (Step::Auth, Act::Hang),
    ] {
        let bad = FakeSmtp::builder().login("user", "s3cret-pw");
        let bad = bad.at(step, act.clone()).start().await;
        let good = FakeSmtp::builder().login("user", "s3cret-pw").start().await;
        let postrider = engine(relay_of(&bad, &good), &Clock::system())
            .start()
            .await
            .unwrap();
        sends(&postrider, 3).await;
        let met = (bad.connections(), good.connections());
        assert_eq!(met, (1, 3), "{step:?} {act:?}");
        let relay = &postrider.relays().await.unwrap()[0];
        assert_eq!(
            (relay.state.as_str(), relay.last_failure.as_deref()),
            ("up", None),
            "{step:?} {act:?}"
        );
    }
}

#[tokio::test]
async fn an_address_that_hangs_up_at_the_first_mail_is_left_for_the_next_one() {
    let bad = FakeSmtp::builder().login("user", "s3cret-pw");
    let bad = bad.at(Step::Mail, Act::Cut).start().await;
    let good = FakeSmtp::builder().login("user", "s3cret-pw").start().await;
    let postrider = engine(relay_of(&bad, &good), &Clock::system())
        .start()
        .await
        .unwrap();
    sends(&postrider, 3).await;
    assert_eq!((bad.connections(), good.accepted()), (1, 3));
}

#[tokio::test]
async fn an_address_that_refuses_all_mail_is_left_for_the_next_one() {
    for (step, act) in [
        (
            Step::Mail,
            Act::reply(452, "4.3.1 Insufficient system storage"),
        ),
        (
            Step::Mail,
            Act::reply(554, "5.7.1 Client host [192.0.2.1] blocked using x.example"),
        ),
        (
            Step::Rcpt,
            Act::ReplyThenCut(421, "4.3.2 going down".into()),
        ),
        (Step::FinalDot, Act::reply(454, "Throttling failure")),
    ] {
        let bad = FakeSmtp::builder().login("user", "s3cret-pw");
        let bad = bad.at(step, act.clone()).start().await;
        let good = FakeSmtp::builder().login("user", "s3cret-pw").start().await;
        let clock = Clock::fake();
        let relay = relay_of(&bad, &good).messages_per_connection(1000);
        let postrider = engine(relay, &clock).start().await.unwrap();
        for n in 0..6 {
            let id = submit(&postrider, mail(&format!("to{n}@example.org"))).await;
            let status = as_time_passes(&clock, async { postrider.wait(id).await.unwrap() }).await;
            assert_eq!(status.state.as_str(), "delivered", "{act:?} {status:#?}");
        }
        assert_eq!((bad.connections(), good.accepted()), (1, 6), "{act:?}");
    }
}

#[tokio::test]
async fn a_login_that_is_refused_for_good_is_not_tried_at_every_address() {
    for text in ["5.7.8 no", "5.7.8 no such login: AHVzZXIAczNjcmV0LXB3"] {
        let refusing = FakeSmtp::builder()
            .login("user", "s3cret-pw")
            .rule(Rule::at(Step::Auth).first(1).act(Act::reply(535, text)));
        let (refusing, other) = (refusing.start().await, FakeSmtp::builder());
        let other = other.login("user", "s3cret-pw").start().await;
        let postrider = engine(relay_of(&refusing, &other), &Clock::system())
            .start()
            .await
            .unwrap();
        let id = submit(&postrider, mail("ada@example.org")).await;
        eventually("the refusal is told", async || {
            let relay = &postrider.relays().await.unwrap()[0];
            relay.last_failure.is_some()
        })
        .await;
        becomes(&postrider, id, "delivered").await;
        assert_eq!(
            (refusing.connections(), other.connections()),
            (2, 0),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_relay_whose_addresses_are_all_bad_says_why_and_is_tried_again() {
    let busy = || {
        let busy = Act::reply(421, "4.3.2 busy");
        let server = FakeSmtp::builder().login("user", "s3cret-pw");
        server.at(Step::Greeting, busy)
    };

    let (first, second) = (busy().start().await, busy().start().await);
    let postrider = engine(relay_of(&first, &second), &Clock::system())
        .start()
        .await
        .unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;

    eventually("both were tried", async || {
        first.connections() > 0 && second.connections() > 0
    })
    .await;

    eventually("the reason is told", async || {
        let relay = &postrider.relays().await.unwrap()[0];
        relay
            .last_failure
            .clone()
            .is_some_and(|why| why.contains("421 4.3.2 busy"))
    })
    .await;

    second.behave();
    becomes(&postrider, id, "delivered").await;
    assert_eq!(second.accepted(), 1);
}
