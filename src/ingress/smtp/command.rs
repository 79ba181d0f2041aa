//! Parses a command line (RFC 5321 §4.1). The grammar is smtp-proto's; what it accepts too
//! generously is refused here.

use smtp_proto::{
    AUTH_LOGIN, AUTH_PLAIN, Error as Fault, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8,
    MailFrom, RcptTo, Request,
};
use std::borrow::Cow;

use super::auth::Mechanism;
use super::reply::SmtpReply;
use crate::mail::Address;

/// The longest command line with its CRLF. RFC 5321 §4.5.3.1.4 requires 512, and extensions more.
pub(super) const LONGEST_LINE: usize = 2048;
/// The most digits of a chunk's size.
const SIZE_DIGITS: usize = 12;

/// A valid command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SmtpCommand {
    Ehlo(String),
    Helo(String),
    StartTls,
    Auth {
        mechanism: Mechanism,
        initial: Option<String>,
    },
    Mail {
        return_path: Option<Address>,
        /// The message's size, or 0.
        size: usize,
        smtputf8: bool,
    },
    Rcpt(Address),
    /// `RCPT TO:<postmaster>`, which is known without a domain (RFC 5321 §4.5.1).
    RcptPostmaster,
    Data,
    Bdat {
        size: usize,
        last: bool,
    },
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
}

/// Why a line is not a valid command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// The command is known, but wrong; contains the reply.
    Command(SmtpReply),
    /// There is no such command.
    Unknown,
    /// What follows this line cannot be interpreted: the connection ends.
    OutOfStep(SmtpReply),
}

/// Takes the next line from `input`, with its CRLF. `None` if it has not arrived completely.
///
/// A line that ends in a bare LF, or contains a CR, a NUL or another control character, is refused
/// as out of step: SMTP smuggling relies on two programs that disagree about the end of a line.
pub(super) fn take_line<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, CommandError> {
    let out_of_step =
        |text: &'static str| CommandError::OutOfStep(SmtpReply::new(500, "5.5.2", text));
    let window = &input[..input.len().min(LONGEST_LINE)];
    let Some(end) = memchr::memchr(b'\n', window) else {
        return if window.len() < LONGEST_LINE {
            Ok(None)
        } else {
            Err(out_of_step("the line is too long"))
        };
    };

    let Some(line) = input[..end].strip_suffix(b"\r") else {
        return Err(out_of_step("a line ends with CR LF, not with a bare LF"));
    };
    if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(out_of_step(
            "the line has a bare CR or another control character in it",
        ));
    }

    let (line, rest) = input.split_at(end + 1);
    *input = rest;
    Ok(Some(line))
}

