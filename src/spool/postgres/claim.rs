//! Claims: locks candidate rows, chooses from them by the turns of the priorities, and leases them
//! to this session, in one transaction. Rows that another node has locked are skipped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use uuid::Uuid;

use super::ending;
use super::lease_table::HeldDelivery;
use super::link::{Connected, StatementFailure, judge};
use super::rows::{self, OF_READY};
use super::shared::{Committed, NodeState, report_ends};
use crate::delivery::{DeadReason, Delivery, Requester, Route, Stage};
use crate::mail::{MailId, Priority, Timestamp};
use crate::spool::{Claim, ClaimRequest, EndedDelivery, Lease, LeaseKeeper, Manifest, SpoolError};

/// The most rows of one queue that one claim reads.
const MOST_ROWS: i64 = 20_000;
/// After a claim that found less than it wanted, the next one waits for as long as that claim took,
/// so that more mail arrives in between; but no longer than this.
pub(super) const LONGEST_GATHERING: Duration = Duration::from_millis(10);
/// A delivery whose lease was lost to this many dead nodes is sent alone, never together with
/// another such delivery: one of them may have caused the crashes.
pub(super) const SUSPECT_AFTER: i32 = 2;

/// A delivery that may be claimed.
#[derive(Clone)]
struct Candidate {
    mail: Uuid,
    idx: i32,
    size: i64,
    suspect: bool,
}

/// Deliveries of one mail on one route, claimed together.
struct ClaimedDeliveries {
    mail: Uuid,
    places: Vec<i32>,
}

/// The first rows of each queue, by priority and route.
struct QueueFronts {
    queues: HashMap<(i16, i32), VecDeque<Candidate>>,
    /// Queues that may have more rows than were read.
    cut: Vec<(i16, i32)>,
}

pub(super) async fn claim(
    node: &Arc<NodeState>,
    request: ClaimRequest,
) -> Result<Vec<Claim>, SpoolError> {
    node.hints.saw_clock(request.now);
    if let Some(failure) = node.failure() {
        return Err(failure);
    }
    if request.turns.is_empty() && request.critical_only == 0 {
        return Ok(Vec::new());
    }

    let node = Arc::clone(node);
    // If the caller goes away, the transaction must still end.
    let task = tokio::spawn(async move {
        let mut gathering = node.claim_turn.lock().await;
        gathering.end().await;
        node.until_released().await;

        let began = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let on = node.on(&node.claiming).await?;
            let error = match take(&node, &on, &request).await {
                Ok(claims) => {
                    match claims.len() < request.turns.len() {
                        true => gathering.follows(began),
                        false => gathering.skip(),
                    }
                    return Ok(claims);
                }
                Err(error) => error,
            };
            node.hints.mark_due([super::hints::ANY_ROUTE]);
            node.has_doubt.store(true, Ordering::SeqCst);
            if on.rollback().await.is_err() {
                node.claiming.discard().await;
            }
            match judge(&error) {
                StatementFailure::Busy if tries < 3 => {}
                StatementFailure::Busy => return Err(node.stuck(&error)),
                _ => return Err(node.failed(&error)),
            }
        }
    });

    match task.await {
        Ok(claims) => claims,
        Err(error) => Err(SpoolError::Unreadable(format!(
            "a claim was broken off: {error}"
        ))),
    }
}

const CANDIDATES: &str = "
WITH f AS MATERIALIZED (SELECT id FROM sessions WHERE id = $1 FOR KEY SHARE)
SELECT x.mail, x.idx, q.route, q.priority, x.size, x.takeovers, x.due
FROM unnest($2::int4[], $3::int2[], $4::int8[], $6::int8[]) WITH ORDINALITY AS q(route, priority,
  wanted, low, ord)
CROSS JOIN LATERAL (SELECT r.mail, r.idx, r.size, r.takeovers, r.due FROM ready r
  WHERE r.route = q.route AND r.priority = q.priority AND r.owner = 0 AND r.stage = 0 AND r.due <=
    $5 AND r.due >= q.low
    AND EXISTS (SELECT FROM f)
  ORDER BY r.due, r.mail, r.idx LIMIT q.wanted FOR UPDATE SKIP LOCKED) x";

const LEASE: &str =
    "UPDATE ready r SET owner = $1 FROM unnest($2::uuid[], $3::int4[]) AS u(mail, idx)
WHERE r.mail = u.mail AND r.idx = u.idx AND r.owner = 0
RETURNING r.mail, r.idx, r.route, r.due AS at, r.stage, 0::smallint AS reason, r.tries, r.counted,
  r.crashes, r.data, r.takeovers";

