//! A lane's stock: mail that is claimed for a relay and that no sender has started. Senders take
//! one mail at a time, so that a sender that hangs delays only the mail that it is sending. Expiry
//! and `cancel` remove mail from the stock as well.
//!
//! *Invariant:* a sender holds only the mail that it is sending. The next mail, whose commands were
//! pipelined after it, is only reserved: another sender may take it if the first one gets no
//! answer. The first one then closes its connection, which takes back the commands.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::sender::SenderId;
use super::waiters::{NotifyOnDrop, Waiters};
use crate::mail::{Guarantee, MailId, Priority, Timestamp};
use crate::spool::Claim;

/// After this time a reserved mail may be taken by a sender that has nothing else to do. Waiting
/// longer would cost more than the connection that has to be closed then.
const RESERVED_FROM_IDLE: Duration = Duration::from_secs(1);
/// The shortest time after which an idle sender checks the reserved mail again.
const SHORTEST_RECHECK: Duration = Duration::from_millis(50);
/// After this time a reserved mail may be taken by any sender, before all other mail.
const RESERVED_FROM_ALL: Duration = Duration::from_secs(5);

/// A claimed mail. Dropping it releases the leases first, and then notifies callers that wait for
/// the mail.
pub(super) struct ClaimedMail {
    // Fields are dropped in this order: the lease before the notification.
    claim: Claim,
    _notifies: NotifyOnDrop,
}

impl ClaimedMail {
    pub(super) fn new(claim: Claim, waiters: &Arc<Waiters>) -> Self {
        ClaimedMail {
            _notifies: waiters.notify_at_end(claim.manifest.id),
            claim,
        }
    }

    /// The claim, to be sent or recorded.
    pub(super) fn into_claim(self) -> Claim {
        self.claim
    }

    pub(super) fn is_critical(&self) -> bool {
        self.manifest.priority == Priority::Critical
    }
}

impl Deref for ClaimedMail {
    type Target = Claim;

    fn deref(&self) -> &Claim {
        &self.claim
    }
}

/// The stocks of all lanes, by relay. They outlive the router.
#[derive(Default)]
pub(super) struct Stocks(RwLock<HashMap<Arc<str>, Arc<Stock>>>);

impl Stocks {
    /// The stock of this relay's lane.
    pub(super) fn of(&self, relay: &Arc<str>) -> Arc<Stock> {
        if let Some(stock) = self.0.read().get(relay) {
            return Arc::clone(stock);
        }
        Arc::clone(self.0.write().entry(Arc::clone(relay)).or_default())
    }

    /// Removes a mail that no sender has started from the stock that it is in.
    pub(super) fn take_mail(&self, mail: MailId) -> Vec<ClaimedMail> {
        let stocks = self.0.read();
        let taken = stocks
            .values()
            .flat_map(|stock| stock.remove(|claimed| claimed.manifest.id == mail));
        taken.collect()
    }

    /// Removes expired mail that no sender has started.
    pub(super) fn take_expired(&self, now: Timestamp) -> Vec<ClaimedMail> {
        let stocks = self.0.read();
        let expired = stocks
            .values()
            .flat_map(|stock| stock.remove(|claimed| now >= claimed.manifest.expires_at));
        expired.collect()
    }

    /// Returns all mail to the queue.
    pub(super) fn clear(&self) {
        for stock in self.0.read().values() {
            stock.clear();
        }
    }
}

#[derive(Default)]
pub(super) struct Stock(Mutex<State>);

#[derive(Default)]
struct State {
    /// Claimed mail in the order of its turns. Critical mail is separate, since some senders take
    /// only that.
    critical: VecDeque<NumberedMail>,
    other: VecDeque<NumberedMail>,
    last_number: u64,
    bytes: usize,
    /// The mail whose commands a sender has pipelined after the one that it is sending.
    reserved: HashMap<SenderId, ReservedMail>,
    /// The senders that hold mail that is not critical, each with the number of mails.
    non_critical: HashMap<SenderId, usize>,
    /// The senders that were called and have not taken a mail yet.
    called: HashSet<SenderId>,
    rules: StockRules,
    /// The number of free senders that were not called.
    idle: usize,
    /// Whether a sender has noticed that the stock is low and has woken the router. Reset when the
    /// stock is filled.
    low_reported: bool,
    /// The same, reset when the lane has read it.
    is_low: bool,
    /// How many mails were returned to the queue without being sent.
    unsent: usize,
}

