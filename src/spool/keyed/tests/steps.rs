//! What is written is weighed: whatever is done to mail with many recipients, no commit is heavy,
//! and a spool that is closed between two steps goes on with the next.

use super::*;
use crate::delivery::{Attempt, Outcome, Phase, Reply};
use crate::spool::keyed::changes::{COMMIT_BYTES, KEY_BYTES};

/// More than one step holds, whatever is done.
const MANY: usize = 6000;

/// A store in memory that knows its heaviest commit.
#[derive(Clone, Default)]
struct Scales {
    store: MemoryStore,
    heaviest: Arc<AtomicUsize>,
    /// So many more commits are taken.
    left: Arc<AtomicUsize>,
}

impl Scales {
    fn new() -> Self {
        let scales = Scales::default();
        scales.left.store(usize::MAX, Ordering::SeqCst);
        scales
    }

    /// The bytes of the heaviest commit since this was last asked.
    fn heaviest(&self) -> usize {
        self.heaviest.swap(0, Ordering::SeqCst)
    }
}

impl Store for Scales {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        self.store.get(key)
    }

    fn walk(
        &self,
        from: &[u8],
        to: &[u8],
        way: Direction,
        visit: Visitor<'_>,
    ) -> Result<(), SpoolError> {
        self.store.walk(from, to, way, visit)
    }

    fn write(&self, batch: Batch) -> Result<(), SpoolError> {
        let weigh = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len) + KEY_BYTES
        };
        let weight = batch.iter().map(weigh).sum();
        self.heaviest.fetch_max(weight, Ordering::SeqCst);
        let take = |left: usize| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .map_err(|_| SpoolError::Closed)?;
        self.store.write(batch)
    }

    fn flush(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn sync(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn has_room(&self) -> Result<(), SpoolError> {
        Ok(())
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn is_persistent(&self) -> bool {
        false
    }
}

fn open(scales: &Scales) -> KeyedSpool<Scales> {
    KeyedSpool::open(scales.clone(), SpoolOptions::default()).expect("opens")
}

fn assert_sound(spool: &KeyedSpool<Scales>) {
    let problems = inspect::walk(&spool.shared.store, &mut |_| Ok(())).expect("walks");
    assert_eq!(problems, Vec::<String>::new());
}

fn assert_light(scales: &Scales, what: &str) {
    let heaviest = scales.heaviest();
    assert!(heaviest > 0, "{what}: nothing was written");
    assert!(
        heaviest <= COMMIT_BYTES / 2,
        "{what}: a commit of {heaviest} bytes"
    );
}

/// Gives each delivery the attempts that it remembers, each with a long reply, and has it wait for
/// `due`.
async fn fail_all(spool: &KeyedSpool<Scales>, due: Timestamp) {
    let reply = Reply::new(451, &"x".repeat(400));
    let outcome = Outcome::Deferred(Phase::RcptTo, reply);
    loop {
        let claims = spool.claim(request()).await.expect("claims");
        if claims.is_empty() {
            return;
        }
        let deliveries = claims.into_iter().flat_map(|claim| claim.deliveries);
        let settled = deliveries.map(|(lease, mut delivery)| {
            delivery.tries = 20;
            delivery.attempts = vec![Attempt::new(now(), "primary", None, &outcome); 20];
            delivery.stage = Stage::Pending { due };
            (lease, delivery)
        });
        let settled = spool.settle(settled.collect()).await.expect("settles");
        assert!(settled.iter().all(|done| *done == SettleResult::Done));
    }
}

fn after(seconds: u64) -> Timestamp {
    now() + Duration::from_secs(seconds)
}

async fn counted(spool: &KeyedSpool<Scales>, state: crate::delivery::State) -> u64 {
    let stats = spool.stats(now()).await.expect("counts");
    stats.counts.in_state(state)
}

#[tokio::test]
async fn whatever_is_done_to_mail_with_many_recipients_no_commit_is_heavy() {
    use crate::delivery::State;
    let scales = Scales::new();
    let spool = open(&scales);
    let new_mail = new_mail(MANY);
    let id = new_mail.manifest.id;

    assert_eq!(spool.put(vec![new_mail]).await, [Ok(PutResult::Stored)]);
    assert_light(&scales, "accept");
    assert_eq!(counted(&spool, State::Queued).await, MANY as u64);
    fail_all(&spool, after(60)).await;

    assert_light(&scales, "settle");
    assert_eq!(counted(&spool, State::Deferred).await, MANY as u64);

    let known = vec![Route::over(["other"])];
    let mut moved = 0;
    loop {
        let step = spool.reroute(known.clone(), known[0].clone()).await;
        match step.expect("moves") {
            0 => break,
            step => moved += step,
        }
    }

    assert_eq!(moved, MANY);
    assert_light(&scales, "reroute");

    let cancelled = spool.cancel(id, now()).await.expect("cancels");
    assert!(matches!(cancelled, OperationResult::Done(all) if all.len() == MANY));
    assert_light(&scales, "cancel");
    assert_eq!(counted(&spool, State::Cancelled).await, MANY as u64);

    let retried = spool.retry(id, now(), Duration::from_secs(60)).await;
    assert!(matches!(retried, Ok(OperationResult::Done(all)) if all.len() == MANY));
    assert_light(&scales, "retry");
    assert_eq!(counted(&spool, State::Queued).await, MANY as u64);
    assert_sound(&spool);

    let expiry = after(3600);
    let mut ended = 0;
    loop {
        let swept = spool.sweep(expiry).await.expect("sweeps");
        ended += swept.ended.len();
        if !swept.more {
            break;
        }
    }

    assert_eq!(ended, MANY);
    assert_light(&scales, "expiry");
    assert_eq!(counted(&spool, State::Dead).await, MANY as u64);
    assert_sound(&spool);

    let purged = spool.purge(id).await.expect("purges");
    assert!(matches!(purged, OperationResult::Done(all) if all.len() == MANY));
    assert_eq!(spool.get(id).await.expect("reads"), None);
    assert_eq!(counted(&spool, State::Dead).await, 0);
    swept(&spool, expiry).await;

    assert_light(&scales, "purge");
    for kind in [b"m", b"d", b"x", b"u"] {
        assert_eq!(keys_of_kind(&spool, kind), 0, "{}", kind.escape_ascii());
    }

    assert_sound(&spool);
}

#[tokio::test]
async fn a_spool_that_is_closed_while_recipients_are_queued_queues_the_rest_when_it_is_opened() {
    // How many commits it takes is found out; then it is broken off after each number of them.
    let scales = Scales::new();

    let spool = open(&scales);
    let put = spool.put(vec![new_mail(MANY)]).await;
    assert_eq!(put, [Ok(PutResult::Stored)]);
    let taken = usize::MAX - scales.left.load(Ordering::SeqCst);

    drop(spool);
    assert!(taken > 4);

    let (mut lost, mut kept) = (0, 0);
    for commits in 0..taken {
        let scales = Scales::new();
        let spool = open(&scales);
        scales.left.store(commits, Ordering::SeqCst);
        let put = spool.put(vec![new_mail(MANY)]).await;
        drop(spool);
        scales.left.store(usize::MAX, Ordering::SeqCst);
        let spool = open(&scales);
        assert_sound(&spool);
        let pending = usize::try_from(spool.pending()).expect("few");
        if put == [Ok(PutResult::Stored)] {
            kept += 1;
            assert_eq!(pending, MANY, "broken off after {commits} commits");
        } else {
            lost += 1;
            assert_eq!(pending, 0, "broken off after {commits} commits");
            swept(&spool, now()).await;
            assert_eq!(keys_of_kind(&spool, b"d"), 0, "and nothing of it stays");
        }
    }

    assert!(lost > 1 && kept > 1, "{lost} {kept}");
}

#[tokio::test]
async fn a_spool_of_an_older_version_is_read_and_its_queues_get_short_names() {
    let scales = Scales::new();
    let spool = open(&scales);
    let long = (0..200).map(|n| format!("relay-{n}")).collect::<Vec<_>>();
    let long = Route::over(long.iter().map(String::as_str));

    let mut mails = vec![new_mail(2), new_mail(1), new_mail(30)];
    mails[1].deliveries[0].route = long.clone();
    for put in spool.put(mails).await {
        assert_eq!(put, Ok(PutResult::Stored));
    }

    let before = spool.stats(now()).await.expect("counts");
    spool.close().await.expect("closes");

    // As it was before: the route in the key, no names and no counts.
    let mut old = Vec::new();
    for (id, route) in reader::routes(&scales).expect("reads") {
        let places = reader::all_keys(&scales, &keys::route_prefix(id), usize::MAX).expect("reads");
        for key in places {
            let read = keys::read_queue(&key).expect("a queue's key");
            let value = scales.get(&key).expect("reads");
            old.push((keys::old_queue(&route, read.priority, &read.place), value));
            old.push((key, None));
        }
        old.push((keys::route(id), None));
        old.extend(Priority::ALL.map(|priority| (keys::count(id, priority), None)));
    }

    scales.write(old).expect("writes");
    let problems = inspect::walk(&scales, &mut |_| Ok(())).expect("walks");
    assert_eq!(problems, Vec::<String>::new(), "it is sound as it is");

    let spool = open(&scales);
    assert_eq!(keys_of_kind(&spool, b"q"), 0);
    assert_sound(&spool);

    let stats = spool.stats(now()).await.expect("counts");
    assert_eq!(
        (stats.counts, stats.backlog),
        (before.counts, before.backlog)
    );

    let routes = vec![long, Route::over(["primary"])];
    let request = ClaimRequest {
        routes,
        ..request()
    };

    let claims = spool.claim(request).await.expect("claims");
    let claimed: usize = claims.iter().map(|claim| claim.deliveries.len()).sum();
    assert_eq!(claimed, 33);
}

#[tokio::test]
async fn a_queue_whose_name_is_lost_is_named_by_what_waits_in_it() {
    let scales = Scales::new();
    let spool = open(&scales);
    let put = spool.put(vec![new_mail(3)]).await;
    assert_eq!(put, [Ok(PutResult::Stored)]);
    spool.close().await.expect("closes");

    for (id, _) in reader::routes(&scales).expect("reads") {
        let lost = vec![
            (keys::route(id), None),
            (keys::count(id, Priority::Default), Some(vec![9])),
        ];
        scales.write(lost).expect("writes");
    }

    let spool = open(&scales);
    let claims = spool.claim(request()).await.expect("claims");
    assert_eq!(claims[0].deliveries.len(), 3);
    assert_eq!(counted(&spool, crate::delivery::State::Sending).await, 3);
}

#[tokio::test]
async fn what_waits_is_counted_as_the_clock_goes_forward_and_back() {
    use crate::delivery::State;
    let scales = Scales::new();
    let spool = open(&scales);

    let mut mails: Vec<NewMail> = (0..50).map(|_| new_mail(1)).collect();
    for (second, mail) in (0..).zip(&mut mails) {
        mail.deliveries[0].stage = Stage::Pending { due: after(second) };
    }

    let _ = spool.put(mails).await;
    for second in [10, 3, 49, 0, 70, 25, 25] {
        let stats = spool.stats(after(second)).await.expect("counts");
        let due = (second + 1).min(50);
        let of = |state: State| stats.counts.in_state(state);
        assert_eq!(
            (of(State::Queued), of(State::Scheduled)),
            (due, 50 - due),
            "after {second} s"
        );
        assert_eq!(stats.oldest_due, Some(now()));
    }

    // It counts on over a restart.
    drop(spool);

    let spool = open(&scales);
    let stats = spool.stats(after(9)).await.expect("counts");
    assert_eq!(stats.counts.in_state(State::Queued), 10);
}

#[tokio::test]
async fn a_lease_that_is_not_current_marks_nothing() {
    let scales = Scales::new();
    let spool = open(&scales);
    let _ = spool.put(vec![new_mail(2)]).await;
    let claim = spool.claim(request()).await.expect("claims").remove(0);
    let tokens: Vec<LeaseToken> = claim
        .deliveries
        .iter()
        .map(|(lease, _)| lease.token())
        .collect();
    drop(claim);
    assert_eq!(spool.mark(tokens).await, Err(SpoolError::StaleLease));
    assert_eq!(keys_of_kind(&spool, b"a"), 0);
}
