//! Reads records, messages, lists and statistics. Each record is read by one statement, so that a
//! delivery that moves meanwhile is seen exactly once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_postgres::Row;
use uuid::Uuid;

use super::feedback;
use super::head::HEAD;
use super::link::{Connected, Param};
use super::put::hash_of;
use super::rows::{self, CANCELLED, DEAD};
use super::shared::{NodeState, PATIENCE};
use crate::delivery::{Route, State};
use crate::mail::{MailId, Priority, Submitter, Timestamp};
use crate::spool::query::DELIVERIES_PER_PAGE;
use crate::spool::{Page, Query, Record, SpoolError, SpoolStats};

/// The most mails that are read for one page, however few of them match.
const MOST_READ: usize = 5000;
/// How many mails are read at a time: each may have thousands of recipients.
const STEP_MAILS: usize = 64;
/// The most index positions that are skipped for one page because they cannot match.
const MOST_PASSED_OVER: usize = 100_000;

/// Runs a query on the connection for reading. If the connection was lost, runs it once more: a
/// query changes nothing.
macro_rules! ask {
    ($node:expr, $on:ident => $ask:expr) => {{
        let mut tries = 0;
        loop {
            tries += 1;
            let $on = $node.on(&$node.reading).await?;
            match $ask.await {
                Ok(found) => break Ok(found),
                Err(error)
                    if $crate::spool::postgres::link::judge(&error).is_outage() && tries < 2 =>
                {
                    $node.reading.discard().await;
                }
                Err(error) => break Err($node.failed(&error)),
            }
        }
    }};
}
pub(super) use ask;

pub(super) const RECORDS: &str = "
SELECT m.manifest, m.expires_at, m.recipients[d.idx + 1] AS recipient, d.* FROM mails m
  CROSS JOIN LATERAL (
  SELECT mail, idx, route, due AS at, stage, 0::smallint AS reason, tries, counted, crashes,
    data, owner <> 0 AS leased
  FROM ready WHERE mail = m.id
  UNION ALL
  SELECT mail, idx, route, at, stage, reason, tries, counted, crashes, data, false
    FROM ended WHERE mail = m.id) d
WHERE m.id = ANY($1) ORDER BY d.mail, d.idx";

