//! Verifies a whole spool, or exports its mail, in one snapshot and without registering as a node.
//! Changes nothing.

use std::path::Path;

use uuid::Uuid;

use super::PostgresSpool;
use super::connector::check_pooling;
use super::detached::DetachedSpool;
use super::head::HEAD;
use super::journal;
use super::link::Link;
use super::reading;
use super::rows::{self, TotalsChange};
use super::schema::{self, Migrate};
use super::transfer::read_these;
use crate::delivery::{Delivery, Stage};
use crate::private;
use crate::spool::keyed::inspect::WholeMail;
use crate::spool::sled::{ExportReport, VerifyReport, describe};
use crate::spool::{Manifest, SpoolError};

/// How many mails are read at a time.
const STEP_MAILS: i64 = 500;
/// The most problems that are listed one by one.
const MOST_PROBLEMS: usize = 1000;

impl PostgresSpool {
    /// Reads every record and checks that they are consistent. Changes nothing; nodes may continue
    /// to run.
    ///
    /// # Errors
    /// If the database cannot be read. Inconsistencies are in the result.
    pub async fn verify(&self) -> Result<VerifyReport, SpoolError> {
        let detached = DetachedSpool::open(self, Migrate::Check).await?;
        let mut verified = VerifyReport::default();
        let mut totals = TotalsChange::default();
        begin(&detached).await?;

        let mut problems = Problems::default();
        let mut last = Uuid::nil();
        while let Some(mails) = page(&detached, last).await? {
            last = mails.last().map_or(last, |mail| mail.id);
            for mail in mails {
                count(&mail, &mut verified, &mut totals, &mut problems);
            }
        }

        compare(&detached, &totals, &mut problems)
            .await
            .map_err(|e| detached.failed(&e))?;

        verified.events = count_events(&detached, &mut problems)
            .await
            .map_err(|e| detached.failed(&e))?;

        let set_aside = detached
            .on
            .query("SELECT count(*) FROM set_aside", &[])
            .await;
        let set_aside = set_aside.map_err(|e| detached.failed(&e))?;
        let quarantined: i64 = set_aside.first().map_or(0, |row| row.get(0));
        verified.quarantined = u64::try_from(quarantined).unwrap_or(0);
        verified.problems = problems.0;
        Ok(verified)
    }

    /// Writes every mail to the directory `to`: the message as `ID.eml`, unless it was deleted, and
    /// the envelope with the state of each delivery as `ID.json`. Nodes may continue to run.
    ///
    /// # Errors
    /// As [`PostgresSpool::verify`], or if a file cannot be written.
    pub async fn export(&self, to: &Path) -> Result<ExportReport, SpoolError> {
        let detached = DetachedSpool::open(self, Migrate::Check).await?;

        let cannot = |e: std::io::Error| {
            SpoolError::Unreadable(format!("cannot write to {}: {e}", to.display()))
        };
        private::make_target(to).map_err(cannot)?;

        let mut exported = ExportReport::default();
        begin(&detached).await?;
        let mut last = Uuid::nil();
        while let Some(mails) = page(&detached, last).await? {
            last = mails.last().map_or(last, |mail| mail.id);
            for mail in mails {
                let part = match read_these(&detached, &[mail.id]).await {
                    Ok(parts) => parts.into_iter().next(),
                    Err(SpoolError::Unreadable(problem)) => {
                        exported.problems.push(problem);
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let Some(part) = part else { continue };
                let seen = WholeMail {
                    manifest: &part.manifest,
                    deliveries: &part.deliveries,
                    body: part.body.as_deref(),
                };
                let id = part.manifest.id;
                if let Some(body) = seen.body {
                    private::write(&to.join(format!("{id}.eml")), body).map_err(cannot)?;
                }
                let envelope = describe(&seen);
                private::write(&to.join(format!("{id}.json")), envelope.as_ref())
                    .map_err(cannot)?;
                exported.mails += 1;
            }
        }

        Ok(exported)
    }

    /// Creates the tables, or upgrades them to this version. Returns the versions before and after.
    ///
    /// # Errors
    /// If the database does not answer, or does not permit it.
    pub async fn migrate_now(&self) -> Result<(usize, usize), SpoolError> {
        let connector = self.connector("postrider migrate");
        let connector = std::sync::Arc::new(connector.map_err(|reason| SpoolError::Unusable {
            database: "of `spool.url`".into(),
            reason,
        })?);
        let on = Link::new(&connector).get().await?;
        check_pooling(&connector, &on, &*Link::new(&connector).get().await?).await?;
        let before = schema::version(&on.client, &self.schema).await;
        let before = before.map_err(|e| connector.error(&e))?;
        schema::prepare(&on.client, &self.schema, &connector.name, Migrate::Auto).await?;
        let after = schema::version(&on.client, &self.schema).await;
        Ok((before, after.map_err(|e| connector.error(&e))?))
    }
}

/// The first problems that were found, one sentence each.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        if self.0.len() < MOST_PROBLEMS {
            self.0.push(problem);
        }
    }
}

