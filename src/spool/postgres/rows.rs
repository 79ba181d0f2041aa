//! Maps mails and deliveries to rows. The parts of a delivery that change often are columns of
//! their own; they take precedence over its encoded bytes.

use tokio_postgres::Row;
use uuid::Uuid;

use super::accounts::AccountChanges;
use super::routes::RouteNumbers;
use crate::delivery::{DeadReason, Delivery, Route, Stage};
use crate::mail::{Address, MailId, Priority, Timestamp};
use crate::spool::{Manifest, SpoolError, codec};

pub(super) const PENDING: i16 = 0;
pub(super) const MARKED: i16 = 1;
pub(super) const DELIVERED: i16 = 2;
pub(super) const DEAD: i16 = 3;
pub(super) const CANCELLED: i16 = 4;

/// The columns of `ready` that make up a delivery, followed by those of `ended`. The recipient is
/// also taken from the mail.
pub(super) const OF_READY: &str =
    "mail, idx, route, priority, account, due AS at, stage, 0::smallint AS reason, tries, counted,
      crashes,
    data, (SELECT m.recipients[idx + 1] FROM mails m WHERE m.id = mail) AS recipient";
pub(super) const OF_ENDED: &str =
    "mail, idx, route, priority, at, stage, reason, tries, counted, crashes,
    data, (SELECT m.recipients[idx + 1] FROM mails m WHERE m.id = mail) AS recipient";

