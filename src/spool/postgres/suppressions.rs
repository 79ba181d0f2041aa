//! The addresses that get no mail, in a table that all nodes share. Each node knows since its last
//! poll whether there are any at all, so that it need not ask while there are none.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::FutureExt;
use tokio_postgres::Row;

use super::PostgresNode;
use super::link::{Connected, Param};
use super::reading::ask;
use super::rows;
use crate::mail::{Address, Timestamp};
use crate::spool::{
    SpoolError, Suppression, SuppressionPage, SuppressionQuery, SuppressionReason, Suppressions,
};

/// The most entries of one page.
const MAX_PAGE: usize = 1000;
/// How many entries are written in one commit.
const STEP_ENTRIES: usize = 5000;

/// An entry's address, list and reason, in this order.
type Key = (String, String, i16);

pub(super) fn key(entry: &Suppression) -> Key {
    let list = entry.list.as_deref().map(rows::text).unwrap_or_default();
    (of_address(&entry.address), list, entry.reason as i16)
}

fn of_address(address: &Address) -> String {
    rows::text(&address.as_str().to_lowercase())
}

/// The entry of a row; `None` if it is not valid.
pub(super) fn read(row: &Row) -> Option<Suppression> {
    let reason = usize::try_from(row.get::<_, i16>("reason")).ok()?;
    let list: String = row.get("list");
    let until: Option<i64> = row.get("until");
    Some(Suppression {
        address: Address::parse(row.get("address")).ok()?,
        reason: *SuppressionReason::ALL.get(reason)?,
        list: (!list.is_empty()).then_some(list),
        since: Timestamp::from_millis(row.get("since")),
        until: until.map(Timestamp::from_millis),
        note: row.get("note"),
    })
}

fn cursor((address, list, reason): &Key) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{address}\0{list}\0{reason}"))
}

fn read_cursor(text: &str) -> Option<Key> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let [address, list, reason] = text.split('\0').collect::<Vec<_>>()[..] else {
        return None;
    };
    Some((address.to_owned(), list.to_owned(), reason.parse().ok()?))
}

