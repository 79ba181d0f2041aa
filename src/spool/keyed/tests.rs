//! What happens to records that cannot be read. No door leads here: somebody else wrote them, or a disk went bad.

use bytes::Bytes;

use super::*;
use crate::delivery::DeadReason;
use crate::mail::{Address, Guarantee, Priority};
use crate::spool::memory::MemoryStore;

const BODY: &[u8] = b"Subject: Hello\r\n\r\nHello!\r\n";

fn now() -> Timestamp {
    Timestamp::from_millis(1_000)
}

fn parcel(recipients: usize) -> Parcel {
    let address = |n| Address::parse(&format!("user{n}@example.org")).expect("valid");
    let deliveries = (0..recipients).map(|n| Delivery::new(address(n), Route::over(["primary"]), now())).collect();
    let manifest = super::super::Manifest {
        id: MailId::generate(),
        accepted_at: now(),
        expires_at: now() + Duration::from_secs(3600),
        return_path: None,
        message_id: "<1@example.org>".into(),
        subject: "Hello".into(),
        priority: Priority::Default,
        guarantee: Guarantee::AtLeastOnce,
        tags: Vec::new(),
        idempotency_key: None,
        fingerprint: 0,
        size: BODY.len() as u64,
        recipients: u16::try_from(recipients).expect("few"),
        eight_bit: false,
        smtputf8: false,
    };
    Parcel { manifest, body: Bytes::from_static(BODY), deliveries }
}

/// A spool on what an earlier one left, one key of which was changed meanwhile.
async fn opened_after(put: Vec<Parcel>, change: impl FnOnce(&MemoryStore)) -> KeyedSpool<MemoryStore> {
    let store = MemoryStore::default();
    let before = KeyedSpool::open(store.clone(), SpoolOptions::default()).expect("empty");
    for put in before.put(put).await {
        assert_eq!(put, Ok(Put::Stored));
    }
    before.close().await.expect("closes");
    change(&store);
    KeyedSpool::open(store, SpoolOptions::default()).expect("one bad record does not keep it closed")
}

async fn claim_all(spool: &KeyedSpool<MemoryStore>) -> Vec<Claim> {
    let want = Want {
        routes: vec![Route::over(["primary"])],
        turns: vec![Priority::Default; 10],
        critical_only: 0,
        max_bytes: usize::MAX,
        max_recipients: 100,
        now: now(),
    };
    spool.claim(want).await.expect("claims")
}

fn quarantined_of(spool: &KeyedSpool<MemoryStore>) -> u64 {
    inspect::quarantined(&spool.shared.store).expect("walks")
}

#[tokio::test]
async fn a_mail_whose_record_cannot_be_read_is_set_aside_and_the_others_are_sent() {
    let (bad, good) = (parcel(1), parcel(1));
    let (bad_id, good_id) = (bad.manifest.id, good.manifest.id);
    let spool = opened_after(vec![bad, good], |store| {
        store.write(vec![(keys::manifest(bad_id), Some(vec![9, 9, 9]))]).expect("writes");
    })
    .await;
    let claims = claim_all(&spool).await;
    assert_eq!(claims.iter().map(|claim| claim.manifest.id).collect::<Vec<_>>(), [good_id]);
    drop(claims);
    assert_eq!(spool.get(bad_id).await.expect("reads"), None);
    assert_eq!(quarantined_of(&spool), 1, "its bytes are kept");
    let stats = spool.stats(now()).await.expect("counts");
    assert_eq!((stats.quarantined, spool.pending()), (1, 1));
}

#[tokio::test]
async fn a_delivery_whose_record_cannot_be_read_is_dead_as_quarantined() {
    for recipients in [2, 20] {
        let bad = parcel(recipients);
        let id = bad.manifest.id;
        let spool = opened_after(vec![bad], |store| {
            store.write(vec![(keys::delivery(id, 1), Some(vec![1, 255, 255]))]).expect("writes");
        })
        .await;
        let claims = claim_all(&spool).await;
        assert_eq!(claims.iter().map(|claim| claim.deliveries.len()).sum::<usize>(), recipients - 1);
        drop(claims);
        assert_eq!(quarantined_of(&spool), 1);
        assert_eq!(spool.pending(), recipients as u64 - 1);
        let deliveries = spool.get(id).await.expect("reads").expect("the mail is there").deliveries;
        let dead = deliveries
            .iter()
            .filter(|delivery| matches!(delivery.stage, Stage::Dead { reason: DeadReason::Quarantined, .. }));
        // Whose it was is known as long as the mail's own record says so.
        assert_eq!((dead.count(), deliveries.len()), if recipients == 2 { (1, 2) } else { (0, 19) });
    }
}

#[tokio::test]
async fn a_mail_whose_message_is_not_whole_is_dead_as_quarantined() {
    let mut bad = parcel(1);
    bad.body = Bytes::from(vec![b'x'; 10_000]);
    bad.manifest.size = 10_000;
    let id = bad.manifest.id;
    let spool = opened_after(vec![bad], |store| store.write(vec![(keys::chunk(id, 1), None)]).expect("writes")).await;
    assert_eq!(claim_all(&spool).await.len(), 0);
    let record = spool.get(id).await.expect("reads").expect("the mail is there");
    assert!(matches!(record.deliveries[0].stage, Stage::Dead { reason: DeadReason::Quarantined, .. }));
    assert_eq!((spool.stats(now()).await.expect("counts").quarantined, spool.pending()), (1, 0));
}
