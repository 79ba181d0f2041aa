//! Exports the parts of a spool that no node has open, to copy it into a spool of another kind;
//! `import` does the reverse.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio_postgres::Row;
use uuid::Uuid;

use super::detached::DetachedSpool;
use super::head::HEAD;
use super::rows;
use super::{feedback, reading, suppressions};
use crate::mail::{MailId, Timestamp};
use crate::spool::SpoolError;
use crate::spool::transfer::{MailPart, NextPart, STEP_BYTES, SpoolPart};

/// The most mails that are read or written at a time.
pub(super) const STEP_MAILS: usize = 500;

/// Sends all parts of the spool to `to`, until the receiver is dropped.
pub(in crate::spool) async fn export(
    detached: &DetachedSpool,
    to: &mpsc::Sender<NextPart>,
) -> Result<(), SpoolError> {
    detached.check_alone().await?;
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    let on = &detached.on;
    let waiting = on
        .query("SELECT count(*) FROM outbox", &[])
        .await
        .map_err(failed)?;

    let waiting: i64 = waiting.first().map_or(0, |row| row.get(0));
    if waiting > 0 {
        return Err(detached.unusable(format!(
            "its outbox holds {waiting} mails that are not composed yet; start a node, and stop it \
             when they are"
        )));
    }

    let keys = on
        .query("SELECT mail, forget_at FROM keys", &[])
        .await
        .map_err(failed)?;

    let keys: HashMap<MailId, Timestamp> = keys
        .iter()
        .map(|row| {
            (
                rows::mail_id(row.get(0)),
                Timestamp::from_millis(row.get(1)),
            )
        })
        .collect();
    let send = async |part: SpoolPart| {
        let gone = |_| SpoolError::Closed;
        to.send(Ok(Some(part))).await.map_err(gone)
    };

    let mut last = Uuid::nil();
    loop {
        let mails = read_mails(detached, last).await?;
        let Some(mail) = mails.last() else { break };
        last = rows::uuid(mail.manifest.id);
        for mut mail in mails {
            mail.key_until = keys.get(&mail.manifest.id).copied();
            send(SpoolPart::Mail(Box::new(mail))).await?;
        }
    }

    for row in on
        .query("SELECT name, day, accepted FROM accounts", &[])
        .await
        .map_err(failed)?
    {
        send(SpoolPart::Accepted {
            account: row.get::<_, i64>(0).cast_unsigned(),
            day: row.get(1),
            accepted: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        })
        .await?;
    }

    for row in on
        .query("SELECT * FROM suppressions", &[])
        .await
        .map_err(failed)?
    {
        if let Some(entry) = suppressions::read(&row) {
            send(SpoolPart::Suppression(entry)).await?;
        }
    }

    for row in on
        .query("SELECT relay FROM paused", &[])
        .await
        .map_err(failed)?
    {
        send(SpoolPart::Paused(row.get(0))).await?;
    }

    export_journal(detached, &send).await?;
    // A node that started meanwhile may have changed what was sent before.
    detached.check_alone().await
}

async fn export_journal(
    detached: &DetachedSpool,
    send: &impl AsyncFn(SpoolPart) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    let on = &detached.on;
    let head = on
        .query(&format!("SELECT journal_id FROM {HEAD}"), &[])
        .await
        .map_err(failed)?;

    if let Some(row) = head.first() {
        send(SpoolPart::Journal(row.get::<_, i32>(0).cast_unsigned())).await?;
    }

    let mut last = i64::MIN;
    loop {
        let rows = on
            .query(
                "SELECT first, events, at, acts, entries FROM journal WHERE first > $1 ORDER BY \
                 first LIMIT 1000",
                &[&last],
            )
            .await
            .map_err(failed)?;
        let Some(row) = rows.last() else { break };
        last = row.get(0);
        for row in &rows {
            send(SpoolPart::JournalRecord {
                first: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                events: u32::try_from(row.get::<_, i32>(1)).unwrap_or(0),
                at: Timestamp::from_millis(row.get(2)),
                has_acts: row.get(3),
                entries: row.get(4),
            })
            .await?;
        }
    }

    for row in on
        .query("SELECT name, at FROM readers", &[])
        .await
        .map_err(failed)?
    {
        let at = u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        send(SpoolPart::Reader {
            name: row.get(0),
            at,
        })
        .await?;
    }

    for row in on
        .query("SELECT reader, key, value FROM kept", &[])
        .await
        .map_err(failed)?
    {
        send(SpoolPart::Kept {
            reader: row.get(0),
            key: row.get(1),
            value: row.get(2),
        })
        .await?;
    }

    Ok(())
}

/// The next mails after this one, as many as fit into one step.
async fn read_mails(detached: &DetachedSpool, after: Uuid) -> Result<Vec<MailPart>, SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    let step = i64::try_from(STEP_MAILS).unwrap_or(500);
    let sizes = detached
        .on
        .query(
            "SELECT id, octet_length(body) FROM mails WHERE id > $1 ORDER BY id LIMIT $2",
            &[&after, &step],
        )
        .await
        .map_err(failed)?;
    let (mut ids, mut bytes) = (Vec::new(), 0);

    for row in &sizes {
        bytes += usize::try_from(row.get::<_, i32>(1)).unwrap_or(0);
        if !ids.is_empty() && bytes > STEP_BYTES {
            break;
        }
        ids.push(row.get::<_, Uuid>(0));
    }

    read_these(detached, &ids).await
}

/// Reads these mails completely.
pub(super) async fn read_these(
    detached: &DetachedSpool,
    ids: &[Uuid],
) -> Result<Vec<MailPart>, SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    let mails = detached
        .on
        .query(
            "SELECT id, manifest, expires_at, body, forgotten FROM mails WHERE id = ANY($1) ORDER \
             BY id",
            &[&ids],
        )
        .await
        .map_err(failed)?;

    let found = detached
        .on
        .query(reading::RECORDS, &[&ids])
        .await
        .map_err(failed)?;
    let mut came_back = feedback::of_mails(&detached.on, ids)
        .await
        .map_err(failed)?;

    detached
        .routes
        .learn_those(&detached.on, &found)
        .await
        .map_err(failed)?;

    let mut deliveries: HashMap<Uuid, Vec<&Row>> = HashMap::new();
    for row in &found {
        deliveries.entry(row.get("mail")).or_default().push(row);
    }

    let mut parts = Vec::with_capacity(mails.len());
    for row in &mails {
        let id: Uuid = row.get("id");
        let broken = |why: String| SpoolError::Unreadable(format!("mail {id}: {why}"));
        let manifest = rows::manifest(row).map_err(|e| broken(e.to_string()))?;
        let of_it = deliveries.remove(&id).unwrap_or_default();
        if of_it.len() != usize::from(manifest.recipients) {
            let count = of_it.len();
            let reason = format!(
                "{count} of its {} deliveries are there",
                manifest.recipients
            );
            return Err(broken(reason));
        }
        let mut whole = Vec::with_capacity(of_it.len());
        for row in of_it {
            let read = rows::whole_delivery(row, &detached.routes);
            whole.push(read.map_err(|e| broken(e.to_string()))?.2);
        }
        let is_kept = !row.get::<_, bool>("forgotten");
        parts.push(MailPart {
            manifest,
            deliveries: whole,
            body: is_kept.then(|| row.get::<_, Vec<u8>>("body").into()),
            key_until: None,
            feedback: came_back
                .remove(&id)
                .unwrap_or_default()
                .into_iter()
                .map(|row| (row.index, row.id, row.feedback))
                .collect(),
        });
    }

    Ok(parts)
}
