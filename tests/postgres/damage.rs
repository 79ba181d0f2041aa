//! What cannot be read ends like everything else, and nothing is lost of what can be.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postrider::delivery::{DeadReason, Delivery, Route, Stage};
use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{
    ClaimRequest, Lease, Manifest, NewMail, OperationResult, PutResult, Query, SettleResult, Spool,
    SpoolError, SpoolOptions,
};
use postrider::{Guarantee, MailId, Priority, Timestamp};

use super::common::eventually;
use super::common::postgres::Server;

pub fn start() -> Timestamp {
    Timestamp::from_millis(1_900_000_000_000)
}

/// A mail that is due at once and lives for an hour.
pub fn new_mail(to: &str) -> NewMail {
    let id: MailId = uuid::Uuid::now_v7().to_string().parse().unwrap();
    let body = Bytes::from_static(b"Subject: a sample\r\n\r\nHello.\r\n");
    let manifest = Manifest {
        id,
        accepted_at: start(),
        expires_at: start() + Duration::from_secs(3600),
        return_path: None,
        message_id: format!("<{id}@example.com>"),
        subject: "a sample".into(),
        priority: Priority::Default,
        guarantee: Guarantee::AtMostOnce,
        tags: Vec::new(),
        idempotency_key: None,
        fingerprint: 1,
        size: body.len() as u64,
        recipients: 1,
        eight_bit: false,
        smtputf8: false,
        submitter: None,
        mended: Vec::new(),
        template: None,
        list: None,
    };

    let route = Route::over(["primary"]);
    NewMail {
        manifest,
        body,
        deliveries: vec![Delivery::new(to.parse().unwrap(), route, start())],
    }
}

pub async fn put(spool: &dyn Spool, mail: NewMail) -> MailId {
    let id = mail.manifest.id;
    assert_eq!(spool.put(vec![mail]).await, [Ok(PutResult::Stored)]);
    id
}

pub fn everything_due() -> ClaimRequest {
    ClaimRequest {
        routes: vec![Route::over(["primary"])],
        turns: vec![Priority::Default; 10],
        critical_only: 0,
        max_bytes: usize::MAX,
        max_recipients: usize::MAX,
        now: start(),
    }
}

struct Database {
    server: Server,
    schema: String,
}

impl Database {
    fn new(name: &str) -> Self {
        Database {
            server: Server::start(),
            schema: format!("d{}-{name}", std::process::id()),
        }
    }

    async fn open(&self) -> Arc<dyn Spool> {
        let spool = PostgresSpool::new(self.server.url()).schema(&self.schema);
        spool.open(SpoolOptions::default()).await.unwrap()
    }

    fn sql(&self, sql: &str) -> String {
        let path = format!("SET search_path TO \"{}\"; {sql}", self.schema);
        self.server.sql(&path)
    }

