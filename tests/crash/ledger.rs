//! What was promised, what arrived, and whether the one fits the other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use super::child::{self, SENDERS, SUBMITTERS};
use super::common::{Names, Received};

/// How many transactions of one sender may be sent and not recorded: those whose record is on its
/// way to the disk, and the one that is being sent.
const WINDOW: usize = 64 + 1;

/// One recipient of one mail.
type Slot = (String, String);

/// What children told, life after life.
#[derive(Default)]
pub struct Ledger {
    /// The life that is being lived, from 1.
    life: usize,
    /// How many connections the relay had seen at the end of each life.
    connections: Vec<usize>,
    names: Names,
    next: Vec<u64>,
    /// Deliveries that were recorded as delivered, with the life in which that was told.
    recorded: HashMap<Slot, usize>,
    finals: HashMap<Slot, (String, String)>,
    is_done: bool,
    problems: Vec<String>,
}

impl Ledger {
    pub fn new() -> Self {
        Ledger {
            next: vec![0; SUBMITTERS],
            ..Ledger::default()
        }
    }

    pub fn begin_life(&mut self) -> Vec<u64> {
        self.life += 1;
        self.next.clone()
    }

    pub fn end_life(&mut self, connections: usize) {
        self.connections.push(connections);
    }

    pub fn acknowledged(&self) -> usize {
        self.names.count()
    }

    /// Takes down one line of a child. What is not of the journal is a child's last words.
    pub fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["journal", "listening"] => {}
            ["journal", "accepted", key, id] => self.accepted(key, id),
            ["journal", "delivered", id, recipient] => {
                let slot = (id.to_owned(), recipient.to_owned());
                self.recorded.entry(slot).or_insert(self.life);
            }
            ["journal", "final", id, recipient, state, reason] => {
                self.finals.insert(
                    (id.to_owned(), recipient.to_owned()),
                    (state.to_owned(), reason.to_owned()),
                );
            }
            ["journal", "done"] => self.is_done = true,
            _ => self.problems.push(format!("life {}: {line}", self.life)),
        }
    }

    fn accepted(&mut self, key: &str, id: &str) {
        self.problems.extend(self.names.note(key, id));
        let (submitter, _) = child::parts_of(key);
        while self
            .names
            .id_of(&child::key_of(submitter, self.next[submitter]))
            .is_some()
        {
            self.next[submitter] += 1;
        }
    }

    /// What is wrong so far.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Which life this connection of the relay was made in.
    fn life_of(&self, connection: usize) -> usize {
        1 + self
            .connections
            .iter()
            .filter(|seen| **seen < connection)
            .count()
    }

    /// Holds what the relay has seen against what was promised.
    pub fn judge(mut self, seen: &[Received]) -> (Figures, Vec<String>) {
        let mut figures = Figures {
            lives: self.life,
            acknowledged: self.names.count(),
            ..Figures::default()
        };

        if !self.is_done {
            self.problems
                .push("the last life did not come to its end".into());
        }

        let arrivals = self.arrivals(seen);
        figures.arrivals = arrivals.values().map(Vec::len).sum();
        for (slot, arrivals) in &arrivals {
            match self.names.key_of(&slot.0) {
                Some(key) if child::is_at_most_once(key) && arrivals.len() > 1 => {
                    self.problems.push(format!(
                        "{slot:?} may arrive once, and arrived {} times",
                        arrivals.len()
                    ));
                }
                Some(_) => {}
                None => self
                    .problems
                    .push(format!("{slot:?} arrived and was never acknowledged")),
            }
            for pair in arrivals.windows(2) {
                self.explain(slot, &pair[0], &pair[1], &mut figures);
            }
        }

        for (key, id) in self.names.iter() {
            for recipient in child::recipients_of(key) {
                let slot = (id.clone(), recipient);
                let count = arrivals.get(&slot).map_or(0, Vec::len);
                let ended = self
                    .finals
                    .get(&slot)
                    .map(|(state, reason)| (state.as_str(), reason.as_str()));
                figures.deliveries += 1;
                match (ended, child::is_at_most_once(key)) {
                    (Some(("delivered", _)), _) if count > 0 => {}
                    (Some(("dead", "in_doubt")), true) => figures.in_doubt += 1,
                    _ => self.problems.push(format!(
                        "{slot:?} ended as {ended:?} and arrived {count} times"
                    )),
                }
            }
        }

        for (life, mails) in &figures.again {
            if mails.len() > SENDERS * WINDOW {
                self.problems.push(format!(
                    "life {life}: {} mails were sent again, which is too many",
                    mails.len()
                ));
            }
        }

        (figures, self.problems)
    }

    /// What the relay took or may have taken, by mail and recipient, in the order in which it came.
    fn arrivals(&self, seen: &[Received]) -> BTreeMap<Slot, Vec<Arrival>> {
        let mut arrivals: BTreeMap<Slot, Vec<Arrival>> = BTreeMap::new();
        for mail in seen
            .iter()
            .filter(|mail| mail.answer.is_none_or(|code| code == 250))
        {
            let text = mail.text();
            let id = text
                .lines()
                .find_map(|line| line.strip_prefix("Message-ID: <"))
                .unwrap();
            let id = id.split('@').next().unwrap().to_owned();
            let arrival = Arrival {
                connection: mail.connection,
                was_answered: mail.answer.is_some(),
            };
            for recipient in &mail.recipients {
                arrivals
                    .entry((id.clone(), recipient.clone()))
                    .or_default()
                    .push(arrival);
            }
        }

        // A dead child's last mail may be looked at after the first one of the next.
        arrivals
            .values_mut()
            .for_each(|arrivals| arrivals.sort_by_key(|arrival| self.life_of(arrival.connection)));
        arrivals
    }

    /// Why a mail came again: the relay had not said whether it took it, or we were killed before
    /// we had recorded that.
    fn explain(&mut self, slot: &Slot, first: &Arrival, again: &Arrival, figures: &mut Figures) {
        let (life, next) = (
            self.life_of(first.connection),
            self.life_of(again.connection),
        );

        if !first.was_answered {
            figures.cut_by_relay += 1;
            return;
        }

        let recorded = self.recorded.get(slot).filter(|recorded| **recorded < next);
        if next > life && recorded.is_none() {
            figures
                .again
                .entry(life)
                .or_default()
                .insert(slot.0.clone());
            return;
        }

        let (first, again) = (first.connection, again.connection);
        let told = format!(
            "taken in life {life} on connection {first}, and again in life {next} on connection \
             {again}"
        );
        self.problems.push(format!(
            "{slot:?} was {told}; recorded as delivered: {recorded:?}"
        ));
    }
}

