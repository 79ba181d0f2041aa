//! Dead letters: kept with their reasons, found by filters, tried again or thrown away by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postrider::delivery::{Outcome, Phase, Reply, State};
use postrider::{Clock, Dispatcher, Error, MailId, Priority, Query, hours, minutes, seconds};

use crate::common::{
    Act, FakeSmtp, Rule, ScriptedRelay, Step, becomes, engine, mail, mail_to, relay_at, submit,
};

/// A relay that rejects what goes to `no…@` until it is told not to.
fn strict() -> (ScriptedRelay, Arc<AtomicBool>) {
    let (scripted, strict) = (ScriptedRelay::free(), Arc::new(AtomicBool::new(true)));
    let is_strict = strict.clone();
    scripted.answer(move |mail| {
        let refuses =
            is_strict.load(Ordering::SeqCst) && mail.recipients[0].as_str().starts_with("no");
        match refuses {
            true => Outcome::Rejected(Phase::RcptTo, Reply::new(550, "5.1.1 no such user")),
            false => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
        }
    });
    (scripted, strict)
}

async fn dead(postrider: &Dispatcher, to: &str, tag: &str, priority: Priority) -> MailId {
    let id = submit(
        postrider,
        mail_to(to).tag(tag).priority(priority).build().unwrap(),
    )
    .await;
    assert_eq!(postrider.wait(id).await.unwrap().state.as_str(), "dead");
    id
}

#[tokio::test]
async fn a_dead_letter_is_tried_again_with_a_full_count_and_a_new_lifetime() {
    let (clock, (scripted, strict)) = (Clock::fake(), strict());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let brief = mail_to("nobody@example.org")
        .expires_in(minutes(5))
        .build()
        .unwrap();

    let id = submit(&postrider, brief).await;
    let status = postrider.wait(id).await.unwrap();
    assert_eq!(status.deliveries[0].reason.unwrap().as_str(), "rejected");
    clock.advance(hours(1));
    strict.store(false, Ordering::SeqCst);

    let retried = postrider.retry(id).await.unwrap();
    assert_eq!(retried.deliveries[0].attempts_counted, 0);
    assert!(
        retried.expires_at >= clock.now() + hours(24),
        "it would have expired long ago"
    );

    let end = postrider.wait(id).await.unwrap();
    assert_eq!(
        (end.state.as_str(), end.deliveries[0].attempts.len()),
        ("delivered", 2)
    );

    assert!(matches!(
        postrider.retry(id).await.unwrap_err(),
        Error::TooLate {
            state: "delivered",
            ..
        }
    ));
}

#[tokio::test]
async fn a_deferred_mail_is_tried_at_once_where_somebody_wants_it() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::free());
    scripted.answer(|_| Outcome::Deferred(Phase::RcptTo, Reply::new(450, "4.2.1 busy")));
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let id = submit(&postrider, mail("ada@example.org")).await;
    becomes(&postrider, id, "deferred").await;
    scripted.answer(|_| Outcome::Delivered(Reply::new(250, "2.0.0 taken")));
    postrider.retry(id).await.unwrap();
    assert_eq!(
        postrider.wait(id).await.unwrap().state.as_str(),
        "delivered"
    );
}

#[tokio::test]
async fn dead_letters_are_tried_again_by_filter_and_a_dry_run_only_counts() {
    let (scripted, strict) = strict();
    let postrider = engine(scripted.relay(), &Clock::fake())
        .start()
        .await
        .unwrap();
    let news = dead(&postrider, "no1@example.org", "news", Priority::Bulk).await;
    let code = dead(&postrider, "no2@example.org", "code", Priority::Critical).await;
    let other = dead(&postrider, "no3@example.org", "code", Priority::Default).await;

    let fine = submit(&postrider, mail("ada@example.org")).await;
    postrider.wait(fine).await.unwrap();
    strict.store(false, Ordering::SeqCst);
    let tagged = Query {
        tag: Some("code".into()),
        ..Query::default()
    };

    let critical = Query {
        priority: Some(Priority::Critical),
        ..Query::default()
    };

    let to_news = Query {
        recipient: Some("no1@example.org".parse().unwrap()),
        ..Query::default()
    };

    for (filter, count) in [
        (&tagged, 2),
        (&critical, 1),
        (&to_news, 1),
        (&Query::default(), 3),
    ] {
        assert_eq!(
            postrider.retry_dead(filter.clone(), true).await.unwrap(),
            count,
            "{filter:?}"
        );
    }

    let begun = scripted.begun().len();
    assert_eq!(begun, 4, "a dry run sends nothing");
    assert_eq!(postrider.retry_dead(tagged, false).await.unwrap(), 2);
    for id in [code, other] {
        assert_eq!(
            postrider.wait(id).await.unwrap().state.as_str(),
            "delivered"
        );
    }

    assert_eq!(postrider.status(news).await.unwrap().state.as_str(), "dead");
}

