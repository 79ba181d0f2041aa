//! Stores new mail: all mails that have arrived are stored by one statement, and their callers are
//! answered when it is committed.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt;
use ring::digest::{SHA256, digest};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::accounts;
use super::ending::{self, EndedRow};
use super::gathering::Gathering;
use super::hints;
use super::link::{Connected, StatementFailure, judge};
use super::outage;
use super::rows::{self, PENDING, TotalsChange};
use super::shared::{Committed, NodeState, PATIENCE, Records};
use crate::mail::{MailId, Submitter};
use crate::spool::keyed::journal::entry::{JournalEntry, PendingEntries};
use crate::spool::{Manifest, NewMail, PutResult, SpoolError, codec};

/// The most mails, and about the most bytes, that are stored together.
const GROUP_MAILS: usize = 512;
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// A group waits until as many callers have arrived as the last group had, for as long as that one
/// took and no longer than this: the commits of all nodes are made one after the other.
const LONGEST_GATHERING: Duration = Duration::from_millis(4);
/// How long a put whose outcome is unknown is retried.
const RETRY_UNKNOWN_FOR: Duration = Duration::from_secs(4);
/// How often a group is checked against mails that exist already.
const LOOKS: usize = 32;

/// Mails to store, and the caller that waits.
pub(super) struct PutQueue {
    pub mails: Vec<NewMail>,
    pub reply: oneshot::Sender<Vec<Result<PutResult, SpoolError>>>,
}

/// Stores arriving mails until all senders are dropped.
pub(super) async fn run(node: Arc<NodeState>, mut inbox: mpsc::UnboundedReceiver<PutQueue>) {
    let (mut gathering, mut callers) = (Gathering::at_most(LONGEST_GATHERING), 1);
    while let Some(first) = inbox.recv().await {
        let mut bytes = weight(&first);
        let mut count = first.mails.len();
        let mut puts = vec![first];
        while count < GROUP_MAILS && bytes < GROUP_BYTES {
            let next = match puts.len() < callers {
                true => gathering.next(&mut inbox).await,
                false => inbox.try_recv().ok(),
            };
            let Some(next) = next else { break };
            bytes += weight(&next);
            count += next.mails.len();
            puts.push(next);
        }
        callers = puts.len();
        let mut mails = Vec::with_capacity(count);
        let mut waiting = Vec::with_capacity(puts.len());
        for PutQueue {
            mails: of_one,
            reply,
        } in puts
        {
            waiting.push((of_one.len(), reply));
            mails.extend(of_one);
        }
        let began = Instant::now();
        let stored = AssertUnwindSafe(put_all(&node, mails)).catch_unwind().await;
        let panicked = |_| vec![Err(SpoolError::panicked()); count];
        let mut results = stored.unwrap_or_else(panicked).into_iter();
        gathering.follows(began);
        node.changed.notify_one();
        for (count, reply) in waiting {
            let _ = reply.send(results.by_ref().take(count).collect());
        }
    }
}

fn weight(put: &PutQueue) -> usize {
    put.mails.iter().map(|mail| mail.body.len() + 512).sum()
}

type Results = Vec<Result<PutResult, SpoolError>>;

/// Stores mails in as few statements as their size allows.
async fn put_all(node: &Arc<NodeState>, mails: Vec<NewMail>) -> Results {
    let mut results = Vec::with_capacity(mails.len());
    let mut group = Vec::new();
    let mut bytes = 0;
    for mail in mails {
        if !group.is_empty()
            && (group.len() >= GROUP_MAILS || bytes + mail.body.len() > GROUP_BYTES)
        {
            results.extend(put_group(node, std::mem::take(&mut group)).await);
            bytes = 0;
        }
        bytes += mail.body.len() + 512;
        group.push(mail);
    }

    results.extend(put_group(node, group).await);
    results
}

/// The hash under which a mail's idempotency key is stored, if it has one. It includes the
/// submitter.
pub(super) fn key_hash(manifest: &Manifest) -> Option<Vec<u8>> {
    let key = manifest.idempotency_key.as_deref()?;
    Some(hash_of(
        &manifest.submitter.clone().unwrap_or_default(),
        key,
    ))
}

