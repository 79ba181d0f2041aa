//! The journal as a table that all nodes write and read. Events are numbered under the lock of the
//! row that every commit changes last, so that numbers grow in the order of commits: a reader that
//! sees a number sees all lower ones.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use futures::FutureExt;
use tokio::sync::watch;
use tokio_postgres::Row;

use super::PostgresNode;
use super::head::HEAD;
use super::link::Connected;
use super::reading::ask;
use super::rows::TotalsChange;
use super::shared::{NodeState, bump};
use crate::delivery::Event;
use crate::mail::{MailId, Timestamp};
use crate::spool::keyed::journal::entry::{self, JournalEntry, PendingEntries, RecordHead};
use crate::spool::{Journal, JournalPage, ReaderChange, ReaderStatus, SpoolError};

/// The longest name of a reader, in bytes.
const LONGEST_NAME: usize = 200;
/// The most rows that are read for one page, or searched for one mail.
const PAGE_ROWS: i64 = 256;
const MOST_LOOKED_THROUGH: i64 = 20_000;
/// How many rows one step of pruning deletes.
const PRUNE_STEP: i64 = 5000;

type Events = Vec<Arc<Event>>;

/// The events of a row.
pub(super) fn events(row: &Row) -> Result<Vec<Event>, SpoolError> {
    let first: i64 = row.get("first");
    let head = RecordHead {
        skipped: 0,
        before: 0,
        events: u32::try_from(row.get::<_, i32>("events")).unwrap_or(0),
        at: Timestamp::from_millis(row.get("at")),
        has_acts: false,
        is_early: false,
    };
    let record = entry::record(&head, row.get("entries"));
    entry::events(u64::try_from(first).unwrap_or(0), &record)
}

/// The events of a row, if it can be read.
fn readable_events(row: &Row) -> Option<Vec<Event>> {
    let events = events(row).inspect_err(|error| {
        let first: i64 = row.get("first");
        tracing::error!(first, %error, "a record of the journal cannot be read");
    });
    events.ok()
}

fn check_name(name: &str) -> Result<(), SpoolError> {
    if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
        return Err(SpoolError::Unreadable(format!(
            "the name of a reader has 1 to {LONGEST_NAME} bytes"
        )));
    }
    Ok(())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) const COLUMNS: &str = "first, events, at, entries";

/// The rows that contain the events after a number. Those after the last event that is known may
/// not be on disk yet.
async fn rows_after(
    on: &Connected,
    after: u64,
    last_event: u64,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    on.query(
        &format!(
            "SELECT {COLUMNS} FROM journal WHERE first + events > $1 AND first >=
               coalesce((SELECT j.first FROM journal j WHERE j.first <= $1
                 ORDER BY j.first DESC LIMIT 1), 0)
               AND first <= $2
             ORDER BY first LIMIT $3"
        ),
        &[
            &number(after.saturating_add(1)),
            &number(last_event),
            &PAGE_ROWS,
        ],
    )
    .await
}

/// The events after a number, as a page. Events that cannot be read are missing like those that are
/// deleted.
fn page(rows: &[Row], after: u64, last_event: u64, most: usize) -> JournalPage {
    let mut page = JournalPage {
        last: after,
        ..JournalPage::default()
    };

    for row in rows {
        let first = unsigned(row.get("first"));
        let last = (first + unsigned(row.get::<_, i32>("events").into())).saturating_sub(1);
        let events = readable_events(row);
        let follows = match &events {
            Some(_) => first.saturating_sub(1),
            None => last,
        };
        let missing = follows.saturating_sub(page.last);
        if missing > 0 && !page.events.is_empty() {
            return page;
        }
        page.missed += missing;
        let new = events.unwrap_or_default().into_iter();
        let new = new.filter(|event| event.seq > after);
        page.events.extend(new.map(Arc::new));
        page.last = page.last.max(last);
        if page.events.len() >= most {
            return page;
        }
    }

    if rows.is_empty() && after < last_event {
        page.missed += last_event - after;
        page.last = last_event;
    }

    page
}

/// The number after which all events are from this time or later; `None` if it is not known.
async fn number_since(on: &Connected, at: Timestamp) -> Result<Option<u64>, tokio_postgres::Error> {
    let rows = on
        .query(
            "SELECT first FROM journal WHERE at >= $1 ORDER BY at, first LIMIT 1",
            &[&at.as_millis()],
        )
        .await?;
    Ok(rows
        .first()
        .map(|row| unsigned(row.get::<_, i64>(0)).saturating_sub(1)))
}

