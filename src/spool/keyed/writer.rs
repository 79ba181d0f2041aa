//! The one thread that writes. It collects the commands that have arrived into a group, writes the
//! group in one commit, and passes it to the [`syncer`](super::syncer), which answers every caller in
//! it. So one sync serves many callers.
//!
//! *Invariant:* no caller is answered before its change is on disk, and the queues in memory are
//! changed only after that. A commit that fails is never repeated: the spool refuses further writes,
//! and what is on disk stays as it is.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::SpoolState;
use super::answer::{CommitAnswer, ReplySender};
use super::bounding::Bounding;
use super::changes::Changes;
use super::command::{Command, GroupCommand, Operation};
use super::encoding::Encoded;
use super::healing::REST;
use super::idempotency::Hash;
use super::journal::entry::Entry as Happened;
use super::kept::Kind;
use super::keys::{self, QueuePosition, Timer};
use super::large_mail;
use super::queue_head::Entry;
use super::queues::QueueName;
use super::sweep;
use super::syncer::{Syncer, WrittenGroup};
use super::transition::{EndedAtAccept, Transition};
use super::write_transaction::WriteTransaction;
use crate::delivery::Delivery;
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::{self, KeyRecord, Totals};
use crate::spool::store::{Batch, Store};
use crate::spool::{LeaseToken, Manifest, PutResult, SettleResult, SpoolError, SweepReport};

/// The most commands in one group.
const GROUP_COMMANDS: usize = 1024;
/// A group takes no further command once it has this many bytes. The writer also waits while this
/// much is written and not yet synced.
pub(super) const GROUP_BYTES: usize = 512 * 1024;
/// The bytes that may be written between two syncs if they are made at intervals.
const UNSYNCED_BYTES: usize = 2 * 1024 * 1024;

/// Runs commands until the last sender is dropped or `Close` comes.
pub(super) fn run<S: Store>(
    shared: &SpoolState<S>,
    syncer: &Syncer<S>,
    commands: mpsc::Receiver<Command<S>>,
    totals: Totals,
) {
    let mut writer = Writer {
        shared,
        syncer,
        commands,
        next: None,
        is_closed: false,
        totals,
        last_sync: Instant::now(),
        unsynced: 0,
        was_alone: false,
        large_mails: Vec::new(),
        bounding: Bounding::default(),
    };

    while let Some(command) = writer.next_command() {
        match command {
            Command::Group(first) => writer.write_group(first),
            Command::Operate(change) => {
                // It reads the queues in memory, which the syncer brings up to date.
                syncer.finish();
                writer.change(change);
            }
            Command::Sweep(now, reply) => writer.sweep(now, reply),
            Command::Pass(reply) => _ = reply.send(()),
            Command::Close(reply) => _ = reply.send(writer.close()),
        }
    }

    syncer.finish();
    let _ = shared.store.sync();
    shared.fail(SpoolError::Closed);
    shared.give_up_what_is_owed();
}

pub(super) struct Writer<'a, S> {
    pub shared: &'a SpoolState<S>,
    pub syncer: &'a Syncer<S>,
    commands: mpsc::Receiver<Command<S>>,
    /// A command that was received and comes after the group that is being gathered.
    next: Option<Command<S>>,
    /// Closing: only the commands that have arrived are still handled.
    is_closed: bool,
    pub totals: Totals,
    last_sync: Instant,
    /// The bytes that were written since the last sync.
    pub unsynced: usize,
    /// Whether the last group was a single command with nothing waiting behind it.
    was_alone: bool,
    /// Stored mails with very many recipients, which are queued before the next command.
    pub large_mails: Vec<MailId>,
    pub bounding: Bounding,
}

