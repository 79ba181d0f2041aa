//! Reads what a claim needs: the next positions of the queues, and the record and message of each
//! mail to send.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::SpoolState;
use super::keys::{self, QueuePosition};
use super::queue_head::{QueueEntry, REFILL_PLACES};
use super::queues::QueueName;
use super::reader::{StoredDelivery, body, changed_delivery, guarded};
use super::stored_mail::StoredMail;
use crate::delivery::{Delivery, Stage};
use crate::mail::MailId;
use crate::spool::store::{Direction, Store};
use crate::spool::{Claim, Lease, SpoolError};

/// Reads the next positions of queues into their heads. A queue that cannot be read is left alone
/// for a while and delays no other; returns for how long.
pub(super) fn refill<S: Store>(
    shared: &SpoolState<S>,
    refills: Vec<(QueueName, Option<QueuePosition>)>,
) -> Vec<Duration> {
    let mut rests = Vec::new();
    for (queue, after) in refills {
        // If this stopped midway, the queue would count as being read forever.
        let what = || format!("the queue of {}", queue.route.as_str());
        let read = guarded(|| read_places(shared, &queue, after), what);
        let mut queues = shared.queues.lock();
        match read {
            Ok(read) => {
                let all = read.len() < REFILL_PLACES;
                queues.end_refill(&queue, Some((read, all)));
            }
            Err(error) => {
                let rest = queues.end_refill(&queue, None).unwrap_or_default();
                let route = queue.route.as_str();
                tracing::error!(route, %error, ?rest, "a queue cannot be read now; its mail waits");
                rests.push(rest);
            }
        }
    }

    rests
}

fn read_places<S: Store>(
    shared: &SpoolState<S>,
    queue: &QueueName,
    after: Option<QueuePosition>,
) -> Result<Vec<(QueuePosition, QueueEntry)>, SpoolError> {
    let Some(id) = shared.ids.read().id(&queue.route) else {
        return Ok(Vec::new());
    };
    let (start, end) = keys::starting_with(&keys::queue_prefix(id, queue.priority));
    let from = after.map_or(start, |place| {
        [&keys::queue(id, queue.priority, &place)[..], &[0]].concat()
    });

    let mut read = Vec::with_capacity(REFILL_PLACES);
    shared
        .store
        .walk(&from, &end, Direction::Up, &mut |key, value| {
            if let (Some(key), Some(entry)) = (keys::read_queue(key), QueueEntry::from_bytes(value))
            {
                read.push((key.place, entry));
            }
            if read.len() < REFILL_PLACES {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;

    Ok(read)
}

/// Deliveries that cannot be sent, and why: their mail cannot be read, or they may have been sent
/// already.
pub(super) struct BrokenPlaces {
    pub queue: QueueName,
    pub leases: Vec<(Lease, QueuePosition)>,
    pub in_doubt: bool,
}

/// The parts of a mail that is to be sent.
struct MailToSend {
    kept: StoredMail,
    body: Bytes,
    /// The deliveries that were asked for, in order.
    deliveries: Vec<StoredDelivery>,
}

/// Why a mail that was leased cannot be sent.
enum UnreadableMail {
    /// The store could not read it now; it may later.
    ForNow(SpoolError),
    /// It differs from what was written.
    Broken(SpoolError),
}

impl From<SpoolError> for UnreadableMail {
    fn from(error: SpoolError) -> Self {
        UnreadableMail::ForNow(error)
    }
}

/// Reads the parts of a mail that a claim needs.
fn read_mail<S: Store>(
    store: &S,
    mail: MailId,
    leases: &[(Lease, QueuePosition)],
) -> Result<MailToSend, UnreadableMail> {
    let Some(record) = store.get(&keys::manifest(mail))? else {
        let reason = format!("mail {mail} has no manifest");
        return Err(UnreadableMail::Broken(SpoolError::Unreadable(reason)));
    };
    let kept = StoredMail::from_bytes(record).map_err(UnreadableMail::Broken)?;

    let mut deliveries = Vec::with_capacity(leases.len());
    for (_, place) in leases {
        let changed = changed_delivery(store, mail, place.index)?;
        deliveries.push(changed.or_else(|| kept.as_put(place.index).cloned().map(Ok)));
    }

    let body = body(store, &kept)?
        .whole()
        .map_err(UnreadableMail::Broken)?;
    Ok(MailToSend {
        kept,
        body,
        deliveries,
    })
}

/// Reads the mails of leased deliveries. Releases those that are no longer pending. Returns the
/// claims, the deliveries that cannot be sent, and the leases of those that could not be read now.
pub(super) fn claims<S: Store>(
    shared: &SpoolState<S>,
    leased: Vec<(QueueName, Vec<(Lease, QueuePosition)>)>,
) -> (Vec<Claim>, Vec<BrokenPlaces>, Vec<Lease>) {
    let mut claims = Vec::with_capacity(leased.len());
    let mut broken = Vec::new();
    let mut unread = Vec::new();
    for (queue, leases) in leased {
        let Some(mail) = leases.first().map(|(_, place)| place.mail) else {
            continue;
        };

        let read = guarded(
            || read_mail(&shared.store, mail, &leases),
            || format!("mail {mail}"),
        );
        let MailToSend {
            kept,
            body,
            deliveries: found,
        } = match read {
            Ok(parts) => parts,
            Err(UnreadableMail::Broken(error)) => {
                tracing::error!(mail.id = %mail, %error, "set aside, because it cannot be read");
                broken.push(BrokenPlaces {
                    queue,
                    leases,
                    in_doubt: false,
                });
                continue;
            }
            Err(UnreadableMail::ForNow(error)) => {
                tracing::error!(
                    mail.id = %mail,
                    %error,
                    "cannot be read now; tried again in a minute"
                );
                let mut queues = shared.queues.lock();
                for (lease, _) in leases {
                    queues.set_idle(&lease.token());
                    unread.push(lease);
                }
                continue;
            }
        };

        // Keep the deliveries that are still pending; the others end or are forgotten.
        let mut deliveries = Vec::with_capacity(leases.len());
        for ((lease, place), found) in leases.into_iter().zip(found) {
            match found {
                Some(Ok(delivery)) if delivery.stage == (Stage::Pending { due: place.due }) => {
                    deliveries.push((lease, delivery));
                }
                Some(Ok(Delivery {
                    stage: Stage::Committing { .. },
                    ..
                })) => {
                    broken.push(BrokenPlaces {
                        queue: queue.clone(),
                        leases: vec![(lease, place)],
                        in_doubt: true,
                    });
                }
                // It changed after its queue was read; the queue on disk no longer contains it.
                Some(Ok(_)) => shared.queues.lock().end(&lease.spend()),
                None if !shared.is_queued(&queue, &place) => {
                    shared.queues.lock().end(&lease.spend())
                }
                _ => broken.push(BrokenPlaces {
                    queue: queue.clone(),
                    leases: vec![(lease, place)],
                    in_doubt: false,
                }),
            }
        }

        if !deliveries.is_empty() {
            claims.push(Claim {
                manifest: Arc::new(kept.manifest),
                body,
                deliveries,
            });
        }
    }

    (claims, broken, unread)
}

impl<S: Store> SpoolState<S> {
    fn is_queued(&self, queue: &QueueName, place: &QueuePosition) -> bool {
        let id = self.ids.read().id(&queue.route);
        id.is_some_and(|id| {
            let key = keys::queue(id, queue.priority, place);
            matches!(self.store.get(&key), Ok(Some(_)))
        })
    }
}
