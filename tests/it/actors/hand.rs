//! A relay in the test's hands: it takes mail, waits at a gate, hangs, or panics, as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::{Connection, Transaction, Transport};
use postrider::{MailId, Relay};
use tokio::sync::watch;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the relay does with those who connect. Unless they are welcome, it ends the connections
/// that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    Welcome,
    Refuse,
    Hang,
    Panic,
}

/// A relay's other end. Mail to `poison@` makes its connection panic.
pub struct Hand {
    greeting: Mutex<Greeting>,
    gate: watch::Sender<bool>,
    begun: watch::Sender<usize>,
    taken: watch::Sender<Vec<MailId>>,
    connects: AtomicUsize,
    closes: AtomicUsize,
}

impl Hand {
    /// A relay that takes everything.
    pub fn open() -> Arc<Self> {
        Hand::with(Greeting::Welcome)
    }

    pub fn with(greeting: Greeting) -> Arc<Self> {
        Arc::new(Hand {
            greeting: Mutex::new(greeting),
            gate: watch::Sender::new(true),
            begun: watch::Sender::new(0),
            taken: watch::Sender::default(),
            connects: AtomicUsize::new(0),
            closes: AtomicUsize::new(0),
        })
    }

    /// The relay as a dispatcher is given it.
    pub fn relay(self: &Arc<Self>, name: &str, connections: usize) -> Relay {
        Relay::custom(name, Arc::new(Line(Arc::clone(self)))).connections(connections)
    }

    pub fn greet(&self, greeting: Greeting) {
        *self.greeting.lock() = greeting;
    }

    /// From now on what is begun waits.
    pub fn shut_gate(&self) {
        self.gate.send_replace(false);
    }

    pub fn open_gate(&self) {
        self.gate.send_replace(true);
    }

    /// The mails that were taken, in order.
    pub fn taken(&self) -> Vec<MailId> {
        self.taken.borrow().clone()
    }

    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }

    pub fn closes(&self) -> usize {
        self.closes.load(Ordering::SeqCst)
    }

    /// Waits until so many mails were begun.
    pub async fn begins(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        let waited = tokio::time::timeout(PATIENCE, begun.wait_for(|now| *now >= count)).await;
        assert!(
            waited.is_ok(),
            "{} of {count} mails were begun",
            *self.begun.borrow()
        );
    }

    /// Waits until so many mails were taken.
    pub async fn takes(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        let waited = tokio::time::timeout(PATIENCE, taken.wait_for(|now| now.len() >= count)).await;
        assert!(
            waited.is_ok(),
            "{} of {count} mails were taken",
            self.taken.borrow().len()
        );
    }

    /// Waits until no actor and no connection holds the relay any more: only the test does.
    pub async fn is_let_go(self: &Arc<Self>) {
        let gone = async {
            while Arc::strong_count(self) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, gone).await.is_ok(),
            "an actor still holds the relay"
        );
    }
}

/// The relay's end, as senders reach it.
struct Line(Arc<Hand>);

struct Conversation(Arc<Hand>);

#[async_trait]
impl Transport for Line {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        self.0.connects.fetch_add(1, Ordering::SeqCst);
        let greeting = *self.0.greeting.lock();
        match greeting {
            Greeting::Welcome => Ok(Box::new(Conversation(Arc::clone(&self.0)))),
            Greeting::Refuse => Err(Outcome::Unavailable(Phase::Connect, "refused".into())),
            Greeting::Hang => std::future::pending().await,
            Greeting::Panic => panic!("nobody was meant to connect"),
        }
    }
}

#[async_trait]
impl Connection for Conversation {
    async fn send(&mut self, mail: &Transaction, _: Option<&Transaction>) -> Vec<Outcome> {
        let hand = &self.0;
        hand.begun.send_modify(|begun| *begun += 1);
        if mail
            .recipients
            .iter()
            .any(|recipient| recipient.as_str().starts_with("poison@"))
        {
            panic!("this mail is poison");
        }
        let _ = hand.gate.subscribe().wait_for(|open| *open).await;
        hand.taken.send_modify(|taken| taken.push(mail.mail));
        vec![Outcome::Delivered(Reply::new(250, "2.0.0 taken")); mail.recipients.len()]
    }

    fn is_usable(&self) -> bool {
        *self.0.greeting.lock() == Greeting::Welcome
    }

    async fn close(self: Box<Self>) {
        self.0.closes.fetch_add(1, Ordering::SeqCst);
    }
}
