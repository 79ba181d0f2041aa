//! A spool with mail in every state, and what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{DeadReason, Delivery, Route, Stage};
use postrider::mail::{Guarantee, MailId, Priority, Submitter, Timestamp};
use postrider::spool::{
    ClaimRequest, Manifest, NewMail, PutResult, Query, Spool, SpoolError, SpoolOptions,
    Suppression, SuppressionQuery, SuppressionReason, sled,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::spool::killed::copy_at_rest;

/// What is known of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMail {
    pub states: Vec<String>,
    body: Option<Bytes>,
}

/// What a spool keeps besides mail.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpoolExtras {
    /// The journal's events by their numbers.
    pub events: BTreeMap<u64, String>,
    /// How many events the journal says are gone.
    pub missed: u64,
    /// How far the journal is.
    pub told: u64,
    pub suppressions: BTreeSet<String>,
    /// How far each reader is, and what it keeps.
    pub readers: BTreeMap<String, String>,
    /// What each token and user has pending, and what was accepted of it on this day and the last.
    pub quotas: Vec<(u64, u64)>,
}

pub struct SampleSpool {
    pub path: PathBuf,
    pub kept: BTreeMap<MailId, KnownMail>,
    pub beside: SpoolExtras,
    /// Mail with an idempotency key, as it was submitted, some of it purged since.
    pub keyed: Vec<Manifest>,
}

/// How much is in a sample.
#[derive(Clone, Copy)]
pub struct SampleSize {
    /// How many mails of each of two sittings.
    pub mails: u32,
    /// Of how many one is large.
    pub large: u32,
    pub bytes: usize,
}

pub const SMALL: SampleSize = SampleSize {
    mails: 60,
    large: 15,
    bytes: 300_000,
};
/// The log has many segments.
pub const MANY_SEGMENTS: SampleSize = SampleSize {
    mails: 120,
    large: 3,
    bytes: 700_000,
};

impl SampleSpool {
    /// A spool of queued, delivered, dead, cancelled, purged, keyed and large mail, with all that
    /// is kept besides, closed or left as a killed process leaves it.
    pub async fn build(path: &Path, seed: u64, size: SampleSize, is_closed: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let live = path.with_extension("live");

        let (mut kept, mut beside) = (BTreeMap::new(), SpoolExtras::default());
        let mut keyed = Vec::new();
        for sitting in 0..2 {
            let spool = open(&live).await.unwrap();
            for n in 0..size.mails {
                let manifest = put(&*spool, &mut random, n + 1000 * sitting, size).await;
                keyed.extend(manifest.idempotency_key.is_some().then_some(manifest));
                if n % 10 == 0 {
                    furnish(&*spool, n + 1000 * sitting).await;
                }
            }
            work(&*spool, &mut random).await;
            kept = look(&*spool).await.unwrap();
            beside = look_beside(&*spool).await.unwrap();
            if sitting == 1 && !is_closed {
                copy_at_rest(&live, path);
            }
            spool.close().await.unwrap();
        }

        if is_closed {
            copy(&live, path);
        }
        std::fs::remove_dir_all(&live).unwrap();

        SampleSpool {
            path: path.to_owned(),
            kept,
            beside,
            keyed,
        }
    }
}

fn submitters() -> [Submitter; 2] {
    [Submitter::token("shop"), Submitter::user("forum")]
}

async fn put(spool: &dyn Spool, random: &mut StdRng, n: u32, size: SampleSize) -> Manifest {
    let id = MailId::from_bytes(random.random());
    let recipients = if n.is_multiple_of(20) { 12 } else { 1 };
    let length = match n % size.large {
        0 => size.bytes,
        1 | 2 if n.is_multiple_of(2) => 9000,
        _ => random.random_range(100..3000),
    };

    let now = Timestamp::now();
    let manifest = Manifest {
        id,
        accepted_at: now,
        expires_at: now + Duration::from_secs(86_400),
        return_path: None,
        message_id: format!("<{id}@example.org>"),
        subject: "Damage".into(),
        priority: Priority::Default,
        guarantee: Guarantee::AtLeastOnce,
        tags: vec![],
        idempotency_key: n.is_multiple_of(3).then(|| format!("key of {id}")),
        fingerprint: 7,
        size: length as u64,
        recipients,
        eight_bit: false,
        smtputf8: false,
        submitter: submitters().into_iter().nth(n as usize % 3),
        mended: Vec::new(),
        template: None,
        list: None,
    };

    let new_mail = mail(manifest.clone(), body_of(random, length));
    assert_eq!(spool.put(vec![new_mail]).await, [Ok(PutResult::Stored)]);
    manifest
}

/// The mail of a manifest.
pub fn mail(manifest: Manifest, body: Bytes) -> NewMail {
    let deliveries = (0..manifest.recipients).map(|r| {
        let recipient = format!("r{r}@example.org").parse().unwrap();
        Delivery::new(recipient, Route::over(["primary"]), manifest.accepted_at)
    });
    NewMail {
        deliveries: deliveries.collect(),
        manifest,
        body,
    }
}

