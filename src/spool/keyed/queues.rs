//! The heads of the queues and the table of leases: the part of the spool's state that is only in
//! memory. After a restart there are no leases, so every delivery that was in flight is queued
//! again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{QueuePosition, Slot};
use super::queue_head::{self, QueueEntry, QueueHead};
use crate::delivery::Route;
use crate::mail::{Priority, Timestamp};
use crate::spool::{ClaimRequest, LeaseToken, Manifest};

/// A delivery that is leased, and so is not in the head of its queue.
#[derive(Clone, Debug)]
pub(super) struct LeasedDelivery {
    pub serial: u64,
    pub queue: QueueName,
    pub place: QueuePosition,
    pub entry: QueueEntry,
    /// The mail's manifest, once it was read.
    pub of: Option<Arc<Manifest>>,
    /// How often it had been tried when it was leased.
    pub tries: u32,
    /// Whether a mark on disk says that it may have been sent.
    pub marked: bool,
    /// Whether no sender holds it: the lease only prevents that it is claimed.
    pub idle: bool,
}

impl LeasedDelivery {
    /// The mail's manifest, if it is known.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        let fresh = self.entry.fresh.as_ref().map(|fresh| &fresh.manifest);
        self.of.as_ref().or(fresh).map(|manifest| &**manifest)
    }
}

/// The name of one queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct QueueName {
    pub route: Route,
    pub priority: Priority,
}

/// Deliveries of one mail that were claimed together.
pub(super) struct ClaimedDeliveries {
    pub queue: QueueName,
    pub places: Vec<(QueuePosition, u64)>,
    pub entry: QueueEntry,
}

pub(super) struct Queues {
    heads: HashMap<Route, [QueueHead; 3]>,
    leases: HashMap<Slot, LeasedDelivery>,
    last_serial: u64,
}

impl Queues {
    pub(super) fn new(known_routes: Vec<Route>) -> Self {
        let unknown = |_| QueueHead::of_unknown_queue();
        let heads = known_routes
            .into_iter()
            .map(|route| (route, [0; 3].map(unknown)))
            .collect();
        Queues {
            heads,
            leases: HashMap::new(),
            last_serial: 0,
        }
    }

    /// Forgets the queues' heads, which are read from disk again. Leases stay.
    pub(super) fn read_again(&mut self, routes: Vec<Route>) {
        let fresh = Queues::new(self.routes().into_iter().chain(routes).collect());
        self.heads = fresh.heads;
        for leased in self.leases.values_mut() {
            leased.entry.fresh = None;
        }
    }

    pub(super) fn routes(&self) -> Vec<Route> {
        self.heads.keys().cloned().collect()
    }

    fn head(&mut self, queue: &QueueName) -> &mut QueueHead {
        if !self.heads.contains_key(&queue.route) {
            self.heads.insert(
                queue.route.clone(),
                [0; 3].map(|_| QueueHead::of_empty_queue()),
            );
        }
        let heads = self
            .heads
            .get_mut(&queue.route)
            .expect("it was just looked for and put there");
        &mut heads[queue.priority.index()]
    }

    /// Adds a new place, which is now in its queue on disk. It may be leased already, if the queue
    /// was read from disk after the write.
    pub(super) fn enqueue_new(
        &mut self,
        queue: &QueueName,
        place: QueuePosition,
        entry: QueueEntry,
    ) {
        if !self.is_leased(&place.slot()) {
            self.enqueue(queue, place, entry);
        }
    }

    /// Adds a place that is now in its queue on disk.
    pub(super) fn enqueue(&mut self, queue: &QueueName, place: QueuePosition, entry: QueueEntry) {
        let capacity = self.capacity();
        self.head(queue).insert(place, entry, capacity);
    }

    /// The queues of `routes` whose heads are empty and must be read from disk, each with the place
    /// after which to read. They are marked as being read.
    pub(super) fn begin_refills(
        &mut self,
        routes: &[Route],
    ) -> Vec<(QueueName, Option<QueuePosition>)> {
        let mut refills = Vec::new();
        for route in routes {
            let Some(heads) = self.heads.get_mut(route) else {
                continue;
            };
            for (head, priority) in heads.iter_mut().zip(Priority::ALL) {
                if head.is_exhausted() {
                    let queue = QueueName {
                        route: route.clone(),
                        priority,
                    };
                    refills.push((queue, head.begin_refill()));
                }
            }
        }

        refills
    }

    /// A queue's head was read. If that failed, returns after what time to try again.
    pub(super) fn end_refill(
        &mut self,
        queue: &QueueName,
        read: Option<(Vec<(QueuePosition, QueueEntry)>, bool)>,
    ) -> Option<Duration> {
        let capacity = self.capacity();
        let leases = std::mem::take(&mut self.leases);
        let head = self.head(queue);
        let rest = match read {
            Some((read, all)) => {
                let is_free = |place: &QueuePosition| !leases.contains_key(&place.slot());
                head.end_refill(read, all, capacity, is_free);
                None
            }
            None => Some(head.abort_refill(capacity)),
        };

        self.leases = leases;
        rest
    }

