//! A relay in a test's hands: it connects, waits, answers, hangs or panics as it is told, and
//! remembers what it was given.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use postrider::delivery::{Outcome, Phase, Reply};
use postrider::transport::{Connection, Recall, Transaction, Transport};
use postrider::{MailId, Relay};
use tokio::sync::{Semaphore, watch};

/// How long a test waits for what must come.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

/// As many permits as will ever be needed.
const PERMITS: usize = 10_000_000;

type Answer = dyn Fn(&Transaction) -> Outcome + Send + Sync;

/// What the relay does with those who connect. Unless they are welcome, it ends the connections
/// that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    Welcome,
    /// Does not connect, for this reason.
    Refuse(String),
    Hang,
    Panic,
}

/// The relay. Clones are the same one. Mail to `panic@` makes its connection panic.
#[derive(Clone)]
pub struct ScriptedRelay(Arc<Script>);

struct Script {
    greeting: Mutex<Greeting>,
    answer: Mutex<Arc<Answer>>,
    /// Each send takes one.
    permits: Semaphore,
    begun: watch::Sender<Vec<Transaction>>,
    taken: watch::Sender<Vec<MailId>>,
    connects: AtomicUsize,
    closes: AtomicUsize,
    open: AtomicUsize,
    sending: AtomicUsize,
    most_sending: AtomicUsize,
}

impl ScriptedRelay {
    /// One that takes everything at once.
    pub fn free() -> Self {
        let relay = ScriptedRelay::held();
        relay.let_go();
        relay
    }

    /// One that greets so, and takes everything.
    pub fn greeting(greeting: Greeting) -> Self {
        let relay = ScriptedRelay::free();
        relay.greet(greeting);
        relay
    }

    /// One that finishes nothing before it is allowed to.
    pub fn held() -> Self {
        let taken: Arc<Answer> = Arc::new(|_| Outcome::Delivered(Reply::new(250, "2.0.0 taken")));
        ScriptedRelay(Arc::new(Script {
            greeting: Mutex::new(Greeting::Welcome),
            answer: Mutex::new(taken),
            permits: Semaphore::new(0),
            begun: watch::Sender::default(),
            taken: watch::Sender::default(),
            connects: AtomicUsize::new(0),
            closes: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            most_sending: AtomicUsize::new(0),
        }))
    }

    /// As a dispatcher is given it, named `primary`.
    pub fn relay(&self) -> Relay {
        self.named("primary")
    }

    /// As a dispatcher is given it, under this name.
    pub fn named(&self, name: &str) -> Relay {
        Relay::custom(name, Arc::new(self.clone()))
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl Fn(&Transaction) -> Outcome + Send + Sync + 'static) {
        *self.0.answer.lock() = Arc::new(answer);
    }

    /// Greets so from now on.
    pub fn greet(&self, greeting: Greeting) {
        *self.0.greeting.lock() = greeting;
    }

    /// Does not connect from now on, for this reason; does again without one.
    pub fn down(&self, reason: Option<&str>) {
        self.greet(match reason {
            Some(reason) => Greeting::Refuse(reason.to_owned()),
            None => Greeting::Welcome,
        });
    }

    /// Finishes nothing from now on before it is allowed to.
    pub fn hold(&self) {
        self.0.permits.forget_permits(usize::MAX);
    }

    /// Lets so many sends come to their end.
    pub fn let_through(&self, count: usize) {
        self.0.permits.add_permits(count);
    }

    /// Holds nothing back from now on.
    pub fn let_go(&self) {
        self.0.permits.add_permits(PERMITS);
    }

    /// Waits until so many sends were begun, and returns their first recipients in order.
    pub async fn begins(&self, count: usize) -> Vec<String> {
        let mut begun = self.0.begun.subscribe();
        let enough = begun.wait_for(|all| all.len() >= count);
        // What it gives is a lock: held any longer, it and a sender would wait for each other.
        let were_enough = tokio::time::timeout(WAIT_LIMIT, enough).await.is_ok();
        assert!(were_enough, "of {count} only {:?} were begun", self.begun());
        self.begun()
    }

