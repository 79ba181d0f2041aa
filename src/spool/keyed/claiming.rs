//! Claims: leases mail that is due, and reads it from disk if it is not in memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::claim_reads::BrokenPlaces;
use super::keys::QueuePosition;
use super::queues::QueueName;
use super::{KeyedSpool, claim_reads, operations};
use crate::mail::Timestamp;
use crate::spool::store::Store;
use crate::spool::{Claim, ClaimRequest, Lease, LeaseKeeper, LeaseToken, SpoolError};

/// How long what the disk did not give is left alone before it is read again.
pub(super) const REREAD_AFTER: Duration = Duration::from_secs(60);

/// What was leased of a mail, and in which queue it lay.
type LeasedMail = (QueueName, Vec<(Lease, QueuePosition)>);

impl<S: Store> KeyedSpool<S> {
    pub(super) async fn claim_for(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        // What is sent now could not be recorded, and would be sent again after a restart.
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }

        self.refill(&request).await?;
        let (mut claims, stored) = self.lease(&request);
        if !stored.is_empty() {
            claims.extend(self.read(stored, request.now).await?);
            // Serials are given in the order of the turns.
            claims.sort_by_key(|claim| {
                claim
                    .deliveries
                    .first()
                    .map(|(lease, _)| lease.token().serial)
            });
            if claims.is_empty() {
                // The caller takes the queue for empty; there may be more behind what could not be
                // given to the caller.
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

    /// Reads what comes next in the queues of which too little is in memory. One that the disk does
    /// not give is read again after a rest.
    async fn refill(&self, request: &ClaimRequest) -> Result<(), SpoolError> {
        let refills = self.shared.queues.lock().begin_refills(&request.routes);
        if refills.is_empty() {
            return Ok(());
        }

        let rests = self
            .look(move |shared| Ok(claim_reads::refill(shared, refills)))
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
        Ok(())
    }

    /// Leases what is asked for: claims of what is in memory, and what has to be read.
    fn lease(&self, request: &ClaimRequest) -> (Vec<Claim>, Vec<LeasedMail>) {
        let taken = self.shared.queues.lock().take(request);
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
            let leases: Vec<(Lease, QueuePosition)> = leases.collect();
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

        (claims, stored)
    }

    /// Reads what was leased. What is broken ends; what the disk did not give is given back later.
    async fn read(
        &self,
        stored: Vec<LeasedMail>,
        now: Timestamp,
    ) -> Result<Vec<Claim>, SpoolError> {
        let (claims, broken, mut unread) = self
            .look(move |shared| Ok(claim_reads::claims(shared, stored)))
            .await?;

        if !broken.is_empty() {
            unread.extend(self.end_broken(broken, now).await);
        }
        if !unread.is_empty() {
            // Given back at once it would be the first to be claimed again, and the disk asked
            // without end.
            tokio::spawn(async move {
                tokio::time::sleep(REREAD_AFTER).await;
                drop(unread);
            });
        }

        Ok(claims)
    }

    /// Ends what cannot be sent, and returns the leases of what could not be ended: it is looked at
    /// again later, as what the disk did not give.
    async fn end_broken(&self, broken: Vec<BrokenPlaces>, now: Timestamp) -> Vec<Lease> {
        let broken = Arc::new(Mutex::new(broken));
        let ended = {
            let broken = Arc::clone(&broken);
            self.change(move |transaction| {
                operations::end_broken(transaction, &mut broken.lock(), now)
            })
            .await
        };
        if let Err(error) = ended {
            tracing::error!(%error, "what cannot be read could not be set aside");
        }

        let left = std::mem::take(&mut *broken.lock());
        let mut queues = self.shared.queues.lock();
        left.into_iter()
            .flat_map(|broken| broken.leases)
            .map(|(lease, _)| {
                queues.set_idle(&lease.token());
                lease
            })
            .collect()
    }
}