pub(super) struct Group<S> {
    commands: usize,
    pub changes: Changes,
    /// Mails that this group writes.
    mails: HashSet<MailId>,
    /// Idempotency keys that this group writes.
    keys: HashMap<Hash, KeyRecord>,
    /// Keys whose number is counted in the totals, and whether they exist after this group.
    counted: HashMap<Vec<u8>, bool>,
    answers: Vec<CommitAnswer<S>>,
    /// Whether it makes mail due, so that the scheduler must be woken.
    wakes: bool,
    /// Whether the disk has room for new mail, once that was checked.
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
    /// Waits for the next command; `None` once all senders are dropped. While it waits, a store that
    /// has failed is reopened, and interval syncs are made.
    fn next_command(&mut self) -> Option<Command<S>> {
        if self.next.is_some() {
            return self.next.take();
        }
        if self.is_closed {
            return self.commands.try_recv().ok();
        }

        loop {
            let may_heal = self.shared.may_heal();
            let rest = if may_heal {
                Some(REST)
            } else {
                self.until_sync()
            };
            let waited = match rest {
                Some(rest) => self.commands.recv_timeout(rest),
                None => self.commands.recv().map_err(RecvTimeoutError::from),
            };

            match waited {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) if may_heal => self.heal(),
                Err(RecvTimeoutError::Timeout) => self.sync(),
            }
        }
    }

    /// How long until the next interval sync, if there is anything to sync.
    fn until_sync(&self) -> Option<Duration> {
        let interval = self.shared.options.sync_interval?;
        (self.unsynced > 0).then(|| interval.saturating_sub(self.last_sync.elapsed()))
    }

    /// Writes a command, and those that wait behind it in the same commit.
    fn write_group(&mut self, first: GroupCommand<S>) {
        self.make_space(&first);
        let mut group = Group::default();
        self.gather(&mut group, first);

        let mut is_last = false;
        while group.commands < GROUP_COMMANDS && group.changes.weight() < GROUP_BYTES {
            match self.commands.try_recv() {
                // A command for which space must be made first begins the next group.
                Ok(Command::Group(command)) if self.has_space(&command) => {
                    self.gather(&mut group, command);
                }
                Ok(later) => {
                    self.next = Some(later);
                    break;
                }
                Err(_) => {
                    is_last = true;
                    break;
                }
            }
        }

        let is_alone = group.commands == 1 && is_last;
        let written = group.changes.weight();
        self.commit(group, is_alone);
        self.queue_large_mails();
        self.keep_pace(written);
    }

    /// Syncs everything to disk and refuses further commands.
    fn close(&mut self) -> Result<(), SpoolError> {
        self.syncer.finish();
        if self.shared.may_heal() {
            self.heal();
        }
        let synced = self.shared.store.sync();
        self.shared.fail(SpoolError::Closed);
        self.is_closed = true;
        synced
    }

    fn sync(&mut self) {
        if let Err(error) = self.shared.store.sync() {
            self.shared.fail(error);
        }
        self.last_sync = Instant::now();
        self.unsynced = 0;
    }

    /// Adds what a command changes to the group, and the answer to give once it is on disk.
    fn gather(&mut self, group: &mut Group<S>, command: GroupCommand<S>) {
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
                        group.changes.tell(Happened::of(event));
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

    /// Whether the disk has room for new mail; checked once per group.
    fn has_room(&self, group: &mut Group<S>) -> Result<(), SpoolError> {
        group
            .room
            .get_or_insert_with(|| self.shared.store.has_room())
            .clone()
    }

    /// Adds new mails to the group, except duplicates and those that do not fit.
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
        group.answers.push(CommitAnswer::Put {
            reply,
            results,
            stored,
        });
    }

    /// Whether a mail is new: neither it nor another one with its idempotency key is stored, on disk
    /// or in this group.
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

    /// Passes a judgement on, unless the mail is new and does not fit into `max_size`.
    fn with_space(&self, manifest: &Manifest, judged: PutResult) -> Result<PutResult, SpoolError> {
        match judged {
            PutResult::Stored => self.check_space(manifest).map(|()| judged),
            known => Ok(known),
        }
    }

    /// The record of an idempotency key, on disk or in this group.
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

    /// Checks that the parts of a large message that were written ahead are still there. If the same
    /// mail was put twice at once and one of the calls was abandoned, its parts were removed, and
    /// they are those of the other call too.
    fn is_whole(&self, mail: &Encoded<S>) -> Result<(), SpoolError> {
        let id = mail.manifest.id;
        if mail.ahead.is_some() && self.shared.store.get(&keys::writing(id))?.is_none() {
            return Err(SpoolError::Unreadable(format!(
                "mail {id} was submitted twice at once, and one attempt was broken off; submit it again"
            )));
        }
        Ok(())
    }

    /// Adds what a new mail needs besides its record: queue positions, timers, totals, the key.
    fn index(&mut self, group: &mut Group<S>, mail: &Encoded<S>) {
        let manifest = &mail.manifest;
        group.mails.insert(manifest.id);
        group.changes.tell(Happened::accepted(manifest));
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

    /// Records that these deliveries may have been sent.
    fn mark(
        &mut self,
        group: &mut Group<S>,
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
        group: &mut Group<S>,
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

    /// Records the outcomes of deliveries whose leases are current. Those without bytes are recorded
    /// already. What cannot be written is kept in memory until it can (`SpoolState::owed`).
    pub(super) fn record(
        &mut self,
        group: &mut Group<S>,
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
                        let became = Happened::became(token.mail, manifest, &delivery, tried, now);
                        group.changes.tell(became);
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

    /// Runs an operation in a commit of its own.
    fn change(&mut self, change: Operation<S>) {
        let mut transaction = WriteTransaction::new(self.shared, self.totals.clone());
        change(&mut transaction);
        self.totals = transaction.totals.clone();
        // The bytes that it has written are not counted, and may be many.
        if self.shared.options.sync_interval.is_some() {
            self.sync();
        }
    }

    /// Does one step of a sweep. If it only deletes finished mail, it is not synced by itself but
    /// together with the groups that are written meanwhile.
    fn sweep(&mut self, now: Timestamp, reply: ReplySender<SweepReport>) {
        let mut transaction =
            WriteTransaction::beside_others(self.shared, self.totals.clone(), self.syncer);
        let swept = sweep::sweep(&mut transaction, now);
        if swept.is_err() {
            transaction.abandon();
        }
        self.totals = transaction.totals.clone();
        self.unsynced += transaction.finish(Some(CommitAnswer::Swept(reply, swept)));
        self.sync_in_time();
    }

    /// Makes an interval sync early if much was written since the last one.
    pub(super) fn sync_in_time(&mut self) {
        if self.shared.options.sync_interval.is_some() && self.unsynced >= UNSYNCED_BYTES {
            self.sync();
        }
    }

    /// Queues the recipients of mails with very many of them, which were just stored.
    fn queue_large_mails(&mut self) {
        for mail in std::mem::take(&mut self.large_mails) {
            // It reads what the group has written.
            self.syncer.finish();
            let mut transaction = WriteTransaction::new(self.shared, self.totals.clone());
            if let Err(error) = large_mail::queue_recipients(&mut transaction, mail) {
                transaction.abandon();
                tracing::error!(
                    mail.id = %mail,
                    %error,
                    "the recipients of a large mail could not be queued; a restart queues them"
                );
            }
            self.totals = transaction.totals.clone();
        }
    }

    /// Writes a group and passes it to the syncer. `alone`: it is one command, and none waits.
    pub(super) fn commit(&mut self, group: Group<S>, alone: bool) {
        let bytes = group.changes.weight().max(1);
        let began = Instant::now();
        self.syncer.make_room();

        let mut entries = Vec::new();
        let outcome = if group.changes.is_empty() {
            self.shared.write(Batch::new())
        } else {
            let (batch, sealed) = group.changes.seal(self.shared, &mut self.totals);
            entries = sealed;
            self.shared.write(batch)
        };

        let written = WrittenGroup {
            outcome,
            bytes,
            totals: self.totals.clone(),
            entries,
            answers: group.answers,
            wakes: group.wakes,
            began,
        };

        // Alone twice in a row means a single caller, and the writer syncs by itself. Alone once may
        // be the first of many.
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
