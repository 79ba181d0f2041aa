//! Whose fault an answer is: no mail pays for what another mail would have met as well.

use std::time::Duration;

use postrider::{Clock, Dispatcher, MailId, Relay, seconds};

use crate::common::{
    Act, FakeSmtp, Rule, Step, TestSpool, a_moment, as_time_passes, engine, eventually, mail,
    mail_to, relay_at, steady, submit,
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

/// Lets the clock go on until a mail is delivered, for so long at most.
async fn is_delivered_within(
    postrider: &Dispatcher,
    clock: &Clock,
    mail: MailId,
    most: Duration,
) -> bool {
    let mut waited = Duration::ZERO;
    while postrider.status(mail).await.unwrap().state.as_str() != "delivered" {
        if waited >= most {
            return false;
        }
        clock.advance(Duration::from_millis(200));
        waited += Duration::from_millis(200);
        a_moment().await;
    }
    true
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
            .test_spool()
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

#[tokio::test]
async fn a_relay_that_refuses_us_at_any_step_kills_no_mail_and_leaves_it_to_the_next_relay() {
    for (step, code, text) in [
        (
            Step::Rcpt,
            550,
            "5.7.708 Access denied, traffic not accepted from this IP",
        ),
        (Step::Rcpt, 550, "5.4.5 Daily user sending quota exceeded"),
        (
            Step::Rcpt,
            554,
            "5.7.1 <c[192.0.2.1]>: Client host rejected: Access denied",
        ),
        (Step::Rcpt, 530, "5.7.0 Authentication required"),
        (
            Step::Rcpt,
            554,
            "5.7.1 <x@example.org>: Relay access denied",
        ),
        (Step::Rcpt, 450, "4.7.1 too many connections"),
        // A quota that may be the recipient's or ours.
        (Step::Rcpt, 550, "5.2.2 Quota exceeded"),
        (Step::FinalDot, 552, "5.2.2 Mail quota exceeded"),
        (
            Step::Rcpt,
            554,
            "5.7.1 <x@example.org>: Recipient address rejected: Policy Rejection- Quota Exceeded.",
        ),
        (Step::Data, 451, "4.7.500 Server busy"),
        (
            Step::FinalDot,
            454,
            "Throttling failure: Maximum sending rate exceeded",
        ),
        (
            Step::FinalDot,
            554,
            "Message rejected: Sending paused for this account",
        ),
        (
            Step::FinalDot,
            554,
            "Message rejected: Sending suspended for this account. For more information, please \
             check the inbox of the email address associated with your AWS account.",
        ),
        (
            Step::FinalDot,
            554,
            "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException",
        ),
        (
            Step::FinalDot,
            550,
            "5.1.8 Access denied, bad outbound sender",
        ),
        (Step::Mail, 503, "5.5.2 Send hello first"),
        (Step::Mail, 503, "5.5.0 Error: improper command pipelining"),
        (Step::Mail, 550, "5.7.1 Account disabled"),
        (Step::Data, 554, "Transaction failed"),
        (
            Step::FinalDot,
            451,
            "4.7.0 Temporary server error. Please try again later. PRX4",
        ),
        (Step::FinalDot, 550, "5.7.1 Your IP is blocked"),
        (Step::FinalDot, 452, "4.3.1 Insufficient system storage"),
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(step).act(Act::reply(code, text)))
            .start()
            .await;
        let backup = FakeSmtp::start().await;
        let postrider = Dispatcher::builder()
            .relay(relay_at(&server).connections(1))
            .relay(Relay::smtp(&backup.url()).unwrap().name("backup"))
            .test_spool()
            .clock(Clock::fake())
            .retry(steady())
            .start()
            .await
            .unwrap();
        // At once, and although no time passes: each refused mail goes to the next relay.
        let ids = submit_many(&postrider, "example.org", 12).await;
        all_delivered(&postrider, &ids).await;
        assert_eq!(server.accepted(), 0, "{code} {text}");
        let why = postrider.relays().await.unwrap()[0].last_failure.clone();
        assert!(
            why.unwrap_or_default().contains(&code.to_string()),
            "{code} {text}"
        );
    }
}

#[tokio::test]
async fn a_relay_that_refuses_everything_is_down_whatever_its_words_and_costs_few() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::FinalDot).act(Act::reply(554, "5.0.0 Transaction failed")))
        .start()
        .await;
    let clock = Clock::fake();
    let postrider = engine(relay_at(&server).connections(1), &clock)
        .start()
        .await
        .unwrap();
    let ids = submit_many(&postrider, "example.org", 20).await;

    eventually("the relay is down", async || {
        postrider.relays().await.unwrap()[0].state == "down"
    })
    .await;

    server.behave();
    let mut dead = 0;
    for id in &ids {
        let status = as_time_passes(&clock, async { postrider.wait(*id).await.unwrap() }).await;
        dead += usize::from(status.state.as_str() == "dead");
    }

    assert!(dead <= 2, "{dead} of 20 are dead");
}

