//! The one thread that writes. It drains what was asked into a group, writes the group whole, and
//! hands it to the [`syncer`](super::syncer), which answers everybody in it: so one sync serves
//! many.
//!
//! *Invariant:* nobody is answered before his change is on disk, and the queues are changed only after
//! it. A commit that fails is never tried again: the spool is closed to writing, and what is on
//! disk stays as it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::SpoolState;
use super::bounding::Bounding;
use super::changes::{self, Changes};
use super::entering;
use super::healing::{UnwrittenOutcomes, WaitResult};
use super::idempotency::Hash;
use super::journal::entry::Entry as Happened;
use super::kept::Kind;
use super::keys::{self, Place, Timer};
use super::queue_head::{CachedMail, Entry};
use super::queues::QueueName;
use super::sweep;
use super::syncer::{Completion, Syncer, WrittenGroup};
use super::transition::{EndedAtAccept, Transition};
use super::write_transaction::WriteTransaction;
use crate::delivery::{Delivery, Event};
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord, Totals};
use crate::spool::store::{Batch, Store};
use crate::spool::{LeaseToken, Manifest, PutResult, SettleResult, SpoolError, SweepReport};

/// The most commands in one group.
const GROUP_COMMANDS: usize = 1024;
/// The bytes of one group, except the last command, and of all that is written and not yet synced,
/// the last group aside.
pub(super) const GROUP_BYTES: usize = 512 * 1024;
/// The bytes that may be written between two syncs, where groups are not synced.
const UNSYNCED_BYTES: usize = 2 * 1024 * 1024;
/// About how many bytes the queue, the timer and the totals add to a delivery.
pub(super) const INDEX_BYTES: usize = 256;

/// A mail, encoded by its caller so that the writer has little to do.
pub(super) struct Encoded<S> {
    pub manifest: Arc<Manifest>,
    /// Under what its idempotency key lies.
    pub key: Option<Hash>,
    pub deliveries: Vec<Delivery>,
    /// What to write besides the queue, the timers and the idempotency key.
    pub batch: Batch,
    /// Whether its recipients are so many that they are queued after it is stored.
    pub enters_later: bool,
    /// The parts of its message that were written before.
    pub ahead: Option<EarlyParts<S>>,
    pub fresh: Option<Arc<CachedMail>>,
}

/// Parts of a large message that were written before its mail. Unless the mail is stored they are
/// removed, whoever drops this, a caller that has timed out included.
pub(super) struct EarlyParts<S> {
    mail: Option<MailId>,
    commands: mpsc::WeakUnboundedSender<Command<S>>,
}

impl<S> EarlyParts<S> {
    pub(super) fn new(mail: MailId, commands: &mpsc::UnboundedSender<Command<S>>) -> Self {
        EarlyParts {
            mail: Some(mail),
            commands: commands.downgrade(),
        }
    }

    /// Has nothing removed.
    pub(super) fn keep(mut self) {
        self.mail = None;
    }
}

impl<S> Drop for EarlyParts<S> {
    fn drop(&mut self) {
        // A spool that is closed removes them when it is opened.
        if let (Some(mail), Some(commands)) = (self.mail, self.commands.upgrade()) {
            let _ = commands.send(Command::Forget(mail));
        }
    }
}

impl<S> Encoded<S> {
    /// About how many bytes it adds to a group.
    pub(super) fn weight(&self) -> usize {
        let queued = if self.enters_later {
            1
        } else {
            self.deliveries.len()
        };
        changes::weight(&self.batch) + INDEX_BYTES * queued
    }
}

