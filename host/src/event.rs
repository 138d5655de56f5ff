//! What comes in: the values that a chat hands over. No I/O and no policy; what a person may do is decided by
//! [`crate::gate`], from these.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    id::{DeliveryId, EventId, RoomId, UserId},
    timer::Fired,
};

/// Where a chat's stream of events stands: opaque, the chat's own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(pub String);

/// What a chat hands over at once, with the position that covers it.
#[derive(Debug, Clone)]
pub struct Batch {
    /// In the order in which they happened, within each room.
    pub events: Vec<Event>,
    /// Invitations that wait for an answer: each once after a start.
    pub invites: Vec<Invite>,
    /// A chat that is started from here hands over what came after this batch.
    pub position: Position,
    /// The events happened while the agent was away: it was not running, or could not reach its chat for minutes.
    pub missed: bool,
    /// The newest event of each room that was there before the agent's first contact: history.
    pub history: Vec<(RoomId, EventId)>,
    /// What the agent itself has sent, where it carries a mark of ours. Messages are among the events, too.
    pub own: Vec<Own>,
}

impl Batch {
    /// Events that came while the agent was there.
    #[must_use]
    pub fn new(events: Vec<Event>, invites: Vec<Invite>, position: Position) -> Self {
        Self { events, invites, position, missed: false, history: vec![], own: vec![] }
    }
}

/// Something that the agent's account has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Where.
    pub room: RoomId,
    /// As which event.
    pub event: EventId,
    /// The effect's id, or the transaction id, which is the same.
    pub mark: String,
    /// The message that it gives another text.
    pub replaces: Option<EventId>,
}

impl Own {
    /// Whose draft it is, if it is one.
    pub(crate) fn draft(&self) -> Option<DeliveryId> {
        let (delivery, what) = self.mark.rsplit_once('.')?;
        (what == "draft").then(|| DeliveryId::parse(delivery).ok()).flatten()
    }
}

/// Something that happened in a room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// Unique within the agent's account.
    pub id: EventId,
    /// Where.
    pub room: Room,
    /// Who wrote it, or, for a membership, who did it, or, for a timer, who set it.
    pub sender: Sender,
    /// Milliseconds since the Unix epoch, as the sender's server says.
    pub sent: u64,
    /// What it carries of ours, when this host sent it.
    pub mark: Option<String>,
    /// What happened.
    pub kind: Kind,
    /// How it could be read.
    #[serde(default)]
    pub reading: Reading,
}

/// How an event could be read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Reading {
    /// When it came, or so soon after that nobody noticed.
    #[default]
    AtOnce,
    /// Its key came late, and what was said after it was handled before it.
    Late,
    /// Its key is not there: what it says is not known. Its kind is an empty message.
    Locked(Locked),
}

/// An event whose key is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locked {
    /// Why it could not be read.
    pub reason: String,
    /// Which key opens it, if that is known.
    pub key: Option<String>,
    /// As it came: the chat's own word.
    pub raw: String,
    /// When it came, in milliseconds since 1970; the agent's to say.
    pub at: u64,
    /// It happened while the agent was away; the agent's to say.
    pub missed: bool,
}

/// What happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Kind {
    /// Somebody wrote.
    Message(Message),
    /// Somebody came or went.
    Member(Member),
    /// A timer is due: the host's own event, which no chat hands over.
    Timer(Box<Fired>),
}

impl Event {
    /// The thread's root, in a thread.
    #[must_use]
    pub fn thread(&self) -> Option<&EventId> {
        match &self.kind {
            Kind::Message(message) => message.thread.as_ref(),
            Kind::Member(_) => None,
            Kind::Timer(fired) => fired.timer.thread.as_ref(),
        }
    }
}

/// The room of an event, as the chat knows it when the event came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Its id.
    pub id: RoomId,
    /// A direct chat: two members, and the account's own data or the invitation say so.
    pub direct: bool,
    /// End-to-end encrypted.
    pub encrypted: bool,
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// Their account.
    pub id: UserId,
    /// What they call themselves; never a ground for a decision.
    pub display_name: Option<String>,
    /// How much is known of the device.
    pub device: DeviceTrust,
}

/// How much is known of the device that a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceTrust {
    /// Not encrypted.
    Cleartext,
    /// Encrypted by a device that nobody vouches for.
    Unverified,
    /// Encrypted by a device that its owner's identity has signed.
    CrossSigned,
    /// As before, and the owner's identity was verified by this agent.
    Verified,
    /// The owner's identity was verified once and has changed since.
    IdentityChanged,
}

/// A message in a room.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Message {
    /// What kind of message.
    pub class: Class,
    /// Without the reply fallback.
    pub text: String,
    /// `org.matrix.custom.html`, as it came.
    pub html: Option<String>,
    /// The thread's root, in a thread.
    pub thread: Option<EventId>,
    /// What it answers, if it is a reply that a person made.
    pub reply_to: Option<Quoted>,
    /// `m.mentions` and the pills in the HTML.
    pub mentions: Vec<UserId>,
    /// Files, pictures, sound.
    pub attachments: Vec<Attachment>,
}

/// What kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// `m.text`, or a file with its caption.
    Text,
    /// `m.emote`.
    Emote,
    /// `m.notice`: never answered.
    Notice,
    /// Replaces an earlier message: never answered.
    Edit,
}

/// The message that another one answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Quoted {
    /// Its id.
    pub id: EventId,
    /// Who wrote it; empty text where it could not be had.
    pub sender: Option<UserId>,
    /// What it says.
    pub text: String,
}

/// A file in a message, as its sender declares it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachment {
    /// What kind of file.
    pub kind: AttachmentKind,
    /// Its name; a name, not a path.
    pub name: String,
    /// Its media type.
    pub mime: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// Milliseconds, for sound and video.
    pub duration: Option<u64>,
    /// Where the chat finds it.
    #[serde(default)]
    pub source: Option<MediaSource>,
}

/// Where a chat finds a file, and the key where it is encrypted: opaque, the chat's own word. No guest sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MediaSource(String);

impl MediaSource {
    /// The chat's own word.
    pub fn new(word: impl Into<String>) -> Self {
        Self(word.into())
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A key may be in it.
impl fmt::Debug for MediaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MediaSource")
    }
}

/// What kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the words say it")]
pub enum AttachmentKind {
    Image,
    Audio,
    Voice,
    Video,
    File,
    Other,
}

/// Somebody's membership of the room changed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Member {
    /// Whom it is about.
    pub user: UserId,
    /// What they call themselves.
    pub display_name: Option<String>,
    /// What they are now.
    pub membership: Membership,
}

/// What somebody is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the words are the specification's")]
pub enum Membership {
    Joined,
    Left,
    Invited,
    Banned,
    Knocked,
}

/// Somebody wants the agent in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// The room.
    pub room: RoomId,
    /// Who invites; none where the server does not say, which nobody may follow.
    pub inviter: Option<UserId>,
}
