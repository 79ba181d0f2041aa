//! The demo's own mail server, on loopback: accepts mail, counts it, and causes the faults of the
//! plan.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::plan::PlannedFault;
use super::tally::DemoTally;

/// The longest line that is read; RFC 5321 §4.5.3.1 allows 1000.
const MAX_LINE: u64 = 4096;

/// A running sink; stops when it is dropped.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    listening: JoinHandle<()>,
}

impl Sink {
    pub(super) async fn open(tally: Arc<DemoTally>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that closes the connection knows why.
                let guest = SinkSession::new(stream, tally.clone());
                tokio::spawn(async move { guest.serve().await.ok() });
            }
        });
        Ok(Sink { address, listening })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What follows a command.
enum AfterCommand {
    Command,
    HangUp,
}

/// One connection.
struct SinkSession {
    input: BufReader<OwnedReadHalf>,
    output: OwnedWriteHalf,
    /// Answers that are not sent yet: with PIPELINING, those to one batch of commands are sent
    /// together (RFC 2920 §3.2).
    answers: Vec<u8>,
    line: Vec<u8>,
    /// The numbers of the mails of the recipients so far.
    recipients: Vec<usize>,
    tally: Arc<DemoTally>,
}

impl SinkSession {
    fn new(stream: TcpStream, tally: Arc<DemoTally>) -> Self {
        let _ = stream.set_nodelay(true);
        let (input, output) = stream.into_split();
        let input = BufReader::with_capacity(64 * 1024, input);
        SinkSession {
            input,
            output,
            answers: Vec::new(),
            line: Vec::new(),
            recipients: Vec::new(),
            tally,
        }
    }

    async fn serve(mut self) -> std::io::Result<()> {
        self.answer("220 demo ESMTP");
        while self.read_line().await? {
            if matches!(self.command().await?, AfterCommand::HangUp) {
                break;
            }
        }
        self.hang_up().await
    }

    fn answer(&mut self, text: &str) {
        self.answers.extend_from_slice(text.as_bytes());
        self.answers.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.output.write_all(&self.answers).await?;
        self.answers.clear();
        Ok(())
    }

