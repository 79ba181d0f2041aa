//! A spool's life, for recording: what senders and users do to it, told to the journal before and
//! after.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use postrider::delivery::{DeadReason, Delivery, Route, Stage};
use postrider::mail::{Guarantee, MailId, Priority, Timestamp, minutes};
use postrider::spool::{
    Claim, ClaimRequest, Manifest, NewMail, PutResult, Query, SettleResult, Spool, SpoolOptions,
    sled,
};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use super::journal::{GONE, Journal, body_of, describe, key_of};

pub const RETENTION: Duration = minutes(60);

pub fn options() -> SpoolOptions {
    SpoolOptions {
        retention: RETENTION,
        idempotency_ttl: minutes(10_000_000),
        ..SpoolOptions::default()
    }
}

/// One process's life: opens the spool in `dir/spool` twice, works, and ends by closing it or,
/// every second time, without.
pub async fn live(dir: &Path, life: u32, rounds: u32) {
    let mut journal = Journal::open(&dir.join("journal"));
    for sitting in 0..2 {
        journal.note("opening");
        let spool = sled::open(&dir.join("spool"), options()).unwrap();
        journal.note("working");
        let now = Timestamp::from_millis(1_900_000_000_000)
            + minutes(u64::from(2 * life + sitting) * 100);
        let random = StdRng::seed_from_u64(u64::from(life * 2 + sitting));
        let mut load = Load {
            spool,
            journal,
            random,
            now,
            known: BTreeMap::new(),
        };
        load.look_around().await;
        for _ in 0..rounds {
            load.round().await;
        }
        journal = load.journal;
        if sitting == 1 && life.is_multiple_of(2) {
            std::process::exit(0);
        }
        journal.note("closing");
        load.spool.close().await.unwrap();
        drop(load.spool);
        journal.note("closed");
    }
}

struct Load {
    spool: Arc<dyn Spool>,
    journal: Journal,
    random: StdRng,
    now: Timestamp,
    /// What is in the spool.
    known: BTreeMap<MailId, (Manifest, Vec<Delivery>)>,
}

type Changes = Vec<(MailId, String)>;

impl Load {
    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    /// What a spool shows after opening is there for good, whatever was acknowledged before.
    async fn look_around(&mut self) {
        let mut query = Query {
            limit: 1000,
            ..Query::default()
        };

        loop {
            let page = self.spool.list(query.clone(), self.now).await.unwrap();
            for record in page.mails {
                self.known
                    .insert(record.manifest.id, (record.manifest, record.deliveries));
            }
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }

        let shown: Changes = self
            .known
            .iter()
            .map(|(id, (_, deliveries))| (*id, describe(deliveries)))
            .collect();

        self.journal.did(&shown);
    }

    async fn round(&mut self) {
        self.now = self.now + minutes(1);
        if self.chance(70) {
            self.put().await;
        }
        if self.chance(6) {
            self.put_to_many().await;
        }
        if self.chance(70) {
            self.send().await;
        }
        if self.chance(30) {
            self.change().await;
        }

        if self.chance(25) {
            self.sweep().await;
        }
    }

    async fn put(&mut self) {
        let count: usize = match self.random.random_range(0..100) {
            0..2 => 1000,
            2..6 => 250,
            _ => self.random.random_range(1..=12),
        };

        let mut new_mails = Vec::new();
        for _ in 0..count {
            let recipients = if self.chance(20) { 3 } else { 1 };
            new_mails.push(self.new_mail(recipients));
        }

        // Many callers at a time with a mail each, or two with half of them each.
        let share = if count > 500 { 1 } else { count.div_ceil(2) };
        self.accept(new_mails, share).await;
    }

    /// A mail that is written in several steps, as is whatever happens to it.
    async fn put_to_many(&mut self) {
        let recipients = self.random.random_range(2000..4000);
        let new_mail = self.new_mail(recipients);
        self.accept(vec![new_mail], 1).await;
    }

    async fn accept(&mut self, new_mails: Vec<NewMail>, share: usize) {
        let states: Changes = new_mails
            .iter()
            .map(|p| (p.manifest.id, describe(&p.deliveries)))
            .collect();

        self.journal.will(&states);
        for put in join_all(
            new_mails
                .chunks(share)
                .map(|group| self.spool.put(group.to_vec())),
        )
        .await
        {
            assert!(put.iter().all(|put| *put == Ok(PutResult::Stored)));
        }

        self.journal.did(&states);
        self.known.extend(
            new_mails
                .into_iter()
                .map(|p| (p.manifest.id, (p.manifest, p.deliveries))),
        );
    }

