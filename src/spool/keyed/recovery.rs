//! What opening a spool puts in order, before anything else is done with it.

use super::keys::{self, Timer};
use super::reader::{self};
use super::write_transaction::WriteTransaction;
use crate::delivery::{DeadReason, Stage};
use crate::mail::Timestamp;
use crate::spool::SpoolError;
use crate::spool::store::Store;

/// Puts a spool in order that was just opened: messages that were being written and never accepted
/// are removed; deliveries that may have been sent and must not be sent twice are dead.
pub(super) fn recover<S: Store>(
    transaction: &mut WriteTransaction<'_, S>,
) -> Result<(), SpoolError> {
    for key in reader::all_keys(&transaction.shared.store, b"w", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        transaction.set_timer(Timestamp::from_millis(0), Timer::Chunks(mail));
        transaction.batch.push((key, None));
    }
    for key in reader::all_keys(&transaction.shared.store, b"a", usize::MAX)? {
        let Some(mail) = keys::mail_of(&key) else {
            continue;
        };
        let index = keys::index_of(&key);
        transaction.batch.push((key, None));
        let Ok(Some(manifest)) = reader::manifest(&transaction.shared.store, mail) else {
            continue;
        };
        let delivery = reader::delivery(&transaction.shared.store, mail, index)?;
        let Some(Ok(mut delivery)) = delivery else {
            continue;
        };
        if matches!(delivery.stage, Stage::Committing { .. })
            && transaction.seize(&manifest, index, &delivery)
        {
            delivery.stage = Stage::Dead {
                at: Timestamp::now(),
                reason: DeadReason::InDoubt,
            };
            transaction.step_seized(&delivery);
            transaction.tell_end(mail, delivery.recipient, DeadReason::InDoubt);
        }
    }
    transaction.commit()
}
