//! Opens what a power cut left and compares it with what is owed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::mail::MailId;
use postrider::spool::{NewMail, PutResult, Record, Spool, SpoolError, sled};

use super::agreement;
use super::journal::{Debt, body_of, describe};
use super::load::options;

/// How many idempotency keys are tried on one image.
const KEYS: usize = 5;

/// Whether everything that is owed is there.
///
/// # Errors
/// What is not, in one sentence.
pub fn check(spool: &Path, debt: &Debt) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();

    let checked = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(check_open(spool, debt))
    }));
    checked.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a word")))
    })
}

async fn check_open(path: &Path, debt: &Debt) -> Result<(), String> {
    if path.join("db").exists() {
        let verified =
            sled::verify(path).map_err(|error| format!("verify does not open it: {error}"))?;
        if let Some(problem) = verified.problems.first() {
            return Err(format!(
                "verify found {} problems: {problem}",
                verified.problems.len()
            ));
        }
    }

    let spool = open(path)
        .await
        .map_err(|error| format!("does not open: {error}"))?;
    let there = agreement::everything(&*spool).await?;
    for (id, owed) in &debt.mails {
        match there.get(id) {
            None if owed.may_be_absent() => {}
            None => return Err(format!("mail {id} is lost, and owed is {owed}")),
            Some(record) => {
                let state = describe(&record.deliveries);
                if !owed.admits(&state) && !is_on_its_way(&state, owed) {
                    return Err(format!("mail {id} is `{state}`, and owed is {owed}"));
                }
                let size = usize::try_from(record.manifest.size).unwrap();
                let body = spool
                    .body(*id)
                    .await
                    .map_err(|error| format!("a body cannot be read: {error}"))?;
                if body != Some(body_of(*id, size)) {
                    return Err(format!("the body of mail {id} is not what was put"));
                }
            }
        }
    }

    if let Some(id) = there.keys().find(|id| !debt.mails.contains_key(id)) {
        return Err(format!("mail {id} was never put"));
    }
    agreement::journal_agrees(&*spool, there.values()).await?;

    let pending = there
        .values()
        .flat_map(|record| &record.deliveries)
        .filter(|d| d.stage.due().is_some())
        .count();

    if spool.pending() != pending as u64 {
        return Err(format!(
            "{pending} deliveries are pending, and {} are told",
            spool.pending()
        ));
    }

    check_keys(&*spool, &there, debt).await?;
    spool
        .close()
        .await
        .map_err(|error| format!("does not close: {error}"))
}

/// The database that was just verified may need a moment to let go of its lock.
async fn open(path: &Path) -> Result<Arc<dyn Spool>, SpoolError> {
    for _ in 0..1000 {
        match sled::open(path, options()) {
            Err(SpoolError::Locked(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => return opened,
        }
    }
    sled::open(path, options())
}

/// Settles of one mail's recipients that were not acknowledged may be there one by one.
fn is_on_its_way(state: &str, owed: &super::journal::OwedStates) -> bool {
    let candidates: Vec<Vec<&str>> = owed
        .states()
        .map(|state| state.split(',').collect())
        .collect();
    state
        .split(',')
        .enumerate()
        .all(|(n, part)| candidates.iter().any(|parts| parts.get(n) == Some(&part)))
}

/// A key that was accepted with its mail is known, and the spool takes new mail.
async fn check_keys(
    spool: &dyn Spool,
    there: &BTreeMap<MailId, Record>,
    debt: &Debt,
) -> Result<(), String> {
    let keyed = there
        .values()
        .filter(|record| record.manifest.idempotency_key.is_some());
    for record in keyed
        .filter(|record| debt.mails[&record.manifest.id].is_acknowledged())
        .take(KEYS)
    {
        let known = record.manifest.id;
        let mut manifest = record.manifest.clone();
        manifest.id = MailId::from_bytes([9; 16]);
        manifest.size = 0;
        let new_mail = NewMail {
            manifest,
            body: Default::default(),
            deliveries: record.deliveries.clone(),
        };
        let put = spool.put(vec![new_mail]).await.remove(0);
        if put != Ok(PutResult::Duplicate(known)) {
            return Err(format!("the key of mail {known} is forgotten: {put:?}"));
        }
    }

    if let Some(record) = there.values().next() {
        let mut manifest = record.manifest.clone();
        manifest.id = MailId::from_bytes([8; 16]);
        manifest.idempotency_key = None;
        manifest.size = 100_000;
        let id = manifest.id;
        let new_mail = NewMail {
            manifest,
            body: body_of(id, 100_000),
            deliveries: record.deliveries.clone(),
        };
        let put = spool.put(vec![new_mail]).await.remove(0);
        if put != Ok(PutResult::Stored) || spool.body(id).await != Ok(Some(body_of(id, 100_000))) {
            return Err(format!("new mail is not taken: {put:?}"));
        }
    }

    Ok(())
}