/// Which senders may take which mail.
#[derive(Clone, Copy, Default)]
pub(super) struct StockRules {
    /// Senders with a smaller id are retired.
    pub first_sender: SenderId,
    /// How many senders may send mail that is not critical.
    pub max_non_critical: usize,
    /// If set, only this sender may take mail: it is probing the relay.
    pub probing: Option<SenderId>,
    /// The stock is low with this number of mails or fewer.
    pub low: usize,
}

struct NumberedMail {
    number: u64,
    mail: ClaimedMail,
}

struct ReservedMail {
    mail: NumberedMail,
    since: Instant,
}

/// The content of the stock.
pub(super) struct StockLevel {
    pub mails: usize,
    pub bytes: usize,
    /// How many more senders may start mail that is not critical.
    pub non_critical_room: usize,
}

/// What a sender gets when it asks for mail.
pub(super) struct SenderTurn {
    pub mail: Option<ClaimedMail>,
    /// Whether the router should look at the lane: more senders could work, or the stock is low.
    pub wake_router: bool,
}

impl Stock {
    /// Changes the rules.
    pub(super) fn change_rules(&self, change: impl FnOnce(&mut StockRules)) {
        let mut state = self.0.lock();
        change(&mut state.rules);
    }

    /// Retires all senders; new ones replace them.
    pub(super) fn retire_senders(&self, first_sender: SenderId) {
        let mut state = self.0.lock();
        let reserved: Vec<SenderId> = state.reserved.keys().copied().collect();
        for sender in reserved {
            state.unreserve(sender);
        }
        state.non_critical.clear();
        state.called.clear();
        state.idle = 0;
        state.rules.first_sender = first_sender;
        state.rules.probing = None;
    }

    /// Forgets a sender that has ended.
    pub(super) fn forget_sender(&self, sender: SenderId) {
        let mut state = self.0.lock();
        state.unreserve(sender);
        state.non_critical.remove(&sender);
        state.called.remove(&sender);
    }

    /// Whether this sender is probing the relay.
    pub(super) fn is_probed_by(&self, sender: SenderId) -> bool {
        self.0.lock().rules.probing == Some(sender)
    }

    /// Adds claimed mail.
    pub(super) fn put(&self, claimed: Vec<ClaimedMail>) {
        let mut state = self.0.lock();
        for mail in claimed {
            state.last_number += 1;
            let number = state.last_number;
            state.bytes += mail.body.len();
            let queue = state.queue(mail.is_critical());
            queue.push_back(NumberedMail { number, mail });
        }
        if state.len() > state.rules.low {
            state.low_reported = false;
        }
    }

    pub(super) fn level(&self) -> StockLevel {
        let state = self.0.lock();
        StockLevel {
            mails: state.len(),
            bytes: state.bytes,
            non_critical_room: state.non_critical_room(),
        }
    }

    /// How many of `idle` free senders could take a mail now.
    pub(super) fn senders_needed(&self, idle: usize) -> usize {
        let mut state = self.0.lock();
        state.idle = idle;
        let (mut critical, mut other) = (state.critical.len(), state.other.len());
        for (_, one) in state.reserved_since(RESERVED_FROM_IDLE) {
            let count = match one.mail.mail.is_critical() {
                true => &mut critical,
                false => &mut other,
            };
            *count += 1;
        }
        let takeable = critical + other.min(state.non_critical_room());
        takeable.saturating_sub(state.called.len()).min(idle)
    }

