//! Complaints (RFC 5965): reports that a recipient has marked a mail as unwanted.

use mail_parser::Message;

use super::fields::{self, FieldGroups};
use super::{Finding, words};
use crate::delivery::FeedbackKind;

/// Returns the finding of a complaint; `None` for a report that is no complaint, such as one about
/// a failed authentication (RFC 6591), or that withdraws an earlier one.
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

/// The sender that forwards mail marked as junk, without a report (Microsoft's Junk Mail Reporting
/// Program), and the field in the forwarded copy that names the recipient.
const JUNK_REPORTER: &str = "staff@hotmail.com";
const JUNK_REPORTED_BY: &str = "X-HmXmrOriginalRecipient";

/// Returns the finding of a complaint that consists only of the mail itself, forwarded by the
/// recipient's provider.
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
