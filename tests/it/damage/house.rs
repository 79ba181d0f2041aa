//! A spool with mail in every state, and what is in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{DeadReason, Delivery, Route, Stage};
use postrider::mail::{Guarantee, MailId, Priority, Timestamp};
use postrider::spool::{
    ClaimRequest, Manifest, NewMail, PutResult, Query, Spool, SpoolError, SpoolOptions, sled,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What is known of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub states: Vec<String>,
    body: Option<Bytes>,
}

pub struct House {
    pub path: PathBuf,
    pub kept: BTreeMap<MailId, Kept>,
}

impl House {
    /// A spool of queued, delivered, dead, cancelled, purged, keyed and large mail, closed or left
    /// as a killed process leaves it.
    pub async fn build(path: &Path, seed: u64, is_closed: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let live = path.with_extension("live");
        let mut kept = BTreeMap::new();
        for sitting in 0..2 {
            let spool = open(&live).await.unwrap();
            for n in 0..60 {
                put(&*spool, &mut random, n + 100 * sitting).await;
            }
            work(&*spool, &mut random).await;
            kept = look(&*spool).await.unwrap();
            if sitting == 1 && !is_closed {
                copy(&live, path);
            }
            spool.close().await.unwrap();
        }
        if is_closed {
            copy(&live, path);
        }
        House {
            path: path.to_owned(),
            kept,
        }
    }
}

async fn put(spool: &dyn Spool, random: &mut StdRng, n: u32) {
    let id = MailId::from_bytes(random.random());
    let recipients = if n.is_multiple_of(20) { 12 } else { 1 };
    let size = match n % 15 {
        0 => 300_000,
        1 | 2 => 9000,
        _ => random.random_range(100..3000),
    };
    let now = Timestamp::now();
    let deliveries = (0..recipients).map(|r| {
        let recipient = format!("r{r}@example.org").parse().unwrap();
        Delivery::new(recipient, Route::over(["primary"]), now)
    });
    let new_mail = NewMail {
        manifest: Manifest {
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
            size: size as u64,
            recipients,
            eight_bit: false,
            smtputf8: false,
            submitter: None,
            mended: Vec::new(),
            template: None,
            list: None,
        },
        body: body_of(random, size),
        deliveries: deliveries.collect(),
    };
    assert_eq!(spool.put(vec![new_mail]).await, [Ok(PutResult::Stored)]);
}

fn body_of(random: &mut StdRng, size: usize) -> Bytes {
    (0..size).map(|_| random.random_range(b' '..b'~')).collect()
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
pub async fn look(spool: &dyn Spool) -> Result<BTreeMap<MailId, Kept>, String> {
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
            kept.insert(id, Kept { states, body });
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