    /// Reads one line, after it has sent the answers. False at the end of the connection.
    async fn read_line(&mut self) -> std::io::Result<bool> {
        if !self.input.buffer().contains(&b'\n') {
            self.flush().await?;
        }
        self.line.clear();
        (&mut self.input)
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)
            .await?;
        Ok(self.line.ends_with(b"\n"))
    }

    async fn command(&mut self) -> std::io::Result<AfterCommand> {
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        let verb = line
            .split([' ', ':'])
            .next()
            .unwrap_or_default()
            .to_ascii_uppercase();

        match verb.as_str() {
            "EHLO" => self.answer(
                "250-demo\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n\
                 250 ENHANCEDSTATUSCODES",
            ),
            "HELO" => self.answer("250 demo"),
            "MAIL" | "RSET" => {
                self.recipients.clear();
                self.answer("250 2.0.0 ok");
            }
            "RCPT" => self.recipient(&line),
            "DATA" if self.recipients.is_empty() => self.answer("503 5.5.1 no recipient"),
            "DATA" => return self.data().await,
            "NOOP" => self.answer("250 2.0.0 ok"),
            "QUIT" => {
                self.answer("221 2.0.0 bye");
                return Ok(AfterCommand::HangUp);
            }
            _ => self.answer("502 5.5.2 not known here"),
        }

        Ok(AfterCommand::Command)
    }

    fn recipient(&mut self, line: &str) {
        let number = line
            .split_once("<mail-")
            .and_then(|(_, rest)| rest.split_once('@')?.0.parse().ok());

        match number {
            None => self.answer("550 5.1.1 nobody of that name"),
            Some(number)
                if self
                    .tally
                    .meets(number, |trouble| matches!(trouble, PlannedFault::Refuse(_))) =>
            {
                self.answer("450 4.2.1 the mailbox is busy");
            }
            Some(number) => {
                self.recipients.push(number);
                self.answer("250 2.1.5 ok");
            }
        }
    }

    async fn data(&mut self) -> std::io::Result<AfterCommand> {
        let recipients = std::mem::take(&mut self.recipients);
        let tally = self.tally.clone();
        let any = |wanted: fn(PlannedFault) -> bool| {
            recipients.iter().any(|number| tally.meets(*number, wanted))
        };

        self.answer("354 go on");
        let cut = any(|trouble| trouble == PlannedFault::HangUp);
        loop {
            if !self.read_line().await? || cut {
                return Ok(AfterCommand::HangUp);
            }
            if self.line == b".\r\n" {
                break;
            }
        }

        if any(|trouble| matches!(trouble, PlannedFault::Defer(_))) {
            self.answer("451 4.3.0 try again later");
            return Ok(AfterCommand::Command);
        }

        recipients.iter().for_each(|number| tally.arrived(*number));
        if any(|trouble| trouble == PlannedFault::HangUpAfter) {
            return Ok(AfterCommand::HangUp);
        }
        self.answer("250 2.0.0 taken");
        Ok(AfterCommand::Command)
    }

    /// Closes the connection so that the client can read the answers before it: closing with unread
    /// input would discard them (RFC 1122 §4.2.2.13).
    async fn hang_up(mut self) -> std::io::Result<()> {
        self.flush().await?;
        self.output.shutdown().await?;
        let unread = async { while self.input.read_u8().await.is_ok() {} };
        let _ = timeout(Duration::from_secs(1), unread).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::plan::trouble;
    use super::*;

    /// Sends one mail with all its commands in one write, and returns the sink's answers until it
    /// hangs up.
    async fn send_one(sink: &Sink, number: usize) -> Vec<String> {
        let mut stream = TcpStream::connect(sink.address).await.unwrap();
        let commands = format!(
            "EHLO me\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<mail-{number}@demo.example>\r\nDATA\r\n"
        );

        let message = "Subject: x\r\n\r\n..\r\n.x\r\n.\r\nQUIT\r\n";
        stream
            .write_all(format!("{commands}{message}").as_bytes())
            .await
            .unwrap();

        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said.lines()
            .map(|line| line.get(..4).unwrap_or(line).to_owned())
            .filter(|code| code.ends_with(' '))
            .collect()
    }

    fn first_with(wanted: impl Fn(PlannedFault) -> bool) -> usize {
        (0..).find(|number| wanted(trouble(*number))).unwrap()
    }

    async fn open() -> (Arc<DemoTally>, Sink) {
        let tally = Arc::new(DemoTally::new(2000));
        (tally.clone(), Sink::open(tally).await.unwrap())
    }

    #[tokio::test]
    async fn a_mail_without_trouble_is_taken_and_counted() {
        let (tally, sink) = open().await;
        let number = first_with(|trouble| trouble == PlannedFault::None);
        let said = send_one(&sink, number).await;
        assert_eq!(said.join(""), "220 250 250 250 354 250 221 ");
        assert_eq!((tally.progress().1, tally.duplicates()), (1, 0));
    }

    #[tokio::test]
    async fn a_refused_and_a_deferred_mail_are_taken_in_the_end() {
        let (tally, sink) = open().await;
        let refused = first_with(|trouble| trouble == PlannedFault::Refuse(2));
        let deferred = first_with(|trouble| trouble == PlannedFault::Defer(1));
        assert!(send_one(&sink, refused).await.contains(&"450 ".to_owned()));
        assert!(send_one(&sink, refused).await.contains(&"450 ".to_owned()));
        assert!(send_one(&sink, deferred).await.contains(&"451 ".to_owned()));
        assert_eq!(tally.progress().1, 0, "what was not taken is not counted");

        for number in [refused, deferred] {
            assert_eq!(
                send_one(&sink, number).await.join(""),
                "220 250 250 250 354 250 221 "
            );
        }

        assert_eq!(
            (
                tally.progress().1,
                tally.mischief().refused,
                tally.mischief().deferred
            ),
            (2, 2, 1)
        );
    }

    #[tokio::test]
    async fn a_mail_that_was_taken_before_the_sink_hung_up_arrives_twice() {
        let (tally, sink) = open().await;
        let cut = first_with(|trouble| trouble == PlannedFault::HangUp);
        let after = first_with(|trouble| trouble == PlannedFault::HangUpAfter);
        for number in [cut, after] {
            assert_eq!(
                send_one(&sink, number).await.join(""),
                "220 250 250 250 354 ",
                "nothing to the final dot"
            );
            assert_eq!(
                send_one(&sink, number).await.join(""),
                "220 250 250 250 354 250 221 "
            );
        }

        assert_eq!((tally.progress().1, tally.duplicates()), (2, 1));
    }
}
