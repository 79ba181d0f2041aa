//! The keys of all records. They form one ordered key space; the first byte says what a record is.
//!
//! | key | value |
//! |---|---|
//! | `m` mail | its record: what does not change after acceptance; up to 8 deliveries as they were accepted; a message of up to 4 KiB |
//! | `d` mail, index | a delivery with its attempts: once it has changed, or from the start if there are more than 8 |
//! | `b` mail, chunk | a chunk of up to 4 KiB of a larger message: sled would put a much larger value into a file of its own, which it does not sync |
//! | `u` queue, priority, due, mail, index | a position in a queue, one for each pending delivery, in the order in which they are claimed; the message's size |
//! | `r` queue | the route of this queue |
//! | `n` queue, priority | how many deliveries are in the queue, and how many of them are due |
//! | `e` mail | the next recipient to queue, of a mail with many recipients that are queued after it is accepted |
//! | `q` route, priority, due, mail, index | a position in a queue in the format of older versions; moved when the spool is opened |
//! | `t` time, `m`, mail | a timer for this mail: it expires, or its retention is over |
//! | `t` time, `k`, key's hash | a timer for this idempotency key: it expires |
//! | `t` time, `b`, mail | a timer to remove the chunks of this message, unless the mail exists |
//! | `t` time, `s`, name | several timers that were set together: each is a letter and what follows it |
//! | `k` key's hash | the mail with this idempotency key of its submitter; written in the same commit as the mail |
//! | `x` `d` or `c`, mail, index | an index of dead and of cancelled deliveries |
//! | `a` mail, index | marks an at-most-once delivery that may have been sent |
//! | `w` mail | marks a large message that is being written; one that is found at a start was never accepted |
//! | `j` number | a record of the journal: what one commit did, and the number of its first event |
//! | `J` `a` number | marks a record of the journal that contains acts of users or programs |
//! | `J` `r` name | the position of this reader of the journal |
//! | `J` `v` length, name, key | a record of this reader |
//! | `J` `i` | the journal's own name |
//! | `J` `g` number | a range of lost events: the number in the key is the first, the value the last; reported by a salvage |
//! | `f` mail, index, name | a report about a delivery: a bounce or a complaint |
//! | `y` address, 0, list, 0, reason | a suppression: this address gets no mail of this list, or no mail at all if the list is empty |
//! | `p` relay | marks a paused relay |
//! | `c` | totals |
//! | `g` account | how many deliveries of this token or user are pending, and how many were submitted on the last day |
//! | `h` | the secret with which idempotency keys are hashed |
//! | `z` key | a record that could not be read, under its former key: set aside, counted, never deleted |

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::delivery::{Route, Stage};
use crate::mail::{MailId, Priority, Timestamp};

/// The key of the totals. Nearly every commit writes it.
pub(in crate::spool) const TOTALS: &[u8] = b"c";

/// The key of the secret with which idempotency keys are hashed.
pub(super) const SECRET: &[u8] = b"h";

/// The prefix of suppressed addresses.
pub(super) const SUPPRESSION: &[u8] = b"y";

/// The prefix of paused relays.
pub(super) const PAUSED: &[u8] = b"p";

/// The prefix of the journal's records.
pub(super) const JOURNAL: &[u8] = b"j";
/// The prefix of the index of records that contain acts.
pub(super) const ACTS: &[u8] = b"Ja";
/// The prefix of the journal's named readers.
pub(super) const READER: &[u8] = b"Jr";
/// The key of the journal's name.
pub(super) const JOURNAL_ID: &[u8] = b"Ji";
/// The prefix of lost ranges of the journal, which a salvage has reported.
pub(super) const LOST: &[u8] = b"Jg";

/// Keys that are written once and cannot be derived from anything else.
pub(in crate::spool) const IRREPLACEABLE: [&[u8]; 2] = [SECRET, JOURNAL_ID];

