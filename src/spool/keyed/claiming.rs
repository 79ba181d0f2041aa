//! Claims: what waits is leased, and read where it is not in memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::keys::Place;
use super::{KeyedSpool, operations, reader};
use crate::spool::store::Store;
use crate::spool::{Claim, ClaimRequest, Lease, LeaseKeeper, LeaseToken, SpoolError};

/// How long what the disk did not give is left alone before it is read again.
pub(super) const UNREAD_AGAIN: Duration = Duration::from_secs(60);

impl<S: Store> KeyedSpool<S> {
    pub(super) async fn claim_for(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        // What is sent now could not be recorded, and would be sent again after a restart.
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }

        let refills = self.shared.queues.lock().begin_refills(&request.routes);
        if !refills.is_empty() {
            let rests = self
                .look(move |shared| Ok(reader::refill(shared, refills)))
                .await?;
            self.shared.changed.notify_one();
            for rest in rests {
                let shared = Arc::downgrade(&self.shared);
                tokio::spawn(async move {
                    tokio::time::sleep(rest).await;
                    if let Some(shared) = shared.upgrade() {
                        shared.changed.notify_one();
                    }
                });
            }
        }

        let taken = self.shared.queues.lock().take(&request);
        let keeper: Weak<dyn LeaseKeeper> = Arc::downgrade(&self.shared) as Weak<dyn LeaseKeeper>;
        let mut claims = Vec::with_capacity(taken.len());

        let mut stored = Vec::new();
        for taken in taken {
            let leases = taken.places.iter().map(|(place, serial)| {
                let token = LeaseToken {
                    mail: place.mail,
                    index: place.index,
                    serial: *serial,
                };
                (Lease::new(token, keeper.clone()), *place)
            });
            let leases: Vec<(Lease, Place)> = leases.collect();
            match taken.fresh() {
                Some(fresh) => claims.push(Claim {
                    manifest: Arc::clone(&fresh.manifest),
                    body: fresh.body.clone(),
                    deliveries: leases
                        .into_iter()
                        .map(|(lease, place)| {
                            (lease, fresh.deliveries[usize::from(place.index)].clone())
                        })
                        .collect(),
                }),
                None => stored.push((taken.queue, leases)),
            }
        }

        if !stored.is_empty() {
            let (read, broken, mut unread) = self
                .look(move |shared| Ok(reader::claims(shared, stored)))
                .await?;
            claims.extend(read);
            // Serials are given in the order of the turns.
            claims.sort_by_key(|claim| {
                claim
                    .deliveries
                    .first()
                    .map(|(lease, _)| lease.token().serial)
            });
            if !broken.is_empty() {
                let broken = Arc::new(Mutex::new(broken));
                let ended = {
                    let broken = Arc::clone(&broken);
                    self.change(move |transaction| {
                        operations::end_broken(transaction, &mut broken.lock(), request.now)
                    })
                    .await
                };
                if let Err(error) = ended {
                    tracing::error!(%error, "what cannot be read could not be set aside");
                }
                // What is left is looked at again later, as what the disk did not give.
                let left = std::mem::take(&mut *broken.lock());
                let mut queues = self.shared.queues.lock();
                for (lease, _) in left.into_iter().flat_map(|broken| broken.leases) {
                    queues.set_idle(&lease.token());
                    unread.push(lease);
                }
            }
            if !unread.is_empty() {
                // Given back at once it would be the first to be claimed again, and the disk asked
                // without end.
                tokio::spawn(async move {
                    tokio::time::sleep(UNREAD_AGAIN).await;
                    drop(unread);
                });
            }
            if claims.is_empty() {
                // Who asked takes the queue for empty; there may be more behind what could not be
                // given to him.
                self.shared.changed.notify_one();
            }
        }

        let mut queues = self.shared.queues.lock();
        for claim in &claims {
            for (lease, delivery) in &claim.deliveries {
                queues.note(&lease.token(), &claim.manifest, delivery.tries);
            }
        }

        drop(queues);
        Ok(claims)
    }
}
