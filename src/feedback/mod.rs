//! What servers write back about mail: delivery reports (RFC 3464), those that only look like it,
//! and complaints (RFC 5965). Pure: bytes go in, findings come out; `dispatch` knows whose they
//! are.
//!
//! *Invariant:* whatever the bytes, reading ends, and costs work in proportion to [`REPORT_BYTES`]
//! at most; nothing of what is found is longer than [`TEXT_CHARACTERS`].

mod complaint;
mod delivery_status;
mod fields;
mod letter;
mod prose;

use mail_parser::{HeaderValue, Message, MessageParser, MessagePart, MimeHeaders, PartType};

use crate::delivery::{FeedbackKind, printable};
use crate::mail::has_too_many_pieces;
use fields::FieldGroups;
pub use letter::{Letter, read_letter};

/// The most bytes of a report that are looked at. What it says comes before the copy of the mail.
pub const REPORT_BYTES: usize = 1024 * 1024;
/// The most parts that are looked at.
const MOST_PARTS: usize = 64;
/// How often a report may name a kind of part that others stand in.
const MOST_NESTED: usize = 50;
/// Who speaks for a server.
const SERVER_NAMES: [&str; 5] = [
    "mailer-daemon",
    "postmaster",
    "mail-daemon",
    "maildaemon",
    "mailerdaemon",
];
/// The most findings of one report.
const MOST_FINDINGS: usize = 100;
/// The most characters of what is told in words.
pub const TEXT_CHARACTERS: usize = 500;

/// What a report says of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What happened.
    pub kind: FeedbackKind,
    /// Whom it is about, in lower case, as far as that is said: who it was sent to first, then who
    /// it went to in the end.
    pub recipients: Vec<String>,
    /// The enhanced status code; of a complaint its type.
    pub status: Option<String>,
    /// What was said in words.
    pub text: String,
    /// Whether it failed for good.
    pub permanent: bool,
}

/// A report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it says, at least one.
    pub findings: Vec<Finding>,
    /// The Message-IDs of the mails that came back with it.
    pub message_ids: Vec<String>,
    /// Everything in it, decoded: whoever signs return paths finds them here.
    pub contents: Vec<Vec<u8>>,
}

/// What a message is that came to where reports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportReading {
    /// A report.
    Report(Report),
    /// A report that nothing follows from: a delay, a note that it was passed on.
    Nothing,
    /// None at all: an answer of a person or of a program.
    NoReport,
}

/// Reads a message that may be a report.
pub fn read(message: &[u8]) -> ReportReading {
    let bytes = &message[..message.len().min(REPORT_BYTES)];
    // Parsers go as deep as they are led.
    if count(bytes, b"message/") > MOST_NESTED || count(bytes, b"multipart/") > MOST_NESTED {
        return ReportReading::NoReport;
    }
    if has_too_many_pieces(bytes) {
        return ReportReading::NoReport;
    }

    let Some(parsed) = MessageParser::default().parse(bytes) else {
        return ReportReading::NoReport;
    };
    let (mut statuses, mut complaint) = (None, None);
    let mut forwarded = None;
    let mut contents = vec![bytes.to_vec()];

    let mut message_ids = Vec::new();
    for part in parsed.parts.iter().take(MOST_PARTS) {
        if let PartType::Message(copy) = &part.body {
            contents.push(copy.raw_message.to_vec());
            message_ids.extend(copy.message_id().map(str::to_owned));
            forwarded = forwarded.or_else(|| complaint::forwarded(&parsed, copy));
            continue;
        }
        let Some(content) = content(part) else {
            continue;
        };
        match subtype(part).as_deref() {
            Some("delivery-status" | "global-delivery-status") => {
                statuses = statuses.or(Some(FieldGroups::read(content)));
            }
            Some("feedback-report") => complaint = complaint.or(Some(FieldGroups::read(content))),
            Some("rfc822-headers" | "global-headers") => {
                let copy = FieldGroups::read(content);
                message_ids.extend(copy.first("message-id").map(|id| bare(&id)));
            }
            // Some leave out, or lose, what kind of part it is.
            _ if delivery_status::looks_like_it(content) => {
                statuses = statuses.or(Some(FieldGroups::read(content)));
            }
            _ => {}
        }
        contents.push(content.to_vec());
    }

    if let Some(complaint) = complaint {
        let found = complaint::read(&complaint, &text_of(&parsed));
        return report(found.into_iter().collect(), message_ids, contents);
    }

    if let Some(statuses) = statuses {
        let found = delivery_status::read(&statuses, &text_of(&parsed));
        return report(found, message_ids, contents);
    }

    if let Some(forwarded) = forwarded {
        return report(vec![forwarded], message_ids, contents);
    }

    match prose::read(&text_of(&parsed), writer(&parsed)) {
        prose::ProseReading::Failed(finding, more) => {
            message_ids.extend(more);
            report(vec![finding], message_ids, contents)
        }
        prose::ProseReading::Delayed => ReportReading::Nothing,
        prose::ProseReading::Else => ReportReading::NoReport,
    }
}

