//! Dead letters: deliveries that failed for good, kept for inspection, to be retried or deleted.

use futures::StreamExt;

use super::bulk::{Act, BulkSteps};
use super::{Dispatcher, Error, StatusPage};
use crate::delivery::{Stage, State};
use crate::spool::{Query, Record, SpoolError};

/// The dead letters; see [`Dispatcher::dead_letters`].
#[derive(Clone, Copy)]
pub struct DeadLetters<'a> {
    postrider: &'a Dispatcher,
}

/// What a purge deleted, or with `dry_run` would delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// The number of mails.
    pub mails: u64,
    /// The number of recipients who got these mails; the record of that is deleted too.
    pub delivered: u64,
}

impl DeadLetters<'_> {
    /// One page of mails with a dead delivery that match `filter`; the filter's state is ignored.
    ///
    /// # Errors
    /// The same as [`Dispatcher::list`].
    pub async fn list(&self, filter: Query) -> Result<StatusPage, Error> {
        let query = Query {
            state: Some(State::Dead),
            ..filter
        };
        self.postrider.list(query).await
    }

    /// Retries every mail with a dead delivery that matches `filter`, whose state and cursor are
    /// ignored. Returns how many; with `dry_run` it only counts them. Once started, it runs to the
    /// end, even if the caller stops waiting.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        Ok(self.act(Act::Retry, filter, dry_run).await?.mails)
    }

    /// Deletes every finished mail with a dead delivery that matches `filter`, in the same way.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        Ok(self.purge_all(filter, dry_run).await?.mails)
    }

    /// The same as [`DeadLetters::purge`], but returns also the number of delivered recipients.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_all(&self, filter: Query, dry_run: bool) -> Result<Purged, Error> {
        self.act(Act::Purge, filter, dry_run).await
    }

    async fn act(&self, act: Act, filter: Query, dry_run: bool) -> Result<Purged, Error> {
        let words = words(&filter);
        let query = Query {
            state: Some(State::Dead),
            cursor: None,
            ..filter
        };

        let mut acted_on = Purged::default();
        if dry_run {
            walk(self.postrider, act, query, true, &mut acted_on).await?;
            return Ok(acted_on);
        }

        let postrider = self.postrider.clone();
        let acting = tokio::spawn(async move {
            let ended = walk(&postrider.as_part(), act, query, false, &mut acted_on).await;
            postrider
                .note_many(act.as_str(), acted_on.mails, words)
                .await;
            ended.map(|()| acted_on)
        });
        acting
            .await
            .unwrap_or_else(|_| Err(SpoolError::panicked().into()))
    }
}

/// Applies the operation to all of them, or only counts them.
async fn walk(
    postrider: &Dispatcher,
    act: Act,
    query: Query,
    dry_run: bool,
    acted_on: &mut Purged,
) -> Result<(), Error> {
    let mut steps = BulkSteps::new(postrider, act, query);
    while let Some(records) = steps.next().await? {
        let mut results = act.on_all(postrider, &records);
        for record in &records {
            let is_done = dry_run || results.next().await.transpose()? == Some(true);
            if is_done {
                acted_on.mails += 1;
                acted_on.delivered += delivered_of(record);
            }
        }
    }

    Ok(())
}

/// The number of recipients to whom a mail was delivered.
fn delivered_of(record: &Record) -> u64 {
    let deliveries = record.deliveries.iter();
    let delivered = deliveries.filter(|one| matches!(one.stage, Stage::Delivered { .. }));
    delivered.count() as u64
}

/// The filter as the text of a search.
fn words(filter: &Query) -> String {
    let mut words = "state:dead".to_owned();
    if let Some(recipient) = &filter.recipient {
        words += &format!(" recipient:{recipient}");
    }
    if let Some(tag) = &filter.tag {
        words += &format!(" tag:{tag}");
    }
    if let Some(priority) = filter.priority {
        words += &format!(" priority:{}", priority.as_str());
    }
    if let Some(since) = filter.since {
        words += &format!(" since:{since}");
    }
    if let Some(until) = filter.until {
        words += &format!(" until:{until}");
    }

    words
}

impl Dispatcher {
    /// The dead letters.
    pub fn dead_letters(&self) -> DeadLetters<'_> {
        DeadLetters { postrider: self }
    }

    /// The same as [`DeadLetters::retry`].
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        self.dead_letters().retry(filter, dry_run).await
    }

    /// The same as [`DeadLetters::purge`].
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_dead(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        self.dead_letters().purge(filter, dry_run).await
    }
}
