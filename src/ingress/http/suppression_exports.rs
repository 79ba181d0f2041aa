//! How others write files of suppressed addresses: what their columns are called, and what stands
//! in them. `suppression_file.rs` asks.

use crate::SuppressionReason;
use crate::mail::Timestamp;

/// What a column is called here, of those that SendGrid, Mailgun, SES, Postmark, Brevo and others
/// write.
pub(super) fn column(name: &str) -> String {
    let known = match &*joined(name) {
        "address" | "email" | "emailaddress" | "recipient" | "recipientaddress"
        | "recipientemail" => "address",
        "reason" | "suppressionreason" | "bouncetype" => "reason",
        "created" | "createdat" | "createddate" | "datecreated" | "lastupdatetime" => "created",
        "status" | "code" => "code",
        "error" | "description" => "error",
        _ => return name.to_lowercase(),
    };
    known.to_owned()
}

/// The reason that is meant. `None` where it is none.
pub(super) fn reason(text: &str) -> Option<SuppressionReason> {
    Some(match &*joined(text) {
        "bounce" | "bounced" | "bounces" | "hardbounce" | "hardbounced" | "permanent" => {
            SuppressionReason::Bounce
        }
        "complaint" | "complained" | "complaints" | "spam" | "spamcomplaint" | "spamreport"
        | "abuse" => SuppressionReason::Complaint,
        "unsubscribe" | "unsubscribed" | "unsubscribes" | "optout" | "globalunsubscribe"
        | "groupunsubscribe" => SuppressionReason::Unsubscribe,
        "manual" | "manualsuppression" => SuppressionReason::Manual,
        // What a server said: only of bounces is that kept.
        _ if is_said(text) => SuppressionReason::Bounce,
        _ => return None,
    })
}

/// Whether this is what was said of an address, not one word that stands for a reason.
pub(super) fn is_said(text: &str) -> bool {
    text.contains(char::is_whitespace) && text.split_whitespace().count() > 2 || is_failure(text)
}

/// Whether a text begins with the code of a failure, such as 550 or 5.1.1.
pub(super) fn is_failure(text: &str) -> bool {
    let mut bytes = text.bytes();
    matches!(bytes.next(), Some(b'4' | b'5'))
        && bytes
            .next()
            .is_some_and(|next| next == b'.' || next.is_ascii_digit())
}

/// When an entry was made there; what cannot be read is left out.
pub(super) fn created(text: &str) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    if let Ok(seconds) = text.parse::<i64>() {
        // SES and Postmark write times, SendGrid and Brevo seconds, some milliseconds.
        let millis = match seconds > 100_000_000_000 {
            true => seconds,
            false => seconds.checked_mul(1000)?,
        };
        return (millis > 0).then(|| Timestamp::from_millis(millis));
    }
    if let Ok(at) = jiff::fmt::rfc2822::parse(text) {
        return Some(Timestamp::from_millis(at.timestamp().as_millisecond()));
    }
    let text = text.strip_suffix(" UTC").unwrap_or(text);
    let at: jiff::civil::DateTime = text.parse().ok()?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp::from_millis(at.timestamp().as_millisecond()))
}

/// Lower case, letters and digits alone.
fn joined(text: &str) -> String {
    let letters = text.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}
