//! Processes bounces, complaints and events of providers: finds the delivery, stores the feedback
//! with it, and adds suppressions in the same commit.
//!
//! *Invariant:* a report affects only the delivery whose token it contains, whatever other
//! addresses it mentions.

use std::time::Duration;

use bytes::Bytes;
use ring::digest;

use super::engine::Engine;
use super::returns::Returned;
use super::suppressions::{SUPPRESS, describe_entries};
use super::{Dispatcher, Error, Returns};
use crate::delivery::{Event, EventKind, Feedback, FeedbackKind, ends_an_address, printable};
use crate::feedback::{self, Finding, ReportReading};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::{FeedbackResult, NewFeedback, Query, Record, Suppression, SuppressionReason};

/// The source of feedback that came as a report.
pub(super) const REPORT_SOURCE: &str = "report";
/// Reports larger than this are parsed on a thread of their own.
const LARGE_REPORT: usize = 128 * 1024;
/// How many of an address's latest mails are searched for one that a provider names.
const LAST_MAILS: usize = 100;
/// How many milliseconds before the time in a Message-ID the mail may have been accepted, and how
/// long after it: clocks differ, and the client may have had to wait.
const CLOCKS_DIFFER: i64 = 60_000;
const ON_ITS_WAY: Duration = Duration::from_secs(3600);

/// Processes feedback; see [`Dispatcher::feedback`].
#[derive(Clone, Copy)]
pub struct FeedbackHandle<'a> {
    postrider: &'a Dispatcher,
}

/// A provider's event about a mail that it accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderEvent {
    /// The id of the event; a repeated event has the same id.
    pub id: String,
    /// What happened.
    pub kind: FeedbackKind,
    /// Whether the failure is permanent, according to the provider.
    pub permanent: bool,
    /// The enhanced status code, or the complaint's type.
    pub status: Option<String>,
    /// The explanation.
    pub text: String,
    /// The recipient of the mail.
    pub recipient: String,
    /// Whether the event is about this recipient. If the provider reports it about the mail as a
    /// whole, it is used only if the mail had no other recipient.
    pub names_recipient: bool,
    /// The mail's Message-ID, if the provider has it.
    pub message_id: Option<String>,
    /// The provider's id of the mail, which was in its answer.
    pub provider_id: Option<String>,
    /// The event as it was received; it may contain one of our tokens.
    pub raw: Bytes,
}

/// The effect of one report or event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackReceipt {
    /// The mail.
    pub mail: MailId,
    /// The recipient.
    pub recipient: Address,
    /// The kind of feedback.
    pub kind: FeedbackKind,
    /// The status code, or the type of complaint.
    pub status: Option<String>,
    /// Whether it was reported before.
    pub known: bool,
    /// Whether the address was added to the suppression list.
    pub suppressed: bool,
}

/// Why a report was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// The message is not a report.
    #[error("the message is neither a delivery report nor a complaint")]
    NoReport,
    /// The report is not about a mail of ours.
    #[error("the report has no return path of a mail that is kept here")]
    NotOurs,
    /// It was sent to an address for unsubscribing and does not name a list.
    #[error("the subject has no unsubscribe token, and the mail is no longer kept")]
    NoList,
    /// It could not be stored.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// A finding with its delivery, to be stored.
struct MatchedFinding {
    record: Record,
    index: u16,
    id: String,
    finding: Finding,
    /// Whether the address is bad even if the status does not say so.
    is_hard: bool,
}

impl Dispatcher {
    /// Processes reports, complaints and events of providers.
    pub fn feedback(&self) -> FeedbackHandle<'_> {
        FeedbackHandle { postrider: self }
    }
}

