//! What people and programs do through a handle: noted in the journal with who it was and from
//! where, logged, and counted.

use std::net::IpAddr;
use std::time::Duration;

use parking_lot::Mutex;

use super::Dispatcher;
use crate::delivery::{By, Event, EventKind};
use crate::mail::{MailId, Submitter};

/// How many refused logins the journal tells of in a minute one by one; what comes beyond is told
/// as a number, so that nobody who guesses passwords fills it.
const TOLD_IN_A_MINUTE: u32 = 30;

/// The logins that were refused, and are told together.
#[derive(Default)]
pub(super) struct RefusedLogins(Mutex<LogBudget>);

#[derive(Default)]
struct LogBudget {
    begun: Option<Duration>,
    told: u32,
    untold: u64,
}

impl RefusedLogins {
    /// Takes one more up; returns how many are to be told of now.
    fn take(&self, now: Duration) -> Option<u64> {
        let mut minute = self.0.lock();
        let is_over = |begun| now >= begun + Duration::from_secs(60);
        if minute.begun.is_none_or(is_over) {
            minute.begun = Some(now);
            minute.told = 0;
        }
        if minute.told >= TOLD_IN_A_MINUTE {
            minute.untold += 1;
            return None;
        }
        minute.told += 1;
        Some(std::mem::take(&mut minute.untold) + 1)
    }
}

impl Dispatcher {
    /// The same dispatcher; what is done through this handle is noted as done from this address.
    pub fn from_address(&self, address: IpAddr) -> Dispatcher {
        Dispatcher {
            from: Some(address),
            ..self.clone()
        }
    }

    /// Who does what is done through this handle.
    pub(super) fn by(&self) -> By {
        By {
            who: Some(self.submitter.clone()),
            from: self.from.map(|address| address.to_string()),
            is_part: self.is_part,
        }
    }

    /// The same dispatcher; what is done through this handle is part of something larger.
    pub(super) fn in_part(&self) -> Dispatcher {
        Dispatcher {
            is_part: true,
            ..self.clone()
        }
    }

    /// Notes in the journal that the service has started, in this version.
    pub async fn note_start(&self, version: &str) {
        let version = version.to_owned();
        self.note(EventKind::Started { version }, |event| event)
            .await;
    }

    /// Notes in the journal that the service stops.
    pub async fn note_stop(&self) {
        self.note(EventKind::Stopped, |event| event).await;
    }

    /// Notes in the journal that the configuration was read anew, or why it could not be used.
    pub async fn note_reload(&self, error: Option<String>) {
        self.note(EventKind::Reloaded { error }, |event| event)
            .await;
    }

    /// Notes that a login was refused, for whoever claimed to be this one. Doors say it.
    pub fn note_refused_login(&self, claimed: Option<Submitter>) {
        let engine = &self.inner.engine;
        let Some(count) = engine.refused_logins.take(engine.clock.monotonic()) else {
            return;
        };
        let by = By {
            who: claimed,
            ..self.by()
        };
        let kind = EventKind::LoginRefused { count };
        let event = Event::new(engine.clock.now(), kind).by(&by);
        self.tell(&event);
        engine.note(event);
    }

    /// Notes in the journal what was done through this handle, to what `more` says; logs it, and
    /// counts it.
    pub(super) async fn note(&self, kind: EventKind, more: impl FnOnce(Event) -> Event) {
        let engine = &self.inner.engine;
        let event = more(Event::new(engine.clock.now(), kind).by(&self.by()));
        self.tell(&event);
        if let Some(journal) = engine.spool.journal()
            && let Err(error) = journal.note(vec![event]).await
        {
            tracing::warn!(%error, "what was done could not be noted in the journal");
        }
    }

    /// Notes what was done to a mail.
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

    /// Logs and counts what was done to a mail; the journal tells it already.
    pub(super) fn tell_done(&self, act: &str, mail: MailId) {
        if self.is_part {
            return;
        }
        let event = Event::new(self.inner.engine.clock.now(), done(act)).by(&self.by());
        self.tell(&Event {
            mail: Some(mail),
            ..event
        });
    }

    /// Notes what was done to many mails together, and which were meant.
    pub(super) async fn note_many(&self, act: &str, count: u64, filter: String) {
        let act = act.to_owned();
        let filter = Some(filter);
        let kind = EventKind::Act { act, count, filter };
        self.note(kind, |event| event).await;
    }

    fn tell(&self, event: &Event) {
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
        let told: u64 = (0..1000).filter_map(|_| refused.take(second(5))).sum();
        assert_eq!(told, u64::from(TOLD_IN_A_MINUTE));
        assert_eq!(refused.take(second(64)), None);
        assert_eq!(refused.take(second(65)), Some(1000 - told + 2));
        assert_eq!(refused.take(second(66)), Some(1));
    }
}
