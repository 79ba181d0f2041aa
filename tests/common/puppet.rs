//! A transport in a test's hand: it connects, waits and answers as it is told, and remembers what
//! it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider::Relay;
use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::{Connection, Transaction, Transport};
use tokio::sync::{Semaphore, watch};

type Answer = dyn Fn(&Transaction) -> Outcome + Send + Sync;

/// The transport. Clones are the same one.
#[derive(Clone)]
pub struct Puppet(Arc<Strings>);

struct Strings {
    answer: Mutex<Arc<Answer>>,
    /// Why it does not connect.
    down: Mutex<Option<String>>,
    /// Each send takes one.
    permits: Semaphore,
    begun: watch::Sender<Vec<Transaction>>,
    open: AtomicUsize,
    sending: AtomicUsize,
    most_sending: AtomicUsize,
}

/// As many permits as will ever be needed.
const PLENTY: usize = 10_000_000;

impl Puppet {
    /// One that takes everything at once.
    pub fn free() -> Self {
        let puppet = Puppet::held();
        puppet.let_go();
        puppet
    }

    /// One that finishes nothing before it is allowed to.
    pub fn held() -> Self {
        let taken: Arc<Answer> = Arc::new(|_| Outcome::Delivered(Reply::new(250, "2.0.0 taken")));
        Puppet(Arc::new(Strings {
            answer: Mutex::new(taken),
            down: Mutex::new(None),
            permits: Semaphore::new(0),
            begun: watch::Sender::new(Vec::new()),
            open: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            most_sending: AtomicUsize::new(0),
        }))
    }

    /// As a relay, named `primary`.
    pub fn relay(&self) -> Relay {
        Relay::custom("primary", Arc::new(self.clone()))
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl Fn(&Transaction) -> Outcome + Send + Sync + 'static) {
        *self.0.answer.lock() = Arc::new(answer);
    }

    /// Does not connect from now on, for this reason; does again without one.
    pub fn down(&self, reason: Option<&str>) {
        *self.0.down.lock() = reason.map(str::to_owned);
    }

    /// Lets so many sends come to their end.
    pub fn let_through(&self, count: usize) {
        self.0.permits.add_permits(count);
    }

    /// Holds nothing back from now on.
    pub fn let_go(&self) {
        self.0.permits.add_permits(PLENTY);
    }

    /// Waits until so many sends were begun, and returns their first recipients in order.
    pub async fn begins(&self, count: usize) -> Vec<String> {
        let mut begun = self.0.begun.subscribe();
        let waited = tokio::time::timeout(
            Duration::from_secs(30),
            begun.wait_for(|all| all.len() >= count),
        )
        .await;
        assert!(
            waited.is_ok(),
            "after half a minute only {:?} were begun",
            self.begun()
        );
        self.begun()
    }

    /// The first recipients of what was begun, in order.
    pub fn begun(&self) -> Vec<String> {
        self.0
            .begun
            .borrow()
            .iter()
            .map(|mail| mail.recipients[0].to_string())
            .collect()
    }

    /// All that was begun, in order.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.0.begun.borrow().clone()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// The most sends that there were at once.
    pub fn most_sending(&self) -> usize {
        self.0.most_sending.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Transport for Puppet {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        if let Some(reason) = self.0.down.lock().clone() {
            return Err(Outcome::Unavailable(Phase::Connect, reason));
        }
        self.0.open.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Open {
            strings: self.0.clone(),
            usable: true,
        }))
    }
}

struct Open {
    strings: Arc<Strings>,
    usable: bool,
}

#[async_trait]
impl Connection for Open {
    async fn send(&mut self, mail: &Transaction, _next: Option<&Transaction>) -> Vec<Outcome> {
        let strings = &self.strings;
        strings.begun.send_modify(|all| all.push(mail.clone()));
        let now = strings.sending.fetch_add(1, Ordering::SeqCst) + 1;
        strings.most_sending.fetch_max(now, Ordering::SeqCst);
        if let Ok(permit) = strings.permits.acquire().await {
            permit.forget();
        }
        strings.sending.fetch_sub(1, Ordering::SeqCst);
        let answer = strings.answer.lock().clone();
        let outcome = answer(mail);
        self.usable = !outcome.blames_relay();
        vec![outcome; mail.recipients.len()]
    }

    fn is_usable(&self) -> bool {
        self.usable
    }

    async fn close(self: Box<Self>) {}
}

impl Drop for Open {
    fn drop(&mut self) {
        self.strings.open.fetch_sub(1, Ordering::SeqCst);
    }
}
