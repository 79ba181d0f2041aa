//! A spool and its model, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{DeadReason, Delivery, Route, Stage};
use postrider::mail::{Address, Guarantee, MailId, Priority, Timestamp, minutes};
use postrider::spool::{
    Claim, ClaimRequest, DeliveryCounts, EndedDelivery, Lease, LeaseKeeper, LeaseToken, Manifest,
    NewMail, OperationResult, PutResult, Query, SettleResult, Spool, SpoolError, SpoolOptions,
    SweepReport,
};

use super::steps::{MailSketch, Step, Verdict};
use super::{KEY_TIME, RETENTION, SpoolKind};

/// A mail, as the model knows it.
struct ModelMail {
    manifest: Manifest,
    body: Bytes,
    deliveries: Vec<Delivery>,
    leased: Vec<bool>,
    /// Whether it has ended at some time: its key may be forgotten since.
    has_ended: bool,
}

impl ModelMail {
    fn finished_at(&self) -> Option<Timestamp> {
        let ends: Option<Vec<_>> = self
            .deliveries
            .iter()
            .map(|d| d.stage.finished_at())
            .collect();
        ends?.into_iter().max()
    }

    fn is_free(&self, index: usize) -> bool {
        !self.leased[index] && self.deliveries[index].stage.due().is_some()
    }
}

pub struct History {
    home: SpoolKind,
    spool: Arc<dyn Spool>,
    now: Timestamp,
    count: u64,
    mails: BTreeMap<MailId, ModelMail>,
    keys: BTreeMap<&'static str, (MailId, u128)>,
    held: Vec<Claim>,
    /// Leases that have ended.
    stale: Vec<(LeaseToken, Delivery)>,
    stale_settles: u64,
    /// What has ended in doubt without a user's request: the next sweep tells of it.
    untold: Vec<(MailId, Address)>,
}

impl History {
    pub async fn begin(home: SpoolKind) -> Self {
        History {
            spool: home.open().await,
            home,
            now: Timestamp::from_millis(1_900_000_000_000),
            count: 0,
            mails: BTreeMap::new(),
            keys: BTreeMap::new(),
            held: Vec::new(),
            stale: Vec::new(),
            stale_settles: 0,
            untold: Vec::new(),
        }
    }

    /// Has it happen to both.
    pub async fn take(&mut self, step: &Step) {
        match step {
            Step::Put(sketches) => self.put(sketches).await,
            Step::Claim {
                turns,
                critical_only,
                max_recipients,
                routes,
            } => {
                let request = ClaimRequest {
                    routes: routes.iter().map(|route| Route::over([*route])).collect(),
                    turns: turns.clone(),
                    critical_only: *critical_only,
                    max_bytes: usize::MAX,
                    max_recipients: *max_recipients,
                    now: self.now,
                };
                self.claim(request).await;
            }
            Step::Mark { claim } => self.mark(*claim).await,
            Step::Settle { claim, verdicts } => self.settle(*claim, verdicts).await,
            Step::SettleStale { claim } => self.settle_stale(*claim).await,
            Step::Drop { claim } => self.drop_claim(*claim).await,
            Step::Pass { minutes: n } => self.pass(self.now + minutes(*n)).await,
            Step::Cancel { mail } => self.cancel(*mail).await,
            Step::Retry { mail } => self.retry(*mail).await,
            Step::Purge { mail } => self.purge(*mail).await,
            Step::Reroute => self.reroute().await,
            Step::Close => self.reopen(false).await,
            Step::Kill => self.reopen(true).await,
        }

        for kept in self.mails.values_mut() {
            kept.has_ended |= kept.finished_at().is_some();
        }
    }