/// Keys as columns.
fn columns(keys: impl IntoIterator<Item = Key>) -> (Vec<String>, Vec<String>, Vec<i16>) {
    let (mut addresses, mut lists, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for (address, list, reason) in keys {
        addresses.push(address);
        lists.push(list);
        reasons.push(reason);
    }
    (addresses, lists, reasons)
}

const ADD: &str = "
WITH h AS (UPDATE head SET commits = commits + 1)
INSERT INTO suppressions (address, list, reason, since, until, note)
SELECT * FROM unnest($1::text[], $2::text[], $3::int2[], $4::int8[], $5::int8[], $6::text[])
ON CONFLICT (address, list, reason) DO UPDATE SET since = EXCLUDED.since, until = EXCLUDED.until,
  note = EXCLUDED.note";

const REMOVE: &str = "
WITH h AS (UPDATE head SET commits = commits + 1)
DELETE FROM suppressions s USING unnest($1::text[], $2::text[], $3::int2[]) AS u(address, list,
  reason)
WHERE s.address = u.address AND s.list = u.list AND s.reason = u.reason";

const PAGE: &str = "
SELECT address, list, reason, since, until, note FROM suppressions WHERE (address, list,
  reason) > ($1, $2, $3)
  AND ($4::text IS NULL OR address = $4) AND ($5::text IS NULL OR list = $5) AND ($6::int2 IS NULL
    OR reason = $6)
ORDER BY address, list, reason LIMIT $7";

/// Adds entries, no two of which have the same key.
pub(super) async fn insert(
    on: &Connected,
    entries: &[Suppression],
) -> Result<(), tokio_postgres::Error> {
    let (addresses, lists, reasons) = columns(entries.iter().map(key));
    let since: Vec<i64> = entries.iter().map(|e| e.since.as_millis()).collect();
    let until = entries.iter().map(|e| e.until.map(Timestamp::as_millis));
    let until: Vec<Option<i64>> = until.collect();
    let notes = entries.iter().map(|e| e.note.as_deref().map(rows::text));
    let notes: Vec<Option<String>> = notes.collect();
    let params: [Param<'_>; 6] = [&addresses, &lists, &reasons, &since, &until, &notes];
    on.execute(ADD, &params).await.map(|_| ())
}

impl PostgresNode {
    async fn write(&self, entries: Vec<Suppression>) -> Result<(), SpoolError> {
        // A poll that began before this commit must not conclude that there are no suppressions.
        self.node.adding.fetch_add(1, Ordering::AcqRel);
        self.node.suppresses.store(true, Ordering::Release);
        let written = self
            .node
            .change(move |_, on| {
                let entries = entries.clone();
                async move { Ok((insert(on, &entries).await?, None)) }.boxed()
            })
            .await;

        self.node.suppresses.store(true, Ordering::Release);
        self.node.adding.fetch_add(1, Ordering::AcqRel);
        written
    }
}

#[async_trait]
impl Suppressions for PostgresNode {
    fn is_empty(&self) -> bool {
        !self.node.suppresses.load(Ordering::Acquire)
    }

    async fn of(&self, addresses: Vec<Address>) -> Result<Vec<Vec<Suppression>>, SpoolError> {
        let node = &self.node;
        let asked: Vec<String> = addresses.iter().map(of_address).collect();
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            "SELECT address, list, reason, since, until,
              note FROM suppressions WHERE address = ANY($1)
             ORDER BY address, list, reason",
            &[&asked],
        ));

        let mut found: HashMap<String, Vec<Suppression>> = HashMap::new();
        for row in &rows? {
            let of_one = found.entry(row.get("address")).or_default();
            of_one.extend(read(row));
        }

        let of_each = asked.iter().map(|address| found.get(address).cloned());
        Ok(of_each.map(Option::unwrap_or_default).collect())
    }

    async fn add(&self, entries: Vec<Suppression>) -> Result<(), SpoolError> {
        let entries: BTreeMap<Key, Suppression> = entries
            .into_iter()
            .map(|entry| (key(&entry), entry))
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        let entries: Vec<Suppression> = entries.into_values().collect();
        for step in entries.chunks(STEP_ENTRIES) {
            self.write(step.to_vec()).await?;
        }
        Ok(())
    }

    async fn remove(&self, entries: Vec<Suppression>) -> Result<usize, SpoolError> {
        let mut keys: Vec<Key> = entries.iter().map(key).collect();
        keys.sort();
        keys.dedup();
        self.node
            .change(move |_, on| {
                let (addresses, lists, reasons) = columns(keys.clone());
                async move {
                    let count = on.execute(REMOVE, &[&addresses, &lists, &reasons]).await?;
                    Ok((usize::try_from(count).unwrap_or(0), None))
                }
                .boxed()
            })
            .await
    }

    async fn page(&self, query: SuppressionQuery) -> Result<SuppressionPage, SpoolError> {
        let node = &self.node;
        let after = match query.cursor.as_deref().map(read_cursor) {
            Some(Some(after)) => after,
            Some(None) => return Err(SpoolError::BadCursor),
            None => (String::new(), String::new(), -1),
        };

        let limit = query.limit.clamp(1, MAX_PAGE);
        let most = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let address = query.address.as_ref().map(of_address);
        let reason = query.reason.map(|reason| reason as i16);
        let (first, second, third) = after;
        let rows: Result<Vec<Row>, SpoolError> = ask!(node, on => on.query(
            PAGE,
            &[&first, &second, &third, &address, &query.list, &reason, &most],
        ));
        let mut rows = rows?;
        let has_more = rows.len() > limit;

        rows.truncate(limit);
        let last = rows.last().filter(|_| has_more);
        Ok(SuppressionPage {
            suppressions: rows.iter().filter_map(read).collect(),
            next: last.map(|row| cursor(&(row.get("address"), row.get("list"), row.get("reason")))),
        })
    }
}
