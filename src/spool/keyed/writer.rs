//! The one thread that writes. It drains what was asked into a group, writes the group whole, and hands it to the
//! [`syncer`](super::syncer), which answers everybody in it: so one sync serves many.
//!
//! *Invariant:* nobody is answered before his change is on disk, and the book is changed only after it. A commit that fails
//! is never tried again: the spool is closed to writing, and what is on disk stays as it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::Shared;
use super::book::QueueName;
use super::kept::Kept;
use super::keys::{self, Place, Timer};
use super::reader;
use super::syncer::{Answer, Syncer, Written};
use super::window::{Entry, Fresh};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{MailId, Priority, Timestamp};
use crate::spool::codec::{self, KeyRecord, Totals};
use crate::spool::store::{Batch, Store};
use crate::spool::{LeaseToken, Manifest, Put, Recorded, SpoolError};

/// The most commands in one group.
const GROUP_COMMANDS: usize = 1024;
/// The bytes of mail in one group, the last one aside. sled writes some times as much, and that must stay below one segment
/// of its log.
pub(super) const GROUP_BYTES: usize = 512 * 1024;

/// A mail, encoded by its caller so that the writer has little to do.
pub(super) struct Encoded {
    pub manifest: Arc<Manifest>,
    pub deliveries: Vec<Delivery>,
    /// What to write besides the queue, the timers and the idempotency key.
    pub batch: Batch,
    pub bytes: usize,
    pub fresh: Option<Arc<Fresh>>,
}

