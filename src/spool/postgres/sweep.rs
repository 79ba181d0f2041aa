//! What happens to mail by time: expiry, retention, and the deletion of idempotency keys; in
//! bounded steps of one transaction each. Any node may run a step; rows that another node has
//! locked are skipped.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use tokio_postgres::Row;
use uuid::Uuid;

use super::ending;
use super::head::HEAD;
use super::link::Connected;
use super::rows::TotalsChange;
use super::shared::{Committed, NodeState, bump};
use crate::delivery::{DeadReason, Requester, Stage};
use crate::mail::Timestamp;
use crate::spool::keyed::journal::entry::PendingEntries;
use crate::spool::{SpoolError, SweepReport};

/// How many deliveries or mails one step handles.
const STEP_ROWS: i64 = 1000;
/// How long after its expiry a delivery that a sender holds is looked at again.
const GRACE: Duration = Duration::from_secs(1);

pub(super) async fn sweep(
    node: &Arc<NodeState>,
    now: Timestamp,
) -> Result<SweepReport, SpoolError> {
    node.check_open()?;
    node.hints.saw_clock(now);
    if node.hints.sweep() > now.as_millis() {
        return Ok(SweepReport::default());
    }
    node.sweeps.fetch_add(1, Ordering::AcqRel);

    let swept = node
        .change(move |node, on| step(node, on, now).boxed())
        .await;
    node.sweeps.fetch_add(1, Ordering::AcqRel);

    let mut report = swept?;
    report.ended.append(&mut node.unreported_ends.lock());
    Ok(report)
}

async fn step(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
) -> Result<(SweepReport, Option<Committed>), tokio_postgres::Error> {
    let mut report = SweepReport::default();
    let mut committed = expire(node, on, now, &mut report).await?;
    let pruned = prune(node, on, now, &mut report).await?;
    committed = pruned.or(committed);

    let bodies = forget_bodies(node, on, now).await?;
    let keys = forget_keys(node, on, now).await?;
    let journal = super::journal::prune(node, on, now).await?;
    report.more = report.ended.len() as i64 >= STEP_ROWS
        || report.pruned as i64 >= STEP_ROWS
        || keys as i64 >= STEP_ROWS
        || bodies as i64 >= STEP_ROWS
        || journal;

    // Set before reading, so that what arrives meanwhile can only make it earlier.
    node.hints.set_sweep(i64::MAX);
    let next = next(node, on).await?;
    let next = match report.more {
        true => next.min(now.as_millis()),
        // What a sender holds, or another node has locked, is looked at again a little later.
        false if next <= now.as_millis() => (now + GRACE).as_millis(),
        false => next,
    };

    node.hints.sweep_at(next);
    Ok((report, committed))
}

/// Ends expired deliveries that no sender holds.
async fn expire(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
    report: &mut SweepReport,
) -> Result<Option<Committed>, tokio_postgres::Error> {
    let rows = on
        .query(
            "WITH x AS MATERIALIZED (SELECT mail,
              idx FROM ready WHERE expires_at <= $1 AND owner = 0
               ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED)
             DELETE FROM ready r USING x WHERE r.mail = x.mail AND r.idx = x.idx AND r.owner = 0
             RETURNING r.mail, r.idx, r.route, r.priority, r.account, r.due AS at, r.stage,
               0::smallint AS reason, r.tries,
               r.counted, r.crashes, r.data,
               (SELECT m.recipients[r.idx + 1] FROM mails m WHERE m.id = r.mail) AS recipient",
            &[&now.as_millis(), &STEP_ROWS],
        )
        .await?;

    if rows.is_empty() {
        return Ok(None);
    }

    let reason = DeadReason::Expired;
    let endings = ending::taken(node, on, &rows, |_| Stage::Dead { at: now, reason }).await?;
    report.ended.extend(ending::reports(&endings));
    ending::end_all(node, on, &Requester::default(), None, &endings).await
}

/// The condition that a mail has ended: no delivery is pending, and row `e` is the last to have
/// ended.
const LAST_END: &str = "NOT EXISTS (SELECT FROM ready r WHERE r.mail = e.mail)
    AND NOT EXISTS (SELECT FROM ended f WHERE f.mail = e.mail AND (f.at, f.idx) > (e.at, e.idx))";

/// Deletes mails whose retention is over.
async fn prune(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
    report: &mut SweepReport,
) -> Result<Option<Committed>, tokio_postgres::Error> {
    let retention = i64::try_from(node.options.retention.as_millis()).unwrap_or(i64::MAX);
    let until = now.as_millis().saturating_sub(retention);
    let rows = on
        .query(
            &format!(
                "SELECT m.id FROM (SELECT e.mail FROM ended e WHERE e.at <= $1 AND {LAST_END}
                  ORDER BY e.at LIMIT $2) x
                 JOIN mails m ON m.id = x.mail FOR UPDATE OF m SKIP LOCKED"
            ),
            &[&until, &STEP_ROWS],
        )
        .await?;

    let ids: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    if ids.is_empty() {
        return Ok(None);
    }
    report.pruned = ids.len();
    delete(on, &ids, PendingEntries::default()).await
}

