//! Rooms in memory: a chat for tests, benchmarks and embedders, and what the terminal stands on.
//!
//! [`Rooms`] plays the homeserver: it outlives a host, remembers transaction ids, and shows what another person
//! in the room would see. It has no network to fail; [`Rooms::refuse`] makes it say no.
//!
//! ```
//! # tokio_test(async {
//! use parlour::chat::memory::Rooms;
//!
//! let rooms = Rooms::new();
//! let agent = rooms.account("@agent:memory");
//! let room = rooms.create(["@alice:memory", "@agent:memory"]);
//! rooms.say("@alice:memory", &room, "/echo hello");
//! assert_eq!(rooms.transcript(&room).len(), 1);
//! # drop(agent);
//! # });
//! # fn tokio_test<F: std::future::Future>(future: F) { tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { future.await; }) }
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Chat, Ended, Identity, SendError, StartError};
use crate::{
    effect::{Body, Content, Outgoing},
    event::{
        Batch, Class, DeviceTrust, Event, Invite, Kind, Member, Membership, Message, Position, Room, Sender,
    },
    id::{EventId, RoomId, TransactionId, UserId},
};

/// Most events that one batch has: what a homeserver would put into one answer.
const BATCH: usize = 100;

/// Rooms, and who is in them. Clones share them.
#[derive(Clone)]
pub struct Rooms {
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct World {
    rooms: HashMap<RoomId, RoomState>,
    log: Vec<Event>,
    transactions: HashMap<(UserId, TransactionId), EventId>,
    names: HashMap<UserId, String>,
    invites: Vec<(UserId, Invite)>,
    reads: Vec<(UserId, RoomId, EventId)>,
    refusals: Vec<SendError>,
    /// Rooms of another start have other event ids, as on a homeserver.
    born: u128,
    ids: u64,
    closed: bool,
}

#[derive(Default)]
struct RoomState {
    members: BTreeSet<UserId>,
    encrypted: bool,
    direct: bool,
    lines: Vec<Line>,
    at: HashMap<EventId, usize>,
    typing: BTreeSet<UserId>,
}

impl RoomState {
    fn line(&mut self, event: &EventId) -> Option<&mut Line> {
        let at = *self.at.get(event)?;
        self.lines.get_mut(at)
    }
}

/// A message as somebody in the room sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its id.
    pub id: EventId,
    /// Who wrote it.
    pub sender: UserId,
    /// What it says, after all edits.
    pub text: String,
    /// It is a notice.
    pub notice: bool,
    /// The thread's root, in a thread.
    pub thread: Option<EventId>,
    /// What it answers.
    pub reply_to: Option<EventId>,
    /// How often it was edited.
    pub edits: u32,
    /// Who reacted, and how.
    pub reactions: Vec<(UserId, String)>,
    /// It was removed; its text is empty.
    pub redacted: bool,
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new()
    }
}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new() -> Self {
        let born = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let world = World { born, ..World::default() };
        Self { world: Arc::new(Mutex::new(world)), changed: watch::Sender::new(()) }
    }

    /// An agent's account. What was said before is history to it.
    ///
    /// # Panics
    /// Where `user` is no user id.
    #[must_use]
    pub fn account(&self, user: &str) -> Memory {
        let cursor = Cursor { at: self.lock().log.len(), ..Cursor::default() };
        Memory { rooms: self.clone(), user: user_id(user), cursor: Mutex::new(cursor) }
    }

    /// A room with these people in it, of version 12 as it were: its id has no server part.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn create<'a>(&self, members: impl IntoIterator<Item = &'a str>) -> RoomId {
        let mut world = self.lock();
        let id = RoomId::parse(format!("!room{}", world.rooms.len())).expect("a room id");
        let state = RoomState { members: members.into_iter().map(user_id).collect(), ..RoomState::default() };
        world.rooms.insert(id.clone(), state);
        drop(world);
        self.tell();
        id
    }

    /// A direct chat between two people.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn create_direct(&self, one: &str, other: &str) -> RoomId {
        let id = self.create([one, other]);
        self.change(&id, |room| room.direct = true);
        id
    }

    /// Says of a room that it is encrypted. Nothing is: this is memory.
    pub fn encrypt(&self, room: &RoomId) {
        self.change(room, |room| room.encrypted = true);
    }

    /// Says of a room that it is not encrypted any more, as a dishonest server would.
    pub fn decrypt(&self, room: &RoomId) {
        self.change(room, |room| room.encrypted = false);
    }

    /// What people call themselves.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn call(&self, user: &str, name: &str) {
        self.lock().names.insert(user_id(user), name.into());
    }

    /// Somebody writes.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say(&self, user: &str, room: &RoomId, text: &str) -> EventId {
        self.post(user, room, message(text))
    }

    /// Somebody writes in a thread.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn say_in_thread(&self, user: &str, room: &RoomId, root: &EventId, text: &str) -> EventId {
        self.post(user, room, Message { thread: Some(root.clone()), ..message(text) })
    }

    /// Somebody writes something particular.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn post(&self, user: &str, room: &RoomId, message: Message) -> EventId {
        let id = self.lock().write(&user_id(user), room, message, None, None);
        self.tell();
        id
    }

    /// Somebody joins or leaves.
    ///
    /// # Panics
    /// Where `user` is no user id.
    pub fn member(&self, user: &str, room: &RoomId, membership: Membership) -> EventId {
        let user = user_id(user);
        let mut world = self.lock();
        let id = world.move_member(&user, room, membership);
        drop(world);
        self.tell();
        id
    }

    /// Somebody wants somebody in a room.
    ///
    /// # Panics
    /// Where one is no user id.
    pub fn invite(&self, inviter: &str, user: &str, room: &RoomId) {
        let invite = Invite { room: room.clone(), inviter: Some(user_id(inviter)) };
        self.lock().invites.push((user_id(user), invite));
        self.tell();
    }

    /// The next send is answered with this error.
    pub fn refuse(&self, error: SendError) {
        self.lock().refusals.insert(0, error);
    }

    /// Nobody will write any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.tell();
    }

    /// What somebody in the room sees.
    #[must_use]
    pub fn transcript(&self, room: &RoomId) -> Vec<Line> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.lines.clone())
    }

    /// Who is in a room.
    #[must_use]
    pub fn members(&self, room: &RoomId) -> Vec<UserId> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.members.iter().cloned().collect())
    }

    /// Who is typing in a room.
    #[must_use]
    pub fn typing(&self, room: &RoomId) -> Vec<UserId> {
        self.lock().rooms.get(room).map_or_else(Vec::new, |room| room.typing.iter().cloned().collect())
    }

    /// Read receipts so far: who, and up to which event.
    #[must_use]
    pub fn reads(&self, room: &RoomId) -> Vec<(UserId, EventId)> {
        self.lock()
            .reads
            .iter()
            .filter(|(_, at, _)| at == room)
            .map(|(user, _, event)| (user.clone(), event.clone()))
            .collect()
    }

    /// Waits until the room's transcript satisfies `condition`, and answers it.
    ///
    /// # Errors
    /// The transcript as it is after `limit`.
    pub async fn until(
        &self,
        room: &RoomId,
        limit: Duration,
        condition: impl Fn(&[Line]) -> bool,
    ) -> Result<Vec<Line>, Vec<Line>> {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                let met = {
                    let world = self.lock();
                    let lines = world.rooms.get(room).map_or(&[][..], |room| &room.lines);
                    condition(lines)
                };
                if met || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let met = tokio::time::timeout(limit, wait).await.is_ok();
        let transcript = self.transcript(room);
        if met { Ok(transcript) } else { Err(transcript) }
    }

    fn change(&self, room: &RoomId, how: impl FnOnce(&mut RoomState)) {
        if let Some(state) = self.lock().rooms.get_mut(room) {
            how(state);
        }
        self.tell();
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }
}

