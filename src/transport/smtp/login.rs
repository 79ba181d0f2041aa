//! AUTH (RFC 4954): PLAIN or LOGIN with a password, XOAUTH2 with a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::connect::{Failure, failed, refused, unavailable};
use super::extensions::Logins;
use super::reply::Answer;
use super::wire::Wire;
use crate::delivery::{Outcome, Phase};
use crate::transport::{Auth, TokenSource};

/// The mechanism is not known here, whatever EHLO promised (RFC 4954 §4).
const UNKNOWN_MECHANISM: u16 = 504;

/// What the server asks for the rest of a login with.
const CHALLENGE: u16 = 334;

pub(super) async fn log_in(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    offered: Logins,
    auth: &Auth,
    patience: Duration,
) -> Result<(), Failure> {
    let (answer, sent) = match auth {
        Auth::Password { user, password } => {
            let password = password.expose_secret();
            with_password(wire, dialogue, offered, user, password, patience).await
        }
        Auth::OAuth2 { user, token } => {
            if !offered.xoauth2 {
                return Err(not_offered("XOAUTH2").into());
            }
            let token = fresh_token(token, patience)
                .await
                .map_err(Failure::Everywhere)?;
            with_token(wire, dialogue, user, token.expose_secret(), patience).await
        }
    };

    match answer {
        Ok(answer) if answer.code() == 235 => wire
            .is_silent()
            .await
            .map_err(|reason| unavailable(Phase::Auth, &reason).into()),
        Ok(answer) => {
            let outcome = without_secrets(refused(Phase::Auth, &answer), &sent);
            // 4yz may be this machine's trouble alone (RFC 4954 §6).
            Err(match answer.code() / 100 {
                4 => Failure::Here(outcome),
                _ => Failure::Everywhere(outcome),
            })
        }
        Err(outcome) => Err(without_secrets(outcome, &sent).into()),
    }
}

fn not_offered(mechanisms: &str) -> Outcome {
    let reason = format!("the server does not offer AUTH {mechanisms}");
    unavailable(Phase::Auth, &reason)
}

/// The server's last word, and the secrets that it has seen.
type Told = (Result<Answer, Outcome>, Vec<String>);

async fn with_password(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    offered: Logins,
    user: &str,
    password: &str,
    patience: Duration,
) -> Told {
    let plain = STANDARD.encode(format!("\0{user}\0{password}"));
    let login = STANDARD.encode(password);
    let sent = vec![password.to_owned(), plain.clone(), login.clone()];
    let plain = [format!("AUTH PLAIN {plain}")];
    let login = ["AUTH LOGIN".to_owned(), STANDARD.encode(user), login];

    let answer = match offered {
        Logins { plain: true, .. } => say(wire, dialogue, &plain, patience).await,
        Logins { login: true, .. } => say(wire, dialogue, &login, patience).await,
        _ => Err(not_offered("PLAIN or LOGIN")),
    };
    let is_unknown = |answer: &Answer| answer.code() == UNKNOWN_MECHANISM;
    let answer = match answer {
        Ok(told) if offered.plain && offered.login && is_unknown(&told) => {
            say(wire, dialogue, &login, patience).await
        }
        told => told,
    };
    (answer, sent)
}

async fn with_token(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    user: &str,
    token: &str,
    patience: Duration,
) -> Told {
    let login = STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"));
    let sent = vec![token.to_owned(), login.clone()];
    // A refused token is explained in a challenge, which wants an empty line before the refusal
    // itself comes.
    let lines = [format!("AUTH XOAUTH2 {login}"), String::new()];
    (say(wire, dialogue, &lines, patience).await, sent)
}

/// Says the first line, and each further one when it is asked for. What LOGIN's prompts say differs
/// from server to server, and some say nothing: user and password are wanted in this order by all.
async fn say(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    lines: &[String],
    patience: Duration,
) -> Result<Answer, Outcome> {
    let mut told = None;
    for line in lines {
        wire.wait_up_to(patience);
        let answer = Answer::read(dialogue.command(format!("{line}\r\n")).await);
        let answer = answer.map_err(|error| failed(Phase::Auth, wire, error))?;
        let goes_on = answer.code() == CHALLENGE;
        told = Some(answer);
        if !goes_on {
            break;
        }
    }
    told.ok_or_else(|| unavailable(Phase::Auth, "there is nothing to log in with"))
}

async fn fresh_token(token: &TokenSource, patience: Duration) -> Result<SecretString, Outcome> {
    match timeout(patience, token()).await {
        Ok(Ok(token)) => Ok(token),
        Ok(Err(reason)) => Err(unavailable(
            Phase::Auth,
            &format!("no access token: {reason}"),
        )),
        Err(_) => Err(unavailable(
            Phase::Auth,
            "no access token: its source did not answer in time",
        )),
    }
}

/// A server may quote what we sent, in its refusal.
fn without_secrets(outcome: Outcome, sent: &[String]) -> Outcome {
    let Outcome::Unavailable(phase, reason) = outcome else {
        return outcome;
    };
    // The beginning is enough: the server's text may have been cut off.
    let quoted = sent
        .iter()
        .any(|text| text.len() > 3 && reason.contains(text.get(..16).unwrap_or(text)));
    let told = if quoted {
        "the server refused, in words that are not shown because they hold the login"
    } else {
        &reason
    };
    unavailable(phase, told)
}
