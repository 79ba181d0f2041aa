//! `postrider spool copy`, `verify`, `export` and `migrate`: a spool moves between a directory and
//! a database, and nothing of it is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{
    Attempt, DeadReason, Delivery, Feedback, FeedbackKind, Phase, Requester, Stage,
};
use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{
    ClaimRequest, FeedbackResult, Manifest, NewFeedback, NewMail, PutResult, Query, Record, Spool,
    SpoolOptions, Suppression, SuppressionQuery, SuppressionReason, sled,
};
use postrider::{Event, MailId, Priority, Submitter};

use super::common::FakeSmtp;
use super::common::postgres::Server;
use super::damage::{everything_due, new_mail, put, start};
use super::nodes::Cluster;

/// All that a spool tells of what it keeps.
#[derive(Debug, PartialEq)]
struct Everything {
    records: BTreeMap<MailId, (Manifest, Vec<Delivery>, Option<Bytes>)>,
    feedback: Vec<(MailId, u16, Feedback)>,
    pending: u64,
    of_app: (u64, u64),
    suppressions: Vec<Suppression>,
    paused: BTreeSet<String>,
    events: Vec<Event>,
    reader: u64,
    kept: Vec<(Vec<u8>, Vec<u8>)>,
    journal: u32,
}

async fn everything(spool: &dyn Spool) -> Everything {
    let mut records = BTreeMap::new();
    let mut came_back = Vec::new();
    let mut query = Query {
        limit: 1000,
        ..Query::default()
    };

    loop {
        let page = spool.list(query.clone(), start()).await.unwrap();
        for record in page.mails {
            let Record {
                manifest,
                deliveries,
                feedback,
                ..
            } = record;
            let id = manifest.id;
            came_back.extend(feedback.into_iter().map(|(index, one)| (id, index, one)));
            let body = spool.body(manifest.id).await.ok().flatten();
            records.insert(manifest.id, (manifest, deliveries, body));
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            break;
        }
    }

    came_back.sort_by_key(|(id, index, one)| (*id, *index, one.at));
    let journal = spool.journal().unwrap();
    let mut events = Vec::new();
    let mut at = 0;
    loop {
        let page = journal.after(at, 500).await.unwrap();
        if page.events.is_empty() && page.last == at {
            break;
        }
        events.extend(page.events.iter().map(|event| (**event).clone()));
        at = page.last;
    }

    let all = SuppressionQuery {
        limit: 1000,
        ..SuppressionQuery::default()
    };

    let app = Submitter::token("app");
    let suppressions = spool.suppressions().unwrap();
    Everything {
        records,
        pending: spool.pending(),
        of_app: (
            spool.pending_of(&app),
            spool.accepted_on(&app, start().day()),
        ),
        feedback: came_back,
        suppressions: suppressions.page(all).await.unwrap().suppressions,
        paused: spool.paused().await.unwrap(),
        events,
        reader: journal.reader("shop", 0).await.unwrap(),
        kept: journal.kept("shop", vec![], vec![255], 10).await.unwrap(),
        journal: journal.id(),
    }
}

fn tried(delivery: &Delivery, stage: Stage) -> Delivery {
    let mut next = delivery.clone();
    next.tries += 1;
    next.counted += 1;
    next.stage = stage;

    next.attempts.push(Attempt {
        at: start(),
        relay: "primary".into(),
        phase: Phase::FinalDot,
        code: Some(450),
        enhanced: Some("4.2.0".into()),
        text: "later".into(),
        tls: None,
    });

    next
}