impl World {
    fn write(
        &mut self,
        user: &UserId,
        room: &RoomId,
        message: Message,
        reply_to: Option<EventId>,
        mark: Option<String>,
    ) -> EventId {
        let id = self.next_id();
        if let Some(state) = self.rooms.get_mut(room) {
            state.at.insert(id.clone(), state.lines.len());
            state.lines.push(Line {
                id: id.clone(),
                sender: user.clone(),
                text: message.text.clone(),
                notice: message.class == Class::Notice,
                thread: message.thread.clone(),
                reply_to,
                edits: 0,
                reactions: vec![],
                redacted: false,
            });
        }
        self.record(id.clone(), user, room, Kind::Message(message), mark);
        id
    }

    fn move_member(&mut self, user: &UserId, room: &RoomId, membership: Membership) -> EventId {
        if let Some(state) = self.rooms.get_mut(room) {
            match membership {
                Membership::Joined => state.members.insert(user.clone()),
                _ => state.members.remove(user),
            };
        }
        let id = self.next_id();
        let member = Member { user: user.clone(), display_name: self.names.get(user).cloned(), membership };
        self.record(id.clone(), user, room, Kind::Member(member), None);
        id
    }

    fn record(&mut self, id: EventId, user: &UserId, room: &RoomId, kind: Kind, mark: Option<String>) {
        let Some(state) = self.rooms.get(room) else { return };
        let device = if state.encrypted { DeviceTrust::CrossSigned } else { DeviceTrust::Cleartext };
        let sender = Sender { id: user.clone(), display_name: self.names.get(user).cloned(), device };
        let sent = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        let room = Room { id: room.clone(), direct: state.direct, encrypted: state.encrypted };
        self.log.push(Event { id, room, sender, sent, mark, kind });
    }

