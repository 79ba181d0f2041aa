//! What the checks share: sample mails, short forms of the verbs, and the audit of the counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::Bench;
use crate::delivery::{Attempt, DeadReason, Delivery, Phase, Route, Stage, State, TlsUse};
use crate::mail::{Address, Guarantee, MailId, Priority, Timestamp, hours};
use crate::spool::{
    Claim, ClaimRequest, DeliveryCounts, Lease, LeaseKeeper, LeaseToken, Manifest, NewMail,
    PutResult, Query, Record, SettleResult, Spool, SpoolOptions, SweepReport,
};

/// The longest that anything is waited for.
pub const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// When every check begins.
pub fn start() -> Timestamp {
    Timestamp::from_millis(1_900_000_000_000)
}

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Short enough to tell their ends apart: a key is forgotten first, then the mail.
pub fn options() -> SpoolOptions {
    SpoolOptions {
        retention: hours(4),
        idempotency_ttl: hours(2),
        ..SpoolOptions::default()
    }
}

pub async fn open(bench: &dyn Bench, store: &str) -> Arc<dyn Spool> {
    open_with(bench, store, options()).await
}

pub async fn open_with(bench: &dyn Bench, store: &str, options: SpoolOptions) -> Arc<dyn Spool> {
    bench.open(store, options).await.expect("the store opens")
}

