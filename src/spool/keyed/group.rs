//! Gathers commands into a group: what each changes is added to one commit, and the answer to give
//! once it is on disk. Called by the [`writer`](super::writer).
//!
//! *Invariant:* a mail whose id or idempotency key is stored already, on disk or in the same group,
//! is not stored again; an outcome without the current lease changes nothing.

use std::collections::{HashMap, HashSet};

use tokio::sync::oneshot;

use super::answer::{CommitAnswer, ReplySender};
use super::changes::Changes;
use super::command::GroupCommand;
use super::encoding::Encoded;
use super::idempotency::Hash;
use super::journal::entry::JournalEntry;
use super::keys::{self, QueuePosition, Timer};
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use super::transition::{EndedAtAccept, Transition};
use super::usage::CountedKind;
use super::writer::Writer;
use crate::delivery::Delivery;
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord};
use crate::spool::store::{Batch, Store};
use crate::spool::{LeaseToken, Manifest, PutResult, SettleResult, SpoolError};

/// Commands that are written in one commit.
pub(super) struct CommitGroup<S> {
    pub commands: usize,
    pub changes: Changes,
    /// Mails that this group writes.
    mails: HashSet<MailId>,
    /// Idempotency keys that this group writes.
    keys: HashMap<Hash, KeyRecord>,
    /// Keys whose number is counted in the totals, and whether they exist after this group.
    counted: HashMap<Vec<u8>, bool>,
    pub answers: Vec<CommitAnswer<S>>,
    /// Whether it makes mail due, so that the scheduler must be woken.
    pub wakes: bool,
    /// Whether the disk has room for new mail, once that was checked.
    room: Option<Result<(), SpoolError>>,
}

impl<S> Default for CommitGroup<S> {
    fn default() -> Self {
        CommitGroup {
            commands: 0,
            changes: Changes::default(),
            mails: HashSet::new(),
            keys: HashMap::new(),
            counted: HashMap::new(),
            answers: Vec::new(),
            wakes: false,
            room: None,
        }
    }
}

