//! A change of stored records by the writer's thread: it reads records, collects changes, and
//! commits them.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::SpoolState;
use super::answer::CommitAnswer;
use super::changes::{Changes, STEP_BYTES};
use super::journal::entry::JournalEntry;
use super::keys::{self, QueuePosition, Timer};
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use super::reader;
use super::stored_mail::StoredMail;
use super::syncer::{Syncer, WrittenGroup};
use super::transition::{self, QueuePlace, Transition};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::codec::{self, Totals};
use crate::spool::store::Store;
use crate::spool::{EndedDelivery, LeaseToken, Manifest, SpoolError};

/// A change in progress, on the writer's thread.
pub(super) struct WriteTransaction<'a, S> {
    pub shared: &'a SpoolState<S>,
    pub changes: Changes,
    pub totals: Totals,
    /// The totals as of the last commit, without the collected changes.
    before: Totals,
    seized: Vec<(LeaseToken, Option<QueuePlace>)>,
    enqueued: Vec<QueuePlace>,
    /// Deliveries that end without a user's request; the next sweep reports them.
    ended: Vec<EndedDelivery>,
    /// The syncer, while commits of this transaction are synced together with those of others.
    /// `None` from the moment the transaction uses the queues in memory: they match what is written
    /// only while nothing waits for a sync.
    syncer: Option<&'a Syncer<S>>,
    /// The last commit, if it was not passed to the syncer yet.
    written: Option<WrittenGroup<S>>,
    /// The bytes of that commit.
    bytes: usize,
}

impl<'a, S: Store> WriteTransaction<'a, S> {
    pub(super) fn new(shared: &'a SpoolState<S>, totals: Totals) -> Self {
        WriteTransaction {
            shared,
            changes: Changes::default(),
            before: totals.clone(),
            totals,
            seized: Vec::new(),
            enqueued: Vec::new(),
            ended: Vec::new(),
            syncer: None,
            written: None,
            bytes: 0,
        }
    }

    /// A transaction whose commits are synced later together with other commits, as long as it
    /// changes no waiting delivery.
    pub(super) fn beside_others(
        shared: &'a SpoolState<S>,
        totals: Totals,
        syncer: &'a Syncer<S>,
    ) -> Self {
        WriteTransaction {
            syncer: Some(syncer),
            ..WriteTransaction::new(shared, totals)
        }
    }

    /// Waits until the queues in memory match what is written. From now on each commit is synced
    /// before the transaction continues.
    fn wait_for_queues(&mut self) {
        if let Some(syncer) = self.syncer.take() {
            if let Some(written) = self.written.take() {
                syncer.add(self.shared, written, false);
            }
            syncer.finish();
        }
    }

    /// Gives `answer` once everything that was committed is synced. Returns how many bytes are not
    /// synced yet.
    pub(super) fn finish(mut self, answer: Option<CommitAnswer<S>>) -> usize {
        match (self.syncer, self.written.take()) {
            (Some(syncer), Some(mut written)) => {
                written.answers.extend(answer);
                syncer.add(self.shared, written, false);
            }
            _ => {
                if let Some(answer) = answer {
                    answer.give(self.shared, &Ok(()));
                }
            }
        }
        self.bytes
    }