pub(super) fn paused(relay: &str) -> Vec<u8> {
    [PAUSED, relay.as_bytes()].concat()
}

pub(super) fn lost(first: u64) -> Vec<u8> {
    [LOST, &first.to_be_bytes()].concat()
}

pub(super) fn read_lost(key: &[u8]) -> Option<u64> {
    read_number(key, LOST)
}

pub(super) fn journal(first: u64) -> Vec<u8> {
    [JOURNAL, &first.to_be_bytes()].concat()
}

pub(super) fn read_journal(key: &[u8]) -> Option<u64> {
    read_number(key, JOURNAL)
}

pub(super) fn acts(first: u64) -> Vec<u8> {
    [ACTS, &first.to_be_bytes()].concat()
}

pub(super) fn read_acts(key: &[u8]) -> Option<u64> {
    read_number(key, ACTS)
}

fn read_number(key: &[u8], prefix: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(prefix)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

pub(super) fn reader(name: &str) -> Vec<u8> {
    [READER, name.as_bytes()].concat()
}

/// The prefix of the records that named readers store.
#[cfg(feature = "postgres")]
pub(super) const KEPT: &[u8] = b"Jv";

/// The reader and the name of a stored record of a reader.
#[cfg(feature = "postgres")]
pub(super) fn read_kept(key: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = key.strip_prefix(KEPT)?.split_first_chunk::<2>()?;
    let (reader, name) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let reader = std::str::from_utf8(reader).ok()?;
    Some((reader.to_owned(), name.to_vec()))
}

/// The key of a reader's record with this name; with an empty name, the prefix of all its records.
pub(super) fn kept(reader: &str, name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(reader.len()).unwrap_or(u16::MAX);
    [b"Jv", &length.to_be_bytes()[..], reader.as_bytes(), name].concat()
}

/// A position in a queue. Queues are sorted by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct QueuePosition {
    pub due: Timestamp,
    pub mail: MailId,
    pub index: u16,
}

/// A mail whose due time is at most this long after its id was made was meant to be sent at once.
const AT_ONCE: Duration = Duration::from_secs(1);

impl QueuePosition {
    /// Whether the mail was to be sent at once when it was accepted.
    pub(super) fn was_due_at_once(&self) -> bool {
        self.due <= self.mail.made_at() + AT_ONCE
    }

    pub(super) fn slot(&self) -> Slot {
        (self.mail, self.index)
    }
}

/// A delivery: its mail, and its index among the mail's recipients.
pub(super) type Slot = (MailId, u16);

fn of_mail(kind: u8, mail: MailId) -> Vec<u8> {
    let mut key = Vec::with_capacity(21);
    key.push(kind);
    key.extend_from_slice(mail.as_bytes());
    key
}

pub(super) fn manifest(mail: MailId) -> Vec<u8> {
    of_mail(b'm', mail)
}

pub(super) fn delivery(mail: MailId, index: u16) -> Vec<u8> {
    let mut key = of_mail(b'd', mail);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Whether this is the key of a delivery.
pub(in crate::spool) fn is_delivery(key: &[u8]) -> bool {
    key.first() == Some(&b'd')
}

pub(super) fn chunk(mail: MailId, number: u32) -> Vec<u8> {
    let mut key = of_mail(b'b', mail);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn marked(mail: MailId, index: u16) -> Vec<u8> {
    let mut key = of_mail(b'a', mail);
    key.extend_from_slice(&index.to_be_bytes());
    key
}

pub(super) fn writing(mail: MailId) -> Vec<u8> {
    of_mail(b'w', mail)
}

/// The range of all keys that start with `prefix`, as first key and end (excluded).
pub(super) fn starting_with(prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            break;
        }
        end.pop();
    }
    (prefix.to_vec(), end)
}

pub(super) fn deliveries(mail: MailId) -> (Vec<u8>, Vec<u8>) {
    starting_with(&of_mail(b'd', mail))
}

