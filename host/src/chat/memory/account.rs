//! One account in the rooms, as a [`Chat`].

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Rooms, world::RoomState};
use crate::{
    chat::{Attendance, Chat, Ended, Identity, MediaError, Opened, SendError, StartError},
    effect::{Outgoing, Upload},
    event::{Batch, Event, MediaSource, Membership, Position},
    id::{EventId, RoomId, TransactionId, UserId},
};

/// Most events that one batch has: what a homeserver would put into one answer.
const BATCH: usize = 100;

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
    /// What is before this in the log happened while the account was away.
    missed: usize,
    /// How many keys it has heard of.
    keys: usize,
    /// The first batch was handed over, with or without anything in it.
    begun: bool,
}

impl Memory {
    /// What was said before is history to it.
    pub(super) fn new(rooms: Rooms, user: UserId) -> Self {
        let cursor = {
            let world = rooms.lock();
            Cursor { at: world.written(), ..Cursor::default() }
        };
        Self { rooms, user, cursor: Mutex::new(cursor) }
    }

    /// Whether something was sent with this transaction id.
    pub(in crate::chat) fn has_sent(&self, transaction: &TransactionId) -> bool {
        self.rooms.lock().transactions.contains_key(&(self.user.clone(), transaction.clone()))
    }

    fn batch(&self) -> Option<Result<Batch, Ended>> {
        let mut world = self.rooms.lock();
        let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut invites = Vec::new();
        for (user, invite) in &world.invites {
            if *user == self.user && cursor.invites.insert(invite.room.clone()) {
                invites.push(invite.clone());
            }
        }
        let mut events = Vec::new();
        let from = cursor.at;
        let missed = cursor.at < cursor.missed;
        let end = if missed { cursor.missed } else { usize::MAX };
        while cursor.at < end
            && events.len() < BATCH
            && let Some(event) = world.event(cursor.at)
        {
            cursor.at += 1;
            let member = |room: &RoomState| room.members.contains(&self.user);
            if world.rooms.get(&event.room.id).is_some_and(member) {
                events.push(event.clone());
            }
        }
        let first = !std::mem::replace(&mut cursor.begun, true);
        // The first one says of everything that was sent before.
        let to = if first { world.written() } else { cursor.at };
        let own = world.own_between(&self.user, from, to);
        world.handed_over(cursor.at);
        if events.is_empty() && invites.is_empty() && cursor.at == from && !first {
            return world.closed.then_some(Err(Ended::Closed));
        }
        let position = Position(format!("{:x}-{}", world.born, cursor.at));
        Some(Ok(Batch { missed, own, ..Batch::new(events, invites, position) }))
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
                    Cursor { at: world.gone.max(at), missed: world.written(), ..Cursor::default() };
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

    async fn media(&self, file: &MediaSource, most: usize) -> Result<Bytes, MediaError> {
        let world = self.rooms.lock();
        let bytes =
            world.files.get(file.as_str()).ok_or(MediaError::Gone { reason: "M_NOT_FOUND".into() })?;
        if bytes.len() > most { Err(MediaError::TooLarge) } else { Ok(bytes.clone()) }
    }

    async fn keys(&self) -> Option<BTreeSet<String>> {
        let mut changed = self.rooms.changed.subscribe();
        loop {
            let new: BTreeSet<String> = {
                let world = self.rooms.lock();
                let mut cursor = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = std::mem::replace(&mut cursor.keys, world.keys.len());
                world.keys[seen..].iter().map(ToString::to_string).collect()
            };
            if !new.is_empty() {
                return Some(new);
            }
            if changed.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    async fn open(&self, event: &Event) -> Opened {
        let world = self.rooms.lock();
        match world.locked.get(&event.id) {
            Some(opened) if world.keys.contains(&event.id) => Opened::Event(Box::new(opened.clone())),
            _ => Opened::NotYet,
        }
    }

    async fn upload(&self, upload: &Upload) -> Result<MediaSource, SendError> {
        self.rooms.lock().upload(&self.user, upload)
    }

    async fn attendance(&self, room: &RoomId) -> Attendance {
        match self.rooms.lock().rooms.get(room) {
            Some(state) if state.members.contains(&self.user) => {
                Attendance::Here { direct: state.direct, encrypted: state.encrypted }
            }
            Some(_) => Attendance::Gone,
            None => Attendance::Unknown,
        }
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
        self.rooms.lock().read(&self.user, room, event);
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
        let found = self.known_direct(user);
        Ok(found.unwrap_or_else(|| self.rooms.create_direct(self.user.as_str(), user.as_str())))
    }

    fn known_direct(&self, user: &UserId) -> Option<RoomId> {
        self.rooms.lock().rooms.iter().find_map(|(id, room)| {
            let ours = room.direct && room.members.contains(user) && room.members.contains(&self.user);
            ours.then(|| id.clone())
        })
    }
}
