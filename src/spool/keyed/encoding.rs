//! Encoding a new mail for the writer, on its caller's task. Parts of a large mail are written
//! ahead of the record that makes it exist.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Weak};

use super::changes::{self, INDEX_BYTES, STEP_BYTES};
use super::command::{GroupCommand, WriterCommand};
use super::idempotency::Hash;
use super::queue_head::CachedMail;
use super::stored_mail::{self, CHUNK_BYTES};
use super::{KeyedSpool, keys};
use crate::delivery::Delivery;
use crate::mail::MailId;
use crate::spool::codec;
use crate::spool::store::{Batch, Store};
use crate::spool::{Manifest, NewMail, PutResult, SpoolError};

/// A message above this is written in several groups, the record that makes it exist last.
const LARGE_MESSAGE: usize = 256 * 1024;

/// A mail, encoded by its caller so that the writer has little to do.
pub(super) struct Encoded<S> {
    pub manifest: Arc<Manifest>,
    /// The hash under which its idempotency key is stored.
    pub key: Option<Hash>,
    pub deliveries: Vec<Delivery>,
    /// What to write besides the queue, the timers and the idempotency key.
    pub batch: Batch,
    /// Whether it has so many recipients that they are queued only after it is stored.
    pub queued_later: bool,
    /// The parts of its message that were written before.
    pub ahead: Option<EarlyParts<S>>,
    pub fresh: Option<Arc<CachedMail>>,
}

/// Parts of a large message that were written before its mail. When this is dropped before the mail
/// is stored, for instance because the caller has timed out, they are removed.
pub(super) struct EarlyParts<S> {
    mail: Option<MailId>,
    commands: Weak<Sender<WriterCommand<S>>>,
}

impl<S> EarlyParts<S> {
    pub(super) fn new(mail: MailId, commands: &Arc<Sender<WriterCommand<S>>>) -> Self {
        EarlyParts {
            mail: Some(mail),
            commands: Arc::downgrade(commands),
        }
    }

    /// The mail is stored: its parts are not removed.
    pub(super) fn keep(mut self) {
        self.mail = None;
    }
}

impl<S> Drop for EarlyParts<S> {
    fn drop(&mut self) {
        // A spool that is closed removes them when it is opened.
        if let (Some(mail), Some(commands)) = (self.mail, self.commands.upgrade()) {
            let _ = commands.send(GroupCommand::Forget(mail).into());
        }
    }
}

impl<S> Encoded<S> {
    /// About how many bytes it adds to a group.
    pub(super) fn weight(&self) -> usize {
        let queued = if self.queued_later {
            1
        } else {
            self.deliveries.len()
        };
        changes::weight(&self.batch) + INDEX_BYTES * queued
    }
}

impl<S: Store> KeyedSpool<S> {
    /// Encodes a mail's records and cuts its message into chunks. Those of a large message are
    /// written ahead, after the writer was asked whether the mail would be stored; if it would not,
    /// `Err` is the answer to the caller.
    pub(super) async fn encode(
        &self,
        new_mail: NewMail,
    ) -> Result<Encoded<S>, Result<PutResult, SpoolError>> {
        let NewMail {
            manifest,
            body,
            deliveries,
        } = new_mail;
        let id = manifest.id;
        let manifest = Arc::new(manifest);
        let recipients_weight = stored_mail::weight(&deliveries);
        let queued_later = recipients_weight > LARGE_MESSAGE;
        let is_large = body.len() > LARGE_MESSAGE || queued_later;
        let key = self.shared.key_hash.of(&manifest);

        let mut parts = RecordWriter {
            spool: self,
            batch: Batch::with_capacity(6),
            weight: 0,
            is_large,
            has_written: false,
        };

        if is_large {
            match self
                .ask(|reply| GroupCommand::Judge(Arc::clone(&manifest), key, reply))
                .await
            {
                Ok(Ok(PutResult::Stored)) => {}
                Ok(judged) => return Err(judged),
                Err(error) => return Err(Err(error)),
            }
            parts.add(keys::writing(id), Some(Vec::new())).await?;
        }
        let ahead = is_large.then(|| EarlyParts::new(id, &self.commands));

        let chunked = if stored_mail::is_small(body.len()) {
            &[]
        } else {
            &body[..]
        };

        for (number, chunk) in (0u32..).zip(chunked.chunks(CHUNK_BYTES)) {
            let key = keys::chunk(id, number);
            parts.add(key, Some(chunk.to_vec())).await?;
        }

        for (index, delivery) in (0u16..).zip(stored_mail::beside_the_record(&deliveries)) {
            let key = keys::delivery(id, index);
            parts.add(key, Some(codec::encode(delivery))).await?;
        }

        if is_large {
            parts.add(keys::writing(id), None).await?;
        }

        let record = stored_mail::record(&manifest, &deliveries, &body);
        parts.batch.push((keys::manifest(id), Some(record)));

        // If no part was written ahead, there is nothing to remove.
        let ahead = match ahead {
            Some(ahead) if !parts.has_written => {
                ahead.keep();
                None
            }
            ahead => ahead,
        };

        // A mail is kept in memory, to be sent without reading it, as far as the budget allows.
        let share = Some(body.len() + recipients_weight)
            .filter(|_| !queued_later)
            .and_then(|bytes| self.shared.budget.share(bytes));

        let fresh = share.map(|share| {
            Arc::new(CachedMail {
                manifest: Arc::clone(&manifest),
                body,
                deliveries: deliveries.clone(),
                _share: share,
            })
        });

        Ok(Encoded {
            manifest,
            key,
            deliveries: if queued_later { Vec::new() } else { deliveries },
            batch: parts.batch,
            queued_later,
            ahead,
            fresh,
        })
    }
}

/// The records of a new mail, on their way to the writer: those of a large one in parts.
struct RecordWriter<'a, S: Store> {
    spool: &'a KeyedSpool<S>,
    batch: Batch,
    weight: usize,
    is_large: bool,
    /// Whether a part was written ahead of the mail.
    has_written: bool,
}

impl<S: Store> RecordWriter<'_, S> {
    async fn add(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Result<(), Result<PutResult, SpoolError>> {
        self.weight += key.len() + value.as_ref().map_or(0, Vec::len);
        self.batch.push((key, value));
        if !self.is_large || self.weight < STEP_BYTES {
            return Ok(());
        }
        self.weight = 0;
        self.has_written = true;

        let part = std::mem::take(&mut self.batch);
        self.spool
            .ask(|reply| GroupCommand::Write(part, reply))
            .await
            .flatten()
            .map_err(Err)
    }
}
