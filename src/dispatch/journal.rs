//! The journal for whoever reads it by name: webhooks, alerts, series. A reader with a name begins
//! again where it was done, whatever happened in between.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Dispatcher, Error};
use crate::delivery::Event;
use crate::mail::Timestamp;
use crate::spool::{Journal, JournalPage, ReaderChange, ReaderStatus, Spool, SpoolError};

/// How many events a reader gets at a time.
const BATCH: usize = 1024;
/// How often a node asks whether it may read what another reads: one that is killed tells nobody.
const TURN_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The journal; see [`Dispatcher::journal`].
#[derive(Clone)]
pub struct JournalHandle {
    spool: Weak<dyn Spool>,
}

/// A reader with a name. What it has not said that it is done with is read again, after a crash as
/// well: at least once.
pub struct JournalReader {
    journal: JournalHandle,
    name: String,
    /// What it is done with.
    done: u64,
    /// What it was given.
    at: u64,
    /// Whether it was found to be read here.
    is_held: bool,
    /// Whether another node may have read it since it was asked for.
    is_outdated: bool,
}

impl JournalHandle {
    fn spool(&self) -> Result<Arc<dyn Spool>, Error> {
        let spool = self.spool.upgrade();
        Ok(spool.ok_or(SpoolError::Closed)?)
    }

    /// Names this journal, over restarts: its numbers mean nothing in another one.
    pub fn name(&self) -> String {
        let spool = self.spool.upgrade();
        let id = spool.as_ref().and_then(|spool| spool.journal());
        format!("{:08x}", id.map_or(0, Journal::id))
    }

    /// The number of the last event.
    ///
    /// # Errors
    /// [`Error::Spool`] where the spool is closed or keeps no journal.
    pub fn last(&self) -> Result<u64, Error> {
        let spool = self.spool()?;
        let last = *journal(&spool)?.last().borrow();
        Ok(last)
    }

    /// The number after which everything happened at this time or later.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn since(&self, at: Timestamp) -> Result<u64, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.since(at).await?)
    }

    /// The events after this number, about `most` of them; none where there are none yet.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn after(&self, number: u64, most: usize) -> Result<JournalPage, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.after(number, most).await?)
    }

    /// The reader of this name. One that is new begins after `otherwise`, or with what happens from
    /// now on.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn reader(&self, name: &str, otherwise: Option<u64>) -> Result<JournalReader, Error> {
        let spool = self.spool()?;
        let journal = journal(&spool)?;
        let otherwise = otherwise.unwrap_or(*journal.last().borrow());
        let done = journal.reader(name, otherwise).await?;
        Ok(JournalReader {
            journal: self.clone(),
            name: name.to_owned(),
            done,
            at: done,
            is_held: false,
            is_outdated: false,
        })
    }

    /// What a reader keeps under names from `from` (included) to `to` (excluded), at most so many.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn kept(
        &self,
        reader: &str,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.kept(reader, from, to, most).await?)
    }

    /// Changes what a reader keeps, whichever node reads it.
    ///
    /// # Errors
    /// [`Error::Spool`].
    #[cfg(feature = "notify")]
    pub(crate) async fn leave(
        &self,
        reader: &str,
        changes: Vec<ReaderChange>,
    ) -> Result<(), Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.leave(reader, changes).await?)
    }

    /// Has a reader be read here, if no other node reads it; returns whether it is.
    ///
    /// # Errors
    /// [`Error::Spool`].
    #[cfg(feature = "notify")]
    pub(super) async fn hold(&self, name: &str) -> Result<bool, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.hold(name).await?)
    }

    /// Whether a reader is read here, and by no other node that shares the spool.
    pub(super) fn holds(&self, name: &str) -> bool {
        let spool = self.spool.upgrade();
        let journal = spool.as_ref().and_then(|spool| spool.journal());
        journal.is_some_and(|journal| journal.holds(name))
    }

    /// Whether a reader is read by another node that shares the spool. As long as it is not, it is
    /// this node's, or will soon be.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub(super) async fn is_held_elsewhere(&self, name: &str) -> Result<bool, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.is_held_elsewhere(name).await?)
    }

    /// Forgets a reader, and all that it keeps.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.forget(name).await?)
    }

    /// The readers that have names.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn readers(&self) -> Result<Vec<ReaderStatus>, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.readers().await?)
    }

    /// What people and programs did, the newest first: at most `most`, before the event of this
    /// number where one is given.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn acts(&self, before: Option<u64>, most: usize) -> Result<Vec<Arc<Event>>, Error> {
        let spool = self.spool()?;
        let before = before.unwrap_or(u64::MAX);
        Ok(journal(&spool)?.acts(before, most).await?)
    }
}

impl JournalReader {
    /// Waits until it is read here and by no other node that shares the spool.
    async fn hold(&mut self) -> Result<(), Error> {
        // Kept, since whoever waits may be broken off.
        self.is_outdated |= std::mem::replace(&mut self.is_held, false);

        loop {
            let spool = self.journal.spool()?;
            let journal = journal(&spool)?;
            if journal.hold(&self.name).await? {
                let done = journal.reader(&self.name, self.done).await?;
                // What it keeps may be another's work: whoever reads begins again with that.
                return match self.is_outdated || done != self.done {
                    true => Err(SpoolError::StaleLease.into()),
                    false => {
                        self.is_held = true;
                        Ok(())
                    }
                };
            }
            drop(spool);
            self.is_outdated = true;
            tokio::time::sleep(TURN_POLL_INTERVAL).await;
        }
    }

    /// The next events; waits until there are some. Where several nodes share the spool only one of
    /// them gets any: the others wait until that one is gone.
    ///
    /// # Errors
    /// [`Error::Spool`]; with [`SpoolError::StaleLease`] where another node has read meanwhile: ask
    /// for the reader anew.
    pub async fn next(&mut self) -> Result<JournalPage, Error> {
        if !self.is_held || !self.journal.holds(&self.name) {
            self.hold().await?;
        }

        loop {
            let spool = self.journal.spool()?;
            let journal = journal(&spool)?;
            let mut last = journal.last();
            let page = journal.after(self.at, BATCH).await?;
            drop(spool);
            if page.missed > 0 || !page.events.is_empty() {
                self.at = page.last;
                return Ok(page);
            }
            let at = self.at;
            let more = last.wait_for(|last| *last > at).await;
            more.map_err(|_| SpoolError::Closed)?;
        }
    }

    /// Notes that it is done with everything up to this number.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn advance(&mut self, to: u64) -> Result<(), Error> {
        self.advance_with(to, Vec::new()).await
    }

    /// As [`JournalReader::advance`]; in the same commit it changes what it keeps.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn advance_with(&mut self, to: u64, changes: Vec<ReaderChange>) -> Result<(), Error> {
        let spool = self.journal.spool()?;
        journal(&spool)?.advance(&self.name, to, changes).await?;
        self.done = to;
        Ok(())
    }

    /// What it is done with.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// What it keeps under names from `from` (included) to `to` (excluded), at most so many.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn kept(
        &self,
        from: Vec<u8>,
        to: Vec<u8>,
        most: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        self.journal.kept(&self.name, from, to, most).await
    }
}

fn journal(spool: &Arc<dyn Spool>) -> Result<&dyn Journal, Error> {
    let none = || SpoolError::Unreadable("this spool keeps no journal".into());
    Ok(spool.journal().ok_or_else(none)?)
}

impl Dispatcher {
    /// The durable record of what happened.
    pub fn journal(&self) -> JournalHandle {
        JournalHandle {
            spool: Arc::downgrade(&self.inner.engine.spool),
        }
    }
}