/// The records of those of these mails that exist, as far as they can be decoded.
async fn records(
    node: &NodeState,
    on: &Connected,
    ids: &[Uuid],
) -> Result<HashMap<MailId, Result<Record, SpoolError>>, tokio_postgres::Error> {
    let params: [Param<'_>; 1] = [&ids];
    let (rows, mut came_back) =
        futures::future::try_join(on.query(RECORDS, &params), feedback::of_mails(on, ids)).await?;
    node.routes.learn_those(on, &rows).await?;
    let mut records = HashMap::with_capacity(ids.len());
    for row in &rows {
        let id = rows::mail_id(row.get("mail"));
        let record = records.entry(id).or_insert_with(|| {
            Ok(Record {
                manifest: rows::manifest(row)?,
                deliveries: Vec::new(),
                leased: Vec::new(),
                feedback: came_back
                    .remove(&rows::uuid(id))
                    .unwrap_or_default()
                    .into_iter()
                    .map(|row| (row.index, row.feedback))
                    .collect(),
            })
        });
        if let Ok(record) = record {
            let read = rows::delivery(row, &node.routes);
            record.deliveries.push(read.delivery);
            record.leased.push(row.get("leased"));
        }
    }

    Ok(records)
}

/// Waits until all that has been read so far is on disk: what others have committed need not be
/// there yet. It waits on the connection of the puts, so that other reads do not.
async fn until_on_disk(node: &NodeState) -> Result<(), SpoolError> {
    let head: Result<Vec<Row>, SpoolError> =
        ask!(node, on => on.query(&format!("SELECT commits FROM {HEAD}"), &[]));
    let last = head?.first().map(|row| row.get::<_, i64>(0));
    if last == Some(node.hints.commits()) {
        return Ok(());
    }
    let on = node.on(&node.put).await?;
    match tokio::time::timeout(PATIENCE, on.flush()).await {
        Ok(flushed) => flushed.map_err(|error| node.failed(&error)),
        Err(_) => Err(node
            .connector
            .unreachable("it does not confirm that what was committed is on disk")),
    }
}

pub(super) async fn get(node: &Arc<NodeState>, id: MailId) -> Result<Option<Record>, SpoolError> {
    node.check_open()?;
    node.until_released().await;
    let ids = [rows::uuid(id)];
    let found: Result<_, SpoolError> = ask!(node, on => records(node, &on, &ids));
    until_on_disk(node).await?;
    found?.remove(&id).transpose()
}

pub(super) async fn by_key(
    node: &Arc<NodeState>,
    whose: &Submitter,
    key: &str,
) -> Result<Option<MailId>, SpoolError> {
    node.check_open()?;
    node.until_released().await;
    let hash = hash_of(whose, key);
    let rows: Result<Vec<tokio_postgres::Row>, SpoolError> =
        ask!(node, on => on.query("SELECT mail FROM keys WHERE key = $1", &[&hash]));
    until_on_disk(node).await?;
    Ok(rows?.first().map(|row| rows::mail_id(row.get(0))))
}

const BODY: &str = "SELECT body, forgotten, NOT EXISTS (SELECT FROM ready r WHERE r.mail = m.id)
  AND NOT EXISTS (SELECT FROM ended e WHERE e.mail = m.id AND e.stage <> 2) FROM mails m
    WHERE id = $1";

pub(super) async fn body(node: &Arc<NodeState>, id: MailId) -> Result<Option<Bytes>, SpoolError> {
    node.check_open()?;
    let id = rows::uuid(id);
    let rows: Result<Vec<tokio_postgres::Row>, SpoolError> =
        ask!(node, on => on.query(BODY, &[&id]));
    let rows = rows?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };

    // The message is not returned after its retention, even if it is not deleted yet.
    if row.get(1) || (node.options.keep_bodies.is_zero() && row.get(2)) {
        return Err(SpoolError::Forgotten(rows::mail_id(id)));
    }
    Ok(Some(Bytes::copy_from_slice(row.get::<_, &[u8]>(0))))
}

/// The position at which a page ended.
#[derive(Clone, Copy)]
enum Cursor {
    /// In the list of all mails, or of ended ones: newest first.
    Newest(Uuid),
    /// In the list of pending deliveries: by due time.
    Due(i64, Uuid),
}

impl Cursor {
    fn read(text: &str) -> Result<Self, SpoolError> {
        let bad = || SpoolError::BadCursor;
        if !text.is_ascii() {
            return Err(bad());
        }

        let uuid = |hex: &str| match hex.len() {
            32 => Uuid::try_parse(hex).map_err(|_| bad()),
            _ => Err(bad()),
        };

        match text.strip_prefix('d') {
            Some(rest) if rest.len() == 48 => {
                let due = i64::from_str_radix(&rest[..16], 16).map_err(|_| bad())?;
                Ok(Cursor::Due(due, uuid(&rest[16..])?))
            }
            Some(_) => Err(bad()),
            None => Ok(Cursor::Newest(uuid(text)?)),
        }
    }

    fn text(self) -> String {
        match self {
            Cursor::Newest(id) => id.simple().to_string(),
            Cursor::Due(due, id) => format!("d{due:016x}{}", id.simple()),
        }
    }
}

pub(super) async fn list(
    node: &Arc<NodeState>,
    query: Query,
    now: Timestamp,
) -> Result<Page, SpoolError> {
    node.check_open()?;
    node.until_released().await;
    let cursor = query.cursor.as_deref().map(Cursor::read).transpose()?;
    let is_pending = matches!(
        query.state,
        Some(State::Scheduled | State::Queued | State::Deferred | State::Sending)
    );
    let waits = is_pending && query.ids.is_none();

    let cursor = match (cursor, waits) {
        (Some(Cursor::Newest(_)), true) | (Some(Cursor::Due(..)), false) => {
            return Err(SpoolError::BadCursor);
        }
        (cursor, _) => cursor,
    };

    let page: Result<Page, SpoolError> =
        ask!(node, on => page(node, &on, &query, now, cursor, waits));
    until_on_disk(node).await?;
    page
}

