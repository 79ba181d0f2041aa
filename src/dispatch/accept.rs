//! Accepts mail: makes a manifest of a mail, and a delivery for each recipient. Returns a receipt
//! once the spool has written them, in a group commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use super::suppressions::AddressedMail;
use super::{Error, Receipt};
use crate::delivery::{DeadReason, Delivery, Stage};
use crate::mail::{Address, Mail, MailError, MailId, Priority, Submitter, Timestamp, When};
use crate::spool::{Manifest, NewMail, PutResult};

/// The reason for refusing a mail whose send time cannot be represented.
const SEND_TIME_TOO_FAR: &str = "is too far in the future: the last day is 9999-12-29";

/// The limits for accepting mail.
pub(super) struct Accept {
    pub max_pending: u64,
    /// How many more deliveries of critical mail may be pending.
    pub critical_reserve: u64,
    pub max_message_size: usize,
    pub accept_timeout: Duration,
}

/// Deliveries that are being accepted. They count as pending until this is dropped; by then the
/// spool has stored and counted them, or they were refused.
struct PendingCount<'a> {
    engine: &'a Engine,
    submitter: &'a Submitter,
    count: u64,
}

impl Drop for PendingCount<'_> {
    fn drop(&mut self) {
        self.engine
            .accepting
            .fetch_sub(self.count, Ordering::Relaxed);
        self.engine.accounts.end(self.submitter, self.count);
        self.engine.progress.notify_waiters();
    }
}

impl Accept {
    /// Checks that there is room in the queue and on disk. Some of it is reserved for critical
    /// mail.
    fn check_room(&self, engine: &Engine, mail: &Mail) -> Result<(), Error> {
        let more = mail.envelope().recipients().len() as u64;
        self.check_room_for(engine, more, mail.options().priority)?;
        let size = mail.message().len() as u64;
        engine.spool.check_space(size).map_err(Error::from)
    }

    /// Checks that `more` deliveries of this priority fit into the queue.
    pub(super) fn check_room_for(
        &self,
        engine: &Engine,
        more: u64,
        priority: Priority,
    ) -> Result<(), Error> {
        let pending = engine.spool.pending() + engine.accepting.load(Ordering::Relaxed);
        let max = match priority {
            Priority::Critical => self.max_pending.saturating_add(self.critical_reserve),
            _ => self.max_pending,
        };
        if pending + more > max {
            return Err(Error::Full { pending, max });
        }
        Ok(())
    }

    /// Waits until there is room for this mail.
    pub(super) async fn wait_for_room(&self, engine: &Engine, mail: &Mail) -> Result<(), Error> {
        let mut time_is_up = std::pin::pin!(tokio::time::sleep(self.accept_timeout));
        loop {
            let progress = engine.progress.notified();
            engine.admits()?;
            let Err(full) = self.check_room(engine, mail) else {
                return Ok(());
            };

            tokio::select! {
                () = progress => {}
                () = engine.life.wait_for_close() => {}
                () = &mut time_is_up => return Err(full),
            }
        }
    }

    pub(super) fn check_size(&self, mail: &Mail) -> Result<(), Error> {
        let size = mail.message().len();
        if size > self.max_message_size {
            return Err(MailError::too_large(size, self.max_message_size).into());
        }
        Ok(())
    }

