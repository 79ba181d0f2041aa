//! Empties the outbox: composes the drafts that applications have enqueued in their own
//! transactions, as `POST /v1/mails` does, and queues them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;

use super::request::{ComposeContext, MailRequest};
use super::submit;
use crate::dispatch::{Dispatcher, Error, OutboxHandle};
use crate::mail::{Mail, MailId};
use crate::spool::{Handful, OutboxDraft, SpoolError};

/// How often to look for drafts without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait after drafts could not be queued.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many drafts are queued together, and about how many bytes of them.
const GROUP_DRAFTS: usize = 512;
const GROUP_BYTES: usize = 16 * 1024 * 1024;

/// When to look at the outbox again.
enum NextLook {
    AtOnce,
    WhenSomeArrive,
    Later,
}

/// Queues the drafts of the outbox until the listeners close. Does nothing if the spool has no
/// outbox.
pub async fn serve_outbox(dispatcher: Dispatcher, mut closing: watch::Receiver<bool>) {
    let Some(outbox) = dispatcher.outbox() else {
        let _ = closing.wait_for(|closing| *closing).await;
        return;
    };

    let most = Handful {
        drafts: GROUP_DRAFTS,
        bytes: GROUP_BYTES,
        largest: submit::max_json(&dispatcher),
    };
    let mut is_read = true;
    loop {
        let next = match outbox.take(most).await {
            Ok(drafts) => {
                is_read = true;
                let may_be_more = drafts.len() >= GROUP_DRAFTS;
                match queue_drafts(&outbox, drafts, most.largest).await {
                    true if may_be_more => NextLook::AtOnce,
                    true => NextLook::WhenSomeArrive,
                    false => NextLook::Later,
                }
            }
            Err(error) => {
                // An outage is logged by whoever notices it.
                let is_news = std::mem::replace(&mut is_read, false);
                match is_news && !matches!(error, Error::Spool(SpoolError::Unreachable { .. })) {
                    true => tracing::error!(%error, "the outbox cannot be read"),
                    false => tracing::debug!(%error, "the outbox cannot be read"),
                }
                NextLook::Later
            }
        };
        let next = async {
            match next {
                NextLook::AtOnce => {}
                NextLook::WhenSomeArrive => {
                    _ = tokio::time::timeout(POLL_INTERVAL, outbox.arrived()).await
                }
                NextLook::Later => tokio::time::sleep(RETRY_AFTER).await,
            }
        };
        tokio::select! {
            () = next => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}

/// Queues drafts; returns whether all were queued or rejected.
async fn queue_drafts(outbox: &OutboxHandle, drafts: Vec<OutboxDraft>, largest: usize) -> bool {
    let mut by_id: HashMap<MailId, OutboxDraft> = HashMap::with_capacity(drafts.len());
    let mut mails: Vec<(MailId, Mail)> = Vec::with_capacity(drafts.len());
    let mut left = Vec::new();
    for draft in drafts {
        let context = ComposeContext {
            templates: outbox.postrider().templates(),
            shared: None,
        };
        let composed = match &draft.json {
            Some(json) => MailRequest::read(json.as_bytes(), None, context)
                .map_err(|problem| problem.sentence()),
            None => Err(format!("it is larger than {largest} bytes")),
        };
        match composed {
            Ok(mail) => {
                mails.push((draft.id, mail));
                by_id.insert(draft.id, draft);
            }
            Err(reason) => {
                if !reject(outbox, &draft, &reason).await {
                    left.push(draft.id);
                }
            }
        }
    }

    for (id, result) in outbox.submit(mails).await {
        let Err(error) = result else { continue };
        let is_its_own = matches!(
            error,
            Error::Mail(_) | Error::KeyReused(_) | Error::NoRoute(_)
        );
        let gone = match by_id.get(&id) {
            Some(draft) if is_its_own => reject(outbox, draft, &error.to_string()).await,
            _ => false,
        };
        if !gone {
            left.push(id);
        }
    }

    if left.is_empty() {
        return true;
    }
    tracing::warn!(
        count = left.len(),
        "mail in the outbox cannot be moved to the queue now"
    );

    if let Err(error) = outbox.give_back(left).await {
        tracing::debug!(%error, "it is taken again when the database answers");
    }
    false
}

async fn reject(outbox: &OutboxHandle, draft: &OutboxDraft, reason: &str) -> bool {
    tracing::warn!(
        mail.id = %draft.id,
        reason,
        "mail from the outbox cannot be composed, and is dead"
    );
    match outbox.reject(draft, reason).await {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(mail.id = %draft.id, %error, "it could not be set aside");
            false
        }
    }
}
