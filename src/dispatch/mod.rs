//! The engine. Applications and listeners hold the [`Dispatcher`] handle; behind it, a supervisor
//! actor keeps a router, senders and a scheduler running.
//!
//! The path of a mail: `accept` stores it; the `scheduler` notices that it is due and wakes the
//! `router`, which claims it for a relay's `lane`; a `sender` takes it from the lane's `stock`;
//! `recording` writes the outcome to disk, and `announcements` reports it. All share one `engine`.

mod accept;
mod accounts;
mod acts;
mod announcements;
mod audit;
mod builder;
mod bulk;
mod direct;
mod engine;
mod events;
mod journal;
mod lane;
mod life;
mod open_queues;
mod recalls;
mod recording;
mod recordings;
mod router;
mod scheduler;
mod search;
mod sender;
mod spool_backoff;
mod stock;
mod supervisor;
mod token_key;
mod topology;
mod waiters;
mod waiting;
mod waiting_domains;

mod dead_letters;
mod delivering;
mod eligibility;
mod failures;
mod feedback;
mod jobs;
mod learning;
mod leaving;
mod lists;
mod lookup;
mod mails;
#[cfg(feature = "notify")]
mod notices;
mod numbers;
mod outbox;
mod pages;
mod relay_memory;
mod relays;
mod returns;
mod running;
mod series;
mod suppressions;

mod clock;
mod cluster;
mod error;
mod lettre;
mod report;

pub use audit::{AuditEntry, AuditPage, AuditQuery};
pub use builder::{Builder, OnSpoolFailure};
pub use bulk::Act;
pub use clock::Clock;
pub use dead_letters::{DeadLetters, Purged};
pub use error::{Error, QuotaLimit};
pub use events::{EventItem, EventStream};
pub use failures::{FailureGroup, Failures, GroupBy};
pub use feedback::{FeedbackHandle, FeedbackReceipt, ProviderEvent, ReportError};
pub use jobs::{JobRequest, JobState, JobStatus, Jobs};
pub use journal::{JournalHandle, JournalReader};
pub use lists::{Unsubscribing, Unsubscription};
#[cfg(feature = "notify")]
pub(crate) use notices::{NoticeResult, Turn};
pub use outbox::OutboxHandle;
pub use relays::Relays;
pub use report::{
    DeliveryStatus, Health, MailStatus, Receipt, RelayKind, RelayState, RelayStatus, RestingStatus,
    SentNow, Stats, StatusPage,
};
pub use returns::Returns;
pub use running::{Drain, Reload};
pub use search::{Counted, Search, SearchError};
pub use series::{RecentDeliveries, Series, SeriesPoint, SeriesQuery};
pub use suppressions::SuppressionHandle;
pub use waiting::{WaitReason, Waits};
pub use waiting_domains::{WaitingDomain, WaitingDomains};

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ractor::ActorRef;

use self::accept::Accept;
use self::engine::Engine;
use crate::mail::{Intake, Mail, Submitter};
use crate::policy::Quota;

/// How long mail in flight may take to finish after the last handle was dropped.
const DRAIN_AFTER_LAST_HANDLE: Duration = Duration::from_secs(10);

/// The mail dispatcher: submit a mail, and it is delivered in the background. Cheap to clone. When
/// the last clone is dropped, the actors stop; accepted mail stays in the spool.
#[derive(Clone)]
pub struct Dispatcher {
    inner: Arc<Inner>,
    /// The listener that uses this handle, for metrics.
    door: &'static str,
    /// Who submits mail through this handle.
    submitter: Submitter,
    /// The network address of the client, if it is known.
    from: Option<IpAddr>,
    /// Whether operations through this handle are part of a larger one, which is recorded itself.
    is_part: bool,
}

struct Inner {
    engine: Arc<Engine>,
    accept: Accept,
    supervisor: ActorRef<supervisor::Msg>,
    direct: direct::Direct,
    series: Arc<series::SeriesProgress>,
    /// Operations on many mails, running and finished ones.
    jobs: jobs::JobTable,
    /// The domain that is added to addresses without one.
    domain: Option<String>,
    /// The name of this machine.
    host: String,
    /// One reload at a time: otherwise each of two might apply only a part.
    reloading: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let _ = self
            .supervisor
            .cast(supervisor::Msg::Shutdown(DRAIN_AFTER_LAST_HANDLE, None));
    }
}

impl Dispatcher {
    /// Starts configuring a dispatcher.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same dispatcher; mail submitted through this handle is counted under `door`.
    pub fn for_door(&self, door: &'static str) -> Dispatcher {
        Dispatcher {
            door,
            ..self.clone()
        }
    }

    /// Counts a client that this handle's listener has refused, for metrics; `reason` is a word
    /// such as `login`.
    pub fn turned_away(&self, reason: &'static str) {
        self.inner.engine.metrics.turned_away(self.door, reason);
    }

    /// The same dispatcher; mail that is submitted through this handle belongs to `submitter`, and
    /// so do its idempotency keys: no other submitter can see or use them.
    pub fn on_behalf_of(&self, submitter: Submitter) -> Dispatcher {
        Dispatcher {
            submitter,
            ..self.clone()
        }
    }

