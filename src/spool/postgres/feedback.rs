//! Bounces, complaints and other reports that came back for mail, in a table of their own: stored,
//! entered into the journal and acted upon in one commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures::FutureExt;
use uuid::Uuid;

use super::link::Connected;
use super::shared::{Committed, NodeState, bump};
use super::{PostgresNode, rows, suppressions};
use crate::delivery::{Feedback, KEPT_FEEDBACK};
use crate::mail::{Address, MailId};
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::{FeedbackResult, FeedbackStore, Manifest, NewFeedback, SpoolError, codec};

/// How many reports are written in one commit.
const STEP_ENTRIES: usize = 64;

/// All reports about these mails, each with the index of its delivery; the oldest first.
pub(super) async fn of_mails(
    on: &Connected,
    ids: &[Uuid],
) -> Result<HashMap<Uuid, Vec<FeedbackRow>>, tokio_postgres::Error> {
    let rows = on
        .query(
            "SELECT mail, idx, id, data FROM feedback WHERE mail = ANY($1) ORDER BY mail, idx, at, \
             id",
            &[&ids],
        )
        .await?;

    let mut found: HashMap<Uuid, Vec<FeedbackRow>> = HashMap::new();
    for row in &rows {
        let Ok(feedback) = codec::decode::<Feedback>(row.get("data")) else {
            continue;
        };
        found.entry(row.get("mail")).or_default().push(FeedbackRow {
            index: rows::index(row),
            id: *row.get::<_, Uuid>("id").as_bytes(),
            feedback,
        });
    }
    Ok(found)
}

/// A report, as its row.
pub(super) struct FeedbackRow {
    pub index: u16,
    pub id: [u8; 16],
    pub feedback: Feedback,
}

