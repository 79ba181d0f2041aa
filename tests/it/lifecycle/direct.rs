//! Past the queue: `send_now`, and what is done with new mail while the spool takes none.

use std::sync::atomic::Ordering;

use postrider::delivery::{Outcome, Phase};
use postrider::{
    Clock, Dispatcher, Durability, Error, Guarantee, Match, OnSpoolFailure, Query,
    SuppressionReason, hours,
};

use crate::common::{
    Act, EventLog, FakeSmtp, FaultySpool, Rule, ScriptedRelay, Step, engine, mail, mail_to,
    relay_at, steady, submit,
};

#[tokio::test]
async fn send_now_says_what_the_relay_said_and_keeps_nothing() {
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("bob@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .start()
        .await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();
    let both = mail_to("ada@example.org")
        .to("bob@example.org")
        .build()
        .unwrap();
    let id = both.id();

    let sent = postrider.send_now(both).await.unwrap();
    assert_eq!(sent.id, id);
    assert!(!sent.all_delivered());
    assert!(matches!(
        &sent.outcomes[0],
        (to, Outcome::Delivered(reply))
            if to.as_str() == "ada@example.org" && reply.code == 250
    ));
    assert!(
        matches!(&sent.outcomes[1], (to, Outcome::Rejected(Phase::RcptTo, reply))
        if to.as_str() == "bob@example.org" && reply.enhanced.as_deref() == Some("5.1.1"))
    );

    assert!(
        postrider
            .send_now(mail("ada@example.org"))
            .await
            .unwrap()
            .all_delivered()
    );

    assert_eq!(
        postrider.status(id).await.unwrap_err(),
        Error::UnknownMail(id)
    );

    assert!(
        postrider
            .list(Query::default())
            .await
            .unwrap()
            .mails
            .is_empty()
    );

    assert_eq!(postrider.stats().await.unwrap().accepted, 0);
    server.open_connections_fall_to(0).await;
}

#[tokio::test]
async fn send_now_sends_in_as_many_transactions_and_sessions_as_the_relay_wants() {
    let too_many = |act: Act| {
        Rule::at(Step::Rcpt)
            .when(|moment| moment.recipients.len() >= 10)
            .act(act)
    };
    let third_mail = Rule::at(Step::Mail)
        .when(|moment| moment.transaction >= 2)
        .act(Act::reply(
            452,
            "4.4.5 Maximum number of messages per session exceeded",
        ));
    let servers = [
        (FakeSmtp::builder().capabilities(["LIMITS RCPTMAX=10"]), 1),
        (
            FakeSmtp::builder().capabilities(["LIMITS RCPTMAX=10 MAILMAX=2"]),
            2,
        ),
        (
            FakeSmtp::builder().rule(too_many(Act::reply(452, "4.5.3 Too many recipients"))),
            1,
        ),
        (
            FakeSmtp::builder()
                .rule(too_many(Act::reply(452, "4.5.3 Too many recipients")))
                .rule(third_mail),
            2,
        ),
    ];

    for (place, (server, sessions)) in servers.into_iter().enumerate() {
        let server = server.start().await;
        let postrider = engine(relay_at(&server), &Clock::fake())
            .start()
            .await
            .unwrap();
        let mut mail = mail_to("to0@example.org");
        for n in 1..35 {
            mail = mail.to(format!("to{n}@example.org"));
        }

        let sent = postrider.send_now(mail.build().unwrap()).await.unwrap();

        assert!(sent.all_delivered(), "{place}: {sent:?}");
        let mails = server.mails();
        let counts: Vec<usize> = mails.iter().map(|mail| mail.recipients.len()).collect();
        assert_eq!(counts, [10, 10, 10, 5], "{place}");
        assert_eq!(server.connections(), sessions, "{place}");
    }
}

#[tokio::test]
async fn send_now_sends_nothing_to_who_is_not_to_get_mail() {
    let server = FakeSmtp::builder().start().await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();
    let suppressions = postrider.suppressions();
    let ada = "ada@example.org".parse().unwrap();
    let entry = suppressions.entry(ada, SuppressionReason::Bounce);
    suppressions.add(vec![entry]).await.unwrap();

    let both = mail_to("ada@example.org").to("bob@example.org");
    let sent = postrider.send_now(both.build().unwrap()).await.unwrap();

    let refused = sent
        .outcomes
        .iter()
        .find(|(to, _)| to.as_str() == "ada@example.org");
    assert!(
        matches!(refused, Some((_, Outcome::Rejected(Phase::Local,
            reply))) if reply.text.contains("suppressed")),
        "{sent:?}"
    );
    let mails = server.mails();
    assert_eq!(
        (mails.len(), &mails[0].recipients[..]),
        (1, &["bob@example.org".to_owned()][..])
    );
}

#[tokio::test]
async fn send_now_takes_the_next_relay_and_says_so_when_there_is_none() {
    let down = FakeSmtp::builder()
        .at(Step::Greeting, Act::reply(421, "4.3.2 maintenance"))
        .start()
        .await;

    let up = FakeSmtp::start().await;
    let builder = Dispatcher::builder()
        .relay(relay_at(&down))
        .relay(relay_at(&up).name("backup"));
    let both = builder
        .clone()
        .route(Match::default(), ["primary", "backup"])
        .start()
        .await
        .unwrap();

    assert!(
        both.send_now(mail("ada@example.org"))
            .await
            .unwrap()
            .all_delivered()
    );

    assert_eq!(up.accepted(), 1);
    let only_first = builder
        .route(Match::default(), ["primary"])
        .start()
        .await
        .unwrap();

    let sent = only_first.send_now(mail("ada@example.org")).await.unwrap();
    assert!(
        matches!(&sent.outcomes[0].1, Outcome::Unavailable(Phase::Greeting,
            reason) if reason.contains("maintenance"))
    );
}

#[tokio::test]
async fn send_now_does_not_try_elsewhere_what_a_relay_has_refused_or_may_have_taken() {
    let second = FakeSmtp::start().await;
    for act in [Act::reply(554, "5.7.1 spam"), Act::Cut] {
        let first = FakeSmtp::builder().at(Step::FinalDot, act).start().await;
        let postrider = Dispatcher::builder()
            .relay(relay_at(&first))
            .relay(relay_at(&second).name("backup"));
        let sent = postrider
            .start()
            .await
            .unwrap()
            .send_now(mail("ada@example.org"))
            .await
            .unwrap();
        assert!(
            matches!(
                sent.outcomes[0].1,
                Outcome::Rejected(..) | Outcome::InDoubt(_)
            ),
            "{sent:?}"
        );
    }

    assert_eq!(second.connections(), 0);
}

async fn over_a_faulty_spool(
    scripted: &ScriptedRelay,
    choice: OnSpoolFailure,
) -> (Dispatcher, std::sync::Arc<FaultySpool>) {
    let spool = FaultySpool::new();
    let builder = Dispatcher::builder()
        .relay(scripted.relay())
        .spool_custom(spool.clone())
        .retry(steady());
    (
        builder.on_spool_failure(choice).start().await.unwrap(),
        spool,
    )
}

#[tokio::test]
async fn while_the_spool_fails_mail_is_refused_with_the_reason_unless_configured_otherwise() {
    let scripted = ScriptedRelay::free();
    let (postrider, spool) = over_a_faulty_spool(&scripted, OnSpoolFailure::Reject).await;
    spool.break_down();

    let refused = postrider.submit(mail("ada@example.org")).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("/var/spool cannot be written: input/output error"),
        "{refused}"
    );

    let health = postrider.health();
    assert!(!health.ready && health.reason.unwrap().contains("input/output error"));
    assert!(scripted.begun().is_empty());
    spool.mend();

    let id = submit(&postrider, mail("ada@example.org")).await;
    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );

    assert!(postrider.health().ready);
}

