//! The journal for named readers: webhooks, alerts, time series. A named reader continues where it
//! left off, whatever happened in between.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{Dispatcher, Error};
use crate::delivery::Event;
use crate::mail::Timestamp;
use crate::spool::{Journal, JournalPage, ReaderChange, ReaderStatus, Spool, SpoolError};

/// How many events a reader gets at once.
const BATCH: usize = 1024;
/// How often a node checks whether it may become the owner of a reader: a node that was killed does
/// not announce it.
const TURN_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The journal; see [`Dispatcher::journal`].
#[derive(Clone)]
pub struct JournalHandle {
    spool: Weak<dyn Spool>,
}

/// A named reader. Events that it has not confirmed are read again, also after a crash: each is
/// processed at least once.
pub struct JournalReader {
    journal: JournalHandle,
    name: String,
    /// The number of the last event that is confirmed.
    done: u64,
    /// The number of the last event that was returned.
    at: u64,
    /// Whether this node owns the reader.
    is_held: bool,
    /// Whether another node may have advanced the reader since it was opened.
    is_outdated: bool,
}

impl JournalHandle {
    fn spool(&self) -> Result<Arc<dyn Spool>, Error> {
        let spool = self.spool.upgrade();
        Ok(spool.ok_or(SpoolError::Closed)?)
    }

    /// The id of this journal. It survives restarts; event numbers are valid only together with it.
    pub fn name(&self) -> String {
        let spool = self.spool.upgrade();
        let id = spool.as_ref().and_then(|spool| spool.journal());
        format!("{:08x}", id.map_or(0, Journal::id))
    }

    /// The number of the last event.
    ///
    /// # Errors
    /// [`Error::Spool`] if the spool is closed or has no journal.
    pub fn last(&self) -> Result<u64, Error> {
        let spool = self.spool()?;
        let last = *journal(&spool)?.last().borrow();
        Ok(last)
    }

    /// The number of the last event before this time.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn since(&self, at: Timestamp) -> Result<u64, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.since(at).await?)
    }

    /// About `most` events after this number; none if there are none yet.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn after(&self, number: u64, most: usize) -> Result<JournalPage, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.after(number, most).await?)
    }

    /// Opens the reader with this name. A new one starts after `otherwise`, or with the next event.
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

    /// The records of a reader with keys from `from` (inclusive) to `to` (exclusive), at most
    /// `most`.
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

    /// Changes the records of a reader, even if another node owns it.
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

    /// Makes this node the owner of a reader, if no other node is; returns whether it is the owner.
    ///
    /// # Errors
    /// [`Error::Spool`].
    #[cfg(feature = "notify")]
    pub(super) async fn hold(&self, name: &str) -> Result<bool, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.hold(name).await?)
    }

    /// Whether this node owns a reader.
    pub(super) fn holds(&self, name: &str) -> bool {
        let spool = self.spool.upgrade();
        let journal = spool.as_ref().and_then(|spool| spool.journal());
        journal.is_some_and(|journal| journal.holds(name))
    }

    /// Whether another node that shares the spool owns a reader. If not, this node does, or soon
    /// will.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub(super) async fn is_held_elsewhere(&self, name: &str) -> Result<bool, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.is_held_elsewhere(name).await?)
    }

    /// Deletes a reader with all its records.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn forget(&self, name: &str) -> Result<(), Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.forget(name).await?)
    }

    /// The named readers.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn readers(&self) -> Result<Vec<ReaderStatus>, Error> {
        let spool = self.spool()?;
        Ok(journal(&spool)?.readers().await?)
    }

    /// Operations of people and programs, the newest first: at most `most`, before the event with
    /// this number if one is given.
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
    /// Waits until this node owns the reader.
    async fn hold(&mut self) -> Result<(), Error> {
        // Set before waiting, because the caller may drop this future.
        self.is_outdated |= std::mem::replace(&mut self.is_held, false);

        loop {
            let spool = self.journal.spool()?;
            let journal = journal(&spool)?;
            if journal.hold(&self.name).await? {
                let done = journal.reader(&self.name, self.done).await?;
                // Another node may have changed the records, so the caller must open the reader
                // again.
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

    /// The next events; waits until there are some. If several nodes share the spool, only the
    /// owner of the reader gets events; the others wait until it is gone.
    ///
    /// # Errors
    /// [`Error::Spool`]; [`SpoolError::StaleLease`] in it if another node has read meanwhile: then
    /// open the reader again.
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

    /// Confirms all events up to this number.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn advance(&mut self, to: u64) -> Result<(), Error> {
        self.advance_with(to, Vec::new()).await
    }

    /// The same as [`JournalReader::advance`]; changes records of the reader in the same commit.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn advance_with(&mut self, to: u64, changes: Vec<ReaderChange>) -> Result<(), Error> {
        let spool = self.journal.spool()?;
        journal(&spool)?.advance(&self.name, to, changes).await?;
        self.done = to;
        Ok(())
    }

    /// The number of the last confirmed event.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The records of this reader with keys from `from` (inclusive) to `to` (exclusive), at most
    /// `most`.
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
    /// The journal of events.
    pub fn journal(&self) -> JournalHandle {
        JournalHandle {
            spool: Arc::downgrade(&self.inner.engine.spool),
        }
    }
}
