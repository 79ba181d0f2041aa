//! How long the message of delivered mail is kept, and what is told of it afterwards; and that what
//! has ended goes as fast as others come.

use std::time::Duration;

use postrider::delivery::{Outcome, Phase, Reply};
use postrider::{Clock, Dispatcher, Drain, Error, Mail, Priority, hours, seconds};

use crate::common::{
    ScriptedRelay, TestSpool, engine, eventually, mail_to, submit, test_spool::is_of_files,
};

/// A relay that rejects what goes to `no…@`.
fn strict() -> ScriptedRelay {
    let scripted = ScriptedRelay::free();
    scripted.answer(|mail| match mail.recipients[0].as_str().starts_with("no") {
        true => Outcome::Rejected(Phase::RcptTo, Reply::new(550, "5.1.1 no such user")),
        false => Outcome::Delivered(Reply::new(250, "2.0.0 taken")),
    });
    scripted
}

/// A mail whose message stands in its record, or in parts.
fn message(to: &str, lines: usize) -> Mail {
    let code = format!("one-time code 123456\n{}", "and more\n".repeat(lines));
    mail_to(to).text(code).build().unwrap()
}

async fn is_forgotten(postrider: &Dispatcher, id: postrider::MailId) -> bool {
    matches!(postrider.raw(id).await, Err(Error::Forgotten(it)) if it == id)
}

#[tokio::test]
async fn the_message_of_delivered_mail_goes_after_a_while_and_its_record_stays() {
    let (clock, scripted, dir) = (Clock::fake(), strict(), tempfile::tempdir().unwrap());
    let open = || {
        engine(scripted.relay(), &clock)
            .test_spool_in(dir.path())
            .keep_bodies(hours(1))
    };

    let postrider = open().start().await.unwrap();
    let mut delivered = Vec::new();
    for lines in [1, 1000, 100_000] {
        delivered.push(submit(&postrider, message("ada@example.org", lines)).await);
    }

    let dead = submit(&postrider, message("nobody@example.org", 1000)).await;
    for id in delivered.iter().chain([&dead]) {
        postrider.wait(*id).await.unwrap();
    }
    clock.advance(hours(1) - seconds(1));
    for id in &delivered {
        assert!(postrider.raw(*id).await.unwrap().len() > 100, "not yet");
    }

    clock.advance(seconds(2));
    for id in &delivered {
        eventually("forgotten", async || is_forgotten(&postrider, *id).await).await;
        let status = postrider.status(*id).await.unwrap();
        assert_eq!(status.state.as_str(), "delivered");
        assert_eq!(status.deliveries[0].attempts.len(), 1);
        let refused = postrider.retry(*id).await.unwrap_err();
        assert_eq!(refused, Error::Forgotten(*id));
        assert!(refused.to_string().contains("keep_bodies"), "{refused}");
    }

    assert!(postrider.raw(dead).await.is_ok(), "it can be tried again");
    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop(postrider);

    if !is_of_files("what its files hold") {
        look_at_files(dir.path(), &delivered, dead);
    }

    let postrider = open().start().await.unwrap();
    assert!(is_forgotten(&postrider, delivered[2]).await);
    clock.advance(hours(7 * 24));
    for id in &delivered {
        let unknown = Err(Error::UnknownMail(*id));
        eventually("gone", async || postrider.raw(*id).await == unknown).await;
    }
}

/// A spool of which these messages are forgotten, and this one is not.
fn look_at_files(dir: &std::path::Path, delivered: &[postrider::MailId], dead: postrider::MailId) {
    let verified = postrider::spool::sled::verify(dir).unwrap();
    assert_eq!((verified.mails, verified.problems), (4, Vec::new()));

    let out = dir.join("out");
    let exported = postrider::spool::sled::export(dir, &out).unwrap();
    assert_eq!((exported.mails, exported.problems), (4, Vec::new()));
    for id in delivered {
        assert!(!out.join(format!("{id}.eml")).exists());
        let told = std::fs::read_to_string(out.join(format!("{id}.json"))).unwrap();
        assert!(told.contains("\"is_message_kept\": false"), "{told}");
    }

    assert!(out.join(format!("{dead}.eml")).exists());
    let salvaged = postrider::spool::sled::salvage(dir, &dir.join("new")).unwrap();
    assert_eq!((salvaged.mails, salvaged.missing), (4, Vec::new()));
}

#[tokio::test]
async fn a_message_that_is_not_to_be_kept_is_gone_once_it_is_delivered_to_all() {
    let (clock, scripted) = (Clock::fake(), ScriptedRelay::held());
    let builder = engine(scripted.relay(), &clock).keep_bodies(Duration::ZERO);
    let postrider = builder.start().await.unwrap();

    let two = mail_to("ada@example.org").to("bob@example.org");
    let ids = [
        submit(&postrider, message("ada@example.org", 1)).await,
        submit(&postrider, message("ada@example.org", 5000)).await,
        submit(&postrider, two.text("123456").build().unwrap()).await,
    ];

    for id in ids {
        assert!(postrider.raw(id).await.is_ok(), "it is still to be sent");
    }
    scripted.let_go();
    for id in ids {
        postrider.wait(id).await.unwrap();
        assert!(is_forgotten(&postrider, id).await, "at once");
    }
}

/// How many deliveries the spool knows of that a relay took.
async fn kept(postrider: &Dispatcher) -> u64 {
    let stats = postrider.stats().await.unwrap();
    stats.deliveries.get("delivered").copied().unwrap_or(0)
}

#[tokio::test]
async fn what_has_ended_goes_as_fast_as_others_come() {
    let (scripted, dir) = (ScriptedRelay::free(), tempfile::tempdir().unwrap());
    let postrider = Dispatcher::builder()
        .relay(scripted.relay())
        .test_spool_in(dir.path())
        .retention(Duration::ZERO)
        .idempotency_ttl(Duration::ZERO)
        .start()
        .await
        .unwrap();
    // So many that what is merely under way, some groups in a database, is not taken for a lag.
    let (groups, each) = (40, 250);

    let mut most = 0;
    for _ in 0..groups {
        let mails = (0..each).map(|_| {
            let mail = mail_to("ada@example.org").priority(Priority::Bulk);
            mail.text("123456").build().unwrap()
        });
        for receipt in postrider.submit_many(mails.collect()).await {
            receipt.unwrap();
        }
        most = most.max(kept(&postrider).await);
    }

    assert!(
        most < groups * each / 4,
        "{most} of {} were kept at once though none is to be",
        groups * each
    );

    eventually("nothing is kept", async || kept(&postrider).await == 0).await;
}
