//! Fills an empty spool with the parts of a spool of another kind, in one transaction.

use tokio::sync::mpsc;
use uuid::Uuid;

use super::detached::DetachedSpool;
use super::ending::{EndedColumns, EndedRow};
use super::link::{Connected, quoted};
use super::rows::{self, PENDING, TotalsChange};
use super::transfer::STEP_MAILS;
use super::{feedback, put, suppressions};
use crate::delivery::{DeadReason, Stage};
use crate::mail::Timestamp;
use crate::spool::SpoolError;
use crate::spool::copy::broken_off;
use crate::spool::transfer::{CopyReport, MailPart, NextPart, STEP_BYTES, SpoolPart};

/// Imports all parts that another spool exports, or nothing.
pub(in crate::spool) async fn take(
    detached: &DetachedSpool,
    from: mpsc::Receiver<NextPart>,
) -> Result<CopyReport, SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    detached.on.begin().await.map_err(failed)?;
    let taken = take_all(detached, from).await;
    let ended = match &taken {
        Ok(_) => detached.on.commit().await,
        Err(_) => detached.on.rollback().await,
    };
    match (taken, ended) {
        (Ok(copied), Ok(())) => Ok(copied),
        (Ok(_), Err(error)) => Err(detached.failed(&error)),
        (Err(error), _) => Err(error),
    }
}

async fn take_all(
    detached: &DetachedSpool,
    mut from: mpsc::Receiver<NextPart>,
) -> Result<CopyReport, SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    // Keeps nodes from registering meanwhile, however long it takes.
    detached
        .on
        .client
        .batch_execute(
            "SET LOCAL idle_in_transaction_session_timeout TO 0; SET LOCAL statement_timeout TO 0;
             LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .map_err(failed)?;
    detached.check_alone().await?;

    let there = detached
        .on
        .query(
            "SELECT EXISTS (SELECT FROM mails) OR EXISTS (SELECT FROM outbox) OR EXISTS (SELECT \
             FROM suppressions)",
            &[],
        )
        .await
        .map_err(failed)?;

    if there.first().is_none_or(|row| row.get(0)) {
        return Err(detached.unusable("it holds mail already; name an empty schema"));
    }

    // Rows that nodes may have left in a spool without mail.
    for table in [
        "journal",
        "readers",
        "kept",
        "accounts",
        "keys",
        "aliases",
        "paused",
        "wanted_back",
        "feedback",
    ] {
        let sql = format!("DELETE FROM {}", quoted(table));
        detached.on.execute(&sql, &[]).await.map_err(failed)?;
    }

    let mut import = TableImport::default();
    let mut parts = Vec::new();
    let mut weight = 0;
    while let Some(part) = from.recv().await.ok_or_else(broken_off)?? {
        weight += part.weight();
        parts.push(part);
        if weight >= STEP_BYTES || parts.len() >= STEP_MAILS {
            import.write(detached, std::mem::take(&mut parts)).await?;
            weight = 0;
        }
    }

    import.write(detached, parts).await?;
    import.finish(detached).await
}

#[derive(Default)]
struct TableImport {
    copied: CopyReport,
    totals: TotalsChange,
    /// The journal's name, the number after its last event, and its bytes.
    journal: Option<u32>,
    next: i64,
    written: i64,
}

impl TableImport {
    async fn write(
        &mut self,
        detached: &DetachedSpool,
        parts: Vec<SpoolPart>,
    ) -> Result<(), SpoolError> {
        let failed = |e: tokio_postgres::Error| detached.failed(&e);
        let mut mails = Vec::new();
        for part in parts {
            self.copied.count(&part);
            match part {
                SpoolPart::Mail(mail) => mails.push(*mail),
                other => self.write_one(detached, other).await.map_err(failed)?,
            }
        }
        self.write_mails(detached, mails).await.map_err(failed)
    }

    async fn write_one(
        &mut self,
        detached: &DetachedSpool,
        part: SpoolPart,
    ) -> Result<(), tokio_postgres::Error> {
        let on = &detached.on;
        match part {
            SpoolPart::Mail(_) => {}
            SpoolPart::Suppression(entry) => suppressions::insert(on, &[entry]).await?,
            SpoolPart::Paused(relay) => {
                on.execute("INSERT INTO paused (relay) VALUES ($1)", &[&relay])
                    .await?;
            }
            SpoolPart::Accepted {
                account,
                day,
                accepted,
            } => {
                on.execute(
                    "INSERT INTO accounts (name, day, accepted) VALUES ($1, $2, $3)",
                    &[
                        &account.cast_signed(),
                        &day,
                        &i64::try_from(accepted).unwrap_or(i64::MAX),
                    ],
                )
                .await?;
            }
            SpoolPart::Journal(id) => self.journal = Some(id),
            SpoolPart::JournalRecord {
                first,
                events,
                at,
                has_acts,
                entries,
            } => {
                let first = i64::try_from(first).unwrap_or(i64::MAX);
                let events = i32::try_from(events).unwrap_or(i32::MAX);
                on.execute(
                    "INSERT INTO journal (first, events, at, before, acts, entries) VALUES ($1, \
                     $2, $3, $4, $5, $6)",
                    &[
                        &first,
                        &events,
                        &at.as_millis(),
                        &self.written,
                        &has_acts,
                        &entries,
                    ],
                )
                .await?;
                self.next = first + i64::from(events);
                self.written += entries.len() as i64;
            }
            SpoolPart::Reader { name, at } => {
                let at = i64::try_from(at).unwrap_or(i64::MAX);
                on.execute(
                    "INSERT INTO readers (name, at) VALUES ($1, $2)",
                    &[&name, &at],
                )
                .await?;
            }
            SpoolPart::Kept { reader, key, value } => {
                on.execute(
                    "INSERT INTO kept (reader, key, value) VALUES ($1, $2, $3)",
                    &[&reader, &key, &value],
                )
                .await?;
            }
        }

        Ok(())
    }