pub(super) fn chunks(mail: MailId) -> (Vec<u8>, Vec<u8>) {
    starting_with(&of_mail(b'b', mail))
}

/// The key of a report about a delivery (a bounce, a complaint); with an empty name, the prefix of
/// all its reports.
pub(super) fn feedback(mail: MailId, index: u16, name: &[u8]) -> Vec<u8> {
    let mut key = of_mail(b'f', mail);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(name);
    key
}

pub(super) fn feedback_of(mail: MailId) -> (Vec<u8>, Vec<u8>) {
    starting_with(&of_mail(b'f', mail))
}

/// The index of the delivery that a report is about.
pub(super) fn feedback_index(key: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*key.get(17..)?.first_chunk()?))
}

pub(super) fn index_of(delivery_key: &[u8]) -> u16 {
    delivery_key
        .last_chunk::<2>()
        .map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

pub(super) fn mail_of(key: &[u8]) -> Option<MailId> {
    key.get(1..)?
        .first_chunk::<16>()
        .map(|bytes| MailId::from_bytes(*bytes))
}

/// A short number for a route, used in the keys of its queues: a route's text may be long, and each
/// pending delivery has such a key on disk and in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueId(pub u32);

pub(super) fn route(id: QueueId) -> Vec<u8> {
    [&b"r"[..], &id.0.to_be_bytes()].concat()
}

pub(super) fn read_route(key: &[u8]) -> Option<QueueId> {
    let id = key.strip_prefix(b"r")?;
    Some(QueueId(u32::from_be_bytes(id.try_into().ok()?)))
}

pub(super) fn count(id: QueueId, priority: Priority) -> Vec<u8> {
    let mut key = [&b"n"[..], &id.0.to_be_bytes()].concat();
    key.push(priority as u8);
    key
}

pub(super) fn account(account: u64) -> Vec<u8> {
    [&b"g"[..], &account.to_be_bytes()].concat()
}

pub(super) fn read_account(key: &[u8]) -> Option<u64> {
    read_number(key, b"g")
}

pub(super) fn unqueued(mail: MailId) -> Vec<u8> {
    of_mail(b'e', mail)
}

pub(super) fn route_prefix(id: QueueId) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.push(b'u');
    key.extend_from_slice(&id.0.to_be_bytes());
    key
}

pub(super) fn queue_prefix(id: QueueId, priority: Priority) -> Vec<u8> {
    let mut key = route_prefix(id);
    key.push(priority as u8);
    key
}

pub(super) fn queue(id: QueueId, priority: Priority, place: &QueuePosition) -> Vec<u8> {
    let mut key = queue_prefix(id, priority);
    push_place(&mut key, place);
    key
}

/// The parts of a queue's key.
pub(super) struct QueueKey {
    pub id: QueueId,
    pub priority: Priority,
    pub place: QueuePosition,
}

pub(super) fn read_queue(key: &[u8]) -> Option<QueueKey> {
    let (id, rest) = key.strip_prefix(b"u")?.split_first_chunk::<4>()?;
    let (priority, rest) = rest.split_first()?;
    Some(QueueKey {
        id: QueueId(u32::from_be_bytes(*id)),
        priority: *Priority::ALL.get(usize::from(*priority))?,
        place: read_place(rest)?,
    })
}

/// The parts of a queue's key in the older format, which contains the route's text.
pub(super) struct OldQueueKey {
    pub route: Route,
    pub priority: Priority,
    pub place: QueuePosition,
}

