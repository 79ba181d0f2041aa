//! Operations on one mail, or on a page of mails: show its status, wait for it, cancel it, retry
//! it.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Dispatcher, Error, MailStatus, StatusPage, cluster, router, waiting};
use crate::delivery::{EventKind, State};
use crate::mail::{MailId, Timestamp};
use crate::spool::{OperationResult, Query, Record};

/// How long a cancellation waits for a sender that holds the mail.
const CANCEL_WITHIN: Duration = Duration::from_secs(30);

impl Dispatcher {
    /// The status of a mail.
    ///
    /// # Errors
    /// [`Error::UnknownMail`], or [`Error::Spool`].
    pub async fn status(&self, id: MailId) -> Result<MailStatus, Error> {
        let (record, now) = self.record(id).await?;
        let mut shown = self.shown(vec![record], now).await;
        shown.pop().ok_or(Error::UnknownMail(id))
    }

    /// These records as users see them, with the reason why mail waits.
    async fn shown(&self, records: Vec<Record>, now: Timestamp) -> Vec<MailStatus> {
        let has_waiting = |record: &Record| record.states(now).any(waiting::may_wait);
        let relays = match records.iter().any(has_waiting) {
            true => self
                .ask_router(router::Msg::Relays)
                .await
                .unwrap_or_default(),
            false => Vec::new(),
        };
        let records = records.into_iter();
        records
            .map(|record| MailStatus::of(record, now, &relays))
            .collect()
    }

    /// The status of a mail, without the reason why it waits.
    async fn progress(&self, id: MailId) -> Result<MailStatus, Error> {
        let (record, now) = self.record(id).await?;
        Ok(MailStatus::of(record, now, &[]))
    }

    /// The current record of a mail, and the current time.
    async fn record(&self, id: MailId) -> Result<(Record, Timestamp), Error> {
        let record = self
            .inner
            .engine
            .spool
            .get(id)
            .await?
            .ok_or(Error::UnknownMail(id))?;

        // The record may be ahead of its events, so wait for those. If outcomes cannot be recorded
        // now, they are not in the record, and there is nothing to wait for.
        let engine = &self.inner.engine;
        if engine.spool.failure().is_none() {
            engine.recordings.wait_for(id).await;
        }

        Ok((record, engine.clock.now()))
    }

    /// A mail's frozen message.
    ///
    /// # Errors
    /// The same as [`Dispatcher::status`], and [`Error::Forgotten`] if the message is no longer
    /// kept.
    pub async fn raw(&self, id: MailId) -> Result<Bytes, Error> {
        self.inner
            .engine
            .spool
            .body(id)
            .await?
            .ok_or(Error::UnknownMail(id))
    }

    /// Waits until all deliveries of a mail are finished.
    ///
    /// # Errors
    /// The same as [`Dispatcher::status`]; [`Error::Stopped`] if the dispatcher stops before.
    pub async fn wait(&self, id: MailId) -> Result<MailStatus, Error> {
        let engine = &self.inner.engine;
        let waiting = engine.waiters.wait_for(id);
        let mut over = std::pin::pin!(engine.life.wait_for_end());
        let is_shared = engine.spool.cluster().is_some();

        loop {
            let woken = waiting.notify.notified();
            let status = self.progress(id).await?;
            if status.state.is_final() {
                return Ok(status);
            }

            tokio::select! {
                () = woken => {}
                // Another node may be sending it, which does not notify this one.
                () = tokio::time::sleep(cluster::POLL_INTERVAL), if is_shared => {}
                end = &mut over => {
                    end?;
                    engine.admits()?;
                }
            }
        }
    }

    /// Waits as [`Dispatcher::wait`] does, but at most this long; returns the status at that time,
    /// even if the mail is not finished.
    ///
    /// # Errors
    /// The same as [`Dispatcher::wait`].
    pub async fn wait_within(&self, id: MailId, span: Duration) -> Result<MailStatus, Error> {
        match tokio::time::timeout(span, self.wait(id)).await {
            Ok(ended) => ended,
            Err(_) => self.status(id).await,
        }
    }

