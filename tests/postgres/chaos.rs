//! Three nodes over one database, whose relay is erratic, while nodes are killed or stopped for
//! longer than their lease, and the database is restarted as by a power cut or fails over to its
//! standby. Clients submit over HTTP, SMTP and the outbox, and repeat under one key what was not
//! acknowledged. The long form: `POSTRIDER_CHAOS_ROUNDS` is how many faults there are,
//! `POSTRIDER_CHAOS_MINUTES` for how long they come at most, `POSTRIDER_CHAOS_CLIENTS` how many
//! submit.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::common::erratic_relay::erratic_relay;
use super::common::postgres::Server;
use super::common::service::{Service, try_call};
use super::nodes::{Cluster, signal};

/// The lease of the nodes, in seconds.
const LEASE: u64 = 2;
/// How long everything may take to come to its end when there are no more faults.
const QUIET_TIME: Duration = Duration::from_secs(90);
/// How long before and after a fault a transmission may have been open that it broke: one that is
/// begun is recorded within this time where nothing happens.
const OPEN: Duration = Duration::from_secs(2);

/// What the clients were promised.
#[derive(Default)]
struct Ledger {
    /// The recipient of each key that was acknowledged, and the id it was acknowledged under.
    acknowledged: Mutex<BTreeMap<String, Option<String>>>,
    problems: Mutex<Vec<String>>,
    asked: AtomicUsize,
}

impl Ledger {
    fn acknowledged(&self, to: &str, id: Option<String>) {
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let before = acknowledged.insert(to.to_owned(), id.clone()).flatten();
        if let (Some(before), Some(id)) = (before, id)
            && before != id
        {
            let problem = format!("{to} was acknowledged as {before} and as {id}");
            self.problems.lock().unwrap().push(problem);
        }
    }
}

/// The doors of the nodes, as they are now.
#[derive(Clone)]
struct Doors(Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>);

impl Doors {
    fn http(&self, n: usize) -> SocketAddr {
        let doors = self.0.lock().unwrap();
        doors[n % doors.len()].0
    }

    fn smtp(&self, n: usize) -> SocketAddr {
        let doors = self.0.lock().unwrap();
        doors[n % doors.len()].1
    }
}

fn over_http(address: SocketAddr, to: &str) -> Option<String> {
    let mail = serde_json::json!({
        "from": "shop@example.com", "to": to, "subject": "Your code", "text": "hello",
        "idempotency_key": to,
    });
    let answer = try_call(address, "POST", "/v1/mails", &mail.to_string()).ok()?;
    let id = || answer.json()["id"].as_str().map(str::to_owned);
    (answer.status == 202).then(id).flatten()
}

fn over_smtp(address: SocketAddr, to: &str) -> Option<()> {
    let stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;

    let mut answers = BufReader::new(stream.try_clone().ok()?);
    let mut next = || loop {
        let mut line = String::new();
        if answers.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.as_bytes().get(3) == Some(&b' ') {
            return Some(line);
        }
    };

    let rcpt = format!("RCPT TO:<{to}>");
    let message = format!("X-Postrider-Key: {to}\r\nSubject: Your code\r\n\r\n123456\r\n.");
    let mut answer = next()?;
    for line in [
        "EHLO client.example",
        "MAIL FROM:<shop@example.com>",
        &rcpt,
        "DATA",
        &message,
    ] {
        if !answer.starts_with(['2', '3']) {
            return None;
        }
        write!(&stream, "{line}\r\n").ok()?;
        answer = next()?;
    }

    answer.starts_with("250").then_some(())
}

fn over_the_outbox(cluster: &Cluster, to: &str) -> Option<()> {
    let sql = format!(
        "SET search_path TO \"{}\"; SELECT
          enqueue('{{\"from\": \"shop@example.com\", \"to\": \"{to}\",
           \"subject\": \"Your code\", \"text\": \"hello\", \"idempotency_key\": \"{to}\"}}')",
        cluster.schema
    );
    cluster.server.try_sql(&sql).ok().map(|_| ())
}

/// The database: a primary, and a standby that has a copy of each of its commits, on two ports that
/// all nodes and clients know.
struct Pair {
    primary: Server,
    standby: Server,
}

impl Pair {
    fn start() -> Self {
        let primary = Server::of_its_own();
        let standby = primary.standby();
        Pair { primary, standby }
    }

    fn url(&self) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres\
             ?target_session_attrs=read-write",
            self.primary.port(),
            self.standby.port()
        )
    }

    /// The primary is gone as by a power cut, and the standby takes its place. Then what was the
    /// primary is made anew, and follows.
    fn fail_over(self) -> Self {
        let Pair { primary, standby } = self;
        let port = primary.port();
        primary.stop();
        drop(primary);

        standby.promote();
        // Who is alone waits for nobody's copy.
        standby.sql("ALTER SYSTEM RESET synchronous_standby_names");
        standby.sql("SELECT pg_reload_conf()");
        std::thread::sleep(Duration::from_secs(1));
        let follower = standby.standby_at(port);
        Pair {
            primary: standby,
            standby: follower,
        }
    }
}

