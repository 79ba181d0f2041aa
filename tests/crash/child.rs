//! One life of the engine: it accepts and sends until it is killed, and tells its journal whatever
//! it has promised.

use std::env;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use postrider::policy::Jitter;
use postrider::transport::TimeOuts;
use postrider::{
    Dispatcher, Drain, Error, EventItem, EventKind, Guarantee, Mail, Priority, Query, Relay,
    RetryPolicy, minutes, seconds,
};

/// Connections to the relay, and so senders.
pub const SENDERS: usize = 4;
/// Tasks that submit mail; each has keys of its own.
pub const SUBMITTERS: usize = 8;
/// The first of them submit so many mails at a time, as one group.
const BATCHES: usize = 2;
const BATCH: u64 = 16;
/// How many deliveries may wait, so that each life is spent on sending as much as on accepting.
const MAX_PENDING: u64 = 1500;
/// The size of a mail that is written in several groups.
const LARGE: usize = 300 * 1024;

/// What a life is to do, handed down in the environment.
pub struct Orders {
    pub spool: PathBuf,
    pub relay: String,
    /// For each submitter, the first number that was not acknowledged yet.
    pub next: Vec<u64>,
    /// Hand in what was not acknowledged, deliver everything, and end.
    pub is_last: bool,
}

impl Orders {
    pub fn into_environment(self) -> [(&'static str, String); 4] {
        let next: Vec<String> = self.next.iter().map(u64::to_string).collect();
        [
            ("CRASH_SPOOL", self.spool.to_str().unwrap().to_owned()),
            ("CRASH_RELAY", self.relay),
            ("CRASH_NEXT", next.join(",")),
            ("CRASH_LAST", self.is_last.to_string()),
        ]
    }

    /// Our orders, if we are a child.
    pub fn from_environment() -> Option<Self> {
        let next = env::var("CRASH_NEXT").ok()?;
        Some(Orders {
            spool: env::var("CRASH_SPOOL").unwrap().into(),
            relay: env::var("CRASH_RELAY").unwrap(),
            next: next
                .split(',')
                .map(|number| number.parse().unwrap())
                .collect(),
            is_last: env::var("CRASH_LAST").unwrap() == "true",
        })
    }
}

pub fn key_of(submitter: usize, number: u64) -> String {
    format!("{submitter}-{number}")
}

/// The submitter and the number of a key.
pub fn parts_of(key: &str) -> (usize, u64) {
    let (submitter, number) = key.split_once('-').unwrap();
    (submitter.parse().unwrap(), number.parse().unwrap())
}

/// Whether the mail of this key may arrive only once.
pub fn is_at_most_once(key: &str) -> bool {
    parts_of(key).1 % 5 == 3
}

pub fn recipients_of(key: &str) -> Vec<String> {
    let count = if parts_of(key).1 % 11 == 5 { 3 } else { 1 };
    (0..count).map(|n| format!("user{n}@example.org")).collect()
}

/// Writes one line, whole: what is written is the parent's, whatever happens to us next.
fn journal(line: impl Display) {
    let line = format!("journal {line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

fn mail(key: &str) -> Mail {
    let (_, number) = parts_of(key);
    let size = if number % 401 == 7 {
        LARGE
    } else {
        200 + (number as usize * 97) % 3000
    };

    let mut mail = Mail::builder()
        .from("shop@example.com")
        .subject(key)
        .idempotency_key(key);

    for recipient in recipients_of(key) {
        mail = mail.to(recipient);
    }
    if is_at_most_once(key) {
        mail = mail.guarantee(Guarantee::AtMostOnce);
    }
    if number.is_multiple_of(6) {
        mail = mail.priority(Priority::Critical);
    }

    mail.text("All work and no play.\r\n".repeat(size / 23 + 1))
        .build()
        .unwrap()
}

/// Hands in mail after mail, beginning with the last one that was acknowledged, which must keep its
/// id.
async fn submit(postrider: Dispatcher, submitter: usize, next: u64, last: Option<u64>) {
    let mut number = next.saturating_sub(1);
    while last.is_none_or(|last| number <= last) {
        let count = if submitter < BATCHES { BATCH } else { 1 };
        let keys: Vec<String> = (number..number + count)
            .map(|number| key_of(submitter, number))
            .collect();
        let results = match &keys[..] {
            [key] => vec![postrider.submit(mail(key)).await],
            keys => {
                postrider
                    .submit_many(keys.iter().map(|key| mail(key)).collect())
                    .await
            }
        };
        let mut is_full = false;
        for (key, result) in keys.iter().zip(results) {
            match result {
                Ok(receipt) => {
                    journal(format_args!("accepted {key} {}", receipt.id));
                    number += u64::from(!is_full);
                }
                Err(Error::Full { .. }) => is_full = true,
                Err(error) => return journal(format_args!("refused {key} {error}")),
            }
        }
        if is_full {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Tells the journal of each delivery as soon as its end is on disk.
async fn report_events(postrider: Dispatcher) {
    let mut events = postrider.events();
    journal("listening");
    while let Some(item) = events.next().await {
        let EventItem::Event(event) = item else {
            continue;
        };
        if let (EventKind::Delivered, Some(mail), Some(recipient)) =
            (&event.kind, event.mail, &event.recipient)
        {
            journal(format_args!("delivered {mail} {recipient}"));
        }
    }
}

/// Delivers everything, and tells what became of each delivery.
async fn finish(postrider: &Dispatcher) {
    while postrider.stats().await.unwrap().pending > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut query = Query {
        limit: 1000,
        ..Query::default()
    };

    loop {
        let page = postrider.list(query.clone()).await.unwrap();
        for mail in page.mails {
            for delivery in mail.deliveries {
                let reason = delivery.reason.map_or("-", |reason| reason.as_str());
                journal(format_args!(
                    "final {} {} {} {reason}",
                    mail.id, delivery.recipient, delivery.state
                ));
            }
        }
        match page.next {
            Some(next) => query.cursor = Some(next),
            None => break,
        }
    }

    assert!(
        postrider
            .shutdown(Drain::within(seconds(30)))
            .await
            .unwrap()
    );

    journal("done");
}

pub async fn live(orders: Orders) {
    // A time-out would look like a death of the relay, and would be explained by none.
    let relay = Relay::smtp(&orders.relay)
        .unwrap()
        .connections(SENDERS)
        .timeouts(TimeOuts::all(minutes(2)));

    let schedule = vec![Duration::from_millis(40)];
    let retry = RetryPolicy {
        schedule,
        max_attempts: Some(10_000),
        jitter: Jitter::Full,
        ..RetryPolicy::default()
    };

    let builder = Dispatcher::builder()
        .relay(relay)
        .retry(retry)
        .spool(&orders.spool)
        .max_pending(MAX_PENDING);

    let postrider = builder.start().await.unwrap();
    tokio::spawn(report_events(postrider.clone()));
    let next = Arc::new(orders.next);
    let submitters = (0..SUBMITTERS).map(|submitter| {
        let next = next[submitter];
        // A group that was submitted and not acknowledged reaches no further than this.
        let last = orders.is_last.then_some(next + BATCH);
        tokio::spawn(submit(postrider.clone(), submitter, next, last))
    });

    futures::future::join_all(submitters.collect::<Vec<_>>()).await;
    if orders.is_last {
        finish(&postrider).await;
    } else {
        journal("refused everything: no submitter is left");
    }
}