    fn next_id(&mut self) -> EventId {
        self.ids += 1;
        EventId::parse(format!("${:x}-{}", self.born, self.ids)).expect("an event id")
    }

    fn send(&mut self, user: &UserId, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let key = (user.clone(), outgoing.transaction.clone());
        if let Some(id) = self.transactions.get(&key) {
            return Ok(id.clone());
        }
        if let Some(error) = self.refusals.pop() {
            return Err(error);
        }
        let refused =
            |code: &str, reason: &str| Err(SendError::Final { code: code.into(), reason: reason.into() });
        let room = match self.rooms.get_mut(&outgoing.room) {
            None => return refused("M_NOT_FOUND", "there is no such room"),
            Some(room) if !room.members.contains(user) => return refused("M_FORBIDDEN", "not in the room"),
            Some(room) if outgoing.must_encrypt && !room.encrypted => {
                return refused("not-encrypted", "the room is not encrypted any more");
            }
            Some(room) => room,
        };
        let missing =
            || SendError::Final { code: "M_NOT_FOUND".into(), reason: "there is no such message".into() };
        let mark = Some(outgoing.mark.clone());
        let id = match &outgoing.content {
            Content::Message { body, thread, reply_to } => {
                let class = if matches!(body, Body::Notice(_)) { Class::Notice } else { Class::Text };
                let message = Message { class, thread: thread.clone(), ..message(body.text()) };
                self.write(user, &outgoing.room, message, reply_to.clone(), mark)
            }
            Content::Edit { event, body } => {
                let line = room.line(event).ok_or_else(missing)?;
                if line.sender != *user {
                    return refused("M_FORBIDDEN", "somebody else's message");
                }
                body.text().clone_into(&mut line.text);
                line.notice = matches!(body, Body::Notice(_));
                line.edits += 1;
                let id = self.next_id();
                let message = Message { class: Class::Edit, ..message(body.text()) };
                self.record(id.clone(), user, &outgoing.room, Kind::Message(message), mark);
                id
            }
            Content::Reaction { event, key } => {
                room.line(event).ok_or_else(missing)?.reactions.push((user.clone(), key.clone()));
                self.next_id()
            }
            Content::Redaction { event, .. } => {
                let line = room.line(event).ok_or_else(missing)?;
                line.text.clear();
                line.redacted = true;
                self.next_id()
            }
        };
        self.transactions.insert(key, id.clone());
        Ok(id)
    }
}

/// One account in [`Rooms`].
pub struct Memory {
    rooms: Rooms,
    user: UserId,
    cursor: Mutex<Cursor>,
}