async fn page(
    node: &NodeState,
    on: &Connected,
    query: &Query,
    now: Timestamp,
    mut cursor: Option<Cursor>,
    waits: bool,
) -> Result<Page, tokio_postgres::Error> {
    let size = query.page_size();
    let mut page = Page::default();
    let (mut read, mut passed, mut deliveries) = (0, 0, 0);
    let mut places = ListPositions::default();
    loop {
        if places.found.is_empty() {
            if places.is_last {
                return Ok(page);
            }
            let most = (size - page.mails.len() + 1).clamp(64, 1000);
            places = match waits {
                true => waiting(node, on, query.state, now, cursor, most).await?,
                // Ranges without a match are skipped in growing steps.
                false => newest(on, query, cursor, most.max(passed).min(10_000)).await?,
            };
        }

        let some = places.found.len().min(STEP_MAILS);
        let some: Vec<(Cursor, bool)> = places.found.drain(..some).collect();
        let is_last = places.is_last && places.found.is_empty();
        let wanted = some.iter().filter(|(_, fits)| *fits);
        let mut ids: Vec<Uuid> = wanted.map(|(place, _)| place.mail()).collect();
        ids.dedup();

        let records = records(node, on, &ids).await?;
        let count = some.len();
        for (n, (place, fits)) in some.into_iter().enumerate() {
            cursor = Some(place);
            page.looked_at += 1;
            let is_end = is_last && n + 1 == count;
            if !fits {
                passed += 1;
                if passed >= MOST_PASSED_OVER && !is_end {
                    page.next = cursor.map(Cursor::text);
                    return Ok(page);
                }
                continue;
            }
            read += 1;
            let id = rows::mail_id(place.mail());
            let record = match records.get(&id) {
                Some(Ok(record)) => record,
                Some(Err(error)) => {
                    tracing::error!(mail.id = %id, %error, "a mail cannot be listed");
                    continue;
                }
                None => continue,
            };
            if belongs(query, record, place, now) {
                deliveries += record.deliveries.len();
                page.mails.push(record.clone());
            }
            let is_full = page.mails.len() >= size || deliveries >= DELIVERIES_PER_PAGE;
            if (is_full || read >= MOST_READ) && !is_end {
                page.next = cursor.map(Cursor::text);
                return Ok(page);
            }
        }
    }
}

impl Cursor {
    fn mail(self) -> Uuid {
        match self {
            Cursor::Newest(id) | Cursor::Due(_, id) => id,
        }
    }
}

/// Whether the mail matches and is listed at this position: a mail with several pending deliveries
/// is listed at the first that matches.
fn belongs(query: &Query, record: &Record, place: Cursor, now: Timestamp) -> bool {
    if !query.admits(record) {
        return false;
    }
    let Some(wanted) = query.state else {
        return true;
    };

    let first = record
        .deliveries
        .iter()
        .zip(record.states(now))
        .filter(|(_, state)| *state == wanted)
        .map(|(delivery, _)| delivery.stage.due().map_or(0, Timestamp::as_millis))
        .min();

    match (place, first) {
        (_, None) => false,
        (Cursor::Newest(_), Some(_)) => true,
        (Cursor::Due(due, _), Some(first)) => first == due,
    }
}

/// The next positions that may match, each with whether its mail must be read; and whether they are
/// the last.
#[derive(Default)]
struct ListPositions {
    found: VecDeque<(Cursor, bool)>,
    is_last: bool,
}