/// The rows with events of one mail up to the last event that is known, searched from the time of
/// its acceptance.
async fn rows_of_mail(
    on: &Connected,
    mail: MailId,
    after: u64,
    last_event: u64,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    let known = on
        .query(
            "SELECT accepted_at FROM mails WHERE id = $1",
            &[&super::rows::uuid(mail)],
        )
        .await?;

    let accepted = known
        .first()
        .map_or(mail.made_at().as_millis(), |row| row.get(0));
    on.query(
        &format!(
            "SELECT {COLUMNS} FROM journal WHERE first + events > $1 AND at >= $2
              AND position($3 IN entries) > 0 AND first <= $4
             ORDER BY first LIMIT $5"
        ),
        &[
            &number(after.saturating_add(1)),
            &(accepted - 3_600_000),
            &&mail.as_bytes()[..],
            &number(last_event),
            &MOST_LOOKED_THROUGH,
        ],
    )
    .await
}

async fn acts(on: &Connected, before: u64, most: usize) -> Result<Events, tokio_postgres::Error> {
    let rows = on
        .query(
            &format!(
                "SELECT {COLUMNS} FROM journal WHERE acts AND first < $1 ORDER BY first DESC \
                LIMIT $2"
            ),
            &[&number(before), &i64::try_from(most).unwrap_or(1000)],
        )
        .await?;

    let mut acts = Vec::new();
    for row in &rows {
        let of_it = readable_events(row).unwrap_or_default().into_iter().rev();
        acts.extend(
            of_it
                .filter(|event| event.kind.act().is_some() && event.seq < before)
                .map(Arc::new),
        );
    }

    acts.truncate(most);
    Ok(acts)
}

/// The condition that row `j` of the journal exceeds the limit of $1 bytes, and that all readers
/// have read it or that it exceeds the limit so far that readers are not waited for. `b` is the
/// total.
pub(super) const BEYOND_BOUND: &str = "b.written - j.before > $1 AND (b.slowest IS NULL
  OR j.first + j.events - 1 <= b.slowest OR b.written - j.before > 2 * $1)";

pub(super) fn max_size(node: &NodeState) -> i64 {
    let size = i64::try_from(node.options.journal.max_size).unwrap_or(i64::MAX);
    size.min(i64::MAX / 4)
}

/// Deletes events that are too old or too many; returns whether there are more. Events that a named
/// reader has not read are kept up to twice as long, and twice as many.
pub(super) async fn prune(
    node: &NodeState,
    on: &Connected,
    now: Timestamp,
) -> Result<bool, tokio_postgres::Error> {
    let options = &node.options.journal;
    let keep = i64::try_from(options.keep.as_millis()).unwrap_or(i64::MAX);
    let gone = on
        .query(
            &format!(
                "WITH b AS MATERIALIZED (SELECT (SELECT min(at) FROM readers) AS slowest,
              (SELECT written FROM {HEAD}) AS written)
             DELETE FROM journal WHERE first IN (SELECT j.first FROM journal j, b
               WHERE (j.at <= $1 OR b.written - j.before > $3)
                 AND (b.slowest IS NULL OR j.first + j.events - 1 <= b.slowest
                   OR j.at <= $2 OR b.written - j.before > 2 * $3)
               ORDER BY j.first LIMIT $4)
             RETURNING first, first + events - 1"
            ),
            &[
                &now.as_millis().saturating_sub(keep),
                &now.as_millis().saturating_sub(keep.saturating_mul(2)),
                &max_size(node),
                &PRUNE_STEP,
            ],
        )
        .await?;
    let first = gone.iter().map(|row| row.get::<_, i64>(0)).min();

    let last = gone.iter().map(|row| row.get::<_, i64>(1)).max();
    if let (Some(first), Some(last)) = (first, last) {
        count_missed(on, first, last).await?;
    }
    Ok(gone.len() as i64 >= PRUNE_STEP)
}