/// Stores the reports about a mail; those that exist already stay as they are.
pub(super) async fn insert(
    on: &Connected,
    new: impl Iterator<Item = (MailId, u16, [u8; 16], &Feedback)>,
) -> Result<(), tokio_postgres::Error> {
    let (mut mails, mut places, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    let (mut ats, mut data) = (Vec::new(), Vec::new());
    for (mail, index, id, feedback) in new {
        mails.push(rows::uuid(mail));
        places.push(i32::from(index));
        ids.push(Uuid::from_bytes(id));
        ats.push(feedback.at.as_millis());
        data.push(codec::encode(feedback));
    }

    if mails.is_empty() {
        return Ok(());
    }
    on.execute(
        "INSERT INTO feedback (mail, idx, id, at, data)
         SELECT * FROM unnest($1::uuid[], $2::int4[], $3::uuid[], $4::int8[],
           $5::bytea[]) ON CONFLICT DO NOTHING",
        &[&mails, &places, &ids, &ats, &data],
    )
    .await
    .map(|_| ())
}

/// What is known about the deliveries that reports are about.
struct KnownDeliveries {
    manifests: HashMap<Uuid, Manifest>,
    recipients: HashMap<(Uuid, i32), Address>,
    /// The names of the stored reports of each delivery.
    kept: HashMap<(Uuid, i32), Vec<Uuid>>,
}

impl KnownDeliveries {
    /// Reads it, and locks the mails, so that concurrent reports wait.
    async fn read(on: &Connected, new: &[NewFeedback]) -> Result<Self, tokio_postgres::Error> {
        let mut ids: Vec<Uuid> = new.iter().map(|one| rows::uuid(one.mail)).collect();
        ids.sort_unstable();
        ids.dedup();

        let mails = on
            .query(
                "SELECT m.id, m.manifest, m.expires_at,
                  m.recipients FROM unnest($1::uuid[]) WITH ORDINALITY AS u(id, ord)
                 CROSS JOIN LATERAL (SELECT * FROM mails m WHERE m.id = u.id FOR UPDATE) m",
                &[&ids],
            )
            .await?;

        let (mut manifests, mut recipients) = (HashMap::new(), HashMap::new());
        for row in &mails {
            let id: Uuid = row.get("id");
            let names: Vec<String> = row.get("recipients");
            for (idx, name) in (0i32..).zip(&names) {
                recipients.extend(Address::parse(name).ok().map(|name| ((id, idx), name)));
            }
            manifests.extend(rows::manifest(row).ok().map(|manifest| (id, manifest)));
        }

        let found = on
            .query(
                "SELECT mail, idx, id FROM feedback WHERE mail = ANY($1)",
                &[&ids],
            )
            .await?;
        let mut kept: HashMap<(Uuid, i32), Vec<Uuid>> = HashMap::new();
        for row in &found {
            let of_one = kept.entry((row.get(0), row.get(1))).or_default();
            of_one.push(row.get(2));
        }

        Ok(KnownDeliveries {
            manifests,
            recipients,
            kept,
        })
    }

    /// Decides whether a report is stored, and counts it as known from now on.
    fn judge(&mut self, one: &NewFeedback) -> FeedbackResult {
        let place = (rows::uuid(one.mail), i32::from(one.index));
        if !self.manifests.contains_key(&place.0) || !self.recipients.contains_key(&place) {
            return FeedbackResult::Unknown;
        }
        let kept = self.kept.entry(place).or_default();
        let id = Uuid::from_bytes(one.id);
        if kept.contains(&id) || kept.len() >= KEPT_FEEDBACK {
            return FeedbackResult::Known;
        }
        kept.push(id);
        FeedbackResult::Kept
    }
}

async fn keep(
    on: &Connected,
    new: &[NewFeedback],
) -> Result<(Vec<FeedbackResult>, Option<Committed>), tokio_postgres::Error> {
    let mut known = KnownDeliveries::read(on, new).await?;
    let results: Vec<FeedbackResult> = new.iter().map(|one| known.judge(one)).collect();
    let kept: Vec<&NewFeedback> = new
        .iter()
        .zip(&results)
        .filter(|(_, result)| **result == FeedbackResult::Kept)
        .map(|(one, _)| one)
        .collect();
    if kept.is_empty() {
        return Ok((results, None));
    }

    let columns = kept
        .iter()
        .map(|one| (one.mail, one.index, one.id, &one.feedback));
    insert(on, columns).await?;

    let mut entries = PendingEntries::default();
    for one in &kept {
        let mail = rows::uuid(one.mail);
        let manifest = known.manifests.get(&mail);
        let recipient = known.recipients.get(&(mail, i32::from(one.index)));
        if let (Some(manifest), Some(recipient)) = (manifest, recipient) {
            let happened =
                JournalEntry::fed_back(manifest, recipient, &one.feedback, one.permanent);
            entries.extend(happened);
        }
    }

    // Of two suppressions for one address the later counts.
    let suppressed = kept.iter().filter_map(|one| one.suppression.clone());
    let suppressed: BTreeMap<_, _> = suppressed.map(|s| (suppressions::key(&s), s)).collect();
    let suppressed: Vec<_> = suppressed.into_values().collect();
    if !suppressed.is_empty() {
        suppressions::insert(on, &suppressed).await?;
    }

    let committed = bump(on, entries, &rows::TotalsChange::default()).await?;
    Ok((results, committed))
}

#[async_trait]
impl FeedbackStore for PostgresNode {
    async fn keep(&self, new: Vec<NewFeedback>) -> Result<Vec<FeedbackResult>, SpoolError> {
        let node = &self.node;
        let suppresses = new.iter().any(|one| one.suppression.is_some());

        // A poll that began before this commit must not conclude that there are no suppressions.
        node.adding.fetch_add(1, Ordering::AcqRel);
        if suppresses {
            node.suppresses.store(true, Ordering::Release);
        }
        let kept = keep_all(node, new).await;
        if suppresses {
            node.suppresses.store(true, Ordering::Release);
        }
        node.adding.fetch_add(1, Ordering::AcqRel);
        kept
    }
}

async fn keep_all(
    node: &std::sync::Arc<NodeState>,
    new: Vec<NewFeedback>,
) -> Result<Vec<FeedbackResult>, SpoolError> {
    let mut results = Vec::with_capacity(new.len());
    let mut rest = new.into_iter();

    loop {
        let some: Vec<NewFeedback> = rest.by_ref().take(STEP_ENTRIES).collect();
        if some.is_empty() {
            return Ok(results);
        }
        let kept = node.change(move |_, on| {
            let some = some.clone();
            async move { keep(on, &some).await }.boxed()
        });
        results.extend(kept.await?);
    }
}
