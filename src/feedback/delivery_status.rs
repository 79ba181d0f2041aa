//! Delivery status notifications (RFC 3464): one group of fields for the message, and one for each
//! recipient.

use super::fields::{self, FieldGroups};
use super::{Finding, prose, words};
use crate::delivery::FeedbackKind;

/// Whether a part with another content type, or none, contains a delivery status notification.
pub(super) fn looks_like_it(content: &[u8]) -> bool {
    let start = String::from_utf8_lossy(&content[..content.len().min(4096)]).to_ascii_lowercase();
    let start = start.trim_start();
    let begins = [
        "reporting-mta:",
        "original-envelope-id:",
        "final-recipient:",
        "arrival-date:",
    ];
    begins.iter().any(|name| start.starts_with(name)) && start.contains("final-recipient:")
}

/// Returns a finding for each recipient. Recipients whose mail is only delayed, or was passed on to
/// a system that sends no reports, have none.
pub(super) fn read(groups: &FieldGroups, notice: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for group in &groups.0 {
        let given = |name: &str| fields::field(group, name);
        let recipients: Vec<String> = ["original-recipient", "final-recipient"]
            .iter()
            .filter_map(|name| fields::address(&given(name)?))
            .collect();
        let (action, said) = (given("action"), given("status"));
        if action.is_none() && said.is_none() || given("final-recipient").is_none() {
            continue;
        }

        let diagnostic = given("diagnostic-code").unwrap_or_default();
        let diagnostic = match diagnostic.split_once(';') {
            Some((kind, rest)) if !kind.trim().contains(' ') => rest.trim().to_owned(),
            _ => diagnostic,
        };
        let status = prose::most_specific(said.as_deref().and_then(prose::status_in), &diagnostic);
        let is_permanent = status
            .as_deref()
            .is_some_and(|status| status.starts_with('5'));
        let action = action.unwrap_or_default().to_ascii_lowercase();
        let kind = match action.split_whitespace().next().unwrap_or_default() {
            "failed" => FeedbackKind::Bounced,
            "delivered" => FeedbackKind::Delivered,
            "delayed" | "relayed" | "expanded" => continue,
            _ if is_permanent => FeedbackKind::Bounced,
            _ => continue,
        };
        let text = match diagnostic.is_empty() {
            true => prose::line_with_reason(notice).unwrap_or_default(),
            false => words(&diagnostic),
        };
        findings.push(Finding {
            kind,
            recipients,
            status,
            text,
            permanent: kind == FeedbackKind::Bounced && is_permanent,
        });
    }

    findings
}
