//! Finds the sender and the recipients of a written message in its header section (RFC 5322 §3.6),
//! for programs that provide no envelope, such as `sendmail -t`.

use super::address_list;
use super::mending::Scan;
use super::{Address, MailError};

/// The fields with recipients, in the order in which they are read.
const RECIPIENTS: [&str; 3] = ["To", "Cc", "Bcc"];
const RESENT: [&str; 3] = ["Resent-To", "Resent-Cc", "Resent-Bcc"];

/// The sender and the recipients that a message names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addressees {
    /// The first address in From, or in Sender if From has none.
    pub sender: Option<Address>,
    /// The addresses in To, Cc and Bcc, in that order, including repeated ones. For a message that
    /// was resent, only the newest block of Resent fields counts (RFC 5322 §3.6.6).
    pub recipients: Vec<Address>,
}

impl Addressees {
    /// Reads the header section of a message. Local users without a domain get `domain`.
    ///
    /// # Errors
    /// A field contains something that is not an address; the error names the field (`headers.To`).
    /// So no recipient is left out silently, and none is added.
    pub fn of(message: &[u8], domain: &str) -> Result<Self, MailError> {
        let scan = Scan::of(message);
        let mut recipients = Vec::new();
        let resent = newest_resent(&scan);
        let fields = match resent.is_empty() {
            false => resent,
            true => {
                let named = |name: &'static str| {
                    let fields = scan.fields.iter().filter(move |field| field.is(name));
                    fields.map(move |field| (name, field.value()))
                };
                RECIPIENTS.into_iter().flat_map(named).collect()
            }
        };

        for (name, value) in fields {
            recipients.extend(addresses_in(name, value, domain)?);
        }
        Ok(Addressees {
            sender: sender(&scan, domain)?,
            recipients,
        })
    }

    /// Reads only the sender, for callers that know the recipients.
    ///
    /// # Errors
    /// From or Sender contains something that is not an address.
    pub fn sender_of(message: &[u8], domain: &str) -> Result<Option<Address>, MailError> {
        sender(&Scan::of(message), domain)
    }

    /// All addresses in From and Sender.
    ///
    /// # Errors
    /// From or Sender contains something that is not an address.
    pub fn authors_of(message: &[u8], domain: &str) -> Result<Vec<Address>, MailError> {
        let scan = Scan::of(message);
        let fields = scan.fields.iter().filter_map(|field| {
            let name = ["From", "Sender"].into_iter().find(|name| field.is(name))?;
            Some(addresses_in(name, field.value(), domain))
        });
        Ok(fields.collect::<Result<Vec<_>, _>>()?.concat())
    }

    /// Parses a list of addresses as in a To field, such as `Ada <ada@example.org>, root`.
    ///
    /// # Errors
    /// Something in it is not an address, or it is empty.
    pub fn in_list(list: &str, domain: &str) -> Result<Vec<Address>, MailError> {
        match addresses_in("To", list.as_bytes(), domain) {
            Ok(found) if found.is_empty() => Err(MailError::new("to", "has no address")),
            found => found.map_err(|error| MailError::new("to", error.reason())),
        }
    }
}