/// Parses a command from a line that [`take_line`] returned.
pub(super) fn parse(crlf: &[u8]) -> Result<SmtpCommand, CommandError> {
    let line = match std::str::from_utf8(crlf) {
        Ok(text) => text.trim_end(),
        Err(_) => return Err(syntax("the line is not UTF-8")),
    };

    let verb = line.split([' ', '\t']).next().unwrap_or_default();
    if verb.eq_ignore_ascii_case("BDAT") {
        return chunk(line);
    }

    if verb.eq_ignore_ascii_case("MAIL") && is_size_beyond_number(line) {
        return Err(wrong(
            552,
            "5.3.4",
            "the message is larger than any that is taken",
        ));
    }

    let (path, pathless) = match verb.to_ascii_uppercase().as_str() {
        "MAIL" | "RCPT" => take_path(line)
            .ok_or_else(|| syntax("it should be: MAIL FROM:<address> or RCPT TO:<address>"))?,
        _ => ("", String::new()),
    };

    let request = match Request::parse(&mut if pathless.is_empty() {
        crlf.iter()
    } else {
        pathless.as_bytes().iter()
    }) {
        Ok(request) => request,
        Err(Fault::UnknownCommand) => return Err(CommandError::Unknown),
        Err(Fault::InvalidParameter {
            param: param @ ("SIZE" | "BODY"),
        }) => {
            return Err(wrong(
                501,
                "5.5.4",
                format!("the value of {param} is not valid"),
            ));
        }
        Err(Fault::InvalidParameter { param }) => return Err(unsupported(param)),
        Err(Fault::UnsupportedParameter { param }) => return Err(unsupported(&param)),
        Err(Fault::SyntaxError { syntax: form }) => {
            return Err(syntax(format!("it should be: {form}")));
        }
        Err(_) => return Err(syntax("the command is not complete")),
    };

    let alone = |command| {
        if line.len() == verb.len() {
            Ok(command)
        } else {
            Err(syntax("it takes no parameter"))
        }
    };

    match request {
        Request::Ehlo { host } => Ok(SmtpCommand::Ehlo(host.into_owned())),
        Request::Helo { host } => Ok(SmtpCommand::Helo(host.into_owned())),
        Request::StartTls => alone(SmtpCommand::StartTls),
        Request::Data => alone(SmtpCommand::Data),
        Request::Rset => alone(SmtpCommand::Rset),
        Request::Quit => alone(SmtpCommand::Quit),
        Request::Noop { .. } => Ok(SmtpCommand::Noop),
        Request::Help { .. } => Ok(SmtpCommand::Help),
        Request::Vrfy { .. } => Ok(SmtpCommand::Vrfy),
        Request::Mail { from } => mail(path, &from),
        Request::Rcpt { to } => rcpt(path, &to),
        Request::Auth {
            mechanism,
            initial_response,
        } => {
            let mechanism = match mechanism {
                AUTH_PLAIN => Mechanism::Plain,
                AUTH_LOGIN => Mechanism::Login,
                _ => return Err(wrong(504, "5.5.4", "PLAIN and LOGIN are what is offered")),
            };
            let initial = (!initial_response.is_empty()).then(|| initial_response.into_owned());
            Ok(SmtpCommand::Auth { mechanism, initial })
        }
        known => Err(wrong(
            502,
            "5.5.1",
            format!("{} is not offered here", known.name()),
        )),
    }
}

/// Whether `SIZE=`, which may have up to 20 digits (RFC 1870 §3), exceeds our numbers: the parser
/// would read some of those as small ones.
fn is_size_beyond_number(line: &str) -> bool {
    let sizes = line.split([' ', '\t']).filter_map(|word| {
        let (name, digits) = word.split_once('=')?;
        name.eq_ignore_ascii_case("SIZE").then_some(digits)
    });
    sizes
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        .any(|digits| digits.parse::<usize>().is_err())
}

fn mail(path: &str, from: &MailFrom<Cow<'_, str>>) -> Result<SmtpCommand, CommandError> {
    let others = [
        (
            from.flags & !(MAIL_BODY_7BIT | MAIL_BODY_8BITMIME | MAIL_SMTPUTF8) != 0,
            "BODY=BINARYMIME, RET, BY or the like",
        ),
        (from.trans_id.is_some(), "TRANSID"),
        (from.env_id.is_some(), "ENVID"),
        (from.solicit.is_some(), "SOLICIT"),
        (from.mtrk.is_some(), "MTRK"),
        (from.hold_for != 0, "HOLDFOR"),
        (from.hold_until != 0, "HOLDUNTIL"),
        (from.mt_priority != 0, "MT-PRIORITY"),
    ];

    if let Some((_, name)) = others.iter().find(|(given, _)| *given) {
        return Err(unsupported(name));
    }
    let smtputf8 = from.flags & MAIL_SMTPUTF8 != 0;
    let return_path = match path {
        "" => None,
        text => Some(address(text, "5.1.7")?),
    };

    if !smtputf8 && return_path.as_ref().is_some_and(|a| !a.is_ascii()) {
        return Err(needs_smtputf8());
    }
    Ok(SmtpCommand::Mail {
        return_path,
        size: from.size,
        smtputf8,
    })
}

