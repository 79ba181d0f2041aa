//! The outbox: what applications have enqueued in their own database transactions. The HTTP
//! listener's outbox task composes it to mail and submits it.

use super::{Dispatcher, Error};
use crate::mail::{Mail, MailId, Submitter};
use crate::spool::{Handful, OutboxDraft, SpoolError};

/// Access to a spool's outbox; see [`Dispatcher::outbox`].
#[derive(Clone)]
pub struct OutboxHandle {
    postrider: Dispatcher,
}

impl Dispatcher {
    /// The outbox; `None` if the spool has none.
    pub fn outbox(&self) -> Option<OutboxHandle> {
        self.inner.engine.spool.outbox()?;
        let mut postrider = self.for_door("outbox");
        postrider.submitter = Submitter::Local;
        Some(OutboxHandle { postrider })
    }
}

impl OutboxHandle {
    fn outbox(&self) -> Result<&dyn crate::spool::Outbox, Error> {
        let outbox = self.postrider.inner.engine.spool.outbox();
        Ok(outbox.ok_or(SpoolError::Closed)?)
    }

    /// The oldest drafts that no other node is processing, at most `most`.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn take(&self, most: Handful) -> Result<Vec<OutboxDraft>, Error> {
        Ok(self.outbox()?.take(most).await?)
    }

    /// Waits until there may be new drafts. Drafts of a node that is gone are not announced.
    pub async fn arrived(&self) {
        match self.outbox() {
            Ok(outbox) => outbox.arrived().notified().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// Submits composed drafts, each with its own id: a draft is removed from the outbox in the
    /// commit that stores its mail. They are never sent directly instead, because the outbox is
    /// durable already.
    pub async fn submit(&self, mails: Vec<(MailId, Mail)>) -> Vec<(MailId, Result<(), Error>)> {
        let ids: Vec<MailId> = mails.iter().map(|(id, _)| *id).collect();
        let mails = mails.into_iter().map(|(id, mail)| mail.named(id)).collect();
        let Dispatcher {
            inner,
            door,
            submitter,
            ..
        } = &self.postrider;
        let receipts = inner.accept.accept(&inner.engine, mails, door, submitter);
        let receipts = receipts.await;

        let mut results = Vec::with_capacity(ids.len());
        for (id, receipt) in ids.into_iter().zip(receipts) {
            let result = match receipt {
                Ok(receipt) if receipt.duplicate => match self.outbox() {
                    Ok(outbox) => outbox.became(id, receipt.id).await.map_err(Error::from),
                    Err(error) => Err(error),
                },
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            results.push((id, result));
        }

        results
    }

    /// Stores a draft that cannot be composed as a mail that is dead as `rejected`.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn reject(&self, draft: &OutboxDraft, reason: &str) -> Result<(), Error> {
        let now = self.postrider.inner.engine.clock.now();
        Ok(self.outbox()?.reject(draft, reason, now).await?)
    }

    /// Returns drafts that could not be submitted now to the outbox.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn give_back(&self, drafts: Vec<MailId>) -> Result<(), Error> {
        Ok(self.outbox()?.give_back(drafts).await?)
    }

    /// The dispatcher, which has the templates.
    pub fn postrider(&self) -> &Dispatcher {
        &self.postrider
    }
}
