//! Deliveries that end without a sender's outcome: expired, cancelled, taken over from a dead node,
//! or dead when accepted. The caller deletes their rows from `ready` and passes them to this
//! module.
//!
//! *Invariant:* a row that is deleted from `ready` is written to `ended` and counted in the same
//! commit. Of a row that cannot be decoded the readable columns are kept, and its bytes are set
//! aside.

use std::collections::HashMap;

use tokio_postgres::Row;
use uuid::Uuid;

use super::link::Connected;
use super::routes::RouteNumbers;
use super::rows::{self, PENDING, TotalsChange, stage_columns};
use super::shared::{Committed, NodeState, bump};
use crate::delivery::{Delivery, Requester, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::{EndedDelivery, Manifest, codec};

/// A delivery that ends, with the other columns of its row.
pub(super) struct EndedRow {
    pub mail: MailId,
    pub index: u16,
    pub priority: i16,
    /// The account for which it counts as pending.
    pub account: i64,
    pub delivery: Delivery,
    /// Its encoded bytes, if they could not be decoded.
    pub unread: Option<Vec<u8>>,
}

/// Decodes rows that were deleted from `ready`, each with its final stage.
pub(super) async fn taken(
    node: &NodeState,
    on: &Connected,
    rows: &[Row],
    end: impl Fn(&Row) -> Stage,
) -> Result<Vec<EndedRow>, tokio_postgres::Error> {
    node.routes.learn_those(on, rows).await?;
    let endings = rows.iter().map(|row| {
        let read = rows::delivery(row, &node.routes);
        let mut delivery = read.delivery;
        delivery.stage = end(row);
        EndedRow {
            mail: read.mail,
            index: read.index,
            priority: row.get("priority"),
            account: row.get("account"),
            delivery,
            unread: read.unread,
        }
    });

    Ok(endings.collect())
}

/// The deliveries that ended without a user's request, for the sweep's report.
pub(super) fn reports(endings: &[EndedRow]) -> Vec<EndedDelivery> {
    let dead = endings.iter().filter_map(|ending| {
        let Stage::Dead { reason, .. } = ending.delivery.stage else {
            return None;
        };
        Some(EndedDelivery {
            mail: ending.mail,
            recipient: ending.delivery.recipient.clone(),
            reason,
        })
    });
    dead.collect()
}

/// Writes deliveries into `ended`, updates the totals, and adds the journal entries: one for each
/// delivery, and last `act` for the whole operation.
pub(super) async fn end_all(
    node: &NodeState,
    on: &Connected,
    by: &Requester,
    act: Option<JournalEntry<'_>>,
    endings: &[EndedRow],
) -> Result<Option<Committed>, tokio_postgres::Error> {
    let manifests = manifests(on, endings.iter().map(|ending| ending.mail)).await?;
    let mut totals = TotalsChange::default();
    let mut entries = PendingEntries::default();
    for ending in endings {
        let (stage, ..) = stage_columns(&ending.delivery.stage);
        totals.add(PENDING, ending.priority, -1);
        totals.accounts.pending(ending.account, -1);
        totals.add(stage, ending.priority, 1);
        let at = ending
            .delivery
            .stage
            .finished_at()
            .unwrap_or_else(Timestamp::now);
        let manifest = manifests.get(&ending.mail);
        let became = JournalEntry::became(ending.mail, manifest, &ending.delivery, false, at);
        entries.push(became.by(by));
    }
    entries.extend(act);

    insert(node, on, endings).await?;
    bump(on, entries, &totals).await
}

/// Writes rows into `ended`.
pub(super) async fn insert(
    node: &NodeState,
    on: &Connected,
    endings: &[EndedRow],
) -> Result<(), tokio_postgres::Error> {
    let mut columns = EndedColumns::default();
    for ending in endings {
        columns.add(&node.routes, ending);
    }
    columns.insert(on).await?;
    set_aside(on, endings).await
}

/// Deliveries as columns of `ended`.
#[derive(Default)]
pub(super) struct EndedColumns {
    pub mails: Vec<Uuid>,
    pub places: Vec<i32>,
    pub routes: Vec<i32>,
    pub priorities: Vec<i16>,
    pub ats: Vec<i64>,
    pub stages: Vec<i16>,
    pub reasons: Vec<i16>,
    pub tries: Vec<i32>,
    pub counted: Vec<i32>,
    pub crashes: Vec<i32>,
    pub data: Vec<Vec<u8>>,
}

impl EndedColumns {
    pub(super) fn add(&mut self, routes: &RouteNumbers, ending: &EndedRow) {
        let delivery = &ending.delivery;
        let (stage, at, reason) = stage_columns(&delivery.stage);
        self.mails.push(rows::uuid(ending.mail));
        self.places.push(i32::from(ending.index));
        self.routes.push(routes.id(&delivery.route).unwrap_or(0));
        self.priorities.push(ending.priority);
        self.ats.push(at);
        self.stages.push(stage);
        self.reasons.push(reason);
        self.tries.push(rows::count(delivery.tries));
        self.counted.push(rows::count(delivery.counted));
        self.crashes.push(rows::count(delivery.crashes));

        self.data.push(codec::encode(delivery));
    }

    pub(super) async fn insert(&self, on: &Connected) -> Result<(), tokio_postgres::Error> {
        on.execute(
        "INSERT INTO ended (mail, idx, route, priority, at, stage, reason, token, tries, counted,
          crashes, data)
         SELECT u.mail, u.idx, u.route, u.priority, u.at, u.stage, u.reason, 0, u.tries,
           u.counted, u.crashes, u.data
         FROM unnest($1::uuid[], $2::int4[], $3::int4[], $4::int2[], $5::int8[], $6::int2[],
           $7::int2[],
           $8::int4[], $9::int4[], $10::int4[], $11::bytea[])
           AS u(mail, idx, route, priority, at, stage, reason, tries, counted, crashes, data)",

        &[
            &self.mails,
            &self.places,
            &self.routes,
            &self.priorities,
            &self.ats,
            &self.stages,
            &self.reasons,
            &self.tries,
            &self.counted,
            &self.crashes,
            &self.data,
        ],
    )
    .await
    .map(|_| ())
    }
}

/// Stores the bytes of deliveries that could not be decoded.
async fn set_aside(on: &Connected, endings: &[EndedRow]) -> Result<(), tokio_postgres::Error> {
    for ending in endings {
        let Some(unread) = &ending.unread else {
            continue;
        };
        tracing::error!(
            mail.id = %ending.mail,
            "a delivery cannot be read; its bytes are set aside"
        );
        on.execute(
            "INSERT INTO set_aside (mail, idx, data) VALUES ($1, $2, $3)",
            &[&rows::uuid(ending.mail), &i32::from(ending.index), unread],
        )
        .await?;
    }
    Ok(())
}

/// The manifests of these mails.
pub(super) async fn manifests(
    on: &Connected,
    mails: impl Iterator<Item = MailId>,
) -> Result<HashMap<MailId, Manifest>, tokio_postgres::Error> {
    let mut ids: Vec<Uuid> = mails.map(rows::uuid).collect();
    ids.sort_unstable();
    ids.dedup();
    let rows = on
        .query(
            "SELECT id, manifest, expires_at FROM mails WHERE id = ANY($1)",
            &[&ids],
        )
        .await?;

    Ok(rows
        .iter()
        .filter_map(|row| Some((rows::mail_id(row.get("id")), rows::manifest(row).ok()?)))
        .collect())
}
