//! Queues the recipients of a mail that has thousands of them: after it is stored, in bounded
//! steps. If the spool is closed in between, opening it does the remaining steps.

use std::ops::ControlFlow;

use super::keys::{self, QueuePosition};
use super::queue_head::QueueEntry;
use super::queues::QueueName;
use super::reader;
use super::write_transaction::WriteTransaction;
use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::SpoolError;
use crate::spool::codec;
use crate::spool::store::{Direction, Store};

/// How many deliveries are queued in one step.
const STEP_DELIVERIES: usize = 1000;

/// A delivery and its index in the envelope.
type NumberedDelivery = (u16, Delivery);

/// Queues the recipients that are not queued yet, each step in a commit of its own. Runs on the
/// writer's thread, which does nothing else meanwhile.
pub(super) fn queue_recipients<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
    mail: MailId,
) -> Result<(), SpoolError> {
    let store = &transaction.shared.store;
    let Some(next) = store.get(&keys::unqueued(mail))? else {
        return Ok(());
    };
    let mut next = next.try_into().map_or(0, u16::from_be_bytes);

    let manifest = reader::manifest(store, mail)?;
    while let Some(manifest) = &manifest {
        let (deliveries, after) = read_some(&transaction.shared.store, mail, next)?;
        for (index, delivery) in deliveries {
            let Some(due) = delivery.stage.due() else {
                transaction.ended_from_the_start(manifest, index, &delivery);
                continue;
            };
            let queue = QueueName {
                route: delivery.route.clone(),
                priority: manifest.priority,
            };
            let place = QueuePosition { due, mail, index };
            transaction.enqueue(queue, place, QueueEntry::of_delivery(manifest, &delivery));
        }
        let Some(after) = after else { break };
        next = after;
        let key = keys::unqueued(mail);
        transaction.changes.put(key, next.to_be_bytes().to_vec());
        transaction.commit()?;
    }

    transaction.changes.remove(keys::unqueued(mail));
    transaction.commit()
}

/// The next deliveries, and the index after them. One that cannot be read is skipped; it is found
/// damaged when the mail is read.
fn read_some<S: Store>(
    store: &S,
    mail: MailId,
    from: u16,
) -> Result<(Vec<NumberedDelivery>, Option<u16>), SpoolError> {
    let (_, to) = keys::deliveries(mail);
    let mut read = Vec::new();
    let mut after = None;
    store.walk(
        &keys::delivery(mail, from),
        &to,
        Direction::Up,
        &mut |key, value| {
            let index = keys::index_of(key);
            if read.len() >= STEP_DELIVERIES {
                after = Some(index);
                return ControlFlow::Break(());
            }
            if let Ok(delivery) = codec::decode(value) {
                read.push((index, delivery));
            }
            ControlFlow::Continue(())
        },
    )?;

    Ok((read, after))
}
