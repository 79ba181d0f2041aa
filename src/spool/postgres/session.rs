//! This node among the others: its session and heartbeats, what it takes over from nodes that gave
//! no sign of life, and what it learns of the whole while it does nothing.
//!
//! *Invariant:* a session that was ended by another is never used again, and nothing that was leased
//! under it settles.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::ending;
use super::hints;
use super::horizon;
use super::link::Connected;
use super::moment::Moment;
use super::rows::{OF_READY, PENDING};
use super::shared::{Committed, Core, Session, tell_ends};
use crate::delivery::{By, DeadReason, Stage};
use crate::spool::{EndedDelivery, SpoolError};

/// How often this node looks whether others have changed something.
const POLL: Duration = Duration::from_millis(50);
/// How often it looks at everything, whatever it heard.
const LOOK: Duration = Duration::from_secs(1);
/// How often the first of the nodes sees to dead rows, and of how many.
const VACUUM: Duration = Duration::from_secs(20);
const DEAD: i64 = 10_000;
/// How long a heartbeat may take.
const BEAT_WITHIN: Duration = Duration::from_secs(3);
/// After so many nodes died with it a delivery is dead.
const POISONED_AFTER: i32 = 4;

/// Makes a session of this node's.
pub(super) async fn begin(core: &Core, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let asked = Moment::now();
    let lease = i64::try_from(core.lease.as_millis()).unwrap_or(i64::MAX);
    let rows = on
        .query(
            "INSERT INTO sessions (node, instance, version, lease_ms) VALUES ($1, $2, $3, $4) RETURNING id",
            &[
                &core.node,
                &core.instance,
                &env!("CARGO_PKG_VERSION"),
                &lease,
            ],
        )
        .await?;
    let id: i32 = rows.first().map_or(0, |row| row.get(0));

    let mut book = core.book.lock();
    book.begin(id);
    *core.session.write() = Session::begun(id, asked);
    drop(book);
    tracing::info!(session = id, node = %core.node, "a node of the spool");
    Ok(())
}

/// Beats, takes over and looks until the spool is closed or gone.
pub(super) async fn run(core: Weak<Core>) {
    let mut last_beat: Option<Instant> = None;
    let mut last_look: Option<Instant> = None;
    let mut last_horizon: Option<Instant> = None;
    let mut last_vacuum = Instant::now();
    loop {
        let Some(core) = core.upgrade() else { return };
        if core.closed.load(Ordering::SeqCst) {
            return;
        }
        let beat_every =
            (core.lease / 10).clamp(Duration::from_millis(100), Duration::from_secs(1));
        if last_beat.is_none_or(|at| at.elapsed() >= beat_every) {
            last_beat = Some(Instant::now());
            if beat(&core).await.is_err() {
                drop(core);
                tokio::time::sleep(POLL * 2).await;
                last_beat = None;
                continue;
            }
        }
        let look_anyway = last_look.is_none_or(|at| at.elapsed() >= LOOK);
        if look_anyway {
            last_look = Some(Instant::now());
        }
        if look_anyway && core.has_doubt.swap(false, Ordering::SeqCst) {
            super::lost::find(&core);
        }
        if let Err(error) = look(&core, look_anyway).await {
            tracing::debug!(%error, "a look at the others' changes failed");
        }
        if last_horizon.is_none_or(|at| at.elapsed() >= horizon::LOOK) {
            last_horizon = Some(Instant::now());
            if let Err(error) = look_at_horizon(&core).await {
                tracing::debug!(%error, "what the database cannot remove is not known");
            }
        }
        let is_first = core.orders.borrow().share.0 == 0;
        if is_first && last_vacuum.elapsed() >= VACUUM {
            last_vacuum = Instant::now();
            tokio::spawn(vacuum(Arc::clone(&core)));
        }
        drop(core);
        tokio::time::sleep(POLL).await;
    }
}

/// Has the database remove the dead rows of what waits, where there are many and it can: by itself it
/// would do so too seldom for a queue.
async fn vacuum(core: Arc<Core>) {
    if core.horizon.held_for().is_some() {
        return;
    }
    if let Err(error) = try_vacuum(&core).await {
        tracing::debug!(%error, "the dead rows of what waits are left to the database");
    }
}