/// The next mails, newest first. Looks at no more of them than it returns.
async fn newest(
    on: &Connected,
    query: &Query,
    cursor: Option<Cursor>,
    most: usize,
) -> Result<ListPositions, tokio_postgres::Error> {
    let below = cursor.map_or(Uuid::max(), Cursor::mail);
    let (first, last) = query
        .ids
        .map_or((Uuid::nil(), Uuid::max()), |(first, last)| {
            (rows::uuid(first), rows::uuid(last))
        });
    let limit = i64::try_from(most).unwrap_or(1000);
    let priority: Option<i16> = query.priority.map(rows::priority_number);
    let since = query.since.map_or(i64::MIN, Timestamp::as_millis);
    let until = query.until.map_or(i64::MAX, Timestamp::as_millis);

    // For other states there is no index, so all mails are read.
    let all = match query.state {
        Some(State::Dead) => ended(DEAD),
        Some(State::Cancelled) => ended(CANCELLED),
        _ => {
            "SELECT id FROM mails WHERE id < $1 AND id BETWEEN $6 AND $7 ORDER BY id DESC LIMIT $2"
                .to_owned()
        }
    };
    let sql = format!(
        "SELECT x.id, coalesce(($3::int2 IS NULL OR m.priority = $3) AND m.accepted_at >= $4
          AND m.accepted_at < $5, false)
         FROM ({all}) x LEFT JOIN mails m ON m.id = x.id ORDER BY x.id DESC"
    );

    let params: [Param<'_>; 7] = [&below, &limit, &priority, &since, &until, &first, &last];
    let rows = on.query(&sql, &params).await?;
    let found: VecDeque<(Cursor, bool)> = rows
        .iter()
        .map(|row| (Cursor::Newest(row.get(0)), row.get(1)))
        .collect();
    Ok(ListPositions {
        is_last: found.len() < most,
        found,
    })
}

fn ended(stage: i16) -> String {
    format!(
        "SELECT DISTINCT mail AS id FROM ended WHERE mail < $1 AND mail BETWEEN $6 AND $7
         AND stage = {stage} ORDER BY mail DESC LIMIT $2"
    )
}

/// The next positions of pending deliveries in this state, by due time.
async fn waiting(
    node: &NodeState,
    on: &Connected,
    state: Option<State>,
    now: Timestamp,
    cursor: Option<Cursor>,
    most: usize,
) -> Result<ListPositions, tokio_postgres::Error> {
    let (due, mail) = match cursor {
        Some(Cursor::Due(due, mail)) => (due, mail),
        _ => (i64::MIN, Uuid::nil()),
    };

    node.routes.learn(on).await?;
    let routes: Vec<i32> = node.routes.all().into_iter().map(|(id, _)| id).collect();
    let wanted = match state {
        Some(State::Queued) => "r.owner = 0 AND r.stage = 0 AND r.due <= $5",
        Some(State::Scheduled) => "r.owner = 0 AND r.stage = 0 AND r.due > $5 AND r.tries = 0",
        Some(State::Deferred) => "r.owner = 0 AND r.stage = 0 AND r.due > $5 AND r.tries > 0",
        _ => "(r.owner <> 0 OR r.stage = 1) AND $5::int8 IS NOT NULL",
    };

    let sql = format!(
        "SELECT DISTINCT x.due, x.mail FROM unnest($1::int4[]) q(route)
          CROSS JOIN generate_series(0, 2) p
         CROSS JOIN LATERAL (SELECT DISTINCT r.due, r.mail FROM ready r
           WHERE r.route = q.route AND r.priority = p::int2
           AND (r.due, r.mail) > ($2, $3) AND {wanted} ORDER BY r.due, r.mail LIMIT $4) x
         ORDER BY x.due, x.mail LIMIT $4"
    );

    let limit = i64::try_from(most).unwrap_or(1000);
    let rows = on
        .query(&sql, &[&routes, &due, &mail, &limit, &now.as_millis()])
        .await?;
    let found: VecDeque<(Cursor, bool)> = rows
        .iter()
        .map(|row| (Cursor::Due(row.get(0), row.get(1)), true))
        .collect();
    Ok(ListPositions {
        is_last: found.len() < most,
        found,
    })
}

/// Counts the pending deliveries; the numbers of ended ones are kept as totals.
pub(super) async fn stats(node: &Arc<NodeState>, now: Timestamp) -> Result<SpoolStats, SpoolError> {
    node.check_open()?;
    node.until_released().await;
    let stats: Result<SpoolStats, SpoolError> = ask!(node, on => count(node, &on, now));
    stats
}

