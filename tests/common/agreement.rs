//! Whether what the journal says happened and what the records say became of mail are the same.

use std::collections::BTreeMap;

use postrider::EventKind;
use postrider::delivery::{Delivery, Stage};
use postrider::mail::{Address, MailId, Timestamp};
use postrider::spool::{Query, Record, Spool};

/// What the journal says of one delivery.
#[derive(Default)]
struct EventLog {
    became: Option<&'static str>,
    tried_at: Option<Timestamp>,
}

/// Every record.
///
/// # Errors
/// Why they cannot be read.
pub async fn everything(spool: &dyn Spool) -> Result<BTreeMap<MailId, Record>, String> {
    let mut there = BTreeMap::new();
    let mut query = Query {
        limit: 1000,
        ..Query::default()
    };

    loop {
        let page = spool
            .list(query.clone(), Timestamp::now())
            .await
            .map_err(|error| format!("cannot list: {error}"))?;
        let mails = page.mails.into_iter();
        there.extend(mails.map(|record| (record.manifest.id, record)));
        query.cursor = page.next;
        if query.cursor.is_none() {
            return Ok(there);
        }
    }
}

/// Compares the whole journal, of which nothing is gone, with these records.
///
/// # Errors
/// The first difference, in one sentence.
pub async fn journal_agrees<'a>(
    spool: &dyn Spool,
    records: impl IntoIterator<Item = &'a Record>,
) -> Result<(), String> {
    let journal = spool.journal().ok_or("there is no journal")?;
    let last = *journal.last().borrow();
    let mut accepted: BTreeMap<MailId, u32> = BTreeMap::new();
    let mut told: BTreeMap<(MailId, Address), EventLog> = BTreeMap::new();

    let mut at = 0;
    while at < last {
        let page = journal.after(at, 1024).await;
        let page = page.map_err(|error| format!("the journal cannot be read: {error}"))?;
        if page.missed > 0 {
            return Err(format!("{} events after {at} are gone", page.missed));
        }
        for event in &page.events {
            if event.seq <= at {
                return Err(format!("the number {} is given twice", event.seq));
            }
            at = event.seq;
            let Some(mail) = event.mail else { continue };
            if event.kind == EventKind::Accepted {
                *accepted.entry(mail).or_default() += 1;
            }
            let Some(recipient) = event.recipient.clone() else {
                continue;
            };
            let told = told.entry((mail, recipient)).or_default();
            match &event.kind {
                EventKind::Attempted { attempt } => told.tried_at = Some(attempt.at),
                kind => told.became = Some(kind.as_str()),
            }
        }
        at = page.last;
    }

    for record in records {
        let id = record.manifest.id;
        let times = accepted.get(&id).copied().unwrap_or(0);
        if times != 1 {
            return Err(format!("mail {id} is told to be accepted {times} times"));
        }
        for delivery in &record.deliveries {
            let nothing = EventLog::default();
            let key = (id, delivery.recipient.clone());
            let told = told.get(&key).unwrap_or(&nothing);
            let tried_at = delivery.attempts.last().map(|attempt| attempt.at);
            if !agrees(delivery, told.became) || (tried_at.is_some() && told.tried_at != tried_at) {
                return Err(format!(
                    "to {} mail {id} is {:?}, tried last at {tried_at:?}, and told is {:?}, {:?}",
                    delivery.recipient, delivery.stage, told.became, told.tried_at
                ));
            }
        }
    }

    Ok(())
}

/// Whether a delivery is what was told last of it.
fn agrees(delivery: &Delivery, event: Option<&str>) -> bool {
    match delivery.stage {
        Stage::Delivered { .. } => event == Some("delivered"),
        Stage::Dead { .. } => event == Some("dead"),
        Stage::Cancelled { .. } => event == Some("cancelled"),
        Stage::Pending { .. } | Stage::Committing { .. } if delivery.tries > 0 => {
            matches!(event, Some("deferred" | "retried"))
        }
        Stage::Pending { .. } | Stage::Committing { .. } => {
            matches!(event, None | Some("deferred" | "retried"))
        }
    }
}
