//! The terminal as a chat: one person and the agent in a direct chat. Lines come from a channel and what the
//! agent says goes to a function, so that a line editor, a pipe and a test are the same to it.
//!
//! It takes so many lines that have not ended, and no more: the channel is full then, and whoever writes into it waits.
//! What it has taken may still overtake, as `/stop` does.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};

use super::{
    Chat, Ended, Identity, SendError, StartError,
    memory::{Memory, Rooms, message},
};
use crate::{
    effect::{Body, Content, EffectId, Outgoing, Upload},
    event::{Batch, MediaSource, Membership, Message, Position},
    id::{EventId, RoomId, UserId},
};

/// Lines that wait for their end at once: more than anybody types ahead, and little to hold.
const WAITING: usize = 256;
/// What is remembered of the room: a plugin edits what it has said lately.
const NEWEST: usize = 1000;

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
    waiting: Arc<Waiting>,
}

/// Lines that were taken and have not ended.
struct Waiting {
    lines: Mutex<BTreeSet<EventId>>,
    room: Semaphore,
}

impl Console {
    /// A terminal at which `person` talks to `agent`. It is over when `lines` is.
    pub fn new(
        agent: &UserId,
        person: &UserId,
        lines: mpsc::Receiver<String>,
        print: impl Fn(Printed) + Send + Sync + 'static,
    ) -> Self {
        let rooms = Rooms::of_newest(NEWEST);
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
        let waiting = Waiting { lines: Mutex::default(), room: Semaphore::new(WAITING) };
        Self {
            rooms,
            account,
            room,
            person,
            lines,
            print: Box::new(print),
            drafts,
            waiting: Arc::new(waiting),
        }
    }

    fn show(&self, outgoing: &Outgoing, event: &EventId) {
        let mut drafts = lock(&self.drafts);
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
        let lines = lock(&self.lines).take();
        let mut lines = lines.ok_or_else(|| StartError::new("the terminal is in use"))?;
        self.rooms.member(self.person.as_str(), &self.room, Membership::Joined);
        let (rooms, room, person) = (self.rooms.clone(), self.room.clone(), self.person.clone());
        let (agent, waiting) = (identity.user.clone(), self.waiting.clone());
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                if line.trim().is_empty() {
                    continue;
                }
                let Ok(permit) = waiting.room.acquire().await else { return };
                // Given back when the line ends, which may be before it is noted here.
                permit.forget();
                let mut lines = lock(&waiting.lines);
                lines.insert(rooms.post(person.as_str(), &room, typed(line.trim(), &agent)));
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

    fn ended(&self, event: &EventId) {
        if lock(&self.waiting.lines).remove(event) {
            self.waiting.room.add_permits(1);
        }
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        self.account.answer(room, accept).await
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        self.account.direct(user).await
    }

    fn known_direct(&self, user: &UserId) -> Option<RoomId> {
        self.account.known_direct(user)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    /// Runs what can run, until nothing can: on one thread, each task has its turn.
    async fn settled() {
        for _ in 0..10 * WAITING {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn so_many_lines_wait_and_who_writes_more_waits_too() {
        let (agent, person) =
            (UserId::parse("@a:terminal").unwrap(), UserId::parse("@you:terminal").unwrap());
        let (say, lines) = mpsc::channel(1);
        let console = Console::new(&agent, &person, lines, |_| {});
        console.start(None).await.unwrap();
        let typing = tokio::spawn(async move {
            for number in 0..3 * WAITING {
                say.send(number.to_string()).await.unwrap();
            }
        });
        let mut taken = Vec::new();
        let take = async |taken: &mut Vec<Event>| {
            while let Ok(batch) =
                tokio::select! { biased; batch = console.next() => batch, () = settled() => return }
            {
                taken.extend(batch.events.into_iter().filter(|event| event.sender.id == person));
            }
        };
        take(&mut taken).await;
        // The person has joined, too, which is no line.
        assert_eq!((taken.len(), typing.is_finished()), (1 + WAITING, false));
        console.ended(&taken[0].id);
        console.ended(&taken[1].id);
        console.ended(&taken[1].id);
        take(&mut taken).await;
        assert_eq!(taken.len(), 1 + WAITING + 1, "each end makes room for one");
        while !typing.is_finished() {
            for event in &taken {
                console.ended(&event.id);
            }
            take(&mut taken).await;
        }
        assert_eq!(taken.len(), 1 + 3 * WAITING);
        let world = console.rooms.transcript(&console.room);
        assert!(world.len() < 2 * NEWEST, "{}", world.len());
    }
}
