//! People see that the agent is at work.

use std::{sync::Arc, time::Duration};

use super::{Running, lock};
use crate::{event::Kind, id::RoomId, lane::Waiting};

/// How long people see that the agent types, where its answer does not get through.
const AFTER: Duration = Duration::from_secs(30);

impl Running {
    /// People see that the agent is at work, while one of its handlers in the room runs.
    pub(super) fn typing(self: &Arc<Self>, waiting: &Waiting) -> Option<Typing> {
        let room = match &waiting.event.kind {
            Kind::Message(_) => waiting.event.room.id.clone(),
            Kind::Member(_) => return None,
        };
        let mut typing = lock(&self.typing);
        let count = typing.entry(room.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.agent.chat.typing(&room, true);
        }
        drop(typing);
        Some(Typing { running: self.clone(), room })
    }
}

/// Ends when it is dropped.
pub(super) struct Typing {
    running: Arc<Running>,
    room: RoomId,
}

impl Typing {
    /// An answer is on its way: the agent types until it is there.
    pub async fn until_sent(self) {
        let sent = tokio::time::timeout(AFTER, self.running.outbox.idle(&self.room));
        tokio::select! {
            _ = sent => {}
            () = self.running.draining.cancelled() => {}
        }
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        let mut typing = lock(&self.running.typing);
        if let Some(count) = typing.get_mut(&self.room) {
            *count -= 1;
            if *count == 0 {
                typing.remove(&self.room);
                self.running.agent.chat.typing(&self.room, false);
            }
        }
    }
}