    async fn write_mails(
        &mut self,
        detached: &DetachedSpool,
        mails: Vec<MailPart>,
    ) -> Result<(), tokio_postgres::Error> {
        if mails.is_empty() {
            return Ok(());
        }
        let on = &detached.on;

        let deliveries = mails.iter().flat_map(|mail| &mail.deliveries);
        detached
            .routes
            .name_all(on, deliveries.map(|delivery| &delivery.route))
            .await?;

        let now = Timestamp::now();
        let (mut waits, mut ended) = (EndedColumns::default(), EndedColumns::default());
        let (mut until, mut sizes, mut whose) = (Vec::new(), Vec::new(), Vec::new());
        for mail in mails {
            let manifest = &mail.manifest;
            write_mail(on, &mail).await?;
            for (index, delivery) in (0u16..).zip(&mail.deliveries) {
                let mut delivery = delivery.clone();
                if let Stage::Committing { .. } = delivery.stage {
                    // As after a crash: the delivery may have been sent.
                    let reason = DeadReason::InDoubt;
                    delivery.stage = Stage::Dead { at: now, reason };
                }
                let priority = rows::priority_number(manifest.priority);
                let account = rows::account(manifest);
                let (stage, ..) = rows::stage_columns(&delivery.stage);
                self.totals.add(stage, priority, 1);
                let ending = EndedRow {
                    mail: manifest.id,
                    index,
                    priority,
                    account,
                    delivery,
                    unread: None,
                };
                if stage != PENDING {
                    ended.add(&detached.routes, &ending);
                    continue;
                }
                self.totals.accounts.pending(account, 1);
                waits.add(&detached.routes, &ending);
                until.push(manifest.expires_at.as_millis());
                sizes.push(i64::try_from(manifest.size).unwrap_or(i64::MAX));
                whose.push(account);
            }
        }

        on.execute(
            "INSERT INTO ready (mail, idx, route, priority, due, tries, counted, crashes, data,
              expires_at, size, account)
             SELECT * FROM unnest($1::uuid[], $2::int4[], $3::int4[], $4::int2[], $5::int8[],
               $6::int4[], $7::int4[],
               $8::int4[], $9::bytea[], $10::int8[], $11::int8[], $12::int8[])",
            &[
                &waits.mails,
                &waits.places,
                &waits.routes,
                &waits.priorities,
                &waits.ats,
                &waits.tries,
                &waits.counted,
                &waits.crashes,
                &waits.data,
                &until,
                &sizes,
                &whose,
            ],
        )
        .await?;

        ended.insert(on).await
    }

    async fn finish(self, detached: &DetachedSpool) -> Result<CopyReport, SpoolError> {
        let failed = |e: tokio_postgres::Error| detached.failed(&e);
        let on = &detached.on;
        let accounts = self.totals.accounts.columns();
        on.query(
            "SELECT count_accounts(0, $1::int8[], $2::int8[], $3::int8[], $4::int8[])",
            &[
                &accounts.names,
                &accounts.pending,
                &accounts.days,
                &accounts.accepted,
            ],
        )
        .await
        .map_err(failed)?;

        let id = self.journal.map(u32::cast_signed);
        on.execute(
            "UPDATE head SET commits = commits + 1, totals = $1, written = $2, next = greatest($3,
              1::int8),
               journal_id = coalesce($4, journal_id)",
            &[&self.totals.columns(), &self.written, &self.next, &id],
        )
        .await
        .map_err(failed)?;

        Ok(self.copied)
    }
}

/// Writes a mail's unchanging parts and its idempotency key.
async fn write_mail(on: &Connected, mail: &MailPart) -> Result<(), tokio_postgres::Error> {
    let manifest = &mail.manifest;
    let id = rows::uuid(manifest.id);
    let recipients: Vec<String> = mail
        .deliveries
        .iter()
        .map(|delivery| rows::text(delivery.recipient.as_str()))
        .collect();

    let body = mail.body.as_deref().unwrap_or_default();
    on.execute(
        "INSERT INTO mails (id, accepted_at, expires_at, priority, recipients, manifest, body,
          forgotten)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            &id,
            &manifest.accepted_at.as_millis(),
            &manifest.expires_at.as_millis(),
            &rows::priority_number(manifest.priority),
            &recipients,
            &rows::manifest_bytes(manifest),
            &body,
            &mail.body.is_none(),
        ],
    )
    .await?;

    let came_back = mail.feedback.iter();
    let came_back = came_back.map(|(index, name, one)| (manifest.id, *index, *name, one));
    feedback::insert(on, came_back).await?;

    if let (Some(until), Some(key)) = (mail.key_until, put::key_hash(manifest)) {
        on.execute(
            "INSERT INTO keys (key, mail, fingerprint, forget_at) VALUES ($1, $2, $3, $4) ON \
             CONFLICT DO NOTHING",
            &[
                &key,
                &id,
                &Uuid::from_u128(manifest.fingerprint),
                &until.as_millis(),
            ],
        )
        .await?;
    }

    Ok(())
}
