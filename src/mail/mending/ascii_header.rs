//! Converts a header section to ASCII for a server without SMTPUTF8 (RFC 6857 §3). The SMTP
//! transport does that for recipients with ASCII addresses, before the message is signed.

use bytes::Bytes;

use super::fields::{self, text_of};
use super::scan::{LooseField, Scan};
use crate::mail::address_list::{FoundMailbox, ListEntry};
use crate::mail::{field, structured};

/// The message with an ASCII header section; its body is unchanged. An address without an ASCII
/// form becomes an empty group with the address as its name (§3.1.7), which no program takes for an
/// address. `None` if this is not possible: the header section is signed (RFC 6376), or a field
/// about the encoding of the body has no ASCII form.
pub fn ascii_header(message: &Bytes) -> Option<Bytes> {
    let scan = Scan::of(message);
    if !scan.is_whole() || super::is_signed(&scan) {
        return None;
    }

    let mut header = Vec::with_capacity(scan.fields.len());
    for field in &scan.fields {
        header.push(match field.raw.is_ascii() {
            true => None,
            false => Some(downgraded(field)?.into_bytes()),
        });
    }
    Some(super::with(&[], &scan, &header, "", None))
}

fn downgraded(field: &LooseField<'_>) -> Option<String> {
    let text = text_of(field.value());
    let name = field.name;
    let written = match fields::is_addresses(field) {
        true => addresses(name, &text),
        false => fields::in_ascii(field, &text, None),
    };
    if written.is_some() {
        return written;
    }

    // A structured value, such as an id, is kept in an unstructured field with another name
    // (§3.1.10).
    let is_mime = ["Content-", "MIME-"].iter().any(|prefix| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    });
    if is_mime {
        return None;
    }
    let mut out = String::new();
    field::write_text(
        &mut out,
        &format!("Downgraded-{name}"),
        &fields::unfolded(&text),
    );
    out.is_ascii().then_some(out)
}

fn addresses(name: &str, text: &str) -> Option<String> {
    let mut entries = Vec::new();
    for entry in fields::entries(text)? {
        match entry {
            ListEntry::One(found) if found.local.is_ascii() => entries.push(ListEntry::One(found)),
            ListEntry::One(found) => entries.push(in_a_name(&found)),
            ListEntry::Group(name, members) => {
                let (said, unsaid): (Vec<_>, Vec<_>) =
                    members.into_iter().partition(|one| one.local.is_ascii());
                entries.push(ListEntry::Group(name, said));
                entries.extend(unsaid.iter().map(in_a_name));
            }
        }
    }

    let mut out = String::with_capacity(text.len() * 2);
    structured::write_addresses(&mut out, name, &entries, None).ok()?;
    out.is_ascii().then_some(out)
}

/// `Jürgen <jürgen@example.org>` becomes `"Jürgen jürgen@example.org":;`, encoded.
fn in_a_name(found: &FoundMailbox) -> ListEntry {
    let address = match &found.domain {
        Some(domain) => format!("{}@{domain}", found.local),
        None => found.local.clone(),
    };
    let name = match &found.name {
        Some(name) => format!("{name} {address}"),
        None => address,
    };
    ListEntry::Group(name, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header_of(fields: &str) -> Option<String> {
        let message = Bytes::from(format!("{fields}\r\nGrüße\r\n"));
        let header = String::from_utf8(ascii_header(&message)?.to_vec()).expect("UTF-8");
        let header = header
            .strip_suffix("\r\nGrüße\r\n")
            .expect("the body stays");
        assert!(header.is_ascii(), "{header}");
        Some(header.to_owned())
    }

    #[test]
    fn an_address_that_has_no_ascii_form_becomes_the_name_of_an_empty_group() {
        let header = header_of(
            "From: shop@example.com\r\nTo: ada@example.org, =?utf-8?b?SsO8?= \
             <jürgen@bücher.example>\r\n\
             Cc: Team: bob@example.org, zoë@example.org;\r\nReply-To: zoë@example.org\r\n\
             Subject: Gruß\r\n",
        );
        let header = header.expect("converted");

        let lines: Vec<&str> = header.split("\r\n").collect();
        assert_eq!(lines[0], "From: shop@example.com");
        let decoded = mail_parser::MessageParser::default()
            .parse(format!("{header}\r\n").as_bytes())
            .map(|message| {
                let groups = message
                    .to()
                    .expect("To")
                    .as_group()
                    .expect("groups")
                    .to_vec();
                (format!("{groups:?}"), message.subject().map(str::to_owned))
            });
        let (to, subject) = decoded.expect("a message");
        assert!(to.contains("ada@example.org"), "{to}");
        assert!(to.contains("Jü jürgen@bücher.example"), "{to}");
        assert_eq!(subject.as_deref(), Some("Gruß"));
        assert!(
            header.contains("Cc: Team: bob@example.org;, =?utf-8?"),
            "{header}"
        );
        assert!(header.contains("Reply-To: =?utf-8?"), "{header}");
        assert!(
            header.contains("?=:;") || header.contains("?=: ;"),
            "{header}"
        );
    }

    #[test]
    fn a_domain_beyond_ascii_is_written_in_its_ascii_form() {
        let header = header_of("To: ada@bücher.example\r\nReply-To: zoë@example.org\r\n");
        assert!(
            header
                .expect("converted")
                .starts_with("To: ada@xn--bcher-kva.example\r\n"),
        );
    }

    #[test]
    fn an_id_beyond_ascii_is_kept_under_another_name() {
        let header = header_of("In-Reply-To: <1@bücher.example>\r\nTo: zoë@example.org\r\n");
        let header = header.expect("converted");
        assert!(
            header.starts_with("Downgraded-In-Reply-To: =?utf-8?"),
            "{header}"
        );
    }

    #[test]
    fn what_is_signed_is_left() {
        assert_eq!(
            header_of("DKIM-Signature: v=1; b=x\r\nTo: zoë@example.org\r\n"),
            None
        );
    }
}