pub(super) fn read_old_queue(key: &[u8]) -> Option<OldQueueKey> {
    let (length, rest) = key.strip_prefix(b"q")?.split_first_chunk::<2>()?;
    let (route, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let (priority, rest) = rest.split_first()?;
    Some(OldQueueKey {
        route: Route::from(std::str::from_utf8(route).ok()?.to_owned()),
        priority: *Priority::ALL.get(usize::from(*priority))?,
        place: read_place(rest)?,
    })
}

#[cfg(test)]
pub(super) fn old_queue(route: &Route, priority: Priority, place: &QueuePosition) -> Vec<u8> {
    let mut key = vec![b'q'];
    let length = u16::try_from(route.as_str().len()).unwrap_or(u16::MAX);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(route.as_str().as_bytes());
    key.push(priority as u8);
    push_place(&mut key, place);
    key
}

fn push_place(key: &mut Vec<u8>, place: &QueuePosition) {
    push_time(key, place.due);
    key.extend_from_slice(place.mail.as_bytes());
    key.extend_from_slice(&place.index.to_be_bytes());
}

fn read_place(bytes: &[u8]) -> Option<QueuePosition> {
    let (due, rest) = bytes.split_first_chunk::<8>()?;
    let (mail, rest) = rest.split_first_chunk::<16>()?;
    Some(QueuePosition {
        due: read_time(*due),
        mail: MailId::from_bytes(*mail),
        index: u16::from_be_bytes(rest.try_into().ok()?),
    })
}

/// What a sweep should handle when a timer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    Mail(MailId),
    Key([u8; 16]),
    /// The chunks of a message, to be removed unless the mail exists.
    Chunks(MailId),
}

/// The bytes of an encoded timer.
const TIMER: usize = 17;

impl Timer {
    /// The hash of the idempotency key, if this is the timer of one.
    pub(super) fn key_hash(self) -> Option<[u8; 16]> {
        match self {
            Timer::Key(hash) => Some(hash),
            Timer::Mail(_) | Timer::Chunks(_) => None,
        }
    }

    fn to_bytes(self) -> [u8; TIMER] {
        let (kind, name) = match &self {
            Timer::Mail(mail) => (b'm', mail.as_bytes()),
            Timer::Key(hash) => (b'k', hash),
            Timer::Chunks(mail) => (b'b', mail.as_bytes()),
        };
        let mut bytes = [kind; TIMER];
        bytes[1..].copy_from_slice(name);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Timer> {
        let (kind, name) = bytes.split_first()?;
        let name = <[u8; 16]>::try_from(name).ok()?;
        match kind {
            b'm' => Some(Timer::Mail(MailId::from_bytes(name))),
            b'k' => Some(Timer::Key(name)),
            b'b' => Some(Timer::Chunks(MailId::from_bytes(name))),
            _ => None,
        }
    }
}

fn of_time(at: Timestamp) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + TIMER);
    key.push(b't');
    push_time(&mut key, at);
    key
}

/// The key and the value of a single timer.
pub(super) fn timer(at: Timestamp, timer: Timer) -> (Vec<u8>, Vec<u8>) {
    let mut key = of_time(at);
    key.extend_from_slice(&timer.to_bytes());
    (key, Vec::new())
}

/// One key and its value for several timers. The key contains a unique name, so that no later
/// commit overwrites it.
pub(super) fn timers(at: Timestamp, timers: &[Timer]) -> (Vec<u8>, Vec<u8>) {
    if let [one] = timers {
        return timer(at, *one);
    }
    let mut key = of_time(at);
    key.push(b's');
    key.extend_from_slice(MailId::generate().as_bytes());
    (key, timers_value(timers))
}

/// All keys of timers that are due at this time.
pub(super) fn timers_at(at: Timestamp) -> (Vec<u8>, Vec<u8>) {
    starting_with(&of_time(at))
}

/// The value of a key of several timers.
pub(super) fn timers_value(timers: &[Timer]) -> Vec<u8> {
    timers.iter().flat_map(|timer| timer.to_bytes()).collect()
}

/// The time at which the timers of a key are due.
pub(super) fn read_due(key: &[u8]) -> Option<Timestamp> {
    key.get(1..)?.first_chunk::<8>().map(|at| read_time(*at))
}

