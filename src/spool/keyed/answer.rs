//! The answers to callers that wait for a commit, given once it is on disk.
//!
//! *Invariant:* the queues in memory are changed only here: after the commit is on disk, and before
//! its callers are answered.

use tokio::sync::oneshot;

use super::SpoolState;
use super::encoding::Encoded;
use super::healing::UnwrittenOutcomes;
use super::transition::QueuePlace;
use crate::delivery::Delivery;
use crate::spool::store::Store;
use crate::spool::{LeaseToken, PutResult, SettleResult, SpoolError, SweepReport};

pub(super) type ReplySender<T> = oneshot::Sender<Result<T, SpoolError>>;

/// The answer to one command, if its commit succeeds.
pub(super) enum CommitAnswer<S> {
    Done(ReplySender<()>, Result<(), SpoolError>),
    Judged(ReplySender<PutResult>, Result<PutResult, SpoolError>),
    Put {
        reply: oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
        results: Vec<Result<PutResult, SpoolError>>,
        /// The mails that are new; they are queued now.
        stored: Vec<Encoded<S>>,
    },
    Settled {
        reply: ReplySender<Vec<SettleResult>>,
        results: Vec<SettleResult>,
        /// The deliveries whose leases end, and their new positions if they are queued.
        done: Vec<(LeaseToken, Delivery, Option<QueuePlace>)>,
    },
    Swept(ReplySender<SweepReport>, Result<SweepReport, SpoolError>),
}

impl<S: Store> CommitAnswer<S> {
    /// Gives the answer, with the outcome of the commit. The caller may be gone.
    pub(super) fn give(self, shared: &SpoolState<S>, outcome: &Result<(), SpoolError>) {
        match self {
            CommitAnswer::Done(reply, result) => _ = reply.send(outcome.clone().and(result)),
            CommitAnswer::Judged(reply, result) => _ = reply.send(outcome.clone().and(result)),
            CommitAnswer::Swept(reply, result) => _ = reply.send(outcome.clone().and(result)),
            CommitAnswer::Put {
                reply,
                mut results,
                stored,
            } => {
                match outcome {
                    Ok(()) => shared.enqueue(stored),
                    Err(error) => results.fill(Err(error.clone())),
                }
                let _ = reply.send(results);
            }
            CommitAnswer::Settled {
                reply,
                results,
                done,
            } => match outcome {
                Ok(()) => {
                    let mut queues = shared.queues.lock();
                    for (token, _, next) in done {
                        queues.end(&token);
                        if let Some((queue, place, entry)) = next {
                            queues.enqueue(&queue, place, entry);
                        }
                    }
                    drop(queues);
                    let _ = reply.send(Ok(results));
                }
                Err(_) if shared.may_heal() => {
                    let settled = done
                        .into_iter()
                        .map(|(token, delivery, _)| (token, delivery));
                    shared.unwritten.lock().push(UnwrittenOutcomes {
                        settled: settled.collect(),
                        results,
                        reply,
                    });
                }
                Err(error) => _ = reply.send(Err(error.clone())),
            },
        }
    }
}