    /// What a listener passes along with each message that it submits.
    pub fn intake(&self) -> Intake<'_> {
        Intake {
            domain: self.inner.domain.as_deref(),
            host: Some(&self.inner.host),
            trace: 0,
        }
    }

    /// Accepts a mail: when this returns, it is as durable as the receipt says. Waits for room
    /// while the queue is full, for at most `accept_timeout`.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Quota`], [`Error::SenderRefused`], [`Error::Mail`],
    /// [`Error::KeyReused`], [`Error::NoRoute`], [`Error::Spool`] or [`Error::Stopped`]; nothing
    /// was accepted then.
    pub async fn submit(&self, mail: Mail) -> Result<Receipt, Error> {
        self.inner
            .accept
            .wait_for_room(&self.inner.engine, &mail)
            .await?;
        self.try_submit(mail).await
    }

    /// The same as [`Dispatcher::submit`], without waiting for room.
    ///
    /// # Errors
    /// The same as [`Dispatcher::submit`].
    pub async fn try_submit(&self, mail: Mail) -> Result<Receipt, Error> {
        let answer = self.try_submit_many(vec![mail]).await.pop();
        answer.unwrap_or_else(|| Err(Error::Stopped("it gave no answer".into())))
    }

    /// Accepts several mails together, with one sync per 512 KiB. Each mail is accepted or refused
    /// separately and has its own result, in order. If the queue is full for some of them, they
    /// wait for room, for at most `accept_timeout` in total.
    pub async fn submit_many(&self, mails: Vec<Mail>) -> Vec<Result<Receipt, Error>> {
        let Inner { engine, accept, .. } = &*self.inner;
        let waited_for = mails.clone();
        let mut results = self.try_submit_many(mails).await;

        let mut time_is_up = std::pin::pin!(tokio::time::sleep(accept.accept_timeout));
        loop {
            let is_full = |place: &usize| matches!(results[*place], Err(Error::Full { .. }));
            let full: Vec<usize> = (0..results.len()).filter(is_full).collect();
            let Some(first) = full.first() else {
                return results;
            };
            // When there is room for the first of them, there may be room for more.
            let room = tokio::select! {
                room = accept.wait_for_room(engine, &waited_for[*first]) => room,
                () = &mut time_is_up => return results,
            };
            if room.is_err() {
                return results;
            }
            let again = full.iter().map(|place| waited_for[*place].clone());
            let answers = self.try_submit_many(again.collect()).await;
            for (place, answer) in full.into_iter().zip(answers) {
                results[place] = answer;
            }
        }
    }

    /// The same as [`Dispatcher::submit_many`], without waiting for room.
    pub async fn try_submit_many(&self, mails: Vec<Mail>) -> Vec<Result<Receipt, Error>> {
        let Inner {
            engine,
            accept,
            direct,
            ..
        } = &*self.inner;

        let copies = if direct.is_chosen() {
            mails.clone()
        } else {
            Vec::new()
        };
        let was_refusing = direct.is_chosen() && engine.spool.refusal().is_some();

        let mut results = accept
            .accept(engine, mails, self.door, &self.submitter)
            .await;

        self.slow_down(&results).await;

        for (result, mail) in results.iter_mut().zip(copies) {
            if let Err(Error::Spool(failure)) = result
                && direct::may_replace_the_spool(engine, &mail, was_refusing).await
            {
                tracing::warn!(
                    mail.id = %mail.id(),
                    error = %failure,
                    "the spool accepts nothing; the mail is sent directly instead"
                );
                *result = direct.submit(engine, mail).await;
            }
        }

        results
    }

    /// The templates: `postrider.templates().mail("welcome", &data, Some("de"))?` returns a mail to
    /// which only the addresses must be added. All handles share them.
    #[cfg(feature = "templates")]
    pub fn templates(&self) -> &crate::content::Templates {
        &self.inner.engine.templates
    }

    /// Delays the answer to a submitter that repeatedly reuses idempotency keys for other content:
    /// it may be guessing the keys of others.
    async fn slow_down(&self, results: &[Result<Receipt, Error>]) {
        let reused = |result: &&Result<Receipt, Error>| matches!(result, Err(Error::KeyReused(_)));
        let conflicts = results.iter().filter(reused).count();
        if conflicts == 0 || self.submitter == Submitter::Local {
            return;
        }

        let engine = &self.inner.engine;
        let now = engine.clock.monotonic();
        engine.metrics.key_conflicts(&self.submitter, conflicts);

        let pause = engine
            .accounts
            .count_conflicts(&self.submitter, conflicts, now);
        if !pause.is_zero() {
            let who = self.submitter.to_string();
            tracing::warn!(
                who = ?who,
                ?pause,
                "reuses idempotency keys for other content repeatedly; its answers are delayed"
            );
            tokio::time::sleep(pause).await;
        }
    }

    /// Sets the quotas of submitters from now on. Submitters that are not listed have
    /// [`Quota::default`](crate::policy::Quota::default). If there are several submitters, none may
    /// have more than four fifths of `max_pending` pending, unless its quota allows it.
    pub fn set_quotas(&self, quotas: impl IntoIterator<Item = (Submitter, Quota)>) {
        self.inner.engine.accounts.replace(quotas);
    }

    /// The clock that this dispatcher uses.
    #[cfg(any(feature = "server", feature = "notify"))]
    pub(crate) fn clock(&self) -> &Clock {
        &self.inner.engine.clock
    }

    /// Sends without the queue: one synchronous attempt at each relay of the route that is not
    /// paused, until one answers. Nothing is stored.
    ///
    /// # Errors
    /// [`Error::Mail`], [`Error::NoRoute`] or [`Error::Stopped`]. The relay's answers are in the
    /// result.
    pub async fn send_now(&self, mail: Mail) -> Result<SentNow, Error> {
        self.inner.engine.admits()?;
        self.inner.accept.check_size(&mail)?;
        self.inner.direct.send(&self.inner.engine, &mail).await
    }
}
