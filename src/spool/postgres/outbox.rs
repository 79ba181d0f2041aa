//! The outbox table: `enqueue` writes a row in the application's transaction, and a put deletes it
//! in the transaction that stores its mail.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use uuid::Uuid;

use super::PostgresNode;
use super::ending::{self, EndedRow};
use super::link::Connected;
use super::reading::ask;
use super::rows::{self, DEAD, TotalsChange};
use super::shared::{NodeState, bump};
use crate::delivery::{Attempt, DeadReason, Delivery, Phase, Route, Stage};
use crate::mail::{Address, Guarantee, MailId, Priority, Timestamp};
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::outbox::{Handful, Outbox, OutboxDraft};
use crate::spool::{Manifest, SpoolError};

/// The most characters of an error that are stored.
const REASON_CHARACTERS: usize = 2000;

/// How often the outbox is read from its beginning: a long transaction may commit rows before those
/// that were seen, and rows of a dead node are there as well.
const FULL_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// After how long other nodes than the oldest look after a draft.
const OTHER_NODES_DELAY: Duration = Duration::from_millis(200);

/// What this node knows about the drafts in the outbox.
#[derive(Default)]
pub(super) struct Drafts {
    /// The drafts that this node is composing or storing.
    in_hand: Mutex<HashSet<MailId>>,
    /// The first free draft when last seen. Only dead rows lie before it in the index, and a query
    /// would walk over them.
    from: Mutex<Uuid>,
    looked: Mutex<Option<Instant>>,
    arrived: Notify,
}

impl Drafts {
    pub(super) fn in_hand(&self) -> MutexGuard<'_, HashSet<MailId>> {
        self.in_hand.lock()
    }

    pub(super) fn from(&self) -> Uuid {
        *self.from.lock()
    }

    /// Records the first free draft; `now` is the server's time, as is the time in the draft's id.
    /// The oldest node moves all drafts together as long as it keeps up.
    pub(super) fn found(&self, first: Uuid, is_first_node: bool, now: Timestamp) {
        *self.from.lock() = first;
        let waits = now.since(rows::mail_id(first).made_at());
        if is_first_node || waits > OTHER_NODES_DELAY {
            self.arrived.notify_one();
        }
    }

    /// The id from which to look now.
    fn look(&self) -> Uuid {
        let mut looked = self.looked.lock();
        match looked.is_none_or(|at| at.elapsed() >= FULL_LOOK_INTERVAL) {
            true => {
                *looked = Some(Instant::now());
                Uuid::nil()
            }
            false => self.from(),
        }
    }
}

/// Takes drafts in the order of their ids, which is the order in which they were enqueued. Includes
/// drafts that this session took but does not hold: the answer was lost, or they could not be
/// returned because the database was unavailable. Large drafts are read again afterwards, so that
/// they need not be kept while the number that fits is determined; of one that is too large, the
/// text is not read at all.
const TAKE_DRAFTS: &str = "
WITH b AS MATERIALIZED (SELECT id,
      CASE WHEN pg_column_size(draft) <= 8192 THEN draft_text(draft, $5) END AS json,
      CASE WHEN pg_column_size(draft) > 8192 THEN octet_length(draft_text(draft, $5)) END AS large
    FROM outbox WHERE id >= $6
      AND (owner = 0 OR (owner = $1 AND id <> ALL($3))
        OR NOT EXISTS (SELECT FROM sessions s WHERE s.id = owner))
    ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED),
  l AS (SELECT id, json, coalesce(large, octet_length(json)) AS size FROM b),
  x AS (SELECT id, json, size,
      sum(coalesce(size, 0)) OVER (ORDER BY id) - coalesce(size, 0) AS before FROM l)
UPDATE outbox o SET owner = $1 FROM x WHERE o.id = x.id AND x.before < $4
RETURNING o.id, CASE WHEN x.size IS NOT NULL THEN coalesce(x.json, draft_text(o.draft, $5)) END";

#[async_trait]
impl Outbox for PostgresNode {
    fn arrived(&self) -> &Notify {
        &self.node.drafts.arrived
    }

