//! How an agent does, for somebody who asks.

use super::{Running, lock};
use crate::{chat::Connection, control::AgentStatus};

impl Running {
    /// What only the agent at work knows goes into a status. Answers how its chat is connected.
    pub(crate) async fn describe(&self, status: &mut AgentStatus) -> Connection {
        let (lanes, running) = self.lanes.count();
        (status.lanes, status.lanes_running) = (lanes as u64, running as u64);
        (status.tried, status.trouble) = self.outbox.standing();
        status.user = self.identity.get().map(|identity| identity.user.clone());
        lock(&self.locked).describe(status);
        self.agent.chat.connection().await
    }
}
