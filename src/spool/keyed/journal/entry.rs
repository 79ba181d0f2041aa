//! Encodes and decodes the journal's entries. A record holds what one commit did, or a part of it:
//! a head, followed by the entries. An attempt and its outcome are one entry and two events.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::delivery::{
    Attempt, DeadReason, Delivery, Event, EventKind, Feedback, FeedbackKind, Phase, Requester,
    Stage,
};
use crate::mail::{Address, MailId, Submitter, Timestamp};
use crate::spool::{Manifest, SpoolError, codec};

/// The most bytes of one record's entries. sled would put a much larger value into a file of its
/// own, which it does not sync.
const RECORD_BYTES: usize = 3800;
/// The most bytes of one entry. A longer one loses its tags and most of its text.
const ENTRY_BYTES: usize = 3000;
/// The most characters of a text in an entry.
const TEXT_CHARACTERS: usize = 512;

/// The head of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::spool) struct RecordHead {
    /// How many numbers before the first event were not used.
    pub skipped: u64,
    /// The bytes of all records before this one, including those that were deleted.
    pub before: u64,
    /// How many events the record holds.
    pub events: u32,
    /// The time of the first event.
    pub at: Timestamp,
    /// Whether some entry belongs to the audit trail.
    pub has_acts: bool,
    /// Whether its events may have been published before they were on disk.
    pub is_early: bool,
}

impl codec::Versioned for RecordHead {}

