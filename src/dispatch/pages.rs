//! All mails of a query, page by page, so that memory is bounded.

use super::Error;
use super::engine::Engine;
use crate::mail::Timestamp;
use crate::spool::{Query, Record};

/// The remaining mails of a query.
pub(super) struct Pages<'a> {
    engine: &'a Engine,
    /// The next page; `None` after the last.
    query: Option<Query>,
    looked_at: u64,
}

impl Engine {
    /// All mails of `query` from its cursor on, `size` in a page.
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
        let query = self.engine.with_id_range(query).await?;
        let page = self.engine.spool.list(query.clone(), now).await?;
        self.looked_at += page.looked_at;
        self.query = page.next.map(|next| Query {
            cursor: Some(next),
            ..query
        });
        Ok(Some((page.mails, now)))
    }

    /// How many mails were read so far.
    pub(super) fn looked_at(&self) -> u64 {
        self.looked_at
    }

    /// The cursor of the next page; `None` after the last.
    pub(super) fn place(&self) -> Option<String> {
        self.query.as_ref().and_then(|query| query.cursor.clone())
    }

    /// Whether there are no further pages.
    pub(super) fn are_over(&self) -> bool {
        self.query.is_none()
    }
}
