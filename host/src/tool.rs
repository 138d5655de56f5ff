//! Tools as values: what a plugin declares, and what others give it.

use std::{collections::BTreeSet, fmt};

use serde_json::{Map, Value};

use crate::{id::PluginName, manifest, text::unseen};

/// What a language model takes for a function's name.
const NAME: usize = 64;
const TITLE: usize = 100;
/// A model reads all of them before it answers.
const DESCRIPTION: usize = 1024;
const SCHEMA: usize = 16 * 1024;
/// Arguments as JSON.
const ARGUMENTS: usize = 256 * 1024;
/// What a tool answers.
pub const RESULT: usize = 256 * 1024;
/// Bytes of arguments times bytes of their schema: what it takes to check the one by the other, at the worst, is some
/// tenths of a second of the caller's time.
const CHECK: usize = 512 * 1024 * 1024;

/// A tool that other plugins may call.
pub struct Tool {
    /// `forecast`
    pub name: String,
    /// What a person calls it.
    pub title: Option<String>,
    /// What it does, for a person or a model.
    pub description: String,
    /// JSON Schema of its arguments, as it was declared.
    pub parameters: String,
    /// It changes nothing that anybody would notice.
    pub read_only: bool,
    validator: jsonschema::Validator,
}

/// Arguments that a tool is not called with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is too much of them.
    #[error("{0}")]
    TooLarge(&'static str),
    /// They are no JSON object, or not as the schema says; the place is named.
    #[error("{0}")]
    Invalid(String),
}

impl Tool {
    /// Checks a declaration.
    ///
    /// # Errors
    /// One line that names the tool and what is wrong with it.
    pub fn new(
        name: String,
        title: Option<String>,
        description: String,
        parameters: String,
        read_only: bool,
    ) -> Result<Self, String> {
        if !is_name(&name) {
            let name: String = name.chars().take(40).collect();
            return Err(format!(
                "tool {name:?}: a name is lower-case letters, digits, hyphens and underscores, a letter first, at most {NAME}"
            ));
        }
        let invalid = |reason: String| format!("tool {name:?}: {reason}");
        if title.as_ref().is_some_and(|title| title.len() > TITLE || title.contains(unseen)) {
            return Err(invalid(format!(
                "a title is one line of at most {TITLE} bytes, all of which can be seen"
            )));
        }
        if description.len() > DESCRIPTION || description.contains(|c| unseen(c) && c != '\n') {
            return Err(invalid(format!(
                "a description has at most {DESCRIPTION} bytes, all of which can be seen"
            )));
        }
        let validator = schema(&parameters).map_err(invalid)?;
        Ok(Self { name, title, description, parameters, read_only, validator })
    }

    /// Arguments as the tool gets them: they are what its schema allows, and every reader of them reads the same.
    ///
    /// # Errors
    /// [`Unfit`] names the place, for whoever made them to mend it.
    pub fn arguments(&self, text: &str) -> Result<String, Unfit> {
        if text.len() > ARGUMENTS {
            return Err(Unfit::TooLarge("arguments have at most 256 KiB"));
        }
        if text.len() * self.parameters.len() > CHECK {
            return Err(Unfit::TooLarge("the arguments are too large to check by so large a schema"));
        }
        let object: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Unfit::Invalid(format!("the arguments are no JSON object: {error}")))?;
        let arguments = Value::Object(object);
        self.validator.validate(&arguments).map_err(|error| {
            let place = format!("arguments{}", error.instance_path()).replace('/', ".");
            Unfit::Invalid(format!("{place}: {error}").chars().take(500).collect())
        })?;
        // Of two members with one name a reader may take the first or the last: there is one left.
        Ok(arguments.to_string())
    }
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tool({})", self.name)
    }
}

/// Whether a text is a tool's name, without that of its plugin.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let tail = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    text.len() <= NAME && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(tail)
}

/// Whether a text names tools: `weather.forecast`, or `weather.*`.
#[must_use]
pub fn is_pattern(text: &str) -> bool {
    let named =
        |(plugin, tool): (&str, &str)| PluginName::parse(plugin).is_ok() && (tool == "*" || is_name(tool));
    text.split_once('.').is_some_and(named)
}

/// Whether a tool, by its full name, is one of those that are named; `*` names all.
#[must_use]
pub fn is_among(name: &str, patterns: &BTreeSet<String>) -> bool {
    let all = |(plugin, _): (&str, &str)| patterns.contains(&format!("{plugin}.*"));
    patterns.contains("*") || patterns.contains(name) || name.split_once('.').is_some_and(all)
}

