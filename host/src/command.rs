//! Commands as values: what a plugin declares, and what a person typed for it.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{manifest, settings::Role, text};

/// A command that people can type.
pub struct Command {
    /// `remind`
    pub name: String,
    /// One line.
    pub description: String,
    /// In the order in which they are typed.
    pub parameters: Vec<Parameter>,
    /// The least role that may run it.
    pub role: Role,
}

/// What a command wants to know.
pub struct Parameter {
    /// Its name.
    pub name: String,
    /// One line.
    pub description: String,
    /// JSON Schema of the value, as it was declared.
    pub schema: String,
    /// It must be given.
    pub required: bool,
    kind: Kind,
    validator: jsonschema::Validator,
}

/// How a word becomes a JSON value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Literal,
}

/// The JSON value of a parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument {
    /// The parameter's name.
    pub name: String,
    /// A JSON value that its schema allows.
    pub value: String,
}

/// A declaration that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("command {command:?}: {reason}")]
pub struct InvalidCommand {
    command: String,
    reason: String,
}

/// Longest names, and most parameters, that a command may have: what a person can still type and read.
const NAME: usize = 32;
const PARAMETERS: usize = 16;
/// Bytes of a parameter's schema, and of what is said of a wrong value or schema.
const SCHEMA: usize = 4 * 1024;
const SAID: usize = 300;

impl Command {
    /// Checks a declaration.
    ///
    /// # Errors
    /// [`InvalidCommand`] names the command and what is wrong with it.
    pub fn new(
        name: String,
        description: String,
        parameters: Vec<Parameter>,
        role: Role,
    ) -> Result<Self, InvalidCommand> {
        let invalid = |reason: &str| {
            Err(InvalidCommand { command: name.chars().take(40).collect(), reason: reason.into() })
        };
        let shaped = name.len() <= NAME
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if !shaped {
            return invalid("a name is lower-case letters, digits and hyphens, a letter first, at most 32");
        }
        if description.len() > 500 || description.contains(text::hidden) {
            return invalid("a description is one line of at most 500 bytes");
        }
        if parameters.len() > PARAMETERS {
            return invalid("at most 16 parameters");
        }
        if parameters.iter().skip_while(|parameter| parameter.required).any(|parameter| parameter.required) {
            return invalid("a required parameter stands before those that are not");
        }
        Ok(Self { name, description, parameters, role })
    }

    /// Parses what was typed after the name. Words are divided by white space, `"…"` holds one together, and a
    /// last parameter of type string takes the rest of the line.
    ///
    /// # Errors
    /// One line for the person, with the usage.
    pub fn arguments(&self, rest: &str) -> Result<Vec<Argument>, String> {
        let mut rest = rest.trim();
        let mut arguments = Vec::new();
        for (index, parameter) in self.parameters.iter().enumerate() {
            let last = index + 1 == self.parameters.len();
            let word = if last && parameter.kind == Kind::Text {
                std::mem::take(&mut rest)
            } else {
                let (word, after) = split_word(rest);
                rest = after;
                word
            };
            if word.is_empty() {
                if parameter.required {
                    return Err(format!("{} is missing; usage: {self}", parameter.name));
                }
                break;
            }
            let value = match parameter.kind {
                Kind::Text => Value::String(word.to_owned()),
                Kind::Literal => {
                    serde_json::from_str(word).unwrap_or_else(|_| Value::String(word.to_owned()))
                }
            };
            if let Err(error) = parameter.validator.validate(&value) {
                let said = text::escaped(&error.to_string(), SAID);
                return Err(format!("{}: {said}; usage: {self}", parameter.name));
            }
            arguments.push(Argument { name: parameter.name.clone(), value: value.to_string() });
        }
        if !rest.is_empty() && !self.parameters.is_empty() {
            return Err(format!("{:?} is too much; usage: {self}", text::beginning(rest)));
        }
        Ok(arguments)
    }
}