impl Encoded {
    /// About how many bytes it adds to a group.
    pub(super) fn weight(&self) -> usize {
        self.bytes + 1024 + 512 * self.deliveries.len()
    }
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// A change of what is already kept: made alone, with reads of its own.
pub(super) type Change<S> = Box<dyn FnOnce(&mut Changing<'_, S>) + Send>;

pub(super) enum Command<S> {
    /// Whether a mail would be stored. Asked before a large one is written, so that one which is not leaves nothing behind.
    Judge(Arc<Manifest>, Reply<Put>),
    /// Part of a large message, before the mail that it belongs to.
    Write(Batch, Reply<()>),
    Put(Vec<Encoded>, oneshot::Sender<Vec<Result<Put, SpoolError>>>),
    Mark(Vec<(LeaseToken, Delivery)>, Reply<()>),
    Settle(Vec<(LeaseToken, Delivery, Vec<u8>)>, Reply<Vec<Recorded>>),
    Change(Change<S>),
    Close(Reply<()>),
}

/// Takes commands until the last sender is gone or one says close.
pub(super) fn run<S: Store>(
    shared: &Shared<S>,
    syncer: &Syncer<S>,
    mut commands: mpsc::UnboundedReceiver<Command<S>>,
    totals: Totals,
) {
    let mut writer = Writer { shared, syncer, totals, last_sync: Instant::now(), unsynced: false, was_alone: false };
    let mut next = None;
    loop {
        let Some(first) = next.take().or_else(|| writer.wait(&mut commands)) else { break };
        match first {
            Command::Change(change) => {
                // It looks at the book, which must agree with what is written.
                syncer.finish();
                writer.change(change);
            }
            Command::Close(reply) => {
                syncer.finish();
                let synced = writer.shared.store.sync();
                writer.shared.fail(SpoolError::Closed);
                commands.close();
                let _ = reply.send(synced);
            }
            groupable => {
                let mut group = Group::default();
                writer.gather(&mut group, groupable);
                while group.commands < GROUP_COMMANDS && group.bytes < GROUP_BYTES {
                    match commands.try_recv() {
                        Ok(Command::Change(change)) => {
                            next = Some(Command::Change(change));
                            break;
                        }
                        Ok(Command::Close(reply)) => {
                            next = Some(Command::Close(reply));
                            break;
                        }
                        Ok(command) => writer.gather(&mut group, command),
                        Err(_) => break,
                    }
                }
                let alone = group.commands == 1 && commands.is_empty();
                writer.commit(group, alone);
            }
        }
    }
    syncer.finish();
    let _ = writer.shared.store.sync();
    writer.shared.fail(SpoolError::Closed);
}

struct Writer<'a, S> {
    shared: &'a Shared<S>,
    syncer: &'a Syncer<S>,
    totals: Totals,
    last_sync: Instant,
    unsynced: bool,
    /// Whether the last group was one command, and nothing waited behind it.
    was_alone: bool,
}

struct Group<S> {
    commands: usize,
    bytes: usize,
    batch: Batch,
    totals: Option<Totals>,
    /// Mails that this group writes.
    mails: HashSet<MailId>,
    /// Idempotency keys that this group writes.
    keys: HashMap<[u8; 16], KeyRecord>,
    answers: Vec<Answer<S>>,
    wakes: bool,
    /// Whether the disk has room for new mail, once it was asked.
    room: Option<Result<(), SpoolError>>,
}

impl<S> Default for Group<S> {
    fn default() -> Self {
        Group {
            commands: 0,
            bytes: 0,
            batch: Batch::new(),
            totals: None,
            mails: HashSet::new(),
            keys: HashMap::new(),
            answers: Vec::new(),
            wakes: false,
            room: None,
        }
    }
}

impl<S: Store> Writer<'_, S> {
    /// The next command; meanwhile syncs when it is time, where syncing is not done with each group.
    fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command<S>>) -> Option<Command<S>> {
        let Some(interval) = self.shared.options.sync_interval.filter(|_| self.unsynced) else {
            return commands.blocking_recv();
        };
        loop {
            match commands.try_recv() {
                Ok(command) => return Some(command),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
            if self.last_sync.elapsed() >= interval {
                self.sync();
                return commands.blocking_recv();
            }
            std::thread::sleep(Duration::from_millis(5).min(interval));
        }
    }

    fn sync(&mut self) {
        if let Err(error) = self.shared.store.sync() {
            self.shared.fail(error);
        }
        self.last_sync = Instant::now();
        self.unsynced = false;
    }

    fn gather(&mut self, group: &mut Group<S>, command: Command<S>) {
        group.commands += 1;
        match command {
            Command::Judge(manifest, reply) => {
                let judged = self.room(group).and_then(|()| self.judge(group, &manifest));
                group.answers.push(Box::new(move |_, outcome| _ = reply.send(outcome.clone().and(judged))));
            }
            Command::Write(batch, reply) => {
                if let Err(full) = self.room(group) {
                    group.answers.push(Box::new(move |_, outcome| _ = reply.send(outcome.clone().and(Err(full)))));
                    return;
                }
                group.bytes += batch.iter().map(|(_, value)| value.as_ref().map_or(0, Vec::len)).sum::<usize>();
                group.batch.extend(batch);
                group.answers.push(Box::new(move |_, outcome| _ = reply.send(outcome.clone())));
            }
            Command::Put(mails, reply) => self.put(group, mails, reply),
            Command::Mark(marked, reply) => self.mark(group, marked, reply),
            Command::Settle(settled, reply) => self.settle(group, settled, reply),
            Command::Change(_) | Command::Close(_) => unreachable!("these are never gathered"),
        }
    }

    fn put(&mut self, group: &mut Group<S>, mails: Vec<Encoded>, reply: oneshot::Sender<Vec<Result<Put, SpoolError>>>) {
        let room = self.room(group);
        let mut results = Vec::with_capacity(mails.len());
        let mut stored = Vec::with_capacity(mails.len());
        for mut mail in mails {
            let judged = room.clone().and_then(|()| self.judge(group, &mail.manifest));
            if let Ok(Put::Stored) = judged {
                group.bytes += mail.weight();
                group.batch.append(&mut mail.batch);
                self.index(group, &mail);
                stored.push(mail);
            }
            results.push(judged);
        }
        group.wakes |= !stored.is_empty();
        group.answers.push(Box::new(move |shared, outcome| {
            if let Err(error) = outcome {
                results.iter_mut().for_each(|result| *result = Err(error.clone()));
            } else {
                shared.enqueue(stored);
            }
            let _ = reply.send(results);
        }));
    }

    /// Whether the disk has room for new mail, asked once a group.
    fn room(&self, group: &mut Group<S>) -> Result<(), SpoolError> {
        group.room.get_or_insert_with(|| self.shared.store.has_room()).clone()
    }

    /// Whether a mail is new: it was not put before, nor another one with its idempotency key.
    fn judge(&self, group: &Group<S>, manifest: &Manifest) -> Result<Put, SpoolError> {
        let id = manifest.id;
        if group.mails.contains(&id) || self.shared.store.get(&keys::manifest(id))?.is_some() {
            return Ok(Put::Duplicate(id));
        }
        let Some(key) = &manifest.idempotency_key else { return Ok(Put::Stored) };
        let hash = keys::hash_of(key);
        let known = match group.keys.get(&hash) {
            Some(record) => Some(record.clone()),
            None => match self.shared.store.get(&keys::idempotency(hash))? {
                Some(bytes) => Some(codec::decode::<KeyRecord>(&bytes)?),
                None => None,
            },
        };
        match known {
            Some(record) if record.fingerprint == manifest.fingerprint => Ok(Put::Duplicate(record.mail)),
            Some(record) => Err(SpoolError::KeyReused(record.mail)),
            None => Ok(Put::Stored),
        }
    }

    fn index(&mut self, group: &mut Group<S>, mail: &Encoded) {
        let manifest = &mail.manifest;
        group.mails.insert(manifest.id);
        for (index, delivery) in (0u16..).zip(&mail.deliveries) {
            let Some(due) = delivery.stage.due() else { continue };
            let place = Place { due, mail: manifest.id, index };
            let entry = Entry::of(manifest).to_bytes();
            group.batch.push((keys::queue(&delivery.route, manifest.priority, &place), Some(entry)));
            self.totals.pending[manifest.priority.index()] += 1;
        }
        group.totals = Some(self.totals.clone());
        group.batch.push((keys::timer(manifest.expires_at, Timer::Mail(manifest.id)), Some(Vec::new())));
        if let Some(key) = &manifest.idempotency_key {
            let hash = keys::hash_of(key);
            let until = manifest.accepted_at + self.shared.options.idempotency_ttl;
            let record = KeyRecord { mail: manifest.id, fingerprint: manifest.fingerprint, until };
            group.batch.push((keys::idempotency(hash), Some(codec::encode(&record))));
            group.batch.push((keys::timer(until, Timer::Key(hash)), Some(Vec::new())));
            group.keys.insert(hash, record);
            self.shared.hear_of_timer(until);
        }
        self.shared.hear_of_timer(manifest.expires_at);
    }

    fn mark(&mut self, group: &mut Group<S>, marked: Vec<(LeaseToken, Delivery)>, reply: Reply<()>) {
        for (token, delivery) in marked {
            group.batch.push((keys::delivery(token.mail, token.index), Some(codec::encode(&delivery))));
            group.batch.push((keys::marked(token.mail, token.index), Some(Vec::new())));
        }
        group.answers.push(Box::new(move |_, outcome| _ = reply.send(outcome.clone())));
    }

    fn settle(
        &mut self,
        group: &mut Group<S>,
        settled: Vec<(LeaseToken, Delivery, Vec<u8>)>,
        reply: Reply<Vec<Recorded>>,
    ) {
        let mut recorded = Vec::with_capacity(settled.len());
        let mut done = Vec::with_capacity(settled.len());
        {
            let book = self.shared.book.lock();
            for (token, delivery, bytes) in settled {
                let Some(leased) = book.current(&token) else {
                    self.shared.count_stale();
                    recorded.push(Recorded::Stale);
                    continue;
                };
                recorded.push(Recorded::Done);
                if leased.marked {
                    group.batch.push((keys::marked(token.mail, token.index), None));
                }
                let step = Step { queue: &leased.queue, old: leased.place, entry: &leased.entry, delivery: &delivery };
                let next = step.write(&mut group.batch, bytes, &mut self.totals, self.shared);
                done.push((token, next));
            }
        }
        group.totals = Some(self.totals.clone());
        group.wakes |= done.iter().any(|(_, next)| next.is_some());
        group.answers.push(Box::new(move |shared, outcome| {
            let answer = outcome.clone().map(|()| {
                let mut book = shared.book.lock();
                for (token, next) in done {
                    book.end(&token);
                    if let Some((queue, place, entry)) = next {
                        book.enqueue(&queue, place, entry);
                    }
                }
                recorded
            });
            let _ = reply.send(answer);
        }));
    }

    fn change(&mut self, change: Change<S>) {
        let mut changing = Changing::new(self.shared, self.totals.clone());
        change(&mut changing);
        self.totals = changing.totals.clone();
        self.unsynced |= self.shared.options.sync_interval.is_some();
    }

    fn commit(&mut self, mut group: Group<S>, alone: bool) {
        if let Some(totals) = group.totals.take() {
            group.batch.push((keys::TOTALS.to_vec(), Some(codec::encode(&totals))));
        }
        let began = Instant::now();
        let outcome = self.shared.write(group.batch);
        let written = Written {
            outcome,
            bytes: group.bytes,
            totals: self.totals.clone(),
            answers: group.answers,
            wakes: group.wakes,
            began,
        };
        // Twice alone is a lone caller; once is one of many who comes first.
        let is_lone = alone && self.was_alone;
        self.was_alone = alone;
        self.syncer.add(self.shared, written, is_lone);
        if let Some(interval) = self.shared.options.sync_interval {
            self.unsynced = true;
            if self.last_sync.elapsed() >= interval {
                self.sync();
            }
        }
    }
}