    /// How many places each head may hold.
    fn capacity(&self) -> usize {
        queue_head::capacity(self.heads.len() * Priority::ALL.len())
    }

    /// Leases deliveries from the heads of the queues.
    pub(super) fn take(&mut self, request: &ClaimRequest) -> Vec<ClaimedDeliveries> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut rotation = 0;
        let turns = request.turns.iter().map(|turn| (*turn, true));

        let reserved = std::iter::repeat_n((Priority::Critical, false), request.critical_only);
        for (turn, may_fall_through) in turns.chain(reserved) {
            let others = Priority::ALL
                .into_iter()
                .filter(|p| may_fall_through && *p != turn);
            let order: Vec<Priority> = std::iter::once(turn).chain(others).collect();
            let Some(one) = order
                .into_iter()
                .find_map(|priority| self.take_one(request, priority, &mut rotation))
            else {
                if may_fall_through {
                    break;
                }
                continue;
            };
            let size = usize::try_from(one.entry.size).unwrap_or(usize::MAX);
            bytes += size;
            if bytes > request.max_bytes && !taken.is_empty() {
                self.put_back(one);
                break;
            }
            taken.push(one);
        }

        taken
    }

    /// The deliveries of one mail at the front of a queue of this priority; the routes take turns.
    fn take_one(
        &mut self,
        request: &ClaimRequest,
        priority: Priority,
        rotation: &mut usize,
    ) -> Option<ClaimedDeliveries> {
        for step in 0..request.routes.len() {
            let at = (*rotation + step) % request.routes.len();
            let route = &request.routes[at];
            let Some(head) = self
                .heads
                .get_mut(route)
                .map(|heads| &mut heads[priority.index()])
            else {
                continue;
            };
            if head.first_due(request.now).is_none() {
                continue;
            }

            *rotation = at + 1;
            let queue = QueueName {
                route: route.clone(),
                priority,
            };

            let mut together: Vec<(QueuePosition, QueueEntry)> = Vec::new();
            while let Some((place, _)) = head.first_due(request.now) {
                let belongs = together
                    .first()
                    .is_none_or(|(first, _)| first.mail == place.mail);
                if !belongs || together.len() >= request.max_recipients.max(1) {
                    break;
                }
                together.extend(head.pop());
            }

            let mut places = Vec::with_capacity(together.len());
            for (place, entry) in &together {
                places.push((*place, self.lease(&queue, *place, entry.clone())));
            }

            // If one has changed since it was put, its record must be read from disk.
            let all_fresh = together.iter().all(|(_, entry)| entry.fresh.is_some());
            let mut entry = together.swap_remove(0).1;
            entry.fresh = entry.fresh.filter(|_| all_fresh);
            return Some(ClaimedDeliveries {
                queue,
                places,
                entry,
            });
        }

        None
    }

    fn put_back(&mut self, taken: ClaimedDeliveries) {
        for (place, serial) in taken.places {
            self.release(&LeaseToken {
                mail: place.mail,
                index: place.index,
                serial,
            });
        }
    }

    fn lease(&mut self, queue: &QueueName, place: QueuePosition, entry: QueueEntry) -> u64 {
        self.last_serial += 1;
        let serial = self.last_serial;
        let leased = LeasedDelivery {
            serial,
            queue: queue.clone(),
            place,
            entry,
            of: None,
            tries: 0,
            marked: false,
            idle: false,
        };

        let before = self.leases.insert(place.slot(), leased);
        debug_assert!(
            before.is_none(),
            "{:?} was leased, and would be sent twice",
            before.map(|before| before.place)
        );

        serial
    }

    /// The delivery that this lease is for, if it is the current one.
    pub(super) fn current(&self, token: &LeaseToken) -> Option<&LeasedDelivery> {
        self.leases
            .get(&(token.mail, token.index))
            .filter(|leased| leased.serial == token.serial)
    }

    pub(super) fn is_leased(&self, slot: &Slot) -> bool {
        self.leases.contains_key(slot)
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &LeasedDelivery> {
        self.leases.values()
    }

    fn current_mut(&mut self, token: &LeaseToken) -> Option<&mut LeasedDelivery> {
        self.leases
            .get_mut(&(token.mail, token.index))
            .filter(|leased| leased.serial == token.serial)
    }

    /// Notes a leased delivery's manifest and how often it was tried.
    pub(super) fn note(&mut self, token: &LeaseToken, of: &Arc<Manifest>, tries: u32) {
        if let Some(leased) = self.current_mut(token) {
            leased.of = Some(Arc::clone(of));
            leased.tries = tries;
        }
    }

    /// Notes that it is marked as possibly sent. What is cached of the delivery is out of date
    /// then.
    pub(super) fn mark(&mut self, token: &LeaseToken) -> bool {
        let Some(leased) = self.current_mut(token) else {
            return false;
        };
        leased.marked = true;
        leased.entry.fresh = None;
        true
    }

    /// Notes that no sender has it, so that it may be seized.
    pub(super) fn set_idle(&mut self, token: &LeaseToken) {
        if let Some(leased) = self.current_mut(token) {
            leased.idle = true;
        }
    }

    /// Discards what is cached of a waiting delivery's mail, which has changed.
    pub(super) fn outdate(&mut self, queue: &QueueName, place: &QueuePosition) {
        match self.leases.get_mut(&place.slot()) {
            Some(leased) => leased.entry.fresh = None,
            None => self.head(queue).outdate(place),
        }
    }

    /// Ends a lease for good. If the delivery has a new place, that is enqueued separately.
    pub(super) fn end(&mut self, token: &LeaseToken) {
        if self.current(token).is_none() {
            return;
        }
        if let Some(leased) = self.leases.remove(&(token.mail, token.index)) {
            self.head(&leased.queue).leave(leased.place);
        }
    }

    /// Ends a lease; the delivery returns to its place. Returns whether the lease was current.
    pub(super) fn release(&mut self, token: &LeaseToken) -> bool {
        if self.current(token).is_none() {
            return false;
        }
        let Some(leased) = self.leases.remove(&(token.mail, token.index)) else {
            return false;
        };
        self.enqueue(&leased.queue, leased.place, leased.entry);
        true
    }

    /// Leases a delivery to the writer, so that it can change it. `None` while a sender has it.
    pub(super) fn seize(
        &mut self,
        queue: &QueueName,
        place: QueuePosition,
        entry: QueueEntry,
    ) -> Option<LeaseToken> {
        if self
            .leases
            .get(&place.slot())
            .is_some_and(|leased| !leased.idle)
        {
            return None;
        }

        self.leases.remove(&place.slot());
        self.head(queue).remove(&place);
        let serial = self.lease(queue, place, entry);
        Some(LeaseToken {
            mail: place.mail,
            index: place.index,
            serial,
        })
    }

    /// The routes with a queue in which something may be due.
    pub(super) fn due_routes(&self, now: Timestamp) -> Vec<Route> {
        let due = |heads: &[QueueHead; 3]| heads.iter().any(|head| head.may_be_due(now));
        self.heads
            .iter()
            .filter(|(_, heads)| due(heads))
            .map(|(route, _)| route.clone())
            .collect()
    }

    pub(super) fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        self.heads
            .values()
            .flatten()
            .filter_map(|head| head.next_due(after))
            .min()
    }
}

