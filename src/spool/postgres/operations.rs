//! What users do to mail: cancel, retry, purge; and what a changed configuration does: reroute. Each is
//! one transaction.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio_postgres::Row;

use super::link::Connected;
use super::reading::ask;
use super::rows::{self, CANCELLED, DEAD, OF_READY, PENDING, Totals};
use super::shared::{Committed, Core, bump};
use super::{session, sweep};
use crate::delivery::{Delivery, Route, Stage};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::keyed::journal::entry::{Entry, Told};
use crate::spool::{OperationResult, SpoolError};

/// How many deliveries one step of rerouting moves.
const REROUTE: i64 = 500;

type Failure = tokio_postgres::Error;
type Changed<T> = Result<(T, Option<Committed>), Failure>;

pub(super) async fn cancel(
    core: &Arc<Core>,
    id: MailId,
    now: Timestamp,
) -> Result<OperationResult, SpoolError> {
    let result = core
        .change(move |core, on| cancel_in(core, on, id, now).boxed())
        .await?;
    if matches!(result, OperationResult::Done(_)) {
        core.hints.sweep_at(core.kept_until(now.as_millis()));
    }
    Ok(result)
}

async fn is_known(on: &Connected, id: MailId) -> Result<bool, Failure> {
    let rows = on
        .query("SELECT FROM mails WHERE id = $1", &[&rows::uuid(id)])
        .await?;
    Ok(!rows.is_empty())
}

