//! Values that JSON may contain in several forms: one address or a list, a span of time, a file's
//! bytes, header fields.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use utoipa::openapi::schema::{AdditionalProperties, Type};
use utoipa::openapi::{ArrayBuilder, ObjectBuilder, OneOfBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::mail::{MAX_RECIPIENTS, SPAN_EXPECTED, parse_span};

/// The most custom header fields of a mail.
const MAX_HEADERS: usize = 1_000;

/// Reads a list of at most `MOST` entries; fails at the first one too many.
pub(super) fn few<'de, D, T, const MOST: usize>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<BoundedList<T, MOST>>::deserialize(from)?.map(|few| few.0))
}

/// Reads one of a few names. A value of another type, such as a number, is reported as a wrong
/// name, not as malformed JSON.
pub(super) fn name<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    struct NameVisitor<T>(PhantomData<T>);
    impl<T: DeserializeOwned> Visitor<'_> for NameVisitor<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name")
        }
        fn visit_str<E: Error>(self, name: &str) -> Result<Option<T>, E> {
            T::deserialize(name.into_deserializer()).map(Some)
        }
        fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }
    }

    from.deserialize_any(NameVisitor(PhantomData))
}

/// A list of at most `MOST` entries.
pub(super) struct BoundedList<T, const MOST: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for BoundedList<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct BoundedListVisitor<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T, const MOST: usize> Visitor<'de> for BoundedListVisitor<T, MOST>
        where
            T: Deserialize<'de>,
        {
            type Value = BoundedList<T, MOST>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                many: A,
            ) -> Result<BoundedList<T, MOST>, A::Error> {
                at_most(MOST, many).map(BoundedList)
            }
        }

        from.deserialize_seq(BoundedListVisitor(PhantomData))
    }
}

fn at_most<'de, T, A>(most: usize, mut many: A) -> Result<Vec<T>, A::Error>
where
    T: Deserialize<'de>,
    A: SeqAccess<'de>,
{
    let mut list = Vec::new();
    while let Some(one) = many.next_element()? {
        if list.len() == most {
            return Err(A::Error::custom(too_many(most)));
        }
        list.push(one);
    }
    Ok(list)
}

fn too_many(most: usize) -> String {
    format!("has more than {most} entries, the maximum")
}

/// One address, or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor;
        impl<'de> Visitor<'de> for OneOrManyVisitor {
            type Value = OneOrMany;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address or a list of addresses")
            }
            fn visit_str<E: Error>(self, one: &str) -> Result<OneOrMany, E> {
                // Programs use an empty text as well as an empty list for "nobody".
                let nobody = one.trim().is_empty();
                Ok(OneOrMany(match nobody {
                    true => Vec::new(),
                    false => vec![one.to_owned()],
                }))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, many: A) -> Result<OneOrMany, A::Error> {
                at_most(MAX_RECIPIENTS, many).map(OneOrMany)
            }
        }

        from.deserialize_any(OneOrManyVisitor)
    }
}

impl ToSchema for OneOrMany {
    fn name() -> Cow<'static, str> {
        "OneOrMany".into()
    }
}

impl PartialSchema for OneOrMany {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(String::schema())
            .item(ArrayBuilder::new().items(String::schema()))
            .description(Some(
                "One address, `ada@example.org` or `Ada <ada@example.org>`, or a list of them",
            ))
            .into()
    }
}

/// A span of time: a number of seconds, or text such as `90s`, `5m`, `2h 30m`, `1day`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub Duration);

impl Span {
    /// Parses a span as a query parameter, where a number is text as well.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_span(text).map(Span)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct SpanVisitor;
        impl Visitor<'_> for SpanVisitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SPAN_EXPECTED)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Span, E> {
                // In JSON a number in quotes is a mistake.
                if text.parse::<f64>().is_ok() {
                    return Err(E::custom(format!("is not {SPAN_EXPECTED}")));
                }
                Span::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Span, E> {
                Span::parse(&seconds.to_string()).map_err(E::custom)
            }
            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Span, E> {
                match u64::try_from(seconds) {
                    Ok(seconds) => self.visit_u64(seconds),
                    Err(_) => Err(E::custom("is below zero")),
                }
            }
            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Span, E> {
                Span::parse(&seconds.to_string()).map_err(E::custom)
            }
        }

        from.deserialize_any(SpanVisitor)
    }
}

