//! Leaving a list by mail (RFC 2369 §3.2): whoever has the message writes to the address in its
//! `List-Unsubscribe`, and the subject that stands there bears the token of the link. Where a
//! program left the subject out, the address leads to the mail, as long as that is kept.
//!
//! *Invariant:* nothing is ever written back, and what programs answer by themselves is no wish of
//! anybody (RFC 3834 §2).

use super::Error;
use super::feedback::{FeedbackHandle, FeedbackReceipt, REPORT, ReportError};
use super::lists::Unsubscription;
use super::returns::Returned;
use crate::delivery::FeedbackKind;
use crate::feedback::{self, Letter};
use crate::mail::Address;

impl FeedbackHandle<'_> {
    /// Takes a message that is no report. What came to an address to leave a list by has its
    /// recipient leave it; nothing follows from what a program answered there.
    ///
    /// # Errors
    /// [`ReportError::NoReport`] where it came to no such address, [`ReportError::NoList`] where it
    /// does not say which list is meant.
    pub(super) async fn take_letter(
        &self,
        message: &[u8],
        to: &[Address],
        is_trusted: bool,
    ) -> Result<Vec<FeedbackReceipt>, ReportError> {
        let metrics = &self.engine().metrics;
        let letter = feedback::read_letter(message);
        let Some(delivery) = self.left_at(to, is_trusted.then_some(&letter)) else {
            metrics.fed_back(REPORT, "no_report");
            return Err(ReportError::NoReport);
        };

        if letter.is_answer {
            metrics.fed_back(REPORT, "nothing");
            return Ok(Vec::new());
        }

        let by_token = self.postrider().read_unsubscribe(&letter.subject);
        let said = match by_token {
            Some(said) => Some(said),
            None => self.list_of(delivery).await?,
        };
        let Some(said) = said else {
            metrics.fed_back(REPORT, "unknown");
            return Err(ReportError::NoList);
        };

        let is_new = self.postrider().leave(&said).await?;
        let kind = FeedbackKind::Unsubscribed;
        metrics.fed_back(REPORT, if is_new { kind.as_str() } else { "known" });

        Ok(vec![FeedbackReceipt {
            mail: said.mail,
            recipient: said.address,
            kind,
            status: None,
            known: !is_new,
            suppressed: is_new,
        }])
    }

    /// The delivery to whose address a letter came; its own header says that where only a pipe
    /// does not.
    fn left_at(&self, to: &[Address], letter: Option<&Letter>) -> Option<Returned> {
        let returns = self.returns()?;
        let named = to.iter().find_map(|to| returns.read_leaving(to));

        let mut header = letter.into_iter().flat_map(|letter| &letter.to);
        named.or_else(|| header.find_map(|to| returns.read_leaving(&Address::read(to).ok()?)))
    }

    /// The list of a mail that is kept, and its recipient.
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
