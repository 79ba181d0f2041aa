//! The dialogue over standard input and output, for `sendmail -bs`: the same session as on a
//! connection, for one client on this machine.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use super::Limits;
use super::auth::Users;
use super::budget::MessageMemory;
use super::reply::SmtpReply;
use super::session::{ConnectionSecurity, SessionContext, SessionStep, SmtpSession};
use crate::ingress::guard::LoginGuard;
use crate::mail::{Address, Timestamp};

/// How many bytes are read at a time.
const READ_BYTES: usize = 64 * 1024;

/// A complete mail.
#[derive(Debug)]
pub struct StdioSubmission {
    /// `None` for the null reverse-path.
    pub return_path: Option<Address>,
    /// The recipients; never empty.
    pub recipients: Vec<Address>,
    /// The message as it was received.
    pub message: Bytes,
}

/// Why a mail is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StdioRefusal {
    /// Temporarily; it may be tried again.
    ForNow,
    /// One of its recipients is not valid.
    Recipient,
    /// Permanently.
    ForGood,
}

/// Speaks SMTP with a client until it leaves. Each mail is passed to `hand_in`, which returns the
/// mail's id, or why it was refused.
///
/// # Errors
/// If reading or writing fails.
pub fn converse(
    mut input: impl Read,
    mut output: impl Write,
    hostname: &str,
    message_size: usize,
    mut hand_in: impl FnMut(StdioSubmission) -> Result<String, (StdioRefusal, String)>,
) -> io::Result<()> {
    let limits = Limits {
        message_size,
        ..Limits::default()
    };

    let context = SessionContext {
        returns: None,
        hostname: Arc::from(hostname),
        limits,
        users: Users::new(Vec::new()),
        trusted: Default::default(),
        budget: MessageMemory::new(message_size.saturating_mul(3)),
        guard: LoginGuard::new(0, limits.ban_time, Default::default()),
    };

    let mut session = SmtpSession::new(
        context,
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        ConnectionSecurity::Plain,
    );
    let mut waiting: Vec<u8> = Vec::new();
    let mut piece = vec![0; READ_BYTES];
    loop {
        let mut rest = &waiting[..];
        let step = session.advance(&mut rest, Timestamp::now());
        let used = waiting.len() - rest.len();
        waiting.drain(..used);
        output.write_all(session.replies())?;
        output.flush()?;
        session.replies().clear();

        match step {
            SessionStep::Flush | SessionStep::Penalty(_) => {}
            // Neither is offered to a client on this machine.
            SessionStep::StartTls | SessionStep::Close => return Ok(()),
            SessionStep::Read => match input.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => waiting.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            },
            SessionStep::Submit(mail) => {
                let trace = mail.body.trace();
                let reply = match mail.body.finish() {
                    Err(refusal) => refusal,
                    Ok((message, _room)) => {
                        let spoken = StdioSubmission {
                            return_path: mail.return_path,
                            recipients: mail.recipients,
                            message: message.slice(trace..),
                        };
                        answer(hand_in(spoken))
                    }
                };
                session.answer(&reply);
            }
        }
    }
}

fn answer(taken: Result<String, (StdioRefusal, String)>) -> SmtpReply {
    match taken {
        Ok(id) => SmtpReply::new(250, "2.0.0", format!("queued as {id}")),
        Err((StdioRefusal::ForNow, why)) => SmtpReply::new(451, "4.3.0", why),
        Err((StdioRefusal::Recipient, why)) => SmtpReply::new(550, "5.1.1", why),
        Err((StdioRefusal::ForGood, why)) => SmtpReply::new(554, "5.6.0", why),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spoken(
        dialogue: &str,
        answer: &Result<String, (StdioRefusal, String)>,
    ) -> (String, Vec<StdioSubmission>) {
        let (mut output, mut mails) = (Vec::new(), Vec::new());
        converse(
            dialogue.as_bytes(),
            &mut output,
            "host.example",
            1 << 20,
            |mail| {
                mails.push(mail);
                answer.clone()
            },
        )
        .unwrap();

        (String::from_utf8(output).unwrap(), mails)
    }

    #[test]
    fn a_dialogue_on_standard_input_hands_mails_in() {
        let one = "MAIL FROM:<a@b.example> BODY=8BITMIME\r\nRCPT TO:<\"c d\"@e.example>\r\nDATA\r\n\
                   Subject: x\r\n\r\n..dot\r\n.\r\n";
        let dialogue = format!("EHLO [127.0.0.1]\r\n{one}{one}QUIT\r\n");
        let (output, mails) = spoken(&dialogue, &Ok("the-id".into()));
        assert!(output.starts_with("220 host.example ESMTP"), "{output}");

        assert_eq!(
            output.matches("250 2.0.0 queued as the-id\r\n").count(),
            2,
            "{output}"
        );

        assert!(
            output.ends_with("221 2.0.0 goodbye\r\n") && !output.contains("AUTH"),
            "{output}"
        );

        assert_eq!(mails.len(), 2);
        assert_eq!(mails[0].message, "Subject: x\r\n\r\n.dot\r\n");
        assert_eq!(mails[0].recipients[0].as_str(), "\"c d\"@e.example");
    }

    #[test]
    fn a_refusal_is_answered_and_the_dialogue_goes_on() {
        let dialogue =
            "HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\nhi\r\n.\r\nNOOP\r\n";

        for (why, code) in [
            (StdioRefusal::ForNow, "451"),
            (StdioRefusal::Recipient, "550"),
            (StdioRefusal::ForGood, "554"),
        ] {
            let (output, mails) = spoken(dialogue, &Err((why, "no".into())));
            assert!(
                output.contains(&format!("\r\n{code} ")) && output.ends_with("250 2.0.0 ok\r\n"),
                "{output}"
            );
            assert_eq!(mails[0].return_path, None);
        }
    }
}
