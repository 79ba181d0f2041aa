//! The outcome of one attempt: the server's reply and the phase in which it came.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::{Timestamp, is_harmless};

/// The most characters of a server's text that are kept.
const MAX_TEXT: usize = 512;

/// How far an attempt got: the step in which its outcome was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The TCP connection, DNS included.
    Connect,
    /// The server's greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// STARTTLS and the TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA.
    Data,
    /// The message itself, before its final dot.
    Body,
    /// The answer to the final dot.
    FinalDot,
    /// Nothing was sent: decided here, from the limits that the server announces.
    Local,
}

impl Phase {
    /// Its name in JSON and in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Greeting => "greeting",
            Phase::Ehlo => "ehlo",
            Phase::Tls => "tls",
            Phase::Auth => "auth",
            Phase::MailFrom => "mail_from",
            Phase::RcptTo => "rcpt_to",
            Phase::Data => "data",
            Phase::Body => "body",
            Phase::FinalDot => "final_dot",
            Phase::Local => "local",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A server's reply (RFC 5321 §4.2), made safe to print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The enhanced status code (RFC 3463), such as `5.1.1`.
    pub enhanced: Option<String>,
    /// The text without both codes; lines are joined by a space, and control characters are
    /// replaced.
    pub text: String,
}

impl Reply {
    /// Makes a reply of a code and a text. An enhanced status code may be at the start of each
    /// line, or at the end of the last one, as qmail writes it.
    pub fn new(code: u16, text: &str) -> Self {
        let mut enhanced = None;
        let mut lines = Vec::new();
        for line in text.lines() {
            match split_enhanced(line, code) {
                Some((status, rest)) => {
                    enhanced.get_or_insert_with(|| status.to_owned());
                    lines.push(rest.trim());
                }
                None => lines.push(line.trim()),
            }
        }
        if enhanced.is_none() {
            let marked = lines.last().and_then(|line| trailing_enhanced(line, code));
            enhanced = marked.map(str::to_owned);
        }

        Reply {
            code,
            enhanced,
            text: printable(&lines.join(" ")),
        }
    }

    /// The server's reply in the reason for which a connection ended, if the reason begins with
    /// one: with its code, or with [`REFUSED`](super::REFUSED) before the code. Codes further on
    /// are ignored: a server may quote them.
    pub(crate) fn in_reason(reason: &str) -> Option<Self> {
        let said = reason.strip_prefix(super::REFUSED).unwrap_or(reason);
        let (digits, rest) = said.split_at_checked(3)?;
        let is_code = digits.bytes().all(|byte| byte.is_ascii_digit());
        let code = digits.parse().ok().filter(|_| is_code)?;
        let ends = rest.is_empty() || rest.starts_with(' ');
        ((200..600).contains(&code) && ends).then(|| Reply::new(code, rest.trim_start()))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = &self.enhanced {
            write!(f, " {enhanced}")?;
        }
        if self.text.is_empty() {
            Ok(())
        } else {
            write!(f, " {}", self.text)
        }
    }
}

/// `5.1.1 No such user` → (`5.1.1`, ` No such user`), if its class matches the code (RFC 2034 §4).
/// Some servers put a `#` before it.
fn split_enhanced(line: &str, code: u16) -> Option<(&str, &str)> {
    let end = line.find(' ').unwrap_or(line.len());
    let (status, rest) = line.split_at(end);
    let status = status.strip_prefix('#').unwrap_or(status);
    is_enhanced(status, code).then_some((status, rest))
}

/// `no mailbox here by that name (#5.1.1)` → `5.1.1`.
fn trailing_enhanced(line: &str, code: u16) -> Option<&str> {
    let (_, status) = line.strip_suffix(')')?.rsplit_once("(#")?;
    is_enhanced(status, code).then_some(status)
}

fn is_enhanced(status: &str, code: u16) -> bool {
    let digits =
        |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = status.split('.').collect();
    let [class, subject, detail] = parts[..] else {
        return false;
    };
    class.parse() == Ok(code / 100) && digits(subject) && digits(detail)
}