impl FeedbackHandle<'_> {
    /// The domain for bounces, if it is configured.
    pub fn returns(&self) -> Option<&Returns> {
        self.engine().returns.as_ref()
    }

    /// Processes a report that was sent to these addresses, if they are known. The token in the
    /// return path identifies the delivery. If `is_trusted`, because of who submitted it, the
    /// report may also identify a mail by its Message-ID.
    ///
    /// A report of a delay has no effect. A message that is not a report, sent to an address in a
    /// `List-Unsubscribe` field, unsubscribes its recipient from that list.
    ///
    /// # Errors
    /// [`ReportError`].
    pub async fn take_report(
        &self,
        message: Bytes,
        to: &[Address],
        is_trusted: bool,
    ) -> Result<Vec<FeedbackReceipt>, ReportError> {
        let bytes = message.clone();
        let reading = match message.len() > LARGE_REPORT {
            true => tokio::task::spawn_blocking(move || feedback::read(&bytes)).await,
            false => Ok(feedback::read(&bytes)),
        };

        let report = match reading.unwrap_or(ReportReading::NoReport) {
            ReportReading::Report(report) => report,
            ReportReading::Nothing => {
                self.engine().metrics.fed_back(REPORT_SOURCE, "nothing");
                return Ok(Vec::new());
            }
            ReportReading::NoReport => {
                return self.take_other_message(&message, to, is_trusted).await;
            }
        };

        let returns = self.returns();
        let returned = returns.and_then(|returns| {
            let named = to.iter().find_map(|to| returns.read(to));
            named.or_else(|| returns.find(&report.contents))
        });

        let mut found = Vec::new();
        if let Some(returned) = returned {
            found.extend(self.of_token(returned, report.findings).await?);
        } else if is_trusted {
            for id in &report.message_ids {
                found.extend(self.of_message_id(id, &report.findings).await?);
            }
        }

        if found.is_empty() {
            self.engine().metrics.fed_back(REPORT_SOURCE, "unknown");
            return Err(ReportError::NotOurs);
        }

        Ok(self.keep(REPORT_SOURCE, found).await?)
    }

    /// Processes events of a provider that has authenticated itself. Events about unknown mail are
    /// only counted.
    ///
    /// # Errors
    /// [`Error::Spool`].
    pub async fn take_events(
        &self,
        by: &str,
        events: Vec<ProviderEvent>,
    ) -> Result<Vec<FeedbackReceipt>, Error> {
        let mut found = Vec::new();
        for event in events {
            let found_delivery = self.of_event(&event).await?;
            let Some((record, index)) =
                found_delivery.filter(|(record, index)| is_said_of(&event, record, *index))
            else {
                self.engine().metrics.fed_back(by, "unknown");
                continue;
            };
            found.push(MatchedFinding {
                record,
                index,
                id: event.id,
                is_hard: event.permanent && !is_about_the_mail(event.status.as_deref()),
                finding: Finding {
                    kind: event.kind,
                    recipients: Vec::new(),
                    status: event.status,
                    text: printable(&event.text)
                        .chars()
                        .take(feedback::TEXT_CHARACTERS)
                        .collect(),
                    permanent: event.permanent,
                },
            });
        }

        self.keep(by, found).await
    }

    /// Counts an event of a provider that has no effect.
    pub fn count_unknown(&self, by: &str, what: &'static str) {
        self.engine().metrics.fed_back(by, what);
    }

    pub(super) fn postrider(&self) -> &Dispatcher {
        self.postrider
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.postrider.inner.engine
    }

    /// The finding for the delivery whose token a report contains: the one about its recipient, or
    /// else the worst, since mail may be forwarded to other addresses.
    async fn of_token(
        &self,
        (mail, index): Returned,
        findings: Vec<Finding>,
    ) -> Result<Option<MatchedFinding>, Error> {
        let record = self.engine().spool.get(mail).await?;
        let Some(record) = record.filter(|record| usize::from(index) < record.deliveries.len())
        else {
            return Ok(None);
        };

        let recipient = record.deliveries[usize::from(index)]
            .recipient
            .as_str()
            .to_lowercase();
        let of_it = |finding: &&Finding| finding.recipients.contains(&recipient);

        let worst = || {
            findings
                .iter()
                .find(|one| one.kind != FeedbackKind::Delivered)
        };

        let finding = findings
            .iter()
            .find(of_it)
            .or_else(worst)
            .or(findings.first())
            .cloned();

        Ok(finding.map(|finding| MatchedFinding {
            record,
            index,
            id: String::new(),
            finding,
            is_hard: false,
        }))
    }

    /// The findings for the recipients of a mail that a report identifies.
    async fn of_message_id(
        &self,
        id: &str,
        findings: &[Finding],
    ) -> Result<Vec<MatchedFinding>, Error> {
        let Some(record) = self.of_id(id).await? else {
            return Ok(Vec::new());
        };

        let mut found = Vec::new();
        for finding in findings {
            if let Some(index) = place(&record, |to| finding.recipients.iter().any(|one| one == to))
            {
                found.push(MatchedFinding {
                    record: record.clone(),
                    index,
                    id: String::new(),
                    finding: finding.clone(),
                    is_hard: false,
                });
            }
        }

        Ok(found)
    }

    /// The mail with a Message-ID that was generated here.
    async fn of_id(&self, message_id: &str) -> Result<Option<Record>, Error> {
        match id_in(message_id) {
            Some(id) => Ok(self.engine().spool.get(id).await?),
            None => Ok(None),
        }
    }

    /// The delivery that a provider's event is about.
    async fn of_event(&self, event: &ProviderEvent) -> Result<Option<(Record, u16)>, Error> {
        let spool = &self.engine().spool;
        let raw = std::slice::from_ref(&event.raw);
        if let Some((mail, index)) = self.returns().and_then(|returns| returns.find(raw)) {
            // If that delivery no longer exists, no other one is meant.
            let record = spool.get(mail).await?;
            let record = record.filter(|record| usize::from(index) < record.deliveries.len());
            return Ok(record.map(|record| (record, index)));
        }

        // The address may have a name.
        let Ok(recipient) = Address::read(&event.recipient) else {
            return Ok(None);
        };
        let wanted_recipient = recipient.as_str().to_lowercase();
        let is_it = |to: &str| to == wanted_recipient;
        if let Some(id) = &event.message_id
            && let Some(record) = self.of_id(id).await?
            && let Some(index) = place(&record, is_it)
        {
            return Ok(Some((record, index)));
        }

        // Only ids and idempotency keys have an index. A Message-ID often contains the time at
        // which it was made, ours always do, which limits the search.
        let made = event.message_id.as_deref().and_then(made_at);
        let earlier = |made: Timestamp| Timestamp::from_millis(made.as_millis() - CLOCKS_DIFFER);
        let query = Query {
            recipient: Some(recipient),
            since: made.map(earlier),
            until: made.map(|made| made + ON_ITS_WAY),
            limit: LAST_MAILS,
            ..Query::default()
        };

        let page = spool.list(query, self.engine().clock.now()).await?;
        let wanted = event
            .message_id
            .as_deref()
            .map(|id| id.trim_matches(['<', '>']));

        for record in page.mails {
            let is_named =
                wanted.is_some_and(|id| record.manifest.message_id.trim_matches(['<', '>']) == id);
            let Some(index) = place(&record, is_it) else {
                continue;
            };
            let attempts = &record.deliveries[usize::from(index)].attempts;
            // The provider's answer contained its id of the mail.
            let is_answered = event.provider_id.as_deref().is_some_and(|id| {
                id.len() >= 8 && attempts.iter().any(|attempt| attempt.text.contains(id))
            });
            if is_named || is_answered {
                return Ok(Some((record, index)));
            }
        }

        Ok(None)
    }

    /// Stores the findings, applies their consequences, and publishes events.
    async fn keep(
        &self,
        by: &str,
        found: Vec<MatchedFinding>,
    ) -> Result<Vec<FeedbackReceipt>, Error> {
        let mut new: Vec<NewFeedback> = Vec::with_capacity(found.len());
        let mut receipts = Vec::with_capacity(found.len());
        let mut events = Vec::with_capacity(found.len());
        for one in found {
            let (receipt, feedback, event) = self.entry(by, one);
            new.push(feedback);
            receipts.push(receipt);
            events.push(event);
        }

        let engine = self.engine();
        let named: Vec<Option<String>> = new
            .iter()
            .map(|one| {
                Some(describe_entries(std::slice::from_ref(
                    one.suppression.as_ref()?,
                )))
            })
            .collect();
        let results = match engine.spool.feedback() {
            Some(store) => store.keep(new).await?,
            None => self.store_without_record(new, &events).await?,
        };

        let mut kept = Vec::with_capacity(receipts.len());
        for ((mut receipt, result), which) in receipts.into_iter().zip(results).zip(named) {
            let result_label = match result {
                FeedbackResult::Kept => receipt.kind.as_str(),
                FeedbackResult::Known => "known",
                FeedbackResult::Unknown => "unknown",
            };
            engine.metrics.fed_back(by, result_label);
            if result == FeedbackResult::Unknown {
                continue;
            }
            receipt.known = result == FeedbackResult::Known;
            receipt.suppressed &= !receipt.known;
            if !receipt.known {
                let FeedbackReceipt {
                    mail,
                    recipient,
                    kind,
                    status,
                    suppressed,
                    ..
                } = &receipt;
                tracing::warn!(mail.id = %mail, %recipient, by, status, suppressed, "{kind}");
                engine.waiters.notify(*mail);
                if let Some(which) = which {
                    let which = format!("{which} by={by}");
                    self.postrider.note_many(SUPPRESS, 1, which).await;
                }
            }
            kept.push(receipt);
        }

        Ok(kept)
    }

    fn entry(&self, by: &str, found: MatchedFinding) -> (FeedbackReceipt, NewFeedback, Event) {
        let MatchedFinding {
            record,
            index,
            id,
            finding,
            is_hard,
        } = found;
        let recipient = record.deliveries[usize::from(index)].recipient.clone();

        let reason = match finding.kind {
            FeedbackKind::Complained => Some(SuppressionReason::Complaint),
            FeedbackKind::Bounced => {
                let ends = finding.status.as_deref().is_some_and(ends_an_address);
                (finding.permanent && (ends || is_hard)).then_some(SuppressionReason::Bounce)
            }
            FeedbackKind::Unsubscribed => Some(SuppressionReason::Unsubscribe),
            FeedbackKind::Delivered => None,
        };

        let suppressions = self.postrider.suppressions();
        let note = [finding.status.as_deref().unwrap_or_default(), &finding.text].join(" ");
        // Unsubscribing applies to this list only.
        let list = record.manifest.list.clone();
        let list = list.filter(|_| finding.kind == FeedbackKind::Unsubscribed);
        let suppression = reason.map(|reason| Suppression {
            list: list.clone(),
            note: Some(note.trim().chars().take(200).collect()),
            ..suppressions.entry(recipient.clone(), reason)
        });

        let at = self.engine().clock.now();
        let kind = match finding.kind {
            FeedbackKind::Complained => EventKind::Complained {
                status: finding.status.clone(),
                text: finding.text.clone(),
                by: by.to_owned(),
            },
            FeedbackKind::Unsubscribed => EventKind::Unsubscribed { list },
            _ => EventKind::Bounced {
                status: finding.status.clone(),
                text: finding.text.clone(),
                by: by.to_owned(),
                permanent: finding.permanent,
            },
        };

        let manifest = &record.manifest;
        let event = Event {
            recipient: Some(recipient.clone()),
            ..manifest.event(at, kind)
        };

        let receipt = FeedbackReceipt {
            mail: manifest.id,
            recipient,
            kind: finding.kind,
            status: finding.status.clone(),
            known: false,
            suppressed: suppression.is_some(),
        };

        let name = [
            by,
            finding.kind.as_str(),
            finding.status.as_deref().unwrap_or_default(),
            &id,
        ];

        let name = digest::digest(&digest::SHA256, name.join("\0").as_bytes());
        let new = NewFeedback {
            mail: manifest.id,
            index,
            id: name.as_ref().first_chunk().copied().unwrap_or_default(),
            permanent: finding.permanent,
            suppression,
            feedback: Feedback {
                at,
                kind: finding.kind,
                status: finding.status,
                text: finding.text,
                by: by.to_owned(),
            },
        };

        (receipt, new, event)
    }

    /// For a spool that does not store feedback with the mail: writes only the journal entries and
    /// the suppressions.
    async fn store_without_record(
        &self,
        new: Vec<NewFeedback>,
        events: &[Event],
    ) -> Result<Vec<FeedbackResult>, Error> {
        let spool = &self.engine().spool;

        // The journal has no event for confirmed deliveries.
        let entries: Vec<Event> = new
            .iter()
            .zip(events)
            .filter(|(new, _)| new.feedback.kind != FeedbackKind::Delivered)
            .map(|(_, event)| event.clone())
            .collect();
        if let Some(journal) = spool.journal()
            && !entries.is_empty()
        {
            journal.note(entries).await?;
        }

        let results = vec![FeedbackResult::Kept; new.len()];
        let entries: Vec<Suppression> = new.into_iter().filter_map(|new| new.suppression).collect();
        if let Some(kept) = spool.suppressions()
            && !entries.is_empty()
        {
            kept.add(entries).await?;
        }

        Ok(results)
    }
}

