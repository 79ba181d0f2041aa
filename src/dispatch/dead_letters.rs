//! Dead letters: what failed for good, kept for inspection, to be tried again or deleted.

use futures::future::join_all;

use super::{Dispatcher, Error, StatusPage};
use crate::delivery::{Stage, State};
use crate::mail::MailId;
use crate::spool::{OperationResult, Query, Record};

/// So many are retried or deleted at once, so that they share commits.
const AT_ONCE: usize = 256;

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

/// A mail with a dead delivery.
struct DeadLetter {
    mail: MailId,
    /// Whether all its deliveries have ended.
    is_finished: bool,
    /// How many of its recipients got it.
    delivered: u64,
}

impl DeadLetter {
    fn of(record: &Record) -> Self {
        let is_delivered = |stage: Stage| matches!(stage, Stage::Delivered { .. });
        let delivered = record
            .deliveries
            .iter()
            .filter(|one| is_delivered(one.stage));
        DeadLetter {
            mail: record.manifest.id,
            is_finished: record.finished_at().is_some(),
            delivered: delivered.count() as u64,
        }
    }
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
        let by = self.postrider.by_in_part();
        let words = words(&filter);

        let mut count = 0;
        let all = async {
            let letters = self.all(filter).await?;
            if dry_run {
                count = letters.len() as u64;
                return Ok(());
            }
            for letters in letters.chunks(AT_ONCE) {
                let mut retrying = Vec::with_capacity(letters.len());
                for letter in letters {
                    let (spool, now) = (&engine.spool, engine.clock.now());
                    retrying.push(spool.retry_by(&by, letter.mail, now, lifetime));
                }
                for retried in join_all(retrying).await {
                    count += u64::from(matches!(retried?, OperationResult::Done(_)));
                }
            }
            Ok(())
        };

        let ended = all.await;
        if !dry_run {
            self.note("retry", count, words).await;
        }
        ended.map(|()| count)
    }

    /// Deletes every finished mail with a dead delivery that `filter` admits, likewise.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge(&self, filter: Query, dry_run: bool) -> Result<u64, Error> {
        Ok(self.purge_all(filter, dry_run).await?.mails)
    }

    /// Notes what was done to all of them together.
    async fn note(&self, act: &str, count: u64, filter: String) {
        self.postrider.note_many(act, count, filter).await;
    }

    /// The same, and says also of how many recipients who got their mail the record goes with it.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn purge_all(&self, filter: Query, dry_run: bool) -> Result<Purged, Error> {
        let engine = &self.postrider.inner.engine;
        let by = self.postrider.by_in_part();
        let words = words(&filter);

        let mut purged = Purged::default();
        let all = async {
            let mut letters = self.all(filter).await?;
            letters.retain(|letter| letter.is_finished);
            for letters in letters.chunks(AT_ONCE) {
                let mut purging = Vec::with_capacity(letters.len());
                for letter in letters.iter().filter(|_| !dry_run) {
                    let (spool, now) = (&engine.spool, engine.clock.now());
                    purging.push(spool.purge_by(&by, letter.mail, now));
                }
                let mut results = join_all(purging).await.into_iter();
                for letter in letters {
                    let done = dry_run
                        || matches!(results.next().transpose()?, Some(OperationResult::Done(_)));
                    purged.mails += u64::from(done);
                    purged.delivered += if done { letter.delivered } else { 0 };
                }
            }
            Ok(())
        };

        let ended = all.await;
        if !dry_run {
            self.note("purge", purged.mails, words).await;
        }
        ended.map(|()| purged)
    }

    /// Every mail with a dead delivery that `filter` admits.
    async fn all(&self, filter: Query) -> Result<Vec<DeadLetter>, Error> {
        let query = Query {
            state: Some(State::Dead),
            cursor: None,
            ..filter
        };
        let mut letters = Vec::new();
        let mut pages = self.postrider.inner.engine.pages(query, 1000);
        while let Some((records, _)) = pages.next().await? {
            letters.extend(records.iter().map(DeadLetter::of));
        }
        Ok(letters)
    }
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
