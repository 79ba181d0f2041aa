//! Requests that are made to take many times their size: they cost little memory and little time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::common::service::{Service, call, configuration, configured};
use crate::trouble::service_dir::{ServiceDir, eventually};

const MIB: usize = 1024 * 1024;

/// Nearly as large as a request may be, so much of it this.
fn full_of(before: &str, entry: &str, after: &str) -> String {
    let room = 34 * MIB - before.len() - after.len();
    let mut body = before.to_owned();
    body.push_str(&entry.repeat(room / entry.len()));
    body.truncate(body.trim_end_matches(',').len());
    body.push_str(after);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_takes_much_more_than_its_own_size() {
    let service_dir = ServiceDir::start("").await;
    let service = &service_dir.service;
    let before = service.peak_memory();

    let mail = r#"{"from":"a@example.org","to":"nobody","text":"x","#;
    let broken = |with: &str| format!("{mail}{with}");
    let bodies = [
        (
            "/v1/mails",
            full_of(&broken(r#""attachments":["#), "{},", "]}"),
        ),
        ("/v1/mails", full_of(&broken(r#""cc":["#), r#""","#, "]}")),
        ("/v1/mails", full_of(&broken(r#""tags":["#), "0,", "]}")),
        (
            "/v1/mails",
            full_of(&broken(r#""headers":{"#), r#""A":"","#, "}}"),
        ),
        ("/v1/mails", full_of(&broken(r#""unknown":["#), "[],", "]}")),
        ("/v1/mails", full_of(&broken(r#""unknown":"#), "[", "")),
        ("/v1/mails", full_of(&broken("\""), "\u{7f}", "\":1}")),
        (
            "/v1/mails",
            full_of(&broken(r#""attachments":""#), "\u{7f}", "\"}"),
        ),
        ("/v1/mails", full_of(&broken(r#""priority":""#), "x", "\"}")),
        ("/v1/mails/batch", full_of(r#"{"mails":["#, "{},", "]}")),
        ("/v1/mails/batch", full_of(r#"{"mails":""#, "\u{7f}", "\"}")),
        ("/v1/mails/batch", full_of(r#"{""#, "\u{7f}", "\":1}")),
        ("/v1/mails/batch", broken_batch()),
    ];

    for (path, body) in &bodies {
        let (begun, cpu) = (Instant::now(), service.computed());
        let answer = service.post(path, body);
        let computed = service.computed() - cpu;
        let about = format!("{path} {}", &body[..60]);
        println!(
            "{about}: {} in {:?}, {computed:?} computed, {} MiB at the most",
            answer.status,
            begun.elapsed(),
            service.peak_memory() / 1024
        );
        assert!(
            (400..500).contains(&answer.status) || answer.status == 202,
            "{about}"
        );
        assert!(answer.body.len() < MIB, "{about}: {}", answer.body.len());
        assert!(computed < Duration::from_secs(20), "{about}: {computed:?}");
    }

    let grown = (service.peak_memory() - before) as usize * 1024;
    assert!(grown < 200 * MIB, "{} MiB", grown / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_at_once_share_the_memory_that_there_is_for_them() {
    let service_dir = ServiceDir::start("").await;
    let service = &service_dir.service;
    let before = service.peak_memory();

    let mail = r#"{"from":"a@example.org","to":"nobody","text":"x","#;
    let attachments = full_of(&format!(r#"{mail}"attachments":["#), "{},", "]}");
    let unknown = full_of(&format!(r#"{mail}"unknown":["#), "[],", "]}");
    let requests = [
        ("/v1/mails", &attachments),
        ("/v1/mails", &unknown),
        ("/v1/mails", &attachments),
        ("/v1/mails/batch", &broken_batch()),
    ];

    std::thread::scope(|scope| {
        for (path, body) in requests {
            let http = service.http;
            scope.spawn(move || {
                let answer = call(http, "POST", path, body);
                // Of a batch, each mail is refused for itself.
                let is_told = [202, 422, 503].contains(&answer.status);
                assert!(is_told, "{path}: {}", answer.status);
            });
        }
    });

    let grown = (service.peak_memory() - before) as usize * 1024;
    println!("four at once: {} MiB", grown / MIB);
    assert!(grown < 400 * MIB, "{} MiB", grown / MIB);
}

/// What claims to be a provider's is read before it is known whose it is, and after.
#[tokio::test(flavor = "multi_thread")]
async fn events_of_providers_take_little_more_memory_than_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let heard = "[feedback.mailgun]\nsecret = \"right\"\n[feedback.brevo]\nsecret = \"right\"\n\
                 [feedback.ses]\ntopics = [\"arn:aws:sns:eu-west-1:123456789012:mail\"]\n";
    let config = configuration(&dir.path().join("spool"), "capture://", heard);
    let service = Service::start(configured(dir.path(), &config));

    let dense = |before: &str, entry: &str, after: &str| {
        let entries = entry.repeat((4 * MIB - 1024 - before.len()) / entry.len());
        format!("{before}{}{after}", entries.trim_end_matches(','))
    };
    let signature = r#"{"signature":{"timestamp":"1","token":"x","signature":"00"},"x":["#;
    let bearer = "Authorization: Bearer right\r\n";
    for (path, field, body, status) in [
        ("mailgun", "", dense(signature, r#"{"a":0},"#, "]}"), 401),
        ("mailgun", "", dense(r#"{"x":["#, r#"{"a":0},"#, "]}"), 401),
        ("ses", "", dense(r#"{"x":["#, r#"{"a":0},"#, "]}"), 401),
        ("brevo", "", dense("[", r#"{"a":0},"#, "]"), 401),
        ("brevo", bearer, dense("[", r#"{"a":0},"#, "]"), 202),
        ("brevo", bearer, dense("[", "{},", "]"), 202),
        ("brevo", bearer, dense("[", "[],", "]"), 202),
        ("brevo", bearer, dense("[", "0,", "]"), 202),
    ] {
        // Each by itself: the allocator gives back what one has used a little later.
        service.forget_peak_memory();
        let before = service.peak_memory();
        let mut stream = TcpStream::connect(service.http).unwrap();
        let head = format!(
            "POST /v1/feedback/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{field}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer[9..].starts_with(&status.to_string()),
            "{path}: {answer}"
        );

        let grown = service.peak_memory().saturating_sub(before) as usize / 1024;
        println!("{path} {}: {grown} MiB at the most", &body[..20]);
        assert!(grown < 64, "{path} {}: {grown} MiB", &body[..20]);
    }
}

/// Asks for a message, and takes no more of it than the answer's first bytes.
fn ask_and_wait(http: SocketAddr, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(http).unwrap();
    socket2::SockRef::from(&stream)
        .set_recv_buffer_size(4096)
        .unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut status = [0; 12];
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    stream.read_exact(&mut status).unwrap();
    (stream, String::from_utf8_lossy(&status[9..]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_a_large_answer_takes_no_more_memory_than_there_is_for_it() {
    let service_dir = ServiceDir::start("max_memory = \"40MiB\"\n").await;
    let service = &service_dir.service;
    service.post("/v1/relays/primary/pause", "");

    let content = "A".repeat(4 * MIB);
    let body = format!(
        r#"{{"from":"a@example.org","to":"b@example.org","text":"x",
            "attachments":[{{"filename":"x","content":"{content}"}}]}}"#
    );
    let answer = service.post("/v1/mails", &body);
    assert_eq!(answer.status, 202, "{}", answer.body);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    let whole = service.get(&format!("/v1/mails/{id}/raw")).body;
    assert!(whole.len() > 4 * MIB && whole.ends_with("--\r\n"));

    let before = service.peak_memory();
    let preview = service.get(&format!("/v1/mails/{id}/preview")).json();
    let parts = preview["parts"].as_array().unwrap();
    let attachment = &parts
        .iter()
        .find(|part| part["attachment"] == true)
        .unwrap()["n"];
    let paths = ["raw".to_owned(), format!("parts/{attachment}")];
    for path in paths.map(|path| format!("/v1/mails/{id}/{path}")) {
        let asking: Vec<_> = (0..30).map(|_| ask_and_wait(service.http, &path)).collect();
        let taken = asking.iter().filter(|(_, status)| status == "200").count();
        let refused = asking.iter().filter(|(_, status)| status == "503").count();
        println!("{path}: {taken} answers are taken, {refused} must wait");
        assert!(taken >= 5 && refused >= 5 && taken + refused == asking.len());
        assert_eq!(service.hand_in("meanwhile@example.org", "x").status, 202);

        // Those who go make room.
        drop(asking);
        eventually("there is room again", || service.get(&path).status == 200);
    }

    let grown = (service.peak_memory() - before) as usize / 1024;
    println!("{grown} MiB more at the most");
    assert!(grown < 120, "{grown} MiB");
    assert_eq!(service.get(&format!("/v1/mails/{id}/raw")).body, whole);
}

/// `MAILS_TO_MANY=100` has more of them.
#[tokio::test(flavor = "multi_thread")]
async fn mail_to_ten_thousand_takes_little_more_memory_than_its_addresses() {
    const RECIPIENTS: usize = 10_000;
    let mails = std::env::var("MAILS_TO_MANY").map_or(20, |mails| mails.parse().unwrap());
    let service_dir = ServiceDir::start("").await;
    let service = &service_dir.service;
    service.post("/v1/relays/primary/pause", "");
    let before = service.peak_memory();

    let everybody: Vec<String> = (0..RECIPIENTS)
        .map(|n| format!(r#""someone.with.a.name{n}@example{n}.org""#))
        .collect();
    let body = format!(
        r#"{{"from":"shop@example.com","bcc":[{}],"subject":"x","text":"x"}}"#,
        everybody.join(",")
    );
    for _ in 0..mails {
        let answer = service.post("/v1/mails", &body);
        assert_eq!(answer.status, 202, "{}", answer.body);
    }

    let (grown, peak) = (service.memory() - before, service.peak_memory() - before);
    println!("{} MiB, {} MiB at the most", grown / 1024, peak / 1024);
    let bound = 100 + 10 * mails;
    assert!(peak / 1024 < bound, "{} MiB at the most", peak / 1024);
}

/// Five hundred mails with thousands of mistakes each.
fn broken_batch() -> String {
    let addresses = vec![r#""nobody""#; 7000].join(",");
    let mail = format!(r#"{{"from":"nobody","to":[{addresses}]}}"#);
    format!(r#"{{"mails":[{}]}}"#, vec![mail; 500].join(","))
}