/// The last count of pending deliveries by route, and how long counting took.
pub(super) struct CountedBacklog {
    counted: Instant,
    took: Duration,
    routes: Vec<(Route, u64)>,
}

/// How many deliveries are pending on each route. It is called every second; if counting takes
/// long, the last count is reused for ten times as long.
pub(super) async fn backlog(node: &Arc<NodeState>) -> Result<Vec<(Route, u64)>, SpoolError> {
    if let Some(known) = &*node.backlog.lock()
        && known.counted.elapsed() < known.took * 10
    {
        return Ok(known.routes.clone());
    }

    let begun = Instant::now();
    let rows: Result<Vec<Row>, SpoolError> =
        ask!(node, on => on.query("SELECT route, count(*) FROM ready GROUP BY route", &[]));
    let rows = rows?;
    let learnt: Result<(), SpoolError> = ask!(node, on => node.routes.learn_those(&on, &rows));
    learnt?;

    let routes = rows.iter().filter_map(|row| {
        let count = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        Some((node.routes.name(row.get(0))?, count))
    });
    let routes: Vec<(Route, u64)> = routes.collect();
    *node.backlog.lock() = Some(CountedBacklog {
        counted: Instant::now(),
        took: begun.elapsed(),
        routes: routes.clone(),
    });
    Ok(routes)
}

async fn count(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
) -> Result<SpoolStats, tokio_postgres::Error> {
    let waiting = on
        .query(
            "SELECT route, priority, CASE WHEN owner <> 0 OR stage = 1 THEN 2 WHEN due <= $1 THEN 1
                 WHEN tries = 0 THEN 0 ELSE 4 END AS state, count(*), min(due) FROM ready
                   GROUP BY 1, 2, 3",
            &[&now.as_millis()],
        )
        .await?;

    let whole = on
        .query(
            &format!(
                "SELECT totals, (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::int8
              FROM pg_class c
               WHERE c.relnamespace = (SELECT n.oid FROM pg_namespace n
                 WHERE n.nspname = current_schema()) AND c.relkind = 'r'),
               (SELECT count(*) FROM set_aside),
               written - coalesce((SELECT before FROM journal ORDER BY first LIMIT 1), written)
             FROM {HEAD}"
            ),
            &[],
        )
        .await?;

    node.routes.learn_those(on, &waiting).await?;
    let mut stats = SpoolStats {
        stale_settles: node.stale.load(Ordering::Relaxed),
        held_back: node.horizon.held_for(),
        ..SpoolStats::default()
    };

    let mut backlog: BTreeMap<Route, u64> = BTreeMap::new();
    for row in &waiting {
        let state = usize::try_from(row.get::<_, i32>("state")).unwrap_or(0);
        let state = State::ALL.get(state).copied().unwrap_or(State::Scheduled);
        let priority = rows::priority(row.get("priority"));
        let number = u64::try_from(row.get::<_, i64>(3)).unwrap_or(0);
        stats.counts.add(state, priority, number);
        if let Some(route) = node.routes.name(row.get("route")) {
            *backlog.entry(route).or_default() += number;
        }
        if state == State::Queued {
            let due = Timestamp::from_millis(row.get(4));
            stats.oldest_due = Some(stats.oldest_due.map_or(due, |oldest| oldest.min(due)));
        }
    }

    stats.backlog = backlog.into_iter().collect();
    if let Some(row) = whole.first() {
        let totals: Vec<i64> = row.get(0);
        let ended = [State::Delivered, State::Dead, State::Cancelled];
        for (kind, state) in ended.into_iter().enumerate() {
            for priority in Priority::ALL {
                let at = (kind + 1) * 3 + priority.index();
                let number = totals.get(at).copied().unwrap_or(0);
                let number = u64::try_from(number).unwrap_or(0);
                stats.counts.add(state, priority, number);
            }
        }
        let number = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        (stats.bytes, stats.quarantined) = (number(1), number(2));
        stats.journal_bytes = number(3);
    }

    Ok(stats)
}