fn number_of(variable: &str, otherwise: usize) -> usize {
    let said = std::env::var(variable).ok();
    said.and_then(|number| number.parse().ok())
        .unwrap_or(otherwise)
}

/// What was done, and from when to when it could be felt.
#[derive(Debug)]
struct Fault {
    what: &'static str,
    from: Instant,
    until: Instant,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_settles_twice_whatever_ends_nodes_and_database() {
    let rounds = number_of("POSTRIDER_CHAOS_ROUNDS", 7);
    let minutes = number_of("POSTRIDER_CHAOS_MINUTES", 60);
    let clients = number_of("POSTRIDER_CHAOS_CLIENTS", 4);
    let rest = Duration::from_secs(if rounds > 20 { 2 } else { 4 });

    let seed = std::process::id().into();
    println!("seed {seed}, {rounds} rounds");
    let relay = Arc::new(erratic_relay(seed).await);
    let mut pair = Pair::start();
    let server = Server::named(pair.url());
    let cluster = Arc::new(Cluster::over(server, "chaos", &relay));
    let retry = "[retry]\nschedule = [\"300ms\", \"600ms\", \"1s\"]\n";
    let start = |name: &str| {
        let url = cluster.server.url();
        Service::start(cluster.configured(name, LEASE, url, retry))
    };

    let names = ["first", "second", "third"];
    let mut nodes: Vec<Service> = names.iter().map(|name| start(name)).collect();
    let doors = Doors(Arc::new(Mutex::new(
        nodes.iter().map(|node| (node.http, node.smtp)).collect(),
    )));

    // The clients, and when what arrived.
    let ledger = Arc::new(Ledger::default());
    let is_over = Arc::new(AtomicBool::new(false));

    let mut threads = Vec::new();
    for client in 0..clients {
        let (ledger, doors, is_over) = (Arc::clone(&ledger), doors.clone(), Arc::clone(&is_over));
        let cluster = Arc::clone(&cluster);
        threads.push(std::thread::spawn(move || {
            let mut tries = client;
            for n in 0.. {
                let to = format!("c{client}-{n}@example.org");
                ledger.asked.fetch_add(1, Ordering::Relaxed);
                loop {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    tries += 1;
                    let done = match client % 4 {
                        0 | 1 => over_http(doors.http(tries), &to).map(Some),
                        2 => over_smtp(doors.smtp(tries), &to).map(|()| None),
                        _ => over_the_outbox(&cluster, &to).map(|()| None),
                    };
                    if let Some(id) = done {
                        ledger.acknowledged(&to, id);
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                // What was acknowledged is submitted again now and then, at another node.
                if n % 17 == 0
                    && client % 4 < 2
                    && let Some(id) = over_http(doors.http(tries + 1), &to)
                {
                    ledger.acknowledged(&to, Some(id));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
    }

    let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let watching = {
        let (relay, times) = (Arc::clone(&relay), Arc::clone(&times));
        let is_over = Arc::clone(&is_over);
        tokio::spawn(async move {
            let mut quiet = 0;
            while quiet < 20 {
                quiet += u32::from(is_over.load(Ordering::Relaxed));
                let count = relay.mail_count();
                times.lock().unwrap().resize(count, Instant::now());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    };

    let mut chance = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    // Of nodes that are not there any more, as of right before they were killed.
    let mut stale = 0;
    let begun = Instant::now();
    for round in 0..rounds {
        if begun.elapsed() >= Duration::from_secs(60 * minutes as u64) {
            println!("the time is over after {round} rounds");
            break;
        }
        tokio::time::sleep(rest).await;
        let from = Instant::now();
        let victim = chance.random_range(0..nodes.len());
        // In the short form too, each of them happens.
        let what = match (round, chance.random_range(0..12)) {
            (2, _) | (_, 10..) => {
                pair = tokio::task::block_in_place(|| pair.fail_over());
                "the database failed over"
            }
            (_, 0..5) => {
                stale += stale_settles(nodes[victim].http);
                nodes[victim].kill();
                tokio::time::sleep(Duration::from_millis(300)).await;
                nodes[victim] = start(names[victim]);
                doors.0.lock().unwrap()[victim] = (nodes[victim].http, nodes[victim].smtp);
                "a node was killed"
            }
            (_, 5..8) => {
                signal(&nodes[victim], "STOP");
                tokio::time::sleep(Duration::from_secs(LEASE * 2)).await;
                signal(&nodes[victim], "CONT");
                "a node was stopped"
            }
            _ => {
                pair.primary.stop();
                tokio::time::sleep(Duration::from_millis(500)).await;
                pair.primary.start_again();
                "the database was restarted"
            }
        };
        let until = Instant::now() + Duration::from_secs(LEASE);
        println!(
            "round {round}: {what}; {} acknowledged",
            ledger.acknowledged.lock().unwrap().len()
        );
        faults.push(Fault { what, from, until });
    }

    tokio::time::sleep(Duration::from_secs(2)).await;
    is_over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }

    let begun = Instant::now();
    let waits = "SELECT (SELECT count(*) FROM ready) + (SELECT count(*) FROM outbox)";
    while cluster.sql(waits) != "0" {
        let logs: Vec<String> = nodes.iter().map(Service::log).collect();
        let last = |log: &String| log.lines().rev().take(20).collect::<Vec<_>>().join("\n");
        assert!(
            begun.elapsed() < QUIET_TIME,
            "{} still wait: {}, {}, with {}:\n{}",
            cluster.sql(waits),
            cluster.sql(
                "SELECT json_agg(r) FROM (SELECT mail, idx, route, priority, owner, stage, \
                 due, tries, takeovers FROM ready LIMIT 5) r"
            ),
            cluster.sql("SELECT json_agg(o) FROM (SELECT id, at, owner FROM outbox LIMIT 5) o"),
            cluster.sql("SELECT json_agg(s) FROM sessions s"),
            logs.iter().map(last).collect::<Vec<_>>().join("\n\n")
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }

    watching.await.unwrap();
    judge(
        &cluster,
        &ledger,
        &relay.mails(),
        &times.lock().unwrap(),
        &faults,
    );

    stale += nodes
        .iter()
        .map(|node| stale_settles(node.http))
        .sum::<u64>();
    println!("{stale} stale settles were refused");
}

/// How many settles a node has tried that came too late, as it says.
pub fn stale_settles(node: SocketAddr) -> u64 {
    let Ok(metrics) = try_call(node, "GET", "/metrics", "") else {
        return 0;
    };
    let mut lines = metrics.body.lines();
    let told = lines.find_map(|line| line.strip_prefix("postrider_stale_settles_total "));
    told.map_or(0, |number| number.parse::<f64>().unwrap() as u64)
}

fn judge(
    cluster: &Cluster,
    ledger: &Ledger,
    arrived: &[super::common::Received],
    times: &[Instant],
    faults: &[Fault],
) {
    let problems = ledger.problems.lock().unwrap();
    assert!(problems.is_empty(), "{problems:#?}");
    let acknowledged = ledger.acknowledged.lock().unwrap();

    let mut of_each: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, mail) in arrived.iter().enumerate() {
        for recipient in &mail.recipients {
            of_each.entry(recipient).or_default().push(at);
        }
    }

    let lost: Vec<&String> = acknowledged
        .keys()
        .filter(|to| !of_each.contains_key(to.as_str()))
        .collect();

    // A mail that came twice was being transmitted when something happened, or not recorded yet.
    let mut unexplained = Vec::new();
    let mut twice = 0;
    for (to, places) in &of_each {
        for place in &places[..places.len() - 1] {
            twice += 1;
            let at = times[*place];
            let is_explained = faults
                .iter()
                .any(|fault| at + OPEN > fault.from && at < fault.until + OPEN);
            if !is_explained {
                unexplained.push(*to);
            }
        }
    }

    let kinds: BTreeMap<&str, usize> = faults.iter().fold(BTreeMap::new(), |mut kinds, fault| {
        *kinds.entry(fault.what).or_default() += 1;
        kinds
    });

    println!("{kinds:?}");
    println!(
        "{} faults, {} acknowledged, {} arrived, {} lost, {twice} more than once",
        faults.len(),
        acknowledged.len(),
        arrived.len(),
        lost.len(),
    );

    assert!(lost.is_empty(), "{lost:?}");
    assert!(unexplained.is_empty(), "{unexplained:?} {faults:?}");
    assert!(
        acknowledged.len() > 20 * faults.len(),
        "something was tried"
    );

    // Each is settled once: the totals grow with each settle, and the rows with each delivery.
    let sums = cluster.sql(
        "SELECT totals[1] + totals[2] + totals[3], totals[4] + totals[5] + totals[6],
           (SELECT count(*) FROM ended WHERE stage = 2),
             (SELECT count(*) FROM ended WHERE stage <> 2),
           (SELECT count(DISTINCT recipients) FROM mails), (SELECT count(*) FROM mails) FROM head",
    );

    let sums: Vec<i64> = sums.split('|').map(|sum| sum.parse().unwrap()).collect();
    let [pending, total, delivered, otherwise, recipients, mails] = sums[..] else {
        panic!("{sums:?}");
    };

    assert_eq!(pending, 0, "{sums:?}");
    assert_eq!(total, delivered, "none settled twice: {sums:?}");
    assert_eq!(otherwise, 0, "every mail was delivered: {sums:?}");
    assert_eq!(recipients, mails, "no key became two mails: {sums:?}");
}
