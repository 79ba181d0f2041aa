//! What is in flight and what comes next: the part of the spool's state that lives in memory. A
//! restart begins with an empty table of queues, which is what puts everything that was in flight
//! back into its queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{QueuePosition, Slot};
use super::queue_head::{self, Entry, QueueHead};
use crate::delivery::Route;
use crate::mail::{Priority, Timestamp};
use crate::spool::{ClaimRequest, LeaseToken, Manifest};

/// A delivery that is out of its queue's window, and why it may not be taken.
#[derive(Clone, Debug)]
pub(super) struct LeasedDelivery {
    pub serial: u64,
    pub queue: QueueName,
    pub place: QueuePosition,
    pub entry: Entry,
    /// What is known of the mail, once it was read.
    pub of: Option<Arc<Manifest>>,
    /// How often it had been tried when it was leased.
    pub tries: u32,
    /// Whether it was recorded that the final dot may have been sent.
    pub marked: bool,
    /// Whether it is only kept from being claimed, and no sender has it.
    pub idle: bool,
}

impl LeasedDelivery {
    /// What is known of the mail.
    pub(super) fn manifest(&self) -> Option<&Manifest> {
        let fresh = self.entry.fresh.as_ref().map(|fresh| &fresh.manifest);
        self.of.as_ref().or(fresh).map(|manifest| &**manifest)
    }
}

/// Names one queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct QueueName {
    pub route: Route,
    pub priority: Priority,
}

/// Deliveries of one mail that were taken together.
pub(super) struct ClaimedDeliveries {
    pub queue: QueueName,
    pub places: Vec<(QueuePosition, u64)>,
    pub entry: Entry,
}

pub(super) struct Queues {
    windows: HashMap<Route, [QueueHead; 3]>,
    leases: HashMap<Slot, LeasedDelivery>,
    last_serial: u64,
}

impl Queues {
    pub(super) fn new(known_routes: Vec<Route>) -> Self {
        let unknown = |_| QueueHead::of_unknown_queue();
        let windows = known_routes
            .into_iter()
            .map(|route| (route, [0; 3].map(unknown)))
            .collect();
        Queues {
            windows,
            leases: HashMap::new(),
            last_serial: 0,
        }
    }

    /// Forgets what comes next, which is read again; what is leased stays so.
    pub(super) fn read_again(&mut self, routes: Vec<Route>) {
        let fresh = Queues::new(self.routes().into_iter().chain(routes).collect());
        self.windows = fresh.windows;
        for leased in self.leases.values_mut() {
            leased.entry.fresh = None;
        }
    }

    pub(super) fn routes(&self) -> Vec<Route> {
        self.windows.keys().cloned().collect()
    }

    fn window(&mut self, queue: &QueueName) -> &mut QueueHead {
        if !self.windows.contains_key(&queue.route) {
            self.windows.insert(
                queue.route.clone(),
                [0; 3].map(|_| QueueHead::of_empty_queue()),
            );
        }
        let windows = self
            .windows
            .get_mut(&queue.route)
            .expect("it was just looked for and put there");
        &mut windows[queue.priority.index()]
    }

    /// A place that nobody held, now in its queue on disk. Whoever read the queue before its
    /// writing was known may have it.
    pub(super) fn enqueue_new(&mut self, queue: &QueueName, place: QueuePosition, entry: Entry) {
        if !self.is_leased(&place.slot()) {
            self.enqueue(queue, place, entry);
        }
    }

    /// A place that is now in its queue on disk.
    pub(super) fn enqueue(&mut self, queue: &QueueName, place: QueuePosition, entry: Entry) {
        let capacity = self.capacity();
        self.window(queue).insert(place, entry, capacity);
    }

    /// The queues among those of `routes` of which the disk must be read first, now marked as being
    /// read; with the place after which to read.
    pub(super) fn begin_refills(
        &mut self,
        routes: &[Route],
    ) -> Vec<(QueueName, Option<QueuePosition>)> {
        let mut refills = Vec::new();
        for route in routes {
            let Some(windows) = self.windows.get_mut(route) else {
                continue;
            };
            for (window, priority) in windows.iter_mut().zip(Priority::ALL) {
                if window.is_exhausted() {
                    let queue = QueueName {
                        route: route.clone(),
                        priority,
                    };
                    refills.push((queue, window.begin_refill()));
                }
            }
        }

        refills
    }

