//! Runs one dialogue from arbitrary bytes and checks what must always hold: the entry point of the
//! fuzzer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::super::auth::Users;
use super::super::budget::MessageMemory;
use super::super::reply::SmtpReply;
use super::super::{Limits, User};
use super::{ConnectionSecurity, SessionContext, SessionStep, SmtpSession};
use crate::ingress::guard::LoginGuard;
use crate::mail::Timestamp;

/// Feeds `bytes` to a session as its client's, and panics if one of these does not hold: every
/// reply is complete, printable and known; the result does not depend on how the bytes are split;
/// memory stays within the limits.
///
/// The first byte selects the size of the pieces, and whether a login is needed (`app`, `secret`).
pub fn exercise(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let login = choice & 1 == 1;
    let whole = converse(bytes, bytes.len().max(1), login);

    let pieces = converse(bytes, usize::from(choice >> 1) + 1, login);
    assert_eq!(whole, pieces, "the pieces made a difference");
    for line in whole.replies.split_inclusive(|b| *b == b'\n') {
        assert!(
            line.ends_with(b"\r\n") && line.len() <= 512,
            "a reply line is cut or too long"
        );
        assert!(
            line[..line.len() - 2]
                .iter()
                .all(|b| (b' '..=b'~').contains(b)),
            "a reply has what cannot be printed"
        );
        assert!(
            line[..3].iter().all(u8::is_ascii_digit) && matches!(line[3], b' ' | b'-'),
            "a reply has no code"
        );
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Transcript {
    replies: Vec<u8>,
    mails: Vec<(Vec<String>, Vec<u8>)>,
}

fn converse(bytes: &[u8], size: usize, login: bool) -> Transcript {
    let limits = Limits {
        message_size: 4096,
        recipients: 5,
        ..Limits::default()
    };

    let user = User {
        name: "app".into(),
        password: "secret".into(),
    };

    let users = Users::new(if login { vec![user] } else { Vec::new() });
    let context = SessionContext {
        returns: None,
        hostname: Arc::from("mail.example"),
        limits,
        users,
        trusted: Default::default(),
        budget: MessageMemory::new(1 << 20),
        guard: LoginGuard::new(0, limits.ban_time, Default::default()),
    };

    let mut session = SmtpSession::new(
        context,
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        ConnectionSecurity::Plain,
    );
    let mut transcript = Transcript {
        replies: Vec::new(),
        mails: Vec::new(),
    };

    let mut waiting = Vec::new();
    for piece in bytes.chunks(size) {
        waiting.extend_from_slice(piece);
        loop {
            let mut input = &waiting[..];
            let step = session.advance(&mut input, Timestamp::from_millis(0));
            let used = waiting.len() - input.len();
            waiting.drain(..used);
            transcript.replies.append(session.replies());
            match step {
                SessionStep::Read => break,
                SessionStep::Flush | SessionStep::Penalty(_) => {}
                SessionStep::StartTls => panic!("TLS was begun where it is not offered"),
                SessionStep::Close => return transcript,
                SessionStep::Submit(mail) => {
                    assert!(
                        !mail.recipients.is_empty() && mail.recipients.len() <= 5,
                        "an envelope out of bounds"
                    );
                    assert_eq!(mail.user.is_some(), login, "a mail came in past the login");
                    let recipients = mail.recipients.iter().map(ToString::to_string).collect();
                    let (message, _room) = mail
                        .body
                        .finish()
                        .expect("what is refused is not submitted");
                    assert!(message.len() <= 4096 + 1024, "a message out of bounds");
                    transcript.mails.push((recipients, message.to_vec()));
                    session.answer(&SmtpReply::new(250, "2.0.0", "queued"));
                }
            }
        }
        assert!(
            waiting.len() <= 2048,
            "a line is waited for beyond the longest"
        );
    }

    transcript
}
