//! Mails that are being cancelled while a sender holds them. `cancel` registers them; senders check
//! for them, and connections do so right before the final dot.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::mail::MailId;

#[derive(Default)]
pub(super) struct Recalls {
    /// How many callers are cancelling each mail.
    wanted: Mutex<HashMap<MailId, usize>>,
    any: AtomicBool,
}

impl Recalls {
    /// Registers that a mail is being cancelled, until the guard is dropped.
    pub(super) fn recall(self: &Arc<Self>, mail: MailId) -> RecallRequest {
        *self.wanted.lock().entry(mail).or_default() += 1;
        self.any.store(true, Ordering::Release);

        RecallRequest {
            recalls: Arc::clone(self),
            mail,
        }
    }

    /// Whether this mail is being cancelled. Very cheap while no mail is.
    pub(super) fn is_recalled(&self, mail: MailId) -> bool {
        self.any.load(Ordering::Acquire) && self.wanted.lock().contains_key(&mail)
    }
}

/// A caller that is cancelling a mail.
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