/// What was handed over.
#[derive(Default)]
struct Cursor {
    /// Up to where in the log.
    at: usize,
    /// Invitations to these rooms.
    invites: BTreeSet<RoomId>,
}

impl Memory {
    /// Whether something was sent with this transaction id.
    pub(super) fn has_sent(&self, transaction: &TransactionId) -> bool {
        self.rooms.lock().transactions.contains_key(&(self.user.clone(), transaction.clone()))
    }

    fn batch(&self) -> Option<Result<Batch, Ended>> {
        let world = self.rooms.lock();
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut invites = Vec::new();
        for (user, invite) in &world.invites {
            if *user == self.user && cursor.invites.insert(invite.room.clone()) {
                invites.push(invite.clone());
            }
        }
        let mut events = Vec::new();
        let from = cursor.at;
        while cursor.at < world.log.len() && events.len() < BATCH {
            let event = &world.log[cursor.at];
            cursor.at += 1;
            let member = |room: &RoomState| room.members.contains(&self.user);
            if world.rooms.get(&event.room.id).is_some_and(member) {
                events.push(event.clone());
            }
        }
        if events.is_empty() && invites.is_empty() && cursor.at == from {
            return world.closed.then_some(Err(Ended::Closed));
        }
        Some(Ok(Batch { events, invites, position: Position(format!("{:x}-{}", world.born, cursor.at)) }))
    }
}

#[async_trait]
impl Chat for Memory {
    async fn start(&self, from: Option<Position>) -> Result<Identity, StartError> {
        let world = self.rooms.lock();
        if let Some(Position(text)) = from {
            // A position in other rooms, of an earlier process, says nothing about these: this is first contact.
            let at = text.strip_prefix(&format!("{:x}-", world.born)).and_then(|at| at.parse().ok());
            if let Some(at) = at {
                *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) =
                    Cursor { at, ..Cursor::default() };
            }
        }
        Ok(Identity { user: self.user.clone(), display_name: world.names.get(&self.user).cloned() })
    }

    async fn next(&self) -> Result<Batch, Ended> {
        let mut changed = self.rooms.changed.subscribe();
        loop {
            if let Some(batch) = self.batch() {
                return batch;
            }
            if changed.changed().await.is_err() {
                return Err(Ended::Closed);
            }
        }
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<EventId, SendError> {
        let sent = self.rooms.lock().send(&self.user, outgoing);
        self.rooms.tell();
        sent
    }

    fn typing(&self, room: &RoomId, on: bool) {
        if let Some(room) = self.rooms.lock().rooms.get_mut(room) {
            if on {
                room.typing.insert(self.user.clone())
            } else {
                room.typing.remove(&self.user)
            };
        }
    }

    fn read(&self, room: &RoomId, event: &EventId, _thread: Option<&EventId>) {
        self.rooms.lock().reads.push((self.user.clone(), room.clone(), event.clone()));
    }

    async fn answer(&self, room: &RoomId, accept: bool) -> Result<(), SendError> {
        let mut world = self.rooms.lock();
        world.invites.retain(|(user, invite)| *user != self.user || invite.room != *room);
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).invites.remove(room);
        if accept {
            world.move_member(&self.user, room, Membership::Joined);
        }
        drop(world);
        self.rooms.tell();
        Ok(())
    }

    async fn direct(&self, user: &UserId) -> Result<RoomId, SendError> {
        let found = self.rooms.lock().rooms.iter().find_map(|(id, room)| {
            let ours = room.direct && room.members.contains(user) && room.members.contains(&self.user);
            ours.then(|| id.clone())
        });
        Ok(found.unwrap_or_else(|| self.rooms.create_direct(self.user.as_str(), user.as_str())))
    }
}

fn user_id(text: &str) -> UserId {
    UserId::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// A message that says just this, and mentions whom it names by full id.
#[must_use]
pub fn message(text: &str) -> Message {
    Message {
        class: Class::Text,
        text: text.into(),
        html: None,
        thread: None,
        reply_to: None,
        mentions: vec![],
        attachments: vec![],
    }
}