/// The hash of a submitter's idempotency key.
pub(super) fn hash_of(whose: &Submitter, key: &str) -> Vec<u8> {
    digest(&SHA256, whose.old_key(key).as_bytes())
        .as_ref()
        .to_vec()
}

/// The submitter that a key belongs to.
#[derive(Clone, Copy)]
struct KeyOwner {
    mail: MailId,
    fingerprint: u128,
}

impl KeyOwner {
    fn answer(&self, fingerprint: u128) -> Result<PutResult, SpoolError> {
        if self.fingerprint == fingerprint {
            Ok(PutResult::Duplicate(self.mail))
        } else {
            Err(SpoolError::KeyReused(self.mail))
        }
    }
}

/// Which mails and keys of a group exist already.
#[derive(Default)]
struct ExistingMails {
    mails: Vec<MailId>,
    keys: HashMap<Vec<u8>, KeyOwner>,
}

/// Stores mails in one statement. If the database refuses it, stores each mail by itself, so that
/// one bad mail does not cause the others to be refused.
async fn put_group(node: &Arc<NodeState>, mails: Vec<NewMail>) -> Results {
    let results = put_together(node, &mails).await;
    let is_refused =
        |result: &Result<PutResult, SpoolError>| matches!(result, Err(SpoolError::Unreadable(_)));
    if mails.len() < 2 || !results.iter().all(is_refused) {
        return results;
    }

    let mut results = Vec::with_capacity(mails.len());
    for mail in mails.chunks(1) {
        results.extend(put_together(node, mail).await);
    }
    results
}