/// Makes text from outside safe for logs, header fields and terminals: limits its length, and
/// replaces control characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .take(MAX_TEXT)
        .map(|c| if is_harmless(c) { c } else { '\u{fffd}' })
        .collect()
}

/// The outcome of an attempt, for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2yz to the final dot.
    Delivered(Reply),
    /// The server answered about this mail with 4yz, or with a reply that makes no sense at this
    /// step. The mail is tried again.
    Deferred(Phase, Reply),
    /// The server answered about this mail with 5yz.
    Rejected(Phase, Reply),
    /// The relay could not be reached, or refused to talk, before it was asked about this mail.
    /// Says nothing about the mail.
    Unavailable(Phase, String),
    /// The connection was lost, or 421 came, after the mail's envelope was begun and before its
    /// final dot. At [`Phase::MailFrom`], the cause was another recipient of the mail.
    Lost(Phase, String),
    /// The final dot was sent, but its answer did not come or is not conclusive.
    InDoubt(String),
    /// The transaction was aborted before the final dot, because the mail was cancelled or expired.
    Withdrawn,
    /// The sender crashed while it was sending this mail.
    Crashed,
}

impl Outcome {
    /// The outcome for a reply other than success in `phase`.
    pub fn refusal(phase: Phase, reply: Reply) -> Self {
        match reply.code / 100 {
            5 => Outcome::Rejected(phase, reply),
            _ => Outcome::Deferred(phase, reply),
        }
    }

    /// Whether the cause is the relay rather than the mail.
    pub fn blames_relay(&self) -> bool {
        matches!(
            self,
            Outcome::Unavailable(..) | Outcome::Lost(..) | Outcome::InDoubt(_)
        )
    }

    /// Whether the connection ended because of another recipient of the same mail.
    pub(crate) fn is_of_another_recipient(&self) -> bool {
        matches!(self, Outcome::Lost(Phase::MailFrom, _))
    }

    /// The step at which the server refused, if it refused.
    pub(crate) fn refused_at(&self) -> Option<Phase> {
        match self {
            Outcome::Deferred(phase, _) | Outcome::Rejected(phase, _) => Some(*phase),
            _ => None,
        }
    }

    /// The class under which the attempt is counted in metrics.
    pub fn class(&self) -> AttemptClass {
        match self {
            Outcome::Delivered(_) => AttemptClass::Delivered,
            Outcome::Deferred(..) => AttemptClass::Transient,
            Outcome::Rejected(..) => AttemptClass::Permanent,
            Outcome::Unavailable(..) => AttemptClass::Unavailable,
            Outcome::Lost(..) => AttemptClass::Lost,
            Outcome::InDoubt(_) => AttemptClass::InDoubt,
            Outcome::Withdrawn => AttemptClass::Withdrawn,
            Outcome::Crashed => AttemptClass::Crashed,
        }
    }
}

/// The classes of attempts in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptClass {
    /// 2yz.
    Delivered,
    /// 4yz.
    Transient,
    /// 5yz.
    Permanent,
    /// The relay could not be used.
    Unavailable,
    /// The connection was lost before the final dot.
    Lost,
    /// The connection was lost after the final dot.
    InDoubt,
    /// Aborted before the final dot.
    Withdrawn,
    /// The sender crashed.
    Crashed,
}

impl AttemptClass {
    /// Its name as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            AttemptClass::Delivered => "delivered",
            AttemptClass::Transient => "transient",
            AttemptClass::Permanent => "permanent",
            AttemptClass::Unavailable => "unavailable",
            AttemptClass::Lost => "lost",
            AttemptClass::InDoubt => "in_doubt",
            AttemptClass::Withdrawn => "withdrawn",
            AttemptClass::Crashed => "crashed",
        }
    }
}

/// How the connection of an attempt was secured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct TlsUse {
    /// The version of the protocol, such as `TLSv1.3`.
    pub version: String,
    /// The registered name of the cipher suite, such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// One attempt, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// The relay that was used.
    pub relay: String,
    /// How far it got.
    pub phase: Phase,
    /// The server's code; `None` if it did not answer.
    pub code: Option<u16>,
    /// The server's enhanced status code.
    pub enhanced: Option<String>,
    /// The server's text, or what happened instead.
    pub text: String,
    /// How the connection was secured; `None` if it was not, or if that is unknown.
    pub tls: Option<TlsUse>,
}

