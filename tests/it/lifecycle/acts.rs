//! Who did what: every act is in the journal with who it was and from where, and the audit trail
//! finds it, over restarts too.

use std::net::IpAddr;

use postrider::{AuditEntry, AuditQuery, Clock, Dispatcher, Drain, Query, Submitter, seconds};

use crate::common::{EventLog, ScriptedRelay, TestSpool, engine, mail, mail_to, submit};

async fn audit(postrider: &Dispatcher, query: AuditQuery) -> Vec<AuditEntry> {
    postrider.audit(query).await.unwrap().entries
}

fn summaries(entries: &[AuditEntry]) -> Vec<(&str, Option<&str>, Option<&str>, u64)> {
    entries
        .iter()
        .map(|entry| {
            (
                entry.act.as_str(),
                entry.who.as_deref(),
                entry.from.as_deref(),
                entry.count,
            )
        })
        .collect()
}

#[tokio::test]
async fn who_did_what_from_where_and_to_how_many_holds_over_a_restart() {
    let scripted = ScriptedRelay::free();
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::fake();
    let builder = || engine(scripted.relay(), &clock).test_spool_in(dir.path());
    let postrider = builder().start().await.unwrap();
    let address: IpAddr = "192.0.2.7".parse().unwrap();
    let ops = postrider
        .on_behalf_of(Submitter::token("ops"))
        .from_address(address);

    ops.pause("primary").await.unwrap();
    let first = submit(&postrider, mail("ada@example.org")).await;
    let second = submit(&postrider, mail("bob@example.org")).await;
    ops.cancel(first).await.unwrap();
    postrider.cancel(second).await.unwrap();
    ops.retry(first).await.unwrap();
    ops.resume("primary").await.unwrap();
    postrider.wait(first).await.unwrap();

    assert!(
        ops.cancel(first).await.is_err(),
        "too late: nothing was done"
    );
    assert!(ops.pause("nowhere").await.is_err());

    let from = Some("192.0.2.7");
    let expected = [
        ("resume", Some("token:ops"), from, 1),
        ("retry", Some("token:ops"), from, 1),
        ("cancel", Some("local"), None, 1),
        ("cancel", Some("token:ops"), from, 1),
        ("pause", Some("token:ops"), from, 1),
    ];

    let all = audit(&postrider, AuditQuery::default()).await;
    assert_eq!(summaries(&all), expected);
    let mails: Vec<_> = all.iter().map(|entry| entry.mail).collect();
    assert_eq!(mails, [None, Some(first), Some(second), Some(first), None]);
    assert_eq!(all[0].relay.as_deref(), Some("primary"));

    let mut of_first = EventLog::of(&postrider, first, 0);
    let cancelled = of_first.until("cancelled").await.pop().unwrap();
    assert_eq!(
        (cancelled.who, cancelled.from.as_deref()),
        (Some(Submitter::token("ops")), from),
        "what became of the mail says by whom"
    );

    let metrics = postrider.metrics().await.unwrap();
    assert!(
        metrics.contains("postrider_acts_total{act=\"cancel\"} 2\n"),
        "{metrics}"
    );

    let mut events = EventLog::by(&postrider);
    postrider.note_reload(None).await;
    events.first("reloaded").await;
    let metrics = postrider.metrics().await.unwrap();
    assert!(
        metrics.contains("postrider_acts_total{act=\"reload\"} 1\n"),
        "{metrics}"
    );
    let all = audit(&postrider, AuditQuery::default()).await;

    postrider.shutdown(Drain::within(seconds(5))).await.unwrap();
    drop((postrider, ops));

    let postrider = builder().start().await.unwrap();
    assert_eq!(audit(&postrider, AuditQuery::default()).await, all);
}