/// One delivery's step from its old place in a queue to what it is now.
pub(super) struct Step<'a> {
    pub queue: &'a QueueName,
    pub old: Place,
    pub entry: &'a Entry,
    pub delivery: &'a Delivery,
}

/// Where a delivery waits now.
pub(super) type Waiting = (QueueName, Place, Entry);

impl Step<'_> {
    /// Adds the step to a batch, and keeps the totals in step. Returns where the delivery waits now, if it does.
    pub(super) fn write<S: Store>(
        &self,
        batch: &mut Batch,
        bytes: Vec<u8>,
        totals: &mut Totals,
        shared: &Shared<S>,
    ) -> Option<Waiting> {
        let Place { mail, index, .. } = self.old;
        let priority = self.queue.priority;
        batch.push((keys::delivery(mail, index), Some(bytes)));
        batch.push((keys::queue(&self.queue.route, priority, &self.old), None));
        if let Some(due) = self.delivery.stage.due() {
            let place = Place { due, ..self.old };
            let route = self.delivery.route.clone();
            let entry = Entry { fresh: None, tried: self.delivery.tries > 0, ..self.entry.clone() };
            batch.push((keys::queue(&route, priority, &place), Some(entry.to_bytes())));
            return Some((QueueName { route, priority }, place, entry));
        }
        count_finished(totals, &self.delivery.stage, priority, 1);
        totals.pending[priority.index()] = totals.pending[priority.index()].saturating_sub(1);
        if let Some(key) = keys::finished(&self.delivery.stage, mail, index) {
            batch.push((key, Some(Vec::new())));
        }
        // The mail is looked at when it expires, and its pruning planned then; unless it should be gone by then.
        let prune_at = self.delivery.stage.finished_at().map(|at| at + shared.options.retention);
        if let Some(at) = prune_at.filter(|at| *at < self.entry.expires_at) {
            batch.push((keys::timer(at, Timer::Mail(mail)), Some(Vec::new())));
            shared.hear_of_timer(at);
        }
        None
    }
}

