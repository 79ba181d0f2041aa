//! Finds a mail by something other than its whole id: the start of its id, an idempotency key, a
//! Message-ID, or the address of a sender who has submitted only one mail.
//!
//! Ids are sorted, keys have an index, and a Message-ID that was generated here contains the id;
//! these are looked up. For everything else the mail is searched, the newest first, at most one
//! page of the spool per call; the error says where to continue.

use std::collections::BTreeSet;

use super::engine::Engine;
use super::{Dispatcher, Error};
use crate::mail::{MailId, Submitter};
use crate::spool::{Manifest, Query, RecordFilter, SpoolError};

/// The fewest characters of an id that are accepted as its start.
const SHORTEST_ID_PREFIX: usize = 4;
/// How many of the matching mails are listed in the error.
const MOST_NAMED: usize = 5;

/// A name, prepared for comparison.
#[derive(Clone)]
struct MailName {
    text: String,
    /// If it may be the start of an id: the range of these ids.
    ids: Option<(MailId, MailId)>,
}

impl MailName {
    fn read(text: &str) -> Self {
        let digits = text.trim().replace('-', "");
        MailName {
            text: text.trim().to_owned(),
            ids: MailId::range(&digits).filter(|_| digits.len() >= SHORTEST_ID_PREFIX),
        }
    }

    /// Whether this is the mail's key, Message-ID or sender.
    fn matches(&self, mail: &Manifest) -> bool {
        let sender = mail.return_path.as_ref();
        mail.given_key() == Some(self.text.as_str())
            || bare(&mail.message_id) == bare(&self.text)
            || sender.is_some_and(|path| path.as_str().eq_ignore_ascii_case(&self.text))
    }

    fn ambiguous(&self, mails: Vec<MailId>) -> Error {
        Error::Ambiguous {
            name: self.shown(),
            mails,
        }
    }

    fn shown(&self) -> String {
        self.text.chars().take(200).collect()
    }
}

/// A Message-ID without its angle brackets.
fn bare(message_id: &str) -> &str {
    message_id.trim_matches(['<', '>'])
}

impl Engine {
    /// The mails with this idempotency key: of this submitter, or of all known submitters.
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

    /// The mail whose id is in this Message-ID.
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

    /// The query with the range of ids that it can match: if it has a Message-ID or key that is
    /// found, only that mail is searched.
    pub(super) async fn with_id_range(&self, query: Query) -> Result<Query, SpoolError> {
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

        // Between several ids there may be more mails than fit on a page.
        Ok(match found.first() {
            Some(id) if found.len() == 1 => query.within(*id, *id),
            _ => query,
        })
    }
}

impl Dispatcher {
    /// The mail that `name` identifies: its id or at least the first four characters of it, its
    /// idempotency key, its Message-ID, or its sender. With `of`, only mail of this submitter is
    /// searched. A whole id is returned without checking that the mail exists.
    ///
    /// # Errors
    /// [`Error::UnknownName`]; [`Error::Ambiguous`] if there are several; [`Error::NotAllSeen`] if
    /// not all mail was searched, to be continued with [`Dispatcher::find_from`]; [`Error::Spool`].
    pub async fn find(&self, name: &str, of: Option<&Submitter>) -> Result<MailId, Error> {
        if let Ok(id) = name.parse() {
            return Ok(id);
        }

        let name = MailName::read(name);
        if name.text.is_empty() {
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
        found.extend(engine.by_key(of, &name.text).await?);
        found.extend(engine.by_message_id(of, &name.text).await?);

        let newest_first: Vec<MailId> = found.into_iter().rev().take(MOST_NAMED).collect();
        match newest_first[..] {
            [] => self.search_page(&name, of, None).await,
            [id] => Ok(id),
            _ => Err(name.ambiguous(newest_first)),
        }
    }

    /// Continues [`Dispatcher::find`], by key, Message-ID and sender, at the cursor of
    /// [`Error::NotAllSeen`].
    ///
    /// # Errors
    /// The same as [`Dispatcher::find`], and [`Error::BadCursor`].
    pub async fn find_from(
        &self,
        place: String,
        name: &str,
        of: Option<&Submitter>,
    ) -> Result<MailId, Error> {
        self.search_page(&MailName::read(name), of, Some(place))
            .await
    }

    async fn search_page(
        &self,
        name: &MailName,
        of: Option<&Submitter>,
        cursor: Option<String>,
    ) -> Result<MailId, Error> {
        let wanted = name.clone();
        let query = Query {
            submitter: of.cloned(),
            only: Some(RecordFilter::when(move |record| {
                wanted.matches(&record.manifest)
            })),
            limit: MOST_NAMED,
            cursor,
            ..Query::default()
        };

        let engine = &self.inner.engine;
        let page = engine.spool.list(query, engine.clock.now()).await?;
        let found: Vec<MailId> = page.mails.iter().map(|one| one.manifest.id).collect();
        match (&found[..], page.next) {
            ([_, _, ..], _) => Err(name.ambiguous(found)),
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
