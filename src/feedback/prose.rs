//! Bounces in free text, as sent by qmail, Exim, older Exchange servers and some large providers.
//! Also used for the text in machine-readable reports.

use super::{Author, Finding, bare, words};
use crate::delivery::FeedbackKind;

/// What a text says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProseReading {
    /// The mail could not be delivered; with the Message-ID of the copy in the text.
    Failed(Finding, Option<String>),
    /// The mail is delayed; the server goes on trying.
    Delayed,
    /// Anything else.
    Else,
}

/// How bounces in free text begin.
const OPENINGS: [&str; 23] = [
    "this is the qmail-send program",
    "this message was created automatically by mail delivery software",
    "this message was created automatically by the mail system",
    "your message did not reach some or all of the intended recipients",
    "delivery has failed to these recipients",
    "delivery to these recipients or distribution lists failed",
    "delivery to the following recipient failed",
    "delivery to the following recipients failed",
    "unable to deliver message to the following address",
    "unable to deliver your message to the following address",
    "sorry, we were unable to deliver your message",
    "did not reach the following recipient",
    "could not be delivered to",
    "could not be delivered for the following reason",
    "the following addresses had permanent fatal errors",
    "the following recipient(s) could not be reached",
    "the message you sent could not be delivered",
    "your message could not be delivered",
    "failed to deliver to",
    "this is a permanent error",
    "i wasn't able to deliver your message",
    "had permanent fatal delivery errors",
    "your message could not be sent",
];

/// Words that mean a failure, where there is no status, code or phrase that gives the cause.
const FAILURES: [&str; 6] = [
    "permanent",
    "could not be",
    "not able to deliver",
    "wasn't able to deliver",
    "unable to deliver",
    "failed",
];

/// Words that mean a delay only.
const DELAYS: [&str; 8] = [
    "this is a warning message only",
    "you do not need to resend",
    "no action is required on your part",
    "has not yet been delivered",
    "will be retried",
    "delivery attempts will continue",
    "is still being tried",
    "message delayed",
];

/// Phrases about an address, and the status that each stands for. The first match counts.
const MEANINGS: [(&str, &str); 37] = [
    ("over quota", "5.2.2"),
    ("overquota", "5.2.2"),
    ("quota exceeded", "5.2.2"),
    ("exceeded storage", "5.2.2"),
    ("mailbox full", "5.2.2"),
    ("mailbox is full", "5.2.2"),
    ("account is full", "5.2.2"),
    ("account has been disabled", "5.2.1"),
    ("account has been suspended", "5.2.1"),
    ("account is disabled", "5.2.1"),
    ("account disabled", "5.2.1"),
    ("mailbox disabled", "5.2.1"),
    ("mailbox is disabled", "5.2.1"),
    ("mailbox is inactive", "5.2.1"),
    ("account that you tried to reach is disabled", "5.2.1"),
    ("user unknown", "5.1.1"),
    ("unknown user", "5.1.1"),
    ("no such user", "5.1.1"),
    ("no such recipient", "5.1.1"),
    ("no such mailbox", "5.1.1"),
    ("no mailbox here by that name", "5.1.1"),
    ("unrouteable address", "5.1.1"),
    ("unknown recipient", "5.1.1"),
    ("recipient unknown", "5.1.1"),
    ("recipient not found", "5.1.1"),
    ("recipnotfound", "5.1.1"),
    ("user not found", "5.1.1"),
    ("mailbox not found", "5.1.1"),
    ("mailbox unavailable", "5.1.1"),
    ("does not exist", "5.1.1"),
    ("doesn't have a", "5.1.1"),
    ("not listed in", "5.1.1"),
    ("this account has been closed", "5.1.1"),
    ("invalid recipient", "5.1.1"),
    ("address rejected", "5.1.1"),
    ("couldn't find any host", "5.1.2"),
    ("domain not found", "5.1.2"),
];

/// Reads a text. One from a server may be in any language: a reply code or status of a failure in
/// it is enough.
pub(super) fn read(text: &str, writer: Author) -> ProseReading {
    let lower = text.to_lowercase();
    // Everything below belongs to the returned mail.
    let end = copy_at(&lower).unwrap_or(lower.len());

    let (notice, copy) = lower.split_at(end);
    let notice_in_one_line = joined(notice);
    let has = |phrases: &[&str]| phrases.iter().any(|one| notice_in_one_line.contains(one));
    let opens = has(&OPENINGS);
    let may_report = match writer {
        Author::Server => true,
        Author::Nobody => opens,
        Author::Somebody => false,
    };
    if !may_report {
        return ProseReading::Else;
    }
    if has(&DELAYS) {
        return ProseReading::Delayed;
    }

    let original: String = text.chars().take(notice.chars().count()).collect();
    let line = line_with_reason(&original);

    let status = most_specific(None, line.as_deref().unwrap_or_default());
    let status = status.or_else(|| most_specific(None, notice));
    let status = status.filter(|status| opens || status.starts_with('5'));
    if status.is_none() && !(opens && has(&FAILURES)) {
        return ProseReading::Else;
    }
    let finding = Finding {
        kind: FeedbackKind::Bounced,
        recipients: addresses(notice),
        permanent: status
            .as_ref()
            .is_some_and(|status| status.starts_with('5')),
        status,
        text: line.unwrap_or_else(|| words(&original)),
    };

    let id = copy
        .lines()
        .find_map(|line| line.trim().strip_prefix("message-id:"));
    // Ids are case-sensitive, and the lower-case text has the same offsets only if all is ASCII.
    let id = id.map(bare).filter(|id| id.is_ascii());

    ProseReading::Failed(finding, id)
}

