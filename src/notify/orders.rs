//! What somebody asks of an endpoint. It is kept beside the reader's place until it is obeyed: so
//! any node may be asked, whichever calls the endpoint, and no crash loses it.
//!
//! *Invariant:* an order goes in the commit that keeps what it did.

use std::time::Duration;

use tokio::sync::Notify;

use super::Redeliver;
use super::message::WebhookMessage;
use crate::dispatch::{Error, JournalHandle};
use crate::spool::ReaderChange;

/// The most orders that are obeyed in one commit.
const ORDERS_PER_COMMIT: usize = 16;
/// How often whoever gave an order looks whether another node has obeyed it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const ORDER_KEYS: u8 = b'o';

/// What somebody asks of an endpoint. The same order given twice is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Send all that failed, now.
    Retry,
    /// Tell again what came after this event.
    Back(u64),
    /// Tell of this event again.
    Again(u64),
}

impl Order {
    /// What is asked; `None` where the message is not in the journal any more.
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

    /// What a reader was asked and has not obeyed yet; at most as much as is obeyed at once.
    pub(super) async fn given(journal: &JournalHandle, reader: &str) -> Result<Vec<Self>, Error> {
        let (from, to) = (vec![ORDER_KEYS], vec![ORDER_KEYS + 1]);
        let kept = journal.kept(reader, from, to, ORDERS_PER_COMMIT).await?;
        Ok(kept
            .iter()
            .filter_map(|(key, _)| Order::read(key))
            .collect())
    }

    /// Asks it of a reader, whichever node has that.
    pub(super) async fn give(self, journal: &JournalHandle, reader: &str) -> Result<(), Error> {
        let order = (self.key(), Some(Vec::new()));
        journal.leave(reader, vec![order]).await
    }

    /// Waits until it is obeyed. `obeyed` tells of each time that this node obeys; where others
    /// share the spool, one of them may have the reader, and nothing tells of that but the spool.
    pub(super) async fn until_obeyed(
        self,
        journal: &JournalHandle,
        reader: &str,
        obeyed: &Notify,
        is_shared: bool,
    ) -> Result<(), Error> {
        let (from, to) = (self.key(), [&self.key()[..], &[0]].concat());
        loop {
            let told = obeyed.notified();
            let left = journal.kept(reader, from.clone(), to.clone(), 1).await?;
            if left.is_empty() {
                return Ok(());
            }

            tokio::select! {
                () = told => {}
                () = tokio::time::sleep(POLL_INTERVAL), if is_shared => {}
            }
        }
    }

    /// That it is obeyed.
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
