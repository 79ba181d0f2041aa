//! What comes back for mail, while the service is killed again and again: a report that was
//! acknowledged at any door is in the record of its mail, once, and the webhook hears of it under
//! one id.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader, Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::common::{FakeSmtp, Receiver};
use super::service::{Service, ServiceFiles};
use super::{POLL_INTERVAL, webhook};

/// How many mails come back; as many for each life of the service as it is worth.
const MAILS: usize = 360;
const KILLS: usize = 12;
/// Nobody waits longer for an answer.
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// One mail that comes back.
#[derive(Clone, Debug)]
struct ReturnedMail {
    id: String,
    recipient: String,
    return_path: String,
}

/// A way in for what comes back.
#[derive(Clone, Copy, Debug)]
enum Door {
    Smtp,
    Report,
    Provider,
}

/// Those whose report was acknowledged.
type Acknowledged = Arc<Mutex<Vec<ReturnedMail>>>;

fn configured(hook: &Receiver) -> String {
    format!(
        r#"
        bounces = {{ domain = "bounces.example.com", secret = "0123456789abcdef0123456789abcdef" }}
        feedback = {{ postmark = {{ networks = ["127.0.0.0/8"] }} }}
        webhooks = [{}]
        "#,
        webhook::configured(hook).replace(r#"["accepted", "delivered"]"#, r#"["bounced"]"#)
    )
}

/// A report about a mail (RFC 3464), as it is brought to its return path.
fn report(of: &ReturnedMail) -> String {
    let ReturnedMail {
        recipient,
        return_path,
        ..
    } = of;
    format!(
        "From: MAILER-DAEMON@mx.example.org\r\nTo: <{return_path}>\r\nSubject: Undelivered Mail\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nIt could not be delivered.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.example.org\r\n\r\n\
         Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n--b--\r\n"
    )
}

/// What Postmark tells of it; its metadata are those that the mail was sent with.
fn event(of: &ReturnedMail) -> String {
    let token = of.return_path.split('@').next();
    json!({"RecordType": "Bounce", "Type": "HardBounce", "ID": 1, "Email": of.recipient,
        "MessageID": "of-another-time", "Metadata": {"return-token": token},
        "Details": "smtp;550 5.1.1 no such user"})
    .to_string()
}

/// The status and the body of an answer.
fn call(to: SocketAddr, line: &str, kind: &str, body: &str) -> Result<(u16, String), Error> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(WAIT_LIMIT))?;
    let length = body.len();
    let head = format!("{line} HTTP/1.0\r\nhost: localhost\r\ncontent-type: {kind}");
    stream.write_all(format!("{head}\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes())?;

    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
        _ => Err(Error::other("it was cut off")),
    }
}

/// Brings a message to an address as the world does, without a login; whether it was taken.
fn bring(to: SocketAddr, rcpt: &str, message: &str) -> Result<(u16, String), Error> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(WAIT_LIMIT))?;
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut last = String::new();
    let rcpt = format!("RCPT TO:<{rcpt}>");
    let whole = format!("{message}.");
    for line in [
        "",
        "EHLO mx.example.org",
        "MAIL FROM:<>",
        &rcpt,
        "DATA",
        &whole,
    ] {
        if !line.is_empty() {
            write!(&stream, "{line}\r\n")?;
        }
        loop {
            last.clear();
            if answers.read_line(&mut last)? == 0 {
                return Err(Error::other("it hung up"));
            }
            if last.as_bytes().get(3) == Some(&b' ') {
                break;
            }
        }
        if !last.starts_with(['2', '3']) {
            break;
        }
    }
    Ok((last[..3].parse().unwrap_or(0), last))
}

/// Brings each of these until it is acknowledged, whoever answers.
fn return_all(
    files: (SocketAddr, SocketAddr),
    door: Door,
    mails: Vec<ReturnedMail>,
    acknowledged: &Acknowledged,
    ends: &AtomicBool,
) {
    let (http, smtp) = files;
    for mail in mails {
        loop {
            if ends.load(Ordering::Relaxed) {
                return;
            }
            let (answer, taken) = match door {
                Door::Smtp => (bring(smtp, &mail.return_path, &report(&mail)), 250),
                Door::Report => {
                    let line = "POST /v1/feedback/report";
                    (call(http, line, "message/rfc822", &report(&mail)), 202)
                }
                Door::Provider => {
                    let line = "POST /v1/feedback/postmark";
                    (call(http, line, "application/json", &event(&mail)), 202)
                }
            };
            match answer {
                Ok((status, _)) if status == taken => break,
                // Killed, not yet there, or closing.
                Err(_) | Ok((503 | 421 | 451 | 452, _)) => thread::sleep(Duration::from_millis(5)),
                Ok(refused) => panic!("{door:?} {mail:?}: {refused:?}"),
            }
        }
        acknowledged.lock().push(mail);
    }
}

