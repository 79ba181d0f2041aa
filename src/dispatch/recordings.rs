//! Changes of mails that are being recorded and not yet reported. A request for the status of such
//! a mail waits for them, so that no status is ahead of its event.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mail::MailId;

#[derive(Default)]
pub(super) struct Recordings {
    under_way: Mutex<OpenRecordings>,
    ended: Notify,
}

#[derive(Default)]
struct OpenRecordings {
    last: u64,
    /// The numbers of the changes in progress, by mail.
    of: HashMap<MailId, BTreeSet<u64>>,
}

impl Recordings {
    /// Counts a change of this mail as in progress until the guard is dropped, once the change is
    /// recorded and reported.
    pub(super) fn begin(self: &Arc<Self>, mail: MailId) -> Recording {
        let mut under_way = self.under_way.lock();
        under_way.last += 1;
        let number = under_way.last;
        under_way.of.entry(mail).or_default().insert(number);

        Recording {
            recordings: Arc::clone(self),
            mail,
            number,
        }
    }

    /// Waits until every change of this mail that is in progress now has been reported.
    pub(super) async fn wait_for(&self, mail: MailId) {
        let by_now = self.under_way.lock().last;
        loop {
            let ended = self.ended.notified();
            let first = {
                let under_way = self.under_way.lock();
                under_way.of.get(&mail).and_then(|all| all.first().copied())
            };
            if first.is_none_or(|first| first > by_now) {
                return;
            }
            ended.await;
        }
    }
}

/// A change of a mail that is being recorded.
pub(super) struct Recording {
    recordings: Arc<Recordings>,
    mail: MailId,
    number: u64,
}

impl Drop for Recording {
    fn drop(&mut self) {
        let mut under_way = self.recordings.under_way.lock();
        if let Some(all) = under_way.of.get_mut(&self.mail) {
            all.remove(&self.number);
            if all.is_empty() {
                under_way.of.remove(&self.mail);
            }
        }
        drop(under_way);
        self.recordings.ended.notify_waiters();
    }
}