/// The mail id at the start of a Message-ID, if there is one.
fn id_in(message_id: &str) -> Option<MailId> {
    let name = message_id.trim().trim_start_matches('<').split('@').next();
    name?.parse().ok()
}

/// When a Message-ID was made, if it contains that.
fn made_at(message_id: &str) -> Option<Timestamp> {
    let id = id_in(message_id).filter(MailId::has_creation_time)?;
    Some(id.made_at())
}

/// Whether an event is about this delivery and cannot be about another one. Deliveries that were
/// sent together have the same provider id in their answers.
fn is_said_of(event: &ProviderEvent, record: &Record, index: u16) -> bool {
    if event.names_recipient || record.deliveries.len() == 1 {
        return true;
    }

    let Some(id) = event.provider_id.as_deref().filter(|id| id.len() >= 8) else {
        return false;
    };
    let is_reached = |at: usize| {
        let attempts = &record.deliveries[at].attempts;
        attempts.iter().any(|attempt| attempt.text.contains(id))
    };
    let mut reached = (0..record.deliveries.len()).filter(|at| is_reached(*at));
    reached.next() == Some(usize::from(index)) && reached.next().is_none()
}

/// The index of the matching recipient.
fn place(record: &Record, is_it: impl Fn(&str) -> bool) -> Option<u16> {
    let mut deliveries = record.deliveries.iter();
    let found = deliveries.position(|one| is_it(&one.recipient.as_str().to_lowercase()))?;
    u16::try_from(found).ok()
}

/// Whether a status is about the mail or its sender, or temporary: then the address is not
/// suppressed, even if the provider calls the bounce permanent.
fn is_about_the_mail(status: Option<&str>) -> bool {
    status.is_some_and(|status| {
        status.starts_with("5.7.")
            || status.starts_with("5.3.4")
            || status.starts_with("5.6.")
            || status == "5.2.2"
            || status.starts_with('4')
    })
}
