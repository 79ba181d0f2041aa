//! What happens to records that cannot be read, and to parts of messages that nobody has: no door
//! leads there.

mod steps;
mod vanished;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};

use super::claiming::REREAD_AFTER;
use super::encoding::EarlyParts;
use super::keys::Timer;
use super::*;
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{Address, Guarantee, MailId, Priority, Submitter};
use crate::spool::memory::MemoryStore;
use crate::spool::store::{Batch, Direction, Visitor};
use crate::spool::{
    Claim, ClaimRequest, EndedDelivery, LeaseToken, NewMail, OperationResult, Query, SettleResult,
    Spool,
};

const BODY: &[u8] = b"Subject: Hello\r\n\r\nHello!\r\n";

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
}

fn new_mail(recipients: usize) -> NewMail {
    let address = |n| Address::parse(&format!("user{n}@example.org")).expect("valid");
    let deliveries = (0..recipients)
        .map(|n| Delivery::new(address(n), Route::over(["primary"]), now()))
        .collect();

    let manifest = super::super::Manifest {
        id: MailId::generate(),
        accepted_at: now(),
        expires_at: now() + Duration::from_secs(3600),
        return_path: None,
        message_id: "<1@example.org>".into(),
        subject: "Hello".into(),
        priority: Priority::Default,
        guarantee: Guarantee::AtLeastOnce,
        tags: Vec::new(),
        idempotency_key: None,
        fingerprint: 0,
        size: BODY.len() as u64,
        recipients: u16::try_from(recipients).expect("few"),
        eight_bit: false,
        smtputf8: false,
        submitter: None,
        mended: Vec::new(),
        template: None,
        list: None,
    };

    NewMail {
        manifest,
        body: Bytes::from_static(BODY),
        deliveries,
    }
}

/// A spool on what an earlier one left, one key of which was changed meanwhile.
async fn opened_after(
    put: Vec<NewMail>,
    change: impl FnOnce(&MemoryStore),
) -> KeyedSpool<MemoryStore> {
    let store = MemoryStore::default();
    let before = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    for put in before.put(put).await {
        assert_eq!(put, Ok(PutResult::Stored));
    }
    before.close().await.expect("closes");
    change(&store);
    KeyedSpool::open(store, SpoolOptions::default())
        .expect("one bad record does not keep it closed")
}

fn request() -> ClaimRequest {
    ClaimRequest {
        routes: vec![Route::over(["primary"])],
        turns: vec![Priority::Default; 10],
        critical_only: 0,
        max_bytes: usize::MAX,
        max_recipients: 100,
        now: now(),
    }
}

async fn claim_all(spool: &KeyedSpool<MemoryStore>) -> Vec<Claim> {
    spool.claim(request()).await.expect("claims")
}

fn quarantined_of(spool: &KeyedSpool<MemoryStore>) -> u64 {
    inspect::quarantined(&spool.shared.store).expect("walks")
}

#[tokio::test]
async fn a_mail_whose_record_cannot_be_read_is_set_aside_and_the_others_are_sent() {
    let (bad, good) = (new_mail(1), new_mail(1));
    let (bad_id, good_id) = (bad.manifest.id, good.manifest.id);
    let spool = opened_after(vec![bad, good], |store| {
        store
            .write(vec![(keys::manifest(bad_id), Some(vec![9, 9, 9]))])
            .expect("writes");
    })
    .await;

    let claims = claim_all(&spool).await;
    assert_eq!(
        claims
            .iter()
            .map(|claim| claim.manifest.id)
            .collect::<Vec<_>>(),
        [good_id]
    );

    drop(claims);
    assert_eq!(spool.get(bad_id).await.expect("reads"), None);
    assert_eq!(quarantined_of(&spool), 1, "its bytes are kept");

    let stats = spool.stats(now()).await.expect("counts");
    assert_eq!((stats.quarantined, spool.pending()), (1, 1));
}

#[tokio::test]
async fn a_delivery_whose_record_cannot_be_read_is_dead_as_quarantined() {
    for recipients in [2, 20] {
        let bad = new_mail(recipients);
        let id = bad.manifest.id;
        let spool = opened_after(vec![bad], |store| {
            store
                .write(vec![(keys::delivery(id, 1), Some(vec![1, 255, 255]))])
                .expect("writes");
        })
        .await;
        let claims = claim_all(&spool).await;
        assert_eq!(
            claims
                .iter()
                .map(|claim| claim.deliveries.len())
                .sum::<usize>(),
            recipients - 1
        );
        drop(claims);
        assert_eq!(quarantined_of(&spool), 1);
        assert_eq!(spool.pending(), recipients as u64 - 1);
        let deliveries = spool
            .get(id)
            .await
            .expect("reads")
            .expect("the mail is there")
            .deliveries;
        let dead = deliveries.iter().filter(|delivery| {
            matches!(
                delivery.stage,
                Stage::Dead {
                    reason: DeadReason::Quarantined,
                    ..
                }
            )
        });
        // Whose it was is known as long as the mail's own record says so.
        assert_eq!(
            (dead.count(), deliveries.len()),
            if recipients == 2 { (1, 2) } else { (0, 19) }
        );
    }
}

