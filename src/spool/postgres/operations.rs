//! What users do to mail (cancel, retry, purge), and what a changed configuration does (reroute).
//! Each is one transaction.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio_postgres::Row;

use super::link::Connected;
use super::reading::ask;
use super::rows::{self, CANCELLED, DEAD, OF_ENDED, OF_READY, PENDING, TotalsChange};
use super::shared::{Committed, NodeState, bump};
use super::{ending, hints, sweep};
use crate::delivery::{Requester, Route, Stage};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::{OperationResult, SpoolError};

/// How many deliveries one step of rerouting moves.
const REROUTE_STEP: i64 = 500;

type ChangeResult<T> = Result<(T, Option<Committed>), tokio_postgres::Error>;

pub(super) async fn cancel(
    node: &Arc<NodeState>,
    by: &Requester,
    id: MailId,
    now: Timestamp,
) -> Result<OperationResult, SpoolError> {
    let by = by.clone();
    let result = node
        .change(move |node, on| {
            let by = by.clone();
            async move { cancel_in(node, on, &by, id, now).await }.boxed()
        })
        .await?;
    if matches!(result, OperationResult::Done(_)) {
        node.hints.sweep_at(node.kept_until(now.as_millis()));
    }
    Ok(result)
}

async fn is_known(on: &Connected, id: MailId) -> Result<bool, tokio_postgres::Error> {
    let rows = on
        .query("SELECT FROM mails WHERE id = $1", &[&rows::uuid(id)])
        .await?;
    Ok(!rows.is_empty())
}

async fn cancel_in(
    node: &NodeState,
    on: &Connected,
    by: &Requester,
    id: MailId,
    now: Timestamp,
) -> ChangeResult<OperationResult> {
    let taken = on
        .query(
            &format!("DELETE FROM ready WHERE mail = $1 AND owner = 0 RETURNING {OF_READY}"),
            &[&rows::uuid(id)],
        )
        .await?;

    if taken.is_empty() {
        let result = match is_known(on, id).await? {
            true => OperationResult::TooLate,
            false => OperationResult::Unknown,
        };
        return Ok((result, None));
    }

    let mut endings = ending::taken(node, on, &taken, |_| Stage::Cancelled { at: now }).await?;
    endings.sort_by_key(|ending| ending.index);
    let committed = ending::end_all(node, on, by, act("cancel", by, id, now), &endings).await?;
    let recipients = endings.into_iter().map(|ending| ending.delivery.recipient);
    Ok((OperationResult::of(recipients.collect()), committed))
}

/// The journal entry that a user did this to a mail, written after those of its deliveries.
fn act<'a>(
    act: &'a str,
    by: &'a Requester,
    id: MailId,
    now: Timestamp,
) -> Option<JournalEntry<'a>> {
    let is_recorded = by.who.is_some() && !by.is_part;
    is_recorded.then(|| JournalEntry::act(act, id, now).by(by))
}

