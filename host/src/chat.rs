//! A chat is where an agent talks: a Matrix account ([`matrix`]), rooms in memory ([`memory`]), the terminal
//! ([`console`]). One trait, and one conformance suite that all of them pass.
//!
//! A chat hands over what happens and sends what it is told. It decides nothing: who may talk is the gate's
//! business, and when something is sent again is the outbox's.

pub mod console;
pub mod matrix;
pub mod memory;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    effect::{Outgoing, Upload},
    event::{Batch, Event, MediaSource, Position},
    id::{EventId, RoomId, UserId},
};

/// Who the agent is in this chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its account.
    pub user: UserId,
    /// What it is called there.
    pub display_name: Option<String>,
}

/// How a chat is connected, as far as it knows without asking anybody. Times are in milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// The account's device there.
    pub device: Option<String>,
    /// Since when it is signed in; none where nobody noted it.
    pub signed_in: Option<i64>,
    /// When the other side answered last that all is known: not that a socket is open.
    pub synced: Option<i64>,
    /// It is out of reach.
    pub outage: Option<Outage>,
    /// None where nothing is encrypted.
    pub encryption: Option<Encryption>,
}

/// Something does not work, and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Since when, in milliseconds since 1970.
    pub since: i64,
    /// What was said of it last.
    pub reason: String,
}

/// How an account's encryption does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// The device is signed by the account's identity: clients show no red shield.
    pub verified: bool,
    /// The identity's private keys are here.
    pub identity: bool,
    /// The keys of rooms are backed up.
    pub backup: bool,
}

/// What an agent remembers, for its chat to ask, and what the chat tells it meanwhile.
#[async_trait]
pub trait Past: Send + Sync {
    /// Whether this event was handed over, in this run or before.
    async fn knows(&self, room: &RoomId, event: &EventId) -> bool;

    /// Whether any event of this room was.
    async fn knows_room(&self, room: &RoomId) -> bool;

    /// What is older is never answered, so that nobody need ask for it.
    fn horizon(&self) -> Duration;

    /// The connection has broken: what is being sent may have arrived or not. Nothing more is sent until the next batch
    /// has brought what the agent itself has sent by then.
    fn broke(&self);
}

/// Whether an agent is in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attendance {
    /// It is.
    Here {
        /// A direct chat, as with events.
        direct: bool,
        /// End-to-end encrypted.
        encrypted: bool,
    },
    /// It has left, or was removed.
    Gone,
    /// Nobody can tell.
    Unknown,
}