    /// As real ones, the time first.
    fn new_id(&mut self) -> MailId {
        let mut id: [u8; 16] = self.random.random();
        id[..6].copy_from_slice(&self.now.as_millis().to_be_bytes()[2..]);
        MailId::from_bytes(id)
    }

    fn new_mail(&mut self, recipients: u16) -> NewMail {
        let size = match self.random.random_range(0..100) {
            0 => self.random.random_range(260 * 1024..400 * 1024),
            1..4 => 100 * 1024,
            4..30 => self.random.random_range(4000..9000),
            _ => self.random.random_range(0..3000),
        };

        let id = self.new_id();
        let due = if self.chance(15) {
            self.now + minutes(self.random.random_range(1..40))
        } else {
            self.now
        };

        let deliveries: Vec<Delivery> = (0..recipients)
            .map(|n| {
                Delivery::new(
                    format!("r{n}@example.org").parse().unwrap(),
                    Route::over(["primary"]),
                    due,
                )
            })
            .collect();

        let manifest = Manifest {
            id,
            accepted_at: self.now,
            expires_at: self.now + minutes(self.random.random_range(20..200)),
            return_path: None,
            message_id: format!("<{id}@example.com>"),
            subject: "a sample".into(),
            priority: Priority::ALL[self.random.random_range(0..3)],
            guarantee: if self.chance(20) {
                Guarantee::AtMostOnce
            } else {
                Guarantee::AtLeastOnce
            },
            tags: Vec::new(),
            idempotency_key: self.chance(30).then(|| key_of(id)),
            fingerprint: 1,
            size: size as u64,
            recipients,
            eight_bit: false,
            smtputf8: false,
            submitter: None,
            mended: Vec::new(),
            template: None,
            list: None,
        };

        NewMail {
            manifest,
            body: body_of(id, size),
            deliveries,
        }
    }

    /// Claims, marks where that is asked for, and settles everything at once.
    async fn send(&mut self) {
        let turns = vec![Priority::Default; self.random.random_range(1..20)];
        let routes = vec![Route::over(["primary"])];
        let max = usize::MAX;
        let request = ClaimRequest {
            routes,
            turns,
            critical_only: 2,
            max_bytes: max,
            max_recipients: 2,
            now: self.now,
        };

        let claims = self.spool.claim(request).await.unwrap();
        let mut kept = Vec::new();
        for claim in claims {
            assert!(
                claim.body
                    == body_of(
                        claim.manifest.id,
                        usize::try_from(claim.manifest.size).unwrap()
                    )
            );
            if claim.manifest.guarantee == Guarantee::AtMostOnce {
                self.mark(&claim).await;
            }
            // Some senders die; what they held goes back, or is in doubt.
            if !self.chance(5) {
                kept.push(claim);
            }
        }

        let mut wills = BTreeMap::new();
        let mut settles = Vec::new();
        for claim in kept {
            let mut settled = Vec::new();
            for (lease, delivery) in claim.deliveries {
                let next = self.verdict(delivery);
                let (_, deliveries) = self.known.get_mut(&claim.manifest.id).unwrap();
                deliveries[usize::from(lease.token().index)] = next.clone();
                settled.push((lease, next));
            }
            wills.insert(
                claim.manifest.id,
                describe(&self.known[&claim.manifest.id].1),
            );
            settles.push(settled);
        }

        let wills: Changes = wills.into_iter().collect();
        // Deliveries of one mail may be recorded one by one; nobody is told before all are.
        self.journal.will(&wills);
        for recorded in join_all(
            settles
                .into_iter()
                .map(|settled| self.spool.settle(settled)),
        )
        .await
        {
            assert!(
                recorded
                    .unwrap()
                    .iter()
                    .all(|one| *one == SettleResult::Done)
            );
        }

        self.journal.did(&wills);
    }

    async fn mark(&mut self, claim: &Claim) {
        let id = claim.manifest.id;
        let (_, deliveries) = self.known.get_mut(&id).unwrap();
        for (lease, delivery) in &claim.deliveries {
            let due = delivery.stage.due().unwrap();
            deliveries[usize::from(lease.token().index)].stage = Stage::Committing { due };
        }

        let state = vec![(id, describe(deliveries))];
        self.journal.will(&state);
        self.spool
            .mark(
                claim
                    .deliveries
                    .iter()
                    .map(|(lease, _)| lease.token())
                    .collect(),
            )
            .await
            .unwrap();

        self.journal.did(&state);
    }