fn sender(scan: &Scan<'_>, domain: &str) -> Result<Option<Address>, MailError> {
    for name in ["From", "Sender"] {
        let Some(field) = scan.find(name) else {
            continue;
        };
        let found = first_address_in(name, field.value(), domain)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The recipients in the newest block of Resent fields, which is the topmost one. A block ends
/// before a field name that it already contains.
fn newest_resent<'a>(scan: &Scan<'a>) -> Vec<(&'static str, &'a [u8])> {
    let mut seen: Vec<&str> = Vec::new();
    let mut fields = Vec::new();
    for field in &scan.fields {
        let is_resent = field
            .name
            .get(..7)
            .is_some_and(|start| start.eq_ignore_ascii_case("Resent-"));
        if !is_resent {
            continue;
        }
        if seen.iter().any(|name| field.is(name)) {
            break;
        }
        seen.push(field.name);
        let which = RESENT.iter().position(|name| field.is(name));
        fields.extend(which.map(|which| (which, field.value())));
    }

    fields.sort_by_key(|(which, _)| *which);
    fields
        .into_iter()
        .map(|(which, value)| (RESENT[which], value))
        .collect()
}

/// The first address of a field. One with a domain is preferred to a local user, which is often
/// half of a name without its quotes.
fn first_address_in(name: &str, value: &[u8], domain: &str) -> Result<Option<Address>, MailError> {
    let text = String::from_utf8_lossy(value);
    let first = address_list::read(&text).and_then(|entries| {
        let found: Vec<_> = address_list::mailboxes(entries).collect();
        let first = found
            .iter()
            .find(|found| found.domain.is_some())
            .or(found.first());
        first.map(|found| found.address(Some(domain))).transpose()
    });
    first.map_err(|reason| MailError::new(format!("headers.{name}"), reason))
}

fn addresses_in(name: &str, value: &[u8], domain: &str) -> Result<Vec<Address>, MailError> {
    let text = String::from_utf8_lossy(value);
    let found = address_list::read(&text).and_then(|entries| {
        let found = address_list::mailboxes(entries);
        found.map(|found| found.address(Some(domain))).collect()
    });
    found.map_err(|reason| MailError::new(format!("headers.{name}"), reason))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn recipients(message: &[u8]) -> Vec<String> {
        let addressees = Addressees::of(message, "host.example").unwrap();
        addressees
            .recipients
            .iter()
            .map(Address::to_string)
            .collect()
    }

    #[test]
    fn every_recipient_is_found_once_per_mention() {
        let message = b"From: Shop <shop@example.com>\r\n\
            To: \"Lovelace, Ada\" <ada@example.org>,\r\n bob@example.org\r\n\
            Cc: team: c@example.org, d@example.org;\r\n\
            Bcc : =?utf-8?q?Gr=C3=BC=C3=9F?= <e@example.org>\r\n\
            To: root\r\n\r\nTo: not@example.org\r\n";

        let expected = [
            "ada@example.org",
            "bob@example.org",
            "root@host.example",
            "c@example.org",
            "d@example.org",
            "e@example.org",
        ];

        assert_eq!(recipients(message), expected);
        let addressees = Addressees::of(message, "host.example").unwrap();
        assert_eq!(addressees.sender.unwrap().as_str(), "shop@example.com");
    }

    #[test]
    fn the_newest_resent_fields_replace_the_first_recipients() {
        let once = b"To: old@example.org\nResent-To: new@example.org\n\nhi\n";
        assert_eq!(recipients(once), ["new@example.org"]);
        let twice =
            b"Resent-From: c@example.org\nResent-Cc: d@example.org\nResent-To: c@example.org\n\
            Resent-From: b@example.org\nResent-To: b@example.org\nTo: a@example.org\n\nhi\n";
        assert_eq!(recipients(twice), ["c@example.org", "d@example.org"]);
    }

    #[test]
    fn what_an_encoded_word_holds_is_nobodys_address() {
        for field in [
            "To: =?utf-8?q?x=40evil.example?=",
            "Cc: a@example.org, =?utf-8?b?eEBldmlsLmV4YW1wbGU=?=",
            "Bcc: =?us-ascii?q?a=2Cx=40evil.example?= <>",
        ] {
            let error = Addressees::of(field.as_bytes(), "host.example").unwrap_err();
            assert!(error.field().starts_with("headers."), "{error}");
        }
        let message = b"To: =?utf-8?q?x=40evil.example=2C?= <a@example.org>\n\n";
        assert_eq!(recipients(message), ["a@example.org"]);
    }

    #[test]
    fn a_name_without_quotes_does_not_become_the_sender() {
        let message = "From: Müller, GmbH <info@example.org>\n\n".as_bytes();
        let addressees = Addressees::of(message, "host.example").unwrap();
        assert_eq!(addressees.sender.unwrap().as_str(), "info@example.org");
        let cron = Addressees::of(b"From: root (Cron Daemon)\n\n", "host.example").unwrap();
        assert_eq!(cron.sender.unwrap().as_str(), "root@host.example");
    }

    #[test]
    fn nobody_is_nobody() {
        for message in [
            "To: undisclosed-recipients:;\r\n\r\nhi",
            "no header section at all",
            "",
        ] {
            assert_eq!(recipients(message.as_bytes()), [""; 0]);
        }
        let list = Addressees::in_list("a@example.org, B <b@example.org>, root", "host").unwrap();
        assert_eq!(list.len(), 3);
        assert!(Addressees::in_list("(nobody)", "host").is_err());
    }
}