/// A mail to be put; what matters to a check is set by it, the rest is as here.
#[derive(Clone)]
pub struct Draft {
    pub accepted_at: Timestamp,
    pub due: Timestamp,
    pub expires_at: Timestamp,
    pub priority: Priority,
    pub guarantee: Guarantee,
    pub to: Vec<(String, &'static str)>,
    pub body: Bytes,
    pub key: Option<&'static str>,
    pub fingerprint: u128,
    pub tags: Vec<&'static str>,
}

/// A mail for one recipient that is due at once and lives for a day.
pub fn draft() -> Draft {
    Draft {
        accepted_at: start(),
        due: start(),
        expires_at: start() + hours(24),
        priority: Priority::Default,
        guarantee: Guarantee::AtLeastOnce,
        to: vec![("ada@example.org".into(), "primary")],
        body: Bytes::from_static(b"Subject: a sample\r\n\r\nHello.\r\n"),
        key: None,
        fingerprint: 1,
        tags: Vec::new(),
    }
}

/// As many recipients on one route.
pub fn crowd(count: usize, route: &'static str) -> Vec<(String, &'static str)> {
    (0..count)
        .map(|n| (format!("r{n}@example.org"), route))
        .collect()
}

impl Draft {
    pub fn new_mail(self) -> NewMail {
        let deliveries: Vec<Delivery> = self
            .to
            .iter()
            .map(|(to, route)| Delivery::new(address(to), Route::over([*route]), self.due))
            .collect();

        let id = MailId::generate();
        let manifest = Manifest {
            id,
            accepted_at: self.accepted_at,
            expires_at: self.expires_at,
            return_path: Some(address("shop@example.com")),
            message_id: format!("<{id}@example.com>"),
            subject: "a sample".into(),
            priority: self.priority,
            guarantee: self.guarantee,
            tags: self.tags.into_iter().map(str::to_owned).collect(),
            idempotency_key: self.key.map(str::to_owned),
            fingerprint: self.fingerprint,
            size: self.body.len() as u64,
            recipients: u16::try_from(deliveries.len()).expect("few enough"),
            eight_bit: false,
            smtputf8: false,
            submitter: None,
            mended: Vec::new(),
            template: None,
            list: None,
        };

        NewMail {
            manifest,
            body: self.body,
            deliveries,
        }
    }
}

pub fn address(text: &str) -> Address {
    text.parse().expect("a valid address")
}

/// Bytes that differ from place to place, so that chunks that are lost or swapped are noticed.
pub fn noise(len: usize) -> Bytes {
    let mut state = len as u64 | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Puts one mail that must be new.
pub async fn put(spool: &dyn Spool, draft: Draft) -> MailId {
    put_all(spool, vec![draft.new_mail()]).await[0]
}

/// Puts a group of mails that must all be new.
pub async fn put_all(spool: &dyn Spool, new_mails: Vec<NewMail>) -> Vec<MailId> {
    let ids: Vec<MailId> = new_mails.iter().map(|p| p.manifest.id).collect();
    for result in spool.put(new_mails).await {
        assert_eq!(
            result,
            Ok(PutResult::Stored),
            "a mail without a known key is stored"
        );
    }
    ids
}

/// A request for so many mails, whatever their priority and bytes.
pub fn request(mails: usize, now: Timestamp) -> ClaimRequest {
    ClaimRequest {
        routes: vec![Route::over(["primary"]), Route::over(["backup"])],
        turns: vec![Priority::Default; mails],
        critical_only: 0,
        max_bytes: usize::MAX,
        max_recipients: usize::MAX,
        now,
    }
}

pub async fn claim(spool: &dyn Spool, request: ClaimRequest) -> Vec<Claim> {
    spool
        .claim(request)
        .await
        .expect("an open spool lets claim")
}

/// Claims the one mail that is due.
pub async fn claim_one(spool: &dyn Spool, now: Timestamp) -> Claim {
    let mut claims = claim(spool, request(2, now)).await;
    assert_eq!(claims.len(), 1, "exactly one mail is due at {now}");
    claims.remove(0)
}

/// As [`claim_one`], where the mail may be on its way back from a lease that was just dropped.
pub async fn claim_returned(spool: &dyn Spool, now: Timestamp) -> Claim {
    let wait = async {
        loop {
            if let Some(claim) = claim(spool, request(1, now)).await.pop() {
                return claim;
            }
            spool.changed().notified().await;
        }
    };
    tokio::time::timeout(LONGEST_WAIT, wait)
        .await
        .expect("a delivery whose lease was dropped can be claimed again")
}

pub async fn assert_nothing_due(spool: &dyn Spool, now: Timestamp, why: &str) {
    let claims = claim(spool, request(10, now)).await;
    assert!(
        claims.is_empty(),
        "{why}, but {:?} was handed out",
        ids(&claims)
    );
}

pub fn ids(claims: &[Claim]) -> Vec<MailId> {
    claims.iter().map(|claim| claim.manifest.id).collect()
}

/// The delivery after one more try, at this stage.
pub fn tried(delivery: &Delivery, at: Timestamp, stage: Stage) -> Delivery {
    let mut next = delivery.clone();
    next.tries += 1;
    next.counted += 1;
    next.stage = stage;

    next.attempts.push(Attempt {
        at,
        relay: "primary".into(),
        phase: Phase::FinalDot,
        code: Some(250),
        enhanced: Some("2.0.0".into()),
        text: "a reply".into(),
        tls: Some(TlsUse {
            version: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
        }),
    });

    next
}

pub fn delivered(at: Timestamp) -> Stage {
    Stage::Delivered { at }
}

pub fn dead(at: Timestamp, reason: DeadReason) -> Stage {
    Stage::Dead { at, reason }
}

/// Settles every delivery of the claims to one stage; all leases must be current.
pub async fn settle(spool: &dyn Spool, claims: Vec<Claim>, at: Timestamp, stage: Stage) {
    let settled: Vec<(Lease, Delivery)> = claims
        .into_iter()
        .flat_map(|claim| claim.deliveries)
        .map(|(lease, delivery)| {
            let next = tried(&delivery, at, stage);
            (lease, next)
        })
        .collect();
    let count = settled.len();
    let recorded = spool
        .settle(settled)
        .await
        .expect("an open spool lets settle");

    assert_eq!(
        recorded,
        vec![SettleResult::Done; count],
        "a settle under its lease is recorded"
    );
}

/// Puts a mail and brings it to this stage.
pub async fn put_at(spool: &dyn Spool, draft: Draft, now: Timestamp, stage: Stage) -> MailId {
    let id = put(spool, draft).await;
    let claims = claim(spool, request(1, now)).await;
    assert_eq!(ids(&claims), [id], "the mail is the only one that is due");
    settle(spool, claims, now, stage).await;
    id
}

pub async fn get(spool: &dyn Spool, id: MailId) -> Record {
    spool
        .get(id)
        .await
        .expect("an open spool can be read")
        .unwrap_or_else(|| panic!("the mail {id} is in the spool"))
}

pub async fn assert_gone(spool: &dyn Spool, id: MailId) {
    assert_eq!(
        spool.get(id).await.expect("readable"),
        None,
        "nothing is known of a mail that was deleted"
    );
    assert_eq!(
        spool.body(id).await.expect("readable"),
        None,
        "the body of a deleted mail is gone"
    );
}

/// The states of a mail's deliveries.
pub async fn states(spool: &dyn Spool, id: MailId, now: Timestamp) -> Vec<State> {
    get(spool, id).await.states(now).collect()
}

/// Sweeps until there is nothing more to do now, and adds up.
pub async fn sweep(spool: &dyn Spool, now: Timestamp) -> SweepReport {
    let mut sum = SweepReport::default();
    for _ in 0..10_000 {
        let step = spool.sweep(now).await.expect("an open spool lets sweep");
        sum.ended.extend(step.ended);
        sum.pruned += step.pruned;
        if !step.more {
            return sum;
        }
    }
    panic!("a sweep comes to an end");
}

/// All mails that a query finds, page by page, each once.
pub async fn list(spool: &dyn Spool, query: Query, now: Timestamp) -> Vec<Record> {
    let mut found: Vec<Record> = Vec::new();
    let mut query = query;
    for _ in 0..100_000 {
        let limit = query.page_size();
        let page = spool
            .list(query.clone(), now)
            .await
            .expect("an open spool lets list");
        assert!(
            page.mails.len() <= limit,
            "a page holds no more mails than its limit"
        );
        found.extend(page.mails);
        query.cursor = page.next;
        if query.cursor.is_none() {
            let distinct: std::collections::BTreeSet<MailId> =
                found.iter().map(|r| r.manifest.id).collect();
            assert_eq!(distinct.len(), found.len(), "no mail is on two pages");
            return found;
        }
    }

    panic!("a listing comes to an end");
}

/// The counters say what the records say.
pub async fn audit(spool: &dyn Spool, now: Timestamp) {
    let records = list(
        spool,
        Query {
            limit: 1000,
            ..Query::default()
        },
        now,
    )
    .await;
    let mut counts = DeliveryCounts::default();
    let mut backlog: BTreeMap<Route, u64> = BTreeMap::new();
    let mut oldest_due: Option<Timestamp> = None;

    let mut pending = 0;
    for record in &records {
        assert_eq!(
            get(spool, record.manifest.id).await,
            *record,
            "a mail is listed as it is"
        );
        for (delivery, state) in record.deliveries.iter().zip(record.states(now)) {
            counts.add(state, record.manifest.priority, 1);
            if let Some(due) = delivery.stage.due() {
                pending += 1;
                *backlog.entry(delivery.route.clone()).or_default() += 1;
                if state == State::Queued {
                    oldest_due = Some(oldest_due.map_or(due, |oldest| oldest.min(due)));
                }
            }
        }
    }

    assert_eq!(
        spool.pending(),
        pending,
        "the number of pending deliveries is the truth"
    );

    let stats = spool.stats(now).await.expect("an open spool has numbers");
    assert_eq!(
        stats.counts, counts,
        "the numbers by state and priority are the truth"
    );

    if !records.iter().any(|record| record.leased.contains(&true)) {
        let told: BTreeMap<Route, u64> = stats
            .backlog
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(told, backlog, "the numbers by queue are the truth");
        assert_eq!(
            stats.oldest_due, oldest_due,
            "the longest-waiting due delivery is told"
        );
    }

    assert_eq!(stats.quarantined, 0, "nothing was set aside");
}

/// A lease as an old sender might still hold it.
pub fn forged(token: LeaseToken) -> Lease {
    struct Nobody;
    impl LeaseKeeper for Nobody {
        fn release(&self, _: LeaseToken) {}
    }
    Lease::new(token, Weak::<Nobody>::new())
}
