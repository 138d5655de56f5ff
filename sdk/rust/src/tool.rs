//! Declaring tools, and answering.

use crate::json;
use crate::{Tool, ToolCall, ToolResult};

impl Tool {
    /// A tool that takes nothing and may change something. The name is lower-case letters, digits, hyphens and
    /// underscores; the description tells a person or a model what it does and when to use it.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            title: None,
            description: description.into(),
            parameters: r#"{"type":"object","properties":{},"additionalProperties":false}"#.into(),
            read_only: false,
            extra: None,
        }
    }

    /// Sets what it takes: a JSON Schema with `"type": "object"`. It is called with nothing else.
    pub fn parameters(mut self, schema: impl Into<String>) -> Self {
        self.parameters = schema.into();
        self
    }

    /// Sets what a person calls it, in a few words.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Says that it changes nothing that anybody would notice.
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }
}

impl ToolCall {
    /// An argument's JSON value, by its name; none if it was not given. A number or a boolean can be parsed as it is:
    /// `call.argument("count").and_then(|count| count.parse().ok())`.
    pub fn argument(&self, name: &str) -> Option<&str> {
        json::member(&self.arguments, name)
    }

    /// An argument of type string; none if it was not given, or is of another type.
    pub fn text(&self, name: &str) -> Option<String> {
        self.argument(name).and_then(json::text)
    }
}

impl ToolResult {
    /// An answer: plain text, or JSON.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), extra: None }
    }
}