/// Begins a transaction in which all queries see one snapshot, and the planner may choose any plan.
async fn begin(detached: &DetachedSpool) -> Result<(), SpoolError> {
    let begun = detached
        .on
        .client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET LOCAL idle_in_transaction_session_timeout TO 0; SET LOCAL statement_timeout TO 0;
             SET LOCAL enable_seqscan TO on; SET LOCAL enable_sort TO on;
               SET LOCAL enable_hashjoin TO on;
             SET LOCAL enable_mergejoin TO on; SET LOCAL enable_bitmapscan TO on",
        )
        .await;
    begun.map_err(|e| detached.failed(&e))
}

/// A mail, as far as it can be decoded.
struct InspectedMail {
    id: Uuid,
    manifest: Result<Manifest, SpoolError>,
    deliveries: Vec<Result<Delivery, SpoolError>>,
}

/// The next mails after this one; `None` if there are no more.
async fn page(
    detached: &DetachedSpool,
    after: Uuid,
) -> Result<Option<Vec<InspectedMail>>, SpoolError> {
    let failed = |e: tokio_postgres::Error| detached.failed(&e);
    let mails = detached
        .on
        .query(
            "SELECT id, manifest, expires_at FROM mails WHERE id > $1 ORDER BY id LIMIT $2",
            &[&after, &STEP_MAILS],
        )
        .await
        .map_err(failed)?;

    if mails.is_empty() {
        return Ok(None);
    }

    let ids: Vec<Uuid> = mails.iter().map(|row| row.get("id")).collect();
    let found = detached
        .on
        .query(reading::RECORDS, &[&ids])
        .await
        .map_err(failed)?;

    let mut looked: Vec<InspectedMail> = mails
        .iter()
        .map(|row| InspectedMail {
            id: row.get("id"),
            manifest: rows::manifest(row),
            deliveries: Vec::new(),
        })
        .collect();

    for row in &found {
        let id: Uuid = row.get("mail");
        if let Ok(at) = looked.binary_search_by_key(&id, |mail| mail.id) {
            let read = rows::whole_delivery(row, &detached.routes);
            looked[at]
                .deliveries
                .push(read.map(|(_, _, delivery)| delivery));
        }
    }

    Ok(Some(looked))
}

fn count(
    mail: &InspectedMail,
    verified: &mut VerifyReport,
    totals: &mut TotalsChange,
    problems: &mut Problems,
) {
    let id = mail.id;
    let manifest = match &mail.manifest {
        Ok(manifest) => manifest,
        Err(error) => return problems.add(format!("mail {id} cannot be read: {error}")),
    };

    let count = mail.deliveries.len();
    if count != usize::from(manifest.recipients) {
        problems.add(format!(
            "mail {id} has {count} of its {} deliveries",
            manifest.recipients
        ));
    }

    let priority = rows::priority_number(manifest.priority);
    for delivery in &mail.deliveries {
        let stage = match delivery {
            Ok(delivery) => &delivery.stage,
            Err(error) => {
                problems.add(format!("a delivery of mail {id} cannot be read: {error}"));
                continue;
            }
        };
        match stage {
            Stage::Pending { .. } | Stage::Committing { .. } => {
                verified.pending += 1;
                totals.accounts.pending(rows::account(manifest), 1);
            }
            Stage::Delivered { .. } => verified.delivered += 1,
            Stage::Dead { .. } => verified.dead += 1,
            Stage::Cancelled { .. } => verified.cancelled += 1,
        }
        totals.add(rows::stage_columns(stage).0, priority, 1);
    }

    verified.mails += 1;
}

