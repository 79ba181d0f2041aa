//! Every mail that a query means, a page at a time, so that memory does not grow with them.

use super::Error;
use super::engine::Engine;
use crate::mail::Timestamp;
use crate::spool::{Query, Record};

/// What is left of the mails that a query means.
pub(super) struct Pages<'a> {
    engine: &'a Engine,
    /// The next page; `None` after the last.
    query: Option<Query>,
    looked_at: u64,
}

impl Engine {
    /// Every mail that `query` means from its cursor on, so many in a page.
    pub(super) fn pages(&self, query: Query, size: usize) -> Pages<'_> {
        let query = Query {
            limit: size,
            ..query
        };
        Pages {
            engine: self,
            query: Some(query),
            looked_at: 0,
        }
    }
}

impl Pages<'_> {
    /// The next page, which may be empty, and the time at which it was read; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<(Vec<Record>, Timestamp)>, Error> {
        let Some(query) = self.query.take() else {
            return Ok(None);
        };
        let now = self.engine.clock.now();
        let query = self.engine.narrowed(query).await?;
        let page = self.engine.spool.list(query.clone(), now).await?;
        self.looked_at += page.looked_at;
        self.query = page.next.map(|next| Query {
            cursor: Some(next),
            ..query
        });
        Ok(Some((page.mails, now)))
    }

    /// How many mails were looked at so far.
    pub(super) fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// Where the next page begins; `None` after the last.
    pub(super) fn place(&self) -> Option<String> {
        self.query.as_ref().and_then(|query| query.cursor.clone())
    }

    /// Whether there is no further page.
    pub(super) fn are_over(&self) -> bool {
        self.query.is_none()
    }
}
