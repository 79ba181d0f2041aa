//! A lane's stock: mail that was claimed for a relay and that nobody has begun. Its senders take it
//! mail by mail, so that one that hangs holds up nothing but what it sends; expiry and `cancel`
//! take from it as well.
//!
//! *Invariant:* what a sender holds is what it sends. The mail whose commands went out behind that
//! one is reserved for the sender, and anybody may have it who has more use for it: the sender then
//! closes its connection, which takes the commands back.

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

/// After this time a mail that is reserved behind one that is not answered may be taken by a sender
/// that has nothing else to do; closing a connection costs less than that.
const RESERVED_FROM_IDLE: Duration = Duration::from_secs(1);
/// An idle sender looks at what is reserved no more often than that.
const SHORTEST_LOOK: Duration = Duration::from_millis(50);
/// After this time it may be taken by any.
const RESERVED_FROM_ALL: Duration = Duration::from_secs(5);

/// A claimed mail. However it is dropped, whoever waits for the mail is told when it is free again.
pub(super) struct ClaimedMail {
    // Dropped first, and with it the lease.
    claim: Claim,
    _told: NotifyOnDrop,
}

impl ClaimedMail {
    pub(super) fn new(claim: Claim, waiters: &Arc<Waiters>) -> Self {
        ClaimedMail {
            _told: waiters.tell_at_end(claim.manifest.id),
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

    /// Takes a mail out that nobody has begun, wherever it lies.
    pub(super) fn take_mail(&self, mail: MailId) -> Vec<ClaimedMail> {
        let stocks = self.0.read();
        let taken = stocks
            .values()
            .flat_map(|stock| stock.remove(|claimed| claimed.manifest.id == mail));
        taken.collect()
    }

    /// Takes out what has expired and nobody has begun.
    pub(super) fn take_expired(&self, now: Timestamp) -> Vec<ClaimedMail> {
        let stocks = self.0.read();
        let expired = stocks
            .values()
            .flat_map(|stock| stock.remove(|claimed| now >= claimed.manifest.expires_at));
        expired.collect()
    }

    /// Gives everything back.
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
    /// Claimed mail in the order of its turns; what is critical apart, since some senders take
    /// nothing else.
    critical: VecDeque<NumberedMail>,
    other: VecDeque<NumberedMail>,
    last_number: u64,
    bytes: usize,
    /// Of the sender that has begun it behind the mail that it sends.
    reserved: HashMap<SenderId, ReservedMail>,
    /// Senders that hold mail that is not critical, and how much.
    at_other: HashMap<SenderId, usize>,
    /// Senders that were called and have not come yet.
    called: HashSet<SenderId>,
    rules: Rules,
    /// Senders that nobody has called.
    idle: usize,
    /// It was told that little is left.
    low_is_told: bool,
    /// The router has not heard that yet.
    is_low: bool,
    /// Mails that went back without having been put to the relay.
    unsent: usize,
}

/// Who may take what.
#[derive(Clone, Copy, Default)]
pub(super) struct Rules {
    /// Earlier senders are retired.
    pub first_sender: SenderId,
    /// How many senders may be at mail that is not critical.
    pub most_at_other: usize,
    /// Only this one takes anything: it finds out whether the relay is up again.
    pub probing: Option<SenderId>,
    /// Little is left from this number of mails on down.
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

/// How much there is.
pub(super) struct StockLevel {
    pub mails: usize,
    pub bytes: usize,
    /// How many more senders may begin mail that is not critical.
    pub room_at_other: usize,
}

/// What a sender may do now.
pub(super) struct SenderTurn {
    pub mail: Option<ClaimedMail>,
    /// The router should look at the lane: there is more to do than senders at it, or little left.
    pub wake_router: bool,
}

impl Stock {
    /// Changes who may take what.
    pub(super) fn rule(&self, change: impl FnOnce(&mut Rules)) {
        let mut state = self.0.lock();
        change(&mut state.rules);
    }

    /// All senders are retired; others come in their place.
    pub(super) fn retire_senders(&self, first_sender: SenderId) {
        let mut state = self.0.lock();
        let reserved: Vec<SenderId> = state.reserved.keys().copied().collect();
        for sender in reserved {
            state.unreserve(sender);
        }
        state.at_other.clear();
        state.called.clear();
        state.idle = 0;
        state.rules.first_sender = first_sender;
        state.rules.probing = None;
    }

    /// A sender is gone.
    pub(super) fn forget_sender(&self, sender: SenderId) {
        let mut state = self.0.lock();
        state.unreserve(sender);
        state.at_other.remove(&sender);
        state.called.remove(&sender);
    }

    /// Whether this sender finds out whether the relay is up again.
    pub(super) fn is_probed_by(&self, sender: SenderId) -> bool {
        self.0.lock().rules.probing == Some(sender)
    }

    /// Lays in what was claimed.
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
            state.low_is_told = false;
        }
    }

    pub(super) fn level(&self) -> StockLevel {
        let state = self.0.lock();
        StockLevel {
            mails: state.len(),
            bytes: state.bytes,
            room_at_other: state.room_at_other(),
        }
    }

    /// How many of so many idle senders have something to take.
    pub(super) fn wanted(&self, idle: usize) -> usize {
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
        let takeable = critical + other.min(state.room_at_other());
        takeable.saturating_sub(state.called.len()).min(idle)
    }

    /// When an idle sender should look at what is reserved for others.
    pub(super) fn look_again_in(&self) -> Option<Duration> {
        let state = self.0.lock();
        let has_room = state.room_at_other() > 0;
        let takeable = state
            .reserved
            .values()
            .filter(|one| has_room || one.mail.mail.is_critical());
        let oldest = takeable.map(|one| one.since).min()?;
        let left = RESERVED_FROM_IDLE.saturating_sub(oldest.elapsed());
        Some(left.max(SHORTEST_LOOK))
    }

    /// Whether a sender has found that little is left, since this was last asked.
    pub(super) fn has_become_low(&self) -> bool {
        std::mem::take(&mut self.0.lock().is_low)
    }

    /// A sender was called.
    pub(super) fn call(&self, sender: SenderId) {
        let mut state = self.0.lock();
        state.called.insert(sender);
        state.idle = state.idle.saturating_sub(1);
    }

    /// The next mail for this sender, which has come.
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

    /// Reserves the next mail for a sender, that it may begin it behind the one that it sends; what
    /// is returned is made of it. Not while another sender is free for it, nor where the
    /// mail may be sent only once: that is not begun before its turn.
    pub(super) fn reserve<T>(&self, sender: SenderId, make: impl FnOnce(&Claim) -> T) -> Option<T> {
        let mut state = self.0.lock();
        let critical = state.next_queue(sender)?;
        let idle_could_take = state.idle > 0 && (critical || state.room_at_other() > 0);
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

    /// The mail that is reserved for this sender; `None` where somebody else has it now.
    pub(super) fn resume(&self, sender: SenderId) -> Option<ClaimedMail> {
        let mut state = self.0.lock();
        state.reserved.remove(&sender).map(|one| one.mail.mail)
    }

    /// The sender will not send what is reserved for it.
    pub(super) fn unreserve(&self, sender: SenderId) {
        self.0.lock().unreserve(sender);
    }

    /// The sender has sent a mail, or given it back.
    pub(super) fn finished(&self, sender: SenderId, was_critical: bool) {
        self.0.lock().release(sender, was_critical);
    }

    /// Gives everything back.
    pub(super) fn clear(&self) {
        self.remove(|_| true);
    }

    /// How many mails went back since this was last asked, without having been put to the relay.
    pub(super) fn take_unsent(&self) -> usize {
        std::mem::take(&mut self.0.lock().unsent)
    }

    /// Takes out what nobody has begun and this chooses.
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

    fn room_at_other(&self) -> usize {
        self.rules.most_at_other.saturating_sub(self.at_other.len())
    }

    fn may_take_other(&self, sender: SenderId) -> bool {
        self.at_other.contains_key(&sender) || self.room_at_other() > 0
    }

    /// From which queue this sender takes next: whether from that of critical mail.
    fn next_queue(&self, sender: SenderId) -> Option<bool> {
        let is_barred =
            sender < self.rules.first_sender || self.rules.probing.is_some_and(|one| one != sender);
        if is_barred {
            return None;
        }

        let critical = self.critical.front().map(|first| first.number);
        let other = self.other.front().map(|first| first.number);
        match (critical, other.filter(|_| self.may_take_other(sender))) {
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

    /// Takes what has been reserved for another so long.
    fn take_reserved(&mut self, sender: SenderId, age: Duration) -> Option<NumberedMail> {
        if sender < self.rules.first_sender || self.rules.probing.is_some() {
            return None;
        }
        let (owner, _) = self
            .reserved_since(age)
            .find(|(_, one)| one.mail.mail.is_critical() || self.may_take_other(sender))?;

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
            *self.at_other.entry(sender).or_default() += 1;
        }
    }

    fn release(&mut self, sender: SenderId, was_critical: bool) {
        if was_critical {
            return;
        }
        if let Some(count) = self.at_other.get_mut(&sender) {
            *count -= 1;
            if *count == 0 {
                self.at_other.remove(&sender);
            }
        }
    }

    fn should_wake_router(&mut self) -> bool {
        let others_could_take = self.idle > 0
            && (self.critical.len() > self.called.len()
                || self.len() > self.called.len() && self.room_at_other() > 0);
        let is_low = self.len() <= self.rules.low && !self.low_is_told;
        self.low_is_told |= is_low;
        self.is_low |= is_low;
        others_could_take || is_low
    }
}