    /// Waits until so many mails were taken.
    pub async fn takes(&self, count: usize) {
        let mut taken = self.0.taken.subscribe();
        let enough = taken.wait_for(|all| all.len() >= count);
        let were_enough = tokio::time::timeout(WAIT_LIMIT, enough).await.is_ok();
        assert!(
            were_enough,
            "{} of {count} mails were taken",
            self.taken().len()
        );
    }

    /// The first recipients of what was begun, in order.
    pub fn begun(&self) -> Vec<String> {
        let begun = self.0.begun.borrow();
        let first = begun.iter().map(|mail| mail.recipients[0].to_string());
        first.collect()
    }

    /// All that was begun, in order.
    pub fn transactions(&self) -> Vec<Transaction> {
        self.0.begun.borrow().clone()
    }

    /// The mails that were answered, in order.
    pub fn taken(&self) -> Vec<MailId> {
        self.0.taken.borrow().clone()
    }

    /// How many connections were asked for.
    pub fn connects(&self) -> usize {
        self.0.connects.load(Ordering::SeqCst)
    }

    /// How many connections were closed in order.
    pub fn closes(&self) -> usize {
        self.0.closes.load(Ordering::SeqCst)
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// The most sends that there were at once.
    pub fn most_sending(&self) -> usize {
        self.0.most_sending.load(Ordering::SeqCst)
    }

    /// Waits until no actor and no connection holds the relay any more: only the test does, once.
    pub async fn is_let_go(&self) {
        let gone = async {
            while Arc::strong_count(&self.0) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            tokio::time::timeout(WAIT_LIMIT, gone).await.is_ok(),
            "an actor still holds the relay"
        );
    }
}

#[async_trait]
impl Transport for ScriptedRelay {
    async fn connect(&self) -> Result<Box<dyn Connection>, Outcome> {
        self.0.connects.fetch_add(1, Ordering::SeqCst);
        let greeting = self.0.greeting.lock().clone();
        match greeting {
            Greeting::Welcome => {
                self.0.open.fetch_add(1, Ordering::SeqCst);
                Ok(Box::new(ScriptedConnection {
                    script: self.0.clone(),
                    usable: true,
                }))
            }
            Greeting::Refuse(reason) => Err(Outcome::Unavailable(Phase::Connect, reason)),
            Greeting::Hang => std::future::pending().await,
            Greeting::Panic => panic!("nobody was meant to connect"),
        }
    }
}

struct ScriptedConnection {
    script: Arc<Script>,
    usable: bool,
}

#[async_trait]
impl Connection for ScriptedConnection {
    async fn send(&mut self, mail: &Transaction, _next: Option<&Transaction>) -> Vec<Outcome> {
        let script = &self.script;
        // What is remembered holds nobody's engine.
        let begun = Transaction {
            recall: Recall::default(),
            ..mail.clone()
        };
        script.begun.send_modify(|all| all.push(begun));
        let mut recipients = mail.recipients.iter();
        if recipients.any(|recipient| recipient.as_str().starts_with("panic@")) {
            panic!("this mail is poison");
        }

        let now = script.sending.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_sending.fetch_max(now, Ordering::SeqCst);
        if let Ok(permit) = script.permits.acquire().await {
            permit.forget();
        }
        script.sending.fetch_sub(1, Ordering::SeqCst);

        let answer = script.answer.lock().clone();
        let outcome = answer(mail);
        self.usable = !outcome.blames_relay();
        script.taken.send_modify(|taken| taken.push(mail.mail));
        vec![outcome; mail.recipients.len()]
    }

    fn is_usable(&self) -> bool {
        self.usable && *self.script.greeting.lock() == Greeting::Welcome
    }

    async fn close(self: Box<Self>) {
        self.script.closes.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for ScriptedConnection {
    fn drop(&mut self) {
        self.script.open.fetch_sub(1, Ordering::SeqCst);
    }
}
