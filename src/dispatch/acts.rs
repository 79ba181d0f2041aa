//! Acts of people and programs through a handle: recorded in the journal with who did it and from
//! where, logged, and counted.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::Dispatcher;
use crate::delivery::{Event, EventKind, Requester};
use crate::mail::{MailId, Submitter};

/// How many refused logins the journal records one by one in a minute. More are recorded as a
/// number, so that nobody can fill the journal by guessing passwords.
const LOGINS_PER_MINUTE: u32 = 30;

/// Refused logins that are recorded together.
#[derive(Default)]
pub(super) struct RefusedLogins(Mutex<LogBudget>);

#[derive(Default)]
struct LogBudget {
    begun: Option<Duration>,
    logged: u32,
    unlogged: u64,
}

impl RefusedLogins {
    /// Counts one more; returns how many are to be recorded now.
    fn take(&self, now: Duration) -> Option<u64> {
        let mut minute = self.0.lock();
        let is_over = |begun| now >= begun + Duration::from_secs(60);
        if minute.begun.is_none_or(is_over) {
            minute.begun = Some(now);
            minute.logged = 0;
        }
        if minute.logged >= LOGINS_PER_MINUTE {
            minute.unlogged += 1;
            return None;
        }
        minute.logged += 1;
        Some(std::mem::take(&mut minute.unlogged) + 1)
    }
}

impl Dispatcher {
    /// The same dispatcher; acts through this handle are recorded as coming from this address.
    pub fn from_address(&self, address: IpAddr) -> Dispatcher {
        Dispatcher {
            from: Some(address),
            ..self.clone()
        }
    }

    /// Who acts through this handle.
    pub(super) fn by(&self) -> Requester {
        Requester {
            who: Some(self.submitter.clone()),
            from: self.from.map(|address| address.to_string()),
            is_part: self.is_part,
        }
    }

    /// The same dispatcher; acts through this handle are part of a larger act.
    pub(super) fn in_part(&self) -> Dispatcher {
        Dispatcher {
            is_part: true,
            ..self.clone()
        }
    }

    /// Records in the journal that the service has started, in this version.
    pub async fn note_start(&self, version: &str) {
        let version = version.to_owned();
        self.note(EventKind::Started { version }, |event| event)
            .await;
    }

    /// Records in the journal that the service stops.
    pub async fn note_stop(&self) {
        self.note(EventKind::Stopped, |event| event).await;
    }

    /// Records in the journal that the configuration was read again, or why it could not be used.
    pub async fn note_reload(&self, error: Option<String>) {
        self.note(EventKind::Reloaded { error }, |event| event)
            .await;
    }

    /// Records that a login under this name was refused. Called by the doors.
    pub fn note_refused_login(&self, claimed: Option<Submitter>) {
        let engine = &self.inner.engine;
        let Some(count) = engine.refused_logins.take(engine.clock.monotonic()) else {
            return;
        };
        let by = Requester {
            who: claimed,
            ..self.by()
        };
        let kind = EventKind::LoginRefused { count };
        let event = Event::new(engine.clock.now(), kind).by(&by);
        self.log_and_count(&event);
        engine.note(event);
    }

    /// Records in the journal what was done through this handle, to the mail or relay that `more`
    /// names; logs it, and counts it.
    pub(super) async fn note(&self, kind: EventKind, more: impl FnOnce(Event) -> Event) {
        let engine = &self.inner.engine;
        let event = more(Event::new(engine.clock.now(), kind).by(&self.by()));
        self.log_and_count(&event);
        if let Some(journal) = engine.spool.journal()
            && let Err(error) = journal.note(vec![event]).await
        {
            tracing::warn!(%error, "what was done could not be noted in the journal");
        }
    }

    /// Records what was done to a mail.
    pub(super) async fn note_done(&self, act: &str, mail: MailId) {
        if self.is_part {
            return;
        }
        let to_it = |event| Event {
            mail: Some(mail),
            ..event
        };
        self.note(done(act), to_it).await;
    }

    /// Logs and counts what was done to a mail; the journal has it already.
    pub(super) fn log_done(&self, act: &str, mail: MailId) {
        if self.is_part {
            return;
        }
        let event = Event::new(self.inner.engine.clock.now(), done(act)).by(&self.by());
        self.log_and_count(&Event {
            mail: Some(mail),
            ..event
        });
    }

    /// Records what was done to many mails together, and by which search they were found.
    pub(super) async fn note_many(&self, act: &str, count: u64, filter: String) {
        let act = act.to_owned();
        let filter = Some(filter);
        let kind = EventKind::Act { act, count, filter };
        self.note(kind, |event| event).await;
    }

    fn log_and_count(&self, event: &Event) {
        let Some(act) = event.kind.act() else { return };
        let who = event.who.as_ref().map(ToString::to_string);
        let who = who.as_deref().unwrap_or_default().escape_debug();
        let from = event.from.as_deref();
        let relay = event.relay.as_deref();

        let mail = event.mail.map(|mail| mail.to_string());
        match &event.kind {
            EventKind::Act { count, filter, .. } => {
                tracing::info!(act, %who, from, mail.id = mail, count, filter, "done as asked");
            }
            EventKind::RelayPaused { .. } | EventKind::RelayResumed => {
                tracing::info!(act, %who, from, relay, "done as asked");
            }
            // The service and its doors log these themselves.
            _ => {}
        }

        self.inner.engine.metrics.acted(act);
    }
}

fn done(act: &str) -> EventKind {
    EventKind::Act {
        act: act.to_owned(),
        count: 1,
        filter: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_guesses_passwords_does_not_fill_the_journal_and_none_is_left_uncounted() {
        let refused = RefusedLogins::default();
        let second = Duration::from_secs;
        let logged: u64 = (0..1000).filter_map(|_| refused.take(second(5))).sum();
        assert_eq!(logged, u64::from(LOGINS_PER_MINUTE));
        assert_eq!(refused.take(second(64)), None);
        assert_eq!(refused.take(second(65)), Some(1000 - logged + 2));
        assert_eq!(refused.take(second(66)), Some(1));
    }
}