/// Reads the whole journal, and returns how many events it has.
async fn count_events(
    detached: &DetachedSpool,
    problems: &mut Problems,
) -> Result<u64, tokio_postgres::Error> {
    let on = &detached.on;
    let (mut count, mut last) = (0, 0_i64);
    loop {
        let rows = on
            .query(
                &format!(
                    "SELECT {} FROM journal WHERE first > $1 ORDER BY first LIMIT 1000",
                    journal::COLUMNS
                ),
                &[&last],
            )
            .await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            last = row.get("first");
            match journal::events(row) {
                Ok(events) => count += events.len() as u64,
                Err(error) => problems.add(format!("event {last} of the journal: {error}")),
            }
        }
    }

    let behind = on
        .query(
            &format!(
                "SELECT next FROM {HEAD} WHERE next < (SELECT first + events FROM journal
                   ORDER BY first DESC LIMIT 1)"
            ),
            &[],
        )
        .await?;
    if let Some(row) = behind.first() {
        let next: i64 = row.get(0);
        problems.add(format!(
            "event {next} of the journal is to be next, and is there already"
        ));
    }
    Ok(count)
}

/// Conditions on the tables, each as a query for violations and a text that reports them.
const AGREEMENTS: &[(&str, &str)] = &[
    (
        "SELECT count(*) FROM ready r JOIN ended e ON e.mail = r.mail AND e.idx = r.idx",
        "deliveries that wait and have ended",
    ),
    (
        "SELECT count(*) FROM ready r WHERE NOT EXISTS (SELECT FROM mails m WHERE m.id = r.mail)",
        "deliveries that wait and have no mail",
    ),
    (
        "SELECT count(*) FROM ended e WHERE NOT EXISTS (SELECT FROM mails m WHERE m.id = e.mail)",
        "deliveries that have ended and have no mail",
    ),
    (
        "SELECT count(*) FROM ready r WHERE r.owner <> 0 AND NOT EXISTS (SELECT FROM sessions s \
         WHERE s.id = r.owner)",
        "deliveries that are held by a node that is not there",
    ),
    (
        "SELECT count(*) FROM ready r WHERE r.owner = 0 AND r.stage <> 0",
        "deliveries that may have been sent and that nobody holds",
    ),
    (
        "SELECT count(*) FROM ready r WHERE NOT EXISTS (SELECT FROM routes q WHERE q.id = r.route)",
        "deliveries that wait on a route without a name",
    ),
];

async fn compare(
    detached: &DetachedSpool,
    totals: &TotalsChange,
    problems: &mut Problems,
) -> Result<(), tokio_postgres::Error> {
    let on = &detached.on;
    for (sql, what) in AGREEMENTS {
        let rows = on.query(sql, &[]).await?;
        let count: i64 = rows.first().map_or(0, |row| row.get(0));
        if count > 0 {
            problems.add(format!("{what}: {count}"));
        }
    }

    // Records that cannot be read would count as missing here.
    if !problems.0.is_empty() {
        return Ok(());
    }

    let head = on.query(&format!("SELECT totals FROM {HEAD}"), &[]).await?;
    let kept: Vec<i64> = head.first().map_or_else(Vec::new, |row| row.get(0));
    if kept != totals.columns() {
        problems.add(format!(
            "{:?} deliveries wait or have ended by priority, and the totals say {kept:?}",
            totals.columns()
        ));
    }

    let mut counted = totals.accounts.columns();
    let mut all: Vec<(i64, i64)> = counted.names.drain(..).zip(counted.pending).collect();
    all.sort_unstable();
    let kept = on
        .query(
            "SELECT name, pending FROM accounts WHERE pending <> 0 ORDER BY name",
            &[],
        )
        .await?;

    let kept: Vec<(i64, i64)> = kept.iter().map(|row| (row.get(0), row.get(1))).collect();
    if kept != all {
        problems.add("what each token and user has pending is not what was counted".into());
    }
    Ok(())
}