    async fn take(&self, most: Handful) -> Result<Vec<OutboxDraft>, SpoolError> {
        let node = &self.node;
        if let Some(failure) = node.failure() {
            return Err(failure);
        }

        let session = node.session();
        let drafts = i64::try_from(most.drafts).unwrap_or(i64::MAX);
        let bytes = i64::try_from(most.bytes).unwrap_or(i64::MAX);
        let largest = i64::try_from(most.largest).unwrap_or(i64::MAX);
        let in_hand = node.drafts.in_hand().clone();
        let in_hand: Vec<Uuid> = in_hand.into_iter().map(rows::uuid).collect();
        let from = node.drafts.look();
        let rows: Result<Vec<tokio_postgres::Row>, SpoolError> = ask!(node, on => on.query(
            TAKE_DRAFTS,
            &[&session, &drafts, &in_hand, &bytes, &largest, &from],
        ));
        let drafts: Vec<OutboxDraft> = rows?
            .iter()
            .map(|row| OutboxDraft {
                id: rows::mail_id(row.get(0)),
                json: row.get(1),
            })
            .collect();

        let mut in_hand = node.drafts.in_hand();
        in_hand.extend(drafts.iter().map(|draft| draft.id));
        Ok(drafts)
    }

    async fn became(&self, draft: MailId, mail: MailId) -> Result<(), SpoolError> {
        self.node
            .change(move |_, on| {
                async move {
                    let (id, mail) = (rows::uuid(draft), rows::uuid(mail));
                    if id != mail {
                        on.execute(
                            "INSERT INTO aliases (id, mail) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                            &[&id, &mail],
                        )
                        .await?;
                    }
                    on.execute("DELETE FROM outbox WHERE id = $1", &[&id])
                        .await?;
                    Ok(((), None))
                }
                .boxed()
            })
            .await?;

        self.node.drafts.in_hand().remove(&draft);
        Ok(())
    }

    async fn reject(
        &self,
        draft: &OutboxDraft,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let node = &self.node;
        let id = draft.id;

        let nowhere = Route::over([]);
        let named: Result<(), SpoolError> = ask!(node, on => node.routes.name_all(&on, [&nowhere]));
        named?;
        let draft = draft.clone();

        let reason: String = reason.chars().take(REASON_CHARACTERS).collect();
        self.node
            .change(move |node, on| {
                let (draft, reason) = (draft.clone(), reason.clone());
                async move { reject_in(node, on, &draft, &reason, now).await }.boxed()
            })
            .await?;

        node.drafts.in_hand().remove(&id);
        node.hints.sweep_at(node.kept_until(now.as_millis()));
        Ok(())
    }

    async fn give_back(&self, drafts: Vec<MailId>) -> Result<(), SpoolError> {
        {
            let mut in_hand = self.node.drafts.in_hand();
            drafts.iter().for_each(|draft| _ = in_hand.remove(draft));
        }
        let ids: Vec<Uuid> = drafts.into_iter().map(rows::uuid).collect();
        let node = &self.node;
        let done: Result<u64, SpoolError> = ask!(node, on => on.execute(
            "UPDATE outbox SET owner = 0 WHERE id = ANY($1)",
            &[&ids],
        ));
        done.map(|_| ())
    }
}

