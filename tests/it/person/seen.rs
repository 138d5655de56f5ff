//! What a person has seen, in the order in which they saw it, and how it reads as a conversation.
//!
//! Values only: [`Person`](super::Person) fills a [`Log`], tests ask it questions.

use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use serde_json::Value;

/// One thing seen.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Seen {
    Event(Event),
    /// Everybody who is writing now; nobody if empty.
    Typing {
        room: String,
        users: Vec<String>,
    },
    Receipt {
        room: String,
        user: String,
        event_id: String,
        /// `m.read` or `m.read.private`.
        kind: String,
        thread: Option<String>,
    },
    Invite {
        room: String,
        sender: String,
    },
    /// The server left events out; a test that sees one has waited with too much at once.
    Gap {
        room: String,
    },
}

/// An event of a room as this person's client reads it, and as the server gave it.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    pub room: String,
    #[serde(rename = "event_id")]
    pub id: String,
    pub sender: String,
    pub state_key: Option<String>,
    /// After decryption; `m.room.encrypted` if that failed.
    #[serde(rename = "type")]
    pub kind: String,
    /// After decryption.
    pub content: Value,
    pub redacts: Option<String>,
    /// What travelled, and what anybody with a look into the server sees.
    #[serde(rename = "wire_type")]
    pub wire_kind: String,
    pub wire_content: Value,
    pub decrypted: bool,
    /// The server's time, in milliseconds.
    pub at: f64,
    /// Part of the room's state as it was when the person came to see it, not something that happened.
    #[serde(default)]
    pub from_state: bool,
}

impl Event {
    pub fn body(&self) -> &str {
        self.content["body"].as_str().unwrap_or_default()
    }

    pub fn formatted_body(&self) -> Option<&str> {
        self.content["formatted_body"].as_str()
    }

    pub fn msgtype(&self) -> &str {
        self.content["msgtype"].as_str().unwrap_or_default()
    }

    pub fn encrypted(&self) -> bool {
        self.wire_kind == "m.room.encrypted"
    }

    /// `m.relates_to`, or null.
    pub fn relates_to(&self) -> &Value {
        &self.content["m.relates_to"]
    }

    /// The event that this one replaces.
    pub fn edit_of(&self) -> Option<&str> {
        self.related("m.replace")
    }

    /// The root of the thread that this event stands in.
    pub fn thread(&self) -> Option<&str> {
        self.related("m.thread")
    }

    /// The event that this one answers; inside a thread too, unless that is only for old clients.
    pub fn reply_to(&self) -> Option<&str> {
        let relation = self.relates_to();
        let fallback = relation["is_falling_back"].as_bool().unwrap_or(false);
        relation["m.in_reply_to"]["event_id"].as_str().filter(|_| !fallback)
    }

    /// The users whom this event says that it mentions.
    pub fn mentions(&self) -> Vec<&str> {
        let users = self.content["m.mentions"]["user_ids"].as_array();
        users.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn related(&self, kind: &str) -> Option<&str> {
        let relation = self.relates_to();
        relation["event_id"].as_str().filter(|_| relation["rel_type"] == kind)
    }
}

/// A message with what became of it.
#[derive(Clone, Debug)]
pub struct Message {
    pub event: Event,
    /// By the same sender, oldest first.
    pub edits: Vec<Event>,
    pub redacted: bool,
}

impl Message {
    /// The text as it stands now.
    pub fn text(&self) -> &str {
        self.edits.last().map_or(self.body(), |edit| {
            edit.content["m.new_content"]["body"].as_str().unwrap_or_else(|| edit.body())
        })
    }

    /// The formatted text as it stands now.
    pub fn html(&self) -> Option<&str> {
        match self.edits.last() {
            Some(edit) => edit.content["m.new_content"]["formatted_body"].as_str(),
            None => self.formatted_body(),
        }
    }

    /// Whether the message and all its edits travelled encrypted and could be read.
    pub fn sealed(&self) -> bool {
        self.edits.iter().chain([&self.event]).all(|event| event.encrypted() && event.decrypted)
    }
}

impl Deref for Message {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// A place in a [`Log`]: what was seen up to some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(pub(super) usize);
/// All that a person has seen.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub seen: Vec<Seen>,
    /// Why this person will see nothing more.
    pub ended: Option<String>,
}

impl Log {
    pub fn mark(&self) -> Mark {
        Mark(self.seen.len())
    }

