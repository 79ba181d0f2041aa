//! Whose fault an answer is: no mail pays for what another mail would have met as well.

use postrider::{Clock, Dispatcher, MailId, Relay};

use crate::common::{
    Act, FakeSmtp, Rule, Step, as_time_passes, engine, eventually, mail, mail_to, relay_at, steady,
    submit,
};

/// Sends so many mails, and returns the connections that the server saw. None may count an attempt.
async fn all_delivered(postrider: &Dispatcher, ids: &[MailId]) {
    for id in ids {
        let status = postrider.wait(*id).await.unwrap();
        assert_eq!(status.state.as_str(), "delivered", "{status:#?}");
        for delivery in &status.deliveries {
            assert_eq!(delivery.attempts_counted, 0, "{status:#?}");
        }
    }
}

async fn submit_many(postrider: &Dispatcher, domain: &str, count: usize) -> Vec<MailId> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(submit(postrider, mail(&format!("to{n}@{domain}"))).await);
    }
    ids
}

#[tokio::test]
async fn a_session_that_takes_no_more_is_followed_by_another_and_costs_no_attempt() {
    for (step, code, text) in [
        (
            Step::Data,
            452,
            "4.4.5 Maximum number of messages per session exceeded",
        ),
        (
            Step::Mail,
            421,
            "4.7.0 Too many messages on this connection",
        ),
        (Step::Mail, 451, "4.5.0 no more transactions here"),
        (Step::Mail, 554, "5.7.0 Too many messages in this session"),
        (
            Step::Rcpt,
            452,
            "4.5.3 Too many messages per connection, maximum reached",
        ),
    ] {
        let server = FakeSmtp::builder()
            .rule(
                Rule::at(step)
                    .when(|moment| moment.transaction >= 5)
                    .act(Act::reply(code, text)),
            )
            .start()
            .await;
        let relay = relay_at(&server).connections(2);
        let postrider = engine(relay, &Clock::system()).start().await.unwrap();
        let ids = submit_many(&postrider, "example.org", 40).await;
        all_delivered(&postrider, &ids).await;
        let state = &postrider.relays().await.unwrap()[0];
        assert_eq!(state.state.as_str(), "up", "{code} {text}");
    }
}

#[tokio::test]
async fn recipients_that_are_too_many_go_in_further_transactions_and_cost_no_attempt() {
    for (code, text) in [
        (452, "4.5.3 Too many recipients"),
        (452, "Too many recipients"),
        (552, "5.5.3 Too many recipients"),
        (450, "4.5.3 limit of recipients reached"),
        (452, "4.3.1 Insufficient system storage"),
    ] {
        let server = FakeSmtp::builder()
            .rule(
                Rule::at(Step::Rcpt)
                    .when(|moment| moment.recipients.len() >= 5)
                    .act(Act::reply(code, text)),
            )
            .start()
            .await;
        let relay = relay_at(&server).connections(1);
        let postrider = engine(relay, &Clock::system()).start().await.unwrap();
        let mut mail = mail_to("first@example.org");
        for n in 0..49 {
            mail = mail.to(format!("to{n}@example.org"));
        }
        let id = submit(&postrider, mail.build().unwrap()).await;
        all_delivered(&postrider, &[id]).await;
        let again = submit_many(&postrider, "example.org", 3).await;
        all_delivered(&postrider, &again).await;
    }
}

#[tokio::test]
async fn a_domain_that_cannot_be_reached_rests_and_nobody_else_notices() {
    for act in [
        Act::ReplyThenCut(421, "4.7.28 Our system has detected an unusual rate".into()),
        Act::reply(451, "4.4.1 no answer from the destination"),
        Act::Cut,
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(Step::Rcpt).to("@slow.example").act(act.clone()))
            .start()
            .await;
        let clock = Clock::fake();
        let relay = relay_at(&server).connections(2);
        let postrider = engine(relay, &clock).start().await.unwrap();
        let slow = submit_many(&postrider, "slow.example", 60).await;
        let others = submit_many(&postrider, "example.org", 60).await;
        all_delivered(&postrider, &others).await;
        let relay = &postrider.relays().await.unwrap()[0];
        assert_eq!(relay.state.as_str(), "up", "{act:?}");

        server.behave();
        as_time_passes(&clock, async { all_delivered(&postrider, &slow).await }).await;
    }
}

#[tokio::test]
async fn a_relay_that_refuses_everything_is_left_for_the_next_one() {
    for (step, code, text) in [
        (Step::Mail, 452, "4.3.1 Insufficient system storage"),
        (
            Step::Mail,
            451,
            "4.3.0 Mail server temporarily rejected message",
        ),
        (
            Step::Mail,
            454,
            "Throttling failure: Daily message quota exceeded",
        ),
        (Step::Mail, 530, "5.7.0 Must issue a STARTTLS command first"),
        (Step::Mail, 530, "5.7.0 Authentication required"),
        (Step::Mail, 503, "5.5.1 Error: send AUTH first"),
        (Step::Mail, 421, "4.3.2 Service shutting down"),
        (Step::Mail, 550, "5.7.1 Client host blocked using Spamhaus"),
        (Step::Mail, 450, "not now"),
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(step).act(Act::reply(code, text)))
            .start()
            .await;
        let backup = FakeSmtp::start().await;
        let clock = Clock::fake();
        let postrider = Dispatcher::builder()
            .relay(relay_at(&server).connections(1))
            .relay(Relay::smtp(&backup.url()).unwrap().name("backup"))
            .spool_in_memory()
            .clock(clock.clone())
            .retry(steady())
            .start()
            .await
            .unwrap();
        let ids = submit_many(&postrider, "example.org", 20).await;
        as_time_passes(&clock, async { all_delivered(&postrider, &ids).await }).await;
        let relay = &postrider.relays().await.unwrap()[0];
        let why = relay.last_failure.clone().unwrap_or_default();
        assert!(why.contains(&code.to_string()), "{code} {text}: {relay:?}");
    }
}

#[tokio::test]
async fn what_is_said_of_one_mail_stays_that_mails() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("nobody@")
                .act(Act::reply(550, "5.1.1 No such user")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("full@")
                .act(Act::reply(452, "4.2.2 Mailbox full")),
        )
        .start()
        .await;
    let postrider = engine(relay_at(&server), &Clock::system())
        .start()
        .await
        .unwrap();
    for _ in 0..5 {
        let nobody = submit(&postrider, mail("nobody@example.org")).await;
        let status = postrider.wait(nobody).await.unwrap();
        assert_eq!(status.state.as_str(), "dead");
    }
    let full = submit(&postrider, mail("full@example.org")).await;
    eventually("an attempt is counted", async || {
        let status = postrider.status(full).await.unwrap();
        status.deliveries[0].attempts_counted == 1
    })
    .await;
    let good = submit(&postrider, mail("ada@example.org")).await;
    all_delivered(&postrider, &[good]).await;
}
