//! Thousands who connect and say nothing: they cost little, do not keep others out below the
//! limits, and are sent away.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::FakeSmtp;
use crate::common::service::{Service, configuration, configured_after};
use crate::trouble::service_dir::eventually;

/// As many of them as there are descriptors for in this process, up to five thousand at each door.
fn crowd() -> usize {
    // There may be fewer than may be asked for.
    let this = std::process::id().to_string();
    let _ = Command::new("prlimit")
        .args(["--nofile=12000:", "--pid", &this])
        .stderr(Stdio::null())
        .status();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();

    let soft = line
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(1 << 20);

    let each = usize::min(5000, (soft - 200) / 2);
    println!("{} idle connections", 2 * each);
    each
}

/// Connections from many addresses of loopback, so that neither ports nor the limit for each caller
/// is met.
async fn connect(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut all = Vec::with_capacity(count);
    for n in 0..count {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind((Ipv4Addr::new(127, 0, 1, 1 + (n % 50) as u8), 0).into())
            .unwrap();
        all.push(socket.connect(to).await.unwrap());
    }
    all
}

/// What a connection was told before it was closed.
fn last_words(stream: TcpStream) -> String {
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_idle_connections_cost_little_and_leave_room_for_mail_and_are_closed_in_time()
{
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    let each = crowd();
    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    let doors = format!("max_connections = {}\nidle_timeout = \"25s\"\n", each + 10);
    let config = config.replace(
        "[smtp]\n",
        &format!("header_timeout = \"25s\"\n[smtp]\n{doors}"),
    );

    let mut service = Service::start(configured_after(
        dir.path(),
        &config,
        "ulimit -n $(ulimit -H -n)",
    ));

    service.hand_in_many("early", 3, "123456");
    let before = service.memory();

    let begun = Instant::now();
    let mut idle = connect(service.smtp, each).await;
    idle.extend(connect(service.http, each).await);
    eventually("everybody is in", || service.descriptors() >= 2 * each);

    let grown = service.memory().saturating_sub(before);
    println!(
        "{} KiB more for {} connections, open after {:?}",
        grown,
        2 * each,
        begun.elapsed()
    );

    assert!(
        grown / (2 * each as u64) < 24,
        "{grown} KiB for {} connections",
        2 * each
    );

    let later = service.hand_in_many("later", 5, "123456");
    assert!(service.say("over-smtp@example.org").starts_with("250 "));
    service.become_all(&later, "delivered");

    // At the limit, one more is told so and comes back later.
    let more = connect(service.smtp, 30).await;
    let refused = more
        .into_iter()
        .map(last_words)
        .filter(|said| said.starts_with("421 4.7.0 too many"))
        .count();
    assert!(refused >= 20, "{refused} were refused");

    eventually("everybody is sent away", || service.descriptors() < 200);
    assert!(
        idle.drain(..each)
            .map(last_words)
            .all(|said| said.starts_with("220 ") && said.contains("\r\n421 "))
    );

    assert!(service.say("afterwards@example.org").starts_with("250 "));
    assert!(service.stop().success());
}

/// A call from this address of loopback.
async fn call_from(last: u8, to: SocketAddr, path: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 0, 2, last), 0).into())
        .unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    let call = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(call.as_bytes()).await.unwrap();
    last_words(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_takes_all_the_connections_there_are_stops_neither_delivery_nor_the_other_door() {
    let dir = tempfile::tempdir().unwrap();
    let relay = FakeSmtp::start().await;
    crowd();

    let config = configuration(&dir.path().join("spool"), &relay.url(), "");
    for limit in ["ulimit -S -n 1024", "ulimit -n 1024"] {
        let service = Service::start(configured_after(dir.path(), &config, limit));
        let mut idle = Vec::new();
        for _ in 0..1000 {
            let connected = TcpStream::connect(service.http).await;
            idle.push(connected.unwrap());
        }
        for _ in 0..300 {
            idle.push(TcpStream::connect(service.smtp).await.unwrap());
        }
        eventually("as many as may are in", || service.descriptors() > 400);

        let answer = call_from(1, service.http, "/health/live").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{limit}: {answer}");
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 2, 2], 0).into()).unwrap();
        let other = socket.connect(service.smtp).await.unwrap();
        let greeting = tokio::io::BufReader::new(other).lines().next_line().await;
        assert!(greeting.unwrap().unwrap().starts_with("220 "), "{limit}");

        let before = relay.mails().len();
        hand_in_from(3, service.smtp).await;
        eventually("it is delivered", || relay.mails().len() > before);
        assert!(
            !service.log().contains("Too many open files"),
            "{}",
            service.log()
        );
    }
}

/// Hands in a mail over SMTP from this address of loopback.
async fn hand_in_from(last: u8, to: SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 0, 2, last), 0).into())
        .unwrap();
    let stream = socket.connect(to).await.unwrap().into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let done = tokio::task::spawn_blocking(move || {
        crate::common::service::submit_over(stream, "ada@example.org")
    });
    let answer = done.await.unwrap().unwrap();
    assert!(answer.starts_with("250 "), "{answer}");
}