/// Stores a draft as a mail whose deliveries are dead.
async fn reject_in(
    node: &NodeState,
    on: &Connected,
    draft: &OutboxDraft,
    reason: &str,
    now: Timestamp,
) -> Result<((), Option<super::shared::Committed>), tokio_postgres::Error> {
    let id = rows::uuid(draft.id);
    let size = on
        .query(
            "SELECT pg_column_size(draft) FROM outbox WHERE id = $1 FOR UPDATE",
            &[&id],
        )
        .await?;
    let Some(size) = size.first() else {
        return Ok(((), None));
    };
    let size = match &draft.json {
        Some(json) => json.len() as u64,
        None => u64::try_from(size.get::<_, i32>(0)).unwrap_or(0),
    };
    let readable = UnusableDraft::of(draft.json.as_deref());

    let route = Route::over([]);
    let stage = Stage::Dead {
        at: now,
        reason: DeadReason::Rejected,
    };

    let priority = rows::priority_number(Priority::Default);
    let numbered = (0u16..).zip(readable.recipients);
    let endings: Vec<EndedRow> = numbered
        .map(|(index, recipient)| {
            let mut delivery = Delivery::new(recipient, route.clone(), now);
            delivery.stage = stage;
            delivery.tries = 1;
            delivery.attempts.push(Attempt {
                at: now,
                relay: String::new(),
                phase: Phase::Local,
                code: None,
                enhanced: None,
                text: reason.to_owned(),
                tls: None,
            });
            EndedRow {
                mail: draft.id,
                index,
                priority,
                account: 0,
                delivery,
                unread: None,
            }
        })
        .collect();

    let manifest = Manifest {
        id: draft.id,
        accepted_at: now,
        expires_at: now,
        return_path: None,
        message_id: format!("<{}@outbox.invalid>", draft.id),
        subject: readable.subject,
        priority: Priority::Default,
        guarantee: Guarantee::AtLeastOnce,
        tags: Vec::new(),
        idempotency_key: None,
        fingerprint: 0,
        size,
        recipients: u16::try_from(endings.len()).unwrap_or(u16::MAX),
        eight_bit: false,
        smtputf8: false,
        submitter: None,
        mended: Vec::new(),
        template: None,
        list: None,
    };

    let names: Vec<String> = endings
        .iter()
        .map(|ending| rows::text(&ending.delivery.recipient.to_string()))
        .collect();

    // A draft that cannot be composed has no message, so a retry could send nothing.
    on.execute(
        "INSERT INTO mails (id, accepted_at, expires_at, priority, recipients, manifest, body,
          forgotten, draft)
         SELECT $1, $2, $2, $3, $4, $5, '', true, draft FROM outbox WHERE id = $1",
        &[
            &id,
            &now.as_millis(),
            &priority,
            &names,
            &rows::manifest_bytes(&manifest),
        ],
    )
    .await?;
    on.execute("DELETE FROM outbox WHERE id = $1", &[&id])
        .await?;

    let mut totals = TotalsChange::default();
    let mut entries = PendingEntries::default();
    entries.push(JournalEntry::accepted(&manifest));
    for ending in &endings {
        totals.add(DEAD, priority, 1);
        let delivery = &ending.delivery;
        entries.push(JournalEntry::became(
            draft.id,
            Some(&manifest),
            delivery,
            true,
            now,
        ));
    }

    ending::insert(node, on, &endings).await?;
    let committed = bump(on, entries, &totals).await?;
    Ok(((), committed))
}

/// The readable parts of a draft that cannot be composed: a record needs a recipient.
struct UnusableDraft {
    recipients: Vec<Address>,
    subject: String,
}

impl UnusableDraft {
    fn of(json: Option<&str>) -> Self {
        let draft = json.and_then(|json| serde_json::from_str(json).ok());
        let draft: serde_json::Value = draft.unwrap_or_default();
        let mut recipients = Vec::new();
        for field in ["to", "cc", "bcc"] {
            collect(&draft[field], &mut recipients);
        }
        if recipients.is_empty() {
            recipients.extend("unknown@recipient.invalid".parse().ok());
        }

        let subject = draft["subject"].as_str().unwrap_or_default();
        UnusableDraft {
            recipients,
            subject: subject.chars().take(200).collect(),
        }
    }
}

fn collect(value: &serde_json::Value, found: &mut Vec<Address>) {
    match value {
        serde_json::Value::String(text) => {
            let bare = text
                .rsplit_once('<')
                .map_or(text.as_str(), |(_, rest)| rest);
            let address = bare.trim_end_matches('>').trim().parse();
            found.extend(address.ok().filter(|_| found.len() < 100));
        }
        serde_json::Value::Array(all) => all.iter().for_each(|one| collect(one, found)),
        _ => {}
    }
}