/// Sends the mails, and finds their return paths at the relay.
async fn sent(files: &ServiceFiles, service: &mut Service, relay: &FakeSmtp) -> Vec<ReturnedMail> {
    let http = files.http;
    let ready = async {
        while !matches!(call(http, "GET /health/ready", "", ""), Ok((200, _))) {
            sleep(POLL_INTERVAL).await;
        }
    };
    service.lives_until(ready).await;

    let mut ids = BTreeMap::new();
    for n in 0..MAILS {
        let to = format!("user{n}@example.org");
        let mail = json!({"from": "shop@example.com", "to": to, "subject": "x", "text": "y"});
        let taken = call(
            http,
            "POST /v1/mails",
            "application/json",
            &mail.to_string(),
        );
        let (status, body) = taken.unwrap();
        assert_eq!(status, 202, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        ids.insert(to, body["id"].as_str().unwrap().to_owned());
    }

    let arrived = async {
        while relay.mails().len() < MAILS {
            sleep(POLL_INTERVAL).await;
        }
    };
    service.lives_until(arrived).await;
    let mails = relay.mails().into_iter().map(|mail| ReturnedMail {
        id: ids[&mail.recipients[0]].clone(),
        recipient: mail.recipients[0].clone(),
        return_path: mail.return_path,
    });
    mails.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_came_back_is_lost_however_often_the_service_is_killed() {
    let seed = std::env::var("CRASH_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("CRASH_SEED={seed}");
    let mut choices = StdRng::seed_from_u64(seed);
    let relay = FakeSmtp::start().await;
    let hook = webhook::receiver(seed).await;
    let files = ServiceFiles::new(&relay.url(), &configured(&hook));
    let mut service = files.start();
    let mails = sent(&files, &mut service, &relay).await;

    let acknowledged = Acknowledged::default();
    let ends = Arc::new(AtomicBool::new(false));
    let doors = [Door::Smtp, Door::Report, Door::Provider];
    let mut bringing = Vec::new();
    for (n, some) in mails.chunks(MAILS / 6).enumerate() {
        let (some, acknowledged, ends) = (some.to_vec(), acknowledged.clone(), ends.clone());
        let addresses = (files.http, files.smtp);
        bringing.push(thread::spawn(move || {
            return_all(addresses, doors[n % 3], some, &acknowledged, &ends);
        }));
    }

    let count = || acknowledged.lock().len();
    for kill in 1..=KILLS {
        let wanted = (count() + choices.random_range(1..=MAILS / KILLS)).min(MAILS - 1);
        let grown = async {
            while count() < wanted {
                sleep(Duration::from_millis(1)).await;
            }
        };
        service.lives_until(grown).await;
        sleep(Duration::from_millis(choices.random_range(0..20))).await;
        service.kill().await;
        println!("kill {kill}: after {} were acknowledged", count());
        service = files.start();
    }

    let all = async {
        while count() < MAILS && bringing.iter().any(|one| !one.is_finished()) {
            sleep(POLL_INTERVAL).await;
        }
    };
    service.lives_until(all).await;
    ends.store(true, Ordering::Relaxed);
    for one in bringing {
        one.join().unwrap();
    }

    let acknowledged = acknowledged.lock().clone();
    assert_eq!(acknowledged.len(), MAILS, "each is acknowledged in the end");
    for mail in &acknowledged {
        let line = format!("GET /v1/mails/{}", mail.id);
        let (status, record) = call(files.http, &line, "", "").unwrap();
        let record: Value = serde_json::from_str(&record).unwrap();
        let feedback = record["deliveries"][0]["feedback"].as_array();
        let kinds: Vec<&Value> = feedback
            .into_iter()
            .flatten()
            .map(|one| &one["kind"])
            .collect();
        assert_eq!(
            (status, kinds),
            (200, vec![&json!("bounced")]),
            "{mail:?}: {record}"
        );
    }

    let ids = acknowledged.iter().map(|mail| mail.id.clone()).collect();
    let again = service.lives_until(received_once_each(&hook, ids)).await;
    println!("webhook: {again} messages came more than once");
    assert!(service.stop().await.success(), "{}", files.log());
    let found = files.verify().await;
    assert_eq!(found["mails"], MAILS, "{found}");
}

/// Waits until the webhook was told of all these mails: of each under one id, with one body,
/// however often it comes. How many came more than once.
async fn received_once_each(hook: &Receiver, mut wanted: HashSet<String>) -> usize {
    let mut messages: HashMap<String, String> = HashMap::new();
    let mut of_mail: HashMap<String, String> = HashMap::new();
    let (mut read, mut again) = (0, 0);
    let begun = Instant::now();
    loop {
        let calls = hook.calls_after(read);
        read += calls.len();
        for call in calls {
            assert_eq!(call.kind(), "bounced");
            let mail = call.json()["data"]["id"].as_str().unwrap().to_owned();
            let id = of_mail
                .entry(mail.clone())
                .or_insert_with(|| call.id().to_owned());
            assert_eq!(id, call.id(), "two ids tell of {mail}");
            wanted.remove(&mail);
            if let Some(body) = messages.insert(call.id().to_owned(), call.body.clone()) {
                assert_eq!(body, call.body);
                again += 1;
            }
        }
        if wanted.is_empty() {
            return again;
        }
        assert!(begun.elapsed() < WAIT_LIMIT, "never told: {wanted:?}");
        sleep(POLL_INTERVAL).await;
    }
}
