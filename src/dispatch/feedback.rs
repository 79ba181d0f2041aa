//! What comes back for mail that was sent: reports and providers' events find their delivery here,
//! are kept with it, and what follows from them is done in the same commit.
//!
//! *Invariant:* a report reaches the delivery whose token it bears, and no other address: whatever
//! it says besides changes nothing for anybody else.

use std::time::Duration;

use bytes::Bytes;
use ring::digest;

use super::engine::Engine;
use super::returns::Returned;
use super::suppressions::{SUPPRESS, which};
use super::{Dispatcher, Error, Returns};
use crate::delivery::{Event, EventKind, Feedback, FeedbackKind, ends_an_address, printable};
use crate::feedback::{self, Finding, ReportReading};
use crate::mail::{Address, MailId, Timestamp};
use crate::spool::{FeedbackResult, NewFeedback, Query, Record, Suppression, SuppressionReason};

/// Who says what a report says.
pub(super) const REPORT_SOURCE: &str = "report";
/// Reports above this size are read on a thread of their own.
const LARGE_REPORT: usize = 128 * 1024;
/// How many of an address's last mails are looked at for one that a provider names.
const LAST_MAILS: usize = 100;
/// How many milliseconds before the time in a Message-ID its mail may have come, and how long
/// after: clocks differ, and whoever wrote it may have had to wait.
const CLOCKS_DIFFER: i64 = 60_000;
const ON_ITS_WAY: Duration = Duration::from_secs(3600);

/// What comes back; see [`Dispatcher::feedback`].
#[derive(Clone, Copy)]
pub struct FeedbackHandle<'a> {
    postrider: &'a Dispatcher,
}

/// What a provider says of a mail that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderEvent {
    /// Names the event: the same event twice has the same name.
    pub id: String,
    /// What happened.
    pub kind: FeedbackKind,
    /// Whether it failed for good, as the provider sees it.
    pub permanent: bool,
    /// The enhanced status code, or the complaint's type.
    pub status: Option<String>,
    /// What was said in words.
    pub text: String,
    /// To whom the mail went.
    pub recipient: String,
    /// Whether it is this recipient's doing. Where a provider tells of a mail as a whole, it is
    /// taken only if the mail reached nobody else.
    pub names_recipient: bool,
    /// The mail's Message-ID, as far as the provider knows it.
    pub message_id: Option<String>,
    /// The provider's own name for the mail, which its answer told.
    pub provider_id: Option<String>,
    /// The event as it came: a token of ours may stand in it.
    pub raw: Bytes,
}

/// What came of one thing that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackReceipt {
    /// The mail.
    pub mail: MailId,
    /// Its recipient.
    pub recipient: Address,
    /// What is said.
    pub kind: FeedbackKind,
    /// The status code, or the complaint's type.
    pub status: Option<String>,
    /// Whether it was known already.
    pub known: bool,
    /// Whether the address gets no mail any more because of it.
    pub suppressed: bool,
}

/// Why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// It is none.
    #[error("the message is neither a delivery report nor a complaint")]
    NoReport,
    /// It leads to no mail of ours.
    #[error("the report belongs to no mail that is kept here: it has none of its return paths")]
    NotOurs,
    /// It came to an address by which a list is left, and does not say which.
    #[error("the subject has no unsubscribe token, and the mail is not kept any more")]
    NoList,
    /// It could not be kept.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// Something that is about to be kept.
struct MatchedFinding {
    record: Record,
    index: u16,
    id: String,
    finding: Finding,
    /// Whether the address is bad although the status does not say so.
    is_hard: bool,
}

impl Dispatcher {
    /// What comes back for mail that was sent: reports, complaints, providers' events.
    pub fn feedback(&self) -> FeedbackHandle<'_> {
        FeedbackHandle { postrider: self }
    }
}

impl FeedbackHandle<'_> {
    /// Where mail comes back to, if that is known.
    pub fn returns(&self) -> Option<&Returns> {
        self.engine().returns.as_ref()
    }

    /// Takes a report that came to these addresses, as far as they are known. Whose it is says the
    /// token of its return path. One that `is_trusted`, because of who submits it, may be of a mail
    /// that it names by its Message-ID.
    ///
    /// Nothing follows from a report of a delay. A message that is no report and came to the
    /// address in a `List-Unsubscribe` has its recipient leave that list.
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
            ReportReading::NoReport => return self.take_letter(&message, to, is_trusted).await,
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

    /// Takes events of a provider, which has proved that they are its. Those of mail that is not
    /// kept here are counted, and nothing else.
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

    /// Counts what a provider says that nothing follows from.
    pub fn count_unknown(&self, by: &str, what: &'static str) {
        self.engine().metrics.fed_back(by, what);
    }

    pub(super) fn postrider(&self) -> &Dispatcher {
        self.postrider
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.postrider.inner.engine
    }

    /// What a report says of the delivery whose token it bears: what it says of that recipient,
    /// else the worst that it says, since mail is passed on to other addresses.
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

    /// What a report says of the recipients of a mail that it names.
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

    /// The mail of a Message-ID that was made here.
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
            // Where that one is gone, no other is meant.
            let record = spool.get(mail).await?;
            let record = record.filter(|record| usize::from(index) < record.deliveries.len());
            return Ok(record.map(|record| (record, index)));
        }

        // A name may stand before it.
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

        // Nothing but its id and its idempotency key leads to a mail at once. A Message-ID of ours,
        // and that of many a program, says when to look: the mail that is gone lay among others
        // that are.
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
            // The provider's answer told how it calls the mail.
            let is_answered = event.provider_id.as_deref().is_some_and(|id| {
                id.len() >= 8 && attempts.iter().any(|attempt| attempt.text.contains(id))
            });
            if is_named || is_answered {
                return Ok(Some((record, index)));
            }
        }

        Ok(None)
    }

    /// Keeps what was found, does what follows, and tells of it.
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
            .map(|one| Some(which(std::slice::from_ref(one.suppression.as_ref()?))))
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
        // Who leaves a list leaves that one alone.
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

        // A confirmed delivery is no event of the journal.
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

/// The id that a Message-ID begins with, if it is one.
fn id_in(message_id: &str) -> Option<MailId> {
    let name = message_id.trim().trim_start_matches('<').split('@').next();
    name?.parse().ok()
}

/// When a Message-ID was made, if it says so.
fn made_at(message_id: &str) -> Option<Timestamp> {
    let id = id_in(message_id).filter(MailId::has_creation_time)?;
    Some(id.made_at())
}

/// Whether an event is about this delivery and can be about no other. The provider's name for a
/// mail stands in the answer to each delivery that it took together.
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

/// The place of the recipient that is meant.
fn place(record: &Record, is_it: impl Fn(&str) -> bool) -> Option<u16> {
    let mut deliveries = record.deliveries.iter();
    let found = deliveries.position(|one| is_it(&one.recipient.as_str().to_lowercase()))?;
    u16::try_from(found).ok()
}

/// Whether a status is about the mail or its sender, or will pass: what a provider calls hard is
/// not for ever then.
fn is_about_the_mail(status: Option<&str>) -> bool {
    status.is_some_and(|status| {
        status.starts_with("5.7.")
            || status.starts_with("5.3.4")
            || status.starts_with("5.6.")
            || status == "5.2.2"
            || status.starts_with('4')
    })
}
