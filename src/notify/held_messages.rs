//! What the spool stores of an endpoint beside its reader's position: its state, and the messages
//! that failed. All of it is written in the commit that moves the position.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::WebhookMessage;
use crate::dispatch::{Error, JournalReader};
use crate::mail::Timestamp;
use crate::spool::ReaderChange;

/// The most messages that are held; when there are as many, no further events are read.
pub(super) const MOST_HELD: usize = 1000;

const STATE_KEY: &[u8] = b"standing";
const MESSAGE_KEYS: u8 = b'm';

/// An endpoint's state, as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndpointState {
    /// How many calls have failed since the last success.
    pub failures: u32,
    /// When the first of these calls failed.
    pub failing_since: Option<Timestamp>,
    /// It is not called before this time.
    pub rests_until: Option<Timestamp>,
    /// Since when it is switched off, and why.
    pub off: Option<(Timestamp, String)>,
}

/// A message that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldMessage {
    pub message: WebhookMessage,
    pub tries: u32,
    /// When it was tried first.
    pub first: Timestamp,
    /// When it is sent again; `None` if it was given up.
    pub due: Option<Timestamp>,
}

impl HeldMessage {
    pub(super) fn key(seq: u64) -> Vec<u8> {
        [&[MESSAGE_KEYS][..], &seq.to_be_bytes()].concat()
    }

    pub(super) fn change(&self) -> ReaderChange {
        (
            HeldMessage::key(self.message.seq),
            serde_json::to_vec(self).ok(),
        )
    }
}

impl EndpointState {
    pub(super) fn change(&self) -> ReaderChange {
        (STATE_KEY.to_vec(), serde_json::to_vec(self).ok())
    }
}

/// The state and the messages that the spool holds for an endpoint, in memory.
#[derive(Default)]
pub(super) struct HeldMessages {
    pub state: EndpointState,
    pub messages: BTreeMap<u64, HeldMessage>,
}

impl HeldMessages {
    pub(super) async fn read(reader: &JournalReader) -> Result<Self, Error> {
        let mut all = HeldMessages::default();
        let (from, to) = (STATE_KEY.to_vec(), [STATE_KEY, &[0]].concat());
        if let Some((_, bytes)) = reader.kept(from, to, 1).await?.first() {
            all.state = serde_json::from_slice(bytes).unwrap_or_default();
        }

        let (from, to) = (vec![MESSAGE_KEYS], vec![MESSAGE_KEYS + 1]);
        for (_, bytes) in reader.kept(from, to, 2 * MOST_HELD).await? {
            match serde_json::from_slice::<HeldMessage>(&bytes) {
                Ok(held) => _ = all.messages.insert(held.message.seq, held),
                Err(error) => tracing::error!(%error, "a message of a webhook cannot be read"),
            }
        }

        Ok(all)
    }

    /// The messages that are due, the one that has been due longest first.
    pub(super) fn due(&self, now: Timestamp, most: usize) -> Vec<HeldMessage> {
        let is_due = |held: &&HeldMessage| held.due.is_some_and(|due| due <= now);
        let mut due: Vec<&HeldMessage> = self.messages.values().filter(is_due).collect();
        due.sort_by_key(|held| (held.due, held.message.seq));
        due.into_iter().take(most).cloned().collect()
    }

    /// When the next message is due.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        self.messages.values().filter_map(|held| held.due).min()
    }

    /// How many messages are sent again, and how many were given up.
    pub(super) fn counts(&self) -> (u64, u64) {
        let waiting = self
            .messages
            .values()
            .filter(|held| held.due.is_some())
            .count() as u64;
        (waiting, self.messages.len() as u64 - waiting)
    }

    /// Whether there is room for more messages.
    pub(super) fn has_room(&self) -> bool {
        self.counts().0 < MOST_HELD as u64
    }

    /// Removes the oldest messages that were given up while too many are held. Returns the changes
    /// to be stored.
    pub(super) fn tidy(&mut self) -> Vec<ReaderChange> {
        let mut changes = Vec::new();
        while self.messages.len() > MOST_HELD {
            let oldest = self.messages.values().find(|held| held.due.is_none());
            let Some(seq) = oldest.map(|held| held.message.seq) else {
                break;
            };
            self.messages.remove(&seq);
            changes.push((HeldMessage::key(seq), None));
        }
        changes
    }
}
