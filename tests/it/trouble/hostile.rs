//! Messages that are made to take long to read: whoever else asks is answered meanwhile.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::trouble::service_dir::ServiceDir;

/// How large each message is.
const SIZE: usize = 2 * 1024 * 1024;
/// How long they come.
const SPAN: Duration = Duration::from_secs(6);

/// Kinds of messages whose reading was, or could be, more work than they are long.
fn messages() -> Vec<String> {
    let multipart = |boundary: &str, line: &str| {
        let head = format!("Content-Type: multipart/mixed; boundary=\"{boundary}\"");
        format!(
            "Subject: x\r\n{head}\r\n\r\n{}",
            line.repeat(SIZE / line.len())
        )
    };
    let field = |name: &str, piece: &str, most: usize| {
        let value = piece.repeat(most.min(SIZE) / piece.len());
        format!("Subject: x\r\n{name}: {value}\r\n\r\nx\r\n")
    };

    vec![
        multipart("a:", "--a:\r\n"),
        multipart(
            "a",
            "--a\r\nContent-Type: multipart/mixed; boundary=a\r\n\r\n",
        ),
        multipart(
            "a",
            "--a\r\nContent-Transfer-Encoding: base64\r\n\r\nAA\r\n",
        ),
        field("Reply-To", "a@example.org,\r\n ", 900_000),
        field("Comments", "=?utf-8?q?=3F?=\r\n ", 900_000),
        format!("Subject: x\r\n\r\n{}", "ü\r\n.\r\n..\r\n".repeat(SIZE / 10)),
    ]
}

/// Says a message over SMTP with a key, so that its fingerprint is asked for as well.
fn say(door: SocketAddr, key: usize, message: &str) -> std::io::Result<()> {
    let stream = TcpStream::connect(door)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    let key = format!("X-Postrider-Key: {key}\r\n");
    let stuffed = message.replace("\r\n.", "\r\n..");
    let data = format!("{key}{stuffed}\r\n.");
    for line in [
        "",
        "EHLO x",
        "MAIL FROM:<a@example.org>",
        "RCPT TO:<b@example.org>",
        "DATA",
        &data,
    ] {
        if !line.is_empty() {
            (&stream).write_all(line.as_bytes())?;
            (&stream).write_all(b"\r\n")?;
        }
        while let Some(answer) = answers.next().transpose()? {
            if answer.as_bytes().get(3) != Some(&b'-') {
                break;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_what_takes_long_to_read_keeps_nobody_waiting() {
    let service_dir = ServiceDir::start("").await;
    let service = &service_dir.service;
    let (messages, over, said) = (messages(), AtomicBool::new(false), AtomicUsize::new(0));

    let longest = std::thread::scope(|scope| {
        for first in 0..4 {
            let (messages, over, said, smtp) = (&messages, &over, &said, service.smtp);
            scope.spawn(move || {
                for n in first.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let number = said.fetch_add(1, Ordering::Relaxed);
                    say(smtp, number, &messages[n % messages.len()]).unwrap();
                }
            });
        }

        let (began, mut longest) = (Instant::now(), Duration::ZERO);
        while began.elapsed() < SPAN {
            let asked = Instant::now();
            assert_eq!(service.get("/health/live").status, 200);
            longest = longest.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        longest
    });

    let said = said.into_inner();
    println!("{said} messages of 2 MiB; the longest answer took {longest:?}");
    assert!(said >= 8, "only {said} messages were said");
    assert!(
        longest < Duration::from_secs(1),
        "an answer took {longest:?}"
    );
}