/// Adds `by` to, or takes it from, the total that a finished delivery counts in.
pub(super) fn count_finished(totals: &mut Totals, stage: &Stage, priority: Priority, by: i64) {
    let kind = match stage {
        Stage::Delivered { .. } => 0,
        Stage::Dead { .. } => 1,
        Stage::Cancelled { .. } => 2,
        _ => return,
    };
    let total = &mut totals.finished[kind][priority.index()];
    *total = total.saturating_add_signed(by);
}

/// A change of what is already kept, under way on the writer's thread.
pub(super) struct Changing<'a, S> {
    pub shared: &'a Shared<S>,
    pub batch: Batch,
    pub totals: Totals,
    seized: Vec<(LeaseToken, Option<Waiting>)>,
    enqueued: Vec<Waiting>,
}

impl<'a, S: Store> Changing<'a, S> {
    pub(super) fn new(shared: &'a Shared<S>, totals: Totals) -> Self {
        Changing { shared, batch: Batch::new(), totals, seized: Vec::new(), enqueued: Vec::new() }
    }

    /// Holds a pending delivery, so that no sender takes it meanwhile; false if one has it.
    pub(super) fn seize(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) -> bool {
        let Some(due) = delivery.stage.due() else { return false };
        let queue = QueueName { route: delivery.route.clone(), priority: manifest.priority };
        let place = Place { due, mail: manifest.id, index };
        let seized = self.shared.book.lock().seize(&queue, place, Entry::of(manifest));
        seized.map(|token| self.seized.push((token, None))).is_some()
    }