#[tokio::test]
async fn a_mail_whose_message_is_not_whole_is_dead_as_quarantined() {
    let mut bad = new_mail(1);
    bad.body = Bytes::from(vec![b'x'; 10_000]);
    bad.manifest.size = 10_000;

    let id = bad.manifest.id;
    let spool = opened_after(vec![bad], |store| {
        store
            .write(vec![(keys::chunk(id, 1), None)])
            .expect("writes")
    })
    .await;

    assert_eq!(claim_all(&spool).await.len(), 0);
    let record = spool
        .get(id)
        .await
        .expect("reads")
        .expect("the mail is there");

    assert!(matches!(
        record.deliveries[0].stage,
        Stage::Dead {
            reason: DeadReason::Quarantined,
            ..
        }
    ));

    assert_eq!(
        (
            spool.stats(now()).await.expect("counts").quarantined,
            spool.pending()
        ),
        (1, 0)
    );
}

fn large(key: &str, fingerprint: u128) -> NewMail {
    let mut new_mail = new_mail(1);
    new_mail.body = Bytes::from(vec![b'x'; 5 * 1024 * 1024]);
    new_mail.manifest.size = new_mail.body.len() as u64;
    (
        new_mail.manifest.idempotency_key,
        new_mail.manifest.fingerprint,
    ) = (Some(key.into()), fingerprint);
    new_mail
}

fn chunks_of<S: Store>(spool: &KeyedSpool<S>) -> usize {
    keys_of_kind(spool, b"b")
}

async fn swept<S: Store>(spool: &KeyedSpool<S>, now: Timestamp) {
    while spool.sweep(now).await.expect("sweeps").more {}
}

#[tokio::test]
async fn the_parts_of_a_large_message_that_is_refused_are_removed_and_those_of_one_that_is_kept_are_not()
 {
    let spool = KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
    let first = large("order-42", 1);
    let id = first.manifest.id;
    assert_eq!(
        spool.put(vec![first.clone()]).await,
        [Ok(PutResult::Stored)]
    );

    let whole = chunks_of(&spool);
    assert_eq!(
        spool.put(vec![large("order-42", 2)]).await,
        [Err(SpoolError::KeyReused(id))]
    );

    assert_eq!(
        spool.put(vec![large("order-42", 1)]).await,
        [Ok(PutResult::Duplicate(id))]
    );

    assert_eq!(
        spool.put(vec![first.clone()]).await,
        [Ok(PutResult::Duplicate(id))]
    );

    assert_eq!(
        chunks_of(&spool),
        whole,
        "they were judged before anything was written"
    );

    // Two at once: neither is known when the other is judged.
    let (one, two) = tokio::join!(
        spool.put(vec![large("order-43", 1)]),
        spool.put(vec![large("order-43", 1)])
    );

    assert!(
        [&one[0], &two[0]]
            .iter()
            .filter(|put| ***put == Ok(PutResult::Stored))
            .count()
            == 1,
        "{one:?} {two:?}"
    );

    swept(&spool, now()).await;
    assert_eq!(chunks_of(&spool), 2 * whole);
    assert_eq!(spool.body(id).await.expect("reads"), Some(first.body));
}

#[tokio::test]
async fn a_large_message_is_removed_in_steps_after_its_mail() {
    let spool = KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
    let new_mail = large("order-42", 1);
    let id = new_mail.manifest.id;
    assert_eq!(spool.put(vec![new_mail]).await, [Ok(PutResult::Stored)]);
    assert!(matches!(
        spool.cancel(id, now()).await,
        Ok(OperationResult::Done(_))
    ));

    let all = chunks_of(&spool);
    assert!(matches!(
        spool.purge(id).await,
        Ok(OperationResult::Done(_))
    ));
    assert_eq!(spool.get(id).await.expect("reads"), None);

    let rest = chunks_of(&spool);
    assert!(0 < rest && rest < all, "{rest} of {all}");
    swept(&spool, now()).await;
    assert_eq!(chunks_of(&spool), 0);
}

#[tokio::test]
async fn what_was_written_of_a_large_message_before_a_kill_is_removed() {
    let id = MailId::generate();
    let spool = opened_after(Vec::new(), |store| {
        let chunks = (0..1000).map(|n| (keys::chunk(id, n), Some(vec![0; 10])));
        store
            .write(
                chunks
                    .chain([(keys::writing(id), Some(Vec::new()))])
                    .collect(),
            )
            .expect("writes");
    })
    .await;

    swept(&spool, now()).await;
    assert_eq!(chunks_of(&spool), 0);
}

fn keys_of_kind<S: Store>(spool: &KeyedSpool<S>, kind: &[u8]) -> usize {
    let mut count = 0;
    let (from, to) = keys::starting_with(kind);
    let visit = &mut |_: &[u8], _: &[u8]| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    };
    spool
        .shared
        .store
        .walk(&from, &to, Direction::Up, visit)
        .expect("walks");
    count
}

