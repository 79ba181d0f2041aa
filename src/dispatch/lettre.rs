//! [`Dispatcher`] as lettre's `AsyncTransport`: a program that uses lettre changes one line and
//! gains a durable queue.

use async_trait::async_trait;
use lettre::AsyncTransport;

use super::{Dispatcher, Error, Receipt};
use crate::mail::{Envelope, Mail};

#[async_trait]
impl AsyncTransport for Dispatcher {
    type Ok = Receipt;
    type Error = Error;

    /// Accepts the message with lettre's envelope: `Ok` means that it is stored durably, not that
    /// it was sent. Options in `X-Postrider-*` fields are applied, and the fields removed.
    async fn send_raw(
        &self,
        envelope: &lettre::address::Envelope,
        message: &[u8],
    ) -> Result<Receipt, Error> {
        let envelope = Envelope::from_lettre(envelope)?;
        let (mail, asked) = Mail::handed_in(envelope, message.to_vec(), self.intake())?;
        self.submit(mail.with_options(asked)?).await
    }
}