impl ToSchema for Span {
    fn name() -> Cow<'static, str> {
        "Span".into()
    }
}

impl PartialSchema for Span {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::Number)
                    .minimum(Some(0)),
            )
            .item(
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some(r"^[1-9][0-9]{0,4}(ms|s|m|h|d|w)$")),
            )
            .description(Some(
                "A span of time: a number of seconds, or text such as `90s`, `5m`, `2h`, `7d`",
            ))
            .into()
    }
}

/// Bytes in base64 (RFC 4648 §4), with or without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Base64(pub Bytes);

impl Base64 {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );

    /// Decodes the text. It may be broken into lines, as in MIME (RFC 2045 §6.8).
    pub fn decode(text: &str) -> Result<Self, base64::DecodeError> {
        let whole = Self::ENGINE.decode(text);
        let decoded = match &whole {
            Err(base64::DecodeError::InvalidByte(_, b'\r' | b'\n')) => {
                Self::ENGINE.decode(text.replace(['\r', '\n'], ""))
            }
            _ => whole,
        };
        decoded.map(|bytes| Base64(bytes.into()))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Base64Visitor;
        impl Visitor<'_> for Base64Visitor {
            type Value = Base64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes in base64")
            }
            // Decoded directly from the request, so that a large file is not copied as text first.
            fn visit_str<E: Error>(self, text: &str) -> Result<Base64, E> {
                Base64::decode(text).map_err(|e| E::custom(format!("is not base64: {e}")))
            }
        }

        from.deserialize_str(Base64Visitor)
    }
}

impl ToSchema for Base64 {
    fn name() -> Cow<'static, str> {
        "Base64".into()
    }
}

impl PartialSchema for Base64 {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .content_encoding("base64")
            .pattern(Some(
                "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            ))
            .description(Some("Bytes in base64"))
            .into()
    }
}

/// Header fields by name, in the given order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Headers(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct HeadersVisitor;
        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = Headers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of header fields: names and values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    if fields.len() == MAX_HEADERS {
                        return Err(A::Error::custom(too_many(MAX_HEADERS)));
                    }
                    fields.push(field);
                }
                Ok(Headers(fields))
            }
        }

        from.deserialize_map(HeadersVisitor)
    }
}

impl ToSchema for Headers {
    fn name() -> Cow<'static, str> {
        "Headers".into()
    }
}

impl PartialSchema for Headers {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .additional_properties(Some(AdditionalProperties::RefOr(String::schema())))
            .description(Some("Header fields of your own: names and values"))
            .into()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_span_is_seconds_or_text() {
        let span = |json: &str| serde_json::from_str::<Span>(json).map(|span| span.0.as_millis());
        assert_eq!(span("90").unwrap(), 90_000);
        assert_eq!(span("1.5").unwrap(), 1_500);
        assert_eq!(span("\"5m\"").unwrap(), 300_000);
        assert_eq!(span("\"2h 30m\"").unwrap(), 9_000_000);

        for wrong in [
            "-1", "-0.5", "1e400", "1e30", "\"5\"", "\"soon\"", "\"\"", "true", "[]",
        ] {
            assert!(span(wrong).is_err(), "{wrong}");
        }

        assert_eq!(Span::parse("90").unwrap().0.as_secs(), 90);
        assert_eq!(Span::parse("5m").unwrap().0.as_secs(), 300);
        assert!(
            Span::parse("-1").is_err()
                && Span::parse("NaN").is_err()
                && Span::parse("inf").is_err()
        );
    }

    #[test]
    fn base64_is_taken_with_and_without_padding_and_in_lines() {
        for json in ["\"aGk=\"", "\"aGk\"", "\"aG\\r\\nk=\\n\""] {
            assert_eq!(serde_json::from_str::<Base64>(json).unwrap().0, "hi");
        }
        assert!(serde_json::from_str::<Base64>("\"aG k\"").is_err());
    }

    #[test]
    fn header_fields_keep_their_order() {
        let headers: Headers = serde_json::from_str(r#"{"X-B":"1","X-A":"2"}"#).unwrap();
        assert_eq!(
            headers.0,
            [
                ("X-B".to_owned(), "1".to_owned()),
                ("X-A".to_owned(), "2".to_owned())
            ]
        );
    }
}
