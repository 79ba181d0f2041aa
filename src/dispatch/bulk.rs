//! Operations on all mails of a query, in steps, so that the memory and the size of a commit are
//! limited.

use std::collections::HashSet;

use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::pages::Pages;
use super::{Dispatcher, Error};
use crate::delivery::State;
use crate::mail::{MailId, Timestamp};
use crate::spool::{OperationResult, Query, Record};

/// How many mails one step lists and changes; the changes share a commit.
pub(super) const STEP_MAILS: usize = 256;

/// The operation on each mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It is cancelled, as by [`Dispatcher::cancel`].
    Cancel,
    /// It is queued again, as by [`Dispatcher::retry`].
    Retry,
    /// It is deleted, if all its deliveries are finished.
    Purge,
}

impl Act {
    /// Its name in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Act::Cancel => "cancel",
            Act::Retry => "retry",
            Act::Purge => "purge",
        }
    }

    /// Whether the state of a mail allows the operation.
    fn is_for(self, record: &Record, now: Timestamp) -> bool {
        let mut states = record.states(now);
        match self {
            Act::Cancel => states.any(|state| !state.is_final()),
            Act::Retry => states
                .any(|state| matches!(state, State::Dead | State::Cancelled | State::Deferred)),
            Act::Purge => states.all(State::is_final),
        }
    }

    /// Applies the operation to all these mails at once, so that they share a commit. Returns for
    /// each, in order, whether it was done, or the mail had changed meanwhile.
    pub(super) fn on_all<'a>(
        self,
        postrider: &'a Dispatcher,
        mails: &'a [Record],
    ) -> impl Stream<Item = Result<bool, Error>> + 'a {
        let ids = stream::iter(mails.iter().map(|record| record.manifest.id));
        ids.map(move |id| self.on(postrider, id))
            .buffered(STEP_MAILS)
    }

    async fn on(self, postrider: &Dispatcher, id: MailId) -> Result<bool, Error> {
        let acted_on = match self {
            Act::Cancel => postrider.cancel(id).await,
            Act::Retry => postrider.retry(id).await,
            Act::Purge => {
                let engine = &postrider.inner.engine;
                let (by, now) = (postrider.by(), engine.clock.now());
                let purged = engine.spool.purge_by(&by, id, now).await?;
                return Ok(matches!(purged, OperationResult::Done(_)));
            }
        };

        match acted_on {
            Ok(_) => Ok(true),
            Err(Error::TooLate { .. } | Error::UnknownMail(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The mails of a query that an operation applies to, step by step. A mail that changes its
/// position in the list meanwhile is returned only once; remembering that takes 16 bytes per mail.
pub(super) struct BulkSteps<'a> {
    act: Act,
    pages: Pages<'a>,
    met: HashSet<MailId>,
}

impl<'a> BulkSteps<'a> {
    pub(super) fn new(postrider: &'a Dispatcher, act: Act, query: Query) -> Self {
        BulkSteps {
            act,
            pages: postrider.inner.engine.pages(query, STEP_MAILS),
            met: HashSet::new(),
        }
    }

    /// The next step, which may be empty; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Record>>, Error> {
        let Some((mut records, now)) = self.pages.next().await? else {
            return Ok(None);
        };
        let (act, met) = (self.act, &mut self.met);
        records.retain(|record| act.is_for(record, now) && met.insert(record.manifest.id));
        Ok(Some(records))
    }
}