    /// Has the deliveries of a mail be rubbish.
    fn damage(&self, mail: MailId) {
        self.sql(&format!(
            "UPDATE ready SET data = '\\xff00' WHERE mail = '{mail}'"
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_cannot_be_read_ends_whatever_ends_it_and_is_never_just_gone() {
    let database = Database::new("rubbish");
    let spool = database.open().await;
    let now = start();

    let doubtful = put(&*spool, new_mail("doubtful@example.org")).await;
    let claims = spool.claim(everything_due()).await.unwrap();
    let leases = claims[0].deliveries.iter().map(|(lease, _)| lease.token());
    spool.mark(leases.collect()).await.unwrap();

    let cancelled = put(&*spool, new_mail("cancelled@example.org")).await;
    let unsendable = put(&*spool, new_mail("unsendable@example.org")).await;
    let expired = put(&*spool, new_mail("expired@example.org")).await;
    for mail in [doubtful, cancelled, unsendable, expired] {
        database.damage(mail);
    }

    let waiting = spool.list(Query::default(), now).await.unwrap();
    assert_eq!(waiting.mails.len(), 4, "what is damaged hides nothing");

    let done = OperationResult::Done(vec!["cancelled@example.org".parse().unwrap()]);
    assert_eq!(spool.cancel(cancelled, now).await, Ok(done));

    // It is not due before the others have ended.
    database.sql(&format!(
        "UPDATE ready SET due = due + 1000 WHERE mail = '{expired}'"
    ));

    assert!(spool.claim(everything_due()).await.unwrap().is_empty());
    let later = now + Duration::from_secs(7200);
    let mut ended = spool.sweep(now).await.unwrap().ended;
    ended.extend(spool.sweep(later).await.unwrap().ended);

    // Who ends its session leaves what is in doubt to the others.
    spool.close().await.unwrap();
    drop(claims);
    drop(spool);

    let spool = database.open().await;
    assert_eq!(spool.pending(), 0);
    let stats = spool.stats(later).await.unwrap();
    let records = spool.list(Query::default(), later).await.unwrap().mails;

    ended.extend(spool.sweep(later).await.unwrap().ended);
    let reason = |mail| {
        ended
            .iter()
            .find(|one| one.mail == mail)
            .map(|one| one.reason)
    };

    assert_eq!(reason(unsendable), Some(DeadReason::Quarantined));
    assert_eq!(reason(expired), Some(DeadReason::Expired));
    assert_eq!(reason(doubtful), Some(DeadReason::InDoubt));

    let of_state = |state| stats.counts.in_state(state);
    assert_eq!(of_state(postrider::State::Dead), 3, "{stats:?}");
    assert_eq!(of_state(postrider::State::Cancelled), 1, "{stats:?}");
    assert_eq!(stats.quarantined, 4, "its bytes are kept");
    assert_eq!(
        database.sql("SELECT count(*) FROM set_aside WHERE data = '\\xff00'"),
        "4"
    );

    for (mail, to) in [
        (doubtful, "doubtful@example.org"),
        (cancelled, "cancelled@example.org"),
        (unsendable, "unsendable@example.org"),
        (expired, "expired@example.org"),
    ] {
        let record = records
            .iter()
            .find(|record| record.manifest.id == mail)
            .unwrap();
        assert_eq!(record.deliveries[0].recipient.as_str(), to);
    }

    spool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_let_go_of_after_the_spool_was_closed_is_left_to_the_next_that_opens_it() {
    let database = Database::new("let_go");
    let spool = database.open().await;
    let mail = put(&*spool, new_mail("doubtful@example.org")).await;
    let claims = spool.claim(everything_due()).await.unwrap();
    let leases = claims[0].deliveries.iter().map(|(lease, _)| lease.token());
    spool.mark(leases.collect()).await.unwrap();

    spool.close().await.unwrap();
    drop(claims);
    // Long enough for whoever would write it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waiting = format!("SELECT count(*) FROM ready WHERE mail = '{mail}' AND stage = 1");
    assert_eq!(
        database.sql(&waiting),
        "1",
        "nobody would be told of its end"
    );
    drop(spool);

    let spool = database.open().await;
    let ended = spool.sweep(start()).await.unwrap().ended;
    let reasons: Vec<DeadReason> = ended.iter().map(|one| one.reason).collect();
    assert_eq!(reasons, [DeadReason::InDoubt]);
    spool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mail_whose_record_is_damaged_is_not_sent_and_hides_no_other() {
    let database = Database::new("record");
    let spool = database.open().await;
    let damaged = put(&*spool, new_mail("damaged@example.org")).await;
    let whole = put(&*spool, new_mail("whole@example.org")).await;

    database.sql(&format!(
        "UPDATE mails SET manifest = '\\xff' WHERE id = '{damaged}'"
    ));

    let claims = spool.claim(everything_due()).await.unwrap();
    let claimed: Vec<MailId> = claims.iter().map(|claim| claim.manifest.id).collect();
    assert_eq!(claimed, [whole]);
    drop(claims);

    let ended = spool.sweep(start()).await.unwrap().ended;
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(
        (ended[0].mail, ended[0].reason),
        (damaged, DeadReason::Quarantined)
    );

    assert_eq!(spool.pending(), 1);
    let listed = spool.list(Query::default(), start()).await.unwrap();
    assert_eq!(listed.mails.len(), 1, "the others are listed");
    assert_eq!(spool.stats(start()).await.unwrap().quarantined, 1);
    spool.close().await.unwrap();
}

async fn deliver(
    spool: &dyn Spool,
    claimed: Vec<(Lease, Delivery)>,
) -> Result<Vec<SettleResult>, SpoolError> {
    let delivered = claimed.into_iter().map(|(lease, mut delivery)| {
        delivery.stage = Stage::Delivered { at: start() };
        (lease, delivery)
    });
    spool.settle(delivered.collect()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_the_database_refuses_holds_up_no_other_and_stays_leased_to_nobody() {
    let database = Database::new("refused");
    let spool = database.open().await;
    let mut again = new_mail("again@example.org");
    again.manifest.guarantee = Guarantee::AtLeastOnce;
    let again = put(&*spool, again).await;
    let doubtful = put(&*spool, new_mail("doubtful@example.org")).await;
    let fine = put(&*spool, new_mail("fine@example.org")).await;

    database.sql(&format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF NEW.stage = 2 AND NEW.mail IN ('{again}',
             '{doubtful}') THEN RAISE EXCEPTION 'not that one'; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON ended FOR EACH ROW EXECUTE FUNCTION refuse()"
    ));

    let claims = spool.claim(everything_due()).await.unwrap();
    let mut claimed = Vec::new();
    for claim in claims {
        for (lease, delivery) in claim.deliveries {
            if claim.manifest.id == doubtful {
                spool.mark(vec![lease.token()]).await.unwrap();
            }
            claimed.push((lease, delivery));
        }
    }
    assert_eq!(claimed.len(), 3);
    let why = deliver(&*spool, claimed).await.unwrap_err().to_string();
    assert!(why.contains("not that one"), "{why}");

    let ended = |mail| format!("SELECT stage, reason FROM ended WHERE mail = '{mail}'");
    assert_eq!(database.sql(&ended(fine)), "2|0", "it is written");
    eventually("nothing is leased that nobody has in hand", async || {
        database.sql("SELECT count(*) FROM ready WHERE owner <> 0") == "0"
    })
    .await;

    // It may have been sent, and is not sent again.
    let told = spool.sweep(start()).await.unwrap().ended;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].mail, told[0].reason),
        (doubtful, DeadReason::InDoubt)
    );

    database.sql("DROP TRIGGER refuse ON ended");
    let claims = spool.claim(everything_due()).await.unwrap();
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0].manifest.id, again);
    let claimed = claims.into_iter().flat_map(|claim| claim.deliveries);
    let done = deliver(&*spool, claimed.collect()).await;
    assert_eq!(done, Ok(vec![SettleResult::Done]));
    assert_eq!(spool.pending(), 0);
    spool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_should_not_be_there_hold_up_nothing_else() {
    let database = Database::new("stray");
    let spool = database.open().await;
    let stray = put(&*spool, new_mail("stray@example.org")).await;
    let fine = put(&*spool, new_mail("fine@example.org")).await;
    database.sql(&format!(
        "INSERT INTO ended (mail, idx, route, priority, at, stage, reason, token, tries, counted,
           crashes, data)
         SELECT mail, idx, route, priority, due, 2, 0, 0, 0, 0, 0, data FROM ready
           WHERE mail = '{stray}'"
    ));

    let claims = spool.claim(everything_due()).await.unwrap();
    let claimed = claims.into_iter().flat_map(|claim| claim.deliveries);
    let settling = deliver(&*spool, claimed.collect());
    let settled = tokio::time::timeout(Duration::from_secs(20), settling).await;
    assert!(settled.unwrap().is_err());
    let ended = format!("SELECT count(*) FROM ready WHERE mail = '{fine}'");
    assert_eq!(database.sql(&ended), "0", "the other is written");

    // The numbers of events stand there already.
    database.sql(
        "INSERT INTO journal (first, events, at, before, acts, entries)
         SELECT next, 1, 0, written, false, '' FROM head",
    );
    let putting = spool.put(vec![new_mail("next@example.org")]);
    let put = tokio::time::timeout(Duration::from_secs(20), putting).await;
    assert!(matches!(put.unwrap()[..], [Err(_)]));
    database.sql("DELETE FROM journal WHERE entries = ''");
    eventually("it goes on behind them", async || spool.failure().is_none()).await;
    self::put(&*spool, new_mail("next@example.org")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_cannot_be_read_are_missing_and_no_reader_stops_at_them() {
    let database = Database::new("journal");
    let spool = database.open().await;
    let mut mails = Vec::new();
    for n in 0..9 {
        mails.push(put(&*spool, new_mail(&format!("r{n}@example.org"))).await);
    }
    let journal = spool.journal().unwrap();
    let last = *journal.last().borrow();
    let numbers = async || {
        let (mut read, mut missed, mut at) = (Vec::new(), 0, 0);
        while at < last {
            let page = journal.after(at, 3).await.unwrap();
            assert!(page.last > at, "it goes on");
            missed += page.missed;
            read.extend(page.events.iter().map(|event| event.seq));
            at = page.last;
        }
        (read, missed)
    };
    let whole = numbers().await;
    assert_eq!((whole.0.len() as u64, whole.1), (last, 0));

    // In the middle, and at the end.
    for rubbish in ["\\xff00ff", "", "\\x00"] {
        database.sql(&format!(
            "UPDATE journal SET entries = '{rubbish}' WHERE first IN (3, 4, {last})"
        ));
        let (read, missed) = numbers().await;
        let wanted: Vec<u64> = (1..last).filter(|n| ![3, 4].contains(n)).collect();
        assert_eq!((read, missed), (wanted, 3), "{rubbish}");
    }

    for mail in &mails {
        journal.of_mail(*mail, 0).await.unwrap();
    }
    spool.close().await.unwrap();
    let spool = PostgresSpool::new(database.server.url()).schema(&database.schema);
    let verified = spool.verify().await.unwrap();
    assert_eq!(verified.events, last - 3);
    assert_eq!(verified.problems.len(), 3, "{verified:?}");
}