/// The timers of a key, without those that cannot be read.
pub(super) fn read_timers(key: &[u8], value: &[u8]) -> Vec<Timer> {
    match key.get(9..) {
        Some([b's', ..]) => value.chunks(TIMER).filter_map(Timer::read).collect(),
        Some(one) => Timer::read(one).into_iter().collect(),
        None => Vec::new(),
    }
}

pub(super) fn idempotency(hash: [u8; 16]) -> Vec<u8> {
    let mut key = vec![b'k'];
    key.extend_from_slice(&hash);
    key
}

/// The hash under which an idempotency key was stored before spools had a secret.
pub(super) fn old_hash_of(idempotency_key: &str) -> [u8; 16] {
    twox_hash::XxHash3_128::oneshot(idempotency_key.as_bytes()).to_be_bytes()
}

/// The key of a finished delivery in the index of its state. `None` for delivered ones: they are
/// too many to be indexed.
pub(super) fn finished(stage: &Stage, mail: MailId, index: u16) -> Option<Vec<u8>> {
    let kind = match stage {
        Stage::Dead { .. } => b'd',
        Stage::Cancelled { .. } => b'c',
        _ => return None,
    };
    let mut key = vec![b'x', kind];
    key.extend_from_slice(mail.as_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    Some(key)
}

pub(super) fn quarantined(key: &[u8]) -> Vec<u8> {
    let mut aside = vec![b'z'];
    aside.extend_from_slice(key);
    aside
}

fn push_time(key: &mut Vec<u8>, at: Timestamp) {
    key.extend_from_slice(&at.as_millis().cast_unsigned().to_be_bytes());
}

fn read_time(bytes: [u8; 8]) -> Timestamp {
    Timestamp::from_millis(u64::from_be_bytes(bytes).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_sorted_by_due_time_within_a_priority_of_a_route() {
        let route = Route::over(["primary", "backup"]);
        let place = |millis, index| QueuePosition {
            due: Timestamp::from_millis(millis),
            mail: MailId::from_bytes([7; 16]),
            index,
        };

        let id = QueueId(7);
        let keys = [
            queue(id, Priority::Critical, &place(900, 3)),
            queue(id, Priority::Default, &place(5, 1)),
            queue(id, Priority::Default, &place(5, 2)),
            queue(id, Priority::Default, &place(256, 0)),
        ];

        assert!(keys.is_sorted());
        let read = read_queue(&keys[3]).expect("a queue's key");
        assert_eq!(
            (read.id, read.priority, read.place),
            (id, Priority::Default, place(256, 0))
        );

        let old = old_queue(&route, Priority::Default, &place(256, 0));
        let read = read_old_queue(&old).expect("an older queue's key");
        assert_eq!(
            (read.route, read.priority, read.place),
            (route, Priority::Default, place(256, 0))
        );

        assert!(read_queue(&keys[3][..20]).is_none());
    }

    #[test]
    fn timers_are_read_as_they_were_set_and_sorted_by_time() {
        let mail = MailId::from_bytes([5; 16]);
        let all = [Timer::Mail(mail), Timer::Key([6; 16]), Timer::Chunks(mail)];
        for count in 1..=all.len() {
            let (key, value) = timers(Timestamp::from_millis(300), &all[..count]);
            assert_eq!(read_due(&key), Some(Timestamp::from_millis(300)));
            assert_eq!(read_timers(&key, &value), &all[..count]);
            assert!(key < timer(Timestamp::from_millis(301), all[0]).0);
        }

        let (key, value) = timers(Timestamp::from_millis(300), &all);
        assert_ne!(
            key,
            timers(Timestamp::from_millis(300), &all).0,
            "two lists of one time have two keys"
        );

        assert_eq!(
            read_timers(&key, &value[..TIMER + 3]),
            &all[..1],
            "of half a list, the half"
        );

        assert!(read_timers(&key[..9], &[]).is_empty());
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(starting_with(b"ab"), (b"ab".to_vec(), b"ac".to_vec()));
        assert_eq!(starting_with(&[1, 255]), (vec![1, 255], vec![2]));
    }
}
