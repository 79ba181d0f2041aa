//! A change of what is already kept, under way on the writer's thread: what is held meanwhile, and
//! what is committed.

use std::sync::atomic::Ordering;

use super::Shared;
use super::keys::{self, Place, Timer};
use super::queue_head::Entry;
use super::queues::QueueName;
use super::reader;
use super::stored_mail::StoredMail;
use super::transition::{Transition, Waiting};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::codec::{self, Totals};
use crate::spool::store::{Batch, Store};
use crate::spool::{EndedDelivery, LeaseToken, Manifest, SpoolError};

/// A change of what is already kept, under way on the writer's thread.
pub(super) struct WriteTransaction<'a, S> {
    pub shared: &'a Shared<S>,
    pub batch: Batch,
    pub totals: Totals,
    /// The totals without what is in the batch.
    before: Totals,
    seized: Vec<(LeaseToken, Option<Waiting>)>,
    enqueued: Vec<Waiting>,
    /// What ends by nobody's wish: the next sweep tells of it.
    ended: Vec<EndedDelivery>,
}

impl<'a, S: Store> WriteTransaction<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, totals: Totals) -> Self {
        WriteTransaction {
            shared,
            batch: Batch::new(),
            before: totals.clone(),
            totals,
            seized: Vec::new(),
            enqueued: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Holds a pending delivery, so that no sender takes it meanwhile; false if one has it.
    pub(super) fn seize(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) -> bool {
        let Some(due) = delivery.stage.due() else {
            return false;
        };
        let queue = QueueName {
            route: delivery.route.clone(),
            priority: manifest.priority,
        };
        let place = Place {
            due,
            mail: manifest.id,
            index,
        };
        let seized = self
            .shared
            .queues
            .lock()
            .seize(&queue, place, Entry::of(manifest));
        seized
            .map(|token| self.seized.push((token, None)))
            .is_some()
    }

    /// Changes the delivery that was seized last.
    pub(super) fn step_seized(&mut self, delivery: &Delivery) {
        let Some((token, next)) = self.seized.last_mut() else {
            return;
        };
        let leased = self.shared.queues.lock().current(token).cloned();
        let Some(leased) = leased else { return };
        let step = Transition {
            queue: &leased.queue,
            old: leased.place,
            entry: &leased.entry,
            delivery,
        };
        *next = step.write(
            &mut self.batch,
            codec::encode(delivery),
            &mut self.totals,
            self.shared,
        );
    }

    /// Ends the delivery that was seized last, and returns how: one that may have been sent and
    /// must not be sent twice is in doubt, whatever else would end it.
    pub(super) fn end_seized(
        &mut self,
        mut delivery: Delivery,
        stage: Stage,
        now: Timestamp,
    ) -> Delivery {
        let may_be_sent = matches!(delivery.stage, Stage::Committing { .. });
        delivery.stage = if may_be_sent {
            Stage::Dead {
                at: now,
                reason: DeadReason::InDoubt,
            }
        } else {
            stage
        };
        self.step_seized(&delivery);
        if let Some((token, _)) = self.seized.last().filter(|_| may_be_sent) {
            self.batch
                .push((keys::marked(token.mail, token.index), None));
        }
        delivery
    }

    /// Puts a delivery that had ended back into a queue.
    pub(super) fn enqueue_again(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) {
        let Some(due) = delivery.stage.due() else {
            return;
        };
        let queue = QueueName {
            route: delivery.route.clone(),
            priority: manifest.priority,
        };
        let place = Place {
            due,
            mail: manifest.id,
            index,
        };
        let entry = Entry::of(manifest);
        self.batch.push((
            keys::delivery(manifest.id, index),
            Some(codec::encode(delivery)),
        ));
        self.batch.push((
            keys::queue(&queue.route, queue.priority, &place),
            Some(entry.to_bytes()),
        ));
        self.totals.pending[queue.priority.index()] += 1;
        self.enqueued.push((queue, place, entry));
    }

    /// Writes what was changed, lets go of what was seized, and wakes the scheduler.
    pub(super) fn commit(&mut self) -> Result<(), SpoolError> {
        let mut batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            batch.push((keys::TOTALS.to_vec(), Some(codec::encode(&self.totals))));
        }
        let outcome = if batch.is_empty() {
            Ok(())
        } else {
            self.shared.write(batch).and_then(|()| self.shared.keep())
        };
        let mut queues = self.shared.queues.lock();
        for (token, next) in self.seized.drain(..) {
            if outcome.is_err() {
                // It stays seized: what is on disk is not known, and nothing may be sent on a
                // guess.
                continue;
            }
            queues.end(&token);
            if let Some((queue, place, entry)) = next {
                queues.enqueue(&queue, place, entry);
            }
        }
        let enqueued = std::mem::take(&mut self.enqueued);
        let ended = std::mem::take(&mut self.ended);
        if outcome.is_ok() {
            enqueued
                .into_iter()
                .for_each(|(queue, place, entry)| queues.enqueue_new(&queue, place, entry));
        }
        drop(queues);
        if outcome.is_ok() && !ended.is_empty() {
            self.shared.untold.lock().extend(ended);
            self.shared.next_timer.store(i64::MIN, Ordering::Relaxed);
        }
        self.before = self.totals.clone();
        self.shared.publish(&self.totals);
        self.shared.changed.notify_one();
        outcome
    }

    /// Forgets what was to be changed since the last commit, and gives back what was seized.
    pub(super) fn abandon(&mut self) {
        self.batch.clear();
        self.totals = self.before.clone();
        self.enqueued.clear();
        self.ended.clear();
        let mut queues = self.shared.queues.lock();
        for (token, _) in self.seized.drain(..) {
            queues.release(&token);
        }
    }

    /// Sets a record aside that cannot be read.
    pub(super) fn set_aside(&mut self, key: Vec<u8>) -> Result<(), SpoolError> {
        if let Some(bytes) = self.shared.store.get(&key)? {
            self.batch.push((keys::quarantined(&key), Some(bytes)));
            self.batch.push((key, None));
        }
        Ok(())
    }

    /// Ends a delivery that waits in a queue and cannot be sent: something of its mail cannot be
    /// read, or it is in doubt.
    pub(super) fn end(
        &mut self,
        queue: &QueueName,
        place: Place,
        reason: DeadReason,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let key = keys::delivery(place.mail, place.index);
        let mut delivery = reader::delivery(&self.shared.store, place.mail, place.index)?;
        if let Some(Err(_)) = delivery {
            self.set_aside(key)?;
            // How far it came is not known; who it was for may be.
            let mail = StoredMail::read(&self.shared.store, place.mail)
                .ok()
                .flatten();
            delivery = mail
                .and_then(|mail| mail.as_put(place.index).cloned())
                .map(Ok);
        }
        if let Some(Ok(mut delivery)) = delivery {
            delivery.stage = Stage::Dead { at: now, reason };
            let entry = Entry {
                size: 0,
                expires_at: Timestamp::MAX,
                tried: true,
                fresh: None,
            };
            let step = Transition {
                queue,
                old: place,
                entry: &entry,
                delivery: &delivery,
            };
            step.write(
                &mut self.batch,
                codec::encode(&delivery),
                &mut self.totals,
                self.shared,
            );
            self.batch
                .push((keys::marked(place.mail, place.index), None));
            self.tell_end(place.mail, delivery.recipient, reason);
        } else {
            self.batch
                .push((keys::queue(&queue.route, queue.priority, &place), None));
            let pending = &mut self.totals.pending[queue.priority.index()];
            *pending = pending.saturating_sub(1);
        }
        Ok(())
    }

    /// Has the next sweep tell that a delivery has ended by nobody's wish.
    pub(super) fn tell_end(&mut self, mail: MailId, recipient: Address, reason: DeadReason) {
        self.ended.push(EndedDelivery {
            mail,
            recipient,
            reason,
        });
    }

    /// Has something looked at, at this time.
    pub(super) fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.shared.set_timers(&mut self.batch, at, &[timer]);
    }
}
