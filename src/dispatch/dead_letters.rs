//! Dead letters: what failed for good, kept for inspection, to be tried again or deleted.

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

/// How much a purge deleted, or would.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Mails.
    pub mails: u64,
    /// Recipients of these mails who got them, of whom there is no record any more.
    pub delivered: u64,
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
    /// looked at). Returns how many; with `dry_run` it only counts. What has begun goes on to its
    /// end, also where nobody waits for it any more.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn retry(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        Ok(self.act(Act::Retry, filter, dry_run).await?.mails)
    }

    /// Deletes every finished mail with a dead delivery that `filter` admits, likewise.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        Ok(self.purge_all(filter, dry_run).await?.mails)
    }

    /// The same, and says also of how many recipients who got their mail the record goes with it.
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
            let ended = walk(&postrider.in_part(), act, query, false, &mut acted_on).await;
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

/// Does it to all of them, or only counts those.
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

/// How many of its recipients got a mail.
fn delivered_of(record: &Record) -> u64 {
    let deliveries = record.deliveries.iter();
    let delivered = deliveries.filter(|one| matches!(one.stage, Stage::Delivered { .. }));
    delivered.count() as u64
}

/// Which dead letters a filter means, in words.
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