const MAILS: &str = "SELECT id AS mail, manifest, expires_at, body FROM mails WHERE id = ANY($1)";

async fn take(
    node: &Arc<NodeState>,
    on: &Connected,
    request: &ClaimRequest,
) -> Result<Vec<Claim>, tokio_postgres::Error> {
    let session = node.session();
    node.routes.name_all(on, &request.routes).await?;
    let routes: Vec<i32> = request
        .routes
        .iter()
        .filter_map(|route| node.routes.id(route))
        .collect();

    if routes.is_empty() {
        return Ok(Vec::new());
    }

    node.hints.claimed(&routes, request.now);
    let began = on.begin();
    let mails = i64::try_from(request.turns.len()).unwrap_or(i64::MAX);
    let critical = mails + i64::try_from(request.critical_only).unwrap_or(0);
    let most_of_one = i64::try_from(request.max_recipients.clamp(1, 100)).unwrap_or(100);
    let wanted = |mails: i64| if mails == 0 { 0 } else { mails + most_of_one };
    let limits = [wanted(critical), wanted(mails), wanted(mails)];
    let first = candidates(node, on, session, &routes, limits, request);
    let (_, mut fronts) = futures::future::try_join(began, first).await?;
    let may_take_suspect = !node.leases.lock().has_suspect();

    let mut limit = critical + most_of_one;
    let taken = loop {
        let taken = choose(fronts.queues.clone(), request, &routes, may_take_suspect);
        if fronts.cut.is_empty() || limit >= MOST_ROWS || is_enough(&taken, &fronts, request) {
            break taken;
        }
        limit = (limit * 8).min(MOST_ROWS);
        fronts = candidates(node, on, session, &routes, [limit; 3], request).await?;
    };

    let found = fronts.queues.values().map(VecDeque::len).sum::<usize>();
    if !taken.is_empty() || found > 0 {
        // There may be more deliveries, and those that were not chosen are still queued.
        node.hints.mark_more(&routes);
    }
    if taken.is_empty() {
        on.rollback().await?;
        return Ok(Vec::new());
    }

    let (mut ids, mut places) = (Vec::new(), Vec::new());
    for one in &taken {
        for place in &one.places {
            ids.push(one.mail);
            places.push(*place);
        }
    }

    let mut mails: Vec<Uuid> = taken.iter().map(|one| one.mail).collect();
    mails.sort_unstable();
    mails.dedup();

    // Prepared here, because preparing it later would delay it until after the commit.
    on.prepare(LEASE).await?;
    on.prepare(MAILS).await?;
    let lease_params: [super::link::Param<'_>; 3] = [&session, &ids, &places];
    let mail_params: [super::link::Param<'_>; 1] = [&mails];
    let leased = on.query(LEASE, &lease_params);
    let read = on.query(MAILS, &mail_params);

    let commit = on.commit();
    let (leased, read, ()) = futures::future::try_join3(leased, read, commit).await?;
    node.routes.learn_those(on, &leased).await?;
    let (claims, broken) = claims(node, session, taken, &leased, &read);

    if !broken.is_empty() {
        quarantine(node, session, broken).await;
    }
    Ok(claims)
}

/// Ends leased deliveries that cannot be sent because they or their mail cannot be read.
async fn quarantine(node: &Arc<NodeState>, session: i32, broken: Vec<(Uuid, i32)>) {
    let now = node.hints.now();
    let ended = node
        .change(move |node, on| {
            let broken = broken.clone();
            async move { quarantine_in(node, on, session, &broken, now).await }.boxed()
        })
        .await;

    match ended {
        Ok(ended) => {
            node.hints.sweep_at(node.kept_until(now.as_millis()));
            report_ends(node, ended);
        }
        // They stay leased to this session, and are not given to a sender.
        Err(error) => tracing::error!(%error, "what cannot be read could not be set aside"),
    }
}

async fn quarantine_in(
    node: &NodeState,
    on: &Connected,
    session: i32,
    broken: &[(Uuid, i32)],
    now: Timestamp,
) -> Result<(Vec<EndedDelivery>, Option<Committed>), tokio_postgres::Error> {
    let (mails, places): (Vec<Uuid>, Vec<i32>) = broken.iter().copied().unzip();
    let rows = on
        .query(
            &format!(
                "DELETE FROM ready USING unnest($2::uuid[], $3::int4[]) AS u(of, place)
                 WHERE mail = u.of AND idx = u.place AND owner = $1 RETURNING {OF_READY}"
            ),
            &[&session, &mails, &places],
        )
        .await?;

    let reason = DeadReason::Quarantined;
    let endings = ending::taken(node, on, &rows, |_| Stage::Dead { at: now, reason }).await?;
    // If the delivery can be read, it is the mail that cannot.
    let whole = endings.iter().filter(|ending| ending.unread.is_none());

    let mut of: Vec<Uuid> = whole.map(|ending| rows::uuid(ending.mail)).collect();
    of.dedup();
    on.execute(
        "INSERT INTO set_aside (mail, idx, data) SELECT id, -1, manifest FROM mails WHERE id = \
         ANY($1)",
        &[&of],
    )
    .await?;

    let committed = ending::end_all(node, on, &Requester::default(), None, &endings).await?;

    Ok((ending::reports(&endings), committed))
}

/// Locks the first rows of the queues, up to a limit for each priority.
async fn candidates(
    node: &NodeState,
    on: &Connected,
    session: i32,
    routes: &[i32],
    limits: [i64; 3],
    request: &ClaimRequest,
) -> Result<QueueFronts, tokio_postgres::Error> {
    let (mut of, mut priorities, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let (mut lows, mut known) = (Vec::new(), u64::MAX);
    for route in routes {
        for (priority, limit) in (0i16..).zip(limits) {
            if limit > 0 {
                of.push(*route);
                priorities.push(priority);
                wanted.push(limit);
                let (low, lowered) = node.hints.low(*route, priority);
                lows.push(low);
                known = known.min(lowered);
            }
        }
    }

    let rows = on
        .query(
            CANDIDATES,
            &[
                &session,
                &of,
                &priorities,
                &wanted,
                &request.now.as_millis(),
                &lows,
            ],
        )
        .await?;

    let mut queues: HashMap<(i16, i32), VecDeque<Candidate>> = HashMap::new();
    let mut first_dues: HashMap<(i32, i16), i64> = HashMap::new();
    for row in rows {
        let queue: (i16, i32) = (row.get(3), row.get(2));
        first_dues
            .entry((queue.1, queue.0))
            .or_insert_with(|| row.get(6));
        queues.entry(queue).or_default().push_back(Candidate {
            mail: row.get(0),
            idx: row.get(1),
            size: row.get(4),
            suspect: row.get::<_, i32>(5) >= SUSPECT_AFTER,
        });
    }

    // Rows that others have locked may return, so a queue without visible rows is read from its
    // front next time.
    for (queue, first) in first_dues {
        node.hints.found(queue, first, known);
    }

    let cut = queues
        .iter()
        .filter(|((priority, _), rows)| {
            let limit = limits[usize::try_from(*priority).unwrap_or(0).min(2)];
            i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit
        })
        .map(|(queue, _)| *queue)
        .collect();

    Ok(QueueFronts { queues, cut })
}

/// Whether reading more rows could not change the choice: the requested number of mails or bytes is
/// reached, and no chosen mail may have further recipients among the unread rows.
fn is_enough(taken: &[ClaimedDeliveries], fronts: &QueueFronts, request: &ClaimRequest) -> bool {
    let last_mails: Vec<Uuid> = fronts
        .cut
        .iter()
        .filter_map(|queue| fronts.queues.get(queue)?.back())
        .map(|candidate| candidate.mail)
        .collect();
    let may_be_longer = taken
        .iter()
        .any(|one| last_mails.contains(&one.mail) && one.places.len() < request.max_recipients);

    let sizes: HashMap<Uuid, i64> = fronts
        .queues
        .values()
        .flatten()
        .map(|candidate| (candidate.mail, candidate.size))
        .collect();
    let bytes: i64 = taken
        .iter()
        .map(|one| sizes.get(&one.mail).copied().unwrap_or(0))
        .sum();

    let wanted = request.turns.len() + request.critical_only;
    // A claim that the limit of bytes cut short would be cut short again.
    let is_full = taken.len() >= wanted
        || usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .saturating_mul(2)
            >= request.max_bytes;

    is_full && !may_be_longer
}

/// Chooses mail by mail: each turn takes its priority, or the most urgent one that has mail; the
/// routes of a priority alternate.
fn choose(
    mut queues: HashMap<(i16, i32), VecDeque<Candidate>>,
    request: &ClaimRequest,
    routes: &[i32],
    may_take_suspect: bool,
) -> Vec<ClaimedDeliveries> {
    let mut taken: Vec<ClaimedDeliveries> = Vec::new();
    let mut bytes = 0_i64;
    let mut rotation = 0;
    let mut suspects = usize::from(!may_take_suspect);
    let max_bytes = i64::try_from(request.max_bytes).unwrap_or(i64::MAX);
    let turns = request.turns.iter().map(|turn| (*turn, true));

    let reserved = std::iter::repeat_n((Priority::Critical, false), request.critical_only);
    for (turn, may_fall_through) in turns.chain(reserved) {
        let others = Priority::ALL
            .into_iter()
            .filter(|p| may_fall_through && *p != turn);
        let mut order = std::iter::once(turn).chain(others);
        let one = order.find_map(|priority| {
            take_one(
                &mut queues,
                rows::priority_number(priority),
                routes,
                request.max_recipients.max(1),
                &mut rotation,
                &mut suspects,
            )
        });
        let Some((one, size)) = one else {
            if may_fall_through {
                break;
            }
            continue;
        };
        bytes = bytes.saturating_add(size);
        if bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(one);
    }

    taken
}

fn take_one(
    queues: &mut HashMap<(i16, i32), VecDeque<Candidate>>,
    priority: i16,
    routes: &[i32],
    most: usize,
    rotation: &mut usize,
    suspects: &mut usize,
) -> Option<(ClaimedDeliveries, i64)> {
    for step in 0..routes.len() {
        let at = (*rotation + step) % routes.len();
        let Some(queue) = queues.get_mut(&(priority, routes[at])) else {
            continue;
        };
        while queue.front().is_some_and(|c| c.suspect && *suspects > 0) {
            queue.pop_front();
        }
        let Some(first) = queue.pop_front() else {
            continue;
        };
        *rotation = at + 1;
        *suspects += usize::from(first.suspect);
        let mut places = vec![first.idx];
        while places.len() < most && queue.front().is_some_and(|next| next.mail == first.mail) {
            places.extend(queue.pop_front().map(|next| next.idx));
        }
        places.sort_unstable();
        let taken = ClaimedDeliveries {
            mail: first.mail,
            places,
        };
        return Some((taken, first.size));
    }

    None
}

/// The leased deliveries as claims for the senders, and those that cannot be sent.
fn claims(
    node: &Arc<NodeState>,
    session: i32,
    taken: Vec<ClaimedDeliveries>,
    leased: &[tokio_postgres::Row],
    read: &[tokio_postgres::Row],
) -> (Vec<Claim>, Vec<(Uuid, i32)>) {
    let mut mails: HashMap<MailId, (Arc<Manifest>, Bytes)> = HashMap::with_capacity(read.len());
    for row in read {
        let id = rows::mail_id(row.get("mail"));
        match rows::manifest(row) {
            Ok(manifest) => {
                let body = Bytes::copy_from_slice(row.get::<_, &[u8]>("body"));
                mails.insert(id, (Arc::new(manifest), body));
            }
            Err(error) => tracing::error!(mail.id = %id, %error, "a mail cannot be read"),
        }
    }

    let mut broken = Vec::new();
    let mut deliveries: HashMap<(MailId, u16), (Delivery, i32)> = HashMap::new();
    for row in leased {
        match rows::whole_delivery(row, &node.routes) {
            Ok((mail, index, delivery)) if mails.contains_key(&mail) => {
                deliveries.insert((mail, index), (delivery, row.get("takeovers")));
            }
            _ => broken.push((row.get("mail"), row.get("idx"))),
        }
    }

    let keeper: Weak<dyn LeaseKeeper> = Arc::downgrade(node) as Weak<dyn LeaseKeeper>;
    let mut claims = Vec::with_capacity(taken.len());
    let mut leases = node.leases.lock();
    if node.session() != session {
        // The session was taken over meanwhile, so none of its leases is valid.
        return (Vec::new(), Vec::new());
    }

    for one in taken {
        let mail = rows::mail_id(one.mail);
        let Some((manifest, body)) = mails.get(&mail) else {
            continue;
        };
        let mut of_one: Vec<(Lease, Delivery)> = Vec::with_capacity(one.places.len());
        let mut route: Option<Route> = None;
        for place in one.places {
            let Some(index) = u16::try_from(place).ok() else {
                continue;
            };
            let Some((delivery, takeovers)) = deliveries.remove(&(mail, index)) else {
                continue;
            };
            let held = HeldDelivery {
                serial: 0,
                manifest: Arc::clone(manifest),
                delivery: delivery.clone(),
                marked: false,
                suspect: takeovers >= SUSPECT_AFTER,
            };
            let token = leases.lease(mail, index, held);
            route.get_or_insert_with(|| delivery.route.clone());
            of_one.push((Lease::new(token, keeper.clone()), delivery));
        }
        if !of_one.is_empty() {
            claims.push(Claim {
                manifest: Arc::clone(manifest),
                body: body.clone(),
                deliveries: of_one,
            });
        }
    }

    drop(leases);
    (claims, broken)
}
