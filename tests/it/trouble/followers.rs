//! Many who follow what happens and take nothing: they share what is in memory, and there is an end
//! to how many they are.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tokio::net::TcpSocket;

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured};

/// In bytes.
const RECEIVE_BUFFER: u32 = 4096;

/// The most bytes that wait in the system for one connection of this door, sent or not.
fn most_queued(service: &Service) -> u64 {
    let port = format!(":{:04X}", service.http.port());
    let all = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_door = all
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queued = of_door
        .filter(|words| words[1].ends_with(&port))
        .map(|words| {
            let (queued, _) = words[4].split_once(':').unwrap();
            u64::from_str_radix(queued, 16).unwrap()
        });
    queued.max().unwrap()
}

/// Begins to follow what happens from now on, and reads nothing.
fn follow(service: &Service) -> TcpStream {
    ask(TcpStream::connect(service.http).unwrap(), "")
}

/// Likewise, from the first event on. Its system takes little for it: else all that is told, which
/// is megabytes, would lie there, and nothing would have to wait.
async fn follow_all(service: &Service) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BUFFER).unwrap();
    let stream = socket.connect(service.http).await.unwrap();
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    ask(stream, "last-event-id: 0\r\n")
}

fn ask(mut stream: TcpStream, field: &str) -> TcpStream {
    let head = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n";
    write!(stream, "{head}{field}\r\n").unwrap();
    stream
}

fn status(stream: &mut TcpStream) -> u16 {
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    std::str::from_utf8(&head[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_who_follow_and_take_nothing_cost_little_and_there_is_an_end_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;

    let doors = "max_connections = 2000\nmax_connections_per_peer = 1400\n";
    let config = configuration(&dir.path().join("spool"), &relay.url(), "")
        .replace("[smtp]\n", &format!("{doors}[smtp]\n"));
    let service = Service::start(configured(dir.path(), &config));
    assert_eq!(service.post("/v1/relays/primary/pause", "").status, 200);

    // More events than are kept in memory for all.
    for batch in 0..20 {
        let mail = |n| {
            let to = format!("user{batch}-{n}@example.org");
            serde_json::json!({"from": "shop@example.com", "to": to, "subject": "Hello",
                "text": "123456"})
        };
        let mails: Vec<_> = (0..500).map(mail).collect();
        let batch = serde_json::json!({ "mails": mails }).to_string();
        assert_eq!(service.post("/v1/mails/batch", &batch).status, 202);
    }

    let before = service.memory();
    let mut followers = Vec::new();
    for _ in 0..200 {
        followers.push(follow_all(&service).await);
    }
    for follower in &mut followers {
        assert_eq!(status(follower), 200);
    }

    // Each is given as much as its connection takes, and then waits.
    std::thread::sleep(Duration::from_secs(3));
    let grown = service.memory().saturating_sub(before) / 1024;
    assert!(grown < 64, "200 followers take {grown} MiB");
    // What is not in its memory is not in the system's either.
    let queued = most_queued(&service) / 1024;
    assert!(queued < 1024, "{queued} KiB wait for one of them");

    followers.extend((followers.len()..512).map(|_| follow(&service)));
    for follower in &mut followers[200..] {
        assert_eq!(status(follower), 200);
    }

    assert_eq!(status(&mut follow(&service)), 429);
    followers.truncate(400);
    crate::trouble::service_dir::eventually("there is room again", || {
        status(&mut follow(&service)) == 200
    });
}