/// Counts the events that readers will not find.
async fn count_missed(on: &Connected, first: i64, last: i64) -> Result<(), tokio_postgres::Error> {
    let behind = on
        .query(
            "UPDATE readers SET missed = missed + $2 - greatest(at, $1::int8 - 1) \
            WHERE at < $2::int8 RETURNING name",
            &[&first, &last],
        )
        .await?;

    for row in behind {
        tracing::error!(
            reader = row.get::<_, &str>(0),
            "a reader of the journal is so far behind that events are gone before it read them"
        );
    }

    Ok(())
}

async fn change_kept(
    on: &Connected,
    reader: &str,
    changes: &[ReaderChange],
) -> Result<(), tokio_postgres::Error> {
    for (key, value) in changes {
        match value {
            Some(value) => {
                on.execute(
                    "INSERT INTO kept (reader, key, value) VALUES ($1, $2, $3)
                     ON CONFLICT (reader, key) DO UPDATE SET value = $3",
                    &[&reader, key, value],
                )
                .await?
            }
            None => {
                on.execute(
                    "DELETE FROM kept WHERE reader = $1 AND key = $2",
                    &[&reader, key],
                )
                .await?
            }
        };
    }
    Ok(())
}

#[async_trait]
impl Journal for PostgresNode {
    fn id(&self) -> u32 {
        u32::try_from(self.node.journal_id.load(Ordering::Relaxed)).unwrap_or(0)
    }

    fn last(&self) -> watch::Receiver<u64> {
        self.node.last_event.subscribe()
    }

    async fn note(&self, events: Vec<Event>) -> Result<(), SpoolError> {
        self.node
            .change(move |_, on| {
                let events = events.clone();
                async move {
                    let mut entries = PendingEntries::default();
                    for event in &events {
                        entries.push(JournalEntry::of(event));
                    }
                    let committed = bump(on, entries, &TotalsChange::default()).await?;
                    Ok(((), committed))
                }
                .boxed()
            })
            .await
    }

    async fn after(&self, after: u64, most: usize) -> Result<JournalPage, SpoolError> {
        let node = &self.node;
        node.check_open()?;
        let last_event = *node.last_event.borrow();
        if after >= last_event {
            return Ok(JournalPage {
                last: after,
                ..JournalPage::default()
            });
        }
        let rows: Result<_, SpoolError> = ask!(node, on => rows_after(&on, after, last_event));
        Ok(page(&rows?, after, last_event, most))
    }

    async fn since(&self, at: Timestamp) -> Result<u64, SpoolError> {
        let node = &self.node;
        let last_event = *node.last_event.borrow();
        let found: Result<_, SpoolError> = ask!(node, on => number_since(&on, at));
        Ok(found?.map_or(last_event, |found| found.min(last_event)))
    }

    async fn of_mail(&self, mail: MailId, after: u64) -> Result<JournalPage, SpoolError> {
        let node = &self.node;
        let last_event = *node.last_event.borrow();
        let rows: Result<_, SpoolError> =
            ask!(node, on => rows_of_mail(&on, mail, after, last_event));
        let mut found = JournalPage {
            last: last_event.max(after),
            ..JournalPage::default()
        };

        for row in &rows? {
            let of_it = readable_events(row).unwrap_or_default().into_iter();
            let of_mail = of_it.filter(|event| event.mail == Some(mail) && event.seq > after);
            found.events.extend(of_mail.map(Arc::new));
        }
        Ok(found)
    }

    async fn acts(&self, before: u64, most: usize) -> Result<Events, SpoolError> {
        let node = &self.node;
        ask!(node, on => acts(&on, before, most))
    }