async fn try_vacuum(core: &Core) -> Result<(), SpoolError> {
    let failed = |error: tokio_postgres::Error| core.failed(&error);
    let on = core.on(&core.reading).await?;
    let dead = on
        .query(
            "SELECT coalesce(pg_stat_get_dead_tuples(to_regclass('ready')), 0)",
            &[],
        )
        .await
        .map_err(failed)?;

    if dead.first().is_none_or(|row| row.get::<_, i64>(0) < DEAD) {
        return Ok(());
    }
    // On a connection of its own, which ends with it: nothing waits for it.
    let on = core.on(&core.keeping).await?;
    let vacuumed = async {
        on.client
            .batch_execute("SET statement_timeout TO 0")
            .await?;
        on.client.batch_execute("VACUUM ready").await
    };
    let vacuumed = vacuumed.await.map_err(failed);
    core.keeping.discard().await;
    vacuumed
}

async fn look_at_horizon(core: &Core) -> Result<(), SpoolError> {
    let on = core.on(&core.heart).await?;
    let looked = horizon::look(core, &on).await;
    looked.map_err(|error| core.failed(&error))
}

/// One heartbeat. Where the session is gone, another is begun; then the dead are buried.
async fn beat(core: &Arc<Core>) -> Result<(), SpoolError> {
    let beaten = tokio::time::timeout(BEAT_WITHIN, try_beat(core)).await;
    let beaten = match beaten {
        Ok(beaten) => beaten,
        Err(_) => Err(core.connector.unreachable("it does not answer")),
    };
    if beaten.is_err() {
        // It may be of a time at which nothing could be written.
        core.heart.discard().await;
    }

    let is_down = core.down.read().is_some();
    let outcome = match beaten {
        Ok(expired) => all_there(core, is_down).await.map(|()| expired),
        Err(error) => Err(error),
    };

    match outcome {
        Ok(expired) => {
            if core.down.write().take().is_some() {
                core.has_doubt.store(true, Ordering::SeqCst);
                tracing::info!("the database answers again");
                core.hints.stir([hints::ANY]);
                core.changed.notify_one();
            }
            for session in expired {
                if let Err(error) = take_over(core, session, Ending::Lapsed).await {
                    tracing::warn!(session, %error, "what another node held could not be taken over yet");
                }
            }
            Ok(())
        }
        Err(error) => {
            core.note_down(&error);
            Err(error)
        }
    }
}

/// Has all connections be there: a server may have room for some of them only. After an outage, that
/// can write.
async fn all_there(core: &Core, is_down: bool) -> Result<(), SpoolError> {
    let links = [
        &core.put,
        &core.settling,
        &core.claiming,
        &core.changing,
        &core.reading,
    ];
    let checked = futures::future::try_join_all(links.map(|link| async move {
        match is_down {
            true => link.check_writable().await,
            false => link.get().await.map(|_| ()),
        }
    }));
    // The next beat must come in time.
    match tokio::time::timeout(BEAT_WITHIN.min(core.lease / 2), checked).await {
        Ok(checked) => checked.map(|_| ()),
        Err(_) => Err(core.connector.unreachable("it does not answer")),
    }
}

async fn try_beat(core: &Arc<Core>) -> Result<Vec<i32>, SpoolError> {
    let on = core.on(&core.heart).await?;
    let asked = Moment::now();
    // Whatever is in the way of it, such as tables that are gone, nothing may be begun without it.
    let failed =
        |error: tokio_postgres::Error| core.connector.unreachable(super::link::reason(&error));

    let session = core.session();
    let beaten = on
        .execute(
            "UPDATE sessions SET seen = now() WHERE id = $1",
            &[&session],
        )
        .await
        .map_err(failed)?;

    if beaten == 0 {
        if session != 0 {
            tracing::warn!(
                session,
                "this node gave no sign of life for longer than its lease, and others have taken over what it held"
            );
        }
        begin(core, &on).await.map_err(failed)?;
        core.hints.stir([hints::ANY]);
        core.changed.notify_one();
    } else {
        let mut current = core.session.write();
        if current.id == session {
            current.asked = asked;
        }
    }

    expired(&on).await.map_err(failed)
}

