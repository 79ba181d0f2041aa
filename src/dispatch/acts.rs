//! Operations that people and programs request through a handle: each is recorded in the journal
//! with who requested it and from where, logged, and counted.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::Dispatcher;
use crate::delivery::{Event, EventKind, Requester};
use crate::mail::{MailId, Submitter};

/// How many refused logins per minute get an entry of their own in the journal. Further ones are
/// only counted, so that guessing passwords cannot fill the journal.
const LOGINS_PER_MINUTE: u32 = 30;

/// Counts refused logins.
#[derive(Default)]
pub(super) struct RefusedLogins(Mutex<LogBudget>);

#[derive(Default)]
struct LogBudget {
    begun: Option<Duration>,
    logged: u32,
    unlogged: u64,
}

impl RefusedLogins {
    /// Counts a refused login. Returns how many are to be recorded now, in one entry.
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
    /// The same dispatcher for requests from this network address, which is recorded with them.
    pub fn from_address(&self, address: IpAddr) -> Dispatcher {
        Dispatcher {
            from: Some(address),
            ..self.clone()
        }
    }

    /// Who makes requests through this handle, and from where.
    pub(super) fn by(&self) -> Requester {
        Requester {
            who: Some(self.submitter.clone()),
            from: self.from.map(|address| address.to_string()),
            is_part: self.is_part,
        }
    }

    /// The same dispatcher for requests that are parts of a larger operation, which is recorded
    /// itself.
    pub(super) fn as_part(&self) -> Dispatcher {
        Dispatcher {
            is_part: true,
            ..self.clone()
        }
    }

    /// Records in the journal that the service started, with its version.
    pub async fn note_start(&self, version: &str) {
        let version = version.to_owned();
        self.note(EventKind::Started { version }, |event| event)
            .await;
    }

    /// Records in the journal that the service stopped.
    pub async fn note_stop(&self) {
        self.note(EventKind::Stopped, |event| event).await;
    }

    /// Records in the journal that the configuration was reloaded, or why it could not be used.
    pub async fn note_reload(&self, error: Option<String>) {
        self.note(EventKind::Reloaded { error }, |event| event)
            .await;
    }

    /// Records a refused login with the name that was claimed. Called by the listeners.
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

    /// Records an operation in the journal, on the mail or relay that `more` adds to the event;
    /// logs and counts it.
    pub(super) async fn note(&self, kind: EventKind, more: impl FnOnce(Event) -> Event) {
        let engine = &self.inner.engine;
        let event = more(Event::new(engine.clock.now(), kind).by(&self.by()));
        self.log_and_count(&event);
        if let Some(journal) = engine.spool.journal()
            && let Err(error) = journal.note(vec![event]).await
        {
            tracing::warn!(%error, "cannot record an operation in the journal");
        }
    }

    /// Records an operation on a mail.
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

    /// Logs and counts an operation on a mail that is in the journal already.
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

    /// Records an operation on many mails, and the search that selected them.
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
            // The service and its listeners log these themselves.
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