#[tokio::test]
async fn mails_that_expire_together_share_timers_and_each_is_ended_and_pruned() {
    // Few recipients: many mails in one step. Many: a step ends in the middle of a timer's list.
    for (mails, recipients, timers) in [(2500, 1, 80), (10, 700, 10)] {
        let spool =
            KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
        let put = spool
            .put((0..mails).map(|_| new_mail(recipients)).collect())
            .await;
        assert!(put.iter().all(|put| *put == Ok(PutResult::Stored)));
        assert!(
            keys_of_kind(&spool, b"t") <= timers,
            "they are many keys, and keys are what a commit costs"
        );
        let expiry = now() + Duration::from_secs(3600);
        assert!(
            !spool.is_sweep_due(Timestamp::from_millis(expiry.as_millis() - 1))
                && spool.is_sweep_due(expiry)
        );
        let (mut ended, mut steps) = (0, 0);
        loop {
            let swept = spool.sweep(expiry).await.expect("sweeps");
            (ended, steps) = (ended + swept.ended.len(), steps + 1);
            if !swept.more {
                break;
            }
        }
        assert_eq!((ended, spool.pending()), (mails * recipients, 0));
        assert!(steps > 1, "the writer is not held up");
        swept(&spool, expiry + SpoolOptions::default().retention).await;
        assert_eq!(
            (keys_of_kind(&spool, b"m"), keys_of_kind(&spool, b"t")),
            (0, 0)
        );
    }
}

/// All timers that are set.
fn timers_of<S: Store>(spool: &KeyedSpool<S>) -> Vec<Timer> {
    let mut timers = Vec::new();
    let (from, to) = keys::starting_with(b"t");
    let visit = &mut |key: &[u8], value: &[u8]| {
        timers.extend(keys::read_timers(key, value));
        ControlFlow::Continue(())
    };
    let store = &spool.shared.store;
    store.walk(&from, &to, Direction::Up, visit).expect("walks");
    timers
}

/// Delivers what can be claimed now.
async fn deliver_claimed(spool: &KeyedSpool<MemoryStore>) -> Vec<MailId> {
    let mut mails = Vec::new();
    for claim in claim_all(spool).await {
        mails.push(claim.manifest.id);
        let delivered = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
            delivery.stage = Stage::Delivered { at: now() };
            (lease, delivery)
        });
        spool.settle(delivered.collect()).await.expect("settles");
    }
    mails
}

#[tokio::test]
async fn mail_that_is_deleted_before_it_would_expire_leaves_no_timer_behind() {
    let options = SpoolOptions {
        retention: Duration::from_secs(60),
        keep_bodies: Duration::from_secs(20),
        ..SpoolOptions::default()
    };
    let spool = KeyedSpool::open(MemoryStore::default(), options).expect("empty");
    for put in spool.put((0..25).map(|_| new_mail(2)).collect()).await {
        assert_eq!(put, Ok(PutResult::Stored));
    }

    // Those that are delivered share their timers with those that wait.
    let delivered = deliver_claimed(&spool).await;
    assert!((1..25).contains(&delivered.len()), "{}", delivered.len());
    swept(&spool, now() + Duration::from_secs(20)).await;
    let of_delivered = |timer: &Timer| matches!(timer, Timer::Mail(id) if delivered.contains(id));
    assert!(timers_of(&spool).iter().any(of_delivered));

    swept(&spool, now() + Duration::from_secs(60)).await;
    let timers = timers_of(&spool);
    assert!(!timers.iter().any(of_delivered), "{timers:?}");
    assert_eq!(timers.len(), 25 - delivered.len());

    while !deliver_claimed(&spool).await.is_empty() {}
    swept(&spool, now() + Duration::from_secs(60)).await;
    assert_eq!(
        (keys_of_kind(&spool, b"m"), timers_of(&spool)),
        (0, Vec::new())
    );
}

#[tokio::test]
async fn mail_that_a_user_deletes_leaves_no_timer_behind() {
    let spool = KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
    let mails: Vec<NewMail> = (0..3).map(|_| new_mail(1)).collect();
    let ids: Vec<MailId> = mails.iter().map(|mail| mail.manifest.id).collect();
    for put in spool.put(mails).await {
        assert_eq!(put, Ok(PutResult::Stored));
    }

    for id in &ids[..2] {
        spool.cancel(*id, now()).await.expect("cancels");
        spool.purge(*id).await.expect("purges");
    }
    assert_eq!(timers_of(&spool), [Timer::Mail(ids[2])]);
}