#[tokio::test]
async fn dead_letters_are_purged_by_filter_and_nothing_else_is() {
    let (clock, (scripted, _strict)) = (Clock::fake(), strict());
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let news = dead(&postrider, "no1@example.org", "news", Priority::Bulk).await;
    let code = dead(&postrider, "no2@example.org", "code", Priority::Critical).await;

    let fine = submit(
        &postrider,
        mail_to("ada@example.org").tag("news").build().unwrap(),
    )
    .await;

    postrider.wait(fine).await.unwrap();
    let tagged = Query {
        tag: Some("news".into()),
        ..Query::default()
    };

    assert_eq!(postrider.purge_dead(tagged.clone(), true).await.unwrap(), 1);
    assert!(
        postrider.status(news).await.is_ok(),
        "a dry run deletes nothing"
    );

    assert_eq!(postrider.purge_dead(tagged, false).await.unwrap(), 1);
    assert_eq!(
        postrider.status(news).await.unwrap_err(),
        Error::UnknownMail(news)
    );

    assert!(postrider.status(code).await.is_ok() && postrider.status(fine).await.is_ok());
    let listed = postrider
        .list(Query {
            state: Some(State::Dead),
            ..Query::default()
        })
        .await
        .unwrap();

    assert_eq!(
        listed.mails.iter().map(|mail| mail.id).collect::<Vec<_>>(),
        [code]
    );
}

#[tokio::test]
async fn a_mail_that_is_only_partly_dead_is_not_purged_while_the_rest_is_on_its_way() {
    let clock = Clock::fake();
    let server = FakeSmtp::builder()
        .rule(
            Rule::at(Step::Rcpt)
                .to("no@")
                .act(Act::reply(550, "5.1.1 no such user")),
        )
        .rule(
            Rule::at(Step::Rcpt)
                .to("later@")
                .act(Act::reply(450, "4.2.1 busy")),
        )
        .start()
        .await;

    let postrider = engine(relay_at(&server), &clock).start().await.unwrap();
    let id = submit(
        &postrider,
        mail_to("no@example.org")
            .to("later@example.org")
            .build()
            .unwrap(),
    )
    .await;

    becomes(&postrider, id, "deferred").await;
    assert_eq!(
        postrider.purge_dead(Query::default(), true).await.unwrap(),
        0,
        "the dry run says what would be"
    );

    assert_eq!(
        postrider.purge_dead(Query::default(), false).await.unwrap(),
        0
    );

    server.behave();
    clock.advance(seconds(60));
    assert_eq!(postrider.wait(id).await.unwrap().state.as_str(), "partial");
    assert_eq!(
        postrider.purge_dead(Query::default(), false).await.unwrap(),
        1
    );
}

#[tokio::test]
async fn a_mail_that_is_on_its_way_as_it_should_be_is_not_retried() {
    let postrider = engine(ScriptedRelay::free().relay(), &Clock::fake())
        .start()
        .await
        .unwrap();

    postrider.pause("primary").await.unwrap();
    let later = mail_to("ada@example.org").delay(hours(2)).build().unwrap();
    for (state, mail) in [("scheduled", later), ("queued", mail("bob@example.org"))] {
        let id = submit(&postrider, mail).await;
        let before = postrider.status(id).await.unwrap();
        assert_eq!(before.state.as_str(), state);
        let error = postrider.retry(id).await.unwrap_err();
        assert!(error.to_string().contains(state), "{error}");
        assert_eq!(postrider.status(id).await.unwrap(), before);
    }
}

#[tokio::test]
async fn a_purge_says_whose_record_of_delivery_goes_with_it() {
    let no = Act::reply(550, "5.1.1 no such user");
    let rule = Rule::at(Step::Rcpt).to("nobody@").act(no);
    let server = FakeSmtp::builder().rule(rule).start().await;
    let postrider = engine(relay_at(&server), &Clock::fake())
        .start()
        .await
        .unwrap();

    let both = mail_to("nobody@example.org").to("ada@example.org");
    let id = submit(&postrider, both.build().unwrap()).await;
    postrider.wait(id).await.unwrap();

    let letters = postrider.dead_letters();
    for dry_run in [true, false] {
        let purged = letters.purge_all(Query::default(), dry_run).await.unwrap();
        assert_eq!((purged.mails, purged.delivered), (1, 1));
    }
}
