//! A mail of which a salvage finds nothing but what the journal tells.

use super::super::salvage::{JournalEnd, LastCommit, put_in_order};
use super::*;
use crate::spool::SpoolError;

/// Every key of a store that names this mail.
fn keys_of(store: &MemoryStore, id: MailId) -> Result<Batch, SpoolError> {
    let mut keys = Batch::new();
    store.walk(&[], &[u8::MAX], Direction::Up, &mut |key, _| {
        let of_queue = keys::read_queue(key).map(|read| read.place.mail);
        if keys::mail_of(key) == Some(id) || of_queue == Some(id) {
            keys.push((key.to_vec(), None));
        }
        ControlFlow::Continue(())
    })?;
    Ok(keys)
}

/// What a salvage says is missing after all of these mails was lost but the journal.
fn missing(store: &MemoryStore, lost: &[MailId]) -> Vec<String> {
    for id in lost {
        let keys = keys_of(store, *id).expect("walks");
        assert!(!keys.is_empty(), "{id} is not there");
        store.write(keys).expect("writes");
    }

    let last_commit = LastCommit {
        journal: Some(JournalEnd::default()),
        ..LastCommit::default()
    };
    let report = put_in_order(store, now(), last_commit, &|_| false).expect("puts in order");
    report.missing
}

#[tokio::test]
async fn a_mail_of_which_nothing_is_left_is_named_while_it_waits_and_once() {
    let mails: Vec<NewMail> = (0..4).map(|_| new_mail(2)).collect();
    let ids: Vec<MailId> = mails.iter().map(|mail| mail.manifest.id).collect();
    let [waiting, half_done, purged, kept] = ids[..] else {
        panic!("four")
    };

    let store = MemoryStore::default();
    let spool = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    for put in spool.put(mails).await {
        assert_eq!(put, Ok(PutResult::Stored));
    }

    for claim in claim_all(&spool).await {
        let id = claim.manifest.id;
        let deliveries = claim.deliveries.into_iter().enumerate();
        let settled = deliveries.map(|(n, (lease, mut delivery))| {
            delivery.tries = 1;
            delivery.stage = if id == purged || n == 0 {
                Stage::Delivered { at: now() }
            } else {
                Stage::Pending {
                    due: now() + Duration::from_secs(60),
                }
            };
            (lease, delivery)
        });
        if id == half_done || id == purged {
            spool.settle(settled.collect()).await.expect("settles");
        }
    }
    spool.purge(purged).await.expect("purges");
    spool.close().await.expect("closes");

    let told = missing(&store, &[waiting, half_done]);
    let named = |id: MailId| told.iter().any(|line| line.contains(&id.to_string()));
    assert!(named(waiting), "{told:?}");
    assert!(named(half_done), "{told:?}");
    assert!(!named(purged) && !named(kept), "{told:?}");

    let again = missing(&store, &[]);
    assert!(again.is_empty(), "told a second time: {again:?}");
}