#[tokio::test]
async fn while_the_spool_fails_mail_is_sent_at_once_where_that_is_chosen() {
    let scripted = ScriptedRelay::free();
    let (postrider, spool) = over_a_faulty_spool(&scripted, OnSpoolFailure::Direct).await;
    assert_eq!(
        postrider
            .submit(mail("ada@example.org"))
            .await
            .unwrap()
            .durability,
        Durability::InMemory
    );

    scripted.begins(1).await;
    spool.break_down();
    let receipt = postrider.submit(mail("bob@example.org")).await.unwrap();
    assert_eq!(
        (receipt.durability, receipt.duplicate),
        (Durability::Direct, false)
    );

    assert_eq!(scripted.begun().last().unwrap(), "bob@example.org");
    assert_eq!(
        postrider.status(receipt.id).await.unwrap_err(),
        Error::UnknownMail(receipt.id),
        "it is not kept"
    );

    for receipt in postrider
        .submit_many(vec![mail("carl@example.org"), mail("dora@example.org")])
        .await
    {
        assert_eq!(receipt.unwrap().durability, Durability::Direct);
    }

    scripted.down(Some("no route to host"));
    let refused = postrider.submit(mail("eve@example.org")).await.unwrap_err();
    assert!(matches!(&refused, Error::NotSent { recipient, .. } if recipient == "eve@example.org"));
    assert!(
        refused.to_string().contains("no route to host"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_mail_that_is_refused_for_itself_is_not_sent_at_once_instead() {
    let scripted = ScriptedRelay::free();
    let (postrider, _spool) = over_a_faulty_spool(&scripted, OnSpoolFailure::Direct).await;
    let keyed = |text: &str| {
        mail_to("ada@example.org")
            .text(text)
            .idempotency_key("key")
            .build()
            .unwrap()
    };

    let mut told = EventLog::by(&postrider);
    let id = submit(&postrider, keyed("one")).await;
    told.first("delivered").await;
    assert_eq!(
        postrider.submit(keyed("two")).await.unwrap_err(),
        Error::KeyReused(id)
    );

    let again = postrider.submit(keyed("one")).await.unwrap();
    assert_eq!((again.id, again.duplicate), (id, true));
    assert_eq!(scripted.begun().len(), 1);
}

#[tokio::test]
async fn what_might_go_out_twice_or_early_is_not_sent_past_the_spool() {
    let scripted = ScriptedRelay::free();
    let (postrider, spool) = over_a_faulty_spool(&scripted, OnSpoolFailure::Direct).await;
    let known = mail("known@example.org");
    submit(&postrider, known.clone()).await;
    scripted.begins(1).await;
    spool.break_down();

    let keyed = mail_to("keyed@example.org")
        .idempotency_key("key")
        .build()
        .unwrap();
    let later = mail_to("later@example.org")
        .delay(hours(1))
        .build()
        .unwrap();

    for mail in [known, keyed, later] {
        let refused = postrider.submit(mail).await.unwrap_err();
        assert!(matches!(refused, Error::Spool(_)), "{refused}");
    }

    assert_eq!(scripted.begun(), ["known@example.org"]);
}

#[tokio::test]
async fn an_at_most_once_mail_that_the_spool_may_have_is_not_sent_past_it() {
    let scripted = ScriptedRelay::free();
    let (postrider, spool) = over_a_faulty_spool(&scripted, OnSpoolFailure::Direct).await;
    let once = |to: &str| {
        mail_to(to)
            .guarantee(Guarantee::AtMostOnce)
            .build()
            .unwrap()
    };

    spool.failing.store(true, Ordering::SeqCst);
    assert!(matches!(
        postrider.submit(once("ada@example.org")).await,
        Err(Error::Spool(_))
    ));

    assert_eq!(
        postrider
            .submit(mail("bob@example.org"))
            .await
            .unwrap()
            .durability,
        Durability::Direct
    );

    spool.break_down();
    assert_eq!(
        postrider
            .submit(once("carl@example.org"))
            .await
            .unwrap()
            .durability,
        Durability::Direct
    );

    assert_eq!(scripted.begun(), ["bob@example.org", "carl@example.org"]);
}
