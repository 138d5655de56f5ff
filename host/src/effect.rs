//! What goes out: what a plugin queued, and what a chat is asked to send.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    event::MediaSource,
    id::{DeliveryId, EventId, RoomId, SessionId, TransactionId, UserId},
    timer::Timer,
};

/// A conversation: a room, or a thread of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The room.
    pub room: RoomId,
    /// The thread's root, in a thread.
    pub thread: Option<EventId>,
}

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// A conversation.
    Place(Place),
    /// A direct chat with this person, made if there is none.
    Direct(UserId),
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// As it is.
    Plain(String),
    /// CommonMark.
    Markdown(String),
    /// Quiet: `m.notice`, which well-behaved bots don't answer.
    Notice(String),
}

impl Body {
    /// The text as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Markdown(text) | Self::Notice(text) => text,
        }
    }
}

/// A message that an effect is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MessageRef {
    /// One already there.
    Event(EventId),
    /// One that was queued before, here or in an earlier delivery, and is sent by the time that this one is.
    Effect(EffectId),
}

/// A file that a plugin sends. Its bytes are kept apart, and found by their digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name: one that is safe to show and to save under.
    pub name: String,
    /// Its media type, as it is sent.
    pub mime: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3, in hexadecimal digits.
    pub digest: String,
}

/// What a handler wants done. Its ordinal is its place in the delivery's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// A new message.
    Send {
        /// Where to.
        to: Target,
        /// What it says.
        body: Body,
        /// What it answers.
        reply_to: Option<MessageRef>,
        /// What the plugin calls it.
        name: Option<String>,
        /// It takes the place of the delivery's draft, if there is one.
        takes_draft: bool,
    },
    /// A new message that is a file.
    File {
        /// Where to.
        to: Target,
        /// What file.
        file: File,
        /// What is said to it.
        caption: Option<Body>,
        /// What it answers.
        reply_to: Option<MessageRef>,
        /// What the plugin calls it.
        name: Option<String>,
    },
    /// Another text for one of the agent's messages.
    Edit {
        /// Where the message is.
        to: Target,
        /// Which message.
        message: MessageRef,
        /// What it says now.
        body: Body,
    },
    /// A reaction.
    React {
        /// Where the message is.
        to: Target,
        /// To which message.
        message: MessageRef,
        /// The emoji, or a short text in a room that is not encrypted.
        key: String,
    },
    /// A message removed.
    Redact {
        /// Where the message is.
        to: Target,
        /// Which message.
        message: MessageRef,
        /// Why; none in an encrypted room.
        reason: Option<String>,
    },
    /// The agent's home, from this commit on. Nothing is sent.
    SetHome(Place),
    /// A timer, from this commit on, in the place of the one that has its name. Nothing is sent.
    SetTimer(Box<Timer>),
    /// A timer of the plugin's ends. Nothing is sent.
    CancelTimer {
        /// In which session.
        session: SessionId,
        /// Its name there.
        key: String,
    },
    /// The host's own: a timer that was due, and that nobody could handle, is as it was before. Nothing is sent.
    PutBack(Box<Timer>),
}

impl Effect {
    /// It is done with the commit, and nothing is sent.
    #[must_use]
    pub fn is_inward(&self) -> bool {
        match self {
            Self::Send { .. }
            | Self::File { .. }
            | Self::Edit { .. }
            | Self::React { .. }
            | Self::Redact { .. } => false,
            Self::SetHome(_) | Self::SetTimer(_) | Self::CancelTimer { .. } | Self::PutBack(_) => true,
        }
    }
}

impl Effect {
    /// Where people see it; none where nothing is sent.
    #[must_use]
    pub fn to(&self) -> Option<&Target> {
        match self {
            Self::Send { to, .. }
            | Self::File { to, .. }
            | Self::Edit { to, .. }
            | Self::React { to, .. }
            | Self::Redact { to, .. } => Some(to),
            Self::SetHome(_) | Self::SetTimer(_) | Self::CancelTimer { .. } | Self::PutBack(_) => None,
        }
    }

