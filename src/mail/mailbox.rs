//! A mailbox, `Ada Lovelace <ada@example.org>` (RFC 5322 §3.4): parses what a sender wrote, and
//! writes header fields.

use std::fmt::{self, Write};

use email_encoding::headers::quoted_string;
use email_encoding::headers::writer::EmailWriter;

use super::Address;
use super::address_list::{self, FoundMailbox, ListEntry};

/// The longest display name in bytes, so that no header line is too long.
const MAX_NAME: usize = 500;
/// Lines are folded before this width (RFC 5322 §2.1.1).
const FOLD_WIDTH: usize = 76;

/// An address with an optional display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub name: Option<String>,
    pub address: Address,
}

impl Mailbox {
    /// Parses exactly one mailbox. The name needs no quotes unless it could be taken for a list. A
    /// text with two mailboxes is refused, so that nobody becomes a recipient by accident.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err("has a control character".to_owned());
        }
        if let Some((name, address)) = with_unquoted_name(text) {
            return Mailbox::named(Some(name), &address, None);
        }

        let mut entries = address_list::read(text)?.into_iter();
        match (entries.next(), entries.next()) {
            (Some(ListEntry::One(found)), None) => Mailbox::found(&found, None),
            (None, _) => Err("has no address".to_owned()),
            (Some(ListEntry::Group(..)), None) => {
                Err("is a group: give each of its addresses its own".to_owned())
            }
            (Some(ListEntry::One(first)), Some(_)) if first.domain.is_none() => {
                Err("has `,` or `;` in the name: put the name in double quotes".to_owned())
            }
            _ => Err("holds more than one address: give each one its own".to_owned()),
        }
    }

    /// A mailbox from a list; `domain` is used if it has none.
    pub fn found(found: &FoundMailbox, domain: Option<&str>) -> Result<Self, String> {
        Mailbox::named(found.name.clone(), found, domain)
    }

    fn named(
        name: Option<String>,
        found: &FoundMailbox,
        domain: Option<&str>,
    ) -> Result<Self, String> {
        let length = name.as_ref().map_or(0, String::len);
        if length > MAX_NAME {
            return Err(format!(
                "has a name of {length} bytes; at most {MAX_NAME} are allowed"
            ));
        }
        Ok(Mailbox {
            name,
            address: found.address(domain)?,
        })
    }

    /// Writes it into a header field, encoded and folded.
    pub fn write(&self, to: &mut EmailWriter<'_>) -> fmt::Result {
        let Some(name) = &self.name else {
            return write_whole(self.address.as_str(), to);
        };
        quoted_string::encode(name, to)?;
        to.space();
        write_whole(&format!("<{}>", self.address), to)
    }
}

/// An unquoted name and an address in angle brackets, as people type them. The name is kept
/// unchanged, even if it contains what would start a comment or a group elsewhere.
fn with_unquoted_name(text: &str) -> Option<(String, FoundMailbox)> {
    let (name, address) = text.split_at(text.find('<')?);
    let name = name.trim();
    if name.is_empty() || name.contains(['"', '>', ',', ';', '\\']) {
        return None;
    }
    let Ok([ListEntry::One(found)]) = <[ListEntry; 1]>::try_from(address_list::read(address).ok()?)
    else {
        return None;
    };
    let is_alone = found.name.is_none();
    is_alone.then(|| (address_list::decoded(name), found))
}

