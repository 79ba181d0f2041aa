//! A relay that does not answer over one mail: what nobody has begun is sent by others, expires and
//! is cancelled meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use postrider::{Clock, Dispatcher, MailId, Priority, Relay, minutes};

use crate::common::{Act, FakeSmtp, Rule, Step, engine, eventually, mail_to, relay_at};

/// A server that never answers the first so many final dots, and how many it has seen.
async fn hangs(times: usize) -> (FakeSmtp, Arc<AtomicUsize>) {
    let dots = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dots);
    let rule = Rule::at(Step::FinalDot)
        .when(move |_| counted.fetch_add(1, Ordering::SeqCst) < times)
        .act(Act::Hang);
    (FakeSmtp::builder().rule(rule).start().await, dots)
}

/// Waits until so many final dots have come.
async fn dots_come(dots: &AtomicUsize, count: usize) {
    eventually("the final dots come", async || {
        dots.load(Ordering::SeqCst) == count
    })
    .await;
}

async fn start(relay: Relay, clock: &Clock) -> Dispatcher {
    engine(relay, clock).start().await.unwrap()
}

/// Submits so many codes together.
async fn submit_codes(postrider: &Dispatcher, count: usize) -> Vec<MailId> {
    let code = |n| {
        mail_to(&format!("user{n}@example.org"))
            .priority(Priority::Critical)
            .expires_in(minutes(5))
            .build()
            .unwrap()
    };
    let receipts = postrider.submit_many((0..count).map(code).collect()).await;
    receipts.into_iter().map(|one| one.unwrap().id).collect()
}

#[tokio::test]
async fn a_transaction_that_hangs_holds_up_no_other_mail() {
    let (server, _) = hangs(1).await;
    let postrider = start(relay_at(&server).connections(5), &Clock::fake()).await;
    let began = Instant::now();
    submit_codes(&postrider, 100).await;
    server.mails_arrive(99).await;

    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );

    eventually("all but one are recorded", async || {
        postrider.stats().await.unwrap().pending == 1
    })
    .await;
}

#[tokio::test]
async fn behind_a_transaction_that_hangs_mail_is_cancelled_at_once() {
    let (server, dots) = hangs(1).await;
    let postrider = start(relay_at(&server).connections(1), &Clock::fake()).await;
    let codes = submit_codes(&postrider, 40).await;
    dots_come(&dots, 1).await;

    let began = Instant::now();
    let mut cancelled = 0;
    for id in &codes[1..] {
        let status = postrider.cancel(*id).await.unwrap();
        cancelled += usize::from(status.state.as_str() == "cancelled");
    }

    assert_eq!(cancelled, 39);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );

    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn behind_transactions_that_hang_mail_expires_at_its_time() {
    let (clock, (server, dots)) = (Clock::fake(), hangs(2).await);
    let postrider = start(relay_at(&server).connections(2), &clock).await;
    let codes = submit_codes(&postrider, 40).await;
    dots_come(&dots, 2).await;

    clock.advance(minutes(6));
    eventually("all that nobody has begun are dead", async || {
        postrider.stats().await.unwrap().deliveries["dead"] == 38
    })
    .await;

    let mut sending = 0;
    for id in codes {
        let status = postrider.status(id).await.unwrap();
        sending += usize::from(status.state.as_str() == "sending");
    }

    assert_eq!(sending, 2, "these may have come whole");
}