/// One entry. From version 2 of a record on, it is followed by the submitter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::spool) struct JournalEntry<'a> {
    at: Timestamp,
    mail: Option<MailId>,
    recipient: Option<Cow<'a, Address>>,
    relay: Option<Cow<'a, str>>,
    message_id: Option<Cow<'a, str>>,
    tags: Cow<'a, [String]>,
    key: Option<Cow<'a, str>>,
    accepted_at: Option<Timestamp>,
    who: Option<Cow<'a, str>>,
    from: Option<Cow<'a, str>>,
    what: EntryKind<'a>,
    /// The submitter of the mail.
    #[serde(skip)]
    submitter: Option<Cow<'a, str>>,
    /// Whether it belongs to the audit trail. Not encoded: `RecordHead::has_acts` says it for the
    /// whole record.
    #[serde(skip)]
    is_act: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum EntryKind<'a> {
    Accepted,
    Tried(EntryAttempt<'a>, Option<DeliveryEnd>),
    Became(DeliveryEnd),
    Retried,
    Purged,
    RelayUp,
    RelayDown(Cow<'a, str>),
    RelayPaused,
    RelayResumed,
    Reloaded(Option<Cow<'a, str>>),
    Started(Cow<'a, str>),
    Stopped,
    Act(Cow<'a, str>, u64, Option<Cow<'a, str>>),
    LoginRefused(u64),
    WebhookOff(Cow<'a, str>, Cow<'a, str>),
    Bounced(FeedbackText<'a>, bool),
    Complained(FeedbackText<'a>),
    /// The list that the recipient left; empty for all mail.
    Unsubscribed(Cow<'a, str>),
    RelayPausedFor(Cow<'a, str>),
}

/// The text of a bounce or complaint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FeedbackText<'a> {
    status: Option<Cow<'a, str>>,
    text: Cow<'a, str>,
    by: Cow<'a, str>,
}

impl<'a> FeedbackText<'a> {
    fn of(status: Option<&'a str>, text: &'a str, by: &'a str) -> Self {
        FeedbackText {
            status: status.map(bounded),
            text: bounded(text),
            by: bounded(by),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct EntryAttempt<'a> {
    phase: Phase,
    code: Option<u16>,
    enhanced: Option<Cow<'a, str>>,
    text: Cow<'a, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
enum DeliveryEnd {
    Deferred(Timestamp),
    Delivered,
    Dead(DeadReason),
    Cancelled,
}

impl DeliveryEnd {
    fn of(stage: &Stage) -> Self {
        match stage {
            Stage::Pending { due } | Stage::Committing { due } => DeliveryEnd::Deferred(*due),
            Stage::Delivered { .. } => DeliveryEnd::Delivered,
            Stage::Dead { reason, .. } => DeliveryEnd::Dead(*reason),
            Stage::Cancelled { .. } => DeliveryEnd::Cancelled,
        }
    }

    fn kind(self) -> EventKind {
        match self {
            DeliveryEnd::Deferred(next_attempt_at) => EventKind::Deferred { next_attempt_at },
            DeliveryEnd::Delivered => EventKind::Delivered,
            DeliveryEnd::Dead(reason) => EventKind::Dead { reason },
            DeliveryEnd::Cancelled => EventKind::Cancelled,
        }
    }
}

fn bounded(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(TEXT_CHARACTERS) {
        Some((end, _)) => Cow::Borrowed(&text[..end]),
        None => Cow::Borrowed(text),
    }
}

fn bounded_name<'a>(who: &Submitter) -> Cow<'a, str> {
    Cow::Owned(bounded(&who.to_string()).into_owned())
}

impl<'a> JournalEntry<'a> {
    fn bare(at: Timestamp, what: EntryKind<'a>) -> Self {
        JournalEntry {
            at,
            mail: None,
            recipient: None,
            relay: None,
            message_id: None,
            tags: Cow::Borrowed(&[]),
            key: None,
            accepted_at: None,
            who: None,
            from: None,
            what,
            submitter: None,
            is_act: false,
        }
    }

    fn of_mail(self, manifest: &'a Manifest) -> Self {
        JournalEntry {
            mail: Some(manifest.id),
            message_id: Some(bounded(&manifest.message_id)),
            tags: Cow::Borrowed(&manifest.tags),
            key: manifest.given_key().map(bounded),
            submitter: manifest.owner().map(|owner| bounded_name(&owner)),
            ..self
        }
    }

    /// A mail was accepted.
    pub(in crate::spool) fn accepted(manifest: &'a Manifest) -> Self {
        JournalEntry::bare(manifest.accepted_at, EntryKind::Accepted).of_mail(manifest)
    }

    /// The new state of a delivery. `at` is the time if the state has none; `tried` says whether
    /// there was an attempt.
    pub(in crate::spool) fn became(
        mail: MailId,
        manifest: Option<&'a Manifest>,
        delivery: &'a Delivery,
        tried: bool,
        at: Timestamp,
    ) -> Self {
        let became = DeliveryEnd::of(&delivery.stage);
        let attempt = delivery.attempts.last().filter(|_| tried);
        let what = match attempt {
            Some(attempt) => EntryKind::Tried(EntryAttempt::of(attempt), Some(became)),
            None => EntryKind::Became(became),
        };

        let at = attempt.map_or(delivery.stage.finished_at().unwrap_or(at), |a| a.at);
        let entry = match manifest {
            Some(manifest) => JournalEntry::bare(at, what).of_mail(manifest),
            None => JournalEntry::bare(at, what),
        };

        JournalEntry {
            mail: Some(mail),
            recipient: Some(Cow::Borrowed(&delivery.recipient)),
            relay: attempt.map(|attempt| Cow::Borrowed(attempt.relay.as_str())),
            accepted_at: manifest.map(|manifest| manifest.accepted_at),
            ..entry
        }
    }

    /// A delivery that a user queued again.
    pub(in crate::spool) fn retried(
        manifest: &'a Manifest,
        recipient: &'a Address,
        at: Timestamp,
    ) -> Self {
        JournalEntry {
            recipient: Some(Cow::Borrowed(recipient)),
            ..JournalEntry::bare(at, EntryKind::Retried).of_mail(manifest)
        }
    }

    /// A report about a delivery. `None` if it says only what the relay has answered already.
    pub(in crate::spool) fn fed_back(
        manifest: &'a Manifest,
        recipient: &'a Address,
        feedback: &'a Feedback,
        permanent: bool,
    ) -> Option<Self> {
        let said = FeedbackText::of(feedback.status.as_deref(), &feedback.text, &feedback.by);
        let what = match feedback.kind {
            FeedbackKind::Bounced => EntryKind::Bounced(said, permanent),
            FeedbackKind::Complained => EntryKind::Complained(said),
            FeedbackKind::Unsubscribed => {
                EntryKind::Unsubscribed(bounded(manifest.list.as_deref().unwrap_or_default()))
            }
            FeedbackKind::Delivered => return None,
        };

        Some(JournalEntry {
            recipient: Some(Cow::Borrowed(recipient)),
            accepted_at: Some(manifest.accepted_at),
            ..JournalEntry::bare(feedback.at, what).of_mail(manifest)
        })
    }

    /// A mail that a user deleted.
    pub(in crate::spool) fn purged(manifest: &'a Manifest, at: Timestamp) -> Self {
        JournalEntry::bare(at, EntryKind::Purged).of_mail(manifest)
    }

    /// An operation of a user on a mail.
    pub(in crate::spool) fn act(act: &'a str, mail: MailId, at: Timestamp) -> Self {
        JournalEntry {
            mail: Some(mail),
            is_act: true,
            ..JournalEntry::bare(at, EntryKind::Act(bounded(act), 1, None))
        }
    }

    /// The same entry, with who did it.
    pub(in crate::spool) fn by(self, by: &'a Requester) -> Self {
        JournalEntry {
            who: by.who.as_ref().map(bounded_name),
            from: by.from.as_deref().map(bounded),
            ..self
        }
    }

    /// The entry of an event.
    pub(in crate::spool) fn of(event: &'a Event) -> Self {
        let what = match &event.kind {
            EventKind::Accepted => EntryKind::Accepted,
            EventKind::Attempted { attempt } => EntryKind::Tried(EntryAttempt::of(attempt), None),
            EventKind::Deferred { next_attempt_at } => {
                EntryKind::Became(DeliveryEnd::Deferred(*next_attempt_at))
            }
            EventKind::Delivered => EntryKind::Became(DeliveryEnd::Delivered),
            EventKind::Dead { reason } => EntryKind::Became(DeliveryEnd::Dead(*reason)),
            EventKind::Cancelled => EntryKind::Became(DeliveryEnd::Cancelled),
            EventKind::Retried => EntryKind::Retried,
            EventKind::Purged => EntryKind::Purged,
            EventKind::RelayUp => EntryKind::RelayUp,
            EventKind::RelayDown { reason } => EntryKind::RelayDown(bounded(reason)),
            EventKind::RelayPaused { reason: None } => EntryKind::RelayPaused,
            EventKind::RelayPaused {
                reason: Some(reason),
            } => EntryKind::RelayPausedFor(bounded(reason)),
            EventKind::RelayResumed => EntryKind::RelayResumed,
            EventKind::Reloaded { error } => EntryKind::Reloaded(error.as_deref().map(bounded)),
            EventKind::Started { version } => EntryKind::Started(bounded(version)),
            EventKind::Stopped => EntryKind::Stopped,
            EventKind::LoginRefused { count } => EntryKind::LoginRefused(*count),
            EventKind::WebhookOff { webhook, reason } => {
                EntryKind::WebhookOff(bounded(webhook), bounded(reason))
            }
            EventKind::Bounced {
                status,
                text,
                by,
                permanent,
            } => EntryKind::Bounced(FeedbackText::of(status.as_deref(), text, by), *permanent),
            EventKind::Complained { status, text, by } => {
                EntryKind::Complained(FeedbackText::of(status.as_deref(), text, by))
            }
            EventKind::Unsubscribed { list } => {
                EntryKind::Unsubscribed(bounded(list.as_deref().unwrap_or_default()))
            }
            EventKind::Act { act, count, filter } => {
                EntryKind::Act(bounded(act), *count, filter.as_deref().map(bounded))
            }
        };

        JournalEntry {
            at: event.at,
            mail: event.mail,
            recipient: event.recipient.as_ref().map(Cow::Borrowed),
            relay: event.relay.as_deref().map(bounded),
            message_id: event.message_id.as_deref().map(bounded),
            tags: Cow::Borrowed(&event.tags),
            key: event.key.as_deref().map(bounded),
            accepted_at: event.accepted_at,
            who: event.who.as_ref().map(bounded_name),
            from: event.from.as_deref().map(bounded),
            what,
            submitter: event.submitter.as_ref().map(bounded_name),
            is_act: event.kind.act().is_some(),
        }
    }

    /// How many events it expands to.
    fn events(&self) -> u32 {
        match self.what {
            EntryKind::Tried(_, Some(_)) => 2,
            _ => 1,
        }
    }

    /// Appends its events, numbered from `first`.
    fn expand(self, first: u64, into: &mut Vec<Event>) {
        let owned = |text: Cow<'_, str>| text.into_owned();
        let name = |text: Cow<'_, str>| text.parse().ok();
        let submitter: Option<Submitter> = self.submitter.and_then(name);
        let mut event = Event {
            seq: first,
            at: self.at,
            mail: self.mail,
            recipient: self.recipient.map(Cow::into_owned),
            relay: self.relay.map(owned),
            message_id: self.message_id.map(owned),
            tags: self.tags.into_owned(),
            key: self.key.map(owned),
            accepted_at: self.accepted_at,
            // An event without a requester belongs to the submitter.
            who: self.who.and_then(name).or_else(|| submitter.clone()),
            from: self.from.map(owned),
            submitter,
            kind: EventKind::Accepted,
        };

        event.kind = match self.what {
            EntryKind::Accepted => EventKind::Accepted,
            EntryKind::Tried(tried, became) => {
                let attempt = Attempt {
                    at: self.at,
                    relay: event.relay.clone().unwrap_or_default(),
                    phase: tried.phase,
                    code: tried.code,
                    enhanced: tried.enhanced.map(owned),
                    text: owned(tried.text),
                    // The mail's record has it; events are kept small.
                    tls: None,
                };
                let tried = EventKind::Attempted { attempt };
                match became {
                    None => tried,
                    Some(became) => {
                        into.push(Event {
                            kind: tried,
                            ..event.clone()
                        });
                        event.seq += 1;
                        became.kind()
                    }
                }
            }
            EntryKind::Became(became) => became.kind(),
            EntryKind::Retried => EventKind::Retried,
            EntryKind::Purged => EventKind::Purged,
            EntryKind::RelayUp => EventKind::RelayUp,
            EntryKind::RelayDown(reason) => EventKind::RelayDown {
                reason: owned(reason),
            },
            EntryKind::RelayPaused => EventKind::RelayPaused { reason: None },
            EntryKind::RelayPausedFor(reason) => EventKind::RelayPaused {
                reason: Some(owned(reason)),
            },
            EntryKind::RelayResumed => EventKind::RelayResumed,
            EntryKind::Reloaded(error) => EventKind::Reloaded {
                error: error.map(owned),
            },
            EntryKind::Started(version) => EventKind::Started {
                version: owned(version),
            },
            EntryKind::Stopped => EventKind::Stopped,
            EntryKind::LoginRefused(count) => EventKind::LoginRefused { count },
            EntryKind::WebhookOff(webhook, reason) => EventKind::WebhookOff {
                webhook: owned(webhook),
                reason: owned(reason),
            },
            EntryKind::Bounced(said, permanent) => EventKind::Bounced {
                status: said.status.map(owned),
                text: owned(said.text),
                by: owned(said.by),
                permanent,
            },
            EntryKind::Complained(said) => EventKind::Complained {
                status: said.status.map(owned),
                text: owned(said.text),
                by: owned(said.by),
            },
            EntryKind::Unsubscribed(list) => EventKind::Unsubscribed {
                list: Some(owned(list)).filter(|list| !list.is_empty()),
            },
            EntryKind::Act(act, count, filter) => EventKind::Act {
                act: owned(act),
                count,
                filter: filter.map(owned),
            },
        };

        into.push(event);
    }
}

impl<'a> EntryAttempt<'a> {
    fn of(attempt: &'a Attempt) -> Self {
        EntryAttempt {
            phase: attempt.phase,
            code: attempt.code,
            enhanced: attempt.enhanced.as_deref().map(Cow::Borrowed),
            text: bounded(&attempt.text),
        }
    }
}

/// The entries of a commit while it is collected, in records that have no numbers yet.
#[derive(Default)]
pub(in crate::spool) struct PendingEntries(Vec<RecordEntries>);

/// The entries of one record.
pub(in crate::spool) struct RecordEntries {
    pub at: Timestamp,
    pub events: u32,
    pub has_acts: bool,
    pub entries: Vec<u8>,
}

impl PendingEntries {
    pub(in crate::spool) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds entries, in order.
    #[cfg(feature = "postgres")]
    pub(in crate::spool) fn extend<'a>(
        &mut self,
        entries: impl IntoIterator<Item = JournalEntry<'a>>,
    ) {
        for entry in entries {
            self.push(entry);
        }
    }

    /// Adds an entry and returns its bytes.
    pub(in crate::spool) fn push(&mut self, mut entry: JournalEntry<'_>) -> usize {
        if self.0.is_empty() {
            self.0.push(RecordEntries::at(entry.at));
        }
        let Some(part) = self.0.last_mut() else {
            return 0;
        };
        let start = part.entries.len();

        append(&mut part.entries, &entry);
        let mut length = part.entries.len() - start;
        if length > ENTRY_BYTES {
            part.entries.truncate(start);
            entry = shortened(entry);
            append(&mut part.entries, &entry);
            length = part.entries.len() - start;
        }

        if start > 0 && part.entries.len() > RECORD_BYTES {
            let moved = part.entries.split_off(start);
            let mut next = RecordEntries::at(entry.at);
            next.entries = moved;
            self.0.push(next);
        }

        if let Some(part) = self.0.last_mut() {
            part.events += entry.events();
            part.has_acts |= entry.is_act;
        }

        length
    }

    pub(in crate::spool) fn into_parts(self) -> Vec<RecordEntries> {
        self.0
    }
}

impl RecordEntries {
    fn at(at: Timestamp) -> Self {
        RecordEntries {
            at,
            events: 0,
            has_acts: false,
            entries: Vec::with_capacity(512),
        }
    }
}

fn append(into: &mut Vec<u8>, entry: &JournalEntry<'_>) {
    let bytes = std::mem::take(into);
    *into = postcard::to_extend(&(entry, &entry.submitter), bytes)
        .expect("a vector takes whatever is written, and an entry holds no unsized sequence");
}

/// The rest of an entry that is too long.
fn shortened(entry: JournalEntry<'_>) -> JournalEntry<'_> {
    let few = |text: &str| Cow::Owned(text.chars().take(TEXT_CHARACTERS / 4).collect());
    let what = match entry.what {
        EntryKind::Tried(tried, became) => EntryKind::Tried(
            EntryAttempt {
                text: few(&tried.text),
                ..tried
            },
            became,
        ),
        EntryKind::RelayDown(reason) => EntryKind::RelayDown(few(&reason)),
        EntryKind::RelayPausedFor(reason) => EntryKind::RelayPausedFor(few(&reason)),
        EntryKind::Reloaded(error) => EntryKind::Reloaded(error.map(|error| few(&error))),
        EntryKind::Bounced(said, permanent) => EntryKind::Bounced(
            FeedbackText {
                text: few(&said.text),
                ..said
            },
            permanent,
        ),
        EntryKind::Complained(said) => EntryKind::Complained(FeedbackText {
            text: few(&said.text),
            ..said
        }),
        EntryKind::Act(act, count, filter) => {
            EntryKind::Act(few(&act), count, filter.map(|f| few(&f)))
        }
        other => other,
    };

    JournalEntry {
        tags: Cow::Borrowed(&[]),
        key: entry.key.map(|key| few(&key)),
        message_id: entry.message_id.map(|id| few(&id)),
        relay: entry.relay.map(|relay| few(&relay)),
        what,
        ..entry
    }
}

/// The encoded record.
pub(in crate::spool) fn record(head: &RecordHead, entries: &[u8]) -> Vec<u8> {
    let mut bytes = codec::encode(head);
    bytes.extend_from_slice(entries);
    bytes
}

/// The head of an encoded record.
pub(in crate::spool) fn head(record: &[u8]) -> Result<RecordHead, SpoolError> {
    codec::decode_first::<RecordHead>(record).map(|(head, _)| head)
}

/// Decodes the first entry of `bytes`; also returns the bytes after it.
fn take(bytes: &[u8], has_submitter: bool) -> postcard::Result<(JournalEntry<'_>, &[u8])> {
    let (mut entry, mut rest) = postcard::take_from_bytes::<JournalEntry<'_>>(bytes)?;
    if has_submitter {
        (entry.submitter, rest) = postcard::take_from_bytes(rest)?;
    }
    Ok((entry, rest))
}

/// The events of a record, numbered from `first`.
pub(in crate::spool) fn events(first: u64, record: &[u8]) -> Result<Vec<Event>, SpoolError> {
    let (head, mut rest) = codec::decode_first::<RecordHead>(record)?;
    let has_submitters = record.first() != Some(&1);
    let mut events = Vec::with_capacity(head.events.min(4096) as usize);
    while !rest.is_empty() {
        let (entry, after) = take(rest, has_submitters)
            .map_err(|e| SpoolError::Unreadable(format!("an entry cannot be decoded: {e}")))?;
        entry.expand(first + events.len() as u64, &mut events);
        rest = after;
    }

    if events.len() != head.events as usize {
        return Err(SpoolError::Unreadable(
            "a record of the journal is not whole".into(),
        ));
    }

    Ok(events)
}
