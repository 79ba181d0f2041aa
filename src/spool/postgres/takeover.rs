//! Returns the deliveries of a session that ends to the queues: of this node's own session when it
//! closes, and of dead nodes' sessions.

use std::sync::Arc;

use futures::FutureExt;

use super::ending;
use super::hints;
use super::link::Connected;
use super::rows::{OF_READY, PENDING};
use super::session::IS_LAPSED;
use super::shared::{Committed, NodeState, report_ends};
use crate::delivery::{DeadReason, Requester, Stage};
use crate::spool::{EndedDelivery, SpoolError};

/// A delivery that was held by this many nodes when they died becomes dead.
const POISONED_AFTER: i32 = 4;

/// Takes over the deliveries of these sessions, unless another node already has.
pub(super) async fn take_over_all(node: Arc<NodeState>, lapsed: Vec<i32>) {
    for session in lapsed {
        if let Err(error) = take_over(&node, session, SessionEnd::Lapsed).await {
            tracing::warn!(session, %error, "what another node held could not be taken over yet");
        }
    }
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionEnd {
    /// Its node sent no heartbeat within its lease.
    Lapsed,
    /// Its node closes.
    Own,
}

/// Ends a session and returns its deliveries. At-most-once deliveries that may have been sent
/// become dead as in doubt; those that were held by too many dead nodes become dead as poisoned.
pub(super) async fn take_over(
    node: &Arc<NodeState>,
    session: i32,
    ending: SessionEnd,
) -> Result<(), SpoolError> {
    let own = ending == SessionEnd::Own;
    if !own {
        let on = node.watching.get().await?;
        terminate(node, &on, session).await;
    }

    let ended = node
        .transact(move |node, on| end_session(node, on, session, own).boxed())
        .await?;
    let Some(EndedSession {
        ended_deliveries,
        count,
    }) = ended
    else {
        return Ok(());
    };

    if !own {
        tracing::warn!(
            session,
            count,
            ended = ended_deliveries.len(),
            "another node is gone; what it held is taken over"
        );
    }

    if !ended_deliveries.is_empty() {
        let now = node.hints.now().as_millis();
        node.hints.sweep_at(node.kept_until(now));
    }

    report_ends(node, ended_deliveries);
    node.hints.mark_due([hints::ANY_ROUTE]);
    node.changed.notify_one();
    Ok(())
}

/// Terminates a dead node's connections: a transaction that hangs in one would keep its locks. This
/// needs no privilege except to be the same role.
async fn terminate(node: &NodeState, on: &Connected, session: i32) {
    let cut = on
        .query(
            &format!(
                "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, sessions s
                 WHERE s.id = $1 AND {IS_LAPSED} AND s.instance <> $2
                   AND a.datname = current_database() AND a.application_name = 'postrider ' ||
                     s.instance"
            ),
            &[&session, &node.instance],
        )
        .await;

    if let Err(error) = cut {
        tracing::warn!(
            session,
            error = super::link::reason(&error),
            "a dead node's connections could not be cut"
        );
    }
}

/// For a session that its own node ends: returns its deliveries except at-most-once ones that may
/// have been sent. If there are any, the session is marked as lapsed, so that another node takes it
/// over and reports them. Returns whether there are.
async fn keep_doubtful(on: &Connected, session: i32) -> Result<bool, tokio_postgres::Error> {
    let doubts = on
        .query(
            "SELECT count(*) FROM ready WHERE owner = $1 AND stage = 1",
            &[&session],
        )
        .await?;

    if doubts.first().is_none_or(|row| row.get::<_, i64>(0) == 0) {
        return Ok(false);
    }
    on.execute(
        "UPDATE ready SET owner = 0 WHERE owner = $1 AND stage = 0",
        &[&session],
    )
    .await?;

    on.execute(
        "UPDATE sessions SET seen = to_timestamp(0) WHERE id = $1",
        &[&session],
    )
    .await?;
    Ok(true)
}

/// The result of ending a session.
struct EndedSession {
    ended_deliveries: Vec<EndedDelivery>,
    /// How many deliveries it held.
    count: usize,
}

async fn end_session(
    node: &NodeState,
    on: &Connected,
    session: i32,
    own: bool,
) -> Result<(Option<EndedSession>, Option<Committed>), tokio_postgres::Error> {
    if own && keep_doubtful(on, session).await? {
        return Ok((None, None));
    }
    let gone = on
        .execute(
            &format!("DELETE FROM sessions s WHERE s.id = $1 AND ($2 OR {IS_LAPSED})"),
            &[&session, &own],
        )
        .await?;

    if gone == 0 && !own {
        return Ok((None, None));
    }

    // Separate statements, so that the second sees rows that were claimed while the first waited.
    // Unmarked deliveries are returned first, under their locks: a mark that is being written
    // finishes before, and its delivery is left for the next statement.
    let poisoned_after = if own { i32::MAX } else { POISONED_AFTER };
    let step = i32::from(!own);
    let freed = on
        .execute(
            "UPDATE ready SET owner = 0, takeovers = takeovers + $2
             WHERE owner = $1 AND stage = 0 AND takeovers + 1 < $3",
            &[&session, &step, &poisoned_after],
        )
        .await?;

    let dead = on
        .query(
            &format!("DELETE FROM ready WHERE owner = $1 RETURNING {OF_READY}"),
            &[&session],
        )
        .await?;
    let count = dead.len() + usize::try_from(freed).unwrap_or(0);

    let now = node.hints.now();
    let endings = ending::taken(node, on, &dead, |row| Stage::Dead {
        at: now,
        reason: match row.get::<_, i16>("stage") {
            PENDING => DeadReason::Poisoned,
            _ => DeadReason::InDoubt,
        },
    })
    .await?;

    let committed = match endings.is_empty() {
        true => None,
        false => ending::end_all(node, on, &Requester::default(), None, &endings).await?,
    };

    let ended = EndedSession {
        ended_deliveries: ending::reports(&endings),
        count,
    };

    Ok((Some(ended), committed))
}