    fn verdict(&mut self, mut delivery: Delivery) -> Delivery {
        let at = self.now;
        delivery.tries += 1;
        delivery.counted += 1;
        delivery.stage = match self.random.random_range(0..10) {
            0..6 => Stage::Delivered { at },
            6..8 => Stage::Pending {
                due: at + minutes(self.random.random_range(1..30)),
            },
            _ => Stage::Dead {
                at,
                reason: DeadReason::Rejected,
            },
        };

        delivery
    }

    /// A user cancels, retries or purges some mail; every second time one of many recipients.
    async fn change(&mut self) {
        let least = if self.chance(50) { 1000 } else { 0 };
        let of_size = |entry: &(&MailId, &(Manifest, Vec<Delivery>))| entry.1.1.len() >= least;
        let Some((id, (_, before))) = self.known.iter().filter(of_size).choose(&mut self.random)
        else {
            return;
        };

        let id = *id;
        let mut after = before.clone();

        let in_doubt = |d: &Delivery| matches!(d.stage, Stage::Committing { .. });
        if before.iter().any(in_doubt) {
            return;
        }

        let has_ended = before
            .iter()
            .all(|delivery| delivery.stage.finished_at().is_some());

        let now = self.now;
        match self.random.random_range(0..3) {
            0 => {
                let waits = |d: &&mut Delivery| d.stage.due().is_some();
                after
                    .iter_mut()
                    .filter(waits)
                    .for_each(|d| d.stage = Stage::Cancelled { at: now });
                self.journal.will(&[(id, describe(&after))]);
                self.spool.cancel(id, now).await.unwrap();
            }
            1 => {
                for delivery in &mut after {
                    match delivery.stage {
                        Stage::Dead { .. } | Stage::Cancelled { .. } => delivery.tries = 0,
                        Stage::Pending { due } if due > now => {}
                        _ => continue,
                    }
                    delivery.stage = Stage::Pending { due: now };
                }
                self.journal.will(&[(id, describe(&after))]);
                self.spool.retry(id, now, minutes(100)).await.unwrap();
            }
            _ if has_ended => {
                self.journal.will(&[(id, GONE.into())]);
                self.spool.purge(id).await.unwrap();
            }
            _ => return,
        }

        self.look_at(&[id]).await;
    }

    async fn sweep(&mut self) {
        let now = self.now;
        // What was marked and let go may have been ended meanwhile.
        let in_doubt = |d: &Delivery| matches!(d.stage, Stage::Committing { .. });
        let open = self
            .known
            .iter()
            .filter(|(_, (_, deliveries))| deliveries.iter().any(in_doubt));

        let open: Vec<MailId> = open.map(|(id, _)| *id).collect();
        self.look_at(&open).await;
        let mut wills = Changes::new();
        for (id, (manifest, deliveries)) in &self.known {
            let mut after = deliveries.clone();
            if manifest.expires_at <= now {
                let waits = |d: &&mut Delivery| d.stage.due().is_some();
                let expired = Stage::Dead {
                    at: now,
                    reason: DeadReason::Expired,
                };
                after
                    .iter_mut()
                    .filter(waits)
                    .for_each(|d| d.stage = expired);
            }
            if after != *deliveries {
                wills.push((*id, describe(&after)));
            }
            let ends = after.iter().filter_map(|d| d.stage.finished_at()).max();
            if ends.is_some_and(|at| at + RETENTION <= now) {
                wills.push((*id, GONE.into()));
            }
        }

        self.journal.will(&wills);
        while self.spool.sweep(now).await.unwrap().more {}
        let ids: Vec<MailId> = wills.into_iter().map(|(id, _)| id).collect();
        self.look_at(&ids).await;
    }

    /// What the spool shows after it answered is acknowledged.
    async fn look_at(&mut self, ids: &[MailId]) {
        let mut shown = Changes::new();
        for id in ids {
            match self.spool.get(*id).await.unwrap() {
                Some(record) => {
                    shown.push((*id, describe(&record.deliveries)));
                    self.known.insert(*id, (record.manifest, record.deliveries));
                }
                None => {
                    shown.push((*id, GONE.into()));
                    self.known.remove(id);
                }
            }
        }

        self.journal.did(&shown);
    }
}