/// Writes an address on one line, even if it contains spaces in quotes.
fn write_whole(address: &str, to: &mut EmailWriter<'_>) -> fmt::Result {
    let is_apart = to.projected_line_len() > to.line_len();
    if is_apart && to.projected_line_len() + address.len() > FOLD_WIDTH {
        to.new_line()?;
    }
    to.write_str(address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (String, String) {
        let mailbox = Mailbox::parse(text).unwrap();
        (
            mailbox.name.unwrap_or_default(),
            mailbox.address.to_string(),
        )
    }

    #[test]
    fn mailboxes_are_read_as_people_write_them() {
        let ada = |name: &str| (name.to_owned(), "ada@example.org".to_owned());
        assert_eq!(read("ada@example.org"), ada(""));
        assert_eq!(read("  <ada@example.org> "), ada(""));
        assert_eq!(read("Ada <ada@example.org>"), ada("Ada"));
        assert_eq!(read("Ada<ada@example.org>"), ada("Ada"));
        assert_eq!(
            read("A. K. Lovelace (Countess) <ada@example.org>"),
            ada("A. K. Lovelace (Countess)")
        );

        assert_eq!(
            read("ada@example.org <ada@example.org>"),
            ada("ada@example.org")
        );

        assert_eq!(
            read(r#""Lovelace, Ada \"A\" \\" <ada@example.org>"#),
            ada(r#"Lovelace, Ada "A" \"#)
        );

        assert_eq!(read("Ädä Løvelace <ada@example.org>"), ada("Ädä Løvelace"));
    }

    #[test]
    fn obsolete_forms_and_comments_are_read() {
        let ada = |name: &str| (name.to_owned(), "ada@example.org".to_owned());
        assert_eq!(read("ada@example.org (Ada)"), ada("Ada"));
        assert_eq!(read("(Ada) ada (at) @ example.org"), ada("at"));
        assert_eq!(
            read("Ada <@a.example,@b.example:ada@example.org>"),
            ada("Ada")
        );

        assert_eq!(read("=?utf-8?q?J=C3=B6rg?= <ada@example.org>"), ada("Jörg"));
        assert_eq!(
            read("=?utf-8?q?J=C3=B6rg?= (Büro) <ada@example.org>"),
            ada("Jörg (Büro)")
        );

        let quoted = (String::new(), r#""ada l"@example.org"#.to_owned());
        assert_eq!(read(r#""ada l"@example.org"#), quoted);
        assert_eq!(read(r#"<"ada l"@example.org>"#), quoted);
    }

    fn written(mailboxes: &[Mailbox]) -> String {
        let mut out = String::new();
        crate::mail::field::write_mailboxes(&mut out, "To", mailboxes);
        out
    }

    fn address() -> impl Strategy<Value = Address> {
        let local = prop_oneof![
            "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-zäöé]{1,9}){0,2}",
            "[ -;=?-\\[\\]-~äöé]{0,30}".prop_map(|text| {
                format!("\"x{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }),
        ];

        let domain = prop_oneof![
            "[a-z]{1,20}(\\.[a-z0-9]{1,20}){0,3}",
            Just("bücher.example".to_owned()),
            Just("[192.0.2.1]".to_owned()),
            Just("[IPv6:2001:db8::1]".to_owned()),
        ];

        (local, domain).prop_filter_map("too long", |(local, domain)| {
            Address::parse(&format!("{local}@{domain}")).ok()
        })
    }

    fn mailbox() -> impl Strategy<Value = Mailbox> {
        let name = prop::option::of("[ -~äöé日本語\u{1f600}]{1,120}").prop_map(|name| {
            name.map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty())
        });
        (name, address()).prop_map(|(name, address)| Mailbox { name, address })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(mailboxes in prop::collection::vec(mailbox(), 1..30)) {
            let field = written(&mailboxes);
            prop_assert!(field.split("\r\n").all(|line| line.len() <= 998), "{field}");
            let entries = address_list::read(field.strip_prefix("To: ").unwrap()).unwrap();
            let read: Result<Vec<Mailbox>, String> = address_list::mailboxes(entries)
                .map(|found| Mailbox::found(&found, None))
                .collect();
            prop_assert_eq!(read.unwrap(), mailboxes, "{}", field);
        }

        #[test]
        fn a_typed_mailbox_is_the_one_that_was_written(mailbox in mailbox()) {
            let field = written(std::slice::from_ref(&mailbox));
            let unfolded = field.strip_prefix("To: ").unwrap().replace("\r\n", "");
            prop_assert_eq!(Mailbox::parse(&unfolded).unwrap(), mailbox, "{}", field);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a(\"<>@,:;\\\\. =?]{0,60}") {
            let _ = Mailbox::parse(&text);
            if let Ok(entries) = address_list::read(&text) {
                for found in address_list::mailboxes(entries) {
                    let Ok(address) = found.address(Some("host")) else { continue };
                    prop_assert_eq!(Address::parse(address.as_str()).unwrap(), address);
                }
            }
        }
    }

    #[test]
    fn a_text_that_is_not_one_mailbox_is_refused() {
        for text in [
            "",
            "Ada",
            "ada@example.org, eve@example.org",
            "Ada <ada@example.org>, Eve <eve@example.org>",
            "ada@example.org, Eve <eve@example.org>",
            "undisclosed-recipients:;",
            "Ada <ada@example.org> eve@example.org",
            "Ada <<ada@example.org>>",
            "Ada <ada@example.org>\r\nBcc: eve@example.org",
            "\"a\" b\" <ada@example.org>",
            "Ada\u{85} <ada@example.org>",
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?} was taken");
        }

        let error = Mailbox::parse("ada@example.org, eve@example.org").unwrap_err();
        assert!(error.contains("more than one address"), "{error}");
    }
}