    /// Stores mails in one group. Returns a result for each, in order.
    pub(super) async fn accept(
        &self,
        engine: &Arc<Engine>,
        mails: Vec<Mail>,
        door: &'static str,
        submitter: &Submitter,
    ) -> Vec<Result<Receipt, Error>> {
        let started = Instant::now();
        let now = engine.clock.now();

        // Check each mail. Those that pass count as pending from here on.
        let mut results = Vec::with_capacity(mails.len());
        let mut new_mails = Vec::with_capacity(mails.len());
        let mut pending = PendingCount {
            engine,
            submitter,
            count: 0,
        };
        for mail in mails {
            let new_mail = self.admit(&mut pending, mail, now);
            results.push(new_mail.map(|new_mail| {
                let (id, priority) = (new_mail.manifest.id, new_mail.manifest.priority);
                let line = AcceptedLine::of(&new_mail);
                if !new_mail.manifest.mended.is_empty() {
                    let mended = &new_mail.manifest.mended;
                    tracing::debug!(mail.id = %id, door, ?mended, "the message was mended");
                }
                new_mails.push(new_mail);
                (id, priority, line)
            }));
        }

        // Store them together.
        let mut suppressed = suppress(engine, &mut new_mails, now).await.into_iter();
        let put = match new_mails.is_empty() {
            true => Vec::new(),
            false => engine.spool.put(new_mails).await,
        };
        let mut put = put.into_iter();

        // A receipt for each that was stored, in the order of the mails.
        let durability = engine.spool.durability();
        let mut receipts = Vec::with_capacity(results.len());
        for result in results {
            let (id, priority, line) = match result {
                Ok(admitted) => admitted,
                Err(error) => {
                    receipts.push(Err(error));
                    continue;
                }
            };

            let suppressed = suppressed.next().unwrap_or_default();
            receipts.push(match put.next() {
                Some(Ok(PutResult::Stored)) => {
                    engine.metrics.accepted(door, priority, started.elapsed());
                    if let Some(line) = line {
                        line.log(id, door);
                    }
                    engine.announce_suppressed(id, &suppressed);
                    Ok(Receipt {
                        id,
                        durability,
                        duplicate: false,
                        suppressed,
                    })
                }
                Some(Ok(PutResult::Duplicate(first))) => Ok(Receipt {
                    id: first,
                    durability,
                    duplicate: true,
                    suppressed: Vec::new(),
                }),
                Some(Err(error)) => Err(error.into()),
                None => Err(Error::Stopped("the spool gave no answer".into())),
            });
        }

        receipts
    }

    /// Checks a mail against all limits and counts its deliveries as pending.
    fn admit(
        &self,
        pending: &mut PendingCount<'_>,
        mail: Mail,
        now: Timestamp,
    ) -> Result<NewMail, Error> {
        let (engine, submitter) = (pending.engine, pending.submitter);
        engine.admits()?;
        self.check_size(&mail)?;
        self.check_room(engine, &mail)?;
        engine
            .accounts
            .begin(engine, submitter, &mail, now, self.max_pending)
            .inspect_err(|error| count_refusal(engine, submitter, error))?;

        let count = mail.envelope().recipients().len() as u64;
        engine.accepting.fetch_add(count, Ordering::Relaxed);
        pending.count += count;
        self.new_mail(engine, mail, now, submitter)
    }

    /// What the spool stores for a mail: its times are computed and its routes resolved.
    fn new_mail(
        &self,
        engine: &Engine,
        mail: Mail,
        now: Timestamp,
        submitter: &Submitter,
    ) -> Result<NewMail, Error> {
        let options = mail.options();

        // Without an expiry of its own, a mail's lifetime begins when it is to be sent.
        let resolve = |when| engine.clock.resolve(when, now);
        let due = options.send.map_or(now, resolve).max(now);
        let expires_at = options
            .expires
            .map_or(due + engine.retry.expire_after, resolve);

        if expires_at <= now {
            return Err(MailError::new("expires_at", "is not in the future").into());
        }
        if due >= expires_at {
            let reason = "is not after the time at which it is to be sent";
            return Err(match (options.expires, options.send) {
                (None, Some(When::In(_))) => MailError::new("delay", SEND_TIME_TOO_FAR),
                (None, _) => MailError::new("send_at", SEND_TIME_TOO_FAR),
                (expires, _) => MailError::new(expiry_field(expires), reason),
            }
            .into());
        }

        let mut message = mail.message().clone();
        if let [only] = mail.envelope().recipients() {
            message = engine.message_for_one(&mail, only);
        }

        let topology = engine.topology();
        let mut deliveries = Vec::with_capacity(mail.envelope().recipients().len());
        for recipient in mail.envelope().recipients() {
            let route = topology.rules.resolve(
                mail.envelope().return_path(),
                recipient,
                &options.tags,
                options.priority,
            );
            let route = route.ok_or_else(|| Error::NoRoute(recipient.to_string()))?;
            deliveries.push(Delivery::new(recipient.clone(), route.clone(), due));
        }

        let manifest = Manifest {
            id: mail.id(),
            accepted_at: now,
            expires_at,
            return_path: mail.envelope().return_path().cloned(),
            message_id: mail.message_id().to_owned(),
            subject: mail.subject().to_owned(),
            priority: options.priority,
            guarantee: options.guarantee,
            tags: options.tags.clone(),
            idempotency_key: options.idempotency_key.clone(),
            // Only compared when an idempotency key is used again.
            fingerprint: options
                .idempotency_key
                .as_ref()
                .map_or(0, |_| mail.fingerprint()),
            size: message.len() as u64,
            recipients: u16::try_from(deliveries.len()).unwrap_or(u16::MAX),
            eight_bit: mail.is_eight_bit(),
            smtputf8: mail.needs_smtputf8(),
            template: mail.template().cloned(),
            list: options.list.clone(),
            submitter: Some(submitter.clone()),
            mended: mail.mended().to_vec(),
        };

        Ok(NewMail {
            manifest,
            body: message,
            deliveries,
        })
    }
}

