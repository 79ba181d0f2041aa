//! The way in: a mail becomes a manifest, a delivery for each recipient, and a group commit; then
//! there is a receipt.

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

/// Why a mail is refused that would be sent at the end of time.
const TOO_FAR: &str = "is too far in the future: the last day is 9999-12-29";

/// What is accepted, and how much of it.
pub(super) struct Accept {
    pub max_pending: u64,
    /// How many more deliveries of critical mail may be pending.
    pub critical_reserve: u64,
    pub max_message_size: usize,
    pub accept_timeout: Duration,
}

/// Mails that are being accepted: their deliveries count as pending until they are, or are not.
struct Intake<'a> {
    engine: &'a Engine,
    submitter: &'a Submitter,
    count: u64,
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.engine
            .accepting
            .fetch_sub(self.count, Ordering::Relaxed);
        self.engine.accounts.end(self.submitter, self.count);
        self.engine.progress.notify_waiters();
    }
}

impl Accept {
    /// Whether its deliveries may be pending as well. Some room is there for critical mail alone.
    fn check_room(&self, engine: &Engine, mail: &Mail) -> Result<(), Error> {
        let more = mail.envelope().recipients().len() as u64;
        self.check_room_for(engine, more, mail.options().priority)?;
        let size = mail.message().len() as u64;
        engine.spool.check_space(size).map_err(Error::from)
    }

    /// Whether so many more deliveries of this priority may be pending.
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

    /// Waits until its deliveries may be pending.
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
                () = engine.life.closes() => {}
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

    /// Makes mails durable, together.
    pub(super) async fn accept(
        &self,
        engine: &Arc<Engine>,
        mails: Vec<Mail>,
        door: &'static str,
        submitter: &Submitter,
    ) -> Vec<Result<Receipt, Error>> {
        let started = Instant::now();
        let now = engine.clock.now();
        let mut results = Vec::with_capacity(mails.len());
        let mut new_mails = Vec::with_capacity(mails.len());

        let mut intake = Intake {
            engine,
            submitter,
            count: 0,
        };

        for mail in mails {
            let count = mail.envelope().recipients().len() as u64;
            let new_mail = engine
                .admits()
                .and_then(|()| self.check_size(&mail))
                .and_then(|()| self.check_room(engine, &mail))
                .and_then(|()| {
                    let max = self.max_pending;
                    let begun = engine.accounts.begin(engine, submitter, &mail, now, max);
                    begun.inspect_err(|error| told_refusal(engine, submitter, error))
                })
                .and_then(|()| {
                    engine.accepting.fetch_add(count, Ordering::Relaxed);
                    intake.count += count;
                    self.new_mail(engine, mail, now, submitter)
                });
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

        let mut suppressed = suppress(engine, &mut new_mails, now).await.into_iter();
        let put = match new_mails.is_empty() {
            true => Vec::new(),
            false => engine.spool.put(new_mails).await,
        };
        let mut put = put.into_iter();

        let durability = engine.spool.durability();
        let mut receipts = Vec::with_capacity(results.len());
        for result in results {
            let (id, priority, line) = match result {
                Ok(handed_in) => handed_in,
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
                    engine.tell_suppressed(id, &suppressed);
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

    fn new_mail(
        &self,
        engine: &Engine,
        mail: Mail,
        now: Timestamp,
        submitter: &Submitter,
    ) -> Result<NewMail, Error> {
        let options = mail.options();

        let meant = |when| engine.clock.meant(when, now);
        let due = options.send.map_or(now, meant).max(now);
        // A mail that names no expiry of its own lives from the time at which it is to be sent.
        let expires_at = options
            .expires
            .map_or(due + engine.retry.expire_after, meant);

        if expires_at <= now {
            return Err(MailError::new("expires_at", "is not in the future").into());
        }
        if due >= expires_at {
            let reason = "is not after the time at which it is to be sent";
            return Err(match (options.expires, options.send) {
                (None, Some(When::In(_))) => MailError::new("delay", TOO_FAR),
                (None, _) => MailError::new("send_at", TOO_FAR),
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
            // It serves only to tell whether a key was used for something else.
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

/// Tells the log and the metrics that somebody has used up what is allowed.
fn told_refusal(engine: &Engine, submitter: &Submitter, error: &Error) {
    let limit = match error {
        Error::Quota { limit, .. } => limit.as_str(),
        Error::SenderRefused { .. } => "from",
        _ => return,
    };
    engine.metrics.quota_refusal(submitter, limit);
    tracing::debug!(%error, "refused");
}

/// Ends the deliveries of new mails whose recipients are not to get them; returns whom, for each.
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

    // What is not known now is asked again before it is sent.
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

/// What the log says of a mail that was accepted, where anybody reads it: the target
/// `postrider::accepted`.
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
            { mail.id = %id, door, who = ?submitter.to_string(), key = ?key, tags = ?tags, size, recipients },
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