fn report(
    mut findings: Vec<Finding>,
    message_ids: Vec<String>,
    contents: Vec<Vec<u8>>,
) -> ReportReading {
    findings.truncate(MOST_FINDINGS);
    if findings.is_empty() {
        return ReportReading::Nothing;
    }
    ReportReading::Report(Report {
        findings,
        message_ids,
        contents,
    })
}

/// How often a word stands there, in upper or lower case; no more than is of interest.
fn count(bytes: &[u8], word: &[u8]) -> usize {
    let found = bytes.windows(word.len());
    let found = found.filter(|window| window.eq_ignore_ascii_case(word));
    found.take(MOST_NESTED + 1).count()
}

fn subtype(part: &MessagePart<'_>) -> Option<String> {
    let kind = part.content_type()?;
    Some(kind.subtype()?.to_ascii_lowercase())
}

/// A part's content, decoded.
fn content<'a>(part: &'a MessagePart<'_>) -> Option<&'a [u8]> {
    match &part.body {
        PartType::Text(text) | PartType::Html(text) => Some(text.as_bytes()),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => Some(bytes),
        PartType::Message(_) | PartType::Multipart(_) => None,
    }
}

/// What a report says to people: its text, or its page where there is no other.
fn text_of(message: &Message<'_>) -> String {
    let text = message.body_text(0).unwrap_or_default();
    text.chars().take(64 * 1024).collect()
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Author {
    /// Somebody who speaks for a server.
    Server,
    /// It came from nobody (RFC 5321 §4.5.5), and is no answer.
    Nobody,
    /// Anybody else.
    Somebody,
}

fn writer(message: &Message<'_>) -> Author {
    let from = message.from().and_then(|from| from.first());
    let from = from.and_then(|from| from.address()).unwrap_or_default();
    let name = from.split('@').next().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    let from_nobody = match message.header("Return-Path") {
        Some(HeaderValue::Text(path)) => path.trim_matches(['<', '>', ' ']).is_empty(),
        Some(HeaderValue::Empty) => true,
        _ => from.is_empty(),
    };

    match () {
        () if SERVER_NAMES.contains(&name.as_str()) => Author::Server,
        () if name.starts_with("microsoftexchange") => Author::Server,
        () if from_nobody && !is_answer(message) => Author::Nobody,
        () => Author::Somebody,
    }
}

/// Whether it says of itself that it answers, as those do for people who are away (RFC 3834 §5).
fn is_answer(message: &Message<'_>) -> bool {
    let says = |name: &str, what: &[&str]| {
        let said = message.header(name).and_then(HeaderValue::as_text);
        said.is_some_and(|said| {
            let said = said.trim().to_ascii_lowercase();
            what.iter().any(|what| said.starts_with(what))
        })
    };
    let away = ["auto:", "automatic reply", "out of office", "autoreply"];
    says("Auto-Submitted", &["auto-replied"])
        || says("X-Autoreply", &["yes"])
        || says("Precedence", &["auto_reply"])
        || says("Subject", &away)
}

/// An id without its angle brackets.
fn bare(id: &str) -> String {
    id.trim()
        .trim_matches(['<', '>'])
        .chars()
        .take(TEXT_CHARACTERS)
        .collect()
}

/// Words as they may be kept and shown.
fn words(text: &str) -> String {
    let joined: Vec<&str> = text.split_whitespace().collect();
    printable(&joined.join(" "))
        .chars()
        .take(TEXT_CHARACTERS)
        .collect()
}