impl<S: Store> Writer<'_, S> {
    /// Adds what a command changes to the group, and the answer to give once it is on disk.
    pub(super) fn gather(&mut self, group: &mut CommitGroup<S>, command: GroupCommand<S>) {
        group.commands += 1;
        match command {
            GroupCommand::Judge(manifest, key, reply) => {
                let judged = self
                    .has_room(group)
                    .and_then(|()| self.judge(group, &manifest, key))
                    .and_then(|judged| self.with_space(&manifest, judged));
                group.answers.push(CommitAnswer::Judged(reply, judged));
            }
            GroupCommand::Write(batch, reply) => {
                let room = self.has_room(group);
                if room.is_ok() {
                    group.changes.append(batch);
                }
                group.answers.push(CommitAnswer::Done(reply, room));
            }
            GroupCommand::Forget(id) => {
                group.changes.remove(keys::writing(id));
                let at_once = Timestamp::from_millis(0);
                group
                    .changes
                    .set_timer(self.shared, at_once, Timer::Chunks(id));
            }
            GroupCommand::Put(mails, reply) => self.put(group, mails, reply),
            GroupCommand::Note(events, batch, reply) => {
                let counted = self.count(group, &batch);
                if counted.is_ok() {
                    for event in &events {
                        group.changes.add_entry(JournalEntry::of(event));
                    }
                    group.changes.append(batch);
                }
                group.answers.push(CommitAnswer::Done(reply, counted));
            }
            GroupCommand::Mark(marked, reply) => self.mark(group, marked, reply),
            GroupCommand::Settle(settled, reply) => self.settle(group, settled, reply),
        }
    }

    /// Updates the totals for the keys that this batch adds or removes.
    fn count(&mut self, group: &mut CommitGroup<S>, batch: &Batch) -> Result<(), SpoolError> {
        for (key, value) in batch {
            let Some(kind) = CountedKind::of(key) else {
                continue;
            };
            let was_there = match group.counted.get(key) {
                Some(is_there) => *is_there,
                None => self.shared.store.get(key)?.is_some(),
            };

            let is_there = value.is_some();
            self.totals
                .count(kind, i64::from(is_there) - i64::from(was_there));
            group.counted.insert(key.clone(), is_there);
        }
        Ok(())
    }

    /// Whether the disk has room for new mail; checked once per group.
    fn has_room(&self, group: &mut CommitGroup<S>) -> Result<(), SpoolError> {
        group
            .room
            .get_or_insert_with(|| self.shared.store.has_room())
            .clone()
    }

    /// Adds new mails to the group, except duplicates and those that do not fit.
    fn put(
        &mut self,
        group: &mut CommitGroup<S>,
        mails: Vec<Encoded<S>>,
        reply: oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
    ) {
        let room = self.has_room(group);
        let mut results = Vec::with_capacity(mails.len());
        let mut stored = Vec::with_capacity(mails.len());
        for mut mail in mails {
            let judged = room
                .clone()
                .and_then(|()| match self.judge(group, &mail.manifest, mail.key)? {
                    PutResult::Stored => self.is_whole(&mail).map(|()| PutResult::Stored),
                    known => Ok(known),
                })
                .and_then(|judged| self.with_space(&mail.manifest, judged));

            if let Ok(PutResult::Stored) = judged {
                group.changes.append(std::mem::take(&mut mail.batch));
                self.index(group, &mail);
                if let Some(ahead) = mail.ahead.take() {
                    ahead.keep();
                }
                stored.push(mail);
            }
            results.push(judged);
        }

        group.wakes |= !stored.is_empty();
        group.answers.push(CommitAnswer::Put {
            reply,
            results,
            stored,
        });
    }

    /// Whether a mail is new: neither it nor another one with its idempotency key is stored, on
    /// disk or in this group.
    fn judge(
        &self,
        group: &CommitGroup<S>,
        manifest: &Manifest,
        key: Option<Hash>,
    ) -> Result<PutResult, SpoolError> {
        let id = manifest.id;
        if group.mails.contains(&id) || self.shared.store.get(&keys::manifest(id))?.is_some() {
            return Ok(PutResult::Duplicate(id));
        }

        let mut known = self.known(group, key)?;
        if known.is_none() {
            known = self.known(group, self.shared.key_hash.old(manifest))?;
        }

        match known {
            Some(record) if record.fingerprint == manifest.fingerprint => {
                Ok(PutResult::Duplicate(record.mail))
            }
            Some(record) => Err(SpoolError::KeyReused(record.mail)),
            None => Ok(PutResult::Stored),
        }
    }

    /// Passes a judgement on, unless the mail is new and does not fit into `max_size`.
    fn with_space(&self, manifest: &Manifest, judged: PutResult) -> Result<PutResult, SpoolError> {
        match judged {
            PutResult::Stored => self.check_space(manifest).map(|()| judged),
            known => Ok(known),
        }
    }

    /// The record of an idempotency key, on disk or in this group.
    fn known(
        &self,
        group: &CommitGroup<S>,
        key: Option<Hash>,
    ) -> Result<Option<KeyRecord>, SpoolError> {
        let Some(hash) = key else {
            return Ok(None);
        };
        if let Some(record) = group.keys.get(&hash) {
            return Ok(Some(record.clone()));
        }
        let bytes = self.shared.store.get(&keys::idempotency(hash))?;
        bytes.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// Checks that the parts of a large message that were written ahead are still there. If the
    /// same mail was put twice at once and one of the calls was abandoned, its parts were removed,
    /// and they are those of the other call too.
    fn is_whole(&self, mail: &Encoded<S>) -> Result<(), SpoolError> {
        let id = mail.manifest.id;
        if mail.ahead.is_some() && self.shared.store.get(&keys::writing(id))?.is_none() {
            return Err(SpoolError::Unreadable(format!(
                "mail {id} was submitted twice at once, and one attempt was broken off; submit \
                it again"
            )));
        }
        Ok(())
    }

    /// Adds what a new mail needs besides its record: queue positions, timers, totals, the key.
    fn index(&mut self, group: &mut CommitGroup<S>, mail: &Encoded<S>) {
        let manifest = &mail.manifest;
        group.mails.insert(manifest.id);
        group.changes.add_entry(JournalEntry::accepted(manifest));
        group.changes.accept(manifest);
        self.totals.add_mail(manifest);

        if mail.queued_later {
            let first = 0u16.to_be_bytes().to_vec();
            group.changes.put(keys::unqueued(manifest.id), first);
            self.large_mails.push(manifest.id);
        }

        let queued = if mail.queued_later {
            &[]
        } else {
            &mail.deliveries[..]
        };

        for (index, delivery) in (0u16..).zip(queued) {
            let Some(due) = delivery.stage.due() else {
                let ended = EndedAtAccept {
                    manifest,
                    index,
                    delivery,
                };
                ended.write(&mut group.changes, &mut self.totals, self.shared);
                continue;
            };

            let place = QueuePosition {
                due,
                mail: manifest.id,
                index,
            };
            let queue = QueueName {
                route: delivery.route.clone(),
                priority: manifest.priority,
            };
            group
                .changes
                .enqueue(self.shared, &queue, &place, &QueueEntry::of(manifest));
        }

        let timer = Timer::Mail(manifest.id);
        group
            .changes
            .set_timer(self.shared, manifest.expires_at, timer);

        if let Some(hash) = mail.key {
            let until = manifest.accepted_at + self.shared.options.idempotency_ttl;
            let record = KeyRecord {
                mail: manifest.id,
                fingerprint: manifest.fingerprint,
                until,
            };
            group
                .changes
                .put(keys::idempotency(hash), codec::encode(&record));
            group
                .changes
                .set_timer(self.shared, until, Timer::Key(hash));
            group.keys.insert(hash, record);
            self.totals.count(CountedKind::Key, 1);
        }
    }

    /// Records that these deliveries may have been sent.
    fn mark(
        &mut self,
        group: &mut CommitGroup<S>,
        marked: Vec<(LeaseToken, Delivery)>,
        reply: ReplySender<()>,
    ) {
        for (token, delivery) in marked {
            let key = keys::delivery(token.mail, token.index);
            group.changes.put(key, codec::encode(&delivery));
            group
                .changes
                .put(keys::marked(token.mail, token.index), Vec::new());
        }
        group.answers.push(CommitAnswer::Done(reply, Ok(())));
    }

    /// Records outcomes, except those whose lease is not current.
    fn settle(
        &mut self,
        group: &mut CommitGroup<S>,
        settled: Vec<(LeaseToken, Delivery, Vec<u8>)>,
        reply: ReplySender<Vec<SettleResult>>,
    ) {
        let mut results = Vec::with_capacity(settled.len());
        let mut current = Vec::with_capacity(settled.len());
        {
            let queues = self.shared.queues.lock();
            for (token, delivery, bytes) in settled {
                if queues.current(&token).is_none() {
                    self.shared.count_stale();
                    results.push(SettleResult::Stale);
                    continue;
                }
                results.push(SettleResult::Done);
                current.push((token, delivery, Some(bytes)));
            }
        }

        self.record(group, current, results, reply);
    }

    /// Records the outcomes of deliveries whose leases are current. Those without bytes are
    /// recorded already. What cannot be written is kept in memory until it can
    /// (`SpoolState::unwritten`).
    pub(super) fn record(
        &mut self,
        group: &mut CommitGroup<S>,
        settled: Vec<(LeaseToken, Delivery, Option<Vec<u8>>)>,
        results: Vec<SettleResult>,
        reply: ReplySender<Vec<SettleResult>>,
    ) {
        let mut done = Vec::with_capacity(settled.len());
        {
            let queues = self.shared.queues.lock();
            for (token, delivery, bytes) in settled {
                let Some(leased) = queues.current(&token) else {
                    continue;
                };
                let next = bytes.and_then(|bytes| {
                    if leased.marked {
                        group.changes.remove(keys::marked(token.mail, token.index));
                    }
                    let step = Transition {
                        queue: &leased.queue,
                        old: leased.place,
                        entry: &leased.entry,
                        delivery: &delivery,
                    };

                    // A delivery that only returns to the queue is no event.
                    let tried = delivery.tries > leased.tries;
                    if tried || delivery.stage.finished_at().is_some() {
                        let manifest = leased.manifest();
                        let now = Timestamp::now();
                        let became =
                            JournalEntry::became(token.mail, manifest, &delivery, tried, now);
                        group.changes.add_entry(became);
                    }

                    step.write(&mut group.changes, bytes, &mut self.totals, self.shared)
                });
                done.push((token, delivery, next));
            }
        }

        group.wakes |= done.iter().any(|(_, _, next)| next.is_some());
        group.answers.push(CommitAnswer::Settled {
            reply,
            results,
            done,
        });
    }
}