#[tokio::test]
async fn a_timer_that_is_set_for_now_is_not_removed_with_one_that_was_due_now() {
    let options = SpoolOptions {
        retention: Duration::ZERO,
        ..SpoolOptions::default()
    };

    let spool = KeyedSpool::open(MemoryStore::default(), options).expect("empty");
    let put = new_mail(1);
    let (id, expiry) = (put.manifest.id, put.manifest.expires_at);
    assert_eq!(spool.put(vec![put]).await, [Ok(PutResult::Stored)]);

    // An earlier timer of the same mail: the first look sets another one for now, where the second
    // one stands.
    spool
        .shared
        .store
        .write(vec![(
            keys::timer(now(), Timer::Mail(id)).0,
            Some(Vec::new()),
        )])
        .expect("writes");
    swept(&spool, expiry).await;

    assert_eq!(
        spool.get(id).await.expect("reads"),
        None,
        "it has expired, and is pruned"
    );
}

/// A store whose disk fails, or is full, when a test says so.
#[derive(Clone, Default)]
struct Faulty {
    store: MemoryStore,
    broken: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
    /// The next walk panics, as sled does where a page is damaged.
    panics: Arc<AtomicBool>,
    /// No sync ends.
    stalled: Arc<AtomicBool>,
    /// Keys whose value is not given.
    withheld: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Once it is closed, the second part of a large message waits before it until it is opened.
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    /// How many parts have come.
    parts: AtomicUsize,
}

impl Gate {
    fn pass(&self) {
        let parts = self.parts.fetch_add(1, Ordering::SeqCst) + 1;
        while parts > 1 && self.closed.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
    }

    fn close(&self) {
        self.parts.store(0, Ordering::SeqCst);
        self.closed.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.closed.store(false, Ordering::SeqCst);
    }

    fn is_somebody_waiting(&self) -> bool {
        self.parts.load(Ordering::SeqCst) > 1
    }
}

