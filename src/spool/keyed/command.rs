//! The commands that the writer takes.

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

/// A change of stored mail, in a transaction of its own that may read as well.
pub(super) type Operation<S> = Box<dyn FnOnce(&mut WriteTransaction<'_, S>) + Send>;

pub(super) enum WriterCommand<S> {
    /// Written together with other commands, as one group.
    Group(GroupCommand<S>),
    Operate(Operation<S>),
    /// Expire and delete what is due by now.
    Sweep(Timestamp, ReplySender<SweepReport>),
    /// Does nothing: answered when all earlier commands are done.
    Pass(oneshot::Sender<()>),
    Close(ReplySender<()>),
}

/// A command that is written in one commit with others.
pub(super) enum GroupCommand<S> {
    /// Would this mail be stored? Asked before the parts of a large one are written, so that
    /// nothing of a duplicate is.
    Judge(Arc<Manifest>, Option<Hash>, ReplySender<PutResult>),
    /// A part of a large message, before the mail that it belongs to.
    Write(Batch, ReplySender<()>),
    /// Remove the parts that were written of a large message, unless the mail was stored by another
    /// call.
    Forget(MailId),
    Put(
        Vec<Encoded<S>>,
        oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
    ),
    /// Events other than changes of mail, and the records of the journal's readers.
    Note(Vec<Event>, Batch, ReplySender<()>),
    Mark(Vec<(LeaseToken, Delivery)>, ReplySender<()>),
    Settle(
        Vec<(LeaseToken, Delivery, Vec<u8>)>,
        ReplySender<Vec<SettleResult>>,
    ),
}

impl<S> From<GroupCommand<S>> for WriterCommand<S> {
    fn from(command: GroupCommand<S>) -> Self {
        WriterCommand::Group(command)
    }
}