/// A mail of each kind that there is.
async fn fill(spool: &dyn Spool) {
    spool.set_paused("primary", true).await.unwrap();
    let at = start();
    let hour = Duration::from_secs(3600);

    let mut crowd = new_mail("r0@example.org");
    let one = crowd.deliveries[0].clone();
    crowd.deliveries = (0..3000)
        .map(|n| Delivery {
            recipient: format!("r{n}@example.org").parse().unwrap(),
            ..one.clone()
        })
        .collect();
    crowd.manifest.recipients = 3000;
    put(spool, crowd).await;

    let large: Bytes = (0..900_000_u32).map(|n| (n % 251) as u8).collect();
    let stages = [
        Stage::Delivered { at },
        Stage::Dead {
            at,
            reason: DeadReason::Rejected,
        },
        Stage::Pending { due: at + hour },
        Stage::Cancelled { at },
    ];

    let mut ours = Vec::new();
    for (n, _) in stages.iter().enumerate() {
        let mut mail = new_mail(&format!("one{n}@example.org"));
        mail.manifest.priority = Priority::Critical;
        mail.manifest.submitter = Some(Submitter::token("app"));
        mail.manifest.idempotency_key = Some(format!("order-{n}"));
        mail.body = match n {
            2 => large.clone(),
            _ => mail.body,
        };
        mail.manifest.size = mail.body.len() as u64;
        ours.push(put(spool, mail).await);
    }

    let wanted = ClaimRequest {
        turns: vec![Priority::Critical; 4],
        ..everything_due()
    };

    for claim in spool.claim(wanted).await.unwrap() {
        let Some(n) = ours.iter().position(|id| *id == claim.manifest.id) else {
            continue;
        };
        if let Stage::Cancelled { .. } = stages[n] {
            continue;
        }
        let settled = claim.deliveries.into_iter().map(|(lease, delivery)| {
            let next = tried(&delivery, stages[n]);
            (lease, next)
        });
        spool.settle(settled.collect()).await.unwrap();
    }

    let by = Requester {
        who: Some(Submitter::token("clerk")),
        from: None,
        is_part: false,
    };

    tokio::time::timeout(Duration::from_secs(20), async {
        while spool.cancel_by(&by, ours[3], at).await.unwrap()
            == postrider::spool::OperationResult::TooLate
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("its lease goes back");

    let new = (0..30_u8).map(|n| NewFeedback {
        mail: ours[usize::from(n % 3)],
        index: 0,
        id: [n; 16],
        feedback: Feedback {
            at: at + Duration::from_millis(u64::from(n)),
            kind: FeedbackKind::Bounced,
            status: Some("5.2.2".into()),
            text: "mailbox full".into(),
            by: "report".into(),
        },
        permanent: false,
        suppression: None,
    });
    let results = spool.feedback().unwrap().keep(new.collect()).await;
    assert_eq!(results, Ok(vec![FeedbackResult::Kept; 30]));

    let entries = (0..1200).map(|n| Suppression {
        address: format!("gone{n}@example.org").parse().unwrap(),
        reason: SuppressionReason::ALL[n % 4],
        list: (n % 3 == 0).then(|| "news".into()),
        since: at,
        until: (n % 2 == 0).then_some(at + hour),
        note: (n % 5 == 0).then(|| "550 no such user".into()),
    });

    let suppressions = spool.suppressions().unwrap();
    suppressions.add(entries.collect()).await.unwrap();
    let journal = spool.journal().unwrap();
    journal.reader("shop", 0).await.unwrap();

    let kept = vec![(vec![1, 2], Some(vec![3; 100]))];
    journal.advance("shop", 3, kept).await.unwrap();
}

fn options() -> SpoolOptions {
    SpoolOptions::default()
}

fn postrider(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_postrider"))
        .args(["spool"])
        .args(arguments)
        .current_dir(std::env::temp_dir())
        .output()
        .unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let done = postrider(arguments);
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout).into_owned(),
        String::from_utf8_lossy(&done.stderr).into_owned(),
    );
    assert!(done.status.success(), "{arguments:?}: {out}{err}");
    out
}

