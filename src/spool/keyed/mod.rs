//! A spool over any ordered key store: `sled` on disk, a map in memory.
//!
//! * [`keys`] says what is stored where; [`queues`] and [`queue_head`] hold what is in flight and what
//!   comes next, in memory;
//! * [`writer`] is the one thread that changes anything, and [`syncer`] the one that says when it
//!   is on disk; [`reader`] looks things up;
//! * [`healing`] opens a store again that could not be written; [`salvage`] puts in order what was saved from a damaged store;
//! * [`recovery`], [`operations`] and [`sweep`] are what opening, users and the clock change, each a
//!   [`write_transaction`] on the writer's thread; a [`transition`] is what one delivery's change
//!   writes. All of it is weighed in [`changes`];
//! * [`journal`] is what happened, in the commits that made it so;
//! * [`queue_ids`] and [`backlog`] name and count what waits, [`kept`] what is kept, and [`bounding`]
//!   bounds that; [`idempotency`]
//!   hashes keys.

mod backlog;
mod bounding;
mod changes;
mod entering;
mod feedback;
mod healing;
mod idempotency;
pub(super) mod inspect;
pub(super) mod journal;
mod kept;
mod keys;
mod operations;
mod queue_head;
mod queue_ids;
mod queues;
mod reader;
mod recovery;
pub(super) mod salvage;
mod stored_mail;
mod suppressions;
mod sweep;
mod syncer;
#[cfg(test)]
mod tests;
#[cfg(feature = "postgres")]
pub(in crate::spool) mod transfer;
mod transition;
mod write_transaction;
mod writer;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use self::backlog::Backlog;
use self::changes::{COMMIT_BYTES, STEP_BYTES};
use self::healing::UnwrittenOutcomes;
use self::idempotency::KeyHash;
pub(super) use self::journal::last_event;
use self::journal::{JournalState, Sealed};
use self::keys::Place;
pub(super) use self::keys::{IRREPLACEABLE, TOTALS, is_delivery};
use self::queue_head::{Budget, CachedMail, Entry};
use self::queue_ids::QueueIds;
use self::queues::{QueueName, Queues};
use self::stored_mail::{CHUNK, StoredMail};
use self::sweep::SweepProgress;
use self::syncer::Syncer;
use self::write_transaction::WriteTransaction;
use self::writer::{Command, EarlyParts, Encoded, GROUP_BYTES, INDEX_BYTES};
use super::codec::{self, Totals};
use super::store::{Batch, Store};
use super::{
    Claim, ClaimRequest, Durability, EndedDelivery, FeedbackStore, Journal, Lease, LeaseKeeper,
    LeaseToken, NewMail, OperationResult, Page, PutResult, Query, Record, SettleResult, Spool,
    SpoolError, SpoolOptions, SpoolStats, Suppressions, SweepReport,
};
use crate::delivery::{By, Delivery, Route, Stage};
use crate::mail::{MailId, Submitter, Timestamp};

/// A message above this is written in several groups, the record that makes it exist last.
const LARGE: usize = 256 * 1024;
/// How long what the disk did not give is left alone before it is read again.
const UNREAD_AGAIN: Duration = Duration::from_secs(60);
/// How many kilobytes of mail may wait for the writer.
const WAITING_KIB: usize = 64 * 1024;

pub(super) struct KeyedSpool<S: Store> {
    shared: Arc<SpoolState<S>>,
    commands: mpsc::UnboundedSender<Command<S>>,
    waiting: Semaphore,
    /// The writer's thread and the syncer's.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the callers, the readers and the writer share.
struct SpoolState<S> {
    store: S,
    options: SpoolOptions,
    key_hash: KeyHash,
    queues: Mutex<Queues>,
    ids: RwLock<QueueIds>,
    backlog: Mutex<Backlog>,
    budget: Budget,
    changed: Notify,
    failure: RwLock<Option<SpoolError>>,
    /// The first timer, in milliseconds; `i64::MAX` for none.
    next_timer: AtomicI64,
    pending: AtomicU64,
    totals: Mutex<Totals>,
    /// What has ended without a user's request, and was not told of yet.
    untold: Mutex<Vec<EndedDelivery>>,
    /// How far sweeps have looked at mails that are too long for one.
    looks: Mutex<HashMap<MailId, SweepProgress>>,
    journal: JournalState,
    /// Whether there may be addresses that are not to get mail.
    suppresses: AtomicBool,
    /// How many commits were written, and how many of them are kept.
    written: AtomicU64,
    kept: watch::Sender<u64>,
    stale: AtomicU64,
    sync_nanos: Mutex<Vec<u64>>,
    /// What became of deliveries and could not be written.
    owed: Mutex<Vec<UnwrittenOutcomes>>,
    /// What was held for a change that could not be written.
    stuck: Mutex<Vec<LeaseToken>>,
}

impl<S: Store> SpoolState<S> {
    fn failure(&self) -> Option<SpoolError> {
        self.failure.read().clone()
    }

