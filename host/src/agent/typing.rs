//! People see that the agent is at work.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use super::lock;
use crate::{chat::Chat, id::RoomId};

/// In which rooms the agent types, and for how many events.
pub(super) struct Typing {
    chat: Arc<dyn Chat>,
    rooms: Mutex<HashMap<RoomId, u32>>,
}

/// The agent types in a room until this is dropped.
pub(super) struct Types {
    typing: Arc<Typing>,
    room: RoomId,
}

impl Typing {
    /// Nowhere yet.
    pub fn new(chat: Arc<dyn Chat>) -> Arc<Self> {
        Arc::new(Self { chat, rooms: Mutex::default() })
    }

    /// One more event of this room is being handled.
    pub fn start(self: &Arc<Self>, room: &RoomId) -> Types {
        let mut rooms = lock(&self.rooms);
        let count = rooms.entry(room.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.chat.typing(room, true);
        }
        Types { typing: self.clone(), room: room.clone() }
    }
}

impl Drop for Types {
    fn drop(&mut self) {
        let mut rooms = lock(&self.typing.rooms);
        if let Some(count) = rooms.get_mut(&self.room) {
            *count -= 1;
            if *count == 0 {
                rooms.remove(&self.room);
                self.typing.chat.typing(&self.room, false);
            }
        }
    }
}
