//! The data of a template, as JSON. Its size is limited while it is parsed, because each value
//! takes many times its size in the request.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use utoipa::openapi::schema::{AdditionalProperties, SchemaType, Type};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The most bytes in all, where each value counts [`VALUE_BYTES`] more than its text.
pub(super) const MAX_DATA: usize = 2 * 1024 * 1024;
/// The size of a value besides its text.
const VALUE_BYTES: usize = 16;

/// The values of a template's variables, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateData(pub Map<String, Value>);

impl<'de> Deserialize<'de> for TemplateData {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let left = Cell::new(MAX_DATA);
        match (ValueReader { left: &left }).deserialize(from)? {
            Value::Object(fields) => Ok(TemplateData(fields)),
            Value::Null => Ok(TemplateData::default()),
            _ => Err(D::Error::custom("is not an object of variables and values")),
        }
    }
}

impl ToSchema for TemplateData {
    fn name() -> Cow<'static, str> {
        "Data".into()
    }
}

impl PartialSchema for TemplateData {
    fn schema() -> RefOr<Schema> {
        let anything = ObjectBuilder::new().schema_type(SchemaType::AnyValue);
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .additional_properties(Some(AdditionalProperties::RefOr(anything.into())))
            .description(Some("The variables' values, by name; at most 1 MiB"))
            .into()
    }
}

/// Parses one value with everything in it.
struct ValueReader<'a> {
    left: &'a Cell<usize>,
}

impl ValueReader<'_> {
    fn take<E: Error>(&self, text: usize) -> Result<(), E> {
        let left = self.left.get().checked_sub(VALUE_BYTES + text);
        let left = left.ok_or_else(|| E::custom("is more data than a template takes: 1 MiB"))?;
        self.left.set(left);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.take(0)?;
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.take(0)?;
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.take(0)?;
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.take(0)?;
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.take(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.take(0)?;
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(ValueReader { left: self.left })? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.take(0)?;
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            self.take(name.len())?;
            let value = map.next_value_seed(ValueReader { left: self.left })?;
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn data_is_an_object_and_bounded_whatever_is_in_it() {
        let read = |json: &str| serde_json::from_str::<TemplateData>(json);
        let json = r#"{"a":[1,-1,1.5,"x",null,true],"b":{"c":{}}}"#;
        assert_eq!(serde_json::to_string(&read(json).unwrap().0).unwrap(), json);
        for other in ["[]", "5", "\"x\""] {
            assert!(read(other).is_err(), "{other}");
        }
        let many = format!("{{\"a\":[{}0]}}", "0,".repeat(MAX_DATA / VALUE_BYTES));
        assert!(read(&many).unwrap_err().to_string().contains("1 MiB"));
    }
}