type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// A change of what is already kept: made alone, with reads of its own.
pub(super) type Operation<S> = Box<dyn FnOnce(&mut WriteTransaction<'_, S>) + Send>;

pub(super) enum Command<S> {
    /// Whether a mail would be stored. Asked before a large one is written, so that one which is
    /// not leaves nothing behind.
    Judge(Arc<Manifest>, Option<Hash>, Reply<PutResult>),
    /// Part of a large message, before the mail that it belongs to.
    Write(Batch, Reply<()>),
    /// The parts that were written of a large message are not wanted, unless another one has stored
    /// the same mail.
    Forget(MailId),
    Put(
        Vec<Encoded<S>>,
        oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
    ),
    /// What happened besides changes of mail, and what readers of the journal keep.
    Note(Vec<Event>, Batch, Reply<()>),
    Mark(Vec<(LeaseToken, Delivery)>, Reply<()>),
    Settle(
        Vec<(LeaseToken, Delivery, Vec<u8>)>,
        Reply<Vec<SettleResult>>,
    ),
    Operate(Operation<S>),
    /// What the clock changes by now.
    Sweep(Timestamp, Reply<SweepReport>),
    /// Nothing: answered when all that was asked before is done.
    Pass(oneshot::Sender<()>),
    Close(Reply<()>),
}

/// Takes commands until the last sender is gone or one says close.
pub(super) fn run<S: Store>(
    shared: &SpoolState<S>,
    syncer: &Syncer<S>,
    clock: Runtime,
    mut commands: mpsc::UnboundedReceiver<Command<S>>,
    totals: Totals,
) {
    let mut writer = Writer {
        shared,
        syncer,
        clock,
        totals,
        last_sync: Instant::now(),
        unsynced: 0,
        was_alone: false,
        entering: Vec::new(),
        bounding: Bounding::default(),
    };

    let mut next = None;
    loop {
        if writer.shared.may_heal() && next.is_none() {
            match writer.wait_a_while(&mut commands) {
                WaitResult::For(command) => next = Some(command),
                WaitResult::InVain => {
                    writer.heal();
                    continue;
                }
                WaitResult::ForTheEnd => break,
            }
        }
        let Some(first) = next.take().or_else(|| writer.wait(&mut commands)) else {
            break;
        };
        match first {
            Command::Operate(change) => {
                // It looks at the queues, which must agree with what is written.
                syncer.finish();
                writer.change(change);
            }
            Command::Sweep(now, reply) => writer.sweep(now, reply),
            Command::Pass(reply) => _ = reply.send(()),
            Command::Close(reply) => {
                syncer.finish();
                if writer.shared.may_heal() {
                    writer.heal();
                }
                let synced = writer.shared.store.sync();
                writer.shared.fail(SpoolError::Closed);
                commands.close();
                let _ = reply.send(synced);
            }
            groupable => {
                writer.make_space(&groupable);
                let mut group = Group::default();
                writer.gather(&mut group, groupable);
                while group.commands < GROUP_COMMANDS && group.changes.weight() < GROUP_BYTES {
                    match commands.try_recv() {
                        Ok(
                            alone @ (Command::Operate(_)
                            | Command::Sweep(..)
                            | Command::Pass(_)
                            | Command::Close(_)),
                        ) => {
                            next = Some(alone);
                            break;
                        }
                        // What must go for it goes in a commit of its own.
                        Ok(command) if !writer.has_space(&command) => {
                            next = Some(command);
                            break;
                        }
                        Ok(command) => writer.gather(&mut group, command),
                        Err(_) => break,
                    }
                }
                let alone = group.commands == 1 && commands.is_empty();
                writer.commit(group, alone);
                writer.let_enter();
            }
        }
    }

    syncer.finish();
    let _ = writer.shared.store.sync();
    writer.shared.fail(SpoolError::Closed);
    writer.shared.give_up_what_is_owed();
}

pub(super) struct Writer<'a, S> {
    pub shared: &'a SpoolState<S>,
    pub syncer: &'a Syncer<S>,
    /// Tells when it is time to sync.
    pub clock: Runtime,
    pub totals: Totals,
    last_sync: Instant,
    /// The bytes that were written since, where groups are not synced.
    pub unsynced: usize,
    /// Whether the last group was one command, and nothing waited behind it.
    was_alone: bool,
    /// Mails whose recipients are queued before anything else is done.
    pub entering: Vec<MailId>,
    pub bounding: Bounding,
}

