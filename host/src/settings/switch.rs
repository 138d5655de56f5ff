//! A grant that is yes or no, or a table.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::{LlmGrant, Media, Timers};

pub(super) fn llm<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<LlmGrant>, D::Error> {
    granted(deserializer, "true, or a table such as { models = [\"small\"], tokens_per_day = 100_000 }")
}

pub(super) fn media<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Media>, D::Error> {
    granted(deserializer, "true, or a table such as { bytes = 1_000_000 }")
}

pub(super) fn timers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timers>, D::Error> {
    granted(deserializer, "true, or a table such as { count = 100 }")
}

/// Yes is the table with nothing in it.
fn granted<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Option<T>, D::Error> {
    struct Visitor<T>(&'static str, PhantomData<T>);
    impl<'de, T: Default + Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_bool<E: de::Error>(self, granted: bool) -> Result<Self::Value, E> {
            Ok(granted.then(T::default))
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(Visitor(expected, PhantomData))
}