/// Counts a mail that was refused because of its submitter's quota, and logs it.
fn count_refusal(engine: &Engine, submitter: &Submitter, error: &Error) {
    let limit = match error {
        Error::Quota { limit, .. } => limit.as_str(),
        Error::SenderRefused { .. } => "from",
        _ => return,
    };
    engine.metrics.quota_refusal(submitter, limit);
    tracing::debug!(%error, "refused");
}

/// Ends the deliveries to suppressed recipients; returns those recipients for each mail.
async fn suppress(engine: &Engine, new_mails: &mut [NewMail], now: Timestamp) -> Vec<Vec<Address>> {
    if !engine.suppresses() {
        return Vec::new();
    }

    let mut addressed = Vec::with_capacity(new_mails.len());
    for new_mail in new_mails.iter() {
        let to = new_mail.deliveries.iter();
        addressed.push(AddressedMail {
            list: new_mail.manifest.list.as_deref(),
            priority: new_mail.manifest.priority,
            recipients: to.map(|delivery| delivery.recipient.clone()).collect(),
        });
    }

    // If the suppression list cannot be read now, the sender checks it again before it sends.
    let places = engine.suppressed(&addressed).await.unwrap_or_default();

    let reason = DeadReason::Suppressed;
    let mut suppressed = Vec::with_capacity(places.len());
    for (new_mail, places) in new_mails.iter_mut().zip(places) {
        let mut recipients = Vec::with_capacity(places.len());
        for place in places {
            if let Some(delivery) = new_mail.deliveries.get_mut(usize::from(place)) {
                delivery.stage = Stage::Dead { at: now, reason };
                recipients.push(delivery.recipient.clone());
            }
        }
        suppressed.push(recipients);
    }

    suppressed
}

/// The log line about an accepted mail, with target `postrider::accepted`. `None` if it is not
/// logged.
struct AcceptedLine {
    key: Option<String>,
    tags: Vec<String>,
    size: u64,
    recipients: usize,
    submitter: Submitter,
}

impl AcceptedLine {
    fn of(new_mail: &NewMail) -> Option<Self> {
        if !tracing::enabled!(target: "postrider::accepted", tracing::Level::INFO) {
            return None;
        }
        let manifest = &new_mail.manifest;
        Some(AcceptedLine {
            key: manifest.idempotency_key.clone(),
            tags: manifest.tags.clone(),
            size: manifest.size,
            recipients: new_mail.deliveries.len(),
            submitter: manifest.submitter.clone().unwrap_or_default(),
        })
    }

    fn log(self, id: MailId, door: &str) {
        let AcceptedLine {
            key,
            tags,
            size,
            recipients,
            submitter,
        } = self;

        let key = key.unwrap_or_default();
        tracing::info!(
            target: "postrider::accepted",
            {
                mail.id = %id, door, who = ?submitter.to_string(), key = ?key, tags = ?tags, size,
                recipients
            },
            "accepted"
        );
    }
}

pub(super) fn expiry_field(expires: Option<When>) -> &'static str {
    match expires {
        Some(When::In(_)) => "expires_in",
        _ => "expires_at",
    }
}