fn schema(text: &str) -> Result<jsonschema::Validator, String> {
    if text.len() > SCHEMA {
        return Err(format!("its parameters have at most {} KiB", SCHEMA / 1024));
    }
    let schema: Value =
        serde_json::from_str(text).map_err(|error| format!("its parameters are no JSON: {error}"))?;
    if schema["type"] != "object" {
        return Err("its parameters are a JSON Schema with \"type\": \"object\"".into());
    }
    if manifest::refers(&schema) {
        return Err("its parameters are a schema without $ref".into());
    }
    if has_unseen(&schema) {
        return Err("its parameters have characters that cannot be seen".into());
    }
    manifest::validator(&schema).map_err(|error| format!("its parameters are no JSON Schema: {error}"))
}

/// A model reads the whole schema.
fn has_unseen(value: &Value) -> bool {
    let text = |text: &str| text.contains(|c| unseen(c) && c != '\n');
    match value {
        Value::String(string) => text(string),
        Value::Array(list) => list.iter().any(has_unseen),
        Value::Object(object) => object.iter().any(|(key, value)| text(key) || has_unseen(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DICE: &str =
        r#"{"type":"object","properties":{"dice":{"type":"array","items":{"type":"integer"}}}}"#;

    fn tool(name: &str, description: &str, parameters: &str) -> Result<Tool, String> {
        Tool::new(name.into(), None, description.into(), parameters.into(), true)
    }

    #[test]
    fn a_bad_declaration_is_one_line_that_names_the_tool() {
        let long = "x".repeat(2000);
        let large = format!("{{\"type\":\"object\",\"title\":\"{}\"}}", "x".repeat(SCHEMA));
        for (name, description, parameters, expected) in [
            ("Roll", "", DICE, "tool \"Roll\": a name is lower-case letters"),
            ("ro\u{430}ll", "", DICE, "a name is lower-case letters"),
            ("", "", DICE, "a name is"),
            (
                "roll",
                "Rolls\u{200b} dice",
                DICE,
                "tool \"roll\": a description has at most 1024 bytes, all of",
            ),
            ("roll", &long, DICE, "a description has at most 1024 bytes"),
            ("roll", "", "{", "its parameters are no JSON: EOF"),
            ("roll", "", "{}", "a JSON Schema with \"type\": \"object\""),
            ("roll", "", r#"{"type":"object","minProperties":"one"}"#, "its parameters are no JSON Schema"),
            ("roll", "", r##"{"type":"object","not":{"$ref":"#"}}"##, "a schema without $ref"),
            ("roll", "", "{\"type\":\"object\",\"title\":\"a\\u202eb\"}", "characters that cannot be seen"),
            ("roll", "", &large, "its parameters have at most 16 KiB"),
        ] {
            let line = tool(name, description, parameters).unwrap_err();
            assert!(line.contains(expected) && line.lines().count() == 1, "{expected}: {line}");
        }
        assert!(tool("roll_2-dice", "Rolls dice.\nAs often as you like.", DICE).is_ok());
    }

    #[test]
    fn arguments_that_do_not_fit_name_the_place() {
        let roll = tool("roll", "", DICE).unwrap();
        let unfit = |text: &str| roll.arguments(text).unwrap_err().to_string();
        assert_eq!(unfit(r#"{"dice":[6,"six"]}"#), "arguments.dice.1: \"six\" is not of type \"integer\"");
        assert!(unfit("[]").starts_with("the arguments are no JSON object: "));
        assert_eq!(unfit(&" ".repeat(ARGUMENTS + 1)), "arguments have at most 256 KiB");
        let twice = r#"{"dice": [6], "dice": [8]}"#;
        assert_eq!(roll.arguments(twice).unwrap(), r#"{"dice":[8]}"#, "there are no two readings");
    }

    #[test]
    fn what_takes_too_long_to_check_is_not_checked() {
        let wide = format!("{{\"type\":\"object\",\"description\":\"{}\"}}", "x".repeat(8 * 1024));
        let tool = tool("roll", "", &wide).unwrap();
        let arguments = |size: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(size));
        assert!(tool.arguments(&arguments(1024)).is_ok());
        assert!(matches!(tool.arguments(&arguments(100 * 1024)), Err(Unfit::TooLarge(_))));
    }
}