/// The usage: `/remind <when> [text]`.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.name)?;
        for Parameter { name, required, .. } in &self.parameters {
            if *required { write!(f, " <{name}>")? } else { write!(f, " [{name}]")? }
        }
        Ok(())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Parameter {
    /// Checks a declaration.
    ///
    /// # Errors
    /// One line about the schema.
    pub fn new(name: String, description: String, schema: String, required: bool) -> Result<Self, String> {
        if name.is_empty()
            || name.len() > NAME
            || name.contains(|c: char| c.is_whitespace() || text::unseen(c))
        {
            return Err("a parameter's name is one word of at most 32 bytes".into());
        }
        if schema.len() > SCHEMA {
            return Err(format!("parameter {name:?}: its schema has at most {} KiB", SCHEMA / 1024));
        }
        let parsed: Value = serde_json::from_str(&schema)
            .map_err(|error| format!("parameter {name:?}: its schema is no JSON: {error}"))?;
        let literal = match &parsed["type"] {
            Value::String(kind) => kind != "string",
            Value::Array(kinds) => !kinds.iter().any(|kind| kind == "string"),
            _ => false,
        };
        if manifest::refers(&parsed) {
            return Err(format!("parameter {name:?}: its schema is one without $ref"));
        }
        let unusable = |error: String| {
            format!("parameter {name:?}: its schema cannot be used: {}", text::escaped(&error, SAID))
        };
        let validator = manifest::options()
            .should_validate_formats(true)
            .with_format("matrix-user-id", |text: &str| crate::id::UserId::parse(text).is_ok())
            .with_format("matrix-room-id", |text: &str| crate::id::RoomId::parse(text).is_ok())
            .build(&parsed)
            .map_err(|error| unusable(error.to_string()))?;
        let kind = if literal { Kind::Literal } else { Kind::Text };
        Ok(Self { name, description, schema, required, kind, validator })
    }
}

/// The first word, and what follows it.
fn split_word(text: &str) -> (&str, &str) {
    if let Some((word, rest)) = text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        return (word, rest.trim_start());
    }
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remind() -> Command {
        let parameter = |name: &str, schema: &str, required| {
            Parameter::new(name.into(), String::new(), schema.into(), required).unwrap()
        };
        Command::new(
            "remind".into(),
            "Reminds you".into(),
            vec![
                parameter("minutes", r#"{"type":"integer","minimum":1}"#, true),
                parameter("who", r#"{"type":"string","format":"matrix-user-id"}"#, true),
                parameter("text", r#"{"type":"string"}"#, false),
            ],
            Role::User,
        )
        .unwrap()
    }

    #[test]
    fn what_was_typed_becomes_json_values() {
        let arguments = remind().arguments(r#"10 @alice:example.org  feed  the "cat" "#).unwrap();
        let values: Vec<_> = arguments.iter().map(|argument| argument.value.as_str()).collect();
        assert_eq!(values, ["10", r#""@alice:example.org""#, r#""feed  the \"cat\"""#]);
        assert_eq!(remind().arguments("10 @alice:example.org").unwrap().len(), 2);
    }

    #[test]
    fn a_mistake_gets_one_line_with_the_usage() {
        for (typed, expected) in [
            ("", "minutes is missing; usage: /remind <minutes> <who> [text]"),
            ("soon @alice:example.org", "minutes: \"soon\" is not of type \"integer\""),
            ("0 @alice:example.org", "minutes: 0 is less than the minimum of 1"),
            ("5 alice", "who: \"alice\" is not a \"matrix-user-id\""),
        ] {
            let error = remind().arguments(typed).unwrap_err();
            assert!(error.starts_with(expected), "{typed:?}: {error}");
        }
        // However much was typed.
        let much = "x".repeat(100_000);
        for typed in [format!("5 {much}"), format!("5 @a:b \"x\" {much}"), much.clone()] {
            if let Err(error) = remind().arguments(&typed) {
                assert!(
                    error.len() < 600 && error.ends_with("usage: /remind <minutes> <who> [text]"),
                    "{error}"
                );
            }
        }
    }

    /// What reading a value costs is bounded, though plugin and schema are somebody else's.
    #[test]
    fn a_schema_costs_little() {
        let schema = |schema: String| Parameter::new("a".into(), String::new(), schema, true).map(|_| ());
        for (text, expected) in [
            (r##"{"allOf":[{"$ref":"#"}]}"##.to_owned(), "its schema is one without $ref"),
            (r#"{"pattern":"(a{1000}){1000}"}"#.to_owned(), "its schema cannot be used: "),
            (format!(r#"{{"enum":["{}"]}}"#, "x".repeat(5000)), "its schema has at most 4 KiB"),
            (format!(r#"{{"type":"{}"}}"#, "\\u202e".repeat(500)), "its schema cannot be used: "),
        ] {
            let error = schema(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(error.len() < 500 && !error.contains(text::hidden), "{error:?}");
        }
        assert_eq!(schema(r#"{"pattern":"^\\w+ \\p{L}{1,20}$"}"#.into()), Ok(()));
    }
}
