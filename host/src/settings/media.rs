//! `grants.media`: yes or no, or a table.

use serde::{
    Deserialize as _, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::Media;

pub(super) fn granted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Media>, D::Error> {
    struct Visitor;
    impl<'de> de::Visitor<'de> for Visitor {
        type Value = Option<Media>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("true, or a table such as { bytes = 1_000_000 }")
        }

        fn visit_bool<E: de::Error>(self, granted: bool) -> Result<Self::Value, E> {
            Ok(granted.then(Media::default))
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Media::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }
    deserializer.deserialize_any(Visitor)
}
