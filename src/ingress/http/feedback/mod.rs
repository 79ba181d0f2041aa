//! `/v1/feedback/`: reports about sent mail, as messages and as providers' events.

mod proof;
pub(super) mod provider;
pub(super) mod report;

mod brevo;
mod mailgun;
mod postmark;
mod resend;
mod sendgrid;
mod ses;
mod sns;

use serde::Serialize;
use utoipa::ToSchema;

use crate::FeedbackKind;
use crate::dispatch::FeedbackReceipt;
use crate::mail::{Address, MailId};

/// Whether a path receives providers' events.
pub(super) fn is_of_a_provider(path: &str) -> bool {
    let name = path.strip_prefix("/v1/feedback/");
    name.is_some_and(|name| {
        provider::Provider::ALL
            .iter()
            .any(|one| one.as_str() == name)
    })
}

/// The result of a report or of events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// What was stored, or known already. Empty if there is nothing to store, as for a report of a
    /// delay.
    results: Vec<TakenFeedback>,
}

/// One reported event, with the mail that it is about.
#[derive(Debug, Serialize, ToSchema)]
struct TakenFeedback {
    /// The mail.
    mail: MailId,
    /// Its recipient.
    recipient: Address,
    /// What happened.
    kind: FeedbackKind,
    /// The status code, or the type of the complaint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    status: Option<String>,
    /// Whether it was known already.
    duplicate: bool,
    /// Whether the address is suppressed because of it.
    suppressed: bool,
}

impl Taken {
    fn of(receipts: Vec<FeedbackReceipt>) -> Self {
        let results = receipts.into_iter().map(|receipt| TakenFeedback {
            mail: receipt.mail,
            recipient: receipt.recipient,
            kind: receipt.kind,
            status: receipt.status,
            duplicate: receipt.known,
            suppressed: receipt.suppressed,
        });
        Taken {
            results: results.collect(),
        }
    }
}