    /// After what time an idle sender may take mail that is reserved for another; `None` if there
    /// is none.
    pub(super) fn recheck_in(&self) -> Option<Duration> {
        let state = self.0.lock();
        let has_room = state.non_critical_room() > 0;
        let takeable = state
            .reserved
            .values()
            .filter(|one| has_room || one.mail.mail.is_critical());
        let oldest = takeable.map(|one| one.since).min()?;
        let left = RESERVED_FROM_IDLE.saturating_sub(oldest.elapsed());
        Some(left.max(SHORTEST_RECHECK))
    }

    /// Whether the stock has become low since the last call.
    pub(super) fn has_become_low(&self) -> bool {
        std::mem::take(&mut self.0.lock().is_low)
    }

    /// Remembers that a sender was called.
    pub(super) fn note_call(&self, sender: SenderId) {
        let mut state = self.0.lock();
        state.called.insert(sender);
        state.idle = state.idle.saturating_sub(1);
    }

    /// The next mail for this sender.
    pub(super) fn take(&self, sender: SenderId) -> SenderTurn {
        let mut state = self.0.lock();
        state.called.remove(&sender);
        let taken = state.take(sender);
        let mail = taken.map(|numbered| {
            state.hold(sender, &numbered.mail);
            numbered.mail
        });

        SenderTurn {
            wake_router: state.should_wake_router(),
            mail,
        }
    }

    /// Reserves the next mail for a sender, which may then pipeline its commands after the mail
    /// that it is sending. Returns the result of `make` for its claim.
    ///
    /// Nothing is reserved while another sender is free. At-most-once mail is never reserved,
    /// because its commands must not be sent in advance.
    pub(super) fn reserve<T>(&self, sender: SenderId, make: impl FnOnce(&Claim) -> T) -> Option<T> {
        let mut state = self.0.lock();
        let critical = state.next_queue(sender)?;
        let idle_could_take = state.idle > 0 && (critical || state.non_critical_room() > 0);
        if idle_could_take || !state.called.is_empty() {
            return None;
        }

        let first = state.queue(critical).front()?;
        if first.mail.manifest.guarantee != Guarantee::AtLeastOnce {
            return None;
        }

        let made = make(&first.mail);
        let mail = state.pop(critical)?;
        state.hold(sender, &mail.mail);

        let since = Instant::now();
        state.reserved.insert(sender, ReservedMail { mail, since });
        Some(made)
    }

    /// The mail that was reserved for this sender; `None` if it is no longer reserved.
    pub(super) fn resume(&self, sender: SenderId) -> Option<ClaimedMail> {
        let mut state = self.0.lock();
        state.reserved.remove(&sender).map(|one| one.mail.mail)
    }

    /// Puts the mail that is reserved for this sender back into the stock.
    pub(super) fn unreserve(&self, sender: SenderId) {
        self.0.lock().unreserve(sender);
    }

    /// Records that a sender has finished a mail.
    pub(super) fn finished(&self, sender: SenderId, was_critical: bool) {
        self.0.lock().release(sender, was_critical);
    }

    /// Returns all mail to the queue.
    pub(super) fn clear(&self) {
        self.remove(|_| true);
    }

    /// How many mails were returned to the queue without being sent, since the last call.
    pub(super) fn take_unsent(&self) -> usize {
        std::mem::take(&mut self.0.lock().unsent)
    }

    /// Removes the mails that `chosen` selects, including reserved ones.
    fn remove(&self, chosen: impl Fn(&ClaimedMail) -> bool) -> Vec<ClaimedMail> {
        let mut state = self.0.lock();
        let mut removed = Vec::new();
        for critical in [true, false] {
            let queue = state.queue(critical);
            if !queue.iter().any(|numbered| chosen(&numbered.mail)) {
                continue;
            }
            for numbered in std::mem::take(queue) {
                if chosen(&numbered.mail) {
                    removed.push(numbered.mail);
                } else {
                    state.queue(critical).push_back(numbered);
                }
            }
        }

        let bytes: usize = removed.iter().map(|mail| mail.body.len()).sum();
        state.bytes -= bytes;

        let senders: Vec<SenderId> = state
            .reserved
            .iter()
            .filter(|(_, one)| chosen(&one.mail.mail))
            .map(|(sender, _)| *sender)
            .collect();

        for sender in senders {
            if let Some(one) = state.reserved.remove(&sender) {
                state.release(sender, one.mail.mail.is_critical());
                removed.push(one.mail.mail);
            }
        }

        state.unsent += removed.len();
        drop(state);
        removed
    }
}

