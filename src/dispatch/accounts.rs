//! What each token and user has submitted, and what it may submit: no submitter can fill the queue
//! for the others, or try out idempotency keys quickly.
//!
//! Pending deliveries and those accepted today are counted by the spool, so that the counts survive
//! restarts. Rates, and deliveries that are being accepted right now, are counted here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

use super::Error;
use super::engine::Engine;
use super::error::QuotaLimit;
use crate::mail::{Mail, MailError, Submitter, Timestamp, When};
use crate::policy::{Pace, Quota, Rate};

/// How many conflicting uses of idempotency keys in a minute are answered without a delay.
const FREE_CONFLICTS: f64 = 10.0;
/// How much each further one delays the answer, and the longest delay.
const CONFLICT_DELAY: Duration = Duration::from_millis(50);
const LONGEST_CONFLICT_DELAY: Duration = Duration::from_secs(5);
/// When to try again if pending mail must be sent first.
const QUOTA_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The submitters, with their quotas and current counts.
#[derive(Default)]
pub(super) struct Accounts {
    quotas: RwLock<HashMap<Submitter, Arc<Quota>>>,
    states: Mutex<HashMap<Submitter, State>>,
}

#[derive(Default)]
struct State {
    /// Deliveries that are being accepted.
    in_flight: u64,
    pace: Option<(Rate, Pace)>,
    conflicts: f64,
    /// When the conflicts were last counted, in monotonic time.
    counted_at: Duration,
}

impl Accounts {
    /// Replaces all quotas. A rate that does not change keeps its state.
    pub(super) fn replace(&self, quotas: impl IntoIterator<Item = (Submitter, Quota)>) {
        let shared = quotas
            .into_iter()
            .map(|(who, quota)| (who, Arc::new(quota)));
        *self.quotas.write() = shared.collect();
    }

    /// All submitters with a quota, all that have submitted mail since the start, and
    /// [`Submitter::Local`].
    pub(super) fn known(&self) -> Vec<Submitter> {
        let mut known: BTreeSet<Submitter> = self.quotas.read().keys().cloned().collect();
        known.extend(self.states.lock().keys().cloned());
        known.insert(Submitter::Local);
        known.into_iter().collect()
    }

    fn quota(&self, who: &Submitter) -> Arc<Quota> {
        match who {
            Submitter::Local => Arc::new(Quota::of_everybody()),
            who => self.quotas.read().get(who).cloned().unwrap_or_default(),
        }
    }

    /// Checks whether this submitter may submit this mail now, and counts its deliveries until
    /// [`Accounts::end`].
    pub(super) fn begin(
        &self,
        engine: &Engine,
        who: &Submitter,
        mail: &Mail,
        now: Timestamp,
        max_pending: u64,
    ) -> Result<(), Error> {
        let quota = self.quota(who);
        check_times(engine, &quota, mail, now)?;
        if *who == Submitter::Local {
            return Ok(());
        }
        check_senders(&quota, who, mail)?;

        let count = mail.envelope().recipients().len() as u64;
        let refuse = |limit, again_in| {
            Err(Error::Quota {
                who: who.clone(),
                limit,
                again_in: whole_seconds(again_in),
            })
        };

        let mut states = self.states.lock();
        let state = states.entry(who.clone()).or_default();
        if let Some(max) = self.share(&quota, max_pending) {
            let pending = engine.spool.pending_of(who) + state.in_flight;
            if pending + count > max {
                return refuse(QuotaLimit::Pending { pending, max }, QUOTA_RETRY_AFTER);
            }
        }

        if let Some(max) = quota.max_per_day {
            let day = now.day();
            let today = engine.spool.accepted_on(who, day) + state.in_flight;
            if today + count > max {
                let tomorrow = Timestamp::of_day(day + 1);
                return refuse(QuotaLimit::PerDay { today, max }, tomorrow.since(now));
            }
        }

        if let Some(rate) = quota.rate {
            let pace = match &mut state.pace {
                Some((known, pace)) if *known == rate => pace,
                pace => &mut pace.insert((rate, Pace::at_once(rate))).1,
            };
            let allowed = pace.take(1, engine.clock.monotonic());
            if allowed.mails == 0 {
                return refuse(
                    QuotaLimit::Rate(rate),
                    allowed.again_in.unwrap_or(QUOTA_RETRY_AFTER),
                );
            }
        }

        state.in_flight += count;
        Ok(())
    }

    /// Ends the count of deliveries that were accepted or refused.
    pub(super) fn end(&self, who: &Submitter, count: u64) {
        if let Some(state) = self.states.lock().get_mut(who) {
            state.in_flight = state.in_flight.saturating_sub(count);
        }
    }

    /// How many deliveries a submitter may have pending. If there are several submitters, none of
    /// them may fill the queue for the others.
    fn share(&self, quota: &Quota, max_pending: u64) -> Option<u64> {
        let others = self.quotas.read().len() > 1;
        let share = max_pending - max_pending / 5;
        quota.max_pending.or_else(|| others.then_some(share))
    }

    /// Counts conflicting uses of idempotency keys. Returns how long to delay the answer.
    pub(super) fn count_conflicts(
        &self,
        who: &Submitter,
        conflicts: usize,
        now: Duration,
    ) -> Duration {
        let mut states = self.states.lock();
        let state = states.entry(who.clone()).or_default();
        let minutes = now.saturating_sub(state.counted_at).as_secs_f64() / 60.0;
        state.counted_at = now;
        state.conflicts = state.conflicts * 0.5_f64.powf(minutes) + conflicts as f64;
        let too_many = (state.conflicts - FREE_CONFLICTS).clamp(0.0, 1e6);
        CONFLICT_DELAY.mul_f64(too_many).min(LONGEST_CONFLICT_DELAY)
    }
}

/// Rounded up to whole seconds, at least one.
fn whole_seconds(span: Duration) -> Duration {
    let seconds = span.as_secs() + u64::from(span.subsec_nanos() > 0);
    Duration::from_secs(seconds.max(1))
}

fn check_times(
    engine: &Engine,
    quota: &Quota,
    mail: &Mail,
    now: Timestamp,
) -> Result<(), MailError> {
    let options = mail.options();
    let refuse = |field: &str, what: &str, most: Duration| {
        let reason = format!("is more than {} {what}", humantime::format_duration(most));
        Err(MailError::new(field, reason))
    };

    let resolve = |when| engine.clock.resolve(when, now);
    let due = options.send.map_or(now, resolve).max(now);
    if due.since(now) > quota.max_delay {
        let field = match options.send {
            Some(When::In(_)) => "delay",
            _ => "send_at",
        };
        return refuse(field, "ahead, the maximum", quota.max_delay);
    }

    let expires = options.expires.map(resolve);
    let expires = expires.unwrap_or(due + engine.retry.expire_after);
    // A longer default was chosen by the operator, so it is allowed.
    if options.expires.is_some() && expires.since(due) > quota.max_lifetime {
        let field = super::accept::expiry_field(options.expires);
        let what = "after its send time, the maximum";
        return refuse(field, what, quota.max_lifetime);
    }

    Ok(())
}

/// Checks that a submitter may use the return path and the authors of a mail.
fn check_senders(quota: &Quota, who: &Submitter, mail: &Mail) -> Result<(), Error> {
    if quota.from.is_empty() {
        return Ok(());
    }
    let mut senders = mail.authors()?;
    senders.extend(mail.envelope().return_path().cloned());
    match senders.into_iter().find(|sender| !quota.admits(sender)) {
        Some(address) => Err(Error::SenderRefused {
            who: who.clone(),
            address,
        }),
        None => Ok(()),
    }
}