    /// Changes the delivery that was seized last.
    pub(super) fn step_seized(&mut self, delivery: &Delivery) {
        let Some((token, next)) = self.seized.last_mut() else { return };
        let leased = self.shared.book.lock().current(token).cloned();
        let Some(leased) = leased else { return };
        let step = Step { queue: &leased.queue, old: leased.place, entry: &leased.entry, delivery };
        *next = step.write(&mut self.batch, codec::encode(delivery), &mut self.totals, self.shared);
    }

    /// Puts a delivery that had ended back into a queue.
    pub(super) fn enqueue_again(&mut self, manifest: &Manifest, index: u16, delivery: &Delivery) {
        let Some(due) = delivery.stage.due() else { return };
        let queue = QueueName { route: delivery.route.clone(), priority: manifest.priority };
        let place = Place { due, mail: manifest.id, index };
        let entry = Entry::of(manifest);
        self.batch.push((keys::delivery(manifest.id, index), Some(codec::encode(delivery))));
        self.batch.push((keys::queue(&queue.route, queue.priority, &place), Some(entry.to_bytes())));
        self.totals.pending[queue.priority.index()] += 1;
        self.enqueued.push((queue, place, entry));
    }

    /// Writes what was changed, lets go of what was seized, and wakes the scheduler.
    pub(super) fn commit(&mut self) -> Result<(), SpoolError> {
        let mut batch = std::mem::take(&mut self.batch);
        if !batch.is_empty() {
            batch.push((keys::TOTALS.to_vec(), Some(codec::encode(&self.totals))));
        }
        let outcome = self.shared.write(batch).and_then(|()| self.shared.keep());
        let mut book = self.shared.book.lock();
        for (token, next) in self.seized.drain(..) {
            if outcome.is_err() {
                // It stays seized: what is on disk is not known, and nothing may be sent on a guess.
                continue;
            }
            book.end(&token);
            if let Some((queue, place, entry)) = next {
                book.enqueue(&queue, place, entry);
            }
        }
        let enqueued = std::mem::take(&mut self.enqueued);
        if outcome.is_ok() {
            enqueued.into_iter().for_each(|(queue, place, entry)| book.enqueue(&queue, place, entry));
        }
        drop(book);
        self.shared.publish(&self.totals);
        self.shared.changed.notify_one();
        outcome
    }

    /// Sets a record aside that cannot be read.
    pub(super) fn set_aside(&mut self, key: Vec<u8>) -> Result<(), SpoolError> {
        if let Some(bytes) = self.shared.store.get(&key)? {
            self.batch.push((keys::quarantined(&key), Some(bytes)));
            self.batch.push((key, None));
        }
        Ok(())
    }

    /// Ends a delivery that waits in a queue and cannot be sent: something of its mail cannot be read, or it is in doubt.
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
            let mail = Kept::read(&self.shared.store, place.mail).ok().flatten();
            delivery = mail.and_then(|mail| mail.as_put(place.index).cloned()).map(Ok);
        }
        if let Some(Ok(mut delivery)) = delivery {
            delivery.stage = Stage::Dead { at: now, reason };
            let entry = Entry { size: 0, expires_at: Timestamp::MAX, tried: true, fresh: None };
            let step = Step { queue, old: place, entry: &entry, delivery: &delivery };
            step.write(&mut self.batch, codec::encode(&delivery), &mut self.totals, self.shared);
            self.batch.push((keys::marked(place.mail, place.index), None));
        } else {
            self.batch.push((keys::queue(&queue.route, queue.priority, &place), None));
            let pending = &mut self.totals.pending[queue.priority.index()];
            *pending = pending.saturating_sub(1);
        }
        Ok(())
    }

    /// Plans to look at a mail at `at`.
    pub(super) fn look_again(&mut self, mail: MailId, at: Timestamp) {
        self.batch.push((keys::timer(at, Timer::Mail(mail)), Some(Vec::new())));
        self.shared.hear_of_timer(at);
    }
}
