//! Claims: leases deliveries that are due, and reads their mail from disk if it is not in memory.

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

/// How long mail that could not be read from disk is left alone before it is read again.
pub(super) const REREAD_AFTER: Duration = Duration::from_secs(60);

/// The leased deliveries of a mail, and their queue.
type LeasedMail = (QueueName, Vec<(Lease, QueuePosition)>);

impl<S: Store> KeyedSpool<S> {
    pub(super) async fn claim_for(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
        // The outcome could not be recorded, so the mail would be sent again after a restart.
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }

        self.refill(&request).await?;
        let (mut claims, stored) = self.lease(&request);
        if !stored.is_empty() {
            claims.extend(self.read(stored, request.now).await?);
            // Serial numbers increase in the order in which deliveries were chosen.
            claims.sort_by_key(|claim| {
                claim
                    .deliveries
                    .first()
                    .map(|(lease, _)| lease.token().serial)
            });
            if claims.is_empty() {
                // An empty answer means an empty queue to the caller; but there may be deliveries
                // behind those that cannot be sent.
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

    /// Reads the next positions of those queues whose heads are almost empty. A queue that cannot
    /// be read is tried again after a while.
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

    /// Leases the deliveries that are asked for. Returns the claims of mail in memory, and the
    /// leases whose mail must be read.
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

    /// Reads the mails of leases. Deliveries that cannot be sent end; those whose mail cannot be
    /// read now are released later.
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
            // Released now, they would be claimed again at once, in an endless loop.
            tokio::spawn(async move {
                tokio::time::sleep(REREAD_AFTER).await;
                drop(unread);
            });
        }

        Ok(claims)
    }

    /// Ends deliveries that cannot be sent. Returns the leases of those that could not be ended;
    /// they are released later.
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