    /// The queue was read; where it could not be, returns how long it is left alone.
    pub(super) fn end_refill(
        &mut self,
        queue: &QueueName,
        read: Option<(Vec<(QueuePosition, Entry)>, bool)>,
    ) -> Option<Duration> {
        let capacity = self.capacity();
        let leases = std::mem::take(&mut self.leases);
        let window = self.window(queue);
        let rest = match read {
            Some((read, all)) => {
                let is_free = |place: &QueuePosition| !leases.contains_key(&place.slot());
                window.end_refill(read, all, capacity, is_free);
                None
            }
            None => Some(window.abort_refill(capacity)),
        };

        self.leases = leases;
        rest
    }

    /// How many places each window may hold.
    fn capacity(&self) -> usize {
        queue_head::capacity(self.windows.len() * Priority::ALL.len())
    }

    /// Takes what is wanted out of the windows, under new leases.
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
            let Some(window) = self
                .windows
                .get_mut(route)
                .map(|windows| &mut windows[priority.index()])
            else {
                continue;
            };
            if window.first_due(request.now).is_none() {
                continue;
            }
            *rotation = at + 1;
            let queue = QueueName {
                route: route.clone(),
                priority,
            };
            let mut together: Vec<(QueuePosition, Entry)> = Vec::new();
            while let Some((place, _)) = window.first_due(request.now) {
                let belongs = together
                    .first()
                    .is_none_or(|(first, _)| first.mail == place.mail);
                if !belongs || together.len() >= request.max_recipients.max(1) {
                    break;
                }
                together.extend(window.pop());
            }
            let mut places = Vec::with_capacity(together.len());
            for (place, entry) in &together {
                places.push((*place, self.lease(&queue, *place, entry.clone())));
            }
            // What was changed since it was put is only known on disk.
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

    fn lease(&mut self, queue: &QueueName, place: QueuePosition, entry: Entry) -> u64 {
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

    /// Whether this lease is the current one, and of what.
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

    /// Notes whose delivery it is, and how often it was tried.
    pub(super) fn note(&mut self, token: &LeaseToken, of: &Arc<Manifest>, tries: u32) {
        if let Some(leased) = self.current_mut(token) {
            leased.of = Some(Arc::clone(of));
            leased.tries = tries;
        }
    }

    /// Notes that the final dot may have been sent. What was known of the delivery before is not to
    /// be used again.
    pub(super) fn mark(&mut self, token: &LeaseToken) -> bool {
        let Some(leased) = self.current_mut(token) else {
            return false;
        };
        leased.marked = true;
        leased.entry.fresh = None;
        true
    }

    /// Notes that no sender has it: it may be seized.
    pub(super) fn set_idle(&mut self, token: &LeaseToken) {
        if let Some(leased) = self.current_mut(token) {
            leased.idle = true;
        }
    }

    /// Notes that what was known of a waiting delivery's mail when it was put is no longer true.
    pub(super) fn outdate(&mut self, queue: &QueueName, place: &QueuePosition) {
        match self.leases.get_mut(&place.slot()) {
            Some(leased) => leased.entry.fresh = None,
            None => self.window(queue).outdate(place),
        }
    }

    /// Ends a lease for good: the delivery's new place, if any, is enqueued anew.
    pub(super) fn end(&mut self, token: &LeaseToken) {
        if self.current(token).is_none() {
            return;
        }
        if let Some(leased) = self.leases.remove(&(token.mail, token.index)) {
            self.window(&leased.queue).leave(leased.place);
        }
    }

    /// Ends a lease; the delivery goes back to its place. Returns whether it was current.
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

    /// Takes a delivery that no sender has, so that the writer can change it undisturbed. `None`
    /// while one has it.
    pub(super) fn seize(
        &mut self,
        queue: &QueueName,
        place: QueuePosition,
        entry: Entry,
    ) -> Option<LeaseToken> {
        if self
            .leases
            .get(&place.slot())
            .is_some_and(|leased| !leased.idle)
        {
            return None;
        }

        self.leases.remove(&place.slot());
        self.window(queue).remove(&place);
        let serial = self.lease(queue, place, entry);
        Some(LeaseToken {
            mail: place.mail,
            index: place.index,
            serial,
        })
    }

    /// The routes with a queue in which something may be due.
    pub(super) fn due_routes(&self, now: Timestamp) -> Vec<Route> {
        let due = |windows: &[QueueHead; 3]| windows.iter().any(|window| window.may_be_due(now));
        self.windows
            .iter()
            .filter(|(_, windows)| due(windows))
            .map(|(route, _)| route.clone())
            .collect()
    }

    pub(super) fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        self.windows
            .values()
            .flatten()
            .filter_map(|window| window.next_due(after))
            .min()
    }
}

impl ClaimedDeliveries {
    /// The mail as it was put, if it was kept.
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

        let entry = Entry {
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

        let entry = Entry {
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