fn rcpt(path: &str, to: &RcptTo<Cow<'_, str>>) -> Result<SmtpCommand, CommandError> {
    if to.orcpt.is_some() || to.rrvs != 0 || to.flags != 0 {
        return Err(unsupported("NOTIFY, ORCPT or the like"));
    }
    if path.eq_ignore_ascii_case("postmaster") {
        return Ok(SmtpCommand::RcptPostmaster);
    }
    Ok(SmtpCommand::Rcpt(address(path, "5.1.3")?))
}

/// `BDAT size [LAST]` (RFC 3030 §2). If it cannot be parsed, the octets that follow cannot be
/// distinguished from commands.
fn chunk(line: &str) -> Result<SmtpCommand, CommandError> {
    let mut words = line.split([' ', '\t']).filter(|w| !w.is_empty()).skip(1);
    let size = words
        .next()
        .filter(|w| w.len() <= SIZE_DIGITS && w.bytes().all(|b| b.is_ascii_digit()));

    let last = words.next();
    match (size.and_then(|s| s.parse().ok()), last, words.next()) {
        (Some(size), None, None) => Ok(SmtpCommand::Bdat { size, last: false }),
        (Some(size), Some(word), None) if word.eq_ignore_ascii_case("LAST") => {
            Ok(SmtpCommand::Bdat { size, last: true })
        }
        _ => Err(CommandError::OutOfStep(SmtpReply::new(
            501,
            "5.5.4",
            "it should be: BDAT chunk-size [LAST]",
        ))),
    }
}

/// The address between the angle brackets, without a source route (RFC 5321 §4.1.1.3), and the line
/// without it. smtp-proto parses the latter: it knows no address literals, and removes the quotes
/// of quoted local parts, some of which are not valid without them.
fn take_path(line: &str) -> Option<(&str, String)> {
    let Some(open) = line.find('<').map(|at| at + 1) else {
        return bare_path(line);
    };
    let rest = &line[open..];
    let (mut quoted, mut escaped, mut literal, mut start) = (false, false, false, 0);
    for (at, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '[' | ']' if !quoted => literal = c == '[',
            // A colon in an address literal does not end a route.
            ':' if !quoted && !literal && start == 0 && rest.starts_with('@') => start = at + 1,
            '>' if !quoted => {
                return Some((
                    rest[start..at].trim(),
                    format!("{}{}\r\n", &line[..open], &rest[at..]),
                ));
            }
            _ => {}
        }
    }

    None
}

/// The same for an address without angle brackets, as some devices send it: one word.
fn bare_path(line: &str) -> Option<(&str, String)> {
    let start = line.find(':')? + 1;
    let text = line[start..].trim_start();
    let (path, parameters) = text.split_at(text.find([' ', '\t']).unwrap_or(text.len()));
    let is_word = path.contains('@') && !path.contains(['"', '\\', '>']);
    is_word.then(|| (path, format!("{}<>{parameters}\r\n", &line[..start])))
}

fn address(text: &str, enhanced: &'static str) -> Result<Address, CommandError> {
    Address::of_path(text).map_err(|why| wrong(501, enhanced, format!("the address {why}")))
}

fn wrong(code: u16, enhanced: &'static str, text: impl Into<Cow<'static, str>>) -> CommandError {
    CommandError::Command(SmtpReply::new(code, enhanced, text))
}

fn syntax(text: impl Into<Cow<'static, str>>) -> CommandError {
    wrong(501, "5.5.4", text)
}

fn unsupported(parameter: &str) -> CommandError {
    wrong(
        555,
        "5.5.4",
        format!("the parameter {parameter} is not offered here"),
    )
}

/// The reply to a non-ASCII address in a mail without SMTPUTF8 (RFC 6531 §3.5).
pub(super) fn needs_smtputf8() -> CommandError {
    wrong(
        553,
        "5.6.7",
        "an address beyond ASCII needs SMTPUTF8 with MAIL",
    )
}

#[cfg(test)]
mod tests;