#[tokio::test]
async fn a_relay_that_ends_every_session_at_mail_is_not_asked_without_end() {
    for text in [
        "4.2.1 Unable to complete command, try again later",
        "4.7.1 Relaying denied",
        "4.1.8 Domain of sender address does not resolve",
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(Step::Mail).act(Act::ReplyThenCut(421, text.into())))
            .start()
            .await;
        let clock = Clock::fake();
        let postrider = engine(relay_at(&server).connections(2), &clock)
            .start()
            .await
            .unwrap();

        let ids = submit_many(&postrider, "example.org", 12).await;
        server.connections_come(3).await;
        // Longer than a thousand connections take where nothing holds them back.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let connections = server.connections();
        assert!(connections <= 30, "{text}: {connections}");

        server.behave();
        as_time_passes(&clock, async { all_delivered(&postrider, &ids).await }).await;
    }
}

#[tokio::test]
async fn a_sender_over_whom_a_relay_ends_its_sessions_delays_no_others() {
    let server = FakeSmtp::builder()
        .rule(Rule::at(Step::Mail).to("bad@").act(Act::ReplyThenCut(
            421,
            "4.1.8 Domain of sender address does not resolve".into(),
        )))
        .start()
        .await;
    let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
        .start()
        .await
        .unwrap();

    for n in 0..6 {
        let bad = mail_to(&format!("to{n}@example.org")).from("bad@nowhere.example");
        submit(&postrider, bad.build().unwrap()).await;
    }
    let others = submit_many(&postrider, "example.org", 6).await;
    // No time passes, so that nothing that rests comes back.
    all_delivered(&postrider, &others).await;
    assert_eq!(postrider.relays().await.unwrap()[0].state, "up");
}

#[tokio::test]
async fn many_over_whom_a_relay_ends_its_sessions_keep_it_from_others_for_seconds_only() {
    let later = || Act::ReplyThenCut(421, "later".into());
    for (step, act) in [
        (Step::Mail, later()),
        (Step::Mail, Act::Cut),
        (Step::Rcpt, later()),
        (Step::Rcpt, Act::Cut),
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(step).to("bad").act(act))
            .start()
            .await;
        let clock = Clock::fake();
        let postrider = engine(relay_at(&server).connections(1), &clock)
            .start()
            .await
            .unwrap();

        // Nothing but bad mail waits, and the relay may be left alone for it; then an innocent one
        // comes.
        for n in 0..12 {
            let bad = mail_to(&format!("bad{n}@example{n}.org")).from("bad@nowhere.example");
            submit(&postrider, bad.build().unwrap()).await;
        }
        server.connections_come(3).await;
        a_moment().await;
        let innocent = submit(&postrider, mail("ada@example.org")).await;

        let is_delivered = is_delivered_within(&postrider, &clock, innocent, seconds(8)).await;
        assert!(is_delivered, "{step:?}");
    }
}