pub(super) fn uuid(id: MailId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

pub(super) fn mail_id(id: Uuid) -> MailId {
    MailId::from_bytes(*id.as_bytes() as [u8; 16])
}

pub(super) fn priority_number(priority: Priority) -> i16 {
    priority.index() as i16
}

pub(super) fn priority(number: i16) -> Priority {
    usize::try_from(number)
        .ok()
        .and_then(|n| Priority::ALL.get(n).copied())
        .unwrap_or_default()
}

const REASONS: [DeadReason; 7] = [
    DeadReason::Rejected,
    DeadReason::Exhausted,
    DeadReason::Expired,
    DeadReason::InDoubt,
    DeadReason::Poisoned,
    DeadReason::Quarantined,
    DeadReason::Suppressed,
];

pub(super) fn reason_number(reason: DeadReason) -> i16 {
    let at = REASONS.iter().position(|known| *known == reason);
    i16::try_from(at.unwrap_or(0)).unwrap_or(0)
}

/// A stage as the columns for its number, its time and its reason.
pub(super) fn stage_columns(stage: &Stage) -> (i16, i64, i16) {
    match *stage {
        Stage::Pending { due } => (PENDING, due.as_millis(), 0),
        Stage::Committing { due } => (MARKED, due.as_millis(), 0),
        Stage::Delivered { at } => (DELIVERED, at.as_millis(), 0),
        Stage::Dead { at, reason } => (DEAD, at.as_millis(), reason_number(reason)),
        Stage::Cancelled { at } => (CANCELLED, at.as_millis(), 0),
    }
}

fn stage(number: i16, at: i64, reason: i16) -> Stage {
    let at = Timestamp::from_millis(at);
    match number {
        MARKED => Stage::Committing { due: at },
        DELIVERED => Stage::Delivered { at },
        DEAD => Stage::Dead {
            at,
            reason: usize::try_from(reason)
                .ok()
                .and_then(|n| REASONS.get(n).copied())
                .unwrap_or(DeadReason::Quarantined),
        },
        CANCELLED => Stage::Cancelled { at },
        _ => Stage::Pending { due: at },
    }
}

/// A delivery, decoded from its row.
pub(super) struct DeliveryRow {
    pub mail: MailId,
    pub index: u16,
    pub delivery: Delivery,
    /// The encoded bytes, if they cannot be decoded; the attempts are unknown then.
    pub unread: Option<Vec<u8>>,
}

/// Decodes a delivery from its row, as far as possible.
pub(super) fn delivery(row: &Row, routes: &RouteNumbers) -> DeliveryRow {
    let (mail, index) = (mail_id(row.get("mail")), index(row));
    let (delivery, unread) = match whole_delivery(row, routes) {
        Ok((_, _, delivery)) => (delivery, None),
        Err(_) => {
            let route = routes.name(row.get("route"));
            let route = route.unwrap_or_else(|| Route::over([]));
            let bare = Delivery::new(recipient(row), route, Timestamp::from_millis(0));
            let unread: &[u8] = row.get("data");
            (with_columns(bare, row), Some(unread.to_vec()))
        }
    };

    DeliveryRow {
        mail,
        index,
        delivery,
        unread,
    }
}

/// The recipient of a delivery, from its mail.
fn recipient(row: &Row) -> Address {
    let text: Option<&str> = row.get("recipient");
    let read = text.and_then(|text| text.parse().ok());
    read.unwrap_or_else(|| {
        Address::parse("unknown@recipient.invalid").expect("an address of a reserved domain")
    })
}

/// Decodes a row completely: the mail's id, the delivery's index and the delivery. `None` if any of
/// it cannot be decoded.
pub(super) fn whole_delivery(
    row: &Row,
    routes: &RouteNumbers,
) -> Result<(MailId, u16, Delivery), SpoolError> {
    let data: &[u8] = row.get("data");
    let mut delivery: Delivery = codec::decode(data)?;
    if let Some(route) = routes.name(row.get("route")) {
        delivery.route = route;
    }
    let delivery = with_columns(delivery, row);
    Ok((mail_id(row.get("mail")), index(row), delivery))
}

fn with_columns(mut delivery: Delivery, row: &Row) -> Delivery {
    let count = |column: &str| u32::try_from(row.get::<_, i32>(column)).unwrap_or(0);
    delivery.stage = stage(row.get("stage"), row.get("at"), row.get("reason"));
    delivery.tries = count("tries");
    delivery.counted = count("counted");
    delivery.crashes = count("crashes");
    delivery
}

pub(super) fn index(row: &Row) -> u16 {
    u16::try_from(row.get::<_, i32>("idx")).unwrap_or(u16::MAX)
}

/// The manifest of a mail, with the expiry that a retry may have changed.
pub(super) fn manifest(row: &Row) -> Result<Manifest, SpoolError> {
    let (mut manifest, _): (Manifest, Vec<Delivery>) = codec::decode(row.get("manifest"))?;
    manifest.expires_at = Timestamp::from_millis(row.get("expires_at"));
    Ok(manifest)
}

/// The encoded manifest for its column: a record without deliveries, which have rows of their own.
pub(super) fn manifest_bytes(manifest: &Manifest) -> Vec<u8> {
    codec::encode(&(manifest, &[] as &[Delivery]))
}

/// The account of a mail, for its column.
pub(super) fn account(manifest: &Manifest) -> i64 {
    manifest.account().cast_signed()
}

/// A count, for its column.
pub(super) fn count(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// A text without NUL characters, which the database does not store.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A change of the totals: pending, delivered, dead and cancelled deliveries by priority, and the
/// counts of the submitters.
#[derive(Clone, Debug, Default)]
pub(super) struct TotalsChange {
    counts: [i64; 12],
    pub accounts: AccountChanges,
}

impl TotalsChange {
    pub(super) fn add(&mut self, stage: i16, priority: i16, count: i64) {
        let kind = match stage {
            PENDING | MARKED => 0,
            DELIVERED => 1,
            DEAD => 2,
            _ => 3,
        };
        let at = kind * 3 + usize::try_from(priority).unwrap_or(1).min(2);
        self.counts[at] += count;
    }

    pub(super) fn columns(&self) -> Vec<i64> {
        self.counts.to_vec()
    }
}

pub(super) fn route_text(route: &Route) -> String {
    text(route.as_str())
}
