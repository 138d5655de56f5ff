//! Declaring commands, and reading what was typed after one.

use crate::json;
use crate::{Command, Invocation, Parameter, Role};

impl Command {
    /// A command without parameters, for every listed person. The name is what people type after the `/`; the
    /// description is one line.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            parameters: Vec::new(),
            role: Role::User,
            extra: None,
        }
    }

    /// Adds a parameter after those there are.
    pub fn parameter(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    /// Adds a required last parameter that takes the rest of the line.
    pub fn rest(self, name: impl Into<String>, description: impl Into<String>) -> Self {
        self.parameter(Parameter::text(name, description))
    }

    /// Sets the least role that may run it.
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }
}

impl Parameter {
    /// A required parameter whose value is anything that `schema`, a JSON Schema, allows.
    pub fn new(name: impl Into<String>, description: impl Into<String>, schema: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            schema: schema.into(),
            required: true,
            extra: None,
        }
    }

    /// A required text. The last parameter of a command takes the rest of the line, any other one word or
    /// what stands in quotation marks.
    pub fn text(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self::new(name, description, r#"{"type":"string"}"#)
    }

    /// A required whole number.
    pub fn integer(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self::new(name, description, r#"{"type":"integer"}"#)
    }

    /// A required Matrix user id, such as `@alice:example.org`.
    pub fn user(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self::new(name, description, r#"{"type":"string","format":"matrix-user-id"}"#)
    }

    /// The same, but it may be left out.
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }
}

impl Invocation {
    /// An argument's JSON value, by the parameter's name; none if it was not given. A number or a boolean can
    /// be parsed as it is: `call.argument("count").and_then(|count| count.parse().ok())`.
    pub fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|argument| argument.name == name).map(|argument| argument.value.as_str())
    }

    /// An argument of type string; none if it was not given, or is of another type.
    pub fn text(&self, name: &str) -> Option<String> {
        self.argument(name).and_then(json::text)
    }
}