    async fn reader(&self, name: &str, otherwise: u64) -> Result<u64, SpoolError> {
        check_name(name)?;
        let node = &self.node;
        let otherwise = number(otherwise);
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            "WITH i AS (INSERT INTO readers (name, at) VALUES ($1, $2)
              ON CONFLICT DO NOTHING RETURNING at)
             SELECT at FROM i UNION ALL SELECT at FROM readers WHERE name = $1 LIMIT 1",
            &[&name, &otherwise],
        ));
        Ok(rows?
            .first()
            .map_or(unsigned(otherwise), |row| unsigned(row.get(0))))
    }

    async fn advance(
        &self,
        name: &str,
        to: u64,
        changes: Vec<ReaderChange>,
    ) -> Result<(), SpoolError> {
        check_name(name)?;
        let (name, session) = (name.to_owned(), self.node.session());
        let advanced = self
            .node
            .change(move |_, on| {
                let (name, changes) = (name.clone(), changes.clone());
                async move {
                    // The row's lock is the fence: a reader that another session owns is not
                    // changed here.
                    let ours = on
                        .execute(
                            "INSERT INTO readers AS r (name, at, owner) VALUES ($1, $2, $3)
                             ON CONFLICT (name) DO UPDATE SET at = $2, owner = $3
                             WHERE r.owner IN (0, $3) OR NOT EXISTS (SELECT FROM sessions s
                               WHERE s.id = r.owner)",
                            &[&name, &number(to), &session],
                        )
                        .await?;
                    if ours == 0 {
                        return Ok((false, None));
                    }
                    change_kept(on, &name, &changes).await?;
                    Ok((true, None))
                }
                .boxed()
            })
            .await?;

        match advanced {
            true => Ok(()),
            false => Err(SpoolError::StaleLease),
        }
    }

    async fn leave(&self, name: &str, changes: Vec<ReaderChange>) -> Result<(), SpoolError> {
        check_name(name)?;
        let name = name.to_owned();
        self.node
            .change(move |_, on| {
                let (name, changes) = (name.clone(), changes.clone());
                async move {
                    change_kept(on, &name, &changes).await?;
                    Ok(((), None))
                }
                .boxed()
            })
            .await
    }

    async fn hold(&self, name: &str) -> Result<bool, SpoolError> {
        check_name(name)?;
        if self.holds(name) {
            return Ok(true);
        }
        if let Some(failure) = self.node.failure() {
            return Err(failure);
        }
        // Polled often, and mostly without a result.
        if self.is_held_elsewhere(name).await? {
            return Ok(false);
        }

        let (held, session) = (name.to_owned(), self.node.session());
        let ours = self
            .node
            .change(move |_, on| {
                let name = held.clone();
                async move {
                    let ours = on
                        .execute(
                            "UPDATE readers r SET owner = $2 WHERE name = $1
                               AND (r.owner IN (0, $2)
                                 OR NOT EXISTS (SELECT FROM sessions s WHERE s.id = r.owner))
                               AND EXISTS (SELECT FROM sessions s WHERE s.id = $2)",
                            &[&name, &session],
                        )
                        .await?;
                    Ok((ours > 0, None))
                }
                .boxed()
            })
            .await?;

        if ours {
            self.node.readers.lock().insert(name.to_owned(), session);
        }
        Ok(ours)
    }

    fn holds(&self, name: &str) -> bool {
        let held = self.node.readers.lock().get(name).copied();
        held == Some(self.node.session()) && self.node.failure().is_none()
    }

    async fn is_held_elsewhere(&self, name: &str) -> Result<bool, SpoolError> {
        let (node, session) = (&self.node, self.node.session());
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            "SELECT FROM readers r JOIN sessions s ON s.id = r.owner
             WHERE r.name = $1 AND r.owner <> $2",
            &[&name, &session],
        ));
        Ok(!rows?.is_empty())
    }

    async fn kept(
        &self,
        name: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, SpoolError> {
        let node = &self.node;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            "SELECT key, value FROM kept WHERE reader = $1 AND key >= $2 AND key < $3 \
            ORDER BY key LIMIT $4",
            &[&name, &from, &to, &most],
        ));
        Ok(rows?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn forget(&self, name: &str) -> Result<(), SpoolError> {
        check_name(name)?;
        let name = name.to_owned();

        self.node
            .change(move |_, on| {
                let name = name.clone();
                async move {
                    on.execute("DELETE FROM kept WHERE reader = $1", &[&name])
                        .await?;
                    on.execute("DELETE FROM readers WHERE name = $1", &[&name])
                        .await?;
                    Ok(((), None))
                }
                .boxed()
            })
            .await
    }

    async fn readers(&self) -> Result<Vec<ReaderStatus>, SpoolError> {
        let node = &self.node;
        let rows: Result<Vec<Row>, SpoolError> =
            ask!(node, on => on.query("SELECT name, at, missed FROM readers ORDER BY name", &[]));
        Ok(rows?
            .iter()
            .map(|row| ReaderStatus {
                name: row.get(0),
                at: unsigned(row.get(1)),
                missed: unsigned(row.get(2)),
            })
            .collect())
    }
}
