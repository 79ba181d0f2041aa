//! Parses what servers send back about mail: delivery status notifications (RFC 3464), bounces in
//! free text, and complaints (RFC 5965). Pure functions; `dispatch` finds the mail that a report is
//! about.
//!
//! *Invariant:* parsing ends for any input, and costs work in proportion to at most
//! [`REPORT_BYTES`]. No text in a finding is longer than [`TEXT_CHARACTERS`].

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

/// The most bytes of a report that are read. The copy of the mail, which may be long, comes last.
pub const REPORT_BYTES: usize = 1024 * 1024;
/// The most parts of a report that are read.
const MOST_PARTS: usize = 64;
/// How many parts that contain others (`message/*`, `multipart/*`) a report may mention.
const MOST_NESTED: usize = 50;
/// The local parts of addresses that servers send from.
const SERVER_NAMES: [&str; 5] = [
    "mailer-daemon",
    "postmaster",
    "mail-daemon",
    "maildaemon",
    "mailerdaemon",
];
/// The most findings of a report.
const MOST_FINDINGS: usize = 100;
/// The most characters of a finding's text.
pub const TEXT_CHARACTERS: usize = 500;

/// What a report says about one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What happened.
    pub kind: FeedbackKind,
    /// The recipient's addresses in lower case, if the report has them: first the original
    /// recipient, then the final one.
    pub recipients: Vec<String>,
    /// The enhanced status code; for a complaint, its type.
    pub status: Option<String>,
    /// The explanation in the report.
    pub text: String,
    /// Whether the failure is permanent.
    pub permanent: bool,
}

/// A parsed report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The findings, at least one.
    pub findings: Vec<Finding>,
    /// The Message-IDs of the mails in the report.
    pub message_ids: Vec<String>,
    /// The decoded contents of all its parts. A caller that signs return paths searches these for
    /// them.
    pub contents: Vec<Vec<u8>>,
}

/// What kind of message was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportReading {
    /// A report.
    Report(Report),
    /// A report without consequences, such as a delay or a note that the mail was passed on.
    Nothing,
    /// Not a report: a reply from a person or a program.
    NoReport,
}

/// Reads a message that may be a report.
pub fn read(message: &[u8]) -> ReportReading {
    let bytes = &message[..message.len().min(REPORT_BYTES)];
    // The parser recurses into nested parts without a limit of its own.
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
            // Some senders omit the content type, and some relays remove it.
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

/// How often a word occurs, in upper or lower case; stops counting above [`MOST_NESTED`].
fn count(bytes: &[u8], word: &[u8]) -> usize {
    let found = bytes.windows(word.len());
    let found = found.filter(|window| window.eq_ignore_ascii_case(word));
    found.take(MOST_NESTED + 1).count()
}

fn subtype(part: &MessagePart<'_>) -> Option<String> {
    let kind = part.content_type()?;
    Some(kind.subtype()?.to_ascii_lowercase())
}

/// The decoded content of a part.
fn content<'a>(part: &'a MessagePart<'_>) -> Option<&'a [u8]> {
    match &part.body {
        PartType::Text(text) | PartType::Html(text) => Some(text.as_bytes()),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => Some(bytes),
        PartType::Message(_) | PartType::Multipart(_) => None,
    }
}

/// The text of a report for people; its HTML, as text, if there is no plain text.
fn text_of(message: &Message<'_>) -> String {
    let text = message.body_text(0).unwrap_or_default();
    text.chars().take(64 * 1024).collect()
}

/// Who wrote a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Author {
    /// A server, judging by the address.
    Server,
    /// A message with a null return path (RFC 5321 §4.5.5) that is not an automatic reply.
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

/// Whether a message declares itself an automatic reply, such as an out-of-office note (RFC 3834
/// §5).
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

/// A message id without its angle brackets.
fn bare(id: &str) -> String {
    id.trim()
        .trim_matches(['<', '>'])
        .chars()
        .take(TEXT_CHARACTERS)
        .collect()
}

/// A text on one line, shortened, with unprintable characters escaped.
fn words(text: &str) -> String {
    let joined: Vec<&str> = text.split_whitespace().collect();
    printable(&joined.join(" "))
        .chars()
        .take(TEXT_CHARACTERS)
        .collect()
}