    /// Both show the same.
    pub async fn compare(&mut self, step: &Step) {
        let mut listed = BTreeSet::new();
        let mut query = Query {
            limit: 1000,
            ..Query::default()
        };

        loop {
            let page = self
                .spool
                .list(query.clone(), self.now)
                .await
                .expect("readable");
            listed.extend(page.mails.iter().map(|record| record.manifest.id));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }

        let known: BTreeSet<MailId> = self.mails.keys().copied().collect();
        assert_eq!(
            listed, known,
            "after {step:?} exactly the mails that were accepted and not deleted are there"
        );

        let mut counts = DeliveryCounts::default();
        let mut pending = 0;
        for (id, kept) in &self.mails {
            let record = self
                .spool
                .get(*id)
                .await
                .expect("readable")
                .expect("a mail that is listed is there");
            assert_eq!(record.manifest, kept.manifest, "after {step:?}");
            assert_eq!(
                record.deliveries, kept.deliveries,
                "after {step:?} at {} the deliveries of {id}",
                self.now
            );
            assert_eq!(
                record.leased, kept.leased,
                "after {step:?} who holds the deliveries of {id}"
            );
            for state in record.states(self.now) {
                counts.add(state, kept.manifest.priority, 1);
            }
            pending += kept
                .deliveries
                .iter()
                .filter(|d| d.stage.due().is_some())
                .count() as u64;
            let body = self.spool.body(*id).await.expect("readable");
            assert!(
                body.as_ref() == Some(&kept.body),
                "after {step:?} the body of {id} is whole"
            );
        }

        assert_eq!(
            self.spool.pending(),
            pending,
            "after {step:?} the number of pending deliveries"
        );

        let stats = self.spool.stats(self.now).await.expect("readable");
        assert_eq!(
            stats.counts, counts,
            "after {step:?} the numbers by state and priority"
        );

        assert_eq!(
            (stats.quarantined, stats.stale_settles),
            (0, self.stale_settles),
            "after {step:?}"
        );

        assert_eq!(self.spool.failure(), None, "after {step:?}");
    }

    /// The scheduler's way, with a relay that takes everything: every mail comes to its end and is
    /// deleted in its time.
    pub async fn follow_the_clock_to_the_end(&mut self) {
        while !self.held.is_empty() {
            self.drop_claim(0).await;
        }
        for _ in 0..2000 {
            self.sweep().await;
            let routes = ["primary", "backup", "gone"]
                .map(|route| Route::over([route]))
                .into();
            let turns = vec![Priority::Default; 1000];
            let request = ClaimRequest {
                routes,
                turns,
                critical_only: 0,
                max_bytes: 1,
                max_recipients: 2,
                now: self.now,
            };
            self.claim(request).await;
            while !self.held.is_empty() {
                self.settle(0, &[Verdict::Delivered]).await;
            }
            let Some(next) = self.spool.next_due(self.now) else {
                break;
            };
            assert!(next > self.now, "the next due time lies ahead");
            self.now = next;
        }

        self.compare(&Step::Pass { minutes: 0 }).await;
        assert_eq!(self.spool.pending(), 0, "nothing waits for ever");
        assert!(
            self.mails.is_empty(),
            "every mail comes to its end by following the clock"
        );
    }

    async fn put(&mut self, sketches: &[MailSketch]) {
        let new_mails: Vec<NewMail> = sketches
            .iter()
            .map(|sketch| self.new_mail(sketch))
            .collect();

        let results = self.spool.put(new_mails.clone()).await;
        assert_eq!(
            results.len(),
            new_mails.len(),
            "each mail of a group is answered"
        );

        for ((new_mail, result), sketch) in new_mails.into_iter().zip(results).zip(sketches) {
            let owner = sketch.key.and_then(|key| self.keys.get(key).copied());
            let expected = owner.map_or(Ok(PutResult::Stored), |(id, content)| {
                if content == sketch.content {
                    Ok(PutResult::Duplicate(id))
                } else {
                    Err(SpoolError::KeyReused(id))
                }
            });
            let may_be_forgotten = owner.is_some_and(|(id, _)| {
                self.mails.get(&id).is_none_or(|kept| {
                    kept.has_ended && kept.manifest.accepted_at + KEY_TIME <= self.now
                })
            });
            if !(may_be_forgotten && result == Ok(PutResult::Stored)) {
                assert_eq!(result, expected, "what a put of {sketch:?} is answered");
            }
            if result == Ok(PutResult::Stored) {
                let id = new_mail.manifest.id;
                if let Some(key) = sketch.key {
                    self.keys.insert(key, (id, sketch.content));
                }
                let NewMail {
                    manifest,
                    body,
                    deliveries,
                } = new_mail;
                let leased = vec![false; deliveries.len()];
                self.mails.insert(
                    id,
                    ModelMail {
                        manifest,
                        body,
                        deliveries,
                        leased,
                        has_ended: false,
                    },
                );
            }
        }
    }

    fn new_mail(&mut self, sketch: &MailSketch) -> NewMail {
        self.count += 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.now.as_millis().to_be_bytes()[2..]);
        id[6] = 0x70;
        id[8..].copy_from_slice(&self.count.to_be_bytes());

