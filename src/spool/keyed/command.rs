//! What the writer is asked to do.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::answer::ReplySender;
use super::encoding::Encoded;
use super::idempotency::Hash;
use super::write_transaction::WriteTransaction;
use crate::delivery::{Delivery, Event};
use crate::mail::{MailId, Timestamp};
use crate::spool::store::Batch;
use crate::spool::{LeaseToken, Manifest, PutResult, SettleResult, SpoolError, SweepReport};

/// A change of what is already kept: made alone, with reads of its own.
pub(super) type Operation<S> = Box<dyn FnOnce(&mut WriteTransaction<'_, S>) + Send>;

pub(super) enum Command<S> {
    /// Written together with others.
    Group(GroupCommand<S>),
    Operate(Operation<S>),
    /// What the clock changes by now.
    Sweep(Timestamp, ReplySender<SweepReport>),
    /// Nothing: answered when all that was asked before is done.
    Pass(oneshot::Sender<()>),
    Close(ReplySender<()>),
}

/// What is written in one commit with what others ask.
pub(super) enum GroupCommand<S> {
    /// Whether a mail would be stored. Asked before a large one is written, so that one which is
    /// not leaves nothing behind.
    Judge(Arc<Manifest>, Option<Hash>, ReplySender<PutResult>),
    /// Part of a large message, before the mail that it belongs to.
    Write(Batch, ReplySender<()>),
    /// The parts that were written of a large message are not wanted, unless another one has stored
    /// the same mail.
    Forget(MailId),
    Put(
        Vec<Encoded<S>>,
        oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
    ),
    /// What happened besides changes of mail, and what readers of the journal keep.
    Note(Vec<Event>, Batch, ReplySender<()>),
    Mark(Vec<(LeaseToken, Delivery)>, ReplySender<()>),
    Settle(
        Vec<(LeaseToken, Delivery, Vec<u8>)>,
        ReplySender<Vec<SettleResult>>,
    ),
}

impl<S> From<GroupCommand<S>> for Command<S> {
    fn from(command: GroupCommand<S>) -> Self {
        Command::Group(command)
    }
}
