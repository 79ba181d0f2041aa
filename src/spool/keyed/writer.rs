//! The one thread that writes. It collects the commands that have arrived into a
//! [`group`](super::group), writes the group in one commit, and passes it to the
//! [`syncer`](super::syncer), which answers every caller in it. So one sync serves many callers.
//!
//! *Invariant:* no caller is answered before its change is on disk, and the queues in memory are
//! changed only after that. A commit that fails is never repeated: the spool refuses further
//! writes, and what is on disk stays as it is.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::SpoolState;
use super::answer::{CommitAnswer, ReplySender};
use super::bounding::Bounding;
use super::command::{GroupCommand, Operation, WriterCommand};
use super::group::CommitGroup;
use super::healing::RETRY_AFTER;
use super::large_mail;
use super::sweep;
use super::syncer::{Syncer, WrittenGroup};
use super::write_transaction::WriteTransaction;
use crate::mail::{MailId, Timestamp};
use crate::spool::codec::Totals;
use crate::spool::store::{Batch, Store};
use crate::spool::{SpoolError, SweepReport};

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
    commands: mpsc::Receiver<WriterCommand<S>>,
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
            WriterCommand::Group(first) => writer.write_group(first),
            WriterCommand::Operate(change) => {
                // It reads the queues in memory, which the syncer brings up to date.
                syncer.finish();
                writer.change(change);
            }
            WriterCommand::Sweep(now, reply) => writer.sweep(now, reply),
            WriterCommand::Pass(reply) => _ = reply.send(()),
            WriterCommand::Close(reply) => _ = reply.send(writer.close()),
        }
    }

    syncer.finish();
    let _ = shared.store.sync();
    shared.fail(SpoolError::Closed);
    shared.fail_unwritten();
}

pub(super) struct Writer<'a, S> {
    pub shared: &'a SpoolState<S>,
    pub syncer: &'a Syncer<S>,
    commands: mpsc::Receiver<WriterCommand<S>>,
    /// A command that was received and comes after the group that is being gathered.
    next: Option<WriterCommand<S>>,
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

impl<S: Store> Writer<'_, S> {
    /// Waits for the next command; `None` once all senders are dropped. While it waits, a store
    /// that has failed is reopened, and interval syncs are made.
    fn next_command(&mut self) -> Option<WriterCommand<S>> {
        if self.next.is_some() {
            return self.next.take();
        }
        if self.is_closed {
            return self.commands.try_recv().ok();
        }

        loop {
            let may_heal = self.shared.may_heal();
            let rest = if may_heal {
                Some(RETRY_AFTER)
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
        let mut group = CommitGroup::default();
        self.gather(&mut group, first);

        let mut is_last = false;
        while group.commands < GROUP_COMMANDS && group.changes.weight() < GROUP_BYTES {
            match self.commands.try_recv() {
                // A command for which space must be made first begins the next group.
                Ok(WriterCommand::Group(command)) if self.has_space(&command) => {
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
    pub(super) fn commit(&mut self, group: CommitGroup<S>, alone: bool) {
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

        // Alone twice in a row means a single caller, and the writer syncs by itself. Alone once
        // may be the first of many.
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