/// Where the copy of the mail begins.
fn copy_at(lower: &str) -> Option<usize> {
    let marks = [
        "--- below this line is a copy of the message",
        "------ this is a copy of the message",
        "------ this is a copy of your message",
        "----- original message -----",
        "--- original message follows",
        "----- message header",
        "original message headers:",
        "the header of the original message",
        "- message text follows:",
        "received: from ",
        "return-path: <",
    ];
    marks.iter().filter_map(|mark| lower.find(mark)).min()
}

fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The line with the cause: the first with a status, else the first with a reply code, else the
/// first with a known phrase.
pub(super) fn line_with_reason(text: &str) -> Option<String> {
    let lines = || text.lines().take(2000);
    let with_status = lines().find(|line| status_in(line).is_some());
    let with_code = || lines().find(|line| code_in(line).is_some());
    let with_words = || lines().find(|line| meaning(&line.to_lowercase()).is_some());
    let found = with_status.or_else(with_code).or_else(with_words)?;
    Some(words(found))
}

/// The most specific status: one that is not generic, else the one that the phrases stand for, else
/// any.
pub(super) fn most_specific(said: Option<String>, text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|words| lower.contains(words));
    let is_unknown = has(&UNKNOWN_USER) && !has(&OF_THE_SENDER);
    let is_particular =
        |status: &String| !(status.ends_with(".0") || is_unknown && status.ends_with(".7.1"));
    let first = said.clone().filter(is_particular);
    let of_text = || status_in(text);

    let class = said.as_deref().and_then(|said| said.chars().next());
    let by_words = || {
        let meant = meaning(&lower)?;
        let class = class
            .or_else(|| code_in(text)?.chars().next())
            .unwrap_or('5');
        Some(format!("{class}{}", &meant[1..]))
    };

    first
        .or_else(|| of_text().filter(is_particular))
        .or_else(by_words)
        .or(said)
        .or_else(of_text)
        .or_else(|| Some(format!("{}.0.0", code_in(text)?.chars().next()?)))
}

/// Phrases about the sender's address, which say nothing about the recipient's.
const OF_THE_SENDER: [&str; 5] = [
    "sender address",
    "sender rejected",
    "sender verif",
    "invalid sender",
    "rejected (sender)",
];

/// Phrases that are certain even beside another status: some servers add the one of a policy.
const UNKNOWN_USER: [&str; 5] = [
    "no such user",
    "user unknown",
    "unknown user",
    "user not found",
    "no such recipient",
];

fn meaning(lower: &str) -> Option<&'static str> {
    if OF_THE_SENDER.iter().any(|words| lower.contains(words)) {
        return None;
    }
    let known = MEANINGS.iter().find(|(words, _)| lower.contains(words));
    known.map(|(_, status)| *status)
}

/// The first enhanced status code (RFC 3463) in a text; IP addresses and version numbers are
/// skipped.
pub(super) fn status_in(text: &str) -> Option<String> {
    let pieces = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
    for piece in pieces {
        let mut numbers = piece.trim_end_matches('.').split('.');
        let (Some(class), Some(subject), Some(detail), None) = (
            numbers.next(),
            numbers.next(),
            numbers.next(),
            numbers.next(),
        ) else {
            continue;
        };
        let is_number = |text: &str| {
            (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let is_subject = is_number(subject) && subject.len() == 1 && subject <= "7";
        if matches!(class, "2" | "4" | "5") && is_subject && is_number(detail) {
            return Some(format!("{class}.{subject}.{detail}"));
        }
    }

    None
}

/// The first reply code of a failure (RFC 5321 §4.2) in a text.
fn code_in(text: &str) -> Option<&str> {
    let mut words = text.split(|c: char| {
        c.is_whitespace() || matches!(c, '-' | '(' | ')' | ':' | '#' | '<' | '>' | ',')
    });
    words.find(|word| {
        let digits = word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
        digits
            && matches!(
                &word[..2],
                "42" | "43" | "44" | "45" | "50" | "51" | "52" | "53" | "54" | "55" | "57"
            )
    })
}

/// The addresses in a text, in order.
fn addresses(notice: &str) -> Vec<String> {
    let is_edge = |c: char| {
        c.is_whitespace()
            || matches!(
                c,
                '<' | '>' | '(' | ')' | '[' | ']' | '"' | '\'' | ',' | ';'
            )
    };

    let mut found: Vec<String> = Vec::new();
    for word in notice.split(is_edge) {
        let word = word
            .strip_prefix("mailto:")
            .unwrap_or(word)
            .trim_matches([':', '.']);
        let is_address = word.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.contains('@')
        });
        if is_address && word.len() <= 320 && !found.iter().any(|known| known == word) {
            found.push(word.to_owned());
        }
        if found.len() == 10 {
            break;
        }
    }

    found
}