        let id = MailId::from_bytes(id);
        let due = self.now + minutes(sketch.due_in);
        let deliveries: Vec<Delivery> = sketch
            .routes
            .iter()
            .enumerate()
            .map(|(n, route)| {
                let to: Address = format!("r{n}@example.org").parse().unwrap();
                Delivery::new(to, Route::over([*route]), due)
            })
            .collect();

        let byte = u8::try_from(self.count % 251).unwrap();
        let body: Bytes = (0..sketch.size).map(|n| byte ^ (n / 4096) as u8).collect();
        let manifest = Manifest {
            id,
            accepted_at: self.now,
            expires_at: self.now + minutes(sketch.expires_in),
            return_path: None,
            message_id: format!("<{}@example.com>", self.count),
            subject: String::new(),
            priority: sketch.priority,
            guarantee: if sketch.at_most_once {
                Guarantee::AtMostOnce
            } else {
                Guarantee::AtLeastOnce
            },
            tags: Vec::new(),
            idempotency_key: sketch.key.map(str::to_owned),
            fingerprint: sketch.content,
            size: body.len() as u64,
            recipients: u16::try_from(deliveries.len()).unwrap(),
            eight_bit: false,
            smtputf8: false,
            submitter: None,
            mended: Vec::new(),
            template: None,
            list: None,
        };

