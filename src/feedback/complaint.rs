//! Complaints (RFC 5965): somebody told a mailbox provider that a mail was unwanted.

use mail_parser::Message;

use super::fields::{self, FieldGroups};
use super::{Finding, words};
use crate::delivery::FeedbackKind;

/// What a complaint says; `None` for one that is not about wishes, such as a failed authentication
/// (RFC 6591), or that takes one back.
pub(super) fn read(groups: &FieldGroups, notice: &str) -> Option<Finding> {
    let kind = groups.first("feedback-type")?.to_ascii_lowercase();
    let kind = kind.split([' ', ';', '(']).next().unwrap_or_default();
    if !matches!(
        kind,
        "abuse" | "fraud" | "opt-out" | "opt-out-list" | "virus" | "other"
    ) {
        return None;
    }

    let recipient = groups
        .first("original-rcpt-to")
        .or_else(|| groups.first("removal-recipient"));

    let agent = groups.first("user-agent").unwrap_or_default();
    let text = match notice.trim().is_empty() {
        true => agent,
        false => notice
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned(),
    };

    Some(Finding {
        kind: FeedbackKind::Complained,
        recipients: recipient
            .and_then(|to| fields::address(&to))
            .into_iter()
            .collect(),
        status: Some(kind.to_owned()),
        text: words(&text),
        permanent: false,
    })
}

/// Who sends on what somebody has marked as junk, without a report (Microsoft's Junk Mail Reporting
/// Program), and the field of the copy that names who did.
const JUNK_REPORTER: &str = "staff@hotmail.com";
const JUNK_REPORTED_BY: &str = "X-HmXmrOriginalRecipient";

/// A complaint that is no more than the mail itself, sent back by whom it was given to.
pub(super) fn forwarded(message: &Message<'_>, copy: &Message<'_>) -> Option<Finding> {
    let from = message.from().and_then(|from| from.first())?.address()?;
    if !from.eq_ignore_ascii_case(JUNK_REPORTER) {
        return None;
    }

    let recipient = copy.header_raw(JUNK_REPORTED_BY)?;
    Some(Finding {
        kind: FeedbackKind::Complained,
        recipients: fields::address(recipient.trim()).into_iter().collect(),
        status: Some("abuse".to_owned()),
        text: words(message.subject().unwrap_or_default()),
        permanent: false,
    })
}
