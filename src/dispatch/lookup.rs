//! Finds the mail that a user names by something other than its whole id: the beginning of the id,
//! an idempotency key, a Message-ID, or the address of a sender who has submitted only one mail.
//!
//! Ids sort, keys have a table, and a Message-ID that was made here contains the mail's id: these
//! are looked up. Everything else is searched for, the newest mail first, at most one page of the
//! spool per call; if there is more mail, the caller is told where to continue.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::{Dispatcher, Error};
use crate::mail::{MailId, Submitter};
use crate::spool::{Manifest, Query, RecordFilter, SpoolError};

/// How many characters of an id are a name for it, at least.
const SHORTEST_ID_PREFIX: usize = 4;
/// How many of the mails that a name fits are listed in the error.
const MOST_NAMED: usize = 5;

/// A name, prepared for comparison.
#[derive(Clone)]
struct MailName {
    given: String,
    /// If it can be the beginning of an id: the range of ids that begin with it.
    ids: Option<(MailId, MailId)>,
}

impl MailName {
    fn read(given: &str) -> Self {
        let digits = given.trim().replace('-', "");
        MailName {
            given: given.trim().to_owned(),
            ids: MailId::range(&digits).filter(|_| digits.len() >= SHORTEST_ID_PREFIX),
        }
    }

    /// Whether it names this mail by something other than its id.
    fn is_of(&self, mail: &Manifest) -> bool {
        let sender = mail.return_path.as_ref();
        mail.given_key() == Some(self.given.as_str())
            || bare(&mail.message_id) == bare(&self.given)
            || sender.is_some_and(|path| path.as_str().eq_ignore_ascii_case(&self.given))
    }

    fn fits(&self, mails: Vec<MailId>) -> Error {
        Error::Ambiguous {
            name: self.shown(),
            mails,
        }
    }

    fn shown(&self) -> String {
        self.given.chars().take(200).collect()
    }
}

/// A Message-ID without its angle brackets.
fn bare(message_id: &str) -> &str {
    message_id.trim_matches(['<', '>'])
}

impl Engine {
    /// The mail with this idempotency key: of this submitter, or one for each known submitter.
    async fn by_key(&self, of: Option<&Submitter>, key: &str) -> Result<Vec<MailId>, SpoolError> {
        let whose = match of {
            Some(whose) => vec![whose.clone()],
            None => self.accounts.known(),
        };
        let mut found = Vec::new();

        for whose in whose {
            if let Some(id) = self.spool.by_key(&whose, key).await?
                && self.spool.get(id).await?.is_some()
            {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// The mail whose id is part of this Message-ID.
    async fn by_message_id(
        &self,
        of: Option<&Submitter>,
        message_id: &str,
    ) -> Result<Option<MailId>, SpoolError> {
        let message_id = bare(message_id);
        let made_here = message_id.split_once('@').map(|(id, _)| id.parse());
        let Some(Ok(id)) = made_here else {
            return Ok(None);
        };
        let record = self.spool.get(id).await?;
        let is_it = record.is_some_and(|record| {
            let manifest = &record.manifest;
            bare(&manifest.message_id) == message_id
                && of.is_none_or(|of| manifest.owner().as_ref() == Some(of))
        });
        Ok(is_it.then_some(id))
    }

    /// The query for the spool: names of mails are looked up first, and if they are found, no other
    /// mail is searched.
    pub(super) async fn narrowed(&self, query: Query) -> Result<Query, SpoolError> {
        if query.cursor.is_some() {
            return Ok(query);
        }

        let mut found = BTreeSet::new();
        let of = query.submitter.as_ref();
        if let Some(message_id) = &query.message_id {
            found.extend(self.by_message_id(of, message_id).await?);
        } else if let Some(key) = &query.key {
            found.extend(self.by_key(of, key).await?);
        }

        // Between several there may be so many that a page ends.
        Ok(match found.first() {
            Some(id) if found.len() == 1 => query.within(*id, *id),
            _ => query,
        })
    }
}

impl Dispatcher {
    /// The mail that `name` means: its id or the first characters of it (at least four), its
    /// idempotency key, its Message-ID, or its sender. With `of`, among this one's mail alone. A
    /// whole id is believed.
    ///
    /// # Errors
    /// [`Error::UnknownName`], [`Error::Ambiguous`] where it fits several, [`Error::NotAllSeen`]
    /// where there is more mail than was looked at and [`Dispatcher::find_from`] goes on, or
    /// [`Error::Spool`].
    pub async fn find(&self, name: &str, of: Option<&Submitter>) -> Result<MailId, Error> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }

        let name = MailName::read(name);
        if name.given.is_empty() {
            return Err(Error::UnknownName(String::new()));
        }

        let engine = &self.inner.engine;
        let mut found = BTreeSet::new();
        if let Some((first, last)) = name.ids {
            let query = Query {
                limit: MOST_NAMED,
                submitter: of.cloned(),
                ..Query::default()
            };
            let query = query.within(first, last);
            let page = engine.spool.list(query, engine.clock.now()).await?;
            found.extend(page.mails.iter().map(|record| record.manifest.id));
        }
        found.extend(engine.by_key(of, &name.given).await?);
        found.extend(engine.by_message_id(of, &name.given).await?);

        let newest_first: Vec<MailId> = found.into_iter().rev().take(MOST_NAMED).collect();
        match newest_first[..] {
            [] => self.look_on(&name, of, None).await,
            [id] => Ok(id),
            _ => Err(name.fits(newest_first)),
        }
    }

    /// As [`Dispatcher::find`], by key, Message-ID and sender among the mail behind a place that
    /// [`Error::NotAllSeen`] named.
    ///
    /// # Errors
    /// As [`Dispatcher::find`], and [`Error::BadCursor`].
    pub async fn find_from(
        &self,
        place: String,
        name: &str,
        of: Option<&Submitter>,
    ) -> Result<MailId, Error> {
        self.look_on(&MailName::read(name), of, Some(place)).await
    }

    async fn look_on(
        &self,
        name: &MailName,
        of: Option<&Submitter>,
        cursor: Option<String>,
    ) -> Result<MailId, Error> {
        let wanted = name.clone();
        let query = Query {
            submitter: of.cloned(),
            only: Some(RecordFilter::when(move |record| {
                wanted.is_of(&record.manifest)
            })),
            limit: MOST_NAMED,
            cursor,
            ..Query::default()
        };

        let engine = &self.inner.engine;
        let page = engine.spool.list(query, engine.clock.now()).await?;
        let found: Vec<MailId> = page.mails.iter().map(|one| one.manifest.id).collect();
        match (&found[..], page.next) {
            ([_, _, ..], _) => Err(name.fits(found)),
            (_, Some(next)) => Err(Error::NotAllSeen {
                name: name.shown(),
                looked_at: page.looked_at,
                mail: found.first().copied(),
                next,
            }),
            ([id], None) => Ok(*id),
            ([], None) => Err(Error::UnknownName(name.shown())),
        }
    }
}
