//! Orders of an operator to an endpoint: send messages again. An order is stored with the reader's
//! records until it is carried out. So any node can be asked, whichever serves the endpoint, and no
//! crash loses it.
//!
//! *Invariant:* an order is removed in the commit that stores its effect.

use std::time::Duration;

use tokio::sync::Notify;

use super::Redeliver;
use super::message::WebhookMessage;
use crate::dispatch::{Error, JournalHandle};
use crate::spool::ReaderChange;

/// The most orders that are carried out in one commit.
const ORDERS_PER_COMMIT: usize = 16;
/// How often the caller checks whether another node has carried out its order.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const ORDER_KEYS: u8 = b'o';

/// An order to an endpoint. The same order given twice is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Send all failed messages now.
    Retry,
    /// Report all events after this one again.
    Back(u64),
    /// Report this event again.
    Again(u64),
}

impl Order {
    /// The order for a request; `None` if the message's event is no longer in the journal.
    pub(super) async fn of(
        what: &Redeliver,
        journal: &JournalHandle,
    ) -> Result<Option<Self>, Error> {
        Ok(match what {
            Redeliver::Failed => Some(Order::Retry),
            Redeliver::Since(at) => Some(Order::Back(journal.since(*at).await?)),
            Redeliver::Message(id) => match WebhookMessage::seq_of(id, &journal.name()) {
                Some(seq) => WebhookMessage::again(journal, seq)
                    .await?
                    .map(|message| Order::Again(message.seq)),
                None => None,
            },
        })
    }

    /// The orders to a reader that are still to be carried out, at most [`ORDERS_PER_COMMIT`].
    pub(super) async fn given(journal: &JournalHandle, reader: &str) -> Result<Vec<Self>, Error> {
        let (from, to) = (vec![ORDER_KEYS], vec![ORDER_KEYS + 1]);
        let kept = journal.kept(reader, from, to, ORDERS_PER_COMMIT).await?;
        Ok(kept
            .iter()
            .filter_map(|(key, _)| Order::read(key))
            .collect())
    }

    /// Stores the order for a reader, whichever node has that reader.
    pub(super) async fn give(self, journal: &JournalHandle, reader: &str) -> Result<(), Error> {
        let order = (self.key(), Some(Vec::new()));
        journal.leave(reader, vec![order]).await
    }

    /// Waits until the order is carried out. `obeyed` is notified when this node has done so; if
    /// another node has the reader, only the spool shows it.
    pub(super) async fn until_obeyed(
        self,
        journal: &JournalHandle,
        reader: &str,
        obeyed: &Notify,
        is_shared: bool,
    ) -> Result<(), Error> {
        let (from, to) = (self.key(), [&self.key()[..], &[0]].concat());
        loop {
            let notified = obeyed.notified();
            let left = journal.kept(reader, from.clone(), to.clone(), 1).await?;
            if left.is_empty() {
                return Ok(());
            }

            tokio::select! {
                () = notified => {}
                () = tokio::time::sleep(POLL_INTERVAL), if is_shared => {}
            }
        }
    }

    /// The change that removes the order once it is carried out.
    pub(super) fn done(self) -> ReaderChange {
        (self.key(), None)
    }

    fn key(self) -> Vec<u8> {
        let (kind, seq) = match self {
            Order::Retry => (b'r', 0),
            Order::Back(seq) => (b'b', seq),
            Order::Again(seq) => (b'a', seq),
        };
        [&[ORDER_KEYS, kind][..], &seq.to_be_bytes()].concat()
    }

    fn read(key: &[u8]) -> Option<Self> {
        let [ORDER_KEYS, kind, seq @ ..] = key else {
            return None;
        };
        let seq = u64::from_be_bytes(seq.try_into().ok()?);
        match kind {
            b'r' => Some(Order::Retry),
            b'b' => Some(Order::Back(seq)),
            b'a' => Some(Order::Again(seq)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_order_is_read_as_that_order() {
        for order in [
            Order::Retry,
            Order::Back(0),
            Order::Back(4711),
            Order::Again(1),
        ] {
            assert_eq!(Order::read(&order.key()), Some(order));
        }
        for nothing in [&b"standing"[..], b"o", b"or1", b"ox\0\0\0\0\0\0\0\x01", b""] {
            assert_eq!(Order::read(nothing), None, "{nothing:?}");
        }
    }
}