impl ClaimedDeliveries {
    /// The mail as it was put, if it is cached.
    pub(super) fn fresh(&self) -> Option<&Arc<super::queue_head::CachedMail>> {
        self.entry.fresh.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::MailId;

    #[test]
    fn a_new_delivery_that_was_read_from_disk_before_its_writing_was_known_is_leased_once() {
        let route = Route::over(["primary"]);
        let queue = QueueName {
            route: route.clone(),
            priority: Priority::Default,
        };

        let mut queues = Queues::new(vec![route.clone()]);
        let place = QueuePosition {
            due: Timestamp::from_millis(1),
            mail: MailId::from_bytes([7; 16]),
            index: 0,
        };

        let entry = QueueEntry {
            size: 1,
            expires_at: Timestamp::MAX,
            tried: false,
            account: 0,
            fresh: None,
        };

        let request = ClaimRequest {
            routes: vec![route.clone()],
            turns: vec![Priority::Default],
            critical_only: 0,
            max_bytes: 1000,
            max_recipients: 1,
            now: Timestamp::from_millis(1),
        };

        queues.begin_refills(std::slice::from_ref(&route));
        queues.end_refill(&queue, Some((vec![(place, entry.clone())], true)));
        assert_eq!(queues.take(&request).len(), 1);
        queues.enqueue_new(&queue, place, entry);

        assert_eq!(queues.take(&request).len(), 0);
    }

    #[test]
    fn a_delivery_that_is_moved_while_its_queue_is_read_is_leased_once() {
        let route = Route::over(["primary"]);
        let queue = QueueName {
            route: route.clone(),
            priority: Priority::Default,
        };

        let mut queues = Queues::new(vec![route.clone()]);
        let at = |millis| Timestamp::from_millis(millis);
        let place = |due| QueuePosition {
            due: at(due),
            mail: MailId::from_bytes([7; 16]),
            index: 0,
        };

        let entry = QueueEntry {
            size: 1,
            expires_at: Timestamp::MAX,
            tried: true,
            account: 0,
            fresh: None,
        };

        // The reader sees the delivery where it was; then a user has it tried at once.
        queues.begin_refills(std::slice::from_ref(&route));
        let read = vec![(place(60), entry.clone())];

        let seized = queues
            .seize(&queue, place(60), entry.clone())
            .expect("nobody has it");
        queues.end(&seized);
        queues.enqueue(&queue, place(10), entry);
        queues.end_refill(&queue, Some((read, true)));

        let request = ClaimRequest {
            routes: vec![route],
            turns: vec![Priority::Default; 2],
            critical_only: 0,
            max_bytes: 1000,
            max_recipients: 1,
            now: at(60),
        };

        let taken = queues.take(&request);
        assert_eq!(
            taken
                .iter()
                .map(|taken| taken.places[0].0)
                .collect::<Vec<_>>(),
            [place(10)]
        );
    }
}
