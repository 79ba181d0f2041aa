//! What was promised, what arrived, and whether the one fits the other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::common::{Names, Received};
use super::mails;
use super::service::SENDERS;

/// How many transactions of one sender may be sent and not recorded: those whose record is on its
/// way to the disk, and the one that is being sent.
const WINDOW: usize = 64 + 1;

/// One recipient of one mail, which is named by its id.
type Slot = (String, String);

/// The ledger, as those see it who write into it.
#[derive(Clone)]
pub struct Book {
    ledger: Arc<Mutex<Ledger>>,
    acknowledged: watch::Sender<usize>,
}

impl Book {
    pub fn new() -> Self {
        Book {
            ledger: Arc::default(),
            acknowledged: watch::Sender::new(0),
        }
    }

    /// The service has taken this key under this id.
    pub fn acknowledged(&self, key: &str, id: &str) {
        let mut ledger = self.ledger.lock();
        ledger.acknowledged(key, id);
        self.acknowledged.send_replace(ledger.names.count());
    }

    /// The service has said that this delivery was made.
    pub fn delivered(&self, id: &str, recipient: &str) {
        let mut ledger = self.ledger.lock();
        let life = ledger.connections.len() + 1;
        ledger
            .recorded
            .entry((id.to_owned(), recipient.to_owned()))
            .or_insert(life);
    }

    pub fn problem(&self, text: String) {
        self.ledger.lock().problems.push(text);
    }

    /// What is wrong so far.
    pub fn problems(&self) -> Vec<String> {
        self.ledger.lock().problems.clone()
    }

    /// How many keys were acknowledged.
    pub fn count(&self) -> usize {
        *self.acknowledged.borrow()
    }

    /// Each mail that was acknowledged, by key and id.
    pub fn mails(&self) -> Vec<(String, String)> {
        let ledger = self.ledger.lock();
        let mails = ledger.names.iter();
        mails.map(|(key, id)| (key.clone(), id.clone())).collect()
    }

    /// Waits until so many more keys were acknowledged than now.
    pub async fn grows_by(&self, more: usize) {
        let wanted = self.count() + more;
        let _ = self
            .acknowledged
            .subscribe()
            .wait_for(|count| *count >= wanted)
            .await;
    }

    /// A life has ended, until which the relay had seen so many connections.
    pub fn end_life(&self, connections: usize) {
        self.ledger.lock().connections.push(connections);
    }

    pub fn close(self) -> Ledger {
        std::mem::take(&mut self.ledger.lock())
    }
}

/// What clients heard, life after life.
#[derive(Default)]
pub struct Ledger {
    /// How many connections the relay had seen at the end of each life.
    connections: Vec<usize>,
    /// The id of each key, and the key of each id.
    names: Names,
    /// Deliveries that were told as made, with the life in which that was heard.
    recorded: HashMap<Slot, usize>,
    problems: Vec<String>,
}

/// A message that the relay took, or may have taken.
#[derive(Clone, Copy)]
struct Arrival {
    life: usize,
    connection: usize,
    /// How many more came on its connection.
    followed_by: usize,
    /// Whether the relay said 250, as opposed to hanging up.
    was_answered: bool,
}

impl Ledger {
    fn acknowledged(&mut self, key: &str, id: &str) {
        self.problems.extend(self.names.note(key, id));
    }

    /// Holds what the relay has seen, and what the spool has at the end, against what was promised.
    pub fn judge(mut self, seen: &[Received], spool: &Value) -> (Figures, Vec<String>) {
        let mut figures = Figures {
            acknowledged: self.names.count(),
            ..Figures::default()
        };

        let arrivals = self.arrivals(seen);
        for (slot, arrivals) in &arrivals {
            for pair in arrivals.windows(2) {
                self.explain(slot, pair[0], pair[1], &mut figures);
            }
        }

        for (key, id) in self.names.iter() {
            let slots = mails::recipients_of(key)
                .into_iter()
                .map(|recipient| (id.clone(), recipient));
            let missing: Vec<Slot> = slots
                .inspect(|_| figures.deliveries += 1)
                .filter(|slot| {
                    arrivals
                        .get(slot)
                        .is_none_or(|arrivals| !arrivals.iter().any(|one| one.was_answered))
                })
                .collect();
            if !missing.is_empty() {
                figures.lost += 1;
                self.problems
                    .push(format!("{key} was acknowledged and is lost: {missing:?}"));
            }
        }

        for (kill, mails) in &figures.by_kill {
            if mails.iter().collect::<HashSet<_>>().len() > SENDERS * WINDOW {
                self.problems.push(format!(
                    "kill {kill}: {} mails were sent again, which is too many",
                    mails.len()
                ));
            }
        }

        figures.told = self.recorded.len();
        // Whatever was begun was acknowledged in the end, so more mails than keys would be a key
        // under two ids.
        let found =
            ["mails", "delivered", "pending", "dead", "cancelled"].map(|name| spool[name].as_u64());

        let expected =
            [self.names.count(), figures.deliveries, 0, 0, 0].map(|count| Some(count as u64));
        if found != expected {
            self.problems.push(format!(
                "the spool holds {spool}, and {expected:?} was expected"
            ));
        }

        (figures, self.problems)
    }