/// Deletes the messages of mails that were delivered to every recipient, once their retention is
/// over. Each delivery is looked at once: only the last one of a mail can find that all were
/// delivered.
async fn forget_bodies(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
) -> Result<usize, tokio_postgres::Error> {
    if node.options.keep_bodies >= node.options.retention {
        return Ok(0);
    }

    let keep = i64::try_from(node.options.keep_bodies.as_millis()).unwrap_or(i64::MAX);
    let until = now.as_millis().saturating_sub(keep);
    let rows = on
        .query(
            "WITH x AS MATERIALIZED (SELECT mail,
              idx FROM ended WHERE stage = 2 AND body_due AND at <= $1
               ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED)
             UPDATE ended e SET body_due = false FROM x WHERE e.mail = x.mail AND e.idx = x.idx
               RETURNING e.mail",
            &[&until, &STEP_ROWS],
        )
        .await?;

    if rows.is_empty() {
        return Ok(0);
    }

    let mails: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    on.execute(
        "UPDATE mails m SET body = '', forgotten = true WHERE m.id = ANY($1) AND NOT m.forgotten
           AND NOT EXISTS (SELECT FROM ready r WHERE r.mail = m.id)
           AND NOT EXISTS (SELECT FROM ended e WHERE e.mail = m.id AND (e.stage <> 2 OR e.at >
             $2))",
        &[&mails, &until],
    )
    .await?;

    Ok(rows.len())
}

/// Deletes ended mails with all their rows.
pub(super) async fn delete(
    on: &Connected,
    ids: &[Uuid],
    entries: PendingEntries,
) -> Result<Option<Committed>, tokio_postgres::Error> {
    let ended = on
        .query(
            "DELETE FROM ended WHERE mail = ANY($1) RETURNING stage, priority",
            &[&ids],
        )
        .await?;

    let mut totals = TotalsChange::default();
    for row in &ended {
        totals.add(row.get(0), row.get(1), -1);
    }
    on.execute("DELETE FROM feedback WHERE mail = ANY($1)", &[&ids])
        .await?;
    on.execute("DELETE FROM aliases WHERE mail = ANY($1)", &[&ids])
        .await?;
    on.execute("DELETE FROM mails WHERE id = ANY($1)", &[&ids])
        .await?;

    bump(on, entries, &totals).await
}

/// Deletes idempotency keys that have expired. A key whose mail is pending is kept, whatever its
/// age.
async fn forget_keys(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
) -> Result<usize, tokio_postgres::Error> {
    let again = now + node.options.idempotency_ttl.max(GRACE);
    let rows: Vec<Row> = on
        .query(
            "SELECT k.key, EXISTS (SELECT FROM ready r WHERE r.mail = k.mail) FROM keys k
             WHERE k.forget_at <= $1 ORDER BY k.forget_at LIMIT $2 FOR UPDATE OF k SKIP LOCKED",
            &[&now.as_millis(), &STEP_ROWS],
        )
        .await?;
    let (held, over): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.get(1));

    let keys = |rows: Vec<&Row>| -> Vec<Vec<u8>> { rows.iter().map(|row| row.get(0)).collect() };
    if !held.is_empty() {
        on.execute(
            "UPDATE keys SET forget_at = $2 WHERE key = ANY($1)",
            &[&keys(held), &again.as_millis()],
        )
        .await?;
    }

    if !over.is_empty() {
        on.execute("DELETE FROM keys WHERE key = ANY($1)", &[&keys(over)])
            .await?;
    }

    Ok(rows.len())
}

/// When a sweep next has something to do, in milliseconds; `i64::MAX` for never.
pub(super) async fn next(node: &NodeState, on: &Connected) -> Result<i64, tokio_postgres::Error> {
    let retention = i64::try_from(node.options.retention.as_millis()).unwrap_or(i64::MAX);
    let rows = on
        .query(
            &format!(
                "SELECT (SELECT expires_at FROM ready ORDER BY expires_at LIMIT 1),
                    (SELECT e.at FROM ended e WHERE {LAST_END} ORDER BY e.at LIMIT 1),
                    (SELECT forget_at FROM keys ORDER BY forget_at LIMIT 1),
                    (SELECT at FROM journal ORDER BY first LIMIT 1),
                    (SELECT at FROM ended WHERE stage = 2 AND body_due ORDER BY at LIMIT 1),
                    (SELECT {} FROM (SELECT * FROM journal ORDER BY first LIMIT 1) j,
                       (SELECT (SELECT min(at) FROM readers) AS slowest,
                         (SELECT written FROM {HEAD}) AS written) b)",
                super::journal::BEYOND_BOUND
            ),
            &[&super::journal::max_size(node)],
        )
        .await?;
    let Some(row) = rows.first() else {
        return Ok(i64::MAX);
    };
    let at = |column: usize| row.get::<_, Option<i64>>(column);
    let keep = i64::try_from(node.options.journal.keep.as_millis()).unwrap_or(i64::MAX);
    let bodies = i64::try_from(node.options.keep_bodies.as_millis()).unwrap_or(i64::MAX);

    if row.get::<_, Option<bool>>(5) == Some(true) {
        return Ok(i64::MIN);
    }
    let forgets = node.options.keep_bodies < node.options.retention;
    let next = [
        at(4)
            .filter(|_| forgets)
            .map(|at| at.saturating_add(bodies)),
        at(0),
        at(1).map(|at| at.saturating_add(retention)),
        at(2),
        at(3).map(|at| at.saturating_add(keep)),
    ];

    Ok(next.into_iter().flatten().min().unwrap_or(i64::MAX))
}