impl Store for Faulty {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        if self.withheld.lock().iter().any(|withheld| withheld == key) {
            return Err(SpoolError::Unreadable("input/output error".into()));
        }
        self.store.get(key)
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        way: Direction,
        visit: Visitor<'_>,
    ) -> Result<(), SpoolError> {
        assert!(
            !self.panics.swap(false, Ordering::SeqCst),
            "a page is damaged"
        );
        self.store.walk(from, to, way, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        if batch
            .iter()
            .any(|(key, value)| key[0] == b'b' && value.is_some())
        {
            self.gate.pass();
        }
        self.store.write(batch)
    }

    fn flush(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SpoolError> {
        while self.stalled.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let reason = || SpoolError::Unwritable {
            path: "/var/spool".into(),
            reason: "input/output error".into(),
        };
        if self.broken.load(Ordering::SeqCst) {
            Err(reason())
        } else {
            Ok(())
        }
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        let full = || SpoolError::DiskFull {
            path: "/var/spool".into(),
            free: 0,
            needed: 1,
        };
        if self.full.load(Ordering::SeqCst) {
            Err(full())
        } else {
            Ok(())
        }
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn is_persistent(&self) -> bool {
        true
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_spool_that_cannot_sync_hands_nothing_out_and_still_reads_and_closes() {
    let store = Faulty::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    let kept = new_mail(1);
    let id = kept.manifest.id;

    assert_eq!(spool.put(vec![kept]).await, [Ok(PutResult::Stored)]);
    store.broken.store(true, Ordering::SeqCst);
    assert!(matches!(
        spool.put(vec![new_mail(1)]).await[0],
        Err(SpoolError::Unwritable { .. })
    ));
    store.broken.store(false, Ordering::SeqCst);

    assert!(
        matches!(
            spool.put(vec![new_mail(1)]).await[0],
            Err(SpoolError::Unwritable { .. })
        ),
        "it is not tried again"
    );

    assert!(
        spool.claim(request()).await.is_err(),
        "what became of it could not be recorded"
    );

    assert!(spool.get(id).await.expect("reads").is_some());
    spool.close().await.expect("closes");
    assert!(store.closed.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_is_not_on_disk_yet_is_not_published() {
    let store = Faulty::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    let mail = new_mail(1);
    let id = mail.manifest.id;

    assert_eq!(spool.put(vec![mail]).await, [Ok(PutResult::Stored)]);
    let claim = spool.claim(request()).await.expect("claims").remove(0);
    let delivered = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
        delivery.stage = Stage::Delivered { at: now() };
        (lease, delivery)
    });

    let told = *spool.journal().expect("it keeps one").last().borrow();
    store.stalled.store(true, Ordering::SeqCst);
    let mut settled = spool.settle(delivered.collect());
    while store
        .store
        .get(&keys::delivery(id, 0))
        .expect("reads")
        .is_none()
    {
        tokio::task::yield_now().await;
    }

    let moment = Duration::from_millis(50);
    let (query, journal) = (Query::default(), spool.journal().expect("it keeps one"));
    let read = tokio::time::timeout(moment, spool.get(id)).await;
    assert!(read.is_err(), "a status told of it");

    let listed = tokio::time::timeout(moment, spool.list(query.clone(), now())).await;
    assert!(listed.is_err(), "a list told of it");
    assert!(
        futures::poll!(&mut settled).is_pending(),
        "its sender was told"
    );
    assert_eq!(*journal.last().borrow(), told, "an event told of it");

    store.stalled.store(false, Ordering::SeqCst);
    assert_eq!(settled.await, Ok(vec![SettleResult::Done]));
    let record = spool.get(id).await.expect("reads").expect("it is there");
    assert!(matches!(
        record.deliveries[0].stage,
        Stage::Delivered { .. }
    ));
    assert_eq!(
        spool.list(query, now()).await.expect("lists").mails.len(),
        1
    );

    assert!(*journal.last().borrow() > told);
}

#[tokio::test]
async fn a_spool_that_syncs_now_and_then_does_so_though_nothing_more_comes() {
    let store = Faulty::default();
    let options = SpoolOptions {
        sync_interval: Some(Duration::from_millis(10)),
        ..SpoolOptions::default()
    };

    let spool = KeyedSpool::open(store.clone(), options).expect("empty");
    store.broken.store(true, Ordering::SeqCst);
    assert_eq!(
        spool.put(vec![new_mail(1)]).await,
        [Ok(PutResult::Stored)],
        "it is written, and not yet synced"
    );

    let begun = std::time::Instant::now();
    while spool.failure().is_none() {
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "it never synced, or does not say that it failed"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_full_disk_takes_no_part_of_a_large_message_and_what_is_kept_is_handed_out() {
    let store = Faulty::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    assert_eq!(spool.put(vec![new_mail(1)]).await, [Ok(PutResult::Stored)]);
    store.full.store(true, Ordering::SeqCst);

    for refused in [large("order-42", 1), new_mail(1)] {
        assert!(matches!(
            spool.put(vec![refused]).await[0],
            Err(SpoolError::DiskFull { .. })
        ));
    }

    let (from, to) = keys::starting_with(b"b");
    let nothing = &mut |_: &[u8], _: &[u8]| panic!("a part of it is there");
    store
        .store
        .walk(&from, &to, Direction::Up, nothing)
        .expect("walks");

    assert_eq!(
        spool
            .claim(request())
            .await
            .expect("delivery goes on")
            .len(),
        1
    );

    store.full.store(false, Ordering::SeqCst);
    assert_eq!(
        spool.put(vec![new_mail(1)]).await,
        [Ok(PutResult::Stored)],
        "accepting goes on by itself"
    );
}

/// A put of a large message of which one part is written, and the next waits to be.
async fn half_put(
    spool: &KeyedSpool<Faulty>,
    new_mail: NewMail,
) -> BoxFuture<'_, Vec<Result<PutResult, SpoolError>>> {
    let gate = &spool.shared.store.gate;
    gate.close();
    let mut put = spool.put(vec![new_mail]);
    while !gate.is_somebody_waiting() {
        assert!(futures::poll!(&mut put).is_pending());
        tokio::task::yield_now().await;
    }
    put
}

/// Everything that was asked before is done, and what is due is looked at.
async fn settled(spool: &KeyedSpool<Faulty>) {
    assert_eq!(
        spool.cancel(MailId::generate(), now()).await,
        Ok(OperationResult::Unknown)
    );
    swept(spool, now()).await;
}

#[tokio::test]
async fn the_parts_of_a_large_message_that_is_given_up_are_removed() {
    let store = Faulty::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    drop(half_put(&spool, large("order-42", 1)).await);
    store.gate.open();
    settled(&spool).await;

    assert_eq!(
        (chunks_of(&spool), keys_of_kind(&spool, b"w")),
        (0, 0),
        "its caller timed out"
    );

    let put = half_put(&spool, large("order-42", 1)).await;
    store.full.store(true, Ordering::SeqCst);
    store.gate.open();
    assert!(matches!(put.await[0], Err(SpoolError::DiskFull { .. })));
    settled(&spool).await;

    assert_eq!(
        (chunks_of(&spool), keys_of_kind(&spool, b"w")),
        (0, 0),
        "the disk was full half-way"
    );
}

#[tokio::test]
async fn a_large_message_that_is_put_twice_and_given_up_once_is_not_stored_with_holes() {
    let store = Faulty::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    let mail = large("order-42", 1);
    let put = half_put(&spool, mail.clone()).await;

    drop(EarlyParts::new(mail.manifest.id, &spool.commands));
    store.gate.open();
    settled(&spool).await;

    let put = put.await.remove(0);
    assert!(
        matches!(&put, Err(SpoolError::Unreadable(why)) if why.contains("submit it again")),
        "{put:?}"
    );

    assert_eq!(spool.put(vec![mail.clone()]).await, [Ok(PutResult::Stored)]);
    settled(&spool).await;
    assert_eq!(
        spool.body(mail.manifest.id).await.expect("reads"),
        Some(mail.body)
    );
}

#[tokio::test]
async fn a_mail_of_which_a_record_cannot_be_read_is_never_deleted_and_is_looked_at_again() {
    let bad = new_mail(1);
    let (id, expiry) = (bad.manifest.id, bad.manifest.expires_at);
    let damaged = (keys::delivery(id, 0), Some(vec![1, 255, 255]));
    let spool = opened_after(vec![bad], |store| {
        store.write(vec![damaged.clone()]).expect("writes")
    })
    .await;

    let long_after = expiry + SpoolOptions::default().retention + Duration::from_secs(7200);
    for _ in 0..2 {
        swept(&spool, long_after).await;
        assert!(matches!(
            spool.purge(id).await,
            Err(SpoolError::Unreadable(_))
        ));
        assert_eq!(
            spool.shared.store.get(&damaged.0).expect("reads"),
            damaged.1,
            "its bytes are where they were"
        );
        assert_eq!(keys_of_kind(&spool, b"t"), 1, "it is looked at again");
    }

    spool
        .shared
        .store
        .write(vec![(damaged.0, None)])
        .expect("writes");
    swept(&spool, long_after + Duration::from_secs(3600)).await;

    swept(
        &spool,
        long_after + SpoolOptions::default().retention + Duration::from_secs(7200),
    )
    .await;

    assert_eq!(
        spool.get(id).await.expect("reads"),
        None,
        "it could be read again, has expired, and was pruned"
    );
}

#[tokio::test]
async fn a_mail_that_could_not_be_read_once_keeps_its_timer_and_its_key() {
    let options = SpoolOptions {
        idempotency_ttl: Duration::from_secs(60),
        ..SpoolOptions::default()
    };

    let spool = KeyedSpool::open(MemoryStore::default(), options).expect("empty");
    let mut put = new_mail(1);
    put.manifest.idempotency_key = Some("order-42".into());
    let (id, expiry) = (put.manifest.id, put.manifest.expires_at);

    assert_eq!(spool.put(vec![put.clone()]).await, [Ok(PutResult::Stored)]);
    let record = spool.shared.store.get(&keys::manifest(id)).expect("reads");
    spool
        .shared
        .store
        .write(vec![(keys::manifest(id), Some(vec![9]))])
        .expect("writes");
    swept(&spool, now() + Duration::from_secs(120)).await;
    swept(&spool, expiry).await;

    spool
        .shared
        .store
        .write(vec![(keys::manifest(id), record)])
        .expect("writes");
    put.manifest.id = MailId::generate();

    assert_eq!(spool.put(vec![put]).await, [Ok(PutResult::Duplicate(id))]);
    swept(&spool, expiry + Duration::from_secs(3600)).await;
    assert_eq!(spool.pending(), 0, "it has expired after all");
}

#[tokio::test]
async fn a_mail_that_may_have_been_sent_once_is_in_doubt_whatever_ends_it() {
    for cancels in [false, true] {
        let spool =
            KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
        let mut put = new_mail(1);
        put.manifest.guarantee = Guarantee::AtMostOnce;
        let (id, expiry) = (put.manifest.id, put.manifest.expires_at);
        assert_eq!(spool.put(vec![put]).await, [Ok(PutResult::Stored)]);
        let claims = claim_all(&spool).await;
        let tokens = claims[0]
            .deliveries
            .iter()
            .map(|(lease, _)| lease.token())
            .collect();
        spool.mark(tokens).await.expect("marks");
        drop(claims);
        if cancels {
            assert_eq!(spool.cancel(id, now()).await, Ok(OperationResult::TooLate));
        } else {
            let swept = spool.sweep(expiry).await.expect("sweeps");
            assert_eq!(
                swept
                    .ended
                    .iter()
                    .map(|ended| ended.reason)
                    .collect::<Vec<_>>(),
                [DeadReason::InDoubt]
            );
        }
        let record = spool.get(id).await.expect("reads").expect("it is there");
        assert!(matches!(
            record.deliveries[0].stage,
            Stage::Dead {
                reason: DeadReason::InDoubt,
                ..
            }
        ));
        assert_eq!((spool.pending(), keys_of_kind(&spool, b"a")), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_damaged_when_a_queue_is_read_does_not_stop_it_for_ever() {
    let store = Faulty::default();
    let before = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");

    let mails = super::queue_head::REFILL_PLACES + 10;
    let put = before.put((0..mails).map(|_| new_mail(1)).collect()).await;
    assert!(put.iter().all(|put| *put == Ok(PutResult::Stored)));
    drop(before);

    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("opens");
    let all = || ClaimRequest {
        turns: vec![Priority::Default; mails],
        ..request()
    };

    let first = spool.claim(all()).await.expect("what opening has read");
    assert_eq!(first.len(), super::queue_head::REFILL_PLACES);
    store.panics.store(true, Ordering::SeqCst);

    let claimed = spool.claim(all()).await.expect("other queues go on");
    assert!(claimed.is_empty());
    let claimed = spool.claim(all()).await.expect("claims");
    assert!(claimed.is_empty(), "it is left alone for a while");
    tokio::time::sleep(Duration::from_secs(2)).await;

    assert_eq!(spool.claim(all()).await.expect("claims").len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_mail_that_the_disk_does_not_give_now_is_sent_later_and_its_neighbours_at_once() {
    let disk = Faulty::default();
    let before = KeyedSpool::open(disk.clone(), SpoolOptions::default()).expect("opens");
    let (kept_back, neighbour) = (new_mail(1), new_mail(1));
    let (id, neighbours) = (kept_back.manifest.id, neighbour.manifest.id);

    before.put(vec![kept_back, neighbour]).await;
    before.close().await.expect("closes");
    disk.closed.store(false, Ordering::SeqCst);
    let spool = KeyedSpool::open(disk.clone(), SpoolOptions::default()).expect("opens");

    disk.withheld.lock().push(keys::manifest(id));
    for expected in [vec![neighbours], vec![]] {
        let claims = spool
            .claim(request())
            .await
            .expect("one mail does not stop the others");
        assert_eq!(
            claims
                .iter()
                .map(|claim| claim.manifest.id)
                .collect::<Vec<_>>(),
            expected
        );
        for (lease, _) in claims.into_iter().flat_map(|claim| claim.deliveries) {
            let _ = lease.spend();
        }
    }

    // Looked at here, because paused time runs on while somebody waits for the writer's thread.
    assert_eq!(
        spool.shared.queues.lock().leases().count(),
        2,
        "nor is the disk asked for it again and again"
    );

    disk.withheld.lock().clear();
    tokio::time::sleep(REREAD_AFTER + Duration::from_secs(1)).await;
    let claims = spool.claim(request()).await.expect("claims");
    assert_eq!(
        claims
            .iter()
            .map(|claim| claim.manifest.id)
            .collect::<Vec<_>>(),
        [id]
    );
}

#[tokio::test]
async fn what_ended_without_a_request_is_reported_by_the_next_sweep() {
    let bad = new_mail(2);
    let id = bad.manifest.id;
    let spool = opened_after(vec![bad], |store| {
        store
            .write(vec![(keys::delivery(id, 1), Some(vec![1, 255, 255]))])
            .expect("writes");
    })
    .await;

    drop(claim_all(&spool).await);
    assert!(spool.is_sweep_due(now()));
    let ended = spool.sweep(now()).await.expect("sweeps").ended;

    let recipient = Address::parse("user1@example.org").expect("valid");
    assert_eq!(
        ended,
        [EndedDelivery {
            mail: id,
            recipient,
            reason: DeadReason::Quarantined
        }]
    );

    assert!(spool.sweep(now()).await.expect("sweeps").ended.is_empty());
}

#[tokio::test]
async fn a_mail_that_the_disk_does_not_give_still_expires_and_who_asked_for_mail_asks_again() {
    let disk = Faulty::default();
    let before = KeyedSpool::open(disk.clone(), SpoolOptions::default()).expect("opens");
    let mut long = new_mail(1);
    long.body = Bytes::from(vec![b'x'; 10_000]);
    long.manifest.size = 10_000;

    let (id, expires_at) = (long.manifest.id, long.manifest.expires_at);
    before.put(vec![long]).await;
    before.close().await.expect("closes");
    disk.closed.store(false, Ordering::SeqCst);

    let spool = KeyedSpool::open(disk.clone(), SpoolOptions::default()).expect("opens");
    disk.withheld.lock().push(keys::chunk(id, 1));
    let _ = tokio::time::timeout(Duration::from_millis(1), spool.changed().notified()).await;
    assert!(spool.claim(request()).await.expect("claims").is_empty());

    let notified = tokio::time::timeout(Duration::from_millis(1), spool.changed().notified()).await;
    assert!(notified.is_ok(), "there may be more behind it");
    let ended = spool.sweep(expires_at).await.expect("sweeps").ended;
    assert_eq!(
        ended
            .iter()
            .map(|ended| (ended.mail, ended.reason))
            .collect::<Vec<_>>(),
        [(id, DeadReason::Expired)]
    );
}

#[tokio::test]
async fn keys_of_a_spool_that_had_no_secret_still_hold_for_whose_they_are() {
    let mut first = new_mail(1);
    first.manifest.idempotency_key = Some("bare".into());
    let mut second = new_mail(1);
    second.manifest.idempotency_key = Some("own".into());
    second.manifest.submitter = Some(Submitter::token("app"));

    let (bare, own) = (first.manifest.id, second.manifest.id);
    let spool = opened_after(vec![first.clone(), second.clone()], |store| {
        let (hash, _) = KeyHash::of_spool(store).expect("has one");
        let mut batch = vec![(keys::SECRET.to_vec(), None)];
        for (mail, old) in [(&first, "bare"), (&second, "token:app\0own")] {
            let key = keys::idempotency(hash.of(&mail.manifest).expect("a key"));
            let record = store.get(&key).expect("reads");
            batch.push((key, None));
            batch.push((keys::idempotency(keys::old_hash_of(old)), record));
        }
        store.write(batch).expect("writes");
    })
    .await;

    let put = async |submitter: Submitter, key: &str, fingerprint| {
        let mut again = new_mail(1);
        again.manifest.idempotency_key = Some(key.into());
        again.manifest.submitter = Some(submitter);
        again.manifest.fingerprint = fingerprint;
        spool.put(vec![again]).await.remove(0)
    };

    let app = || Submitter::token("app");
    let duplicate = |id| Ok(PutResult::Duplicate(id));
    assert_eq!(put(Submitter::Local, "bare", 0).await, duplicate(bare));
    assert_eq!(put(app(), "own", 0).await, duplicate(own));

    assert_eq!(
        put(app(), "own", 1).await,
        Err(SpoolError::KeyReused(own)),
        "for other content"
    );

    let stranger = || Submitter::token("other");
    for key in ["bare", "own"] {
        assert_eq!(
            put(stranger(), key, 0).await,
            Ok(PutResult::Stored),
            "{key}"
        );
    }

    assert_eq!(put(Submitter::Local, "own", 0).await, Ok(PutResult::Stored));
}

#[tokio::test]
async fn what_each_token_and_user_has_pending_is_counted_through_a_mails_life() {
    let store = MemoryStore::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    let [app, other] = [Submitter::token("app"), Submitter::user("app")];
    let of = |submitter: &Submitter, recipients| {
        let mut put = new_mail(recipients);
        put.manifest.submitter = Some(submitter.clone());
        put
    };

    let (cancelled, expiring) = (of(&app, 3), of(&other, 2000));
    let (id, expiry) = (cancelled.manifest.id, expiring.manifest.expires_at);
    for put in [cancelled, expiring, of(&Submitter::Local, 1)] {
        assert_eq!(spool.put(vec![put]).await, [Ok(PutResult::Stored)]);
    }

    let counted = |spool: &KeyedSpool<MemoryStore>| {
        [&app, &other, &Submitter::Local].map(|submitter| spool.pending_of(submitter))
    };
    assert_eq!(counted(&spool), [3, 2000, 0]);
    assert_eq!(spool.accepted_on(&app, now().day()), 3);

    spool.cancel(id, now()).await.expect("cancels");
    assert_eq!(counted(&spool), [0, 2000, 0]);
    let lifetime = Duration::from_secs(1);
    spool.retry(id, now(), lifetime).await.expect("retries");

    assert_eq!(counted(&spool), [3, 2000, 0]);
    let problems = super::inspect::walk(&spool.shared.store, &mut |_| Ok(())).expect("reads");
    assert_eq!(problems, Vec::<String>::new());
    spool.close().await.expect("closes");

    let spool = KeyedSpool::open(store, SpoolOptions::default()).expect("opens again");
    assert_eq!(counted(&spool), [3, 2000, 0], "as before the restart");
    assert_eq!(
        spool.accepted_on(&app, now().day()),
        3,
        "a retry is no new mail"
    );

    assert_eq!(spool.accepted_on(&other, now().day()), 2000);
    assert_eq!(spool.accepted_on(&other, now().day() + 1), 0);
    for claim in claim_all(&spool).await {
        let settled = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
            delivery.stage = Stage::Delivered { at: now() };
            (lease, delivery)
        });
        spool.settle(settled.collect()).await.expect("settles");
    }

    assert_eq!(counted(&spool), [0, 1100, 0], "ten turns were sent");
    swept(&spool, expiry).await;
    assert_eq!(counted(&spool), [0, 0, 0]);

    let problems = super::inspect::walk(&spool.shared.store, &mut |_| Ok(())).expect("reads");
    assert_eq!(problems, Vec::<String>::new());
}

#[tokio::test]
async fn a_mail_of_any_number_of_recipients_is_kept() {
    let spool = KeyedSpool::open(MemoryStore::default(), SpoolOptions::default()).expect("empty");
    for recipients in [1, 8, 9, 1000, 1500, 2000, 3000, 4000, 5000, 10_000] {
        let put = new_mail(recipients);
        assert_eq!(
            spool.put(vec![put]).await,
            [Ok(PutResult::Stored)],
            "{recipients}"
        );
    }
    assert_eq!(spool.pending(), 26_518);
}

#[tokio::test]
async fn what_changes_nothing_notifies_nobody() {
    let sent = new_mail(1);
    let id = sent.manifest.id;
    let spool = opened_after(vec![sent], |_| ()).await;
    let claims = claim_all(&spool).await;
    let stale = LeaseToken {
        serial: u64::MAX,
        ..claims[0].deliveries[0].0.token()
    };

    // What was told before is not waited for.
    let _ = spool.changed().notified().now_or_never();
    let mut told = std::pin::pin!(spool.changed().notified());
    told.as_mut().enable();

    for _ in 0..50 {
        let cancelled = spool.cancel(id, now()).await;
        assert_eq!(cancelled, Ok(OperationResult::TooLate));
    }
    spool
        .mark(vec![stale])
        .await
        .expect_err("it is not current");
    spool.sweep(now()).await.expect("there is nothing");
    assert!(claim_all(&spool).await.is_empty());
    assert!(told.as_mut().now_or_never().is_none(), "nothing changed");

    drop(claims);
    let cancelled = spool.cancel(id, now()).await;
    assert!(matches!(cancelled, Ok(OperationResult::Done(_))));
    assert!(told.now_or_never().is_some(), "and now something has");
}