#[tokio::test]
async fn the_audit_trail_is_filtered_and_read_page_by_page() {
    let scripted = ScriptedRelay::free();
    let clock = Clock::fake();
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    let ops = postrider.on_behalf_of(Submitter::token("ops"));
    let begin = clock.now();

    for n in 0..10u64 {
        clock.advance(seconds(1));
        let hand = if n % 2 == 0 { &ops } else { &postrider };
        hand.pause("primary").await.unwrap();
        hand.resume("primary").await.unwrap();
    }

    let count = async |query| audit(&postrider, query).await.len();
    let all = AuditQuery::default;

    assert_eq!(count(all()).await, 20);
    for who in ["ops", "token:ops"] {
        let who = Some(who.to_owned());
        assert_eq!(count(AuditQuery { who, ..all() }).await, 10);
    }

    let who = Some("op".to_owned());
    assert_eq!(count(AuditQuery { who, ..all() }).await, 0);
    let act = Some("pause".to_owned());
    assert_eq!(count(AuditQuery { act, ..all() }).await, 10);

    let since = Some(begin + seconds(8));
    assert_eq!(count(AuditQuery { since, ..all() }).await, 6);
    let until = Some(begin + seconds(3));
    assert_eq!(count(AuditQuery { until, ..all() }).await, 4);

    let relay = Some("other".to_owned());
    assert_eq!(count(AuditQuery { relay, ..all() }).await, 0);

    let whole = audit(&postrider, all()).await;
    let mut pages = Vec::new();
    let mut before = None;
    loop {
        let query = AuditQuery {
            before,
            limit: 3,
            ..all()
        };
        let page = postrider.audit(query).await.unwrap();
        assert!(page.entries.len() <= 3);
        pages.extend(page.entries);
        match page.next {
            Some(next) => before = Some(next.parse().unwrap()),
            None => break,
        }
    }

    assert_eq!(pages, whole);
}

#[tokio::test]
async fn what_is_done_to_many_is_one_act_with_their_number_and_each_mail_says_by_whom() {
    let scripted = ScriptedRelay::free();
    let clock = Clock::fake();
    let postrider = engine(scripted.relay(), &clock).start().await.unwrap();
    postrider.pause("primary").await.unwrap();

    let mut ids = Vec::new();
    for n in 0..3 {
        let to = format!("user{n}@example.org");
        let mail = mail_to(&to).expires_in(seconds(5)).build().unwrap();
        ids.push(submit(&postrider, mail).await);
    }

    clock.advance(seconds(10));
    for id in &ids {
        postrider.wait(*id).await.unwrap();
    }
    postrider.resume("primary").await.unwrap();

    let ops = postrider.on_behalf_of(Submitter::user("ops"));
    let recipient = Some("user1@example.org".parse().unwrap());
    let only = Query {
        recipient,
        ..Query::default()
    };

    assert_eq!(
        ops.dead_letters().retry(only.clone(), true).await.unwrap(),
        1
    );

    assert_eq!(ops.dead_letters().retry(only, false).await.unwrap(), 1);
    postrider.wait(ids[1]).await.unwrap();
    let all = Query::default();
    assert_eq!(ops.dead_letters().purge(all, false).await.unwrap(), 2);

    let by_ops = AuditQuery {
        who: Some("user:ops".to_owned()),
        ..AuditQuery::default()
    };

    let acts = audit(&postrider, by_ops).await;
    let told: Vec<_> = acts
        .iter()
        .map(|entry| (entry.act.as_str(), entry.count, entry.filter.as_deref()))
        .collect();

    assert_eq!(
        told,
        [
            ("purge", 2, Some("state:dead")),
            ("retry", 1, Some("state:dead recipient:user1@example.org")),
        ],
        "a dry run does nothing"
    );

    let mut events = EventLog::after(&postrider, 0);
    let purged = events.until("purged").await.pop().unwrap();
    assert_eq!(purged.who, Some(Submitter::user("ops")));
}

#[tokio::test]
async fn a_mail_that_is_taken_back_from_a_sender_is_in_the_audit_trail() {
    let scripted = ScriptedRelay::held();
    let relay = scripted.relay().connections(1);
    let postrider = engine(relay, &Clock::fake()).start().await.unwrap();
    submit(&postrider, mail("first@example.org")).await;
    scripted.begins(1).await;
    let waiting = submit(&postrider, mail("second@example.org")).await;
    postrider.cancel(waiting).await.unwrap();
    let acts = audit(&postrider, AuditQuery::default()).await;
    let told: Vec<_> = acts.iter().map(|entry| (&*entry.act, entry.mail)).collect();
    assert_eq!(told, [("cancel", Some(waiting))]);
    scripted.let_go();
}