impl Attempt {
    /// The reply: code, enhanced code and text.
    pub(crate) fn reply_text(&self) -> String {
        let code = self.code.map(|code| code.to_string());
        let words = [
            code.as_deref(),
            self.enhanced.as_deref(),
            Some(self.text.as_str()),
        ];
        let words = words.into_iter().flatten().filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn new(at: Timestamp, relay: &str, tls: Option<&TlsUse>, outcome: &Outcome) -> Self {
        let quoted = match outcome {
            Outcome::Unavailable(_, text) | Outcome::Lost(_, text) => Reply::in_reason(text),
            _ => None,
        };
        let (phase, reply, text) = match outcome {
            Outcome::Delivered(reply) => (Phase::FinalDot, Some(reply), ""),
            Outcome::Deferred(phase, reply) | Outcome::Rejected(phase, reply) => {
                (*phase, Some(reply), "")
            }
            Outcome::Unavailable(phase, text) | Outcome::Lost(phase, text) => {
                (*phase, quoted.as_ref(), text.as_str())
            }
            Outcome::InDoubt(text) => (Phase::FinalDot, None, text.as_str()),
            Outcome::Withdrawn => (
                Phase::Body,
                None,
                "aborted before the final dot: the mail was cancelled or expired",
            ),
            Outcome::Crashed => (
                Phase::Local,
                None,
                "the sender crashed while it was sending this mail",
            ),
        };

        Attempt {
            at,
            relay: relay.to_owned(),
            phase,
            code: reply.map(|r| r.code),
            enhanced: reply.and_then(|r| r.enhanced.clone()),
            text: reply.map_or_else(|| printable(text), |r| r.text.clone()),
            tls: tls.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enhanced_code_is_read_where_its_class_agrees() {
        let reply = Reply::new(550, "5.1.1 No such user\n5.1.1 here");
        assert_eq!(
            (reply.enhanced.as_deref(), reply.text.as_str()),
            (Some("5.1.1"), "No such user here")
        );

        assert_eq!(Reply::new(550, "4.1.1 odd").enhanced, None);
        let marked = |text| Reply::new(550, text).enhanced;
        assert_eq!(marked("#5.1.0 Address rejected.").as_deref(), Some("5.1.0"));
        let last = "sorry, no mailbox here by that name (#5.1.1)";
        assert_eq!(marked(last).as_deref(), Some("5.1.1"));
        assert_eq!(Reply::new(550, last).text, last);
        assert_eq!(marked("sorry (#4.1.1)"), None);
        assert_eq!(Reply::new(550, "5.1 short").enhanced, None);
        assert_eq!(Reply::new(250, "2.0.0").text, "");
    }

    #[test]
    fn a_reply_is_found_where_a_reason_begins_with_it_and_nowhere_else() {
        let code = |reason: &str| Reply::in_reason(reason).map(|reply| reply.code);
        assert_eq!(code("421 4.3.2 closing"), Some(421));
        assert_eq!(code("the server refused: 554 no"), Some(554));
        assert_eq!(code("250"), Some(250));
        // A code that the server quotes is not its own reply.
        let quoted = "421 4.4.1 the next one said: the server refused: 550 5.1.1 no such user";
        assert_eq!(code(quoted), Some(421));

        for ours in [
            "the connection broke: 550 bytes were left",
            "the server was silent for 60s",
            "4215 bytes were written",
            "42\u{fc} and more",
            "+21 no",
            "",
        ] {
            assert_eq!(code(ours), None, "{ours}");
        }
    }

    #[test]
    fn a_servers_text_cannot_reach_a_terminal_raw() {
        let reply = Reply::new(450, "\u{1b}[2Jgone \u{202e}txet");
        assert_eq!(reply.text, "\u{fffd}[2Jgone \u{fffd}txet");
        assert_eq!(Reply::new(450, &"x".repeat(9999)).text.len(), MAX_TEXT);
    }
}
