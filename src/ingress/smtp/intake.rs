//! Turns a received message into a durable mail, or into the reply that says why not.

use super::reply::SmtpReply;
use super::session::Submission;
use bytes::Bytes;

use crate::mail::{Address, Envelope, Intake, Submitter};
use crate::{Dispatcher, Error, Mail, ReportError};

/// A message with more Received fields than this is in a loop (RFC 5321 §6.3).
const MOST_HOPS: usize = 50;

/// Messages above this size are parsed on a blocking thread, because that would delay other
/// clients.
const LARGE_MESSAGE: usize = 256 * 1024;

/// Submits the mail. A `250` means that it is durable.
pub(super) async fn take(dispatcher: &Dispatcher, submission: Submission) -> SmtpReply {
    let Submission {
        return_path,
        recipients,
        body,
        user,
        is_report,
    } = submission;
    let trace = body.trace();

    // The memory is free again only when the spool has stored the message.
    let (message, _room) = match body.finish() {
        Ok(whole) => whole,
        Err(refusal) => return refusal,
    };

    if is_report {
        return take_report(dispatcher, message, &recipients).await;
    }
    let size = message.len();

    if hops(&message) > MOST_HOPS {
        return SmtpReply::new(
            554,
            "5.4.6",
            format!("the message goes in circles: it has over {MOST_HOPS} Received fields"),
        );
    }

    let submitter = user.as_deref().map_or(Submitter::Local, Submitter::user);
    let reader = dispatcher.clone();
    let compose = move || {
        let intake = Intake {
            trace,
            ..reader.intake()
        };
        let envelope = Envelope::new(return_path, recipients)?;
        let (mail, asked) = Mail::handed_in(envelope, message, intake)?;
        mail.with_options(asked)
    };

    let composed = if size > LARGE_MESSAGE {
        match tokio::task::spawn_blocking(compose).await {
            Ok(composed) => composed,
            Err(_) => return SmtpReply::new(451, "4.3.0", "the message could not be read"),
        }
    } else {
        compose()
    };

    let submitted = match composed {
        Ok(mail) => dispatcher.on_behalf_of(submitter).submit(mail).await,
        Err(e) => Err(Error::Mail(e)),
    };

    match submitted {
        Ok(receipt) => {
            let user = user.map(tracing::field::debug);
            tracing::debug!(
                mail.id = %receipt.id,
                user,
                duplicate = receipt.duplicate,
                "accepted over smtp"
            );
            SmtpReply::new(250, "2.0.0", format!("queued as {}", receipt.id))
        }
        Err(e) => SmtpReply::refusal(&e),
    }
}

/// Accepts mail to our own return paths. Only reports are kept.
async fn take_report(dispatcher: &Dispatcher, message: Bytes, to: &[Address]) -> SmtpReply {
    match dispatcher.feedback().take_report(message, to, false).await {
        Ok(_) => SmtpReply::new(250, "2.0.0", "thank you"),
        Err(ReportError::Engine(error)) => SmtpReply::refusal(&error),
        Err(error) => SmtpReply::new(554, "5.6.0", error.to_string()),
    }
}

/// How many Received fields the header section has.
fn hops(message: &[u8]) -> usize {
    message
        .split(|b| *b == b'\n')
        .take_while(|line| !matches!(line, [] | [b'\r']))
        .filter(|line| {
            line.get(..9)
                .is_some_and(|name| name.eq_ignore_ascii_case(b"received:"))
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_counted_in_the_header_section_alone() {
        let field = "received: from a by b; c\r\n folded\r\n";
        assert_eq!(
            hops(format!("{field}X-Received: x\r\n{field}\r\n{field}").as_bytes()),
            2
        );
        assert_eq!(hops(b"Received: a\nRECEIVED: b\n\nReceived: c\n"), 2);
        assert_eq!(hops(b""), 0);
    }
}