    /// One page of mails.
    ///
    /// # Errors
    /// [`Error::BadCursor`], or [`Error::Spool`].
    pub async fn list(&self, query: Query) -> Result<StatusPage, Error> {
        let now = self.inner.engine.clock.now();
        let engine = &self.inner.engine;
        let page = engine
            .spool
            .list(engine.with_id_range(query).await?, now)
            .await?;
        Ok(StatusPage {
            mails: self.shown(page.mails, now).await,
            next: page.next,
            looked_at: page.looked_at,
        })
    }

    /// Cancels the deliveries that are not finished and not being sent. If a sender holds the mail
    /// and has not started it, the mail is taken back.
    ///
    /// # Errors
    /// [`Error::TooLate`], and the same as [`Dispatcher::status`].
    pub async fn cancel(&self, id: MailId) -> Result<MailStatus, Error> {
        let engine = &self.inner.engine;
        let by = self.by();
        let _recalled = engine.recalls.recall(id);
        let waiting = engine.waiters.wait_for(id);
        let deadline = Instant::now() + CANCEL_WITHIN;
        let mut is_noted = false;
        let mut is_wanted_back = false;

        loop {
            let woken = waiting.notify.notified();
            let now = engine.clock.now();
            let recording = engine.recordings.begin(id);
            engine.end_recalled(id, now);
            match engine.spool.cancel_by(&by, id, now).await? {
                OperationResult::Unknown => return Err(Error::UnknownMail(id)),
                OperationResult::TooLate => {}
                OperationResult::Done(recipients) => {
                    for recipient in &recipients {
                        engine.announce((id, ""), recipient, None, &EventKind::Cancelled);
                    }
                    is_noted = true;
                    engine.progress.notify_waiters();
                }
            }
            drop(recording);

            // The cancellation of a mail that a sender held may still be being recorded.
            if engine.spool.failure().is_none() {
                engine.recordings.wait_for(id).await;
            }
            let status = self.status(id).await?;
            let is = |state| status.deliveries.iter().any(|one| one.state == state);
            let is_over = status.deliveries.iter().all(|one| one.state.is_final());
            if is_over || Instant::now() >= deadline {
                let (cancelled, state) = (is(State::Cancelled), status.state.as_str());
                if !cancelled {
                    return Err(Error::TooLate { id, state });
                }
                if is_noted {
                    self.log_done("cancel", id);
                } else {
                    self.note_done("cancel", id).await;
                }
                return Ok(status);
            }

            if !is(State::Sending) {
                // Its lease was returned in between.
                continue;
            }
            // A sender holds it, on this node or on another one, which is asked for it. The waiter
            // is notified when the sender has finished.
            let mut until = deadline;
            if let Some(cluster) = engine.spool.cluster() {
                if !is_wanted_back {
                    is_wanted_back = true;
                    cluster.want_back(id).await?;
                }
                until = until.min(Instant::now() + cluster::POLL_INTERVAL);
            }
            let _ = tokio::time::timeout_at(until, woken).await;
        }
    }

    /// Queues dead deliveries again, or cancelled ones if none is dead, with a full count of
    /// attempts and a new lifetime. Deferred deliveries become due at once; scheduled ones stay
    /// scheduled.
    ///
    /// # Errors
    /// The same as [`Dispatcher::cancel`], and [`Error::Forgotten`] if the message is no longer
    /// kept.
    pub async fn retry(&self, id: MailId) -> Result<MailStatus, Error> {
        let engine = &self.inner.engine;

        let status = self.progress(id).await?;
        let is = |wanted: fn(State) -> bool| status.deliveries.iter().any(|one| wanted(one.state));
        let can_be_retried = is(|s| matches!(s, State::Dead | State::Cancelled | State::Deferred));
        // A mail that is not finished is sent anyway. Whether a finished one can be retried, the
        // spool decides.
        if !can_be_retried && is(|state| !state.is_final()) {
            let state = status.state.as_str();
            return Err(Error::TooLate { id, state });
        }

        match engine
            .spool
            .retry_by(
                &self.by(),
                id,
                engine.clock.now(),
                engine.retry.expire_after,
            )
            .await?
        {
            OperationResult::Unknown => Err(Error::UnknownMail(id)),
            OperationResult::TooLate => Err(Error::TooLate {
                id,
                state: self.status(id).await?.state.as_str(),
            }),
            OperationResult::Done(_) => {
                self.log_done("retry", id);
                self.status(id).await
            }
        }
    }
}
