//! The outbox: what applications have enqueued in transactions of their own, on its way to the
//! queue. The door that composes it asks here.

use super::{Dispatcher, Error};
use crate::mail::{Mail, MailId, Submitter};
use crate::spool::{Handful, OutboxDraft, SpoolError};

/// What a spool's outbox holds, for whoever composes it; see [`Dispatcher::outbox`].
#[derive(Clone)]
pub struct OutboxHandle {
    postrider: Dispatcher,
}

impl Dispatcher {
    /// The outbox, where the spool has one.
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

    /// The oldest drafts that nobody else has in hand, at most so many.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn take(&self, most: Handful) -> Result<Vec<OutboxDraft>, Error> {
        Ok(self.outbox()?.take(most).await?)
    }

    /// Waits until there may be drafts that nobody has in hand; those of a node that is gone are
    /// told of by nobody.
    pub async fn arrived(&self) {
        match self.outbox() {
            Ok(outbox) => outbox.arrived().notified().await,
            Err(_) => std::future::pending().await,
        }
    }

    /// Submits drafts that were composed, each under its own name: it leaves the outbox in the
    /// commit in which its mail is kept. None is sent without that: the outbox keeps it already.
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

    /// Keeps a draft that cannot become a mail as one that is dead as `rejected`.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn reject(&self, draft: &OutboxDraft, reason: &str) -> Result<(), Error> {
        let now = self.postrider.inner.engine.clock.now();
        Ok(self.outbox()?.reject(draft, reason, now).await?)
    }

    /// Gives drafts back that could not be submitted now.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn give_back(&self, drafts: Vec<MailId>) -> Result<(), Error> {
        Ok(self.outbox()?.give_back(drafts).await?)
    }

    /// The templates that drafts may name.
    pub fn postrider(&self) -> &Dispatcher {
        &self.postrider
    }
}
