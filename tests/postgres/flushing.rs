//! A commit lets go of what all commits change before it is on disk, and nobody hears of it before
//! it is. A synchronous standby that does not exist stands for a disk that takes its time.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use postrider::delivery::Stage;
use postrider::mail::{MailId, Submitter};
use postrider::spool::postgres::PostgresSpool;
use postrider::spool::{PutResult, SettleResult, Spool, SpoolOptions};

use super::common::eventually;
use super::common::postgres::Server;
use super::damage::{everything_due, new_mail, start};

/// Long enough for an answer that waits for nothing.
const AN_ANSWER: Duration = Duration::from_millis(500);

/// A database of which two nodes hold the spool.
struct Pair {
    server: Server,
    first: Arc<dyn Spool>,
    second: Arc<dyn Spool>,
    /// Whose commit is not confirmed either.
    waiting: Option<Child>,
}

impl Pair {
    async fn open() -> Self {
        let server = Server::of_its_own();
        let open = async || {
            let spool = PostgresSpool::new(server.url()).schema("flushing");
            spool.open(SpoolOptions::default()).await.unwrap()
        };
        let (first, second) = (open().await, open().await);
        // The name of a route is stored with the first mail that takes it.
        for spool in [&first, &second] {
            assert_eq!(put(spool, None).await.unwrap(), PutResult::Stored);
        }
        Pair {
            server,
            first,
            second,
            waiting: None,
        }
    }

    fn rows(&self, table: &str) -> String {
        let count = format!("SELECT count(*) FROM flushing.{table}");
        self.server.sql(&count)
    }

    /// From now on no commit is confirmed.
    async fn withhold(&mut self) {
        self.server
            .sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
        self.server.sql("SELECT pg_reload_conf()");
        let psql = Command::new("psql")
            .args(["-X", "-q", "-d", self.server.url()])
            .args(["-c", "CREATE TABLE public.waiting ()"])
            .stdout(Stdio::null())
            .spawn();
        self.waiting = Some(psql.unwrap());
        let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("a commit waits", async || self.server.sql(waits) == "t").await;
    }

    /// All that was committed is confirmed.
    fn confirm(&mut self) {
        self.server
            .sql("ALTER SYSTEM RESET synchronous_standby_names");
        self.server.sql("SELECT pg_reload_conf()");
        if let Some(mut waiting) = self.waiting.take() {
            assert!(waiting.wait().unwrap().success());
        }
    }

    fn last_events(&self) -> [u64; 2] {
        [&self.first, &self.second].map(|spool| *spool.journal().unwrap().last().borrow())
    }
}

fn put(spool: &Arc<dyn Spool>, key: Option<&str>) -> tokio::task::JoinHandle<PutResult> {
    let spool = Arc::clone(spool);
    let mut mail = new_mail("one@example.org");
    mail.manifest.idempotency_key = key.map(str::to_owned);
    tokio::spawn(async move { spool.put(vec![mail]).await.remove(0).unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_is_answered_and_told_when_it_is_on_disk_and_others_do_not_wait_for_it() {
    let mut pair = Pair::open().await;
    eventually("both nodes tell of what was", async || {
        pair.last_events() == [2, 2]
    })
    .await;
    pair.withhold().await;

    let one = put(&pair.first, None);
    eventually("it is committed", async || pair.rows("mails") == "3").await;
    let other = put(&pair.second, None);
    eventually("so is the other", async || pair.rows("mails") == "4").await;
    tokio::time::sleep(AN_ANSWER).await;
    assert!(!one.is_finished() && !other.is_finished());
    assert_eq!(pair.last_events(), [2, 2]);

    pair.confirm();
    assert_eq!(one.await.unwrap(), PutResult::Stored);
    assert_eq!(other.await.unwrap(), PutResult::Stored);
    eventually("both nodes tell of both", async || {
        pair.last_events() == [4, 4]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_anothers_when_that_mail_is_on_disk() {
    let mut pair = Pair::open().await;
    pair.withhold().await;

    let one = put(&pair.first, Some("order-1"));
    eventually("it is committed", async || pair.rows("keys") == "1").await;
    let again = put(&pair.second, Some("order-1"));
    tokio::time::sleep(AN_ANSWER).await;
    assert!(!one.is_finished() && !again.is_finished());

    pair.confirm();
    assert_eq!(one.await.unwrap(), PutResult::Stored);
    let again = again.await.unwrap();
    assert!(matches!(again, PutResult::Duplicate(_)), "{again:?}");
    assert_eq!(pair.rows("mails"), "3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_at_another_node_hears_of_a_mail_when_it_is_on_disk() {
    let mut pair = Pair::open().await;
    pair.withhold().await;

    let one = put(&pair.first, Some("order-1"));
    eventually("it is committed", async || pair.rows("keys") == "1").await;
    let id = pair.server.sql("SELECT mail FROM flushing.keys");
    let id: MailId = id.parse().unwrap();
    let spool = Arc::clone(&pair.second);
    let record = tokio::spawn(async move { spool.get(id).await });
    let spool = Arc::clone(&pair.second);
    let key = tokio::spawn(async move { spool.by_key(&Submitter::default(), "order-1").await });
    let spool = Arc::clone(&pair.second);
    let events = tokio::spawn(async move { spool.journal().unwrap().of_mail(id, 0).await });
    assert_eq!(events.await.unwrap().unwrap().events, []);
    tokio::time::sleep(AN_ANSWER).await;
    assert!(!record.is_finished() && !key.is_finished());

    pair.confirm();
    assert!(record.await.unwrap().unwrap().is_some());
    assert_eq!(key.await.unwrap(), Ok(Some(id)));
    assert_eq!(one.await.unwrap(), PutResult::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_node_of_an_older_version_nothing_is_seen_before_it_is_on_disk() {
    let mut pair = Pair::open().await;
    pair.server.sql(
        "INSERT INTO flushing.sessions (node, instance, version, lease_ms)
           VALUES ('old', gen_random_uuid(), '0.0.9', 60000)",
    );
    // Each node looks once a second.
    tokio::time::sleep(3 * AN_ANSWER).await;
    pair.withhold().await;

    let one = put(&pair.first, None);
    tokio::time::sleep(AN_ANSWER).await;
    assert_eq!(pair.rows("mails"), "2");
    assert!(!one.is_finished());
    pair.confirm();
    assert_eq!(one.await.unwrap(), PutResult::Stored);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_is_recorded_when_it_is_on_disk() {
    let mut pair = Pair::open().await;
    let mut claims = pair.first.claim(everything_due()).await.unwrap();
    let (lease, mut delivery) = claims.remove(0).deliveries.remove(0);
    delivery.stage = Stage::Delivered { at: start() };
    pair.withhold().await;

    let spool = Arc::clone(&pair.first);
    let settled = tokio::spawn(async move { spool.settle(vec![(lease, delivery)]).await });
    eventually("it is committed", async || pair.rows("ended") == "1").await;
    tokio::time::sleep(AN_ANSWER).await;
    assert!(!settled.is_finished());
    assert_eq!(pair.last_events()[0], 2);

    pair.confirm();
    assert_eq!(settled.await.unwrap(), Ok(vec![SettleResult::Done]));
}
