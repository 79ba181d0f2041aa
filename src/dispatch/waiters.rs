//! Callers that wait for a mail. They are notified whenever its state may have changed: one of its
//! deliveries was recorded, or a sender returned it to the queue.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::mail::MailId;

#[derive(Default)]
pub(super) struct Waiters(Mutex<HashMap<MailId, Waiter>>);

struct Waiter {
    notify: Arc<Notify>,
    /// Counted under the lock, so that the last one can remove the entry.
    count: usize,
}

impl Waiters {
    /// Registers a caller that waits for this mail, until the guard is dropped.
    pub(super) fn wait_for(self: &Arc<Self>, mail: MailId) -> WaiterGuard {
        let mut waiters = self.0.lock();
        let waiter = waiters.entry(mail).or_insert_with(|| Waiter {
            notify: Arc::default(),
            count: 0,
        });
        waiter.count += 1;

        WaiterGuard {
            waiters: Arc::clone(self),
            mail,
            notify: Arc::clone(&waiter.notify),
        }
    }

    /// Notifies callers that wait for this mail when the returned guard is dropped.
    pub(super) fn notify_at_end(self: &Arc<Self>, mail: MailId) -> NotifyOnDrop {
        NotifyOnDrop {
            waiters: Arc::clone(self),
            mail,
        }
    }

    /// Notifies callers that wait for this mail.
    pub(super) fn notify(&self, mail: MailId) {
        if let Some(waiter) = self.0.lock().get(&mail) {
            waiter.notify.notify_waiters();
        }
    }
}

/// Notifies callers that wait for a mail when it is dropped.
pub(super) struct NotifyOnDrop {
    waiters: Arc<Waiters>,
    mail: MailId,
}

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.waiters.notify(self.mail);
    }
}

/// A caller that waits for a mail, until it is dropped.
pub(super) struct WaiterGuard {
    waiters: Arc<Waiters>,
    mail: MailId,
    pub notify: Arc<Notify>,
}

impl Drop for WaiterGuard {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock();
        if let Some(waiter) = waiters.get_mut(&self.mail) {
            waiter.count -= 1;
            if waiter.count == 0 {
                waiters.remove(&self.mail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_many_who_waited_at_once() {
        let waiters = Arc::<Waiters>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..20_000_u32 {
                        let mut id = [0; 16];
                        id[..4].copy_from_slice(&(n / 2).to_be_bytes());
                        drop(waiters.wait_for(MailId::from_bytes(id)));
                    }
                });
            }
        });

        assert_eq!(waiters.0.lock().len(), 0);
    }
}
