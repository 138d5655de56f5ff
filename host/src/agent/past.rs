//! What an agent remembers of events, for its chat to ask; and what the agent itself has sent.

use std::{
    sync::{Arc, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::Running;
use crate::{
    chat::Past,
    event::Own,
    id::{EventId, RoomId},
    journal::Sent,
    outbox::Outbox,
};

/// The journal as a chat asks it, until it answers: what is only not to be read is not unknown. The agent has the chat, so
/// that it is not held from here.
struct Remembered {
    agent: Weak<Running>,
    outbox: Weak<Outbox>,
    horizon: Duration,
}

#[async_trait::async_trait]
impl Past for Remembered {
    async fn knows(&self, room: &RoomId, event: &EventId) -> bool {
        let Some(running) = self.agent.upgrade() else { return false };
        let (name, journal) = (&running.agent.name, &running.shared.journal);
        running.journalled(|| journal.known(name, event)).await.is_some()
            || running.journalled(|| journal.newest(name, room)).await.as_ref() == Some(event)
    }

    async fn knows_room(&self, room: &RoomId) -> bool {
        let Some(running) = self.agent.upgrade() else { return false };
        running.journalled(|| running.shared.journal.newest(&running.agent.name, room)).await.is_some()
    }

    fn horizon(&self) -> Duration {
        self.horizon
    }

    fn broke(&self) {
        if let Some(outbox) = self.outbox.upgrade() {
            outbox.broke();
        }
    }
}

impl Running {
    pub(super) fn past(self: &Arc<Self>) -> Arc<dyn Past> {
        Arc::new(Remembered {
            agent: Arc::downgrade(self),
            outbox: Arc::downgrade(&self.outbox),
            horizon: self.agent.behaviour.horizon.get(),
        })
    }

    /// Servers forget transaction ids, and bind them to a device. So what waits to be sent, and was sent already, is
    /// found among what the agent has said.
    pub(super) async fn acknowledge(&self, own: &[Own]) {
        if !self.outbox.is_in_doubt(own) {
            return;
        }
        let name = &self.agent.name;
        let journal = &self.shared.journal;
        let unsent = self.journalled(|| journal.unsent(name)).await;
        for queued in unsent {
            let mark = queued.id.to_string();
            let Some(own) = own.iter().find(|own| own.mark == mark) else { continue };
            // A draft whose last text was sent as an edit is the message itself.
            let event =
                own.replaces.clone().filter(|_| queued.is_message()).unwrap_or_else(|| own.event.clone());
            let sent = Sent::Accepted { event, room: own.room.clone() };
            self.journalled(|| journal.sent(name, queued.row, &sent)).await;
            self.outbox.was_sent(queued.row);
        }
        for own in own {
            let Some(delivery) = own.draft() else { continue };
            let event = own.replaces.as_ref().unwrap_or(&own.event);
            if self
                .journalled(|| journal.drafted(name, &delivery))
                .await
                .is_some_and(|draft| draft.event.is_none())
            {
                let noted = || async { journal.draft(name, &delivery, Some(event)).await.map(drop) };
                self.journalled(noted).await;
            }
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