    /// Closes the spool to writing. The first reason stays.
    fn fail(&self, error: SpoolError) {
        if error != SpoolError::Closed && self.failure.read().is_none() {
            tracing::error!(%error, "the spool takes no more");
        }
        self.failure.write().get_or_insert(error);
        self.kept.send_modify(|_| ());
    }

    /// Writes a batch, unless something failed before. What fails closes the spool to writing.
    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        debug_assert!(
            changes::weight(&batch) <= COMMIT_BYTES,
            "a commit of {} bytes",
            changes::weight(&batch)
        );

        match self.failure() {
            Some(failure) => Err(failure),
            None if batch.is_empty() => Ok(()),
            None => {
                self.written.fetch_add(1, Ordering::SeqCst);
                self.store
                    .write(batch)
                    .inspect_err(|e| self.fail(e.clone()))
            }
        }
    }

    /// Keeps what was written, as safely as the options say, and tells what happened by it.
    fn keep(&self, told: Vec<Arc<Sealed>>) -> Result<(), SpoolError> {
        let written = self.written.load(Ordering::SeqCst);
        let kept = match self.failure() {
            Some(failure) => return Err(failure),
            None if self.options.sync_interval.is_none() => self.store.sync(),
            None => self.store.flush(),
        };
        if kept.is_ok() {
            self.journal.publish(told);
            self.kept.send_modify(|kept| *kept = written.max(*kept));
        }
        kept.inspect_err(|e| self.fail(e.clone()))
    }

    /// Waits until everything that was written by now is kept, or the spool has failed: what was
    /// read before may be told then.
    async fn until_kept(&self) {
        let written = self.written.load(Ordering::SeqCst);
        let mut kept = self.kept.subscribe();
        let is_over = |kept: &u64| *kept >= written || self.failure().is_some();
        // The sender lives as long as this does.
        let _ = kept.wait_for(is_over).await;
    }

    fn publish(&self, totals: &Totals) {
        self.pending
            .store(totals.pending.iter().sum(), Ordering::Relaxed);
        *self.totals.lock() = totals.clone();
    }

