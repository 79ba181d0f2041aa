//! Outcomes, marks and returned leases: one task receives them in the order of the calls, and
//! writes together what has arrived. While the database does not answer, it keeps them and writes
//! them under their leases later.
//!
//! *Invariant:* a row is changed only if this session owns it, under the row's lock, whatever this
//! node believes.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::accounts;
use super::gathering::Gathering;
use super::hints;
use super::lease_table::{HeldDelivery, session_of};
use super::link::{Connected, StatementFailure, judge};
use super::lost_leases;
use super::outage;
use super::rows::{self, MARKED, PENDING};
use super::shared::{Committed, NodeState, PATIENCE, report_ends, single_entry_record};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::spool::keyed::journal::entry::JournalEntry;
use crate::spool::{EndedDelivery, LeaseToken, SettleResult, SpoolError, codec};

/// The most deliveries that are written in one group.
const GROUP_DELIVERIES: usize = 512;
/// Outcomes are gathered for as long as writing the last group took, and no longer than this. So
/// new mail gets at least half of the turns at the row that every commit changes.
const LONGEST_GATHERING: Duration = Duration::from_millis(20);
/// How long to wait before a retry when the database did not answer.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// A command for the task.
pub(super) enum SettleCommand {
    Settle(
        Vec<(LeaseToken, Delivery)>,
        oneshot::Sender<Result<Vec<SettleResult>, SpoolError>>,
    ),
    Mark(Vec<LeaseToken>, oneshot::Sender<Result<(), SpoolError>>),
    Release(LeaseToken),
    /// Answered when all earlier commands are written.
    Pass(oneshot::Sender<()>),
    /// Return the deliveries that are leased to this session and held by no sender. Sent only while
    /// no claim is under way.
    FindLost(oneshot::Sender<()>),
}

/// One delivery to write.
struct Write {
    token: LeaseToken,
    held: HeldDelivery,
    delivery: Delivery,
}

/// The commands that are written together.
#[derive(Default)]
struct SettleGroup {
    writes: Vec<Write>,
    released: Vec<LeaseToken>,
    /// The routes of those deliveries.
    released_on: BTreeSet<i32>,
    replies: Vec<PendingReply>,
    passes: Vec<oneshot::Sender<()>>,
    /// How many leases were returned.
    releases: u64,
}

/// A caller that waits for outcomes: each is either known already, or that of the write with this
/// index.
struct PendingReply {
    results: Vec<Result<SettleResult, usize>>,
    to: oneshot::Sender<Result<Vec<SettleResult>, SpoolError>>,
}

pub(super) async fn run(node: Arc<NodeState>, mut inbox: mpsc::UnboundedReceiver<SettleCommand>) {
    let mut next = inbox.recv().await;
    let mut gathering = Gathering::at_most(LONGEST_GATHERING);
    while let Some(first) = next.take() {
        let mut group = SettleGroup::default();
        let mut command = Some(first);
        let mut mark = None;
        let mut finding = None;
        while let Some(one) = command.take() {
            match one {
                SettleCommand::Settle(settled, reply) => group.settle(&node, settled, reply),
                SettleCommand::Release(token) => group.release(&node, token),
                SettleCommand::Pass(reply) => group.passes.push(reply),
                SettleCommand::Mark(tokens, reply) => {
                    mark = Some((tokens, reply));
                    break;
                }
                SettleCommand::FindLost(reply) => {
                    finding = Some(reply);
                    break;
                }
            }
            if group.writes.len() + group.released.len() < GROUP_DELIVERIES {
                command = match group.may_wait() {
                    true => gathering.next(&mut inbox).await,
                    false => inbox.try_recv().ok(),
                };
            }
        }
        let began = Instant::now();
        write(&node, group).await;
        gathering.follows(began);
        if let Some((tokens, reply)) = mark {
            let _ = reply.send(record_mark(&node, tokens).await);
        }
        // All outcomes of leases that left the lease table are written, and none leaves it
        // meanwhile.
        if let Some(reply) = finding {
            if let Err(error) = lost_leases::give_back(&node).await {
                tracing::debug!(%error, "what a lost claim holds is looked for later");
                node.has_doubt.store(true, Ordering::SeqCst);
            }
            let _ = reply.send(());
        }
        next = inbox.recv().await;
    }
}

