//! `smtp_times HOST:PORT`: submits mail over SMTP as smtp-source does, one command at a time over
//! kept connections, and tells what smtp-source does not: how long it was from MAIL FROM to the
//! answer to the final dot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use peers::{Left, answer, text};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

fn main() {
    let to = std::env::args()
        .nth(1)
        .expect("usage: smtp_times HOST:PORT");
    // One thread, as smtp-source: what is measured needs the others.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let headers = "From: bench@example.com\r\nTo: user@example.org\r\nSubject: A benchmark\r\n\r\n";
    let message: Arc<str> = format!("{headers}{}\r\n.\r\n", text().trim_end()).into();
    answer(&runtime, |left| session(to.clone(), message.clone(), left));
}

/// One connection, until no mail is left.
async fn session(to: String, message: Arc<str>, left: Arc<Left>) -> Vec<Duration> {
    let stream = TcpStream::connect(&to).await.expect("the door is open");
    stream.set_nodelay(true).expect("a TCP connection");
    let mut door = Door {
        stream: BufReader::new(stream),
        line: String::new(),
    };
    door.answer(b'2').await;
    door.say("EHLO localhost\r\n", b'2').await;

    let mut times = Vec::new();
    while left.take() {
        let started = Instant::now();
        door.say("MAIL FROM:<bench@example.com>\r\n", b'2').await;
        door.say("RCPT TO:<user@example.org>\r\n", b'2').await;
        door.say("DATA\r\n", b'3').await;
        door.say(&message, b'2').await;
        times.push(started.elapsed());
    }

    door.say("QUIT\r\n", b'2').await;
    times
}

struct Door {
    stream: BufReader<TcpStream>,
    line: String,
}

impl Door {
    async fn say(&mut self, words: &str, expected: u8) {
        self.stream
            .write_all(words.as_bytes())
            .await
            .expect("the connection holds");
        self.answer(expected).await;
    }

    /// Reads a reply to its last line: the one without a hyphen behind its code (RFC 5321 section
    /// 4.2.1).
    async fn answer(&mut self, expected: u8) {
        loop {
            self.line.clear();
            self.stream
                .read_line(&mut self.line)
                .await
                .expect("the connection holds");
            let line = self.line.as_bytes();
            assert_eq!(
                line.first(),
                Some(&expected),
                "the door says {:?}",
                self.line
            );
            if line.get(3) != Some(&b'-') {
                return;
            }
        }
    }
}
