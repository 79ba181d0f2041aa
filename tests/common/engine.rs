//! What tests of the whole engine share: small mails, policies without chance, and waiting for what
//! is told.

use std::time::Duration;

use futures::StreamExt;
use postrider::policy::{Jitter, RetryPolicy};
use postrider::{
    Builder, Clock, Dispatcher, Event, EventItem, EventStream, Mail, MailBuilder, MailId,
    MailStatus, Relay,
};

use super::FakeSmtp;
use super::TestSpool;

/// How long anything may take before a test gives up.
const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// A small mail to this address.
pub fn mail_to(to: &str) -> MailBuilder {
    Mail::builder()
        .from("Shop <shop@example.com>")
        .to(to)
        .subject("Your code")
        .text("123456")
}

/// The same, built.
pub fn mail(to: &str) -> Mail {
    mail_to(to).build().unwrap()
}

/// A relay on this server, named `primary`.
pub fn relay_at(server: &FakeSmtp) -> Relay {
    Relay::smtp(&server.url())
        .unwrap()
        .name("primary")
        .client_name("client.example")
}

/// The contract's schedule, without chance.
pub fn steady() -> RetryPolicy {
    RetryPolicy {
        jitter: Jitter::None,
        ..RetryPolicy::default()
    }
}

/// An engine over this relay, in memory, under this clock, without chance.
pub fn engine(relay: Relay, clock: &Clock) -> Builder {
    Dispatcher::builder()
        .relay(relay)
        .test_spool()
        .clock(clock.clone())
        .retry(steady())
}

/// Hands a mail in.
pub async fn submit(postrider: &Dispatcher, mail: Mail) -> MailId {
    postrider.submit(mail).await.unwrap().id
}

/// Waits until the mail is in this state, and returns what is known of it then.
pub async fn becomes(postrider: &Dispatcher, id: MailId, state: &str) -> MailStatus {
    let mut events = postrider.events();
    let waiting = async {
        loop {
            let status = postrider.status(id).await.unwrap();
            if status.state.as_str() == state {
                return status;
            }
            // Not every change is an event: look again now and then.
            let _ = tokio::time::timeout(Duration::from_millis(5), events.next()).await;
        }
    };

    match tokio::time::timeout(WAIT_LIMIT, waiting).await {
        Ok(status) => status,
        Err(_) => panic!("never {state}: {:#?}", postrider.status(id).await),
    }
}

/// Waits until this holds.
pub async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(
        tokio::time::timeout(WAIT_LIMIT, waiting).await.is_ok(),
        "never: {what}"
    );
}

/// Lets time pass, second after second, until this has come: for what waits for a sender that may
/// have a mail in its hands, or for a relay that is probed now and then.
pub async fn as_time_passes<T>(clock: &Clock, coming: impl Future<Output = T>) -> T {
    let passing = async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            clock.advance(Duration::from_secs(1));
        }
    };
    tokio::select! {
        come = coming => come,
        () = passing => unreachable!("time has no end"),
        () = tokio::time::sleep(WAIT_LIMIT) => panic!("it never came"),
    }
}

/// Gives everything that could still happen, and must not, time to happen.
pub async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(25)).await;
}

/// What a dispatcher tells, from when this was made.
pub struct EventLog(EventStream);

impl EventLog {
    pub fn by(postrider: &Dispatcher) -> Self {
        EventLog(postrider.events())
    }

    pub fn of(postrider: &Dispatcher, mail: MailId, seq: u64) -> Self {
        EventLog(postrider.events_of(mail, Some(seq)))
    }

    pub fn after(postrider: &Dispatcher, seq: u64) -> Self {
        EventLog(postrider.events_after(seq))
    }

    /// The next item.
    pub async fn item(&mut self) -> EventItem {
        let next = tokio::time::timeout(WAIT_LIMIT, self.0.next()).await;
        next.expect("nothing more is told")
            .expect("the stream has no end")
    }

    /// Everything up to the first event of this kind.
    pub async fn until(&mut self, kind: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            match self.item().await {
                EventItem::Event(event) => events.push(event),
                EventItem::Lagged(missed) => panic!("{missed} events were missed"),
            }
            if events
                .last()
                .is_some_and(|event: &Event| event.kind.as_str() == kind)
            {
                return events;
            }
        }
    }

    /// The first event of this kind.
    pub async fn first(&mut self, kind: &str) -> Event {
        self.until(kind).await.pop().unwrap()
    }
}
