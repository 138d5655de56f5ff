//! A plugin's settings: what the operator set, as far as it fits the schema in the plugin's manifest, and the
//! schema's defaults for what is not set.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{
    manifest::{self, Manifest},
    settings,
};

/// The settings as the plugin reads them by `wasi:config/store`: what is no text is given as JSON.
///
/// # Errors
/// One line that names the setting and what was expected.
pub fn resolve(
    manifest: Option<&Manifest>,
    settings: &settings::Plugin,
) -> Result<BTreeMap<String, String>, String> {
    let json = |value: &toml::Value| serde_json::to_value(value).unwrap_or_else(|_| value.to_string().into());
    let mut config: Map<String, Value> =
        settings.config.iter().map(|(key, value)| (key.clone(), json(value))).collect();
    if let Some(schema) = manifest.and_then(Manifest::schema) {
        fill(&mut config, &schema);
        fits(&schema, &Value::Object(config.clone()))?;
    }
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(config.into_iter().map(|(key, value)| (key, text(value))).collect())
}

/// Sets what is not set and has a default.
fn fill(config: &mut Map<String, Value>, schema: &Value) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if let Some(default) = property.get("default") {
            config.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
}

fn fits(schema: &Value, config: &Value) -> Result<(), String> {
    let validator = manifest::validator(schema).map_err(|error| format!("its config: {error}"))?;
    validator.validate(config).map_err(|error| {
        let place = error.instance_path().to_string();
        let place = place.trim_start_matches('/').replace('/', ".");
        let place = if place.is_empty() { "config".into() } else { format!("config.{place}") };
        format!("its settings do not fit: {place}: {error}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_fit_the_schema_and_have_its_defaults() {
        let manifest = "name = \"a\"\nversion = \"1.0.0\"\ndescription = \"\"\n\
            [config]\nadditionalProperties = false\nrequired = [\"city\"]\n\
            properties.city = { type = \"string\" }\n\
            properties.days = { type = \"integer\", default = 3 }\n";
        let manifest = Manifest::parse(manifest).unwrap();
        let resolved = |text: &str| {
            let config = toml::from_str(text).unwrap();
            resolve(Some(&manifest), &settings::Plugin { config, ..settings::Plugin::default() })
        };
        let found = resolved("city = \"Rome\"").unwrap();
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            [("city".to_owned(), "Rome".to_owned()), ("days".to_owned(), "3".to_owned())]
        );
        for (text, expected) in [
            ("city = 1", "its settings do not fit: config.city: 1 is not of type \"string\""),
            ("", "its settings do not fit: config: \"city\" is a required property"),
            (
                "city = \"\"\ndys = 1",
                "its settings do not fit: config: Additional properties are not allowed",
            ),
        ] {
            let error = resolved(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let free = settings::Plugin {
            config: toml::from_str("a = [1, 2]\nb = \"x\"").unwrap(),
            ..Default::default()
        };
        let found: Vec<_> = resolve(None, &free).unwrap().into_values().collect();
        assert_eq!(found, ["[1,2]", "x"]);
    }
}
