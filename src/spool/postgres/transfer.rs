//! The parts of a spool that no node has open, told to a spool of another kind; and an empty one
//! that takes what another tells, in one transaction.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_postgres::Row;
use uuid::Uuid;

use super::PostgresSpool;
use super::ending::{Columns, Ending};
use super::link::{Connected, Link, quoted};
use super::routes::Routes;
use super::rows::{self, PENDING, Totals};
use super::schema::{self, Migrate};
use super::{feedback, put, reading, suppressions};
use crate::delivery::{DeadReason, Stage};
use crate::mail::{MailId, Timestamp};
use crate::spool::SpoolError;
use crate::spool::copy::broken_off;
use crate::spool::transfer::{Copied, MailPart, NextPart, Part, STEP_BYTES};

/// The most mails that are looked at or written at a time.
const STEP: usize = 500;

type Failure = tokio_postgres::Error;

/// A spool that is looked at or filled without being a node of it.
pub(in crate::spool) struct Aside {
    pub(super) on: Arc<Connected>,
    pub(super) routes: Routes,
    /// Its name for people.
    name: String,
}

impl Aside {
    pub(in crate::spool) async fn open(
        spool: &PostgresSpool,
        migrate: Migrate,
    ) -> Result<Self, SpoolError> {
        let connector = spool.connector("postrider aside");
        let mut connector = connector.map_err(|reason| SpoolError::Unusable {
            database: "of `spool.url`".into(),
            reason,
        })?;
        // What is asked here looks at all that there is.
        connector.patience = None;
        let connector = Arc::new(connector);
        let name = format!("{}, schema {}", connector.name, spool.schema);

        let on = Link::new(&connector).get().await?;
        schema::prepare(&on.client, &spool.schema, &connector.name, migrate).await?;
        let aside = Aside {
            on,
            routes: Routes::default(),
            name,
        };

        aside
            .routes
            .learn(&aside.on)
            .await
            .map_err(|e| aside.failed(&e))?;
        Ok(aside)
    }

    pub(super) fn failed(&self, error: &Failure) -> SpoolError {
        SpoolError::Unreachable {
            database: self.name.clone(),
            reason: super::link::reason(error),
        }
    }