    /// Of a new message, where it goes to and what the plugin calls it.
    #[must_use]
    pub fn message(&self) -> Option<(&Target, Option<&str>)> {
        match self {
            Self::Send { to, name, .. } | Self::File { to, name, .. } => Some((to, name.as_deref())),
            _ => None,
        }
    }

    /// The file that it sends.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        if let Self::File { file, .. } = self { Some(file) } else { None }
    }
}

/// Where an effect stands: the delivery and its place in it. Travels inside what is sent, so that the agent
/// knows its own words again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EffectId {
    /// Who wanted it.
    pub delivery: DeliveryId,
    /// Its place in the delivery's list; a draft has none.
    pub ordinal: Option<u32>,
}

impl EffectId {
    /// The transaction id of the request that carries out this effect: always the same.
    ///
    /// # Panics
    /// Never: a delivery's id is short and not empty.
    #[must_use]
    pub fn transaction(&self) -> TransactionId {
        TransactionId::parse(self.to_string()).expect("a delivery's id is short")
    }
}

impl EffectId {
    /// Whether a mark is that of a draft.
    #[must_use]
    pub fn is_draft(mark: &str) -> bool {
        mark.rsplit_once('.').is_some_and(|(_, ordinal)| ordinal == "draft")
    }
}

impl std::fmt::Display for EffectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.ordinal {
            Some(ordinal) => write!(f, "{}.{ordinal}", self.delivery),
            None => write!(f, "{}.draft", self.delivery),
        }
    }
}

/// What a chat is asked to send: everything resolved, nothing left to decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The room.
    pub room: RoomId,
    /// Two requests with the same one count once.
    pub transaction: TransactionId,
    /// The effect's id, put into the content under `chat.parlour.effect`, inside the encryption.
    pub mark: String,
    /// The room was encrypted once: nothing may leave in clear.
    pub must_encrypt: bool,
    /// What.
    pub content: Content,
}

/// A file that a chat is asked to upload, for a message that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The room of the message: the file is encrypted where that is.
    pub room: RoomId,
    /// The room was encrypted once: nothing may leave in clear.
    pub must_encrypt: bool,
    /// Its media type.
    pub mime: String,
    /// What is in it.
    pub bytes: Bytes,
}

/// What is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// A new message.
    Message {
        /// What it says.
        body: Body,
        /// The thread's root, in a thread.
        thread: Option<EventId>,
        /// What it answers.
        reply_to: Option<EventId>,
    },
    /// A new message that is a file.
    File {
        /// Where it was uploaded to.
        source: MediaSource,
        /// Its name.
        name: String,
        /// Its media type.
        mime: String,
        /// Bytes.
        size: u64,
        /// What is said to it.
        caption: Option<Body>,
        /// The thread's root, in a thread.
        thread: Option<EventId>,
        /// What it answers.
        reply_to: Option<EventId>,
    },
    /// Another text for one of the agent's messages.
    Edit {
        /// Which message.
        event: EventId,
        /// What it says now.
        body: Body,
    },
    /// A reaction.
    Reaction {
        /// To which message.
        event: EventId,
        /// The emoji.
        key: String,
    },
    /// A message removed.
    Redaction {
        /// Which message.
        event: EventId,
        /// Why.
        reason: Option<String>,
    },
}

/// Exactly one of Unicode's emoji, so that a reaction tells little. Unicode's tag characters, with which words could be hidden in a
/// flag, are none.
#[must_use]
pub fn is_emoji(key: &str) -> bool {
    emojis::get(key).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reaction_is_one_emoji() {
        for emoji in ["👍", "👍🏽", "❤️", "❤", "1️⃣", "🇩🇪", "👨‍👩‍👧", "🏴‍☠️"]
        {
            assert!(is_emoji(emoji), "{emoji}");
        }
        for other in
            ["", "a", "1", "👍👍", "é", "secret", "👍\u{e0041}", "❤\u{fe0f}\u{fe0f}", "\u{200d}", "1", " "]
        {
            assert!(!is_emoji(other), "{other:?}");
        }
    }
}