pub(super) async fn retry(
    node: &Arc<NodeState>,
    by: &Requester,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Result<OperationResult, SpoolError> {
    let by = by.clone();
    let result = node
        .change(move |node, on| {
            let by = by.clone();
            async move { retry_in(node, on, &by, (id, now), lifetime).await }.boxed()
        })
        .await??;

    if matches!(result, OperationResult::Done(_)) {
        node.hints.mark_due([hints::ANY_ROUTE]);
        node.hints.sweep_at((now + lifetime).as_millis());
        node.changed.notify_one();
    }

    Ok(result)
}

async fn retry_in(
    node: &NodeState,
    on: &Connected,
    by: &Requester,
    (id, now): (MailId, Timestamp),
    lifetime: Duration,
) -> ChangeResult<Result<OperationResult, SpoolError>> {
    // Locks the mail, so that a concurrent purge or retry waits.
    let mails = on
        .query(
            "SELECT id, manifest, expires_at, draft IS NOT NULL AS is_draft, forgotten FROM mails \
             WHERE id = $1 FOR UPDATE",
            &[&rows::uuid(id)],
        )
        .await?;
    let Some(mail) = mails.first() else {
        return Ok((Ok(OperationResult::Unknown), None));
    };

    if mail.get("is_draft") {
        // A draft that could not be composed has no message.
        return Ok((Ok(OperationResult::TooLate), None));
    }

    if mail.get("forgotten") {
        return Ok((Err(SpoolError::Forgotten(id)), None));
    }
    let manifest = rows::manifest(mail).ok();

    let stages = on
        .query(
            "SELECT DISTINCT stage FROM ended WHERE mail = $1 AND stage >= 3",
            &[&rows::uuid(id)],
        )
        .await?;

    let has = |wanted: i16| stages.iter().any(|row| row.get::<_, i16>(0) == wanted);
    // Cancelled deliveries are retried only if none is dead: a user who retries dead letters does
    // not mean the deliveries that were cancelled.
    let revived = match (has(DEAD), has(CANCELLED)) {
        (true, _) => Some(DEAD),
        (false, true) => Some(CANCELLED),
        (false, false) => None,
    };
    let account = manifest.as_ref().map_or(0, rows::account);

    let mut totals = TotalsChange::default();
    let mut retried: Vec<(u16, Address)> = Vec::new();
    let mut take = |rows: &[Row]| {
        let read = rows.iter().map(|row| rows::delivery(row, &node.routes));
        retried.extend(read.map(|read| (read.index, read.delivery.recipient)));
    };

    let sooner = on
        .query(
            &format!(
                "UPDATE ready SET due = $2 WHERE mail = $1 AND owner = 0 AND stage = 0 AND due > $2
                 RETURNING {OF_READY}"
            ),
            &[&rows::uuid(id), &now.as_millis()],
        )
        .await?;

    node.routes.learn_those(on, &sooner).await?;
    take(&sooner);
    if let Some(stage) = revived {
        let expires_at: i64 = mail.get("expires_at");
        let expires_at = expires_at.max((now + lifetime).as_millis());
        on.execute(
            "UPDATE mails SET expires_at = $2 WHERE id = $1",
            &[&rows::uuid(id), &expires_at],
        )
        .await?;
        on.execute(
            "UPDATE ready SET expires_at = $2 WHERE mail = $1",
            &[&rows::uuid(id), &expires_at],
        )
        .await?;
        let again = on
            .query(
                &format!(
                    "WITH x AS (DELETE FROM ended WHERE mail = $1 AND stage = $2 RETURNING *),
                   i AS (INSERT INTO ready (mail, idx, route, priority, due, expires_at, size,
                     account, data)
                     SELECT x.mail, x.idx, x.route, x.priority, $3, $4, $5, $6,
                       x.data FROM x RETURNING 1)
                 SELECT {OF_ENDED}, (SELECT count(*) FROM i) FROM x"
                ),
                &[
                    &rows::uuid(id),
                    &stage,
                    &now.as_millis(),
                    &expires_at,
                    &manifest
                        .as_ref()
                        .map_or(0, |manifest| i64::try_from(manifest.size).unwrap_or(0)),
                    &account,
                ],
            )
            .await?;
        node.routes.learn_those(on, &again).await?;
        for row in &again {
            totals.add(stage, row.get("priority"), -1);
            totals.add(PENDING, row.get("priority"), 1);
            totals.accounts.pending(account, 1);
        }
        take(&again);
    }

    if retried.is_empty() {
        return Ok((Ok(OperationResult::TooLate), None));
    }
    retried.sort_by_key(|(index, _)| *index);

    let mut entries = PendingEntries::default();
    if let Some(manifest) = &manifest {
        for (_, recipient) in &retried {
            entries.push(JournalEntry::retried(manifest, recipient, now).by(by));
        }
    }

    entries.extend(act("retry", by, id, now));
    let committed = bump(on, entries, &totals).await?;
    let recipients = retried
        .into_iter()
        .map(|(_, recipient)| recipient)
        .collect();

    Ok((Ok(OperationResult::Done(recipients)), committed))
}

pub(super) async fn purge(
    node: &Arc<NodeState>,
    by: &Requester,
    id: MailId,
    now: Timestamp,
) -> Result<OperationResult, SpoolError> {
    let by = by.clone();
    node.change(move |node, on| {
        let by = by.clone();
        async move { purge_in(node, on, &by, id, now).await }.boxed()
    })
    .await
}

async fn purge_in(
    node: &NodeState,
    on: &Connected,
    by: &Requester,
    id: MailId,
    now: Timestamp,
) -> ChangeResult<OperationResult> {
    let mails = on
        .query(
            "SELECT id, manifest, expires_at,
              EXISTS (SELECT FROM ready r WHERE r.mail = m.id) AS waits
             FROM mails m WHERE id = $1 FOR UPDATE",
            &[&rows::uuid(id)],
        )
        .await?;
    let Some(mail) = mails.first() else {
        return Ok((OperationResult::Unknown, None));
    };

    if mail.get("waits") {
        return Ok((OperationResult::TooLate, None));
    }
    let ended = on
        .query(
            &format!("SELECT {OF_ENDED} FROM ended WHERE mail = $1 ORDER BY idx"),
            &[&rows::uuid(id)],
        )
        .await?;

    node.routes.learn_those(on, &ended).await?;
    let read = ended.iter().map(|row| rows::delivery(row, &node.routes));
    let recipients = read.map(|read| read.delivery.recipient).collect();

    let mut entries = PendingEntries::default();
    if let Ok(manifest) = rows::manifest(mail) {
        entries.push(JournalEntry::purged(&manifest, now).by(by));
    }
    entries.extend(act("purge", by, id, now));

    let committed = sweep::delete(on, &[rows::uuid(id)], entries).await?;
    Ok((OperationResult::Done(recipients), committed))
}

pub(super) async fn reroute(
    node: &Arc<NodeState>,
    known: Vec<Route>,
    fallback: Route,
) -> Result<usize, SpoolError> {
    let named: Result<(), SpoolError> = ask!(node, on => node.routes.name_all(&on, [&fallback]));
    named?;
    let moved = node
        .change(move |node, on| reroute_in(node, on, known.clone(), fallback.clone()).boxed())
        .await?;
    if moved > 0 {
        node.hints.mark_due([hints::ANY_ROUTE]);
        node.changed.notify_one();
    }
    Ok(moved)
}

async fn reroute_in(
    node: &NodeState,
    on: &Connected,
    known: Vec<Route>,
    fallback: Route,
) -> ChangeResult<usize> {
    node.routes.learn(on).await?;
    let unknown: Vec<i32> = node
        .routes
        .all()
        .into_iter()
        .filter(|(_, route)| !known.contains(route) && *route != fallback)
        .map(|(id, _)| id)
        .collect();

    if unknown.is_empty() {
        return Ok((0, None));
    }

    let to = node.routes.id(&fallback).unwrap_or(0);
    let moved = on
        .execute(
            "WITH x AS MATERIALIZED (SELECT x.mail, x.idx FROM unnest($1::int4[]) q(route)
               CROSS JOIN generate_series(0, 2) p
               CROSS JOIN LATERAL (SELECT r.mail, r.idx FROM ready r
                 WHERE r.route = q.route AND r.priority = p::int2 AND r.owner = 0 AND r.stage = 0
                 ORDER BY r.due, r.mail, r.idx LIMIT $3) x LIMIT $3)
             UPDATE ready r SET route = $2 FROM x WHERE r.mail = x.mail AND r.idx = x.idx AND
               r.owner = 0",
            &[&unknown, &to, &REROUTE_STEP],
        )
        .await?;

    Ok((usize::try_from(moved).unwrap_or(0), None))
}