    fn count_stale(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    fn time_sync(&self, took: Duration) {
        let mut times = self.sync_nanos.lock();
        if times.len() < 4096 {
            times.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// New mails, now on disk, come into the windows of their queues.
    fn enqueue(&self, mails: Vec<Encoded<S>>) {
        let mut queues = self.queues.lock();
        for mail in mails.iter().filter(|mail| !mail.enters_later) {
            for (index, delivery) in (0u16..).zip(&mail.deliveries) {
                let Some(due) = delivery.stage.due() else {
                    continue;
                };
                let queue = QueueName {
                    route: delivery.route.clone(),
                    priority: mail.manifest.priority,
                };
                let place = Place {
                    due,
                    mail: mail.manifest.id,
                    index,
                };
                queues.enqueue_new(
                    &queue,
                    place,
                    Entry {
                        fresh: mail.fresh.clone(),
                        ..Entry::of(&mail.manifest)
                    },
                );
            }
        }
    }
}

impl<S: Store> LeaseKeeper for SpoolState<S> {
    fn release(&self, token: LeaseToken) {
        if self.queues.lock().release(&token) {
            self.changed.notify_one();
        }
    }
}

impl<S: Store> KeyedSpool<S> {
    /// A spool over what the store holds. What was in flight is queued again, save at-most-once
    /// mail that may have been sent: that is dead as `in_doubt`.
    pub(super) fn open(store: S, options: SpoolOptions) -> Result<Self, SpoolError> {
        let totals = kept::totals(&store)?;
        let (key_hash, new_secret) = KeyHash::of_spool(&store)?;
        let (journal, first) = JournalState::open(&store, &options)?;
        let next_timer = reader::first_timer(&store)?.map_or(i64::MAX, Timestamp::as_millis);

        let suppresses = suppressions::are_any(&store)?;
        let shared = Arc::new(SpoolState {
            budget: Budget::new(options.cache_bytes),
            store,
            options,
            key_hash,
            queues: Mutex::new(Queues::new(Vec::new())),
            ids: RwLock::default(),
            backlog: Mutex::default(),
            changed: Notify::new(),
            failure: RwLock::new(None),
            next_timer: AtomicI64::new(next_timer),
            pending: AtomicU64::new(0),
            totals: Mutex::new(Totals::default()),
            untold: Mutex::default(),
            looks: Mutex::default(),
            journal,
            suppresses: AtomicBool::new(suppresses),
            written: AtomicU64::new(0),
            kept: watch::channel(0).0,
            stale: AtomicU64::new(0),
            sync_nanos: Mutex::new(Vec::new()),
            owed: Mutex::default(),
            stuck: Mutex::default(),
        });

        let mut recovering = WriteTransaction::new(&shared, totals);
        recovering.changes.append(first);
        if let Some(secret) = new_secret {
            secret.write(&mut recovering);
        }
        recovery::name_queues(&mut recovering)?;

        let routes: Vec<Route> = shared
            .ids
            .read()
            .all()
            .map(|(route, _)| route.clone())
            .collect();
        *shared.queues.lock() = Queues::new(routes.clone());

        recovery::recover(&mut recovering)?;
        // Known from the start, so that what is due next is known before the first claim.
        let unread = shared.queues.lock().begin_refills(&routes);

        // What cannot be read now is read before it is claimed.
        reader::refill(&shared, unread);
        let totals = recovering.totals.clone();
        shared.publish(&totals);

        let (commands, inbox) = mpsc::unbounded_channel();
        let syncer = Arc::new(Syncer::default());
        let sync = {
            let (shared, syncer) = (Arc::clone(&shared), Arc::clone(&syncer));
            spawn("postrider-sync", move || syncer.run(&shared))?
        };

        let write = {
            let shared = Arc::clone(&shared);
            let ending = WriterExit(Arc::clone(&shared), syncer);
            let clock = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .map_err(no_thread)?;
            spawn("postrider-spool", move || {
                writer::run(&shared, &ending.1, clock, inbox, totals)
            })?
        };

        let waiting = Semaphore::new(WAITING_KIB);
        Ok(KeyedSpool {
            shared,
            commands,
            waiting,
            threads: Mutex::new(vec![write, sync]),
        })
    }

    /// Asks the writer and waits for its answer.
    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> Command<S>,
    ) -> Result<T, SpoolError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(make(reply))
            .map_err(|_| SpoolError::Closed)?;
        answer.await.map_err(|_| SpoolError::Closed)
    }

    /// Has the writer change what is kept.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut WriteTransaction<'_, S>) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        self.ask(|reply| {
            Command::Operate(Box::new(move |transaction| {
                let changed = change(transaction);
                let answer = match changed {
                    Ok(answer) => transaction.commit().map(|()| answer),
                    Err(error) => {
                        transaction.abandon();
                        Err(error)
                    }
                };
                let _ = reply.send(answer);
            }))
        })
        .await?
    }

    /// Has the writer change a mail step by step, and others' wishes in between.
    async fn change_in_steps(
        &self,
        step: impl Fn(
            &mut WriteTransaction<'_, S>,
            u16,
        ) -> Result<operations::StepResult<OperationResult>, SpoolError>
        + Clone
        + Send
        + 'static,
    ) -> Result<OperationResult, SpoolError> {
        let mut changed = Vec::new();
        let mut from = 0;
        loop {
            let step = step.clone();
            let (result, next) = self
                .change(move |transaction| step(transaction, from))
                .await?;
            match result {
                OperationResult::Done(recipients) => changed.extend(recipients),
                OperationResult::Unknown if changed.is_empty() => return Ok(result),
                _ => {}
            }
            match next {
                Some(next) => from = next,
                None => return Ok(OperationResult::of(changed)),
            }
        }
    }

    /// Looks something up, off the async threads.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&SpoolState<S>) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        if self.shared.failure() == Some(SpoolError::Closed) {
            return Err(SpoolError::Closed);
        }
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || look(&shared)).await {
            Ok(found) => found,
            Err(e) => Err(SpoolError::Unreadable(format!(
                "a read was broken off: {e}"
            ))),
        }
    }

    /// Has the writer put one group: not more at a time than may be written between two syncs.
    async fn put_group(&self, mails: Vec<Encoded<S>>) -> Vec<Result<PutResult, SpoolError>> {
        let count = mails.len();
        if count == 0 {
            return Vec::new();
        }
        match self.ask(|reply| Command::Put(mails, reply)).await {
            Ok(results) => results,
            Err(error) => vec![Err(error); count],
        }
    }

    /// A mail as the writer takes it: its records encoded, the chunks of its message cut. Those of
    /// a large message are written ahead, unless it shows before that the mail will not be stored:
    /// then this is the answer to it.
    async fn encode(&self, new_mail: NewMail) -> Result<Encoded<S>, Result<PutResult, SpoolError>> {
        let NewMail {
            manifest,
            body,
            deliveries,
        } = new_mail;
        let id = manifest.id;
        let manifest = Arc::new(manifest);
        let recipients_weight = stored_mail::weight(&deliveries);
        let enters_later = recipients_weight > LARGE;
        let is_large = body.len() > LARGE || enters_later;
        let key = self.shared.key_hash.of(&manifest);

        let mut parts = Parts {
            spool: self,
            batch: Batch::with_capacity(6),
            weight: 0,
            is_large,
            has_written: false,
        };

        if is_large {
            match self
                .ask(|reply| Command::Judge(Arc::clone(&manifest), key, reply))
                .await
            {
                Ok(Ok(PutResult::Stored)) => {}
                Ok(judged) => return Err(judged),
                Err(error) => return Err(Err(error)),
            }
            parts.add(keys::writing(id), Some(Vec::new())).await?;
        }
        let ahead = is_large.then(|| EarlyParts::new(id, &self.commands));

        let chunked = if stored_mail::is_small(body.len()) {
            &[]
        } else {
            &body[..]
        };

        for (number, chunk) in (0u32..).zip(chunked.chunks(CHUNK)) {
            let key = keys::chunk(id, number);
            parts.add(key, Some(chunk.to_vec())).await?;
        }

        for (index, delivery) in (0u16..).zip(stored_mail::beside_the_record(&deliveries)) {
            let key = keys::delivery(id, index);
            parts.add(key, Some(codec::encode(delivery))).await?;
        }

        if is_large {
            parts.add(keys::writing(id), None).await?;
        }

        let record = stored_mail::record(&manifest, &deliveries, &body);
        parts.batch.push((keys::manifest(id), Some(record)));

        // Where all of it comes with the mail there is nothing that could be given up.
        let ahead = match ahead {
            Some(ahead) if !parts.has_written => {
                ahead.keep();
                None
            }
            ahead => ahead,
        };

        // What is sent from memory is paid for in whole.
        let share = Some(body.len() + recipients_weight)
            .filter(|_| !enters_later)
            .and_then(|bytes| self.shared.budget.share(bytes));

        let fresh = share.map(|share| {
            Arc::new(CachedMail {
                manifest: Arc::clone(&manifest),
                body,
                deliveries: deliveries.clone(),
                _share: share,
            })
        });

        Ok(Encoded {
            manifest,
            key,
            deliveries: if enters_later { Vec::new() } else { deliveries },
            batch: parts.batch,
            enters_later,
            ahead,
            fresh,
        })
    }
}