#[tokio::test]
async fn what_is_said_of_us_over_one_domain_alone_keeps_the_relay_from_others_for_seconds_only() {
    for (code, text) in [
        (550, "5.7.1 Your IP is blocked"),
        (554, "5.7.1 Relay access denied"),
        (450, "4.7.1 domain throttled"),
        (421, "4.3.2 too many connections"),
        (550, "5.4.316 Message expired"),
    ] {
        let server = FakeSmtp::builder()
            .rule(
                Rule::at(Step::Rcpt)
                    .to("@slow.example")
                    .act(Act::reply(code, text)),
            )
            .start()
            .await;
        let clock = Clock::fake();
        let postrider = engine(relay_at(&server).connections(1), &clock)
            .start()
            .await
            .unwrap();

        submit_many(&postrider, "slow.example", 60).await;
        server.connections_come(3).await;
        a_moment().await;
        let innocent = submit(&postrider, mail("ada@example.org")).await;

        let is_delivered = is_delivered_within(&postrider, &clock, innocent, seconds(15)).await;
        assert!(is_delivered, "{code} {text}");
    }
}

#[tokio::test]
async fn a_mail_that_is_bad_closes_the_relay_to_nobody() {
    for (step, code, text) in [
        (
            Step::Mail,
            550,
            "5.7.60 Client does not have permissions to send as this sender",
        ),
        (Step::Rcpt, 550, "No such user here"),
        (
            Step::Rcpt,
            550,
            "5.4.1 Recipient address rejected: Access denied",
        ),
        (Step::FinalDot, 554, "5.7.1 Message rejected as spam"),
        (
            Step::FinalDot,
            550,
            "5.7.1 A URL in this message is on a block list",
        ),
        (
            Step::FinalDot,
            554,
            "5.7.9 Message not accepted for policy reasons",
        ),
        (
            Step::Rcpt,
            550,
            "5.7.1 RESOLVER.RST.AuthRequired; authentication required",
        ),
        (Step::Rcpt, 550, "account is disabled"),
        (
            Step::FinalDot,
            554,
            "5.4.14 Hop count exceeded - possible mail loop",
        ),
        (Step::FinalDot, 500, "Line too long"),
    ] {
        let server = FakeSmtp::builder()
            .rule(Rule::at(step).act(Act::reply(code, text)))
            .start()
            .await;
        let postrider = engine(relay_at(&server).connections(1), &Clock::fake())
            .start()
            .await
            .unwrap();
        for id in submit_many(&postrider, "example.org", 8).await {
            let status = postrider.wait(id).await.unwrap();
            assert_eq!(status.state.as_str(), "dead", "{code} {text}");
        }
        assert_eq!(postrider.relays().await.unwrap()[0].state, "up", "{text}");
        server.behave();
        let good = submit(&postrider, mail("ada@example.org")).await;
        all_delivered(&postrider, &[good]).await;
    }
}

#[tokio::test]
async fn a_refusal_that_may_be_the_mails_is_believed_once_others_were_taken() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bad@")
                .act(Act::reply(550, "5.7.1 Relaying denied")),
        )
        .start()
        .await;

    let clock = Clock::fake();
    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let bad = submit(&postrider, mail("bad@example.org")).await;
    eventually("it waits", async || {
        postrider.status(bad).await.unwrap().state.as_str() == "deferred"
    })
    .await;

    let good = submit(&postrider, mail("ada@example.org")).await;
    all_delivered(&postrider, &[good]).await;
    let status = as_time_passes(&clock, async { postrider.wait(bad).await.unwrap() }).await;
    assert_eq!(status.deliveries[0].reason.unwrap().as_str(), "rejected");
    assert_eq!(status.deliveries[0].attempts.len(), 2);
}