async fn put_together(node: &Arc<NodeState>, mails: &[NewMail]) -> Results {
    if mails.is_empty() {
        return Vec::new();
    }
    if let Some(failure) = node.failure() {
        return vec![Err(failure); mails.len()];
    }

    // Set by the first statement whose outcome is unknown.
    let mut deadline: Option<Instant> = None;
    // The mails that a statement with an unknown outcome may have stored.
    let mut tried: Vec<MailId> = Vec::new();

    let mut there = ExistingMails::default();
    let (begun, mut conflicts) = (Instant::now(), 0);
    // Whether it was checked that the database refuses only these mails.
    let mut is_checked = false;
    loop {
        let (chosen, results) = choose(mails, &there, &tried);
        if chosen.is_empty() {
            drop_drafts(node, mails, &results);
            return results;
        }
        let on = match node.on(&node.put).await {
            Ok(on) => on,
            Err(error) => {
                if deadline.is_some_and(|deadline| Instant::now() < deadline) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                return vec![Err(error); mails.len()];
            }
        };
        let began = Instant::now();
        let put = async {
            let routes = chosen.iter().flat_map(|mail| &mail.deliveries);
            node.routes
                .name_all(&on, routes.map(|delivery| &delivery.route))
                .await?;
            insert(node, &on, &chosen).await
        }
        .await;
        let error = match put {
            Ok(committed) => {
                node.time(began.elapsed());
                node.committed(committed);
                hint(node, &chosen);
                drop_drafts(node, mails, &results);
                return results;
            }
            Err(error) => error,
        };
        match judge(&error) {
            // The conflict is not with these mails, but with a row that should not exist.
            StatementFailure::Exists if conflicts < LOOKS => conflicts += 1,
            StatementFailure::Busy if begun.elapsed() < PATIENCE => {}
            StatementFailure::Busy => return vec![Err(node.stuck(&error)); mails.len()],
            // The mail was not stored, and a retry would fail in the same way.
            StatementFailure::Exists | StatementFailure::Impossible => {
                if let Err(outage) = outage::check_commits(node).await {
                    return vec![Err(outage); mails.len()];
                }
                // Others may have mended what was wrong.
                if std::mem::replace(&mut is_checked, true) {
                    return refuse(node, &error, mails);
                }
            }
            StatementFailure::Lacking if deadline.is_none() => return refuse(node, &error, mails),
            StatementFailure::Gone | StatementFailure::Lacking => {
                node.put.discard().await;
                tried = chosen.iter().map(|mail| mail.manifest.id).collect();
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + RETRY_UNKNOWN_FOR);
                if Instant::now() >= deadline {
                    return refuse(node, &error, mails);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let looked = match node.on(&node.put).await {
            Ok(on) => look(&on, mails).await,
            Err(_) => continue,
        };
        match looked {
            Ok(found) => there = found,
            Err(error) if judge(&error).is_outage() => {}
            Err(error) => return refuse(node, &error, mails),
        }
    }
}

/// The answer if none of these mails was stored, as far as is known.
fn refuse(node: &NodeState, error: &tokio_postgres::Error, mails: &[NewMail]) -> Results {
    let error = node.failed(error);
    vec![Err(error); mails.len()]
}

/// Forgets the drafts that have become mails.
fn drop_drafts(node: &NodeState, mails: &[NewMail], results: &[Result<PutResult, SpoolError>]) {
    let mut in_hand = node.drafts.in_hand();
    for (mail, result) in mails.iter().zip(results) {
        if matches!(result, Ok(PutResult::Stored)) {
            in_hand.remove(&mail.manifest.id);
        }
    }
}

/// Chooses the mails of a group that must be written, given those that exist, and prepares the
/// answers to be given after that.
fn choose<'a>(
    mails: &'a [NewMail],
    there: &ExistingMails,
    tried: &[MailId],
) -> (Vec<&'a NewMail>, Results) {
    let mut chosen: Vec<&NewMail> = Vec::with_capacity(mails.len());
    let mut results = Vec::with_capacity(mails.len());
    let mut seen: HashMap<MailId, ()> = HashMap::with_capacity(mails.len());

    let mut keys: HashMap<Vec<u8>, KeyOwner> = HashMap::new();
    for mail in mails {
        let manifest = &mail.manifest;
        let id = manifest.id;
        if seen.insert(id, ()).is_some() {
            results.push(Ok(PutResult::Duplicate(id)));
            continue;
        }
        if there.mails.contains(&id) {
            // It was stored by this call, by a statement whose outcome was unknown.
            results.push(Ok(match tried.contains(&id) {
                true => PutResult::Stored,
                false => PutResult::Duplicate(id),
            }));
            continue;
        }
        if let Some(key) = key_hash(manifest) {
            let owner = there.keys.get(&key).or_else(|| keys.get(&key));
            if let Some(owner) = owner {
                results.push(owner.answer(manifest.fingerprint));
                continue;
            }
            let owner = KeyOwner {
                mail: id,
                fingerprint: manifest.fingerprint,
            };
            keys.insert(key, owner);
        }
        results.push(Ok(PutResult::Stored));
        chosen.push(mail);
    }

    (chosen, results)
}

/// Looks for these mails and their keys. What is found is on disk.
async fn look(on: &Connected, mails: &[NewMail]) -> Result<ExistingMails, tokio_postgres::Error> {
    let there = find(on, mails).await?;
    if !there.mails.is_empty() || !there.keys.is_empty() {
        on.flush().await?;
    }
    Ok(there)
}

async fn find(on: &Connected, mails: &[NewMail]) -> Result<ExistingMails, tokio_postgres::Error> {
    let ids: Vec<Uuid> = mails.iter().map(|m| rows::uuid(m.manifest.id)).collect();
    let found = on
        .query("SELECT id FROM mails WHERE id = ANY($1)", &[&ids])
        .await?;
    let mut there = ExistingMails {
        mails: found.iter().map(|row| rows::mail_id(row.get(0))).collect(),
        keys: HashMap::new(),
    };

    let keys: Vec<Vec<u8>> = mails
        .iter()
        .filter_map(|mail| key_hash(&mail.manifest))
        .collect();

    if keys.is_empty() {
        return Ok(there);
    }
    let found = on
        .query(
            "SELECT key, mail, fingerprint FROM keys WHERE key = ANY($1)",
            &[&keys],
        )
        .await?;

    for row in found {
        let fingerprint: Uuid = row.get(2);
        let owner = KeyOwner {
            mail: rows::mail_id(row.get(1)),
            fingerprint: fingerprint.as_u128(),
        };
        there.keys.insert(row.get(0), owner);
    }

    Ok(there)
}

/// Tells the hints what falls due, and when.
fn hint(node: &NodeState, mails: &[&NewMail]) {
    let mut sweep = i64::MAX;
    for mail in mails {
        for delivery in &mail.deliveries {
            match delivery.stage.due() {
                Some(due) => {
                    let route = node.routes.id(&delivery.route).unwrap_or(hints::ANY_ROUTE);
                    node.hints.due_at(route, due.as_millis());
                }
                None => sweep = sweep.min(node.kept_until(mail.manifest.accepted_at.as_millis())),
            }
        }
        sweep = sweep.min(mail.manifest.expires_at.as_millis());
        let journaled_until = mail.manifest.accepted_at + node.options.journal.keep;
        sweep = sweep.min(journaled_until.as_millis());
        if mail.manifest.idempotency_key.is_some() {
            sweep = sweep.min(forget_at(node, mail));
        }
    }

    node.hints.sweep_at(sweep);
}

fn forget_at(node: &NodeState, mail: &NewMail) -> i64 {
    (mail.manifest.accepted_at + node.options.idempotency_ttl).as_millis()
}

const INSERT: &str = "
WITH m AS (INSERT INTO mails (id, accepted_at, expires_at, priority, recipients, manifest, body)
    SELECT u.id, u.accepted_at, u.expires_at, u.priority, string_to_array(u.recipients, E'\\n'),
      u.manifest, u.body
    FROM unnest($1::uuid[], $2::int8[], $3::int8[], $4::int2[], $5::text[], $6::bytea[],
      $7::bytea[])
      AS u(id, accepted_at, expires_at, priority, recipients, manifest, body)
    RETURNING 1),
  r AS (INSERT INTO ready (mail, idx, route, priority, due, expires_at, size, data, account)
    SELECT * FROM unnest($8::uuid[], $9::int4[], $10::int4[], $11::int2[], $12::int8[],
      $13::int8[], $14::int8[], $15::bytea[],
      $30::int8[])
    RETURNING 1),
  e AS (INSERT INTO ended (mail, idx, route, priority, at, stage, reason, data, token, tries,
    counted, crashes)
    SELECT u.*, 0, 0, 0, 0 FROM unnest($31::uuid[], $32::int4[], $33::int4[], $34::int2[],
      $35::int8[], $36::int2[],
      $37::int2[], $38::bytea[]) u
    RETURNING 1),
  k AS (INSERT INTO keys (key, mail, fingerprint, forget_at)
    SELECT * FROM unnest($16::bytea[], $17::uuid[], $18::uuid[], $19::int8[])
    RETURNING 1),
  o AS (DELETE FROM outbox WHERE id = ANY($29) RETURNING 1),
  n AS MATERIALIZED (SELECT (SELECT count(*) FROM o) + (SELECT count(*) FROM m)
    + (SELECT count(*) FROM r) + (SELECT count(*) FROM k)
    + (SELECT count(*) FROM e) AS n),
  b AS MATERIALIZED (SELECT h.*, set_config('synchronous_commit',
      CASE WHEN $43 THEN 'off' ELSE current_setting('synchronous_commit') END, true)
    FROM n, LATERAL bump($20, $21, $22, n.n) h),
  j AS (INSERT INTO journal (first, events, at, before, acts, entries)
    SELECT b.first + u.off, u.events, u.at, b.before + u.before, u.acts, u.entries
    FROM b, unnest($23::int8[], $24::int4[], $25::int8[], $26::int8[], $27::bool[], $28::bytea[])
      AS u(off, events, at, before, acts, entries))
SELECT commits, pending, first,
  ARRAY(SELECT count_accounts(b.commits, $39::int8[], $40::int8[], $41::int8[], $42::int8[]))
    FROM b";

async fn insert(
    node: &NodeState,
    on: &Connected,
    mails: &[&NewMail],
) -> Result<Committed, tokio_postgres::Error> {
    let count = mails.len();
    let (mut ids, mut accepted, mut expires) = (
        Vec::with_capacity(count),
        Vec::with_capacity(count),
        Vec::with_capacity(count),
    );

    let (mut priorities, mut recipients, mut manifests, mut bodies) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut of, mut at, mut routes, mut of_priority) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut due, mut until, mut sizes, mut data) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut keys, mut key_mails, mut fingerprints, mut forget) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut whose = Vec::new();
    let mut ended = ending::EndedColumns::default();
    let mut totals = TotalsChange::default();
    let mut entries = PendingEntries::default();

    for mail in mails {
        let manifest = &mail.manifest;
        let (id, priority) = (
            rows::uuid(manifest.id),
            rows::priority_number(manifest.priority),
        );
        ids.push(id);
        accepted.push(manifest.accepted_at.as_millis());
        expires.push(manifest.expires_at.as_millis());
        priorities.push(priority);
        let names: Vec<String> = mail
            .deliveries
            .iter()
            .map(|delivery| rows::text(&delivery.recipient.to_string()).replace('\n', " "))
            .collect();
        recipients.push(names.join("\n"));
        manifests.push(rows::manifest_bytes(manifest));
        bodies.push(&mail.body[..]);
        let account = rows::account(manifest);
        let day = manifest.accepted_at.day();
        totals.accounts.accepted(account, day, manifest.recipients);
        entries.push(JournalEntry::accepted(manifest));
        for (index, delivery) in (0u16..).zip(&mail.deliveries) {
            let Some(when) = delivery.stage.due() else {
                let (stage, ..) = rows::stage_columns(&delivery.stage);
                totals.add(stage, priority, 1);
                ended.add(
                    &node.routes,
                    &EndedRow {
                        mail: manifest.id,
                        index,
                        priority,
                        account,
                        delivery: delivery.clone(),
                        unread: None,
                    },
                );
                let at = delivery.stage.finished_at();
                let at = at.unwrap_or(manifest.accepted_at);
                let became = JournalEntry::became(manifest.id, Some(manifest), delivery, false, at);
                entries.push(became);
                continue;
            };
            of.push(id);
            at.push(i32::from(index));
            whose.push(account);
            routes.push(node.routes.id(&delivery.route).unwrap_or(0));
            of_priority.push(priority);
            due.push(when.as_millis());
            until.push(manifest.expires_at.as_millis());
            sizes.push(i64::try_from(mail.body.len()).unwrap_or(i64::MAX));
            data.push(codec::encode(delivery));
            totals.add(PENDING, priority, 1);
            totals.accounts.pending(account, 1);
        }
        if let Some(key) = key_hash(manifest) {
            keys.push(key);
            key_mails.push(id);
            fingerprints.push(Uuid::from_u128(manifest.fingerprint));
            forget.push(forget_at(node, mail));
        }
    }

    let drafts: Vec<Uuid> = {
        let in_hand = node.drafts.in_hand();
        let of_these = mails.iter().map(|mail| mail.manifest.id);
        let drafts = of_these.filter(|id| in_hand.contains(id)).map(rows::uuid);
        drafts.collect()
    };

    let records = Records::of(entries);
    let counted = totals.accounts.columns();
    let rows = on
        .query_and_flush(
            INSERT,
            &[
                &ids,
                &accepted,
                &expires,
                &priorities,
                &recipients,
                &manifests,
                &bodies,
                &of,
                &at,
                &routes,
                &of_priority,
                &due,
                &until,
                &sizes,
                &data,
                &keys,
                &key_mails,
                &fingerprints,
                &forget,
                &records.count,
                &records.bytes,
                &totals.columns(),
                &records.offsets,
                &records.events,
                &records.ats,
                &records.befores,
                &records.acts,
                &records.entries,
                &drafts,
                &whose,
                &ended.mails,
                &ended.places,
                &ended.routes,
                &ended.priorities,
                &ended.ats,
                &ended.stages,
                &ended.reasons,
                &ended.data,
                &counted.names,
                &counted.pending,
                &counted.days,
                &counted.accepted,
                &node.all_flush.load(Ordering::Relaxed),
            ],
        )
        .await?;

    let row = rows.first();
    Ok(Committed {
        commits: row.map_or(0, |row| row.get(0)),
        pending: row.map_or(0, |row| row.get(1)),
        last: row.map_or(0, |row| row.get::<_, i64>(2)) + records.count - 1,
        accounts: row.map_or_else(Vec::new, |row| {
            accounts::read(&row.get::<_, Vec<String>>(3))
        }),
    })
}
