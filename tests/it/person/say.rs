//! What a person says: the content of an `m.room.message`.

use serde_json::{Value, json};

/// A message to be sent; a plain text is one already.
#[derive(Clone, Debug)]
pub struct Say {
    content: Value,
    edit_of: Option<String>,
}

impl Say {
    pub fn text(body: impl Into<String>) -> Say {
        Say { content: json!({ "msgtype": "m.text", "body": body.into() }), edit_of: None }
    }

    /// `m.notice`, `m.emote`, …
    pub fn msgtype(self, msgtype: &str) -> Say {
        self.extra("msgtype", json!(msgtype))
    }

    pub fn html(self, html: &str) -> Say {
        self.extra("format", json!("org.matrix.custom.html")).extra("formatted_body", json!(html))
    }

    /// Mentions these users by `m.mentions`, as current clients do.
    pub fn mentions(self, users: &[&str]) -> Say {
        self.extra("m.mentions", json!({ "user_ids": users }))
    }

    /// In the thread that starts at `root`.
    pub fn in_thread(mut self, root: &str) -> Say {
        let relation = &mut self.content["m.relates_to"];
        relation["rel_type"] = json!("m.thread");
        relation["event_id"] = json!(root);
        if relation.get("m.in_reply_to").is_none() {
            // What clients without threads show.
            relation["m.in_reply_to"] = json!({ "event_id": root });
            relation["is_falling_back"] = json!(true);
        }
        self
    }

    pub fn reply_to(mut self, event: &str) -> Say {
        let relation = &mut self.content["m.relates_to"];
        relation["m.in_reply_to"] = json!({ "event_id": event });
        if relation.get("is_falling_back").is_some() {
            relation["is_falling_back"] = json!(false);
        }
        self
    }

    /// As an edit of one's own earlier message, which replaces its relation to others.
    pub fn edit_of(mut self, event: &str) -> Say {
        self.edit_of = Some(event.to_owned());
        self
    }

    /// Any other field of the content.
    pub fn extra(mut self, key: &str, value: Value) -> Say {
        self.content[key] = value;
        self
    }

    pub fn content(self) -> Value {
        let Some(event) = self.edit_of else { return self.content };
        let mut content = self.content;
        content.as_object_mut().expect("content is an object").remove("m.relates_to");
        let mut edit = content.clone();
        edit["body"] = json!(format!("* {}", content["body"].as_str().unwrap_or_default()));
        edit["m.relates_to"] = json!({ "rel_type": "m.replace", "event_id": event });
        edit["m.new_content"] = content;
        edit
    }
}

impl<T: Into<String>> From<T> for Say {
    fn from(body: T) -> Say {
        Say::text(body)
    }
}
