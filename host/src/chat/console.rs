//! The terminal as a chat: one person and the agent in a direct chat. Lines come from a channel and what the
//! agent says goes to a function, so that a line editor, a pipe and a test are the same to it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    Chat, Ended, Identity, SendError, StartError,
    memory::{Memory, Rooms, message},
};
use crate::{
    effect::{Body, Content, EffectId, Outgoing, Upload},
    event::{Batch, MediaSource, Membership, Message, Position},
    id::{EventId, RoomId, UserId},
};

/// Something that the agent did, for the person at the terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Printed {
    /// It wrote.
    Message(String),
    /// It sent a file.
    File {
        /// Its name.
        name: String,
        /// Bytes.
        size: u64,
        /// What it said to it.
        caption: Option<String>,
    },
    /// It wrote something else in place of what it wrote before.
    Edit(String),
    /// It reacted.
    Reaction(String),
    /// It removed something.
    Redaction,
}

/// A terminal.
pub struct Console {
    rooms: Rooms,
    account: Memory,
    room: RoomId,
    person: UserId,
    lines: Mutex<Option<mpsc::Receiver<String>>>,
    print: Box<dyn Fn(Printed) + Send + Sync>,
    /// Messages that show what a handler has so far: a terminal prints the whole when it is there.
    drafts: Mutex<BTreeSet<EventId>>,
}

impl Console {
    /// A terminal at which `person` talks to `agent`. It is over when `lines` is.
    pub fn new(
        agent: &UserId,
        person: &UserId,
        lines: mpsc::Receiver<String>,
        print: impl Fn(Printed) + Send + Sync + 'static,
    ) -> Self {
        let rooms = Rooms::new();
        let room = rooms.create_direct(agent.as_str(), person.as_str());
        Self::in_room(&rooms, &room, agent, person, lines, print)
    }

    /// A terminal in a room that is there already, and stays when the terminal is gone.
    pub fn in_room(
        rooms: &Rooms,
        room: &RoomId,
        agent: &UserId,
        person: &UserId,
        lines: mpsc::Receiver<String>,
        print: impl Fn(Printed) + Send + Sync + 'static,
    ) -> Self {
        rooms.call(person.as_str(), person.localpart());
        let account = rooms.account(agent.as_str());
        let (lines, drafts) = (Mutex::new(Some(lines)), Mutex::default());
        let (rooms, room, person) = (rooms.clone(), room.clone(), person.clone());
        Self { rooms, account, room, person, lines, print: Box::new(print), drafts }
    }

    fn show(&self, outgoing: &Outgoing, event: &EventId) {
        let mut drafts = self.drafts.lock().unwrap_or_else(PoisonError::into_inner);
        let draft = EffectId::is_draft(&outgoing.mark);
        let printed = match &outgoing.content {
            Content::Message { .. } if draft => {
                drafts.insert(event.clone());
                return;
            }
            Content::Edit { .. } if draft => return,
            Content::Message { body, .. } => Printed::Message(body.text().to_owned()),
            Content::File { name, size, caption, .. } => Printed::File {
                name: name.clone(),
                size: *size,
                caption: caption.as_ref().map(Body::text).map(ToOwned::to_owned),
            },
            Content::Edit { event, body } if drafts.remove(event) => Printed::Message(body.text().to_owned()),
            Content::Edit { body, .. } => Printed::Edit(body.text().to_owned()),
            Content::Reaction { key, .. } => Printed::Reaction(key.clone()),
            Content::Redaction { event, .. } if drafts.remove(event) => return,
            Content::Redaction { .. } => Printed::Redaction,
        };
        drop(drafts);
        (self.print)(printed);
    }
}

/// What was typed, with a mention where it begins with the agent's short name: other clients complete that.
fn typed(line: &str, agent: &UserId) -> Message {
    let first = line.split_whitespace().next().unwrap_or_default().trim_end_matches([':', ',']);
    let named = first.strip_prefix('@').is_some_and(|name| name.eq_ignore_ascii_case(agent.localpart()));
    let mentions = if named { vec![agent.clone()] } else { vec![] };
    Message { mentions, ..message(line) }
}

#[async_trait]
impl Chat for Console {
    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        let identity = self.account.start(from).await?;
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut lines = lines.ok_or_else(|| StartError::new("the terminal is in use"))?;
        self.rooms.member(self.person.as_str(), &self.room, Membership::Joined);
        let (rooms, room, person) = (self.rooms.clone(), self.room.clone(), self.person.clone());
        let agent = identity.user.clone();
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if !line.trim().is_empty() {
                    rooms.post(person.as_str(), &room, typed(line.trim(), &agent));
                }
            }
            rooms.close();
        });
        Ok(identity)
    }

    async fn next(&self) -> Result<Batch, Ended> {
        self.account.next().await
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let known = self.account.has_sent(&outgoing.transaction);
        let event = self.account.send(outgoing).await?;
        if !known {
            self.show(outgoing, &event);
        }
        Ok(event)
    }

    async fn upload(&self, upload: &Upload) -> Result<MediaSource, SendError> {
        self.account.upload(upload).await
    }

    fn typing(&self, room: &RoomId, on: bool) {
        self.account.typing(room, on);
    }

    fn read(&self, room: &RoomId, event: &EventId, thread: Option<&EventId>) {
        self.account.read(room, event, thread);
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        self.account.answer(room, accept).await
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        self.account.direct(user).await
    }
}