async fn cancel_in(
    core: &Core,
    on: &Connected,
    id: MailId,
    now: Timestamp,
) -> Changed<OperationResult> {
    let taken = on
        .query(
            &format!(
                "DELETE FROM ready WHERE mail = $1 AND owner = 0 RETURNING {OF_READY}, priority"
            ),
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
    core.routes.learn_those(on, &taken).await?;
    let mut ended = Vec::with_capacity(taken.len());
    for row in &taken {
        match rows::delivery(row, &core.routes) {
            Ok((mail, index, mut delivery)) => {
                delivery.stage = Stage::Cancelled { at: now };
                ended.push((mail, index, row.get::<_, i16>("priority"), delivery));
            }
            Err(error) => tracing::error!(mail.id = %id, %error, "a delivery cannot be read"),
        }
    }
    ended.sort_by_key(|(_, index, ..)| *index);
    let committed = session::end_all(core, on, &ended).await?;
    let recipients = ended.into_iter().map(|(_, _, _, d)| d.recipient).collect();
    Ok((OperationResult::of(recipients), committed))
}

pub(super) async fn retry(
    core: &Arc<Core>,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Result<OperationResult, SpoolError> {
    let result = core
        .change(move |core, on| retry_in(core, on, id, now, lifetime).boxed())
        .await?;
    if matches!(result, OperationResult::Done(_)) {
        core.hints.due_at(now.as_millis());
        core.hints.sweep_at((now + lifetime).as_millis());
        core.changed.notify_one();
    }
    Ok(result)
}

async fn retry_in(
    core: &Core,
    on: &Connected,
    id: MailId,
    now: Timestamp,
    lifetime: Duration,
) -> Changed<OperationResult> {
    // Whoever deletes the mail, or retries it as well, waits.
    let mails = on
        .query(
            "SELECT id, manifest, expires_at FROM mails WHERE id = $1 FOR UPDATE",
            &[&rows::uuid(id)],
        )
        .await?;
    let Some(mail) = mails.first() else {
        return Ok((OperationResult::Unknown, None));
    };
    let manifest = rows::manifest(mail).ok();
    let stages = on
        .query(
            "SELECT DISTINCT stage FROM ended WHERE mail = $1 AND stage >= 3",
            &[&rows::uuid(id)],
        )
        .await?;
    let has = |wanted: i16| stages.iter().any(|row| row.get::<_, i16>(0) == wanted);
    // Who wants dead letters sent again has not changed his mind about what he cancelled.
    let revived = match (has(DEAD), has(CANCELLED)) {
        (true, _) => Some(DEAD),
        (false, true) => Some(CANCELLED),
        (false, false) => None,
    };

    let mut totals = Totals::default();
    let mut retried: Vec<(u16, Address)> = Vec::new();
    let mut take = |rows: &[Row]| {
        for row in rows {
            match rows::delivery(row, &core.routes) {
                Ok((_, index, delivery)) => retried.push((index, delivery.recipient)),
                Err(error) => tracing::error!(mail.id = %id, %error, "a delivery cannot be read"),
            }
        }
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
    core.routes.learn_those(on, &sooner).await?;
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
                "WITH x AS (DELETE FROM ended WHERE mail = $1 AND stage = $2 RETURNING *),
                   i AS (INSERT INTO ready (mail, idx, route, priority, due, expires_at, size, data)
                     SELECT x.mail, x.idx, x.route, x.priority, $3, $4, $5, x.data FROM x RETURNING 1)
                 SELECT x.mail, x.idx, x.route, x.at, x.stage, x.reason, x.tries, x.counted, x.crashes, x.data,
                   x.priority, (SELECT count(*) FROM i) FROM x",
                &[
                    &rows::uuid(id),
                    &stage,
                    &now.as_millis(),
                    &expires_at,
                    &manifest
                        .as_ref()
                        .map_or(0, |manifest| i64::try_from(manifest.size).unwrap_or(0)),
                ],
            )
            .await?;
        core.routes.learn_those(on, &again).await?;
        for row in &again {
            totals.add(stage, row.get("priority"), -1);
            totals.add(PENDING, row.get("priority"), 1);
        }
        take(&again);
    }
    if retried.is_empty() {
        return Ok((OperationResult::TooLate, None));
    }
    retried.sort_by_key(|(index, _)| *index);
    let mut told = Told::default();
    if let Some(manifest) = &manifest {
        for (_, recipient) in &retried {
            told.tell(Entry::retried(manifest, recipient, now));
        }
    }
    let committed = bump(on, told, &totals).await?;
    let recipients = retried
        .into_iter()
        .map(|(_, recipient)| recipient)
        .collect();
    Ok((OperationResult::Done(recipients), committed))
}

pub(super) async fn purge(core: &Arc<Core>, id: MailId) -> Result<OperationResult, SpoolError> {
    core.change(move |core, on| purge_in(core, on, id).boxed())
        .await
}

async fn purge_in(core: &Core, on: &Connected, id: MailId) -> Changed<OperationResult> {
    let mails = on
        .query(
            "SELECT id, manifest, expires_at, EXISTS (SELECT FROM ready r WHERE r.mail = m.id) AS waits
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
            &format!(
                "SELECT {} FROM ended WHERE mail = $1 ORDER BY idx",
                rows::OF_ENDED
            ),
            &[&rows::uuid(id)],
        )
        .await?;
    core.routes.learn_those(on, &ended).await?;
    let deliveries: Vec<Delivery> = ended
        .iter()
        .filter_map(|row| rows::delivery(row, &core.routes).ok())
        .map(|(_, _, delivery)| delivery)
        .collect();
    let mut told = Told::default();
    if let Ok(manifest) = rows::manifest(mail) {
        told.tell(Entry::purged(&manifest, core.hints.now()));
    }
    let committed = sweep::delete(on, &[rows::uuid(id)], told).await?;
    let recipients = deliveries.into_iter().map(|d| d.recipient).collect();
    Ok((OperationResult::Done(recipients), committed))
}

pub(super) async fn reroute(
    core: &Arc<Core>,
    known: Vec<Route>,
    fallback: Route,
) -> Result<usize, SpoolError> {
    let named: Result<(), SpoolError> = ask!(core, on => core.routes.name_all(&on, [&fallback]));
    named?;
    let moved = core
        .change(move |core, on| reroute_in(core, on, known.clone(), fallback.clone()).boxed())
        .await?;
    if moved > 0 {
        core.changed.notify_one();
    }
    Ok(moved)
}

async fn reroute_in(
    core: &Core,
    on: &Connected,
    known: Vec<Route>,
    fallback: Route,
) -> Changed<usize> {
    core.routes.learn(on).await?;
    let unknown: Vec<i32> = core
        .routes
        .all()
        .into_iter()
        .filter(|(_, route)| !known.contains(route) && *route != fallback)
        .map(|(id, _)| id)
        .collect();
    if unknown.is_empty() {
        return Ok((0, None));
    }
    let to = core.routes.id(&fallback).unwrap_or(0);
    let moved = on
        .execute(
            "WITH x AS MATERIALIZED (SELECT x.mail, x.idx FROM unnest($1::int4[]) q(route)
               CROSS JOIN generate_series(0, 2) p
               CROSS JOIN LATERAL (SELECT r.mail, r.idx FROM ready r
                 WHERE r.route = q.route AND r.priority = p::int2 AND r.owner = 0 AND r.stage = 0
                 ORDER BY r.due, r.mail, r.idx LIMIT $3) x LIMIT $3)
             UPDATE ready r SET route = $2 FROM x WHERE r.mail = x.mail AND r.idx = x.idx AND r.owner = 0",
            &[&unknown, &to, &REROUTE],
        )
        .await?;
    Ok((usize::try_from(moved).unwrap_or(0), None))
}
