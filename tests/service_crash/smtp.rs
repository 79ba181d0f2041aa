//! A client of the SMTP door.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

use super::client::{Answer, ConnectionLost, Door};
use super::mails::Draft;

/// A connection that is made when it is needed.
pub struct Smtp {
    address: SocketAddr,
    connection: Option<BufStream<TcpStream>>,
}

impl Smtp {
    pub fn to(address: SocketAddr) -> Self {
        Smtp {
            address,
            connection: None,
        }
    }

    async fn connect(&self) -> Result<BufStream<TcpStream>, ConnectionLost> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let mut connection = BufStream::new(stream);
        expect(&mut connection, "220").await?;
        say(&mut connection, "EHLO client.example\r\n").await?;
        expect(&mut connection, "250").await?;
        Ok(connection)
    }

    /// One mail, from MAIL to the answer to its final dot.
    async fn transact(&mut self, draft: &Draft) -> Result<String, ConnectionLost> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };

        let recipients = draft.recipients();
        let rcpt: String = recipients
            .iter()
            .map(|recipient| format!("RCPT TO:<{recipient}>\r\n"))
            .collect();

        say(
            &mut connection,
            &format!("MAIL FROM:<shop@example.com>\r\n{rcpt}DATA\r\n"),
        )
        .await?;
        for _ in 0..=recipients.len() {
            expect(&mut connection, "250").await?;
        }
        expect(&mut connection, "354").await?;
        say(&mut connection, &format!("{}.\r\n", draft.message())).await?;

        let said = reply(&mut connection).await?;
        self.connection = Some(connection);
        Ok(said)
    }
}

impl Door for Smtp {
    async fn hand_in(
        &mut self,
        drafts: &[Draft],
        tell: &mut impl FnMut(&Draft, Answer),
    ) -> Result<(), ConnectionLost> {
        for draft in drafts {
            let said = self.transact(draft).await?;
            let id = said.strip_prefix("250 2.0.0 queued as ");
            tell(
                draft,
                match id {
                    Some(id) => Answer::Taken(id.trim_end().to_owned()),
                    None if said.starts_with('4') => Answer::Later,
                    None => Answer::Refused(said),
                },
            );
        }

        Ok(())
    }

    fn hang_up(&mut self) {
        self.connection = None;
    }
}

async fn say(connection: &mut BufStream<TcpStream>, text: &str) -> Result<(), ConnectionLost> {
    connection.write_all(text.as_bytes()).await?;
    Ok(connection.flush().await?)
}

/// The next reply's last line, whole: a line that was cut off by a kill is no answer.
async fn reply(connection: &mut BufStream<TcpStream>) -> Result<String, ConnectionLost> {
    loop {
        let mut line = String::new();
        connection.read_line(&mut line).await?;
        if !line.ends_with("\r\n") {
            return Err(ConnectionLost);
        }
        if line.get(3..4) == Some(" ") {
            return Ok(line);
        }
    }
}

/// Before the message every door says the same; one that says something else may think better of it
/// on another connection.
async fn expect(connection: &mut BufStream<TcpStream>, code: &str) -> Result<(), ConnectionLost> {
    if reply(connection).await?.starts_with(code) {
        Ok(())
    } else {
        Err(ConnectionLost)
    }
}