impl SettleGroup {
    /// Whether the group may be written later: callers wait for nothing but outcomes.
    fn may_wait(&self) -> bool {
        self.released.is_empty() && self.passes.is_empty()
    }

    fn settle(
        &mut self,
        node: &NodeState,
        settled: Vec<(LeaseToken, Delivery)>,
        to: oneshot::Sender<Result<Vec<SettleResult>, SpoolError>>,
    ) {
        let mut results = Vec::with_capacity(settled.len());
        for (token, delivery) in settled {
            // A concurrent cancel or claim is prevented by the row's lock, not by the lease table.
            match node.leases.lock().end(&token) {
                Some(held) => {
                    results.push(Err(self.writes.len()));
                    self.writes.push(Write {
                        token,
                        held,
                        delivery,
                    });
                }
                None => {
                    node.stale.fetch_add(1, Ordering::Relaxed);
                    results.push(Ok(SettleResult::Stale));
                }
            }
        }

        self.replies.push(PendingReply { results, to });
    }

    fn release(&mut self, node: &NodeState, token: LeaseToken) {
        self.releases += 1;
        // A node that closes returns all that it holds when it ends its session, and leaves what is
        // in doubt to other nodes, which report it.
        if node.closed.load(Ordering::SeqCst) {
            return;
        }
        let Some(held) = node.leases.lock().end(&token) else {
            return;
        };

        if !held.marked {
            let route = node
                .routes
                .id(&held.delivery.route)
                .unwrap_or(hints::ANY_ROUTE);
            self.released_on.insert(route);
            self.released.push(token);
            return;
        }

        // It may have been sent; whether it was is unknown.
        let stage = Stage::Dead {
            at: node.hints.now(),
            reason: DeadReason::InDoubt,
        };

        let delivery = Delivery {
            stage,
            ..held.delivery.clone()
        };

        self.writes.push(Write {
            token,
            held,
            delivery,
        });
    }
}

/// Writes a group, and retries while the database does not answer.
async fn write(node: &Arc<NodeState>, group: SettleGroup) {
    let SettleGroup {
        writes,
        released,
        released_on,
        replies,
        passes,
        releases,
    } = group;

    if !writes.is_empty() || !released.is_empty() {
        let written = AssertUnwindSafe(write_until_known(node, &writes, &released));
        let outcome = written.catch_unwind().await.unwrap_or_else(|_| {
            node.has_doubt.store(true, Ordering::SeqCst);
            Err(SpoolError::panicked())
        });
        node.releasing.fetch_sub(releases, Ordering::SeqCst);
        answer(node, &writes, replies, outcome);
        if !released.is_empty() {
            node.hints.mark_due(released_on);
            node.changed.notify_one();
        }
    } else {
        node.releasing.fetch_sub(releases, Ordering::SeqCst);
        answer(node, &writes, replies, Ok(WriteResult::default()));
    }

    for pass in passes {
        let _ = pass.send(());
    }
}

/// The indices of the writes that were done.
type DoneWrites = HashSet<usize>;

/// The result of writes. One that is neither done nor refused came too late: its lease was lost.
#[derive(Default)]
struct WriteResult {
    done: DoneWrites,
    /// The writes that the database refuses, each with its error.
    refused: HashMap<usize, SpoolError>,
}