/// Puts in what is kept besides mail.
async fn furnish(spool: &dyn Spool, n: u32) {
    let entries = (0..3).map(|i| Suppression {
        address: format!("no{n}.{i}@example.org").parse().unwrap(),
        reason: SuppressionReason::ALL[n as usize / 10 % 4],
        list: None,
        since: Timestamp::from_millis(i64::from(n)),
        until: None,
        note: (i == 0).then(|| "said so".into()),
    });

    let suppressions = spool.suppressions().unwrap();
    suppressions.add(entries.collect()).await.unwrap();

    let journal = spool.journal().unwrap();
    let told = *journal.last().borrow();
    let name = format!("reader {}", n % 4);

    let value = (n.to_be_bytes().to_vec(), Some(vec![7; 100]));
    journal.advance(&name, told, vec![value]).await.unwrap();
}

fn body_of(random: &mut StdRng, size: usize) -> Bytes {
    let block: Vec<u8> = (0..997).map(|_| random.random_range(b' '..b'~')).collect();
    block.iter().cycle().take(size).copied().collect()
}

/// Half of the mail comes to an end; of that some is purged.
async fn work(spool: &dyn Spool, random: &mut StdRng) {
    let claims = spool
        .claim(ClaimRequest {
            routes: vec![Route::over(["primary"])],
            turns: vec![Priority::Default; 30],
            critical_only: 0,
            max_bytes: usize::MAX,
            max_recipients: 100,
            now: Timestamp::now(),
        })
        .await
        .unwrap();

    for claim in claims {
        let id = claim.manifest.id;
        let (at, lot) = (Timestamp::now(), random.random_range(0..10));
        let settled = claim.deliveries.into_iter().map(|(lease, mut delivery)| {
            delivery.stage = match lot {
                0..=6 => Stage::Delivered { at },
                7 => Stage::Dead {
                    at,
                    reason: DeadReason::Rejected,
                },
                _ => Stage::Pending {
                    due: at + Duration::from_secs(3600),
                },
            };
            delivery.tries = 1;
            (lease, delivery)
        });
        spool.settle(settled.collect()).await.unwrap();
        match lot {
            0 => drop(spool.purge(id).await.unwrap()),
            9 => drop(spool.cancel(id, at).await.unwrap()),
            _ => {}
        }
    }
}

/// All that is in a spool besides mail.
pub async fn look_beside(spool: &dyn Spool) -> Result<SpoolExtras, String> {
    let failed = |error: SpoolError| error.to_string();
    let mut beside = SpoolExtras::default();
    let query = SuppressionQuery {
        limit: 1000,
        ..SuppressionQuery::default()
    };

    let page = spool.suppressions().unwrap().page(query).await;
    for entry in page.map_err(failed)?.suppressions {
        beside.suppressions.insert(format!("{entry:?}"));
    }

    let journal = spool.journal().unwrap();
    beside.told = *journal.last().borrow();
    let mut at = 0;
    while at < beside.told {
        let page = journal.after(at, 1000).await.map_err(failed)?;
        if page.last <= at {
            return Err(format!("the journal stops at {at}"));
        }
        at = page.last;
        beside.missed += page.missed;
        for event in page.events {
            beside.events.insert(event.seq, format!("{event:?}"));
        }
    }

    for reader in journal.readers().await.map_err(failed)? {
        let (from, to) = (Vec::new(), vec![u8::MAX; 8]);
        let kept = journal.kept(&reader.name, from, to, 1000).await;
        let told = format!("at {}: {:?}", reader.at, kept.map_err(failed)?);
        beside.readers.insert(reader.name, told);
    }

    // It may have been accepted just before midnight.
    let today = Timestamp::now().day();
    let accepted = |who: &Submitter| {
        let days = [today - 1, today].map(|day| spool.accepted_on(who, day));
        days.into_iter().sum()
    };
    beside.quotas = submitters()
        .iter()
        .map(|who| (spool.pending_of(who), accepted(who)))
        .collect();
    Ok(beside)
}

/// Opens a spool; who had it open may need a moment to let go of its lock.
pub async fn open(path: &Path) -> Result<Arc<dyn Spool>, SpoolError> {
    loop {
        match sled::open(path, SpoolOptions::default()) {
            Err(SpoolError::Locked(_)) => tokio::time::sleep(Duration::from_millis(2)).await,
            opened => return opened,
        }
    }
}

/// All that is in a spool.
pub async fn look(spool: &dyn Spool) -> Result<BTreeMap<MailId, KnownMail>, String> {
    let mut kept = BTreeMap::new();
    let mut query = Query {
        limit: 1000,
        ..Query::default()
    };

    loop {
        let page = spool
            .list(query.clone(), Timestamp::now())
            .await
            .map_err(|e| format!("list: {e}"))?;
        for record in page.mails {
            let id = record.manifest.id;
            let states = record
                .deliveries
                .iter()
                .map(|delivery| match delivery.stage {
                    Stage::Pending { due } => format!("pending at {due}"),
                    Stage::Delivered { at } => format!("delivered at {at}"),
                    stage => format!("{stage:?}"),
                });
            let body = spool.body(id).await.ok().flatten();
            let states = states.collect();
            kept.insert(id, KnownMail { states, body });
        }
        query.cursor = page.next;
        if query.cursor.is_none() {
            return Ok(kept);
        }
    }
}

pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => files.extend(self::files(&path)),
            path => files.push(path),
        }
    }
    files.sort();
    files
}

pub fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    for file in files(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copy.parent().unwrap()).unwrap();
        std::fs::copy(file, copy).unwrap();
    }
}