pub(super) struct Group<S> {
    commands: usize,
    pub changes: Changes,
    /// Mails that this group writes.
    mails: HashSet<MailId>,
    /// Idempotency keys that this group writes.
    keys: HashMap<Hash, KeyRecord>,
    /// Counted values that it writes or removes, and whether they are there after it.
    counted: HashMap<Vec<u8>, bool>,
    answers: Vec<Completion<S>>,
    wakes: bool,
    /// Whether the disk has room for new mail, once it was asked.
    room: Option<Result<(), SpoolError>>,
}

impl<S> Default for Group<S> {
    fn default() -> Self {
        Group {
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
    /// The next command; meanwhile syncs when it is time, where syncing is not done with each
    /// group.
    fn wait(&mut self, commands: &mut mpsc::UnboundedReceiver<Command<S>>) -> Option<Command<S>> {
        let Some(interval) = self
            .shared
            .options
            .sync_interval
            .filter(|_| self.unsynced > 0)
        else {
            return commands.blocking_recv();
        };

        let left = interval.saturating_sub(self.last_sync.elapsed());
        let waited = self
            .clock
            .block_on(async { tokio::time::timeout(left, commands.recv()).await });
        waited.unwrap_or_else(|_| {
            self.sync();
            commands.blocking_recv()
        })
    }

    fn sync(&mut self) {
        if let Err(error) = self.shared.store.sync() {
            self.shared.fail(error);
        }
        self.last_sync = Instant::now();
        self.unsynced = 0;
    }

    fn gather(&mut self, group: &mut Group<S>, command: Command<S>) {
        group.commands += 1;
        match command {
            Command::Judge(manifest, key, reply) => {
                let judged = self
                    .has_room(group)
                    .and_then(|()| self.judge(group, &manifest, key))
                    .and_then(|judged| self.with_space(&manifest, judged));
                group.answers.push(Box::new(move |_, outcome| {
                    _ = reply.send(outcome.clone().and(judged))
                }));
            }
            Command::Write(batch, reply) => {
                let room = self.has_room(group);
                if room.is_ok() {
                    group.changes.append(batch);
                }
                group.answers.push(Box::new(move |_, outcome| {
                    _ = reply.send(room.and_then(|()| outcome.clone()))
                }));
            }
            Command::Forget(id) => {
                group.changes.remove(keys::writing(id));
                let at_once = Timestamp::from_millis(0);
                group
                    .changes
                    .set_timer(self.shared, at_once, Timer::Chunks(id));
            }
            Command::Put(mails, reply) => self.put(group, mails, reply),
            Command::Note(events, batch, reply) => {
                let counted = self.count(group, &batch);
                if counted.is_ok() {
                    for event in &events {
                        group.changes.tell(Happened::of(event));
                    }
                    group.changes.append(batch);
                }
                group.answers.push(Box::new(move |_, outcome| {
                    _ = reply.send(counted.and_then(|()| outcome.clone()))
                }));
            }
            Command::Mark(marked, reply) => self.mark(group, marked, reply),
            Command::Settle(settled, reply) => self.settle(group, settled, reply),
            Command::Operate(_) | Command::Sweep(..) | Command::Pass(_) | Command::Close(_) => {
                unreachable!("these are never gathered")
            }
        }
    }

    /// Counts the values that come and go with what readers and lists write.
    fn count(&mut self, group: &mut Group<S>, batch: &Batch) -> Result<(), SpoolError> {
        for (key, value) in batch {
            let Some(kind) = Kind::of(key) else { continue };
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

    /// Whether there is room for new mail: asked once a group.
    fn has_room(&self, group: &mut Group<S>) -> Result<(), SpoolError> {
        group
            .room
            .get_or_insert_with(|| self.shared.store.has_room())
            .clone()
    }

    fn put(
        &mut self,
        group: &mut Group<S>,
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
        group.answers.push(Box::new(move |shared, outcome| {
            if let Err(error) = outcome {
                results
                    .iter_mut()
                    .for_each(|result| *result = Err(error.clone()));
            } else {
                shared.enqueue(stored);
            }
            let _ = reply.send(results);
        }));
    }

    /// Whether a mail is new: it was not put before, nor another one with its idempotency key.
    fn judge(
        &self,
        group: &Group<S>,
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

    /// What was judged, unless it is a new mail that does not fit.
    fn with_space(&self, manifest: &Manifest, judged: PutResult) -> Result<PutResult, SpoolError> {
        match judged {
            PutResult::Stored => self.check_space(manifest).map(|()| judged),
            known => Ok(known),
        }
    }

    /// What is known of an idempotency key.
    fn known(&self, group: &Group<S>, key: Option<Hash>) -> Result<Option<KeyRecord>, SpoolError> {
        let Some(hash) = key else {
            return Ok(None);
        };
        if let Some(record) = group.keys.get(&hash) {
            return Ok(Some(record.clone()));
        }
        let bytes = self.shared.store.get(&keys::idempotency(hash))?;
        bytes.map(|bytes| codec::decode(&bytes)).transpose()
    }

    /// Whether what was written ahead is still there. The same mail may have been put twice at
    /// once, and one of the two given up: its parts are those of the other.
    fn is_whole(&self, mail: &Encoded<S>) -> Result<(), SpoolError> {
        let id = mail.manifest.id;
        if mail.ahead.is_some() && self.shared.store.get(&keys::writing(id))?.is_none() {
            return Err(SpoolError::Unreadable(format!(
                "mail {id} was given up meanwhile; submit it again"
            )));
        }
        Ok(())
    }

    fn index(&mut self, group: &mut Group<S>, mail: &Encoded<S>) {
        let manifest = &mail.manifest;
        group.mails.insert(manifest.id);
        group.changes.tell(Happened::accepted(manifest));
        group.changes.accept(manifest);
        self.totals.add_mail(manifest);

        if mail.enters_later {
            let first = 0u16.to_be_bytes().to_vec();
            group.changes.put(keys::entering(manifest.id), first);
            self.entering.push(manifest.id);
        }

        let queued = if mail.enters_later {
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
            let place = Place {
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
                .enqueue(self.shared, &queue, &place, &Entry::of(manifest));
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
            self.totals.count(Kind::Key, 1);
        }
    }

    fn mark(
        &mut self,
        group: &mut Group<S>,
        marked: Vec<(LeaseToken, Delivery)>,
        reply: Reply<()>,
    ) {
        for (token, delivery) in marked {
            let key = keys::delivery(token.mail, token.index);
            group.changes.put(key, codec::encode(&delivery));
            group
                .changes
                .put(keys::marked(token.mail, token.index), Vec::new());
        }
        group
            .answers
            .push(Box::new(move |_, outcome| _ = reply.send(outcome.clone())));
    }

    fn settle(
        &mut self,
        group: &mut Group<S>,
        settled: Vec<(LeaseToken, Delivery, Vec<u8>)>,
        reply: Reply<Vec<SettleResult>>,
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

    /// Records what became of deliveries under current leases, those aside that have no bytes: they
    /// are recorded already. What cannot be written is owed.
    pub(super) fn record(
        &mut self,
        group: &mut Group<S>,
        settled: Vec<(LeaseToken, Delivery, Option<Vec<u8>>)>,
        results: Vec<SettleResult>,
        reply: Reply<Vec<SettleResult>>,
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
                    // One that waits as it did before has nothing to tell.
                    let tried = delivery.tries > leased.tries;
                    if tried || delivery.stage.finished_at().is_some() {
                        let manifest = leased.manifest();
                        let now = Timestamp::now();
                        let became = Happened::became(token.mail, manifest, &delivery, tried, now);
                        group.changes.tell(became);
                    }
                    step.write(&mut group.changes, bytes, &mut self.totals, self.shared)
                });
                done.push((token, delivery, next));
            }
        }

        group.wakes |= done.iter().any(|(_, _, next)| next.is_some());
        group.answers.push(Box::new(move |shared, outcome| {
            if outcome.is_err() && shared.may_heal() {
                let settled = done
                    .into_iter()
                    .map(|(token, delivery, _)| (token, delivery));
                shared.owed.lock().push(UnwrittenOutcomes {
                    settled: settled.collect(),
                    results,
                    reply,
                });
                return;
            }
            let answer = outcome.clone().map(|()| {
                let mut queues = shared.queues.lock();
                for (token, _, next) in done {
                    queues.end(&token);
                    if let Some((queue, place, entry)) = next {
                        queues.enqueue(&queue, place, entry);
                    }
                }
                results
            });
            let _ = reply.send(answer);
        }));
    }

    fn change(&mut self, change: Operation<S>) {
        let mut transaction = WriteTransaction::new(self.shared, self.totals.clone());
        change(&mut transaction);
        self.totals = transaction.totals.clone();
        // What it has written is not weighed, and a sweep may write much.
        if self.shared.options.sync_interval.is_some() {
            self.sync();
        }
    }

    /// Does a step of what the clock wants. As long as it takes away only what has ended, the
    /// groups of others are written meanwhile, and share its sync.
    fn sweep(&mut self, now: Timestamp, reply: Reply<SweepReport>) {
        let mut transaction =
            WriteTransaction::beside_others(self.shared, self.totals.clone(), self.syncer);
        let swept = sweep::sweep(&mut transaction, now);
        if swept.is_err() {
            transaction.abandon();
        }
        self.totals = transaction.totals.clone();
        self.unsynced += transaction.finish(Box::new(move |_, outcome| {
            let _ = reply.send(outcome.clone().and(swept));
        }));
        self.sync_in_time();
    }

    /// Syncs, where groups are not synced and much was written since.
    pub(super) fn sync_in_time(&mut self) {
        if self.shared.options.sync_interval.is_some() && self.unsynced >= UNSYNCED_BYTES {
            self.sync();
        }
    }

    /// Queues the recipients of mails that were just stored.
    fn let_enter(&mut self) {
        for mail in std::mem::take(&mut self.entering) {
            // It looks at what is on disk, and is told of there.
            self.syncer.finish();
            let mut transaction = WriteTransaction::new(self.shared, self.totals.clone());
            if let Err(error) = entering::enter(&mut transaction, mail) {
                transaction.abandon();
                tracing::error!(mail.id = %mail, %error, "its recipients are queued after a restart");
            }
            self.totals = transaction.totals.clone();
        }
    }

    pub(super) fn commit(&mut self, group: Group<S>, alone: bool) {
        let bytes = group.changes.weight().max(1);
        let began = Instant::now();
        self.syncer.make_room();

        let mut told = Vec::new();
        let outcome = if group.changes.is_empty() {
            self.shared.write(Batch::new())
        } else {
            let (batch, sealed) = group.changes.seal(self.shared, &mut self.totals);
            told = sealed;
            self.shared.write(batch)
        };

        let written = WrittenGroup {
            outcome,
            bytes,
            totals: self.totals.clone(),
            told,
            answers: group.answers,
            wakes: group.wakes,
            began,
        };

        // Twice alone is a lone caller; once is one of many who comes first.
        let is_lone = alone && self.was_alone;
        self.was_alone = alone;
        self.syncer.add(self.shared, written, is_lone);

        if let Some(interval) = self.shared.options.sync_interval {
            self.unsynced += bytes;
            if self.last_sync.elapsed() >= interval || self.unsynced >= UNSYNCED_BYTES {
                self.sync();
            }
        }
    }
}