    pub(super) fn unusable(&self, reason: impl Into<String>) -> SpoolError {
        SpoolError::Unusable {
            database: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// Refuses while a node has it open, or mail waits in the outbox that is none yet.
    async fn check_alone(&self) -> Result<(), SpoolError> {
        let failed = |e: Failure| self.failed(&e);
        let nodes = self
            .on
            .query(
                "SELECT node FROM sessions WHERE seen >= now() - lease_ms * interval '1 ms' ORDER \
                 BY id",
                &[],
            )
            .await
            .map_err(failed)?;

        let nodes: Vec<&str> = nodes.iter().map(|row| row.get(0)).collect();
        if !nodes.is_empty() {
            return Err(self.unusable(format!(
                "these nodes have it open: {}; stop them first",
                nodes.join(", ")
            )));
        }

        Ok(())
    }
}

/// Tells all that the spool keeps, until nobody takes it any more.
pub(in crate::spool) async fn tell(
    aside: &Aside,
    to: &mpsc::Sender<NextPart>,
) -> Result<(), SpoolError> {
    aside.check_alone().await?;
    let failed = |e: Failure| aside.failed(&e);
    let on = &aside.on;
    let waiting = on
        .query("SELECT count(*) FROM outbox", &[])
        .await
        .map_err(failed)?;

    let waiting: i64 = waiting.first().map_or(0, |row| row.get(0));
    if waiting > 0 {
        return Err(aside.unusable(format!(
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
    let send = async |part: Part| {
        let gone = |_| SpoolError::Closed;
        to.send(Ok(Some(part))).await.map_err(gone)
    };

    let mut last = Uuid::nil();
    loop {
        let mails = read_mails(aside, last).await?;
        let Some(mail) = mails.last() else { break };
        last = rows::uuid(mail.manifest.id);
        for mut mail in mails {
            mail.key_until = keys.get(&mail.manifest.id).copied();
            send(Part::Mail(Box::new(mail))).await?;
        }
    }

    for row in on
        .query("SELECT name, day, accepted FROM accounts", &[])
        .await
        .map_err(failed)?
    {
        send(Part::Accepted {
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
            send(Part::Suppression(entry)).await?;
        }
    }

    for row in on
        .query("SELECT relay FROM paused", &[])
        .await
        .map_err(failed)?
    {
        send(Part::Paused(row.get(0))).await?;
    }

    tell_journal(aside, &send).await?;
    // A node that began meanwhile may have changed what was told before.
    aside.check_alone().await
}

async fn tell_journal(
    aside: &Aside,
    send: &impl AsyncFn(Part) -> Result<(), SpoolError>,
) -> Result<(), SpoolError> {
    let failed = |e: Failure| aside.failed(&e);
    let on = &aside.on;
    let head = on
        .query("SELECT journal_id FROM head", &[])
        .await
        .map_err(failed)?;

    if let Some(row) = head.first() {
        send(Part::Journal(row.get::<_, i32>(0).cast_unsigned())).await?;
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
            send(Part::Told {
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
        send(Part::Reader {
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
        send(Part::Kept {
            reader: row.get(0),
            key: row.get(1),
            value: row.get(2),
        })
        .await?;
    }

    Ok(())
}

/// The next mails after this one, as many as there is room for.
async fn read_mails(aside: &Aside, after: Uuid) -> Result<Vec<MailPart>, SpoolError> {
    let failed = |e: Failure| aside.failed(&e);
    let step = i64::try_from(STEP).unwrap_or(500);
    let sizes = aside
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

    read_these(aside, &ids).await
}

/// These mails, whole.
pub(super) async fn read_these(aside: &Aside, ids: &[Uuid]) -> Result<Vec<MailPart>, SpoolError> {
    let failed = |e: Failure| aside.failed(&e);
    let mails = aside
        .on
        .query(
            "SELECT id, manifest, expires_at, body, forgotten FROM mails WHERE id = ANY($1) ORDER \
             BY id",
            &[&ids],
        )
        .await
        .map_err(failed)?;

    let found = aside
        .on
        .query(reading::RECORDS, &[&ids])
        .await
        .map_err(failed)?;
    let mut came_back = feedback::of_mails(&aside.on, ids).await.map_err(failed)?;

    aside
        .routes
        .learn_those(&aside.on, &found)
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
            let read = rows::whole_delivery(row, &aside.routes);
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

/// Takes what another spool tells, all of it or nothing.
pub(in crate::spool) async fn take(
    aside: &Aside,
    from: mpsc::Receiver<NextPart>,
) -> Result<Copied, SpoolError> {
    let failed = |e: Failure| aside.failed(&e);
    aside.on.begin().await.map_err(failed)?;
    let taken = take_all(aside, from).await;
    let ended = match &taken {
        Ok(_) => aside.on.commit().await,
        Err(_) => aside.on.rollback().await,
    };
    match (taken, ended) {
        (Ok(copied), Ok(())) => Ok(copied),
        (Ok(_), Err(error)) => Err(aside.failed(&error)),
        (Err(error), _) => Err(error),
    }
}

async fn take_all(aside: &Aside, mut from: mpsc::Receiver<NextPart>) -> Result<Copied, SpoolError> {
    let failed = |e: Failure| aside.failed(&e);
    // No node begins meanwhile, however long it takes.
    aside
        .on
        .client
        .batch_execute(
            "SET LOCAL idle_in_transaction_session_timeout TO 0; SET LOCAL statement_timeout TO 0;
             LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE",
        )
        .await
        .map_err(failed)?;
    aside.check_alone().await?;

    let there = aside
        .on
        .query(
            "SELECT EXISTS (SELECT FROM mails) OR EXISTS (SELECT FROM outbox) OR EXISTS (SELECT \
             FROM suppressions)",
            &[],
        )
        .await
        .map_err(failed)?;

    if there.first().is_none_or(|row| row.get(0)) {
        return Err(aside.unusable("it holds mail already; name an empty schema"));
    }

    // What nodes wrote that had no mail.
    for table in ["journal", "readers", "kept", "accounts", "keys", "aliases"] {
        let sql = format!("DELETE FROM {}", quoted(table));
        aside.on.execute(&sql, &[]).await.map_err(failed)?;
    }

    let mut taking = Taking::default();
    let mut parts = Vec::new();
    let mut weight = 0;
    while let Some(part) = from.recv().await.ok_or_else(broken_off)?? {
        weight += part.weight();
        parts.push(part);
        if weight >= STEP_BYTES || parts.len() >= STEP {
            taking.write(aside, std::mem::take(&mut parts)).await?;
            weight = 0;
        }
    }

    taking.write(aside, parts).await?;
    taking.finish(aside).await
}

#[derive(Default)]
struct Taking {
    copied: Copied,
    totals: Totals,
    /// What the journal is named by, the number after its last event, and its bytes.
    journal: Option<u32>,
    next: i64,
    written: i64,
}

impl Taking {
    async fn write(&mut self, aside: &Aside, parts: Vec<Part>) -> Result<(), SpoolError> {
        let failed = |e: Failure| aside.failed(&e);
        let mut mails = Vec::new();
        for part in parts {
            self.copied.count(&part);
            match part {
                Part::Mail(mail) => mails.push(*mail),
                other => self.write_one(aside, other).await.map_err(failed)?,
            }
        }
        self.write_mails(aside, mails).await.map_err(failed)
    }

    async fn write_one(&mut self, aside: &Aside, part: Part) -> Result<(), Failure> {
        let on = &aside.on;
        match part {
            Part::Mail(_) => {}
            Part::Suppression(entry) => suppressions::insert(on, &[entry]).await?,
            Part::Paused(relay) => {
                on.execute("INSERT INTO paused (relay) VALUES ($1)", &[&relay])
                    .await?;
            }
            Part::Accepted {
                account,
                day,
                accepted,
            } => {
                on.execute(
                    "INSERT INTO accounts (name, day, accepted) VALUES ($1, $2, $3)
                     ON CONFLICT (name) DO UPDATE SET day = EXCLUDED.day,
                       accepted = EXCLUDED.accepted",
                    &[
                        &account.cast_signed(),
                        &day,
                        &i64::try_from(accepted).unwrap_or(i64::MAX),
                    ],
                )
                .await?;
            }
            Part::Journal(id) => self.journal = Some(id),
            Part::Told {
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
            Part::Reader { name, at } => {
                let at = i64::try_from(at).unwrap_or(i64::MAX);
                on.execute(
                    "INSERT INTO readers (name, at) VALUES ($1, $2)",
                    &[&name, &at],
                )
                .await?;
            }
            Part::Kept { reader, key, value } => {
                on.execute(
                    "INSERT INTO kept (reader, key, value) VALUES ($1, $2, $3)",
                    &[&reader, &key, &value],
                )
                .await?;
            }
        }

        Ok(())
    }

    async fn write_mails(&mut self, aside: &Aside, mails: Vec<MailPart>) -> Result<(), Failure> {
        if mails.is_empty() {
            return Ok(());
        }
        let on = &aside.on;

        let deliveries = mails.iter().flat_map(|mail| &mail.deliveries);
        aside
            .routes
            .name_all(on, deliveries.map(|delivery| &delivery.route))
            .await?;

        let now = Timestamp::now();
        let (mut waits, mut ended) = (Columns::default(), Columns::default());
        let (mut until, mut sizes, mut whose) = (Vec::new(), Vec::new(), Vec::new());
        for mail in mails {
            let manifest = &mail.manifest;
            write_mail(on, &mail).await?;
            for (index, delivery) in (0u16..).zip(&mail.deliveries) {
                let mut delivery = delivery.clone();
                if let Stage::Committing { .. } = delivery.stage {
                    // As after a crash: it may have been sent.
                    let reason = DeadReason::InDoubt;
                    delivery.stage = Stage::Dead { at: now, reason };
                }
                let priority = rows::priority_number(manifest.priority);
                let account = rows::account(manifest);
                let (stage, ..) = rows::stage_columns(&delivery.stage);
                self.totals.add(stage, priority, 1);
                let ending = Ending {
                    mail: manifest.id,
                    index,
                    priority,
                    account,
                    delivery,
                    unread: None,
                };
                if stage != PENDING {
                    ended.add(&aside.routes, &ending);
                    continue;
                }
                self.totals.accounts.pending(account, 1);
                waits.add(&aside.routes, &ending);
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

    async fn finish(self, aside: &Aside) -> Result<Copied, SpoolError> {
        let failed = |e: Failure| aside.failed(&e);
        let on = &aside.on;
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

/// Writes what was fixed of a mail when it was accepted, and its idempotency key.
async fn write_mail(on: &Connected, mail: &MailPart) -> Result<(), Failure> {
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
