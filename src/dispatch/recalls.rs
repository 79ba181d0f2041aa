//! Mails that a user wants back while a sender has them. `cancel` notes them; senders, and their
//! connections right before the final dot, ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::mail::MailId;

#[derive(Default)]
pub(super) struct Recalls {
    /// How many want each of them back.
    wanted: Mutex<HashMap<MailId, usize>>,
    any: AtomicBool,
}

impl Recalls {
    /// Notes that a user wants a mail back; until the guard is dropped.
    pub(super) fn recall(self: &Arc<Self>, mail: MailId) -> RecallRequest {
        *self.wanted.lock().entry(mail).or_default() += 1;
        self.any.store(true, Ordering::Release);

        RecallRequest {
            recalls: Arc::clone(self),
            mail,
        }
    }

    /// Whether a user wants this mail back. Costs next to nothing while nobody wants anything.
    pub(super) fn is_recalled(&self, mail: MailId) -> bool {
        self.any.load(Ordering::Acquire) && self.wanted.lock().contains_key(&mail)
    }
}

/// Somebody wants a mail back.
pub(super) struct RecallRequest {
    recalls: Arc<Recalls>,
    mail: MailId,
}

impl Drop for RecallRequest {
    fn drop(&mut self) {
        let mut wanted = self.recalls.wanted.lock();
        if let Some(count) = wanted.get_mut(&self.mail) {
            *count -= 1;
            if *count == 0 {
                wanted.remove(&self.mail);
            }
        }
        self.recalls
            .any
            .store(!wanted.is_empty(), Ordering::Release);
    }
}
