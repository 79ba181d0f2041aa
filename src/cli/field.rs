//! An error of one field of a request, reported by the flag that sets it: the user of a command
//! line has not seen the JSON that is made of it.

use std::fmt;

use serde::Serialize;

use super::screen::escaped;

/// A mistake in one field of a request.
#[derive(Clone, Debug, Serialize)]
pub struct FieldError {
    /// The field, as a JSON pointer (RFC 6901).
    pub pointer: String,
    /// The flag that sets it on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// What is wrong with it.
    pub detail: String,
}

/// The fields whose flags have other names, with these names.
const FLAGS: [(&str, &str); 9] = [
    ("headers", "--header"),
    ("attachments", "--attach"),
    ("tags", "--tag"),
    ("send_at", "--at"),
    ("idempotency_key", "--key"),
    ("guarantee", "--at-most-once"),
    ("message", "--eml"),
    ("q", "-q"),
    ("cursor", "--limit"),
];

impl FieldError {
    /// The service's error about this field.
    pub(super) fn new(pointer: &str, detail: &str) -> Self {
        FieldError {
            pointer: pointer.to_owned(),
            flag: flag(pointer),
            detail: detail.to_owned(),
        }
    }
}

/// `/to/1` → `--to (2nd)`, `/headers/X-Id` → `--header X-Id`.
fn flag(pointer: &str) -> Option<String> {
    let mut parts = pointer.strip_prefix('/')?.split('/');
    let field = parts.next().filter(|field| !field.is_empty())?;
    let known = FLAGS.iter().find(|(name, _)| *name == field);
    let mut flag = known.map_or_else(
        || format!("--{}", field.replace('_', "-")),
        |(_, flag)| (*flag).to_owned(),
    );

    match parts.next() {
        None => {}
        Some(place) => match place.parse::<usize>() {
            Ok(place) if place > 0 => flag.push_str(&format!(" ({})", ordinal(place + 1))),
            Ok(_) => {}
            Err(_) => {
                let name = place.replace("~1", "/").replace("~0", "~");
                flag.push_str(&format!(" {name}"));
            }
        },
    }

    Some(flag)
}

/// `2nd`, `13th`.
fn ordinal(number: usize) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(flag) = &self.flag {
            write!(f, "{} ", escaped(flag))?;
        }
        f.write_str(&escaped(&self.detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_by_its_flag() {
        let told = |pointer: &str| FieldError::new(pointer, "is wrong").to_string();
        assert_eq!(told("/to/0"), "--to is wrong");
        assert_eq!(told("/to/1"), "--to (2nd) is wrong");
        assert_eq!(told("/reply_to/12"), "--reply-to (13th) is wrong");
        assert_eq!(told("/expires_in"), "--expires-in is wrong");
        assert_eq!(told("/headers/X-a~1b"), "--header X-a/b is wrong");
        assert_eq!(told("/attachments/2/filename"), "--attach (3rd) is wrong");
        assert_eq!(told("/send_at"), "--at is wrong");
        assert_eq!(told(""), "is wrong");
        assert_eq!(told("/\u{1b}[2J"), "--\\u{1b}[2J is wrong");
    }
}