/// One account on one chat network.
#[async_trait]
pub trait Chat: Send + Sync + 'static {
    /// What the agent remembers: told once, before the start. A chat whose positions are never refused, and whose
    /// connection never breaks, need not know.
    fn remember(&self, past: Arc<dyn Past>) {
        drop(past);
    }

    /// Signs in and gets ready, once, before anything else. `from` is the position of the last batch that was
    /// stored; none at first contact, from which on only what is new counts: history is never handed over.
    ///
    /// # Errors
    /// [`StartError`] when the agent cannot serve at all. A server that is only out of reach is no error where
    /// the account has signed in before: [`Chat::next`] goes on trying.
    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError>;

    /// Waits for the next batch, and goes on trying through outages, which it reports once. Events of the agent
    /// itself are handed over too. Dropping the future loses nothing.
    ///
    /// The first batch comes at once, empty where nothing has happened, and so does the first one after the connection
    /// has broken: it says that the agent is up to the present. What was committed before is sent after it.
    ///
    /// # Errors
    /// [`Ended`] when nothing will ever come any more.
    async fn next(&self) -> Result<Batch, Ended>;

    /// Sends one thing, once: with a transaction id that was used before, it answers what it answered then.
    ///
    /// # Errors
    /// [`SendError`] says whether to try again.
    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError>;

    /// Fetches a file of a message that it handed over, out of its encryption and as it was sent. What has more than
    /// `most` bytes is not held in memory whole. A chat without files need not have it.
    ///
    /// # Errors
    /// [`MediaError`] says whether to try again.
    async fn media(&self, file: &MediaSource, most: usize) -> Result<Bytes, MediaError> {
        let _ = (file, most);
        Err(MediaError::Gone { reason: "this chat has no files".into() })
    }

    /// Waits until keys have come, with which something may be read that could not be: their names, or none where any
    /// may have come. A chat without keys waits for ever.
    async fn keys(&self) -> Option<BTreeSet<String>> {
        std::future::pending().await
    }

    /// Reads an event that was handed over as [`Reading::Locked`](crate::event::Reading::Locked).
    async fn open(&self, event: &Event) -> Opened {
        let _ = event;
        Opened::NotYet
    }

    /// Uploads a file for a message to a room, encrypted where the room is, and answers where it is: the address, and the
    /// key where there is one. A chat without files need not have it.
    ///
    /// # Errors
    /// [`SendError`] says whether to try again; what is too large for the server is [`SendError::Final`].
    async fn upload(&self, upload: &Upload) -> Result<MediaSource, SendError> {
        let _ = upload;
        Err(SendError::Final { code: "unsupported".into(), reason: "this chat takes no files".into() })
    }

    /// What is known of a room now, and whether the agent is in it. A chat that cannot tell need not have it.
    async fn attendance(&self, room: &RoomId) -> Attendance {
        let _ = room;
        Attendance::Unknown
    }

    /// Shows that the agent is working in a room, or no longer. Returns at once; a failure is nobody's trouble.
    fn typing(&self, room: &RoomId, on: bool);

    /// Shows that the agent has read up to an event. Returns at once; a failure is nobody's trouble.
    fn read(&self, room: &RoomId, event: &EventId, thread: Option<&EventId>);

    /// An event that was handed over has ended: nothing more is done about it. Returns at once. What has not ended when the
    /// host does may end without a word. A chat that hands over only so much at a time waits for it; the others need
    /// not have it.
    fn ended(&self, event: &EventId) {
        let _ = event;
    }

    /// How it is connected, for somebody who asks; soon, and without asking anybody else. A chat without a connection need
    /// not have it.
    async fn connection(&self) -> Connection {
        Connection::default()
    }

    /// Accepts an invitation, or declines it by leaving.
    ///
    /// # Errors
    /// [`SendError`] says whether to try again; an invitation that is gone is [`SendError::Final`].
    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError>;

    /// The direct chat with a person, made if there is none.
    ///
    /// # Errors
    /// [`SendError`] says whether to try again.
    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError>;

    /// The direct chat with a person, as far as it is known at once: what is said there, and what is sent to that person, has
    /// one order from the beginning. A chat that cannot tell need not have it.
    fn known_direct(&self, user: &UserId) -> Option<RoomId> {
        let _ = user;
        None
    }
}

/// What became of an event that could not be read.
#[derive(Debug)]
pub enum Opened {
    /// It still cannot be.
    NotYet,
    /// It is nothing that an agent hears of.
    Nothing,
    /// This is it.
    Event(Box<Event>),
}

/// Why an agent cannot serve: one line that names what is wrong and the way out.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct StartError {
    /// What is wrong, and what to do about it.
    pub reason: String,
}

impl StartError {
    /// A reason in one line.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Nothing will come any more.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The chat is over, as it should be: the terminal was closed.
    #[error("the chat was closed")]
    Closed,
    /// The account was signed out or closed for good.
    #[error("{0}")]
    Lost(String),
}

/// Why a file is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// It has more bytes than were wanted.
    #[error("it is too large")]
    TooLarge,
    /// It is not what its sender encrypted.
    #[error("it is not what was sent")]
    Altered,
    /// It will never be there.
    #[error("{reason}")]
    Gone {
        /// Why.
        reason: String,
    },
    /// It may be there later.
    #[error("{reason}")]
    Later {
        /// When the other side wants to be asked, if it says so.
        after: Option<Duration>,
        /// What happened.
        reason: String,
    },
}

/// Why something was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It may go later: the network, the server, or its rate limit.
    #[error("{reason}")]
    Later {
        /// When the other side wants it, if it says so.
        after: Option<Duration>,
        /// What happened.
        reason: String,
    },
    /// It will never go.
    #[error("{code}: {reason}")]
    Final {
        /// A Matrix error code, or a word of ours.
        code: String,
        /// What happened.
        reason: String,
    },
}