    /// Leases a pending delivery, so that no sender claims it. False if a sender has it.
    pub(super) fn seize(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) -> bool {
        let Some(due) = delivery.stage.due() else {
            return false;
        };
        self.wait_for_queues();

        let queue = QueueName {
            route: delivery.route.clone(),
            priority: manifest.priority,
        };

        let place = QueuePosition {
            due,
            mail: manifest.id,
            index,
        };

        let seized = self.shared.queues.lock().seize(
            &queue,
            place,
            QueueEntry::of_delivery(manifest, delivery),
        );

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
            &mut self.changes,
            codec::encode(delivery),
            &mut self.totals,
            self.shared,
        );
    }

    /// Ends the delivery that was seized last, and returns its new state. An at-most-once delivery
    /// that may have been sent becomes in doubt, whatever the reason for ending it.
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
            self.changes.remove(keys::marked(token.mail, token.index));
        }
        delivery
    }

    /// Queues a delivery again that had ended.
    pub(super) fn enqueue_again(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) {
        let Some(due) = delivery.stage.due() else {
            return;
        };
        let queue = QueueName {
            route: delivery.route.clone(),
            priority: manifest.priority,
        };

        let place = QueuePosition {
            due,
            mail: manifest.id,
            index,
        };

        let key = keys::delivery(manifest.id, index);
        self.changes.put(key, codec::encode(delivery));
        self.enqueue(queue, place, QueueEntry::of_delivery(manifest, delivery));
    }

    /// Counts a delivery of a new mail that was dead when it was accepted.
    pub(super) fn ended_from_the_start(
        &mut self,
        manifest: &Manifest,
        index: u16,
        delivery: &Delivery,
    ) {
        let ended = transition::EndedAtAccept {
            manifest,
            index,
            delivery,
        };
        ended.write(&mut self.changes, &mut self.totals, self.shared);
    }

    /// Queues a delivery that no sender holds.
    pub(super) fn enqueue(&mut self, queue: QueueName, place: QueuePosition, entry: QueueEntry) {
        self.wait_for_queues();
        self.changes.enqueue(self.shared, &queue, &place, &entry);
        self.enqueued.push((queue, place, entry));
    }

    /// Whether the collected changes are large enough to be committed.
    pub(super) fn is_full(&self) -> bool {
        self.changes.weight() >= STEP_BYTES
    }

    /// Commits the changes, releases what was seized, and wakes the scheduler. Does nothing if
    /// there are no changes.
    pub(super) fn commit(&mut self) -> Result<(), SpoolError> {
        if self.changes.is_empty() {
            self.abandon();
            return Ok(());
        }

        let changes = std::mem::take(&mut self.changes);
        if let Some(syncer) = self.syncer {
            return self.commit_beside(syncer, changes);
        }

        let (batch, records) = changes.seal(self.shared, &mut self.totals);
        let written = self.shared.write(batch);
        let outcome = written.and_then(|()| self.shared.keep(records));

        let mut queues = self.shared.queues.lock();
        for (token, next) in self.seized.drain(..) {
            if outcome.is_err() {
                // The lease stays: whether the change reached the disk is unknown, so the delivery
                // must not be sent.
                self.shared.stuck.lock().push(token);
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
            self.shared.unreported_ends.lock().extend(ended);
            self.shared.next_timer.store(i64::MIN, Ordering::Relaxed);
        }

        self.before = self.totals.clone();
        self.shared.publish(&self.totals);
        self.shared.changed.notify_one();
        outcome
    }

    /// Writes the changes and leaves the sync to the syncer.
    fn commit_beside(&mut self, syncer: &Syncer<S>, changes: Changes) -> Result<(), SpoolError> {
        let began = Instant::now();
        if let Some(written) = self.written.take() {
            syncer.add(self.shared, written, false);
        }
        syncer.make_room();

        let bytes = changes.weight().max(1);
        let (batch, records) = changes.seal(self.shared, &mut self.totals);
        let outcome = self.shared.write(batch);
        self.before = self.totals.clone();
        self.bytes += bytes;

        self.written = Some(WrittenGroup {
            outcome: outcome.clone(),
            bytes,
            totals: self.totals.clone(),
            entries: records,
            answers: Vec::new(),
            wakes: false,
            began,
        });

        outcome
    }

    /// Discards the changes since the last commit and releases what was seized.
    pub(super) fn abandon(&mut self) {
        self.changes = Changes::default();
        self.totals = self.before.clone();
        self.enqueued.clear();
        self.ended.clear();
        let mut queues = self.shared.queues.lock();
        for (token, _) in self.seized.drain(..) {
            queues.release(&token);
        }
    }

    /// Moves a record that cannot be read to the set-aside keys (`z`).
    pub(super) fn set_aside(&mut self, key: Vec<u8>) -> Result<(), SpoolError> {
        if let Some(bytes) = self.shared.store.get(&key)? {
            self.changes.put(keys::quarantined(&key), bytes);
            self.changes.remove(key);
        }
        Ok(())
    }

    /// Ends a queued delivery that cannot be sent, because its mail cannot be read or because it is
    /// in doubt.
    pub(super) fn end(
        &mut self,
        queue: &QueueName,
        place: QueuePosition,
        reason: DeadReason,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let key = keys::delivery(place.mail, place.index);
        let mut delivery = reader::delivery(&self.shared.store, place.mail, place.index)?;
        if let Some(Err(_)) = delivery {
            self.set_aside(key)?;
            // The delivery's record cannot be read; its recipient may still be in the mail's
            // record.
            let mail = StoredMail::read(&self.shared.store, place.mail)
                .ok()
                .flatten();
            delivery = mail
                .and_then(|mail| mail.as_put(place.index).cloned())
                .map(Ok);
        }

        if let Some(Ok(mut delivery)) = delivery {
            delivery.stage = Stage::Dead { at: now, reason };
            let entry = self.entry_at(queue, &place)?;
            let step = Transition {
                queue,
                old: place,
                entry: &entry,
                delivery: &delivery,
            };
            step.write(
                &mut self.changes,
                codec::encode(&delivery),
                &mut self.totals,
                self.shared,
            );
            self.changes.remove(keys::marked(place.mail, place.index));

            let manifest = reader::manifest(&self.shared.store, place.mail)
                .ok()
                .flatten();
            let ended = JournalEntry::became(place.mail, manifest.as_ref(), &delivery, false, now);
            self.changes.add_entry(ended);
            self.report_end(place.mail, delivery.recipient, reason);
        } else {
            let entry = self.entry_at(queue, &place)?;
            self.changes.dequeue(self.shared, queue, &place, &entry);
        }

        Ok(())
    }

    /// The value of a position in a queue. If it cannot be read, a default: the position exists.
    fn entry_at(&self, queue: &QueueName, place: &QueuePosition) -> Result<QueueEntry, SpoolError> {
        let id = self.shared.ids.read().id(&queue.route);
        let value = match id {
            Some(id) => self
                .shared
                .store
                .get(&keys::queue(id, queue.priority, place))?,
            None => None,
        };

        Ok(value
            .and_then(|value| QueueEntry::from_bytes(&value))
            .unwrap_or(QueueEntry {
                size: 0,
                expires_at: Timestamp::MAX,
                tried: false,
                account: 0,
                fresh: None,
            }))
    }

    /// Adds a journal entry for the end of a delivery without an attempt.
    pub(super) fn add_outcome_entry(
        &mut self,
        manifest: &Manifest,
        delivery: &Delivery,
        now: Timestamp,
    ) {
        let became = JournalEntry::became(manifest.id, Some(manifest), delivery, false, now);
        self.changes.add_entry(became);
    }

    /// Lets the next sweep report that a delivery has ended without a user's request.
    pub(super) fn report_end(&mut self, mail: MailId, recipient: Address, reason: DeadReason) {
        self.ended.push(EndedDelivery {
            mail,
            recipient,
            reason,
        });
    }

    /// Sets a timer: a sweep will handle it at this time.
    pub(super) fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.changes.set_timer(self.shared, at, timer);
    }
}
