//! What a host in one process and its rooms in another say to each other: a line of JSON each.

use parlour::{
    chat::SendError,
    effect::Outgoing,
    event::{Batch, Event, Invite, Own, Position},
    id::{EventId, RoomId, UserId},
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
pub struct Request {
    pub number: u64,
    pub call: Call,
}

#[derive(Serialize, Deserialize)]
pub struct Response {
    pub number: u64,
    pub answer: Answer,
}

#[derive(Serialize, Deserialize)]
pub enum Call {
    Start(Option<Position>),
    Next,
    Send(Outgoing),
    Answer(RoomId, bool),
    Direct(UserId),
}

#[derive(Serialize, Deserialize)]
pub enum Answer {
    Started(UserId),
    Batch {
        events: Vec<Event>,
        invites: Vec<(RoomId, Option<UserId>)>,
        position: Position,
        missed: bool,
        /// As [`Own`] has them.
        own: Vec<(RoomId, EventId, String, Option<EventId>)>,
    },
    /// The rooms are closed.
    Over,
    Sent(EventId),
    Room(RoomId),
    Done,
    Later(String),
    Final(String),
}

impl Answer {
    pub fn batch(batch: Batch) -> Self {
        let Batch { events, invites, position, missed, own, .. } = batch;
        let invites = invites.into_iter().map(|invite| (invite.room, invite.inviter)).collect();
        let own = own.into_iter().map(|own| (own.room, own.event, own.mark, own.replaces)).collect();
        Self::Batch { events, invites, position, missed, own }
    }

    pub fn failed(error: &SendError) -> Self {
        match error {
            SendError::Later { reason, .. } => Self::Later(reason.clone()),
            SendError::Final { code, reason } => Self::Final(format!("{code}: {reason}")),
        }
    }

    pub fn into_batch(self) -> Option<Batch> {
        let Self::Batch { events, invites, position, missed, own } = self else { return None };
        let invites = invites.into_iter().map(|(room, inviter)| Invite { room, inviter }).collect();
        let own = own.into_iter().map(|(room, event, mark, replaces)| Own { room, event, mark, replaces });
        Some(Batch { missed, own: own.collect(), ..Batch::new(events, invites, position) })
    }

    /// What a send was answered, where it was not the answer that was hoped for.
    pub fn error(self) -> SendError {
        match self {
            Self::Later(reason) => SendError::Later { after: None, reason },
            Self::Final(reason) => SendError::Final { code: "M_UNKNOWN".into(), reason },
            _ => SendError::Later { after: None, reason: "the rooms answered something else".into() },
        }
    }
}
