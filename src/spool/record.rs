//! What is stored about a mail besides its bytes.

use serde::{Deserialize, Serialize};

use crate::delivery::{Delivery, Event, EventKind, Feedback, MailState, State};
use crate::mail::{Address, Guarantee, MailId, Priority, Submitter, TemplateUse, Timestamp};

/// What is known of a mail besides its bytes and its deliveries. Fixed at accept, a manual retry's
/// new lifetime aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its name.
    pub id: MailId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
    /// Where a bounce goes; `None` for the null reverse-path.
    pub return_path: Option<Address>,
    /// The Message-ID, with its angle brackets.
    pub message_id: String,
    /// The Subject as a person reads it.
    pub subject: String,
    /// How urgent it is.
    pub priority: Priority,
    /// What to do in doubt.
    pub guarantee: Guarantee,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// The key under which it is one mail, among those of whoever submitted it.
    pub idempotency_key: Option<String>,
    /// Equal for two mails that ask for the same thing.
    pub fingerprint: u128,
    /// The size of the message in bytes.
    pub size: u64,
    /// How many recipients it has.
    pub recipients: u16,
    /// Whether it needs 8BITMIME.
    pub eight_bit: bool,
    /// Whether it needs SMTPUTF8.
    pub smtputf8: bool,
    /// Who submitted it; `None` where that was not kept yet.
    pub submitter: Option<Submitter>,
    /// What was done to the message as it was submitted.
    pub mended: Vec<String>,
    /// The template that it was made from.
    pub template: Option<TemplateUse>,
    /// The list that it is mail of.
    pub list: Option<String>,
}

impl Manifest {
    /// Whose mail it is, as far as that is known: a key of an older spool may say it as well.
    pub fn owner(&self) -> Option<Submitter> {
        let key = self.idempotency_key.as_deref();
        let of_key = || key.and_then(|key| Submitter::of_old_key(key).0);
        self.submitter.clone().or_else(of_key)
    }

    /// Its idempotency key, as it was given.
    pub fn given_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref().map(Submitter::given_key)
    }

    /// Something that happened to this mail, with all that is told of a mail besides.
    pub fn event(&self, at: Timestamp, kind: EventKind) -> Event {
        Event {
            mail: Some(self.id),
            message_id: Some(self.message_id.clone()),
            tags: self.tags.clone(),
            key: self.given_key().map(str::to_owned),
            accepted_at: Some(self.accepted_at),
            submitter: self.owner(),
            ..Event::new(at, kind)
        }
    }

    /// Under which account it counts; 0 where it does not.
    pub(super) fn account(&self) -> u64 {
        self.submitter.as_ref().map_or(0, Submitter::account)
    }
}

/// All that is known of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was fixed at accept.
    pub manifest: Manifest,
    /// One for each recipient, in the envelope's order.
    pub deliveries: Vec<Delivery>,
    /// Which of them are in a sender's hands, by their place in `deliveries`.
    pub leased: Vec<bool>,
    /// What came back, with the place of its delivery.
    pub feedback: Vec<(u16, Feedback)>,
}

impl Record {
    /// Each delivery's state.
    pub fn states(&self, now: Timestamp) -> impl Iterator<Item = State> {
        self.deliveries
            .iter()
            .zip(&self.leased)
            .map(move |(delivery, leased)| delivery.state(now, *leased))
    }

    /// The mail's state, summed up.
    pub fn state(&self, now: Timestamp) -> MailState {
        MailState::of(self.states(now))
    }

    /// When the last delivery ended; `None` while one has not.
    pub fn finished_at(&self) -> Option<Timestamp> {
        let ends: Option<Vec<Timestamp>> = self
            .deliveries
            .iter()
            .map(|d| d.stage.finished_at())
            .collect();
        ends.and_then(|ends| ends.into_iter().max())
    }
}