/// The sessions that gave no sign of life for longer than their lease.
pub(super) async fn expired(on: &Connected) -> Result<Vec<i32>, tokio_postgres::Error> {
    let rows = on
        .query(
            "SELECT id FROM sessions WHERE seen < now() - lease_ms * interval '1 ms' ORDER BY id",
            &[],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Why a session ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its node gave no sign of life.
    Lapsed,
    /// Its node ends it itself.
    Own,
}

/// Ends a session, and gives back what it held. At-most-once mail that may have been sent is dead
/// in doubt; what died with too many nodes is dead as poisoned.
pub(super) async fn take_over(
    core: &Arc<Core>,
    session: i32,
    ending: Ending,
) -> Result<(), SpoolError> {
    let own = ending == Ending::Own;
    if !own {
        let on = core.heart.get().await?;
        terminate(core, &on, session).await;
    }

    let ended = core
        .transact(move |core, on| end_session(core, on, session, own).boxed())
        .await?;
    let Some(SessionEnd { told, count }) = ended else {
        return Ok(());
    };

    if !own {
        tracing::warn!(
            session,
            count,
            ended = told.len(),
            "another node is gone; what it held is taken over"
        );
    }

    if !told.is_empty() {
        let now = core.hints.now().as_millis();
        core.hints.sweep_at(core.kept_until(now));
    }

    tell_ends(core, told);
    core.hints.stir([hints::ANY]);
    core.changed.notify_one();
    Ok(())
}

/// Cuts a dead node's connections: a transaction that hangs in one would hold its locks. Needs no
/// right but to be the same user.
async fn terminate(core: &Core, on: &Connected, session: i32) {
    let cut = on
        .query(
            "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a, sessions s
             WHERE s.id = $1 AND s.seen < now() - s.lease_ms * interval '1 ms' AND s.instance <> $2
               AND a.datname = current_database() AND a.application_name = 'postrider ' || s.instance",
            &[&session, &core.instance],
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

/// Gives back what a session holds that ends by itself, at-most-once mail aside that may have been
/// sent: if there is any, the session is left for whoever takes it over, and tells of it. Returns
/// whether there is.
async fn leave_doubts(on: &Connected, session: i32) -> Result<bool, tokio_postgres::Error> {
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

/// What the end of a session came to.
struct SessionEnd {
    told: Vec<EndedDelivery>,
    /// How many deliveries it held.
    count: usize,
}

async fn end_session(
    core: &Core,
    on: &Connected,
    session: i32,
    own: bool,
) -> Result<(Option<SessionEnd>, Option<Committed>), tokio_postgres::Error> {
    if own && leave_doubts(on, session).await? {
        return Ok((None, None));
    }
    let gone = on
        .execute(
            "DELETE FROM sessions WHERE id = $1 AND ($2 OR seen < now() - lease_ms * interval '1 ms')",
            &[&session, &own],
        )
        .await?;

    if gone == 0 && !own {
        return Ok((None, None));
    }

    // A statement of its own: what was claimed while the one before waited is seen now.
    let poisoned_after = if own { i32::MAX } else { POISONED_AFTER };
    let dead = on
        .query(
            &format!(
                "DELETE FROM ready WHERE owner = $1 AND (stage = 1 OR takeovers + 1 >= $2)
             RETURNING {OF_READY}"
            ),
            &[&session, &poisoned_after],
        )
        .await?;

    let step = i32::from(!own);
    let freed = on
        .execute(
            "UPDATE ready SET owner = 0, takeovers = takeovers + $2 WHERE owner = $1",
            &[&session, &step],
        )
        .await?;
    let count = dead.len() + usize::try_from(freed).unwrap_or(0);

    let now = core.hints.now();
    let endings = ending::taken(core, on, &dead, |row| Stage::Dead {
        at: now,
        reason: match row.get::<_, i16>("stage") {
            PENDING => DeadReason::Poisoned,
            _ => DeadReason::InDoubt,
        },
    })
    .await?;

    let committed = match endings.is_empty() {
        true => None,
        false => ending::end_all(core, on, &By::default(), None, &endings).await?,
    };

    let ended = SessionEnd {
        told: ending::told(&endings),
        count,
    };

    Ok((Some(ended), committed))
}

/// Looks whether others have changed something; `anyway`: at all that waits, whatever they did.
async fn look(core: &Arc<Core>, anyway: bool) -> Result<(), SpoolError> {
    let on = core.on(&core.heart).await?;
    let failed = |error: tokio_postgres::Error| core.failed(&error);
    let rows = on
        .query(
            "SELECT commits, totals[1] + totals[2] + totals[3], next - 1 FROM head",
            &[],
        )
        .await
        .map_err(failed)?;
    let Some(row) = rows.first() else {
        return Ok(());
    };

    let committed = Committed {
        commits: row.get(0),
        pending: row.get(1),
        last: row.get(2),
        accounts: Vec::new(),
    };

    let pending = committed.pending;
    let is_news = committed.commits > core.hints.commits();
    core.committed(committed);
    if !is_news && !anyway {
        return Ok(());
    }
    super::cluster::read_orders(core, &on)
        .await
        .map_err(failed)?;
    core.accounts.read(&on).await.map_err(failed)?;
    if pending > 0 {
        fronts(core, &on, anyway).await.map_err(failed)?;
    }

    if anyway {
        let sweeps = core.sweeps.load(Ordering::Acquire);
        let at = super::sweep::next(core, &on).await.map_err(failed)?;
        // What a sweep is at or has just done is not to be done again.
        if sweeps.is_multiple_of(2) && core.sweeps.load(Ordering::Acquire) == sweeps {
            core.hints.sweep_at(at);
            if at <= core.hints.now().as_millis() {
                core.changed.notify_one();
            }
        }
    }

    Ok(())
}

/// The queues in which something waits, found by steps over the index: not by all routes that there
/// are.
const QUEUES: &str = "WITH RECURSIVE q AS (
  (SELECT route, priority FROM ready ORDER BY route, priority LIMIT 1)
  UNION ALL
  SELECT n.route, n.priority FROM q CROSS JOIN LATERAL (SELECT r.route, r.priority FROM ready r
    WHERE (r.route, r.priority) > (q.route, q.priority) ORDER BY r.route, r.priority LIMIT 1) n)";

/// What comes first in each queue, whatever time it is: nobody has told it yet.
pub(super) async fn come(core: &Core, on: &Connected) -> Result<(), tokio_postgres::Error> {
    let rows = on
        .query(
            &format!(
                "{QUEUES} SELECT q.route, x.due FROM q CROSS JOIN LATERAL (SELECT DISTINCT r.due FROM ready r
                   WHERE r.route = q.route AND r.priority = q.priority ORDER BY r.due LIMIT 100) x"
            ),
            &[],
        )
        .await?;
    rows.iter()
        .for_each(|row| core.hints.due_at(row.get(0), row.get(1)));
    Ok(())
}

const FRONTS: &str = "SELECT w.route, x.due FROM w
  CROSS JOIN LATERAL (SELECT r.due FROM ready r WHERE r.route = w.route AND r.priority = w.priority
    AND r.owner = 0 AND r.due >= w.low ORDER BY r.due, r.mail, r.idx LIMIT 1) x
UNION ALL
SELECT w.route, y.due FROM w
  CROSS JOIN LATERAL (SELECT r.due FROM ready r WHERE r.route = w.route AND r.priority = w.priority
    AND r.owner = 0 AND r.due > $1 ORDER BY r.due, r.mail, r.idx LIMIT 1) y";

/// What waits in front of each queue.
///
/// `whole`: of all of them, from the very front. Otherwise of those that claims were made from, and
/// from where something was found: what lies before may be dead rows without end.
pub(super) async fn fronts(
    core: &Core,
    on: &Connected,
    whole: bool,
) -> Result<(), tokio_postgres::Error> {
    let now = core.hints.now().as_millis();
    let lows = core.hints.lows();
    let rows = match whole || lows.is_empty() {
        true => {
            let queues = format!(
                "{QUEUES}, w AS (SELECT route, priority, -9223372036854775808::int8 AS low FROM q)"
            );
            on.query(&format!("{queues} {FRONTS}"), &[&now]).await?
        }
        false => {
            let routes: Vec<i32> = lows.iter().map(|low| low.0).collect();
            let priorities: Vec<i16> = lows.iter().map(|low| low.1).collect();
            let from: Vec<i64> = lows.iter().map(|low| low.2).collect();
            let queues = "WITH w AS (SELECT * FROM unnest($2::int4[], $3::int2[], $4::int8[]) AS w(route, priority, low))";
            on.query(
                &format!("{queues} {FRONTS}"),
                &[&now, &routes, &priorities, &from],
            )
            .await?
        }
    };
    core.routes.learn_those(on, &rows).await?;

    let mut is_due = false;
    for row in rows {
        let (route, due): (i32, i64) = (row.get("route"), row.get("due"));
        is_due |= due <= now;
        core.hints.due_at(route, due);
    }

    if is_due {
        core.changed.notify_one();
    }
    Ok(())
}
