//! Dead letters: what failed for good, kept for inspection, to be tried again or deleted.

use super::{Dispatcher, Error, StatusPage};
use crate::delivery::State;
use crate::mail::MailId;
use crate::spool::{OperationResult, Query};

/// The dead letters; see [`Dispatcher::dead_letters`].
#[derive(Clone, Copy)]
pub struct DeadLetters<'a> {
    postrider: &'a Dispatcher,
}

impl DeadLetters<'_> {
    /// One page of mails with a dead delivery that `filter` admits; its state is not looked at.
    ///
    /// # Errors
    /// As [`Dispatcher::list`].
    pub async fn list(&self, filter: Query) -> Result<StatusPage, Error> {
        let query = Query {
            state: Some(State::Dead),
            ..filter
        };
        self.postrider.list(query).await
    }

    /// Retries every mail with a dead delivery that `filter` admits (its state and cursor are not
    /// looked at). Returns how many; with `dry_run` it only counts.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let engine = &self.postrider.inner.engine;
        let lifetime = engine.retry.expire_after;
        let mut count = 0;
        for (id, _) in self.all(filter).await? {
            let done = dry_run
                || matches!(
                    engine.spool.retry(id, engine.clock.now(), lifetime).await?,
                    OperationResult::Done(_)
                );
            count += u64::from(done);
        }
        Ok(count)
    }

    /// Deletes every finished mail with a dead delivery that `filter` admits, likewise.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        let spool = &self.postrider.inner.engine.spool;
        let mut count = 0;
        for (id, finished) in self.all(filter).await? {
            let done =
                finished && (dry_run || matches!(spool.purge(id).await?, OperationResult::Done(_)));
            count += u64::from(done);
        }
        Ok(count)
    }

    /// Every mail with a dead delivery that `filter` admits, and whether all its deliveries have
    /// ended.
    async fn all(&self, filter: Query) -> Result<Vec<(MailId, bool)>, Error> {
        let engine = &self.postrider.inner.engine;
        let mut query = Query {
            state: Some(State::Dead),
            limit: 1000,
            cursor: None,
            ..filter
        };
        let mut ids = Vec::new();
        loop {
            let page = engine.spool.list(query.clone(), engine.clock.now()).await?;
            ids.extend(
                page.mails
                    .iter()
                    .map(|record| (record.manifest.id, record.finished_at().is_some())),
            );
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return Ok(ids),
            }
        }
    }
}

impl Dispatcher {
    /// What failed for good.
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters { postrider: self }
    }

    /// As [`DeadLetters::retry`].
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        self.dead_letters().retry(filter, dry_run).await
    }

    /// As [`DeadLetters::purge`].
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        self.dead_letters().purge(filter, dry_run).await
    }
}
