//! Whom a written message is from and for, as its own header section says (RFC 5322 §3.6).

use mail_parser::{Address, Header, HeaderName, HeaderValue, MessageParser};

/// The addresses in From; `None` where there is none.
pub fn sender(message: &[u8]) -> Option<String> {
    addresses(message, &[HeaderName::From]).into_iter().next()
}

/// The addresses in To, Cc and Bcc, in that order and as often as they stand there. A message that
/// was sent on has its newest recipients in the Resent fields, which then alone count (RFC 5322
/// §3.6.6).
pub fn recipients(message: &[u8]) -> Vec<String> {
    let resent = addresses(
        message,
        &[
            HeaderName::ResentTo,
            HeaderName::ResentCc,
            HeaderName::ResentBcc,
        ],
    );
    if resent.is_empty() {
        addresses(message, &[HeaderName::To, HeaderName::Cc, HeaderName::Bcc])
    } else {
        resent
    }
}

/// The addresses in a list as it stands behind `To:`.
pub fn list(text: &str) -> Vec<String> {
    recipients(format!("To: {text}\r\n\r\n").as_bytes())
}

fn addresses(message: &[u8], fields: &[HeaderName]) -> Vec<String> {
    let parser = MessageParser::new()
        .with_address_headers()
        .default_header_ignore();
    let Some(parsed) = parser.parse_headers(message) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for field in fields {
        for header in parsed
            .headers()
            .iter()
            .filter(|header| header.name == *field)
        {
            found.extend(in_field(header));
        }
    }
    found
}

fn in_field(header: &Header<'_>) -> Vec<String> {
    let HeaderValue::Address(address) = &header.value else {
        return Vec::new();
    };
    let all: Vec<_> = match address {
        Address::List(list) => list.iter().collect(),
        Address::Group(groups) => groups.iter().flat_map(|group| &group.addresses).collect(),
    };
    // A name alone, without angle brackets, is a local user: `root`.
    all.into_iter()
        .filter_map(|one| one.address.as_deref().or(one.name.as_deref()))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipient_is_found_once_per_mention() {
        let message = b"From: Shop <shop@example.com>\r\n\
            To: \"Lovelace, Ada\" <ada@example.org>,\r\n bob@example.org\r\n\
            Cc: team: c@example.org, d@example.org;\r\n\
            Bcc: =?utf-8?q?Gr=C3=BC=C3=9F?= <e@example.org>\r\n\
            To: root\r\n\r\nTo: not@example.org\r\n";
        let expected = [
            "ada@example.org",
            "bob@example.org",
            "root",
            "c@example.org",
            "d@example.org",
            "e@example.org",
        ];
        assert_eq!(recipients(message), expected);
        assert_eq!(sender(message).as_deref(), Some("shop@example.com"));
    }

    #[test]
    fn resent_fields_replace_the_first_recipients() {
        let message = b"To: old@example.org\nResent-To: new@example.org\n\nhi\n";
        assert_eq!(recipients(message), ["new@example.org"]);
    }

    #[test]
    fn nobody_is_nobody() {
        assert_eq!(
            recipients(b"To: undisclosed-recipients:;\r\n\r\nhi"),
            [""; 0]
        );
        assert_eq!(recipients(b"no header section at all"), [""; 0]);
        assert_eq!(
            list("a@example.org, B <b@example.org>"),
            ["a@example.org", "b@example.org"]
        );
    }
}
