//! A mailbox as people write it, `Ada Lovelace <ada@example.org>` (RFC 5322 §3.4), read from what a
//! sender gave and written into a header.

use std::fmt::{self, Write};

use email_encoding::headers::quoted_string;
use email_encoding::headers::writer::EmailWriter;

use super::Address;

/// The most bytes that a display name may have, so that no line of a header grows too long.
const MAX_NAME: usize = 500;

/// An address with the name that readers see, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mailbox {
    pub name: Option<String>,
    pub address: Address,
}

impl Mailbox {
    /// Reads exactly one mailbox. The name may go without quotes where it cannot be taken for a
    /// list. Two mailboxes in one text are refused: nobody becomes a recipient by what somebody
    /// typed as an address.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.chars().any(char::is_control) {
            return Err("has a control character".to_owned());
        }
        let Some((name, address)) = text
            .strip_suffix('>')
            .and_then(|text| text.rsplit_once('<'))
        else {
            let several = text.contains(',') && text.matches('@').count() > 1;
            return match Address::parse(text) {
                Ok(address) => Ok(Mailbox {
                    name: None,
                    address,
                }),
                Err(_) if several => {
                    Err("holds more than one address: give each one its own".to_owned())
                }
                Err(error) => Err(error.to_string()),
            };
        };
        let address = Address::parse(address).map_err(|error| error.to_string())?;
        let name = display_name(name.trim())?;
        Ok(Mailbox {
            name: Some(name).filter(|name| !name.is_empty()),
            address,
        })
    }

    /// Writes it into a header field, encoded and folded.
    pub fn write(&self, to: &mut EmailWriter<'_>) -> fmt::Result {
        let Some(name) = &self.name else {
            return to.folding().write_str(self.address.as_str());
        };
        quoted_string::encode(name, to)?;
        to.space();
        to.folding().write_str(&format!("<{}>", self.address))
    }
}

fn display_name(name: &str) -> Result<String, String> {
    if name.len() > MAX_NAME {
        return Err(format!(
            "has a name of {} bytes, and {MAX_NAME} are the most",
            name.len()
        ));
    }
    let Some(quoted) = name
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
    else {
        return match name.find([',', ';', '<', '>']) {
            Some(at) => Err(format!(
                "has `{}` in the name: put the name in double quotes",
                &name[at..=at]
            )),
            None => Ok(name.to_owned()),
        };
    };
    let mut plain = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            '"' => {
                return Err(
                    "has a double quote within the quoted name: write \\\" for it".to_owned(),
                );
            }
            c => plain.push(c),
        }
    }
    Ok(plain.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