impl State {
    fn queue(&mut self, critical: bool) -> &mut VecDeque<NumberedMail> {
        if critical {
            &mut self.critical
        } else {
            &mut self.other
        }
    }

    fn len(&self) -> usize {
        self.critical.len() + self.other.len()
    }

    fn non_critical_room(&self) -> usize {
        self.rules
            .max_non_critical
            .saturating_sub(self.non_critical.len())
    }

    fn may_take_non_critical(&self, sender: SenderId) -> bool {
        self.non_critical.contains_key(&sender) || self.non_critical_room() > 0
    }

    /// The queue from which this sender takes next: `true` for critical mail, `false` for other
    /// mail, `None` if it may take none.
    fn next_queue(&self, sender: SenderId) -> Option<bool> {
        let is_barred =
            sender < self.rules.first_sender || self.rules.probing.is_some_and(|one| one != sender);
        if is_barred {
            return None;
        }

        let critical = self.critical.front().map(|first| first.number);
        let other = self.other.front().map(|first| first.number);
        match (
            critical,
            other.filter(|_| self.may_take_non_critical(sender)),
        ) {
            (Some(critical), Some(other)) => Some(critical < other),
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    fn pop(&mut self, critical: bool) -> Option<NumberedMail> {
        let first = self.queue(critical).pop_front()?;
        self.bytes -= first.mail.body.len();
        Some(first)
    }

    fn take(&mut self, sender: SenderId) -> Option<NumberedMail> {
        if let Some(long_reserved) = self.take_reserved(sender, RESERVED_FROM_ALL) {
            return Some(long_reserved);
        }
        match self.next_queue(sender) {
            Some(critical) => self.pop(critical),
            None => self.take_reserved(sender, RESERVED_FROM_IDLE),
        }
    }

    fn reserved_since(&self, age: Duration) -> impl Iterator<Item = (SenderId, &ReservedMail)> {
        let now = Instant::now();
        let all = self.reserved.iter().map(|(sender, one)| (*sender, one));
        all.filter(move |(_, one)| now.duration_since(one.since) >= age)
    }

    /// Takes a mail that has been reserved for another sender for at least `age`.
    fn take_reserved(&mut self, sender: SenderId, age: Duration) -> Option<NumberedMail> {
        if sender < self.rules.first_sender || self.rules.probing.is_some() {
            return None;
        }
        let (owner, _) = self
            .reserved_since(age)
            .find(|(_, one)| one.mail.mail.is_critical() || self.may_take_non_critical(sender))?;

        let one = self.reserved.remove(&owner)?;
        self.release(owner, one.mail.mail.is_critical());
        Some(one.mail)
    }

    fn unreserve(&mut self, sender: SenderId) {
        if let Some(one) = self.reserved.remove(&sender) {
            let critical = one.mail.mail.is_critical();
            self.release(sender, critical);
            self.bytes += one.mail.mail.body.len();
            self.queue(critical).push_front(one.mail);
        }
    }

    fn hold(&mut self, sender: SenderId, mail: &ClaimedMail) {
        if !mail.is_critical() {
            *self.non_critical.entry(sender).or_default() += 1;
        }
    }

    fn release(&mut self, sender: SenderId, was_critical: bool) {
        if was_critical {
            return;
        }
        if let Some(count) = self.non_critical.get_mut(&sender) {
            *count -= 1;
            if *count == 0 {
                self.non_critical.remove(&sender);
            }
        }
    }

    fn should_wake_router(&mut self) -> bool {
        let others_could_take = self.idle > 0
            && (self.critical.len() > self.called.len()
                || self.len() > self.called.len() && self.non_critical_room() > 0);
        let is_low = self.len() <= self.rules.low && !self.low_reported;
        self.low_reported |= is_low;
        self.is_low |= is_low;
        others_could_take || is_low
    }
}