fn fails(arguments: &[&str]) -> String {
    let done = postrider(arguments);
    assert!(
        matches!(done.status.code(), Some(1 | 75)),
        "{arguments:?}: {done:?}"
    );
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// The key of a mail that was there holds.
async fn assert_key_holds(spool: &dyn Spool, everything: &Everything) {
    let with_key = everything
        .records
        .values()
        .find(|(manifest, ..)| manifest.idempotency_key.as_deref() == Some("order-1"));
    let (manifest, deliveries, body) = with_key.unwrap();

    let id: MailId = uuid::Uuid::now_v7().to_string().parse().unwrap();
    let again = NewMail {
        manifest: Manifest {
            id,
            ..manifest.clone()
        },
        body: body.clone().unwrap(),
        deliveries: deliveries.clone(),
    };

    let put = spool.put(vec![again]).await;
    assert_eq!(put, [Ok(PutResult::Duplicate(manifest.id))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_moves_into_a_database_and_back_and_nothing_of_it_is_lost() {
    let server = Server::start();
    let schema = format!("c{}-there", std::process::id());
    let dir = tempfile::tempdir().unwrap();
    let (first, last) = (dir.path().join("first"), dir.path().join("last"));
    let text = |path: &Path| path.display().to_string();

    let spool: Arc<dyn Spool> = sled::open(&first, options()).unwrap();
    fill(&*spool).await;
    let before = everything(&*spool).await;
    assert_eq!(
        (before.pending, before.of_app),
        (3001, (1, 4)),
        "as it was filled"
    );

    let in_use = fails(&["copy", &text(&first), server.url(), "--schema", &schema]);
    assert!(in_use.contains("in use"), "{in_use}");
    spool.close().await.unwrap();
    drop(spool);

    // A node was there before, and left what it left.
    let there = PostgresSpool::new(server.url()).schema(&schema);
    let there = there.open(options()).await.unwrap();
    for relay in ["primary", "other"] {
        there.set_paused(relay, true).await.unwrap();
    }
    there.close().await.unwrap();
    drop(there);

    let told = succeeds(&["copy", &text(&first), server.url(), "--schema", &schema]);
    assert!(told.contains("mails: 5; deliveries: 3004"), "{told}");
    let told = succeeds(&["verify", server.url(), "--schema", &schema]);
    assert!(
        told.contains("mails: 5; deliveries: 3001 pending"),
        "{told}"
    );

    let again = fails(&["copy", &text(&first), server.url(), "--schema", &schema]);
    assert!(again.contains("holds mail already"), "{again}");

    let database = PostgresSpool::new(server.url()).schema(&schema);
    let spool = database.open(options()).await.unwrap();
    assert_eq!(everything(&*spool).await, before);
    assert_key_holds(&*spool, &before).await;

    let open = fails(&["copy", server.url(), &text(&last), "--schema", &schema]);
    assert!(open.contains("stop them first"), "{open}");
    assert!(!last.exists());
    spool.close().await.unwrap();
    drop(spool);

    succeeds(&["copy", server.url(), &text(&last), "--schema", &schema]);
    let told = succeeds(&["verify", &text(&last)]);
    assert!(
        told.contains("mails: 5; deliveries: 3001 pending"),
        "{told}"
    );

    let spool = sled::open(&last, options()).unwrap();
    let after = everything(&*spool).await;
    assert_eq!(after, before);
    assert_key_holds(&*spool, &before).await;

    // Whatever waits is handed out there, each delivery once.
    let mut held = Vec::new();
    loop {
        let claims = spool.claim(everything_due()).await.unwrap();
        if claims.is_empty() {
            break;
        }
        held.extend(claims);
    }

    let claimed: usize = held.iter().map(|claim| claim.deliveries.len()).sum();
    assert_eq!(claimed, 3000, "all but the one that is deferred");
    drop(held);
    spool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_made_verified_and_exported_by_hand() {
    let server = Server::start();
    let schema = format!("c{}-hand", std::process::id());
    let at = ["--schema", &schema];

    let url = server.url();
    let missing = fails(&["verify", url, at[0], at[1]]);
    assert!(missing.contains("postrider spool migrate"), "{missing}");

    let made = succeeds(&["migrate", url, at[0], at[1]]);
    assert!(made.contains("version 0 is now"), "{made}");
    let again = succeeds(&["migrate", url, at[0], at[1], "--json"]);
    let again: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(again["before"], again["after"]);

    let database = PostgresSpool::new(url).schema(&schema);
    let spool = database.open(options()).await.unwrap();
    let id = put(&*spool, new_mail("ada@example.org")).await;
    spool.close().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out").display().to_string();
    let told = succeeds(&["export", url, &out, at[0], at[1]]);
    assert!(told.contains(": 1"), "{told}");

    let message = std::fs::read(dir.path().join(format!("out/{id}.eml"))).unwrap();
    assert_eq!(message, b"Subject: a sample\r\n\r\nHello.\r\n");
    let envelope = std::fs::read_to_string(dir.path().join(format!("out/{id}.json"))).unwrap();
    assert!(envelope.contains("ada@example.org"), "{envelope}");

    // What does not agree is told.
    server.sql(&format!(
        "UPDATE \"{schema}\".head SET totals[2] = 7; DELETE FROM \"{schema}\".routes"
    ));

    let told = fails(&["verify", url, at[0], at[1]]);
    assert!(told.contains("a route without a name"), "{told}");
    let nowhere = fails(&["verify", "postgres://nobody@127.0.0.1:1/none"]);
    assert!(nowhere.contains("cannot be reached"), "{nowhere}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_verified_and_exported_while_nodes_go_on_and_copied_only_when_none_does() {
    let relay = FakeSmtp::start().await;
    let cluster = Cluster::over(Server::of_its_own(), "busy", &relay);
    let (first, second) = (cluster.node("first", 5), cluster.node("second", 5));
    let url = cluster.server.url();
    let at = ["--schema", &cluster.schema];
    let dir = tempfile::tempdir().unwrap();
    let text = |name: &str| dir.path().join(name).display().to_string();

    let stop = std::sync::atomic::AtomicBool::new(false);
    let ids = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut ids = Vec::new();
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                ids.extend(first.hand_in_many(&format!("busy{}-", ids.len()), 5, "hello"));
            }
            ids
        });
        let looked: Vec<Output> = (0..6)
            .map(|n| match n {
                0..4 => postrider(&["verify", url, at[0], at[1]]),
                _ => postrider(&["export", url, &text(&format!("out{n}")), at[0], at[1]]),
            })
            .collect();
        let copies = [
            postrider(&["copy", url, &text("copy"), at[0], at[1]]),
            postrider(&["copy", &text("nothing"), url, at[0], at[1]]),
        ];
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for looked in looked {
            assert!(looked.status.success(), "{looked:?}");
        }
        for copied in copies {
            assert!(!copied.status.success(), "{copied:?}");
        }
        client.join().unwrap()
    });
    assert!(!dir.path().join("copy").exists());
    second.become_all(&ids, "delivered");
    assert_eq!(relay.accepted(), ids.len());
}
