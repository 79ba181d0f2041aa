//! A scan of a large request before it is parsed: counts its values, and refuses a name or a text
//! that is longer than is reasonable in its place.
//!
//! Called by `request` and `submit` for requests larger than [`SMALL_REQUEST`]. Nothing is copied,
//! so that a request takes no more memory than its own bytes until it has passed. The length of
//! lists is limited when they are parsed (`fields`).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::problem::{Problem, malformed};

/// Requests up to this many bytes are not scanned: they cannot take much memory, whatever they
/// contain.
pub(super) const SMALL_REQUEST: usize = 64 * 1024;

/// The most bytes of a name.
const MAX_NAME: usize = 1024;

/// The most bytes of a text, except a body or a file.
const MAX_TEXT: usize = 1024 * 1024;

/// What a request should contain.
#[derive(Clone, Copy, Debug)]
pub(super) enum RequestKind {
    /// One mail.
    Mail,
    /// A batch, whose mails are scanned one by one later.
    Batch,
}

/// Counts the values in `json`.
///
/// # Errors
/// If it is not JSON, or something in it is too long for its place; the problem points to it.
pub(super) fn count(json: &[u8], shape: RequestKind) -> Result<usize, Problem> {
    let place = match shape {
        RequestKind::Mail => ValuePosition::Mail,
        RequestKind::Batch => ValuePosition::Batch,
    };

    let mut values = 0;
    let mut reader = serde_json::Deserializer::from_slice(json);
    let look = ValueCheck {
        place,
        values: &mut values,
    };

    let Err(error) = look.deserialize(&mut reader) else {
        return Ok(values);
    };
    if !error.is_data() {
        return Err(malformed(&error));
    }

    // Only for an error, scan again to find its place.
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let look = ValueCheck {
        place,
        values: &mut values,
    };

    let again = look.deserialize(tracked).err().unwrap_or(error);
    let pointer = super::problem::pointer(&track.path());
    Err(Problem::invalid_field(pointer, reason(&again)))
}

/// The message of a scan's error, without the line and column that serde adds.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

/// The position of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValuePosition {
    Batch,
    /// The mails of a batch, which only have to be a list.
    Mails,
    Mail,
    Attachments,
    Attachment,
    /// A body or a file: any text.
    Long,
    Elsewhere,
}

impl ValuePosition {
    fn below(self, name: &str) -> ValuePosition {
        match (self, name) {
            (ValuePosition::Batch, "mails") => ValuePosition::Mails,
            (ValuePosition::Mail, "text" | "html") | (ValuePosition::Attachment, "content") => {
                ValuePosition::Long
            }
            (ValuePosition::Mail, "attachments") => ValuePosition::Attachments,
            _ => ValuePosition::Elsewhere,
        }
    }

    fn within(self) -> ValuePosition {
        match self {
            ValuePosition::Attachments => ValuePosition::Attachment,
            _ => ValuePosition::Elsewhere,
        }
    }
}

/// Scans one value, and counts it with everything in it.
struct ValueCheck<'a> {
    place: ValuePosition,
    values: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for ValueCheck<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        *self.values += 1;
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueCheck<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.place {
            ValuePosition::Mails => Err(E::custom("is a text, and a list of mails is wanted")),
            ValuePosition::Long => Ok(()),
            _ if text.len() > MAX_TEXT => Err(E::custom(format_args!(
                "has {} bytes; at most {MAX_TEXT} are allowed",
                text.len()
            ))),
            _ => Ok(()),
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        if self.place == ValuePosition::Mails {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }

        let place = self.place.within();
        while list
            .next_element_seed(ValueCheck {
                place,
                values: self.values,
            })?
            .is_some()
        {}

        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(place) = map.next_key_seed(NameCheck(self.place))? {
            map.next_value_seed(ValueCheck {
                place,
                values: self.values,
            })?;
        }
        Ok(())
    }
}

/// Scans the name of a field, and returns the position of its value.
struct NameCheck(ValuePosition);

impl<'de> DeserializeSeed<'de> for NameCheck {
    type Value = ValuePosition;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<ValuePosition, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for NameCheck {
    type Value = ValuePosition;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<ValuePosition, E> {
        if name.len() > MAX_NAME {
            return Err(E::custom(format_args!(
                "has a field whose name has {} bytes; at most {MAX_NAME} are allowed",
                name.len()
            )));
        }
        Ok(self.0.below(name))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(json: &str, shape: RequestKind) -> serde_json::Value {
        let problem = count(json.as_bytes(), shape).unwrap_err();
        serde_json::to_value(problem).unwrap()["errors"][0].clone()
    }

    #[test]
    fn what_is_long_may_stand_where_it_makes_sense_and_nowhere_else() {
        let long = "x".repeat(MAX_TEXT + 1);
        for fine in [
            format!(r#"{{"text":"{long}","html":"{long}"}}"#),
            format!(r#"{{"attachments":[{{"content":"{long}"}},{{}}],"to":["a",1,null,true]}}"#),
        ] {
            assert!(count(fine.as_bytes(), RequestKind::Mail).is_ok());
        }

        for (json, pointer) in [
            (format!(r#"{{"subject":"{long}"}}"#), "/subject"),
            (format!(r#"{{"to":["a","{long}"]}}"#), "/to/1"),
            (format!(r#"{{"attachments":"{long}"}}"#), "/attachments"),
            (
                format!(r#"{{"attachments":[{{"filename":"{long}"}}]}}"#),
                "/attachments/0/filename",
            ),
            (format!(r#"{{"headers":{{"{long}":"x"}}}}"#), "/headers"),
            (format!(r#"{{"{long}":"x"}}"#), ""),
        ] {
            let error = refused(&json, RequestKind::Mail);
            let pointed = error["pointer"].as_str().unwrap();
            assert!(
                pointed.starts_with(pointer) && pointed.len() < 600,
                "{error}"
            );
            assert!(error["detail"].as_str().unwrap().len() < 100, "{error}");
        }

        let error = refused(&format!(r#"{{"mails":"{long}"}}"#), RequestKind::Batch);
        assert_eq!(error["pointer"], "/mails");
    }

    #[test]
    fn every_value_counts() {
        let json = br#"{"to": ["a", "b"], "attachments": [{}, {"content": ""}], "text": "x"}"#;
        assert_eq!(count(json, RequestKind::Mail).unwrap(), 9);
        assert!(count(b"{", RequestKind::Mail).is_err());
        let deep = "[".repeat(1000);
        assert!(count(deep.as_bytes(), RequestKind::Mail).is_err());
    }
}