/// The records of a new mail, on their way to the writer: those of a large one in parts.
struct Parts<'a, S: Store> {
    spool: &'a KeyedSpool<S>,
    batch: Batch,
    weight: usize,
    is_large: bool,
    /// Whether a part was written ahead of the mail.
    has_written: bool,
}

impl<S: Store> Parts<'_, S> {
    async fn add(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Result<(), Result<PutResult, SpoolError>> {
        self.weight += key.len() + value.as_ref().map_or(0, Vec::len);
        self.batch.push((key, value));
        if !self.is_large || self.weight < STEP_BYTES {
            return Ok(());
        }
        self.weight = 0;
        self.has_written = true;

        let part = std::mem::take(&mut self.batch);
        self.spool
            .ask(|reply| Command::Write(part, reply))
            .await
            .flatten()
            .map_err(Err)
    }
}

/// Changes of deliveries, as many together as one step may write.
fn in_steps<T>(changes: Vec<T>, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut steps = vec![Vec::new()];
    let mut weighed = 0;
    for change in changes {
        if weighed >= STEP_BYTES {
            steps.push(Vec::new());
            weighed = 0;
        }
        weighed += weight(&change) + INDEX_BYTES;
        if let Some(step) = steps.last_mut() {
            step.push(change);
        }
    }

    steps
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, SpoolError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> SpoolError {
    SpoolError::Unreadable(format!("no thread can be started for it: {error}"))
}

/// Ends the syncer when the writer ends, however that comes.
struct WriterExit<S: Store>(Arc<SpoolState<S>>, Arc<Syncer<S>>);

impl<S: Store> Drop for WriterExit<S> {
    fn drop(&mut self) {
        let WriterExit(shared, syncer) = self;
        if std::thread::panicking() {
            shared.fail(SpoolError::Unreadable(
                "the thread that writes has panicked".into(),
            ));
        }
        syncer.end();
    }
}

#[async_trait]
impl<S: Store> Spool for KeyedSpool<S> {
    fn durability(&self) -> Durability {
        match (
            self.shared.store.is_persistent(),
            self.shared.options.sync_interval,
        ) {
            (false, _) => Durability::InMemory,
            (true, None) => Durability::Synced,
            (true, Some(_)) => Durability::Written,
        }
    }

    fn changed(&self) -> &Notify {
        &self.shared.changed
    }

    async fn put(&self, new_mails: Vec<NewMail>) -> Vec<Result<PutResult, SpoolError>> {
        if let Some(failure) = self.shared.failure() {
            return vec![Err(failure); new_mails.len()];
        }
        let count = new_mails.len();

        let kib: usize = new_mails
            .iter()
            .map(|new_mail| {
                (new_mail.body.len() + stored_mail::weight(&new_mail.deliveries)) / 1024 + 1
            })
            .sum();
        let permits = u32::try_from(kib.min(WAITING_KIB)).unwrap_or(u32::MAX);
        let _waiting = self.waiting.acquire_many(permits).await;
        let mut results = Vec::with_capacity(count);

        let (mut group, mut bytes) = (Vec::new(), 0);
        let mut enters_later = false;
        for new_mail in new_mails {
            let encoded = self.encode(new_mail).await;
            let weight = encoded.as_ref().map_or(0, Encoded::weight);
            if bytes + weight > GROUP_BYTES {
                results.extend(self.put_group(std::mem::take(&mut group)).await);
                bytes = 0;
            }
            bytes += weight;
            enters_later |= encoded.as_ref().is_ok_and(|mail| mail.enters_later);
            let judged = encoded.map(|mail| group.push(mail)).err();
            // Answers are in order: what comes before one that is judged already is put first.
            if judged.is_some() {
                results.extend(self.put_group(std::mem::take(&mut group)).await);
                bytes = 0;
            }
            results.extend(judged);
        }

        results.extend(self.put_group(group).await);
        if enters_later {
            // Kept they are already; who goes on now finds them queued.
            let _ = self.ask(Command::Pass).await;
        }

        results
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Vec<Claim>, SpoolError> {
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

    async fn mark(&self, leases: Vec<LeaseToken>) -> Result<(), SpoolError> {
        let marking = self
            .look(move |shared| {
                let mut marked = Vec::with_capacity(leases.len());
                {
                    // All or none: a mail of which a part is not to be sent is not sent now.
                    let mut queues = shared.queues.lock();
                    if leases.iter().any(|token| queues.current(token).is_none()) {
                        shared.count_stale();
                        return Err(SpoolError::StaleLease);
                    }
                    for token in &leases {
                        queues.mark(token);
                    }
                }
                for token in leases {
                    let delivery = reader::delivery(&shared.store, token.mail, token.index)?;
                    let Some(mut delivery) = delivery.transpose()? else {
                        continue;
                    };
                    if let Stage::Pending { due } = delivery.stage {
                        delivery.stage = Stage::Committing { due };
                        marked.push((token, delivery));
                    }
                }
                Ok(marked)
            })
            .await?;

        for marking in in_steps(marking, |(_, delivery)| codec::encode(delivery).len()) {
            self.ask(|reply| Command::Mark(marking, reply)).await??;
        }
        Ok(())
    }

    fn settle(
        &self,
        settled: Vec<(Lease, Delivery)>,
    ) -> BoxFuture<'_, Result<Vec<SettleResult>, SpoolError>> {
        let settled = settled.into_iter().map(|(lease, delivery)| {
            let bytes = codec::encode(&delivery);
            (lease.spend(), delivery, bytes)
        });

        let mut answers = Vec::with_capacity(1);
        for settled in in_steps(settled.collect(), |(_, _, bytes)| bytes.len()) {
            let (reply, answer) = oneshot::channel();
            // Where nobody takes it there is no answer.
            let _ = self.commands.send(Command::Settle(settled, reply));
            answers.push(answer);
        }

        Box::pin(async move {
            let mut recorded = Vec::new();
            for answer in answers {
                recorded.extend(answer.await.map_err(|_| SpoolError::Closed)??);
            }
            Ok(recorded)
        })
    }

    async fn get(&self, id: MailId) -> Result<Option<Record>, SpoolError> {
        let record = self.look(move |shared| reader::record(shared, id)).await?;
        self.shared.until_kept().await;
        Ok(record)
    }

    async fn body(&self, id: MailId) -> Result<Option<Bytes>, SpoolError> {
        self.look(move |shared| {
            if shared.options.keep_bodies.is_zero()
                && let Some(whole) = reader::whole(&shared.store, id)?
            {
                let mut stages = whole.deliveries.values().map(|delivery| &delivery.stage);
                let is_delivered = |stage: &Stage| matches!(stage, Stage::Delivered { .. });
                // Not one moment longer, though it may take one until it is gone.
                if !whole.is_damaged && stages.all(is_delivered) {
                    return Err(SpoolError::Forgotten(id));
                }
            }
            match StoredMail::read(&shared.store, id)? {
                Some(mail) => reader::body(&shared.store, &mail)?.map(Some),
                None => Ok(None),
            }
        })
        .await
    }

    async fn list(&self, query: Query, now: Timestamp) -> Result<Page, SpoolError> {
        let page = self
            .look(move |shared| reader::list(shared, &query, now))
            .await?;
        self.shared.until_kept().await;
        Ok(page)
    }

    async fn cancel(&self, id: MailId, now: Timestamp) -> Result<OperationResult, SpoolError> {
        self.cancel_by(&By::default(), id, now).await
    }

    async fn retry(
        &self,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        self.retry_by(&By::default(), id, now, lifetime).await
    }

    async fn purge(&self, id: MailId) -> Result<OperationResult, SpoolError> {
        self.purge_by(&By::default(), id, Timestamp::now()).await
    }

    async fn cancel_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let by = by.clone();
        let step = move |transaction: &mut WriteTransaction<'_, S>, from| {
            operations::cancel(transaction, &by, id, now, from)
        };
        self.change_in_steps(step).await
    }

    async fn retry_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<OperationResult, SpoolError> {
        let revived = self
            .change(move |transaction| operations::begin_retry(transaction, id, now, lifetime))
            .await?;
        let Some(revived) = revived else {
            return Ok(OperationResult::Unknown);
        };
        let by = by.clone();
        let step = move |transaction: &mut WriteTransaction<'_, S>, from| {
            operations::retry(transaction, &by, (id, now), revived, from)
        };
        self.change_in_steps(step).await
    }

    async fn purge_by(
        &self,
        by: &By,
        id: MailId,
        now: Timestamp,
    ) -> Result<OperationResult, SpoolError> {
        let by = by.clone();
        self.change(move |transaction| operations::purge(transaction, &by, id, now))
            .await
    }

    fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.shared.next_timer.load(Ordering::Relaxed) <= now.as_millis()
            || self.shared.journal.is_due(now)
    }

    async fn sweep(&self, now: Timestamp) -> Result<SweepReport, SpoolError> {
        let is_closed = self.shared.failure() == Some(SpoolError::Closed);
        if !is_closed && !self.is_sweep_due(now) {
            return Ok(SweepReport::default());
        }
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        self.ask(|reply| Command::Sweep(now, reply)).await?
    }

    async fn reroute(&self, known: Vec<Route>, fallback: Route) -> Result<usize, SpoolError> {
        let known: HashSet<Route> = known.into_iter().collect();
        let unknown: Vec<Route> = self
            .shared
            .queues
            .lock()
            .routes()
            .into_iter()
            .filter(|route| !known.contains(route))
            .collect();

        if unknown.is_empty() {
            return Ok(0);
        }
        self.change(move |transaction| operations::reroute(transaction, &unknown, &fallback))
            .await
    }

    fn next_due(&self, after: Timestamp) -> Option<Timestamp> {
        let timer = self.shared.next_timer.load(Ordering::Relaxed);
        let timer = Some(timer)
            .filter(|at| *at < i64::MAX)
            .map(Timestamp::from_millis)
            .filter(|at| *at > after);
        let due = self.shared.queues.lock().next_due(after);
        let journal = self.shared.journal.next_due().filter(|at| *at > after);
        due.into_iter().chain(timer).chain(journal).min()
    }

    fn due_routes(&self, now: Timestamp) -> Option<Vec<Route>> {
        Some(self.shared.queues.lock().due_routes(now))
    }

    fn pending(&self) -> u64 {
        self.shared.pending.load(Ordering::Relaxed)
    }

    fn pending_of(&self, submitter: &Submitter) -> u64 {
        let backlog = self.shared.backlog.lock();
        backlog.of_account(submitter.account()).pending
    }

    fn accepted_on(&self, submitter: &Submitter, day: i64) -> u64 {
        let account = self.shared.backlog.lock().of_account(submitter.account());
        if account.day == day {
            account.accepted
        } else {
            0
        }
    }

    fn failure(&self) -> Option<SpoolError> {
        self.shared.failure()
    }

    fn refusal(&self) -> Option<SpoolError> {
        self.shared
            .failure()
            .or_else(|| self.shared.store.has_room().err())
    }

    fn check_space(&self, size: u64) -> Result<(), SpoolError> {
        self.shared.may_fit(size)
    }

    async fn stats(&self, now: Timestamp) -> Result<SpoolStats, SpoolError> {
        // What fell due since somebody asked is told apart where nothing is written meanwhile. A
        // spool that takes nothing more tells what it knew last.
        while let Ok(false) = self
            .change(move |transaction| {
                let shared = transaction.shared;
                shared.backlog.lock().follow(&shared.store, now)
            })
            .await
        {}

        let mut stats = self.look(reader::stats).await?;
        stats.oldest_due = stats.oldest_due.filter(|due| *due <= now);
        stats.journal_bytes = self.shared.journal.bytes();
        Ok(stats)
    }

    /// Known in memory: nothing is read, and the writer is not asked.
    async fn backlog(&self, _: Timestamp) -> Result<Vec<(Route, u64)>, SpoolError> {
        match self.shared.failure() {
            Some(SpoolError::Closed) => Err(SpoolError::Closed),
            _ => Ok(reader::backlog(&self.shared)),
        }
    }

    fn drain_sync_times(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.shared.sync_nanos.lock())
            .into_iter()
            .map(Duration::from_nanos)
            .collect()
    }

    fn journal(&self) -> Option<&dyn Journal> {
        Some(self)
    }

    fn suppressions(&self) -> Option<&dyn Suppressions> {
        Some(self)
    }

    fn feedback(&self) -> Option<&dyn FeedbackStore> {
        Some(self)
    }

    async fn close(&self) -> Result<(), SpoolError> {
        if self.shared.failure() == Some(SpoolError::Closed) {
            return Ok(());
        }
        let synced = self.ask(Command::Close).await.and_then(|synced| synced);
        let threads = std::mem::take(&mut *self.threads.lock());
        let _ = tokio::task::spawn_blocking(move || {
            threads.into_iter().for_each(|thread| _ = thread.join())
        })
        .await;
        let shared = Arc::clone(&self.shared);
        let _ = tokio::task::spawn_blocking(move || shared.store.close()).await;
        synced
    }
}

impl<S: Store> Drop for KeyedSpool<S> {
    fn drop(&mut self) {
        // The writer ends when the last sender is gone; waiting for it here is what frees the
        // directory for the next opener.
        let (commands, _) = mpsc::unbounded_channel();
        drop(std::mem::replace(&mut self.commands, commands));
        for thread in std::mem::take(&mut *self.threads.lock()) {
            let _ = thread.join();
        }
    }
}