#[derive(Clone, Copy)]
struct Arrival {
    connection: usize,
    /// Whether the relay said 250, as opposed to hanging up.
    was_answered: bool,
}

/// The ledger in numbers.
#[derive(Default)]
pub struct Figures {
    lives: usize,
    pub acknowledged: usize,
    deliveries: usize,
    arrivals: usize,
    in_doubt: usize,
    cut_by_relay: usize,
    /// By life: the mails that were sent again because it ended before they were recorded.
    again: BTreeMap<usize, HashSet<String>>,
}

impl Figures {
    /// How many mails came again because of a kill.
    pub fn sent_again(&self) -> usize {
        self.again.values().map(HashSet::len).sum()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.again.values().map(HashSet::len).max().unwrap_or(0);
        writeln!(f, "kills                              {}", self.lives - 1)?;
        writeln!(
            f,
            "mails acknowledged                 {}",
            self.acknowledged
        )?;

        writeln!(f, "their deliveries                   {}", self.deliveries)?;
        writeln!(f, "arrivals                           {}", self.arrivals)?;
        writeln!(
            f,
            "mails sent again after a kill      {} (at most {most} after one)",
            self.sent_again()
        )?;

        writeln!(
            f,
            "deliveries again after a hang-up   {}",
            self.cut_by_relay
        )?;

        writeln!(f, "at most once, dead as in_doubt     {}", self.in_doubt)
    }
}
