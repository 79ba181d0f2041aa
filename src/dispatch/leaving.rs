//! Unsubscribing from a list by mail (RFC 2369 §3.2): the recipient writes to the address in the
//! message's `List-Unsubscribe` field, with the token of the link as subject. If a mail program
//! omits the subject, the address itself identifies the mail, while its record is kept.
//!
//! *Invariant:* no answer is ever sent, and automatic replies of programs unsubscribe nobody
//! (RFC 3834 §2).

use super::Error;
use super::feedback::{FeedbackHandle, FeedbackReceipt, REPORT_SOURCE, ReportError};
use super::lists::Unsubscription;
use super::returns::Returned;
use crate::delivery::FeedbackKind;
use crate::feedback::{self, Letter};
use crate::mail::Address;

impl FeedbackHandle<'_> {
    /// Handles a message that is not a report. If it was sent to an unsubscribe address, its
    /// recipient leaves the list, unless a program sent it automatically.
    ///
    /// # Errors
    /// [`ReportError::NoReport`] if it was sent to no such address, [`ReportError::NoList`] if it
    /// does not say which list is meant.
    pub(super) async fn take_other_message(
        &self,
        message: &[u8],
        to: &[Address],
        is_trusted: bool,
    ) -> Result<Vec<FeedbackReceipt>, ReportError> {
        let metrics = &self.engine().metrics;
        let letter = feedback::read_letter(message);
        let Some(delivery) = self.delivery_of(to, is_trusted.then_some(&letter)) else {
            metrics.fed_back(REPORT_SOURCE, "no_report");
            return Err(ReportError::NoReport);
        };

        if letter.is_answer {
            metrics.fed_back(REPORT_SOURCE, "nothing");
            return Ok(Vec::new());
        }

        let by_token = self.postrider().read_unsubscribe(&letter.subject);
        let said = match by_token {
            Some(said) => Some(said),
            None => self.list_of(delivery).await?,
        };
        let Some(said) = said else {
            metrics.fed_back(REPORT_SOURCE, "unknown");
            return Err(ReportError::NoList);
        };

        let is_new = self.postrider().unsubscribe_address(&said).await?;
        let kind = FeedbackKind::Unsubscribed;
        metrics.fed_back(REPORT_SOURCE, if is_new { kind.as_str() } else { "known" });

        Ok(vec![FeedbackReceipt {
            mail: said.mail,
            recipient: said.address,
            kind,
            status: None,
            known: !is_new,
            suppressed: is_new,
        }])
    }

    /// The delivery to whose unsubscribe address a message was sent. If the message has no
    /// envelope, because it came through a pipe, its header section has the address.
    fn delivery_of(&self, to: &[Address], letter: Option<&Letter>) -> Option<Returned> {
        let returns = self.returns()?;
        let named = to
            .iter()
            .find_map(|to| returns.read_unsubscribe_address(to));

        let mut header = letter.into_iter().flat_map(|letter| &letter.to);
        named.or_else(|| {
            header.find_map(|to| returns.read_unsubscribe_address(&Address::read(to).ok()?))
        })
    }

    /// The list of a mail whose record is kept, and the recipient.
    async fn list_of(&self, (mail, index): Returned) -> Result<Option<Unsubscription>, Error> {
        let record = self.engine().spool.get(mail).await?;
        Ok(record.and_then(|record| {
            let delivery = record.deliveries.get(usize::from(index))?;
            Some(Unsubscription {
                mail,
                address: delivery.recipient.clone(),
                list: record.manifest.list?,
            })
        }))
    }
}