    /// What the relay took or may have taken, for each delivery in the order in which it came.
    fn arrivals(&mut self, seen: &[Received]) -> BTreeMap<Slot, Vec<Arrival>> {
        let mut arrivals: BTreeMap<Slot, Vec<Arrival>> = BTreeMap::new();
        let mut followed_by: HashMap<usize, usize> = HashMap::new();
        for mail in seen.iter().rev() {
            let behind = followed_by.entry(mail.connection).or_default();
            let followed_by = std::mem::replace(behind, *behind + 1);
            if mail.answer.is_some_and(|code| code != 250) {
                continue;
            }
            let Some((key, id)) = mails::identify(&mail.message) else {
                self.problems.push(format!(
                    "something arrived that nobody submitted: {}",
                    mail.text()
                ));
                continue;
            };
            if self.names.id_of(&key) != Some(&id) {
                self.problems.push(format!(
                    "{key} arrived as {id}, and is {:?}",
                    self.names.id_of(&key)
                ));
            }
            let connection = mail.connection;
            let life = 1 + self
                .connections
                .iter()
                .filter(|seen| **seen < connection)
                .count();
            let arrival = Arrival {
                life,
                connection,
                followed_by,
                was_answered: mail.answer.is_some(),
            };
            for recipient in &mail.recipients {
                arrivals
                    .entry((id.clone(), recipient.clone()))
                    .or_default()
                    .push(arrival);
            }
        }

        for arrivals in arrivals.values_mut() {
            arrivals.reverse();
            // A dead life's last mail may be looked at after the first one of the next.
            arrivals.sort_by_key(|arrival| arrival.life);
        }

        arrivals
    }

    /// Why a mail came again: the relay had not said whether it took it; or its transaction was
    /// open at the kill, which is one of the last of its connection, and whose end was never told
    /// as recorded.
    fn explain(&mut self, slot: &Slot, first: Arrival, again: Arrival, figures: &mut Figures) {
        figures.duplicates += 1;
        if !first.was_answered {
            figures.after_hang_up += 1;
            return;
        }

        let recorded = self
            .recorded
            .get(slot)
            .filter(|recorded| **recorded < again.life);

        if again.life > first.life && recorded.is_none() && first.followed_by < WINDOW {
            let Arrival {
                life,
                connection,
                followed_by,
                ..
            } = first;
            let place = format!("{connection}.{followed_by}, again {}", again.connection);
            let key = self.names.key_of(&slot.0).unwrap_or(&slot.0);
            figures
                .by_kill
                .entry(life)
                .or_default()
                .push(format!("{key} ({place})"));
            return;
        }

        let told = |arrival: Arrival| {
            format!(
                "in life {} on connection {}",
                arrival.life, arrival.connection
            )
        };

        let Arrival { followed_by, .. } = first;
        let (first, again) = (told(first), told(again));
        self.problems.push(format!(
            "{slot:?} was taken {first} with {followed_by} behind it, and again {again}; recorded: \
             {recorded:?}"
        ));
    }
}

/// The ledger in numbers.
#[derive(Default)]
pub struct Figures {
    pub acknowledged: usize,
    deliveries: usize,
    lost: usize,
    /// Deliveries that were made once more.
    duplicates: usize,
    after_hang_up: usize,
    /// Deliveries that the service had told as recorded; had one of them been made once more, that
    /// would be a problem.
    told: usize,
    /// By kill: the mails whose transaction was open then, with its connection, how many came there
    /// behind it, and the connection on which it came again. One that has several recipients may be
    /// there for each.
    by_kill: BTreeMap<usize, Vec<String>>,
}

impl Figures {
    /// As one line of JSON.
    pub fn json(&self, kills: u64, seed: u64, elapsed: Duration) -> Value {
        let after_kill: usize = self.by_kill.values().map(Vec::len).sum();
        json!({
            "kills": kills, "acknowledged": self.acknowledged, "deliveries": self.deliveries,
            "lost": self.lost,
            "duplicates": self.duplicates, "explained": after_kill + self.after_hang_up,
            "after_kill": after_kill,
            "after_hang_up": self.after_hang_up, "told_as_recorded": self.told,
            "most_duplicates_for_one_kill": self.by_kill.values().map(Vec::len).max().unwrap_or(0),
            "seed": seed, "seconds": elapsed.as_secs(),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kill, mails) in &self.by_kill {
            writeln!(
                f,
                "kill {kill} found open what came again: {}",
                mails.join(", ")
            )?;
        }
        Ok(())
    }
}