    pub fn since(&self, mark: Mark) -> impl Iterator<Item = &Seen> {
        self.seen.iter().skip(mark.0)
    }

    /// Every event of a room; its state as it was found is told apart by `from_state`.
    pub fn events<'a>(&'a self, room: &str) -> impl Iterator<Item = &'a Event> {
        self.events_since(Mark(0), room)
    }

    /// The messages of a room, edits folded into what they edit. What could not be decrypted is in here too, with no
    /// text: nobody can know that it was no message.
    pub fn messages(&self, room: &str) -> Vec<Message> {
        self.messages_since(Mark(0), room)
    }

    /// The messages first seen after `mark`, each with all its edits.
    pub fn messages_since(&self, mark: Mark, room: &str) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        for event in self.events_since(mark, room).filter(|event| !event.from_state) {
            let of = |message: &&mut Message, id: &str| message.event.id == id;
            match (event.kind.as_str(), event.edit_of(), &event.redacts) {
                ("m.room.redaction", _, Some(id)) => {
                    messages
                        .iter_mut()
                        .filter(|message| of(message, id))
                        .for_each(|message| message.redacted = true);
                }
                ("m.room.message", Some(id), _) => {
                    let edited =
                        messages.iter_mut().find(|message| of(message, id) && message.sender == event.sender);
                    edited.into_iter().for_each(|message| message.edits.push(event.clone()));
                }
                ("m.room.message" | "m.room.encrypted", None, _) => {
                    messages.push(Message { event: event.clone(), edits: Vec::new(), redacted: false });
                }
                _ => {}
            }
        }
        messages
    }

    /// The membership of `user` as last seen.
    pub fn membership(&self, room: &str, user: &str) -> Option<&str> {
        let theirs =
            |event: &&Event| event.kind == "m.room.member" && event.state_key.as_deref() == Some(user);
        self.events(room).filter(theirs).last().and_then(|event| event.content["membership"].as_str())
    }

    fn events_since<'a>(&'a self, mark: Mark, room: &str) -> impl Iterator<Item = &'a Event> {
        self.since(mark).filter_map(move |seen| match seen {
            Seen::Event(event) if event.room == room => Some(event),
            _ => None,
        })
    }
}

/// The transcript, for the person who reads why a test failed.
impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, seen) in self.seen.iter().enumerate() {
            match seen {
                Seen::Event(event) if event.from_state => continue,
                Seen::Event(event) => writeln!(f, "{n:>4} {event}")?,
                Seen::Typing { room, users } => writeln!(f, "{n:>4} {room} typing: {}", users.join(" "))?,
                Seen::Receipt { room, user, event_id, .. } => {
                    writeln!(f, "{n:>4} {room} {user} read {event_id}")?
                }
                Seen::Invite { room, sender } => writeln!(f, "{n:>4} {room} invited by {sender}")?,
                Seen::Gap { room } => writeln!(f, "{n:>4} {room} (events left out by the server)")?,
            }
        }
        if let Some(reason) = &self.ended {
            writeln!(f, "     ended: {reason}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event { room, id, sender, kind, .. } = self;
        let how = match (self.encrypted(), self.decrypted) {
            (true, true) => " sealed",
            (true, false) => " UNREADABLE",
            (false, _) => "",
        };
        write!(f, "{room} {sender} {kind}{how} {id}")?;
        match kind.as_str() {
            "m.room.message" => {
                let edit = self.edit_of().map_or(String::new(), |id| format!(" (edits {id})"));
                let thread = self.thread().map_or(String::new(), |id| format!(" (in {id})"));
                write!(f, "{edit}{thread}: {}", self.body())
            }
            "m.room.member" => {
                let state_key = self.state_key.as_deref().unwrap_or_default();
                write!(f, ": {state_key} {}", self.content["membership"].as_str().unwrap_or_default())
            }
            _ => Ok(()),
        }
    }
}
