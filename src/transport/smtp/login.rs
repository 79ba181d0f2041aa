//! AUTH (RFC 4954): PLAIN or LOGIN with a password, XOAUTH2 with a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;

use super::connect::{ConnectFailure, failed, refused, unavailable};
use super::extensions::Logins;
use super::reply::ServerReply;
use super::wire::Wire;
use crate::delivery::{Outcome, Phase};
use crate::transport::Auth;

/// The server does not know the mechanism, whatever it announced (RFC 4954 §4).
const UNKNOWN_MECHANISM: u16 = 504;

/// The longest command, without its CRLF (RFC 5321 §4.5.3.1.4).
const MAX_COMMAND: usize = 510;

/// The reply by which the server asks for the next line of a login.
const CHALLENGE: u16 = 334;

/// The OAuth 2.0 token for one connection attempt: fetched when it is first needed, and used at
/// each of the host's addresses.
#[derive(Default)]
pub(super) struct Ticket {
    token: Option<SecretString>,
    /// Whether a server refused it permanently.
    is_refused: bool,
}

impl Ticket {
    /// Fetches another token in place of the refused one. False if there is no other: a source that
    /// the application supplied is asked only once for each connection attempt.
    ///
    /// # Errors
    /// If the source fails.
    pub async fn renew(&mut self, auth: &Auth, time_limit: Duration) -> Result<bool, Outcome> {
        if matches!(auth, Auth::Password { .. } | Auth::OAuth2 { .. }) {
            return Ok(false);
        }
        let Some(refused) = self.token.take().filter(|_| self.is_refused) else {
            return Ok(false);
        };
        let token = fetch(auth, Some(&refused), time_limit).await?;
        let is_another = token.expose_secret() != refused.expose_secret();
        self.token = Some(token);
        Ok(is_another)
    }
}

pub(super) async fn log_in(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    offered: Logins,
    auth: &Auth,
    ticket: &mut Ticket,
    time_limit: Duration,
) -> Result<(), ConnectFailure> {
    let (answer, sent) = match auth {
        Auth::Password { user, password } => {
            let password = password.expose_secret();
            with_password(wire, dialogue, offered, user, password, time_limit).await
        }
        _ => {
            if !offered.xoauth2 {
                return Err(not_offered("XOAUTH2").into());
            }
            let token = match ticket.token.take() {
                Some(token) => token,
                None => fetch(auth, None, time_limit)
                    .await
                    .map_err(ConnectFailure::Everywhere)?,
            };
            let token = ticket.token.insert(token).expose_secret();
            with_token(wire, dialogue, auth.user(), token, time_limit).await
        }
    };

    match answer {
        Ok(answer) if answer.code() == 235 => wire
            .is_silent()
            .await
            .map_err(|reason| unavailable(Phase::Auth, &reason).into()),
        Ok(answer) => {
            let outcome = without_secrets(refused(Phase::Auth, &answer), &sent);
            let outcome = with_advice(outcome, auth);
            // A 4yz may concern this server machine only (RFC 4954 §6).
            Err(match answer.code() / 100 {
                4 => ConnectFailure::Here(outcome),
                _ => {
                    ticket.is_refused = true;
                    ConnectFailure::Everywhere(outcome)
                }
            })
        }
        Err(outcome) => Err(without_secrets(outcome, &sent).into()),
    }
}

fn not_offered(mechanisms: &str) -> Outcome {
    let reason = format!("the server does not offer AUTH {mechanisms}");
    unavailable(Phase::Auth, &reason)
}

/// The server's last reply, and the secrets that were sent to it.
type LoginResult = (Result<ServerReply, Outcome>, Vec<String>);

async fn with_password(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    offered: Logins,
    user: &str,
    password: &str,
    time_limit: Duration,
) -> LoginResult {
    let plain = STANDARD.encode(format!("\0{user}\0{password}"));
    let login = STANDARD.encode(password);
    let sent = vec![password.to_owned(), plain.clone(), login.clone()];
    let plain = opening("PLAIN", plain);
    let login = ["AUTH LOGIN".to_owned(), STANDARD.encode(user), login];

    let answer = match offered {
        Logins { plain: true, .. } => say(wire, dialogue, &plain, time_limit).await,
        Logins { login: true, .. } => say(wire, dialogue, &login, time_limit).await,
        _ => Err(not_offered("PLAIN or LOGIN")),
    };

    let is_unknown = |answer: &ServerReply| answer.code() == UNKNOWN_MECHANISM;
    let answer = match answer {
        Ok(answer) if offered.plain && offered.login && is_unknown(&answer) => {
            say(wire, dialogue, &login, time_limit).await
        }
        answer => answer,
    };

    (answer, sent)
}