        NewMail {
            manifest,
            body,
            deliveries,
        }
    }

    /// Whether a claim could take this delivery.
    fn claimable(&self, kept: &ModelMail, index: usize, request: &ClaimRequest) -> bool {
        let delivery = &kept.deliveries[index];
        let due = matches!(delivery.stage, Stage::Pending { due } if due <= request.now);
        due && !kept.leased[index] && request.routes.contains(&delivery.route)
    }

    /// How many mails could be claimed, each route of a mail counted for itself, by priority.
    fn claimable_by_priority(&self, request: &ClaimRequest) -> [usize; 3] {
        let mut by_priority = [0; 3];
        for kept in self.mails.values() {
            let due =
                (0..kept.deliveries.len()).filter(|index| self.claimable(kept, *index, request));
            let routes: BTreeSet<&Route> = due.map(|index| &kept.deliveries[index].route).collect();
            by_priority[kept.manifest.priority.index()] += routes.len();
        }
        by_priority
    }

    async fn claim(&mut self, request: ClaimRequest) {
        let [critical, default, bulk] = self.claimable_by_priority(&request);
        let claims = self
            .spool
            .claim(request.clone())
            .await
            .expect("an open spool lets claim");

        assert!(
            claims.len() <= request.turns.len() + request.critical_only,
            "no more is handed out than is wanted"
        );

        let in_turns = request.turns.len().min(critical + default + bulk);
        if request.max_bytes == usize::MAX {
            assert!(claims.len() >= in_turns, "what is due is handed out");
        } else {
            assert!(
                !claims.is_empty() || in_turns == 0,
                "the first mail that is due is handed out"
            );
        }

        let critical_wanted = request
            .turns
            .iter()
            .filter(|turn| **turn == Priority::Critical)
            .count();
        let critical_given = claims
            .iter()
            .filter(|claim| claim.manifest.priority == Priority::Critical)
            .count();

        if request.max_bytes == usize::MAX {
            let at_least = critical.min(critical_wanted + request.critical_only);
            assert!(critical_given >= at_least, "critical mail gets its turns");
        }

        for claim in &claims {
            let mail = claim.manifest.id;
            let kept = &self.mails[&mail];
            assert_eq!(
                *claim.manifest, kept.manifest,
                "a sender is told what is known of the mail"
            );
            assert!(claim.body == kept.body, "a sender gets the whole body");
            assert!((1..=request.max_recipients).contains(&claim.deliveries.len()));
            let tokens: Vec<LeaseToken> = claim
                .deliveries
                .iter()
                .map(|(lease, _)| lease.token())
                .collect();
            for (token, (_, delivery)) in tokens.iter().zip(&claim.deliveries) {
                let index = usize::from(token.index);
                assert_eq!(token.mail, mail);
                assert!(
                    self.claimable(&self.mails[&mail], index, &request),
                    "only what is due and free is handed out"
                );
                assert_eq!(
                    *delivery, self.mails[&mail].deliveries[index],
                    "a sender is told how far a delivery is"
                );
                assert_eq!(
                    delivery.route, claim.deliveries[0].1.route,
                    "a claim is for one route"
                );
                self.mails.get_mut(&mail).expect("known").leased[index] = true;
            }
        }

        self.held.extend(claims);
    }

    fn held(&mut self, n: usize) -> Option<Claim> {
        (!self.held.is_empty()).then(|| self.held.remove(n % self.held.len()))
    }

    fn delivery(&mut self, token: LeaseToken) -> (&mut Delivery, &mut bool) {
        let kept = self
            .mails
            .get_mut(&token.mail)
            .expect("a mail in a sender's hands is there");
        let index = usize::from(token.index);
        (&mut kept.deliveries[index], &mut kept.leased[index])
    }

    async fn mark(&mut self, n: usize) {
        let at_most_once = |claim: &Claim| claim.manifest.guarantee == Guarantee::AtMostOnce;
        let candidates: Vec<usize> = (0..self.held.len())
            .filter(|n| at_most_once(&self.held[*n]))
            .collect();
        let Some(n) = (!candidates.is_empty()).then(|| candidates[n % candidates.len()]) else {
            return;
        };

        let tokens: Vec<LeaseToken> = self.held[n]
            .deliveries
            .iter()
            .map(|(lease, _)| lease.token())
            .collect();

        self.spool.mark(tokens.clone()).await.expect("writable");
        for token in tokens {
            let (delivery, _) = self.delivery(token);
            let due = delivery.stage.due().expect("what is held is pending");
            delivery.stage = Stage::Committing { due };
        }
    }

    async fn settle(&mut self, n: usize, verdicts: &[Verdict]) {
        let Some(claim) = self.held(n) else { return };
        let now = self.now;
        let mut settled = Vec::new();
        for ((lease, old), verdict) in claim.deliveries.into_iter().zip(verdicts.iter().cycle()) {
            let token = lease.token();
            self.stale.push((token, old));
            let (delivery, leased) = self.delivery(token);
            *leased = false;
            delivery.tries += 1;
            delivery.counted += 1;
            delivery.stage = match verdict {
                Verdict::Delivered => Stage::Delivered { at: now },
                Verdict::Rejected => Stage::Dead {
                    at: now,
                    reason: DeadReason::Rejected,
                },
                Verdict::Deferred { minutes: n } => Stage::Pending {
                    due: now + minutes(*n),
                },
            };
            settled.push((lease, delivery.clone()));
        }

        let count = settled.len();
        assert_eq!(
            self.spool.settle(settled).await,
            Ok(vec![SettleResult::Done; count]),
            "a held lease settles"
        );
    }

    async fn settle_stale(&mut self, n: usize) {
        struct IdleKeeper;
        impl LeaseKeeper for IdleKeeper {
            fn release(&self, _: LeaseToken) {}
        }

        let Some(at) = n.checked_rem(self.stale.len()) else {
            return;
        };
        let (token, mut delivery) = self.stale[at].clone();

        delivery.stage = Stage::Delivered { at: self.now };
        let forged = Lease::new(token, Weak::<IdleKeeper>::new());
        assert_eq!(
            self.spool.settle(vec![(forged, delivery)]).await,
            Ok(vec![SettleResult::Stale])
        );

        self.stale_settles += 1;
    }

    async fn drop_claim(&mut self, n: usize) {
        let Some(claim) = self.held(n) else { return };
        let mut in_doubt = Vec::new();
        let mut last = None;
        for (lease, old) in claim.deliveries {
            let token = lease.token();
            last = Some(token);
            self.stale.push((token, old));
            let (delivery, leased) = self.delivery(token);
            *leased = false;
            if matches!(delivery.stage, Stage::Committing { .. }) {
                in_doubt.push(token);
            }
            drop(lease);
        }

        let Some(last) = last else { return };
        self.wait_until_free(last).await;
        if !in_doubt.is_empty() {
            // What was marked and let go is ended when it is met again, which is here; what else is
            // met goes back.
            let routes = ["primary", "backup", "gone"]
                .map(|route| Route::over([route]))
                .into();
            let turns = vec![Priority::Default; 1000];
            let now = self.now;
            let max = usize::MAX;
            let request = ClaimRequest {
                routes,
                turns,
                critical_only: 0,
                max_bytes: max,
                max_recipients: max,
                now,
            };
            let met = self
                .spool
                .claim(request)
                .await
                .expect("an open spool lets claim");
            let tokens: Vec<LeaseToken> = met
                .iter()
                .flat_map(|claim| &claim.deliveries)
                .map(|(lease, _)| lease.token())
                .collect();
            drop(met);
            for token in tokens {
                assert!(
                    !in_doubt
                        .iter()
                        .any(|marked| (marked.mail, marked.index) == (token.mail, token.index))
                );
                self.wait_until_free(token).await;
            }
            for token in in_doubt {
                let (delivery, _) = self.delivery(token);
                delivery.stage = Stage::Dead {
                    at: now,
                    reason: DeadReason::InDoubt,
                };
                let recipient = delivery.recipient.clone();
                self.untold.push((token.mail, recipient));
            }
        }
    }

    async fn wait_until_free(&self, token: LeaseToken) {
        let wait = async {
            loop {
                let record = self
                    .spool
                    .get(token.mail)
                    .await
                    .expect("readable")
                    .expect("it is there");
                if !record.leased[usize::from(token.index)] {
                    return;
                }
                self.spool.changed().notified().await;
            }
        };

        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("a lease that was dropped comes back");
    }

    async fn pass(&mut self, until: Timestamp) {
        // An expired mail in a sender's hands is looked at again and again; so not every step is
        // taken.
        for _ in 0..50 {
            let Some(next) = self.spool.next_due(self.now).filter(|next| *next <= until) else {
                break;
            };
            assert!(next > self.now, "the next due time lies ahead");
            self.now = next;
            self.sweep().await;
        }
        self.now = until;
        self.sweep().await;
    }

    async fn sweep(&mut self) {
        let mut swept = SweepReport {
            more: true,
            ..SweepReport::default()
        };

        while swept.more {
            let step = self.spool.sweep(self.now).await.expect("writable");
            swept.ended.extend(step.ended);
            swept.pruned += step.pruned;
            swept.more = step.more;
        }

        let mut ended = 0;
        let mut pruned = 0;
        let mut gone = Vec::new();

        // What a sender held when its time was over is looked at again a little later.
        let may_wait = self
            .spool
            .next_due(self.now)
            .is_some_and(|next| next <= self.now + minutes(1));

        for (id, kept) in &mut self.mails {
            for index in 0..kept.deliveries.len() {
                if !kept.is_free(index) || kept.manifest.expires_at > self.now {
                    continue;
                }
                let recipient = &kept.deliveries[index].recipient;
                let expired = EndedDelivery {
                    mail: *id,
                    recipient: recipient.clone(),
                    reason: DeadReason::Expired,
                };
                let is_told = swept.ended.contains(&expired);
                assert!(is_told || may_wait, "what has expired is ended");
                if is_told {
                    kept.deliveries[index].stage = Stage::Dead {
                        at: self.now,
                        reason: DeadReason::Expired,
                    };
                    ended += 1;
                }
            }
            if kept
                .finished_at()
                .is_some_and(|at| at + RETENTION <= self.now)
            {
                gone.push(*id);
            }
        }

        for id in gone {
            self.mails.remove(&id);
            pruned += 1;
        }

        for (mail, recipient) in std::mem::take(&mut self.untold) {
            let in_doubt = EndedDelivery {
                mail,
                recipient,
                reason: DeadReason::InDoubt,
            };
            assert!(
                swept.ended.contains(&in_doubt),
                "what has ended without a user's request is told: {in_doubt:?}"
            );
            ended += 1;
        }

        assert_eq!(
            swept.ended.len(),
            ended,
            "nothing else is ended: {:?}",
            swept.ended
        );

        assert_eq!(
            swept.pruned, pruned,
            "what was kept long enough is deleted, and nothing else"
        );
    }

    fn any_mail(&self, n: usize) -> Option<MailId> {
        let n = n.checked_rem(self.mails.len())?;
        self.mails.keys().nth(n).copied()
    }

    async fn cancel(&mut self, n: usize) {
        let Some(id) = self.any_mail(n) else { return };
        let now = self.now;
        let kept = self.mails.get_mut(&id).expect("known");

        let mut taken = Vec::new();
        for index in 0..kept.deliveries.len() {
            if kept.is_free(index) {
                kept.deliveries[index].stage = Stage::Cancelled { at: now };
                taken.push(kept.deliveries[index].recipient.clone());
            }
        }

        let expected = if taken.is_empty() {
            OperationResult::TooLate
        } else {
            OperationResult::Done(taken)
        };

        assert_eq!(
            self.spool.cancel(id, now).await,
            Ok(expected),
            "what a cancel takes"
        );
    }

    async fn retry(&mut self, n: usize) {
        let Some(id) = self.any_mail(n) else { return };
        let now = self.now;
        let lifetime = minutes(90);
        let kept = self.mails.get_mut(&id).expect("known");
        let mut taken = Vec::new();
        let mut revived = false;
        let any_dead = kept
            .deliveries
            .iter()
            .any(|delivery| matches!(delivery.stage, Stage::Dead { .. }));

        for index in 0..kept.deliveries.len() {
            let delivery = &mut kept.deliveries[index];
            match delivery.stage {
                Stage::Cancelled { .. } if any_dead => continue,
                Stage::Dead { .. } | Stage::Cancelled { .. } => {
                    (delivery.tries, delivery.counted, delivery.crashes) = (0, 0, 0);
                    revived = true;
                }
                Stage::Pending { due } if due > now && !kept.leased[index] => {}
                _ => continue,
            }
            delivery.stage = Stage::Pending { due: now };
            taken.push(delivery.recipient.clone());
        }

        if revived {
            // The lifetime of what else is pending is not cut short.
            kept.manifest.expires_at = kept.manifest.expires_at.max(now + lifetime);
        }

        let expected = if taken.is_empty() {
            OperationResult::TooLate
        } else {
            OperationResult::Done(taken)
        };

        assert_eq!(
            self.spool.retry(id, now, lifetime).await,
            Ok(expected),
            "what a retry queues again"
        );
    }

    async fn purge(&mut self, n: usize) {
        let Some(id) = self.any_mail(n) else { return };
        let kept = &self.mails[&id];
        if kept.finished_at().is_none() {
            assert_eq!(
                self.spool.purge(id).await,
                Ok(OperationResult::TooLate),
                "only what has ended can be purged"
            );
            return;
        }

        let all = kept
            .deliveries
            .iter()
            .map(|delivery| delivery.recipient.clone())
            .collect();

        assert_eq!(
            self.spool.purge(id).await,
            Ok(OperationResult::Done(all)),
            "what has ended can be purged"
        );

        self.mails.remove(&id);
    }

    async fn reroute(&mut self) {
        let known = ["primary", "backup"].map(|route| Route::over([route]));
        let fallback = Route::over(["primary"]);
        let mut moved = 0;
        for kept in self.mails.values_mut() {
            for index in 0..kept.deliveries.len() {
                if kept.is_free(index) && !known.contains(&kept.deliveries[index].route) {
                    kept.deliveries[index].route = fallback.clone();
                    moved += 1;
                }
            }
        }

        let mut sum = 0;
        loop {
            let step = self
                .spool
                .reroute(known.clone().into(), fallback.clone())
                .await
                .expect("writable");
            sum += step;
            if step == 0 {
                break;
            }
        }

        assert_eq!(
            sum, moved,
            "what waits in queues that are not known is moved"
        );
    }

    async fn reopen(&mut self, by_kill: bool) {
        if !self.home.is_kept() {
            return;
        }

        // A store can be opened again once nobody has it; meanwhile another stands in.
        let old = std::mem::replace(
            &mut self.spool,
            postrider::spool::memory::open(SpoolOptions::default()),
        );

        self.spool = self.home.reopen(old, by_kill).await;
        // The old spool's leases have nobody left to go back to.
        self.held.clear();
        self.stale.clear();
        self.stale_settles = 0;

        // Only who lives can tell: what was not told by then stands in the records.
        self.untold.clear();
        for (id, kept) in &mut self.mails {
            kept.leased.fill(false);
            for (index, delivery) in kept.deliveries.iter_mut().enumerate() {
                if matches!(delivery.stage, Stage::Committing { .. }) {
                    let record = self
                        .spool
                        .get(*id)
                        .await
                        .expect("readable")
                        .expect("it is there");
                    let stage = record.deliveries[index].stage;
                    let in_doubt = matches!(
                        stage,
                        Stage::Dead {
                            reason: DeadReason::InDoubt,
                            ..
                        }
                    );
                    assert!(
                        in_doubt,
                        "what may have been sent is dead in doubt, not {stage:?}"
                    );
                    // When is told by the system's clock, which is not the history's.
                    delivery.stage = stage;
                    self.untold.push((*id, delivery.recipient.clone()));
                }
            }
        }
    }
}