async fn write_until_known(
    node: &Arc<NodeState>,
    writes: &[Write],
    released: &[LeaseToken],
) -> Result<WriteResult, SpoolError> {
    let mut is_doubtful = false;
    let (mut time_limit, begun) = (None, Instant::now());
    // First all writes in one statement.
    let mut step = writes.len().max(1);
    let mut refused = HashMap::new();
    // Whether it was checked that only these are refused: others may have mended what was wrong.
    let mut is_checked = false;

    loop {
        if node.closed.load(Ordering::SeqCst) {
            // A caller waits for the end of the group.
            let until = *time_limit.get_or_insert(Instant::now() + Duration::from_secs(5));
            if Instant::now() > until {
                return Err(SpoolError::Closed);
            }
        }
        let on = match node.settling.get().await {
            Ok(on) => on,
            Err(error) => {
                node.note_down(&error);
                *node.unwritten.write() = Some(error);
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        let began = Instant::now();
        let outcome = async {
            let mut done = match is_doubtful {
                true => known(&on, writes).await?,
                false => DoneWrites::new(),
            };
            let routes = writes.iter().map(|write| &write.delivery.route);
            node.routes.name_all(&on, routes).await?;
            let released = async {
                match released.is_empty() {
                    true => Ok(()),
                    false => release(&on, released).await,
                }
            };
            let left: Vec<usize> = (0..writes.len())
                .filter(|n| !done.contains(n) && !refused.contains_key(n))
                .collect();
            let settled = settle_in_steps(node, &on, writes, left.chunks(step), &mut refused);
            let (settled, ()) = futures::future::try_join(settled, released).await?;
            done.extend(settled);
            // The statement has waited for locks of whatever was still running on the lost
            // connection.
            if is_doubtful && done.len() + refused.len() < writes.len() {
                done.extend(known(&on, writes).await?);
            }
            Ok::<DoneWrites, tokio_postgres::Error>(done)
        }
        .await;
        let error = match outcome {
            Ok(done) => {
                node.time(began.elapsed());
                if !refused.is_empty() && (is_refused_to_all(node).await || !is_checked) {
                    refused.clear();
                    (is_doubtful, is_checked) = (true, true);
                    continue;
                }
                *node.unwritten.write() = None;
                if !refused.is_empty() {
                    // They stay leased, and no sender holds them.
                    node.has_doubt.store(true, Ordering::SeqCst);
                }
                return Ok(WriteResult { done, refused });
            }
            Err(error) => error,
        };
        // Of several statements some may have been committed.
        is_doubtful |= step == 1;
        match judge(&error) {
            StatementFailure::Busy if begun.elapsed() < PATIENCE => {}
            StatementFailure::Busy => *node.unwritten.write() = Some(node.stuck(&error)),
            StatementFailure::Gone | StatementFailure::Lacking => {
                let error = node.failed(&error);
                tracing::warn!(%error, count = writes.len(),
                    "outcomes wait until the database answers");
                *node.unwritten.write() = Some(error);
                node.settling.discard().await;
                is_doubtful = true;
                tokio::time::sleep(RETRY_AFTER).await;
            }
            // The row exists: it comes from a write whose outcome was unknown, or should not exist.
            StatementFailure::Exists if !is_doubtful => is_doubtful = true,
            // One delivery must not hold up the others, so each is written by itself.
            StatementFailure::Exists | StatementFailure::Impossible if step > 1 => step = 1,
            StatementFailure::Exists | StatementFailure::Impossible
                if is_refused_to_all(node).await || !is_checked =>
            {
                (is_doubtful, is_checked) = (true, true);
            }
            StatementFailure::Exists | StatementFailure::Impossible => {
                let error = node.failed(&error);
                *node.unwritten.write() = None;
                tracing::error!(%error, "outcomes could not be recorded");
                node.has_doubt.store(true, Ordering::SeqCst);
                return Err(error);
            }
        }
    }
}

/// Whether the database refuses every commit, and not only these outcomes: they are written when it
/// does not any more.
async fn is_refused_to_all(node: &NodeState) -> bool {
    let Err(error) = outage::check_commits(node).await else {
        return false;
    };
    tracing::warn!(%error, "outcomes wait until the database takes them");
    *node.unwritten.write() = Some(error);
    tokio::time::sleep(RETRY_AFTER).await;
    true
}

/// Writes step by step, and collects the writes that are refused.
async fn settle_in_steps(
    node: &Arc<NodeState>,
    on: &Connected,
    writes: &[Write],
    steps: std::slice::Chunks<'_, usize>,
    refused: &mut HashMap<usize, SpoolError>,
) -> Result<DoneWrites, tokio_postgres::Error> {
    let mut done = DoneWrites::new();
    for step in steps {
        match settle(node, on, writes, step).await {
            Ok(settled) => done.extend(settled),
            Err(error) if step.len() == 1 && judge(&error).is_statements_fault() => {
                let error = node.failed(&error);
                let mail = writes[step[0]].token.mail;
                tracing::error!(mail.id = %mail, %error, "an outcome cannot be recorded");
                refused.insert(step[0], error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

const SETTLE: &str = "
WITH s AS MATERIALIZED (SELECT * FROM unnest($1::uuid[], $2::int4[], $3::int4[], $4::int8[],
  $5::int8[], $6::int2[],
      $7::int2[], $8::int4[], $9::int4[], $10::int4[], $11::int4[], $12::bytea[], $13::int4[],
        $14::bytea[])
    WITH ORDINALITY AS s(mail, idx, owner, token, at, stage, reason, route, tries, counted,
      crashes, data, events, entry, ord)),
  d AS (DELETE FROM ready r USING s WHERE r.mail = s.mail AND r.idx = s.idx
    AND r.owner = s.owner AND s.stage >= 2
    RETURNING s.*, r.priority, r.account),
  u AS (UPDATE ready r SET stage = 0, due = s.at, route = s.route, tries = s.tries,
    counted = s.counted,
      crashes = s.crashes, data = s.data, owner = 0, token = s.token, takeovers = 0
    FROM s WHERE r.mail = s.mail AND r.idx = s.idx AND r.owner = s.owner AND s.stage < 2
    RETURNING s.events, s.entry, s.at, s.ord),
  e AS (INSERT INTO ended (mail, idx, route, priority, at, stage, reason, token, tries, counted,
    crashes, data)
    SELECT mail, idx, route, priority, at, stage, reason, token, tries, counted, crashes,
      data FROM d RETURNING 1),
  t AS MATERIALIZED (SELECT ord, events, entry FROM d UNION ALL SELECT ord, events, entry FROM u),
  n AS MATERIALIZED (SELECT (SELECT count(*) FROM e) AS n,
      (SELECT coalesce(sum(events), 0)::int8 FROM t) AS events,
      (SELECT coalesce(sum(octet_length(entry)), 0)::int8 FROM t) AS bytes,
      ARRAY(SELECT CASE WHEN k = 0 THEN -(SELECT count(*) FROM d WHERE d.priority = p)
              ELSE (SELECT count(*) FROM d WHERE d.stage = k + 1 AND d.priority = p) END
            FROM generate_series(0, 3) k, generate_series(0, 2) p ORDER BY k, p)::int8[] AS totals),
  b AS MATERIALIZED (SELECT h.*, n.events, set_config('synchronous_commit',
      CASE WHEN $16 THEN 'off' ELSE current_setting('synchronous_commit') END, true)
    FROM n, LATERAL bump(n.events, n.bytes, n.totals, n.n) h),
  g AS MATERIALIZED (SELECT array_agg(account) AS names, array_agg(-n) AS pending,
    array_agg(0::int8) AS none
    FROM (SELECT account, count(*) AS n FROM d WHERE account <> 0 GROUP BY account) x),
  j AS (INSERT INTO journal (first, events, at, before, acts, entries)
    SELECT b.first, b.events, $15, b.before, false, string_agg(t.entry, ''::bytea ORDER BY t.ord)
    FROM b, t WHERE b.events > 0 GROUP BY b.first, b.events, b.before),
  a AS MATERIALIZED (SELECT ARRAY(SELECT count_accounts(b.commits, g.names, g.pending, g.none,
    g.none)) AS accounts
    FROM b, g)
SELECT t.ord, b.commits, b.pending, b.first + b.events - 1, a.accounts FROM t, b, a";

async fn settle(
    node: &Arc<NodeState>,
    on: &Connected,
    writes: &[Write],
    chosen: &[usize],
) -> Result<DoneWrites, tokio_postgres::Error> {
    if chosen.is_empty() {
        return Ok(DoneWrites::new());
    }
    let count = chosen.len();
    let mut mails: Vec<Uuid> = Vec::with_capacity(count);
    let mut places: Vec<i32> = Vec::with_capacity(count);
    let (mut owners, mut tokens) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let (mut ats, mut stages, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    let (mut routes, mut tries, mut counted, mut crashes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut data, mut events, mut entries) = (Vec::new(), Vec::new(), Vec::new());

    let now = node.hints.now();
    for at in chosen {
        let Write {
            token,
            held,
            delivery,
        } = &writes[*at];
        let (stage, when, reason) = rows::stage_columns(&delivery.stage);
        mails.push(rows::uuid(token.mail));
        places.push(i32::from(token.index));
        owners.push(session_of(token.serial));
        tokens.push(i64::try_from(token.serial).unwrap_or(0));
        ats.push(when);
        stages.push(if stage == MARKED { PENDING } else { stage });
        reasons.push(reason);
        routes.push(node.routes.id(&delivery.route).unwrap_or(0));
        tries.push(rows::count(delivery.tries));
        counted.push(rows::count(delivery.counted));
        crashes.push(rows::count(delivery.crashes));
        data.push(codec::encode(delivery));
        // A delivery that only returns to the queue has no journal entry.
        let tried = delivery.tries > held.delivery.tries;
        let (entry, count) = match tried || delivery.stage.finished_at().is_some() {
            true => single_entry_record(JournalEntry::became(
                token.mail,
                Some(&held.manifest),
                delivery,
                tried,
                now,
            )),
            false => (Vec::new(), 0),
        };
        entries.push(entry);
        events.push(count);
    }

    let rows = on
        .query_and_flush(
            SETTLE,
            &[
                &mails,
                &places,
                &owners,
                &tokens,
                &ats,
                &stages,
                &reasons,
                &routes,
                &tries,
                &counted,
                &crashes,
                &data,
                &events,
                &entries,
                &now.as_millis(),
                &node.all_flush.load(Ordering::Relaxed),
            ],
        )
        .await?;

    if let Some(row) = rows.first() {
        node.committed(Committed {
            commits: row.get(1),
            pending: row.get(2),
            last: row.get(3),
            accounts: accounts::read(&row.get::<_, Vec<String>>(4)),
        });
    }

    Ok(rows
        .iter()
        .filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok())
        .filter_map(|ord| chosen.get(ord).copied())
        .collect())
}

/// Finds out which writes with an unknown outcome were done.
async fn known(on: &Connected, writes: &[Write]) -> Result<DoneWrites, tokio_postgres::Error> {
    let mails: Vec<Uuid> = writes.iter().map(|w| rows::uuid(w.token.mail)).collect();
    let places: Vec<i32> = writes.iter().map(|w| i32::from(w.token.index)).collect();
    let tokens: Vec<i64> = writes
        .iter()
        .map(|w| i64::try_from(w.token.serial).unwrap_or(0))
        .collect();

    let rows = on
        .query(
            "SELECT s.ord FROM unnest($1::uuid[], $2::int4[], $3::int8[])
              WITH ORDINALITY AS s(mail, idx, token, ord)
             WHERE EXISTS (SELECT FROM ended e WHERE e.mail = s.mail AND e.idx = s.idx
               AND e.token = s.token)
                OR EXISTS (SELECT FROM ready r WHERE r.mail = s.mail AND r.idx = s.idx
                  AND r.token = s.token)",
            &[&mails, &places, &tokens],
        )
        .await?;
    if !rows.is_empty() {
        on.flush().await?;
    }

    Ok(rows
        .iter()
        .filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok())
        .collect())
}

async fn release(on: &Connected, released: &[LeaseToken]) -> Result<(), tokio_postgres::Error> {
    let mails: Vec<Uuid> = released.iter().map(|t| rows::uuid(t.mail)).collect();
    let places: Vec<i32> = released.iter().map(|t| i32::from(t.index)).collect();
    let owners: Vec<i32> = released.iter().map(|t| session_of(t.serial)).collect();
    on.execute(
        "UPDATE ready r SET owner = 0, stage = 0 FROM unnest($1::uuid[], $2::int4[], $3::int4[])
          AS s(mail, idx, owner)
         WHERE r.mail = s.mail AND r.idx = s.idx AND r.owner = s.owner",
        &[&mails, &places, &owners],
    )
    .await
    .map(|_| ())
}

/// Answers the callers.
fn answer(
    node: &Arc<NodeState>,
    writes: &[Write],
    replies: Vec<PendingReply>,
    outcome: Result<WriteResult, SpoolError>,
) {
    let WriteResult { done, refused } = match outcome {
        Ok(written) => written,
        Err(error) => {
            for reply in replies {
                let _ = reply.to.send(Err(error.clone()));
            }
            return;
        }
    };

    let mut in_doubt = Vec::new();
    for at in &done {
        let delivery = &writes[*at].delivery;
        let (_, when, _) = rows::stage_columns(&delivery.stage);
        match delivery.stage {
            Stage::Pending { .. } | Stage::Committing { .. } => {
                let route = node.routes.id(&delivery.route).unwrap_or(hints::ANY_ROUTE);
                node.hints.due_at(route, when);
            }
            _ => node.hints.sweep_at(node.kept_until(when)),
        }
    }

    let mut is_answered = vec![false; writes.len()];
    for reply in replies {
        let results = reply.results.into_iter().map(|result| match result {
            Ok(known) => Ok(known),
            Err(at) => {
                is_answered[at] = true;
                match (done.contains(&at), refused.get(&at)) {
                    (true, _) => Ok(SettleResult::Done),
                    (false, Some(error)) => Err(error.clone()),
                    (false, None) => {
                        node.stale.fetch_add(1, Ordering::Relaxed);
                        Ok(SettleResult::Stale)
                    }
                }
            }
        });
        let _ = reply.to.send(results.collect());
    }

    for (at, write) in writes.iter().enumerate() {
        if !is_answered[at]
            && done.contains(&at)
            && let Stage::Dead { reason, .. } = write.delivery.stage
        {
            in_doubt.push(EndedDelivery {
                mail: write.token.mail,
                recipient: write.delivery.recipient.clone(),
                reason,
            });
        }
    }

    report_ends(node, in_doubt);
    node.changed.notify_one();
}

/// Records that these deliveries may be sent: all of them, or none.
async fn record_mark(node: &Arc<NodeState>, tokens: Vec<LeaseToken>) -> Result<(), SpoolError> {
    {
        let leases = node.leases.lock();
        if tokens.iter().any(|token| leases.current(token).is_none()) {
            node.stale.fetch_add(1, Ordering::Relaxed);
            return Err(SpoolError::StaleLease);
        }
    }

    let mails: Vec<Uuid> = tokens.iter().map(|t| rows::uuid(t.mail)).collect();
    let places: Vec<i32> = tokens.iter().map(|t| i32::from(t.index)).collect();
    let owners: Vec<i32> = tokens.iter().map(|t| session_of(t.serial)).collect();

    let mut tries = 0;
    loop {
        tries += 1;
        let on = node.on(&node.settling).await?;
        let marked = on
            .execute(
                "UPDATE ready r SET stage = 1 FROM unnest($1::uuid[], $2::int4[], $3::int4[])
                  AS s(mail, idx, owner)
                 WHERE r.mail = s.mail AND r.idx = s.idx AND r.owner = s.owner",
                &[&mails, &places, &owners],
            )
            .await;
        match marked {
            Ok(count) if count == tokens.len() as u64 => {
                let mut leases = node.leases.lock();
                tokens.iter().for_each(|token| leases.mark(token));
                return Ok(());
            }
            Ok(_) => {
                node.stale.fetch_add(1, Ordering::Relaxed);
                return Err(SpoolError::StaleLease);
            }
            Err(error) if judge(&error) == StatementFailure::Busy && tries < 3 => {}
            Err(error) => {
                if judge(&error).is_outage() {
                    node.settling.discard().await;
                }
                return Err(node.failed(&error));
            }
        }
    }
}