async fn with_token(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    user: &str,
    token: &str,
    time_limit: Duration,
) -> LoginResult {
    let login = STANDARD.encode(format!("user={user}\x01auth=Bearer {token}\x01\x01"));
    let sent = vec![token.to_owned(), login.clone()];
    let mut lines = opening("XOAUTH2", login);
    // The server explains a refused token in a challenge, and sends the refusal itself after an
    // empty line.
    lines.push(String::new());
    (say(wire, dialogue, &lines, time_limit).await, sent)
}

/// The AUTH command with its initial response. The response becomes a line of its own where the
/// command would be too long (RFC 4954 §4), as it usually is with a token.
fn opening(mechanism: &str, response: String) -> Vec<String> {
    let command = format!("AUTH {mechanism} {response}");
    match command.len() <= MAX_COMMAND {
        true => vec![command],
        false => vec![format!("AUTH {mechanism}"), response],
    }
}

/// Sends the first line, and each further one when the server asks for it. The prompts of LOGIN
/// differ between servers and are not read: all servers want the user first and then the password.
async fn say(
    wire: &Wire,
    dialogue: &mut AsyncSmtpConnection,
    lines: &[String],
    time_limit: Duration,
) -> Result<ServerReply, Outcome> {
    let mut last_answer = None;
    for line in lines {
        wire.wait_up_to(time_limit);
        let answer = ServerReply::read(dialogue.command(format!("{line}\r\n")).await);
        let answer = answer.map_err(|error| failed(Phase::Auth, wire, error))?;
        let goes_on = answer.code() == CHALLENGE;
        last_answer = Some(answer);
        if !goes_on {
            break;
        }
    }
    last_answer.ok_or_else(|| unavailable(Phase::Auth, "there is nothing to log in with"))
}

/// Fetches a token from the configured source. `refused` is a token that the server did not accept.
async fn fetch(
    auth: &Auth,
    #[cfg_attr(not(feature = "providers"), expect(unused_variables))] refused: Option<
        &SecretString,
    >,
    time_limit: Duration,
) -> Result<SecretString, Outcome> {
    let fetching = async {
        match auth {
            Auth::OAuth2 { token, .. } => token().await,
            #[cfg(feature = "providers")]
            Auth::Tokens { source, .. } => source
                .fetch(refused.map(ExposeSecret::expose_secret))
                .await
                .map(SecretString::from),
            Auth::Password { .. } => Err("a password is not a token".to_owned()),
        }
    };

    match timeout(time_limit, fetching).await {
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

/// Adds advice to a refusal whose usual cause is known.
fn with_advice(outcome: Outcome, auth: &Auth) -> Outcome {
    let Outcome::Unavailable(phase, reason) = outcome else {
        return outcome;
    };

    let with_token = !matches!(auth, Auth::Password { .. });
    let advice = if reason.contains(" 5.7.139") {
        "; SMTP AUTH is switched off for this mailbox or its tenant: switch it on there, or use \
         graph+api:// instead"
    } else if reason.contains(" 5.7.30") {
        "; no password is taken here any more: use [relays.oauth2]"
    } else if with_token && reason.contains("refused: 535") {
        "; there was a token, and it is not good for this: check scope, the user in the url, and \
         that the application may send for that user"
    } else {
        ""
    };

    Outcome::Unavailable(phase, reason + advice)
}

/// Removes the server's text from an outcome if it quotes the login.
fn without_secrets(outcome: Outcome, sent: &[String]) -> Outcome {
    let Outcome::Unavailable(phase, reason) = outcome else {
        return outcome;
    };

    // Comparing the beginning is enough; the server's text may be truncated.
    let quoted = sent
        .iter()
        .any(|text| text.len() > 3 && reason.contains(text.get(..16).unwrap_or(text)));

    let shown = if quoted {
        "the server refused, in words that are not shown because they hold the login"
    } else {
        &reason
    };

    unavailable(phase, shown)
}
