//! Deliveries that are leased to this node's session but held by no sender: those of a claim whose
//! commit was not confirmed, and those whose outcome the database refused. No other node can take
//! them while this one lives, so they are returned here.

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::ending;
use super::hints;
use super::rows::{self, MARKED, OF_READY};
use super::settle::SettleCommand;
use super::shared::{NodeState, report_ends};
use crate::delivery::{DeadReason, Requester, Stage};
use crate::spool::SpoolError;

/// Asks the settling task to return lost leases. It does so between two groups, when all outcomes
/// of leases that left the lease table are written.
pub(super) fn find(node: &Arc<NodeState>) {
    let node = Arc::clone(node);
    tokio::spawn(async move {
        // A claim adds its leases to the lease table before the next claim begins.
        let _turn = node.claim_turn.lock().await;
        let (reply, answer) = oneshot::channel();
        if node.commands.send(SettleCommand::FindLost(reply)).is_ok() {
            let _ = answer.await;
        }
    });
}

/// A delivery, and whether it may have been sent.
type LostDelivery = (Uuid, i32, bool);

/// Returns the lost deliveries to the queues. At-most-once ones that may have been sent become dead
/// as in doubt.
///
/// # Errors
/// If the database fails. The next search finds them again.
pub(super) async fn give_back(node: &Arc<NodeState>) -> Result<(), SpoolError> {
    let on = node.on(&node.settling).await?;
    let session = node.session();
    let failed = |error: tokio_postgres::Error| node.failed(&error);
    // A claim whose connection was lost may still be committed; until then it holds the lock of the
    // session's row.
    on.query(
        "SELECT FROM sessions WHERE id = $1 FOR UPDATE NOWAIT",
        &[&session],
    )
    .await
    .map_err(failed)?;

    let leased = on
        .query(
            "SELECT mail, idx, stage FROM ready WHERE owner = $1",
            &[&session],
        )
        .await
        .map_err(failed)?;

    let lost: Vec<LostDelivery> = {
        let leases = node.leases.lock();
        let rows = leased.iter().filter(|row| {
            let mail = rows::mail_id(row.get("mail"));
            !leases.has(mail, rows::index(row))
        });
        rows.map(|row| {
            let is_marked = row.get::<_, i16>("stage") == MARKED;
            (row.get("mail"), row.get("idx"), is_marked)
        })
        .collect()
    };

    if lost.is_empty() || node.session() != session {
        return Ok(());
    }
    tracing::warn!(
        count = lost.len(),
        "deliveries that are leased to this node and held by no sender are returned to the queue"
    );

    let (in_doubt, unsent): (Vec<LostDelivery>, Vec<LostDelivery>) =
        lost.into_iter().partition(|(_, _, is_marked)| *is_marked);
    if !in_doubt.is_empty() {
        end_in_doubt(node, session, in_doubt).await?;
    }

    let (mails, places): (Vec<Uuid>, Vec<i32>) =
        unsent.into_iter().map(|(mail, idx, _)| (mail, idx)).unzip();
    on.execute(
        "UPDATE ready r SET owner = 0 FROM unnest($1::uuid[], $2::int4[]) AS s(mail, idx)
         WHERE r.mail = s.mail AND r.idx = s.idx AND r.owner = $3 AND r.stage = 0",
        &[&mails, &places, &session],
    )
    .await
    .map_err(failed)?;
    node.hints.mark_due([hints::ANY_ROUTE]);
    node.changed.notify_one();
    Ok(())
}

/// Ends at-most-once deliveries that may have been sent and that no sender holds.
async fn end_in_doubt(
    node: &Arc<NodeState>,
    session: i32,
    lost: Vec<LostDelivery>,
) -> Result<(), SpoolError> {
    let at = node.hints.now();
    let (mails, places): (Vec<Uuid>, Vec<i32>) =
        lost.into_iter().map(|(mail, idx, _)| (mail, idx)).unzip();

    let ended = node
        .transact(move |node, on| {
            let (mails, places) = (mails.clone(), places.clone());
            async move {
                let taken = on
                    .query(
                        &format!(
                            "DELETE FROM ready USING unnest($2::uuid[], $3::int4[]) AS u(of, place)
                             WHERE mail = u.of AND idx = u.place AND owner = $1 AND stage = 1
                             RETURNING {OF_READY}"
                        ),
                        &[&session, &mails, &places],
                    )
                    .await?;
                let reason = DeadReason::InDoubt;
                let endings =
                    ending::taken(node, on, &taken, |_| Stage::Dead { at, reason }).await?;
                let committed =
                    ending::end_all(node, on, &Requester::default(), None, &endings).await?;
                Ok((ending::reports(&endings), committed))
            }
            .boxed()
        })
        .await?;

    node.hints.sweep_at(node.kept_until(at.as_millis()));
    report_ends(node, ended);
    Ok(())
}
